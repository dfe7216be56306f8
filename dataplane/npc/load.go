//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/np-appliance/np/dataplane"
)

var _ dataplane.Loader = (*Plane)(nil)

// StartLoad implements [dataplane.Loader].
func (p *Plane) StartLoad(ctx context.Context, cfg *dataplane.LoadConfig) error {
	if cfg.Conns < 0 || cfg.Size < 0 || cfg.Depth < 0 || !cfg.Remote.IsValid() {
		return fmt.Errorf("start load on %s: %w (connections, size or depth)", cfg.Remote, dataplane.CodeInvalid)
	}
	args := C.struct_np_cmd_load{remote_port: C.uint16_t(cfg.Remote.Port()), mode: C.uint8_t(cfg.Mode), conns: C.uint32_t(cfg.Conns),
		no_compare: flag(cfg.Blind), size_bytes: C.uint32_t(cfg.Size), depth: C.uint32_t(cfg.Depth)}
	setAddr(&args.remote, cfg.Remote.Addr())
	if cfg.Local.IsValid() {
		setAddr(&args.local, cfg.Local)
	}
	return p.load(ctx, "start load on "+cfg.Remote.String(), &args)
}

// StopLoad implements [dataplane.Loader].
func (p *Plane) StopLoad(ctx context.Context) error {
	return p.load(ctx, "stop load", &C.struct_np_cmd_load{})
}

func (p *Plane) load(ctx context.Context, what string, args *C.struct_np_cmd_load) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	defer p.leave()
	if err := p.all(ctx, func(*core) request { return request{op: C.NP_CMD_LOAD, body: bytesOf(args)} }, nil); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// LoadStats implements [dataplane.Loader].
func (p *Plane) LoadStats() (out dataplane.LoadStats) {
	p.life.RLock()
	defer p.life.RUnlock()
	if p.dead {
		return out
	}
	out.Latency = make([]uint64, C.NP_LOAD_BUCKETS)
	for i := range p.cores {
		s := C.np_plane_core(p.c, C.uint32_t(i)).load
		if s == nil {
			continue
		}
		get := func(v *C.uint64_t) uint64 { return atomic.LoadUint64((*uint64)(unsafe.Pointer(v))) }
		out.Opening += get(&s.opening)
		out.Open += get(&s.open)
		out.Opened += get(&s.opened)
		out.Failed += get(&s.failed)
		out.Closed += get(&s.closed)
		out.Messages += get(&s.messages)
		out.Mismatches += get(&s.mismatches)
		out.BytesTx += get(&s.bytes_tx)
		out.BytesRx += get(&s.bytes_rx)
		out.LatencyMax = max(out.LatencyMax, time.Duration(get(&s.latency_ns_max)))
		for b := range out.Latency {
			out.Latency[b] += get(&s.latency[b])
		}
	}
	return out
}
