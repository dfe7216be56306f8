package tracing

import (
	"context"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// client speaks OTLP over HTTP: protobuf, gzip, repetitions as the collector asks for them.
// Spans go to it as messages of the protocol; the SDK's own, with their attributes on the
// heap, are not made.
func client(cfg *Config, u *url.URL) otlptrace.Client {
	path := u.Path
	if path == "" || path == "/" {
		path = "/v1/traces"
	}
	options := []otlptracehttp.Option{
		otlptracehttp.WithEndpoint(u.Host),
		otlptracehttp.WithURLPath(path),
		otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
		otlptracehttp.WithTimeout(cfg.Timeout),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: 500 * time.Millisecond, MaxInterval: 5 * time.Second, MaxElapsedTime: cfg.Timeout}),
		otlptracehttp.WithHeaders(cfg.Headers),
	}
	if u.Scheme == "http" {
		options = append(options, otlptracehttp.WithInsecure())
	} else if cfg.TLS != nil {
		options = append(options, otlptracehttp.WithTLSClientConfig(cfg.TLS))
	}
	return otlptracehttp.NewClient(options...)
}

// run exports what is queued: a batch as soon as there is a whole one, or what there is
// some time after the first.
func (t *Tracer) run(c otlptrace.Client) {
	defer close(t.done)
	resource := t.resource()
	batch := make([]*Span, 0, t.cfg.Batch)
	timer := time.NewTimer(0)
	<-timer.C
	defer timer.Stop()
	well := true
	for {
		var due <-chan time.Time
		if len(batch) > 0 {
			due = timer.C
		}
		stopped := false
		select {
		case s := <-t.queue:
			if batch = append(batch, s); len(batch) == 1 {
				timer.Reset(t.cfg.Every)
			}
			if len(batch) < cap(batch) {
				continue
			}
		case <-due:
		case <-t.stop:
			stopped = true
		}
		for len(batch) > 0 || stopped && len(t.queue) > 0 {
			for stopped && len(t.queue) > 0 && len(batch) < cap(batch) {
				batch = append(batch, <-t.queue)
			}
			well = t.export(c, resource, batch, well)
			batch = batch[:0]
		}
		if stopped {
			_ = c.Stop(context.Background()) // it only closes a channel
			return
		}
	}
}

// export sends one batch and frees its spans.
func (t *Tracer) export(c otlptrace.Client, resource *resourcepb.Resource, batch []*Span, well bool) bool {
	spans := make([]*tracepb.Span, len(batch))
	for i, s := range batch {
		spans[i] = s.message()
		t.free(s)
	}
	ctx, cancel := context.WithTimeout(t.last, t.cfg.Timeout)
	defer cancel()
	err := c.UploadTraces(ctx, []*tracepb.ResourceSpans{{Resource: resource, ScopeSpans: []*tracepb.ScopeSpans{{
		Scope: &commonpb.InstrumentationScope{Name: "np", Version: t.cfg.Version}, Spans: spans}}}})
	n := uint64(len(batch))
	if err != nil {
		t.failed.Add(n)
		t.failures.Add(1)
		if well {
			t.cfg.Log.Warn("traces not exported, spans are lost until the collector takes them again", "endpoint", t.cfg.Endpoint, "err", err)
		}
		return false
	}
	t.exported.Add(n)
	if !well {
		t.cfg.Log.Info("traces are exported again", "endpoint", t.cfg.Endpoint, "spans_lost", t.failed.Load()+t.dropped.Load())
	}
	return true
}

func (t *Tracer) resource() *resourcepb.Resource {
	r := &resourcepb.Resource{}
	for _, a := range [...]attribute{{key: "service.name", text: t.cfg.Service}, {key: "service.version", text: t.cfg.Version}, {key: "service.instance.id", text: t.cfg.Instance}} {
		if a.text != "" {
			r.Attributes = append(r.Attributes, a.message())
		}
	}
	return r
}

func (a *attribute) message() *commonpb.KeyValue {
	v := &commonpb.AnyValue{}
	if a.is {
		v.Value = &commonpb.AnyValue_IntValue{IntValue: a.num}
	} else {
		v.Value = &commonpb.AnyValue_StringValue{StringValue: valid(a.text)}
	}
	return &commonpb.KeyValue{Key: a.key, Value: v}
}

// valid is s as protobuf wants it: UTF-8, and not without end.
func valid(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

// flags of a span beyond W3C's: whether its parent is of another process is known.
const (
	hasRemote = uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
	isRemote  = uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
)

func (s *Span) message() *tracepb.Span {
	m := &tracepb.Span{
		TraceId: append([]byte(nil), s.ctx.TraceID[:]...), SpanId: append([]byte(nil), s.ctx.SpanID[:]...), TraceState: s.ctx.State,
		Flags: flagSampled | hasRemote, Name: valid(strings.TrimSpace(s.name + " " + s.detail)),
		StartTimeUnixNano: uint64(s.start.UnixNano()), EndTimeUnixNano: uint64(max(s.end.UnixNano(), s.start.UnixNano())),
		Kind: tracepb.Span_SPAN_KIND_SERVER, Attributes: make([]*commonpb.KeyValue, s.n), Status: &tracepb.Status{},
	}
	if s.parent != [8]byte{} {
		m.ParentSpanId = append([]byte(nil), s.parent[:]...)
	}
	if s.kind == kindClient {
		m.Kind = tracepb.Span_SPAN_KIND_CLIENT
	} else if m.ParentSpanId != nil {
		m.Flags |= isRemote
	}
	for i := range s.n {
		m.Attributes[i] = s.attrs[i].message()
	}
	if s.outcome.Failed {
		m.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: valid(s.outcome.Message)}
	}
	if s.linked {
		l := &tracepb.Span_Link{TraceId: append([]byte(nil), s.link.TraceID[:]...), SpanId: append([]byte(nil), s.link.SpanID[:]...), TraceState: s.link.State, Flags: hasRemote | isRemote}
		if s.link.Sampled {
			l.Flags |= flagSampled
		}
		m.Links = []*tracepb.Span_Link{l}
	}
	return m
}
