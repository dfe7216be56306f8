package nettransport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/np-appliance/np/dataplane"
)

// Options of a transport; the zero value serves.
type Options struct {
	// UnixMode is the mode of the files of listening Unix sockets; 0: 0600.
	UnixMode fs.FileMode
	// ReadBytes is how much ReadBuffers takes at a time at most; 0: 32 KiB.
	ReadBytes int
	// Resolver looks names up; nil: the host's.
	Resolver *net.Resolver
}

const (
	readBytes  = 32 << 10
	unixMode   = 0o600
	staleProbe = time.Second // for whoever listens on a Unix socket to answer
)

var networks = [...]string{"tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "unix"}

// Transport implements [dataplane.Transport].
type Transport struct {
	o    Options
	pool sync.Pool // *[]byte of ReadBytes
}

var _ dataplane.Transport = (*Transport)(nil)

// New makes a transport. It owns nothing and needs no end.
func New(o Options) *Transport {
	if o.ReadBytes <= 0 {
		o.ReadBytes = readBytes
	}
	if o.UnixMode == 0 {
		o.UnixMode = unixMode
	}
	t := &Transport{o: o}
	t.pool.New = func() any { b := make([]byte, o.ReadBytes); return &b }
	return t
}

func stream(network string) bool { return strings.HasPrefix(network, "tcp") || network == "unix" }

func known(op, network string) error {
	if slices.Contains(networks[:], network) {
		return nil
	}
	return dataplane.UnknownNetwork(op, network, networks[:])
}

// Dial implements [dataplane.Transport].
func (t *Transport) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := known("dial", network); err != nil {
		return nil, err
	}
	d := net.Dialer{Resolver: t.o.Resolver}
	c, err := d.DialContext(ctx, network, address)
	if err != nil || !stream(network) {
		return c, err
	}
	return t.wrap(c), nil
}

// Listen implements [dataplane.Transport].
func (t *Transport) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if err := known("listen", network); err != nil {
		return nil, err
	}
	if !stream(network) {
		return nil, dataplane.UnknownNetwork("listen", network, []string{"tcp", "tcp4", "tcp6", "unix"})
	}
	lc := net.ListenConfig{}
	file := network == "unix" && !strings.HasPrefix(address, "@")
	if file {
		if err := unstale(ctx, address); err != nil {
			return nil, &net.OpError{Op: "listen", Net: network, Err: err}
		}
		// A mode set before bind is the file's, less the umask's bits: at no moment
		// may more connect than will in the end.
		lc.Control = func(_, _ string, c syscall.RawConn) error {
			var err error
			if e := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), uint32(t.o.UnixMode.Perm())) }); e != nil {
				return e
			}
			return err
		}
	}
	l, err := lc.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if file {
		if err := os.Chmod(address, t.o.UnixMode.Perm()); err != nil {
			return nil, errors.Join(fmt.Errorf("listen on %s: %w", address, err), l.Close())
		}
	}
	return &listener{Listener: l, t: t}, nil
}

// unstale removes a socket's file that nobody listens on.
func unstale(ctx context.Context, path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s: a file that is no socket is in the way: %w", path, syscall.EADDRINUSE)
	}
	// With a datagram socket, which the kernel refuses as the wrong type where there is
	// a stream's, so that whoever listens sees nothing of it.
	d := net.Dialer{Timeout: staleProbe}
	c, err := d.DialContext(ctx, "unixgram", path)
	if err == nil {
		_ = c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s: %w", path, syscall.EADDRINUSE) // there is one, or it is not ours to judge
	}
	return os.Remove(path)
}

// ListenPacket implements [dataplane.Transport]: a *net.UDPConn.
func (t *Transport) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	if err := known("listen", network); err != nil {
		return nil, err
	}
	if stream(network) {
		return nil, dataplane.UnknownNetwork("listen", network, []string{"udp", "udp4", "udp6"})
	}
	lc := net.ListenConfig{}
	return lc.ListenPacket(ctx, network, address)
}

// Properties implements [dataplane.Transport].
func (t *Transport) Properties() dataplane.Properties {
	return dataplane.Properties{Backend: "net", Networks: networks[:], Vectored: true, Latency: dataplane.LatencyKernel}
}

type listener struct {
	net.Listener
	t *Transport
}

// Accept implements [net.Listener].
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.t.wrap(c), nil
}
