package tracing

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of Config.
const (
	DefaultQueue   = 4096
	DefaultBatch   = 512
	DefaultEvery   = time.Second
	DefaultTimeout = 10 * time.Second
)

const maxQueue = 1 << 20

// Config is what a Tracer is made of.
type Config struct {
	Endpoint string            // http://collector:4318 or https://…; without a path /v1/traces is asked
	Headers  map[string]string // sent with each export, such as a key of the collector's
	TLS      *tls.Config       // for https; nil: the system's authorities

	Service  string // service.name
	Version  string // service.version; "": not said
	Instance string // service.instance.id; "": not said

	Ratio float64 // part of the traces that is recorded, of those that begin here: 0 to 1
	Own   bool    // the ratio decides on those that begin elsewhere too; else their parent does

	Queue   int           // ended spans that wait at most; 0: DefaultQueue
	Batch   int           // spans of one export at most; 0: DefaultBatch
	Every   time.Duration // between the first span that waits and its export at most; 0: DefaultEvery
	Timeout time.Duration // of one export with its repetitions; 0: DefaultTimeout

	Rand func() uint64 // of IDs; nil: math/rand/v2's
	Log  *slog.Logger  // told when exports begin to fail and when they work again; nil: nobody is
}

// Check tells everything that is wrong with a configuration.
func (c *Config) Check() error {
	_, err := c.check()
	return err
}

func (c *Config) check() (*url.URL, error) {
	var errs []error
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		errs = append(errs, fmt.Errorf("endpoint %q: expected a URL such as \"http://127.0.0.1:4318\"", c.Endpoint))
	} else if u.Scheme == "http" && c.TLS != nil {
		errs = append(errs, fmt.Errorf("endpoint %q: expected https, as there are settings of TLS", c.Endpoint))
	}
	if !(c.Ratio >= 0 && c.Ratio <= 1) {
		errs = append(errs, fmt.Errorf("ratio %v: expected 0 to 1", c.Ratio))
	}
	if c.Queue < 0 || c.Queue > maxQueue {
		errs = append(errs, fmt.Errorf("queue of %d spans: expected 1 to %d", c.Queue, maxQueue))
	}
	if c.Batch < 0 || c.Batch > maxQueue {
		errs = append(errs, fmt.Errorf("batch of %d spans: expected 1 to %d", c.Batch, maxQueue))
	}
	if c.Every < 0 || c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("every %v, timeout %v: expected more than 0", c.Every, c.Timeout))
	}
	return u, errors.Join(errs...)
}

// Tracer begins traces and exports their spans.
type Tracer struct {
	cfg   Config
	bound uint64 // a trace is recorded if its ID is below; see recorded
	spans sync.Pool
	queue chan *Span
	stop  chan struct{}
	done  chan struct{}
	end   sync.Once

	last   context.Context // of exports; ends when Close has no more time
	cancel context.CancelFunc

	started  atomic.Uint64
	recorded atomic.Uint64
	restarts atomic.Uint64
	invalid  atomic.Uint64
	dropped  atomic.Uint64
	exported atomic.Uint64
	failed   atomic.Uint64
	failures atomic.Uint64
}

// Stats is what a Tracer counted.
type Stats struct {
	Traces   uint64 // that went through
	Recorded uint64 // of these
	Restarts uint64 // contexts of clients that were not trusted
	Invalid  uint64 // contexts of clients that were none
	Dropped  uint64 // spans without room in the queue
	Exported uint64 // spans that the collector took
	Failed   uint64 // spans that it did not take
	Failures uint64 // exports
	Waiting  int    // spans
}

// Stats returns what was counted.
func (t *Tracer) Stats() Stats {
	if t == nil {
		return Stats{}
	}
	return Stats{Traces: t.started.Load(), Recorded: t.recorded.Load(), Restarts: t.restarts.Load(), Invalid: t.invalid.Load(), Dropped: t.dropped.Load(),
		Exported: t.exported.Load(), Failed: t.failed.Load(), Failures: t.failures.Load(), Waiting: len(t.queue)}
}

// New starts a Tracer. The collector need not be there.
func New(cfg Config) (*Tracer, error) {
	u, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	cfg.Queue = or(cfg.Queue, DefaultQueue)
	cfg.Batch = min(or(cfg.Batch, DefaultBatch), cfg.Queue)
	cfg.Every = or(cfg.Every, DefaultEvery)
	cfg.Timeout = or(cfg.Timeout, DefaultTimeout)
	if cfg.Rand == nil {
		cfg.Rand = rand.Uint64
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	t := &Tracer{cfg: cfg, queue: make(chan *Span, cfg.Queue), stop: make(chan struct{}), done: make(chan struct{})}
	t.bound = uint64(cfg.Ratio * (1 << 63))
	t.spans.New = func() any { return new(Span) }
	t.last, t.cancel = context.WithCancel(context.Background())
	go t.run(client(&cfg, u))
	return t, nil
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// Close exports what waits, until ctx ends, and stops. Spans that end later are dropped
// and counted.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	t.end.Do(func() { close(t.stop) })
	select {
	case <-t.done:
	case <-ctx.Done():
		t.cancel()
		<-t.done
	}
	t.cancel()
	return ctx.Err()
}

// recorded is OpenTelemetry's rule: 63 bits of the ID's second half, against the ratio's
// part of all.
func (t *Tracer) chosen(id *[16]byte) bool {
	return binary.BigEndian.Uint64(id[8:])>>1 < t.bound
}

func (t *Tracer) newSpanID() (id [8]byte) {
	for id == [8]byte{} { // the chance of a second turn is 2^-64
		binary.BigEndian.PutUint64(id[:], t.cfg.Rand())
	}
	return id
}

func (t *Tracer) newTraceID() (id [16]byte) {
	for id == [16]byte{} {
		binary.BigEndian.PutUint64(id[:8], t.cfg.Rand())
		binary.BigEndian.PutUint64(id[8:], t.cfg.Rand())
	}
	return id
}

// Trace is one request on its way through.
type Trace struct {
	Context // with the span of this hop

	t    *Tracer
	span *Span // of the hop; nil: not recorded
}

// Start takes over the header's context if trusted says that its sender may set it, or
// begins a trace, and begins the span of this hop.
func (t *Tracer) Start(h http.Header, trusted bool, now time.Time) *Trace {
	if t == nil {
		return nil
	}
	t.started.Add(1)
	in, err := Extract(h)
	if err != nil {
		t.invalid.Add(1)
	}
	trace := &Trace{t: t}
	var link *Context
	switch {
	case in.Valid() && trusted:
		trace.Context = in
		if t.cfg.Own {
			trace.Sampled = t.chosen(&in.TraceID)
		}
	case in.Valid():
		t.restarts.Add(1)
		link = &in
		fallthrough
	default:
		trace.TraceID = t.newTraceID()
		trace.Sampled = t.chosen(&trace.TraceID)
	}
	parent := trace.SpanID
	trace.SpanID = t.newSpanID()
	if trace.Sampled {
		t.recorded.Add(1)
		trace.span = t.begin(&trace.Context, parent, now)
		trace.span.kind = kindServer
		if link != nil {
			trace.span.link, trace.span.linked = *link, true
		}
	}
	return trace
}

// Span returns the span of the hop; nil, which does nothing, if it is not recorded.
func (t *Trace) Span() *Span {
	if t == nil {
		return nil
	}
	return t.span
}

// End ends the hop's span.
func (t *Trace) End(now time.Time, o *Outcome) {
	if t != nil && t.span != nil {
		t.span.End(now, o)
		t.span = nil
	}
}

// Try begins a span for one try to an upstream, and returns the context that goes there.
// The span is nil, which does nothing, where the trace is not recorded; so is the context
// where there is no trace.
func (t *Trace) Try(now time.Time) (Context, *Span) {
	if t == nil {
		return Context{}, nil
	}
	c := t.Context
	c.SpanID = t.t.newSpanID()
	if t.span == nil {
		return c, nil
	}
	s := t.t.begin(&c, t.SpanID, now)
	s.kind = kindClient
	return c, s
}
