//go:build vm && cgo

package rdma

import (
	"bytes"
	"context"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	ctrl "github.com/np-appliance/np/ctrl/rdma"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/events"
	"github.com/np-appliance/np/dataplane/netconn"
	"github.com/np-appliance/np/dataplane/npc"
	"github.com/np-appliance/np/dataplane/transporttest"
)

var (
	clientAddr = netip.MustParseAddr("198.18.0.1")
	serverAddr = netip.MustParseAddr("198.18.1.1")
)

// end is a plane with RDMA, and a transport over it where with asks for one.
type end struct {
	plane dataplane.Plane
	rdma  dataplane.RDMA
	m     *ctrl.Manager
	tr    *netconn.Transport
}

type with struct {
	conns     int
	manager   ctrl.Config
	source    netip.Addr
	transport bool
}

func newEnd(t *testing.T, w with) *end {
	t.Helper()
	p, err := npc.New(&dataplane.Config{CPUs: []int{-1}, RDMAConns: w.conns, IdleSpin: 20 * time.Microsecond, BuffersPerCore: 32768, MaxConns: 64, MaxStreams: 64})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	r, err := p.(dataplane.RDMAOpener).OpenRDMA(&dataplane.RDMAConfig{MaxConns: w.conns, RingBytes: ringBytes, Keepalive: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	e := &end{plane: p, rdma: r, m: ctrl.New(p, r, w.manager)}
	t.Cleanup(e.m.Stop)
	if !w.transport {
		return e
	}
	read := events.New(p)
	if e.tr, err = netconn.New(e.m.Plane(), read, netconn.Options{Carrier: dataplane.CarrierRDMA, Source: w.source, ReadBuffer: ringBytes}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- read.Run(ctx) }()
	t.Cleanup(func() {
		_ = e.tr.Close()
		cancel()
		<-done
	})
	return e
}

const ringBytes = 64 << 10

// held counts buffers that are out, and connections that are not ended yet.
func (e *end) held() int {
	c := e.plane.Counters(0)
	return int(c.Counter[dataplane.CounterBufTotal]) - int(c.Counter[dataplane.CounterBufFree]) + int(c.Counter[dataplane.CounterRDMAConns])
}

func (e *end) listen(t *testing.T, kind dataplane.SessionKind) netip.AddrPort {
	t.Helper()
	_, at, err := e.m.Listen(context.Background(), &dataplane.ListenConfig{Address: netip.AddrPortFrom(serverAddr, 0), Kind: kind, MaxConns: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// netem puts an impairment on both ends of the wire; none takes it away.
func netem(t *testing.T, args ...string) {
	t.Helper()
	for _, dev := range []string{"v0", "v1"} {
		_ = exec.Command("tc", "qdisc", "del", "dev", dev, "root").Run()
		if len(args) == 0 {
			continue
		}
		if out, err := exec.Command("tc", append([]string{"qdisc", "add", "dev", dev, "root", "netem"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("tc: %v: %s", err, out)
		}
	}
}

func TestConformance(t *testing.T) {
	client, server := newEnd(t, with{conns: 1100, source: clientAddr, transport: true}), newEnd(t, with{conns: 1100, transport: true})
	transporttest.Run(t, transporttest.Backend{
		Name: "rdma", Client: client.tr, Server: server.tr, Network: "tcp", Listen: serverAddr.String() + ":0",
		Refused: serverAddr.String() + ":1", BufferMax: 4 << 20,
		Vanish: func(t *testing.T) func() {
			netem(t, "loss", "100%")
			return func() { netem(t) }
		},
		Held: func() int { return client.held() + server.held() },
	}, transporttest.Options{Settle: 60 * time.Second})
}

func TestSmoke(t *testing.T) {
	server, client := newEnd(t, with{conns: 16}), newEnd(t, with{conns: 16})
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
	t.Logf("messages %d sent %d received, %d inline, %d credits, %d stalls", c.Counter[dataplane.CounterRDMAMsgsTX], c.Counter[dataplane.CounterRDMAMsgsRX], c.Counter[dataplane.CounterRDMAInline],
		c.Counter[dataplane.CounterRDMACreditsTX], c.Counter[dataplane.CounterRDMAStalls])
}
