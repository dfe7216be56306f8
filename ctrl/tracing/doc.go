// Package tracing carries W3C trace context (https://www.w3.org/TR/trace-context/)
// through a hop, and exports spans of the hop by OTLP over HTTP.
//
//	trace := tracer.Start(r.Header, trusted, now)        // parent in, own span begun
//	out, try := trace.Try(now)                           // one try to an upstream
//	out.Inject(header)                                   // traceparent and tracestate
//	try.End(now, &tracing.Outcome{…})
//	trace.End(now, &tracing.Outcome{…})
//
// # Rules
//
// A context is taken over when it is valid and comes from somebody trusted; else a trace of
// our own begins, with no tracestate, and a link to the one that was not trusted. More than
// one traceparent is invalid. An invalid tracestate is dropped alone.
//
// Whether a trace is recorded is what its parent says, or for those that begin here a ratio
// of their IDs: the one that OpenTelemetry's SDKs take, so that all hops with the same ratio
// choose the same traces. The context is carried on either way.
//
// # Cost
//
// A nil [Tracer] and what it gives do nothing. A trace that is not recorded costs its IDs;
// one that is costs a span from a pool for the hop and for each try. Ended spans wait in
// a bounded queue for the exporting goroutine; without room they are dropped and counted.
// A collector that is slow or gone slows nobody down.
//
// # Goroutines
//
// A Tracer is safe for concurrent use, a [Trace] belongs to the goroutine that serves the
// request, a [Span] to the one that began it. New starts the exporting goroutine, Close
// exports what is left within its context's time and waits for it.
//
// It must not know: gateways, upstreams, configuration files.
package tracing
