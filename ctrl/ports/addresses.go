package ports

import (
	"context"
	"net/netip"

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
		if p.added {
			names[p.id] = p.cfg.Name
		}
	}
	for i := range list {
		m.sayAddress(&list[i], names[list[i].Interface])
	}
}

// sayAddress logs an address whose state or conflicts changed. m.mu is held.
func (m *Manager) sayAddress(a *dataplane.Address, name string) {
	key := a.Prefix.Addr()
	if key.IsLinkLocalUnicast() {
		key = key.WithZone(name) // VLANs of one MAC have the same
	}
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

// forget drops what was said of an address that goes. m.mu is held.
func (m *Manager) forget(a netip.Addr) { delete(m.claims, a) }
