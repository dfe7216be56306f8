//go:build cgo

package npc

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
)

// The tests of this file run the whole stack against the kernel's over a veth
// pair: npn0 is the appliance's end, npn1 the kernel's, both in a network
// namespace of the test's own. They skip without root.

var (
	ours4 = netip.MustParsePrefix("198.18.0.1/24")
	ours6 = netip.MustParsePrefix("2001:db8::1/64")
)

// rig is an appliance on a veth pair.
type rig struct {
	t    *testing.T
	p    *Plane
	prog *xdp.Program
	id   dataplane.InterfaceID
	wg   sync.WaitGroup
	evs  chan dataplane.Event // bodies are released: do not look at them
	// onEvent takes the events of pipes and sockets.
	onEvent atomic.Pointer[func(dataplane.Core, *dataplane.Event)]
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Error(err)
		runtime.Goexit() // the namespace's goroutine, whose defers clean up
	}
}

func (r *rig) sh(cmd string) {
	r.t.Helper()
	f := strings.Fields(cmd)
	again, tries := 1, 1
	if i := slices.Index(f, "ping"); i >= 0 { // for one answer each: where one has come, ping waits for the last only twice as long as that took
		i = i + 1 + slices.Index(f[i:], "-c")
		again, _ = strconv.Atoi(f[i])
		f[i] = "1"
		tries = 5 // a datagram may be lost
	}
	for range again {
		for try := 1; ; try++ {
			out, err := exec.Command(f[0], f[1:]...).CombinedOutput()
			if err == nil {
				break
			}
			if try == tries {
				r.t.Errorf("%s: %v: %s", cmd, err, out)
				runtime.Goexit()
			}
		}
	}
}

// inNamespace runs f with a rig on a thread in a new network namespace.
func inNamespace(t *testing.T, cores int, f func(r *rig)) {
	t.Helper()
	inNamespaceWith(t, cores, func(*dataplane.Config) {}, f)
}

// inNamespaceWith changes the plane's configuration first.
func inNamespaceWith(t *testing.T, cores int, change func(*dataplane.Config), f func(r *rig)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces and AF_XDP")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends, and the namespace with it
		r := &rig{t: t, evs: make(chan dataplane.Event, 1024)}
		r.must(unix.Unshare(unix.CLONE_NEWNET))
		r.pair()
		cfg := small(cores)
		cfg.BuffersPerCore, cfg.LoansPerCore, cfg.MaxConns = 16384, 512, 1024
		change(cfg)
		p, err := New(cfg)
		r.must(err)
		r.p = p.(*Plane)
		defer func() {
			if r.prog != nil {
				r.prog.Close()
			}
			p.Close()
			r.wg.Wait()
		}()
		for _, c := range p.Cores() {
			r.wg.Go(func() {
				reader(c, 64, func(ev *dataplane.Event) {
					if f := r.onEvent.Load(); f != nil && ev.Kind == dataplane.SessionPipe {
						(*f)(c, ev)
					} else {
						r.saw(ev)
					}
				})
			})
		}
		f(r)
	}()
	<-done
}

func (r *rig) saw(ev *dataplane.Event) {
	select {
	case r.evs <- *ev:
	default:
		r.t.Error("nobody takes the events")
	}
}

func (r *rig) event(op dataplane.EventOp) dataplane.Event {
	r.t.Helper()
	for {
		select {
		case ev := <-r.evs:
			if ev.Op == op {
				return ev
			}
		case <-time.After(time.Minute):
			r.t.Errorf("no event %d", op)
			runtime.Goexit()
		}
	}
}

func (r *rig) pair() {
	r.sh("ip link add npn0 numrxqueues 2 numtxqueues 2 type veth peer name npn1 numrxqueues 2 numtxqueues 2")
	r.sh("ip addr add 198.18.0.2/24 dev npn1")
	r.sh("ip addr add 2001:db8::2/64 dev npn1 nodad")
	r.sh("ip link set npn0 up")
	r.sh("ip link set npn1 up")
	r.sh("ethtool -K npn1 tx off")
}

// attach loads the program and returns the interface's description.
func (r *rig) attach() *dataplane.InterfaceConfig {
	r.t.Helper()
	i, err := xdp.Inspect("npn0")
	r.must(err)
	r.prog, err = xdp.Attach("npn0", xdp.Options{})
	r.must(err)
	r.must(r.prog.SetAddresses([]xdp.Address{{Addr: ours4.Addr()}, {Addr: ours6.Addr()}}))
	return &dataplane.InterfaceConfig{Name: i.Name, Index: i.Index, MAC: i.MAC, MTU: i.MTU, Queues: i.RXQueues,
		Native: r.prog.Mode() == xdp.ModeNative, Addresses: []netip.Prefix{ours4, ours6}}
}

func (r *rig) steer(qs []dataplane.Queue) {
	r.t.Helper()
	for _, q := range qs {
		r.must(r.prog.SetSocket(q.Queue, q.FD))
	}
}

func (r *rig) add() {
	r.t.Helper()
	id, qs, err := r.p.AddInterface(r.t.Context(), r.attach())
	r.must(err)
	if len(qs) != 2 || qs[0].FD < 0 || qs[1].Core != 1%len(r.p.cores) {
		r.t.Errorf("queues %+v", qs)
	}
	r.id = id
	r.steer(qs)
}

func (r *rig) listen(addr string, kind dataplane.SessionKind) dataplane.ListenerID {
	r.t.Helper()
	id, err := r.p.Listen(r.t.Context(), &dataplane.ListenConfig{Address: netip.MustParseAddrPort(addr), Kind: kind, Backlog: 64})
	r.must(err)
	return id
}

func (r *rig) dial(addr string) net.Conn {
	r.t.Helper()
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		r.explain()
	}
	r.must(err)
	r.must(c.SetDeadline(time.Now().Add(time.Minute)))
	return c
}

// explain logs what each core saw.
func (r *rig) explain() {
	for i := range r.p.cores {
		c := r.p.Counters(i)
		for d, n := range c.Drop {
			if n > 0 {
				r.t.Logf("core %d: %d %s", i, n, dataplane.Drop(d).Meta().Reason)
			}
		}
	}
	ns, err := r.p.Neighbors(r.t.Context())
	r.t.Logf("neighbors %+v %v", ns, err)
	if r.prog == nil {
		r.t.Logf("queues %+v", r.p.QueueStats(r.id))
		return
	}
	x, err := r.prog.Counters()
	r.t.Logf("XDP %+v %v; queues %+v", x, err, r.p.QueueStats(r.id))
}

// echo sends bytes and expects them back.
func (r *rig) echo(addr string, size int) {
	r.t.Helper()
	c := r.dial(addr)
	defer c.Close()
	data := make([]byte, size)
	rand.Read(data)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Write(data); err != nil {
			r.t.Error(err)
		}
	})
	back := make([]byte, size)
	_, err := io.ReadFull(c, back)
	wg.Wait()
	r.must(err)
	if !bytes.Equal(data, back) {
		r.t.Errorf("%s: %d bytes came back changed", addr, size)
	}
}

func TestVeth(t *testing.T) {
	for _, cores := range []int{1, 2} {
		inNamespace(t, cores, func(r *rig) {
			r.add()
			r.sh("ping -c 2 -i 0.2 -W 10 198.18.0.1")
			r.sh("ping -6 -c 2 -i 0.2 -W 10 2001:db8::1")
			r.listen("0.0.0.0:7", dataplane.SessionEcho)
			r.listen("[2001:db8::1]:7", dataplane.SessionEcho)
			r.echo("198.18.0.1:7", 300_000)
			r.echo("[2001:db8::1]:7", 300_000)
			npro := r.listen("0.0.0.0:7000", dataplane.SessionNPRO)
			r.npro(npro)
			r.look()
		})
	}
}

// npro opens a connection and breaks it with bytes that are not NPRO.
func (r *rig) npro(id dataplane.ListenerID) {
	c := r.dial("198.18.0.1:7000")
	defer c.Close()
	ev := r.event(dataplane.EventOpen)
	if ev.Listener != id || !ev.Incoming || ev.Remote.String() != c.LocalAddr().String() || ev.Local.String() != "198.18.0.1:7000" {
		r.t.Errorf("open: %+v", ev)
	}
	conns, err := r.p.Connections(r.t.Context())
	r.must(err)
	found := false
	for _, k := range conns {
		if k.Handle == ev.Conn {
			found = true
			if k.Listener != id || k.State != "established" || k.SessionState != "await_handshake" || k.Remote != ev.Remote || k.MSS == 0 {
				r.t.Errorf("%+v", k)
			}
		}
	}
	if !found {
		r.t.Error("the connection is not listed")
	}
	_, err = c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	r.must(err)
	if shut := r.event(dataplane.EventClosed); shut.Conn != ev.Conn || shut.Err != dataplane.CodeProtocol {
		r.t.Errorf("closed: %+v", shut)
	}
	core := r.p.Cores()[ev.Conn.Core()]
	if err := core.Ping(ev.Conn, nil); !errors.Is(err, dataplane.CodeStale) {
		r.t.Error("ping after the end:", err)
	}
}

// look checks what the management plane shows after some traffic.
func (r *rig) look() {
	ns, err := r.p.Neighbors(r.t.Context())
	r.must(err)
	found := false
	for _, n := range ns {
		found = found || n.Addr == netip.MustParseAddr("198.18.0.2") && len(n.MAC) == 6 && n.Interface == r.id
	}
	if !found {
		r.t.Errorf("neighbors %+v", ns)
	}
	var rx, tx uint64
	for _, q := range r.p.QueueStats(r.id) {
		rx += q.RxPackets
		tx += q.TxPackets
		if q.Down {
			r.t.Errorf("%+v", q)
		}
	}
	counters, err := r.prog.Counters()
	r.must(err)
	var all dataplane.Counters
	for i := range r.p.cores {
		c := r.p.Counters(i)
		all.Add(&c)
	}
	if rx < 100 || tx < 100 || counters.Redirected < rx || all.Counter[dataplane.CounterRXPkts] == 0 {
		r.t.Errorf("rx %d tx %d, %+v", rx, tx, counters)
	}
}

func TestVethCapture(t *testing.T) {
	inNamespace(t, 2, func(r *rig) {
		r.add()
		r.listen("0.0.0.0:7", dataplane.SessionEcho)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := r.p.Capture(ctx, &dataplane.CaptureConfig{Interface: -1, Filter: "no such filter"}); !errors.Is(err, dataplane.CodeInvalid) {
			t.Error("bad filter:", err)
		}
		capt, err := r.p.Capture(ctx, &dataplane.CaptureConfig{Interface: -1, Filter: "tcp port 7", Snap: 60})
		r.must(err)
		if _, err := r.p.Capture(ctx, &dataplane.CaptureConfig{Interface: -1}); !errors.Is(err, dataplane.CodeBusy) {
			t.Error("second capture:", err)
		}
		r.echo("198.18.0.1:7", 10_000)
		var dirs dataplane.CaptureDir
		for n := 0; n < 8; n++ {
			pkt, err := capt.Next(ctx)
			r.must(err)
			dirs |= pkt.Dir
			if len(pkt.Data) < 54 || len(pkt.Data) > 60 || pkt.Orig < len(pkt.Data) || pkt.At == 0 || pkt.Data[12] != 8 {
				t.Errorf("%+v", pkt)
			}
		}
		if dirs&dataplane.CaptureRx == 0 || dirs&dataplane.CaptureTx == 0 {
			t.Errorf("directions %d", dirs)
		}
		if capt.Lost() != 0 {
			t.Error("lost", capt.Lost())
		}
		r.must(capt.Close())
		r.must(capt.Close())
		if _, err := capt.Next(ctx); !errors.Is(err, dataplane.CodeShutdown) {
			t.Error(err)
		}
		again, err := r.p.Capture(ctx, &dataplane.CaptureConfig{Interface: -1})
		r.must(err)
		defer again.Close() // after the plane too
	})
}

// TestVethReturns deletes the device under the running appliance and makes it
// again, with another MAC.
func TestVethReturns(t *testing.T) {
	inNamespace(t, 2, func(r *rig) {
		r.add()
		r.listen("0.0.0.0:7", dataplane.SessionEcho)
		r.echo("198.18.0.1:7", 1000)
		r.sh("ip link del npn0")
		if ev := r.event(dataplane.EventPort); ev.Interface != r.id || ev.Err != dataplane.CodePortdown {
			t.Errorf("%+v", ev)
		}
		r.must(r.prog.Close())
		r.must(r.p.DetachInterface(t.Context(), r.id))
		if err := r.p.DetachInterface(t.Context(), r.id); !errors.Is(err, dataplane.CodeState) {
			t.Error("detached twice:", err)
		}
		if qs := r.p.QueueStats(r.id); len(qs) != 2 || !qs[0].Down {
			t.Errorf("%+v", qs)
		}
		r.pair()
		qs, err := r.p.ReattachInterface(t.Context(), r.id, r.attach())
		r.must(err)
		r.steer(qs)
		r.echo("198.18.0.1:7", 1000)
		r.sh("ping -6 -c 1 -W 10 2001:db8::1")
		if qs := r.p.QueueStats(r.id); len(qs) != 2 || qs[0].Down || qs[1].Down {
			t.Errorf("%+v", qs)
		}
	})
}

// TestVethUndone has an address that is refused: nothing may stay open.
func TestVethUndone(t *testing.T) {
	inNamespace(t, 2, func(r *rig) {
		cfg := r.attach()
		good := cfg.Addresses
		cfg.Addresses = append(good, good[0])
		fds := descriptors(t)
		if _, _, err := r.p.AddInterface(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), good[0].String()) {
			t.Error("the same address twice:", err)
		}
		if n := descriptors(t); n != fds {
			t.Errorf("%d descriptors before, %d after", fds, n)
		}
		cfg.Addresses = good
		id, qs, err := r.p.AddInterface(t.Context(), cfg)
		r.must(err)
		if id != 0 {
			t.Error("number of the interface that failed is not free:", id)
		}
		r.steer(qs)
		r.sh("ping -c 1 -W 10 198.18.0.1")
		if _, _, err := r.p.AddInterface(t.Context(), cfg); !errors.Is(err, dataplane.CodeExists) {
			t.Error("the same interface twice:", err)
		}
		tagged := *cfg
		tagged.VLAN, tagged.Addresses = 7, []netip.Prefix{netip.MustParsePrefix("198.18.7.1/24")}
		_, more, err := r.p.AddInterface(t.Context(), &tagged)
		r.must(err)
		if len(more) != len(qs) || more[0] != qs[0] {
			t.Errorf("a VLAN's queues: %+v, the device's: %+v", more, qs)
		}
		r.must(r.prog.AddAddress(xdp.Address{Addr: tagged.Addresses[0].Addr(), VLAN: 7}))
		if err := exec.Command("ip", strings.Fields("link add link npn1 name npn1.7 type vlan id 7")...).Run(); err != nil {
			t.Log("this kernel makes no VLAN devices; VLAN traffic not tested")
			return
		}
		r.sh("ip addr add 198.18.7.2/24 dev npn1.7")
		r.sh("ip link set npn1.7 up")
		r.sh("ping -c 1 -W 10 198.18.7.1")
	})
}
