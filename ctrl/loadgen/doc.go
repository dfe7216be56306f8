// Package loadgen measures an NPRO server: it keeps requests in flight over the
// Go SDK, closed loop (as many as the depth allows) or open loop (at a rate),
// and records what came back and when.
//
// Latency in open loop counts from when a request was due, not from when it
// could be sent: a server that stalls is charged for the requests that had to
// wait behind the stall (no coordinated omission). Requests still unanswered at
// the end are waited for and recorded, and counted as errors after that.
//
// Histograms are HdrHistogram's with two significant digits: percentiles are
// within 1 %, at 30 KB per connection. Run owns every goroutine it starts. The
// package must not know flags or terminals.
package loadgen
