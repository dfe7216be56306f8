package bhttp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// Examples of RFC 9292 §5.
const (
	// GET /hello.txt, known length.
	exampleRequest = "00034745540568747470730a2f68656c6c6f2e747874406c0a757365722d6167656e74346375726c2f372e31362e33206c69626375726c2f372e31362e33204f70656e53534c2f302e392e376c207a6c69622f312e322e3304686f73740f7777772e6578616d706c652e636f6d0f6163636570742d6c616e677561676506656e2c206d690000"
)

func TestExample(t *testing.T) {
	// The authority is empty in the RFC's example, and host a field: we refuse the field,
	// since it could say something else than the authority.
	raw, err := hex.DecodeString(strings.Replace(exampleRequest, "0a2f68656c6c6f", "000a2f68656c6c6f", 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseRequest(raw, Limits{}); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "field host") {
		t.Errorf("%v", err)
	}
	raw = bytes.Replace(raw, []byte("\x04host"), []byte("\x04hosu"), 1)
	r, err := ParseRequest(raw, Limits{})
	if err != nil || r.Method != "GET" || r.Path != "/hello.txt" || r.Header.Get("Accept-Language") != "en, mi" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestRound(t *testing.T) {
	q := &Request{Method: "POST", Scheme: "https", Authority: "a.example:8443", Path: "/x?y=%20", Header: http.Header{"A": {"1", ""}, "Content-Type": {"text/plain"}}, Body: bytes.Repeat([]byte("body"), 5000), Trailer: http.Header{"T": {"2"}}}
	raw, err := AppendRequest(nil, q)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRequest(append(raw, 0, 0, 0), Limits{Body: 20000})
	if err != nil || !reflect.DeepEqual(got, q) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := ParseRequest(raw, Limits{Body: 19999}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
	a := &Response{Status: 404, Header: http.Header{"A": {"1"}}, Body: []byte{}, Trailer: http.Header{}}
	if raw, err = AppendResponse(nil, a); err != nil {
		t.Fatal(err)
	}
	if got, err := ParseResponse(raw, Limits{}); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("%+v, %v", got, err)
	}
	// Cut after the head: content and trailer may be left out (§3.8).
	if got, err := ParseResponse(raw[:len(raw)-2], Limits{}); err != nil || got.Status != 404 {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range len(raw) - 2 {
		if _, err := ParseResponse(raw[:i], Limits{}); !errors.Is(err, ErrFormat) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
}

func TestStream(t *testing.T) {
	raw, err := AppendResponseHead(nil, 200, http.Header{"A": {"1"}, "Connection": {"close"}})
	if err != nil {
		t.Fatal(err)
	}
	raw = AppendChunk(AppendChunk(AppendChunk(raw, []byte("one")), nil), bytes.Repeat([]byte("x"), 100))
	whole, err := AppendEnd(raw, http.Header{"T": {"2"}})
	if err != nil {
		t.Fatal(err)
	}
	d := NewReader(iotest.OneByteReader(bytes.NewReader(whole)), Limits{})
	r, err := d.Response()
	if err != nil || r.Status != 200 || len(r.Header) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	body, err := io.ReadAll(d)
	if err != nil || string(body) != "one"+strings.Repeat("x", 100) || d.Trailer().Get("T") != "2" {
		t.Errorf("%q, %v, %v", body, err, d.Trailer())
	}
	d = NewReader(bytes.NewReader(raw), Limits{})
	if _, err = d.Response(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(d); !errors.Is(err, ErrFormat) {
		t.Errorf("a body without end: %v", err)
	}
	// Informational answers are skipped.
	early := []byte{streamResponse, 0x40, 103, 4, 'l', 'i', 'n', 'k', 1, 'x', 0}
	if r, err := NewReader(bytes.NewReader(append(early, whole[1:]...)), Limits{}).Response(); err != nil || r.Status != 200 || r.Header.Get("Link") != "" {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := NewReader(bytes.NewReader(append([]byte{streamResponse}, bytes.Repeat(early[1:], 9)...)), Limits{}).Response(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
}

func TestBad(t *testing.T) {
	ok := func() *Request {
		return &Request{Method: "GET", Scheme: "http", Authority: "a", Path: "/", Header: http.Header{}}
	}
	for name, change := range map[string]func(*Request){
		"method": func(r *Request) { r.Method = "G T" }, "connect": func(r *Request) { r.Method = "CONNECT" }, "scheme": func(r *Request) { r.Scheme = "ftp" },
		"authority": func(r *Request) { r.Authority = "a b" }, "path": func(r *Request) { r.Path = "x" }, "star": func(r *Request) { r.Path = "*" },
		"space": func(r *Request) { r.Path = "/ HTTP/1.1" }, "field": func(r *Request) { r.Header["A b"] = []string{""} }, "value": func(r *Request) { r.Header["A"] = []string{"\r\nB: c"} },
	} {
		r := ok()
		change(r)
		if raw, err := AppendRequest(nil, r); err == nil {
			t.Errorf("%s: written as %x", name, raw)
		}
	}
	head := "\x00\x03GET\x04http\x01a\x01/"
	for name, raw := range map[string]string{
		"answer for a request": "\x01", "framing": "\x04", "nothing": "", "method": "\x00\x03G T\x04http\x00\x01/", "capital": head + "\x04\x01A\x01b", "pseudo": head + "\x05\x02:a\x01b",
		"connection": head + "\x0d\x0aconnection\x01b", "newline": head + "\x05\x01a\x02\nb", "beyond": head + "\x03\x01a\x02bc", "no name": head + "\x02\x00\x01",
		"behind": head + "\x00\x00\x00x", "space": head + "\x05\x01a\x02 b", "body cut": head + "\x00\x05abc",
	} {
		if r, err := ParseRequest([]byte(raw), Limits{}); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	for name, raw := range map[string]string{
		"long method": "\x00\xbf\xff\xff\xff", "long fields": head + "\xbf\xff\xff\xff", "long name": "\x02" + head[1:] + "\xbf\xff\xff\xff",
		"many fields": "\x02" + head[1:] + strings.Repeat("\x01a\x01b", 200), "padding": head + "\x00\x00\x00" + strings.Repeat("\x00", 40<<10),
		"many bytes of numbers": "\x02" + head[1:] + strings.Repeat("\x01a\xc0\x00\x00\x00\x00\x00\x00\x00", 10000),
	} {
		if r, err := ParseRequest([]byte(raw), Limits{}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func FuzzRequest(f *testing.F) {
	raw, _ := AppendRequest(nil, &Request{Method: "POST", Scheme: "https", Authority: "a", Path: "/x", Header: http.Header{"A": {"1"}}, Body: []byte("b"), Trailer: http.Header{"T": {"2"}}})
	f.Add(raw)
	head, _ := AppendRequestHead(nil, &Request{Method: "GET", Scheme: "http", Path: "/"})
	end, _ := AppendEnd(AppendChunk(head, []byte("abc")), nil)
	f.Add(end)
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := ParseRequest(raw, Limits{Head: 1 << 10, Fields: 8, Body: 1 << 16})
		if err != nil {
			return
		}
		again, err := AppendRequest(nil, r)
		if err != nil {
			t.Fatalf("%+v does not write: %v", r, err)
		}
		r2, err := ParseRequest(again, Limits{Head: 1 << 12, Fields: 8, Body: 1 << 16})
		if err != nil || r2.Method != r.Method || r2.Path != r.Path || !bytes.Equal(r.Body, r2.Body) || !reflect.DeepEqual(r.Header, r2.Header) {
			t.Fatalf("%+v and %+v, %v", r, r2, err)
		}
	})
}

func FuzzResponse(f *testing.F) {
	raw, _ := AppendResponse(nil, &Response{Status: 200, Header: http.Header{"A": {"1"}}, Body: []byte("b")})
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		whole, err := ParseResponse(raw, Limits{Head: 1 << 10, Fields: 8, Body: 1 << 16})
		d := NewReader(iotest.OneByteReader(bytes.NewReader(raw)), Limits{Head: 1 << 10, Fields: 8, Body: 1 << 16})
		r, err2 := d.Response()
		var body []byte
		if err2 == nil {
			body, err2 = io.ReadAll(d)
		}
		if (err == nil) != (err2 == nil) || err == nil && (r.Status != whole.Status || !bytes.Equal(body, whole.Body)) {
			t.Fatalf("%v and %v", err, err2)
		}
	})
}
