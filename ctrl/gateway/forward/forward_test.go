package forward

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/upstream"
)

func fetch(t testing.TB, r *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := http.DefaultTransport.RoundTrip(r)
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

func request(t testing.TB, method, url string, body io.Reader, fields ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	return r
}

func TestForward(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Seen", r.Method+" "+r.RequestURI+" "+r.Host+" "+fmt.Sprint(r.ContentLength))
		w.Write(body)
	})
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, b)}}}))
	for _, one := range []struct {
		method, body string
		chunked      bool
		length       int
	}{{"GET", "", false, 0}, {"POST", "hello", false, 5}, {"PUT", strings.Repeat("x", 100_000), false, 100_000}, {"POST", "hello", true, -1}, {"DELETE", "", false, 0}} {
		var body io.Reader
		if body = strings.NewReader(one.body); one.chunked {
			body = io.MultiReader(body)
		} else if one.body == "" {
			body = nil
		}
		resp, got := fetch(t, request(t, one.method, s.URL+"/a%2fb//?c=d&&e", body))
		want := fmt.Sprintf("%s /a%%2fb//?c=d&&e %s %d", one.method, strings.TrimPrefix(s.URL, "http://"), one.length)
		if resp.StatusCode != 200 || got != one.body || resp.Header.Get("Seen") != want {
			t.Errorf("%d, %.50q, %q, expected %q", resp.StatusCode, got, resp.Header.Get("Seen"), want)
		}
	}
}

// TestFields: what of a request and of an answer goes on, and what is added.
func TestFields(t *testing.T) {
	var got http.Header
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		for k, v := range map[string]string{"Connection": "Secret, keep-alive", "Secret": "1", "Keep-Alive": "x", "Proxy-Authenticate": "y", "Upgrade": "z", "Kept": "1", "Vary": "B"} {
			w.Header().Set(k, v)
		}
		w.Header().Add("Set-Cookie", "a")
		w.Header().Add("Set-Cookie", "b")
	})
	h := handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, b)}}, ForwardedOn: true, Via: "gw"})
	s := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "A")
		h.ServeHTTP(w, r)
	}))
	resp, _ := fetch(t, request(t, "GET", s.URL, nil, "Connection", "mine, Close", "Mine", "1", "Keep-Alive", "x", "Te", "gzip, trailers", "Proxy-Authorization", "p",
		"Upgrade", "h2c", "Http2-Settings", "x", "X-Forwarded-For", "1.2.3.4", "Forwarded", "for=1.2.3.4", "X-Forwarded-Proto", "https", "Via", "1.0 a", "X-Request-Id", "theirs", "Traceparent", "theirs", "A", "1", "A", "2"))
	host := strings.TrimPrefix(s.URL, "http://")
	want := http.Header{"Te": {"trailers"}, "Connection": {"TE"}, "X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {host}, "Forwarded": {`for=127.0.0.1;host="` + host + `";proto=http`},
		"Via": {"1.0 a, 1.1 gw"}, "X-Request-Id": {"id-1"}, "Traceparent": {"theirs"}, "A": {"1", "2"}, "User-Agent": {"Go-http-client/1.1"}, "Accept-Encoding": {"gzip"}}
	for name, v := range got {
		if !slices.Equal(v, want[name]) {
			t.Errorf("%s: %q, expected %q", name, v, want[name])
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("missing %v", want)
	}
	for _, name := range []string{"Secret", "Keep-Alive", "Proxy-Authenticate", "Upgrade"} {
		if v, ok := resp.Header[name]; ok {
			t.Errorf("%s: %q came through", name, v)
		}
	}
	if resp.Header.Get("Kept") != "1" || !slices.Equal(resp.Header["Set-Cookie"], []string{"a", "b"}) || !slices.Equal(resp.Header["Vary"], []string{"A", "B"}) {
		t.Errorf("%v", resp.Header)
	}
}

func TestForwardedByTrust(t *testing.T) {
	for _, one := range []struct {
		how     Spoken
		trusted bool
		xff     []string
		fwd     []string
	}{
		{SpokenSet, false, []string{"127.0.0.1"}, nil},
		{SpokenSet, true, []string{"1.2.3.4, 127.0.0.1"}, []string{`for=1.2.3.4, for=127.0.0.1;host="h";proto=http`}},
		{SpokenReplace, true, []string{"127.0.0.1"}, []string{`for=127.0.0.1;host="h";proto=http`}},
		{SpokenKeep, false, []string{"1.2.3.4"}, []string{"for=1.2.3.4"}},
		{SpokenRemove, true, nil, nil},
	} {
		var got http.Header
		b := backend(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Clone() })
		h := handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, b)}}, XForwarded: one.how, Forwarded: one.how})
		s := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			exchange.From(r.Context()).Trusted = one.trusted
			h.ServeHTTP(w, r)
		}))
		r := request(t, "GET", s.URL, nil, "X-Forwarded-For", "1.2.3.4", "Forwarded", "for=1.2.3.4")
		r.Host = "h"
		fetch(t, r)
		if !slices.Equal(got["X-Forwarded-For"], one.xff) || !slices.Equal(got["Forwarded"], one.fwd) {
			t.Errorf("%+v: %q, %q", one, got["X-Forwarded-For"], got["Forwarded"])
		}
	}
}

func TestHost(t *testing.T) {
	var got string
	b := backend(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Host })
	for _, one := range []struct {
		mode HostMode
		want string
	}{{HostPreserve, "client.example"}, {HostEndpoint, b}, {HostFixed, "fixed.example:81"}} {
		s := front(t, handler(t, Options{Targets: []Target{{Cluster: cluster(t, func(_ *upstream.Config, c *Config) { c.HostMode, c.Host = one.mode, "fixed.example:81" }, b)}}}))
		r := request(t, "GET", s.URL, nil)
		r.Host = "client.example"
		fetch(t, r)
		if got != one.want {
			t.Errorf("%d: %q, expected %q", one.mode, got, one.want)
		}
	}
}

func TestTrailersBothWays(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Announced")
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
		w.Header().Set("Announced", r.Trailer.Get("In"))
		w.Header().Set(http.TrailerPrefix+"Sudden", "2")
	})
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, b)}}}))
	r := request(t, "POST", s.URL, io.MultiReader(strings.NewReader("hi")))
	r.Trailer = http.Header{"In": {"1"}}
	resp, body := fetch(t, r)
	if body != "hi" || resp.Trailer.Get("Announced") != "1" || resp.Trailer.Get("Sudden") != "2" {
		t.Errorf("%q, %v", body, resp.Trailer)
	}
}

func TestEarlyHints(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a>")
		w.WriteHeader(103)
		w.Header().Set("Final", "1")
		w.WriteHeader(200)
	})
	h := handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, b)}}})
	s := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Ours", "1")
		h.ServeHTTP(w, r)
	}))
	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, h["Link"], h["Ours"], h["Final"]))
		return nil
	}})
	resp, _ := fetch(t, request(t, "GET", s.URL, nil).WithContext(ctx))
	if !slices.Equal(hints, []string{"103 [</a>] [] []"}) || resp.Header.Get("Final") != "1" || resp.Header.Get("Ours") != "1" {
		t.Errorf("%q, %v", hints, resp.Header)
	}
}

// TestContinueEndToEnd: the client's body is asked for only when the endpoint asks.
func TestContinueEndToEnd(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		io.Copy(w, r.Body)
	})
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, b)}}}))
	for path, want := range map[string]string{"/yes": "HTTP/1.1 100 Continue", "/no": "HTTP/1.1 417 Expectation Failed"} {
		nc, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(nc, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", path)
		r := bufio.NewReader(nc)
		line, err := r.ReadString('\n')
		if strings.TrimSpace(line) != want {
			t.Errorf("%s: %q, %v", path, line, err)
		}
		if path == "/yes" {
			r.ReadString('\n')
			io.WriteString(nc, "hello")
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(resp.Body); string(b) != "hello" {
				t.Errorf("%q, %v", b, err)
			}
		}
		nc.Close()
	}
}

// TestStreaming: each event of an answer comes before the next is sent; and the other way.
func TestStreaming(t *testing.T) {
	next := make(chan struct{})
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		http.NewResponseController(w).Flush()
		for i := range 3 {
			<-next
			fmt.Fprintf(w, "data: %d\n\n", i)
			http.NewResponseController(w).Flush()
		}
	})
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, b)}}}))
	resp, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	for i := range 3 {
		next <- struct{}{}
		line, err := r.ReadString('\n')
		if err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatal(line, err)
		}
		r.ReadString('\n')
	}
}

func TestBothWaysAtOnce(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		buf := make([]byte, 10)
		for {
			n, err := r.Body.Read(buf)
			w.Write(bytes.ToUpper(buf[:n]))
			http.NewResponseController(w).Flush()
			if err != nil {
				return
			}
		}
	})
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, b)}}}))
	pr, pw := io.Pipe()
	go pw.Write([]byte("a"))
	resp, err := http.DefaultTransport.RoundTrip(request(t, "POST", s.URL, pr))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, c := range "abc" {
		if c != 'a' {
			pw.Write([]byte(string(c)))
		}
		var one [1]byte
		if _, err := io.ReadFull(resp.Body, one[:]); err != nil || one[0] != byte(c-32) {
			t.Fatal(one, err)
		}
	}
	pw.Close()
	if b, err := io.ReadAll(resp.Body); len(b) != 0 || err != nil {
		t.Error(b, err)
	}
}

// TestEarlyAnswerStopsBody: an answer before the request's end reaches the client, and
// nothing reads the body after the handler.
func TestEarlyAnswerStopsBody(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		http.Error(w, "too much", http.StatusRequestEntityTooLarge)
	})
	h := handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, b)}}})
	left := make(chan struct{})
	s := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(left)
		h.ServeHTTP(w, r)
	}))
	pr, pw := io.Pipe()
	defer pw.Close()
	go pw.Write([]byte("some"))
	resp, err := http.DefaultTransport.RoundTrip(request(t, "POST", s.URL, pr))
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 413 || string(b) != "too much\n" {
		t.Error(resp, string(b))
	}
	resp.Body.Close()
	<-left
}

func TestClientGone(t *testing.T) {
	gone := make(chan struct{})
	arrived := make(chan struct{})
	b := backend(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(gone)
	})
	seen := make(chan *exchange.Exchange, 1)
	c := cluster(t, nil, b)
	s := httptest.NewServer(enter(t, handler(t, Options{Targets: []Target{{Cluster: c}}}), seen))
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err := http.DefaultTransport.RoundTrip(request(t, "GET", s.URL, nil).WithContext(ctx)); err == nil {
		t.Fatal("no error")
	}
	<-gone
	if x := <-seen; x.Reason != exchange.ClientGone {
		t.Errorf("%s, %v", x.Reason, x.Notes())
	}
	if e := c.Upstream().Snapshot().Endpoints[0]; e.Canceled != 1 || e.Failures != 0 {
		t.Errorf("%+v", e)
	}
}

// raw is a backend that does as it likes with each connection.
func raw(t testing.TB, serve func(nc net.Conn, n int32)) (addr string, count *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	count = new(atomic.Int32)
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, nc)
			mu.Unlock()
			n := count.Add(1)
			wg.Go(func() { defer nc.Close(); serve(nc, n) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, nc := range open {
			nc.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String(), count
}

// head reads a request's head.
func head(nc net.Conn) bool {
	_, err := http.ReadRequest(bufio.NewReader(nc))
	return err == nil
}

// TestReasons: how each failure of an endpoint is answered and counted.
func TestReasons(t *testing.T) {
	hang := func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) } // until the gateway is gone
	for _, one := range []struct {
		name   string
		serve  func(nc net.Conn, n int32)
		reason exchange.Reason
		abort  bool
	}{
		{"garbage", func(nc net.Conn, _ int32) { head(nc); io.WriteString(nc, "garbage\r\n\r\n") }, exchange.UpstreamProtocol, false},
		{"smuggling", func(nc net.Conn, _ int32) {
			head(nc)
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
		}, exchange.UpstreamProtocol, false},
		{"end", func(nc net.Conn, _ int32) { head(nc) }, exchange.UpstreamReset, false},
		{"half a head", func(nc net.Conn, _ int32) { head(nc); io.WriteString(nc, "HTTP/1.1 200 OK\r\nA") }, exchange.UpstreamReset, false},
		{"stall", func(nc net.Conn, _ int32) { head(nc); hang(nc) }, exchange.UpstreamTimeout, false},
		{"stall in a head", func(nc net.Conn, _ int32) { head(nc); io.WriteString(nc, "HTTP/1.1 200 OK\r\n"); hang(nc) }, exchange.UpstreamTimeout, false},
		{"half a body", func(nc net.Conn, _ int32) {
			head(nc)
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
		}, exchange.UpstreamReset, true},
		{"bad chunk", func(nc net.Conn, _ int32) {
			head(nc)
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n")
		}, exchange.UpstreamProtocol, true},
		{"header bomb", func(nc net.Conn, _ int32) {
			head(nc)
			io.WriteString(nc, "HTTP/1.1 200 OK\r\n"+strings.Repeat("A: b\r\n", 20_000))
		}, exchange.UpstreamProtocol, false},
	} {
		t.Run(one.name, func(t *testing.T) {
			addr, _ := raw(t, one.serve)
			c := cluster(t, func(u *upstream.Config, _ *Config) {
				if one.reason == exchange.UpstreamTimeout { // the others must not be late
					u.Timeouts.Request = 100 * time.Millisecond
				}
			}, addr)
			seen := make(chan *exchange.Exchange, 1)
			s := httptest.NewServer(enter(t, handler(t, Options{Targets: []Target{{Cluster: c}}}), seen))
			defer s.Close()
			resp, err := http.Get(s.URL)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			x := <-seen
			if x.Reason != one.reason || (err != nil) != one.abort || !one.abort && resp.StatusCode != one.reason.Status() || len(x.Notes()) == 0 || x.Tries != 1 || x.Endpoint != addr {
				t.Errorf("%v, %v, %s, %v", resp, err, x.Reason, x.Notes())
			}
		})
	}
}

func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for name, one := range map[string]struct {
		addrs  []string
		reason exchange.Reason
	}{"refused": {[]string{l.Addr().String()}, exchange.ConnectFailed}, "empty": {nil, exchange.NoEndpoint}} {
		w := httptest.NewRecorder()
		enter(t, handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, one.addrs...)}}}), nil).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if w.Code != one.reason.Status() || !strings.Contains(w.Body.String(), one.reason.String()) || strings.Contains(w.Body.String(), "127.0.0.1") {
			t.Errorf("%s: %d, %s", name, w.Code, w.Body)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	up, err := upstream.New(upstream.Config{Name: "api"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []Config{{}, {Upstream: up}, {Upstream: up, Dial: dial, Protocol: H2}, {Upstream: up, Dial: dial, HostMode: HostFixed}, {Upstream: up, Dial: dial, ProxyProtocol: 3},
		{Upstream: up, Dial: dial, Protocol: H2C, ProxyProtocol: 1}, {Upstream: up, Dial: dial, Protocol: 9}} {
		if _, err := NewCluster(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	ok := cluster(t, nil)
	for _, o := range []Options{{}, {Targets: []Target{{}}}, {Targets: []Target{{Cluster: ok}, {Cluster: ok}}}, {Targets: []Target{{Cluster: ok, Weight: -1}}}, {Targets: []Target{{Cluster: ok}}, Sticky: true},
		{Targets: []Target{{Cluster: ok}}, Hash: []HashKey{{From: HashHeader}}}, {Targets: []Target{{Cluster: ok}}, RetryStatus: []int{200}}, {Targets: []Target{{Cluster: ok}}, Mirror: &Mirror{}}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

// TestNoHost: of HTTP/1.0, whose requests need no Host, no X-Forwarded-Host is made up.
func TestNoHost(t *testing.T) {
	var got http.Header
	b := backend(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Clone() })
	h := handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, b)}}})
	for _, trusted := range []bool{false, true} {
		s := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			x := exchange.From(r.Context())
			x.Host, r.Host, x.Trusted = "", "", trusted
			h.ServeHTTP(w, r)
		}))
		fetch(t, request(t, "GET", s.URL, nil))
		if _, has := got["X-Forwarded-Host"]; has || got.Get("X-Forwarded-Proto") != "http" {
			t.Errorf("trusted %v: %v", trusted, got)
		}
		fetch(t, request(t, "GET", s.URL, nil, "X-Forwarded-Host", "sent"))
		if trusted != (got.Get("X-Forwarded-Host") == "sent") {
			t.Errorf("trusted %v: %v", trusted, got)
		}
	}
}
