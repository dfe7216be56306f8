package server

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const hostLine = "Host: a.test\r\n"

// hostile are requests that parsers have been found to read in more than one way. Each is
// followed by a second request on the connection, which must never be served.
func hostile() map[string]string {
	post := "POST /a HTTP/1.1\r\n" + hostLine
	m := map[string]string{
		"cl.te":                    post + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
		"te.cl":                    post + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n",
		"te twice":                 post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
		"te chunked twice":         post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"te list":                  post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		"te identity, chunked":     post + "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
		"te space before colon":    post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"te tab before colon":      post + "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
		"te tab":                   post + "Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n",
		"te trailing tab":          post + "Transfer-Encoding: chunked\t\r\n\r\n0\r\n\r\n",
		"te x":                     post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"te quoted":                post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
		"te vertical tab":          post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
		"te nul":                   post + "Transfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n",
		"te on second line":        post + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
		"te after folded":          post + "X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"te hidden by lf":          post + "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"te hidden by cr":          post + "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"te underscore":            post + "Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
		"te empty":                 post + "Transfer-Encoding:\r\n\r\n0\r\n\r\n",
		"te 1.0":                   "POST /a HTTP/1.0\r\n" + hostLine + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"te leading space name":    "POST /a HTTP/1.1\r\n Transfer-Encoding: chunked\r\n" + hostLine + "\r\n0\r\n\r\n",
		"te chunked;q":             post + "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
		"te bytes above ascii":     post + "Transfer-Encoding: \xffchunked\r\n\r\n0\r\n\r\n",
		"te comma":                 post + "Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
		"cl twice":                 post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
		"cl twice the same":        post + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
		"cl list":                  post + "Content-Length: 3, 3\r\n\r\nabc",
		"cl plus":                  post + "Content-Length: +3\r\n\r\nabc",
		"cl minus":                 post + "Content-Length: -3\r\n\r\nabc",
		"cl hex":                   post + "Content-Length: 0x3\r\n\r\nabc",
		"cl point":                 post + "Content-Length: 3.0\r\n\r\nabc",
		"cl exponent":              post + "Content-Length: 3e0\r\n\r\nabc",
		"cl space inside":          post + "Content-Length: 1 3\r\n\r\nabc",
		"cl empty":                 post + "Content-Length: \r\n\r\n",
		"cl too large":             post + "Content-Length: 18446744073709551619\r\n\r\nabc",
		"cl tab":                   post + "Content-Length:\t3\r\n\r\nabc",
		"cl underscore":            post + "Content_Length: 3\r\n\r\nabc",
		"cl space before colon":    post + "Content-Length : 3\r\n\r\nabc",
		"cl arabic digits":         post + "Content-Length: \xd9\xa3\r\n\r\nabc",
		"no host":                  "GET /a HTTP/1.1\r\n\r\n",
		"host twice":               "GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"host twice the same":      "GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
		"host empty":               "GET /a HTTP/1.1\r\nHost:\r\n\r\n",
		"host list":                "GET /a HTTP/1.1\r\nHost: a, b\r\n\r\n",
		"host user":                "GET /a HTTP/1.1\r\nHost: a@b\r\n\r\n",
		"host path":                "GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n",
		"host space":               "GET /a HTTP/1.1\r\nHost: a b\r\n\r\n",
		"host port":                "GET /a HTTP/1.1\r\nHost: a:b\r\n\r\n",
		"host port empty":          "GET /a HTTP/1.1\r\nHost: a:\r\n\r\n",
		"host space before colon":  "GET /a HTTP/1.1\r\nHost : a\r\n\r\n",
		"host folded":              "GET /a HTTP/1.1\r\nHost: a\r\n\tb\r\n\r\n",
		"host bracket":             "GET /a HTTP/1.1\r\nHost: [::1\r\n\r\n",
		"absolute other host":      "GET http://b.test/a HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"absolute user":            "GET http://u@a.test/a HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"absolute other scheme":    "GET ftp://a.test/a HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"absolute no host":         "GET http:///a HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"no leading slash":         "GET a HTTP/1.1\r\n" + hostLine + "\r\n",
		"star with get":            "GET * HTTP/1.1\r\n" + hostLine + "\r\n",
		"target nul":               "GET /\x00 HTTP/1.1\r\n" + hostLine + "\r\n",
		"target fragment":          "GET /a#b HTTP/1.1\r\n" + hostLine + "\r\n",
		"target space":             "GET /a b HTTP/1.1\r\n" + hostLine + "\r\n",
		"target tab":               "GET /a\tb HTTP/1.1\r\n" + hostLine + "\r\n",
		"target above ascii":       "GET /\xc3\xa9 HTTP/1.1\r\n" + hostLine + "\r\n",
		"target percent":           "GET /%zz HTTP/1.1\r\n" + hostLine + "\r\n",
		"target percent cut off":   "GET /%2 HTTP/1.1\r\n" + hostLine + "\r\n",
		"target delete":            "GET /\x7f HTTP/1.1\r\n" + hostLine + "\r\n",
		"two spaces":               "GET  /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"space before version":     "GET /a  HTTP/1.1\r\n" + hostLine + "\r\n",
		"space after version":      "GET /a HTTP/1.1 \r\n" + hostLine + "\r\n",
		"tab in request line":      "GET\t/a\tHTTP/1.1\r\n" + hostLine + "\r\n",
		"space first":              " GET /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"version 0.9":              "GET /a\r\n",
		"version 1.2":              "GET /a HTTP/1.2\r\n" + hostLine + "\r\n",
		"version 2.0":              "GET /a HTTP/2.0\r\n" + hostLine + "\r\n",
		"version 1.10":             "GET /a HTTP/1.10\r\n" + hostLine + "\r\n",
		"version small":            "GET /a http/1.1\r\n" + hostLine + "\r\n",
		"version other":            "GET /a XTTP/1.1\r\n" + hostLine + "\r\n",
		"method no token":          "G(T /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"method long":              strings.Repeat("G", 200) + " /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"method colon":             "GET: /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"lf alone in request line": "GET /a HTTP/1.1\n" + hostLine + "\r\n",
		"lf alone at the end":      "GET /a HTTP/1.1\r\n" + hostLine + "\n",
		"lf alone everywhere":      "GET /a HTTP/1.1\nHost: a.test\n\n",
		"cr alone":                 "GET /a HTTP/1.1\r" + hostLine + "\r\n",
		"cr cr lf":                 "GET /a HTTP/1.1\r\r\n" + hostLine + "\r\n",
		"two empty lines":          "\r\n\r\nGET /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"empty line of lf":         "\nGET /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"name empty":               "GET /a HTTP/1.1\r\n" + hostLine + ": x\r\n\r\n",
		"name with space":          "GET /a HTTP/1.1\r\n" + hostLine + "A B: x\r\n\r\n",
		"name with nul":            "GET /a HTTP/1.1\r\n" + hostLine + "A\x00: x\r\n\r\n",
		"no colon":                 "GET /a HTTP/1.1\r\n" + hostLine + "AB\r\n\r\n",
		"folded":                   "GET /a HTTP/1.1\r\n" + hostLine + "A: b\r\n c\r\n\r\n",
		"folded first":             "GET /a HTTP/1.1\r\n A: b\r\n" + hostLine + "\r\n",
		"value nul":                "GET /a HTTP/1.1\r\n" + hostLine + "A: b\x00c\r\n\r\n",
		"value delete":             "GET /a HTTP/1.1\r\n" + hostLine + "A: b\x7fc\r\n\r\n",
		"preface":                  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxx",
		"connect without port":     "CONNECT a.test HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"connect path":             "CONNECT /a HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"tls":                      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	}
	chunked := post + "Transfer-Encoding: chunked\r\n\r\n"
	for name, body := range map[string]string{
		"size 0x":             "0x5\r\nabcde\r\n0\r\n\r\n",
		"size plus":           "+5\r\nabcde\r\n0\r\n\r\n",
		"size minus":          "-5\r\nabcde\r\n0\r\n\r\n",
		"size empty":          "\r\nabcde\r\n0\r\n\r\n",
		"size space":          "5 \r\nabcde\r\n0\r\n\r\n",
		"size space first":    " 5\r\nabcde\r\n0\r\n\r\n",
		"size huge":           "fffffffffffffffff\r\nabcde\r\n0\r\n\r\n",
		"size overflow":       "10000000000000005\r\nabcde\r\n0\r\n\r\n",
		"size many zeros":     strings.Repeat("0", 40) + "5\r\nabcde\r\n0\r\n\r\n",
		"size lf":             "5\nabcde\r\n0\r\n\r\n",
		"size cr":             "5\rabcde\r\n0\r\n\r\n",
		"size cr x":           "5\rX\nabcde\r\n0\r\n\r\n",
		"size g":              "5g\r\nabcde\r\n0\r\n\r\n",
		"data longer":         "5\r\nabcdef\r\n0\r\n\r\n",
		"data shorter":        "5\r\nabcd\r\n0\r\n\r\n",
		"data without crlf":   "5\r\nabcde0\r\n\r\n",
		"data lf":             "5\r\nabcde\n0\r\n\r\n",
		"extension lf":        "5;a\nabcde\r\n0\r\n\r\n",
		"extension cr":        "5;a\rb\r\nabcde\r\n0\r\n\r\n",
		"extension nul":       "5;a\x00\r\nabcde\r\n0\r\n\r\n",
		"extension long":      "5;" + strings.Repeat("a", 4000) + "\r\nabcde\r\n0\r\n\r\n",
		"extensions many":     strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\nx\r\n", 200) + "0\r\n\r\n",
		"last lf":             "5\r\nabcde\r\n0\n\r\n",
		"end lf":              "5\r\nabcde\r\n0\r\n\n",
		"trailer cl":          "5\r\nabcde\r\n0\r\nContent-Length: 3\r\n\r\n",
		"trailer te":          "5\r\nabcde\r\n0\r\ntransfer-encoding: chunked\r\n\r\n",
		"trailer te other":    "5\r\nabcde\r\n0\r\nTransfer_Encoding: chunked\r\n\r\n",
		"trailer host":        "5\r\nabcde\r\n0\r\nHost: b\r\n\r\n",
		"trailer space":       "5\r\nabcde\r\n0\r\nA : b\r\n\r\n",
		"trailer folded":      "5\r\nabcde\r\n0\r\nA: b\r\n c\r\n\r\n",
		"trailer no colon":    "5\r\nabcde\r\n0\r\nAb\r\n\r\n",
		"trailer lf":          "5\r\nabcde\r\n0\r\nA: b\n\r\n",
		"trailers long":       "5\r\nabcde\r\n0\r\nA: " + strings.Repeat("b", 2000) + "\r\n\r\n",
		"trailers many":       "5\r\nabcde\r\n0\r\n" + strings.Repeat("A: b\r\n", 2000) + "\r\n",
		"trailer nul":         "5\r\nabcde\r\n0\r\nA: \x00\r\n\r\n",
		"no size after chunk": "5\r\nabcde\r\nGET /x HTTP/1.1\r\n\r\n",
	} {
		m["chunk "+name] = chunked + body
	}
	return m
}

// TestHostile: what has more than one reading gets one answer of 400 or 501, and nothing
// after it on the connection is served, however the bytes are cut into packets.
func TestHostile(t *testing.T) {
	r := newRig(t, Config{Handler: nil})
	next := "GET /smuggled HTTP/1.1\r\n" + hostLine + "\r\n"
	for name, q := range hostile() {
		for _, piece := range []int{0, 1, 7} {
			if piece > 0 && len(q) > 3000 {
				continue
			}
			c := r.dial()
			if piece > 0 {
				c = &pieces{c, piece}
			}
			before := len(r.requests())
			got := r.exchange(c, "GET /before HTTP/1.1\r\n"+hostLine+"\r\n"+q+next)
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
	if st := r.s.Stats(); st.Refusals[1] < uint64(len(hostile())) {
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
	for _, q := range hostile() {
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
