package h1

import (
	"context"
	"net"
	"syscall"
	"time"
)

// Conn is a connection to a server, as a pool keeps it. It belongs to who borrowed it.
type Conn struct {
	nc   net.Conn
	idle func() bool // whether it is open with nothing to be read; nil: it can't be told
	in   reader

	interrupt func() // sets a deadline in the past; made once, since it is needed for each request
}

func newConn(nc net.Conn) *Conn {
	c := &Conn{nc: nc, idle: idleOf(nc)}
	c.in.src = nc
	c.interrupt = func() { _ = nc.SetDeadline(past()) }
	return c
}

// past is a deadline that every connection takes for one gone by.
func past() time.Time { return time.Unix(1, 0) }

// idleOf finds how a connection, or the one below its TLS, can be looked at without
// reading from it: by itself, or by its descriptor.
func idleOf(nc net.Conn) func() bool {
	for range 4 { // layers
		switch under := nc.(type) {
		case interface{ Idle() bool }: // of dataplane/netconn
			return under.Idle
		case syscall.Conn:
			raw, err := under.SyscallConn()
			if err != nil {
				return nil
			}
			return (&peek{raw: raw}).idle
		case interface{ NetConn() net.Conn }:
			nc = under.NetConn()
		default:
			return nil
		}
	}
	return nil
}

// peek looks at a socket. It is made once for a connection, so that a look allocates nothing.
type peek struct {
	raw  syscall.RawConn
	b    [1]byte
	well bool
	read func(fd uintptr) bool
}

func (p *peek) idle() bool {
	if p.read == nil {
		p.read = func(fd uintptr) bool {
			_, _, err := syscall.Recvfrom(int(fd), p.b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			p.well = err == syscall.EAGAIN // at its end, or with bytes that nobody asked for, it is of no use
			return true
		}
	}
	p.well = false
	return p.raw.Read(p.read) == nil && p.well
}

// look says whether an idle connection is open with nothing to be read, as far as it can
// be told without waiting; known is false where it can't.
func (c *Conn) look() (well, known bool) {
	if c.idle == nil {
		return false, false
	}
	return c.idle(), true
}

// deadline sets when a read ends, unless ctx has ended: interrupt came first, or comes.
func (c *Conn) deadline(ctx context.Context, t time.Time) {
	_ = c.nc.SetReadDeadline(t) // a connection without deadlines is closed by its context's end all the same
	if ctx.Err() != nil {
		c.interrupt()
	}
}
