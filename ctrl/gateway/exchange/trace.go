package exchange

import "time"

// Spans is the trace of an exchange, as those need it who send requests for its sake. Safe
// for concurrent use until the exchange ends.
type Spans interface {
	// Fields are the values of traceparent and tracestate for what is below the exchange's
	// own span; "": the field is not sent.
	Fields() (parent, state string)
	// Try begins a span for one request to an endpoint. Its traceparent stands for that of
	// Fields. The span is nil where the trace is not recorded.
	Try(now time.Time) (parent string, span Span)
}

// Span is one request to an endpoint. End is called once.
type Span interface {
	End(now time.Time, t *Tried)
}

// Tried is how a request to an endpoint went.
type Tried struct {
	Upstream string
	Endpoint string // its address
	Method   string
	Number   int   // of the try, from 1
	Status   int   // of the answer; 0: none
	Err      error // why there was none, or not all of it
}
