//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"context"
	"fmt"
	"math/bits"
	"sync"
	"time"
	"unsafe"

	"github.com/np-appliance/np/dataplane"
)

const (
	captureRing  = 4 << 20   // default bytes per core
	captureBatch = 256 << 10 // bytes per read: one crossing for many packets
	// A capture has no wake-up: the core must not pay for one. Looking 50 times
	// a second while nothing comes is too cheap to matter.
	captureFirst = time.Millisecond
	captureLast  = 20 * time.Millisecond
)

// capture joins the captures of all cores.
type capture struct {
	p      *Plane
	mu     sync.Mutex // Next, Lost and Close
	per    []*captureCore
	closed bool
	lost   uint64 // once closed
}

type captureCore struct {
	core  *core
	c     *C.struct_np_capture
	buf   []uint64 // records are aligned to 8
	data  []byte   // of buf, not yet returned
	inUse bool     // the core may still write to it
}

// Capture implements [dataplane.Plane]. One at a time: a second is CodeBusy.
func (p *Plane) Capture(ctx context.Context, cfg *dataplane.CaptureConfig) (dataplane.Capture, error) {
	if err := p.enter(ctx); err != nil {
		return nil, err
	}
	defer p.leave()
	if !p.capturing.CompareAndSwap(false, true) {
		return nil, fmt.Errorf("capture: %w (another capture is running)", dataplane.CodeBusy)
	}
	k := &capture{p: p}
	p.life.Lock()
	p.capture = k
	p.life.Unlock()
	if err := k.open(ctx, cfg); err != nil {
		k.Close()
		return nil, fmt.Errorf("capture: %w", err)
	}
	return k, nil
}

func (k *capture) open(ctx context.Context, cfg *dataplane.CaptureConfig) error {
	ring := cfg.Ring
	if ring <= 0 {
		ring = captureRing
	}
	ring = 1 << bits.Len(uint(min(max(ring, 64<<10), 256<<20)-1))
	dirs := cfg.Dirs
	if dirs == 0 {
		dirs = dataplane.CaptureRx | dataplane.CaptureTx | dataplane.CaptureDrop
	}
	filter := C.CString(cfg.Filter)
	defer C.free(unsafe.Pointer(filter))
	args := C.struct_np_capture_args{filter: filter, snap_bytes: C.uint32_t(max(cfg.Snap, 0)), ring_bytes: C.uint32_t(ring),
		dirs: C.uint32_t(dirs), iface: C.int32_t(cfg.Interface), conn: C.uint64_t(cfg.Conn), listener_port: C.uint16_t(cfg.Port)}
	for _, c := range k.p.cores {
		if cfg.Conn != 0 && cfg.Conn.Core() != c.index {
			continue
		}
		var detail C.struct_np_err_detail
		cc := &captureCore{core: c, buf: make([]uint64, captureBatch/8)}
		if code := C.np_capture_open(&args, &cc.c, &detail); code != C.NP_ERR_OK {
			return failure("open", code, &detail)
		}
		k.per = append(k.per, cc)
		cc.inUse = true
		if _, err := c.one(ctx, request{op: C.NP_CMD_CAPTURE, handle: pointer(unsafe.Pointer(cc.c))}); err != nil {
			return err
		}
	}
	if len(k.per) == 0 {
		return dataplane.CodeStale
	}
	return nil
}

// record is the header of a captured packet.
const recordBytes = C.sizeof_struct_np_capture_rec

// peek returns the core's next record, reading more when there is none left.
// k.mu and p.life are held.
func (cc *captureCore) peek() *C.struct_np_capture_rec {
	if len(cc.data) == 0 {
		all := unsafe.Slice((*byte)(unsafe.Pointer(&cc.buf[0])), captureBatch)
		n := C.np_capture_read(cc.c, unsafe.Pointer(&cc.buf[0]), captureBatch)
		cc.data = all[:n]
	}
	if len(cc.data) < recordBytes {
		return nil
	}
	return (*C.struct_np_capture_rec)(unsafe.Pointer(&cc.data[0]))
}

// take returns the earliest packet that is there. Cores are merged by what
// each has now: packets of different cores can be out of order by as long as
// a core holds them back, one turn.
func (k *capture) take() (pkt dataplane.Packet, ok bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.p.life.RLock()
	defer k.p.life.RUnlock()
	if k.closed || k.p.dead {
		return pkt, false, dataplane.CodeShutdown
	}
	var from *captureCore
	var first *C.struct_np_capture_rec
	for _, cc := range k.per {
		if r := cc.peek(); r != nil && (first == nil || r.at_ns < first.at_ns) {
			from, first = cc, r
		}
	}
	if first == nil {
		return pkt, false, nil
	}
	size, captured := int(first.bytes), int(first.cap_bytes)
	if size < recordBytes || size > len(from.data) || captured > size-recordBytes {
		return pkt, false, fmt.Errorf("capture: %w: record of %d bytes with %d of a packet", dataplane.CodeInvalid, size, captured)
	}
	pkt = dataplane.Packet{
		At: time.Duration(first.at_ns), Interface: dataplane.InterfaceID(first.iface), Core: from.core.index,
		Dir: dataplane.CaptureDir(first.dir), Orig: int(first.orig_bytes), Data: from.data[recordBytes : recordBytes+captured],
	}
	if pkt.Dir == dataplane.CaptureDrop {
		pkt.Drop = dataplane.Drop(first.drop)
	}
	from.data = from.data[size:]
	return pkt, true, nil
}

// Next implements [dataplane.Capture].
func (k *capture) Next(ctx context.Context) (dataplane.Packet, error) {
	for pause := captureFirst; ; pause = min(2*pause, captureLast) {
		pkt, ok, err := k.take()
		if ok || err != nil {
			return pkt, err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-k.p.stop:
			t.Stop()
			return pkt, dataplane.CodeShutdown
		case <-ctx.Done():
			t.Stop()
			return pkt, ctx.Err()
		}
	}
}

// Lost implements [dataplane.Capture].
func (k *capture) Lost() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.p.life.RLock()
	defer k.p.life.RUnlock()
	n := k.lost
	for _, cc := range k.per {
		if cc.c != nil {
			n += uint64(C.np_capture_lost(cc.c))
		}
	}
	return n
}

// Close implements [dataplane.Capture]: the cores stop copying, then the
// memory goes. A second Close does nothing.
func (k *capture) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil
	}
	k.closed = true
	var first error
	for _, cc := range k.per {
		ctx, cancel := context.WithTimeout(context.Background(), undoTime)
		_, err := cc.core.one(ctx, request{op: C.NP_CMD_CAPTURE})
		cancel()
		if err == nil {
			cc.inUse = false
		} else if first == nil {
			first = err
		}
	}
	k.p.life.Lock()
	defer k.p.life.Unlock()
	if k.p.dead {
		return nil // freed with the plane
	}
	if first != nil {
		// A core may still write: the memory stays until the plane ends, and no
		// other capture may begin.
		return fmt.Errorf("end capture: %w", first)
	}
	k.free()
	k.p.capture = nil
	k.p.capturing.Store(false)
	return nil
}

// free gives the memory back. p.life is held, and no core uses it any more.
func (k *capture) free() {
	for _, cc := range k.per {
		if cc.c != nil {
			k.lost += uint64(C.np_capture_lost(cc.c))
			C.np_capture_close(cc.c)
			cc.c = nil
		}
	}
}
