//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Frames of 9,000 bytes, which take several buffers: received whole from the kernel's TCP, and sent
// whole; what comes back is intact by hash.
func TestJumboTransfer(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{addr4(7), addr6(7)} {
		t.Run(addr, func(t *testing.T) {
			w := newWorld(t, options{mtu: 9000})
			free := w.status().BuffersFree
			c := w.mustDial(addr)
			begin := time.Now()
			n := min(transferBytes(t), 100<<20)
			if err := through(c, n, 3); err != nil {
				t.Fatal(err)
			}
			rx, bytes := w.stat("rx_packets_total"), w.stat("rx_bytes_total")
			t.Logf("%d MiB each way in %v, %d bytes a received packet", n>>20, time.Since(begin).Round(time.Millisecond), bytes/rx)
			if bytes/rx < 4000 {
				t.Errorf("packets received have %d bytes on average: no jumbo frames among them", bytes/rx)
			}
			tx, sent := w.stat("tx_packets_total"), w.stat("tx_bytes_total")
			if sent/tx < 4000 {
				t.Errorf("packets sent have %d bytes on average: no jumbo frames among them", sent/tx)
			}
			for _, reason := range []string{"tcp_bad_checksum", "tcp_too_short", "ip_too_short", "no_buffer"} {
				if d := w.drop(reason); d != 0 {
					t.Errorf("%d packets dropped as %s", d, reason)
				}
			}
			_ = c.Close()
			w.restful(free)
		})
	}
}

// Pings larger than the link, in fragments both ways, and as jumbo frames.
func TestLargePings(t *testing.T) {
	t.Parallel()
	for _, mtu := range []int{1500, 9000} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			w := newWorld(t, options{mtu: mtu})
			free := w.status().BuffersFree
			sizes := []string{"56", "1472", "8900"}
			if mtu == 1500 {
				sizes = append(sizes, "30000", "65000")
			}
			for _, size := range sizes {
				for _, to := range []string{server4, server6} {
					out := w.pings("c", "-n", "-c", "3", "-i", "0.2", "-W", "30", "-s", size, to)
					if !strings.Contains(out, " 0% packet loss") || strings.Contains(out, "wrong data") {
						t.Errorf("ping -s %s %s:\n%s", size, to, out)
					}
				}
			}
			if mtu == 9000 { // in so many small fragments that no port takes the answer in as many pieces
				w.must(w.in("c", "ip", "route", "add", server4+"/32", "dev", "c0", "mtu", "lock", "300"))
				out := w.pings("c", "-n", "-c", "3", "-i", "0.2", "-W", "30", "-M", "dont", "-s", "7000", server4)
				if !strings.Contains(out, " 0% packet loss") || strings.Contains(out, "wrong data") || w.stat("ip_reassembled_total") != 3 {
					t.Errorf("ping in small fragments, %d reassembled:\n%s", w.stat("ip_reassembled_total"), out)
				}
			}
			if mtu == 1500 && w.stat("ip_reassembled_total") < 12 {
				t.Errorf("%d datagrams reassembled, want 12 at least", w.stat("ip_reassembled_total"))
			}
			w.restful(free)
		})
	}
}
