//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"sync/atomic"
	"unsafe"
)

// ring is Go's view of a struct np_ring: csrc/base/ring.h in Go. The indices
// lie in the shared header, also those that only one side uses, because the
// core looks at them when it takes back what is left at the end.
type ring struct {
	h     *C.struct_np_ring
	items unsafe.Pointer
	mask  uint32
	size  uintptr
}

func newRing(h *C.struct_np_ring) ring {
	return ring{h: h, items: unsafe.Add(unsafe.Pointer(h), C.sizeof_struct_np_ring), mask: uint32(h.count) - 1,
		size: uintptr(h.item_bytes)}
}

func shared(p *C.uint32_t) *uint32 { return (*uint32)(unsafe.Pointer(p)) }

func (r *ring) at(i uint32) unsafe.Pointer { return unsafe.Add(r.items, uintptr(i&r.mask)*r.size) }

// room returns the free slots behind the held ones that were written but not
// published. Producer.
func (r *ring) room(held uint32) uint32 {
	used := uint32(r.h.prod_head-r.h.prod_cached_cons) + held
	if used > r.mask {
		// Pairs with the core's release in np_ring_consume.
		r.h.prod_cached_cons = C.uint32_t(atomic.LoadUint32(shared(&r.h.cons)))
		used = uint32(r.h.prod_head-r.h.prod_cached_cons) + held
	}
	return r.mask + 1 - used
}

// slot returns the i-th slot not yet published. Producer.
func (r *ring) slot(i uint32) unsafe.Pointer { return r.at(uint32(r.h.prod_head) + i) }

// publish makes n slots visible. Producer. Go's atomics are sequentially
// consistent, so a load of cons_sleeping behind it needs no further fence.
func (r *ring) publish(n uint32) {
	r.h.prod_head += C.uint32_t(n)
	atomic.StoreUint32(shared(&r.h.prod), uint32(r.h.prod_head))
}

// avail returns the readable items. Consumer.
func (r *ring) avail() uint32 {
	n := uint32(r.h.cons_cached_prod - r.h.cons_head)
	if n == 0 {
		// Pairs with the core's release in np_ring_publish.
		r.h.cons_cached_prod = C.uint32_t(atomic.LoadUint32(shared(&r.h.prod)))
		n = uint32(r.h.cons_cached_prod - r.h.cons_head)
	}
	return n
}

// item returns the i-th readable item. Consumer.
func (r *ring) item(i uint32) unsafe.Pointer { return r.at(uint32(r.h.cons_head) + i) }

// consume gives n items back. Consumer.
func (r *ring) consume(n uint32) {
	r.h.cons_head += C.uint32_t(n)
	atomic.StoreUint32(shared(&r.h.cons), uint32(r.h.cons_head))
}

// sleeping sets or clears the consumer's flag.
func (r *ring) sleeping(on uint32) { atomic.StoreUint32(shared(&r.h.cons_sleeping), on) }

// takeSleeper says whether the consumer sleeps and wants to be woken, once per
// sleep. Producer, after publish.
func (r *ring) takeSleeper() bool {
	p := shared(&r.h.cons_sleeping)
	return atomic.LoadUint32(p) != 0 && atomic.CompareAndSwapUint32(p, 1, 0)
}
