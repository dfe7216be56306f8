package forward

import (
	"context"
	"errors"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/h1"
	"github.com/np-appliance/np/ctrl/upstream"
)

// sayTrace tells which span is above: the exchange's own, until a try has one.
func (f *flight) sayTrace() {
	f.trace = -1
	if f.x.Spans == nil {
		return
	}
	parent, state := f.x.Spans.Fields()
	f.trace = len(f.out.Set)
	f.set("Traceparent", parent)
	if state != "" {
		f.set("Tracestate", state)
	} else {
		f.dropped = append(f.dropped, "Tracestate")
	}
}

// traced is try with a span of its own.
func (f *flight) traced(ctx context.Context, t upstream.Try) (upstream.Outcome, error) {
	if f.x.Spans == nil {
		return f.try(ctx, t)
	}
	parent, span := f.x.Spans.Try(f.o.Now())
	f.out.Set[f.trace].Value = parent
	if span == nil {
		return f.try(ctx, t)
	}
	tried := &exchange.Tried{Upstream: f.x.Upstream, Endpoint: t.Endpoint.Address(), Method: f.out.Method, Number: t.Number}
	over := false
	defer func() {
		if !over { // a panic
			tried.Err = errBroken
		}
		span.End(f.o.Now(), tried)
	}()
	outcome, err := f.try(ctx, t)
	over = true
	var status *statusError
	switch {
	case errors.As(err, &status):
		tried.Status = status.status
	case f.started:
		tried.Status = f.x.Status
	}
	tried.Err = err
	return outcome, err
}

var errBroken = errors.New("broken off")

// ownTrace is the trace of a request of the gateway's own.
type ownTrace struct {
	spans    exchange.Spans // of the exchange for whose sake it is sent; nil: none
	q        *h1.Request
	at       int // where Traceparent is in q.Set
	upstream string
}

// own sets the fields of a trace in a request of the gateway's own, made for x's sake.
func (c *Cluster) own(x *exchange.Exchange, q *h1.Request) *ownTrace {
	o := &ownTrace{spans: x.Spans, q: q, upstream: c.Name()}
	if o.spans == nil {
		return o
	}
	parent, state := o.spans.Fields()
	o.at = len(q.Set)
	q.Set = append(q.Set, h1.Field{Name: "Traceparent", Value: parent})
	if state != "" {
		q.Set = append(q.Set, h1.Field{Name: "Tracestate", Value: state})
	} else {
		q.Omit = func(name string) bool { return name == "Tracestate" }
	}
	return o
}

type tryFunc = func(context.Context, upstream.Try) (upstream.Outcome, error)

// traced is try with a span for each. The span ends with the head of the answer.
func (o *ownTrace) traced(try tryFunc, status func() int) tryFunc {
	if o.spans == nil {
		return try
	}
	return func(ctx context.Context, t upstream.Try) (upstream.Outcome, error) {
		parent, span := o.spans.Try(time.Now())
		o.q.Set[o.at].Value = parent
		outcome, err := try(ctx, t)
		if span != nil {
			tried := &exchange.Tried{Upstream: o.upstream, Endpoint: t.Endpoint.Address(), Method: o.q.Method, Number: t.Number, Err: err}
			if err == nil {
				tried.Status = status()
			}
			span.End(time.Now(), tried)
		}
		return outcome, err
	}
}
