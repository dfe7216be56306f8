//go:build cgo

package main

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/secure"
)

// issue writes a server's certificate and returns its [[certificate]] and who trusts it.
func issue(t *testing.T, dir, name string) (text string, roots *x509.CertPool) {
	t.Helper()
	g, err := secure.Generate(secure.Request{Names: []string{name}, Valid: 24 * time.Hour, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Save(dir, true); err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(g.CA)
	return fmt.Sprintf("[[certificate]]\ncert_file = %q\nkey_file = %q\n", filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")), roots
}

func tlsEcho(network, address string, cfg *tls.Config) error {
	raw, err := net.Dial(network, address)
	if err != nil {
		return err
	}
	c := tls.Client(raw, cfg)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	want := make([]byte, 300_000)
	_, _ = rand.Read(want)
	if err := c.Handshake(); err != nil {
		return err
	}
	go func() {
		_, _ = c.Write(want)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%d bytes came back of %d", len(got), len(want))
	}
	return nil
}

// TestServeTLS has npd serve TLS on kernel TCP and Unix sockets of each backend, and take a new
// certificate while a connection stays.
func TestServeTLS(t *testing.T) {
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			dir := t.TempDir()
			at, discard, path := freePort(t), freePort(t), filepath.Join(dir, "echo.sock")
			cert, roots := issue(t, dir, "a.example")
			s := serve(t, cert+"[tls]\nhandshake_timeout = \"300ms\"\n"+
				listenerText("echo", at, "echo", backend)+"tls = true\n"+listenerText("discard", discard, "discard", backend)+"tls = true\n"+
				listenerText("path", "unix:"+path, "echo", backend)+"tls = true\n")
			cfg := &tls.Config{RootCAs: roots, ServerName: "a.example"}
			for network, address := range map[string]string{"tcp": at, "unix": path} {
				if err := tlsEcho(network, address, cfg); err != nil {
					t.Errorf("%s: %v", network, err)
				}
			}
			kept, err := tls.Dial("tcp", at, cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer kept.Close()
			_, fresh := issue(t, dir, "b.example")
			var out api.Certificates
			if err := s.mgmt.Post(t.Context(), api.PathCertsReload, nil, &out); err != nil {
				t.Fatal(err)
			}
			if err := tlsEcho("tcp", at, &tls.Config{RootCAs: fresh, ServerName: "b.example"}); err != nil {
				t.Errorf("the new certificate: %v", err)
			}
			if err := tlsEcho("tcp", at, cfg); err == nil {
				t.Error("the old certificate is still shown")
			}
			_ = kept.SetDeadline(time.Now().Add(time.Minute))
			if _, err := kept.Write([]byte("x")); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(kept, make([]byte, 1)); err != nil {
				t.Errorf("a connection from before the reload: %v", err)
			}
			// who speaks no TLS, or nothing, is let go
			if _, err := plain("tcp", at, []byte("GET / HTTP/1.0\r\n\r\n"), 100); err == nil {
				t.Error("plain text was answered for long")
			}
			idle, err := net.Dial("tcp", discard)
			if err != nil {
				t.Fatal(err)
			}
			defer idle.Close()
			_ = idle.SetDeadline(time.Now().Add(time.Minute))
			if _, err := idle.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
				t.Errorf("a client that says nothing: %v", err)
			}
			var ls api.Listeners
			var text bytes.Buffer
			metrics := []string{`np_tls_handshakes_failed_total{listener="echo"} 2`, `np_tls_connections_failed_total{listener="echo"} 2`,
				`np_tls_connections{listener="echo"} 1`, `np_tls_connections_accepted_total{listener="path"} 1`}
			missing := func() string {
				text.Reset()
				if _, err := s.mgmt.Stream(t.Context(), api.PathMetrics, nil, &text); err != nil {
					t.Fatal(err)
				}
				for _, m := range metrics {
					if !strings.Contains(text.String(), m+"\n") {
						return m
					}
				}
				return ""
			}
			for deadline := time.Now().Add(time.Minute); missing() != ""; time.Sleep(5 * time.Millisecond) { // what ended is counted soon after
				if time.Now().After(deadline) {
					t.Fatalf("metrics have no %s\n%s", missing(), regexp.MustCompile("(?m)^np_tls.*$").FindAllString(text.String(), -1))
				}
			}
			if err := s.mgmt.Get(t.Context(), api.PathListeners, nil, &ls); err != nil {
				t.Fatal(err)
			}
			for _, l := range ls.Listeners {
				if !l.TLS || l.Backend != backend || l.Service == nil {
					t.Fatalf("listener %+v", l)
				}
				// echo: two echoes, an old certificate that the client refused, one kept, one in plain text
				if s := l.Service; l.Name == "echo" && (l.Accepted != 5 || l.Connections != 1 || s.Failed != 2 || s.FailedHandshakes != 2 || s.Refused != 0) ||
					l.Name == "discard" && (l.Accepted != 1 || s.FailedHandshakes != 1) {
					t.Errorf("listener %+v: %+v", l, s)
				}
			}
		})
	}
}
