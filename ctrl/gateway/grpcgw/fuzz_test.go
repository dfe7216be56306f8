package grpcgw

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
)

func FuzzTimeout(f *testing.F) {
	for _, s := range []string{"1H", "99999999n", "0S", "1", "-1S", "123456789S"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseTimeout(s)
		if err != nil {
			return
		}
		if d < 0 || len(s) < 2 || len(s) > 9 {
			t.Fatalf("%q: %v", s, d)
		}
		again, err := ParseTimeout(FormatTimeout(d))
		if err != nil || again < d && d < maxDuration-1e16 || again-d > d/1e6+1 && d > 1e9 {
			t.Fatalf("%q: %v, written %s, read %v, %v", s, d, FormatTimeout(d), again, err)
		}
	})
}

// FuzzFrames checks that messages are the same however their bytes are cut.
func FuzzFrames(f *testing.F) {
	f.Add(appendMessage(appendMessage(nil, []byte("one")), nil), uint8(3))
	f.Add([]byte{1, 0, 0, 0, 0}, uint8(1))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff}, uint8(2))
	f.Fuzz(func(t *testing.T, p []byte, cut uint8) {
		whole := scanner{max: 100}
		err := whole.scan(p)
		parts := scanner{max: 100}
		var err2 error
		for rest := p; len(rest) > 0 && err2 == nil; {
			n := min(int(cut%7)+1, len(rest))
			err2 = parts.scan(rest[:n])
			rest = rest[n:]
		}
		if (err == nil) != (err2 == nil) || err == nil && (whole.end() == nil) != (parts.end() == nil) {
			t.Fatalf("%v and %v", err, err2)
		}
	})
}

func FuzzWebText(f *testing.F) {
	f.Add("AAAA", uint8(1))
	f.Add("AA==AAA=AAAA", uint8(5))
	f.Add("AA=A", uint8(2))
	f.Fuzz(func(t *testing.T, s string, cut uint8) {
		whole, err := io.ReadAll(&pieces{body: io.NopCloser(strings.NewReader(s))})
		parts, err2 := io.ReadAll(&pieces{body: io.NopCloser(iotest.OneByteReader(strings.NewReader(s)))})
		if (err == nil) != (err2 == nil) || err == nil && !bytes.Equal(whole, parts) {
			t.Fatalf("%q: %x, %v and %x, %v", s, whole, err, parts, err2)
		}
		if err == nil && !strings.Contains(s, "=") {
			if want, err := base64.StdEncoding.DecodeString(s); err != nil || !bytes.Equal(want, whole) {
				t.Fatalf("%q: %x, expected %x, %v", s, whole, want, err)
			}
		}
	})
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"/v1/{name=shelves/*/items/*}:verb", "/**", "/{a.b}/*/{c=**}", "/a/{b}/c"} {
		f.Add(s, "/v1/shelves/a%2Fb/items/2:verb")
	}
	f.Fuzz(func(t *testing.T, s, path string) {
		tmpl, err := parseTemplate(s)
		if err != nil {
			return
		}
		root := &node{}
		root.add("GET", &binding{template: tmpl})
		v, segments := root.lookup(path)
		if v == nil {
			return
		}
		for i := range tmpl.vars {
			_, _ = tmpl.vars[i].value(segments)
		}
	})
}

func FuzzSchema(f *testing.F) {
	raw, err := proto.Marshal(withRules(get("/a/{selector}")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(_ *testing.T, raw []byte) {
		if s, err := ParseSchema(raw); err == nil {
			_, _, _ = s.bind(nil, true)
		}
	})
}

// FuzzRequest makes messages of hostile requests, and JSON of what came out.
func FuzzRequest(f *testing.F) {
	s := readSchema(f)
	root, _, err := s.bind(nil, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("GET", "/v1/shelves/1/items", "page_size=3&kinds=KIND_BOOK&at_most.currency=EUR&since=2026-01-02T03:04:05Z", "")
	f.Add("POST", "/v1/shelves/9/items", "request_id=1", `{"title":"T","extra":{"@type":"type.googleapis.com/np.shop.v1.Note","text":"x"}}`)
	f.Add("POST", "/v1/notes:send", "", `[{"text":"a"},{"text":"b"}]`)
	f.Add("PUT", "/v1/files/a%2Fb/c", "", "\x00")
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		found, segments := root.lookup(path)
		b := found[method]
		if b == nil {
			return
		}
		const most = 1 << 16
		c := &codec{b: b, schema: s, opts: &JSONOptions{}, max: most, path: segments, query: query, content: "text/plain"}
		var raw []byte
		if b.method.desc.IsStreamingClient() {
			raw, err = io.ReadAll(newUpload(c, io.NopCloser(strings.NewReader(body))))
			if err == nil {
				check := scanner{max: most}
				if err := errors.Join(check.scan(raw), check.end()); err != nil {
					t.Fatal(err)
				}
			}
			return
		}
		if raw, err = c.message([]byte(body), true); err != nil {
			return
		}
		m := dynamicpb.NewMessage(b.method.desc.Input())
		if err := proto.Unmarshal(raw, m); err != nil {
			t.Fatalf("own message does not read: %v", err)
		}
	})
}

// FuzzAnswer writes a hostile backend's answer to the transcoder.
func FuzzAnswer(f *testing.F) {
	s := readSchema(f)
	item, err := proto.Marshal((&rig{schema: s}).value("Item", `{"name":"x","price":{"units":"3"}}`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("WatchItems", appendMessage(nil, item), "0", "", "text/event-stream")
	f.Add("GetItem", appendMessage(nil, item), "5", "CAUSBmVycm9yIQ", "")
	f.Add("ListItems", []byte{0, 0, 0, 0, 9, 1}, "x", "", "application/json")
	f.Fuzz(func(t *testing.T, name string, body []byte, code, details, accept string) {
		m := s.methods[shopPath+name]
		if m == nil {
			return
		}
		list, err := m.bindings(true)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		o := &answer{w: w, r: r, codec: &codec{b: list[0], schema: s, opts: &JSONOptions{}, max: 1 << 16}, header: http.Header{}, max: 1 << 16}
		if m.desc.IsStreamingServer() && !o.negotiate(StreamLines) {
			return
		}
		o.header.Set("Content-Type", "application/grpc")
		for _, p := range [][]byte{body[:len(body)/2], body[len(body)/2:]} {
			if _, err := o.Write(p); err != nil {
				break
			}
		}
		o.header.Set(http.TrailerPrefix+"Grpc-Status", code)
		o.header.Set(http.TrailerPrefix+"Grpc-Status-Details-Bin", details)
		o.finish(nil)
		out, kind := w.Body.Bytes(), w.Header().Get("Content-Type")
		if kind == "application/json" && !json.Valid(out) {
			t.Fatalf("%d: %q", w.Code, out)
		}
	})
}

func FuzzQuery(f *testing.F) {
	s := readSchema(f)
	b := &binding{method: s.methods[shopPath+"ListItems"]}
	f.Add("parent=a&page_size=-1&weight=1e300&token=AAAA&sold=null")
	f.Fuzz(func(t *testing.T, raw string) {
		m := dynamicpb.NewMessage(b.method.desc.Input())
		if b.applyQuery(m, raw, nil) == nil {
			if _, err := url.ParseQuery(raw); err != nil && !strings.Contains(raw, ";") {
				t.Fatalf("%q was taken: %v", raw, err)
			}
		}
	})
}
