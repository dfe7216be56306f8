//go:build e2e

package e2e

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// download reads n bytes of chargen's and calls during once about a third of them came.
func (w *world) download(addr string, n int64, during func(local string)) time.Duration {
	w.t.Helper()
	c := w.mustDial(addr)
	defer c.Close()
	begin := time.Now()
	_ = c.SetDeadline(begin.Add(2 * time.Minute))
	for part := range int64(3) {
		if part == 1 && during != nil {
			during(c.LocalAddr().String())
		}
		if _, err := io.CopyN(io.Discard, c, n/3); err != nil {
			w.t.Fatalf("after %d of 3 parts: %v", part, err)
		}
	}
	return time.Since(begin)
}

func (w *world) connOf(remote string) api.Conn {
	w.t.Helper()
	for _, c := range query[api.Conns](w, "conn", "list").Connections {
		if c.Remote == remote {
			return c
		}
	}
	w.t.Fatalf("no connection from %s", remote)
	return api.Conn{}
}

// TestECN: the kernel asks for ECN, the wire marks instead of losing, and both sides slow down without a
// retransmission (RFC 3168), whichever algorithm npd has.
func TestECN(t *testing.T) {
	for _, cc := range []string{"cubic", "newreno", "bbr"} {
		t.Run(cc, func(t *testing.T) {
			w := newWorld(t, options{relay: true, env: []string{"NP_TCP_CONGESTION_CONTROL=" + cc}})
			w.must(w.in("c", "sysctl", "-qw", "net.ipv4.tcp_ecn=1"))
			wire := "delay=5ms,rate=100mbit,queue=8mib,mark=30kib"
			r := w.mustRelay(wire, wire, 1)
			const n = 24 << 20
			var before, after api.Conn
			took := w.download(addr4(19), n, func(local string) { before = w.connOf(local) })
			if !before.TCP.ECN || before.TCP.CongestionControl != cc {
				t.Errorf("ecn %v, congestion control %q", before.TCP.ECN, before.TCP.CongestionControl)
			}
			if (before.TCP.BBR != nil) != (cc == "bbr") {
				t.Errorf("BBR's state: %+v", before.TCP.BBR)
			}
			// The other way: npd echoes marks, and Linux heeds them.
			c := w.mustDial(addr6(9))
			begin := time.Now()
			chunk := make([]byte, 1<<16)
			for sent := 0; sent < n; sent += len(chunk) {
				if sent == n/2 {
					after = w.connOf(c.LocalAddr().String())
				}
				if _, err := c.Write(chunk); err != nil {
					t.Fatal(err)
				}
			}
			c.Close()
			t.Logf("%d MiB down in %v, up in %v", n>>20, took.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
			if !after.TCP.ECN || !after.TCP.CESeen {
				t.Errorf("upwards: ecn %v, marks seen %v", after.TCP.ECN, after.TCP.CESeen)
			}
			if got := w.stat("tcp_ecn_negotiated_total"); got != 2 {
				t.Errorf("%d connections agreed on ECN", got)
			}
			if w.stat("tcp_ce_received_total") == 0 {
				t.Error("no mark came")
			}
			if cc != "bbr" && w.stat("tcp_ece_reductions_total") == 0 {
				t.Error("no reduction for an echo")
			}
			sent, recoveries := w.stat("tcp_retransmits_total"), w.stat("tcp_fast_retransmits_total")
			stats, err := r.stop()
			if err != nil {
				t.Fatal(err)
			}
			late := uint64(0)
			for _, s := range stats {
				t.Logf("%+v", s)
				late = max(late, s.LateUsMax)
			}
			// Where the relay itself does not get to run for longer than a probe waits, a probe is right.
			if recoveries != 0 || sent != 0 && late < 20_000 {
				t.Errorf("%d retransmissions, %d recoveries on a wire that loses nothing, and was %d us late at most", sent, recoveries, late)
			}
		})
	}
}

// TestSwitchToBBR: a download over a wire that loses 1 % at random, which crawls under CUBIC, goes on under BBR when npctl
// says so, and its model of the path grows. The rates are logged.
func TestSwitchToBBR(t *testing.T) {
	w := newWorld(t, options{relay: true})
	w.mustRelay("delay=10ms", "delay=10ms,rate=60mbit,queue=1mib,loss=1%", 1)
	c := w.mustDial(addr4(19))
	defer c.Close()
	rate := func(d time.Duration) float64 {
		t.Helper()
		_ = c.SetDeadline(time.Now().Add(d))
		n, _ := io.Copy(io.Discard, c)
		return float64(n) * 8 / 1e6 / d.Seconds()
	}
	slow := rate(4 * time.Second)
	id := w.connOf(c.LocalAddr().String()).ID
	if out, code := w.npctl("conn", "set", id, "congestion_control", "bbr"); code != 0 {
		t.Fatalf("npctl conn set: %d %s", code, out)
	}
	rate(3 * time.Second)
	fast := rate(6 * time.Second)
	conn := w.connOf(c.LocalAddr().String())
	out, _ := w.npctl("conn", "show", id, "-i")
	t.Logf("%.1f Mbit/s under CUBIC, %.1f under BBR\n%s", slow, fast, out)
	if conn.TCP.CongestionControl != "bbr" || conn.TCP.BBR == nil || conn.TCP.PacingBps == 0 || conn.TCP.DeliveryBps == 0 {
		t.Errorf("%+v", conn.TCP)
	}
	if !strings.Contains(out, " bbr bbr:(") || !strings.Contains(out, "pacing_rate ") {
		t.Errorf("conn show -i: %s", out)
	}
	for _, bad := range [][]string{{"ffffffffff", "bbr"}, {id, "vegas"}} {
		out, code := w.npctl("conn", "set", bad[0], "congestion_control", bad[1])
		if code == 0 || !strings.Contains(out, "npctl: ") {
			t.Errorf("%v: %d %s", bad, code, out)
		}
		t.Log(strings.TrimSpace(out))
	}
	if list, _ := w.npctl("listener", "list", "-o", "wide"); !strings.Contains(list, "cubic") {
		t.Errorf("listener list -o wide:\n%s", list)
	}
}
