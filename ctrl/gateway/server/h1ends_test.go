package server

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
	"sync"
	"testing"
	"time"
)

// gated is a connection whose reads and deadlines the test sees, and which has no
// descriptor.
type gated struct {
	net.Conn
	reading   chan struct{} // a read waits
	give      chan string   // what it gets; "": nothing, as its deadline is over
	deadlines chan time.Time
	busy      bool // something can be read, for Idle
	mu        sync.Mutex
	sent      bytes.Buffer
	rest      string
}

func (g *gated) Read(p []byte) (int, error) {
	if g.rest == "" {
		g.reading <- struct{}{}
		if g.rest = <-g.give; g.rest == "" {
			return 0, errors.New("over")
		}
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

func (g *gated) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sent.Write(p)
}

func (g *gated) Idle() bool                       { return !g.busy }
func (g *gated) RemoteAddr() net.Addr             { return nil }
func (g *gated) Close() error                     { return nil }
func (g *gated) SetWriteDeadline(time.Time) error { return nil }
func (g *gated) SetReadDeadline(t time.Time) error {
	g.deadlines <- t
	return nil
}

// TestRequestAtTheEnd: a request that comes when a connection at rest is being closed is
// answered, as the last one: read before the close was known, or there when it was.
func TestRequestAtTheEnd(t *testing.T) {
	const one = "GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, late := range map[string]bool{"read": false, "to be read": true} {
		s, err := New(Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { _, _ = io.WriteString(w, q.URL.Path) })})
		if err != nil {
			t.Fatal(err)
		}
		g := &gated{reading: make(chan struct{}), give: make(chan string), deadlines: make(chan time.Time, 10)}
		c := &Conn{server: s, raw: g}
		served := make(chan struct{})
		go func() {
			s.serveH1(context.Background(), c, g, nil)
			close(served)
		}()
		<-g.reading
		g.give <- fmt.Sprintf(one, "first")
		<-g.reading
		c.atRest()
		g.busy = late
		if late {
			g.give <- ""
			<-g.reading
		}
		g.give <- fmt.Sprintf(one, "second")
		<-served
		got := g.sent.String()
		if strings.Count(got, " 200 OK") != 2 || strings.Count(got, "Connection: close") != 1 || !strings.HasSuffix(got, "/second") {
			t.Errorf("%s: %q", name, got)
		}
		var last time.Time
		for len(g.deadlines) > 0 {
			last = <-g.deadlines
		}
		if !last.IsZero() {
			t.Errorf("%s: the deadline is still %v", name, last)
		}
	}
}

// TestAnswerBeforeMore: the end of an answer arrives although the client has sent more than
// what is answered.
func TestAnswerBeforeMore(t *testing.T) {
	sent := make(chan struct{})
	body := bytes.Repeat([]byte("x"), 60_000)
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_ = From(q.Context()).raw.(*net.TCPConn).SetWriteBuffer(1 << 20)
		<-sent
		_, _ = w.Write(body)
	})})
	for range 2 {
		c := r.dial()
		_ = c.(*net.TCPConn).SetReadBuffer(16 << 10)
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		until(t, "the handler", func() bool { return r.s.Stats().Running == 1 })
		_, _ = io.WriteString(c, "\r\nGET /more HTTP/1.1\r\nHost: a\r\n\r\n")
		sent <- struct{}{}
		until(t, "its end", func() bool { return r.s.Stats().Running == 0 })
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(resp.Body); err != nil || len(got) != len(body) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		c.Close()
	}
}

// TestLeftBehind: a body's reader that outlives its handler, whose answer broke off or
// takes the connection with it, is ended before the connection's buffers are given back.
func TestLeftBehind(t *testing.T) {
	ended := make(chan error, 1)
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		read := make(chan struct{})
		go func() {
			var b [1]byte
			_, err := q.Body.Read(b[:])
			close(read)
			for err == nil {
				_, err = q.Body.Read(b[:])
			}
			ended <- err
		}()
		<-read
		if q.URL.Path == "/panic" {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Connection", "close")
	})})
	for _, path := range []string{"/panic", "/close"} {
		c := r.dial()
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", path)
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			for range 20_000 {
				if _, err := io.WriteString(c, "1\r\nx\r\n"); err != nil {
					return
				}
			}
		}()
		if err := <-ended; err == io.EOF {
			t.Error("the body ended")
		}
		c.Close()
		<-stop
		until(t, "the end", func() bool { return r.s.Stats().Open == 0 })
	}
}

// TestWriteAfterwards: what a handler writes when it has returned goes nowhere, least of
// all into the next answer.
func TestWriteAfterwards(t *testing.T) {
	var old http.ResponseWriter
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if old == nil {
			old = w
			_, _ = io.WriteString(w, "one")
			return
		}
		rc := http.NewResponseController(old)
		if n, err := old.Write([]byte("late")); n != 0 || err == nil {
			t.Errorf("%d, %v", n, err)
		}
		if rc.Flush() == nil || rc.SetReadDeadline(time.Unix(1, 0)) == nil || rc.SetWriteDeadline(time.Unix(1, 0)) == nil {
			t.Error("the old answer is still good")
		}
		_, _ = io.WriteString(w, "two")
	})})
	c := r.dial()
	_, _ = io.WriteString(c, strings.Repeat("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 2)+"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	br := bufio.NewReader(c)
	for i := range 3 {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(i, err)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != [...]string{"one", "two", "two"}[i] {
			t.Errorf("%q, %v", b, err)
		}
	}
	if b := closed(t, c); len(b) != 0 {
		t.Errorf("%q", b)
	}
}

// TestClientGoneAhead: a client that goes away is noticed although it had sent the next
// requests, which are kept as long as it is there.
func TestClientGoneAhead(t *testing.T) {
	begun, release, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	r := newRig(t, Config{Limits: Limits{PassIdle: 40 * time.Millisecond}, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { // so that the keeper looks often
		if q.URL.Path != "/slow" {
			return
		}
		begun <- struct{}{}
		select {
		case <-q.Context().Done():
		case <-release:
		}
		ended <- q.Context().Err()
	})})
	for _, stays := range []bool{true, false} {
		c := r.dial()
		_, _ = io.WriteString(c, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /1 HTTP/1.1\r\nHo")
		<-begun
		h := r.only()
		until(t, "the watch", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.watching != nil })
		_, _ = io.WriteString(c, "st: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
		until(t, "what is ahead", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.ahead) > 30 })
		_, _ = io.WriteString(c, "GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if stays {
			release <- struct{}{}
			<-ended
			if b := string(closed(t, c)); strings.Count(b, " 200 OK") != 4 {
				t.Errorf("%q", b)
			}
		} else {
			c.Close()
			select {
			case err := <-ended:
				if err == nil {
					t.Error("the request went on")
				}
			case <-time.After(time.Minute):
				t.Fatal("the request goes on")
			}
		}
		until(t, "the end", func() bool { return r.s.Stats().Open == 0 })
	}
}

// TestShutdownBeforeFirst: a connection on which nothing was ever said does not hold up
// Shutdown for as long as it could have said it.
func TestShutdownBeforeFirst(t *testing.T) {
	inBubble(t, func() Config { return Config{Limits: Limits{Head: time.Hour}} }, func(r *rig) {
		c := r.dial()
		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := r.s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		closed(t, c)
	})
}
