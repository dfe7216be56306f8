package h1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// echo answers with the request's body, its framing and trailer.
func echo(nc net.Conn, r *bufio.Reader) {
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		b, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		s := fmt.Sprintf("%d %v %s|%s", req.ContentLength, req.TransferEncoding, req.Trailer.Get("A"), b)
		if _, err := fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(s), s); err != nil {
			return
		}
	}
}

func TestSend(t *testing.T) {
	c := client(t, server(t, echo), nil)
	long := strings.Repeat("0123456789", 20_000)
	for _, one := range []struct {
		name string
		q    Request
		want string
	}{
		{"content", Request{Content: []byte("hello")}, "5 [] |hello"},
		{"none", Request{}, "0 [] |"},
		{"known length", Request{Body: strings.NewReader(long), Length: int64(len(long))}, "200000 [] |" + long},
		{"known length, a byte at a time", Request{Body: &drip{"hello", 1}, Length: 5}, "5 [] |hello"},
		{"length 0", Request{Body: strings.NewReader(""), Length: 0}, "0 [] |"},
		{"chunked", Request{Body: strings.NewReader(long), Length: -1}, "-1 [chunked] |" + long},
		{"chunked, a byte at a time", Request{Body: &drip{"hello", 1}, Length: -1}, "-1 [chunked] |hello"},
		{"chunked and empty", Request{Body: strings.NewReader(""), Length: -1}, "-1 [chunked] |"},
		{"trailer", Request{Body: strings.NewReader("hi"), Length: -1, Trailer: http.Header{"A": {"b"}}}, "-1 [chunked] b|hi"},
	} {
		t.Run(one.name, func(t *testing.T) {
			q := one.q
			q.Method, q.Target, q.Host = "POST", "/", "a"
			_, body, err := do(t, c, &q)
			if err != nil || body != one.want {
				t.Fatalf("%.60q, %v", body, err)
			}
		})
	}
	if s := c.Stats(); s.Opened() != 1 || s.Borrowed != 0 {
		t.Errorf("%+v", s)
	}
}

// waiting is a body that gives no more until it is aborted.
type waiting struct {
	first   string
	waits   chan struct{} // closed when a Read waits
	gone    chan struct{} // closed by Abort
	reading atomic.Int32
}

func (w *waiting) Read(p []byte) (int, error) {
	w.reading.Add(1)
	defer w.reading.Add(-1)
	if w.first != "" {
		n := copy(p, w.first)
		w.first = w.first[n:]
		return n, nil
	}
	close(w.waits)
	<-w.gone
	return 0, errors.New("aborted")
}

// TestEarlyAnswer: a final response before the request's end is passed on, and ends the
// sending: a Read of the body that waits is aborted, and none is under way afterwards.
func TestEarlyAnswer(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig",
		"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbig\r\n0\r\n\r\n",
	} {
		for _, when := range []string{"while a Read waits", "at any time"} {
			t.Run(when, func(t *testing.T) {
				w := &waiting{first: "some", waits: make(chan struct{}), gone: make(chan struct{})}
				c := client(t, server(t, func(nc net.Conn, r *bufio.Reader) {
					if _, err := http.ReadRequest(r); err == nil {
						if when == "while a Read waits" {
							<-w.waits
						}
						_, _ = io.WriteString(nc, answer)
						_, _ = io.Copy(io.Discard, nc)
					}
				}), nil)
				aborted := false
				q := &Request{Method: "POST", Target: "/", Host: "a", Body: w, Length: -1, Abort: func() { aborted = true; close(w.gone) }}
				resp, body, err := do(t, c, q)
				if err != nil || resp.StatusCode != 413 || body != "big" {
					t.Fatal(resp, body, err)
				}
				if w.reading.Load() != 0 {
					t.Error("the body is being read still")
				}
				if when == "while a Read waits" && !aborted {
					t.Error("not aborted")
				}
				if s := c.Stats(); s.Borrowed != 0 || s.Idle != 0 {
					t.Errorf("%+v", s)
				}
			})
		}
	}
}

// TestRefusedWhileSending: the answer of a server that closes instead of reading on counts.
func TestRefusedWhileSending(t *testing.T) {
	c := client(t, server(t, func(nc net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(nc, "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
			_ = nc.(*net.TCPConn).CloseWrite()
			_, _ = io.CopyN(io.Discard, nc, 1<<20)
		}
	}), nil)
	q := &Request{Method: "POST", Target: "/", Host: "a", Body: io.LimitReader(zeros{}, 64<<20), Length: 64 << 20}
	resp, body, err := do(t, c, q)
	if err != nil || resp.StatusCode != 401 || body != "no" {
		t.Fatal(resp, body, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestBodyFails(t *testing.T) {
	mine := errors.New("mine")
	for _, one := range []struct {
		body   io.Reader
		length int64
		want   error
	}{
		{io.MultiReader(strings.NewReader("abc"), failing{mine}), -1, mine},
		{io.MultiReader(strings.NewReader("abc"), failing{mine}), 10, mine},
		{strings.NewReader("abc"), 10, io.ErrUnexpectedEOF},
	} {
		c := client(t, server(t, echo), nil)
		_, body, err := do(t, c, &Request{Method: "POST", Target: "/", Host: "a", Body: one.body, Length: one.length})
		var i *IOError
		if !errors.As(err, &i) || !i.Body || !errors.Is(err, one.want) {
			t.Errorf("%q, %v", body, err)
		}
		if s := c.Stats(); s.Borrowed != 0 || s.Idle != 0 {
			t.Errorf("%+v", s)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestContinue(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	read := func(nc net.Conn, r *bufio.Reader, before, after string) {
		req, err := http.ReadRequest(r)
		if err != nil || req.Header.Get("Expect") != "100-continue" {
			return
		}
		_, _ = io.WriteString(nc, before)
		if b, err := io.ReadAll(req.Body); err == nil && string(b) == "hello" {
			_, _ = io.WriteString(nc, after)
		}
	}
	for _, one := range []struct {
		name          string
		before, after string
		status        int
		asked         bool
	}{
		{"100", "HTTP/1.1 100 Continue\r\n\r\n", ok, 200, true},
		{"103 and 100", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", ok, 200, true},
		{"silence", "", ok, 200, true},
		{"half a line", "HTTP/1.1 2", ok[len("HTTP/1.1 2"):], 200, true},
		{"refused", "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n", "", 417, false},
	} {
		t.Run(one.name, func(t *testing.T) {
			c := client(t, server(t, func(nc net.Conn, r *bufio.Reader) { read(nc, r, one.before, one.after) }), func(o *Options) {
				o.Limits.ContinueTimeout = 20 * time.Millisecond
			})
			b := &counting{Reader: strings.NewReader("hello")}
			resp, _, err := do(t, c, &Request{Method: "POST", Target: "/", Host: "a", Body: b, Length: 5, Continue: true})
			if err != nil || resp.StatusCode != one.status || (b.n > 0) != one.asked {
				t.Fatal(resp, err, b.n)
			}
			if s := c.Stats(); s.Borrowed != 0 || !one.asked && s.Idle != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

type counting struct {
	io.Reader
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// TestCancelWhileWaiting: the wait for 100 must not undo the deadline of a context's end.
func TestCancelWhileWaiting(t *testing.T) {
	c := client(t, server(t, func(nc net.Conn, _ *bufio.Reader) { _, _ = io.Copy(io.Discard, nc) }), func(o *Options) {
		o.Limits.ContinueTimeout = time.Minute
	})
	for range 20 {
		ctx, cancel := context.WithCancel(context.Background())
		go cancel()
		_, err := c.Do(ctx, &Request{Method: "POST", Target: "/", Host: "a", Body: strings.NewReader("hello"), Length: 5, Continue: true})
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
}

func TestUpgrade(t *testing.T) {
	c := client(t, server(t, func(nc net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil || req.Header.Get("Upgrade") != "echo" || req.Header.Get("Connection") != "Upgrade" {
			_, _ = io.WriteString(nc, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nwelcome")
		_, _ = io.Copy(nc, r)
	}), nil)
	q := get("/")
	q.Upgrade = "echo"
	resp, err := c.Do(t.Context(), q)
	if err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	s := resp.Body.(*Stream)
	if _, err := io.WriteString(s, " back"); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(s)
	if err != nil || string(b) != "welcome back" {
		t.Errorf("%q, %v", b, err)
	}
	if n := c.Stats().Borrowed; n != 1 {
		t.Errorf("%d borrowed", n)
	}
	s.Close()
	s.Close()
	if st := c.Stats(); st.Borrowed != 0 || st.Idle != 0 {
		t.Errorf("%+v", st)
	}
}

func TestRoundTrip(t *testing.T) {
	c := client(t, server(t, echo), nil)
	hc := &http.Client{Transport: c}
	for _, body := range []io.Reader{nil, strings.NewReader("hello"), bytes.NewReader(make([]byte, 100_000)), io.MultiReader(strings.NewReader("chunked"))} {
		resp, err := hc.Post("http://example.com/", "text/plain", body)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || body != nil && len(b) < 10 {
			t.Errorf("%v, %q, %v", resp, b, err)
		}
	}
	if n := c.Stats().Opened(); n != 1 {
		t.Errorf("%d connections", n)
	}
}
