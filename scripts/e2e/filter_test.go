//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

const (
	second4 = "198.18.0.3"      // the client's too
	kernel4 = "198.18.0.254"    // of the appliance's host
	other6  = "2001:db8:0:1::3" // the client's, in another /64
)

// nic is what npctl shows of np0.
func (w *world) nic() api.NIC { w.t.Helper(); return query[api.NICAnswer](w, "nic", "show", "np0").NIC }

// do runs npctl, which must succeed.
func (w *world) do(args ...string) {
	w.t.Helper()
	if out, code := w.npctl(args...); code != 0 {
		w.t.Fatalf("npctl %v: exit %d: %s", args, code, out)
	}
}

// dialFrom connects from one of the client's addresses.
func (w *world) dialFrom(local, addr string, limit time.Duration) (c net.Conn, err error) {
	err = w.inClient(func() error {
		d := net.Dialer{Timeout: limit, LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
		c, err = d.Dial("tcp", addr)
		return err
	})
	return c, err
}

// reach opens a connection, echoes and closes it.
func (w *world) reach(local, addr string) error {
	return w.reachWithin(local, addr, 30*time.Second)
}

// kept says whether an address is kept out, for one retransmission's time.
func (w *world) kept(local, addr string) bool {
	return w.reachWithin(local, addr, 1500*time.Millisecond) != nil
}

func (w *world) reachWithin(local, addr string, limit time.Duration) error {
	c, err := w.dialFrom(local, addr, limit)
	if err != nil {
		return err
	}
	return errors.Join(echo(c, 100), c.Close())
}

// echoAt listens by the kernel in a namespace, the appliance's ("s") or the client's ("c").
func (w *world) echoAt(side, addr string) {
	w.t.Helper()
	var l net.Listener
	if err := w.inSide(side, func() (err error) { l, err = net.Listen("tcp", addr); return err }); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				b := make([]byte, 4096)
				for {
					n, err := c.Read(b)
					if err != nil {
						_ = c.Close()
						return
					}
					_, _ = c.Write(b[:n])
				}
			}()
		}
	}()
}

// sent is how many frames the client's end has sent.
func (w *world) sent() uint64 {
	w.t.Helper()
	out := w.must(w.in("c", "cat", "/proc/net/dev"))
	for line := range strings.Lines(out) {
		if name, rest, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && name == "c0" {
			n, err := strconv.ParseUint(strings.Fields(rest)[9], 10, 64)
			if err != nil {
				w.t.Fatal(err)
			}
			return n
		}
	}
	w.t.Fatal("no c0 in /proc/net/dev")
	return 0
}

// filterWorld has further addresses on the client, and one on the host's kernel.
func filterWorld(t *testing.T, filter string) *world {
	t.Helper()
	w := newWorld(t, options{config: func(s string) string {
		return strings.Replace(s, "#filter.deny = []", filter, 1) + "\n[[route_ip]]\nprefix = \"2001:db8:0:1::/64\"\nvia = \"2001:db8::2\"\n"
	}})
	w.must(w.in("c", "ip", "addr", "add", other6+"/64", "dev", "c0", "nodad"))
	w.must(w.in("c", "ip", "addr", "add", second4+"/24", "dev", "c0"))
	w.must(w.in("s", "ip", "addr", "add", kernel4+"/24", "dev", "np0"))
	return w
}

// marks are the frames sent by the client's end and seen by the program so far, at one moment.
func (w *world) marks() (sent, seen uint64) {
	w.t.Helper()
	w.eventually(time.Minute, "a quiet moment", func() error {
		sent = w.sent()
		seen = w.nic().Packets.Seen
		if w.sent() != sent {
			return errors.New("frames come")
		}
		return nil
	})
	return sent, seen
}

// sums waits until the program has counted each frame that the client's end sent since the marks, each once,
// and the port has each that was redirected.
func (w *world) sums(sent, seen uint64) {
	w.t.Helper()
	w.eventually(time.Minute, "XDP's ledger", func() error {
		n := w.nic()
		out := w.sent()
		p := n.Packets
		if p.Seen != p.Redirected+p.Passed+p.Steered+p.Malformed+p.NoSocket+p.Denied+p.RateLimited+p.SYNLimited+p.KernelLimited {
			w.t.Fatalf("does not sum: %+v", p)
		}
		if out-sent != p.Seen-seen {
			return fmt.Errorf("%d frames sent, %d seen: %+v", out-sent, p.Seen-seen, p)
		}
		var got uint64
		for _, q := range query[api.Interfaces](w, "interface", "list").Interfaces[0].Queues {
			got += q.RxPackets + q.RxDropped + q.RxRingFull
		}
		if got != p.Redirected {
			return fmt.Errorf("%d redirected, %d received or lost by the queues", p.Redirected, got)
		}
		return nil
	})
}

// A list takes effect while connections are open, on the appliance's packets alone, in both families; taking the
// entry off restores them; a reload puts the file's list in force; each frame is counted once.
func TestFilterLists(t *testing.T) {
	t.Parallel()
	w := filterWorld(t, "filter.deny = []")
	w.echoAt("s", net.JoinHostPort(kernel4, "22"))
	sent, seen := w.marks()
	standing := w.mustDial(addr4(7))
	if err := errors.Join(echo(standing, 1000), w.reach("198.18.0.2", net.JoinHostPort(kernel4, "22"))); err != nil {
		t.Fatal(err)
	}
	if n := w.nic(); n.XDPMode != "native" || n.XDPReason != "" {
		t.Errorf("mode %q, %q", n.XDPMode, n.XDPReason)
	}
	w.do("nic", "filter", "add", "np0", "198.18.0.0/24", "--deny")
	w.do("nic", "filter", "add", "np0", "2001:db8::/32", "--deny")
	w.do("nic", "filter", "add", "np0", second4, "--allow")
	for local, addr := range map[string]string{"198.18.0.2": addr4(7), "2001:db8::2": addr6(7)} {
		c, err := w.dialFrom(local, addr, 500*time.Millisecond)
		if err == nil {
			_ = c.Close()
			t.Errorf("connected to %s though denied", addr)
		} else if ne := net.Error(nil); !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%s: %v, want silence", addr, err)
		}
	}
	if err := w.reach(second4, addr4(7)); err != nil {
		t.Error("an allowed address in a denied network:", err)
	}
	if err := w.reach("198.18.0.2", net.JoinHostPort(kernel4, "22")); err != nil {
		t.Error("the kernel's own address is cut off:", err)
	}
	_ = standing.SetDeadline(time.Now().Add(300 * time.Millisecond))
	_, _ = standing.Write([]byte("x"))
	if n, err := standing.Read(make([]byte, 10)); err == nil {
		t.Errorf("%d bytes came on an open connection of a denied address", n)
	}
	list := query[api.FilterAnswer](w, "nic", "filter", "list", "np0")
	if len(list.Entries) != 3 || list.Entries[0].Prefix != "198.18.0.0/24" || !list.Entries[0].Live || list.Entries[0].Hits < 3 ||
		list.Entries[1].Hits < 3 || list.Entries[2].Hits < 1 {
		t.Errorf("%+v", list)
	}
	if n := w.drop("denied"); n < 3 {
		t.Errorf("%d packets denied", n)
	}
	w.do("nic", "filter", "delete", "np0", "198.18.0.0/24")
	w.do("nic", "filter", "delete", "np0", "2001:db8::/32")
	_ = standing.SetDeadline(time.Now().Add(10 * time.Second))
	if n, err := standing.Read(make([]byte, 10)); n != 1 || err != nil { // sent again
		t.Errorf("the entry is gone, and an open connection got %d bytes, %v", n, err)
	}
	if err := errors.Join(w.reach("198.18.0.2", addr4(7)), w.reach("2001:db8::2", addr6(7))); err != nil {
		t.Error("the entries are gone:", err)
	}
	// The file's list, by a reload, for all traffic now; and away again.
	text, err := os.ReadFile(w.path("np.toml"))
	if err != nil {
		t.Fatal(err)
	}
	reload := func(filter, applyTo string) {
		t.Helper()
		w.write("np.toml", strings.Replace(string(text), "filter.deny = []", filter, 1))
		_ = w.npd.Process.Signal(syscall.SIGHUP)
		w.eventually(time.Minute, "reload", func() error {
			if f := query[api.FilterAnswer](w, "nic", "filter", "list", "np0"); f.ApplyTo != applyTo {
				return fmt.Errorf("%+v", f)
			}
			return nil
		})
	}
	reload("filter.deny = [\"198.18.0.2/32\"]\nfilter.apply_to = \"all\"", "all")
	if !w.kept("198.18.0.2", net.JoinHostPort(kernel4, "22")) {
		t.Error("the kernel still answers a denied address")
	}
	if err := errors.Join(w.reach(second4, addr4(7)), w.reach(second4, net.JoinHostPort(kernel4, "22"))); err != nil {
		t.Error("another address:", err)
	}
	reload("filter.deny = []", "own")
	if err := w.reach("198.18.0.2", net.JoinHostPort(kernel4, "22")); err != nil {
		t.Error("the kernel's address, not denied any more:", err)
	}
	if list := query[api.FilterAnswer](w, "nic", "filter", "list", "np0"); len(list.Entries) != 1 || list.Entries[0].Action != "allow" || list.ApplyTo != "own" {
		t.Errorf("what was added live is to stay: %+v", list)
	}
	w.sums(sent, seen)
}

// flood sends UDP datagrams from one of the client's addresses until ctx ends, fifty each millisecond: more
// would fill the veth's own ring, which drops whoever comes.
func (w *world) flood(ctx context.Context, local, addr string) (sent int, err error) {
	err = w.inClient(func() error {
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(local)}}
		c, err := d.Dial("udp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		b := make([]byte, 64)
		for ctx.Err() == nil {
			<-tick.C
			for range 50 {
				if _, err := c.Write(b); err == nil {
					sent++
				} else if !errors.Is(err, unix.ENOBUFS) {
					return err
				}
			}
		}
		return nil
	})
	return sent, err
}

// One source floods and is held to its limit, while another is served as ever; in both families.
func TestFilterRate(t *testing.T) {
	for _, c := range []struct{ name, flooder, good, target, service, source string }{
		{"IPv4", second4, "198.18.0.2", addr4(9), addr4(7), second4 + "/32"},
		{"IPv6", other6, "2001:db8::2", addr6(9), addr6(7), "2001:db8:0:1::/64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := filterWorld(t, "filter.rate_pps = 500000")
			sent, seen := w.marks()
			const rate, burst = 1000, 500
			w.do("nic", "limit", "set", "np0", "--pps", fmt.Sprint(rate), "--pps-burst", fmt.Sprint(burst))
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			begin := time.Now()
			type result struct {
				sent int
				err  error
			}
			done := make(chan result, 1)
			go func() {
				n, err := w.flood(ctx, c.flooder, c.target)
				done <- result{n, err}
			}()
			served := 0
			for served == 0 || ctx.Err() == nil {
				if err := w.reach(c.good, c.service); err != nil {
					t.Errorf("connection %d during the flood: %v", served+1, err)
					break
				}
				served++
				time.Sleep(20 * time.Millisecond)
			}
			r := <-done
			if r.err != nil {
				t.Fatal(r.err)
			}
			took := time.Since(begin)
			n := w.nic()
			most := uint64(burst + int(took.Seconds()*rate) + rate/100)
			t.Logf("%d datagrams in %v, %d dropped by the limit, %d connections of another source served", r.sent, took.Round(time.Millisecond), n.Packets.RateLimited, served)
			if r.sent < 3*int(most) {
				t.Fatalf("only %d datagrams: no flood", r.sent)
			}
			if through := uint64(r.sent) - n.Packets.RateLimited; through > most || through < burst {
				t.Errorf("%d of %d datagrams came through, want %d to %d", through, r.sent, burst, most)
			}
			if len(n.Limited) != 1 || n.Limited[0].Source != c.source || n.Limited[0].Packets != n.Packets.RateLimited {
				t.Errorf("limited sources %+v", n.Limited)
			}
			if !n.Limits.Live || n.Limits.Packets != rate {
				t.Errorf("%+v", n.Limits)
			}
			w.do("nic", "limit", "set", "np0", "--pps", "0")
			if err := w.reach(c.flooder, c.service); err != nil {
				t.Error("without a limit:", err)
			}
			w.sums(sent, seen)
		})
	}
}

// Connection attempts of one source are limited, those of others and open connections are not.
func TestFilterSYNs(t *testing.T) {
	w := filterWorld(t, "filter.rate_syn = 1\nfilter.syn_burst = 4")
	var open []net.Conn
	for n := range 4 {
		c, err := w.dialFrom(second4, addr4(7), 30*time.Second)
		if err != nil {
			t.Fatalf("connection %d: %v", n, err)
		}
		t.Cleanup(func() { _ = c.Close() })
		open = append(open, c)
	}
	refused, begin := 0, time.Now()
	for range 4 {
		if c, err := w.dialFrom(second4, addr4(7), 200*time.Millisecond); err != nil {
			refused++
		} else {
			_ = c.Close()
		}
	}
	took := time.Since(begin)
	if refused < 3-int(took.Seconds()) { // one may fall into the refill, and one more each second
		t.Errorf("%d of 4 attempts over the limit refused, within %v", refused, took)
	}
	for _, c := range open {
		if err := echo(c, 1000); err != nil {
			t.Error("an open connection of a limited source:", err)
		}
	}
	if err := errors.Join(w.reach("198.18.0.2", addr4(7)), w.reach("2001:db8::2", addr6(7))); err != nil {
		t.Error("another source:", err)
	}
	n := w.nic()
	if n.Packets.SYNLimited < uint64(refused) || n.Packets.SYNLimited != w.drop("syn_limited") ||
		refused > 0 && (len(n.Limited) != 1 || n.Limited[0].SYNs != n.Packets.SYNLimited) {
		t.Errorf("%+v, %+v", n.Packets, n.Limited)
	}
	w.do("nic", "limit", "set", "np0", "--syn", "0")
	for range 10 {
		if err := w.reach(second4, addr4(7)); err != nil {
			t.Fatal("without a limit:", err)
		}
	}
}

// A device that goes and comes back has its lists and limits, the live ones too, from its first packet on.
func TestFilterOfReturningDevice(t *testing.T) {
	t.Parallel()
	w := filterWorld(t, "filter.deny = [\"198.18.0.2/32\"]")
	w.do("nic", "filter", "add", "np0", "2001:db8::/64", "--deny")
	w.must(w.in("s", "ip", "link", "del", "np0"))
	w.eventually(time.Minute, "interface gone", func() error {
		if w.nic().State == "up" {
			return errors.New("still up")
		}
		return nil
	})
	w.must(w.in("s", "ip", "link", "add", "np0", "type", "veth", "peer", "name", "c0", "netns", w.name+"-c"))
	for _, args := range [][]string{{"addr", "add", "198.18.0.2/24", "dev", "c0"}, {"addr", "add", second4 + "/24", "dev", "c0"}, {"link", "set", "c0", "up"}} {
		w.must(w.in("c", "ip", args...))
	}
	w.must(w.in("c", "ethtool", "-K", "c0", "tx", "off"))
	w.must(w.in("s", "ip", "link", "set", "np0", "up"))
	w.eventually(time.Minute, "interface back", func() error { return w.reachWithin(second4, addr4(7), 1500*time.Millisecond) })
	if !w.kept("198.18.0.2", addr4(7)) {
		t.Error("the configured list is gone")
	}
	if l := query[api.FilterAnswer](w, "nic", "filter", "list", "np0").Entries; len(l) != 2 || l[0].Live || !l[1].Live || l[0].Hits == 0 {
		t.Errorf("%+v", l)
	}
}

// On AF_PACKET, which needs no XDP program, the first entry brings one: it judges the appliance's packets alone, before the
// kernel makes copies of them.
func TestFilterOnAFPacket(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{env: []string{"NP_DATAPLANE_BACKEND=af_packet"}})
	w.must(w.in("c", "ip", "addr", "add", second4+"/24", "dev", "c0"))
	w.must(w.in("s", "ip", "addr", "add", kernel4+"/24", "dev", "np0"))
	w.echoAt("s", net.JoinHostPort(kernel4, "22"))
	if n := w.nic(); n.XDPMode != "" || n.Backend != "af_packet" {
		t.Fatalf("%+v", n)
	}
	if err := w.reach("198.18.0.2", addr4(7)); err != nil {
		t.Fatal(err)
	}
	w.do("nic", "filter", "add", "np0", "198.18.0.2", "--deny")
	w.eventually(time.Minute, "another source", func() error { return w.reachWithin(second4, addr4(7), 1500*time.Millisecond) }) // attaching may drop the carrier
	if !w.kept("198.18.0.2", addr4(7)) {
		t.Error("a denied source was served")
	}
	if err := w.reach("198.18.0.2", net.JoinHostPort(kernel4, "22")); err != nil {
		t.Error("the kernel's own address is cut off:", err)
	}
	if n := w.nic(); n.XDPMode != "native" || n.Packets.Denied < 1 || n.Packets.Redirected+n.Packets.NoSocket != 0 {
		t.Errorf("%+v", n)
	}
	w.do("nic", "filter", "delete", "np0", "198.18.0.2")
	if err := w.reach("198.18.0.2", addr4(7)); err != nil {
		t.Error("the entry is gone:", err)
	}
}
