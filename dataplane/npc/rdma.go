//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/np-appliance/np/dataplane"
)

// rdma implements [dataplane.RDMA]. mu keeps C calls one at a time, and away
// from a plane that stops: they wait for cores, which have to run then.
type rdma struct {
	p      *Plane
	events *os.File // readable when the connection manager has something
	notify *os.File // readable when ids retired or transfers ended

	mu   sync.Mutex
	c    *C.struct_np_plane_rdma
	dead bool
	ops  map[C.uint64_t]chan dataplane.Code
}

var _ dataplane.RDMAOpener = (*Plane)(nil)

// encodeRDMA says how many sessions are for RDMA's connections.
func encodeRDMA(cc *C.struct_np_plane_config, cfg *dataplane.Config) error {
	if cfg.RDMAConns < 0 || cfg.RDMAConns > C.NP_RDMA_CONNS_MAX {
		return fmt.Errorf("%w: RDMAConns is %d, at most %d", dataplane.CodeInvalid, cfg.RDMAConns, C.NP_RDMA_CONNS_MAX)
	}
	cc.rdma_conns_max = C.uint32_t(cfg.RDMAConns)
	return nil
}

// OpenRDMA implements [dataplane.RDMAOpener].
func (p *Plane) OpenRDMA(cfg *dataplane.RDMAConfig) (dataplane.RDMA, error) {
	if err := p.enter(context.Background()); err != nil {
		return nil, err
	}
	defer p.leave()
	if p.rdma != nil {
		return nil, fmt.Errorf("open RDMA: %w", dataplane.CodeExists)
	}
	args := C.struct_np_rdma_args{keepalive_ms: millis(cfg.Keepalive)}
	for _, f := range []struct {
		name string
		to   *C.uint32_t
		from int
	}{{"MaxConns", &args.conns_max, cfg.MaxConns}, {"RingBytes", &args.ring_bytes, cfg.RingBytes}, {"SendBuffer", &args.snd_buf_bytes, cfg.SendBuffer}} {
		if f.from < 0 || f.from > math.MaxInt32 {
			return nil, fmt.Errorf("open RDMA: %w: %s is %d", dataplane.CodeInvalid, f.name, f.from)
		}
		*f.to = C.uint32_t(f.from)
	}
	if len(cfg.Device) >= len(args.device) {
		return nil, fmt.Errorf("open RDMA: %w: device %q", dataplane.CodeInvalid, cfg.Device)
	}
	for i := range len(cfg.Device) {
		args.device[i] = C.char(cfg.Device[i])
	}
	r := &rdma{p: p, ops: map[C.uint64_t]chan dataplane.Code{}}
	// Close waits for this before it stops the threads.
	p.life.Lock()
	defer p.life.Unlock()
	if p.closed.Load() {
		return nil, dataplane.CodeShutdown
	}
	var eventFD, notifyFD C.int32_t
	var detail C.struct_np_err_detail
	if code := C.np_plane_rdma_open(p.c, &args, &r.c, &eventFD, &notifyFD, &detail); code != C.NP_ERR_OK {
		return nil, failure("open RDMA", code, &detail)
	}
	var err error
	if r.events, err = duplicate(eventFD, "RDMA events"); err == nil {
		r.notify, err = duplicate(notifyFD, "RDMA notify")
	}
	p.rdma = r
	if err != nil {
		return nil, fmt.Errorf("open RDMA: %w", err)
	}
	return r, nil
}

// duplicate gives Go a descriptor of its own, for the runtime's poller.
func duplicate(fd C.int32_t, name string) (*os.File, error) {
	n, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return nil, errno
	}
	if err := syscall.SetNonblock(int(n), true); err != nil {
		return nil, err
	}
	return os.NewFile(n, name), nil
}

// shut ends all use of C but end's. Before the plane's threads stop.
func (r *rdma) shut() {
	r.mu.Lock()
	r.dead = true
	ops := r.ops
	r.ops = nil
	r.mu.Unlock()
	for _, ch := range ops {
		ch <- dataplane.CodeShutdown
	}
	for _, f := range []*os.File{r.events, r.notify} {
		if f != nil {
			f.Close()
		}
	}
}

// end frees everything. The plane's threads are joined.
func (r *rdma) end() { C.np_plane_rdma_close(r.c) }

// do calls C, unless the plane is closed.
func (r *rdma) do(action string, f func(d *C.struct_np_err_detail) C.enum_np_err) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead {
		return dataplane.CodeShutdown
	}
	var detail C.struct_np_err_detail
	return failure(action, f(&detail), &detail)
}

// wait calls look until it finds something, and sleeps on f in between.
func (r *rdma) wait(ctx context.Context, f *os.File, look func() (bool, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return dataplane.CodeShutdown
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			_ = f.SetReadDeadline(time.Time{})
		}
	}()
	var found bool
	var failed error
	err = conn.Read(func(uintptr) bool {
		found, failed = look()
		return found || failed != nil
	})
	switch {
	case found || failed != nil:
		return failed
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrClosed):
		return dataplane.CodeShutdown
	}
	return err
}

// NextEvent implements [dataplane.RDMA].
func (r *rdma) NextEvent(ctx context.Context) (ev dataplane.RDMAEvent, err error) {
	err = r.wait(ctx, r.events, func() (bool, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for !r.dead {
			var e C.struct_np_rdma_event
			var detail C.struct_np_err_detail
			switch code := C.np_plane_rdma_event(r.c, &e, &detail); code {
			case C.NP_ERR_OK:
			case C.NP_ERR_NOTFOUND:
				return false, nil
			default:
				return false, failure("read RDMA events", code, &detail)
			}
			if e.op == C.NP_RDMA_EV_NONE {
				continue
			}
			ev = dataplane.RDMAEvent{Op: dataplane.RDMAEventOp(e.op), Err: dataplane.Code(e.err), Arg: int(e.arg), ID: dataplane.RDMAID(e.id),
				Listener: dataplane.RDMAID(e.listener), Local: addrPort(&e.local, e.local_port), Remote: addrPort(&e.remote, e.remote_port),
				Device: C.GoString(&e.device[0])}
			return true, nil
		}
		return false, dataplane.CodeShutdown
	})
	return ev, err
}

// WaitRetired implements [dataplane.RDMA].
func (r *rdma) WaitRetired(ctx context.Context) (out []dataplane.RDMAID, err error) {
	err = r.wait(ctx, r.notify, func() (bool, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.dead {
			return false, dataplane.CodeShutdown
		}
		var ids [64]C.uint64_t
		n := int(C.np_plane_rdma_retired(r.c, &ids[0], C.uint32_t(len(ids))))
		for _, id := range ids[:n] {
			out = append(out, dataplane.RDMAID(id))
		}
		r.collect()
		return n > 0, nil
	})
	return out, err
}

// collect ends the waiting for transfers that are done. mu is held.
func (r *rdma) collect() {
	for op, ch := range r.ops {
		var how C.uint32_t
		if C.np_plane_rdma_op_take(r.c, op, &how) == C.NP_ERR_OK {
			delete(r.ops, op)
			ch <- dataplane.Code(how)
		}
	}
}

// Listen implements [dataplane.RDMA].
func (r *rdma) Listen(local netip.AddrPort, backlog int) (dataplane.RDMAID, netip.AddrPort, error) {
	var addr [16]C.uint8_t
	var id C.uint64_t
	var port C.uint16_t
	any4 := local.Addr().Is4() && local.Addr().IsUnspecified()
	if !local.Addr().IsUnspecified() || any4 {
		setAddr(&addr, local.Addr())
	}
	err := r.do(fmt.Sprintf("listen on %s by RDMA", local), func(d *C.struct_np_err_detail) C.enum_np_err {
		return C.np_plane_rdma_listen(r.c, &addr[0], C.uint16_t(local.Port()), C.uint32_t(max(backlog, 1)), &id, &port, d)
	})
	return dataplane.RDMAID(id), netip.AddrPortFrom(local.Addr(), uint16(port)), err
}

// Resolve implements [dataplane.RDMA].
func (r *rdma) Resolve(local netip.Addr, remote netip.AddrPort, timeout time.Duration) (dataplane.RDMAID, error) {
	var from, to [16]C.uint8_t
	var id C.uint64_t
	if local.IsValid() && !local.IsUnspecified() {
		setAddr(&from, local)
	}
	setAddr(&to, remote.Addr())
	err := r.do(fmt.Sprintf("resolve %s for RDMA", remote), func(d *C.struct_np_err_detail) C.enum_np_err {
		return C.np_plane_rdma_resolve(r.c, &from[0], &to[0], C.uint16_t(remote.Port()), millis(timeout), &id, d)
	})
	return dataplane.RDMAID(id), err
}

// Route implements [dataplane.RDMA].
func (r *rdma) Route(id dataplane.RDMAID, timeout time.Duration) error {
	return r.do("find an RDMA route", func(d *C.struct_np_err_detail) C.enum_np_err {
		return C.np_plane_rdma_route(r.c, C.uint64_t(id), millis(timeout), d)
	})
}

// Prepare implements [dataplane.RDMA].
func (r *rdma) Prepare(id dataplane.RDMAID, core int) (int, error) {
	var slot C.uint32_t
	err := r.do("prepare an RDMA connection", func(d *C.struct_np_err_detail) C.enum_np_err {
		return C.np_plane_rdma_prepare(r.c, C.uint64_t(id), C.uint32_t(core), &slot, d)
	})
	return int(slot), err
}

// Connect implements [dataplane.RDMA].
func (r *rdma) Connect(id dataplane.RDMAID) error {
	return r.do("connect by RDMA", func(d *C.struct_np_err_detail) C.enum_np_err {
		return C.np_plane_rdma_connect(r.c, C.uint64_t(id), d)
	})
}

// Accept implements [dataplane.RDMA].
func (r *rdma) Accept(id dataplane.RDMAID) error {
	return r.do("accept by RDMA", func(d *C.struct_np_err_detail) C.enum_np_err {
		return C.np_plane_rdma_accept(r.c, C.uint64_t(id), d)
	})
}

// Adopt implements [dataplane.RDMA].
func (r *rdma) Adopt(id dataplane.RDMAID, listener dataplane.ListenerID) error {
	return r.do("give an RDMA connection to its listener", func(*C.struct_np_err_detail) C.enum_np_err {
		core := C.np_plane_rdma_core(r.c, C.uint64_t(id))
		if core < 0 {
			return C.NP_ERR_STALE
		}
		return C.np_plane_rdma_adopt(r.c, C.uint64_t(id), C.uint64_t(r.p.handleOf(listener, int(core))))
	})
}

// Find implements [dataplane.RDMA].
func (r *rdma) Find(conn dataplane.Handle) (dataplane.RDMAID, error) {
	var id C.uint64_t
	err := r.do("find an RDMA connection", func(*C.struct_np_err_detail) C.enum_np_err {
		return C.np_plane_rdma_find(r.c, C.uint64_t(conn), &id)
	})
	return dataplane.RDMAID(id), err
}

// Reject implements [dataplane.RDMA].
func (r *rdma) Reject(id dataplane.RDMAID) {
	_ = r.do("", func(*C.struct_np_err_detail) C.enum_np_err {
		C.np_plane_rdma_reject(r.c, C.uint64_t(id))
		return C.NP_ERR_OK
	})
}

// Drop implements [dataplane.RDMA].
func (r *rdma) Drop(id dataplane.RDMAID) {
	_ = r.do("", func(*C.struct_np_err_detail) C.enum_np_err {
		C.np_plane_rdma_drop(r.c, C.uint64_t(id))
		r.collect() // its transfers ended with it
		return C.NP_ERR_OK
	})
}

// region implements [dataplane.RDMARegion]. Its memory is C's and is there
// while rdma is not dead and it is not closed; both change under rdma.mu.
type region struct {
	r    *rdma
	c    C.struct_np_rdma_region
	mem  []byte
	gone bool
}

// Region implements [dataplane.RDMA].
func (r *rdma) Region(id dataplane.RDMAID, bytes int, access dataplane.RDMAAccess) (dataplane.RDMARegion, error) {
	g := &region{r: r}
	if bytes < 0 {
		return nil, fmt.Errorf("register memory: %w: %d bytes", dataplane.CodeInvalid, bytes)
	}
	err := r.do("register memory", func(d *C.struct_np_err_detail) C.enum_np_err {
		return C.np_plane_rdma_region(r.c, C.uint64_t(id), C.uint64_t(bytes), C.uint32_t(access), &g.c, d)
	})
	if err != nil {
		return nil, err
	}
	g.mem = unsafe.Slice((*byte)(g.c.mem), bytes)
	return g, nil
}

// use runs f while the memory is there.
func (g *region) use(f func() (int, error)) (int, error) {
	g.r.mu.Lock()
	defer g.r.mu.Unlock()
	if g.gone || g.r.dead {
		return 0, dataplane.CodeStale
	}
	return f()
}

// ReadAt implements [io.ReaderAt].
func (g *region) ReadAt(b []byte, off int64) (int, error) {
	return g.use(func() (int, error) {
		if off < 0 || off > int64(len(g.mem)) {
			return 0, dataplane.CodeInvalid
		}
		n := copy(b, g.mem[off:])
		if n < len(b) {
			return n, io.EOF
		}
		return n, nil
	})
}

// WriteAt implements [io.WriterAt].
func (g *region) WriteAt(b []byte, off int64) (int, error) {
	return g.use(func() (int, error) {
		if off < 0 || off > int64(len(g.mem)) {
			return 0, dataplane.CodeInvalid
		}
		n := copy(g.mem[off:], b)
		if n < len(b) {
			return n, io.ErrShortWrite
		}
		return n, nil
	})
}

// Len implements [dataplane.RDMARegion].
func (g *region) Len() int { return int(g.c.bytes) }

// Remote implements [dataplane.RDMARegion].
func (g *region) Remote() (uint64, uint32) { return uint64(g.c.addr), uint32(g.c.rkey) }

// Close implements [dataplane.RDMARegion].
func (g *region) Close() error {
	return g.r.do("free registered memory", func(*C.struct_np_err_detail) C.enum_np_err {
		if g.gone {
			return C.NP_ERR_STALE
		}
		code := C.np_plane_rdma_region_free(g.r.c, g.c.region)
		g.gone = code == C.NP_ERR_OK
		return code
	})
}

// Transfer implements [dataplane.RDMA].
func (r *rdma) Transfer(ctx context.Context, t *dataplane.RDMATransfer) error {
	g, ok := t.Region.(*region)
	if !ok || g.r != r || t.Offset < 0 || t.Bytes < 0 || t.Bytes > math.MaxInt32 {
		return fmt.Errorf("RDMA transfer: %w", dataplane.CodeInvalid)
	}
	ch := make(chan dataplane.Code, 1)
	err := r.do("RDMA transfer", func(*C.struct_np_err_detail) C.enum_np_err {
		io := C.struct_np_rdma_io{id: C.uint64_t(t.ID), region: g.c.region, offset: C.uint64_t(t.Offset), remote_addr: C.uint64_t(t.Addr),
			rkey: C.uint32_t(t.Key), bytes: C.uint32_t(t.Bytes), is_read: flag(t.Read)}
		var op C.uint64_t
		code := C.np_plane_rdma_io(r.c, &io, &op)
		if code == C.NP_ERR_OK {
			r.ops[op] = ch
		}
		return code
	})
	if err != nil {
		return err
	}
	select {
	case code := <-ch:
		if code != dataplane.CodeOK {
			return fmt.Errorf("RDMA transfer: %w", code)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
