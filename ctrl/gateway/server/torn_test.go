package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestTornBody: a handler answers before it has read a body, and stops the reading in the
// middle, as forwarding does when an endpoint answers early. What is left of the body has a
// request in it, which must never be one.
func TestTornBody(t *testing.T) {
	var bodies, others atomic.Int64
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		c := http.NewResponseController(w)
		switch q.URL.Path {
		case "/body":
			if err := c.EnableFullDuplex(); err != nil {
				t.Error(err)
			}
			var wg sync.WaitGroup
			first := make(chan struct{})
			wg.Go(func() {
				b := make([]byte, 100)
				_, _ = q.Body.Read(b)
				close(first)
				_, _ = io.Copy(io.Discard, q.Body)
			})
			<-first
			fmt.Fprint(w, "early")
			_ = c.Flush()
			_ = c.SetReadDeadline(time.Unix(1, 0))
			wg.Wait()
		case "/unread": // the reading is stopped between two reads
			if err := c.EnableFullDuplex(); err != nil {
				t.Error(err)
			}
			b := make([]byte, 100)
			_, _ = q.Body.Read(b)
			fmt.Fprint(w, "early")
			_ = c.Flush()
			_ = c.SetReadDeadline(time.Unix(1, 0))
		default:
			others.Add(1)
			return
		}
		bodies.Add(1)
	})})
	const evil = "GET /evil HTTP/1.1\r\nHost: x\r\n\r\n"
	for i := range 4 {
		chunked, path := i%2 == 0, []string{"/body", "/unread"}[i/2]
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		body := strings.Repeat(evil, 200)
		head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", path, len(body))
		if chunked {
			head = "POST " + path + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
			body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
		}
		half := len(head) + 110
		if _, err := io.WriteString(c, (head + body)[:half]); err != nil {
			t.Fatal(err)
		}
		until(t, "the answer", func() bool { return bodies.Load() > 0 })
		_, _ = io.WriteString(c, (head + body)[half:]) // the server may be gone already
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		got, err := io.ReadAll(c)
		if !strings.Contains(string(got), "early") || strings.Count(string(got), "HTTP/1.1 ") != 1 {
			t.Errorf("%s, chunked %v: %q, %v", path, chunked, got, err)
		}
		c.Close()
		bodies.Store(0)
	}
	if st := r.s.Stats(); st.Conns[CutTorn] != 4 {
		t.Errorf("%+v", st)
	}
	if n := others.Load(); n != 0 {
		t.Errorf("%d requests of what was a body", n)
	}
}

// TestEarlyAnswers: answers before bodies that then come to their end leave connections that
// go on, however the bytes arrive.
func TestEarlyAnswers(t *testing.T) {
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		c := http.NewResponseController(w)
		if err := c.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		b := make([]byte, 100)
		_, _ = q.Body.Read(b)
		w.Header().Set("Content-Length", "5")
		fmt.Fprint(w, "early")
	})})
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	body := strings.Repeat("x", 20_000)
	for i := range 200 {
		head := fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", i, len(body))
		if i%2 == 0 {
			head, body = fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", i), strings.Repeat("x", 20_000)
			body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
		}
		all := head + body
		body = strings.Repeat("x", 20_000)
		cut := len(head) + (i*997)%(len(all)-len(head))
		for _, piece := range []string{all[:cut], all[cut:]} {
			if _, err := io.WriteString(c, piece); err != nil {
				t.Fatal(i, err)
			}
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(i, err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || string(got) != "early" || resp.Close {
			t.Fatal(i, string(got), err, resp.Close)
		}
	}
}
