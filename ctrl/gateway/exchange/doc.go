// Package exchange is what the parts of the gateway know of one request and of its
// answer, and the one way in which the gateway answers by itself.
//
// The entry handler of the gateway makes an [Exchange] and puts it into the request's
// context before any other part sees the request; [From] finds it there. Each part writes
// down what it found out: who asks (Identity), which route (Route, Vars), which endpoint
// answered (Upstream, Endpoint, Tries), what went wrong (Reason, Note). At the end the
// access log, the metrics and the trace are made of it.
//
// # Goroutines
//
// An Exchange belongs to the goroutine that serves the request. Parts that start others
// for it (mirroring, aggregation) hand them copies of what they need.
//
// # Refusing
//
// [Refuse] answers in the gateway's own name: the status that belongs to the [Reason], a
// problem document (RFC 9457) with the request's ID, or for gRPC an answer of trailers
// alone. What it tells the client is what the client may know; the rest goes to
// [Exchange.Note] and to the logs.
package exchange
