// Package netconn gives net.Conn, net.Listener and net.PacketConn over a
// [dataplane.Plane]: it is the [dataplane.Transport] of the appliance's own TCP and of
// every other carrier that a core has, so that Go's protocol libraries run on them
// unchanged.
//
// # Goroutines
//
// None of its own. The plane's [events.Reader] brings the events; what arrives for a
// Read that waits is copied to it at once, and the rest is kept where it lies until
// somebody reads. A waiting call sleeps on a channel of its own.
//
// # Bounds
//
// Received bytes are credited to the peer as they are read, or as their [dataplane.Buffers]
// are released, so the connection's receive window is the bound of what is kept for it.
// A writer blocks when WriteBuffer bytes of its have not left the core's queue.
// Connections that nobody accepts are bounded by Backlog, beyond which they are reset;
// datagrams that nobody reads by DatagramBytes, beyond which they are dropped and counted.
//
// # Ends
//
// Close with received bytes unread resets the connection, as RFC 1122 §4.2.2.13 asks, so
// that the peer learns that they were lost; without, what was written is still sent, and
// Close waits for nothing. After CloseRead what comes is dropped uncredited: the window
// closes. Abort resets.
//
// # Errors
//
// Those of package net: a *net.OpError around os.ErrDeadlineExceeded, net.ErrClosed, or
// an error that errors.Is finds to be both the system's (syscall.ECONNRESET) and the
// plane's ([dataplane.CodeReset]); io.EOF is plain.
//
// What ICMP says of datagrams is not reported: a send to where nobody listens succeeds,
// and nothing comes back.
//
// It must not know: configuration, what is behind the plane.
package netconn
