//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

func TestPing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	for _, a := range []string{server4, server6} {
		out := w.pings("c", "-c", "5", "-i", "0.05", "-W", "30", a)
		if strings.Count(out, "1 received") != 5 {
			t.Errorf("ping %s:\n%s", a, out)
		}
		w.pings("c", "-c", "2", "-i", "0.05", "-s", "1400", "-W", "30", a)
	}
	if n := w.stat("icmp_echo_replies_total"); n != 14 {
		t.Errorf("%d echo replies counted, want 14", n)
	}
	// an address that is nobody's stays unanswered
	if out, err := w.in("c", "ping", "-c", "1", "-W", "1", "198.18.0.77").CombinedOutput(); err == nil {
		t.Errorf("somebody answered for 198.18.0.77:\n%s", out)
	}
}

func TestEchoBothFamilies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	free := w.status().BuffersFree
	for _, a := range []string{addr4(7), addr6(7)} {
		c := w.mustDial(a)
		for _, n := range []int{1, 64, 1448, 100_000, 3_000_000} {
			if err := echo(c, n); err != nil {
				t.Fatalf("%s, %d bytes: %v", a, n, err)
			}
		}
		// half-close: what was sent before still comes back
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := c.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); err != nil || string(b) != "last words" {
			t.Errorf("%s: after half-close got %q, %v", a, b, err)
		}
	}
	w.restful(free)
}

func TestUDPEchoAndDiscard(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	for _, host := range []string{server4, server6} {
		c, err := w.dial("udp", net.JoinHostPort(host, "7"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, n := range []int{0, 1, 1000, 1400} {
			out := make([]byte, n)
			for i := range out {
				out[i] = byte(i + n)
			}
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			if _, err := c.Write(out); err != nil {
				t.Fatal(err)
			}
			in := make([]byte, 2000)
			if got, err := c.Read(in); err != nil || string(in[:got]) != string(out) {
				t.Errorf("%s: %d bytes: %d back, %v", host, n, got, err)
			}
		}
		d, err := w.dial("udp", net.JoinHostPort(host, "9"))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if _, err := d.Write([]byte("into the void")); err != nil {
			t.Fatal(err)
		}
		_ = d.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if n, err := d.Read(make([]byte, 10)); err == nil {
			t.Errorf("%s: discard answered %d bytes", host, n)
		}
	}
	if n := w.stat("udp_received_total"); n != 10 {
		t.Errorf("%d datagrams counted, want 10", n)
	}
}

func TestClosedPortIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	for _, a := range []string{addr4(81), addr6(81)} {
		if _, err := w.dial("tcp", a); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v, want connection refused", a, err)
		}
	}
	if n := w.drop("tcp_no_listener"); n != 2 {
		t.Errorf("tcp_no_listener is %d, want 2", n)
	}
}

// What is not the appliance's own goes to the kernel: it answers for its address on the same interface.
func TestOthersPassToTheKernel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.must(w.in("s", "ip", "addr", "add", "198.18.0.50/24", "dev", "np0"))
	w.pings("c", "-c", "3", "-i", "0.05", "-W", "30", "198.18.0.50")
	w.pings("c", "-c", "1", "-W", "30", server4)
	ifs := query[api.Interfaces](w, "interface", "list")
	if len(ifs.Interfaces) != 1 || ifs.Interfaces[0].PassedKernel < 3 {
		t.Errorf("passed to the kernel: %+v", ifs.Interfaces)
	}
}

// A thousand connections, each tenth killed half-way, leave nothing behind.
func TestThousandConnections(t *testing.T) {
	const conns = 1000
	w := newWorld(t, options{env: []string{"NP_SERVER_MAX_CONNECTIONS=2000"}})
	free := w.status().BuffersFree
	open := make([]net.Conn, conns)
	for i := range open {
		a := addr4(7)
		if i%2 == 1 {
			a = addr6(7)
		}
		c, err := w.dial("tcp", a)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		open[i] = c
	}
	if s := w.status(); s.Connections != conns {
		t.Errorf("%d connections shown, want %d", s.Connections, conns)
	}
	var wg sync.WaitGroup
	errs := make(chan error, conns)
	for i, c := range open {
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer c.Close()
			if i%10 == 0 { // killed half-way: RST with data in flight
				_, _ = c.Write(make([]byte, 20_000))
				_ = c.(*net.TCPConn).SetLinger(0)
				return
			}
			for _, n := range []int{64, 5000, 64} {
				if err := echo(c, n); err != nil {
					errs <- fmt.Errorf("connection %d: %w", i, err)
					return
				}
			}
		}()
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	w.restful(free)
}

func TestTermDrains(t *testing.T) {
	w := newWorld(t, options{})
	c := w.mustDial(addr4(7))
	if err := echo(c, 1000); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := w.npd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-w.exited:
		if err != nil {
			t.Errorf("npd ended with %v", err)
		}
		w.npd = nil
	case <-time.After(time.Minute):
		t.Fatal("npd did not end within shutdown_timeout and a margin")
	}
	t.Logf("ended after %v", time.Since(begin).Round(time.Millisecond))
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection outlived npd")
	}
	for _, s := range []string{"np.sock", "ro.sock"} {
		if _, err := os.Stat(w.path(s)); err == nil {
			t.Errorf("%s is left behind", s)
		}
	}
}

// The interface vanishes and comes back; npd stays.
func TestInterfaceVanishesAndReturns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	if err := echo(w.mustDial(addr4(7)), 100); err != nil {
		t.Fatal(err)
	}
	w.must(w.in("s", "ip", "link", "del", "np0"))
	w.eventually(time.Minute, "status degraded", func() error {
		out, code := w.npctl("status")
		if code != 1 || !strings.Contains(out, "np0") || !strings.Contains(out, "down") {
			return fmt.Errorf("exit %d: %s", code, out)
		}
		return nil
	})
	w.must(w.in("s", "ip", "link", "add", "np0", "type", "veth", "peer", "name", "c0", "netns", w.name+"-c"))
	w.must(w.in("s", "ip", "link", "set", "np0", "up"))
	w.must(w.in("c", "sysctl", "-qw", "net.ipv6.conf.c0.accept_dad=0"))
	w.must(w.in("c", "ip", "link", "set", "c0", "up"))
	w.must(w.in("c", "ip", "addr", "add", "198.18.0.2/24", "dev", "c0"))
	w.must(w.in("c", "ethtool", "-K", "c0", "tx", "off"))
	w.eventually(time.Minute, "status ready again", func() error {
		if out, code := w.npctl("status"); code != 0 {
			return fmt.Errorf("exit %d: %s", code, out)
		}
		return nil
	})
	w.pings("c", "-c", "2", "-i", "0.1", "-W", "30", server4)
	if err := echo(w.mustDial(addr4(7)), 100_000); err != nil {
		t.Fatal(err)
	}
}

func TestTwoQueuesTwoCores(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{queues: 2, env: []string{"NP_DATAPLANE_CORES=2"}})
	var wg sync.WaitGroup
	for i := range 40 {
		c := w.mustDial(addr4(7))
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := echo(c, 10_000); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
		}()
	}
	wg.Wait()
	if s := w.status(); len(s.Cores) != 2 {
		t.Errorf("cores: %+v", s.Cores)
	}
}

func TestJumboFrames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mtu: 3400})
	if err := echo(w.mustDial(addr4(7)), 500_000); err != nil {
		t.Fatal(err)
	}
	w.pings("c", "-c", "2", "-i", "0.1", "-s", "3300", "-W", "30", server4)
}
