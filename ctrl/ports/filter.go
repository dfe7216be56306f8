package ports

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
)

// filter is what a device's program does by source. It is kept here because
// programs come and go with the device.
type filter struct {
	entries    map[netip.Prefix]listed
	limits     xdp.Limits
	limitsLive bool
	all        bool
	kernel     xdp.Ports
}

type listed struct {
	action xdp.Action
	live   bool
}

// ListEntry is an entry as it is in force. A live one was made by an operator and is
// not in the configuration: it ends with npd.
type ListEntry struct {
	xdp.Entry
	Live bool
	Hits uint64 // packets it decided on, since the program was attached or the entry made
}

// FilterStatus is a device's filter as it is in force.
type FilterStatus struct {
	Device     string
	Entries    []ListEntry // by address, then length
	Limits     xdp.Limits
	LimitsLive bool // set by an operator
	All        bool
	Kernel     xdp.Ports
	Sources    []xdp.LimitedSource // those that lost most to the limits
}

// configured makes a filter of a configuration's.
func configured(f *xdp.Filter, kernel xdp.Ports) filter {
	out := filter{entries: make(map[netip.Prefix]listed, len(f.Entries)), limits: f.Limits, all: f.All, kernel: kernel}
	for _, e := range f.Entries {
		out.entries[e.Prefix] = listed{action: e.Action}
	}
	return out
}

// empty says that no program is needed for it.
func (f *filter) empty() bool {
	return len(f.entries) == 0 && f.limits == (xdp.Limits{})
}

func (f *filter) program() *xdp.Filter {
	out := &xdp.Filter{Limits: f.limits, All: f.all}
	for prefix, e := range f.entries {
		out.Entries = append(out.Entries, xdp.Entry{Prefix: prefix, Action: e.action})
	}
	return out
}

// device finds the port of an interface, named by device or label. m.mu is held.
func (m *Manager) device(name string) (*port, error) {
	if p := m.port(name); p != nil {
		return p, nil
	}
	if p, _ := m.find(name); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("interface %s: %w", name, dataplane.CodeNotfound)
}

// setFilter puts a filter in force, now or when the device comes. m.mu is held.
func (m *Manager) setFilter(p *port, next filter) error {
	f := next.program()
	if err := f.Validate(); err != nil {
		return fmt.Errorf("filter of %s: %w", p.name, err)
	}
	switch {
	case p.prog != nil:
		if err := p.prog.SetFilter(f); err != nil {
			return err
		}
	case p.attached && !p.rung.kernel:
		return fmt.Errorf("filter of %s: %w (on %s no XDP program sees its packets)", p.name, dataplane.CodeUnsupported, p.rung.name)
	case p.attached && !next.empty():
		return m.attachFilter(p, next)
	}
	p.filter = next
	return nil
}

// attachFilter gives a device a program that has been without one, its backend not
// needing any. m.mu is held.
func (m *Manager) attachFilter(p *port, next filter) error {
	prog, err := m.sys.Attach(p.name, xdp.Options{Mode: p.subs[0].cfg.Mode, Frags: p.device.MTU > mtuOneFrame})
	if err != nil {
		return fmt.Errorf("filter of %s: %w", p.name, err)
	}
	was := p.filter
	p.filter = next
	if err := steer(prog, p, nil); err != nil {
		p.filter = was
		return errors.Join(err, prog.Close())
	}
	p.prog, p.watching = prog, func() {}
	m.log.Info("filter attached", "interface", p.name, "xdp_mode", modeText(prog))
	return nil
}

// SetFilter puts a changed configuration in force. What an operator added live
// stays, unless the configuration has the prefix now; limits are the
// configuration's again. undo goes back to what was there before.
func (m *Manager) SetFilter(name string, f *xdp.Filter) (undo func() error, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.device(name)
	if err != nil {
		return nil, err
	}
	was, next := p.filter, configured(f, p.filter.kernel)
	for prefix, e := range was.entries {
		if _, ok := next.entries[prefix]; e.live && !ok {
			next.entries[prefix] = e
		}
	}
	if err := m.setFilter(p, next); err != nil {
		return nil, err
	}
	return func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.setFilter(p, was)
	}, nil
}

// AddListEntry lists a prefix, live. An entry that says the same already is an
// error, one that says the opposite is changed.
func (m *Manager) AddListEntry(name string, e xdp.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.device(name)
	if err != nil {
		return err
	}
	if is, ok := p.filter.entries[e.Prefix]; ok && is.action == e.Action {
		return fmt.Errorf("%s %s on %s: %w", e.Action, e.Prefix, p.name, dataplane.CodeExists)
	}
	next := p.filter
	next.entries = maps.Clone(next.entries)
	next.entries[e.Prefix] = listed{e.Action, true}
	if err := m.setFilter(p, next); err != nil {
		return err
	}
	m.log.Info("list entry added", "interface", p.name, "prefix", e.Prefix, "action", e.Action.String())
	return nil
}

// DelListEntry takes a prefix off the list, live; one of the configuration
// comes back with npd's next start.
func (m *Manager) DelListEntry(name string, prefix netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.device(name)
	if err != nil {
		return err
	}
	if _, ok := p.filter.entries[prefix]; !ok {
		return fmt.Errorf("%s is not listed on %s: %w", prefix, p.name, dataplane.CodeNotfound)
	}
	next := p.filter
	next.entries = maps.Clone(next.entries)
	delete(next.entries, prefix)
	if err := m.setFilter(p, next); err != nil {
		return err
	}
	m.log.Info("list entry deleted", "interface", p.name, "prefix", prefix)
	return nil
}

// ChangeLimits changes the limits of a device, live.
func (m *Manager) ChangeLimits(name string, change func(*xdp.Limits)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.device(name)
	if err != nil {
		return err
	}
	next, l := p.filter, p.filter.limits
	change(&l)
	next.limits, next.limitsLive = l, true
	if err := m.setFilter(p, next); err != nil {
		return err
	}
	m.log.Info("limits changed", "interface", p.name, "packets", l.Packets, "packet_burst", l.PacketBurst, "syns", l.SYNs, "syn_burst", l.SYNBurst)
	return nil
}

// SetKernelPorts changes which ports of a device's own addresses stay with the
// kernel (xdp.Program.SetKernelPorts), now or when the device comes.
func (m *Manager) SetKernelPorts(name string, ports xdp.Ports) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.device(name)
	if err != nil {
		return err
	}
	if p.prog != nil {
		was := p.filter.kernel
		p.filter.kernel = ports
		if err := p.prog.SetKernelPorts(p.kernelPorts()); err != nil {
			p.filter.kernel = was
			return err
		}
	}
	p.filter.kernel = ports
	return nil
}

// kernelPorts are what the device's program is told. Where the backend has copies of
// what the kernel gets, all frames pass, ours too, and a rate would be ours.
func (p *port) kernelPorts() xdp.Ports {
	k := p.filter.kernel
	if !p.rung.program {
		k.Rate = 0
	}
	return k
}

// Filter tells the filter of a device, with at most so many limited sources.
func (m *Manager) Filter(name string, sources int) (FilterStatus, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.device(name)
	if err != nil {
		return FilterStatus{}, err
	}
	f := &p.filter
	out := FilterStatus{Device: p.name, Limits: f.limits, LimitsLive: f.limitsLive, All: f.all, Kernel: f.kernel}
	var hits map[netip.Prefix]uint64
	if p.prog != nil {
		if hits, err = p.prog.Hits(); err != nil {
			return out, err
		}
		if sources > 0 {
			if out.Sources, err = p.prog.LimitedSources(sources); err != nil {
				return out, err
			}
		}
	}
	for prefix, e := range f.entries {
		out.Entries = append(out.Entries, ListEntry{xdp.Entry{Prefix: prefix, Action: e.action}, e.live, hits[prefix]})
	}
	slices.SortFunc(out.Entries, func(a, b ListEntry) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), a.Prefix.Bits()-b.Prefix.Bits())
	})
	return out, nil
}
