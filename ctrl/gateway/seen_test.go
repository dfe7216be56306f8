package gateway

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
)

// collector takes spans by OTLP over HTTPS.
type collector struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*tracepb.Span
	key   string
}

func newCollector(t *testing.T) *collector {
	c := &collector{}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		data, err := io.ReadAll(z)
		var m collectorpb.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(data, &m)
		}
		if err != nil {
			t.Error(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.key = r.Header.Get("X-Key")
		for _, rs := range m.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				c.spans = append(c.spans, ss.Spans...)
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *collector) wait(t *testing.T, n int) []*tracepb.Span {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		got := append([]*tracepb.Span(nil), c.spans...)
		c.mu.Unlock()
		if len(got) >= n || time.Now().After(deadline) {
			return got
		}
	}
}

func attribute(s *tracepb.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			if n := a.Value.GetIntValue(); n != 0 {
				return fmt.Sprint(n)
			}
			return a.Value.GetStringValue()
		}
	}
	return ""
}

// logged waits for n lines of an access log.
func logged(t *testing.T, path string, n int) (out []map[string]any) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		data, _ := os.ReadFile(path)
		if bytes.Count(data, []byte{'\n'}) < n && time.Now().Before(deadline) {
			continue
		}
		for line := range bytes.Lines(data) {
			var m map[string]any
			if err := json.Unmarshal(line, &m); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			out = append(out, m)
		}
		slices.SortFunc(out, func(a, b map[string]any) int { return strings.Compare(a["time"].(string), b["time"].(string)) })
		return out
	}
}

func seenText(dir string, c *collector, backend string) string {
	return fmt.Sprintf(`
[access_log]
file = %q
query = true
[tracing]
endpoint = %q
ca_file = %q
headers_file = %q
[[upstream]]
name = "u"
endpoints = [%q]
retry.attempts = 2
[[route]]
name = "all"
path_prefix = "/"
upstream = "u"
`, filepath.Join(dir, "access.log"), c.URL, filepath.Join(dir, "ca.pem"), filepath.Join(dir, "fields"), backend)
}

func TestSeen(t *testing.T) {
	dir, c := t.TempDir(), newCollector(t)
	for name, data := range map[string][]byte{"ca.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw}), "fields": []byte("# the collector's\nX-Key: s3cret\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parents := make(chan http.Header, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parents <- r.Header
		fmt.Fprint(w, "hello")
	}))
	defer s.Close()
	r := newRig(t, seenText(dir, c, strings.TrimPrefix(s.URL, "http://")))
	req, err := http.NewRequest("POST", r.url+"/a%20b?x=1", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	const id = "0af7651916cd43dd8448eb211c80319c"
	req.Header.Set("traceparent", "00-"+id+"-b7ad6b7169203331-01")
	req.Header.Set("tracestate", "v=1")
	res, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	spans := c.wait(t, 2)
	if len(spans) != 2 || c.key != "s3cret" {
		t.Fatalf("%d spans, key %q\n%v\n%+v", len(spans), c.key, spans, r.Seen())
	}
	try, hop := spans[0], spans[1]
	if fmt.Sprintf("%x", hop.TraceId) != id || fmt.Sprintf("%x", hop.ParentSpanId) != "b7ad6b7169203331" || !bytes.Equal(try.ParentSpanId, hop.SpanId) || hop.TraceState != "v=1" {
		t.Errorf("hop %v\ntry %v", hop, try)
	}
	if h := <-parents; h.Get("Traceparent") != fmt.Sprintf("00-%s-%x-01", id, try.SpanId) || h.Get("Tracestate") != "v=1" || len(h.Values("Traceparent")) != 1 {
		t.Errorf("backend saw %v", h)
	}
	for key, want := range map[string]string{"http.request.method": "POST", "url.path": "/a%20b", "url.scheme": "http", "http.response.status_code": "200", "http.request.body.size": "4",
		"http.response.body.size": "5", "np.route": "all", "np.upstream": "u", "np.listener": "web", "network.protocol.version": "1.1", "client.address": "127.0.0.1"} {
		if got := attribute(hop, key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	if hop.Name != "POST all" || try.Name != "POST u" || attribute(try, "server.address") != "127.0.0.1" || attribute(try, "http.response.status_code") != "200" || try.Status.Code == tracepb.Status_STATUS_CODE_ERROR {
		t.Errorf("%v\n%v", hop, try)
	}
	line := logged(t, filepath.Join(dir, "access.log"), 1)[0]
	for key, want := range map[string]any{"listener": "web", "protocol": "http/1.1", "method": "POST", "path": "/a%20b", "query": "x=1", "status": 200.0, "reason": "none", "route": "all", "upstream": "u",
		"endpoint": strings.TrimPrefix(s.URL, "http://"), "tries": 1.0, "trace_id": id, "received_bytes": 4.0, "sent_bytes": 5.0, "user_agent": "Go-http-client/1.1"} {
		if line[key] != want {
			t.Errorf("%s: %v, want %v", key, line[key], want)
		}
	}
	for deadline := time.Now().Add(time.Minute); (r.Seen().Tracing.Exported < 2 || r.Seen().AccessLog.All.Lines < 1) && time.Now().Before(deadline); { // counted when the collector answered, and when the line was written
		time.Sleep(time.Millisecond)
	}
	if got := r.Seen(); len(got.Requests) != 1 || got.Requests[0].Requests != 1 || got.Requests[0].Received != 4 || got.Requests[0].Route != "all" || got.InFlight["web"] != 0 || got.AccessLog.All.Lines != 1 || got.Tracing.Exported != 2 || got.Generation != 1 {
		t.Errorf("%+v", got)
	}
}

// TestSeenFailure: a backend that is not there: two tries, the reason in the log, and spans that say so.
func TestSeenFailure(t *testing.T) {
	dir, c := t.TempDir(), newCollector(t)
	for name, data := range map[string][]byte{"ca.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw}), "fields": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	r := newRig(t, seenText(dir, c, strings.TrimPrefix(gone.URL, "http://")))
	if status, _, _ := r.get(t, "/"); status != 502 && status != 503 {
		t.Fatalf("status %d", status)
	}
	spans := c.wait(t, 3)
	if len(spans) != 3 {
		t.Fatalf("%d spans", len(spans))
	}
	for i, s := range spans {
		if s.Status.Code != tracepb.Status_STATUS_CODE_ERROR || s.Status.Message == "" || !bytes.Equal(s.TraceId, spans[0].TraceId) {
			t.Errorf("span %d: %v", i, s)
		}
	}
	if attribute(spans[1], "http.request.resend_count") != "1" || attribute(spans[2], "error.type") != "connect_failed" {
		t.Errorf("%v\n%v", spans[1], spans[2])
	}
	line := logged(t, filepath.Join(dir, "access.log"), 1)[0]
	if line["reason"] != "connect_failed" || line["tries"] != 2.0 || len(line["errors"].([]any)) == 0 {
		t.Errorf("%v", line)
	}
}

// TestSeenTrust: whose trace goes on, and what the backend sees of one that does not.
func TestSeenTrust(t *testing.T) {
	parents := make(chan http.Header, 10)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { parents <- r.Header }))
	defer s.Close()
	c := newCollector(t)
	const id = "0af7651916cd43dd8448eb211c80319c"
	for _, one := range []struct {
		tracing string
		goesOn  bool
	}{
		{"", true}, // no collector: fields pass as they come
		{`endpoint = "` + c.URL + `"`, true},
		{`endpoint = "` + c.URL + "\"\ntrust = \"trusted\"", false},
		{`endpoint = "` + c.URL + "\"\ntrust = \"none\"", false},
	} {
		text := upstreamOf("u", strings.TrimPrefix(s.URL, "http://")) + "[[route]]\nname = \"all\"\npath_prefix = \"/\"\nupstream = \"u\"\n[tracing]\n" + one.tracing + "\n"
		r := newRig(t, text)
		req, err := http.NewRequest("GET", r.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("traceparent", "00-"+id+"-b7ad6b7169203331-01")
		req.Header.Set("tracestate", "v=1")
		res, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		h := <-parents
		if got := strings.Contains(h.Get("Traceparent"), id); got != one.goesOn || (h.Get("Tracestate") == "v=1") != one.goesOn || len(h.Values("Traceparent")) != 1 {
			t.Errorf("%q: %v", one.tracing, h)
		}
	}
}

// TestSeenGRPC: the code of gRPC, from an answer of trailers alone and from trailers.
func TestSeenGRPC(t *testing.T) {
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-served })
	file := filepath.Join(t.TempDir(), "access.log")
	r := newRig(t, fmt.Sprintf("[access_log]\nfile = %q\n", file)+upstreamOf("u", l.Addr().String())+"protocol = \"h2c\"\n[[route]]\nname = \"all\"\npath_prefix = \"/\"\nupstream = \"u\"\n")
	c, err := grpc.NewClient(strings.TrimPrefix(r.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, service := range []string{"", "none"} {
		_, err := grpc_health_v1.NewHealthClient(c).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
		if (err == nil) != (service == "") {
			t.Fatalf("%q: %v", service, err)
		}
	}
	lines := logged(t, file, 2)
	if len(lines) == 2 && lines[0]["grpc_status"] == 5.0 { // the client may be told before the line is written
		lines[0], lines[1] = lines[1], lines[0]
	}
	if len(lines) != 2 || lines[0]["grpc_status"] != 0.0 || lines[1]["grpc_status"] != 5.0 || lines[1]["status"] != 200.0 || lines[0]["path"] != "/grpc.health.v1.Health/Check" || lines[0]["protocol"] != "h2" {
		t.Errorf("%v", lines)
	}
}

// TestFilesChange: a reload takes files that changed under the same name.
func TestFilesChange(t *testing.T) {
	c, dir := newCollector(t), t.TempDir()
	ca, fields := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "fields")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pemText := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw}))
	write(ca, pemText)
	write(fields, "X-Key: one\n")
	text := fmt.Sprintf("[tracing]\nendpoint = %q\nca_file = %q\nheaders_file = %q\n", c.URL, ca, fields) + upstreamOf("u", "127.0.0.1:1") + fmt.Sprintf("tls.enabled = true\ntls.ca_file = %q\n", ca)
	r := newRig(t, text)
	first := r.gen.Load()
	r.apply(t, load(t, text))
	if now := r.gen.Load(); now.watch.tracer != first.watch.tracer || now.clusters["u"] != first.clusters["u"] {
		t.Error("made again, and nothing changed")
	}
	write(fields, "X-Key: two\n")
	r.apply(t, load(t, text))
	second := r.gen.Load()
	if second.watch.tracer == first.watch.tracer || second.clusters["u"] != first.clusters["u"] {
		t.Error("header fields changed")
	}
	write(ca, "# new\n"+pemText)
	r.apply(t, load(t, text))
	if now := r.gen.Load(); now.watch.tracer == second.watch.tracer || now.clusters["u"] == first.clusters["u"] {
		t.Error("certificates changed")
	}
	write(ca, "nothing")
	if _, err := r.Prepare(load(t, text)); err == nil || !strings.Contains(err.Error(), "ca.pem") {
		t.Errorf("%v", err)
	}
}

// BenchmarkSeen is a request that is answered here, as it is looked at.
func BenchmarkSeen(b *testing.B) {
	c := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer c.Close()
	for _, one := range []struct{ name, text string }{
		{"counted", ""},
		{"logged", "[access_log]\nfile = \"/dev/null\"\n"},
		{"traced 1 %", "[tracing]\nendpoint = \"" + c.URL + "\"\nsample_percent = 1\n"},
		{"traced all", "[tracing]\nendpoint = \"" + c.URL + "\"\n"},
		{"logged and traced 1 %", "[access_log]\nfile = \"/dev/null\"\n[tracing]\nendpoint = \"" + c.URL + "\"\nsample_percent = 1\n"},
	} {
		b.Run(one.name, func(b *testing.B) {
			g := New(Options{Dial: dialNet})
			defer g.Close()
			gen, err := g.Prepare(load(b, one.text+"[[route]]\nname = \"all\"\npath_prefix = \"/\"\nbody = \"x\"\n"))
			if err != nil {
				b.Fatal(err)
			}
			g.Commit(gen)
			h := g.Handler(Entry{Listener: "web"})
			r := httptest.NewRequest("GET", "/a/b", nil)
			w := &nothing{h: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.h)
				h.ServeHTTP(w, r)
			}
		})
	}
}

// nothing is a writer of answers that nobody gets.
type nothing struct{ h http.Header }

func (n *nothing) Header() http.Header         { return n.h }
func (n *nothing) Write(b []byte) (int, error) { return len(b), nil }
func (n *nothing) WriteHeader(int)             {}

// TestSeenReload: an access log that is switched to another file, and one that can't be opened.
func TestSeenReload(t *testing.T) {
	dir := t.TempDir()
	text := func(file string) string {
		return fmt.Sprintf("[access_log]\nfile = %q\n[[route]]\nname = \"all\"\npath_prefix = \"/\"\nbody = \"x\"\n", filepath.Join(dir, file))
	}
	r := newRig(t, text("a"))
	log := r.gen.Load().watch.log
	r.get(t, "/1")
	r.apply(t, load(t, text("a")))
	if r.gen.Load().watch.log != log {
		t.Error("an access log that did not change was made again")
	}
	if _, err := r.Prepare(load(t, text("none/a"))); err == nil || !strings.Contains(err.Error(), "np.toml:5:1: access log: ") {
		t.Errorf("%v", err)
	}
	if err := os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	if err := r.Reopen(); err != nil {
		t.Fatal(err)
	}
	r.get(t, "/2")
	r.apply(t, load(t, text("b")))
	r.get(t, "/3")
	if got := logged(t, filepath.Join(dir, "b"), 1); len(got) != 1 || got[0]["path"] != "/3" {
		t.Errorf("b: %v", got)
	}
	r.Close()
	if m, a := logged(t, filepath.Join(dir, "moved"), 0), logged(t, filepath.Join(dir, "a"), 0); len(m) != 1 || m[0]["path"] != "/1" || len(a) != 1 || a[0]["path"] != "/2" {
		t.Errorf("%v\n%v", m, a)
	}
	if err := Check(load(t, text("checked"))); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "checked")); err == nil {
		t.Error("a check made a file")
	}
}
