package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// packets serves HTTP/3 of a rig too, and returns its address.
func (r *rig) packets() string {
	r.t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { p.Close() })
	r.serve(func(ctx context.Context) error { return r.s.ServePacket(ctx, p) })
	return p.LocalAddr().String()
}

func client3(t *testing.T, pool *x509.CertPool) *http.Client {
	tr := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "one.test"}, QUICConfig: &quic.Config{HandshakeIdleTimeout: time.Minute}}
	t.Cleanup(func() { tr.Close() })
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// TestLimits3: the limits of HTTP/3, each attacked, with another client served after it.
func TestLimits3(t *testing.T) {
	cert, pool := certificate(t, "one.test")
	h, ended := endless(t)
	echo := &rig{t: t}
	handler := echo.handler()
	r := newRig(t, Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}},
		Limits: Limits{BodyStall: time.Second, SendStall: time.Second, HeadBytes: 4 << 10, Fields: 20, URIBytes: 500, ClientConns: 6},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/endless" {
				h.ServeHTTP(w, r)
				return
			}
			handler.ServeHTTP(w, r)
		})})
	url := "https://" + r.packets()
	status := func(path string, edit func(*http.Request)) int {
		q, err := http.NewRequest("GET", url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if edit != nil {
			edit(q)
		}
		c := client3(t, pool)
		resp, err := c.Do(q)
		if err != nil {
			return 0
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		_ = c.Transport.(*http3.Transport).Close()
		return resp.StatusCode
	}
	well := func() {
		t.Helper()
		if got := status("/well", nil); got != 200 {
			t.Errorf("another client: %d", got)
		}
	}
	if got := status("/"+strings.Repeat("a", 600), nil); got != 414 {
		t.Errorf("target: %d", got)
	}
	if got := status("/", func(q *http.Request) {
		for range 30 {
			q.Header.Add("X-Many", "y")
		}
	}); got != 431 {
		t.Errorf("fields: %d", got)
	}
	if got := status("/", func(q *http.Request) { q.Header.Set("X-Long", strings.Repeat("b", 100_000)) }); got == 200 {
		t.Errorf("a head of 100 kB: %d", got)
	}
	well()

	slow, feed := io.Pipe()
	go func() { _, _ = feed.Write([]byte("x")) }() // and no more
	q, _ := http.NewRequest("POST", url+"/slow", slow)
	if resp, err := client3(t, pool).Do(q); err == nil {
		resp.Body.Close()
	}
	_ = slow.Close()
	until(t, "the slow body's end", func() bool { return r.s.Stats().Conns[CutBody] == 1 })
	got := echo.requests()
	var be *BodyError
	if last := got[len(got)-1]; last.target != "/slow" || !errors.As(last.err, &be) || be.Reason() != exchange.RequestTimeout {
		t.Errorf("%+v", last)
	}
	well()

	resp, err := client3(t, pool).Get(url + "/endless") // and reads nothing
	if err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("all of it was sent to somebody who reads nothing")
	}
	resp.Body.Close()
	if n := r.s.Stats().Conns[CutAnswer]; n != 1 {
		t.Errorf("%d cut", n)
	}
	well()

	var held []*http.Client
	for range 8 {
		c := client3(t, pool)
		if resp, err := c.Get(url + "/one"); err == nil {
			resp.Body.Close()
			held = append(held, c)
		}
	}
	if n := r.s.Stats().Conns[RefusedClient]; n == 0 || len(held) > 6 {
		t.Errorf("%d clients held, %d refused", len(held), n)
	}
	for _, c := range held {
		_ = c.Transport.(*http3.Transport).Close()
	}
	until(t, "room", func() bool { return r.s.Stats().Open < 6 })
	well()
}

// TestMigration: a connection of HTTP/3 goes on from another address of its client's.
func TestMigration(t *testing.T) {
	cert, pool := certificate(t, "one.test")
	from := make(chan string, 1)
	r := newRig(t, Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		from <- From(r.Context()).quic.Load().RemoteAddr().String()
	})})
	addr, err := net.ResolveUDPAddr("udp", r.packets())
	if err != nil {
		t.Fatal(err)
	}
	var transports [2]*quic.Transport
	for i := range transports {
		p, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		transports[i] = &quic.Transport{Conn: p}
		defer transports[i].Close()
	}
	conn, err := transports[0].Dial(t.Context(), addr, &tls.Config{RootCAs: pool, ServerName: "one.test", NextProtos: []string{"h3"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(0, "")
	h := (&http3.Transport{}).NewClientConn(conn)
	asked := uint64(0)
	ask := func() string {
		t.Helper()
		asked++
		q, _ := http.NewRequestWithContext(t.Context(), "GET", "https://one.test/a", nil)
		resp, err := h.RoundTrip(q)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return <-from
	}
	if got := ask(); got != transports[0].Conn.LocalAddr().String() {
		t.Errorf("the first request came from %s", got)
	}
	path, err := conn.AddPath(transports[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := path.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := path.Switch(); err != nil {
		t.Fatal(err)
	}
	// A request may be handled before the server has taken the new address for the client's.
	until(t, "a request from the other address", func() bool { return ask() == transports[1].Conn.LocalAddr().String() })
	if st := r.s.Stats(); st.Accepted != 1 || st.Open != 1 || st.Requests[HTTP3] != asked {
		t.Errorf("%+v", st)
	}
}

// TestGTLSClient is Debian's client of ngtcp2's.
func TestGTLSClient(t *testing.T) {
	program, err := exec.LookPath("gtlsclient")
	if err != nil {
		if os.Getenv("NP_PEERS") != "" {
			t.Fatalf("NP_PEERS is set: %v", err)
		}
		t.Skipf("%v; apt-get install ngtcp2-client", err)
	}
	cert, _ := certificate(t, "one.test")
	r := newRig(t, Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
	host, port, _ := net.SplitHostPort(r.packets())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "-q", "--exit-on-all-streams-close", "-n", "20", "--sni=one.test", host, port, "https://one.test/ng").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := r.requests(); len(got) != 20 || got[0].target != "/ng" || got[0].proto != "HTTP/3.0" {
		t.Errorf("%d: %+v\n%s", len(got), got, out)
	}
}
