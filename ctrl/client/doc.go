// Package client is the Go SDK of NPRO version 2: pure Go over any net.Conn,
// without cgo and without the data plane.
//
//	c, err := client.Dial(ctx, client.Config{Address: "192.0.2.1:7700", Static: key, Remote: &serverKey})
//	reply, err := c.Request(ctx, "ECHO", payload)
//
// A Client is safe for concurrent use and keeps any number of requests in
// flight on each of its connections. Per connection three goroutines run, all
// owned by it and all gone when Close returns: a reader, a writer that puts
// every frame queued meanwhile into one Write, and a keeper for heartbeats,
// timeouts and key changes.
//
// # When a connection is lost
//
// Requests in flight fail with ErrConnLost: whether the server ran them is
// unknown. Only those marked Idempotent are sent again on the next connection,
// until their context ends. A request of which nothing had left, or which the
// server's GOAWAY says it will not serve, is always sent again: it can't have
// run. Streams fail with ErrConnLost and are not reopened.
//
// Unless NoReconnect is set the connection is made again in the background,
// after ReconnectDelay, doubled with each failure up to MaxReconnectDelay, each
// time shortened by up to a half at random so that a fleet does not return as
// one. Requests made meanwhile wait for it. After MaxReconnectAttempts failures
// in a row they fail with ErrUnavailable, and the next request begins anew.
//
// # Streams
//
// OpenStream opens a stream of DATA frames, which the server gives to the handler
// it has for streams, or refuses with RESET. END closes a direction.
//
// # Flow control
//
// Frames are cut to at most 64 KiB and wait for credit. The credit of a response
// comes back as it arrives, within MaxMessage; that of a stream as Read takes the
// bytes, so a reader that stops stops the sender.
package client
