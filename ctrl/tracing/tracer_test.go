package tracing

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector receives OTLP over HTTP.
type collector struct {
	*httptest.Server
	mu      sync.Mutex
	spans   []*tracepb.Span
	service string
	header  http.Header
	path    string
	fail    []int // statuses of the next answers
	hang    chan struct{}
	got     chan struct{}
}

func newCollector(t *testing.T) *collector {
	c := &collector{got: make(chan struct{}, 1000)}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		hang := c.hang
		c.mu.Unlock()
		if hang != nil {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
			return
		}
		c.take(t, w, r)
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *collector) take(t *testing.T, w http.ResponseWriter, r *http.Request) {
	z, err := gzip.NewReader(r.Body)
	if err != nil {
		t.Error(err)
		return
	}
	body, err := io.ReadAll(z)
	var m collectorpb.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &m)
	}
	if err != nil {
		t.Error(err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.fail) > 0 {
		status := c.fail[0]
		c.fail = c.fail[1:]
		w.WriteHeader(status)
		c.got <- struct{}{}
		return
	}
	c.header, c.path = r.Header, r.URL.Path
	for _, rs := range m.ResourceSpans {
		for _, a := range rs.Resource.Attributes {
			if a.Key == "service.name" {
				c.service = a.Value.GetStringValue()
			}
		}
		for _, ss := range rs.ScopeSpans {
			c.spans = append(c.spans, ss.Spans...)
		}
	}
	answer, _ := proto.Marshal(&collectorpb.ExportTraceServiceResponse{})
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(answer)
	c.got <- struct{}{}
}

func (c *collector) list() []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*tracepb.Span(nil), c.spans...)
}

func start(t *testing.T, cfg Config) *Tracer {
	t.Helper()
	tr, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, tr) })
	return tr
}

func shut(t *testing.T, tr *Tracer) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := tr.Close(ctx); err != nil {
		t.Error(err)
	}
}

func text(s *tracepb.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

func TestExport(t *testing.T) {
	c := newCollector(t)
	tr := start(t, Config{Endpoint: c.URL, Headers: map[string]string{"X-Key": "k"}, Service: "np", Ratio: 0})
	at := time.Unix(1000, 5)
	h := http.Header{Traceparent: {goodParent}, Tracestate: {"v=1"}}
	hop := tr.Start(h, true, at)
	hop.Span().Name("GET", "api")
	hop.Span().Text("url.path", "/\xff")
	hop.Span().Text("empty", "")
	hop.Span().Number("http.response.status_code", 502)
	out := http.Header{}
	to, try := hop.Try(at.Add(time.Second))
	to.Inject(out)
	sent, err := Extract(out)
	if err != nil || sent.TraceID != hop.TraceID || sent.SpanID == hop.SpanID || !sent.Sampled || sent.State != "v=1" {
		t.Fatalf("sent %+v: %v", sent, err)
	}
	try.End(at.Add(2*time.Second), &Outcome{Failed: true, Message: "connection refused"})
	hop.End(at.Add(3*time.Second), &Outcome{})
	hop.End(at.Add(4*time.Second), &Outcome{}) // no second time
	shut(t, tr)
	spans := c.list()
	if len(spans) != 2 || c.service != "np" || c.header.Get("X-Key") != "k" || c.path != "/v1/traces" {
		t.Fatalf("%d spans of %q, %s, %v", len(spans), c.service, c.path, c.header)
	}
	inner, outer := spans[0], spans[1]
	if hex.EncodeToString(outer.TraceId) != goodParent[3:35] || hex.EncodeToString(outer.ParentSpanId) != goodParent[36:52] || !bytes.Equal(inner.ParentSpanId, outer.SpanId) ||
		!bytes.Equal(inner.SpanId, sent.SpanID[:]) || outer.TraceState != "v=1" || outer.Flags != 0x301 || inner.Flags != 0x101 {
		t.Errorf("outer %v\ninner %v", outer, inner)
	}
	if outer.Name != "GET api" || outer.Kind != tracepb.Span_SPAN_KIND_SERVER || text(outer, "url.path") != "/\ufffd" || len(outer.Attributes) != 2 || outer.Attributes[1].Value.GetIntValue() != 502 ||
		outer.StartTimeUnixNano != 1000000000005 || outer.EndTimeUnixNano != 1003000000005 || outer.Status.Code != tracepb.Status_STATUS_CODE_UNSET {
		t.Errorf("outer %v", outer)
	}
	if inner.Kind != tracepb.Span_SPAN_KIND_CLIENT || inner.Status.Code != tracepb.Status_STATUS_CODE_ERROR || inner.Status.Message != "connection refused" {
		t.Errorf("inner %v", inner)
	}
	if s := tr.Stats(); s.Traces != 1 || s.Recorded != 1 || s.Exported != 2 || s.Dropped+s.Failed != 0 {
		t.Errorf("%+v", s)
	}
}

// TestTrust: who is not trusted gets a trace of our own, linked to theirs.
func TestTrust(t *testing.T) {
	c := newCollector(t)
	tr := start(t, Config{Endpoint: c.URL + "/custom", Ratio: 1})
	hop := tr.Start(http.Header{Traceparent: {goodParent}, Tracestate: {"v=1"}}, false, time.Unix(1, 0))
	out := http.Header{Tracestate: {"v=1"}, Traceparent: {goodParent}}
	to, try := hop.Try(time.Unix(1, 0))
	to.Inject(out)
	try.End(time.Unix(2, 0), &Outcome{})
	if strings.Contains(out.Get(Traceparent), goodParent[3:35]) || out.Get(Tracestate) != "" {
		t.Errorf("sent %v", out)
	}
	hop.End(time.Unix(2, 0), &Outcome{})
	bad := tr.Start(http.Header{Traceparent: {"x"}}, true, time.Unix(1, 0))
	if !bad.Valid() {
		t.Error("no trace of our own for an invalid one")
	}
	shut(t, tr)
	spans := c.list()
	if len(spans) != 2 || len(spans[1].Links) != 1 || hex.EncodeToString(spans[1].Links[0].TraceId) != goodParent[3:35] || len(spans[1].ParentSpanId) != 0 || c.path != "/custom" {
		t.Errorf("%v", spans)
	}
	if s := tr.Stats(); s.Restarts != 1 || s.Invalid != 1 {
		t.Errorf("%+v", s)
	}
}

func TestRatio(t *testing.T) {
	c := newCollector(t)
	var n uint64
	tr := start(t, Config{Endpoint: c.URL, Ratio: 0.25, Rand: func() uint64 { n++; return n << 56 }})
	for range 512 {
		tr.Start(nil, true, time.Time{})
	}
	if got := tr.Stats().Recorded; got < 100 || got > 156 {
		t.Errorf("%d of 512 recorded at a ratio of 0.25", got)
	}
	unsampled := http.Header{Traceparent: {goodParent[:54] + "0"}}
	if hop := tr.Start(unsampled, true, time.Time{}); hop.Sampled || hop.Span() != nil {
		t.Error("the parent's word does not hold")
	} else if to, try := hop.Try(time.Time{}); try != nil || to.TraceID != hop.TraceID || to.Sampled {
		t.Errorf("%+v", to)
	}
	own := start(t, Config{Endpoint: c.URL, Ratio: 0.5, Own: true})
	var low, high [16]byte
	binary.BigEndian.PutUint64(low[8:], 1<<62)
	binary.BigEndian.PutUint64(high[8:], 1<<63|1)
	for id, want := range map[[16]byte]bool{low: true, high: false} {
		p := Context{TraceID: id, SpanID: [8]byte{1}, Sampled: !want}
		h := http.Header{}
		p.Inject(h)
		if hop := own.Start(h, true, time.Time{}); hop.Sampled != want || hop.TraceID != id {
			t.Errorf("%x: %v", id, hop.Sampled)
		}
	}
}

// TestNoCollector: requests go on, which is why some are dropped, and what is lost is counted.
func TestNoCollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	var log bytes.Buffer
	tr := start(t, Config{Endpoint: "http://" + address, Ratio: 1, Queue: 64, Every: time.Millisecond, Timeout: 50 * time.Millisecond, Log: slog.New(slog.NewTextHandler(&log, nil))})
	begin := time.Now()
	for range 10000 {
		tr.Start(nil, true, begin).End(begin, &Outcome{})
	}
	shut(t, tr)
	s := tr.Stats()
	if s.Dropped+s.Failed != 10000 || s.Dropped == 0 || s.Failed == 0 || s.Failures == 0 {
		t.Errorf("%+v", s)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines: %s", n, log.String())
	}
}

func TestCollectorHangs(t *testing.T) {
	c := newCollector(t)
	c.hang = make(chan struct{})
	defer close(c.hang)
	tr, err := New(Config{Endpoint: c.URL, Ratio: 1, Every: time.Millisecond, Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	tr.Start(nil, true, time.Time{}).End(time.Time{}, &Outcome{})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := tr.Close(ctx); err == nil {
		t.Error("closed, and the collector hangs")
	}
	tr.Start(nil, true, time.Time{}).End(time.Time{}, &Outcome{})
	if s := tr.Stats(); s.Failed != 1 || s.Dropped != 1 {
		t.Errorf("%+v", s)
	}
}

// TestRepeats: an export that the collector asks to repeat is repeated.
func TestRepeats(t *testing.T) {
	c := newCollector(t)
	c.fail = []int{503}
	tr := start(t, Config{Endpoint: c.URL, Ratio: 1, Every: time.Millisecond})
	tr.Start(nil, true, time.Time{}).End(time.Time{}, &Outcome{})
	<-c.got
	<-c.got
	shut(t, tr)
	if s := tr.Stats(); s.Exported != 1 || s.Failures != 0 {
		t.Errorf("%+v", s)
	}
}

func TestNil(t *testing.T) {
	var tr *Tracer
	hop := tr.Start(http.Header{Traceparent: {goodParent}}, true, time.Time{})
	out := http.Header{"A": nil}
	hop.Span().Name("", "")
	hop.Span().Text("a", "b")
	hop.Span().Number("a", 1)
	to, try := hop.Try(time.Time{})
	try.End(time.Time{}, &Outcome{})
	hop.End(time.Time{}, &Outcome{})
	if hop != nil || to.Valid() || tr.Close(t.Context()) != nil || tr.Stats() != (Stats{}) {
		t.Error("no tracer does something")
	}
	if n := testing.AllocsPerRun(100, func() { tr.Start(out, true, time.Time{}).End(time.Time{}, &Outcome{}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestConfig(t *testing.T) {
	for text, cfg := range map[string]Config{
		`endpoint ""`: {}, `endpoint "host:1"`: {Endpoint: "host:1"}, `endpoint "ftp://a"`: {Endpoint: "ftp://a"}, `"http://u:p@h"`: {Endpoint: "http://u:p@h"},
		"ratio 2": {Endpoint: "http://h", Ratio: 2}, "queue of -1": {Endpoint: "http://h", Queue: -1}, "batch of -1": {Endpoint: "http://h", Batch: -1}, "every -1": {Endpoint: "http://h", Every: -1},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %v, want %s", cfg, err, text)
		}
	}
}

func BenchmarkTrace(b *testing.B) {
	sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer sink.Close()
	for name, ratio := range map[string]float64{"recorded": 1, "unrecorded": 0} {
		b.Run(name, func(b *testing.B) {
			tr, err := New(Config{Endpoint: sink.URL, Ratio: ratio})
			if err != nil {
				b.Fatal(err)
			}
			now := time.Now()
			out := http.Header{}
			b.ReportAllocs()
			for b.Loop() {
				hop := tr.Start(nil, true, now)
				hop.Span().Name("GET", "api")
				hop.Span().Text("url.path", "/")
				hop.Span().Number("http.response.status_code", 200)
				to, try := hop.Try(now)
				to.Inject(out)
				try.End(now, &Outcome{})
				hop.End(now, &Outcome{})
			}
			b.StopTimer()
			s := tr.Stats()
			b.ReportMetric(float64(s.Dropped)/float64(max(1, 2*s.Recorded))*100, "%dropped")
			_ = tr.Close(context.Background())
		})
	}
}
