package ports

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/host"
	"github.com/np-appliance/np/ctrl/ladder"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
)

// rung is a backend that an interface may have.
type rung struct {
	name     string
	word     string // of the configuration, that asks for it and what is below
	backend  dataplane.Backend
	zeroCopy dataplane.ZeroCopy
	kernel   bool // needs the kernel's interface of that name
	program  bool // gets its frames by the XDP program
	named    bool // only when asked for by its word
	// cure names the command that helps against an error, "" none does.
	cure func(err error, a *attempt) string
}

// rungs are all there are, the best first. A new backend is a line here and a
// case in the plane's opening of queues.
func rungs() []rung {
	return []rung{
		{name: ladder.DPDK, word: ladder.DPDK, backend: dataplane.BackendDPDK, cure: cureDPDK},
		{name: ladder.ZeroCopy, word: ladder.AFXDP, backend: dataplane.BackendAFXDP, zeroCopy: dataplane.ZeroCopyMust, kernel: true, program: true, cure: cureXDP},
		{name: ladder.Copy, word: ladder.AFXDP, backend: dataplane.BackendAFXDP, zeroCopy: dataplane.ZeroCopyOff, kernel: true, program: true, cure: cureXDP},
		{name: ladder.AFPacket, word: ladder.AFPacket, backend: dataplane.BackendAFPacket, kernel: true, cure: curePacket},
		{name: ladder.TAP, word: ladder.TAP, backend: dataplane.BackendTAP, named: true, cure: curePacket},
	}
}

// requested are the rungs an interface may be on, by its configuration.
func (i *Interface) requested() []rung {
	var out []rung
	below := i.Backend == ladder.Auto
	for _, r := range rungs() {
		below = below || r.word == i.Backend
		switch {
		case !below, r.named && r.word != i.Backend:
		case r.program && r.zeroCopy == dataplane.ZeroCopyMust && i.ZeroCopy == dataplane.ZeroCopyOff:
		case r.kernel && r.zeroCopy != dataplane.ZeroCopyMust && i.ZeroCopy == dataplane.ZeroCopyMust:
		default:
			out = append(out, r)
		}
	}
	return out
}

// Kernel says that an interface can only be one of the kernel's: without it there is
// nothing to try.
func (i *Interface) Kernel() bool { return i.Backend != ladder.TAP && i.Device == "" }

// policy of an interface's ladder.
func (i *Interface) policy() ladder.Policy {
	switch {
	case i.Strict:
		return ladder.Fail
	case i.Quiet:
		return ladder.Allow
	}
	return ladder.Warn
}

// attempt is one climb of one port.
type attempt struct {
	m *Manager
	p *port
	d *xdp.Interface // the kernel's, nil: it has none of the name
	// why there is none
	missing error

	loaded  bool // the XDP program was asked for
	prog    Program
	progErr error

	// what was chosen
	rung   rung
	cfg    *dataplane.InterfaceConfig
	queues []dataplane.Queue
}

// climb tries the rungs from the top. On an error nothing is left open. m.mu is held.
func (a *attempt) climb(ctx context.Context) error {
	want := &a.p.subs[0].cfg
	var steps []ladder.Step
	for _, r := range want.requested() {
		s := ladder.Step{Backend: r.name,
			Try:   func(ctx context.Context) error { return a.try(ctx, r) },
			Cure:  func(err error) string { return r.cure(err, a) },
			Final: func(err error) bool { return final(err, r) }}
		if r.backend == dataplane.BackendDPDK && want.Device == "" {
			why, cure := a.noDevice()
			if s.Skip, s.SkipCure = why, cure; want.Backend == ladder.DPDK { // asked for
				s.Skip, s.Try = "", func(context.Context) error { return errors.New(why) }
				s.Cure = func(error) string { return cure }
			}
		}
		steps = append(steps, s)
	}
	err := a.p.ladder.Climb(ctx, a.m.log, steps)
	if a.prog != nil && (err != nil || !a.rung.kernel || !a.rung.program && a.p.filter.empty()) {
		if bad := a.prog.Close(); err != nil {
			err = errors.Join(err, bad)
		} else if bad != nil { // the interface runs without it
			a.m.log.Warn("XDP program not detached", "interface", a.p.name, "err", bad)
		}
		a.prog = nil
	}
	return err
}

// noDevice is why DPDK is passed over.
func (a *attempt) noDevice() (why, cure string) {
	why = fmt.Sprintf("interface %s has no device and is not bound to vfio-pci", a.p.name)
	if a.d != nil && a.d.PCI != "" {
		cure = fmt.Sprintf("npctl nic bind %s --confirm 60s", a.p.name)
	}
	return why, cure
}

// try opens the queues by one backend.
func (a *attempt) try(ctx context.Context, r rung) error {
	if r.kernel && a.d == nil {
		return a.missing
	}
	if r.kernel && !a.d.Up {
		return errors.New(downReason(a.d))
	}
	cfg := a.p.subs[0].planeConfig(a.d)
	cfg.Backend, cfg.ZeroCopy, cfg.Device = r.backend, r.zeroCopy, a.p.subs[0].cfg.Device
	if r.backend == dataplane.BackendDPDK {
		cfg.Exception = a.p.subs[0].cfg.Exception
	}
	if !r.kernel { // the device's own; the plane writes them
		cfg.MAC, cfg.MTU, cfg.Index = nil, a.p.subs[0].cfg.MTU, 0
		if o := a.p.opened; o != nil && o.Backend == r.backend && r.backend == dataplane.BackendTAP {
			cfg.MAC = o.MAC // neighbors know it
		}
	}
	if r.program {
		if err := a.program(); err != nil {
			return err
		}
		cfg.Queues = min(max(cfg.Queues, 1), max(a.d.RXQueues, 1))
		if a.p.subs[0].cfg.Queues == 0 {
			cfg.Queues = max(a.d.RXQueues, 1)
		}
		cfg.Native = a.prog.Mode() == xdp.ModeNative
		if !cfg.Native && a.p.subs[0].cfg.MTU == 0 {
			cfg.MTU = min(cfg.MTU, mtuOneFrame) // generic mode hands over frames of one buffer only
		}
		if r.zeroCopy == dataplane.ZeroCopyMust && !cfg.Native {
			why := a.prog.Fallback()
			if why == nil {
				why = dataplane.CodeUnsupported
			}
			return fmt.Errorf("zero-copy needs the XDP program in native mode: %w", why)
		}
	}
	if r.kernel && !r.program && !a.p.filter.empty() {
		if err := a.program(); err != nil {
			return fmt.Errorf("the filter needs the XDP program: %w", err)
		}
	}
	if !r.kernel && !a.p.filter.empty() {
		return fmt.Errorf("the filter needs an interface of the kernel's: %w", dataplane.CodeUnsupported)
	}
	qs, err := a.m.open(ctx, a.p, cfg)
	if err != nil {
		return err
	}
	a.rung, a.cfg, a.queues = r, cfg, qs
	return nil
}

// program attaches the XDP program, once for all rungs that need it.
func (a *attempt) program() error {
	if !a.loaded {
		a.loaded = true
		a.prog, a.progErr = a.m.sys.Attach(a.p.name, xdp.Options{Mode: a.p.subs[0].cfg.Mode, Frags: a.d.MTU > mtuOneFrame})
	}
	return a.progErr
}

// open opens the queues, again after a detach, waiting out the moment in which
// a queue that was just closed is busy.
func (m *Manager) open(ctx context.Context, p *port, cfg *dataplane.InterfaceConfig) ([]dataplane.Queue, error) {
	end := m.now().Add(rebindTime)
	for pause := 10 * time.Millisecond; ; pause *= 2 {
		var qs []dataplane.Queue
		var err error
		if first := p.subs[0]; first.added {
			qs, err = m.plane.ReattachInterface(ctx, first.id, cfg)
		} else if first.id, qs, err = m.plane.AddInterface(ctx, cfg); err == nil {
			first.added = true
		}
		if !errors.Is(err, dataplane.CodeBusy) || m.now().After(end) || cfg.Backend == dataplane.BackendDPDK {
			return qs, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// final errors end the climb: what somebody else holds must not be taken from below
// him, and mistakes are the same on every rung.
func final(err error, r rung) bool {
	return errors.Is(err, dataplane.CodeInvalid) || errors.Is(err, dataplane.CodeShutdown) || errors.Is(err, context.Canceled) ||
		r.kernel && (errors.Is(err, dataplane.CodeNodev) || errors.Is(err, dataplane.CodeBusy)) // a card that DPDK can't have may be the kernel's
}

const cureCapabilities = "run as root, or setcap cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock+ep npd"

func cureXDP(err error, a *attempt) string {
	switch {
	case errors.Is(err, dataplane.CodePerm):
		return cureCapabilities
	case errors.Is(err, dataplane.CodeBusy):
		return fmt.Sprintf("ip link set dev %s xdp off (or stop the process that uses its queues)", a.p.name)
	case errors.Is(err, dataplane.CodeNomem):
		return "ulimit -l unlimited"
	case a.d == nil || errors.Is(err, dataplane.CodeNodev):
		return "ip link show"
	case !a.d.Up:
		return fmt.Sprintf("ip link set %s up", a.p.name)
	case a.d.Driver == "veth" || a.d.Driver == "tun":
		return "" // no such driver can
	}
	return fmt.Sprintf("ethtool -i %s (a driver with AF_XDP zero-copy is needed)", a.p.name)
}

func curePacket(err error, a *attempt) string {
	switch {
	case errors.Is(err, dataplane.CodePerm):
		return cureCapabilities
	case errors.Is(err, dataplane.CodeBusy):
		return fmt.Sprintf("ip -d link show %s (another process holds it)", a.p.name)
	case a.p.subs[0].cfg.Backend == ladder.TAP:
		return "modprobe tun"
	case a.d != nil && !a.d.Up:
		return fmt.Sprintf("ip link set %s up", a.p.name)
	case a.d == nil || errors.Is(err, dataplane.CodeNodev):
		return "ip link show"
	}
	return ""
}

func cureDPDK(err error, a *attempt) string {
	switch {
	case strings.Contains(err.Error(), "/dev/net/tun"): // the exception path's
		return "modprobe tun"
	case errors.Is(err, dataplane.CodePerm):
		return "run as root"
	case errors.Is(err, dataplane.CodeNomem):
		return "npctl doctor --fix (reserves huge pages)"
	case errors.Is(err, dataplane.CodeBusy) && host.IsPCIAddress(a.p.subs[0].cfg.Device):
		return fmt.Sprintf("npctl nic bind %s --confirm 60s (or stop the process that uses it)", a.p.subs[0].cfg.Device)
	case errors.Is(err, dataplane.CodeBusy):
		return fmt.Sprintf("stop the process that uses %s", a.p.subs[0].cfg.Device)
	case errors.Is(err, dataplane.CodeUnsupported):
		return "apt-get install dpdk-dev, then build npd again"
	case errors.Is(err, dataplane.CodeNodev):
		return "npctl nic list"
	}
	return "npctl doctor"
}

// SetBackend gives a running device another backend, or the same one a new try: the
// queues are closed for a moment, connections stay. On an error the device is on what it
// was on before; if that is refused too, Run tries on.
func (m *Manager) SetBackend(ctx context.Context, name, backend, device string) error {
	wrap := func(err error) error { return fmt.Errorf("set backend of %s to %s: %w", name, backend, err) }
	if !slices.Contains([]string{ladder.Auto, ladder.DPDK, ladder.AFXDP, ladder.AFPacket}, backend) {
		return wrap(fmt.Errorf("%w (expected auto, dpdk, af_xdp or af_packet)", dataplane.CodeInvalid))
	}
	if device != "" && backend != ladder.Auto && backend != ladder.DPDK {
		return wrap(fmt.Errorf("%w (a device is for dpdk)", dataplane.CodeInvalid))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.device(name)
	if err != nil {
		return err
	}
	first := &p.subs[0].cfg
	if first.Backend == ladder.TAP {
		return wrap(fmt.Errorf("%w (a TAP is npd's own device)", dataplane.CodeInvalid))
	}
	was := [2]string{first.Backend, p.given}
	set := func(v [2]string) {
		p.given = v[1]
		for _, s := range p.subs {
			s.cfg.Backend, s.cfg.Device = v[0], v[1]
		}
	}
	again := func() error {
		if p.attached {
			m.detach(ctx, p)
		}
		m.findDevice(p)
		d, missing := m.sys.Inspect(p.name)
		if missing != nil && first.Kernel() {
			return missing
		}
		return m.attach(ctx, p, &d, missing)
	}
	set([2]string{backend, device})
	if err = again(); err != nil {
		set(was)
		if back := again(); back != nil {
			p.reason, p.retry = back.Error(), m.now()
			m.say(p)
			m.Poke()
			err = errors.Join(err, back)
		}
		return wrap(err)
	}
	m.log.Info("backend changed by an operator", "interface", p.name, "requested", backend, "backend", p.rung.name)
	return nil
}

// Actual names the backends in use, of all interfaces or of the one with an address.
func (m *Manager) Actual(of netip.Addr) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, p := range m.ports {
		if !p.attached || of.IsValid() && !p.has(of) || slices.Contains(out, p.rung.name) {
			continue
		}
		out = append(out, p.rung.name)
	}
	if len(out) == 0 {
		return ladder.None
	}
	return strings.Join(out, ", ")
}

func (p *port) has(a netip.Addr) bool {
	for _, s := range p.subs {
		if slices.Contains(s.learned, a) || slices.ContainsFunc(s.cfg.Addresses, func(o netip.Prefix) bool { return o.Addr() == a }) {
			return true
		}
	}
	return false
}
