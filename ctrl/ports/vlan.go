package ports

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
)

// sub is one interface on a device: the untagged one or a VLAN's.
type sub struct {
	cfg     Interface
	id      dataplane.InterfaceID
	added   bool         // the plane knows it
	learned []netip.Addr // addresses the stack made itself, steered to it
}

// Label is the interface's name as the kernel would have it: np0, or np0.100
// for a VLAN.
func (i *Interface) Label() string {
	if i.VLAN == 0 {
		return i.Name
	}
	return i.Name + "." + strconv.Itoa(int(i.VLAN))
}

// planeConfig is what the plane is told of the interface; d is the kernel's, or nil.
// Queues 0 leaves their number to the backend.
func (s *sub) planeConfig(d *xdp.Interface) *dataplane.InterfaceConfig {
	cfg := &dataplane.InterfaceConfig{Name: s.cfg.Name, MTU: s.cfg.MTU, VLAN: s.cfg.VLAN, Queues: s.cfg.Queues, Addresses: s.cfg.Addresses,
		DADTransmits: s.cfg.DADTransmits, ACD: s.cfg.ACD, AcceptRA: s.cfg.AcceptRA, Opaque: true, MLD: true, Announces: announces}
	if d != nil {
		cfg.Index, cfg.MAC, cfg.MTU = d.Index, d.MAC, MTU(&s.cfg, d)
	}
	return cfg
}

// shared is what the plane is told of an interface that shares the queues which were
// opened with first.
func (s *sub) shared(first *dataplane.InterfaceConfig) *dataplane.InterfaceConfig {
	cfg := s.planeConfig(nil)
	cfg.Index, cfg.MAC, cfg.MTU, cfg.Queues, cfg.Native = first.Index, first.MAC, first.MTU, first.Queues, first.Native
	cfg.Backend, cfg.ZeroCopy, cfg.Device = first.Backend, first.ZeroCopy, first.Device
	return cfg
}

// steers says that the device's program gives the appliance its frames; otherwise it is
// a filter, if there is one.
func (p *port) steers() bool { return p.prog != nil && p.rung.program }

// agrees says whether an interface can share the device's program and queues.
func (p *port) agrees(cfg *Interface) error {
	first := &p.subs[0].cfg
	if cfg.MTU != first.MTU || cfg.Queues != first.Queues || cfg.ZeroCopy != first.ZeroCopy || cfg.Mode != first.Mode ||
		cfg.Backend != first.Backend || cfg.Device != p.given || cfg.Exception != first.Exception {
		return fmt.Errorf("interface %s: %w (MTU, queues, zero-copy, XDP mode, backend or device differ from %s's)", cfg.Label(), dataplane.CodeInvalid, first.Label())
	}
	if len(cfg.Filter.Entries) > 0 || cfg.Filter.Limits != (xdp.Limits{}) || cfg.Filter.All || !cfg.KernelPorts.Empty() {
		return fmt.Errorf("interface %s: %w (the filter is the device's: %s has it)", cfg.Label(), dataplane.CodeInvalid, first.Label())
	}
	for _, s := range p.subs {
		if s.cfg.VLAN == cfg.VLAN {
			return fmt.Errorf("interface %s: %w", cfg.Label(), dataplane.CodeExists)
		}
	}
	return nil
}

// join gives a device that is there a further interface. m.mu is held.
func (m *Manager) join(ctx context.Context, p *port, s *sub) error {
	if err := p.agrees(&s.cfg); err != nil {
		return err
	}
	if p.attached {
		if err := m.addSub(ctx, s, s.shared(p.opened)); err != nil {
			return err
		}
		if p.prog != nil {
			if err := p.prog.SetAddresses(append(p.addresses(), s.addresses()...)); err != nil {
				return err
			}
		}
		m.AddressesChanged()
	}
	s.cfg.Device = p.subs[0].cfg.Device // found, perhaps
	p.subs = append(p.subs, s)
	m.shareAgain(p)
	return m.addRoutes(ctx)
}

// addSub tells the plane of an interface that shares another one's queues.
func (m *Manager) addSub(ctx context.Context, s *sub, cfg *dataplane.InterfaceConfig) error {
	if s.added {
		return nil // the first one's return brought it back
	}
	id, _, err := m.plane.AddInterface(ctx, cfg)
	if err != nil {
		return fmt.Errorf("interface %s: %w", s.cfg.Label(), err)
	}
	s.id, s.added = id, true
	return nil
}

func (s *sub) addresses() []xdp.Address {
	out := make([]xdp.Address, 0, len(s.cfg.Addresses)+len(s.learned))
	for _, a := range s.cfg.Addresses {
		out = append(out, xdp.Address{Addr: a.Addr(), VLAN: s.cfg.VLAN})
	}
	for _, a := range s.learned {
		out = append(out, xdp.Address{Addr: a, VLAN: s.cfg.VLAN})
	}
	return out
}

// addresses are what the device's program steers.
func (p *port) addresses() []xdp.Address {
	var out []xdp.Address
	for _, s := range p.subs {
		out = append(out, s.addresses()...)
	}
	return out
}

func (p *port) vlans() []uint16 {
	var out []uint16
	for _, s := range p.subs {
		if s.cfg.VLAN != 0 {
			out = append(out, s.cfg.VLAN)
		}
	}
	return out
}

func (m *Manager) port(device string) *port {
	for _, p := range m.ports {
		if p.name == device {
			return p
		}
	}
	return nil
}

// find finds an interface by its label. m.mu is held.
func (m *Manager) find(label string) (*port, *sub) {
	for _, p := range m.ports {
		for _, s := range p.subs {
			if s.cfg.Label() == label {
				return p, s
			}
		}
	}
	return nil, nil
}

// AddAddress gives an interface, named by its label, another address, now. On
// an error nothing has changed: what the plane took is taken back.
func (m *Manager) AddAddress(ctx context.Context, name string, a netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, s := m.find(name)
	if s == nil {
		return fmt.Errorf("interface %s: %w", name, dataplane.CodeNotfound)
	}
	if s.added {
		if err := m.plane.AddAddress(ctx, s.id, a); err != nil {
			return fmt.Errorf("address %s on %s: %w", a, name, err)
		}
	}
	if p.prog != nil {
		if err := p.prog.AddAddress(xdp.Address{Addr: a.Addr(), VLAN: s.cfg.VLAN}); err != nil {
			if s.added {
				err = errors.Join(err, m.plane.DelAddress(ctx, s.id, a))
			}
			m.steerAgain(p)
			return err
		}
	}
	s.cfg.Addresses = append(slices.Clone(s.cfg.Addresses), a)
	m.shareAgain(p)
	return nil
}

// DelAddress takes an address from an interface, now. On an error nothing has
// changed; the program comes first, because steering again costs nothing where
// an address given back to the stack would be probed anew.
func (m *Manager) DelAddress(ctx context.Context, name string, a netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, s := m.find(name)
	if s == nil {
		return fmt.Errorf("interface %s: %w", name, dataplane.CodeNotfound)
	}
	if p.prog != nil {
		if err := p.prog.DelAddress(xdp.Address{Addr: a.Addr(), VLAN: s.cfg.VLAN}); err != nil {
			m.steerAgain(p)
			return err
		}
	}
	if s.added {
		if err := m.plane.DelAddress(ctx, s.id, a); err != nil {
			m.steerAgain(p)
			return fmt.Errorf("address %s on %s: %w", a, name, err)
		}
	}
	m.forget(a.Addr(), name)
	s.cfg.Addresses = slices.DeleteFunc(slices.Clone(s.cfg.Addresses), func(o netip.Prefix) bool { return o == a })
	m.shareAgain(p)
	return nil
}

// steerAgain makes the program steer what is in force, after a change that
// stopped halfway. m.mu is held.
func (m *Manager) steerAgain(p *port) {
	m.shareAgain(p)
	if p.prog == nil {
		return
	}
	if err := p.prog.SetAddresses(p.addresses()); err != nil {
		m.log.Error("addresses not steered to the appliance", "interface", p.name, "err", err)
	}
}
