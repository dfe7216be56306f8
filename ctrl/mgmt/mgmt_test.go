package mgmt

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/logs"
	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/ctrl/ports/portstest"
	"github.com/np-appliance/np/ctrl/secure"
	"github.com/np-appliance/np/ctrl/session"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/fake"
)

// still is a daemon that does nothing.
type still struct{ cfg *config.Config }

func (*still) State() string                      { return StateReady }
func (s *still) Config() *config.Config           { return s.cfg }
func (*still) Listeners() []Listener              { return []Listener{{ID: 1, Name: "npro", Port: 7700}} }
func (*still) Refuse(context.Context) error       { return nil }
func (*still) LogLevel() string                   { return "info" }
func (*still) Certificates() []secure.Certificate { return nil }
func (*still) ReloadCertificates() error          { return nil }
func (*still) SetLogLevel(l string) error {
	if l != "info" {
		return errors.New("log level: expected info")
	}
	return nil
}

func newServer(t testing.TB) *Server {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	plane, sys := fake.New(fake.Options{}), portstest.New("np0")
	t.Cleanup(func() { plane.Close() })
	cfg, err := config.Load(config.Input{Files: []config.Source{{Name: "np.toml", Data: []byte(config.Example())}}})
	if err != nil {
		t.Fatal(err)
	}
	pm := ports.New(sys, plane, log, time.Now)
	if err := pm.Add(t.Context(), ports.Interface{Name: "np0", Addresses: cfg.Interfaces[0].Addresses, Backend: "auto"}); err != nil {
		t.Fatal(err)
	}
	reg, err := dispatch.New(log)
	if err != nil {
		t.Fatal(err)
	}
	key, err := handshake.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sm, err := session.New(session.Config{Plane: plane, Registry: reg, Policy: &session.Policy{}, Log: log, Limiter: logs.NewLimiter(log, 1, time.Now),
		Random: rand.Reader, Now: time.Now, Static: key, Patterns: []handshake.Pattern{handshake.PatternXX}, HandshakesInFlight: 1})
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{Daemon: &still{cfg}, Plane: plane, Sessions: sm, Ports: pm, Metrics: http.NotFoundHandler(), Log: log, Start: time.Now(),
		Now: time.Now, Mono: func() time.Duration { return time.Hour }})
}

// FuzzRequest: whatever arrives, the answer is one of ours.
func FuzzRequest(f *testing.F) {
	for _, p := range []string{api.PathStatus, api.PathConns + "?limit=3&state=x", api.PathConn + "1", api.PathDrops, api.PathCapture + "?dir=up",
		api.PathCapture + "?conn=zz", api.PathCapture + "?count=-1", "/", "/v1/../x"} {
		f.Add("GET", p, "")
	}
	f.Add("POST", api.PathLogLevel, `{"level":"info"}`)
	f.Add("POST", api.PathConnClose, `{"id":"100000001","abort":true}{}`)
	f.Add("POST", api.PathConnSet, `{"id":"100000001","congestion_control":"bbr"}`)
	f.Add("DELETE", api.PathStatus, "")
	h := newServer(f).Handler(false)
	f.Fuzz(func(t *testing.T, method, target, body string) {
		r, err := http.NewRequest(method, "http://npd"+target, strings.NewReader(body))
		if err != nil || r.URL.Path == "" {
			t.Skip()
		}
		// A capture that is good runs until its reader goes.
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(ctx))
		if ct := w.Header().Get("Content-Type"); ct == "application/json" {
			var v struct{ Schema, Error, Kind string }
			if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || v.Schema != api.Schema || (w.Code >= 400) != (v.Kind != "") {
				t.Errorf("%s %q: %d %s", method, target, w.Code, w.Body)
			}
		}
	})
}

func TestClassify(t *testing.T) {
	for _, tt := range []struct {
		err  error
		kind string
	}{
		{dataplane.CodeNotfound, api.KindNotFound}, {dataplane.CodeStale, api.KindNotFound}, {dataplane.CodePerm, api.KindPermission},
		{dataplane.CodeBusy, api.KindConflict}, {dataplane.CodeInvalid, api.KindUsage}, {dataplane.CodeShutdown, api.KindUnavailable},
		{context.DeadlineExceeded, api.KindTimeout}, {errors.New("else"), api.KindFailed},
	} {
		if got := classify(tt.err); got.kind != tt.kind {
			t.Errorf("%v: %s, want %s", tt.err, got.kind, tt.kind)
		}
	}
}

// TestSlots: a client that opens many connections takes its own places only
// until it closes them, and Close ends an Accept that waits for one.
func TestSlots(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := Listen(path, "no-such-group")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, connsMax+1)
	done := make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				done <- err
				return
			}
			accepted <- c
		}
	}()
	var clients []net.Conn
	for range connsMax + 1 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	var first net.Conn
	for range connsMax {
		first = <-accepted
	}
	select {
	case <-accepted:
		t.Error("more connections than places")
	case <-time.After(50 * time.Millisecond):
	}
	first.Close()
	(<-accepted).Close()
	for _, c := range clients {
		c.Close()
	}
	l.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// TestSocketBusy: an npd with no room for another connection is an npd too.
func TestSocketBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err == nil {
		defer syscall.Close(fd)
		err = errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 0))
	}
	if err != nil {
		t.Fatal(err)
	}
	for err == nil { // until its queue is full
		var c net.Conn
		if c, err = net.Dial("unix", path); err == nil {
			defer c.Close()
		}
	}
	if l, err := Listen(path, ""); err == nil {
		l.Close()
		t.Error("took the socket of a busy npd")
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

func TestSocketInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(path, ""); err == nil || !strings.Contains(err.Error(), "another npd") {
		t.Errorf("got %v", err)
	}
}
