// Package loadgen drives an NPRO server with requests and measures it: closed
// loop (a fixed number in flight on each connection) or open loop (a fixed
// rate, whatever the server does). In the open loop a latency counts from the
// moment the request should have left, so a server that stalls cannot hide it
// by stalling the generator too (coordinated omission).
//
// It is pure Go on ctrl/client and the kernel's TCP. Run ends by itself.
package loadgen
