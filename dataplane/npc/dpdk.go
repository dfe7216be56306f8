//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"fmt"
	"net"

	"github.com/np-appliance/np/dataplane"
)

// openDPDK opens all queues of a device by DPDK's driver, and fills in what cfg
// leaves to the device: MAC, MTU and the number of queues. DPDK itself starts
// with the first of them and ends with the process.
func (p *Plane) openDPDK(cfg *dataplane.InterfaceConfig) ([]queue, error) {
	var args C.struct_np_dpdk_args
	if cfg.Queues > C.NP_DPDK_QUEUES_MAX || len(cfg.Device) >= len(args.device) || cfg.Device == "" {
		return nil, fmt.Errorf("open %s: %w (device or number of queues)", cfg.Name, dataplane.CodeInvalid)
	}
	args.queues, args.mtu_bytes = C.uint32_t(cfg.Queues), C.uint32_t(cfg.MTU)
	for i := range len(cfg.Name) {
		args.name[i] = C.char(cfg.Name[i])
	}
	for i := range len(cfg.Device) {
		args.device[i] = C.char(cfg.Device[i])
	}
	var out [C.NP_DPDK_QUEUES_MAX]*C.struct_np_port_queue
	var info C.struct_np_dpdk_info
	var detail C.struct_np_err_detail
	code := C.np_plane_dpdk_open(p.c, &args, &out[0], &info, &detail)
	if code != C.NP_ERR_OK {
		return nil, failure("open "+cfg.Name, code, &detail)
	}
	cfg.MTU, cfg.Queues = int(info.mtu_bytes), int(info.queues)
	mac := bytesOf(&info.mac)
	if len(cfg.MAC) != len(mac) {
		cfg.MAC = append(net.HardwareAddr{}, mac...)
	}
	qs := make([]queue, info.queues)
	for i := range qs {
		qs[i] = queue{Queue: dataplane.Queue{Queue: i, Core: i % len(p.cores), FD: -1, ZeroCopy: info.copies == 0}, c: out[i]}
	}
	return qs, nil
}
