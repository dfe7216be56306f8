package grpcgw

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// restFront is a gateway that takes gRPC before an upstream that speaks HTTP with JSON, and
// a client of grpc-go to it.
func restFront(t *testing.T, s *Schema, upstream string, change func(*Options)) (*grpc.ClientConn, string) {
	t.Helper()
	o := Options{Schema: s, REST: true, AutoBind: true, Web: true}
	if change != nil {
		change(&o)
	}
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	h := g.Handler(&httputil.ReverseProxy{
		Rewrite:       func(p *httputil.ProxyRequest) { p.SetURL(u) },
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			why := exchange.ConnectFailed
			if errors.Is(r.Context().Err(), context.DeadlineExceeded) {
				why = exchange.DeadlineExceeded
			}
			exchange.Refuse(w, r, why, "")
		},
	})
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(exchange.With(r.Context(), &exchange.Exchange{ID: "test"})))
	}))
	front.Config.Protocols = new(http.Protocols)
	front.Config.Protocols.SetUnencryptedHTTP2(true)
	front.Config.Protocols.SetHTTP1(true)
	front.Start()
	t.Cleanup(front.Close)
	cc, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(front.URL, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc, front.URL
}

// call calls a method of the shop and returns all messages that it answers with.
func call(t *testing.T, s *Schema, cc *grpc.ClientConn, name, in string, opts ...grpc.CallOption) ([]*dynamicpb.Message, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	m := s.methods["/np.shop.v1.Shop/"+name]
	req := dynamicpb.NewMessage(m.desc.Input())
	if err := (protojson.UnmarshalOptions{Resolver: s.types}).Unmarshal([]byte(in), req); err != nil {
		t.Fatal(err)
	}
	st, err := cc.NewStream(metadata.AppendToOutgoingContext(ctx, "user", "me"), &grpc.StreamDesc{ServerStreams: true, ClientStreams: m.desc.IsStreamingClient()}, m.path, opts...)
	if err != nil {
		return nil, err
	}
	if err := st.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	_ = st.CloseSend()
	var out []*dynamicpb.Message
	for {
		one := dynamicpb.NewMessage(m.desc.Output())
		err := st.RecvMsg(one)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, one)
	}
}

// TestRESTAndBack: calls become JSON, which the transcoder makes calls again: what comes to
// the backend, and back from it, is what it is without both.
func TestRESTAndBack(t *testing.T) {
	r := newRig(t, nil)
	direct := r.dial()
	for _, stream := range []Stream{StreamLines, StreamEvents, StreamArray} {
		kind := r
		if stream != StreamLines {
			kind = newRig(t, func(o *Options, _ *rig) { o.JSONOptions.Stream = stream })
		}
		upstream := kind.front.URL
		if stream != StreamLines { // else what the stage asks for decides
			upstream = httptestProxy(t, upstream, func(h http.Header) { h.Set("Accept", "*/*") })
		}
		through, _ := restFront(t, r.schema, upstream, nil)
		for _, one := range []struct{ method, in string }{
			{"GetItem", `{"name":"shelves/1/items/2"}`},
			{"GetItem", `{"name":"shelves/a b?#/items/%2F&ü"}`},
			{"GetItem", `{"name":"alone","mask":"title,price.units"}`}, // by the additional binding
			{"GetItem", `{"name":"a:b"}`},
			{"ListItems", `{"parent":"shelves/x"}`},
			{"ListItems", `{"parent":"shelves/x","pageSize":-3,"kinds":["KIND_BOOK","KIND_TOY",7],"atMost":{"currency":"a&b=c ","units":"9007199254740993"},"since":"2024-02-03T04:05:06.5Z","age":"1.25s","sold":false,"broken":true,"weight":"-Infinity","token":"-_8A_w==","reverse":true}`},
			{"ListItems", `{"parent":"shelves/x","weight":1e-7,"by":""}`},
			{"CreateItem", `{"parent":"shelves/1","item":{"name":"n","kind":"KIND_BOOK","price":{"units":"1"},"tags":["a","b"],"picture":"AQI=","labels":{"k":"v"},"made":"2024-01-01T00:00:00Z","extra":{"@type":"type.googleapis.com/np.shop.v1.Note","text":"x"}},"requestId":"a b+c"}`},
			{"CreateItem", `{"parent":"shelves/1","item":{}}`},
			{"SetPrice", `{"currency":"EUR","units":"12"}`},
			{"DeleteItem", `{"name":"shelves/1/items/2"}`},
			{"WatchItems", `{"parent":"shelves/1","pageSize":3}`},
			{"WatchItems", `{"parent":"shelves/1"}`},
			{"WatchItems", `{"parent":"shelves/1","pageSize":2,"by":"fail"}`},
			{"WatchItems", `{"parent":"shelves/1","by":"fail"}`},
			{"GetFile", `{"name":"a/b c/ü.txt"}`},
			{"PutFile", `{"name":"a/b","content":{"contentType":"text/x","data":"aGVsbG8="}}`},
			{"Plain", `{"text":"t","number":5}`},
			{"Fail", `{"text":"because \u00fc","number":5}`},
			{"Fail", `{"text":"x","number":13}`},
			{"Fail", `{"text":"x","number":1}`},
		} {
			want, wantErr := call(t, r.schema, direct, one.method, one.in)
			got, err := call(t, r.schema, through, one.method, one.in, grpc.UseCompressor(gzip.Name))
			if len(got) != len(want) || !proto.Equal(status.Convert(err).Proto(), status.Convert(wantErr).Proto()) {
				t.Errorf("%s %s: %v, %v\nwant %v, %v", one.method, one.in, got, err, want, wantErr)
				continue
			}
			for i := range got {
				if !proto.Equal(got[i], want[i]) {
					t.Errorf("%s %s: %v\nwant %v", one.method, one.in, got[i], want[i])
				}
			}
		}
	}
}

// httptestProxy passes requests on with other fields.
func httptestProxy(t *testing.T, to string, edit func(http.Header)) string {
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(&httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(u); edit(p.Out.Header) }})
	t.Cleanup(s.Close)
	return s.URL
}

// TestRESTMetadata: fields go both ways, and what is the connection's or gRPC's does not.
func TestRESTMetadata(t *testing.T) {
	seen := make(chan *http.Request, 1)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Etag", `"1"`)
		w.Header().Set("X-Good-Bin", "AQID")
		w.Header().Set("X-Bad-Bin", "not base64!")
		w.Header().Set("Grpc-Status", "5")
		_, _ = io.WriteString(w, ` {"text": "hi"}`)
		_ = http.NewResponseController(w).Flush() // or it would be sent with a length, and no trailer
		w.Header().Set(http.TrailerPrefix+"X-Cost", "3")
	}))
	defer up.Close()
	s := readSchema(t)
	cc, _ := restFront(t, s, up.URL, func(o *Options) { o.RESTPrefix = "/api/v9" })
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "user", "me", "x-raw-bin", "\x00\xff"), 20*time.Second)
	defer cancel()
	in, out := dynamicpb.NewMessage(s.methods["/np.shop.v1.Shop/Plain"].desc.Input()), dynamicpb.NewMessage(s.methods["/np.shop.v1.Shop/Plain"].desc.Output())
	var head, trail metadata.MD
	if err := cc.Invoke(ctx, "/np.shop.v1.Shop/Plain", in, out, grpc.Header(&head), grpc.Trailer(&trail)); err != nil {
		t.Fatal(err)
	}
	if text(out, "text") != "hi" || strings.Join(head.Get("etag"), "") != `"1"` || strings.Join(head.Get("x-good-bin"), "") != "\x01\x02\x03" || head.Get("x-bad-bin") != nil || strings.Join(trail.Get("x-cost"), "") != "3" {
		t.Errorf("%v, %v, %v", out, head, trail)
	}
	r := <-seen
	if r.Method != "POST" || r.RequestURI != "/api/v9/np.shop.v1.Shop/Plain" || r.Header.Get("User") != "me" || r.Header.Get("X-Raw-Bin") != "AP8" ||
		r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Grpc-Timeout") != "" || r.Header.Get("Te") != "" || r.Header.Get("Accept-Encoding") != "identity" || r.ContentLength != 2 {
		t.Errorf("%s %s %v %d", r.Method, r.RequestURI, r.Header, r.ContentLength)
	}
}

// TestRESTAnswers: answers that are errors, or none.
func TestRESTAnswers(t *testing.T) {
	type answer struct {
		status     int
		kind, body string
	}
	var set atomic.Pointer[answer]
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := set.Load()
		w.Header().Set("Content-Type", now.kind)
		if now.kind == "gzip" {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
		}
		w.WriteHeader(now.status)
		_, _ = io.WriteString(w, now.body)
		if now.kind == "application/cut+json" {
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	}))
	up.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer up.Close()
	s := readSchema(t)
	cc, _ := restFront(t, s, up.URL, func(o *Options) { o.Limits.ResponseMessage = 1000 })
	long := strings.Repeat("x", 50_000)
	const js, lines, events = "application/json", "application/x-ndjson", "text/event-stream"
	for _, one := range []struct {
		method string
		answer
		n       int // messages
		code    codes.Code
		message string // a part of it
	}{
		{"Plain", answer{200, js, `{"text":"a"}`}, 1, 0, ""},
		{"Plain", answer{201, "application/hal+json", `{}`}, 1, 0, ""},
		{"Plain", answer{204, "", ``}, 1, 0, ""},
		{"Plain", answer{200, "", ``}, 1, 0, ""},
		{"Plain", answer{200, js, `{"unknown":1}`}, 0, codes.Internal, "not valid"},
		{"Plain", answer{200, js, `{"text":`}, 0, codes.Internal, "not valid"},
		{"Plain", answer{200, js, `{"text":"a"} {}`}, 0, codes.Internal, "not valid"},
		{"Plain", answer{200, js, `[]`}, 0, codes.Internal, "not valid"},
		{"Plain", answer{200, "text/html", `<p>`}, 0, codes.Internal, "not valid"},
		{"Plain", answer{200, "gzip", `{}`}, 0, codes.Internal, "not valid"},
		{"Plain", answer{200, js, `{"text":"` + long + `"}`}, 0, codes.ResourceExhausted, "1000"},
		{"Plain", answer{200, js, strings.Repeat("[", 900)}, 0, codes.Internal, "not valid"},
		{"ListItems", answer{200, js, `[{"name":"a"}],"unknown":[1]`}, 0, codes.Internal, "not valid"}, // out of its field
		{"ListItems", answer{200, js, `[{"name":"a"}]`}, 1, 0, ""},
		{"Plain", answer{302, "", ``}, 0, codes.Unknown, "302"},
		{"Plain", answer{400, "text/plain", "number is odd\n"}, 0, codes.InvalidArgument, "number is odd"},
		{"Plain", answer{404, "text/html", `<p>`}, 0, codes.NotFound, "404"},
		{"Plain", answer{409, js, `{"message":"busy"}`}, 0, codes.Aborted, "busy"},
		{"Plain", answer{418, js, `{"error":"teapot"}`}, 0, codes.FailedPrecondition, "teapot"},
		{"Plain", answer{422, "application/problem+json", `{"title":"t","detail":"d"}`}, 0, codes.InvalidArgument, "d"},
		{"Plain", answer{500, js, `{"code":9,"message":"m","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"R"},{"@type":"type.googleapis.com/no.Such"}]}`}, 0, codes.FailedPrecondition, "m"},
		{"Plain", answer{404, js, `{"error":{"code":404,"status":"NOT_FOUND","message":"gone","details":[]}}`}, 0, codes.NotFound, "gone"},
		{"Plain", answer{403, js, `{"error":{"code":403,"message":"no"}}`}, 0, codes.PermissionDenied, "403"},
		{"Plain", answer{503, "text/plain", long}, 0, codes.Unavailable, "xxxxxxxx"},
		{"Plain", answer{200, "application/cut+json", `{"text":`}, 0, codes.Unavailable, ""},
		{"WatchItems", answer{200, lines, "{\"name\":\"a\"}\n{\"name\":\"b\"}"}, 2, 0, ""},
		{"WatchItems", answer{200, js, " [ {\"name\":\"a\"} , {} ]\n"}, 2, 0, ""},
		{"WatchItems", answer{200, js, "[]"}, 0, 0, ""},
		{"WatchItems", answer{200, lines, ""}, 0, 0, ""},
		{"WatchItems", answer{200, js, "[{},{}"}, 2, codes.Internal, "not valid"},
		{"WatchItems", answer{200, js, "[{}{}]"}, 1, codes.Internal, "not valid"},
		{"WatchItems", answer{200, js, "[{},]"}, 1, codes.Internal, "not valid"},
		{"WatchItems", answer{200, js, "[{}]x"}, 1, codes.Internal, "not valid"},
		{"WatchItems", answer{200, lines, "{}\n{\"name\":"}, 1, codes.Internal, "not valid"},
		{"WatchItems", answer{200, lines, "{}\n{\"name\":\"" + long}, 1, codes.ResourceExhausted, "1000"},
		{"WatchItems", answer{200, lines, "{}\n{\"error\":{\"code\":5,\"message\":\"m\"}}\n"}, 1, codes.NotFound, "m"},
		{"WatchItems", answer{200, lines, "{\"error\":{\"code\":5}}\n{}\n"}, 0, codes.Internal, "not valid"},
		{"WatchItems", answer{200, events, ": hello\nid: 1\ndata: {\"name\":\ndata: \"a\"}\n\ndata:{}\r\n\r\nevent: error\ndata: {\"code\":8,\"message\":\"m\"}\n\n"}, 2, codes.ResourceExhausted, "m"},
		{"WatchItems", answer{200, events, "data: {}\n\ndata: {}"}, 1, 0, ""},
		{"WatchItems", answer{200, "text/plain", "{}"}, 0, codes.Internal, "not valid"},
		{"WatchItems", answer{500, events, "data: {}\n\n"}, 0, codes.Internal, "500"},
	} {
		set.Store(&one.answer)
		got, err := call(t, s, cc, one.method, `{}`)
		if one.method == "WatchItems" || one.method == "ListItems" {
			got, err = call(t, s, cc, one.method, `{"parent":"shelves/1"}`)
		}
		if st := status.Convert(err); len(got) != one.n || st.Code() != one.code || !strings.Contains(st.Message(), one.message) || len(st.Message()) > 2*maxStatusMessage {
			t.Errorf("%s, %d %s %.60q: %d messages, %v", one.method, one.status, one.kind, one.body, len(got), err)
		}
	}
	set.Store(&answer{500, js, `{"code":9,"message":"m","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"R"}]}`})
	_, err := call(t, s, cc, "Plain", `{}`)
	if d := status.Convert(err).Details(); len(d) != 1 || d[0].(*errdetails.ErrorInfo).GetReason() != "R" {
		t.Errorf("%v", d)
	}
}

// TestRESTRefused: calls that no request can be made of.
func TestRESTRefused(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s %s was asked", r.Method, r.RequestURI) }))
	defer up.Close()
	s := readSchema(t)
	cc, address := restFront(t, s, up.URL, func(o *Options) { o.Limits.RequestMessage = 10_000; o.AutoBind = false })
	for _, one := range []struct {
		method, in string
		code       codes.Code
		message    string
	}{
		{"SendNotes", `{}`, codes.Unimplemented, "no stream"},
		{"Chat", `{}`, codes.Unimplemented, "no stream"},
		{"Plain", `{}`, codes.Unimplemented, "no rule"},
		{"GetItem", `{}`, codes.InvalidArgument, `expected shelves/*/items/*`},
		{"GetItem", `{"name":".."}`, codes.InvalidArgument, "name"},
		{"GetItem", `{"name":"shelves/../items/a"}`, codes.InvalidArgument, "name"},
		{"ListItems", `{"parent":"shelves/a/b"}`, codes.InvalidArgument, "parent"},
		{"ListItems", `{"parent":"other/a"}`, codes.InvalidArgument, "parent"},
		{"GetFile", `{"name":"a//b"}`, codes.InvalidArgument, "name"},
		{"ListItems", `{"parent":"shelves/1","by":"` + strings.Repeat("y", 9000) + `"}`, codes.InvalidArgument, "bytes"},
		{"ListItems", `{"parent":"shelves/1","by":"` + strings.Repeat("y", 10_000) + `"}`, codes.ResourceExhausted, ""},
	} {
		if _, err := call(t, s, cc, one.method, one.in); status.Code(err) != one.code || !strings.Contains(status.Convert(err).Message(), one.message) {
			t.Errorf("%s %.80s: %v", one.method, one.in, err)
		}
	}
	big := `{"parent":"shelves/1","by":"` + strings.Repeat("z", 50_000) + `"}` // small when it is compressed
	if _, err := call(t, s, cc, "ListItems", big, grpc.UseCompressor(gzip.Name)); status.Code(err) != codes.ResourceExhausted {
		t.Error(err)
	}
	for body, want := range map[string]string{
		"":                             "13",
		"\x00\x00\x00\x00\x05a":        "13",
		"\x00\x00\x00\x00\x02\xff\xff": "3",
		"\x01\x00\x00\x00\x01a":        "13", // no grpc-encoding
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00": "13",
	} {
		resp, err := http.Post(address+"/np.shop.v1.Shop/GetItem", "application/grpc", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Grpc-Status"); got != want {
			t.Errorf("%q: %s, %s", body, got, resp.Header.Get("Grpc-Message"))
		}
	}
	for name, change := range map[string]func(*Options){
		"rest_prefix": func(o *Options) { o.RESTPrefix = "api/" },
		"descriptors": func(o *Options) { o.Schema = nil },
		"JSON and":    func(o *Options) { o.JSON = true },
		"rest = true": func(o *Options) { o.REST, o.RESTPrefix = false, "/a" },
		"no method":   func(o *Options) { o.Services = []string{"no.Such"} },
	} {
		o := Options{Schema: s, REST: true}
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRESTWeb: gRPC-Web goes to such an upstream too, and requests that are no gRPC pass.
func TestRESTWeb(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"text":"`+r.Method+` `+r.URL.Path+`"}`)
	}))
	defer up.Close()
	_, address := restFront(t, readSchema(t), up.URL, nil)
	resp, err := http.Post(address+"/np.shop.v1.Shop/Fail", "application/grpc-web+proto", strings.NewReader("\x00\x00\x00\x00\x00"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	want := "POST /v1/fail"
	if err != nil || resp.Header.Get("Content-Type") != "application/grpc-web+proto" ||
		!strings.HasPrefix(string(b), fmt.Sprintf("\x00\x00\x00\x00%c\x0a%c%s\x80", len(want)+2, len(want), want)) || !strings.Contains(string(b), "grpc-status: 0") {
		t.Errorf("%q, %v, %v", b, err, resp.Header)
	}
	resp, err = http.Get(address + "/anything")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != `{"text":"GET /anything"}` {
		t.Errorf("%q, %v", b, err)
	}
}

// TestRESTDeadline: a call's deadline ends the request, also within a stream.
func TestRESTDeadline(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ":watch") {
			w.Header().Set("Content-Type", "application/x-ndjson")
			_, _ = io.WriteString(w, "{}\n")
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.Copy(io.Discard, r.Body) // until then the server doesn't see its client go
		<-r.Context().Done()
	}))
	defer up.Close() // which waits for the handlers
	s := readSchema(t)
	cc, _ := restFront(t, s, up.URL, func(o *Options) { o.Limits.MaxTimeout = 300 * time.Millisecond })
	for method, in := range map[string]string{"Fail": `{}`, "WatchItems": `{"parent":"shelves/1"}`} {
		if _, err := call(t, s, cc, method, in); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%s: %v", method, err)
		}
	}
}
