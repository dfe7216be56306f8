package server

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// taken is a script whose client takes all that it is sent.
type taken struct {
	script
	mu     sync.Mutex
	sent   bytes.Buffer
	closed chan struct{}
	once   sync.Once
}

func (s *taken) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent.Write(p)
}

func (s *taken) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *taken) SetWriteDeadline(time.Time) error { return nil }
func (s *taken) SetDeadline(time.Time) error      { return nil }
func (s *taken) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *taken) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// oneConn is a listener with one connection.
type oneConn struct{ c chan net.Conn }

func (l oneConn) Accept() (net.Conn, error) {
	if c, ok := <-l.c; ok {
		return c, nil
	}
	return nil, io.EOF
}
func (l oneConn) Close() error   { return nil }
func (l oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// actor does what a request's query says, a letter at a time.
func actor(saw *[]string) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		h := w.Header()
		h.Set("X-Method", q.Method)
		*saw = append(*saw, fmt.Sprint(q.Method, " ", q.RequestURI, " ", q.Host, " ", q.Proto, " ", q.Header["X-A"], q.ContentLength, q.Close))
		if strings.LastIndexByte(q.URL.RawQuery, 'R') > 0 { // net/http reads the body otherwise, when it answers
			_ = http.NewResponseController(w).EnableFullDuplex()
		}
		status := 200
		for _, c := range q.URL.RawQuery {
			switch c {
			case 'w':
				_, _ = io.WriteString(w, "ten bytes.")
			case 'W':
				_, _ = w.Write(bytes.Repeat([]byte("a lot of it"), 700))
			case 'F':
				_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader("read from"))
			case 'f':
				w.(http.Flusher).Flush()
			case 'r':
				var b [5]byte
				n, _ := io.ReadFull(q.Body, b[:])
				*saw = append(*saw, string(b[:n]))
			case 'R':
				b, err := io.ReadAll(q.Body)
				*saw = append(*saw, fmt.Sprintf("%q %v %v", b, err != nil, q.Trailer))
			case 'l':
				h.Set("Content-Length", "10")
			case 'L':
				h.Set("Content-Length", "15")
			case 't':
				h.Set("Trailer", "X-T")
			case 'T':
				h.Set("X-T", "announced")
			case 'u':
				h.Set(http.TrailerPrefix+"X-U", "not announced")
			case 'e':
				h.Set("X-Early", "yes")
				w.WriteHeader(103)
				h.Del("X-Early")
			case 'c':
				h.Set("Connection", "close")
			case 'b':
				h.Set("X-Bad", "a\r\nb: c")
			case 'd':
				h["Date"] = nil
			case 'y':
				h.Set("Content-Type", "a/b")
			case '2', '3', '4', '5':
				status = map[rune]int{'2': 204, '3': 304, '4': 404, '5': 599}[c]
			case 'h':
				w.WriteHeader(status)
			case 'p':
				panic(http.ErrAbortHandler)
			}
		}
	}
}

const acts = "wwwWFfrRlLtTuecbdy2345hhp"

// pipeline makes requests of a seed. Methods of those whose handler breaks off begin with
// an exclamation mark.
func pipeline(r *rand.Rand) (sent []byte, methods []string) {
	var b bytes.Buffer
	for range 1 + r.IntN(5) {
		method := []string{"GET", "POST", "HEAD", "PUT", "GET"}[r.IntN(5)]
		var do []byte
		for range r.IntN(9) {
			if c := acts[r.IntN(len(acts)-r.IntN(2))]; c != 'r' || len(do) == 0 { // else net/http may end the connection
				do = append(do, c)
			}
		}
		version := "1.1"
		if r.IntN(6) == 0 && method != "HEAD" { // which net/http closes after, not knowing what length there would be
			version = "1.0"
			do = bytes.Map(func(c rune) rune { // net/http's end of the answer is then the connection's; there is no trailer in either
				if c == 't' || c == 'u' {
					return -1
				}
				return c
			}, do)
		}
		fmt.Fprintf(&b, "%s /%d?%s HTTP/%s\r\nHost: a.test\r\nX-A: %d\r\n", method, r.IntN(10), do, version, r.IntN(1000))
		switch r.IntN(10) {
		case 0:
			b.WriteString("Connection: close\r\n")
		case 1, 2:
			b.WriteString("Connection: keep-alive\r\n")
		}
		body := strings.Repeat("body", r.IntN(4)*r.IntN(9))
		switch k := r.IntN(4); {
		case k == 0 && version == "1.1":
			if r.IntN(2) == 0 {
				b.WriteString("Trailer: X-End\r\n")
			}
			b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
			for len(body) > 0 {
				n := 1 + r.IntN(len(body))
				fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
				body = body[n:]
			}
			b.WriteString("0\r\n")
			if r.IntN(2) == 0 {
				b.WriteString("X-End: yes\r\n")
			}
			b.WriteString("\r\n")
		case k == 1 || k == 2 && method != "GET":
			fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
		default:
			b.WriteString("\r\n")
		}
		if bytes.IndexByte(do, 'p') >= 0 {
			method = "!" + method
		}
		methods = append(methods, method)
	}
	return b.Bytes(), methods
}

// answered is what a client makes of answers, and whether the last one was whole. torn: of
// one after them the handler has broken off.
func answered(sent []byte, methods []string, torn bool) (all []string, whole bool) {
	br := bufio.NewReader(bytes.NewReader(sent))
	whole = true
	for i := 0; i < len(methods); {
		resp, err := http.ReadResponse(br, &http.Request{Method: methods[i]})
		if err != nil {
			return all, whole && br.Buffered() == 0
		}
		body, err := io.ReadAll(resp.Body)
		if whole = err == nil; !whole {
			return all, false
		}
		h := resp.Header
		if resp.StatusCode == http.StatusNotModified { // from which net/http takes the type
			h.Del("Content-Type")
		}
		one := fmt.Sprint(resp.StatusCode, " ", resp.Proto, " ", h["X-Method"], h["X-Early"], h["X-Bad"], h["Content-Type"], len(h["Date"]), " ", resp.Close, " ", len(body), " ", crc32.ChecksumIEEE(body), resp.Trailer["X-T"])
		if resp.StatusCode < 200 && resp.ProtoMinor == 0 {
			continue // which net/http sends, and HTTP/1.0 does not know (RFC 9110 §15.2)
		}
		if all = append(all, one); resp.StatusCode >= 200 {
			i++
		}
	}
	if rest, _ := io.ReadAll(br); len(rest) > 0 && !torn {
		all = append(all, "more: "+string(rest))
	}
	return all, whole
}

func newTaken(sent []byte, piece int) *taken {
	return &taken{script: script{b: bytes.Clone(sent), piece: piece}, closed: make(chan struct{})}
}

// compareAnswers has our engine and net/http's server answer the same pipeline.
func compareAnswers(t *testing.T, seed uint64, piece int) {
	sent, methods := pipeline(rand.New(rand.NewPCG(seed, 7)))
	var saw, theySaw []string
	s, err := New(Config{Handler: actor(&saw)})
	if err != nil {
		t.Fatal(err)
	}
	ours := newTaken(sent, piece)
	s.serveH1(context.Background(), &Conn{server: s, raw: ours}, ours, nil)
	theirs := newTaken(sent, piece)
	l := oneConn{make(chan net.Conn, 1)}
	l.c <- theirs
	close(l.c)
	ended := make(chan struct{})
	std := http.Server{Handler: actor(&theySaw), ErrorLog: log.New(io.Discard, "", 0), ConnState: func(_ net.Conn, st http.ConnState) {
		if st == http.StateClosed {
			close(ended)
		}
	}}
	_ = std.Serve(l)
	<-ended
	torn := false
	for i, m := range methods {
		if do, ok := strings.CutPrefix(m, "!"); ok {
			if all, _ := answered(ours.sent.Bytes(), append(methods[:i:i], do, "GET"), false); len(all) > 2*i+2 { // with 103 before each
				t.Errorf("seed %d: %q", seed, all)
			}
			methods, torn = methods[:i], true
			break
		}
	}
	a, whole := answered(ours.sent.Bytes(), methods, torn)
	theirs.mu.Lock()
	b, theirWhole := answered(theirs.sent.Bytes(), methods, torn)
	theirs.mu.Unlock()
	if fmt.Sprint(a) != fmt.Sprint(b) || whole != theirWhole || fmt.Sprint(saw) != fmt.Sprint(theySaw) {
		t.Fatalf("seed %d, pieces of %d:\n%q\nours %v %q\n%q\ntheirs %v %q\n%q\nraw\n%q\n%q", seed, piece, sent, whole, a, saw, theirWhole, b, theySaw, cut(ours.sent.String()), cut(theirs.sent.String()))
	}
}

func cut(s string) string { return s[:min(len(s), 600)] }

// TestAnswersAlike: our engine's handlers see, and our engine answers, what net/http's do,
// as a client reads it: pipelines of requests and handlers that do all they may.
func TestAnswersAlike(t *testing.T) {
	for seed := range uint64(400) {
		compareAnswers(t, seed, []int{1 << 16, 1, 7, 100}[seed%4])
	}
}

// FuzzAnswersAlike is TestAnswersAlike with other seeds.
func FuzzAnswersAlike(f *testing.F) {
	f.Add(uint64(1000), 3)
	f.Add(uint64(1001), 4096)
	f.Fuzz(func(t *testing.T, seed uint64, piece int) { compareAnswers(t, seed, min(max(piece, 1), 1<<16)) })
}
