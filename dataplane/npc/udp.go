//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"context"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/np-appliance/np/dataplane"
)

const metaBytes = C.sizeof_struct_np_udp_meta

// BindUDP implements [dataplane.Plane]. The first core chooses the port, if
// none is given; the others are bound the same, as nobody else binds on them.
func (p *Plane) BindUDP(ctx context.Context, local netip.AddrPort, dscp int) (handles []dataplane.Handle, bound netip.AddrPort, err error) {
	if err := p.enter(ctx); err != nil {
		return nil, netip.AddrPort{}, err
	}
	defer p.leave()
	if dscp < 0 || dscp > 63 {
		return nil, netip.AddrPort{}, fmt.Errorf("bind UDP %s: %w: DSCP %d", local, dataplane.CodeInvalid, dscp)
	}
	args := C.struct_np_cmd_udp{port: C.uint16_t(local.Port()), dscp: C.uint8_t(dscp)}
	if local.Addr() != netip.IPv6Unspecified() {
		setAddr(&args.local, local.Addr())
	}
	for _, c := range p.cores {
		a, err := c.adopt(ctx, request{op: C.NP_CMD_UDP_BIND, body: bytesOf(&args)}, C.NP_CMD_UDP_CLOSE)
		if err != nil {
			p.undo(func(ctx context.Context) error { return p.closeUDP(ctx, handles) })
			return nil, netip.AddrPort{}, fmt.Errorf("bind UDP %s: %w", local, err)
		}
		handles = append(handles, dataplane.Handle(a.handle))
		args.port = C.uint16_t(a.arg)
	}
	return handles, netip.AddrPortFrom(local.Addr(), uint16(args.port)), nil
}

// CloseUDP implements [dataplane.Plane].
func (p *Plane) CloseUDP(ctx context.Context, handles []dataplane.Handle) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	defer p.leave()
	if err := p.closeUDP(ctx, handles); err != nil {
		return fmt.Errorf("close UDP socket: %w", err)
	}
	return nil
}

// closeUDP closes all that it can and returns the first error.
func (p *Plane) closeUDP(ctx context.Context, handles []dataplane.Handle) (first error) {
	for _, h := range handles {
		err := error(dataplane.CodeStale)
		if h != 0 && h.Core() < len(p.cores) {
			_, err = p.cores[h.Core()].one(ctx, request{op: C.NP_CMD_UDP_CLOSE, handle: uint64(h)})
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// SendTo implements [dataplane.Core]. It allocates nothing.
func (c *core) SendTo(socket dataplane.Handle, local netip.Addr, remote netip.AddrPort, parts [][]byte) error {
	if socket == 0 || socket.Core() != c.index {
		return dataplane.CodeStale
	}
	if !remote.IsValid() || remote.Port() == 0 {
		return dataplane.CodeInvalid
	}
	n := metaBytes
	for _, p := range parts {
		n += len(p)
	}
	if n > metaBytes+65527 {
		return dataplane.CodeInvalid
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return dataplane.CodeShutdown
	}
	pieces := (n + c.capacity() - 1) / c.capacity()
	if pieces > c.loans {
		return dataplane.CodeInvalid // it never fits
	}
	s := c.slot()
	if s == nil || !c.takeLoans(pieces) {
		return c.full()
	}
	w := writer{c: c, most: c.capacity()}
	w.take()
	meta := (*C.struct_np_udp_meta)(unsafe.Pointer(&w.left[0])) // a lent buffer's data is aligned
	*meta = C.struct_np_udp_meta{remote_port: C.uint16_t(remote.Port())}
	setAddr(&meta.remote, remote.Addr())
	if local.IsValid() && !local.IsUnspecified() {
		setAddr(&meta.local, local)
	}
	w.left = w.left[metaBytes:]
	w.first.len = metaBytes
	for _, p := range parts {
		w.write(p)
	}
	s.op, s.handle = C.NP_CMD_UDP_SEND, C.uint64_t(socket)
	s.body, s.body_bytes = w.first, C.uint32_t(n)
	c.queued++
	return nil
}

// datagram takes what lies in front of a datagram out of the event's body. The
// core wrote it to one piece, wherever the headers had been, so it is copied.
func datagram(out *dataplane.Event) bool {
	if len(out.Body) == 0 || len(out.Body[0]) < metaBytes {
		return false
	}
	var meta C.struct_np_udp_meta
	copy(bytesOf(&meta), out.Body[0])
	out.Body[0] = out.Body[0][metaBytes:]
	out.Local, out.Remote = addrPort(&meta.local, meta.local_port), addrPort(&meta.remote, meta.remote_port)
	out.Flags = uint8(meta.ecn)
	return true
}
