//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"github.com/np-appliance/np/dataplane"
)

// ifacesMax is the contract's: InterfaceID is 0 to 31.
const ifacesMax = 32

// iface is what Go keeps of an interface: enough to put it back after its
// device vanished.
type iface struct {
	cfg    dataplane.InterfaceConfig
	port   dataplane.InterfaceID // whose queues it uses: its own, or another VLAN's of the device
	queues []queue
	addrs  []netip.Prefix
}

type queue struct {
	dataplane.Queue
	c       *C.struct_np_port_queue
	kernels bool // of the TAP by which the kernel gets what is not ours
	steer   bool // its core gives flows to the cores that they hash to
	lane    bool // by which a core without a queue sends
}

func (i *iface) list() []dataplane.Queue {
	out := make([]dataplane.Queue, 0, len(i.queues))
	for _, q := range i.queues {
		if !q.kernels && !q.lane {
			out = append(out, q.Queue)
		}
	}
	return out
}

// pointer is an address in C memory as commands carry it.
func pointer(p unsafe.Pointer) uint64 { return uint64(uintptr(p)) }

// openQueues opens all queues of a device, or none, by the backend it is to have. What
// cfg leaves to the device (MAC, MTU, index) or the backend (queues) is filled in.
func (p *Plane) openQueues(cfg *dataplane.InterfaceConfig) ([]queue, error) {
	if len(cfg.Name) == 0 || len(cfg.Name) >= 16 || cfg.Queues < 0 || cfg.MTU < 0 ||
		cfg.DADTransmits < 0 || cfg.DADTransmits > math.MaxUint8 || cfg.Announces < 0 || cfg.Announces > math.MaxUint8 {
		return nil, fmt.Errorf("open queues of %s: %w (name, number of queues or MTU)", cfg.Name, dataplane.CodeInvalid)
	}
	open := p.opener(cfg.Backend)
	if open == nil {
		return nil, fmt.Errorf("open queues of %s: %w (this build has no %s)", cfg.Name, dataplane.CodeUnsupported, cfg.Backend)
	}
	qs, err := open(cfg)
	if err != nil {
		return nil, err
	}
	cfg.Queues = len(qs)
	device := slices.Clone(qs)
	if cfg.Exception != "" {
		kernels, err := p.openException(cfg, device)
		if err != nil {
			p.closeQueues(qs)
			return nil, err
		}
		qs = append(qs, kernels...)
	}
	lanes, err := p.openLanes(device)
	if err != nil {
		p.closeQueues(append(qs, lanes...))
		return nil, fmt.Errorf("open lanes of %s: %w", cfg.Name, err)
	}
	if p.info.Steering.By(len(device), len(p.cores)) == "software" {
		for i := range device {
			qs[i].steer = true
		}
	}
	return append(qs, lanes...), nil
}

// opener is the function that opens queues by a backend, nil when this build has none.
func (p *Plane) opener(b dataplane.Backend) func(*dataplane.InterfaceConfig) ([]queue, error) {
	switch b {
	case dataplane.BackendAFXDP:
		return p.openXDP
	case dataplane.BackendAFPacket, dataplane.BackendTAP:
		return p.openRaw
	case dataplane.BackendDPDK:
		if C.np_plane_has_dpdk() != 0 {
			return p.openDPDK
		}
	}
	return nil
}

// openLanes gives each core without a queue of a device a way to send by it, unless
// devices alone are to steer. On error it returns what it opened.
func (p *Plane) openLanes(device []queue) ([]queue, error) {
	var out []queue
	if p.info.Steering == dataplane.SteeringDevice {
		return nil, nil
	}
	for core := range p.cores {
		if slices.ContainsFunc(device, func(q queue) bool { return q.Core == core }) {
			continue
		}
		at := device[core%len(device)]
		lane := queue{Queue: dataplane.Queue{Queue: at.Queue.Queue, Core: core, FD: -1}, lane: true}
		var detail C.struct_np_err_detail
		if code := C.np_plane_lane_open(p.c, at.c, C.uint32_t(core), &lane.c, &detail); code != C.NP_ERR_OK {
			return out, failure(fmt.Sprintf("core %d", core), code, &detail)
		}
		out = append(out, lane)
	}
	return out, nil
}

// openXDP opens AF_XDP sockets.
func (p *Plane) openXDP(cfg *dataplane.InterfaceConfig) ([]queue, error) {
	if len(cfg.MAC) != 6 {
		return nil, fmt.Errorf("open queues of %s: %w (MAC)", cfg.Name, dataplane.CodeInvalid)
	}
	args := C.struct_np_afxdp_args{ifindex: C.uint32_t(cfg.Index), mtu_bytes: C.uint32_t(cfg.MTU), native: flag(cfg.Native)}
	for i := range len(cfg.Name) {
		args.ifname[i] = C.char(cfg.Name[i])
	}
	copy(bytesOf(&args.mac), cfg.MAC)
	switch cfg.ZeroCopy {
	case dataplane.ZeroCopyAuto:
		args.zero_copy = 2
	case dataplane.ZeroCopyMust:
		args.zero_copy = 1
	}
	var out []queue
	for i := range max(cfg.Queues, 1) {
		var q queue
		var fd C.int32_t
		var zc C.uint8_t
		var detail C.struct_np_err_detail
		q.Queue.Queue, q.Core = i, i%len(p.cores)
		args.queue, args.core = C.uint32_t(i), C.uint32_t(q.Core)
		code := C.np_plane_afxdp_open(p.c, &args, &q.c, &fd, &zc, &detail)
		if code != C.NP_ERR_OK {
			p.closeQueues(out)
			return nil, failure(fmt.Sprintf("open queue %d of %s", i, cfg.Name), code, &detail)
		}
		q.FD, q.ZeroCopy = int(fd), zc != 0
		out = append(out, q)
	}
	return out, nil
}

func (p *Plane) closeQueues(qs []queue) {
	for _, q := range qs {
		C.np_plane_queue_close(p.c, q.c)
	}
}

// attach gives queues to their cores. On error none stays attached.
func (p *Plane) attach(ctx context.Context, id dataplane.InterfaceID, qs []queue) error {
	for _, c := range p.cores {
		c.down[id].Store(false) // of the queues before; a core reports only changes
	}
	for _, q := range qs {
		r := request{op: C.NP_CMD_PORT_ATTACH, handle: pointer(unsafe.Pointer(q.c)), arg: uint32(id)}
		if q.kernels {
			r.flags = C.NP_CMD_F_KERNEL
		}
		if q.steer {
			r.flags |= C.NP_CMD_F_STEER
		}
		_, err := p.cores[q.Core].one(ctx, r)
		if err != nil {
			p.undo(func(ctx context.Context) error { return p.detach(ctx, id, qs) })
			return err
		}
	}
	return nil
}

// detach takes the queues of an interface from their cores.
func (p *Plane) detach(ctx context.Context, id dataplane.InterfaceID, qs []queue) error {
	var first error
	for _, c := range p.cores {
		if !slices.ContainsFunc(qs, func(q queue) bool { return q.Core == c.index }) {
			continue
		}
		// Not found: that core had none attached yet.
		_, err := c.one(ctx, request{op: C.NP_CMD_PORT_DETACH, arg: uint32(id)})
		if err != nil && err != error(dataplane.CodeNotfound) && first == nil {
			first = err
		}
	}
	return first
}

// drop detaches and closes queues; those that can't be detached now stay open
// until Close, because a core may still use them.
func (p *Plane) drop(id dataplane.InterfaceID, qs []queue) {
	p.undo(func(ctx context.Context) error {
		err := p.detach(ctx, id, qs)
		if err != nil {
			for _, q := range qs {
				p.lost = append(p.lost, q.c)
			}
			return err
		}
		p.closeQueues(qs)
		return nil
	})
}

func (p *Plane) ifaceAdd(ctx context.Context, id dataplane.InterfaceID, i *iface) error {
	args := C.struct_np_cmd_iface{iface: C.uint16_t(id), vlan: C.uint16_t(i.cfg.VLAN), port: C.uint16_t(i.port),
		mtu_bytes: C.uint32_t(i.cfg.MTU), dad_transmits: C.uint8_t(i.cfg.DADTransmits), announces: C.uint8_t(i.cfg.Announces)}
	if i.cfg.ACD {
		args.flags |= C.NP_IFACE_F_ACD
	}
	if i.cfg.AcceptRA {
		args.flags |= C.NP_IFACE_F_RA
	}
	if i.cfg.MLD {
		args.flags |= C.NP_IFACE_F_MLD
	}
	if i.cfg.Opaque {
		args.flags |= C.NP_IFACE_F_OPAQUE
	}
	copy(bytesOf(&args.mac), i.cfg.MAC)
	return p.all(ctx,
		func(*core) request { return request{op: C.NP_CMD_IFACE_ADD, body: bytesOf(&args)} },
		func(*core) request { return request{op: C.NP_CMD_IFACE_DEL, arg: uint32(id)} })
}

func (p *Plane) ifaceDel(ctx context.Context, id dataplane.InterfaceID) error {
	return p.all(ctx, func(*core) request { return request{op: C.NP_CMD_IFACE_DEL, arg: uint32(id)} }, nil)
}

func (p *Plane) addr(ctx context.Context, op, undo uint16, id dataplane.InterfaceID, pre netip.Prefix) error {
	args := C.struct_np_cmd_addr{iface: C.uint16_t(id), prefix_bits: C.uint8_t(pre.Bits())}
	setAddr(&args.addr, pre.Addr())
	return p.reversible(ctx, op, undo, bytesOf(&args))
}

func (p *Plane) route(ctx context.Context, op, undo uint16, r dataplane.Route) error {
	args := C.struct_np_cmd_route{iface: C.uint16_t(r.Interface), prefix_bits: C.uint8_t(r.Prefix.Bits())}
	setAddr(&args.prefix, r.Prefix.Masked().Addr())
	setAddr(&args.via, r.Via)
	return p.reversible(ctx, op, undo, bytesOf(&args))
}

// reversible runs an operation on every core; undo takes the same arguments.
func (p *Plane) reversible(ctx context.Context, op, undo uint16, body []byte) error {
	return p.all(ctx, func(*core) request { return request{op: op, body: body} },
		func(*core) request { return request{op: undo, body: body} })
}

// AddInterface implements [dataplane.Plane]. A second VLAN of a device shares
// the queues of the first and returns them again.
func (p *Plane) AddInterface(ctx context.Context, cfg *dataplane.InterfaceConfig) (dataplane.InterfaceID, []dataplane.Queue, error) {
	if err := p.enter(ctx); err != nil {
		return 0, nil, err
	}
	defer p.leave()
	at := slices.Index(p.ifaces[:], nil)
	if at < 0 {
		return 0, nil, fmt.Errorf("add interface %s: %w (%d at most)", cfg.Name, dataplane.CodeFull, ifacesMax)
	}
	id := dataplane.InterfaceID(at)
	i := &iface{cfg: *cfg, port: id}
	i.cfg.MAC, i.cfg.Addresses = slices.Clone(cfg.MAC), nil
	for n, o := range p.ifaces {
		if o == nil || o.cfg.Name != cfg.Name {
			continue
		}
		if o.cfg.VLAN == cfg.VLAN {
			return 0, nil, fmt.Errorf("add interface %s: %w", cfg.Name, dataplane.CodeExists)
		}
		if o.port == dataplane.InterfaceID(n) {
			i.port = o.port
		}
	}
	if err := p.bringUp(ctx, id, i, cfg.Addresses); err != nil {
		return 0, nil, fmt.Errorf("add interface %s: %w", cfg.Name, err)
	}
	cfg.MAC, cfg.MTU, cfg.Index, cfg.Queues = slices.Clone(i.cfg.MAC), i.cfg.MTU, i.cfg.Index, i.cfg.Queues
	return id, p.ifaces[i.port].list(), nil
}

// bringUp does what AddInterface promises, or nothing.
func (p *Plane) bringUp(ctx context.Context, id dataplane.InterfaceID, i *iface, addrs []netip.Prefix) (err error) {
	if i.port == id {
		if i.queues, err = p.openQueues(&i.cfg); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				p.drop(id, i.queues)
			}
		}()
	}
	if err := p.ifaceAdd(ctx, id, i); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			p.undo(func(ctx context.Context) error { return p.ifaceDel(ctx, id) })
		}
	}()
	if i.port == id {
		if err := p.attach(ctx, id, i.queues); err != nil {
			return err
		}
	}
	for _, a := range addrs {
		if err := p.addr(ctx, C.NP_CMD_ADDR_ADD, C.NP_CMD_ADDR_DEL, id, a); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
		i.addrs = append(i.addrs, a)
	}
	p.life.Lock()
	p.ifaces[id] = i
	p.life.Unlock()
	return nil
}

// known finds an interface. setup is held.
func (p *Plane) known(id dataplane.InterfaceID) (*iface, error) {
	if id >= ifacesMax || p.ifaces[id] == nil {
		return nil, fmt.Errorf("interface %d: %w", id, dataplane.CodeNotfound)
	}
	return p.ifaces[id], nil
}

// DetachInterface implements [dataplane.Plane].
func (p *Plane) DetachInterface(ctx context.Context, id dataplane.InterfaceID) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	defer p.leave()
	i, err := p.known(id)
	if err != nil {
		return err
	}
	if len(i.queues) == 0 {
		return fmt.Errorf("detach interface %s: %w", i.cfg.Name, dataplane.CodeState)
	}
	if err := p.detach(ctx, id, i.queues); err != nil {
		return fmt.Errorf("detach interface %s: %w", i.cfg.Name, err)
	}
	p.life.Lock()
	defer p.life.Unlock()
	p.closeQueues(i.queues)
	i.queues = nil
	return nil
}

// ReattachInterface implements [dataplane.Plane]. A device that came back with
// another MAC or MTU is made anew on every core, with the addresses and routes
// it had; cfg.Addresses is not looked at.
func (p *Plane) ReattachInterface(ctx context.Context, id dataplane.InterfaceID, cfg *dataplane.InterfaceConfig) ([]dataplane.Queue, error) {
	if err := p.enter(ctx); err != nil {
		return nil, err
	}
	defer p.leave()
	i, err := p.known(id)
	if err != nil {
		return nil, err
	}
	wrap := func(err error) error { return fmt.Errorf("reattach interface %s: %w", i.cfg.Name, err) }
	if len(i.queues) != 0 || i.port != id || cfg.VLAN != i.cfg.VLAN {
		return nil, wrap(dataplane.CodeState)
	}
	qs, err := p.openQueues(cfg)
	if err != nil {
		return nil, wrap(err)
	}
	if err := p.renew(ctx, id, cfg); err != nil {
		p.closeQueues(qs)
		return nil, wrap(err)
	}
	if err := p.attach(ctx, id, qs); err != nil {
		p.drop(id, qs)
		return nil, wrap(err)
	}
	p.life.Lock()
	defer p.life.Unlock()
	i.queues = qs
	return i.list(), nil
}

// renew gives the cores the MAC and MTU of a device that came back, on all
// interfaces that use it.
func (p *Plane) renew(ctx context.Context, port dataplane.InterfaceID, cfg *dataplane.InterfaceConfig) error {
	for n, i := range p.ifaces {
		id := dataplane.InterfaceID(n)
		if i == nil || i.port != port {
			continue
		}
		i.cfg.Name, i.cfg.Index, i.cfg.Native, i.cfg.Queues = cfg.Name, cfg.Index, cfg.Native, cfg.Queues
		i.cfg.Backend, i.cfg.Device, i.cfg.ZeroCopy, i.cfg.Exception = cfg.Backend, cfg.Device, cfg.ZeroCopy, cfg.Exception
		if slices.Equal(i.cfg.MAC, cfg.MAC) && i.cfg.MTU == cfg.MTU {
			continue
		}
		if err := p.ifaceDel(ctx, id); err != nil {
			return err
		}
		i.cfg.MAC, i.cfg.MTU = slices.Clone(cfg.MAC), cfg.MTU
		if err := p.ifaceAdd(ctx, id, i); err != nil {
			return err
		}
		for _, a := range i.addrs {
			if err := p.addr(ctx, C.NP_CMD_ADDR_ADD, C.NP_CMD_ADDR_DEL, id, a); err != nil {
				return fmt.Errorf("address %s: %w", a, err)
			}
		}
		for _, r := range p.routes {
			if r.Interface != id {
				continue
			}
			if err := p.route(ctx, C.NP_CMD_ROUTE_ADD, C.NP_CMD_ROUTE_DEL, r); err != nil && err != error(dataplane.CodeExists) {
				return fmt.Errorf("route to %s: %w", r.Prefix, err)
			}
		}
	}
	return nil
}

// AddAddress implements [dataplane.Plane].
func (p *Plane) AddAddress(ctx context.Context, id dataplane.InterfaceID, pre netip.Prefix) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	defer p.leave()
	i, err := p.known(id)
	if err == nil {
		err = p.addr(ctx, C.NP_CMD_ADDR_ADD, C.NP_CMD_ADDR_DEL, id, pre)
	}
	if err != nil {
		return fmt.Errorf("add address %s: %w", pre, err)
	}
	i.addrs = append(i.addrs, pre)
	return nil
}

// DelAddress implements [dataplane.Plane].
func (p *Plane) DelAddress(ctx context.Context, id dataplane.InterfaceID, pre netip.Prefix) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	defer p.leave()
	i, err := p.known(id)
	if err == nil {
		err = p.addr(ctx, C.NP_CMD_ADDR_DEL, C.NP_CMD_ADDR_ADD, id, pre)
	}
	if err != nil {
		return fmt.Errorf("delete address %s: %w", pre, err)
	}
	i.addrs = slices.DeleteFunc(i.addrs, func(a netip.Prefix) bool { return a.Addr() == pre.Addr() })
	return nil
}

// AddRoute implements [dataplane.Plane].
func (p *Plane) AddRoute(ctx context.Context, r dataplane.Route) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	defer p.leave()
	_, err := p.known(r.Interface)
	if err == nil {
		err = p.route(ctx, C.NP_CMD_ROUTE_ADD, C.NP_CMD_ROUTE_DEL, r)
	}
	if err != nil {
		return fmt.Errorf("add route to %s: %w", r.Prefix, err)
	}
	p.routes = append(p.routes, r)
	return nil
}

// DelRoute implements [dataplane.Plane].
func (p *Plane) DelRoute(ctx context.Context, r dataplane.Route) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	defer p.leave()
	if err := p.route(ctx, C.NP_CMD_ROUTE_DEL, C.NP_CMD_ROUTE_ADD, r); err != nil {
		return fmt.Errorf("delete route to %s: %w", r.Prefix, err)
	}
	p.routes = slices.DeleteFunc(p.routes, func(o dataplane.Route) bool { return o.Prefix == r.Prefix })
	return nil
}

// perCore shares a limit over cores. Flows spread by hash, so a core gets four
// standard deviations more than its share: the sum of all is near the limit,
// and a core does not refuse what the appliance has room for.
func perCore(limit, cores int) int {
	if cores <= 1 || limit <= 0 {
		return max(limit, 0)
	}
	share := float64(limit) / float64(cores)
	return min(limit, int(math.Ceil(share+4*math.Sqrt(share))))
}

// Listen implements [dataplane.Plane].
func (p *Plane) Listen(ctx context.Context, cfg *dataplane.ListenConfig) (dataplane.ListenerID, error) {
	if err := p.enter(ctx); err != nil {
		closeSockets(cfg.Sockets)
		return 0, err
	}
	defer p.leave()
	stack := cfg.Carrier == dataplane.CarrierStack
	where := cfg.Address.IsValid() && len(cfg.Sockets) == 0
	rdma := cfg.Carrier == dataplane.CarrierRDMA // listens by its connection manager
	if !stack && !rdma {
		where = len(cfg.Sockets) == len(p.cores)
	}
	if !where || cfg.Backlog < 0 || cfg.MaxConns < 0 || cfg.DSCP < 0 || cfg.DSCP > 63 {
		closeSockets(cfg.Sockets)
		return 0, fmt.Errorf("listen on %s: %w", cfg.Address, dataplane.CodeInvalid)
	}
	share := perCore(cfg.MaxConns, len(p.cores))
	if !cfg.Address.IsValid() {
		share = cfg.MaxConns // the cores share one socket: who wakes first accepts, so one may get nearly all
	}
	args := C.struct_np_cmd_listen{port: C.uint16_t(cfg.Address.Port()), session_kind: C.uint8_t(cfg.Kind), cookies: flag(cfg.Cookies),
		backlog: C.uint32_t(cfg.Backlog), conns_max: C.uint32_t(share), congestion_control: C.uint8_t(cfg.CongestionControl),
		dscp: C.uint8_t(cfg.DSCP), carrier: C.uint8_t(cfg.Carrier), fd: -1}
	if !cfg.Address.Addr().IsUnspecified() {
		setAddr(&args.local, cfg.Address.Addr())
	}
	p.lmu.Lock()
	p.nextLis++
	id := p.nextLis
	handles := make([]uint64, len(p.cores))
	p.handles[id] = handles
	p.lmu.Unlock()
	err := p.all(ctx, func(c *core) request {
		mine := args
		if !stack && !rdma {
			mine.fd = C.int32_t(cfg.Sockets[c.index])
		}
		// Settled before the first EventOpen of this listener can be polled.
		return request{op: C.NP_CMD_LISTEN, body: bytesOf(&mine), settle: func(a answer) {
			if a.unsent && !stack && !rdma {
				closeSockets(cfg.Sockets[c.index : c.index+1])
			}
			if a.err == nil {
				p.lmu.Lock()
				handles[c.index], p.listeners[a.handle] = a.handle, id
				p.lmu.Unlock()
			}
		}}
	}, func(c *core) request {
		return request{op: C.NP_CMD_UNLISTEN, handle: p.handleOf(id, c.index)}
	})
	if err != nil {
		p.lmu.Lock()
		delete(p.handles, id)
		p.lmu.Unlock()
		return 0, fmt.Errorf("listen on %s: %w", cfg.Address, err)
	}
	return id, nil
}

func (p *Plane) handleOf(id dataplane.ListenerID, core int) uint64 {
	p.lmu.RLock()
	defer p.lmu.RUnlock()
	if h := p.handles[id]; h != nil {
		return h[core]
	}
	return 0
}

// Unlisten implements [dataplane.Plane].
func (p *Plane) Unlisten(ctx context.Context, id dataplane.ListenerID) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	defer p.leave()
	err := p.all(ctx, func(c *core) request {
		return request{op: C.NP_CMD_UNLISTEN, handle: p.handleOf(id, c.index)}
	}, nil)
	if err != nil {
		return fmt.Errorf("end listener %d: %w", id, err)
	}
	p.lmu.Lock()
	delete(p.handles, id)
	p.lmu.Unlock()
	return nil
}

// connSet changes a setting of a live connection.
func (p *Plane) connSet(ctx context.Context, conn dataplane.Handle, what uint32, value uint32) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	defer p.leave()
	if conn.Core() >= len(p.cores) {
		return dataplane.CodeStale
	}
	_, err := p.cores[conn.Core()].one(ctx, request{op: C.NP_CMD_CONN_SET, handle: uint64(conn), stream: what, arg: value})
	return err
}

// SetCongestionControl implements [dataplane.Plane].
func (p *Plane) SetCongestionControl(ctx context.Context, conn dataplane.Handle, cc dataplane.CongestionControl) error {
	err := error(dataplane.CodeInvalid)
	if cc != dataplane.CongestionDefault {
		err = p.connSet(ctx, conn, C.NP_CONN_SET_CC, uint32(cc-1))
	}
	if err != nil {
		return fmt.Errorf("set congestion control %s: %w", cc, err)
	}
	return nil
}

// connTime sets a time of a live connection, of whole milliseconds.
func (p *Plane) connTime(ctx context.Context, conn dataplane.Handle, what uint32, name string, d time.Duration) error {
	err := error(dataplane.CodeInvalid)
	if d >= 0 && d <= 24*time.Hour && d%time.Millisecond == 0 {
		err = p.connSet(ctx, conn, what, uint32(d.Milliseconds()))
	}
	if err != nil {
		return fmt.Errorf("set %s %s: %w", name, d, err)
	}
	return nil
}

// SetUserTimeout implements [dataplane.Plane].
func (p *Plane) SetUserTimeout(ctx context.Context, conn dataplane.Handle, d time.Duration) error {
	return p.connTime(ctx, conn, C.NP_CONN_SET_USER_TIMEOUT, "user timeout", d)
}

// SetKeepAlive implements [dataplane.Plane].
func (p *Plane) SetKeepAlive(ctx context.Context, conn dataplane.Handle, idle time.Duration) error {
	return p.connTime(ctx, conn, C.NP_CONN_SET_KEEPALIVE, "keep-alive", idle)
}

// SetNoDelay implements [dataplane.Plane].
func (p *Plane) SetNoDelay(ctx context.Context, conn dataplane.Handle, on bool) error {
	nagle := uint32(1)
	if on {
		nagle = 0
	}
	if err := p.connSet(ctx, conn, C.NP_CONN_SET_NAGLE, nagle); err != nil {
		return fmt.Errorf("set no delay %t: %w", on, err)
	}
	return nil
}

// Drain implements [dataplane.Plane].
func (p *Plane) Drain(ctx context.Context) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	defer p.leave()
	if err := p.all(ctx, func(*core) request { return request{op: C.NP_CMD_DRAIN} }, nil); err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	return nil
}
