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
)

// withDPDK skips where this build has none.
func (r *rig) withDPDK() {
	r.t.Helper()
	for device, want := range map[string]error{"no device": dataplane.CodeInvalid, "ffff:ff:1f.7": dataplane.CodeNodev} {
		_, _, err := r.p.AddInterface(r.t.Context(), &dataplane.InterfaceConfig{Name: "none", Backend: dataplane.BackendDPDK, Device: device})
		if errors.Is(err, dataplane.CodeUnsupported) {
			r.t.Skip(err)
		}
		if !errors.Is(err, want) || !strings.Contains(err.Error(), device) {
			r.t.Errorf("device %q: %v", device, err)
		}
	}
}

// TestDPDKAFPacket runs the stack over DPDK's af_packet driver against the
// kernel's on the other end of a veth pair.
func TestDPDKAFPacket(t *testing.T) {
	for _, cores := range []int{1, 2} {
		inNamespace(t, cores, func(r *rig) {
			r.withDPDK()
			cfg := &dataplane.InterfaceConfig{Name: "dpdk0", Backend: dataplane.BackendDPDK, Device: "net_af_packet0,iface=npn0,qpairs=2",
				Queues: 2, Addresses: []netip.Prefix{ours4, ours6}}
			id, qs, err := r.p.AddInterface(t.Context(), cfg)
			r.must(err)
			if len(qs) != 2 || qs[1].Core != 1%cores {
				t.Errorf("queues %+v", qs)
			}
			again := *cfg
			again.Name = "dpdk1"
			if _, _, err = r.p.AddInterface(t.Context(), &again); !errors.Is(err, dataplane.CodeBusy) {
				t.Error("the same device twice:", err)
			}
			r.listen("0.0.0.0:7", dataplane.SessionEcho)
			r.listen("[2001:db8::1]:7", dataplane.SessionEcho)
			for range 2 { // it goes, and comes again
				r.sh("ping -c 2 -i 0.2 -W 10 198.18.0.1")
				r.sh("ping -6 -c 2 -i 0.2 -W 10 2001:db8::1")
				r.echo("198.18.0.1:7", 3_000_000)
				r.echo("[2001:db8::1]:7", 300_000)
				var rx, tx uint64
				for _, q := range r.p.QueueStats(id) {
					rx, tx = rx+q.RxPackets, tx+q.TxPackets
				}
				if rx < 1000 || tx < 1000 {
					t.Errorf("%+v", r.p.QueueStats(id))
				}
				r.full() // the connections have ended too
				r.must(r.p.DetachInterface(t.Context(), id))
				_, err = r.p.ReattachInterface(t.Context(), id, cfg)
				r.must(err)
			}
			r.must(r.p.DetachInterface(t.Context(), id))
			r.full()
		})
	}
}

// full waits until every buffer is free again.
func (r *rig) full() {
	r.t.Helper()
	var says []string
	for range 100 {
		says = says[:0]
		for i := range r.p.cores {
			c := r.p.Counters(i)
			if free, all := c.Counter[dataplane.CounterBufFree], c.Counter[dataplane.CounterBufTotal]; free != all {
				says = append(says, fmt.Sprintf("core %d: %d of %d buffers are free", i, free, all))
			}
		}
		if len(says) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	r.t.Error(says)
}
