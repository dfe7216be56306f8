package grpcgw

import (
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

func TestTimeout(t *testing.T) {
	for s, want := range map[string]time.Duration{"1H": time.Hour, "0n": 0, "99999999m": 99999999 * time.Millisecond, "10u": 10 * time.Microsecond, "007S": 7 * time.Second, "3M": 3 * time.Minute, "99999999H": math.MaxInt64} {
		if got, err := ParseTimeout(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "1", "S", "123456789S", "-1S", "+1S", " 1S", "1S ", "1.5S", "1s", "1h", "0x1S", "1SS", "١S"} {
		if got, err := ParseTimeout(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
	for d, want := range map[time.Duration]string{0: "0n", -1: "0n", 1: "1n", time.Second: "1000000u", 99_999_999: "99999999n", 100_000_001: "100001u", math.MaxInt64: "2562047H"} {
		if got := FormatTimeout(d); got != want {
			t.Errorf("%v: %s, expected %s", d, got, want)
		}
	}
}

func TestTemplates(t *testing.T) {
	for _, s := range []string{"", "v1", "/", "/v1/", "//v1", "/v1/**/x", "/{a", "/{a=}", "/{a=b{c}}", "/{.a}", "/{a..b}", "/{1a}", "/{a}/{a}", "/v1:", "/v1:a:b", "/v 1", "/***", "/{a=*", "/{a=**}/x", "/a?b", "/{a}x",
		"/" + strings.Repeat("a/", 64) + "a", "/" + strings.Repeat("a", 3000)} {
		if tmpl, err := parseTemplate(s); err == nil {
			t.Errorf("%q: taken for %+v", s, tmpl)
		}
	}
	root := &node{}
	for _, s := range []string{"/v1/a", "/v1/*", "/v1/**", "/v1/*/b", "/v1/a/c", "/v1/{x=a/*}:do", "/v1/a:do", "/v1/*/b:do", "/{rest=**}:all"} {
		tmpl, err := parseTemplate(s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		if old := root.add("GET", &binding{verb: "GET", template: tmpl}); old != nil {
			t.Errorf("%s: there is %s already", s, old)
		}
	}
	same, err := parseTemplate("/v1/{y=*}/b")
	if err != nil {
		t.Fatal(err)
	}
	if root.add("GET", &binding{template: same}) == nil {
		t.Error("two templates that match the same were both taken")
	}
	for path, want := range map[string]string{
		"/v1/a": "/v1/a", "/v1/x": "/v1/*", "/v1/x/y": "/v1/**", "/v1/a/b": "/v1/*/b", "/v1/a/c": "/v1/a/c", "/v1/a/q:do": "/v1/a/*:do",
		"/v1/a:do": "/v1/a:do", "/v1/x/b:do": "/v1/*/b:do", "/v1/x:y": "/v1/*", "/v1": "/v1/**", "/v1/": "/v1/**", "/v2": "", "/v2/x/y:all": "/**:all", "v1/a": "", "": "",
		"/v1/" + strings.Repeat("a/", 100): "",
	} {
		v, _ := root.lookup(path)
		got := ""
		if v != nil {
			got = v["GET"].template.key()
		}
		if got != want {
			t.Errorf("%s: %q, expected %q", path, got, want)
		}
	}
}

func TestMessages(t *testing.T) {
	for plain, coded := range map[string]string{"": "", "a b": "a b", "100 %": "100 %25", "\u00fc\n": "%C3%BC%0A", "\x7f": "%7F"} {
		if got := percentEncode(plain); got != coded || percentDecode(coded) != plain {
			t.Errorf("%q: %q, %q", plain, got, percentDecode(coded))
		}
	}
	for coded, plain := range map[string]string{"%": "%", "%2": "%2", "%zz": "%zz", "%c3%bc": "\u00fc", "%ff": "\uFFFD", "\xff": "\uFFFD"} {
		if got := percentDecode(coded); got != plain {
			t.Errorf("%q: %q", coded, got)
		}
	}
}

// withRules makes descriptors of one service whose methods have these rules.
func withRules(rules ...*annotations.HttpRule) *descriptorpb.FileDescriptorSet {
	shop := proto.Clone(protodesc.ToFileDescriptorProto(annotations.File_google_api_http_proto)).(*descriptorpb.FileDescriptorProto)
	shop.Name, shop.Package, shop.Options = proto.String("x.proto"), proto.String("x"), nil
	shop.Dependency = []string{"google/api/annotations.proto"}
	for _, m := range shop.MessageType {
		for _, f := range m.Field {
			if f.TypeName != nil {
				f.TypeName = proto.String(strings.Replace(f.GetTypeName(), ".google.api.", ".x.", 1))
			}
		}
	}
	svc := &descriptorpb.ServiceDescriptorProto{Name: proto.String("S")}
	for i, r := range rules {
		o := &descriptorpb.MethodOptions{}
		proto.SetExtension(o, annotations.E_Http, r)
		svc.Method = append(svc.Method, &descriptorpb.MethodDescriptorProto{Name: proto.String("M" + string(rune('0'+i))),
			InputType: proto.String(".x.HttpRule"), OutputType: proto.String(".x.HttpRule"), Options: o})
	}
	shop.Service = []*descriptorpb.ServiceDescriptorProto{svc}
	return &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{shop}}
}

func get(path string) *annotations.HttpRule {
	return &annotations.HttpRule{Pattern: &annotations.HttpRule_Get{Get: path}}
}

func TestBindings(t *testing.T) {
	post := func(path, body, response string) *annotations.HttpRule {
		return &annotations.HttpRule{Pattern: &annotations.HttpRule_Post{Post: path}, Body: body, ResponseBody: response}
	}
	for name, one := range map[string]struct {
		rules []*annotations.HttpRule
		want  string
	}{
		"good":            {[]*annotations.HttpRule{get("/a/{selector}"), post("/a/{custom.kind}", "*", "get")}, ""},
		"bad template":    {[]*annotations.HttpRule{get("/a/{selector")}, `"/a/{selector"`},
		"no such field":   {[]*annotations.HttpRule{get("/a/{nothing}")}, `no field "nothing"`},
		"too deep":        {[]*annotations.HttpRule{get("/a/{selector.x}")}, `has no fields of its own`},
		"repeated":        {[]*annotations.HttpRule{get("/a/{additional_bindings}")}, `no scalar`},
		"message":         {[]*annotations.HttpRule{get("/a/{custom}")}, `no scalar`},
		"no body":         {[]*annotations.HttpRule{post("/a", "bodi", "")}, `body "bodi" is no field`},
		"no response":     {[]*annotations.HttpRule{post("/a", "", "answer")}, `response_body "answer" is no field`},
		"same path":       {[]*annotations.HttpRule{get("/a/{selector}"), get("/a/{body}")}, `/x.S/M0 and /x.S/M1 are both bound to GET /a/*`},
		"nested addition": {[]*annotations.HttpRule{{Pattern: get("/a").Pattern, AdditionalBindings: []*annotations.HttpRule{{Pattern: get("/b").Pattern, AdditionalBindings: []*annotations.HttpRule{get("/c")}}}}}, `inside an additional binding`},
		"no pattern":      {[]*annotations.HttpRule{{Pattern: get("/a").Pattern, AdditionalBindings: []*annotations.HttpRule{{}}}}, `without pattern`},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := NewSchema(withRules(one.rules...))
			if err != nil {
				t.Fatal(err)
			}
			_, err = New(Options{Schema: s, JSON: true})
			if one.want == "" && err != nil || one.want != "" && (err == nil || !strings.Contains(err.Error(), one.want)) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	s := readSchema(t)
	bare, err := NewSchema(withRules())
	if err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]Options{
		"need descriptors":               {JSON: true},
		"max_request_message is -1":      {Limits: Limits{RequestMessage: -1}},
		"default_timeout is above":       {Limits: Limits{DefaultTimeout: 2, MaxTimeout: 1}},
		`service "x.Y" is not in the de`: {Schema: s, JSON: true, Services: []string{"x.Y"}},
		"refresh is 1ms":                 {Refresh: time.Millisecond},
		"no method has a google.api":     {Schema: bare, JSON: true},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for want, raw := range map[string]string{"no FileDescriptorSet": "\xff\xff", "no file": "", "don't fit together": "\x0a\x09\x0a\x01a\x1a\x04b/cd"} {
		if _, err := ParseSchema([]byte(raw)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestTrailers(t *testing.T) {
	h := http.Header{"Grpc-Status": {"0"}, "X": {"1"}, http.TrailerPrefix + "Y": {"2"}, "Trailer": {"Grpc-Status, grpc-message"}}
	got := takeTrailers(h, announcedTrailers(h))
	if got.Get("Grpc-Status") != "0" || got.Get("Y") != "2" || len(got) != 2 || h.Get("X") != "1" || h.Get("Grpc-Status") != "" {
		t.Errorf("%v, %v", got, h)
	}
	frame := string(webTrailerFrame(http.Header{"Grpc-Status": {"0"}, "Long": {strings.Repeat("x", 100)}, "Evil": {"a\r\ngrpc-status: 7"}}, 60))
	if frame[5:] != "grpc-status: 0\r\nevil: a  grpc-status: 7\r\n" {
		t.Errorf("%q", frame)
	}
}

// TestRawField: a stream whose messages have a google.api.HttpBody in response_body is that
// body, whatever the client likes of JSON: nothing is put around it.
func TestRawField(t *testing.T) {
	raw, err := os.ReadFile("testdata/shop.pb")
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	options := &descriptorpb.MethodOptions{}
	proto.SetExtension(options, annotations.E_Http, &annotations.HttpRule{Pattern: &annotations.HttpRule_Get{Get: "/v1/download/{name}"}, ResponseBody: "content"})
	for _, f := range set.File {
		for _, s := range f.Service {
			if s.GetName() == "Shop" {
				s.Method = append(s.Method, &descriptorpb.MethodDescriptorProto{Name: proto.String("Download"), InputType: proto.String(".np.shop.v1.FileRequest"),
					OutputType: proto.String(".np.shop.v1.FileRequest"), ServerStreaming: proto.Bool(true), Options: options})
			}
		}
	}
	if raw, err = proto.Marshal(&set); err != nil {
		t.Fatal(err)
	}
	s, err := ParseSchema(raw)
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.methods[shopPath+"Download"].bindings(false)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	message := func(kind string) []byte {
		m := dynamicpb.NewMessage(list[0].method.desc.Output())
		writeBody(m, list[0].response, []byte("ab"), kind)
		raw, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return appendMessage(nil, raw)
	}
	for _, one := range []struct{ kind, want, wantKind string }{
		{"text/plain", "abab", "text/plain"},
		{"", "abab", "application/octet-stream"},
		{"text/plain\x7f", "abab", "application/octet-stream"},
	} {
		for _, accept := range []string{"", "application/json", "text/event-stream", "image/png"} {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Accept", accept)
			w := httptest.NewRecorder()
			o := &answer{w: w, r: r, codec: &codec{b: list[0], schema: s, opts: &JSONOptions{}, max: 1 << 16}, header: http.Header{}, max: 1 << 16}
			if !o.negotiate(StreamArray) {
				t.Errorf("%q is refused", accept)
				continue
			}
			o.header.Set("Content-Type", "application/grpc")
			for range 2 {
				if _, err := o.Write(message(one.kind)); err != nil {
					t.Fatal(err)
				}
			}
			o.header.Set(http.TrailerPrefix+"Grpc-Status", "0")
			o.finish(nil)
			if got, kind := w.Body.String(), w.Header().Get("Content-Type"); got != one.want || kind != one.wantKind {
				t.Errorf("%q of %q: %q of %q", accept, one.kind, got, kind)
			}
		}
	}
}
