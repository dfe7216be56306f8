package ports

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/ladder"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
)

// Limits of an interface's MTU, and where a frame no longer fits one buffer.
const (
	MTUMax      = 9000 // in several buffers
	MTUSmall    = 1536 // in one buffer of 2,048 bytes
	mtuOneFrame = 3506 // devices above this need the program's variant for fragments
)

// Interface is one interface as configured.
type Interface struct {
	Name         string
	Addresses    []netip.Prefix
	MTU          int // 0: the device's
	Queues       int // 0: all
	ZeroCopy     dataplane.ZeroCopy
	Mode         xdp.Mode
	VLAN         uint16
	DADTransmits int // see dataplane.InterfaceConfig
	ACD          bool
	AcceptRA     bool
	Filter       xdp.Filter // of the device: its first interface tells
	KernelPorts  xdp.Ports  // of own addresses, left to the kernel; likewise
	Backend      string     // a word of package ladder: auto, dpdk, af_xdp, af_packet, tap
	Device       string     // DPDK's: a PCI address, or a virtual device with its arguments
	Exception    string     // name of the TAP by which the kernel gets what is not ours of a device it does not have; "" none
	Strict       bool       // a lower rung than asked for is an error
	Quiet        bool       // a lower rung is no warning
}

// Rung is one backend tried on an interface.
type Rung = ladder.Rung

// Status is an interface as it is.
type Status struct {
	Config   Interface
	ID       dataplane.InterfaceID
	Port     dataplane.InterfaceID // whose queues it uses
	Shared   bool                  // they, the ladder and the program are those of the device's first interface
	Added    bool                  // the plane knows it
	Attached bool                  // its queues are open
	Backend  string                // the rung they are open by
	Up       bool
	Starting bool   // taken a moment ago, its carrier not seen yet
	Reason   string // why it is down or starting
	Device   xdp.Interface
	MTU      int
	Mode     xdp.Mode // of the XDP program, ModeAuto without one
	Fallback string   // why the program does not run in native mode
	ZeroCopy bool
	Ladder   []Rung
	Program  xdp.Counters
}

// Manager owns the ports of a plane.
type Manager struct {
	sys   System
	plane dataplane.Plane
	log   *slog.Logger
	now   func() time.Time
	wake  chan struct{}
	bound func(name string) string // see FindBound
	addrs atomic.Bool              // the plane reported a change of addresses

	emu    sync.Mutex // taken last, held for a moment only
	events map[dataplane.InterfaceID]dataplane.Code

	mu     sync.Mutex
	ports  []*port
	links  map[string]xdp.Link
	claims map[netip.Addr]claim // as last logged
	routes []route
	closed bool
}

type route struct {
	prefix netip.Prefix
	via    netip.Addr
	name   string
	set    bool // the plane has it
}

// port is a device: one set of queues, one XDP program if its backend needs it.
type port struct {
	name     string
	given    string // DPDK device of the configuration, "" none
	subs     []*sub // the first has the queues in the plane
	attached bool
	rung     rung                       // while attached
	device   xdp.Interface              // as of the attach
	opened   *dataplane.InterfaceConfig // what the queues were opened with, as of the attach
	mtu      int
	prog     Program // nil none
	filter   filter
	ladder   ladder.Ladder
	reason   string
	said     string // reason last logged
	starting bool
	taken    time.Time // when it was last attached
	retry    time.Time
	pause    time.Duration
	counters xdp.Counters // of programs that are gone
	watching func()       // ends and awaits the reading of copies; nil none
	shared   Sharer       // divides the frames with the kernel; nil none
}

// Pauses between attempts to take an interface that is there but refuses.
const (
	retryFirst = 100 * time.Millisecond
	retryLast  = 5 * time.Second
	rebindTime = 2 * time.Second // a queue just closed is busy for a moment
	firstLook  = time.Second     // at interfaces that no report named
	announces  = 2               // the first may fall into a switch port's start
	startGrace = 2 * time.Second // drivers drop the carrier while an XDP program is attached
)

// New makes a manager without ports.
func New(sys System, plane dataplane.Plane, log *slog.Logger, now func() time.Time) *Manager {
	return &Manager{sys: sys, plane: plane, log: log, now: now, wake: make(chan struct{}, 1), events: map[dataplane.InterfaceID]dataplane.Code{},
		links: map[string]xdp.Link{}, claims: map[netip.Addr]claim{}}
}

// MTU is what an interface will use on a device.
func MTU(cfg *Interface, d *xdp.Interface) int {
	if cfg.MTU > 0 {
		return min(cfg.MTU, d.MTU)
	}
	return min(d.MTU, MTUMax)
}

// Add takes an interface. A device that is not there, or refuses, is an error;
// one that is down is taken when it comes up. Further VLANs of a device share
// the queues and the program of the first.
func (m *Manager) Add(ctx context.Context, cfg Interface) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.port(cfg.Name); p != nil {
		return m.join(ctx, p, &sub{cfg: cfg})
	}
	p := m.newPort(cfg)
	m.findDevice(p)
	d, missing := m.sys.Inspect(cfg.Name)
	kernel := p.subs[0].cfg.Kernel()
	if missing != nil && kernel {
		return missing
	}
	if kernel && !d.Up {
		p.device, p.reason = d, downReason(&d)
		m.say(p)
	} else if err := m.attach(ctx, p, &d, missing); err != nil {
		return err
	}
	m.ports = append(m.ports, p)
	return nil
}

// Expect keeps an interface that Add refused with why: Run takes it when the cause is
// gone.
func (m *Manager) Expect(ctx context.Context, cfg Interface, why error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.port(cfg.Name); p != nil {
		return m.join(ctx, p, &sub{cfg: cfg})
	}
	p := m.newPort(cfg)
	p.reason, p.pause, p.retry = why.Error(), retryFirst, m.now().Add(retryFirst)
	m.say(p)
	m.ports = append(m.ports, p)
	return nil
}

func (m *Manager) newPort(cfg Interface) *port {
	return &port{name: cfg.Name, given: cfg.Device, subs: []*sub{{cfg: cfg}}, filter: configured(&cfg.Filter, cfg.KernelPorts),
		ladder: ladder.Ladder{Kind: "interface", Name: cfg.Name, Policy: cfg.policy()}}
}

// FindBound makes the manager ask for the PCI address of a card that was taken from the
// kernel for DPDK, by the name it had, before it looks for one that the configuration
// gives no device. Call it before Add.
func (m *Manager) FindBound(find func(name string) string) { m.bound = find }

// findDevice looks for the DPDK device of a port that is to find it itself. m.mu is held.
func (m *Manager) findDevice(p *port) {
	first := &p.subs[0].cfg
	if m.bound == nil || p.given != "" || first.Backend != ladder.Auto && first.Backend != ladder.DPDK {
		return
	}
	device := m.bound(p.name)
	for _, s := range p.subs {
		s.cfg.Device = device
	}
}

func downReason(d *xdp.Interface) string {
	return fmt.Sprintf("link is down (ip link set %s up)", d.Name)
}

// attach opens a device's queues on the best rung it can have and steers the
// addresses of its interfaces there. d is the kernel's interface, unless missing says
// why there is none. m.mu is held.
func (m *Manager) attach(ctx context.Context, p *port, d *xdp.Interface, missing error) error {
	a := attempt{m: m, p: p, d: d, missing: missing}
	if missing != nil {
		a.d = nil
	}
	if err := a.climb(ctx); err != nil {
		return err
	}
	first := p.subs[0]
	p.prog, p.rung, p.opened = a.prog, a.rung, a.cfg
	p.device = xdp.Interface{Name: p.name, Index: a.cfg.Index, MAC: a.cfg.MAC, MTU: a.cfg.MTU, RXQueues: len(a.queues), Driver: first.cfg.Device, NUMANode: -1, Up: true, Carrier: true}
	if a.rung.kernel {
		p.device = *d
	}
	p.mtu = a.cfg.MTU
	if err := m.takeAll(ctx, p, a.cfg, a.queues); err != nil {
		_ = m.plane.DetachInterface(ctx, first.id) // the error that matters is the first
		if p.prog != nil {
			err = errors.Join(err, p.prog.Close())
		}
		p.prog = nil
		return err
	}
	m.share(p, a.queues)
	p.attached, p.reason, p.said, p.pause = true, "", "", 0
	p.taken = m.now()
	m.forgetEvent(first.id)
	args := []any{"interface", p.name, "backend", p.rung.name, "queues", len(a.queues), "mtu", p.mtu, "mac", p.device.MAC.String(),
		"driver", p.device.Driver, "vlans", p.vlans()}
	if p.prog != nil {
		p.watching = func() {}
		if p.steers() {
			p.watching = m.watchCopies(first.id, p.prog)
		}
		args = append(args, "xdp_mode", modeText(p.prog))
	}
	if cores := len(m.plane.Cores()); cores > 1 {
		args = append(args, "cores", cores, "steering", m.plane.Info().Steering.By(len(a.queues), cores))
	}
	m.AddressesChanged() // the link-local one, at least
	m.log.Info("interface up", args...)
	return m.addRoutes(ctx)
}

// takeAll does, once the queues are open, what is left: the other VLANs and the
// steering. m.mu is held.
func (m *Manager) takeAll(ctx context.Context, p *port, cfg *dataplane.InterfaceConfig, queues []dataplane.Queue) error {
	for _, s := range p.subs[1:] {
		if err := m.addSub(ctx, s, s.shared(cfg)); err != nil {
			return err
		}
	}
	if p.prog == nil {
		return nil
	}
	return steer(p.prog, p, queues)
}

// modeText names the mode, and why it is not the better one.
func modeText(prog Program) string {
	if why := prog.Fallback(); why != nil {
		return fmt.Sprintf("%s (native refused: %v)", prog.Mode(), why)
	}
	return prog.Mode().String()
}

// steer puts the filter in force before the first packet can come.
func steer(prog Program, p *port, queues []dataplane.Queue) error {
	if err := prog.SetKernelPorts(p.kernelPorts()); err != nil {
		return err
	}
	if err := prog.SetFilter(p.filter.program()); err != nil {
		return err
	}
	// A filter only, where the backend has copies of what the kernel gets.
	if err := prog.SetBehind(!p.rung.program); err != nil {
		return err
	}
	for _, q := range queues {
		if !p.rung.program {
			break
		}
		if err := prog.SetSocket(q.Queue, q.FD); err != nil {
			return err
		}
	}
	return prog.SetAddresses(p.addresses())
}

// Poke makes Run look at the links again; for reports of the data plane. It
// does not block.
func (m *Manager) Poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run reacts to links that vanish, return, go down and up, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := make(chan error, 1)
	go func() {
		watch <- m.sys.Watch(ctx, func(l xdp.Link) {
			m.mu.Lock()
			m.see(l)
			m.mu.Unlock()
			m.Poke()
		})
	}()
	timer := time.NewTimer(firstLook)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return errors.Join(ignoreEnd(<-watch))
		case err := <-watch:
			return ignoreEnd(err)
		case <-m.wake:
		case <-timer.C:
		}
		if m.addrs.Swap(false) {
			m.lookAtAddresses(ctx)
		}
		timer.Reset(m.reconcile(ctx))
	}
}

func ignoreEnd(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// see keeps the last word about a link. A vanished one of another index than
// the present one is old news. m.mu is held.
func (m *Manager) see(l xdp.Link) {
	if old, ok := m.links[l.Name]; ok && !l.Present && old.Present && old.Index != l.Index {
		return
	}
	m.links[l.Name] = l
}

// reconcile brings every port in line with its link and says when to look
// again.
func (m *Manager) reconcile(ctx context.Context) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := time.Hour
	for _, p := range m.ports {
		if m.closed {
			break
		}
		l, ok := m.links[p.name]
		if !ok {
			// No report names a device that vanished before the watch began.
			if _, err := m.sys.Inspect(p.name); !errors.Is(err, dataplane.CodeNodev) && p.subs[0].cfg.Kernel() {
				continue
			}
			l = xdp.Link{Name: p.name, Index: p.device.Index}
		}
		if wait := m.follow(ctx, p, l); wait > 0 {
			next = min(next, wait)
		}
	}
	return next
}

// follow does what one port's link asks for; more than 0: look again then.
func (m *Manager) follow(ctx context.Context, p *port, l xdp.Link) time.Duration {
	defer m.say(p)
	p.starting = false
	if p.attached && !p.rung.kernel {
		return m.followDevice(ctx, p)
	}
	if !p.attached {
		m.findDevice(p)
		if !p.subs[0].cfg.Kernel() {
			return m.again(ctx, p)
		}
	}
	// Another MAC is as good as another device: the stack must send and take frames by it.
	moved := len(l.MAC) == len(p.device.MAC) && !slices.Equal(l.MAC, p.device.MAC)
	if p.attached && (!l.Present || l.Index != p.device.Index || moved) {
		m.detach(ctx, p)
	}
	switch {
	case !l.Present:
		p.reason = "interface is gone"
		if m.bound != nil {
			return retryLast // somebody may bind it for DPDK
		}
		return 0
	case p.attached && l.Up && l.Carrier:
		p.reason = ""
		return 0
	case !l.Up:
		p.reason = downReason(&xdp.Interface{Name: l.Name})
		return 0
	case p.attached:
		p.reason = "no carrier"
		if wait := startGrace - m.now().Sub(p.taken); wait > 0 {
			p.starting = true
			return wait
		}
		return 0
	}
	return m.again(ctx, p)
}

// again takes a device that refused, with growing pauses; more than 0: look again
// then. m.mu is held.
func (m *Manager) again(ctx context.Context, p *port) time.Duration {
	if wait := p.retry.Sub(m.now()); wait > 0 {
		return wait
	}
	d, err := m.sys.Inspect(p.name)
	if err == nil || !p.subs[0].cfg.Kernel() {
		err = m.attach(ctx, p, &d, err)
	}
	if err == nil {
		return 0
	}
	p.reason = err.Error()
	p.pause = min(max(2*p.pause, retryFirst), retryLast)
	p.retry = m.now().Add(p.pause)
	return p.pause
}

// say logs a port's going down and up, once each. m.mu is held.
func (m *Manager) say(p *port) {
	if p.reason == p.said || p.starting {
		return
	}
	if p.reason != "" {
		m.log.Warn("interface down", "interface", p.name, "reason", p.reason)
	} else {
		m.log.Info("interface up again", "interface", p.name)
	}
	p.said = p.reason
}

// detach closes the queues of a device that is gone. m.mu is held.
func (m *Manager) detach(ctx context.Context, p *port) {
	if err := m.plane.DetachInterface(ctx, p.subs[0].id); err != nil && !errors.Is(err, dataplane.CodeState) {
		m.log.Error("interface not detached", "interface", p.name, "err", err)
	}
	p.attached = false
	m.unshare(p)
	if p.prog == nil {
		return
	}
	p.fold()
	p.watching()
	if err := p.prog.Close(); err != nil {
		m.log.Debug("XDP program not closed", "interface", p.name, "err", err)
	}
	p.prog = nil
}

// fold keeps the counters of a program that goes away.
func (p *port) fold() {
	if c, err := p.prog.Counters(); err == nil {
		p.counters.Add(&c)
	}
}

// Status lists the interfaces as they are, those of a device together and the
// one with the queues first.
func (m *Manager) Status() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Status
	for _, p := range m.ports {
		for n, one := range p.subs {
			s := Status{Config: one.cfg, ID: one.id, Port: p.subs[0].id, Shared: n > 0, Added: one.added, Attached: p.attached, Backend: p.rung.name, Up: p.attached && p.reason == "",
				Starting: p.starting, Reason: p.reason, Device: p.device, MTU: p.mtu, ZeroCopy: p.attached && p.rung.zeroCopy == dataplane.ZeroCopyMust}
			s.Config.Addresses = slices.Clone(one.cfg.Addresses)
			if !s.Shared {
				s.Ladder, s.Program = p.ladder.Rungs(), p.counters
			}
			if p.prog != nil {
				s.Mode = p.prog.Mode()
				if why := p.prog.Fallback(); why != nil {
					s.Fallback = why.Error()
				}
				if c, err := p.prog.Counters(); err == nil && !s.Shared {
					s.Program.Add(&c)
				}
			} else if p.shared != nil && !s.Shared {
				if c, err := p.shared.Counters(); err == nil {
					s.Program.Add(&c)
				}
			}
			out = append(out, s)
		}
	}
	return out
}

// ID returns the plane's name of an interface.
func (m *Manager) ID(name string) (dataplane.InterfaceID, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, s := m.find(name); s != nil && s.added {
		return s.id, true
	}
	return 0, false
}

// AddRoute adds a route; when its interface was never up yet, as soon as it is.
func (m *Manager) AddRoute(ctx context.Context, prefix netip.Prefix, via netip.Addr, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.routes = append(m.routes, route{prefix: prefix, via: via, name: name})
	err := m.addRoutes(ctx)
	if err != nil {
		m.routes = m.routes[:len(m.routes)-1]
	}
	return err
}

// addRoutes gives the plane the routes it can have now. m.mu is held.
func (m *Manager) addRoutes(ctx context.Context) error {
	for i := range m.routes {
		r := &m.routes[i]
		_, s := m.find(r.name)
		if r.set || s == nil || !s.added {
			continue
		}
		if err := m.plane.AddRoute(ctx, dataplane.Route{Prefix: r.prefix, Via: r.via, Interface: s.id}); err != nil {
			return fmt.Errorf("route %s via %s on %s: %w", r.prefix, r.via, r.name, err)
		}
		r.set = true
	}
	return nil
}

// DelRoute deletes a route.
func (m *Manager) DelRoute(ctx context.Context, prefix netip.Prefix, via netip.Addr, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := slices.IndexFunc(m.routes, func(r route) bool { return r.prefix == prefix && r.via == via && r.name == name })
	if at < 0 {
		return fmt.Errorf("route %s: %w", prefix, dataplane.CodeNotfound)
	}
	if _, s := m.find(name); m.routes[at].set && s != nil {
		if err := m.plane.DelRoute(ctx, dataplane.Route{Prefix: prefix, Via: via, Interface: s.id}); err != nil {
			return fmt.Errorf("route %s: %w", prefix, err)
		}
	}
	m.routes = slices.Delete(m.routes, at, at+1)
	return nil
}

// Close takes the XDP programs off, so that the kernel has the interfaces to
// itself again. The queues go with the plane.
func (m *Manager) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	var errs []error
	for _, p := range m.ports {
		if p.prog != nil {
			p.fold()
			p.watching()
			errs = append(errs, p.prog.Close())
		}
		m.unshare(p)
		p.prog, p.attached = nil, false
		p.reason = "closed"
	}
	return errors.Join(errs...)
}
