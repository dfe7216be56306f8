package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/accesslog"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/meter"
	"github.com/np-appliance/np/ctrl/secure"
	"github.com/np-appliance/np/ctrl/tracing"
)

// watch is who looks at exchanges. Its parts are carried over from one configuration to
// the next as long as nothing of theirs changes.
type watch struct {
	log     *accesslog.Log // nil: none
	logs    config.AccessLog
	tracer  *tracing.Tracer // nil: none
	tracing config.Tracing
	files   [sha256.Size]byte // of the tracer
}

// seen makes the access log and the tracer.
func (b *builder) seen() {
	w, old := &b.next.watch, &b.old.watch
	w.logs, w.tracing = b.cfg.AccessLog, b.cfg.Tracing
	if reflect.DeepEqual(w.logs, old.logs) {
		w.log = old.log
	} else if w.logs.File != "" || w.logs.SlowFile != "" {
		w.log = b.accessLog()
	}
	w.files = stamp(w.tracing.HeadersFile, w.tracing.CAFile)
	if w.tracing == old.tracing && w.files == old.files {
		w.tracer = old.tracer
	} else if w.tracing.Endpoint != "" {
		w.tracer = b.tracer()
	}
}

func (b *builder) accessLog() *accesslog.Log {
	a := &b.cfg.AccessLog
	parts, err := a.Parts()
	b.fail("access_log.sample", err)
	c := accesslog.Config{File: a.File, SlowFile: a.SlowFile, SlowAfter: a.Slow, Sample: parts, Query: a.Query, UserAgent: a.UserAgent, Buffer: int(a.Buffer),
		Rand: b.g.o.Rand, Log: b.g.o.Log, Now: b.g.o.Now}
	if b.g.dry {
		b.fail("access_log", c.Check())
		return nil
	}
	l, err := accesslog.New(c)
	b.fail("access_log", err)
	return l
}

func (b *builder) tracer() *tracing.Tracer {
	t := &b.cfg.Tracing
	c := tracing.Config{Endpoint: t.Endpoint, Service: t.Service, Version: b.g.o.Version, Ratio: float64(t.Sample) / 100, Own: t.SampleBy == "ratio",
		Queue: t.Queue, Timeout: t.Timeout, Rand: b.g.o.Rand, Log: b.g.o.Log}
	if t.HeadersFile != "" {
		var err error
		c.Headers, err = readFields(t.HeadersFile)
		b.fail("tracing.headers_file", err)
	}
	if t.CAFile != "" {
		ca, err := secure.ReadCA(t.CAFile)
		if err == nil {
			c.TLS, err = (&secure.Client{CA: ca, Common: secure.Common{MinVersion: tls.VersionTLS12, Now: b.g.o.Now}}).Config()
		}
		b.fail("tracing.ca_file", err)
	}
	if host, err := os.Hostname(); err == nil {
		c.Instance = host
	}
	if err := c.Check(); err != nil || b.g.dry || len(b.errs) > 0 {
		b.fail("tracing.endpoint", err)
		return nil
	}
	tr, err := tracing.New(c)
	b.fail("tracing.endpoint", err)
	return tr
}

// maxFields bounds a file of header fields.
const maxFields = 64 << 10

// readFields reads a file of header fields, one a line; # begins a remark.
func readFields(path string) (map[string]string, error) {
	info, err := os.Stat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxFields) {
		err = fmt.Errorf("%s: expected a file of at most %d bytes", path, maxFields)
	}
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out, n := map[string]string{}, 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); !ok || name == "" || strings.ContainsAny(name, " \t\"") {
			return nil, fmt.Errorf("%s:%d: expected \"Name: value\"", path, n) // never the line: it may be a secret
		}
		out[http.CanonicalHeaderKey(name)] = strings.TrimSpace(value)
	}
	return out, nil
}

// stopWatching ends what another watch does not carry on; requests that are under way
// have some time to be seen by the old one.
func (g *Gateway) stopWatching(old, next *watch) {
	if old.log != nil && old.log != next.log {
		g.afterwards(func(context.Context) {
			if err := old.log.Close(); err != nil {
				g.o.Log.Warn("access log not closed", "err", err)
			}
		})
	}
	if old.tracer != nil && old.tracer != next.tracer {
		g.afterwards(func(ctx context.Context) { _ = old.tracer.Close(ctx) }) // what it did not send is counted
	}
}

// dropWatch ends what was made for a generation that is not put in force.
func (g *Gateway) dropWatch(w, inForce *watch) {
	if w.log != inForce.log {
		_ = w.log.Close() // nothing was written
	}
	if w.tracer != inForce.tracer {
		_ = w.tracer.Close(context.Background()) // nothing waits in it
	}
}

// Reopen opens log files again, after they were moved away.
func (g *Gateway) Reopen() error { return g.gen.Load().watch.log.Reopen() }

// sight is what those who look at an exchange need beyond it: the request as it came.
type sight struct {
	meter                            *meter.Listener
	method, host, path, query, agent string
	trace                            *tracing.Trace
}

// open begins to look at an exchange.
func (h *hop) open(gen *generation, e Entry, r *http.Request) {
	h.meter, h.method, h.host, h.agent = e.meter, r.Method, r.Host, r.Header.Get("User-Agent")
	h.path, h.query, _ = strings.Cut(r.RequestURI, "?")
	if r.URL != nil && !strings.HasPrefix(h.path, "/") { // with scheme and host, or "*"
		h.path, h.query = r.URL.Path, r.URL.RawQuery
	}
	e.meter.Begin()
	t := gen.watch.tracer
	if t == nil {
		return
	}
	trust := gen.watch.tracing.Trust
	h.trace = t.Start(r.Header, trust == "any" || trust == "trusted" && h.Trusted, h.Start)
	h.TraceID, h.SpanID, h.Sampled, h.Spans = h.trace.TraceID, h.trace.SpanID, h.trace.Sampled, (*spans)(h)
}

// seen tells whoever looks that an exchange is over.
func (g *Gateway) seen(h *hop) {
	x, now := &h.Exchange, g.o.Now()
	took := now.Sub(x.Start)
	stream := h.streamed()
	h.meter.Done(x, took, stream)
	if l := g.gen.Load().watch.log; l != nil {
		l.Write(x, &accesslog.Entry{Method: h.method, Host: h.host, Path: h.path, Query: h.query, UserAgent: h.agent, GRPC: h.grpcStatus(), Duration: took, Stream: stream})
	}
	if h.trace != nil {
		h.endTrace(now)
	}
}

// streamed says whether an exchange lasted by its nature: its duration is its client's choice.
func (h *hop) streamed() bool {
	if h.Status == http.StatusSwitchingProtocols || h.method == http.MethodConnect {
		return true
	}
	t := h.w.Header().Get("Content-Type")
	return strings.HasPrefix(t, "text/event-stream") || strings.HasPrefix(t, "application/grpc")
}

// grpcStatus is the code of an answer of gRPC; "" of another.
func (h *hop) grpcStatus() string {
	head := h.w.Header()
	if t := head["Content-Type"]; len(t) == 0 || !strings.HasPrefix(t[0], "application/grpc") {
		return ""
	}
	for _, name := range [...]string{"Grpc-Status", http.TrailerPrefix + "Grpc-Status"} {
		if v := head[name]; len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

// known is a method as spans name it: one that a client made up is not a name.
func known(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace, http.MethodPatch:
		return method
	}
	return "_OTHER"
}

// endTrace ends the hop's span, by OpenTelemetry's conventions for HTTP.
func (h *hop) endTrace(now time.Time) {
	x, s := &h.Exchange, h.trace.Span()
	if s == nil {
		return
	}
	method := known(h.method)
	if s.Name(method, x.Route); method == "_OTHER" {
		s.Name("HTTP", x.Route)
		s.Text("http.request.method_original", h.method)
	}
	s.Text("http.request.method", method)
	s.Text("url.path", h.path)
	scheme := "http"
	if x.TLS != nil {
		scheme = "https"
	}
	s.Text("url.scheme", scheme)
	s.Text("server.address", h.host)
	if x.Client.IsValid() {
		s.Text("client.address", x.Client.Addr().String())
	}
	version := strings.TrimPrefix(strings.TrimPrefix(x.Protocol, "http/"), "h")
	s.Text("network.protocol.version", version)
	s.Text("user_agent.original", h.agent)
	if x.Status != 0 {
		s.Number("http.response.status_code", int64(x.Status))
	}
	code := h.grpcStatus()
	s.Text("rpc.grpc.status_code", code)
	s.Number("http.request.body.size", x.Received)
	s.Number("http.response.body.size", x.Sent)
	s.Text("np.listener", x.Listener)
	s.Text("np.route", x.Route)
	s.Text("np.upstream", x.Upstream)
	s.Text("np.request_id", x.ID)
	o := tracing.Outcome{Failed: x.Status >= 500 || x.Status == 0 || faulty(code)}
	if x.Reason != exchange.None {
		s.Text("error.type", x.Reason.String())
		o.Message = x.Reason.Title()
	}
	h.trace.End(now, &o)
}

// faulty says whether a code of gRPC is the server's fault, as OpenTelemetry has it: unknown,
// deadline exceeded, unimplemented, internal, unavailable, data loss.
func faulty(code string) bool {
	switch code {
	case "2", "4", "12", "13", "14", "15":
		return true
	}
	return false
}

// spans is a hop as those see it who send requests for its sake.
type spans hop

// Fields implements [exchange.Spans].
func (s *spans) Fields() (parent, state string) {
	var b [64]byte
	return string(s.trace.AppendParent(b[:0])), s.trace.State
}

// Try implements [exchange.Spans].
func (s *spans) Try(now time.Time) (string, exchange.Span) {
	c, span := s.trace.Try(now)
	var b [64]byte
	parent := string(c.AppendParent(b[:0]))
	if span == nil {
		return parent, nil
	}
	return parent, (*trySpan)(span)
}

// trySpan is the span of one request to an endpoint.
type trySpan tracing.Span

// End implements [exchange.Span].
func (t *trySpan) End(now time.Time, tried *exchange.Tried) {
	s := (*tracing.Span)(t)
	method := known(tried.Method)
	s.Name(method, tried.Upstream)
	s.Text("http.request.method", method)
	s.Text("np.upstream", tried.Upstream)
	host, port := tried.Endpoint, ""
	if i := strings.LastIndexByte(host, ':'); i > 0 && !strings.HasPrefix(host, "unix:") {
		host, port = strings.Trim(host[:i], "[]"), host[i+1:]
	}
	s.Text("server.address", host)
	s.Text("server.port", port)
	if tried.Status != 0 {
		s.Number("http.response.status_code", int64(tried.Status))
	}
	if tried.Number > 1 {
		s.Number("http.request.resend_count", int64(tried.Number-1))
	}
	o := tracing.Outcome{Failed: tried.Err != nil || tried.Status >= 400 || tried.Status == 0}
	if tried.Err != nil {
		o.Message = tried.Err.Error()
	}
	s.End(now, &o)
}

// Seen is what the gateway counted.
type Seen struct {
	Requests   []meter.Series
	InFlight   map[string]int64 // by listener
	AccessLog  *accesslog.Stats // nil: there is none
	Tracing    *tracing.Stats   // nil: there is none
	Generation uint64           // configurations put in force so far

	Policies
}

// Seen returns what was counted.
func (g *Gateway) Seen() Seen {
	s := Seen{Requests: g.meter.Series(), InFlight: g.meter.InFlight(), Generation: g.commits.Load()}
	gen := g.gen.Load()
	s.Policies = gen.policy.stats()
	w := &gen.watch
	if w.log != nil {
		st := w.log.Stats()
		s.AccessLog = &st
	}
	if w.tracer != nil {
		st := w.tracer.Stats()
		s.Tracing = &st
	}
	return s
}
