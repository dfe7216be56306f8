package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/np-appliance/np/ctrl/gateway/pipes"
)

// seen is a request as the handler had it.
type seen struct {
	method, target, host, proto, body, client string
	err                                       error
}

// rig is a server on loopback with a handler that writes down what it gets.
type rig struct {
	t    *testing.T
	s    *Server
	addr string
	mu   sync.Mutex
	got  []seen

	pipes *pipes.Listener // nil: connections are the kernel's
}

func (r *rig) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b, err := io.ReadAll(q.Body)
		r.mu.Lock()
		r.got = append(r.got, seen{q.Method, q.RequestURI, q.Host, q.Proto, string(b), Client(q).String(), err})
		r.mu.Unlock()
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%s %d", q.URL.Path, len(b))
	})
}

func (r *rig) requests() []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]seen(nil), r.got...)
}

func newRig(t *testing.T, c Config) *rig {
	t.Helper()
	r := &rig{t: t}
	if c.Handler == nil {
		c.Handler = r.handler()
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	r.s = s
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	r.serve(func(ctx context.Context) error { return s.Serve(ctx, l) })
	return r
}

// serve runs until the test ends and then wants nothing left.
func (r *rig) serve(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
		if st := r.s.Stats(); st.Open != 0 || st.Running != 0 {
			r.t.Errorf("after the end: %+v", st)
		}
	})
}

func (r *rig) dial() net.Conn {
	r.t.Helper()
	dial := (&net.Dialer{}).DialContext
	if r.pipes != nil {
		dial = r.pipes.Dial
	}
	c, err := dial(context.Background(), "tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

// exchange sends bytes and returns the statuses of the answers until the connection ends.
func (r *rig) exchange(c net.Conn, send string) []int {
	r.t.Helper()
	go func() { _, _ = io.WriteString(c, send) }()
	br := bufio.NewReader(c)
	var statuses []int
	for {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return statuses
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		statuses = append(statuses, resp.StatusCode)
		if resp.Close {
			return statuses
		}
	}
}

// certificate makes one for names, signed by itself.
func certificate(t testing.TB, names ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

func get(t *testing.T, c *http.Client, method, url string, body io.Reader) (*http.Response, string) {
	t.Helper()
	q, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func client(t *testing.T, pool *x509.CertPool, protocols ...string) *http.Client {
	var p http.Protocols
	for _, name := range protocols {
		switch name {
		case HTTP1:
			p.SetHTTP1(true)
		case HTTP2:
			p.SetHTTP2(true)
			p.SetUnencryptedHTTP2(true)
		}
	}
	tr := &http.Transport{Protocols: &p, TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "one.test"}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func TestProtocols(t *testing.T) {
	cert, pool := certificate(t, "one.test")
	body := strings.Repeat("0123456789", 20_000)
	for _, one := range []struct{ protocol, scheme, proto string }{
		{HTTP1, "http", "HTTP/1.1"}, {HTTP1, "https", "HTTP/1.1"}, {HTTP2, "http", "HTTP/2.0"}, {HTTP2, "https", "HTTP/2.0"},
	} {
		t.Run(one.scheme+" "+one.proto, func(t *testing.T) {
			c := Config{Name: "l", AltSvc: 443}
			if one.scheme == "https" {
				c.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
			}
			r := newRig(t, c)
			cl := client(t, pool, one.protocol)
			for i := range 3 {
				resp, text := get(t, cl, "POST", fmt.Sprintf("%s://%s/p%d", one.scheme, r.addr, i), io.MultiReader(strings.NewReader(body)))
				if resp.StatusCode != 200 || text != fmt.Sprintf("/p%d 200000", i) || resp.Proto != one.proto || resp.Header.Get("Alt-Svc") != `h3=":443"; ma=86400` {
					t.Fatalf("%s %s %q %v", resp.Proto, resp.Status, text, resp.Header)
				}
			}
			st := r.s.Stats()
			if st.Accepted != 1 || st.Open != 1 || st.Requests[one.protocol] != 3 {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestHTTP3(t *testing.T) {
	cert, pool := certificate(t, "one.test")
	r := newRig(t, Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, AltSvc: 443})
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	r.serve(func(ctx context.Context) error { return r.s.ServePacket(ctx, p) })
	tr := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "one.test"}}
	defer tr.Close()
	resp, text := get(t, &http.Client{Transport: tr, Timeout: time.Minute}, "POST", "https://"+p.LocalAddr().String()+"/three", bytes.NewReader(make([]byte, 300_000)))
	if resp.StatusCode != 200 || text != "/three 300000" || resp.Header.Get("Alt-Svc") != "" {
		t.Errorf("%s %q %v", resp.Status, text, resp.Header)
	}
	if st := r.s.Stats(); st.Requests[HTTP3] != 1 || st.Open != 1 {
		t.Errorf("%+v", st)
	}
}
