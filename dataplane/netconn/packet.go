package netconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/np-appliance/np/dataplane"
)

const (
	datagramMost = 65507 // bytes; what IPv4 leaves of 65,535
	// Each datagram kept may hold a buffer of the core, however short it is.
	datagramsMost = 256
)

// PacketConn is a UDP socket over a plane. It implements [net.PacketConn], and
// the AddrPort methods of *net.UDPConn, which allocate nothing.
type PacketConn struct {
	t       *Transport
	handles []dataplane.Handle // by core
	network string
	local   netip.AddrPort
	addr    net.Addr
	peer    netip.AddrPort // of a dialled one; invalid: anybody
	core    atomic.Int32   // that the last datagram came by: it has a way out

	rmu, wmu sync.Mutex
	rch, wch chan struct{}
	wparts   [][]byte

	mu     sync.Mutex
	closed bool
	gone   bool // the plane ended
	queue  []packet
	head   int
	bytes  int
	rbuf   []byte
	rn     int // -1: nothing came
	rfrom  netip.AddrPort
	rwait  bool
	rdead  deadline
	wwait  bool
	wdead  deadline
}

// packet is a datagram that waits.
type packet struct {
	from netip.AddrPort
	core *shard
	k    chunk
}

// ListenPacket implements [dataplane.Transport]: a *PacketConn.
func (t *Transport) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	if err := t.known("listen", network, "udp"); err != nil {
		return nil, err
	}
	at, err := t.bindable(ctx, network, address)
	if err != nil {
		return nil, opError("listen", network, nil, nil, contextErr(err))
	}
	p, err := t.bind(ctx, network, at, netip.AddrPort{})
	if err != nil {
		return nil, opError("listen", network, nil, net.UDPAddrFromAddrPort(at), contextErr(err))
	}
	return p, nil
}

func (t *Transport) bind(ctx context.Context, network string, at, peer netip.AddrPort) (*PacketConn, error) {
	s := t.s
	handles, local, err := s.plane.BindUDP(ctx, at, t.o.DSCP)
	if err != nil {
		return nil, planeErr(err)
	}
	p := &PacketConn{t: t, handles: handles, network: network, local: local, addr: net.UDPAddrFromAddrPort(local), peer: peer,
		rch: make(chan struct{}, 1), wch: make(chan struct{}, 1)}
	s.mu.Lock()
	closed := s.closed
	for i, h := range handles {
		sh := s.shards[i]
		sh.mu.Lock()
		sh.sockets[h] = p
		sh.mu.Unlock()
	}
	s.mu.Unlock()
	if closed {
		_ = p.Close()
		return nil, codeErr(dataplane.CodeShutdown)
	}
	return p, nil
}

// Close implements [net.PacketConn].
func (p *PacketConn) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return p.fail("close", nil, net.ErrClosed)
	}
	p.closed = true
	p.rdead.stop()
	p.wdead.stop()
	left := p.queue[p.head:]
	p.queue, p.head, p.bytes = nil, 0, 0
	p.rbuf = nil
	p.wakeReader()
	p.wakeWrite()
	p.mu.Unlock()
	for i, h := range p.handles {
		sh := p.t.s.shards[i]
		sh.mu.Lock()
		delete(sh.sockets, h)
		sh.mu.Unlock()
	}
	for i := range left {
		left[i].release()
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoTime)
	defer cancel()
	if err := p.t.s.plane.CloseUDP(ctx, p.handles); err != nil && !errors.Is(err, dataplane.CodeShutdown) {
		return p.fail("close", nil, planeErr(err))
	}
	return nil
}

// over: the plane ended.
func (p *PacketConn) over() {
	p.mu.Lock()
	p.gone = true
	p.wakeReader()
	p.wakeWrite()
	p.mu.Unlock()
}

func (k *packet) release() { k.core.core.Release([]dataplane.Event{{Token: k.k.token}}) }

func (p *PacketConn) fail(op string, remote net.Addr, err error) error {
	return opError(op, p.network, p.addr, remote, err)
}

// wakeReader lets a read look again. mu is held.
func (p *PacketConn) wakeReader() {
	if p.rwait {
		p.rwait = false
		p.rch <- struct{}{} // room for the only one
	}
}

func (p *PacketConn) wakeWrite() {
	if p.wwait {
		p.wwait = false
		p.wch <- struct{}{}
	}
}

// datagram takes one: to the read that waits, else it is kept or dropped.
func (p *PacketConn) datagram(sh *shard, ev *dataplane.Event) (keep bool) {
	from := netip.AddrPortFrom(ev.Remote.Addr().Unmap(), ev.Remote.Port())
	p.core.Store(int32(sh.index))
	p.mu.Lock()
	defer p.mu.Unlock()
	n := ev.Len()
	switch {
	case p.closed, p.peer.IsValid() && p.peer != from, !fits(p.network, from.Addr()):
		return false
	case p.rbuf != nil && p.head == len(p.queue):
		k := newChunk(ev, n)
		p.rn, p.rfrom = k.take(p.rbuf), from
		p.rbuf = nil
		p.wakeReader()
		return false
	case p.bytes+n > p.t.o.DatagramBytes || len(p.queue)-p.head >= datagramsMost:
		p.t.s.stats.datagramsDropped.Add(1)
		return false
	}
	if p.head == len(p.queue) {
		p.queue, p.head = p.queue[:0], 0
	} else if p.head >= datagramsMost {
		m := copy(p.queue, p.queue[p.head:])
		clear(p.queue[m:])
		p.queue, p.head = p.queue[:m], 0
	}
	p.queue = append(p.queue, packet{from: from, core: sh, k: newChunk(ev, n)})
	p.bytes += n
	return ev.Token != 0
}

// ReadFromUDPAddrPort reads one datagram; what b has no room for is lost.
func (p *PacketConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	p.rmu.Lock()
	defer p.rmu.Unlock()
	p.mu.Lock()
	for {
		var err error
		switch {
		case p.closed, p.gone:
			err = net.ErrClosed
		case p.rdead.expired:
			err = os.ErrDeadlineExceeded
		}
		if err != nil {
			p.mu.Unlock()
			return 0, netip.AddrPort{}, p.fail("read", nil, err)
		}
		if p.head < len(p.queue) {
			k := p.queue[p.head]
			p.queue[p.head] = packet{}
			p.head++
			p.bytes -= k.k.left
			p.mu.Unlock()
			n := k.k.take(b)
			if k.k.token != 0 {
				k.release()
			}
			return n, k.from, nil
		}
		p.rbuf, p.rn, p.rwait = b, -1, true
		if b == nil {
			p.rbuf = []byte{}
		}
		p.mu.Unlock()
		<-p.rch
		p.mu.Lock()
		p.rbuf = nil
		if n := p.rn; n >= 0 {
			from := p.rfrom
			p.mu.Unlock()
			return n, from, nil
		}
	}
}

// ReadFrom implements [net.PacketConn].
func (p *PacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := p.ReadFromUDPAddrPort(b)
	if err != nil {
		return n, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteTo implements [net.PacketConn].
func (p *PacketConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	u, ok := addr.(*net.UDPAddr)
	if !ok || u == nil {
		return 0, p.fail("write", addr, syscall.EINVAL)
	}
	return p.WriteToUDPAddrPort(b, u.AddrPort())
}

// WriteToUDPAddrPort sends one datagram. While the core has no room it waits, as a full
// socket buffer makes one wait.
func (p *PacketConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	err := p.send(b, to)
	if err != nil {
		return 0, p.fail("write", net.UDPAddrFromAddrPort(to), err)
	}
	return len(b), nil
}

func (p *PacketConn) send(b []byte, to netip.AddrPort) error {
	local := p.local.Addr()
	switch {
	case !to.IsValid() || to.Port() == 0 || to.Addr().Zone() != "":
		return syscall.EINVAL
	case len(b) > datagramMost:
		return syscall.EMSGSIZE
	case !fits(p.network, to.Addr()) || !local.IsUnspecified() && local.Is4() != to.Addr().Is4():
		return syscall.EAFNOSUPPORT
	case local.IsUnspecified():
		local = netip.Addr{}
	}
	i := p.core.Load()
	sh, h := p.t.s.shards[i], p.handles[i]
	p.wmu.Lock()
	defer p.wmu.Unlock()
	p.wparts = append(p.wparts[:0], b)
	defer clear(p.wparts)
	p.mu.Lock()
	defer p.mu.Unlock()
	var room <-chan struct{}
	for {
		switch {
		case p.closed, p.gone:
			return net.ErrClosed
		case p.wdead.expired:
			return os.ErrDeadlineExceeded
		}
		err := sh.core.SendTo(h, local, to, p.wparts)
		sh.core.Flush()
		switch {
		case !errors.Is(err, dataplane.CodeFull):
			return planeErr(err)
		case room == nil:
			room = sh.waitRoom() // a place first, then the attempt
		default:
			p.sleepWrite(room)
			room = nil
		}
	}
}

// sleepWrite waits for room in the core, or until the writer is woken. mu is held, let
// go meanwhile.
func (p *PacketConn) sleepWrite(room <-chan struct{}) {
	p.wwait = true
	p.mu.Unlock()
	select {
	case <-p.wch:
		p.mu.Lock()
	case <-room:
		p.mu.Lock()
		if !p.wwait {
			<-p.wch // woken meanwhile too
		}
		p.wwait = false
	}
}

// LocalAddr implements [net.PacketConn].
func (p *PacketConn) LocalAddr() net.Addr { return p.addr }

// SetDeadline implements [net.PacketConn].
func (p *PacketConn) SetDeadline(t time.Time) error { return p.setDeadlines(t, true, true) }

// SetReadDeadline implements [net.PacketConn].
func (p *PacketConn) SetReadDeadline(t time.Time) error { return p.setDeadlines(t, true, false) }

// SetWriteDeadline implements [net.PacketConn].
func (p *PacketConn) SetWriteDeadline(t time.Time) error { return p.setDeadlines(t, false, true) }

func (p *PacketConn) setDeadlines(t time.Time, read, write bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return p.fail("set", nil, net.ErrClosed)
	}
	if read {
		if p.rdead.wake == nil {
			p.rdead.wake = p.wakeReader
		}
		p.rdead.set(&p.mu, t)
	}
	if write {
		if p.wdead.wake == nil {
			p.wdead.wake = p.wakeWrite
		}
		p.wdead.set(&p.mu, t)
	}
	return nil
}

// connected is a UDP socket with one peer.
type connected struct {
	*PacketConn
	remote net.Addr
}

// dialPacket makes a socket for one peer.
func (t *Transport) dialPacket(ctx context.Context, network string, local, to netip.AddrPort) (net.Conn, error) {
	if to.Port() == 0 {
		return nil, fmt.Errorf("port 0: %w", syscall.EINVAL)
	}
	if !local.IsValid() {
		local = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
		if to.Addr().Is4() {
			local = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
		}
	}
	p, err := t.bind(ctx, network, local, to)
	if err != nil {
		return nil, err
	}
	return &connected{PacketConn: p, remote: net.UDPAddrFromAddrPort(to)}, nil
}

// Read implements [net.Conn]: one datagram.
func (c *connected) Read(b []byte) (int, error) {
	n, _, err := c.ReadFromUDPAddrPort(b)
	return n, err
}

// Write implements [net.Conn].
func (c *connected) Write(b []byte) (int, error) { return c.WriteToUDPAddrPort(b, c.peer) }

// RemoteAddr implements [net.Conn].
func (c *connected) RemoteAddr() net.Addr { return c.remote }
