//go:build vm

package dpdk

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/events"
	"github.com/np-appliance/np/dataplane/netconn"
	"github.com/np-appliance/np/dataplane/nettransport"
	"github.com/np-appliance/np/dataplane/npc"
	"github.com/np-appliance/np/dataplane/transporttest"
)

// rig is our stack on a NIC by DPDK, and the kernel on the other end of its wire.
type rig struct {
	plane        dataplane.Plane
	transport    *netconn.Transport
	ours, theirs string
	id           dataplane.InterfaceID
	cfg          *dataplane.InterfaceConfig
}

func newRig(t *testing.T, pair int, pci string, chunk int) *rig {
	t.Helper()
	p, err := npc.New(&dataplane.Config{CPUs: []int{-1}, BuffersPerCore: 8192, LoansPerCore: 1024, MaxConns: 1024, MaxStreams: 1, ChunkBytes: chunk})
	if err != nil {
		t.Fatal(err)
	}
	r := events.New(p)
	tr, err := netconn.New(p, r, netconn.Options{MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	g := &rig{plane: p, transport: tr, ours: fmt.Sprintf("198.18.%d.1", pair), theirs: fmt.Sprintf("198.18.%d.2", pair)}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		<-done
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	g.cfg = &dataplane.InterfaceConfig{Name: "nic", Backend: dataplane.BackendDPDK, Device: pci, Addresses: []netip.Prefix{netip.MustParsePrefix(g.ours + "/24")}}
	if g.id, _, err = p.AddInterface(t.Context(), g.cfg); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: MAC %s, MTU %d, %d queues", pci, g.cfg.MAC, g.cfg.MTU, g.cfg.Queues)
	g.linked(t)
	return g
}

func (g *rig) linked(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if q := g.plane.QueueStats(g.id); len(q) > 0 && !q[0].Down {
			return
		}
	}
	t.Fatal("the link does not come up")
}

func (g *rig) ping(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("ping", "-c", "3", "-i", "0.2", "-W", "3", g.ours).CombinedOutput(); err != nil {
		t.Fatalf("ping %s: %v\n%s\n%+v", g.ours, err, out, g.plane.QueueStats(g.id))
	}
}

func (g *rig) held() int {
	c := g.plane.Counters(0)
	return int(c.Counter[dataplane.CounterBufTotal]) - int(c.Counter[dataplane.CounterBufFree])
}

// TestNICs runs the conformance suite over each NIC, in both directions, with
// the kernel's stack at the other end; then the NIC is closed, and opened again.
func TestNICs(t *testing.T) {
	for pair, pci := range strings.Fields(os.Getenv("NP_NICS")) {
		t.Run(os.Getenv(fmt.Sprintf("NP_VM_NIC%d", pair)), func(t *testing.T) {
			g := newRig(t, pair, pci, 2048)
			g.ping(t)
			kernel := nettransport.New(nettransport.Options{})
			o := transporttest.Options{Conns: 50}
			if os.Getenv("NP_TRANSPORT_BYTES") == "" {
				o.Bytes = 1 << 20 // its time, in emulation
			}
			for _, b := range []transporttest.Backend{
				{Name: "client", Client: g.transport, Server: kernel, Listen: g.theirs + ":0", PacketListen: g.theirs + ":0", PacketClient: g.ours + ":0", Refused: g.theirs + ":1"},
				{Name: "server", Client: kernel, Server: g.transport, Listen: g.ours + ":0", PacketListen: g.ours + ":0", PacketClient: g.theirs + ":0", Refused: g.ours + ":1"},
			} {
				b.Network, b.Packet, b.BufferMax, b.Held = "tcp", "udp", 32<<20, g.held
				o.NoTLS = b.Name == "server" // likewise
				transporttest.Run(t, b, o)
			}
			t.Logf("%+v", g.plane.QueueStats(g.id))
			for range 2 {
				if err := g.plane.DetachInterface(t.Context(), g.id); err != nil {
					t.Fatal(err)
				}
				for i := 0; g.held() != 0; i++ {
					if i == 100 {
						t.Fatalf("%d buffers are not back", g.held())
					}
					time.Sleep(20 * time.Millisecond)
				}
				if _, err := g.plane.ReattachInterface(t.Context(), g.id, g.cfg); err != nil {
					t.Fatal(err)
				}
				g.linked(t)
				g.ping(t)
			}
		})
	}
}
