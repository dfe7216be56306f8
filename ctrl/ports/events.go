package ports

import (
	"context"
	"time"

	"github.com/np-appliance/np/dataplane"
)

// Devices that the kernel knows nothing of (DPDK's, and a TAP that the plane
// made) are followed by what the plane's ports report: link down, link up, gone.

// PortChanged is for the plane's reports of its ports. It does not block.
func (m *Manager) PortChanged(id dataplane.InterfaceID, code dataplane.Code) {
	m.emu.Lock()
	m.events[id] = code
	m.emu.Unlock()
	m.Poke()
}

func (m *Manager) event(id dataplane.InterfaceID) dataplane.Code {
	m.emu.Lock()
	defer m.emu.Unlock()
	return m.events[id]
}

// forgetEvent drops the last word on a port that was opened anew.
func (m *Manager) forgetEvent(id dataplane.InterfaceID) {
	m.emu.Lock()
	defer m.emu.Unlock()
	delete(m.events, id)
}

// followDevice does what the plane's last word on a device asks for. One that is
// gone is closed, and tried again until it is back; one whose link is down
// stays as it is. m.mu is held.
func (m *Manager) followDevice(ctx context.Context, p *port) time.Duration {
	switch m.event(p.subs[0].id) {
	case dataplane.CodePortdown:
		p.reason = "the device's link is down"
	case dataplane.CodeNodev:
		m.detach(ctx, p)
		p.reason = "the device is gone"
		p.pause, p.retry = retryFirst, m.now().Add(retryFirst)
		return retryFirst
	default:
		p.reason = ""
	}
	return 0
}
