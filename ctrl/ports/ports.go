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
	Backend      string // "auto" or "af_xdp"
	Strict       bool   // a lower rung than asked for is an error
	Quiet        bool   // a lower rung is no warning
}

// Rung is one backend tried on an interface.
type Rung struct {
	Backend string
	Chosen  bool
	Reason  string // why not
	Cure    string // the command that would help
}

// Names of rungs.
const (
	RungDPDK     = "dpdk"
	RungZeroCopy = "af_xdp zero-copy"
	RungCopy     = "af_xdp copy"
)

// Status is an interface as it is.
type Status struct {
	Config   Interface
	ID       dataplane.InterfaceID
	Added    bool // the plane knows it
	Up       bool
	Starting bool   // taken a moment ago, its carrier not seen yet
	Reason   string // why it is down or starting
	Device   xdp.Interface
	MTU      int
	Mode     xdp.Mode
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
	addrs atomic.Bool // the plane reported a change of addresses

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

type port struct {
	cfg      Interface
	id       dataplane.InterfaceID
	added    bool
	attached bool
	device   xdp.Interface // as of the attach
	mtu      int
	prog     Program
	zeroCopy bool
	ladder   []Rung
	reason   string
	said     string // reason last logged
	starting bool
	taken    time.Time // when it was last attached
	retry    time.Time
	pause    time.Duration
	counters xdp.Counters // of programs that are gone
	learned  []netip.Addr // addresses the stack made itself, steered to it
	watching func()       // ends and awaits the reading of copies; nil none
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
	return &Manager{sys: sys, plane: plane, log: log, now: now, wake: make(chan struct{}, 1), links: map[string]xdp.Link{}, claims: map[netip.Addr]claim{}}
}

// MTU is what an interface will use on a device.
func MTU(cfg *Interface, d *xdp.Interface) int {
	if cfg.MTU > 0 {
		return min(cfg.MTU, d.MTU)
	}
	return min(d.MTU, MTUMax)
}

// Add takes an interface. A device that is not there, or refuses, is an error;
// one that is down is taken when it comes up.
func (m *Manager) Add(ctx context.Context, cfg Interface) error {
	d, err := m.sys.Inspect(cfg.Name)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &port{cfg: cfg}
	if !d.Up {
		p.device, p.reason = d, downReason(&d)
		m.say(p)
	} else if err := m.attach(ctx, p, d); err != nil {
		return err
	}
	m.ports = append(m.ports, p)
	return nil
}

func downReason(d *xdp.Interface) string {
	return fmt.Sprintf("link is down (ip link set %s up)", d.Name)
}

// attach opens an interface's queues on the best rung it can have and steers
// its addresses there. m.mu is held.
func (m *Manager) attach(ctx context.Context, p *port, d xdp.Interface) error {
	mtu := MTU(&p.cfg, &d)
	prog, err := m.sys.Attach(p.cfg.Name, xdp.Options{Mode: p.cfg.Mode, Frags: d.MTU > mtuOneFrame})
	if err != nil {
		return err
	}
	if prog.Mode() != xdp.ModeNative && p.cfg.MTU == 0 {
		mtu = min(mtu, mtuOneFrame) // generic mode hands over frames of one buffer only
	}
	cfg := &dataplane.InterfaceConfig{Name: p.cfg.Name, Index: d.Index, MAC: d.MAC, MTU: mtu, VLAN: p.cfg.VLAN, Queues: p.cfg.Queues,
		Native: prog.Mode() == xdp.ModeNative, Addresses: p.cfg.Addresses,
		DADTransmits: p.cfg.DADTransmits, ACD: p.cfg.ACD, AcceptRA: p.cfg.AcceptRA, Opaque: true, MLD: true, Announces: announces}
	if cfg.Queues == 0 || cfg.Queues > d.RXQueues {
		cfg.Queues = max(d.RXQueues, 1)
	}
	queues, err := m.climb(ctx, p, cfg, prog, &d)
	if err == nil {
		if err = steer(prog, p, queues); err != nil && p.added {
			_ = m.plane.DetachInterface(ctx, p.id) // the error that matters is the first
		}
	}
	if err != nil {
		return errors.Join(err, prog.Close())
	}
	p.attached, p.prog, p.device, p.mtu, p.reason, p.said, p.pause = true, prog, d, mtu, "", "", 0
	p.taken = m.now()
	p.watching = m.watchCopies(p.id, prog)
	m.AddressesChanged() // the link-local one, at least
	m.log.Info("interface up", "interface", p.cfg.Name, "backend", chosen(p.ladder), "xdp_mode", prog.Mode().String(),
		"queues", len(queues), "mtu", mtu, "mac", d.MAC.String(), "driver", d.Driver)
	return m.addRoutes(ctx)
}

func chosen(ladder []Rung) string {
	for _, r := range ladder {
		if r.Chosen {
			return r.Backend
		}
	}
	return ""
}

// climb tries the rungs from the top.
func (m *Manager) climb(ctx context.Context, p *port, cfg *dataplane.InterfaceConfig, prog Program, d *xdp.Interface) ([]dataplane.Queue, error) {
	p.ladder = nil
	if p.cfg.Backend == "auto" {
		p.ladder = append(p.ladder, Rung{Backend: RungDPDK, Reason: "not in this version"})
		m.log.Info("backend refused", "interface", p.cfg.Name, "backend", RungDPDK, "reason", "not in this version")
	}
	var why error
	if p.cfg.ZeroCopy != dataplane.ZeroCopyOff {
		if !cfg.Native {
			why = fmt.Errorf("zero-copy needs the XDP program in native mode: %w", dataplane.CodeUnsupported)
			if f := prog.Fallback(); f != nil {
				why = fmt.Errorf("zero-copy needs the XDP program in native mode: %w", f)
			}
		} else {
			cfg.ZeroCopy = dataplane.ZeroCopyMust
			var qs []dataplane.Queue
			if qs, why = m.open(ctx, p, cfg); why == nil {
				p.ladder, p.zeroCopy = append(p.ladder, Rung{Backend: RungZeroCopy, Chosen: true}), true
				return qs, nil
			}
		}
		r := Rung{Backend: RungZeroCopy, Reason: why.Error(), Cure: cure(why, d)}
		p.ladder = append(p.ladder, r)
		if p.cfg.ZeroCopy == dataplane.ZeroCopyMust || p.cfg.Strict || fatal(why) {
			return nil, fmt.Errorf("interface %s: %s refused: %w", p.cfg.Name, RungZeroCopy, why)
		}
		level := slog.LevelWarn
		if p.cfg.Quiet {
			level = slog.LevelInfo
		}
		m.log.Log(ctx, level, "backend refused", "interface", p.cfg.Name, "backend", RungZeroCopy, "reason", r.Reason, "cure", r.Cure)
	}
	cfg.ZeroCopy = dataplane.ZeroCopyOff
	qs, err := m.open(ctx, p, cfg)
	if err != nil {
		p.ladder = append(p.ladder, Rung{Backend: RungCopy, Reason: err.Error(), Cure: cure(err, d)})
		return nil, fmt.Errorf("interface %s: %s refused: %w", p.cfg.Name, RungCopy, err)
	}
	p.ladder, p.zeroCopy = append(p.ladder, Rung{Backend: RungCopy, Chosen: true}), false
	return qs, nil
}

// fatal errors have the same cause on every rung.
func fatal(err error) bool {
	return errors.Is(err, dataplane.CodePerm) || errors.Is(err, dataplane.CodeNodev) || errors.Is(err, dataplane.CodeInvalid) ||
		errors.Is(err, dataplane.CodeShutdown) || errors.Is(err, context.Canceled)
}

// cure is the command that would help, "" when none would.
func cure(err error, d *xdp.Interface) string {
	switch {
	case errors.Is(err, dataplane.CodePerm):
		return "run as root, or setcap cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock+ep npd"
	case errors.Is(err, dataplane.CodeBusy):
		return fmt.Sprintf("ip link set dev %s xdp off (or stop the process that uses its queues)", d.Name)
	case errors.Is(err, dataplane.CodeNomem):
		return "ulimit -l unlimited"
	case d.Driver == "veth" || d.Driver == "tun":
		return "" // no such driver can
	}
	return fmt.Sprintf("ethtool -i %s (a driver with AF_XDP zero-copy is needed)", d.Name)
}

// open opens the queues, again after a detach, waiting out the moment in which
// a queue that was just closed is busy.
func (m *Manager) open(ctx context.Context, p *port, cfg *dataplane.InterfaceConfig) ([]dataplane.Queue, error) {
	end := m.now().Add(rebindTime)
	for pause := 10 * time.Millisecond; ; pause *= 2 {
		var qs []dataplane.Queue
		var err error
		if p.added {
			qs, err = m.plane.ReattachInterface(ctx, p.id, cfg)
		} else if p.id, qs, err = m.plane.AddInterface(ctx, cfg); err == nil {
			p.added = true
		}
		if !errors.Is(err, dataplane.CodeBusy) || m.now().After(end) {
			return qs, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func steer(prog Program, p *port, queues []dataplane.Queue) error {
	for _, q := range queues {
		if err := prog.SetSocket(q.Queue, q.FD); err != nil {
			return err
		}
	}
	return prog.SetAddresses(p.addresses())
}

func (p *port) addresses() []xdp.Address {
	out := make([]xdp.Address, 0, len(p.cfg.Addresses)+len(p.learned))
	for _, a := range p.cfg.Addresses {
		out = append(out, xdp.Address{Addr: a.Addr(), VLAN: p.cfg.VLAN})
	}
	for _, a := range p.learned {
		out = append(out, xdp.Address{Addr: a, VLAN: p.cfg.VLAN})
	}
	return out
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
		l, ok := m.links[p.cfg.Name]
		if !ok {
			// No report names a device that vanished before the watch began.
			if _, err := m.sys.Inspect(p.cfg.Name); !errors.Is(err, dataplane.CodeNodev) {
				continue
			}
			l = xdp.Link{Name: p.cfg.Name, Index: p.device.Index}
		}
		if wait := m.port(ctx, p, l); wait > 0 {
			next = min(next, wait)
		}
	}
	return next
}

// port does what one port's link asks for; more than 0: look again then.
func (m *Manager) port(ctx context.Context, p *port, l xdp.Link) time.Duration {
	defer m.say(p)
	p.starting = false
	// Another MAC is as good as another device: the stack must send and take frames by it.
	moved := len(l.MAC) == len(p.device.MAC) && !slices.Equal(l.MAC, p.device.MAC)
	if p.attached && (!l.Present || l.Index != p.device.Index || moved) {
		m.detach(ctx, p)
	}
	switch {
	case !l.Present:
		p.reason = "interface is gone"
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
	if wait := p.retry.Sub(m.now()); wait > 0 {
		return wait
	}
	d, err := m.sys.Inspect(p.cfg.Name)
	if err == nil {
		err = m.attach(ctx, p, d)
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
		m.log.Warn("interface down", "interface", p.cfg.Name, "reason", p.reason)
	} else {
		m.log.Info("interface up again", "interface", p.cfg.Name)
	}
	p.said = p.reason
}

// detach closes the queues of a device that is gone. m.mu is held.
func (m *Manager) detach(ctx context.Context, p *port) {
	if err := m.plane.DetachInterface(ctx, p.id); err != nil && !errors.Is(err, dataplane.CodeState) {
		m.log.Error("interface not detached", "interface", p.cfg.Name, "err", err)
	}
	p.fold()
	p.watching()
	if err := p.prog.Close(); err != nil {
		m.log.Debug("XDP program not closed", "interface", p.cfg.Name, "err", err)
	}
	p.attached, p.prog = false, nil
}

// fold keeps the counters of a program that goes away.
func (p *port) fold() {
	if c, err := p.prog.Counters(); err == nil {
		p.counters = sum(p.counters, c)
	}
}

func sum(a, b xdp.Counters) xdp.Counters {
	return xdp.Counters{Redirected: a.Redirected + b.Redirected, Passed: a.Passed + b.Passed, Dropped: a.Dropped + b.Dropped, Errors: a.Errors + b.Errors,
		Copied: a.Copied + b.Copied, CopyLost: a.CopyLost + b.CopyLost}
}

// Status lists the ports as they are, in the order they were added.
func (m *Manager) Status() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Status, len(m.ports))
	for i, p := range m.ports {
		s := Status{Config: p.cfg, ID: p.id, Added: p.added, Up: p.attached && p.reason == "", Starting: p.starting, Reason: p.reason, Device: p.device,
			MTU: p.mtu, ZeroCopy: p.zeroCopy, Ladder: slices.Clone(p.ladder), Program: p.counters}
		s.Config.Addresses = slices.Clone(p.cfg.Addresses)
		if p.prog != nil {
			s.Mode = p.prog.Mode()
			if c, err := p.prog.Counters(); err == nil {
				s.Program = sum(s.Program, c)
			}
		}
		out[i] = s
	}
	return out
}

// ID returns the plane's name of an interface.
func (m *Manager) ID(name string) (dataplane.InterfaceID, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.find(name); p != nil && p.added {
		return p.id, true
	}
	return 0, false
}

func (m *Manager) find(name string) *port {
	for _, p := range m.ports {
		if p.cfg.Name == name {
			return p
		}
	}
	return nil
}

// AddAddress gives an interface another address, now.
func (m *Manager) AddAddress(ctx context.Context, name string, a netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.find(name)
	if p == nil {
		return fmt.Errorf("interface %s: %w", name, dataplane.CodeNotfound)
	}
	if p.added {
		if err := m.plane.AddAddress(ctx, p.id, a); err != nil {
			return fmt.Errorf("address %s on %s: %w", a, name, err)
		}
	}
	if p.prog != nil {
		if err := p.prog.AddAddress(xdp.Address{Addr: a.Addr(), VLAN: p.cfg.VLAN}); err != nil {
			return errors.Join(err, m.plane.DelAddress(ctx, p.id, a))
		}
	}
	p.cfg.Addresses = append(slices.Clone(p.cfg.Addresses), a)
	return nil
}

// DelAddress takes an address from an interface, now.
func (m *Manager) DelAddress(ctx context.Context, name string, a netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.find(name)
	if p == nil {
		return fmt.Errorf("interface %s: %w", name, dataplane.CodeNotfound)
	}
	if p.added {
		if err := m.plane.DelAddress(ctx, p.id, a); err != nil {
			return fmt.Errorf("address %s on %s: %w", a, name, err)
		}
	}
	if p.prog != nil {
		if err := p.prog.DelAddress(xdp.Address{Addr: a.Addr(), VLAN: p.cfg.VLAN}); err != nil {
			return err
		}
	}
	m.forget(a.Addr())
	p.cfg.Addresses = slices.DeleteFunc(slices.Clone(p.cfg.Addresses), func(o netip.Prefix) bool { return o == a })
	return nil
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
		p := m.find(r.name)
		if r.set || p == nil || !p.added {
			continue
		}
		if err := m.plane.AddRoute(ctx, dataplane.Route{Prefix: r.prefix, Via: r.via, Interface: p.id}); err != nil {
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
	if p := m.find(name); m.routes[at].set && p != nil {
		if err := m.plane.DelRoute(ctx, dataplane.Route{Prefix: prefix, Via: via, Interface: p.id}); err != nil {
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
			p.prog, p.attached = nil, false
			p.reason = "closed"
		}
	}
	return errors.Join(errs...)
}
