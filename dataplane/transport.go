package dataplane

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// Transport is how protocols reach the network, whatever carries their bytes: the
// appliance's own TCP over DPDK, AF_XDP or AF_PACKET, kernel sockets by epoll or
// io_uring, Unix sockets, RDMA, and TLS on any of them. It gives the interfaces of
// package net, so that Go's protocol libraries run on every backend unchanged.
//
// Networks are "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "unix" and "rdma", as far as
// Properties says that the transport has them; others are an error that names those it
// has. Implementations are safe for concurrent use. Connections and listeners implement
// no SyscallConn: there need not be a descriptor behind them.
type Transport interface {
	// Dial connects. The context ends the attempt, not the connection. The net.Conn
	// is a [StreamConn].
	Dial(ctx context.Context, network, address string) (net.Conn, error)
	// Listen accepts connections, each a [StreamConn]. Port 0 chooses one.
	Listen(ctx context.Context, network, address string) (net.Listener, error)
	// ListenPacket opens a datagram socket. Port 0 chooses one.
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
	Properties() Properties
}

// LatencyClass orders transports by what a round trip inside the host costs.
type LatencyClass uint8

// Latency classes.
const (
	LatencyUnknown LatencyClass = iota
	LatencyPolled               // a poll core takes it from the device: microseconds
	LatencyKernel               // through the kernel's stack: tens of microseconds
)

// String returns "polled", "kernel" or "unknown".
func (l LatencyClass) String() string {
	switch l {
	case LatencyPolled:
		return "polled"
	case LatencyKernel:
		return "kernel"
	}
	return "unknown"
}

// Properties describes a transport, or one connection of it.
type Properties struct {
	Backend  string   // a rung of the ladder: "dpdk", "af_xdp", "af_packet", "io_uring", "epoll", "rdma"; "net": Go's own
	Networks []string // that Dial and Listen take
	Secure   bool     // TLS on top
	ID       Handle   // of a connection, 0 none

	MTU         int // bytes of the largest IP packet, 0 not known or none
	ReadBuffer  int // bytes held for a reader, at most
	WriteBuffer int // bytes taken from a writer that have not left, at most

	ZeroCopy            bool // ReadBuffers hands out the memory that the bytes arrived in
	Vectored            bool // WriteBuffers takes several slices as one write
	ChecksumOffload     bool
	SegmentationOffload bool
	TLSOffload          bool
	Latency             LatencyClass

	Unix *UnixPeer // who is at the other end of a Unix socket's connection, nil not one
}

// UnknownNetwork is the error of a [Transport] asked for a network that it lacks: it
// names those it has, and errors.As finds a [net.UnknownNetworkError].
func UnknownNetwork(op, network string, have []string) error {
	return &net.OpError{Op: op, Net: network, Err: fmt.Errorf("%w: there are %s", net.UnknownNetworkError(network), strings.Join(have, ", "))}
}

// StreamConn is what a [Transport]'s connections have beyond net.Conn.
type StreamConn interface {
	net.Conn
	// CloseWrite half-closes: the peer reads io.EOF after what was written, reading goes on.
	CloseWrite() error
	// CloseRead gives up what comes from now on; the peer's window closes.
	CloseRead() error
	// Abort ends the connection at once (RST), what is queued is lost.
	Abort() error
	SetKeepAlive(on bool) error
	SetKeepAlivePeriod(d time.Duration) error
	SetNoDelay(on bool) error
	// ReadBuffers waits for bytes as Read does and hands them out where they lie. The
	// caller releases them; until then they count against ReadBuffer.
	ReadBuffers() (*Buffers, error)
	// WriteBuffers writes all of bufs as one Write does.
	WriteBuffers(bufs net.Buffers) (int64, error)
	Properties() Properties
}

// Buffers is received data in the memory it arrived in, to be read and not written. It
// begins with one reference; the memory goes back when the last is released.
type Buffers struct {
	bufs [][]byte
	refs atomic.Int32
	free func([][]byte)
}

// NewBuffers makes Buffers with one reference; free is called when the last is released.
func NewBuffers(bufs [][]byte, free func([][]byte)) *Buffers {
	b := &Buffers{bufs: bufs, free: free}
	b.refs.Store(1)
	return b
}

// Bytes returns the pieces in order. They are valid until the last Release.
func (b *Buffers) Bytes() [][]byte { return b.bufs }

// Len returns the bytes of all pieces.
func (b *Buffers) Len() int {
	n := 0
	for _, p := range b.bufs {
		n += len(p)
	}
	return n
}

// Retain adds a reference.
func (b *Buffers) Retain() {
	if b.refs.Add(1) <= 1 {
		panic("dataplane: Buffers retained after its last Release")
	}
}

// Release drops a reference. Dropping more than there are is a broken invariant of the caller.
func (b *Buffers) Release() {
	switch n := b.refs.Add(-1); {
	case n < 0:
		panic("dataplane: Buffers released more often than retained")
	case n == 0 && b.free != nil:
		b.free(b.bufs)
		b.bufs = nil
	}
}

// WriteTo implements [io.WriterTo]; it keeps the reference.
func (b *Buffers) WriteTo(w io.Writer) (int64, error) {
	var n int64
	for _, p := range b.bufs {
		m, err := w.Write(p)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
