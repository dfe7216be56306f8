//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"fmt"
	"slices"

	"github.com/np-appliance/np/dataplane"
)

// mtuTAP is a TAP's MTU unless its configuration says otherwise.
const mtuTAP = 1500

// openException makes the TAP that stands in for a device towards the kernel, with a
// queue for each core that has one of the device.
func (p *Plane) openException(cfg *dataplane.InterfaceConfig, port []queue) ([]queue, error) {
	var cores []int
	for _, q := range port {
		if !slices.Contains(cores, q.Core) {
			cores = append(cores, q.Core)
		}
	}
	if len(cfg.Exception) >= 16 || cfg.Exception == cfg.Name || len(cfg.MAC) != 6 {
		return nil, fmt.Errorf("make TAP %q for %s: %w (name or MAC)", cfg.Exception, cfg.Name, dataplane.CodeInvalid)
	}
	args := C.struct_np_raw_args{mtu_bytes: C.uint32_t(cfg.MTU), queues: C.uint32_t(len(cores)), kind: C.NP_RAW_TAP,
		flags: C.NP_RAW_F_NO_OFFLOAD | C.NP_RAW_F_KERNEL_MAC}
	for i := range len(cfg.Exception) {
		args.ifname[i] = C.char(cfg.Exception[i])
	}
	copy(bytesOf(&args.mac), cfg.MAC)
	out, err := p.openRawQueues(&args, cores)
	if err != nil {
		return nil, fmt.Errorf("make TAP %s for %s: %w", cfg.Exception, cfg.Name, err)
	}
	for i := range out {
		out[i].kernels = true
	}
	return out, nil
}

// openRawQueues opens a queue for each of the cores, or none.
func (p *Plane) openRawQueues(args *C.struct_np_raw_args, cores []int) ([]queue, error) {
	var out []queue
	for i, core := range cores {
		var q queue
		var fd C.int32_t
		var detail C.struct_np_err_detail
		q.Queue.Queue, q.Core = i, core
		args.queue, args.core = C.uint32_t(i), C.uint32_t(core)
		code := C.np_plane_raw_open(p.c, args, &q.c, &fd, &detail)
		if code != C.NP_ERR_OK {
			p.closeQueues(out)
			return nil, failure(fmt.Sprintf("open queue %d", i), code, &detail)
		}
		q.FD = int(fd)
		out = append(out, q)
	}
	return out, nil
}

// openRaw opens AF_PACKET sockets on a device, or makes a TAP device: one queue
// for each core, as far as the configuration allows as many.
func (p *Plane) openRaw(cfg *dataplane.InterfaceConfig) ([]queue, error) {
	n := len(p.cores)
	if cfg.Queues > 0 {
		n = min(n, cfg.Queues)
	}
	args := C.struct_np_raw_args{ifindex: C.uint32_t(cfg.Index), mtu_bytes: C.uint32_t(cfg.MTU), queues: C.uint32_t(n), kind: C.NP_RAW_PACKET}
	if cfg.Backend == dataplane.BackendTAP {
		args.kind = C.NP_RAW_TAP
		if cfg.MTU == 0 {
			args.mtu_bytes = mtuTAP
		}
	} else if len(cfg.MAC) != 6 {
		return nil, fmt.Errorf("open queues of %s: %w (MAC)", cfg.Name, dataplane.CodeInvalid)
	}
	for i := range len(cfg.Name) {
		args.ifname[i] = C.char(cfg.Name[i])
	}
	copy(bytesOf(&args.mac), cfg.MAC)
	cores := make([]int, n)
	for i := range cores {
		cores[i] = i
	}
	out, err := p.openRawQueues(&args, cores)
	if err != nil {
		return nil, fmt.Errorf("open %s by %s: %w", cfg.Name, cfg.Backend, err)
	}
	cfg.MAC, cfg.MTU, cfg.Index = append(cfg.MAC[:0:0], bytesOf(&args.mac)...), int(args.mtu_bytes), int(args.ifindex)
	return out, nil
}
