package h1

import (
	"context"
	"net"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/sock"
)

// Conn is a connection to a server, as a pool keeps it. It belongs to who borrowed it.
type Conn struct {
	nc   net.Conn
	sock *sock.Reader
	in   reader

	// Of the request that is under way.
	head  []byte // and the content
	wrote int    // bytes of it
	werr  error  // of writing it

	// Made once, since they are needed for each request.
	interrupt func() // sets a deadline in the past
	write     func() // writes head
}

func newConn(nc net.Conn) *Conn {
	c := &Conn{nc: nc, sock: sock.New(nc)}
	c.in.src = nc
	c.interrupt = func() { _ = nc.SetDeadline(past()) }
	c.write = func() { c.wrote, c.werr = nc.Write(c.head) }
	return c
}

// past is a deadline that every connection takes for one gone by.
func past() time.Time { return time.Unix(1, 0) }

// deadline sets when a read ends, unless ctx has ended: interrupt came first, or comes.
func (c *Conn) deadline(ctx context.Context, t time.Time) {
	_ = c.nc.SetReadDeadline(t) // a connection without deadlines is closed by its context's end all the same
	if ctx.Err() != nil {
		c.interrupt()
	}
}
