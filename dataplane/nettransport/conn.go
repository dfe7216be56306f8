package nettransport

import (
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/dataplane"
)

// kernel is what a socket of either kind has.
type kernel interface {
	net.Conn
	syscall.Conn
	CloseRead() error
	CloseWrite() error
}

// conn is a [dataplane.StreamConn] on a kernel socket.
type conn struct {
	k   kernel
	tcp *net.TCPConn // nil: a Unix socket
	t   *Transport
}

var _ dataplane.StreamConn = (*conn)(nil)

func (t *Transport) wrap(c net.Conn) *conn {
	tcp, _ := c.(*net.TCPConn)
	return &conn{k: c.(kernel), tcp: tcp, t: t}
}

func (c *conn) Read(b []byte) (int, error)         { return c.k.Read(b) }
func (c *conn) Write(b []byte) (int, error)        { return c.k.Write(b) }
func (c *conn) Close() error                       { return c.k.Close() }
func (c *conn) LocalAddr() net.Addr                { return c.k.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr               { return c.k.RemoteAddr() }
func (c *conn) SetDeadline(t time.Time) error      { return c.k.SetDeadline(t) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.k.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.k.SetWriteDeadline(t) }
func (c *conn) CloseRead() error                   { return c.k.CloseRead() }
func (c *conn) CloseWrite() error                  { return c.k.CloseWrite() }

// SyscallConn implements [syscall.Conn], for those who wait for many connections without a
// buffer for each.
func (c *conn) SyscallConn() (syscall.RawConn, error) { return c.k.SyscallConn() }

// Abort implements [dataplane.StreamConn]. A Unix socket has no reset: its peer reads
// io.EOF, or ECONNRESET where we left something unread.
func (c *conn) Abort() error {
	if c.tcp != nil {
		if err := c.tcp.SetLinger(0); err != nil {
			return err
		}
	}
	return c.k.Close()
}

// unsupported is the error of a setting that Unix sockets lack.
func (c *conn) unsupported(what string) error {
	return &net.OpError{Op: "set", Net: "unix", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: fmt.Errorf("%s: %w", what, dataplane.CodeUnsupported)}
}

// SetKeepAlive implements [dataplane.StreamConn]. On a Unix socket on and off are the
// same: the kernel tells of the peer's end at once.
func (c *conn) SetKeepAlive(on bool) error {
	if c.tcp == nil {
		return nil
	}
	return c.tcp.SetKeepAlive(on)
}

// SetKeepAlivePeriod implements [dataplane.StreamConn].
func (c *conn) SetKeepAlivePeriod(d time.Duration) error {
	if c.tcp == nil {
		return nil
	}
	return c.tcp.SetKeepAlivePeriod(d)
}

// SetNoDelay implements [dataplane.StreamConn]. Unix sockets never delay.
func (c *conn) SetNoDelay(on bool) error {
	if c.tcp != nil {
		return c.tcp.SetNoDelay(on)
	}
	if !on {
		return c.unsupported("delay small writes")
	}
	return nil
}

// SetUserTimeout sets how long what was sent may stay unacknowledged, 0: the host's default.
func (c *conn) SetUserTimeout(d time.Duration) error {
	if c.tcp == nil {
		return c.unsupported("user timeout")
	}
	return c.control("set", func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}

// ReadBuffers implements [dataplane.StreamConn].
func (c *conn) ReadBuffers() (*dataplane.Buffers, error) {
	p := c.t.pool.Get().(*[]byte)
	n, err := c.k.Read(*p)
	if n == 0 {
		c.t.pool.Put(p)
		return nil, err
	}
	// An error that came with bytes comes again.
	return dataplane.NewBuffers([][]byte{(*p)[:n:n]}, func([][]byte) { c.t.pool.Put(p) }), nil
}

// WriteBuffers implements [dataplane.StreamConn].
func (c *conn) WriteBuffers(bufs net.Buffers) (int64, error) {
	own := slices.Clone(bufs)         // WriteTo uses its slice up
	return own.WriteTo(net.Conn(c.k)) // writev
}

func (c *conn) control(op string, f func(fd int) error) error {
	raw, err := c.k.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	if inner != nil {
		return &net.OpError{Op: op, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError("setsockopt", inner)}
	}
	return nil
}

// Properties implements [dataplane.StreamConn]. What a closed connection no longer
// tells is 0.
func (c *conn) Properties() dataplane.Properties {
	p := c.t.Properties()
	p.Networks = []string{c.LocalAddr().Network()}
	_ = c.control("get", func(fd int) error {
		p.ReadBuffer, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
		p.WriteBuffer, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
		if c.tcp != nil {
			p.MTU, _ = unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU)
			return nil
		}
		if u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			p.Unix = &dataplane.UnixPeer{PID: uint32(u.Pid), UID: u.Uid, GID: u.Gid}
		}
		return nil
	})
	return p
}
