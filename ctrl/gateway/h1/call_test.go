package h1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/pool"
)

func TestKeepAlive(t *testing.T) {
	c := client(t, server(t, answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nho\r\n0\r\n\r\n")), nil)
	for i := range 10 {
		resp, body, err := do(t, c, get("/"))
		if err != nil || resp.StatusCode != 200 || body != []string{"hi", "ho"}[i%2] {
			t.Fatal(i, resp, body, err)
		}
	}
	if s := c.Stats(); s.Opened() != 1 || s.Acquired != 10 || s.Borrowed != 0 {
		t.Errorf("%+v", s)
	}
}

// TestEnds: what each response leaves of its connection.
func TestEnds(t *testing.T) {
	for _, one := range []struct {
		name, method, answer string
		body                 string
		length               int64
		kept                 bool
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc", 3, true},
		{"empty", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", 0, true},
		{"leftover", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", "abc", 3, false},
		{"leftover response", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", "", 0, false},
		{"close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc", "abc", 3, false},
		{"1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc", 3, false},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "", 0, true},
		{"204 with a length", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", "", 0, false},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", "", 3, true},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "", 3, true},
		{"HEAD chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "", -1, true},
		{"HEAD with a body", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "", 3, false},
		{"1xx before", "GET", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", "a", 1, true},
		{"100 unasked", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", "a", 1, true},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc", -1, true},
	} {
		t.Run(one.name, func(t *testing.T) {
			c := client(t, server(t, answers(one.answer)), nil)
			for range 2 {
				q := get("/")
				q.Method = one.method
				resp, body, err := do(t, c, q)
				if err != nil || body != one.body || resp.ContentLength != one.length {
					t.Fatalf("%v, %q, %v", resp, body, err)
				}
			}
			if n := c.Stats().Opened(); n != map[bool]uint64{true: 1, false: 2}[one.kept] {
				t.Errorf("%d connections", n)
			}
		})
	}
}

func TestUntilClose(t *testing.T) {
	c := client(t, server(t, func(nc net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\n\r\n"+strings.Repeat("x", 100_000))
		}
	}), nil)
	resp, body, err := do(t, c, get("/"))
	if err != nil || resp.ContentLength != -1 || len(body) != 100_000 {
		t.Fatal(resp, len(body), err)
	}
}

// TestHostile: answers that end in an error, promptly and with the right kind.
func TestHostile(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\n"
	for _, one := range []struct {
		name, answer string
		protocol     bool // else an IOError
	}{
		{"garbage", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", true},
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n\r\n", true},
		{"half a status line", "HTTP/1.1 2", false},
		{"half a head", ok + "Content-Le", false},
		{"half a body", ok + "Content-Length: 5\r\n\r\nabc", false},
		{"half a chunk", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nabc", false},
		{"no last chunk", ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", false},
		{"nothing", "", false},
		{"100 heads", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100), true},
		{"100 fields and more", ok + strings.Repeat("A: b\r\n", 300) + "\r\n", true},
		{"long head", ok + "A: " + strings.Repeat("a", 100_000) + "\r\n\r\n", true},
		{"long head without end", ok + "A: " + strings.Repeat("a", 200_000), true},
		{"long status line", "HTTP/1.1 200 " + strings.Repeat("a", 100_000), true},
		{"LF alone", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", true},
		{"bad chunk", ok + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", true},
		{"chunk size bomb", ok + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("0", 5000), true},
		{"both lengths", ok + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", true},
		{"101 unasked", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", true},
		{"1xx with a length", "HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\n\r\nabc", true},
		{"1xx in 1.0", "HTTP/1.0 103 Early Hints\r\n\r\n", true},
	} {
		t.Run(one.name, func(t *testing.T) {
			c := client(t, server(t, func(nc net.Conn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err == nil {
					_, _ = io.WriteString(nc, one.answer)
					_ = nc.(*net.TCPConn).CloseWrite()
					_, _ = io.Copy(io.Discard, nc) // no reset before the answer is read
				}
			}), nil)
			_, body, err := do(t, c, get("/"))
			var p *ProtocolError
			var i *IOError
			if !(one.protocol && errors.As(err, &p) || !one.protocol && errors.As(err, &i)) {
				t.Errorf("%q, %T %v", body, err, err)
			}
			if i != nil && i.Received != (one.answer != "") {
				t.Errorf("received %v", i.Received)
			}
			if s := c.Stats(); s.Borrowed != 0 || s.Idle != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestReset(t *testing.T) {
	c := client(t, server(t, func(nc net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
			_ = nc.(*net.TCPConn).SetLinger(0)
			nc.Close()
		}
	}), nil)
	_, body, err := do(t, c, get("/"))
	var i *IOError
	if !errors.As(err, &i) {
		t.Fatalf("%q, %v", body, err)
	}
}

func TestCancel(t *testing.T) {
	for _, answer := range []string{"", "HTTP/1.1 200 O", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"} {
		arrived := make(chan struct{}, 1)
		c := client(t, server(t, func(nc net.Conn, r *bufio.Reader) {
			if _, err := http.ReadRequest(r); err == nil {
				_, _ = io.WriteString(nc, answer)
				arrived <- struct{}{}
				_, _ = io.Copy(io.Discard, nc) // until the client is gone
			}
		}), nil)
		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(context.Background())
		go func() { <-arrived; cancel(why) }()
		resp, err := c.Do(ctx, get("/"))
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if !errors.Is(err, why) {
			t.Errorf("%q: %v", answer, err)
		}
		if s := c.Stats(); s.Borrowed != 0 || s.Idle != 0 {
			t.Errorf("%+v", s)
		}
	}
}

func TestDeadline(t *testing.T) {
	c := client(t, server(t, func(nc net.Conn, _ *bufio.Reader) { _, _ = io.Copy(io.Discard, nc) }), nil)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := c.Do(ctx, get("/"))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// TestTrickle: a body that comes a byte at a time, and a head too.
func TestTrickle(t *testing.T) {
	all := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nA: b\r\n\r\n"
	c := client(t, server(t, func(nc net.Conn, r *bufio.Reader) {
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			for i := range len(all) {
				if _, err := io.WriteString(nc, all[i:i+1]); err != nil {
					return
				}
			}
		}
	}), nil)
	for range 3 {
		resp, body, err := do(t, c, get("/"))
		if err != nil || body != "abcde" || resp.Trailer.Get("A") != "b" {
			t.Fatal(resp, body, err)
		}
	}
	if n := c.Stats().Opened(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestIdleEnd: a server that ends connections while they are idle costs no request.
func TestIdleEnd(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		ended := make(chan struct{})
		c := client(t, server(t, func(nc net.Conn, r *bufio.Reader) {
			if req, err := http.ReadRequest(r); err == nil {
				_, _ = io.Copy(io.Discard, req.Body)
				_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
			}
			nc.Close()
			ended <- struct{}{}
		}), nil)
		for i := range 5 {
			q := get("/")
			q.Method = method
			if _, body, err := do(t, c, q); err != nil || body != "hi" {
				t.Fatalf("%s %d: %q, %v", method, i, body, err)
			}
			<-ended
		}
	}
}

// blind hides a connection's descriptor.
type blind struct{ net.Conn }

// TestIdleEndBlind: the same where a connection can't be looked at, for what may be repeated.
func TestIdleEndBlind(t *testing.T) {
	ended := make(chan struct{})
	addr := server(t, func(nc net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
		}
		nc.Close()
		ended <- struct{}{}
	})
	c := client(t, addr, func(o *Options) {
		o.Dial = func(context.Context) (net.Conn, error) {
			nc, err := net.Dial("tcp", addr)
			return blind{nc}, err
		}
	})
	for i := range 5 {
		if _, body, err := do(t, c, get("/")); err != nil || body != "hi" {
			t.Fatalf("%d: %q, %v", i, body, err)
		}
		<-ended
	}
}

// TestNoSecondTry: what began to be answered, or may not be repeated, is sent once.
func TestNoSecondTry(t *testing.T) {
	var seen atomic.Int32
	c := client(t, server(t, func(nc net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			seen.Add(1)
			nc.Close() // in the middle of it
		}
	}), nil)
	for i := range 2 {
		q := get("/")
		q.Method, q.Repeat = "POST", true
		if _, _, err := do(t, c, q); (err == nil) != (i == 0) {
			t.Fatal(i, err)
		}
	}
	if n := seen.Load(); n != 1 {
		t.Errorf("seen %d times", n)
	}
}

// TestUnsolicited: bytes that come while a connection is idle must not answer the next request.
func TestUnsolicited(t *testing.T) {
	poisoned := make(chan struct{})
	var n atomic.Int32
	c := client(t, server(t, func(nc net.Conn, r *bufio.Reader) {
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			_, _ = io.WriteString(nc, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", n.Add(1)))
			if n.Load() == 1 {
				<-poisoned
				_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
				poisoned <- struct{}{}
			}
		}
	}), nil)
	if _, body, err := do(t, c, get("/")); err != nil || body != "1" {
		t.Fatal(body, err)
	}
	poisoned <- struct{}{}
	<-poisoned
	if _, body, err := do(t, c, get("/")); err != nil || body != "2" {
		t.Fatal(body, err)
	}
}

func TestConnectError(t *testing.T) {
	refused := errors.New("refused")
	cfg := pool.DefaultConfig()
	cfg.FailFast = true
	c := client(t, "", func(o *Options) {
		o.Pool = cfg
		o.Dial = func(context.Context) (net.Conn, error) { return nil, refused }
	})
	_, _, err := do(t, c, get("/"))
	var e *ConnectError
	if !errors.As(err, &e) || !errors.Is(err, pool.ErrUnavailable) || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
}

func TestRefusedRequests(t *testing.T) {
	c := client(t, "", func(o *Options) {
		o.Dial = func(context.Context) (net.Conn, error) { t.Error("dialed"); return nil, io.EOF }
	})
	for _, change := range []func(*Request){
		func(q *Request) { q.Method = "" },
		func(q *Request) { q.Method = "GE T" },
		func(q *Request) { q.Method = "CONNECT" },
		func(q *Request) { q.Target = "" },
		func(q *Request) { q.Target = "a" },
		func(q *Request) { q.Target = "http://a/" },
		func(q *Request) { q.Target = "/ HTTP/1.1\r\nA: b" },
		func(q *Request) { q.Target = "/\x00" },
		func(q *Request) { q.Target = "/\xff" },
		func(q *Request) { q.Host = "a b" },
		func(q *Request) { q.Host = "a\r\nB: c" },
		func(q *Request) { q.Host = "a/b" },
		func(q *Request) { q.Host = "user@a" },
		func(q *Request) { q.Header = http.Header{"A": {"b\r\nC: d"}} },
		func(q *Request) { q.Header = http.Header{"A": {"b\x00"}} },
		func(q *Request) { q.Header = http.Header{"A\r\nB": {"c"}} },
		func(q *Request) { q.Header = http.Header{"A ": {"c"}} },
		func(q *Request) { q.Header = http.Header{"": {"c"}} },
		func(q *Request) { q.Set = []Field{{"A", "b\n"}} },
		func(q *Request) { q.Set = []Field{{"content-length", "1"}} },
		func(q *Request) { q.Upgrade = "a\r\nb" },
		func(q *Request) { q.Content, q.Body = []byte("a"), strings.NewReader("b") },
		func(q *Request) { q.Body, q.Length, q.Trailer = strings.NewReader("b"), 1, http.Header{"A": nil} },
		func(q *Request) { q.Body, q.Length, q.Trailer = strings.NewReader("b"), -1, http.Header{"A\n": nil} },
	} {
		q := get("/")
		change(q)
		_, _, err := do(t, c, q)
		var e *RequestError
		if !errors.As(err, &e) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// TestFieldsOfItsOwn: what this package writes can't be smuggled in by the header.
func TestFieldsOfItsOwn(t *testing.T) {
	heads := make(chan string, 1)
	c := client(t, server(t, func(nc net.Conn, r *bufio.Reader) {
		var b strings.Builder
		for {
			line, err := r.ReadString('\n')
			b.WriteString(line)
			if err != nil || line == "\r\n" {
				break
			}
		}
		heads <- b.String()
		_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}), nil)
	q := get("/x?y")
	q.Header = http.Header{"Content-Length": {"5"}, "Transfer-Encoding": {"chunked"}, "Connection": {"x"}, "Keep-Alive": {"y"}, "Te": {"gzip"},
		"Host": {"other"}, "Expect": {"100-continue"}, "Upgrade": {"h2c"}, "Trailer": {"z"}, "Proxy-Connection": {"a"}, "Left-Out": {"b"}, "A": {"1", "2"}, "B": {"old"}}
	q.Omit = func(name string) bool { return name == "Left-Out" }
	q.Set = []Field{{"B", "new"}}
	q.Trailers = true
	if _, _, err := do(t, c, q); err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(<-heads, "\r\n\r\n"), "\r\n")
	slices.Sort(got[2:])
	want := []string{"GET /x?y HTTP/1.1", "Host: example.com", "A: 1", "A: 2", "B: new", "Connection: TE", "TE: trailers"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestInformational(t *testing.T) {
	c := client(t, server(t, answers("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")), nil)
	q := get("/")
	var got []string
	q.Informational = func(status int, h http.Header) error {
		got = append(got, fmt.Sprint(status, " ", h.Get("Link")))
		return nil
	}
	if _, _, err := do(t, c, q); err != nil || !slices.Equal(got, []string{"103 </a>"}) {
		t.Fatal(got, err)
	}
	stop := errors.New("stop")
	q.Informational = func(int, http.Header) error { return stop }
	if _, _, err := do(t, c, q); !errors.Is(err, stop) {
		t.Fatal(err)
	}
}

// TestCloseEarly: what is left of a body that is closed is read if it is there, else the
// connection is.
func TestCloseEarly(t *testing.T) {
	for _, n := range []int{100, 1 << 20} {
		c := client(t, server(t, answers(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", n, strings.Repeat("x", n)))), nil)
		for range 2 {
			resp, err := c.Do(t.Context(), get("/"))
			if err != nil {
				t.Fatal(err)
			}
			if err := resp.Body.Close(); err != nil {
				t.Error(err)
			}
			if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
				t.Error("read after close")
			}
		}
		if s := c.Stats(); s.Borrowed != 0 || n > 1000 && s.Opened() != 2 {
			t.Errorf("%d: %+v", n, s)
		}
	}
}

func TestSingle(t *testing.T) {
	var open atomic.Int32
	addr := server(t, answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"))
	c := client(t, addr, func(o *Options) {
		o.Single = true
		o.Closed = func() { open.Add(-1) }
		dial := o.Dial
		o.Dial = func(ctx context.Context) (net.Conn, error) { open.Add(1); return dial(ctx) }
	})
	for range 3 {
		if _, body, err := do(t, c, get("/")); err != nil || body != "hi" || open.Load() != 0 {
			t.Fatal(body, err, open.Load())
		}
	}
}
