//go:build e2e

package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// synFrom is tcp4 for a SYN whose source is 198.18.0.0/15's n-th host, from the 256th on: none that the client's kernel answers for.
func (r *wire) synFrom(n uint32) []byte {
	f := r.tcp4(uint16(1024+n%60000), 7, n*2654435761, 0, 0x02, []byte{2, 4, 5, 180}, nil)
	ip, t := f[14:34], f[34:]
	binary.BigEndian.PutUint32(ip[12:], 0xc6120000+256+n%130000)
	ip[10], ip[11], t[16], t[17] = 0, 0, 0, 0
	binary.BigEndian.PutUint16(ip[10:], fold(sum16(ip, 0)))
	binary.BigEndian.PutUint16(t[16:], fold(sum16(t, sum16(ip[12:], uint32(6+len(t))))))
	return f
}

// flood sends SYNs from everywhere, each millisecond its share, until ctx ends. It returns how many left.
func (r *wire) flood(ctx context.Context, perSecond int) (int, error) {
	frames := make([][]byte, 100000)
	for i := range frames {
		frames[i] = r.synFrom(uint32(i))
	}
	to := &unix.SockaddrLinklayer{Ifindex: r.ifi.Index, Halen: 6}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	sent, begin := 0, time.Now()
	for {
		select {
		case <-ctx.Done():
			return sent, nil
		case <-tick.C:
		}
		due := min(int(time.Since(begin).Seconds()*float64(perSecond)), sent+perSecond/50)
		for ; sent < due; sent++ {
			if err := unix.Sendto(r.fd, frames[sent%len(frames)], 0, to); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return sent, err
			}
		}
	}
}

// rss is npd's resident memory in KiB.
func (w *world) rss() int {
	w.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.npd.Process.Pid))
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				w.t.Fatal(err)
			}
			return n
		}
	}
	w.t.Fatal("no VmRSS")
	return 0
}

// A hundred thousand SYNs a second (without cookies twenty) from a hundred thousand addresses, for four seconds: each connection of a good client opens and
// echoes meanwhile, with cookies and without; half-open connections, buffers and memory stay bounded; counters tell what happened.
func TestSynFlood(t *testing.T) {
	for _, cookies := range []bool{true, false} {
		// Without cookies a good client has as long to answer as the flood needs to fill the backlog of 512.
		perSecond := 100000
		if !cookies {
			perSecond = 20000
		}
		t.Run(fmt.Sprintf("cookies=%v", cookies), func(t *testing.T) {
			w := newWorld(t, options{env: []string{fmt.Sprintf("NP_TCP_SYN_COOKIES=%v", cookies)}, config: func(s string) string {
				return strings.Replace(s, "#gateway = [\"198.18.0.254\"]", "gateway = [\"198.18.0.2\"]", 1)
			}})
			standing := w.mustDial(addr4(7))
			if err := echo(standing, 1000); err != nil {
				t.Fatal(err)
			}
			r := newWire(w)
			free, rss := w.status().BuffersFree, w.rss()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			type result struct {
				sent int
				err  error
			}
			done := make(chan result, 1)
			go func() {
				n, err := r.flood(ctx, perSecond)
				done <- result{n, err}
			}()
			var took []time.Duration
			low, most := free, uint64(0)
			for begin := time.Now(); time.Since(begin) < 4*time.Second; {
				at := time.Now()
				c, err := w.dial("tcp", addr4(7))
				if err != nil {
					t.Fatalf("connection %d during the flood: %v", len(took)+1, err)
				}
				if err := errors.Join(echo(c, 1000), echo(standing, 1000)); err != nil {
					t.Fatalf("connection %d during the flood: %v", len(took)+1, err)
				}
				_ = c.Close()
				took = append(took, time.Since(at))
				if len(took)%10 == 0 {
					low = min(low, w.status().BuffersFree)
					most = max(most, w.stat("tcp_connections")-w.stat("tcp_timewait_connections"))
				}
			}
			cancel()
			end := <-done
			if end.err != nil {
				t.Fatal(end.err)
			}
			slices.Sort(took)
			t.Logf("%d SYNs in 4 s; %d connections served: median %v, 99 in 100 within %v, slowest %v; at most %d connections at a time; "+
				"%d of %d buffers free at least; resident %d KiB more than before", end.sent, len(took), took[len(took)/2].Round(time.Microsecond),
				took[len(took)*99/100].Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond), most, low, free, w.rss()-rss)
			names := map[string]uint64{}
			for _, name := range []string{"tcp_syn_cookies_sent_total", "tcp_syn_cookies_accepted_total", "tcp_half_open_recycled_total"} {
				names[name] = w.stat(name)
			}
			drops, _ := w.npctl("drops")
			t.Logf("%v\n%s", names, drops)
			if cookies && names["tcp_syn_cookies_sent_total"] < 10000 {
				t.Errorf("%d SYN cookies sent: the flood did not reach the listener", names["tcp_syn_cookies_sent_total"])
			}
			if !cookies && (names["tcp_half_open_recycled_total"] < 10000 || names["tcp_syn_cookies_sent_total"] != 0) {
				t.Errorf("%v: want half-open connections recycled, no cookies", names)
			}
			if most > 512+100 { // those that a turn of the core gave up are still counted
				t.Errorf("%d connections at a time: the backlog is 512", most)
			}
			if low < free/2 {
				t.Errorf("%d of %d buffers free", low, free)
			}
			if more := w.rss() - rss; more > 16<<10 {
				t.Errorf("%d KiB more resident memory", more)
			}
			w.eventually(time.Minute, "ledger", func() error {
				if l := query[api.Drops](w, "drops").Ledger; !l.Balanced {
					return fmt.Errorf("does not sum: %+v", l)
				}
				return nil
			})
		})
	}
}
