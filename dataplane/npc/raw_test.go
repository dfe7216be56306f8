//go:build cgo

package npc

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
)

// addPacket puts the appliance on npn0 by AF_PACKET.
func (r *rig) addPacket(mtu int) {
	r.t.Helper()
	i, err := xdp.Inspect("npn0")
	r.must(err)
	cfg := &dataplane.InterfaceConfig{Name: i.Name, Index: i.Index, MAC: i.MAC, MTU: mtu, Backend: dataplane.BackendAFPacket, MLD: true,
		Addresses: []netip.Prefix{ours4, ours6}}
	id, qs, err := r.p.AddInterface(r.t.Context(), cfg)
	r.must(err)
	if len(qs) != len(r.p.cores) {
		r.t.Errorf("queues %+v with %d cores", qs, len(r.p.cores))
	}
	r.id = id
}

// exercise is what every port has to carry.
func (r *rig) exercise(size int) {
	r.t.Helper()
	r.sh("ping -c 2 -i 0.2 -W 10 198.18.0.1")
	r.sh("ping -6 -c 2 -i 0.2 -W 10 2001:db8::1")
	r.sh("ping -c 1 -W 10 -s 1472 198.18.0.1")
	r.listen("0.0.0.0:7", dataplane.SessionEcho)
	r.listen("[2001:db8::1]:7", dataplane.SessionEcho)
	r.echo("198.18.0.1:7", size)
	r.echo("[2001:db8::1]:7", size)
}

// ledger is what a core received and what became of it.
func (r *rig) ledger(core int) (received, accounted uint64) {
	c := r.p.Counters(core)
	accounted = c.Counter[dataplane.CounterDeliveredPkts] + c.Counter[dataplane.CounterPassedPkts] + c.Counter[dataplane.CounterIPFragsHeld]
	for d, n := range c.Drop {
		if l := dataplane.Drop(d).Meta().Layer; l != "tx" && l != "npro" {
			accounted += n
		}
	}
	return c.Counter[dataplane.CounterRXPkts], accounted
}

// balanced checks that nothing was lost on the way but by name, and that all sums. A core in
// the middle of a turn has counted some of a packet: it is given time to come to rest.
func (r *rig) balanced() {
	r.t.Helper()
	for i := range r.p.cores {
		received, accounted := r.ledger(i)
		for end := time.Now().Add(time.Minute); received != accounted && time.Now().Before(end); received, accounted = r.ledger(i) {
			time.Sleep(time.Millisecond)
		}
		if received != accounted {
			r.t.Errorf("core %d: received %d, accounted for %d", i, received, accounted)
		}
	}
	for _, q := range r.p.QueueStats(r.id) {
		if q.RxDropped != 0 || q.RxRingFull != 0 || q.TxInvalid != 0 || q.Down {
			r.t.Errorf("%+v", q)
		}
	}
}

// TestPacketVeth runs the stack over AF_PACKET, against a kernel that leaves
// checksums and segments to the device (frames up to 64 KiB with unfinished sums)
// and against one that does not.
func TestPacketVeth(t *testing.T) {
	for _, cores := range []int{1, 2} {
		for _, offload := range []string{"on", "off"} {
			t.Run(fmt.Sprintf("cores %d offload %s", cores, offload), func(t *testing.T) {
				inNamespace(t, cores, func(r *rig) {
					r.sh("ethtool -K npn1 tx " + offload + " tso " + offload + " gso " + offload)
					r.addPacket(1500)
					r.exercise(3_000_000)
					r.sh("ping -c 1 -W 10 -s 20000 198.18.0.1")
					r.balanced()
					var packets, bytes uint64
					for _, q := range r.p.QueueStats(r.id) {
						packets, bytes = packets+q.RxPackets, bytes+q.RxBytes
					}
					if long := bytes/packets > 1514; long != (offload == "on") {
						t.Errorf("%d bytes in %d packets", bytes, packets)
					}
				})
			})
		}
	}
}

// TestPacketJumbo has frames of several buffers in the ring itself.
func TestPacketJumbo(t *testing.T) {
	inNamespace(t, 1, func(r *rig) {
		r.sh("ip link set npn0 mtu 9000")
		r.sh("ip link set npn1 mtu 9000")
		r.addPacket(9000)
		r.exercise(1_000_000)
		r.sh("ping -c 1 -W 10 -M do -s 8972 198.18.0.1")
		r.balanced()
	})
}

// TestPacketReturns takes the device down and up, and away, under the running
// appliance.
func TestPacketReturns(t *testing.T) {
	inNamespace(t, 1, func(r *rig) {
		r.addPacket(1500)
		r.listen("0.0.0.0:7", dataplane.SessionEcho)
		r.echo("198.18.0.1:7", 1000)
		r.sh("ip link set npn0 down")
		if ev := r.event(dataplane.EventPort); ev.Interface != r.id || ev.Err != dataplane.CodePortdown {
			t.Errorf("%+v", ev)
		}
		r.sh("ip link set npn0 up")
		if ev := r.event(dataplane.EventPort); ev.Interface != r.id || ev.Err != dataplane.CodeOK {
			t.Errorf("%+v", ev)
		}
		r.echo("198.18.0.1:7", 1000)
		r.sh("ip link del npn0")
		ev := r.event(dataplane.EventPort)
		if ev.Err == dataplane.CodePortdown { // it is down a moment before it is gone
			ev = r.event(dataplane.EventPort)
		}
		if ev.Interface != r.id || ev.Err != dataplane.CodeNodev {
			t.Errorf("%+v", ev)
		}
		r.must(r.p.DetachInterface(t.Context(), r.id))
		r.pair()
		i, err := xdp.Inspect("npn0")
		r.must(err)
		_, err = r.p.ReattachInterface(t.Context(), r.id, &dataplane.InterfaceConfig{Name: i.Name, Index: i.Index, MAC: i.MAC, MTU: 1500,
			Backend: dataplane.BackendAFPacket})
		r.must(err)
		r.echo("198.18.0.1:7", 1000)
	})
}

// TestPacketRefused names what is wrong.
func TestPacketRefused(t *testing.T) {
	inNamespace(t, 1, func(r *rig) {
		fds := descriptors(t)
		for _, c := range []struct {
			cfg  dataplane.InterfaceConfig
			code dataplane.Code
		}{
			{dataplane.InterfaceConfig{Name: "nobody", MTU: 1500, MAC: make([]byte, 6), Backend: dataplane.BackendAFPacket}, dataplane.CodeNodev},
			{dataplane.InterfaceConfig{Name: "npn0", MTU: 1500, Backend: dataplane.BackendAFPacket}, dataplane.CodeInvalid},
			{dataplane.InterfaceConfig{Name: "npn0", MTU: 9001, MAC: make([]byte, 6), Backend: dataplane.BackendAFPacket}, dataplane.CodeInvalid},
			{dataplane.InterfaceConfig{Name: "npn0", Backend: dataplane.BackendTAP}, dataplane.CodeExists},
			{dataplane.InterfaceConfig{Name: "", Backend: dataplane.BackendTAP}, dataplane.CodeInvalid},
		} {
			if _, _, err := r.p.AddInterface(t.Context(), &c.cfg); !errors.Is(err, c.code) || !strings.Contains(err.Error(), c.cfg.Name) {
				t.Errorf("%+v: %v", c.cfg, err)
			}
		}
		if n := descriptors(t); n != fds {
			t.Errorf("%d descriptors before, %d after", fds, n)
		}
	})
}

// TestTAP runs the stack over a TAP device of its own, with the kernel at the
// other end, which segments and sums nothing.
func TestTAP(t *testing.T) {
	for _, cores := range []int{1, 2} {
		t.Run(fmt.Sprintf("cores %d", cores), func(t *testing.T) {
			inNamespace(t, cores, func(r *rig) {
				r.sh("ip link del npn0")
				cfg := &dataplane.InterfaceConfig{Name: "nptap0", Backend: dataplane.BackendTAP, Addresses: []netip.Prefix{ours4, ours6}}
				id, _, err := r.p.AddInterface(t.Context(), cfg)
				r.must(err)
				r.id = id
				if len(cfg.MAC) != 6 || cfg.MTU != 1500 || cfg.Index == 0 {
					t.Errorf("%+v", cfg)
				}
				r.sh("ip addr add 198.18.0.2/24 dev nptap0")
				r.sh("ip addr add 2001:db8::2/64 dev nptap0 nodad")
				r.exercise(3_000_000)
				r.balanced()
				if cores > 1 {
					return // each core reports for itself
				}
				r.sh("ip link set nptap0 down")
				if ev := r.event(dataplane.EventPort); ev.Interface != id || ev.Err != dataplane.CodePortdown {
					t.Errorf("%+v", ev)
				}
				r.sh("ip link set nptap0 up")
				if ev := r.event(dataplane.EventPort); ev.Err != dataplane.CodeOK {
					t.Errorf("%+v", ev)
				}
				r.sh("ip addr replace 2001:db8::2/64 dev nptap0 nodad")
				r.echo("198.18.0.1:7", 1000)
				r.sh("ip link del nptap0")
				if ev := r.event(dataplane.EventPort); ev.Err != dataplane.CodeNodev {
					t.Errorf("%+v", ev)
				}
				r.must(r.p.DetachInterface(t.Context(), id))
				_, err = r.p.ReattachInterface(t.Context(), id, &dataplane.InterfaceConfig{Name: "nptap0", Backend: dataplane.BackendTAP})
				r.must(err)
				r.sh("ip addr add 198.18.0.2/24 dev nptap0")
				r.echo("198.18.0.1:7", 1000)
			})
		})
	}
}
