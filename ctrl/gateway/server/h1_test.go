package server

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
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
func (s *script) RemoteAddr() net.Addr            { return nil }

// deaf is a script whose client does not listen.
type deaf struct{ script }

func (d *deaf) Write(p []byte) (int, error)      { return len(p), nil }
func (d *deaf) SetWriteDeadline(time.Time) error { return nil }

// readBy is a request as somebody read it.
type readBy struct {
	q    http.Request
	body string
	err  error // of the body
}

// FuzzServe: whatever a client sends, however it is cut and however much of bodies the
// handler reads, each request that is served net/http reads from the same bytes as well,
// and in every respect as we do.
func FuzzServe(f *testing.F) {
	for _, q := range hostile.Requests() {
		f.Add([]byte(q), 4096, 4096)
		f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"+q), 3, 1)
	}
	for _, q := range hostile.Right() {
		f.Add([]byte(q+q), 4096, 1<<16)
		f.Add([]byte(q+q), 100, 3)
	}
	f.Add([]byte("PUT /3 HTTP/1.1\r\nhost: [::1]:80\r\ntransfer-encoding: Chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n006\r\n world\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.0\r\n\r\n"), 5, 600)
	f.Fuzz(func(t *testing.T, sent []byte, piece, room int) {
		piece, room = min(max(piece, 1), 1<<16), min(max(room, 0), 1<<20)
		var got []readBy
		s, err := New(Config{Limits: Limits{HeadBytes: 4 << 10, URIBytes: 1 << 10}, Handler: http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
			b, err := io.ReadAll(io.LimitReader(q.Body, int64(room)))
			got = append(got, readBy{*q, string(b), err})
		})})
		if err != nil {
			t.Fatal(err)
		}
		c := &Conn{server: s}
		s.serveH1(context.Background(), c, &deaf{script{b: bytes.Clone(sent), piece: piece}}, nil)
		br := bufio.NewReader(bytes.NewReader(sent))
		for i := range got {
			if b, _ := br.Peek(2); string(b) == "\r\n" {
				_, _ = br.Discard(2)
			}
			theirs, err := http.ReadRequest(br)
			if err != nil {
				t.Fatalf("net/http refuses request %d: %v\n%q", i, err, sent)
			}
			body, berr := io.ReadAll(theirs.Body)
			same(t, &got[i], theirs, string(body), berr, len(got[i].body) < room, sent)
		}
	})
}

// same compares a request with net/http's reading. whole: all of the body was read.
func same(t *testing.T, ours *readBy, theirs *http.Request, body string, berr error, whole bool, sent []byte) {
	t.Helper()
	a, b := &ours.q, theirs
	if _, ok := a.Header["Pragma"]; ok && a.Header["Cache-Control"] == nil {
		delete(b.Header, "Cache-Control") // which net/http puts there
	}
	if a.Method != b.Method || a.RequestURI != b.RequestURI || a.Host != b.Host || a.Proto != b.Proto || a.ProtoMajor != b.ProtoMajor || a.ProtoMinor != b.ProtoMinor ||
		a.ContentLength != b.ContentLength || a.Close != b.Close || !slices.Equal(a.TransferEncoding, b.TransferEncoding) || !reflect.DeepEqual(a.URL, b.URL) ||
		len(a.Header)+len(b.Header) > 0 && !reflect.DeepEqual(a.Header, b.Header) {
		t.Fatalf("ours %+v %v\ntheirs %+v %v\n%q", a, a.URL, b, b.URL, sent)
	}
	if !strings.HasPrefix(body, ours.body) && ours.err == nil || whole && ours.err == nil && (body != ours.body || berr != nil) {
		t.Fatalf("bodies: ours %q, %v, theirs %q, %v\n%q", ours.body, ours.err, body, berr, sent)
	}
	if whole && ours.err == nil && len(a.Trailer)+len(b.Trailer) > 0 && !reflect.DeepEqual(a.Trailer, b.Trailer) {
		t.Fatalf("trailers: ours %v, theirs %v\n%q", a.Trailer, b.Trailer, sent)
	}
}
