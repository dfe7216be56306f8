package forward

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	_ "github.com/np-appliance/np/ctrl/gateway/server/xconnect" // extended CONNECT in net/http
	"golang.org/x/net/http2"
)

// webSockets echoes messages until its client ends.
func webSockets(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		up := websocket.Upgrader{Subprotocols: []string{"chat"}, CheckOrigin: func(*http.Request) bool { return true }}
		c, err := up.Upgrade(w, r, http.Header{"X-Extra": {"1"}})
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, b, err := c.ReadMessage()
			if err != nil {
				return
			}
			if err := c.WriteMessage(kind, b); err != nil {
				t.Error(err)
				return
			}
		}
	}
}

func TestWebSocket(t *testing.T) {
	for _, kind := range []string{"http1", "http1 over TLS", "auto to http1", "unix"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			addr, change := backendOf(t, kind, webSockets(t))
			c := cluster(t, change, addr)
			seen := make(chan *exchange.Exchange, 1)
			s := httptest.NewServer(enter(t, handler(t, Options{Targets: []Target{{Cluster: c}}, Upgrades: []string{"WebSocket"}}), seen))
			defer s.Close()
			ws, resp, err := (&websocket.Dialer{Subprotocols: []string{"chat"}}).Dial("ws"+strings.TrimPrefix(s.URL, "http")+"/x", nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.Header.Get("X-Extra") != "1" || ws.Subprotocol() != "chat" {
				t.Errorf("%v", resp.Header)
			}
			for _, n := range []int{1, 100, 100_000} {
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
			ws.Close()
			if x := <-seen; x.Status != 101 || x.Reason != exchange.None {
				t.Errorf("%d, %s, %v", x.Status, x.Reason, x.Notes())
			}
		})
	}
}

// TestUpgradeNotAllowed: an upgrade that the route doesn't allow is not passed on.
func TestUpgradeNotAllowed(t *testing.T) {
	var got http.Header
	b := backend(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Clone() })
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, b)}}, Upgrades: []string{"websocket"}}))
	resp, _ := fetch(t, request(t, "GET", s.URL, nil, "Connection", "Upgrade, HTTP2-Settings", "Upgrade", "h2c", "Http2-Settings", "AAMAAABkAAQAAP__"))
	if resp.StatusCode != 200 || got.Get("Upgrade") != "" || got.Get("Connection") != "" || got.Get("Http2-Settings") != "" {
		t.Errorf("%d, %v", resp.StatusCode, got)
	}
}

// TestHalfClosedClient: one that is taken for gone gets no answer at all rather than one
// that looks well.
func TestHalfClosedClient(t *testing.T) {
	arrived := make(chan struct{})
	b := backend(t, func(_ http.ResponseWriter, r *http.Request) { close(arrived); <-r.Context().Done() })
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, b)}}}))
	nc, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-arrived
	_ = nc.(*net.TCPConn).CloseWrite()
	if b, _ := io.ReadAll(nc); len(b) != 0 {
		t.Errorf("%q", b)
	}
}

// TestBadUpgrades: answers to an upgrade that are none.
func TestBadUpgrades(t *testing.T) {
	for answer, want := range map[string]int{
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n": 502,
		"HTTP/1.1 101 Switching Protocols\r\n\r\n":                                          502,
		"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno":                           400,
	} {
		addr, _ := raw(t, func(nc net.Conn, _ int32) { head(nc); io.WriteString(nc, answer) })
		s := front(t, handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, addr)}}, Upgrades: []string{"websocket"}}))
		if resp, _ := fetch(t, request(t, "GET", s.URL, nil, "Connection", "Upgrade", "Upgrade", "websocket")); resp.StatusCode != want {
			t.Errorf("%q: %d", answer, resp.StatusCode)
		}
	}
}

// TestUpgradeHalfClosed: bytes that follow the head at once, and the ends of both
// directions, go through.
func TestUpgradeHalfClosed(t *testing.T) {
	addr, _ := raw(t, func(nc net.Conn, _ int32) {
		r := bufio.NewReader(nc)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly ")
		b, _ := io.ReadAll(r)
		fmt.Fprintf(nc, "got %s", b)
	})
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, addr)}}, Upgrades: []string{"websocket"}}))
	nc, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nat once")
	r := bufio.NewReader(nc)
	for line := ""; line != "\r\n"; {
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	_ = nc.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(r); string(b) != "early got at once" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// h2Front is a gateway that is spoken to by h2c.
func h2Front(t *testing.T, h http.Handler) (*httptest.Server, http.RoundTripper) {
	s := httptest.NewUnstartedServer(enter(t, h, nil))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	//lint:ignore SA1019 net/http's transport refuses the field :protocol of an extended CONNECT
	tr := &http2.Transport{}
	tr.AllowHTTP = true //lint:ignore SA1019 as above
	//lint:ignore SA1019 as above
	tr.DialTLSContext = func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		return dial(ctx, network, addr)
	}
	t.Cleanup(func() {
		tr.CloseIdleConnections() //lint:ignore SA1019 as above
	})
	return s, tr
}

// conn makes a net.Conn of an extended CONNECT, for a WebSocket client.
type conn struct {
	net.Conn // nil: nothing else is used
	r        io.ReadCloser
	w        *io.PipeWriter
}

func (c *conn) Read(p []byte) (int, error)       { return c.r.Read(p) }
func (c *conn) Write(p []byte) (int, error)      { return c.w.Write(p) }
func (c *conn) Close() error                     { c.w.Close(); return c.r.Close() }
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// TestExtendedConnect: WebSocket over HTTP/2 in (RFC 8441), over HTTP/1.1 out.
func TestExtendedConnect(t *testing.T) {
	cl := cluster(t, nil, backend(t, webSockets(t)))
	s, tr := h2Front(t, handler(t, Options{Targets: []Target{{Cluster: cl}}, Upgrades: []string{"websocket"}}))
	pr, pw := io.Pipe()
	r := request(t, "CONNECT", s.URL+"/chat", pr, "Sec-Websocket-Version", "13", "Sec-Websocket-Protocol", "chat")
	r.Header[":protocol"] = []string{"websocket"}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Sec-Websocket-Protocol") != "chat" || resp.Header.Get("Sec-Websocket-Accept") != "" || resp.Header.Get("X-Extra") != "1" {
		t.Errorf("%v", resp)
	}
	nc := &conn{r: resp.Body, w: pw}
	msg := []byte{0x82, 0x85, 1, 2, 3, 4, 'h' ^ 1, 'e' ^ 2, 'l' ^ 3, 'l' ^ 4, 'o' ^ 1} // a masked binary frame (RFC 6455 §5.2)
	for range 3 {
		if _, err := nc.Write(msg); err != nil {
			t.Fatal(err)
		}
		var got [7]byte
		if _, err := io.ReadFull(nc, got[:]); err != nil || string(got[:]) != "\x82\x05hello" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	nc.Close()
	for deadline := time.Now().Add(time.Minute); cl.Upstream().Snapshot().InFlight != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the request goes on after its client's end")
		}
	}
}

func TestConnectRefused(t *testing.T) {
	c := cluster(t, nil, backend(t, echoTo))
	s, tr := h2Front(t, handler(t, Options{Targets: []Target{{Cluster: c}}, Upgrades: []string{"websocket"}}))
	for protocol, want := range map[string]int{"": 405, "connect-udp": 501} {
		r := request(t, "CONNECT", s.URL, http.NoBody)
		if protocol != "" {
			r.Header[":protocol"] = []string{protocol}
		}
		resp, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%q: %d", protocol, resp.StatusCode)
		}
	}
	w := httptest.NewRecorder()
	handler(t, Options{Targets: []Target{{Cluster: c}}}).ServeHTTP(w, httptest.NewRequest("CONNECT", "example.com:443", nil))
	if w.Code != 405 {
		t.Error(w.Code)
	}
}

// TestGRPCStreams: messages both ways, one after the other, over each HTTP/2 and 3, with
// the status in the trailer.
func TestGRPCStreams(t *testing.T) {
	for _, kind := range []string{"h2c", "h2", "auto to h2", "h3"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			addr, change := backendOf(t, kind, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/grpc")
				w.Header().Set("Trailer", "Grpc-Status")
				http.NewResponseController(w).Flush()
				buf := make([]byte, 10)
				for {
					n, err := r.Body.Read(buf)
					if n > 0 {
						w.Write([]byte(strings.ToUpper(string(buf[:n]))))
						http.NewResponseController(w).Flush()
					}
					if err != nil {
						break
					}
				}
				w.Header().Set("Grpc-Status", "7")
			})
			c := cluster(t, change, addr)
			s, tr := h2Front(t, handler(t, Options{Targets: []Target{{Cluster: c}}}))
			pr, pw := io.Pipe()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			resp, err := tr.RoundTrip(request(t, "POST", s.URL+"/s.S/M", pr, "Content-Type", "application/grpc", "Te", "trailers").WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			for range 3 {
				io.WriteString(pw, "abc")
				var got [3]byte
				if _, err := io.ReadFull(resp.Body, got[:]); err != nil || string(got[:]) != "ABC" {
					t.Fatalf("%q, %v", got, err)
				}
			}
			pw.Close()
			if b, err := io.ReadAll(resp.Body); len(b) != 0 || err != nil || resp.Trailer.Get("Grpc-Status") != "7" {
				t.Errorf("%q, %v, %v", b, err, resp.Trailer)
			}
		})
	}
}
