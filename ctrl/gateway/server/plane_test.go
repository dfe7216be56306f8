package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/np-appliance/np/dataplane/events"
	"github.com/np-appliance/np/dataplane/fake"
	"github.com/np-appliance/np/dataplane/netconn"
)

// TestPlane: all protocols run over connections and datagrams of a plane, which have no
// descriptor to ask for.
func TestPlane(t *testing.T) {
	plane := fake.New(fake.Options{Cores: 2, PieceBytes: 1000})
	reader := events.New(plane)
	tr, err := netconn.New(plane, reader, netconn.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- reader.Run(ctx) }()
	t.Cleanup(func() {
		_ = tr.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := plane.Unreleased(); n != 0 {
			t.Errorf("%d bodies not released", n)
		}
		_ = plane.Close()
	})
	cert, pool := certificate(t, "one.test")
	body := strings.Repeat("0123456789", 10_000)
	for _, secure := range []bool{false, true} {
		c := Config{}
		scheme := "http"
		if secure {
			c.TLS, scheme = &tls.Config{Certificates: []tls.Certificate{cert}}, "https"
		}
		r := &rig{t: t}
		c.Handler = r.handler()
		if r.s, err = New(c); err != nil {
			t.Fatal(err)
		}
		l, err := tr.Listen(ctx, "tcp", "198.18.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		r.serve(func(ctx context.Context) error { return r.s.Serve(ctx, l) })
		for _, protocol := range []string{HTTP1, HTTP2} {
			cl := client(t, pool, protocol)
			cl.Transport.(*http.Transport).DialContext = tr.Dial
			for range 3 {
				if resp, text := get(t, cl, "POST", fmt.Sprintf("%s://%s/plane", scheme, l.Addr()), strings.NewReader(body)); resp.StatusCode != 200 || text != "/plane 100000" {
					t.Errorf("%s %s: %s %q", scheme, protocol, resp.Status, text)
				}
			}
			cl.CloseIdleConnections()
		}
		if !secure {
			continue
		}
		p, err := tr.ListenPacket(ctx, "udp", "198.18.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		r.serve(func(ctx context.Context) error { return r.s.ServePacket(ctx, p) })
		from, err := tr.ListenPacket(ctx, "udp", "198.18.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { from.Close() })
		q := &quic.Transport{Conn: from}
		t.Cleanup(func() { q.Close() })
		h3 := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "one.test"}, Dial: func(ctx context.Context, addr string, t *tls.Config, c *quic.Config) (*quic.Conn, error) {
			a, err := net.ResolveUDPAddr("udp", addr)
			if err != nil {
				return nil, err
			}
			return q.DialEarly(ctx, a, t, c)
		}}
		t.Cleanup(func() { h3.Close() })
		if resp, text := get(t, &http.Client{Transport: h3, Timeout: time.Minute}, "POST", "https://"+p.LocalAddr().String()+"/plane", strings.NewReader(body)); resp.StatusCode != 200 || text != "/plane 100000" {
			t.Errorf("HTTP/3: %s %q", resp.Status, text)
		}
	}
}
