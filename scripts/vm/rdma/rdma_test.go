//go:build vm && cgo

package rdma

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"time"

	ctrl "github.com/np-appliance/np/ctrl/rdma"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/npc"
)

// end is a plane with RDMA.
type end struct {
	plane dataplane.Plane
	rdma  dataplane.RDMA
	m     *ctrl.Manager
}

var (
	clientAddr = netip.MustParseAddr("198.18.0.1")
	serverAddr = netip.MustParseAddr("198.18.1.1")
)

func newEnd(t *testing.T, conns int, mcfg ctrl.Config) *end {
	t.Helper()
	p, err := npc.New(&dataplane.Config{CPUs: []int{-1}, RDMAConns: conns, IdleSpin: 20 * time.Microsecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	r, err := p.(dataplane.RDMAOpener).OpenRDMA(&dataplane.RDMAConfig{MaxConns: conns, RingBytes: 64 << 10, Keepalive: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	m := ctrl.New(p, r, mcfg)
	t.Cleanup(m.Stop)
	return &end{plane: p, rdma: r, m: m}
}

func (e *end) listen(t *testing.T, kind dataplane.SessionKind) netip.AddrPort {
	t.Helper()
	_, at, err := e.m.Listen(context.Background(), &dataplane.ListenConfig{Address: netip.AddrPortFrom(serverAddr, 0), Kind: kind, MaxConns: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestSmoke(t *testing.T) {
	server, client := newEnd(t, 16, ctrl.Config{}), newEnd(t, 16, ctrl.Config{})
	at := server.listen(t, dataplane.SessionEcho)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	start := time.Now()
	h, err := client.m.Dial(ctx, &dataplane.ConnectConfig{Local: netip.AddrPortFrom(clientAddr, 0), Remote: at, Kind: dataplane.SessionPipe, Core: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("connected after %s", time.Since(start))
	core := client.plane.Cores()[0]
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16/16)
	var got []byte
	evs := make([]dataplane.Event, 64)
	wrote, total := 0, 1<<20
	var budget int = 1 << 16
	for len(got) < total {
		for wrote < total && budget >= 4096 {
			if err := core.Write(h, [][]byte{sent[wrote%len(sent) : wrote%len(sent)+4096]}); err != nil {
				break
			}
			wrote += 4096
			budget -= 4096
		}
		core.Flush()
		if err := core.Wait(ctx); err != nil {
			t.Fatalf("%v after %d bytes", err, len(got))
		}
		n := core.Poll(evs)
		for _, ev := range evs[:n] {
			switch ev.Op {
			case dataplane.EventData:
				for _, b := range ev.Body {
					got = append(got, b...)
				}
				if err := core.Credit(h, 0, uint32(ev.Len())); err != nil {
					t.Fatal(err)
				}
			case dataplane.EventSent:
				budget += int(ev.Bytes)
			case dataplane.EventClosed:
				t.Fatalf("closed: %v after %d bytes", ev.Err, len(got))
			}
		}
		core.Release(evs[:n])
	}
	if !bytes.Equal(got, bytes.Repeat(sent, total/len(sent))) {
		t.Fatal("other bytes came back")
	}
	conns, err := client.plane.Connections(ctx)
	t.Logf("%d connections, %v; %+v", len(conns), err, conns)
	c := client.plane.Counters(0)
	t.Logf("messages %d sent %d received, %d inline, %d credits, %d stalls", c.Counter[dataplane.CounterRdmaMsgsTX], c.Counter[dataplane.CounterRdmaMsgsRX], c.Counter[dataplane.CounterRdmaInline],
		c.Counter[dataplane.CounterRdmaCreditsTX], c.Counter[dataplane.CounterRdmaStalls])
}
