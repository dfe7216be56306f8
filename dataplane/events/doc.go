// Package events reads the cores of a plane, once for all who want their events.
//
// A core's events have one reader. Sessions of NPRO, pipes and UDP sockets share
// it: [Reader] has one goroutine per core that takes events in batches, hands each
// to the [Sink] for its kind, gives the bodies back that no sink keeps, and flushes
// the core once a batch. It allocates nothing per event.
//
// Owner: whoever owns the plane makes the reader, adds the sinks and runs it.
//
// It must not know: what the events mean.
package events
