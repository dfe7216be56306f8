//go:build cgo

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/daemon"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/logs"
	"github.com/np-appliance/np/ctrl/mgmt/api"
	mgmt "github.com/np-appliance/np/ctrl/mgmt/client"
	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/npc"
)

// freePort is one that nobody has at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// served is an npd with the real data plane, in this process.
type served struct {
	t       *testing.T
	dir     string
	mu      sync.Mutex
	text    string
	log     bytes.Buffer
	signals chan os.Signal
	done    chan error
	mgmt    *mgmt.Client
}

func (s *served) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

func (s *served) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

func (s *served) load() (*config.Config, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return config.Load(config.Input{Files: []config.Source{{Name: "np.toml", Data: []byte(s.text)}}})
}

// serve starts one without interfaces and without privileges.
func serve(t *testing.T, listeners string) *served {
	t.Helper()
	return serveWith(t, listeners, npc.ProbeUring)
}

func serveWith(t *testing.T, listeners string, probe func() error) *served {
	t.Helper()
	dir := t.TempDir()
	s := &served{t: t, dir: dir, signals: make(chan os.Signal, 4), done: make(chan error, 1), mgmt: mgmt.New(filepath.Join(dir, "np.sock"))}
	s.text = fmt.Sprintf("[management]\nsocket = %q\nro_socket = \"\"\n[protocol]\nprivate_key_file = %q\nallow_any_peer = true\n[dataplane]\nhugepages = \"off\"\n"+
		"[limits]\nbuffers_per_core = 4096\nloans_per_core = 256\nstreams_per_core = 1024\n", filepath.Join(dir, "np.sock"), filepath.Join(dir, "npd.key")) + listeners
	c, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	log, err := logs.New(logs.Options{Console: s})
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	go func() {
		s.done <- daemon.Run(context.Background(), daemon.Options{Config: c, Origin: daemon.Origin{Load: s.load}, NewPlane: npc.New, ProbeUring: probe, System: ports.Linux{}, Log: log,
			Version: version(), Now: time.Now, Mono: monotonic, Ready: func() { close(ready) }}, s.signals)
	}()
	select {
	case <-ready:
	case err := <-s.done:
		t.Fatalf("not started: %v", err)
	}
	t.Cleanup(func() {
		s.mgmt.Close()
		s.signals <- syscall.SIGTERM
		if err := <-s.done; err != nil {
			t.Errorf("ended with %v", err)
		}
		left, err := filepath.Glob(filepath.Join(dir, "*.sock*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	})
	return s
}

// listeners are NPRO, echo, discard and chargen on loopback and on Unix sockets, on each backend.
func listenerText(name, address, protocol, backend string) string {
	return fmt.Sprintf("[[listener]]\nname = %q\naddress = %q\nprotocol = %q\nbackend = %q\n", name, address, protocol, backend)
}

func nproEcho(address string) error {
	static, err := handshake.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cl, err := client.Dial(ctx, client.Config{Address: address, Static: static, Trust: func(handshake.PublicKey) error { return nil }})
	if err != nil {
		return err
	}
	defer cl.Close(ctx)
	for _, n := range []int{0, 64, 300_000} {
		body := bytes.Repeat([]byte("np"), n/2)
		resp, err := cl.Request(ctx, "ECHO", body)
		if err != nil {
			return err
		}
		if !bytes.Equal(resp, body) {
			return fmt.Errorf("%d bytes came back of %d", len(resp), len(body))
		}
	}
	return nil
}

func plain(network, address string, in []byte, n int) ([]byte, error) {
	c, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Write(in); err != nil {
		return nil, err
	}
	out := make([]byte, n)
	_, err = io.ReadFull(c, out)
	return out, err
}

func backends() []string {
	out := []string{"epoll"}
	if npc.ProbeUring() == nil {
		out = append(out, "io_uring")
	}
	return out
}

// TestServeKernelSockets has npd without an interface serve every protocol.
func TestServeKernelSockets(t *testing.T) {
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			dir := t.TempDir()
			tcp := map[string]string{}
			text := ""
			for _, p := range []string{"npro", "echo", "discard", "chargen"} {
				tcp[p] = freePort(t)
				text += listenerText(p, tcp[p], p, backend) + listenerText(p+"-unix", "unix:"+filepath.Join(dir, p+".sock"), p, backend) + "mode = \"0600\"\n"
			}
			s := serve(t, text)
			for _, address := range []string{tcp["npro"], "unix:" + filepath.Join(dir, "npro.sock")} {
				if err := nproEcho(address); err != nil {
					t.Errorf("NPRO on %s: %v", address, err)
				}
			}
			for network, address := range map[string]string{"tcp": tcp["echo"], "unix": filepath.Join(dir, "echo.sock")} {
				if out, err := plain(network, address, []byte("hello"), 5); err != nil || string(out) != "hello" {
					t.Errorf("echo on %s: %q %v", address, out, err)
				}
			}
			for network, address := range map[string]string{"tcp": tcp["chargen"], "unix": filepath.Join(dir, "chargen.sock")} {
				if out, err := plain(network, address, nil, 74); err != nil || !strings.HasPrefix(string(out), " !\"#$%") {
					t.Errorf("chargen on %s: %q %v", address, out, err)
				}
			}
			if fi, err := os.Stat(filepath.Join(dir, "npro.sock")); err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("mode %v %v", fi, err)
			}
			s.lists(backend, filepath.Join(dir, "discard.sock"))
		})
	}
}

// lists looks at what npctl would show.
func (s *served) lists(backend, path string) {
	t := s.t
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var conns api.Conns
	for range 6000 { // a minute
		if err := s.mgmt.Get(t.Context(), api.PathConns, map[string][]string{"listener": {"discard-unix"}}, &conns); err != nil {
			t.Fatal(err)
		}
		if len(conns.Connections) == 1 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if len(conns.Connections) != 1 {
		t.Fatalf("connections %+v", conns)
	}
	i := conns.Connections[0]
	if i.Backend != backend || i.Unix == nil || int(i.Unix.PID) != os.Getpid() || !strings.HasPrefix(i.Remote, "pid:") {
		t.Errorf("connection %+v", i)
	}
	var ls api.Listeners
	if err := s.mgmt.Get(t.Context(), api.PathListeners, nil, &ls); err != nil {
		t.Fatal(err)
	}
	for _, l := range ls.Listeners {
		if l.Backend != backend {
			t.Errorf("listener %+v", l)
		}
	}
}

// TestServeWithoutUring has listeners fall to epoll, and say so.
func TestServeWithoutUring(t *testing.T) {
	one, two := freePort(t), freePort(t)
	refused := fmt.Errorf("probe io_uring: %w (open io_uring: refused by policy)", dataplane.CodeUnsupported)
	s := serveWith(t, listenerText("one", one, "echo", "auto")+listenerText("two", two, "echo", "io_uring"), func() error { return refused })
	for _, address := range []string{one, two} {
		if out, err := plain("tcp", address, []byte("hello"), 5); err != nil || string(out) != "hello" {
			t.Errorf("%s: %q %v", address, out, err)
		}
	}
	var ls api.Listeners
	if err := s.mgmt.Get(t.Context(), api.PathListeners, nil, &ls); err != nil {
		t.Fatal(err)
	}
	for _, l := range ls.Listeners {
		if l.Backend != "epoll" {
			t.Errorf("listener %+v", l)
		}
	}
	if log := s.logged(); strings.Count(log, "backend refused") < 2 || !strings.Contains(log, "refused by policy") || !strings.Contains(log, "io_uring_disabled=0") {
		t.Errorf("log:\n%s", log)
	}
	var b api.Backend
	if err := s.mgmt.Get(t.Context(), api.PathBackend, nil, &b); err != nil {
		t.Fatal(err)
	}
	for _, u := range b.Backends {
		if u.Actual != "epoll" || !strings.Contains(u.Reason, "refused by policy") {
			t.Errorf("%+v", u)
		}
	}
}

// TestServeReload adds and removes listeners of a running npd.
func TestServeReload(t *testing.T) {
	dir := t.TempDir()
	one, two := freePort(t), freePort(t)
	path := filepath.Join(dir, "two.sock")
	s := serve(t, listenerText("one", one, "echo", "auto"))
	before := s.text
	reload := func(text, want string) {
		t.Helper()
		s.mu.Lock()
		s.text = text
		s.log.Reset()
		s.mu.Unlock()
		s.signals <- syscall.SIGHUP
		for range 6000 { // a minute
			if strings.Contains(s.logged(), want) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("not %q but %s", want, s.logged())
	}
	kept, err := net.Dial("tcp", one)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	reload(before+listenerText("two", two, "echo", "epoll")+listenerText("path", "unix:"+path, "echo", "auto"), "configuration reloaded")
	for network, address := range map[string]string{"tcp": two, "unix": path} {
		if out, err := plain(network, address, []byte("hello"), 5); err != nil || string(out) != "hello" {
			t.Errorf("%s: %q %v", address, out, err)
		}
	}
	// an address that somebody else has changes nothing
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	reload(before+listenerText("three", l.Addr().String(), "echo", "auto"), "address already in use")
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	reload(strings.Replace(before, one, two, 1), "configuration reloaded") // one goes, two comes in its place
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket's file is still there: %v", err)
	}
	if _, err := net.Dial("tcp", one); err == nil {
		t.Error("one still listens")
	}
	if out, err := plain("tcp", two, []byte("hello"), 5); err != nil || string(out) != "hello" {
		t.Errorf("%q %v", out, err)
	}
	_ = kept.SetDeadline(time.Now().Add(time.Minute))
	if _, err := kept.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(kept, make([]byte, 1)); err != nil {
		t.Errorf("a connection of a listener that went: %v", err)
	}
}
