//go:build e2e

package e2e

import (
	"net/netip"
	"testing"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/nettransport"
	"github.com/np-appliance/np/dataplane/xdp"
)

// Ends of the conformance table for AF_PACKET and TAP.

// rawEnd is our stack on a device of the appliance's namespace.
func rawEnd(t *testing.T, w *world, cores int, make func() (*dataplane.InterfaceConfig, error)) *planeEnd {
	t.Helper()
	p := startPlane(t, cores, func(p dataplane.Plane) error {
		return w.inSide("s", func() error {
			cfg, err := make()
			if err != nil {
				return err
			}
			cfg.Addresses = []netip.Prefix{netip.MustParsePrefix(server4 + "/24"), netip.MustParsePrefix(server6 + "/64")}
			_, _, err = p.AddInterface(t.Context(), cfg)
			return err
		})
	})
	p.addr = server4
	return p
}

func packetEnd(t *testing.T, w *world, cores int) *planeEnd {
	t.Helper()
	return rawEnd(t, w, cores, func() (*dataplane.InterfaceConfig, error) {
		i, err := xdp.Inspect("np0")
		return &dataplane.InterfaceConfig{Name: i.Name, Index: i.Index, MAC: i.MAC, MTU: i.MTU, Backend: dataplane.BackendAFPacket}, err
	})
}

// tapEnd has the kernel of its own namespace at the TAP's other end: tapKernel.
func tapEnd(t *testing.T, w *world, cores int) *planeEnd {
	t.Helper()
	p := rawEnd(t, w, cores, func() (*dataplane.InterfaceConfig, error) {
		return &dataplane.InterfaceConfig{Name: "nptap", Backend: dataplane.BackendTAP}, nil
	})
	w.must(w.in("s", "ip", "addr", "add", "198.18.0.9/24", "dev", "nptap"))
	return p
}

func tapKernel(w *world) end {
	return end{Transport: &inThere{nettransport.New(nettransport.Options{}), w, "s"}, addr: "198.18.0.9"}
}
