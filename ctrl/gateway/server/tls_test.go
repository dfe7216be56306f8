package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

func contextOf(r *http.Request, c *Conn) context.Context {
	return context.WithValue(r.Context(), connKey{}, c)
}

// TestNames: a connection may carry requests for what its certificate covers, also when
// its session was resumed and no certificate was shown.
func TestNames(t *testing.T) {
	one, pool := certificate(t, "one.test", "*.one.test")
	two, _ := certificate(t, "two.test")
	verdicts := make(chan [5]bool, 4)
	r := newRig(t, Config{
		TLS: &tls.Config{Certificates: []tls.Certificate{two, one}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c := From(r.Context())
			verdicts <- [5]bool{c.Names("one.test"), c.Names("ONE.test:443"), c.Names("sub.one.test:8443"), c.Names("two.test"), c.Names("")}
		}),
	})
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "one.test", ClientSessionCache: tls.NewLRUClientSessionCache(1)}}
	for _, resumed := range []bool{false, true} {
		resp, _ := get(t, &http.Client{Transport: tr}, "GET", "https://"+r.addr+"/", nil)
		if resp.TLS.DidResume != resumed {
			t.Errorf("resumed: %v", resp.TLS.DidResume)
		}
		if got := <-verdicts; got != [5]bool{true, true, true, false, true} {
			t.Errorf("%v", got)
		}
		tr.CloseIdleConnections()
	}
}

func TestHandshakes(t *testing.T) {
	cert, _ := certificate(t, "one.test")
	r := newRig(t, Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
	if got := r.exchange(r.dial(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); len(got) != 1 || got[0] != 400 {
		t.Errorf("HTTP on a port for HTTPS: %v", got)
	}
	if b := closed(t, func() net.Conn { c := r.dial(); _, _ = io.WriteString(c, "\x16\x03\x01garbage garbage"); return c }()); bytes.Contains(b, []byte("HTTP")) {
		t.Errorf("%q", b)
	}
	until(t, "the counts", func() bool {
		st := r.s.Stats()
		return st.Conns[RefusedHandshake] == 2 && st.Open == 0
	})
}

// TestPassthrough: connections go on unopened by what their ClientHello says, others are
// served here.
func TestPassthrough(t *testing.T) {
	here, pool := certificate(t, "one.test")
	behind, other := certificate(t, "two.test")
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{behind}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // what comes until the client's end, then a word
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, _ := io.ReadAll(c)
				fmt.Fprintf(c, "%d bytes", len(b))
			}()
		}
	}()
	hellos := make(chan Hello, 8)
	r := newRig(t, Config{
		TLS: &tls.Config{Certificates: []tls.Certificate{here}},
		Passthrough: func(h Hello) (func(context.Context) (net.Conn, error), bool) {
			hellos <- h
			switch h.ServerName {
			case "two.test":
				return func(ctx context.Context) (net.Conn, error) {
					var d net.Dialer
					return d.DialContext(ctx, "tcp", l.Addr().String())
				}, true
			case "gone.test":
				return func(context.Context) (net.Conn, error) { return nil, errors.New("nobody there") }, true
			}
			return nil, false
		},
	})
	for _, piece := range []int{1 << 20, 1, 50} { // fragments in which the ClientHello comes
		raw := r.dial()
		if piece < 1<<20 {
			raw = &pieces{raw, piece}
		}
		c := tls.Client(raw, &tls.Config{RootCAs: other, ServerName: "two.test", NextProtos: []string{"x"}})
		if _, err := c.Write(make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		_ = c.CloseWrite()
		if b, err := io.ReadAll(c); err != nil || string(b) != "100000 bytes" {
			t.Fatalf("%q, %v", b, err)
		}
		if h := <-hellos; h.ServerName != "two.test" || len(h.Protocols) != 1 || h.Conn.Client.String() != raw.LocalAddr().String() {
			t.Errorf("%+v", h)
		}
		raw.Close()
	}
	until(t, "the end", func() bool { st := r.s.Stats(); return st.Passed == 3 && st.Passing == 0 && st.Open == 0 })
	if st := r.s.Stats(); st.PassedIn < 300_000 || st.PassedOut < 36 {
		t.Errorf("%+v", st)
	}
	if resp, _ := get(t, client(t, pool, HTTP2), "GET", "https://"+r.addr+"/a", nil); resp.StatusCode != 200 {
		t.Errorf("%s", resp.Status)
	}
	<-hellos
	if err := tls.Client(r.dial(), &tls.Config{RootCAs: other, ServerName: "gone.test"}).Handshake(); err == nil {
		t.Error("a handshake with nobody")
	}
	if st := r.s.Stats(); st.Conns[RefusedPassthrough] != 1 {
		t.Errorf("%+v", st)
	}
}

// clientHello is what crypto/tls sends.
func clientHello(t testing.TB, c *tls.Config) []byte {
	var out bytes.Buffer
	err := tls.Client(&script{Conn: &sink{w: &out}, piece: 1}, c).Handshake()
	if out.Len() == 0 {
		t.Fatal(err)
	}
	return out.Bytes()
}

type sink struct {
	net.Conn
	w io.Writer
}

func (s *sink) Write(b []byte) (int, error)      { return s.w.Write(b) }
func (s *sink) SetDeadline(time.Time) error      { return nil }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }

// refragment cuts a record into records of n bytes (RFC 8446 §5.1).
func refragment(record []byte, n int) []byte {
	var out []byte
	for b := record[5:]; len(b) > 0; {
		m := min(n, len(b))
		out = append(out, record[0], record[1], record[2], byte(m>>8), byte(m))
		out = append(out, b[:m]...)
		b = b[m:]
	}
	return out
}

// FuzzHello: whatever comes for a ClientHello is either one, with a name as hosts have it,
// or an error, and all that was read can be read again.
func FuzzHello(f *testing.F) {
	for _, c := range []*tls.Config{
		{ServerName: "one.test"}, {ServerName: "two.test", NextProtos: []string{"h2", "http/1.1"}}, {InsecureSkipVerify: true},
		{ServerName: "one.test", MaxVersion: tls.VersionTLS12},
	} {
		b := clientHello(f, c)
		f.Add(b)
		f.Add(refragment(b, 1))
		f.Add(refragment(b, 100))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		in := &script{Conn: &sink{w: io.Discard}, b: bytes.Clone(sent), piece: 1000}
		h, b, err := peekHello(context.Background(), nil, in)
		if !bytes.Equal(append(bytes.Clone(b), in.b...), sent) || len(b) > maxHello {
			t.Fatalf("%d bytes read and %d left of %d", len(b), len(in.b), len(sent))
		}
		if err == nil && len(h.ServerName) > 255 {
			t.Fatalf("name %q", h.ServerName)
		}
	})
}

func TestPeekHello(t *testing.T) {
	hello := clientHello(t, &tls.Config{ServerName: "one.test", NextProtos: []string{"h2"}})
	for _, b := range [][]byte{hello, refragment(hello, 1), refragment(hello, 77)} {
		in := &script{Conn: &sink{w: io.Discard}, b: bytes.Clone(b), piece: 10}
		h, kept, err := peekHello(t.Context(), nil, in)
		if err != nil || h.ServerName != "one.test" || len(h.Protocols) != 1 || !bytes.Equal(append(kept, in.b...), b) {
			t.Errorf("%+v, %v", h, err)
		}
	}
	long := append([]byte{0x16, 3, 1, 0x40, 0}, make([]byte, 1<<14)...)
	long[5], long[6] = 1, 0x00 // a ClientHello of 65,535 bytes that never ends
	long[7], long[8] = 0xff, 0xff
	endless := bytes.Repeat(long, 10)
	in := &script{Conn: &sink{w: io.Discard}, b: endless, piece: 4000}
	if _, kept, err := peekHello(t.Context(), nil, in); err == nil || len(kept) > maxHello {
		t.Errorf("%d bytes kept, %v", len(kept), err)
	}
}

// TestShutdown: each protocol ends in good order. What is being answered is answered to
// its end; the connections are told and closed, new ones are not taken.
func TestShutdown(t *testing.T) {
	cert, pool := certificate(t, "one.test")
	started, release := make(chan string, 8), make(chan struct{})
	r := newRig(t, Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			started <- r.Proto
			<-release
		}
		_, _ = io.WriteString(w, "whole")
	})})
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	r.serve(func(ctx context.Context) error { return r.s.ServePacket(ctx, p) })
	until(t, "HTTP/3", func() bool { r.s.h3.mu.Lock(); defer r.s.h3.mu.Unlock(); return len(r.s.h3.ends) == 1 })
	h3tr := &http3.Transport{QUICConfig: &quic.Config{HandshakeIdleTimeout: time.Minute}, TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "one.test"}}
	t.Cleanup(func() { h3tr.Close() })
	clients := map[string]*http.Client{"https://" + r.addr + "/1": client(t, pool, HTTP1), "https://" + r.addr + "/2": client(t, pool, HTTP2), "https://" + p.LocalAddr().String() + "/3": {Transport: h3tr, Timeout: time.Minute}}
	type result struct {
		url, text string
		err       error
	}
	results := make(chan result, 8)
	for url, c := range clients {
		go func() {
			resp, err := c.Get(url[:len(url)-1] + "wait")
			if err != nil {
				results <- result{url, "", err}
				return
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			results <- result{url, string(b), err}
		}()
	}
	for range 3 {
		<-started
	}
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		ended <- r.s.Shutdown(ctx)
	}()
	until(t, "closing", r.s.isClosing)
	until(t, "the listener's end", func() bool {
		c, err := net.Dial("tcp", r.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	close(release)
	for range 3 {
		if got := <-results; got.err != nil || got.text != "whole" {
			t.Errorf("%+v", got)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for url, c := range clients {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // nobody refuses over UDP
		q, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
		if resp, err := c.Do(q); err == nil {
			resp.Body.Close()
			t.Errorf("%s: served after the end", url)
		}
		cancel()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.s.Serve(t.Context(), l); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// TestShutdownLate: what does not end in time is broken off.
func TestShutdownLate(t *testing.T) {
	gone := make(chan struct{}, 2)
	r := newRig(t, Config{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		gone <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	})})
	_, _ = io.WriteString(r.dial(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-gone
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := r.s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	<-gone
}

// TestUpgrade: a handler that takes the connection gets every byte after the head, those
// that came too early too, and none of them is judged as HTTP.
func TestUpgrade(t *testing.T) {
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "echo" || r.URL.Path == "/no" {
			_, _ = io.WriteString(w, "plain")
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(c, rw)
	})})
	const head = "GET /%s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
	for _, piece := range []int{1 << 20, 1, 60} {
		c := r.dial()
		out := net.Conn(&pieces{c, piece})
		early := "not HTTP\x00\r\n at all"
		sent := make(chan struct{})
		go func() { defer close(sent); fmt.Fprintf(out, head+"%s", "yes", early) }()
		br := bufio.NewReader(c)
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatal(resp, err)
		}
		<-sent
		if _, err := io.WriteString(c, "later"); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, len(early)+5)
		if _, err := io.ReadFull(br, b); err != nil || string(b) != early+"later" {
			t.Errorf("%q, %v", b, err)
		}
		c.Close()
	}
	// Where nobody takes it, what follows is HTTP, and judged.
	next := fmt.Sprintf(head, "no") + "GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
	if got := r.exchange(r.dial(), next+fmt.Sprintf(head, "no")+"GET /x HTTP/1.1\r\nHost : a\r\n\r\n"); fmt.Sprint(got) != "[200 200 200 400]" {
		t.Errorf("%v", got)
	}
	if got := r.exchange(&pieces{r.dial(), 1}, next+fmt.Sprintf(head, "no")+"GET /x HTTP/1.0\r\n\r\n"); fmt.Sprint(got) != "[200 200 200 200]" {
		t.Errorf("%v", got)
	}
}

func TestContinue(t *testing.T) {
	r := newRig(t, Config{})
	c := r.dial()
	_, _ = io.WriteString(c, "PUT /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	br := bufio.NewReader(c)
	if line, err := br.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_, _ = br.ReadString('\n')
	_, _ = io.WriteString(c, "hello")
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 200 {
		t.Error(resp, err)
	}
	if got := r.exchange(r.dial(), "PUT /a HTTP/1.1\r\nHost: a\r\nExpect: something\r\nContent-Length: 5\r\n\r\n"); len(got) != 1 || got[0] != 417 {
		t.Errorf("%v", got)
	}
}

// TestExtendedConnect: HTTP/2 and HTTP/3 offer it (RFC 8441, RFC 9220), and a handler can
// hold a conversation over it.
func TestExtendedConnect(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{BodyStall: 50 * time.Millisecond}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "CONNECT" || r.Header.Get(":protocol") != "echo" || r.URL.Path != "/chat" {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		rc := http.NewResponseController(w)
		_ = rc.Flush()
		b := make([]byte, 100)
		for {
			n, err := r.Body.Read(b)
			_, _ = w.Write(b[:n])
			_ = rc.Flush()
			if err != nil {
				return
			}
		}
	})})
	f := r.frames()
	_ = f.WriteHeaders(http2HeadersParam(f.block(":method", "CONNECT", ":protocol", "echo", ":scheme", "http", ":authority", "a.test", ":path", "/chat")))
	if got := f.status(); got != "200" {
		t.Fatal(got)
	}
	time.Sleep(150 * time.Millisecond) // longer than a body may stand still
	_ = f.WriteData(1, false, []byte("hello"))
	if b := f.data(); b != "hello" {
		t.Errorf("%q", b)
	}
	_ = f.WriteData(1, true, nil)
}

// heldConn gives its reader nothing while it is held.
type heldConn struct {
	net.PacketConn
	held atomic.Pointer[chan struct{}] // closed when it no longer is; nil: it is not
}

// ReadFrom implements net.PacketConn.
func (h *heldConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := h.PacketConn.ReadFrom(b)
	if c := h.held.Load(); c != nil {
		<-*c
	}
	return n, from, err
}

// tellingCache tells when there is a session to go on with.
type tellingCache struct {
	tls.ClientSessionCache
	found func()
}

// Get implements tls.ClientSessionCache.
func (c *tellingCache) Get(key string) (*tls.ClientSessionState, bool) {
	s, ok := c.ClientSessionCache.Get(key)
	if ok {
		c.found()
	}
	return s, ok
}

// awaitSettings waits for the client's control stream of HTTP/3, its first.
func awaitSettings(w http.ResponseWriter, r *http.Request) {
	for {
		if s, ok := w.(http3.Settingser); ok {
			select {
			case <-s.ReceivedSettings():
			case <-r.Context().Done():
			}
			return
		}
		w = w.(interface{ Unwrap() http.ResponseWriter }).Unwrap()
	}
}

// TestEarlyData: requests in 0-RTT packets are not taken unless asked for, and then the
// handler can tell. The client sees the server's answer to its handshake when the server has
// all that it sends early: quic-go's client has a race where streams are opened early while
// the handshake ends.
func TestEarlyData(t *testing.T) {
	cert, pool := certificate(t, "one.test")
	for _, on := range []bool{false, true} {
		early, arrived := make(chan bool, 8), make(chan struct{}, 8)
		hold := make(chan struct{}, 1)
		r := newRig(t, Config{EarlyData: on, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			early <- EarlyData(r)
			awaitSettings(w, r)
			arrived <- struct{}{}
		})})
		p, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		r.serve(func(ctx context.Context) error { return r.s.ServePacket(ctx, p) })
		cache := tls.NewLRUClientSessionCache(4)
		var used bool
		ask := func(method string) {
			own, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer own.Close()
			socket, release := &heldConn{PacketConn: own}, make(chan struct{})
			go func() {
				select {
				case <-arrived:
				case <-time.After(time.Minute): // early data was not taken
				}
				close(release)
			}()
			from := &quic.Transport{Conn: socket}
			defer from.Close()
			tr := &http3.Transport{
				TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "one.test", ClientSessionCache: &tellingCache{cache, func() {
					if on {
						socket.held.Store(&release)
					}
				}}},
				Dial: func(ctx context.Context, _ string, t *tls.Config, q *quic.Config) (*quic.Conn, error) {
					c, err := from.DialEarly(ctx, p.LocalAddr(), t, q)
					if err == nil {
						go func() { <-c.HandshakeComplete(); used = c.ConnectionState().Used0RTT; hold <- struct{}{} }()
					}
					return c, err
				},
			}
			defer tr.Close()
			q, _ := http.NewRequest(method, "https://"+p.LocalAddr().String()+"/", nil)
			resp, err := tr.RoundTrip(q)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			<-hold
		}
		ask(http.MethodGet)
		if <-early {
			t.Error("early data in a first connection")
		}
		// The ticket comes after the handshake: until one does there is no 0-RTT.
		until(t, "a second connection", func() bool {
			ask(http3.MethodGet0RTT)
			got := <-early
			return !on || used && got || used
		})
		if used != on {
			t.Errorf("0-RTT used: %v, configured: %v", used, on)
		}
	}
}
