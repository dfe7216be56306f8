package ports

import (
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
)

// Sharer divides a device's frames between the kernel and packet sockets, as xdp.Share.
type Sharer interface {
	SetSocket(fd int) error
	SetAddresses([]xdp.Address) error
	Counters() (xdp.Counters, error)
	Close() error
}

// share gives packet sockets only the appliance's frames, and the kernel the others. A
// machine that can't loses no packet by it: both get all, so the kernel must not forward.
// m.mu is held.
func (m *Manager) share(p *port, queues []dataplane.Queue) {
	if p.rung.backend != dataplane.BackendAFPacket {
		return
	}
	s, err := m.sys.Share(p.name)
	if err == nil {
		if err = s.SetAddresses(p.addresses()); err == nil {
			for _, q := range queues {
				if err = s.SetSocket(q.FD); err != nil {
					break
				}
			}
		}
		if err != nil {
			_ = s.Close() // the first error counts
		}
	}
	if err != nil {
		m.log.Warn("the kernel and the appliance get each other's frames", "interface", p.name, "err", err,
			"cure", "sysctl -w net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 (Linux 6.6 needs no cure)")
		return
	}
	p.shared = s
}

// shareAgain makes the division that of the addresses in force. m.mu is held.
func (m *Manager) shareAgain(p *port) {
	if p.shared == nil {
		return
	}
	if err := p.shared.SetAddresses(p.addresses()); err != nil {
		m.log.Error("addresses not steered to the appliance", "interface", p.name, "err", err)
	}
}

// unshare ends the division and keeps its counters. m.mu is held.
func (m *Manager) unshare(p *port) {
	if p.shared == nil {
		return
	}
	if c, err := p.shared.Counters(); err == nil && p.prog == nil { // else the XDP program counted them
		p.counters.Add(&c)
	}
	if err := p.shared.Close(); err != nil {
		m.log.Debug("programs not detached", "interface", p.name, "err", err)
	}
	p.shared = nil
}
