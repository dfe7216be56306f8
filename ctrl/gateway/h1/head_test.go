package h1

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// good are heads that are taken, with what they mean.
var good = []struct {
	name, head string
	status     int
	length     int64
	chunked    bool
	keep       bool
}{
	{"plain", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, 5, false, true},
	{"no reason", "HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n", 200, 5, false, true},
	{"no space either", "HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", 404, 0, false, true},
	{"reason with high bytes", "HTTP/1.1 200 \xc3\xbc\tx\r\nContent-Length: 0\r\n\r\n", 200, 0, false, true},
	{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", 200, -1, true, true},
	{"until close", "HTTP/1.1 200 OK\r\n\r\n", 200, -1, false, true},
	{"close", "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 1\r\n\r\n", 200, 1, false, false},
	{"1.0", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", 200, 1, false, false},
	{"1.0 kept", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n", 200, 1, false, true},
	{"no space after colon", "HTTP/1.1 200 OK\r\ncontent-length:7\r\n\r\n", 200, 7, false, true},
	{"largest length", "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n", 200, 1<<63 - 1, false, true},
	{"empty value", "HTTP/1.1 200 OK\r\nX:\r\nContent-Length: 1\r\n\r\n", 200, 1, false, true},
}

// bad are heads that are refused, with a part of why.
var bad = []struct{ name, head, why string }{
	{"no head", "hello\r\n\r\n", "status line"},
	{"2.0", "HTTP/2.0 200 OK\r\n\r\n", "status line"},
	{"1.2", "HTTP/1.2 200 OK\r\n\r\n", "status line"},
	{"small letters", "http/1.1 200 OK\r\n\r\n", "status line"},
	{"space before", " HTTP/1.1 200 OK\r\n\r\n", "status line"},
	{"two digits", "HTTP/1.1 20 OK\r\n\r\n", "three digits"},
	{"four digits", "HTTP/1.1 2000\r\n\r\n", "space after the status"},
	{"signed", "HTTP/1.1 +20 OK\r\n\r\n", "three digits"},
	{"status 99", "HTTP/1.1 099 OK\r\n\r\n", "100 to 599"},
	{"status 600", "HTTP/1.1 600 OK\r\n\r\n", "100 to 599"},
	{"two spaces", "HTTP/1.1  200 OK\r\n\r\n", "three digits"},
	{"tab", "HTTP/1.1\t200 OK\r\n\r\n", "status line"},
	{"NUL in reason", "HTTP/1.1 200 O\x00K\r\n\r\n", "reason phrase"},
	{"CR in reason", "HTTP/1.1 200 O\rK\r\n\r\n", "reason phrase"},
	{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n", "CR LF"},
	{"bare LF in field", "HTTP/1.1 200 OK\r\nA: b\nContent-Length: 1\r\n\r\n", "CR LF"},
	{"bare CR in value", "HTTP/1.1 200 OK\r\nA: b\rContent-Length: 1\r\n\r\n", "in a field's value"},
	{"CR CR LF", "HTTP/1.1 200 OK\r\nA: b\r\r\n\r\n", "in a field's value"},
	{"NUL in value", "HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n", "in a field's value"},
	{"DEL in value", "HTTP/1.1 200 OK\r\nA: b\x7f\r\n\r\n", "in a field's value"},
	{"folded", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "folded"},
	{"folded first", "HTTP/1.1 200 OK\r\n\tA: b\r\n\r\n", "folded"},
	{"space before colon", "HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n", "field's name"},
	{"tab before colon", "HTTP/1.1 200 OK\r\nContent-Length\t: 1\r\n\r\n", "field's name"},
	{"NUL in name", "HTTP/1.1 200 OK\r\nContent-Length\x00: 1\r\n\r\n", "field's name"},
	{"high byte in name", "HTTP/1.1 200 OK\r\nContent-Length\xa0: 1\r\n\r\n", "field's name"},
	{"no name", "HTTP/1.1 200 OK\r\n: 1\r\n\r\n", "without a name"},
	{"no colon", "HTTP/1.1 200 OK\r\nhello\r\n\r\n", "without a name"},
	{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "2 Content-Length"},
	{"two same lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\n", "2 Content-Length"},
	{"list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", "no number"},
	{"signed length", "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n", "no number"},
	{"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no number"},
	{"hexadecimal length", "HTTP/1.1 200 OK\r\nContent-Length: 0x1\r\n\r\n", "no number"},
	{"no length", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", "no number"},
	{"length of 2^63", "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\n", "no number"},
	{"length past 2^64", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551617\r\n\r\n", "no number"},
	{"both", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "both"},
	{"gzip, chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "other than chunked"},
	{"chunked twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", "other than chunked"},
	{"two codings", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", "other than chunked"},
	{"identity", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\n", "other than chunked"},
	{"vertical tab", "HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", "in a field's value"},
	{"quoted", "HTTP/1.1 200 OK\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", "other than chunked"},
	{"chunked in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.0"},
}

func TestGoodHeads(t *testing.T) {
	for _, one := range good {
		t.Run(one.name, func(t *testing.T) {
			h, err := parseHead(one.head, 10)
			if err != nil {
				t.Fatal(err)
			}
			keep := h.minor == 1 && !h.close || h.keep
			if h.status != one.status || h.length != one.length || h.chunked != one.chunked || keep != one.keep {
				t.Errorf("%+v", h)
			}
		})
	}
}

func TestBadHeads(t *testing.T) {
	for _, one := range bad {
		t.Run(one.name, func(t *testing.T) {
			h, err := parseHead(one.head, 10)
			var p *ProtocolError
			if !errors.As(err, &p) || !strings.Contains(p.Detail, one.why) {
				t.Errorf("%v, %+v, expected %q", err, h, one.why)
			}
		})
	}
}

func TestHeadFields(t *testing.T) {
	h, err := parseHead("HTTP/1.1 200 OK\r\nset-cookie: a \r\nSet-Cookie:\tb, c\r\nX-y_z: \xff\r\n\r\n", 10)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(h.header["Set-Cookie"], []string{"a", "b, c"}) || h.header.Get("X-Y_z") != "\xff" || len(h.header) != 2 || h.reason != "OK" || h.text != "200 OK" {
		t.Errorf("%+v", h)
	}
	h.header["Set-Cookie"] = append(h.header["Set-Cookie"], "d") // must not reach into the next field's value
	if h.header.Get("X-Y_z") != "\xff" {
		t.Errorf("%+v", h.header)
	}
	if _, err := parseHead("HTTP/1.1 200 OK\r\n"+strings.Repeat("A: b\r\n", 11)+"\r\n", 10); err == nil {
		t.Error("11 fields were taken, expected 10 at most")
	}
}

// drip gives n bytes at a time.
type drip struct {
	s string
	n int
}

func (d *drip) Read(p []byte) (int, error) {
	if d.s == "" {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), d.n)], d.s)
	d.s = d.s[n:]
	return n, nil
}

func testLimits() *Limits {
	l := &Limits{HeadBytes: 1024, Fields: 10, ExtensionBytes: 64}
	if err := l.Check(); err != nil {
		panic(err)
	}
	return l
}

// readChunks decodes s, which comes n bytes at a time and is read by pieces of size.
func readChunks(s string, n, size int) (body string, trailer http.Header, left string, err error) {
	d := &drip{s, n}
	r := &reader{src: d, buf: make([]byte, readSize)}
	c := chunked{r: r, limits: testLimits(), trailer: func(h http.Header) error { trailer = h; return nil }}
	var b strings.Builder
	p := make([]byte, size)
	for {
		k, err := c.read(p)
		b.Write(p[:k])
		if err == io.EOF {
			return b.String(), trailer, string(r.buf[r.r:r.w]) + d.s, nil
		}
		if err != nil {
			return b.String(), trailer, "", err
		}
	}
}

func TestChunked(t *testing.T) {
	for _, one := range []struct{ in, body, left string }{
		{"0\r\n\r\n", "", ""},
		{"5\r\nhello\r\n0\r\n\r\n", "hello", ""},
		{"5;a=b;c=\"d\"\r\nhello\r\n000\r\n\r\nrest", "hello", "rest"},
		{"1\r\na\r\n1\r\nb\r\n00A\r\n0123456789\r\n0;x\r\nGrpc-Status: 0\r\n\r\n", "ab0123456789", ""},
	} {
		for _, n := range []int{1, 2, 7, 1 << 20} {
			for _, size := range []int{1, 3, readSize} {
				body, trailer, left, err := readChunks(one.in, n, size)
				if err != nil || body != one.body || left != one.left {
					t.Errorf("%q by %d into %d: %q, %q, %v", one.in, n, size, body, left, err)
				}
				if strings.Contains(one.in, "Grpc") && trailer.Get("Grpc-Status") != "0" {
					t.Errorf("trailer %v", trailer)
				}
			}
		}
	}
}

func TestBadChunks(t *testing.T) {
	for _, in := range []string{
		"", "5", "5\r\nhel", "5\r\nhello", "5\r\nhello\r\n", "0\r\n", "0\r\nA: b\r\n", // cut off
		"\r\n", "g\r\n", "-1\r\n", "+1\r\na\r\n0\r\n\r\n", "0x1\r\na\r\n0\r\n\r\n", " 1\r\na\r\n0\r\n\r\n", "1 \r\na\r\n0\r\n\r\n",
		"1\na\r\n0\r\n\r\n", "1\r\na\n0\r\n\r\n", "1\r\nab\r\n0\r\n\r\n", "1\ra\r\n0\r\n\r\n", "1\r\na0\r\n\r\n",
		"1;a\x00\r\na\r\n0\r\n\r\n", "1;a\rb\r\na\r\n0\r\n\r\n", "1,a\r\na\r\n0\r\n\r\n",
		"1000000000000000\r\n", "ffffffffffffffffff\r\n", "00000000000000001\r\na\r\n0\r\n\r\n",
		"1;" + strings.Repeat("a", maxChunkLine) + "\r\na\r\n0\r\n\r\n",
		strings.Repeat("1;aaaaaaaaaaaaaaa\r\na\r\n", 5) + "0\r\n\r\n", // 80 bytes of extensions, 64 are allowed
		"0\r\nA: b\n\r\n", "0\r\n A: b\r\n\r\n", "0\r\nContent-Length: 5\r\n\r\n", "0\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\nA\r\n\r\n",
		"0\r\nA: " + strings.Repeat("a", 1024) + "\r\n\r\n",
		"0\r\n" + strings.Repeat("A: b\r\n", 11) + "\r\n",
	} {
		for _, n := range []int{1, 1 << 20} {
			if body, _, _, err := readChunks(in, n, 100); err == nil {
				t.Errorf("%q by %d: %q, expected an error", in, n, body)
			}
		}
	}
}

// TestChunksAsTheyCome: data is returned before the rest of its framing is there.
func TestChunksAsTheyCome(t *testing.T) {
	pr, pw := io.Pipe()
	c := chunked{r: &reader{src: pr, buf: make([]byte, readSize)}, limits: testLimits(), trailer: func(http.Header) error { return nil }}
	for _, one := range []struct{ in, out string }{{"1\r\na", "a"}, {"\r\n2\r\nbc\r\n", "bc"}, {"1\r\nd\r\n1\r\ne\r\n0\r\n", "de"}} {
		go io.WriteString(pw, one.in)
		p := make([]byte, 100)
		if n, err := c.read(p); err != nil || string(p[:n]) != one.out {
			t.Fatalf("%q, %v, expected %q", p[:n], err, one.out)
		}
	}
	go io.WriteString(pw, "\r\n")
	if n, err := c.read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatal(n, err)
	}
}

func FuzzResponseHead(f *testing.F) {
	for _, g := range good {
		f.Add(g.head)
	}
	for _, b := range bad {
		f.Add(b.head)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := &reader{src: &drip{s, 7}, buf: make([]byte, readSize)}
		block, err := r.block(1024)
		if err != nil {
			return
		}
		if len(block) > 1024 || !strings.HasSuffix(block, "\r\n") || !strings.HasPrefix(s, block) {
			t.Fatalf("block %q of %q", block, s)
		}
		h, err := parseHead(block, 10)
		if err != nil {
			return
		}
		n := 0
		for name, values := range h.header {
			if all(name, token) >= 0 || name == "" || len(values) == 0 {
				t.Fatalf("field %q: %q", name, values)
			}
			for _, v := range values {
				if n++; all(v, field) >= 0 || strings.Trim(v, " \t") != v {
					t.Fatalf("field %q: %q", name, v)
				}
			}
		}
		if n > 10 || h.status < 100 || h.status > 599 || h.chunked && h.length >= 0 || h.length < -1 {
			t.Fatalf("%+v", h)
		}
		// net/http is more lenient: what we take it takes too, and frames the same way.
		checkAgainstNetHTTP(t, block, h)
	})
}

func FuzzChunked(f *testing.F) {
	f.Add("5\r\nhello\r\n0\r\n\r\n", 3)
	f.Add("5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\nrest", 1)
	f.Add("1\r\nab\r\n0\r\n\r\n", 100)
	f.Fuzz(func(t *testing.T, s string, n int) {
		n = max(n, 1)
		body, trailer, left, err := readChunks(s, n, 64)
		again, trailer2, left2, err2 := readChunks(s, 1, 1000)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("%q: %v by %d, %v by 1", s, err, n, err2)
		}
		if err != nil {
			return
		}
		if body != again || left != left2 || fmt.Sprint(trailer) != fmt.Sprint(trailer2) || !strings.HasSuffix(s, left) || len(body)+len(left) > len(s) {
			t.Fatalf("%q: %q and %q, left %q and %q", s, body, again, left, left2)
		}
	})
}
