//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"context"
	"fmt"
	"unsafe"

	"github.com/np-appliance/np/dataplane"
)

// snapshotItems is how many entries a core copies per command: the most that
// keeps its turn short.
const snapshotItems = 512

// snapshot copies a table of one core, piece by piece, through C memory that
// is freed when the core is certainly done with it.
func snapshot[T any](ctx context.Context, c *core, op uint16, each func(*T)) error {
	for cursor := uint32(0); ; {
		var item T
		mem := C.calloc(snapshotItems, C.size_t(unsafe.Sizeof(item)))
		type result struct {
			items []T
			next  uint32
		}
		got := make(chan result, 1)
		_, err := c.one(ctx, request{op: op, handle: pointer(mem), arg: snapshotItems, stream: cursor, settle: func(a answer) {
			var r result
			if a.err == nil {
				r.items = append(r.items, unsafe.Slice((*T)(mem), min(a.arg, snapshotItems))...)
				r.next = a.stream
			}
			C.free(mem)
			got <- r
		}})
		if err != nil {
			return err
		}
		r := <-got
		for i := range r.items {
			each(&r.items[i])
		}
		if cursor = r.next; cursor == 0 {
			return nil
		}
	}
}

// Connections implements [dataplane.Plane]. A table that changes meanwhile may
// show a connection that is gone, or miss one that is new.
func (p *Plane) Connections(ctx context.Context) (out []dataplane.Conn, err error) {
	for _, c := range p.cores {
		err := snapshot(ctx, c, C.NP_CMD_CONNS, func(i *C.struct_np_conn_info) { out = append(out, p.decodeConn(i)) })
		if err != nil {
			return nil, fmt.Errorf("list connections: %w", err)
		}
	}
	return out, nil
}

// Neighbors implements [dataplane.Plane].
func (p *Plane) Neighbors(ctx context.Context) (out []dataplane.Neighbor, err error) {
	for _, c := range p.cores {
		err := snapshot(ctx, c, C.NP_CMD_NEIGHBORS, func(i *C.struct_np_neigh_info) { out = append(out, decodeNeighbor(c.index, i)) })
		if err != nil {
			return nil, fmt.Errorf("list neighbors: %w", err)
		}
	}
	return out, nil
}

// Addresses implements [dataplane.Plane]. All cores have the same; the first is asked.
func (p *Plane) Addresses(ctx context.Context) (out []dataplane.Address, err error) {
	err = snapshot(ctx, p.cores[0], C.NP_CMD_ADDRS, func(i *C.struct_np_addr_info) { out = append(out, decodeAddress(i)) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return out, nil
}

// Observe implements [dataplane.Plane].
func (p *Plane) Observe(ctx context.Context, id dataplane.InterfaceID, frame []byte) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	defer p.leave()
	i, err := p.known(id)
	if err == nil {
		err = p.all(ctx, func(*core) request { return request{op: C.NP_CMD_OBSERVE, arg: uint32(i.port), body: frame} }, nil)
	}
	if err != nil {
		return fmt.Errorf("observe %d bytes: %w", len(frame), err)
	}
	return nil
}

// QueueStats implements [dataplane.Plane]. Queues of a detached interface are
// down and their counters gone with them.
func (p *Plane) QueueStats(id dataplane.InterfaceID) []dataplane.QueueStats {
	p.life.RLock()
	defer p.life.RUnlock()
	if p.dead || id >= ifacesMax || p.ifaces[id] == nil {
		return nil
	}
	port := p.ifaces[p.ifaces[id].port]
	if len(port.queues) == 0 {
		out := make([]dataplane.QueueStats, max(port.cfg.Queues, 1))
		for n := range out {
			out[n] = dataplane.QueueStats{Queue: n, Core: n % len(p.cores), Down: true}
		}
		return out
	}
	var out []dataplane.QueueStats
	for _, q := range port.queues {
		if q.kernels || q.lane {
			continue
		}
		var s C.struct_np_queue_stats
		C.np_plane_queue_stats(p.c, q.c, &s)
		out = append(out, dataplane.QueueStats{
			Queue: q.Queue.Queue, Core: q.Core, RxPackets: uint64(s.rx_pkts), RxBytes: uint64(s.rx_bytes),
			TxPackets: uint64(s.tx_pkts), TxBytes: uint64(s.tx_bytes), RxDropped: uint64(s.rx_dropped),
			RxRingFull: uint64(s.rx_ring_full), FillEmpty: uint64(s.fill_empty), TxInvalid: uint64(s.tx_invalid),
			Wakeups: uint64(s.wakeups), Down: p.cores[q.Core].down[p.ifaces[id].port].Load(),
		})
	}
	return out
}
