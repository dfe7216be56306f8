//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/np-appliance/np/dataplane"
)

// Connect implements [dataplane.Plane]. It takes no turn with the set-up calls,
// because there may be many at a time. The connection's EventOpen can be polled
// before it returns.
func (p *Plane) Connect(ctx context.Context, cfg *dataplane.ConnectConfig) (dataplane.Handle, error) {
	h, err := p.connect(ctx, cfg)
	if err != nil {
		return 0, fmt.Errorf("connect to %s: %w", cfg.Remote, err)
	}
	return h, nil
}

func (p *Plane) connect(ctx context.Context, cfg *dataplane.ConnectConfig) (dataplane.Handle, error) {
	first, tries, err := p.connectCore(cfg)
	if err != nil {
		closeSocket(cfg)
		return 0, err
	}
	for i := range tries {
		var h dataplane.Handle
		if h, err = p.cores[(first+i)%len(p.cores)].connect(ctx, cfg); err == nil {
			return h, nil
		}
		// Not every core has a queue of the interface, ports or connections left.
		var code dataplane.Code
		if !errors.As(err, &code) || code != dataplane.CodeNoroute && code != dataplane.CodePortdown && code != dataplane.CodeFull && code != dataplane.CodeAddrnotavail {
			return 0, err
		}
	}
	return 0, err
}

// closeSocket closes the socket of a connection that no core got.
func closeSocket(cfg *dataplane.ConnectConfig) {
	if cfg.Carrier != dataplane.CarrierStack && cfg.Carrier != dataplane.CarrierRDMA {
		_ = syscall.Close(cfg.Socket)
	}
}

// connect opens a connection from this core.
func (c *core) connect(ctx context.Context, cfg *dataplane.ConnectConfig) (dataplane.Handle, error) {
	args := C.struct_np_cmd_connect{remote_port: C.uint16_t(cfg.Remote.Port()), session_kind: C.uint8_t(cfg.Kind),
		congestion_control: C.uint8_t(cfg.CongestionControl), carrier: C.uint8_t(cfg.Carrier), fd: -1}
	if cfg.Carrier != dataplane.CarrierStack {
		args.fd = C.int32_t(cfg.Socket)
	}
	setAddr(&args.remote, cfg.Remote.Addr())
	if cfg.Local.IsValid() {
		args.local_port = C.uint16_t(cfg.Local.Port())
		if !cfg.Local.Addr().IsUnspecified() {
			setAddr(&args.local, cfg.Local.Addr())
		}
	}
	a, err := c.adopt(ctx, request{op: C.NP_CMD_CONNECT, body: bytesOf(&args), settle: func(a answer) {
		if a.unsent {
			closeSocket(cfg)
		}
		if a.err == nil { // known from here on, so that it can be ended before it is open
			c.mark(dataplane.Handle(a.handle), uint32(a.handle>>32))
		}
	}}, C.NP_CMD_ABORT)
	return dataplane.Handle(a.handle), err
}

// adopt runs a request that makes something. What is made after the caller gave
// up is ended by undo, because nobody knows of it.
func (c *core) adopt(ctx context.Context, r request, undo uint16) (answer, error) {
	var mu sync.Mutex
	var made uint64
	gaveUp := false
	settle := r.settle
	r.settle = func(a answer) {
		if settle != nil {
			settle(a)
		}
		mu.Lock()
		defer mu.Unlock()
		if a.err != nil {
			return
		}
		if made = a.handle; gaveUp {
			c.forsake(undo, made)
		}
	}
	a, err := c.one(ctx, r)
	if err == nil {
		return a, nil
	}
	mu.Lock()
	defer mu.Unlock()
	gaveUp = true
	if made != 0 {
		c.forsake(undo, made)
	}
	return answer{}, err
}

// orphan is something that nobody knows of, and the command that ends it.
type orphan struct {
	op     uint16
	handle uint64
}

// forsake ends what a handle names as soon as there is room for the command.
func (c *core) forsake(op uint16, handle uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return
	}
	c.orphans = append(c.orphans, orphan{op, handle})
	c.publish()
}

// connectCore chooses the core, and how many from there on may be tried. A port
// in the ephemeral range that the caller names belongs to the core that stray
// segments for it are handed to first.
func (p *Plane) connectCore(cfg *dataplane.ConnectConfig) (first, tries int, err error) {
	n := len(p.cores)
	switch port := int(cfg.Local.Port()) - C.NP_PORT_EPHEMERAL_MIN; {
	case cfg.Core >= n || cfg.Carrier == dataplane.CarrierStack && !cfg.Remote.IsValid():
		return 0, 0, dataplane.CodeInvalid
	case p.closed.Load():
		return 0, 0, dataplane.CodeShutdown
	case cfg.Core >= 0:
		return cfg.Core, 1, nil
	case cfg.Carrier != dataplane.CarrierStack: // a refusal closes the socket
		return int(p.nextCore.Add(1)-1) % n, 1, nil
	case port >= 0:
		return port % n, n, nil
	}
	return int(p.nextCore.Add(1)-1) % n, n, nil
}
