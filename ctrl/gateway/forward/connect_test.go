package forward

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/quic-go/quic-go"
	"golang.org/x/net/http2"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/message/wstest"
	"github.com/np-appliance/np/ctrl/upstream"
)

var streamKinds = []string{"h2c", "h2", "auto to h2", "h3"}

// gate is a gateway of one route, with what its requests left.
func gate(t *testing.T, o Options) (*httptest.Server, <-chan *exchange.Exchange) {
	t.Helper()
	if o.Upgrades == nil {
		o.Upgrades = []string{"websocket"}
	}
	seen := make(chan *exchange.Exchange, 100)
	s := httptest.NewUnstartedServer(enter(t, handler(t, o), seen))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s, seen
}

// TestWebSocketOut: WebSockets towards HTTP/2 and 3 (RFC 8441, RFC 9220), with the fields
// of the handshake as each side has them.
func TestWebSocketOut(t *testing.T) {
	for _, kind := range streamKinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			addr, change := backendOf(t, kind, wstest.Echo().ServeHTTP)
			c := cluster(t, change, addr)
			s, seen := gate(t, Options{Targets: []Target{{Cluster: c}}})
			d := &websocket.Dialer{Subprotocols: []string{"chat"}, EnableCompression: true}
			ws, resp, err := d.Dial("ws"+strings.TrimPrefix(s.URL, "http")+"/x", nil)
			if err != nil {
				t.Fatal(err, resp)
			}
			// Gorilla has looked at the Sec-WebSocket-Accept. The endpoint saw no key.
			if x := resp.Header.Get("X-Extra"); strings.Contains(x, " ") || strings.HasSuffix(x, "/1.1") {
				t.Errorf("%q", x)
			}
			if ws.Subprotocol() != "chat" || !strings.Contains(resp.Header.Get("Sec-Websocket-Extensions"), "permessage-deflate") {
				t.Errorf("%v", resp.Header)
			}
			for _, n := range []int{1, 100, wstest.Max} {
				if err := ws.WriteMessage(websocket.BinaryMessage, make([]byte, n)); err != nil {
					t.Fatal(err)
				}
				if _, b, err := ws.ReadMessage(); err != nil || len(b) != n {
					t.Fatal(len(b), err)
				}
			}
			if n := c.Upstream().Snapshot().InFlight; n != 1 {
				t.Errorf("%d in flight", n)
			}
			if err := ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "bye")); err != nil {
				t.Fatal(err)
			}
			if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, 1000) {
				t.Error(err)
			}
			ws.Close()
			if x := <-seen; x.Status != 101 || x.Reason != exchange.None {
				t.Errorf("%d, %s, %v", x.Status, x.Reason, x.Notes())
			}
			p := c.Pools()[0]
			if p.Requests != 1 || p.InFlight != 0 || p.Conns != 1 {
				t.Errorf("%+v", p)
			}
		})
	}
}

// TestConnectRefusedByEndpoint: what an endpoint answers instead gets to the client.
func TestConnectRefusedByEndpoint(t *testing.T) {
	for _, kind := range streamKinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			addr, change := backendOf(t, kind, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Seen", r.Method+" "+r.RequestURI)
				w.WriteHeader(403)
				_, _ = io.WriteString(w, "not you")
			})
			c := cluster(t, change, addr)
			s, _ := gate(t, Options{Targets: []Target{{Cluster: c}}})
			resp, body := fetch(t, request(t, "GET", s.URL+"/a?b=c", nil, "Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="))
			if resp.StatusCode != 403 || body != "not you" || resp.Header.Get("Seen") != "CONNECT /a?b=c" {
				t.Errorf("%d %q %v", resp.StatusCode, body, resp.Header)
			}
			// The endpoint would never see that the key is none.
			resp, body = fetch(t, request(t, "GET", s.URL+"/", nil, "Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "c2hvcnQ="))
			if resp.StatusCode != 400 || !strings.Contains(body, "Sec-WebSocket-Key") {
				t.Errorf("%d %q", resp.StatusCode, body)
			}
		})
	}
}

// stream opens an upgrade to another protocol, by HTTP/1.1, and returns the connection.
func stream(t *testing.T, s *httptest.Server, protocol string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	nc, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(nc, "GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\nat once ")
	r := bufio.NewReader(nc)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != protocol || resp.Header.Get("Sec-Websocket-Accept") != "" {
		t.Fatal(resp, err)
	}
	return nc.(*net.TCPConn), r
}

// TestUpgradeEnds: another protocol than WebSocket, with the ends of both directions one
// after the other, and with streams that are reset by either side.
func TestUpgradeEnds(t *testing.T) {
	for _, kind := range streamKinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			got := make(chan error, 1)
			addr, change := backendOf(t, kind, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(200)
				rc := http.NewResponseController(w)
				_ = rc.Flush()
				first := make([]byte, len("at once x"))
				if _, err := io.ReadFull(r.Body, first); err != nil {
					got <- err
					return
				}
				if first[len(first)-1] == 'r' {
					panic(http.ErrAbortHandler)
				}
				rest, err := io.ReadAll(r.Body)
				got <- err
				_, _ = w.Write(append(append([]byte("got "), first...), rest...))
			})
			c := cluster(t, change, addr)
			s, seen := gate(t, Options{Targets: []Target{{Cluster: c}}, Upgrades: []string{"foo"}})
			nc, r := stream(t, s, "Foo")
			_, _ = io.WriteString(nc, "x and more")
			_ = nc.CloseWrite()
			if b, err := io.ReadAll(r); err != nil || string(b) != "got at once x and more" {
				t.Errorf("%q, %v", b, err)
			}
			if err := <-got; err != nil {
				t.Error(err)
			}
			if x := <-seen; x.Reason != exchange.None || len(x.Notes()) != 0 {
				t.Errorf("%s, %v", x.Reason, x.Notes())
			}

			nc, r = stream(t, s, "Foo")
			_, _ = io.WriteString(nc, "r") // the endpoint resets its stream
			if b, _ := io.ReadAll(r); len(b) != 0 {
				t.Errorf("%q", b)
			}
			if x := <-seen; len(x.Notes()) == 0 {
				t.Error("nothing was noted")
			}

			nc, _ = stream(t, s, "Foo")
			_, _ = io.WriteString(nc, "x")
			_ = nc.SetLinger(0)
			_ = nc.Close() // the client resets its connection
			if err := <-got; err == nil || errors.Is(err, io.EOF) {
				t.Errorf("the endpoint saw %v, expected a reset", err)
			}
			<-seen
		})
	}
}

// TestTunnelEnds: streams of clients end at once with the endpoint's, and are reset when
// those are, or when nothing goes on.
func TestTunnelEnds(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		nc, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer nc.Close()
		_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nhello")
		switch r.URL.Path {
		case "/end":
			_, _ = rw.ReadByte()
		case "/reset":
			_, _ = rw.ReadByte()
			_ = nc.(*net.TCPConn).SetLinger(0)
		case "/idle":
			_, _ = io.Copy(io.Discard, rw)
		}
	})
	c := cluster(t, nil, addr)
	for path, want := range map[string]exchange.Reason{"/end": exchange.None, "/reset": exchange.UpstreamReset, "/idle": exchange.UpstreamTimeout} {
		t.Run(path, func(t *testing.T) {
			o := Options{Targets: []Target{{Cluster: c}}, Upgrades: []string{"foo"}}
			if path == "/idle" {
				o.StreamIdle = 50 * time.Millisecond
			}
			h := handler(t, o)
			seen := make(chan *exchange.Exchange, 1)
			s, tr := h2Front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer func() { seen <- exchange.From(r.Context()) }()
				h.ServeHTTP(w, r)
			}))
			pr, pw := io.Pipe()
			r := request(t, "CONNECT", s.URL+path, pr)
			r.Header[":protocol"] = []string{"foo"}
			resp, err := tr.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var hello [5]byte
			if _, err := io.ReadFull(resp.Body, hello[:]); err != nil {
				t.Fatal(err)
			}
			if path != "/idle" {
				_, _ = pw.Write([]byte("x"))
			}
			_, err = io.ReadAll(resp.Body)
			if (err != nil) != (want != exchange.None) {
				t.Errorf("the client saw %v", err)
			}
			if x := <-seen; x.Reason != want {
				t.Errorf("%s, %v", x.Reason, x.Notes())
			}
		})
	}
}

// plainH2 is an endpoint of HTTP/2 that enables nothing: it sends empty settings, and
// fails the test if a stream is opened. With h it serves HTTP/1.1 to those who ask for that.
func plainH2(t *testing.T, h http.Handler) (addr string, client *tls.Config) {
	t.Helper()
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	cfg := &tls.Config{Certificates: cert.TLS.Certificates, NextProtos: []string{"h2"}}
	client = trust(cert)
	cert.Close()
	if h != nil {
		cfg.NextProtos = append(cfg.NextProtos, "http/1.1")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	plain := handed{l, make(chan net.Conn, 10)}
	s := &http.Server{Handler: h}
	var open sync.WaitGroup
	open.Go(func() { _ = s.Serve(plain) })
	var accepted sync.WaitGroup
	open.Go(func() {
		defer close(plain.conns)
		defer accepted.Wait()
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Go(func() {
				c := tls.Server(nc, cfg)
				switch {
				case c.Handshake() == nil && c.ConnectionState().NegotiatedProtocol == "h2":
					settle(t, c)
				case h != nil:
					plain.conns <- c
					return
				}
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); _ = s.Close(); open.Wait() })
	return l.Addr().String(), client
}

// handed is a listener of connections that others accepted.
type handed struct {
	net.Listener
	conns chan net.Conn
}

func (l handed) Accept() (net.Conn, error) {
	nc, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return nc, nil
}

// settle speaks HTTP/2 as far as settings and pings go.
func settle(t *testing.T, nc net.Conn) {
	if _, err := io.ReadFull(nc, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	f := http2.NewFramer(nc, nc)
	_ = f.WriteSettings()
	for {
		got, err := f.ReadFrame()
		if err != nil {
			return
		}
		switch got := got.(type) {
		case *http2.SettingsFrame:
			if !got.IsAck() {
				_ = f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !got.IsAck() {
				_ = f.WritePing(true, got.Data)
			}
		case *http2.HeadersFrame:
			t.Error("a stream was opened")
		}
	}
}

// plainH3 is an endpoint of HTTP/3 that enables nothing.
func plainH3(t *testing.T) (string, func(*upstream.Config, *Config)) {
	t.Helper()
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	pair, client := cert.TLS.Certificates[0], trust(cert)
	cert.Close()
	l, err := quic.ListenAddr("127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h3"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			q, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			control, err := q.OpenUniStream()
			if err == nil {
				_, _ = control.Write([]byte{0, 4, 0}) // a control stream with empty SETTINGS
			}
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String(), over3(client)
}

// TestEndpointTakesNoUpgrades: 502, with the reason in the log, and no word on the
// endpoint's health; where HTTP/1.1 may be spoken too, that is.
func TestEndpointTakesNoUpgrades(t *testing.T) {
	ask := func(t *testing.T, s *httptest.Server) (*http.Response, string) {
		return fetch(t, request(t, "GET", s.URL+"/", nil, "Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="))
	}
	h2, client2 := plainH2(t, nil)
	h3, change3 := plainH3(t)
	for name, one := range map[string]struct {
		addr   string
		change func(*upstream.Config, *Config)
	}{
		"h2":   {h2, func(_ *upstream.Config, cc *Config) { cc.Protocol, cc.TLS = H2, client2 }},
		"auto": {h2, func(_ *upstream.Config, cc *Config) { cc.Protocol, cc.TLS = Auto, client2 }},
		"h3":   {h3, change3},
	} {
		t.Run(name, func(t *testing.T) {
			c := cluster(t, func(u *upstream.Config, cc *Config) {
				one.change(u, cc)
				u.Outlier.ConsecutiveFailures = 1
			}, one.addr)
			s, seen := gate(t, Options{Targets: []Target{{Cluster: c}}})
			for range 3 {
				resp, body := ask(t, s)
				x := <-seen
				if resp.StatusCode != 502 || !strings.Contains(body, "takes no upgrades") || x.Reason != exchange.UpstreamProtocol {
					t.Errorf("%d %q, %s", resp.StatusCode, body, x.Reason)
				}
				if notes := x.Notes(); len(notes) == 0 || !strings.Contains(notes[0].Error(), "SETTINGS_ENABLE_CONNECT_PROTOCOL") {
					t.Errorf("%v", notes)
				}
			}
		})
	}
	t.Run("auto with HTTP/1.1", func(t *testing.T) {
		addr, client := plainH2(t, wstest.Echo())
		c := cluster(t, func(_ *upstream.Config, cc *Config) { cc.Protocol, cc.TLS = Auto, client }, addr)
		s, _ := gate(t, Options{Targets: []Target{{Cluster: c}}})
		for range 2 {
			ws, resp, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(s.URL, "http")+"/x", nil)
			if err != nil {
				t.Fatal(err)
			}
			if x := resp.Header.Get("X-Extra"); !strings.HasSuffix(x, "HTTP/1.1") {
				t.Error(x)
			}
			if err := ws.WriteMessage(websocket.TextMessage, []byte("a")); err != nil {
				t.Fatal(err)
			}
			if _, b, err := ws.ReadMessage(); err != nil || string(b) != "a" {
				t.Errorf("%q, %v", b, err)
			}
			ws.Close()
		}
	})
}

// TestManyUpgrades: more streams than one connection takes go over more connections, and
// those that come at once don't open one each.
func TestManyUpgrades(t *testing.T) {
	for _, kind := range []string{"h2c", "h3"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			addr, change := limited(t, kind, 4, wstest.Echo())
			c := cluster(t, change, addr)
			s, _ := gate(t, Options{Targets: []Target{{Cluster: c}}})
			const n = 12
			open := make(chan *websocket.Conn, n)
			for range n {
				go func() {
					ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(s.URL, "http")+"/x", nil)
					if err != nil {
						t.Error(err)
					}
					open <- ws
				}()
			}
			for range n {
				ws := <-open
				if ws == nil {
					continue
				}
				defer ws.Close()
				if err := ws.WriteMessage(websocket.TextMessage, []byte("a")); err != nil {
					t.Error(err)
				} else if _, b, err := ws.ReadMessage(); err != nil || string(b) != "a" {
					t.Errorf("%q, %v", b, err)
				}
			}
			if p := c.Pools()[0]; p.Conns < n/4 || p.Conns > 2*n/4 || p.InFlight != n {
				t.Errorf("%+v", p)
			}
		})
	}
}
