// Package h2 is the server's side of HTTP/2 (RFC 9113), with extended CONNECT (RFC 8441)
// and extensible priorities (RFC 9218), for the gateway's hot path. It serves any
// [net.Conn] to any [http.Handler].
//
// # Goroutines
//
// One goroutine for each connection, that of [Conn.Serve], reads frames and owns all that
// is needed to take them apart. A request's handler runs on one of an [Engine]'s workers,
// which are used again, so that their stacks have grown already. Handlers write frames
// themselves, under the connection's lock, into one buffer; nobody else has to be woken for
// a frame. What is in the buffer is sent by a handler that has ended, or by a worker,
// whichever comes first, and both first let run who is ready to: so the answers to what
// arrived together leave together. The reader never writes to the connection before its end.
//
// The lock is held for moments, never while something is read or written. Of what handlers
// want to send and can't, for want of window or room in the buffer, the scheduler knows; it
// takes from their slices what can be sent, by RFC 9218's urgency, and wakes a handler when
// all of its slice is gone.
//
// # Limits
//
// All that a client can make us keep is bounded: by the windows that it is given, by
// Config's Streams, which count handlers that still run after their stream's reset as well,
// and by the sizes of heads. All that it can make us do for nothing is bounded by rates:
// resets, and our own resets for its mistakes; pings, settings, priorities, empty frames and
// windows in small change. Every time limit is looked after by [Conn.Look], which is to be
// called every now and then; nothing here has a timer of its own but the deadlines that
// handlers set.
//
// # Refusals
//
// A request with a malformed head gets to Config.Refuse, to be answered before its stream
// is reset (RFC 9113 §8.1.1 allows it) and to be seen like others. What can't be answered
// is told to Config.Fault in a few words, of which there is a fixed number.
//
// It must not know: routes, exchanges, configuration, what is below a net.Conn.
package h2
