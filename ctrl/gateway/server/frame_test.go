package server

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/hostile"
)

// TestHostile: what has more than one reading gets one answer of 400 or 501, and nothing
// after it on the connection is served, however the bytes are cut into packets.
func TestHostile(t *testing.T) {
	r := newRig(t, Config{Handler: nil})
	next := "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"
	for name, q := range hostile.Requests() {
		for _, piece := range []int{0, 1, 7} {
			if piece > 0 && len(q) > 3000 {
				continue
			}
			c := r.dial()
			if piece > 0 {
				c = &pieces{c, piece}
			}
			before := len(r.requests())
			got := r.exchange(c, "GET /before HTTP/1.1\r\nHost: a.test\r\n\r\n"+q+next)
			if len(got) != 2 || got[0] != 200 || got[1] != 400 && got[1] != 501 {
				t.Errorf("%s (%d): %v", name, piece, got)
			}
			for _, s := range r.requests()[before:] {
				if s.target != "/before" && (s.target != "/a" || s.err == nil) {
					t.Errorf("%s (%d): served %+v", name, piece, s)
				}
			}
			c.Close()
		}
	}
	if st := r.s.Stats(); st.Refusals[1] < uint64(len(hostile.Requests())) {
		t.Errorf("%+v", st)
	}
}

// pieces writes in small pieces.
type pieces struct {
	net.Conn
	n int
}

func (p *pieces) Write(b []byte) (int, error) {
	for at := 0; at < len(b); at += p.n {
		if _, err := p.Conn.Write(b[at:min(len(b), at+p.n)]); err != nil {
			return at, err
		}
	}
	return len(b), nil
}

// TestOrdinary: what is right is served, as it was sent, pipelined and in any pieces.
func TestOrdinary(t *testing.T) {
	want := []seen{
		{method: "GET", target: "/1", host: "a.test", proto: "HTTP/1.1"},
		{method: "POST", target: "/2?a=%20b", host: "a.test:80", proto: "HTTP/1.1", body: "hello"},
		{method: "PUT", target: "/3", host: "[::1]:80", proto: "HTTP/1.1", body: "hello world"},
		{method: "OPTIONS", target: "*", host: "a.test", proto: "HTTP/1.1"},
		{method: "GET", target: "http://a.test/5", host: "a.test", proto: "HTTP/1.1"},
		{method: "GET", target: "/6", host: "a.test", proto: "HTTP/1.1", body: "x"},
		{method: "get", target: "/7", host: "a.test", proto: "HTTP/1.1"},
		{method: "POST", target: "/8", host: "a.test", proto: "HTTP/1.1"},
		{method: "GET", target: "/9", host: "a.test", proto: "HTTP/1.1"},
		{method: "GET", target: "/10", host: "", proto: "HTTP/1.0"},
	}
	send := "GET /1 HTTP/1.1\r\nHost: a.test\r\nX: \tany thing\xff\r\n\r\n" +
		"POST /2?a=%20b HTTP/1.1\r\nHost:a.test:80\r\nContent-Length: 5 \r\n\r\nhello" +
		"PUT /3 HTTP/1.1\r\nhost: [::1]:80\r\ntransfer-encoding: Chunked\r\nTrailer: A\r\n\r\n5;x=\"y\"\r\nhello\r\n006\r\n world\r\n0\r\nA: b\r\n\r\n" +
		"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n" +
		"GET http://a.test/5 HTTP/1.1\r\nHost: A.test\r\n\r\n" +
		"GET /6 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx" +
		"\r\nget /7 HTTP/1.1\r\nHost: a.test\r\nUpgrade: h2c\r\n\r\n" +
		"POST /8 HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" +
		"\r\nGET /9 HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n" +
		"GET /10 HTTP/1.0\r\n\r\n"
	for _, piece := range []int{0, 1, 2, 3, 5, 100, 511} {
		r := newRig(t, Config{})
		c := r.dial()
		if piece > 0 {
			c = &pieces{c, piece}
		}
		if got := r.exchange(c, send); len(got) != len(want) || slices.Max(got) != 200 {
			t.Errorf("pieces of %d: %v", piece, got)
		}
		got := r.requests()
		for i := range min(len(got), len(want)) {
			got[i].client = ""
			if got[i] != want[i] {
				t.Errorf("pieces of %d: %+v, expected %+v", piece, got[i], want[i])
			}
		}
		if len(got) != len(want) {
			t.Errorf("pieces of %d: %d requests", piece, len(got))
		}
	}
}

// script is a connection whose client has sent everything already, in pieces.
type script struct {
	net.Conn
	b     []byte
	piece int
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.b[:min(len(s.b), s.piece)])
	s.b = s.b[n:]
	return n, nil
}

func (s *script) Close() error                    { return nil }
func (s *script) SetReadDeadline(time.Time) error { return nil }

// FuzzGuard: whatever a client sends and however it is cut, what the guard lets through is
// read by net/http as the framer reads it: as many requests, each with the body it said;
// and what goes on is what was sent, but for empty lines, up to what is refused.
func FuzzGuard(f *testing.F) {
	for _, q := range hostile.Requests() {
		f.Add([]byte(q), 4096, 4096)
		f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"+q), 3, 1)
	}
	f.Add([]byte("PUT /3 HTTP/1.1\r\nhost: [::1]:80\r\ntransfer-encoding: Chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n006\r\n world\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.0\r\n\r\n"), 5, 600)
	s, err := New(Config{Handler: http.NotFoundHandler(), Limits: Limits{HeadBytes: 4 << 10, URIBytes: 1 << 10}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, sent []byte, piece, room int) {
		piece, room = min(max(piece, 1), 1<<16), min(max(room, 1), 1<<16)
		c := &Conn{server: s}
		g := newGuard(c, &script{b: bytes.Clone(sent), piece: piece}, nil)
		g.answered.Store(1 << 60) // nobody takes the connection
		var through []byte
		p := make([]byte, room)
		for {
			n, err := g.Read(p)
			if through = append(through, p[:n]...); err != nil {
				break
			}
			if n == 0 {
				t.Fatal("nothing, and no error")
			}
		}
		br := bufio.NewReader(bytes.NewReader(through))
		var heads uint64
		for {
			q, err := http.ReadRequest(br)
			if err != nil {
				if err != io.EOF && g.end == io.EOF && !unfinished(g, err) {
					t.Fatalf("net/http refuses what the guard lets through: %v\n%q\n%q", err, sent, through)
				}
				break
			}
			heads++
			if _, err = io.Copy(io.Discard, q.Body); err != nil {
				if heads < g.heads {
					t.Fatalf("net/http ends in a body before the guard does: %v\n%q", err, sent)
				}
				break
			}
		}
		want := g.heads
		if g.refusedAt.Load() != 0 {
			want = g.refusedAt.Load()
		}
		if heads != want {
			t.Fatalf("net/http sees %d requests, the guard %d\n%q\n%q", heads, want, sent, through)
		}
	})
}

// unfinished says whether the client broke off in a head of which the first byte has gone on.
func unfinished(g *guard, err error) bool { return err == io.ErrUnexpectedEOF }
