package grpcgw

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// split feeds a stream in pieces of n bytes and returns its values.
func split(p []byte, n int, events bool) (out []string, err error) {
	s := &splitter{max: 200, events: events, value: func(v []byte, event string) error {
		out = append(out, event+"\n"+string(v))
		return nil
	}}
	for rest := p; len(rest) > 0; {
		k := min(n, len(rest))
		if err := s.feed(rest[:k]); err != nil {
			return out, err
		}
		rest = rest[k:]
	}
	return out, s.end()
}

// FuzzRESTStream checks that the values of a stream are the same however its bytes come,
// and that they are the ones that encoding/json finds.
func FuzzRESTStream(f *testing.F) {
	for _, s := range []string{`{"a":1}` + "\n" + `{"b":"]}\""}`, `[{},[1],"x\\",-1e5,true,null]`, `[]`, ` [ 1 , 2 ] `, `1 2`, `"a""b"`, `[1,]`, `[1 2]`, `{`, "data: {}\n\nevent: error\r\ndata: 1\r\ndata\r\r"} {
		f.Add([]byte(s), uint8(1), false)
		f.Add([]byte(s), uint8(3), true)
	}
	f.Fuzz(func(t *testing.T, p []byte, cut uint8, events bool) {
		whole, err := split(p, max(1, len(p)), events)
		parts, err2 := split(p, int(cut%9)+1, events)
		if (err == nil) != (err2 == nil) || !slices.Equal(whole, parts) {
			t.Fatalf("%q, %v and %q, %v", whole, err, parts, err2)
		}
		for _, v := range whole {
			if _, v, _ := strings.Cut(v, "\n"); len(v) > 200 || !json.Valid([]byte(v)) {
				t.Fatalf("value %q", v)
			}
		}
		if err != nil || events {
			return
		}
		var want []string
		if bytes.HasPrefix(bytes.TrimLeft(p, " \t\r\n"), []byte("[")) {
			var all []json.RawMessage
			if err := json.Unmarshal(p, &all); err != nil {
				t.Fatalf("%q is no array: %v", p, err)
			}
			for _, v := range all {
				want = append(want, "\n"+string(v))
			}
		} else {
			dec := json.NewDecoder(bytes.NewReader(p))
			for {
				var v json.RawMessage
				err := dec.Decode(&v)
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatalf("%q: values %q, then %v", p, whole, err)
				}
				want = append(want, "\n"+string(v))
			}
		}
		if !slices.Equal(whole, want) {
			t.Fatalf("%q, expected %q", whole, want)
		}
	})
}

// FuzzRESTAnswer sends an upstream's answers through: what the client gets is messages
// within the limit, and a status.
func FuzzRESTAnswer(f *testing.F) {
	s := readSchema(f)
	methods, err := s.restMethods(nil, true)
	if err != nil {
		f.Fatal(err)
	}
	names := []string{"Plain", "ListItems", "WatchItems", "GetFile", "DeleteItem"}
	kinds := []string{"application/json", "application/x-ndjson", "text/event-stream", "text/plain", "", "application/problem+json"}
	for i, body := range []string{`{"text":"a"}`, `[{"name":"a"}]`, `{"error":{"code":5,"status":"NOT_FOUND","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo"}]}}`, "data: {}\n\n", `{"code":3,"message":"ü"}`, `{"extra":{"@type":"type.googleapis.com/np.shop.v1.Item","extra":{}}}`} {
		f.Add(uint8(i), uint8(i), uint16(200), []byte(body), uint8(5))
		f.Add(uint8(i), uint8(0), uint16(400+i), []byte(body), uint8(100))
	}
	f.Fuzz(func(t *testing.T, name, kind uint8, code uint16, body []byte, cut uint8) {
		b := methods["/np.shop.v1.Shop/"+names[int(name)%len(names)]][0]
		w := httptest.NewRecorder()
		x := &exchange.Exchange{}
		ctx := exchange.With(t.Context(), x)
		const most = 500
		o := &restAnswer{w: w, ctx: ctx, x: x, b: b, schema: s, opts: &JSONOptions{IgnoreUnknown: cut%2 == 0}, max: most, header: http.Header{}}
		o.header.Set("Content-Type", kinds[int(kind)%len(kinds)])
		o.WriteHeader(200 + int(code)%400)
		for rest := body; len(rest) > 0; {
			n := min(int(cut)+1, len(rest))
			if _, err := o.Write(rest[:n]); err != nil {
				break
			}
			rest = rest[n:]
		}
		o.finish(nil)
		st := w.Header().Get("Grpc-Status")
		if st == "" {
			st = w.Header().Get(http.TrailerPrefix + "Grpc-Status")
		}
		if n, err := strconv.Atoi(st); err != nil || n < 0 || n > 16 || w.Code != 200 {
			t.Fatalf("status %q, %d", st, w.Code)
		}
		messages := 0
		for out := w.Body.Bytes(); len(out) > 0; messages++ {
			scan := scanner{max: most}
			n, err := scan.prefix(out[:min(prefixSize, len(out))])
			if err != nil || len(out) < prefixSize+int(n) {
				t.Fatalf("%v in %q", err, out)
			}
			if err := proto.Unmarshal(out[prefixSize:prefixSize+n], dynamicpb.NewMessage(b.method.desc.Output())); err != nil {
				t.Fatal(err)
			}
			out = out[prefixSize+n:]
		}
		if st == "0" && messages != 1 && !b.method.desc.IsStreamingServer() {
			t.Fatalf("%d messages", messages)
		}
	})
}

// FuzzRESTRequest makes requests of messages: their targets are paths that lead where the
// rule says, and read again they are the same fields.
func FuzzRESTRequest(f *testing.F) {
	s := readSchema(f)
	methods, err := s.restMethods(nil, true)
	if err != nil {
		f.Fatal(err)
	}
	root, _, err := s.bind(nil, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("shelves/1", "a", int64(1), 1.5)
	f.Add("shelves/%2F", "..", int64(-1), 0.0)
	f.Add("a/b/c", "ü&=?#", int64(7), -1.0)
	f.Add("shelves/0", "0", int64(0), 0.0)
	f.Fuzz(func(t *testing.T, name, by string, number int64, weight float64) {
		for _, one := range []string{"GetItem", "ListItems", "GetFile"} {
			list := methods["/np.shop.v1.Shop/"+one]
			m := dynamicpb.NewMessage(list[0].method.desc.Input())
			set := func(field, text string) bool {
				fields, err := fieldPath(m.Descriptor(), field, false)
				return err != nil || setField(m, fields, text) == nil
			}
			if !set("name", name) || !set("parent", name) || !set("by", by) || !set("page_size", strconv.Itoa(int(int32(number)))) ||
				!set("at_most.units", strconv.FormatInt(number, 10)) || !set("weight", floatText(weight, 64)) {
				continue
			}
			b, path, err := choose(list, m)
			if err != nil {
				continue
			}
			query, err := b.query(m, &JSONOptions{})
			if err != nil {
				continue
			}
			found, segments := root.lookup(path)
			if to := found[b.verb]; to == nil || to.String() != b.String() || to.method.path != b.method.path {
				t.Fatalf("%s: %s leads to %v", b, path, found)
			}
			again := dynamicpb.NewMessage(m.Descriptor())
			if err := b.applyQuery(again, query, nil); err != nil {
				t.Fatal(err)
			}
			if err := b.applyPath(again, segments); err != nil {
				t.Fatal(err)
			}
			if f := m.Descriptor().Fields().ByName("at_most"); f != nil && number == 0 {
				m.Clear(f) // no parameter says that a message is there and empty
			}
			if !strings.Contains(strings.ToUpper(name), "%2F") && !proto.Equal(m, again) { // of which path templates tell no difference
				t.Fatalf("%s?%s: %v, expected %v", path, query, again, m)
			}
		}
	})
}
