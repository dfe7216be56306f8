package ports

import (
	"context"
	"net/netip"
	"slices"

	"github.com/np-appliance/np/dataplane"
)

// claim is what was last said of an address that others claim.
type claim struct {
	state     dataplane.AddressState
	conflicts uint32
}

// AddressesChanged makes Run look at the plane's addresses; for reports of the
// data plane. It does not block.
func (m *Manager) AddressesChanged() {
	m.addrs.Store(true)
	m.Poke()
}

// lookAtAddresses says once what changed: duplicates are an operator's work,
// and so are hosts that claim our addresses.
func (m *Manager) lookAtAddresses(ctx context.Context) {
	list, err := m.plane.Addresses(ctx)
	if err != nil {
		m.log.Debug("addresses not listed", "err", err)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	names := map[dataplane.InterfaceID]string{}
	for _, p := range m.ports {
		for _, s := range p.subs {
			if s.added {
				names[s.id] = s.cfg.Label()
				m.steerLearned(p, s, list)
			}
		}
	}
	for i := range list {
		m.sayAddress(&list[i], names[list[i].Interface])
	}
}

// steerLearned makes frames to the addresses that the stack made itself come to
// it: its link-local one and those from routers' prefixes, tentative ones too,
// whose rivals it must hear. m.mu is held.
func (m *Manager) steerLearned(p *port, s *sub, list []dataplane.Address) {
	var now []netip.Addr
	for i := range list {
		a := &list[i]
		if a.Interface == s.id && a.Origin != dataplane.AddressConfigured && a.State != dataplane.AddressDuplicate {
			now = append(now, a.Prefix.Addr())
		}
	}
	if slices.Equal(now, s.learned) {
		return
	}
	s.learned = now
	m.steerAgain(p) // no program: attach will
}

// sayAddress logs an address whose state or conflicts changed. m.mu is held.
func (m *Manager) sayAddress(a *dataplane.Address, name string) {
	key := claimKey(a.Prefix.Addr(), name)
	was, now := m.claims[key], claim{a.State, a.Conflicts}
	if was == now {
		return
	}
	m.claims[key] = now
	switch {
	case a.State == dataplane.AddressDuplicate:
		m.log.Error("address is in use by another host, not used", "interface", name, "address", a.Prefix, "mac", a.Rival.String(),
			"cure", "give one of the two another address, then set the link down and up or reload without and with the address")
	case a.Conflicts > was.conflicts && was.conflicts == 0:
		m.log.Warn("another host claims an address of ours", "interface", name, "address", a.Prefix, "mac", a.Rival.String())
	case a.State == dataplane.AddressPreferred && was.state != dataplane.AddressPreferred:
		m.log.Info("address is unique, in use", "interface", name, "address", a.Prefix)
	}
}

// claimKey tells link-local addresses of several interfaces apart: VLANs of one
// MAC have the same.
func claimKey(a netip.Addr, name string) netip.Addr {
	if a.IsLinkLocalUnicast() && a.Is6() {
		return a.WithZone(name)
	}
	return a
}

// forget drops what was said of an address that goes. m.mu is held.
func (m *Manager) forget(a netip.Addr, name string) { delete(m.claims, claimKey(a, name)) }
