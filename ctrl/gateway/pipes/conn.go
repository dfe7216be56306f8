package pipes

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// room is what one direction holds until its reader has taken it.
const room = 64 << 10

// half is one direction of a connection.
type half struct {
	mu    sync.Mutex
	cond  sync.Cond // of all below
	buf   []byte
	ended bool // nothing more is written
	gone  bool // nothing more is read
	reset bool // the writer broke off

	read, write deadline
}

// deadline is one that may be over already.
type deadline struct {
	at    time.Time // zero: none
	timer *time.Timer
}

func (d *deadline) over() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// set changes a deadline of h.
func (h *half) set(d *deadline, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.at = at; !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), h.wake)
	}
	h.cond.Broadcast()
}

func (h *half) wake() {
	h.mu.Lock()
	h.cond.Broadcast()
	h.mu.Unlock()
}

func newHalf() *half {
	h := &half{}
	h.cond.L = &h.mu
	return h
}

// conn is one end, with the addresses that it would have over TCP.
type conn struct {
	in, out       *half
	local, remote net.Addr
}

// pair makes both ends of a connection.
func pair(a, b net.Addr) (near, far *conn) {
	x, y := newHalf(), newHalf()
	return &conn{x, y, a, b}, &conn{y, x, b, a}
}

func (c *conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// Read implements [net.Conn].
func (c *conn) Read(p []byte) (int, error) {
	h := c.in
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.gone:
			return 0, c.fail("read", net.ErrClosed)
		case h.read.over():
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		case h.reset:
			return 0, c.fail("read", syscall.ECONNRESET)
		case len(h.buf) > 0 || len(p) == 0:
			n := copy(p, h.buf)
			h.buf = h.buf[n:]
			h.cond.Broadcast()
			return n, nil
		case h.ended:
			return 0, io.EOF
		}
		h.cond.Wait()
	}
}

// Write implements [net.Conn].
func (c *conn) Write(p []byte) (n int, err error) {
	h := c.out
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.ended:
			return n, c.fail("write", net.ErrClosed)
		case h.write.over():
			return n, c.fail("write", os.ErrDeadlineExceeded)
		case h.gone:
			return n, c.fail("write", syscall.EPIPE)
		}
		if k := min(room-len(h.buf), len(p)-n); k > 0 {
			h.buf = append(h.buf, p[n:n+k]...)
			n += k
			h.cond.Broadcast()
		}
		if n == len(p) {
			return n, nil
		}
		h.cond.Wait()
	}
}

// CloseWrite ends what is sent.
func (c *conn) CloseWrite() error {
	h := c.out
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return c.fail("close", net.ErrClosed)
	}
	h.ended = true
	h.cond.Broadcast()
	return nil
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	_ = c.CloseWrite() // it may have been called before
	h := c.in
	h.mu.Lock()
	again := h.gone
	h.gone, h.buf = true, nil
	h.cond.Broadcast()
	h.mu.Unlock()
	_ = c.SetDeadline(time.Time{}) // timers that nobody waits for would keep a bubble's clock going
	if again {
		return c.fail("close", net.ErrClosed)
	}
	return nil
}

// Reset breaks the connection off, as a RST does: what was not read is lost.
func (c *conn) Reset() error {
	h := c.out
	h.mu.Lock()
	h.reset, h.buf = true, nil
	h.mu.Unlock()
	return c.Close()
}

// LocalAddr implements [net.Conn].
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements [net.Conn].
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements [net.Conn].
func (c *conn) SetDeadline(at time.Time) error {
	c.in.set(&c.in.read, at)
	c.out.set(&c.out.write, at)
	return nil
}

// SetReadDeadline implements [net.Conn].
func (c *conn) SetReadDeadline(at time.Time) error {
	c.in.set(&c.in.read, at)
	return nil
}

// SetWriteDeadline implements [net.Conn].
func (c *conn) SetWriteDeadline(at time.Time) error {
	c.out.set(&c.out.write, at)
	return nil
}
