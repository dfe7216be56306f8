//go:build cgo

package npc

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
)

// kernelSide is the host of an appliance that owns its device: a network namespace
// with the TAP that stands in for the device.
type kernelSide struct {
	r    *rig
	name string
}

// newKernelSide puts the appliance on npn0 with an exception path, whose kernel's
// end has 198.18.0.50, 2001:db8::50 and the appliance's own 198.18.0.1 too. That it
// is another namespace than the device's makes sure that all goes by the TAP.
func newKernelSide(r *rig, backend dataplane.Backend) *kernelSide {
	r.t.Helper()
	i, err := xdp.Inspect("npn0")
	r.must(err)
	cfg := &dataplane.InterfaceConfig{Name: i.Name, Index: i.Index, MAC: i.MAC, MTU: 1500, Backend: backend, Exception: "npn0x",
		Addresses: []netip.Prefix{ours4, ours6}}
	if backend == dataplane.BackendDPDK {
		r.withDPDK()
		cfg.Index, cfg.MAC, cfg.MTU, cfg.Queues = 0, nil, 0, len(r.p.cores)
		cfg.Device = fmt.Sprintf("net_af_packet0,iface=npn0,qpairs=%d", len(r.p.cores))
	}
	id, qs, err := r.p.AddInterface(r.t.Context(), cfg)
	r.must(err)
	if len(qs) != len(r.p.cores) {
		r.t.Errorf("queues %+v", qs)
	}
	r.id = id
	k := &kernelSide{r: r, name: fmt.Sprintf("npexc%d", os.Getpid())}
	r.sh("ip netns add " + k.name)
	r.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", k.name).Run() })
	x, err := xdp.Inspect("npn0x")
	r.must(err)
	if x.MAC.String() != i.MAC.String() || x.MTU != 1500 || !x.Up {
		r.t.Errorf("TAP %+v of %+v", x, i)
	}
	r.sh("ip link set npn0x netns " + k.name)
	k.sh("ip addr add 198.18.0.50/24 dev npn0x")
	k.sh("ip addr add 198.18.0.1/24 dev npn0x")
	k.sh("ip addr add 2001:db8::50/64 dev npn0x nodad")
	k.sh("ip link set npn0x up")
	return k
}

func (k *kernelSide) sh(cmd string) { k.r.t.Helper(); k.r.sh("ip netns exec " + k.name + " " + cmd) }

// listen opens a TCP listener of that kernel, which greets.
func (k *kernelSide) listen(addr string) {
	k.r.t.Helper()
	type opened struct {
		l   net.Listener
		err error
	}
	done := make(chan opened)
	go func() {
		runtime.LockOSThread() // ends with the goroutine
		var o opened
		var ns *os.File
		if ns, o.err = os.Open("/run/netns/" + k.name); o.err == nil {
			defer ns.Close()
			if o.err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); o.err == nil {
				o.l, o.err = net.Listen("tcp", addr)
			}
		}
		done <- o
	}()
	o := <-done
	k.r.must(o.err)
	k.r.t.Cleanup(func() { o.l.Close() })
	go func() {
		for {
			c, err := o.l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "SSH-2.0-kernel\r\n")
			c.Close()
		}
	}()
}

// greeted dials and reads what the kernel's service says.
func (r *rig) greeted(addr string) {
	r.t.Helper()
	c := r.dial(addr)
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "SSH-2.0-kernel\r\n" {
		r.t.Errorf("%s: %q, %v", addr, b, err)
	}
}

func (r *rig) counter(n dataplane.Counter) (sum uint64) {
	for i := range r.p.cores {
		c := r.p.Counters(i)
		sum += c.Counter[n]
	}
	return sum
}

func (r *rig) dropped(n dataplane.Drop) (sum uint64) {
	for i := range r.p.cores {
		c := r.p.Counters(i)
		sum += c.Drop[n]
	}
	return sum
}

// TestException shares a device: the appliance serves its addresses, the kernel
// pings, serves TCP on its own, and keeps port 22 of the appliance's.
func TestException(t *testing.T) {
	for _, tt := range []struct {
		cores   int
		backend dataplane.Backend
	}{{1, dataplane.BackendAFPacket}, {2, dataplane.BackendAFPacket}, {1, dataplane.BackendDPDK}, {2, dataplane.BackendDPDK}} {
		cores := tt.cores
		t.Run(fmt.Sprintf("%s cores %d", tt.backend, cores), func(t *testing.T) {
			inNamespaceWith(t, cores, func(cfg *dataplane.Config) { cfg.Exception.TCPPorts = []uint16{22} }, func(r *rig) {
				k := newKernelSide(r, tt.backend)
				r.listen("0.0.0.0:7", dataplane.SessionEcho)
				r.listen("[2001:db8::1]:7", dataplane.SessionEcho)
				k.listen("0.0.0.0:22")
				k.listen("[2001:db8::50]:22")
				k.listen("198.18.0.50:7")
				r.sh("ping -c 2 -i 0.2 -W 10 198.18.0.50")
				r.sh("ping -6 -c 2 -i 0.2 -W 10 2001:db8::50")
				r.sh("ping -c 2 -i 0.2 -W 10 198.18.0.1")
				r.echo("198.18.0.1:7", 300_000)
				r.echo("[2001:db8::1]:7", 300_000)
				r.greeted("198.18.0.50:22")
				r.greeted("[2001:db8::50]:22")
				r.greeted("198.18.0.50:7") // the appliance's port on the kernel's address
				r.greeted("198.18.0.1:22") // the kernel's port on the appliance's address
				k.sh("ping -c 1 -W 10 -I 198.18.0.50 198.18.0.2")
				passed, sent := r.counter(dataplane.CounterPassedPkts), r.counter(dataplane.CounterKernelTX)
				if passed < 20 || sent < 20 || r.counter(dataplane.CounterICMPEcho) < 2 {
					t.Errorf("%d passed, %d sent, %d echoes of our own", passed, sent, r.counter(dataplane.CounterICMPEcho))
				}
				k.sh("ip link set npn0x down")
				r.echo("198.18.0.1:7", 1000)
				k.sh("ip link set npn0x up")
				for end := time.Now().Add(time.Minute); exec.Command("ping", "-c", "1", "-W", "1", "198.18.0.50").Run() != nil; { // the TAP's carrier comes back in its time
					if time.Now().After(end) {
						t.Error("the kernel's address does not answer after its TAP was down")
						runtime.Goexit()
					}
				}
				r.balanced()
				r.must(r.p.DetachInterface(t.Context(), r.id))
				if err := exec.Command("ip", "-n", k.name, "link", "show", "npn0x").Run(); err == nil {
					t.Error("the TAP outlived its interface")
				}
			})
		})
	}
}

// TestExceptionRate floods the kernel's address: the rate bites and is counted, and
// the appliance goes on serving.
func TestExceptionRate(t *testing.T) {
	inNamespaceWith(t, 1, func(cfg *dataplane.Config) { cfg.Exception.Rate = 100 }, func(r *rig) {
		newKernelSide(r, dataplane.BackendAFPacket)
		r.listen("0.0.0.0:7", dataplane.SessionEcho)
		r.sh("ping -c 1 -W 10 198.18.0.50")
		c, err := net.Dial("udp", "198.18.0.50:9")
		r.must(err)
		defer c.Close()
		before, begin := r.counter(dataplane.CounterPassedPkts), time.Now()
		for range 5000 {
			_, _ = c.Write([]byte("flood")) // refused now and then, by the kernel's ICMP
		}
		r.echo("198.18.0.1:7", 100_000)
		passed := r.counter(dataplane.CounterPassedPkts) - before
		most := 30 + uint64(time.Since(begin).Seconds()*100)
		if limited := r.dropped(dataplane.DropExcRate); passed > most || limited < 1000 {
			t.Errorf("%d passed, at most %d expected, %d limited", passed, most, limited)
		}
		r.balanced()
	})
}

// TestExceptionRefused says what of an exception path can't be.
func TestExceptionRefused(t *testing.T) {
	for _, x := range []dataplane.ExceptionConfig{
		{Rate: -1}, {TCPPorts: []uint16{0}}, {UDPPorts: make([]uint16, dataplane.ExceptionPortsMax+1)}, {Protocols: []uint8{6}}, {Protocols: []uint8{17}}, {Protocols: []uint8{0}},
	} {
		cfg := small(1)
		cfg.Exception = x
		if p, err := New(cfg); !errors.Is(err, dataplane.CodeInvalid) {
			t.Errorf("%+v: %v", x, err)
			if err == nil {
				p.Close()
			}
		}
	}
	inNamespace(t, 1, func(r *rig) {
		i, err := xdp.Inspect("npn0")
		r.must(err)
		fds := descriptors(t)
		for name, code := range map[string]dataplane.Code{"npn0": dataplane.CodeInvalid, "npn1": dataplane.CodeExists, "a-name-too-long-for-it": dataplane.CodeInvalid} {
			cfg := &dataplane.InterfaceConfig{Name: i.Name, Index: i.Index, MAC: i.MAC, MTU: 1500, Backend: dataplane.BackendAFPacket, Exception: name}
			if _, _, err := r.p.AddInterface(t.Context(), cfg); !errors.Is(err, code) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := descriptors(t); n != fds {
			t.Errorf("%d descriptors before, %d after", fds, n)
		}
	})
}
