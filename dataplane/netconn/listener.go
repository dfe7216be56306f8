package netconn

import (
	"context"
	"net"
	"sync"

	"github.com/np-appliance/np/dataplane"
)

// Listener accepts a plane's connections. It implements [net.Listener].
type Listener struct {
	t       *Transport
	by      Opener
	id      dataplane.ListenerID
	network string
	addr    net.Addr
	queue   chan *Conn
	remove  func() // what else ends with it, or nil

	mu     sync.Mutex
	closed bool
	done   chan struct{}
}

// push gives a connection to Accept, or resets it when too many wait.
func (l *Listener) push(c *Conn) {
	c.o, c.network = &l.t.o, l.network
	l.mu.Lock()
	defer l.mu.Unlock()
	fit := true
	if l.network == "unix" {
		c.local, c.remote = l.addr, &net.UnixAddr{Net: "unix"}
	} else {
		fit = fits(l.network, c.local.(*net.TCPAddr).AddrPort().Addr().Unmap())
	}
	if fit && !l.closed {
		select {
		case l.queue <- c:
			return
		default:
			l.t.s.stats.overflowed.Add(1)
		}
	}
	c.discard()
}

// Accept implements [net.Listener]; the connection is a *Conn.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		l.t.s.stats.accepted.Add(1)
		return c, nil
	case <-l.done:
		return nil, opError("accept", l.network, nil, l.addr, net.ErrClosed)
	}
}

// shut ends Accept and resets what nobody accepted. Return: it was open.
func (l *Listener) shut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.closed = true
	close(l.done)
	for {
		select {
		case c := <-l.queue:
			c.discard()
			continue
		default:
		}
		return true
	}
}

// Close implements [net.Listener]. Accepted connections stay.
func (l *Listener) Close() error {
	if !l.shut() {
		return opError("close", l.network, nil, l.addr, net.ErrClosed)
	}
	s := l.t.s
	s.mu.Lock()
	delete(s.listeners, l.id)
	s.mu.Unlock()
	if err := l.unlisten(); err != nil {
		return opError("close", l.network, nil, l.addr, err)
	}
	return nil
}

func (l *Listener) unlisten() error {
	ctx, cancel := context.WithTimeout(context.Background(), undoTime)
	defer cancel()
	if l.remove != nil {
		defer l.remove()
	}
	return planeErr(l.by.Unlisten(ctx, l.id))
}

// ID names it in the plane.
func (l *Listener) ID() dataplane.ListenerID { return l.id }

// Addr implements [net.Listener].
func (l *Listener) Addr() net.Addr { return l.addr }
