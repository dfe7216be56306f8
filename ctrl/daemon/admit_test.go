package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway"
	"github.com/np-appliance/np/ctrl/logs"
	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/ctrl/secure"
	"github.com/np-appliance/np/dataplane/fake"
)

// TestAdmitPeers: a listener of NPRO refuses addresses before their handshake, by the rules
// in force.
func TestAdmitPeers(t *testing.T) {
	text := func(rules string) string {
		return "[[interface]]\nname = \"np0\"\naddresses = [\"198.18.0.1/24\"]\n[protocol]\nallow_any_peer = true\n[[listener]]\nname = \"peers\"\naddress = \"198.18.0.1:7700\"\n[listener.authz]\n" + rules
	}
	w := newWorld(t, text("allow = [\"client:198.18.0.0/24\"]\n"))
	w.start()
	defer func() { w.end(syscall.SIGTERM) }()
	shut := func(p *fake.Peer) (code uint32, ok bool) {
		for _, c := range w.plane.Commands() {
			if c.Op == fake.OpClose && c.Conn == p.Handle() {
				return c.Code, true
			}
		}
		return 0, false
	}
	dial := func(from string) *fake.Peer {
		p, err := w.plane.Dial(0, w.plane.Listeners()[0].ID, netip.MustParseAddrPort(from))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	closed := func(from string) bool {
		p, behind := dial(from), dial("203.0.113.1:1") // judged one after the other
		w.eventually("the one behind is refused", func() bool { _, ok := shut(behind); return ok })
		code, ok := shut(p)
		if ok && code != uint32(npro.CodeHandshakeFailed) {
			t.Errorf("code %d", code)
		}
		return ok
	}
	if closed("198.18.0.7:1000") {
		t.Error("a peer that may was refused")
	}
	if !closed("198.18.1.7:1000") {
		t.Error("a peer that may not was let in")
	}
	w.reload(text("allow = [\"client:198.18.1.0/24\"]\n"), "configuration reloaded")
	if !closed("198.18.0.7:1001") || closed("198.18.1.7:1001") {
		t.Error("rules that changed do not hold")
	}
	if !strings.Contains(w.logged(), "listener_authz") {
		t.Error("the log does not say so")
	}
}

// TestAdmitPlain: an echo service over TLS refuses by address, name and certificate.
func TestAdmitPlain(t *testing.T) {
	dir := t.TempDir()
	made, err := secure.Generate(secure.Request{Names: []string{"a.test", "b.test"}, Valid: time.Hour, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := made.Save(dir, false); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(made.CA)
	store, err := secure.Load([]secure.Files{{Cert: dir + "/cert.pem", Key: dir + "/key.pem"}}, false, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	tc, err := (&secure.Server{Store: store, ClientAuth: secure.ClientAuthRequest, ClientCA: made.CA, Common: secure.Common{Now: time.Now}}).Config()
	if err != nil {
		t.Fatal(err)
	}
	client, err := secure.Generate(secure.Request{Names: []string{"worker.test"}, Client: true, Valid: time.Hour, Now: time.Now(), CA: made.CA, CAKey: made.CAKey})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(client.Cert, client.Key)
	if err != nil {
		t.Fatal(err)
	}
	serve := func(rules, keys string) (addr string, service service) {
		c, err := config.Load(config.Input{Files: []config.Source{{Name: "np.toml", Data: []byte("[tls]\nclient_auth = \"request\"\nclient_ca_file = \"" + dir + "/ca.pem\"\n[[certificate]]\ncert_file = \"c\"\nkey_file = \"k\"\n[[listener]]\nname = \"echo\"\naddress = \"127.0.0.1:8443\"\nprotocol = \"echo\"\ntls = true\n" + keys + "[listener.authz]\n" + rules)}}})
		if err != nil {
			t.Fatal(err)
		}
		g := gateway.New(gateway.Options{})
		t.Cleanup(g.Close)
		gen, err := g.Prepare(c)
		if err != nil {
			t.Fatal(err)
		}
		g.Commit(gen)
		d := &Daemon{gateway: g, limiter: logs.NewLimiter(slog.New(slog.DiscardHandler), 1, time.Now)}
		d.ending.Store(&ending{store, tc})
		if service, err = d.newService(c, &c.Listeners[0]); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- service.Serve(ctx, l) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return l.Addr().String(), service
	}
	echoes := func(addr, sni string, certs ...tls.Certificate) bool {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, &tls.Config{RootCAs: roots, ServerName: sni, Certificates: certs})
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			return false
		}
		b := make([]byte, 1)
		_, err = io.ReadFull(c, b)
		return err == nil
	}
	addr, s := serve("allow = [\"client:127.0.0.0/8 sni:a.test cert:worker.test\"]\n", "")
	if !echoes(addr, "a.test", pair) {
		t.Error("who may was refused")
	}
	if echoes(addr, "a.test") || echoes(addr, "b.test", pair) {
		t.Error("who may not was let in")
	}
	for deadline := time.Now().Add(10 * time.Second); s.Stats().Refused != 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", s.Stats())
		}
	}
	addr, s = serve("allow = [\"client:10.0.0.0/8\"]\n", "")
	if echoes(addr, "a.test", pair) || s.Stats().Refused != 1 || s.Stats().Failed != 0 {
		t.Errorf("by address: %+v", s.Stats())
	}
	addr, _ = serve("allow = [\"*\"]\n", "idle_timeout = \"200ms\"\n")
	idle(t, addr, &tls.Config{RootCAs: roots, ServerName: "a.test", Certificates: []tls.Certificate{pair}})
}

// idle wants a connection on which nothing moves to be ended.
func idle(t *testing.T, addr string, cfg *tls.Config) {
	t.Helper()
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(time.Minute))
	c := tls.Client(raw, cfg)
	_, _ = c.Write([]byte("x")) // on a machine that is slow even the handshake is too late
	var timeout net.Error
	if _, err := io.Copy(io.Discard, c); errors.As(err, &timeout) && timeout.Timeout() {
		t.Error("an idle connection is not ended")
	}
}
