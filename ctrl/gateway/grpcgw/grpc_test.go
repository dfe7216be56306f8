package grpcgw

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
)

const shopPath = "/np.shop.v1.Shop/"

// TestGRPC is grpc-go's client to grpc-go's server through the gateway.
func TestGRPC(t *testing.T) {
	r := newRig(t, nil)
	cc := r.dial()
	var header, trailer metadata.MD
	out := dynamicpb.NewMessage(r.value("Item", "{}").Descriptor())
	ctx := metadata.AppendToOutgoingContext(r.context(5*time.Second), "user", "u")
	if err := cc.Invoke(ctx, shopPath+"GetItem", r.value("GetItemRequest", `{"name":"x"}`), out, grpc.Header(&header), grpc.Trailer(&trailer), grpc.UseCompressor("gzip")); err != nil {
		t.Fatal(err)
	}
	if text(out, "name") != "an item" || header.Get("shop-user")[0] != "u" || trailer.Get("shop-cost")[0] != "3" {
		t.Errorf("%v, %v, %v", out, header, trailer)
	}
	err := cc.Invoke(ctx, shopPath+"Fail", r.value("Note", `{"number":9,"text":"no"}`), out)
	if st := status.Convert(err); st.Code() != codes.FailedPrecondition || st.Message() != "no" || len(st.Details()) != 1 {
		t.Errorf("%v", err)
	}
	if err := cc.Invoke(ctx, "/np.shop.v1.Shop/Nothing", out, out); status.Code(err) != codes.Unimplemented {
		t.Errorf("%v", err)
	}
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, shopPath+"Chat")
	if err != nil {
		t.Fatal(err)
	}
	note := dynamicpb.NewMessage(r.value("Note", "{}").Descriptor())
	for i := range 20 {
		if err := s.SendMsg(r.value("Note", `{"text":"`+strings.Repeat("x", i*1000)+`"}`)); err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(note); err != nil || number(note, "number") != int64(i+1) {
			t.Fatalf("%v, %v", note, err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(note); err != io.EOF {
		t.Errorf("%v", err)
	}
}

func TestDeadlines(t *testing.T) {
	r := newRig(t, func(o *Options, _ *rig) {
		o.Limits = Limits{MaxTimeout: 10 * time.Second, DefaultTimeout: 5 * time.Second}
	})
	cc := r.dial()
	ask := func(ctx time.Duration) time.Duration {
		t.Helper()
		c := t.Context()
		if ctx > 0 {
			c = r.context(ctx)
		}
		out := dynamicpb.NewMessage(r.value("Item", "{}").Descriptor())
		if err := cc.Invoke(c, shopPath+"GetItem", r.value("GetItemRequest", `{}`), out); err != nil {
			t.Fatal(err)
		}
		until, ok := (<-r.asked).Deadline()
		if !ok {
			t.Fatal("no deadline at the backend")
		}
		return time.Until(until)
	}
	for _, one := range []struct{ ask, least, most time.Duration }{
		{0, 0, 5 * time.Second},
		{8 * time.Second, 5 * time.Second, 8 * time.Second},
		{time.Hour, 8 * time.Second, 10 * time.Second},
	} {
		if left := ask(one.ask); left < one.least || left > one.most+time.Second {
			t.Errorf("asked for %v, %v left", one.ask, left)
		}
	}
	// A stream that hangs ends with the client's own deadline, and not by its client alone.
	resp, body := r.do("GET", "/v1/shelves/1/items:watch?page_size=1&by=hang", "", "Grpc-Timeout", "150m")
	if resp.StatusCode != 200 || !strings.Contains(body, `{"error":{"code":4,`) || resp.Trailer.Get("Grpc-Status") != "4" {
		t.Errorf("%d, %q, %v", resp.StatusCode, body, resp.Trailer)
	}
	if resp, body := r.do("GET", "/v1/shelves/1/items:watch?by=hang", "", "Grpc-Timeout", "50m"); resp.StatusCode != 504 || !strings.Contains(body, `"code":4`) {
		t.Errorf("%d, %q", resp.StatusCode, body)
	}
	if resp, body := r.do("GET", "/v1/items/x", "", "Grpc-Timeout", "+1S"); resp.StatusCode != 400 && resp.StatusCode != 500 || !strings.Contains(body, "grpc-timeout") {
		t.Errorf("%d, %q", resp.StatusCode, body)
	}
}

// raw sends a gRPC request of these bytes over h2c.
func (r *rig) raw(path string, body []byte, fields ...string) (*http.Response, []byte) {
	r.t.Helper()
	resp, text := r.with(r.client2, "POST", path, string(body), append([]string{"Content-Type", "application/grpc", "Te", "trailers"}, fields...)...)
	return resp, []byte(text)
}

// statusIn is the answer's status wherever it stands.
func statusIn(resp *http.Response) string {
	if s := resp.Trailer.Get("Grpc-Status"); s != "" {
		return s
	}
	return resp.Header.Get("Grpc-Status")
}

func TestFrames(t *testing.T) {
	r := newRig(t, func(o *Options, _ *rig) { o.Limits.RequestMessage, o.Limits.ResponseMessage = 1000, 2000 })
	note := func(n int) []byte {
		m, err := proto.Marshal(r.value("Note", `{"text":"`+strings.Repeat("x", n)+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, one := range []struct {
		name   string
		body   []byte
		fields []string
		want   string
	}{
		{"good", appendMessage(nil, note(10)), nil, "0"},
		{"at the limit", appendMessage(nil, note(1000-3)), nil, "0"},
		{"over the limit", appendMessage(nil, note(1001-3)), nil, "8"},
		{"length of a lie", []byte{0, 0xff, 0xff, 0xff, 0xff, 1}, nil, "8"},
		{"second over the limit", appendMessage(appendMessage(nil, note(10)), note(2000)), nil, "8"},
		{"unknown flag", []byte{2, 0, 0, 0, 0}, nil, "13"},
		{"trailers in a request", []byte{0x80, 0, 0, 0, 0}, nil, "13"},
		{"compressed by nothing", []byte{1, 0, 0, 0, 0}, nil, "13"},
		{"cut in the prefix", []byte{0, 0, 0}, nil, "13"},
		{"cut in the message", []byte{0, 0, 0, 0, 9, 1, 2}, nil, "13"},
		{"bad timeout", appendMessage(nil, note(1)), []string{"Grpc-Timeout", "123456789S"}, "13"},
		{"no time", appendMessage(nil, note(1)), []string{"Grpc-Timeout", "0n"}, "4"},
	} {
		t.Run(one.name, func(t *testing.T) {
			resp, _ := r.raw(shopPath+"Chat", one.body, one.fields...)
			if resp.StatusCode != 200 || statusIn(resp) != one.want {
				t.Errorf("%d, %v, %v", resp.StatusCode, resp.Header, resp.Trailer)
			}
		})
	}
	// The answer of Total repeats all texts, and so is larger than either.
	var many []byte
	for range 3 {
		many = appendMessage(many, note(900))
	}
	if resp, _ := r.raw(shopPath+"SendNotes", many); statusIn(resp) != "8" {
		t.Errorf("answer over the limit: %v, %v", resp.Header, resp.Trailer)
	}
	if resp, _ := r.with(r.client2, "GET", shopPath+"Plain", "", "Content-Type", "application/grpc"); statusIn(resp) != "12" {
		t.Errorf("GET: %d, %v", resp.StatusCode, resp.Header)
	}
}

// webAnswer cuts a binary gRPC-Web body into its messages and the trailers' lines.
func webAnswer(t *testing.T, body []byte) (messages [][]byte, trailers string) {
	t.Helper()
	for len(body) > 0 {
		if len(body) < 5 || len(body)-5 < int(binary.BigEndian.Uint32(body[1:])) || trailers != "" {
			t.Fatalf("bad frame %x", body)
		}
		n := int(binary.BigEndian.Uint32(body[1:]))
		if body[0] == flagTrailers {
			trailers = string(body[5 : 5+n])
		} else {
			messages = append(messages, body[5:5+n])
		}
		body = body[5+n:]
	}
	return messages, trailers
}

func TestWeb(t *testing.T) {
	r := newRig(t, nil)
	raw, _ := proto.Marshal(r.value("Note", `{"text":"hello"}`))
	body := appendMessage(nil, raw)
	resp, got := r.do("POST", shopPath+"Plain", string(body), "Content-Type", "application/grpc-web+proto")
	messages, trailers := webAnswer(t, []byte(got))
	if len(messages) != 1 || !bytes.Equal(messages[0], raw) || !strings.HasPrefix(trailers, "grpc-status: 0\r\n") || !strings.Contains(trailers, "shop-cost: 3\r\n") {
		t.Errorf("%q", got)
	}
	if resp.Header.Get("Content-Type") != "application/grpc-web+proto" && resp.Header.Get("Content-Type") != "application/grpc-web" || resp.Header.Get("Shop-Asked") != shopPath+"Plain" {
		t.Errorf("%v", resp.Header)
	}
	// An error with details.
	fail, _ := proto.Marshal(r.value("Note", `{"text":"a\nb","number":5}`))
	resp, got = r.do("POST", shopPath+"Fail", string(appendMessage(nil, fail)), "Content-Type", "application/grpc-web")
	_, trailers = webAnswer(t, []byte(got))
	if resp.Header.Get("Grpc-Status") == "5" {
		trailers = "grpc-status: 5\r\ngrpc-message: " + resp.Header.Get("Grpc-Message") + "\r\n"
	}
	if !strings.Contains(trailers, "grpc-status: 5\r\n") || !strings.Contains(trailers, "grpc-message: a%0Ab\r\n") {
		t.Errorf("%q %v", got, resp.Header)
	}
	if resp, _ := r.do("GET", shopPath+"Fail", "", "Content-Type", "application/grpc-web"); resp.StatusCode != 405 {
		t.Errorf("GET: %d", resp.StatusCode)
	}
	if resp, got = r.do("POST", shopPath+"Plain", "\x07\x00\x00\x00\x00", "Content-Type", "application/grpc-web"); resp.Header.Get("Grpc-Status") != "13" {
		t.Errorf("bad frame: %v, %q", resp.Header, got)
	}
}

// TestWebText sends base64 in pieces, and reads pieces.
func TestWebText(t *testing.T) {
	r := newRig(t, nil)
	m, _ := proto.Marshal(r.value("ListItemsRequest", `{"pageSize":3}`))
	frame := appendMessage(nil, m)
	for cut := range len(frame) + 1 {
		body := base64.StdEncoding.EncodeToString(frame[:cut]) + base64.StdEncoding.EncodeToString(frame[cut:])
		resp, got := r.do("POST", shopPath+"WatchItems", body, "Content-Type", "application/grpc-web-text", "Accept", "application/grpc-web-text")
		if resp.Header.Get("Content-Type") != "application/grpc-web-text" {
			t.Fatalf("%v", resp.Header)
		}
		p := &pieces{body: io.NopCloser(strings.NewReader(got))}
		plain, err := io.ReadAll(p)
		if err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		messages, trailers := webAnswer(t, plain)
		if len(messages) != 3 || !strings.Contains(trailers, "grpc-status: 0\r\n") {
			t.Fatalf("cut at %d: %q", cut, plain)
		}
	}
	for _, body := range []string{"AAAA*AAA", "AAA", "AA=A", "A===", "\r\nAAAA", "AAB="} {
		resp, got := r.do("POST", shopPath+"Plain", body, "Content-Type", "application/grpc-web-text")
		if resp.Header.Get("Grpc-Status") == "" || resp.Header.Get("Grpc-Status") == "0" {
			t.Errorf("%q: %d, %v, %q", body, resp.StatusCode, resp.Header, got)
		}
	}
}

func TestReflection(t *testing.T) {
	// Descriptors by the backend's reflection, shown again by the gateway's own.
	var doer Doer
	r := newRig(t, func(o *Options, r *rig) {
		doer = to{r.backend, &http.Client{Transport: h2c()}}
		o.Schema, o.Reflect, o.Reflection = nil, doer, true
		o.Health = func(service string) (bool, bool) { return service == "np.shop.v1.Shop", service != "other" }
	})
	if resp, body := r.do("GET", "/v1/items/x", ""); resp.StatusCode != 503 || !strings.Contains(body, "descriptors") || r.gateway.Ready() {
		t.Errorf("before: %d, %s", resp.StatusCode, body)
	}
	if err := r.gateway.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if resp, body := r.do("GET", "/v1/items/x", ""); resp.StatusCode != 200 {
		t.Errorf("after: %d, %s", resp.StatusCode, body)
	}
	through := to{strings.TrimPrefix(r.front.URL, "http://"), &http.Client{Transport: h2c()}}
	s, err := Fetch(t.Context(), through, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.Services(), " "); got != "grpc.health.v1.Health np.shop.v1.Shop" {
		t.Errorf("%s", got)
	}
	if _, err := Fetch(t.Context(), through, []string{"np.shop.v1.Nothing"}); err == nil || !strings.Contains(err.Error(), "np.shop.v1.Nothing") {
		t.Errorf("%v", err)
	}

	health := healthpb.NewHealthClient(r.dial())
	ctx := r.context(10 * time.Second)
	for service, want := range map[string]healthpb.HealthCheckResponse_ServingStatus{"np.shop.v1.Shop": healthpb.HealthCheckResponse_SERVING, "": healthpb.HealthCheckResponse_NOT_SERVING} {
		if got, err := health.Check(ctx, &healthpb.HealthCheckRequest{Service: service}); err != nil || got.Status != want {
			t.Errorf("%q: %v, %v", service, got, err)
		}
	}
	if _, err := health.Check(ctx, &healthpb.HealthCheckRequest{Service: "other"}); status.Code(err) != codes.NotFound {
		t.Errorf("%v", err)
	}
	w, err := health.Watch(ctx, &healthpb.HealthCheckRequest{Service: "np.shop.v1.Shop"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := w.Recv(); err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", got, err)
	}
	// The same over gRPC-Web and HTTP/1.1.
	q, _ := proto.Marshal(&healthpb.HealthCheckRequest{Service: "np.shop.v1.Shop"})
	_, body := r.do("POST", "/grpc.health.v1.Health/Check", string(appendMessage(nil, q)), "Content-Type", "application/grpc-web")
	if messages, trailers := webAnswer(t, []byte(body)); len(messages) != 1 || !strings.Contains(trailers, "grpc-status: 0") {
		t.Errorf("%q", body)
	}
}

// TestAdopt: what takes a gateway's place has its descriptors from the first request on.
func TestAdopt(t *testing.T) {
	r := newRig(t, func(o *Options, r *rig) { o.Schema, o.Reflect = nil, to{r.backend, &http.Client{Transport: h2c()}} })
	if err := r.gateway.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	next, err := New(Options{JSON: true, Reflect: to{"127.0.0.1:1", http.DefaultClient}, Services: []string{"np.shop.v1.Shop"}})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close(t.Context())
	if next.Ready() {
		t.Error("ready without descriptors")
	}
	if err := next.Adopt(r.gateway); err != nil || !next.Ready() {
		t.Errorf("%v", err)
	}
	other, err := New(Options{JSON: true, Reflect: to{"127.0.0.1:1", http.DefaultClient}, Services: []string{"np.other"}})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(t.Context())
	if err := other.Adopt(r.gateway); err == nil || other.Ready() {
		t.Errorf("adopted descriptors without its service: %v", err)
	}
}

// to sends requests to one address.
type to struct {
	address string
	c       *http.Client
}

func (d to) Do(r *http.Request) (*http.Response, error) {
	r.URL.Host = d.address
	return d.c.Do(r)
}

func TestNoReflection(t *testing.T) {
	r := newRig(t, nil)
	through := to{strings.TrimPrefix(r.front.URL, "http://"), &http.Client{Transport: h2c()}}
	if s, err := Fetch(t.Context(), through, nil); err != nil || len(s.Services()) != 1 { // passed through
		t.Errorf("%v, %v", s, err)
	}
}
