package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/logs"
	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/mgmt/client"
	"github.com/np-appliance/np/ctrl/ports/portstest"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/fake"
	"github.com/np-appliance/np/hugepages"
)

// world is a daemon on a fake plane and machine, with real sockets.
type world struct {
	t       *testing.T
	dir     string
	text    string
	path    string // of the file, if it is one
	sys     *portstest.System
	plane   *fake.Plane
	files   hugepages.Files
	cl, ro  *client.Client
	signals chan os.Signal
	done    chan error
	mu      sync.Mutex
	log     bytes.Buffer
}

func (w *world) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(b)
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

func (w *world) origin() Origin { return Origin{Path: w.path, Load: w.load, With: w.with} }

func (w *world) load() (*config.Config, error) {
	if w.path != "" {
		data, err := os.ReadFile(w.path)
		if err != nil {
			return nil, err
		}
		return w.with(config.Source{Name: w.path, Data: data})
	}
	return w.with(config.Source{Name: "np.toml", Data: []byte(w.text)})
}

func (w *world) with(main config.Source) (*config.Config, error) {
	return config.Load(config.Input{Files: []config.Source{main},
		Env: []string{"NP_MANAGEMENT_SOCKET=" + filepath.Join(w.dir, "np.sock"), "NP_MANAGEMENT_RO_SOCKET=" + filepath.Join(w.dir, "ro.sock"),
			"NP_PROTOCOL_PRIVATE_KEY_FILE=" + filepath.Join(w.dir, "state", "npd.key")}})
}

func newWorld(t *testing.T, text string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), text: text, sys: portstest.New("np0"), plane: fake.New(fake.Options{Cores: 2}),
		signals: make(chan os.Signal, 4), done: make(chan error, 1)}
	w.cl, w.ro = client.New(filepath.Join(w.dir, "np.sock")), client.New(filepath.Join(w.dir, "ro.sock"))
	t.Cleanup(func() { w.cl.Close(); w.ro.Close() })
	return w
}

func (w *world) options(ready func()) (Options, error) {
	c, err := w.load()
	if err != nil {
		return Options{}, err
	}
	log, err := logs.New(logs.Options{Console: w, Level: slog.LevelInfo})
	start := time.Now()
	return Options{Config: c, Origin: w.origin(), System: w.sys, Files: w.files, Log: log, Ready: ready, Version: api.Version{Version: "v0", Commit: "abc", Go: "go"},
		NewPlane: func(*dataplane.Config) (dataplane.Plane, error) { return w.plane, nil },
		Now:      time.Now, Mono: func() time.Duration { return time.Since(start) + time.Hour }}, err
}

// start runs the daemon until the test ends it.
func (w *world) start() {
	w.t.Helper()
	ready := make(chan struct{})
	o, err := w.options(func() { close(ready) })
	if err != nil {
		w.t.Fatal(err)
	}
	go func() { w.done <- Run(context.Background(), o, w.signals) }()
	select {
	case <-ready:
	case err := <-w.done:
		w.t.Fatalf("not started: %v", err)
	}
}

func (w *world) end(s os.Signal) {
	w.t.Helper()
	w.signals <- s
	select {
	case err := <-w.done:
		if err != nil {
			w.t.Errorf("ended with %v", err)
		}
	case <-time.After(time.Minute):
		w.t.Fatal("does not end")
	}
	if !w.plane.Closed() {
		w.t.Error("plane not closed")
	}
	for _, p := range w.sys.Programs() {
		if !p.Closed {
			w.t.Error("XDP program left attached")
		}
	}
	for _, f := range []string{"np.sock", "ro.sock"} {
		if _, err := os.Lstat(filepath.Join(w.dir, f)); !errors.Is(err, fs.ErrNotExist) {
			w.t.Errorf("%s left behind", f)
		}
	}
}

// reload sends HUP with another configuration and waits for what the log says then.
func (w *world) reload(text, want string) {
	w.t.Helper()
	w.mu.Lock()
	w.log.Reset()
	w.mu.Unlock()
	w.text = text
	w.signals <- syscall.SIGHUP
	w.eventually(want, func() bool { return strings.Contains(w.logged(), want) })
}

func get[T any](w *world, path string, q url.Values) T {
	w.t.Helper()
	var v T
	if err := w.cl.Get(w.t.Context(), path, q, &v); err != nil {
		w.t.Fatalf("GET %s: %v", path, err)
	}
	return v
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for range 6000 { // a minute
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatalf("never: %s\n%s", what, w.logged())
}

func TestLife(t *testing.T) {
	before := runtime.NumGoroutine()
	w := newWorld(t, config.Example())
	w.start()
	key := filepath.Join(w.dir, "state", "npd.key")
	if fi, err := os.Stat(key); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("private key: %v %v", fi, err)
	}
	text, _ := os.ReadFile(key)
	if k, err := handshake.ParsePrivateKey(strings.TrimSpace(string(text))); err != nil || !strings.Contains(w.logged(), k.Public().String()) ||
		strings.Contains(w.logged(), strings.TrimSpace(string(text))) {
		t.Errorf("public key not logged, or the private one: %v\n%s", err, w.logged())
	}
	if !strings.Contains(w.logged(), "any peer may connect") {
		t.Error("log does not say who may connect")
	}
	if fi, err := os.Stat(filepath.Join(w.dir, "np.sock")); err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v %v", fi, err)
	}
	s := get[api.Status](w, api.PathStatus, nil)
	if s.State != "ready" || len(s.Cores) != 2 || s.Interfaces[0].State != "up" || s.Schema != api.Schema || len(s.PublicKey) != 44 {
		t.Errorf("%+v", s)
	}
	c, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	if got := len(w.plane.Listeners()); got != len(c.Listeners) {
		t.Errorf("%d listeners of %d", got, len(c.Listeners))
	}
	// a second npd ends before it touches an interface
	o, err := w.options(nil)
	if err != nil {
		t.Error(err)
	}
	if err := Run(t.Context(), o, nil); err == nil || !strings.Contains(err.Error(), "another npd") {
		t.Errorf("second npd: %v", err)
	}
	if len(w.sys.Programs()) != 1 {
		t.Error("second npd touched the interface")
	}
	// the interface goes, npd stays and says so
	w.sys.Remove("np0")
	w.eventually("degraded", func() bool { return get[api.Status](w, api.PathStatus, nil).State == "degraded" })
	if p := get[api.Status](w, api.PathStatus, nil).Problems; len(p) != 1 || !strings.Contains(p[0], "np0") {
		t.Errorf("problems %q", p)
	}
	w.sys.Set("np0", true)
	w.eventually("ready again", func() bool { return get[api.Status](w, api.PathStatus, nil).State == "ready" })
	w.end(syscall.SIGTERM)
	if !strings.Contains(w.logged(), "drained") {
		t.Error("not drained")
	}
	w.cl.Close()
	w.eventually("goroutines end", func() bool { return runtime.NumGoroutine() <= before })
}

func TestStartErrors(t *testing.T) {
	tests := []struct {
		name   string
		change func(w *world)
		want   string
	}{
		{"unknown interface", func(w *world) { w.sys.Remove("np0") }, "np.toml:53:1: interface np0: no such interface"},
		{"listener refused", func(w *world) { w.plane.Fail("Listen", -1, dataplane.CodeAddrinuse) }, ": listener npro on :7700: address already in use"},
		{"XDP not permitted", func(w *world) {
			w.sys.Refuse(dataplane.CodePerm, false)
			w.plane.Fail("AddInterface", -1, dataplane.CodePerm)
		}, "not permitted"},
		{"bad key", func(w *world) { w.key("nonsense", 0o600) }, "environment NP_PROTOCOL_PRIVATE_KEY_FILE: private key"},
		{"key for all to read", func(w *world) { w.key("nonsense", 0o644) }, "chmod 600"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, config.Example())
			tt.change(w)
			o, err := w.options(nil)
			if err != nil {
				t.Fatal(err)
			}
			line := 1 + slices.IndexFunc(strings.Split(w.text, "\n"), func(l string) bool { return strings.HasPrefix(l, "name = \"np0\"") })
			want := strings.Replace(tt.want, ":53:", ":"+itoa(line)+":", 1)
			err = Run(t.Context(), o, nil)
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "nonsense") {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			for _, p := range w.sys.Programs() {
				if !p.Closed {
					t.Error("XDP program left attached")
				}
			}
			if _, err := os.Lstat(filepath.Join(w.dir, "np.sock")); err == nil {
				t.Error("socket left behind")
			}
		})
	}
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

func (w *world) key(text string, mode os.FileMode) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Join(w.dir, "state"), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "state", "npd.key"), []byte(text), mode); err != nil {
		w.t.Fatal(err)
	}
}

func TestManagement(t *testing.T) {
	w := newWorld(t, config.Example()+"[[peer]]\nname = \"reports\"\npublic_key = \"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\"\nallow = [\"ECHO\"]\n")
	var c dataplane.Counters
	c.Counter[dataplane.CounterRXPkts], c.Counter[dataplane.CounterDeliveredPkts] = 10, 8
	c.Drop[dataplane.DropTCPChecksum] = 2
	w.plane.SetCounters(1, c)
	w.plane.SetNeighbors([]dataplane.Neighbor{{Addr: netip.MustParseAddr("198.18.0.2"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, State: "reachable", Age: 2 * time.Second}})
	w.start()
	defer func() { w.end(syscall.SIGINT) }()
	w.plane.SetConnections([]dataplane.Conn{
		{Handle: 0x100000001, Kind: dataplane.SessionNPRO, Listener: 1, State: "established", SRTT: 1500 * time.Microsecond, Created: time.Hour,
			Local: netip.MustParseAddrPort("198.18.0.1:7700"), Remote: netip.MustParseAddrPort("198.18.0.2:40000"), AEAD: 2},
		{Handle: 0x200000001, Kind: dataplane.SessionEcho, Listener: 2, State: "time-wait"},
	})
	conns := get[api.Conns](w, api.PathConns, nil)
	if conns.Total != 2 || conns.Connections[0].ID != "100000001" || conns.Connections[0].Listener != "npro" || conns.Connections[0].AEAD != "aes-256-gcm" ||
		conns.Connections[0].TCP.RTTMs != 1.5 || time.Since(conns.Connections[0].CreatedAt) > time.Minute {
		t.Errorf("%+v", conns)
	}
	if c := get[api.Conns](w, api.PathConns, url.Values{"protocol": {"echo"}}); c.Total != 1 || c.Connections[0].ID != "200000001" {
		t.Errorf("filtered: %+v", c)
	}
	if c := get[api.Conns](w, api.PathConns, url.Values{"limit": {"1"}}); c.Total != 2 || len(c.Connections) != 1 {
		t.Errorf("limited: %+v", c)
	}
	if c := get[api.ConnAnswer](w, api.PathConn+"100000001", nil); c.Connection.Remote != "198.18.0.2:40000" {
		t.Errorf("%+v", c)
	}
	d := get[api.Drops](w, api.PathDrops, nil)
	if !d.Ledger.Balanced || d.Ledger.Dropped != 2 || len(d.Drops) != int(dataplane.DropCount)+5 { // and XDP's
		t.Errorf("%+v", d.Ledger)
	}
	// Fragments that wait are neither.
	waiting := c
	waiting.Counter[dataplane.CounterRXPkts] += 3
	waiting.Counter[dataplane.CounterIPFragsHeld] = 3
	w.plane.SetCounters(1, waiting)
	if d := get[api.Drops](w, api.PathDrops, nil); !d.Ledger.Balanced || d.Ledger.Held != 3 {
		t.Errorf("with fragments held: %+v", d.Ledger)
	}
	w.plane.SetCounters(1, c)
	if s := get[api.Stats](w, api.PathStats, nil); len(s.Counters) != int(dataplane.CounterCount) || s.Cores[1].Values[dataplane.CounterRXPkts] != 10 {
		t.Errorf("%+v", s.Cores)
	}
	b := get[api.Backend](w, api.PathBackend, nil)
	if b.Requested != "auto" || b.Actual != "af_xdp zero-copy" || len(b.Ladder) != 2+4 || b.Reason != "" || !b.Ladder[0].Skipped || b.Ladder[0].Reason == "" ||
		len(b.Backends) != 1+4 || b.Backends[0].Actual != b.Actual || b.Backends[1].Kind != "listener" || b.Backends[1].Actual != "stack" {
		t.Errorf("%+v", b)
	}
	if n := get[api.Neighbors](w, api.PathNeighbors, nil); len(n.Neighbors) != 1 || n.Neighbors[0].Interface != "np0" || n.Neighbors[0].AgeSeconds != 2 {
		t.Errorf("%+v", n)
	}
	if l := get[api.Listeners](w, api.PathListeners, nil); len(l.Listeners) < 3 || l.Listeners[0].Connections != 1 || l.Listeners[0].MaxConnections != 1000 {
		t.Errorf("%+v", l)
	}
	if p := get[api.Peers](w, api.PathPeers, nil); !p.AllowAny || len(p.Peers) != 1 || p.Peers[0].Name != "reports" {
		t.Errorf("%+v", p)
	}
	if v := get[api.Version](w, api.PathVersion, nil); v.Version != "v0" || v.Schema != api.Schema {
		t.Errorf("%+v", v)
	}
	origins := map[string]string{}
	for _, v := range get[api.Config](w, api.PathConfig, nil).Values {
		origins[v.Key] = v.Origin
	}
	if origins["management.socket"] != "environment NP_MANAGEMENT_SOCKET" || origins["server.max_connections"] != "default" ||
		!strings.HasPrefix(origins["listener[0].name"], "np.toml:") {
		t.Errorf("%v", origins)
	}
	var level api.LogLevel
	if err := w.cl.Post(t.Context(), api.PathLogLevel, api.LogLevel{Level: "debug"}, &level); err != nil || level.Level != "debug" {
		t.Errorf("%+v %v", level, err)
	}
	w.refusals()
	w.scrape()
}

// refusals: each with its kind.
func (w *world) refusals() {
	t := w.t
	t.Helper()
	ctx := t.Context()
	var v any
	for _, tt := range []struct {
		name, kind string
		err        error
	}{
		{"unknown path", api.KindNotFound, w.cl.Get(ctx, "/v1/nope", nil, &v)},
		{"unknown connection", api.KindNotFound, w.cl.Get(ctx, api.PathConn+"77", nil, &v)},
		{"bad ID", api.KindUsage, w.cl.Get(ctx, api.PathConn+"xyz", nil, &v)},
		{"bad limit", api.KindUsage, w.cl.Get(ctx, api.PathConns, url.Values{"limit": {"-1"}}, &v)},
		{"bad level", api.KindUsage, w.cl.Post(ctx, api.PathLogLevel, api.LogLevel{Level: "loud"}, &v)},
		{"unknown field", api.KindUsage, w.cl.Post(ctx, api.PathLogLevel, map[string]string{"lvl": "info"}, &v)},
		{"large body", api.KindUsage, w.cl.Post(ctx, api.PathLogLevel, map[string]string{"level": strings.Repeat("x", 100_000)}, &v)},
		{"close unknown", api.KindNotFound, w.cl.Post(ctx, api.PathConnClose, api.CloseRequest{ID: "77"}, &v)},
		{"close on no core", api.KindNotFound, w.cl.Post(ctx, api.PathConnClose, api.CloseRequest{ID: "ff000001"}, &v)},
		{"capture on no interface", api.KindNotFound, w.cl.Get(ctx, api.PathCapture, url.Values{"interface": {"x"}}, &v)},
		{"capture direction", api.KindUsage, w.cl.Get(ctx, api.PathCapture, url.Values{"dir": {"up"}}, &v)},
		{"change on read-only socket", api.KindPermission, w.ro.Post(ctx, api.PathDrain, nil, &v)},
		{"capture on read-only socket", api.KindPermission, w.ro.Get(ctx, api.PathCapture, nil, &v)},
	} {
		var e *client.APIError
		if !errors.As(tt.err, &e) || e.Kind != tt.kind {
			t.Errorf("%s: %v, want kind %s", tt.name, tt.err, tt.kind)
		}
	}
	if err := w.ro.Get(ctx, api.PathStatus, nil, &v); err != nil {
		t.Errorf("read-only socket: %v", err)
	}
}

// fetch reads a path of the read-only socket as curl would.
func (w *world) fetch(path string) string {
	w.t.Helper()
	h := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(w.dir, "ro.sock"))
	}}}
	defer h.CloseIdleConnections()
	resp, err := h.Get("http://npd" + path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(body)
}

// scrape reads /metrics, /livez and /readyz.
func (w *world) scrape() {
	w.t.Helper()
	for path, want := range map[string][]string{
		api.PathLive: {"ok"}, api.PathReady: {"ready"},
		api.PathMetrics: {`np_rx_packets_total{core="1"} 10`, `np_drops_total{core="1",layer="tcp",reason="tcp_bad_checksum"} 2`, "# TYPE np_npro_sessions gauge",
			`np_backend_info{actual="af_xdp zero-copy",interface="np0",listener="",reason="",requested="auto"} 1`, `np_interface_up{interface="np0"} 1`,
			"np_core_busy_seconds_total", `np_queue_rx_packets_total{core="0",interface="np0",queue="0"}`, `np_build_info{commit="abc",version="v0"} 1`, "go_goroutines"},
	} {
		body := w.fetch(path)
		for _, s := range want {
			if !strings.Contains(body, s) {
				w.t.Errorf("%s lacks %s", path, s)
			}
		}
	}
}

// TestMetricsAreBounded: whoever reaches the metrics port cannot take npd's
// file descriptors.
func TestMetricsAreBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	w := newWorld(t, strings.Replace(config.Example(), "[metrics]\n", "[metrics]\naddress = \""+addr+"\"\n", 1))
	w.start()
	defer func() { w.end(syscall.SIGTERM) }()
	var conns []net.Conn
	for range 100 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: npd\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	var answered atomic.Int32
	var readers sync.WaitGroup
	for _, c := range conns {
		readers.Go(func() {
			if _, err := io.ReadFull(c, make([]byte, 12)); err == nil {
				answered.Add(1)
			}
		})
	}
	w.eventually("64 connections served", func() bool { return answered.Load() >= 64 })
	time.Sleep(100 * time.Millisecond) // for those that should not be
	for _, c := range conns {
		_ = c.SetReadDeadline(time.Now())
	}
	readers.Wait()
	if n := answered.Load(); n != 64 {
		t.Errorf("%d of %d connections served", n, len(conns))
	}
}

func TestCapture(t *testing.T) {
	w := newWorld(t, config.Example())
	w.start()
	defer func() { w.end(syscall.SIGTERM) }()
	var out bytes.Buffer
	type result struct {
		trailer http.Header
		err     error
	}
	done := make(chan result, 1)
	go func() {
		tr, err := w.cl.Stream(t.Context(), api.PathCapture, url.Values{"count": {"2"}, "dir": {"rx,drop"}, "interface": {"np0"}}, &out)
		done <- result{tr, err}
	}()
	w.eventually("capture open", func() bool { return w.plane.Captures() == 1 })
	frame := append(make([]byte, 12), 8, 0, 0x45)
	w.plane.Packet(dataplane.Packet{Dir: dataplane.CaptureTx, Data: frame})
	w.plane.Packet(dataplane.Packet{Dir: dataplane.CaptureRx, Data: frame})
	time.Sleep(100 * time.Millisecond) // past the flush
	w.plane.Packet(dataplane.Packet{Dir: dataplane.CaptureDrop, Drop: dataplane.DropTCPChecksum, Data: frame})
	r := <-done
	if r.err != nil || r.trailer.Get(api.CaptureLostName) != "0" {
		t.Fatalf("%v, trailer %v", r.err, r.trailer)
	}
	if !bytes.Contains(out.Bytes(), []byte("dropped: tcp_bad_checksum (TCP checksum wrong)")) || !bytes.Contains(out.Bytes(), []byte("np0")) || bytes.Count(out.Bytes(), frame) != 2 {
		t.Errorf("capture has %d bytes: %q", out.Len(), out.Bytes())
	}
	w.eventually("capture closed", func() bool { return w.plane.Captures() == 0 })
	// one that its reader leaves ends too, and so does one when npd ends
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		tr, err := w.cl.Stream(ctx, api.PathCapture, nil, io.Discard)
		done <- result{tr, err}
	}()
	w.eventually("capture open", func() bool { return w.plane.Captures() == 1 })
	cancel()
	<-done
	w.eventually("capture closed", func() bool { return w.plane.Captures() == 0 })
	go func() {
		tr, err := w.cl.Stream(t.Context(), api.PathCapture, nil, io.Discard)
		done <- result{tr, err}
	}()
	w.eventually("capture open", func() bool { return w.plane.Captures() == 1 })
}

func TestReload(t *testing.T) {
	w := newWorld(t, config.Example())
	w.start()
	defer func() { w.end(syscall.SIGTERM) }()
	before := len(w.plane.Listeners())
	addresses := func() (out []string) {
		for _, l := range w.plane.Listeners() {
			out = append(out, config.AddrPortString(l.Config.Address))
		}
		slices.Sort(out)
		return out
	}
	w.reload(config.Example(), "nothing changed")
	changed := strings.Replace(config.Example(), `address = ":9"`, `address = ":10"`, 1)
	changed = strings.Replace(changed, `["198.18.0.1/24", "2001`, `["198.18.0.1/24", "198.18.0.5/24", "2001`, 1)
	changed = strings.Replace(changed, `#log_level = "info"`, `log_level = "debug"`, 1)
	w.reload(changed, "configuration reloaded")
	if got := addresses(); !slices.Contains(got, ":10") || slices.Contains(got, ":9") || len(got) != before {
		t.Errorf("listeners %v", got)
	}
	if n := len(w.plane.Interfaces()[0].Addresses); n != 3 {
		t.Errorf("%d addresses", n)
	}
	if l := get[api.LogLevel](w, api.PathLogLevel, nil); l.Level != "debug" {
		t.Errorf("level %s", l.Level)
	}
	// who may connect is said again when it changed
	changed = strings.Replace(changed, "allow_any_peer = true", "allow_any_peer = false", 1)
	w.reload(changed, "nobody may connect")
	// what needs a restart, and what is wrong, change nothing
	w.reload(strings.Replace(changed, "cores = 1", "cores = [0, 1]", 1), "a restart is needed for dataplane.cores")
	w.reload(changed+"[servr]\n", "unknown section")
	// a step that fails takes the others back
	w.plane.Fail("Listen", 1, dataplane.CodeAddrinuse)
	w.reload(config.Example(), "address already in use")
	if got := addresses(); !slices.Contains(got, ":10") || slices.Contains(got, ":9") || len(got) != before {
		t.Errorf("after a failed reload: listeners %v", got)
	}
	if n := len(w.plane.Interfaces()[0].Addresses); n != 3 {
		t.Errorf("after a failed reload: %d addresses", n)
	}
	if l := get[api.Listeners](w, api.PathListeners, nil); len(l.Listeners) != before {
		t.Errorf("%+v", l)
	}
	w.reload(config.Example(), "configuration reloaded")
}

// TestReloadFilter: a reload puts the file's filter in force as a whole, leaves what operators
// added beside it, and a failure leaves everything.
func TestReloadFilter(t *testing.T) {
	with := func(text string) string {
		return strings.Replace(config.Example(), "#filter.deny = []", text, 1)
	}
	w := newWorld(t, with("filter.deny = [\"203.0.113.0/24\"]"))
	w.start()
	defer func() { w.end(syscall.SIGTERM) }()
	check := func(what, entries string, rate int) {
		t.Helper()
		f, _ := w.sys.Programs()[0].Filter()
		var have []string
		for _, e := range f.Entries {
			have = append(have, e.Action.String()+" "+e.Prefix.String())
		}
		if got := strings.Join(have, ", "); got != entries || f.Limits.Packets != rate {
			t.Errorf("%s: %s at %d, want %s at %d", what, got, f.Limits.Packets, entries, rate)
		}
	}
	check("start", "deny 203.0.113.0/24", 0)
	var done api.Done
	if err := w.cl.Post(t.Context(), api.PathNICFilter, api.FilterRequest{NIC: "np0", Op: "add", Prefix: "198.18.9.0/24", Action: "deny"}, &done); err != nil {
		t.Fatal(err)
	}
	check("live", "deny 198.18.9.0/24, deny 203.0.113.0/24", 0)
	w.reload(with("filter.allow = [\"203.0.113.0/24\"]\nfilter.rate_pps = 9"), "configuration reloaded")
	check("reloaded", "deny 198.18.9.0/24, allow 203.0.113.0/24", 9)
	w.sys.Programs()[0].RefuseFilter(dataplane.CodeFull)
	bad := strings.Replace(with("filter.rate_pps = 10"), `["198.18.0.1/24", "2001`, `["198.18.0.1/24", "198.18.0.5/24", "2001`, 1)
	w.reload(bad, "not reloaded")
	check("refused", "deny 198.18.9.0/24, allow 203.0.113.0/24", 9)
	if n := len(w.plane.Interfaces()[0].Addresses); n != 2 {
		t.Errorf("after a failed reload: %d addresses", n)
	}
	w.sys.Programs()[0].RefuseFilter(nil)
	w.reload(config.Example(), "configuration reloaded")
	check("gone", "deny 198.18.9.0/24", 0)
}

// TestReloadAddresses: a reload of addresses happens as a whole or not at all,
// whoever refuses one, on whichever VLAN.
func TestReloadAddresses(t *testing.T) {
	text := func(a0, a7 string) string {
		return strings.Replace(config.Example(), `["198.18.0.1/24", "2001`, `[`+a0+`"198.18.0.1/24", "2001`, 1) +
			"\n[[interface]]\nname = \"np0\"\nvlan = 7\naddresses = [" + a7 + "]\n"
	}
	first := text("", `"198.18.7.1/24"`)
	w := newWorld(t, first)
	w.start()
	defer func() { w.end(syscall.SIGTERM) }()
	state := func() string {
		var out []string
		for _, i := range w.plane.Interfaces() {
			list := slices.Clone(i.Addresses)
			slices.SortFunc(list, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
			out = append(out, fmt.Sprintf("%d %v", i.Config.VLAN, list))
		}
		shown := get[api.Interfaces](w, api.PathInterfaces, nil).Interfaces
		for _, i := range shown {
			slices.Sort(i.Addresses)
			out = append(out, fmt.Sprintf("%s %v", i.Name, i.Addresses))
		}
		return fmt.Sprint(out, w.sys.Programs()[0].Steered(), w.plane.Routes())
	}
	before := state()
	next := text(`"198.18.0.5/24", "198.18.0.6/24", `, `"198.18.7.9/24", "198.18.0.7/32"`)
	prog := w.sys.Programs()[0]
	for _, a := range []string{"198.18.0.5", "198.18.0.6", "198.18.7.9", "198.18.7.1"} { // the last is to go
		prog.RefuseAddress(netip.MustParseAddr(a), dataplane.CodeFull)
		w.reload(next, "the old one stays in force")
		if got := state(); got != before {
			t.Errorf("%s refused by the program:\n%s, before\n%s", a, got, before)
		}
		prog.RefuseAddress(netip.MustParseAddr(a), nil)
	}
	for _, call := range []string{"AddAddress", "DelAddress"} {
		w.plane.Fail(call, 1, dataplane.CodeFull)
		w.reload(next, "the old one stays in force")
		if got := state(); got != before {
			t.Errorf("%s refused by the plane:\n%s, before\n%s", call, got, before)
		}
	}
	w.reload(next, "configuration reloaded")
	for _, want := range []string{"7 [198.18.0.7/32 198.18.7.9/24]", "np0.7 [198.18.0.7/32 198.18.7.9/24]", "{198.18.7.9 7}"} {
		if got := state(); !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
	// An address moves to another VLAN, another gets a longer prefix.
	w.reload(text(`"198.18.7.9/24", `, `"198.18.0.7/24"`), "configuration reloaded")
	for _, want := range []string{"7 [198.18.0.7/24]", "{198.18.7.9 0}"} {
		if got := state(); !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
	// Each key that can't change live is named.
	for _, key := range []string{"dad_transmits = 3", "acd = true", "accept_ra = true"} {
		w.reload(text(`"198.18.7.9/24", `, `"198.18.0.7/24"`)+key+"\n", "a restart is needed for interface np0.7 "+strings.Fields(key)[0])
	}
	w.reload(strings.Replace(text(`"198.18.7.9/24", `, `"198.18.0.7/24"`), "vlan = 7", "vlan = 8", 1), "a restart is needed for interface np0.7, interface np0.8")
}

func TestRefuse(t *testing.T) {
	w := newWorld(t, config.Example())
	w.start()
	var done api.Done
	if err := w.cl.Post(t.Context(), api.PathDrain, nil, &done); err != nil || !done.Done {
		t.Fatal(err)
	}
	if s := get[api.Status](w, api.PathStatus, nil); s.State != "draining" {
		t.Errorf("state %s", s.State)
	}
	if _, err := w.plane.Dial(0, w.plane.Listeners()[0].ID, netip.MustParseAddrPort("198.18.0.2:1")); !errors.Is(err, dataplane.CodeShutdown) {
		t.Errorf("dial: %v", err)
	}
	w.end(syscall.SIGTERM)
}

// TestStaleSocket: a left-over socket is replaced, any other file is not.
func TestStaleSocket(t *testing.T) {
	w := newWorld(t, config.Example())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(w.dir, "np.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	w.start()
	w.end(syscall.SIGTERM)
	if err := os.WriteFile(filepath.Join(w.dir, "np.sock"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := w.options(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), o, nil); err == nil || !strings.Contains(err.Error(), "no socket is in the way") {
		t.Errorf("got %v", err)
	}
}

// pages play the huge pages of a machine without nodes.
type pages struct{ fstest.MapFS }

func (p pages) WriteFile(name string, data []byte) error {
	if _, ok := p.MapFS[name]; !ok {
		return fs.ErrNotExist
	}
	p.MapFS[name] = &fstest.MapFile{Data: data}
	return nil
}

// TestReserve: huge pages are reserved while the daemon runs, and given back.
func TestReserve(t *testing.T) {
	const dir = "sys/kernel/mm/hugepages/hugepages-2048kB/"
	p := pages{fstest.MapFS{"proc/self/status": {Data: []byte("Cpus_allowed_list:\t0-1")}}}
	for _, name := range []string{"nr_hugepages", "free_hugepages", "surplus_hugepages"} {
		p.MapFS[dir+name] = &fstest.MapFile{Data: []byte("0")}
	}
	text := strings.Replace(config.Example(), "[dataplane]", "[dataplane]\nhugepages = \"reserve\"", 1)
	text = strings.Replace(text, "\nhugepages = \"auto\"", "", 1)
	w := newWorld(t, text)
	w.files = p
	w.start()
	if got := string(p.MapFS[dir+"nr_hugepages"].Data); got == "0" || !strings.Contains(w.logged(), "huge pages reserved") {
		t.Errorf("%s pages", got)
	}
	w.end(syscall.SIGTERM)
	if got := string(p.MapFS[dir+"nr_hugepages"].Data); got != "0" {
		t.Errorf("%s pages left", got)
	}
}

// TestInterfaceMissing: where there is another, npd starts without it, says so, and takes
// it when it comes; where nothing may fall back it does not start.
func TestInterfaceMissing(t *testing.T) {
	more := "\n[[interface]]\nname = \"np1\"\naddresses = \"198.18.1.1/24\"\n\n[[interface]]\nname = \"np1\"\nvlan = 7\naddresses = \"198.18.2.1/24\"\n" +
		"\n[[route_ip]]\nprefix = \"198.19.0.0/16\"\nvia = \"198.18.1.2\"\n"
	w := newWorld(t, config.Example()+more)
	w.start()
	s := get[api.Status](w, api.PathStatus, nil)
	if s.State != "degraded" || len(s.Problems) != 2 || !strings.Contains(s.Problems[0], "np1") || !strings.Contains(w.logged(), "np1: no such interface") {
		t.Errorf("%s %q", s.State, s.Problems)
	}
	w.sys.Set("np1", true)
	w.eventually("ready", func() bool { return get[api.Status](w, api.PathStatus, nil).State == "ready" })
	if i := w.plane.Interfaces(); len(i) != 3 || len(w.plane.Routes()) != 1 {
		t.Errorf("%+v, routes %+v", i, w.plane.Routes())
	}
	w.end(syscall.SIGTERM)

	w = newWorld(t, strings.Replace(config.Example(), "[dataplane]", "[dataplane]\non_fallback = \"fail\"", 1)+more)
	o, err := w.options(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), o, nil); err == nil || !strings.Contains(err.Error(), "np1: no such interface") {
		t.Error(err)
	}
}
