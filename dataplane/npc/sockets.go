//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"fmt"
	"math"
	"syscall"

	"github.com/np-appliance/np/dataplane"
)

// socketConnsDefault is how many connections each carrier of kernel sockets has
// room for on a core, unless the configuration says.
const socketConnsDefault = 1024

// encodeCarriers says what is wanted besides our own TCP.
func encodeCarriers(cc *C.struct_np_plane_config, cfg *dataplane.Config) error {
	for _, c := range cfg.Carriers {
		if c != dataplane.CarrierStack {
			cc.carriers |= 1 << c
		}
	}
	if cc.carriers == 0 {
		return nil
	}
	cc.sock_conns_max = socketConnsDefault
	for _, f := range []struct {
		name string
		to   *C.uint32_t
		from int
	}{
		{"SocketConns", &cc.sock_conns_max, cfg.SocketConns},
		{"SocketRcvBuf", &cc.sock_rcv_buf_bytes, cfg.SocketRcvBuf},
		{"SocketSndBuf", &cc.sock_snd_buf_bytes, cfg.SocketSndBuf},
	} {
		if f.from < 0 || f.from > math.MaxInt32 {
			return fmt.Errorf("%w: %s is %d", dataplane.CodeInvalid, f.name, f.from)
		}
		if f.from > 0 {
			*f.to = C.uint32_t(f.from)
		}
	}
	return nil
}

// ProbeUring says why this kernel gives no io_uring; nil: it does.
func ProbeUring() error {
	var detail C.struct_np_err_detail
	return failure("probe io_uring", C.np_plane_uring_probe(&detail), &detail)
}

// closeSockets closes descriptors that no core got.
func closeSockets(fds []int) {
	for _, fd := range fds {
		_ = syscall.Close(fd)
	}
}
