package h1

import (
	"context"
	"net"
	"syscall"
	"time"
)

// Conn is a connection to a server, as a pool keeps it. It belongs to who borrowed it.
type Conn struct {
	nc  net.Conn
	raw syscall.RawConn // nil: it can't be looked at
	in  reader

	interrupt func() // sets a deadline in the past; made once, since it is needed for each request
}

func newConn(nc net.Conn) *Conn {
	c := &Conn{nc: nc, raw: rawOf(nc)}
	c.in.src = nc
	c.interrupt = func() { _ = nc.SetDeadline(past()) }
	return c
}

// past is a deadline that every connection takes for one gone by.
func past() time.Time { return time.Unix(1, 0) }

// rawOf finds the descriptor of a connection, or of the one below its TLS.
func rawOf(nc net.Conn) syscall.RawConn {
	for range 4 { // layers
		if s, ok := nc.(syscall.Conn); ok {
			raw, err := s.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		}
		under, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		nc = under.NetConn()
	}
	return nil
}

// look says whether an idle connection is open with nothing to be read, as far as it can
// be told without waiting; known is false where it can't.
func (c *Conn) look() (well, known bool) {
	if c.raw == nil {
		return false, false
	}
	var b [1]byte
	err := c.raw.Read(func(fd uintptr) bool {
		_, _, e := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		well = e == syscall.EAGAIN // at its end, or with bytes that nobody asked for, it is of no use
		return true
	})
	return well && err == nil, true
}

// deadline sets when a read ends, unless ctx has ended: interrupt came first, or comes.
func (c *Conn) deadline(ctx context.Context, t time.Time) {
	_ = c.nc.SetReadDeadline(t) // a connection without deadlines is closed by its context's end all the same
	if ctx.Err() != nil {
		c.interrupt()
	}
}
