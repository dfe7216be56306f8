//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"fmt"

	"github.com/np-appliance/np/dataplane"
)

// mtuTAP is a TAP's MTU unless its configuration says otherwise.
const mtuTAP = 1500

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
	var out []queue
	for i := range n {
		var q queue
		var fd C.int32_t
		var detail C.struct_np_err_detail
		q.Queue.Queue, q.Core = i, i
		args.queue, args.core = C.uint32_t(i), C.uint32_t(i)
		code := C.np_plane_raw_open(p.c, &args, &q.c, &fd, &detail)
		if code != C.NP_ERR_OK {
			p.closeQueues(out)
			return nil, failure(fmt.Sprintf("open queue %d of %s by %s", i, cfg.Name, cfg.Backend), code, &detail)
		}
		q.FD = int(fd)
		out = append(out, q)
	}
	cfg.MAC, cfg.MTU, cfg.Index = append(cfg.MAC[:0:0], bytesOf(&args.mac)...), int(args.mtu_bytes), int(args.ifindex)
	return out, nil
}
