package xdp

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/dataplane"
)

// inNamespace runs f on a thread of its own in a new network namespace, which
// goes with the thread.
func inNamespace(t *testing.T, f func(ip func(args string))) {
	t.Helper()
	needRoot(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends here
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error("unshare:", err)
			return
		}
		f(func(args string) {
			t.Helper()
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Errorf("ip %s: %v: %s", args, err, out)
			}
		})
	}()
	<-done
}

func TestAttach(t *testing.T) {
	inNamespace(t, func(ip func(string)) {
		ip("link add npx0 type veth peer name npx1")
		ip("link set npx0 up")
		p, err := Attach("npx0", Options{})
		if err != nil {
			t.Error(err)
			return
		}
		if p.Mode() != ModeNative || p.Fallback() != nil {
			t.Error("mode", p.Mode(), "fallback", p.Fallback())
		}
		_, err = Attach("npx0", Options{})
		if !errors.Is(err, dataplane.CodeBusy) || !strings.Contains(err.Error(), "ip link set dev npx0 xdp off") {
			t.Error("second attach:", err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		g, err := Attach("npx0", Options{Mode: ModeGeneric, Frags: true})
		if err != nil {
			t.Error("generic:", err)
			return
		}
		if g.Mode() != ModeGeneric {
			t.Error("mode", g.Mode())
		}
		ip("link del npx0")
		if err := g.Close(); err != nil {
			t.Error("close after the interface vanished:", err)
		}
		if _, err := Attach("npx0", Options{}); !errors.Is(err, dataplane.CodeNodev) {
			t.Error("no interface:", err)
		}
	})
}

// TestGroups looks at the multicast MACs that the kernel tells the device of.
func TestGroups(t *testing.T) {
	inNamespace(t, func(ip func(string)) {
		ip("link add npx0 type veth peer name npx1")
		ip("link set npx0 up")
		p, err := Attach("npx0", Options{})
		if err != nil {
			t.Error(err)
			return
		}
		joined := func(want bool) {
			t.Helper()
			b, err := os.ReadFile("/proc/thread-self/net/dev_mcast")
			if err != nil {
				t.Error(err)
			}
			if got := strings.Contains(string(b), "3333ff123456"); got != want {
				t.Errorf("joined: %v, not %v", got, want)
			}
		}
		a, b := Address{Addr: own6}, Address{Addr: netip.MustParseAddr("2001:db8:1::12:3456"), VLAN: 5}
		joined(false)
		for _, set := range [][]Address{{a}, {a, b}, {b}, {b, {Addr: own4}}} {
			if err := p.SetAddresses(set); err != nil {
				t.Error(err)
			}
			joined(true)
		}
		if err := p.DelAddress(b); err != nil {
			t.Error(err)
		}
		joined(false)
		if err := p.AddAddress(a); err != nil {
			t.Error(err)
		}
		joined(true)
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		joined(false)
	})
}

// TestFallback uses lo, which has no native mode.
func TestFallback(t *testing.T) {
	inNamespace(t, func(ip func(string)) {
		if p, err := Attach("lo", Options{Mode: ModeNative}); err == nil {
			p.Close()
			t.Error("native mode on lo")
		}
		p, err := Attach("lo", Options{})
		if err != nil {
			t.Error(err)
			return
		}
		defer p.Close()
		if p.Mode() != ModeGeneric || p.Fallback() == nil {
			t.Error("mode", p.Mode(), "fallback", p.Fallback())
		}
		t.Log("why not native:", p.Fallback())
	})
}

func TestInspect(t *testing.T) {
	inNamespace(t, func(ip func(string)) {
		ip("link add npx0 mtu 1400 numrxqueues 3 numtxqueues 3 type veth peer name npx1")
		i, err := Inspect("npx0")
		if err != nil {
			t.Error(err)
			return
		}
		if i.MTU != 1400 || len(i.MAC) != 6 || i.RXQueues != 3 || i.Driver != "veth" || i.Up || i.Index == 0 {
			t.Errorf("%+v", i)
		}
		ip("link set npx0 up")
		ip("link set npx1 up")
		for range 6000 { // the kernel's link watch takes its time
			if i, _ = Inspect("npx0"); i.Carrier {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if !i.Up || !i.Carrier {
			t.Errorf("%+v", i)
		}
		_, err = Inspect("npx7")
		if !errors.Is(err, dataplane.CodeNodev) || !strings.Contains(err.Error(), "npx1") {
			t.Error(err)
		}
	})
}

// TestWatch keeps Watch on the namespace's own thread and makes the
// changes with ip, which inherits it.
func TestWatch(t *testing.T) {
	inNamespace(t, func(ip func(string)) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		steps := []struct {
			cmd  string
			want func(Link) bool
		}{
			{"link add npx0 type veth peer name npx1", func(l Link) bool { return l.Name == "npx0" && l.Present && !l.Up }},
			{"link set npx0 up", func(l Link) bool { return l.Name == "npx0" && l.Up }},
			{"link set npx1 up", func(l Link) bool { return l.Name == "npx0" && l.Carrier }},
			{"link set npx0 mtu 1400", func(l Link) bool { return l.Name == "npx0" && l.MTU == 1400 }},
			{"link del npx0", func(l Link) bool { return l.Name == "npx0" && !l.Present && !l.Up }},
			{"link add npx0 type veth peer name npx1", func(l Link) bool { return l.Name == "npx0" && l.Present }},
		}
		at := -1
		err := Watch(ctx, func(l Link) {
			if at < 0 && l.Name == "lo" {
				at = 0
				ip(steps[0].cmd)
				return
			}
			if at >= 0 && at < len(steps) && steps[at].want(l) {
				if at++; at == len(steps) {
					cancel()
					return
				}
				ip(steps[at].cmd)
			}
		})
		if at != len(steps) || !errors.Is(err, context.Canceled) {
			t.Errorf("stopped at step %d: %v", at, err)
		}
	})
}
