//go:build e2e

package e2e

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/events"
	"github.com/np-appliance/np/dataplane/netconn"
	"github.com/np-appliance/np/dataplane/nettransport"
	"github.com/np-appliance/np/dataplane/npc"
	"github.com/np-appliance/np/dataplane/transporttest"
	"github.com/np-appliance/np/dataplane/xdp"
)

// end is a transport in one of a world's namespaces, by its address there.
type end struct {
	dataplane.Transport
	addr string     // as it stands in front of a port
	held func() int // buffers that are out; nil: not known
}

// planeEnd is a plane with a transport, in a namespace; it ends with the test.
type planeEnd struct {
	end
	plane dataplane.Plane
}

// inThere is Go's own net in a namespace: sockets belong to that of the thread that makes them.
type inThere struct {
	*nettransport.Transport
	w    *world
	side string
}

func (n *inThere) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	if e := n.w.inSide(n.side, func() error { c, err = n.Transport.Dial(ctx, network, address); return nil }); e != nil {
		return nil, e
	}
	return c, err
}

func (n *inThere) Listen(ctx context.Context, network, address string) (l net.Listener, err error) {
	if e := n.w.inSide(n.side, func() error { l, err = n.Transport.Listen(ctx, network, address); return nil }); e != nil {
		return nil, e
	}
	return l, err
}

func (n *inThere) ListenPacket(ctx context.Context, network, address string) (c net.PacketConn, err error) {
	if e := n.w.inSide(n.side, func() error { c, err = n.Transport.ListenPacket(ctx, network, address); return nil }); e != nil {
		return nil, e
	}
	return c, err
}

// kernelEnd is Go's net in the client's namespace.
func kernelEnd(w *world) end {
	return end{Transport: &inThere{nettransport.New(nettransport.Options{}), w, "c"}, addr: "198.18.0.2"}
}

// startPlane makes a plane and a transport over it; attach gives it its interface.
func startPlane(t *testing.T, cores int, attach func(dataplane.Plane) error) *planeEnd {
	t.Helper()
	cfg := &dataplane.Config{BuffersPerCore: 32768, LoansPerCore: 2048, MaxConns: 4096, MaxStreams: 1, ChunkBytes: 2048}
	for range cores {
		cfg.CPUs = append(cfg.CPUs, -1)
	}
	p, err := npc.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := events.New(p)
	tr, err := netconn.New(p, r, netconn.Options{MTU: 1500})
	if err != nil {
		p.Close()
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		if t.Failed() {
			logCounts(t, p)
		}
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := attach(p); err != nil {
		t.Fatal(err)
	}
	held := func() int {
		n := 0
		for i := range p.Cores() {
			c := p.Counters(i)
			n += int(c.Counter[dataplane.CounterBufTotal]) - int(c.Counter[dataplane.CounterBufFree])
		}
		return n
	}
	return &planeEnd{end: end{Transport: tr, held: held}, plane: p}
}

// logCounts tells what each core dropped, and what its queues counted.
func logCounts(t *testing.T, p dataplane.Plane) {
	for i := range p.Cores() {
		c := p.Counters(i)
		for d, n := range c.Drop {
			if n > 0 {
				t.Logf("core %d: %d %s", i, n, dataplane.Drop(d).Meta().Reason)
			}
		}
	}
	t.Logf("queues %+v", p.QueueStats(0))
}

// xdpEnd is our stack over AF_XDP on a device of a namespace.
func xdpEnd(t *testing.T, w *world, side, device, addr4, addr6 string, cores int) *planeEnd {
	t.Helper()
	p := startPlane(t, cores, func(p dataplane.Plane) error {
		return w.inSide(side, func() error {
			i, err := xdp.Inspect(device)
			if err != nil {
				return err
			}
			prog, err := xdp.Attach(device, xdp.Options{})
			if err != nil {
				return err
			}
			t.Cleanup(func() { prog.Close() })
			a4, a6 := netip.MustParsePrefix(addr4+"/24"), netip.MustParsePrefix(addr6+"/64")
			if err := prog.SetAddresses([]xdp.Address{{Addr: a4.Addr()}, {Addr: a6.Addr()}}); err != nil {
				return err
			}
			_, qs, err := p.AddInterface(t.Context(), &dataplane.InterfaceConfig{Name: device, Index: i.Index, MAC: i.MAC, MTU: i.MTU, Queues: i.RXQueues,
				Native: prog.Mode() == xdp.ModeNative, Addresses: []netip.Prefix{a4, a6}})
			if err != nil {
				return err
			}
			for _, q := range qs {
				if err := prog.SetSocket(q.Queue, q.FD); err != nil {
					return err
				}
			}
			return nil
		})
	})
	p.addr = addr4
	return p
}

// dpdkEnd is our stack over a device of DPDK's, made in the server's namespace.
func dpdkEnd(t *testing.T, w *world, device string, cores int, addr4, addr6 string) *planeEnd {
	t.Helper()
	p := startPlane(t, cores, func(p dataplane.Plane) error {
		return w.inSide("s", func() error {
			_, _, err := p.AddInterface(t.Context(), &dataplane.InterfaceConfig{Name: "dpdk", Backend: dataplane.BackendDPDK, Device: device,
				Addresses: []netip.Prefix{netip.MustParsePrefix(addr4 + "/24"), netip.MustParsePrefix(addr6 + "/64")}})
			return err
		})
	})
	p.addr = addr4
	return p
}

// linked waits until the first interface's link is up.
func (p *planeEnd) linked(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if q := p.plane.QueueStats(0); len(q) > 0 && !q[0].Down {
			return
		}
	}
	t.Fatal("the link does not come up")
}

// backend is a line of the conformance table: which ends speak to each other.
func backend(name string, client, server end) transporttest.Backend {
	held := func() int {
		n := 0
		for _, e := range []end{client, server} {
			if e.held != nil {
				n += e.held()
			}
		}
		return n
	}
	return transporttest.Backend{Name: name, Client: client, Server: server, Network: "tcp", Listen: server.addr + ":0", Packet: "udp",
		PacketListen: server.addr + ":0", PacketClient: client.addr + ":0", PacketMax: 60_000, Refused: server.addr + ":1", Void: "198.18.0.77:7",
		BufferMax: 32 << 20, Held: held}
}

// transports is the table: a line for each backend. What makes it gets a world of its own.
var transports = []struct {
	name   string
	queues int // of the veth pair
	make   func(t *testing.T, w *world) []transporttest.Backend
}{
	{"af_xdp", 1, func(t *testing.T, w *world) []transporttest.Backend {
		us, them := xdpEnd(t, w, "s", "np0", server4, server6, 1).end, kernelEnd(w)
		client := backend("client", us, them)
		client.Vanish = w.vanish
		return []transporttest.Backend{client, backend("server", them, us)}
	}},
	{"af_xdp-2-cores", 2, func(t *testing.T, w *world) []transporttest.Backend {
		return []transporttest.Backend{backend("server", kernelEnd(w), xdpEnd(t, w, "s", "np0", server4, server6, 2).end)}
	}},
	{"af_xdp-4-cores-1-queue", 1, func(t *testing.T, w *world) []transporttest.Backend {
		us, them := xdpEnd(t, w, "s", "np0", server4, server6, 4).end, kernelEnd(w)
		return []transporttest.Backend{backend("client", us, them), backend("server", them, us)}
	}},
	{"af_xdp-both", 1, func(t *testing.T, w *world) []transporttest.Backend {
		return []transporttest.Backend{backend("both", xdpEnd(t, w, "c", "c0", "198.18.0.3", "2001:db8::3", 1).end, xdpEnd(t, w, "s", "np0", server4, server6, 1).end)}
	}},
	{"af_packet", 1, func(t *testing.T, w *world) []transporttest.Backend {
		w.must(w.in("c", "ethtool", "-K", "c0", "tx", "on", "tso", "on", "gso", "on")) // frames of 64 KiB with unfinished sums
		us, them := packetEnd(t, w, 1).end, kernelEnd(w)
		client := backend("client", us, them)
		client.Vanish = w.vanish
		return []transporttest.Backend{client, backend("server", them, us)}
	}},
	{"af_packet-2-cores", 1, func(t *testing.T, w *world) []transporttest.Backend {
		return []transporttest.Backend{backend("server", kernelEnd(w), packetEnd(t, w, 2).end)}
	}},
	{"tap", 1, func(t *testing.T, w *world) []transporttest.Backend {
		us := tapEnd(t, w, 1).end
		return []transporttest.Backend{backend("client", us, tapKernel(w)), backend("server", tapKernel(w), us)}
	}},
	{"dpdk-af_packet", 1, func(t *testing.T, w *world) []transporttest.Backend {
		us, them := dpdkEnd(t, w, "net_af_packet0,iface=np0", 1, server4, server6).end, kernelEnd(w)
		client, server := backend("client", us, them), backend("server", them, us)
		client.Vanish = w.vanish
		client.PacketMax, server.PacketMax = 1472, 1472 // what was in fragments the driver cuts: see csrc/io/dpdk/README.md
		return []transporttest.Backend{client, server}
	}},
	{"dpdk-memif", 1, func(t *testing.T, w *world) []transporttest.Backend {
		socket := ",socket-abstract=yes,socket=" + w.name
		server := dpdkEnd(t, w, "net_memif0,role=server"+socket, 1, server4, server6)
		client := dpdkEnd(t, w, "net_memif1,role=client"+socket, 2, "198.18.0.3", "2001:db8::3")
		server.linked(t)
		client.linked(t)
		return []transporttest.Backend{backend("both", client.end, server.end)}
	}},
}

// vanish takes the client's link away and gives it back.
func (w *world) vanish(t *testing.T) (back func()) {
	t.Helper()
	w.must(exec.Command("ip", "-n", w.name+"-c", "link", "set", "c0", "down"))
	return func() {
		w.must(exec.Command("ip", "-n", w.name+"-c", "link", "set", "c0", "up"))
		w.must(exec.Command("ip", "-n", w.name+"-c", "addr", "add", "2001:db8::2/64", "dev", "c0", "nodad"))
		time.Sleep(200 * time.Millisecond)
	}
}

// A gigabyte each way between our stack and the kernel's, by hash.
func TestTransportGigabyte(t *testing.T) {
	w := newWorld(t, options{noNpd: true})
	b := backend("af_xdp", kernelEnd(w), xdpEnd(t, w, "s", "np0", server4, server6, 1).end)
	transporttest.Run(t, b, transporttest.Options{Bytes: 1 << 30, NoTLS: true, Only: []string{"bulk"}})
}

// Every transport does what dataplane/transporttest asks, plain and under TLS.
func TestTransports(t *testing.T) {
	for _, row := range transports {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, options{noNpd: true, queues: row.queues})
			for _, b := range row.make(t, w) {
				transporttest.Run(t, b, transporttest.Options{})
			}
		})
	}
}
