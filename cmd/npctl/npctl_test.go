package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// daemon answers on a Unix socket as npd would.
func daemon(t *testing.T, routes map[string]any) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "np.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for p, v := range routes {
		mux.HandleFunc(p, func(w http.ResponseWriter, r *http.Request) {
			if f, ok := v.(func(http.ResponseWriter, *http.Request)); ok {
				f(w, r)
				return
			}
			_ = json.NewEncoder(w).Encode(v)
		})
	}
	s := &http.Server{Handler: mux}
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { _ = s.Close() })
	return path
}

func npctl(args ...string) (stdout, stderr string, code int) {
	var o, e bytes.Buffer
	code = run(context.Background(), args, &o, &e)
	return o.String(), e.String(), code
}

var status = api.Status{Schema: api.Schema, State: "ready", UptimeSeconds: 3725, Backend: "af_xdp", CryptoEngine: "ipsec-mb avx512",
	Connections: 3, Sessions: 2, Streams: 1, BuffersFree: 16000, Buffers: 16384, RxPackets: 1000, TxPackets: 900, Dropped: 2,
	Cores: []api.Core{{Core: 0, CPU: 1, BusyRatio: 0.251, Turns: 5, Sleeps: 2,
		Memory: api.Memory{State: "pressure", SendBytes: 2 << 20, ReceiveBytes: 2048, PressureNanoseconds: 1500e6}}},
	Interfaces: []api.Interface{{Name: "np0", State: "up", MAC: "02:00:00:00:00:01", MTUBytes: 1500, XDPMode: "native", Addresses: []string{"198.18.0.1/24", "2001:db8::1/64"}, Queues: []api.Queue{{RxPackets: 1000, TxPackets: 900}}, PassedKernel: 7}}}

func TestStatus(t *testing.T) {
	sock := daemon(t, map[string]any{api.PathStatus: status})
	out, errOut, code := npctl("-s", sock, "status")
	want := `STATE  UPTIME  BACKEND  CRYPTO           CONNS  SESSIONS  STREAMS  BUFFERS FREE  RX PACKETS  TX PACKETS  DROPPED
ready  1h02m   af_xdp   ipsec-mb avx512      3         2        1   16000/16384        1000         900        2

CORE  CPU   BUSY  TURNS  SLEEPS  MEMORY    SENDING  RECEIVED  OUT OF ORDER  SHORT FOR
0     1    25.1%      5       2  pressure   2.0MiB    2.0KiB            0B       1.5s

INTERFACE  STATE  MAC                 MTU  MODE         QUEUES  RX PACKETS  TX PACKETS  TO KERNEL  ADDRESSES
np0        up     02:00:00:00:00:01  1500  native/copy       1        1000         900          7  198.18.0.1/24,2001:db8::1/64
`
	if out != want || errOut != "" || code != exitDone {
		t.Errorf("code %d, stderr %q, got\n%s", code, errOut, out)
	}
	out, _, _ = npctl("-s", sock, "status", "-o", "json")
	var back api.Status
	if err := json.Unmarshal([]byte(out), &back); err != nil || back.Schema != "np/v1" || back.State != "ready" {
		t.Errorf("json: %v\n%s", err, out)
	}
}

// TestVLANColumns: VLANs are named as the kernel would, with columns for device and VLAN.
func TestVLANColumns(t *testing.T) {
	list := api.Interfaces{Schema: api.Schema, Interfaces: []api.Interface{
		{Name: "np0", Device: "np0", State: "up", MTUBytes: 1500, Queues: []api.Queue{{RxPackets: 5}}},
		{Name: "np0.100", Device: "np0", VLAN: 100, State: "up", MTUBytes: 1500}}}
	sock := daemon(t, map[string]any{api.PathInterfaces: list})
	out, _, code := npctl("-s", sock, "interface", "list")
	lines := strings.Split(out, "\n")
	if code != exitDone || len(lines) < 3 || !slices.Equal(strings.Fields(lines[0])[:4], []string{"INTERFACE", "DEVICE", "VLAN", "STATE"}) ||
		!slices.Equal(strings.Fields(lines[2])[:4], []string{"np0.100", "np0", "100", "up"}) {
		t.Errorf("code %d:\n%s", code, out)
	}
}

func TestDegradedExitsOne(t *testing.T) {
	bad := status
	bad.State, bad.Problems = "degraded", []string{"interface np0 is down: its device is gone"}
	sock := daemon(t, map[string]any{api.PathStatus: bad})
	_, errOut, code := npctl("-s", sock, "status")
	if code != exitFailed || errOut != "npctl: interface np0 is down: its device is gone\n" {
		t.Errorf("code %d, stderr %q", code, errOut)
	}
	if out, _, code := npctl("-s", sock, "-q", "status"); code != exitFailed || out != "" {
		t.Errorf("quiet: code %d, stdout %q", code, out)
	}
}

func TestConnListSortsAndShows(t *testing.T) {
	created := time.Now().Add(-time.Minute)
	conns := api.Conns{Schema: api.Schema, Total: 5, Connections: []api.Conn{
		{ID: "a1", Protocol: "npro", State: "established", Remote: "198.18.0.2:40000", Local: "198.18.0.1:7700", Peer: "web", BytesReceived: 100, CreatedAt: created, TCP: api.TCP{CwndBytes: 14480, MSSBytes: 1448}},
		{ID: "a2", Protocol: "echo", State: "close-wait", Remote: "[2001:db8::2]:40001", Local: "[2001:db8::1]:7", BytesReceived: 5000, CreatedAt: created, TCP: api.TCP{CwndBytes: 2, MSSBytes: 0, Limited: "rwnd_limited"}},
	}}
	sock := daemon(t, map[string]any{
		api.PathConns:       conns,
		api.PathConn + "a2": api.ConnAnswer{Schema: api.Schema, Connection: conns.Connections[1]},
		api.PathConn + "zz": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(api.Error{Schema: api.Schema, Kind: api.KindNotFound, Text: "connection zz: not found"})
		}})
	out, errOut, code := npctl("-s", sock, "conn", "list", "--sort", "received", "--no-headers")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != exitDone || len(lines) != 2 || !strings.HasPrefix(lines[0], "a2 ") || !strings.HasPrefix(lines[1], "a1 ") {
		t.Errorf("code %d\n%s", code, out)
	}
	if errOut != "npctl: 3 more; raise --limit\n" {
		t.Errorf("stderr %q", errOut)
	}
	if out, _, _ := npctl("-s", sock, "conn", "list", "-o", "jsonl"); strings.Count(out, "\n") != 2 {
		t.Errorf("jsonl:\n%s", out)
	}
	out, _, code = npctl("-s", sock, "connection", "show", "a2", "-i")
	if code != exitDone || !strings.Contains(out, "rwnd_limited") || !strings.Contains(out, "bytes_received:5000") {
		t.Errorf("code %d\n%s", code, out)
	}
	if _, errOut, code := npctl("-s", sock, "conn", "show", "zz"); code != exitNotFound || errOut != "npctl: connection zz: not found\n" {
		t.Errorf("code %d, stderr %q", code, errOut)
	}
}

func TestConnSetAndCongestionInfo(t *testing.T) {
	var got api.SetRequest
	conn := api.Conn{ID: "a2", Protocol: "echo", State: "established", TCP: api.TCP{CongestionControl: "bbr", ECN: true, CESeen: true, PacingBps: 41250000, DeliveryBps: 9600,
		CAState: "recovery", Backoff: 2, ReoWndMs: 10, DSACKs: 3, Reordering: 4, TailProbes: 5, Undos: 6, UserTimeoutMs: 120000, UnackedMs: 7,
		BBR: &api.BBR{Phase: "PROBE_BW_CRUISE", BandwidthBps: 1250000000, MinRTTMs: 40.031, PacingGain: 1, CwndGain: 2, InflightHiBytes: 5000}}}
	sock := daemon(t, map[string]any{
		api.PathConn + "a2": api.ConnAnswer{Schema: api.Schema, Connection: conn},
		api.PathListeners:   api.Listeners{Schema: api.Schema, Listeners: []api.Listener{{Name: "npro", CongestionControl: "newreno"}}},
		api.PathConnSet: func(w http.ResponseWriter, r *http.Request) {
			if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
				t.Error(err)
			}
			_ = json.NewEncoder(w).Encode(api.Done{Schema: api.Schema, Done: true})
		}})
	if _, errOut, code := npctl("-s", sock, "conn", "set", "a2", "congestion_control", "cubic"); code != exitDone || got.ID != "a2" || got.CongestionControl != "cubic" {
		t.Errorf("code %d, stderr %q, asked for %+v", code, errOut, got)
	}
	if _, errOut, code := npctl("-s", sock, "conn", "set", "a2", "colour", "red"); code != exitUsage || !strings.Contains(errOut, "only congestion_control") {
		t.Errorf("code %d, stderr %q", code, errOut)
	}
	if _, errOut, code := npctl("-s", sock, "conn", "set", "a2", "user_timeout", "30s"); code != exitDone || got.UserTimeoutMs == nil || *got.UserTimeoutMs != 30000 {
		t.Errorf("code %d, stderr %q, asked for %+v", code, errOut, got)
	}
	if _, errOut, code := npctl("-s", sock, "conn", "set", "a2", "user_timeout", "soon"); code != exitUsage || !strings.Contains(errOut, "a duration") {
		t.Errorf("code %d, stderr %q", code, errOut)
	}
	out, _, _ := npctl("-s", sock, "conn", "show", "a2", "-i")
	for _, want := range []string{" bbr bbr:(PROBE_BW_CRUISE,bw:1.25Gbps,mrtt:40.031,pacing_gain:1,cwnd_gain:2,inflight_hi:5000) ", "ecn ecn_ce_seen", "backoff:2 dsack_dups:3 reord_seen:4 tail_probes:5 undos:6 user_timeout:120000 unacked_ms:7 ca_state:recovery reo_wnd:10.000", "pacing_rate 41.25Mbps", "delivery_rate 9.6kbps"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if out, _, _ := npctl("-s", sock, "listener", "list", "-o", "wide"); !strings.Contains(out, "CONGESTION CONTROL") || !strings.Contains(out, "newreno") {
		t.Errorf("listeners:\n%s", out)
	}
}

func TestExitCodes(t *testing.T) {
	slow := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	refuse := func(kind string, code int) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_ = json.NewEncoder(w).Encode(api.Error{Schema: api.Schema, Kind: kind, Text: kind})
		}
	}
	sock := daemon(t, map[string]any{api.PathStats: slow, api.PathDrain: refuse(api.KindConflict, 409), api.PathBackend: refuse(api.KindPermission, 403), api.PathDrops: refuse(api.KindFailed, 500)})
	for _, c := range []struct {
		want int
		args []string
	}{
		{exitUsage, []string{"nonsense"}},
		{exitUsage, []string{"conn"}},
		{exitUsage, []string{"status", "--nonsense"}},
		{exitUsage, []string{"status", "-o", "xml"}},
		{exitUsage, []string{"conn", "list", "--sort", "beauty"}},
		{exitUsage, []string{"conn", "show"}},
		{exitUsage, []string{"capture"}},
		{exitUnreachable, []string{"-s", "/nonexistent/np.sock", "status"}},
		{exitTimeout, []string{"-s", sock, "--timeout", "50ms", "stats"}},
		{exitConflict, []string{"-s", sock, "drain", "--yes"}},
		{exitPermission, []string{"-s", sock, "backend", "show"}},
		{exitFailed, []string{"-s", sock, "drops"}},
	} {
		if _, errOut, code := npctl(c.args...); code != c.want || !strings.HasPrefix(errOut, "npctl: ") {
			t.Errorf("npctl %s: code %d, want %d, stderr %q", strings.Join(c.args, " "), code, c.want, errOut)
		}
	}
}

func TestUnreachableNamesTheSocket(t *testing.T) {
	_, errOut, _ := npctl("-s", "/nonexistent/np.sock", "status")
	if !strings.Contains(errOut, "/nonexistent/np.sock") || !strings.Contains(errOut, "is npd running?") {
		t.Errorf("stderr %q", errOut)
	}
}

func TestTimeoutSaysWhatToDo(t *testing.T) {
	sock := daemon(t, map[string]any{api.PathStats: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }})
	_, errOut, _ := npctl("-s", sock, "--timeout", "50ms", "stats")
	if !strings.Contains(errOut, sock) || !strings.Contains(errOut, "--timeout") {
		t.Errorf("stderr %q", errOut)
	}
}

func TestCapture(t *testing.T) {
	var query string
	sock := daemon(t, map[string]any{api.PathCapture: func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.RawQuery
		w.Header().Set("Trailer", api.CaptureLostName)
		_, _ = w.Write([]byte("pcapng bytes"))
		w.Header().Set(api.CaptureLostName, "12")
	}})
	file := filepath.Join(t.TempDir(), "x.pcapng")
	_, errOut, code := npctl("-s", sock, "capture", "-f", "tcp port 7700", "-c", "5", "-w", file)
	got, err := os.ReadFile(file)
	if code != exitDone || err != nil || string(got) != "pcapng bytes" {
		t.Errorf("code %d, file %q, %v", code, got, err)
	}
	if query != "count=5&dir=rx%2Ctx%2Cdrop&filter=tcp+port+7700" {
		t.Errorf("query %s", query)
	}
	if !strings.Contains(errOut, "12 packets") {
		t.Errorf("stderr %q", errOut)
	}
}

func TestKeys(t *testing.T) {
	out, errOut, code := npctl("key", "generate")
	key, err := handshake.ParsePrivateKey(strings.TrimSpace(out))
	if code != exitDone || err != nil {
		t.Fatalf("code %d, %v", code, err)
	}
	if errOut != "public key: "+key.Public().String()+"\n" {
		t.Errorf("stderr %q", errOut)
	}
	file := filepath.Join(t.TempDir(), "key")
	pub, _, code := npctl("key", "generate", "--write", file)
	info, err := os.Stat(file)
	if code != exitDone || err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("code %d, %v, %v", code, info, err)
	}
	if again, _, _ := npctl("key", "public", file); again != pub {
		t.Errorf("public %q, want %q", again, pub)
	}
	if _, _, code := npctl("key", "generate", "--write", file); code != exitFailed {
		t.Errorf("an existing key was overwritten (code %d)", code)
	}
}

func TestText(t *testing.T) {
	for n, want := range map[uint64]string{0: "0B", 1023: "1023B", 1024: "1.0KiB", 102400: "100KiB", 1 << 20: "1.0MiB", 1048064: "1.0MiB", 5 << 40: "5.0TiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-1: "0s", 5 * time.Millisecond: "5ms", 1500 * time.Millisecond: "1.5s", 61 * time.Second: "1m01s", 26 * time.Hour: "1d02h"} {
		if got := ago(d); got != want {
			t.Errorf("ago(%v) = %s, want %s", d, got, want)
		}
	}
}

// Completions and every command's help exist without a daemon.
func TestHelpAndCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, _, code := npctl("completion", shell); code != exitDone || len(out) < 1000 {
			t.Errorf("completion %s: code %d, %d bytes", shell, code, len(out))
		}
	}
	for _, n := range []string{"conn", "interface", "neighbor", "capture", "key"} {
		if out, _, code := npctl(n, "--help"); code != exitDone || !strings.Contains(out, "Usage:") {
			t.Errorf("%s --help: code %d\n%s", n, code, out)
		}
	}
}

func TestCert(t *testing.T) {
	dir := t.TempDir()
	out, errOut, code := npctl("cert", "generate", "--dir", dir, "--days", "2", "a.example", "198.18.0.1")
	if code != exitDone || strings.Count(out, "\n") != 4 {
		t.Fatalf("%d %s %s", code, out, errOut)
	}
	if _, errOut, code := npctl("cert", "generate", "--dir", dir, "a.example"); code != exitFailed || !strings.Contains(errOut, "--force") {
		t.Errorf("over files that are there: %d %s", code, errOut)
	}
	out, errOut, code = npctl("cert", "generate", "--dir", dir+"/client", "--client", "--ca", dir+"/ca.pem", "--ca-key", dir+"/ca-key.pem", "alice")
	if code != exitDone || strings.Count(out, "\n") != 2 {
		t.Fatalf("signed by the first: %d %s %s", code, out, errOut)
	}
	out, _, code = npctl("-o", "json", "cert", "show", dir+"/cert.pem")
	var v api.Certificates
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != exitDone || len(v.Certificates) != 1 || len(v.Certificates[0].Names) != 2 || len(v.Certificates[0].Pin) != 44 {
		t.Errorf("%v %d %s", err, code, out)
	}
	for _, args := range [][]string{{"cert", "generate"}, {"cert", "generate", "--days", "0", "x"}, {"cert", "generate", "--ca", "x", "y"}, {"cert", "show"}} {
		if _, errOut, code := npctl(args...); code != exitUsage {
			t.Errorf("%v: exit %d %s", args, code, errOut)
		}
	}
	if _, errOut, code := npctl("cert", "show", dir+"/key.pem"); code != exitFailed || !strings.Contains(errOut, "no certificate found") {
		t.Errorf("a key shown: %d %s", code, errOut)
	}
}

// TestManual: each command has a page with its options and text.
func TestManual(t *testing.T) {
	dir := t.TempDir()
	var out, errs strings.Builder
	if code := run(t.Context(), []string{"man", dir}, &out, &errs); code != 0 {
		t.Fatal(code, errs.String())
	}
	for page, want := range map[string]string{"npctl.1": "Show and steer a running npd", "npctl-nic-bind.1": "vfio", "npctl-doctor.1": "--fix", "npctl-backend-set.1": "--device"} {
		b, err := os.ReadFile(filepath.Join(dir, page))
		if err != nil || !strings.Contains(strings.ReplaceAll(string(b), "\\", ""), want) {
			t.Errorf("%s lacks %s: %v", page, want, err)
		}
	}
}

// TestInterfaceMode: the column names the backend, and for AF_XDP how.
func TestInterfaceMode(t *testing.T) {
	for _, tt := range []struct {
		i    api.Interface
		want string
	}{
		{api.Interface{Backend: "af_xdp copy", XDPMode: "native"}, "native/copy"},
		{api.Interface{Backend: "af_xdp zero-copy", XDPMode: "native", ZeroCopy: true}, "native/zero-copy"},
		{api.Interface{Backend: "af_packet", XDPMode: "generic"}, "af_packet"},
		{api.Interface{Backend: "dpdk"}, "dpdk"},
		{api.Interface{}, "-"},
	} {
		if got := interfaceTable([]api.Interface{tt.i}, false).rows[0][4]; got != tt.want {
			t.Errorf("%+v: %s", tt.i, got)
		}
	}
}

// TestListeners: what nobody counts by listener is a dash, not a nought.
func TestListeners(t *testing.T) {
	sock := daemon(t, map[string]any{api.PathListeners: api.Listeners{Schema: api.Schema, Listeners: []api.Listener{
		{Name: "a", Protocol: "npro", Accepted: 7}, {Name: "b", Protocol: "echo"},
		{Name: "c", Protocol: "echo", TLS: true, Accepted: 9, Service: &api.ListenerService{Refused: 1, Failed: 3, FailedHandshakes: 2}},
		{Name: "d", Protocol: "http", Accepted: 5, Service: &api.ListenerService{}, HTTP: &api.ListenerHTTP{Total: 8, InFlight: 1, Requests: map[string]uint64{"h2": 6, "http/1.1": 2, "h3": 0},
			Refused: 4, Refusals: map[string]uint64{"bad_request": 4}, Broken: map[string]uint64{"slow_head": 2}}}}}})
	out, errOut, code := npctl("-s", sock, "listener", "list", "-o", "wide", "--no-headers")
	var got []string
	for line := range strings.Lines(out) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{"a - npro - 0 none 7 - refused - - -", "b - echo - 0 none - - - - - -", "c - echo/tls - 0 none 9 3 - - 1 2", "d - http - 0 none 5 0 - - 0 0", "",
		"d 8 1 h2 6, http/1.1 2 4 bad_request 4 slow_head 2"}
	if !slices.Equal(got, want) || code != 0 {
		t.Errorf("exit code %d\n%q\n%s", code, got, errOut)
	}
}
