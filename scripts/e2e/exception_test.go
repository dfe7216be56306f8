//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// hostDial dials from the appliance's host, from one of its addresses.
func (w *world) hostDial(local, addr string) (c net.Conn, err error) {
	err = w.inSide("s", func() error {
		d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
		c, err = d.DialContext(context.Background(), "tcp", addr)
		return err
	})
	return c, err
}

// TestException: on the device that the appliance serves, the kernel answers for its own
// address, keeps the listed ports of the appliance's, opens connections from there, and gets no
// more than its rate.
func TestException(t *testing.T) {
	const own, rate = "198.18.0.1", 300
	w := newWorld(t, options{env: []string{"NP_EXCEPTION_TCP_PORTS=22,179", fmt.Sprintf("NP_EXCEPTION_KERNEL_RATE=%d", rate)}})
	free := w.status().BuffersFree
	w.must(w.in("s", "ip", "addr", "add", kernel4+"/24", "dev", "np0"))
	w.must(w.in("s", "ip", "addr", "add", own+"/24", "dev", "np0"))
	w.echoAt("s", ":22")
	w.echoAt("c", "198.18.0.2:179")
	serves := func() {
		t.Helper()
		for _, addr := range []string{own + ":7", own + ":22", kernel4 + ":22"} {
			c := w.mustDial(addr)
			if err := echo(c, 10_000); err != nil {
				t.Errorf("%s: %v", addr, err)
			}
			_ = c.Close()
		}
	}
	serves()
	w.pings("c", "-c", "2", "-i", "0.05", "-W", "30", kernel4)
	w.pings("c", "-c", "2", "-i", "0.05", "-W", "30", own)
	if n := w.stat("icmp_echo_replies_total"); n != 2 {
		t.Errorf("%d echoes answered by the appliance, want 2", n)
	}
	// what the kernel opens to a listed port comes home to it, from the shared address too
	for _, local := range []string{kernel4, own} {
		c, err := w.hostDial(local, "198.18.0.2:179")
		if err != nil {
			t.Fatalf("from %s: %v", local, err)
		}
		if err := echo(c, 1000); err != nil {
			t.Errorf("from %s: %v", local, err)
		}
		_ = c.Close()
	}
	w.pings("s", "-c", "1", "-W", "30", "-I", own, "198.18.0.2")
	if p := w.nic().Packets; p.Steered == 0 || p.Passed == 0 {
		t.Errorf("%+v", p)
	}

	sent, seen := w.marks()
	flood, err := w.dial("udp", kernel4+":9")
	if err != nil {
		t.Fatal(err)
	}
	defer flood.Close()
	before, begin := w.nic().Packets, time.Now()
	for range 5000 {
		_, _ = flood.Write([]byte("for the kernel"))
	}
	c := w.mustDial(own + ":7")
	if err := echo(c, 1_000_000); err != nil { // the appliance has no part in it
		t.Error(err)
	}
	_ = c.Close()
	after := w.nic().Packets
	most := rate/10 + uint64(time.Since(begin).Seconds()*rate) + 50
	if passed, limited := after.Passed-before.Passed, after.KernelLimited-before.KernelLimited; passed > most || limited < 3000 && most < 2000 {
		t.Errorf("%d passed, %d at most expected, %d limited", passed, most, limited)
	}
	w.sums(sent, seen)
	if n := w.drop("kernel_rate_limited"); n < after.KernelLimited-before.KernelLimited {
		t.Errorf("npctl drops says %d", n)
	}
	time.Sleep(200 * time.Millisecond) // the rate forgives
	serves()
	w.restful(free)
	if l := query[api.Drops](w, "drops").Ledger; l.Passed != 0 {
		t.Errorf("a core passed %d packets of a device that it shares by XDP", l.Passed)
	}
}

// TestPacketShared: on AF_PACKET, where the kernel sees all frames, it neither routes on what is
// the appliance's nor burdens the core with what is its own.
func TestPacketShared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{env: []string{"NP_DATAPLANE_BACKEND=af_packet"}})
	free := w.status().BuffersFree
	w.must(w.in("s", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"))
	w.must(w.in("s", "ip", "addr", "add", kernel4+"/24", "dev", "np0"))
	w.must(w.in("s", "ip", "addr", "add", "2001:db8::fe/64", "dev", "np0", "nodad"))
	w.echoAt("s", kernel4+":22")
	for range 2 {
		for _, addr := range []string{addr4(7), addr6(7), kernel4 + ":22"} {
			c := w.mustDial(addr)
			if err := echo(c, 100_000); err != nil {
				t.Errorf("%s: %v", addr, err)
			}
			_ = c.Close()
		}
		for _, addr := range []string{server4, server6, kernel4, "2001:db8::fe"} {
			if out := w.pings("c", "-c", "2", "-i", "0.05", "-W", "30", addr); strings.Contains(out, "DUP") || strings.Count(out, "1 received") != 2 {
				t.Errorf("%s:\n%s", addr, out)
			}
		}
	}
	for file, key := range map[string]string{"/proc/net/snmp": "ForwDatagrams", "/proc/net/snmp6": "Ip6OutForwDatagrams"} {
		if n := snmp(w.must(w.in("s", "cat", file)), key); n != "0" {
			t.Errorf("the kernel routed the appliance's packets on: %s %s", key, n)
		}
	}
	flood, err := w.dial("udp", kernel4+":9")
	if err != nil {
		t.Fatal(err)
	}
	defer flood.Close()
	before := w.stat("rx_packets_total")
	for range 5000 {
		_, _ = flood.Write([]byte("for the kernel"))
	}
	if n := w.stat("rx_packets_total") - before; n > 100 {
		t.Errorf("the core got %d packets, of 5000 that were the kernel's", n)
	}
	w.restful(free)
}

// snmp finds a counter in /proc/net/snmp, whose lines come in pairs, or snmp6.
func snmp(text, key string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		f := strings.Fields(line)
		if len(f) == 2 && f[0] == key {
			return f[1]
		}
		if at := slices.Index(f, key); at > 0 && i+1 < len(lines) {
			if v := strings.Fields(lines[i+1]); at < len(v) {
				return v[at]
			}
		}
	}
	return ""
}
