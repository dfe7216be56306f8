package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/np-appliance/np/ctrl/gateway/server"
	"github.com/np-appliance/np/ctrl/gateway/server/servertest"
	"github.com/np-appliance/np/ctrl/secure"
)

const answering = "[[route]]\nname = \"r\"\npath_prefix = \"/\"\nbody = \"here\"\n"

// refusedAtAccept dials, sends a request and says whether not a byte came back.
func refusedAtAccept(t *testing.T, addr, head string) bool {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, head+"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	b, err := io.ReadAll(c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatal(err)
	}
	return len(b) == 0
}

// TestAdmitAddresses: who may not connect is refused before a byte is answered, and rules
// that change hold for connections that are there.
func TestAdmitAddresses(t *testing.T) {
	var mu sync.Mutex
	var said []string
	g := New(Options{Dial: dialNet, Peer: func(_ slog.Level, reason, msg string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, fmt.Sprint(reason, " ", args))
	}})
	t.Cleanup(g.Close)
	with := func(allow string) string { return "[listener.authz]\nallow = [\"" + allow + "\"]\n" + answering }
	c := load(t, with("client:127.0.0.0/8"))
	r := &rig{Gateway: g}
	r.apply(t, c)
	s, err := g.Server(c, &c.Listeners[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := servertest.Start(t, s, 0)
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	r.url, r.client = "http://"+addr, &http.Client{Transport: tr, Timeout: 10 * time.Second}
	if status, body, _ := r.get(t, "/"); status != 200 || body != "here" {
		t.Fatalf("%d %s", status, body)
	}
	r.apply(t, load(t, with("client:10.0.0.0/8")))
	if status, _, h := r.get(t, "/"); status != 403 || h.Get("Content-Type") != "application/problem+json" {
		t.Errorf("over the connection that was let in before: %d", status)
	}
	if !refusedAtAccept(t, addr, "") {
		t.Error("a connection was let in")
	}
	if n := s.Stats().Conns[server.RefusedAuthz]; n != 1 {
		t.Errorf("%d are counted, %v", n, s.Stats().Conns)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(said) != 1 || !strings.HasPrefix(said[0], "listener_authz [listener web client 127.0.0.1:") {
		t.Errorf("%q", said)
	}
}

// TestAdmitBehindProxies: the client of a PROXY header is judged at once, the one that only
// requests tell with each of them.
func TestAdmitBehindProxies(t *testing.T) {
	r := newRig(t, "http.proxy_protocol = \"require\"\nhttp.trusted = [\"127.0.0.0/8\", \"198.18.7.1/32\"]\n[listener.authz]\nallow = [\"*\"]\ndeny = [\"client:198.18.9.0/24\"]\n"+answering)
	addr := strings.TrimPrefix(r.url, "http://")
	from := func(a string) string { return "PROXY TCP4 " + a + " 198.18.7.2 1000 80\r\n" }
	if !refusedAtAccept(t, addr, from("198.18.9.1")) {
		t.Error("a client that is denied was let in")
	}
	if refusedAtAccept(t, addr, from("198.18.8.1")) {
		t.Error("a client that is not denied was refused")
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, from("198.18.7.1")+"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.18.9.4\r\nConnection: close\r\n\r\n")
	if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 403 ") {
		t.Errorf("%q, %v", b, err)
	}
}

// mtlsRig is a listener with TLS, and certificates for clients of it.
func mtlsRig(t *testing.T, versions, rules string) (s *server.Server, addr, udp string, client func(name string) *tls.Config) {
	dir := t.TempDir()
	made, err := secure.Generate(secure.Request{Names: []string{"a.test", "b.test"}, Valid: time.Hour, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"cert": made.Cert, "key": made.Key, "ca": made.CA} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := load(t, "tls = true\n"+versions+"[listener.authz]\n"+rules+"[[certificate]]\ncert_file = \""+dir+"/cert\"\nkey_file = \""+dir+"/key\"\n[tls]\nclient_auth = \"request\"\nclient_ca_file = \""+dir+"/ca\"\n"+answering)
	g := New(Options{Dial: dialNet})
	t.Cleanup(g.Close)
	(&rig{Gateway: g}).apply(t, c)
	store, err := secure.Load([]secure.Files{{Cert: dir + "/cert", Key: dir + "/key"}}, false, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	tc, err := (&secure.Server{Store: store, ClientAuth: secure.ClientAuthRequest, ClientCA: made.CA, Common: secure.Common{Now: time.Now}}).Config()
	if err != nil {
		t.Fatal(err)
	}
	if s, err = g.Server(c, &c.Listeners[0], tc); err != nil {
		t.Fatal(err)
	}
	addr, _ = servertest.Start(t, s, 0)
	if strings.Contains(versions, "3") {
		p, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.ServePacket(ctx, p) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			_ = p.Close()
		})
		udp = p.LocalAddr().String()
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(made.CA)
	return s, addr, udp, func(name string) *tls.Config {
		out := &tls.Config{RootCAs: roots, ServerName: "a.test"}
		if name != "" {
			g, err := secure.Generate(secure.Request{Names: []string{name}, Client: true, Valid: time.Hour, Now: time.Now(), CA: made.CA, CAKey: made.CAKey})
			if err != nil {
				t.Fatal(err)
			}
			pair, err := tls.X509KeyPair(g.Cert, g.Key)
			if err != nil {
				t.Fatal(err)
			}
			out.Certificates = []tls.Certificate{pair}
		}
		return out
	}
}

// shakes shakes hands and reads: TLS 1.3 tells a client of its certificate's refusal by then.
func shakes(addr string, cfg *tls.Config) error {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	_, err = io.ReadAll(c)
	return err
}

// TestAdmitTLS: names, protocols and certificates are judged in the handshake, resumed
// sessions like others.
func TestAdmitTLS(t *testing.T) {
	s, addr, _, client := mtlsRig(t, "http.check_host = false\n", "allow = [\"cert:worker.test sni:a.test\", \"sni:b.test alpn:h2\"]\n")
	with := func(c *tls.Config, sni string, protocols ...string) *tls.Config {
		c.ServerName, c.NextProtos = sni, protocols
		return c
	}
	for name, one := range map[string]struct {
		cfg   *tls.Config
		alert string // "": let in
	}{
		"certificate":              {client("worker.test"), ""},
		"another certificate":      {client("other.test"), "bad certificate"},
		"none":                     {client(""), "bad certificate"},
		"a name without a rule":    {with(client("worker.test"), "c.test"), "internal error"},
		"protocol":                 {with(client(""), "b.test", "h2"), ""},
		"another protocol":         {with(client(""), "b.test", "http/1.1"), "bad certificate"},
		"TLS 1.2":                  {&tls.Config{RootCAs: client("").RootCAs, ServerName: "a.test", MaxVersion: tls.VersionTLS12}, "bad certificate"},
		"TLS 1.2, its certificate": {&tls.Config{RootCAs: client("").RootCAs, ServerName: "a.test", MaxVersion: tls.VersionTLS12, Certificates: client("worker.test").Certificates}, ""},
	} {
		before := s.Stats().Conns[server.RefusedAuthz]
		err := shakes(addr, one.cfg)
		if one.alert == "" && err != nil || one.alert != "" && (err == nil || !strings.Contains(err.Error(), one.alert)) {
			t.Errorf("%s: %v", name, err)
		}
		if one.alert == "" {
			continue
		}
		for deadline := time.Now().Add(10 * time.Second); s.Stats().Conns[server.RefusedAuthz] != before+1; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s is not counted: %v", name, s.Stats().Conns)
			}
		}
	}
	resumes := client("worker.test")
	resumes.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for range 2 {
		if err := shakes(addr, resumes); err != nil {
			t.Error(err)
		}
	}
}

// TestAdmitHTTP3: the same over QUIC.
func TestAdmitHTTP3(t *testing.T) {
	ask := func(udp string, cfg *tls.Config) error {
		tr := &http3.Transport{TLSClientConfig: cfg}
		defer tr.Close()
		c := &http.Client{Transport: tr, Timeout: 10 * time.Second}
		q, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+udp+"/", nil)
		if err != nil {
			return err
		}
		q.Host = "a.test"
		res, err := c.Do(q)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, res.Body)
		return errors.Join(err, res.Body.Close())
	}
	s, _, udp, client := mtlsRig(t, "http.versions = [\"3\"]\n", "allow = [\"cert:worker.test sni:a.test alpn:h3\"]\n")
	if err := ask(udp, client("worker.test")); err != nil {
		t.Error(err)
	}
	other := client("worker.test")
	other.ServerName = "b.test"
	for i, cfg := range []*tls.Config{client("other.test"), other} {
		if err := ask(udp, cfg); err == nil {
			t.Errorf("%d was let in", i)
		}
	}
	if n := s.Stats().Conns[server.RefusedAuthz]; n < 2 {
		t.Errorf("%d are counted", n)
	}
	s, _, udp, client = mtlsRig(t, "http.versions = [\"3\"]\n", "allow = [\"client:10.0.0.0/8\"]\n")
	if err := ask(udp, client("worker.test")); err == nil {
		t.Error("an address that no rule allows was let in")
	}
	if n := s.Stats().Conns[server.RefusedAuthz]; n == 0 {
		t.Errorf("%d are counted", n)
	}
}

// TestAdmitPassing: connections that are passed on unopened are judged before anybody is
// dialed, by all that will ever be known of them.
func TestAdmitPassing(t *testing.T) {
	cert, _ := selfSigned(t, "here.test")
	dialed := make(chan struct{}, 16)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			dialed <- struct{}{}
			_ = c.Close()
		}
	}()
	text := func(rules string) string {
		return "[listener.authz]\n" + rules + fmt.Sprintf("[[upstream]]\nname = \"there\"\nendpoints = [%q]\nprotocol = \"tcp\"\n[[route]]\nname = \"raw\"\npassthrough = true\nsni = [\"*.there.test\"]\nupstream = \"there\"\n", l.Addr())
	}
	_, addr, _ := secureRig(t, cert, "", text("allow = [\"sni:a.there.test alpn:h2\"]\n"))
	for _, one := range []struct {
		sni  string
		alpn []string
		want bool
	}{{"a.there.test", []string{"http/1.1", "h2"}, true}, {"a.there.test", []string{"http/1.1"}, false}, {"b.there.test", []string{"h2"}, false}} {
		err := shakes(addr, &tls.Config{InsecureSkipVerify: true, ServerName: one.sni, NextProtos: slices.Clone(one.alpn)}) // whose end is always an error
		if one.want {
			select {
			case <-dialed:
			case <-time.After(10 * time.Second):
				t.Fatalf("%s %v did not get there: %v", one.sni, one.alpn, err)
			}
		}
	}
	if len(dialed) != 0 {
		t.Error("one that is not let in got there")
	}
}
