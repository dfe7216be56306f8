package xdp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/np-appliance/np/dataplane"
)

var peer4, peer6 = netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("2001:db8::2")

// from gives an IP packet its source.
func from(src netip.Addr, packet []byte) []byte {
	p := bytes.Clone(packet)
	if src.Is4() {
		copy(p[12:], src.AsSlice())
	} else {
		copy(p[8:], src.AsSlice())
	}
	return p
}

// to4 and to6 are whole packets to an own address.
func to4(dst netip.Addr, proto byte, frag uint16, rest ...[]byte) []byte {
	b := ip4(dst)
	b[9] = proto
	binary.BigEndian.PutUint16(b[6:], frag)
	return from(peer4, append(b, bytes.Join(rest, nil)...))
}

func to6(next byte, rest ...[]byte) []byte { return from(peer6, ip6(next, own6, rest...)) }

func tcpTo(port uint16, flags byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, 40000)
	binary.BigEndian.PutUint16(b[2:], port)
	b[12], b[13] = 0x50, flags
	return b
}

func udpTo(port uint16) []byte { return append(tcpTo(port, 0)[:4], 0, 8, 0, 0) }

func frame4(p []byte) []byte { return eth(0x0800, p) }
func frame6(p []byte) []byte { return eth(0x86dd, p) }

// ownProgram has the own addresses of the tests, untagged and on VLAN 7.
func ownProgram(t testing.TB) *Program {
	t.Helper()
	p := loaded(t, false)
	if err := p.SetAddresses([]Address{{Addr: own4}, {Addr: own6}, {Addr: own4, VLAN: 7}}); err != nil {
		t.Fatal(err)
	}
	return p
}

func prefixes(action Action, list ...string) (out []Entry) {
	for _, s := range list {
		out = append(out, Entry{netip.MustParsePrefix(s), action})
	}
	return out
}

func set(t testing.TB, p *Program, f Filter) {
	t.Helper()
	if err := p.SetFilter(&f); err != nil {
		t.Fatal(err)
	}
}

// counted runs a frame and says in which counter it ended: exactly one.
func counted(t testing.TB, p *Program, frame []byte) string {
	t.Helper()
	before, err := p.Counters()
	if err != nil {
		t.Fatal(err)
	}
	act, _, err := p.prog.Test(frame)
	if err != nil {
		t.Fatal(err)
	}
	after, err := p.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if after.Seen() != before.Seen()+1 {
		t.Fatalf("%x counts %d times: %+v, %+v", frame, after.Seen()-before.Seen(), before, after)
	}
	for _, c := range []struct {
		name       string
		was, is    uint64
		want, ours uint32
	}{
		{"ours", before.Dropped, after.Dropped, actDrop, actDrop}, // no socket is there
		{"redirected", before.Redirected, after.Redirected, actRedirect, 0},
		{"passed", before.Passed, after.Passed, actPass, 0}, {"steered", before.Steered, after.Steered, actPass, 0},
		{"short", before.Errors, after.Errors, actPass, 0}, {"denied", before.Denied, after.Denied, actDrop, 0},
		{"limited", before.Limited, after.Limited, actDrop, 0}, {"syn limited", before.SYNLimited, after.SYNLimited, actDrop, 0},
		{"kernel limited", before.PassedOver, after.PassedOver, actDrop, 0},
	} {
		if c.is == c.was {
			continue
		}
		if act != c.want {
			t.Fatalf("%x: action %d and counted as %s", frame, act, c.name)
		}
		if after.Copied != before.Copied {
			return c.name + " and copied"
		}
		return c.name
	}
	t.Fatal("no counter moved")
	return ""
}

func TestLists(t *testing.T) {
	p := ownProgram(t)
	list := append(prefixes(Deny, "198.18.0.0/24", "198.18.0.2/32", "2001:db8::/32", "0.0.0.0/1"),
		prefixes(Allow, "198.18.0.0/25", "198.18.0.8/30", "2001:db8:0:1::/64", "2001:db8:0:1:2::5/128")...)
	at := netip.MustParseAddr
	cases := []struct {
		src         string
		own, kernel string // with All off; "" for the same with All on
	}{
		{"198.18.0.2", "denied", "denied"}, // a /32 in an allowed /25 in a denied /24
		{"198.18.0.3", "ours", "passed"}, {"198.18.0.9", "ours", "passed"}, {"198.18.0.129", "denied", "denied"},
		{"198.18.1.1", "ours", "passed"}, {"127.255.255.255", "denied", "denied"}, {"128.0.0.0", "ours", "passed"},
		{"2001:db8::2", "denied", "denied"}, {"2001:db8:0:1::9", "ours", "passed"}, {"2001:db9::", "ours", "passed"},
		{"fe80::1", "ours", "passed"},
	}
	for _, all := range []bool{false, true} {
		set(t, p, Filter{Entries: list, All: all})
		for _, c := range cases {
			src := at(c.src)
			ours, theirs, tagged := frame4(from(src.Unmap(), to4(own4, 17, 0))), frame4(from(src.Unmap(), to4(other4, 17, 0))), []byte(nil)
			if src.Is6() {
				ours, theirs = frame6(from(src, to6(17))), frame6(from(src, ip6(17, other6)))
			} else {
				tagged = eth(0x8100, vlan(7, 0x0800), from(src, to4(own4, 17, 0)))
			}
			if got := counted(t, p, ours); got != c.own {
				t.Errorf("all %v, from %s to us: %s, want %s", all, c.src, got, c.own)
			}
			if tagged != nil {
				if got := counted(t, p, tagged); got != c.own {
					t.Errorf("all %v, from %s to us, tagged: %s, want %s", all, c.src, got, c.own)
				}
			}
			want := "passed"
			if all {
				want = c.kernel
			}
			if got := counted(t, p, theirs); got != want {
				t.Errorf("all %v, from %s to another: %s, want %s", all, c.src, got, want)
			}
		}
	}
	hits, err := p.Hits()
	if err != nil || hits[netip.MustParsePrefix("198.18.0.2/32")] != 2*2+1 || hits[netip.MustParsePrefix("2001:db8::/32")] != 3 ||
		hits[netip.MustParsePrefix("2001:db8:0:1:2::5/128")] != 0 {
		t.Error(hits, err)
	}
	// What stays keeps its count, and what comes begins with none, in a slot used before.
	set(t, p, Filter{Entries: append(prefixes(Deny, "198.18.0.2/32"), prefixes(Allow, "2001:db8::/64")...)})
	if hits, err := p.Hits(); err != nil || len(hits) != 2 || hits[netip.MustParsePrefix("198.18.0.2/32")] != 5 || hits[netip.MustParsePrefix("2001:db8::/64")] != 0 {
		t.Error(hits, err)
	}
	set(t, p, Filter{})
	if got := counted(t, p, frame4(to4(own4, 17, 0))); got != "ours" {
		t.Error("lists emptied:", got)
	}
}

// TestLinkStays: ARP, and discovery from the link, pass whatever the lists say.
func TestLinkStays(t *testing.T) {
	p := ownProgram(t)
	set(t, p, Filter{Entries: prefixes(Deny, "0.0.0.0/0", "::/0"), Limits: Limits{Packets: 1, SYNs: 1}, All: true})
	for range 3 {
		for name, c := range map[string]struct {
			frame []byte
			want  string
		}{
			"arp for us":       {eth(0x0806, arp(1, own4)), "ours"},
			"arp for another":  {eth(0x0806, claim(1, peer4, other4)), "passed"},
			"announcement":     {eth(0x0806, claim(1, other4, other4)), "passed and copied"},
			"ns to us":         {frame6(hops255(from(peer6, ip6(58, group6, nd(135, own6))))), "ours"},
			"ns from afar":     {frame6(from(peer6, ip6(58, group6, nd(135, own6)))), "denied"},
			"na":               {frame6(hops255(from(peer6, ip6(58, allNode, nd(136, other6))))), "passed and copied"},
			"ra":               {frame6(hops255(from(peer6, ip6(58, allNode, nd(134, other6))))), "passed and copied"},
			"echo, 255 hops":   {frame6(hops255(from(peer6, ip6(58, own6, nd(128, own6))))), "denied"},
			"other protocol":   {eth(0x88cc, make([]byte, 60)), "passed"},
			"two tags":         {eth(0x88a8, vlan(7, 0x8100), vlan(7, 0x0800), to4(own4, 17, 0)), "passed"},
			"short":            {eth(0x0800, to4(own4, 17, 0)[:19]), "short"},
			"to us":            {frame4(to4(own4, 17, 0)), "denied"},
			"query for groups": {frame6(from(peer6, ip6(0, allNode, append([]byte{58, 0, 5, 2, 0, 0, 1, 0, 130}, make([]byte, 27)...)))), "denied"},
		} {
			if got := counted(t, p, c.frame); got != c.want {
				t.Errorf("%s: %s, want %s", name, got, c.want)
			}
		}
	}
}

// burst runs n frames at once and says how many ended as what.
func burst(t *testing.T, p *Program, n int, frame []byte) map[string]int {
	t.Helper()
	out := map[string]int{}
	for range n {
		out[counted(t, p, frame)]++
	}
	return out
}

func TestLimits(t *testing.T) {
	p := ownProgram(t)
	// One every ten seconds: what time the test takes changes nothing.
	slow := Limits{Packets: 1, PacketBurst: 10, SYNs: 1, SYNBurst: 3}
	far := netip.MustParseAddr("2001:db8:0:1::2")
	set(t, p, Filter{Limits: slow, Entries: prefixes(Allow, "198.18.0.77/32")})
	p.stretch(t, 100)
	check := func(what string, n int, frame []byte, want map[string]int) {
		t.Helper()
		if got := burst(t, p, n, frame); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	udp := to4(own4, 17, 0, udpTo(9))
	check("packets of one source", 15, frame4(udp), map[string]int{"ours": 10, "limited": 5})
	check("another source", 5, frame4(from(other4, udp)), map[string]int{"ours": 5})
	check("what an entry allows", 20, frame4(from(netip.MustParseAddr("198.18.0.77"), udp)), map[string]int{"ours": 20})
	check("to the kernel", 20, frame4(from(netip.MustParseAddr("198.18.0.55"), to4(netip.MustParseAddr("198.18.0.250"), 17, 0))), map[string]int{"passed": 20})
	check("SYNs", 5, frame6(to6(6, tcpTo(7, 0x02))), map[string]int{"ours": 3, "syn limited": 2})
	check("no SYNs", 5, frame6(to6(6, tcpTo(7, 0x12))), map[string]int{"ours": 5})
	check("of the same /64", 1, frame6(from(netip.MustParseAddr("2001:db8::ffff"), to6(17))), map[string]int{"limited": 1})
	check("of another /64", 1, frame6(from(far, to6(17))), map[string]int{"ours": 1})
	top, err := p.LimitedSources(10)
	want := []LimitedSource{{netip.MustParsePrefix("198.18.0.2/32"), 5, 0}, {netip.MustParsePrefix("2001:db8::/64"), 1, 2}}
	if err != nil || !slices.Equal(top, want) {
		t.Error(top, err)
	}
	if top, err := p.LimitedSources(1); err != nil || len(top) != 1 {
		t.Error(top, err)
	}
	// A change of entries leaves the buckets as they are, a change of limits does not.
	set(t, p, Filter{Limits: slow})
	p.stretch(t, 100)
	check("entries changed", 1, frame4(udp), map[string]int{"limited": 1})
	set(t, p, Filter{Limits: Limits{SYNs: 1}, All: true})
	check("no limit of packets", 12, frame4(udp), map[string]int{"ours": 12})
	check("SYNs to the kernel", 2, frame4(to4(other4, 6, 0, tcpTo(22, 0x02))), map[string]int{"passed": 1, "syn limited": 1})
	set(t, p, Filter{})
	check("no limits", 12, frame6(to6(6, tcpTo(7, 0x02))), map[string]int{"ours": 12})
	if top, err := p.LimitedSources(10); err != nil || top != nil {
		t.Error(top, err)
	}
}

// stretch makes the program's clock slow: all times in its settings become longer.
func (p *Program) stretch(t testing.TB, by uint64) {
	t.Helper()
	var w settings
	if err := p.filter.settings.Lookup(uint32(0), &w); err != nil {
		t.Fatal(err)
	}
	w.PacketNs, w.PacketSlackNs, w.SYNNs, w.SYNSlackNs = w.PacketNs*by, w.PacketSlackNs*by, w.SYNNs*by, w.SYNSlackNs*by
	if err := p.filter.settings.Put(uint32(0), w); err != nil {
		t.Fatal(err)
	}
}

// TestRefill: a source that waited may send again, at its rate.
func TestRefill(t *testing.T) {
	p := ownProgram(t)
	set(t, p, Filter{Limits: Limits{Packets: 100, PacketBurst: 2}})
	frame := frame4(to4(own4, 17, 0))
	run := func(n int) (ok int) {
		for range n {
			if counted(t, p, frame) == "ours" {
				ok++
			}
		}
		return ok
	}
	begin := time.Now()
	ok := run(50)
	if most := 2 + int(time.Since(begin)/(10*time.Millisecond)) + 1; ok < 2 || ok > most {
		t.Errorf("%d of 50 at once, want 2 to %d", ok, most)
	}
	time.Sleep(25 * time.Millisecond)
	if ok := run(1); ok != 1 {
		t.Error("limited after a pause")
	}
}

// chain is n extension headers of 8*(words+1) bytes, the last leading to next.
func chain(typ byte, n, words int, next byte) (first byte, b []byte) {
	first = next
	for range n {
		h := make([]byte, 8*(words+1))
		h[0], h[1] = first, byte(words)
		b = append(h, b...)
		first = typ
	}
	return first, b
}

// TestHiddenSYNs: what hides the flags of TCP counts as a SYN, and nothing honest does.
func TestHiddenSYNs(t *testing.T) {
	p := ownProgram(t)
	syn, ack := tcpTo(7, 0x02), tcpTo(7, 0x10)
	ext := func(typ byte, n, words int, rest []byte) []byte {
		first, b := chain(typ, n, words, 6)
		return frame6(to6(first, b, rest))
	}
	frag6 := func(next byte, off uint16, rest []byte) []byte {
		return frame6(to6(44, []byte{next, 0, byte(off >> 8), byte(off), 0, 0, 0, 1}, rest))
	}
	options := append(to4(own4, 6, 0), make([]byte, 40)...)
	options[0] = 0x4f
	cases := []struct {
		name  string
		frame []byte
		syn   bool
	}{
		{"v4 SYN", frame4(to4(own4, 6, 0, syn)), true},
		{"v4 SYN with ECN's flags", frame4(to4(own4, 6, 0, tcpTo(7, 0xc2))), true},
		{"v4 SYN and FIN", frame4(to4(own4, 6, 0, tcpTo(7, 0x03))), true},
		{"v4 SYN-ACK", frame4(to4(own4, 6, 0, tcpTo(7, 0x12))), false},
		{"v4 ACK", frame4(to4(own4, 6, 0, ack)), false},
		{"v4 SYN behind options", frame4(append(bytes.Clone(options), syn...)), true},
		{"v4 ACK behind options", frame4(append(bytes.Clone(options), ack...)), false},
		{"v4 header of 4 words", eth(0x0800, func() []byte { b := to4(own4, 6, 0, syn); b[0] = 0x44; return b }()), false},
		{"v4 SYN cut", frame4(to4(own4, 6, 0, syn[:13])), false}, // no fragment: the stack drops it
		{"v4 first fragment with the flags", frame4(to4(own4, 6, 0x2000, syn)), true},
		{"v4 first fragment of an ACK", frame4(to4(own4, 6, 0x2000, ack)), false},
		{"v4 first fragment without the flags", frame4(to4(own4, 6, 0x2000, ack[:8])), true},
		{"v4 fragment at 8", frame4(to4(own4, 6, 1, ack)), true},
		{"v4 fragment at 16", frame4(to4(own4, 6, 2, syn)), false},
		{"v4 UDP fragment at 8", frame4(to4(own4, 17, 1, syn)), false},
		{"v4 DF", frame4(to4(own4, 6, 0x4000, ack)), false},
		{"v4 UDP", frame4(to4(own4, 17, 0, syn)), false},
		{"v6 SYN", frame6(to6(6, syn)), true},
		{"v6 ACK", frame6(to6(6, ack)), false},
		{"v6 SYN behind 8 headers", ext(60, 8, 0, syn), true},
		{"v6 ACK behind 8 headers", ext(60, 8, 0, ack), false},
		{"v6 9 headers", ext(60, 9, 0, ack), true},
		{"v6 512 bytes of headers", ext(43, 2, 31, ack), false},
		{"v6 520 bytes of headers", ext(43, 5, 12, ack), true},
		{"v6 header of 2,048 bytes", ext(0, 1, 255, ack), true},
		{"v6 header cut", frame6(to6(60, []byte{6, 0, 0})), true},
		{"v6 header longer than the frame", frame6(to6(60, []byte{6, 9, 0, 0, 0, 0, 0, 0})), false}, // ends behind the frame: no TCP there
		{"v6 atomic fragment, SYN", frag6(6, 0, syn), true},
		{"v6 atomic fragment, ACK", frag6(6, 0, ack), false},
		{"v6 first fragment, ACK", frag6(6, 1, ack), false},
		{"v6 first fragment, cut", frag6(6, 1, ack[:8]), true},
		{"v6 first fragment, chain cut", frag6(60, 1, []byte{6, 0, 0, 0}), true},
		{"v6 fragment at 8", frag6(6, 8, ack), true},
		{"v6 fragment at 16", frag6(6, 16, syn), false},
		{"v6 two fragment headers", frame6(to6(44, []byte{44, 0, 0, 0, 0, 0, 0, 1, 6, 0, 0, 0, 0, 0, 0, 1}, syn)), true},
		{"v6 no next header", frame6(to6(59, syn)), false},
		{"v6 ESP", frame6(to6(50, syn)), false},
	}
	for _, c := range cases {
		set(t, p, Filter{Limits: Limits{SYNs: 1}}) // the source is new each time
		set(t, p, Filter{Limits: Limits{SYNs: 2, SYNBurst: 1}})
		p.stretch(t, 1000)
		if got := burst(t, p, 2, c.frame); (got["syn limited"] == 1) != c.syn || got["syn limited"]+got["ours"] != 2 {
			t.Errorf("%s: %v, a SYN: %v", c.name, got, c.syn)
		}
	}
}

// TestKernelRate: the kernel gets no more than its rate, the appliance all of its own.
func TestKernelRate(t *testing.T) {
	p := ownProgram(t)
	if err := p.SetKernelPorts(Ports{Rate: 10}); err != nil {
		t.Fatal(err)
	}
	passed, limited := 0, 0
	begin := time.Now()
	for range 200 {
		switch got := counted(t, p, frame4(to4(other4, 6, 0, tcpTo(22, 2)))); got {
		case "passed":
			passed++
		case "kernel limited":
			limited++
		default:
			t.Fatal(got)
		}
		if got := counted(t, p, frame4(to4(own4, 6, 0, tcpTo(22, 2)))); got != "ours" {
			t.Fatal(got)
		}
	}
	if most := 3 + int(time.Since(begin).Seconds()*10); passed < 1 || passed > most || limited < 200-most {
		t.Errorf("%d passed, %d at most, %d limited", passed, most, limited)
	}
	if err := p.SetKernelPorts(Ports{}); err != nil {
		t.Fatal(err)
	}
	if got := counted(t, p, frame4(to4(other4, 6, 0, tcpTo(22, 2)))); got != "passed" {
		t.Error("without a rate:", got)
	}
}

func TestKernelPorts(t *testing.T) {
	p := ownProgram(t)
	if err := p.SetKernelPorts(Ports{TCP: []PortRange{{22, 22}, {60000, 65535}}, UDP: []PortRange{{53, 53}}, Protocols: []uint8{89, 112}}); err != nil {
		t.Fatal(err)
	}
	var fromPort = func(port uint16) []byte { // what an ICMP error quotes
		b := tcpTo(1, 0)
		binary.BigEndian.PutUint16(b, port)
		return b[:8]
	}
	err4 := func(typ byte, proto byte, quoted []byte) []byte {
		return frame4(to4(own4, 1, 0, append([]byte{typ, 4}, make([]byte, 6)...), to4(peer4, proto, 0, quoted)))
	}
	err6 := func(typ byte, quoted []byte) []byte {
		return frame6(to6(58, append([]byte{typ, 0}, make([]byte, 6)...), ip6(6, peer6, quoted)))
	}
	tcpFrom := func(port uint16) []byte {
		b := tcpTo(7, 0x12)
		binary.BigEndian.PutUint16(b, port)
		return b
	}
	na := frame6(hops255(from(peer6, ip6(58, own6, nd(136, peer6)))))
	cases := []struct {
		name  string
		frame []byte
		want  string
	}{
		{"ssh", frame4(to4(own4, 6, 0, tcpTo(22, 0x02))), "steered"}, {"ssh, v6", frame6(to6(6, tcpTo(22, 0x10))), "steered"},
		{"ssh behind a header", func() []byte { f, b := chain(60, 1, 0, 6); return frame6(to6(f, b, tcpTo(22, 0x10))) }(), "steered"},
		{"ssh, tagged", eth(0x8100, vlan(7, 0x0800), to4(own4, 6, 0, tcpTo(22, 2))), "steered"},
		{"range", frame4(to4(own4, 6, 0, tcpTo(65535, 2))), "steered"}, {"before it", frame4(to4(own4, 6, 0, tcpTo(59999, 2))), "ours"},
		{"udp 22", frame4(to4(own4, 17, 0, udpTo(22))), "ours"}, {"dns", frame4(to4(own4, 17, 0, udpTo(53))), "steered"},
		{"tcp 53", frame4(to4(own4, 6, 0, tcpTo(53, 2))), "ours"}, {"sctp 22", frame4(to4(own4, 132, 0, tcpTo(22, 2))), "ours"},
		{"port cut", frame4(to4(own4, 6, 0, []byte{0, 9, 0})), "ours"}, {"two bytes of TCP more", frame4(to4(own4, 6, 0, tcpTo(22, 2)[:13])), "ours"},
		{"fragment", frame4(to4(own4, 6, 0x2000, tcpTo(22, 2))), "ours"},
		{"to another address", frame4(to4(other4, 6, 0, tcpTo(22, 2))), "passed"},
		{"error about ours", err4(3, 6, fromPort(7)), "ours"}, {"error about theirs", err4(3, 6, fromPort(22)), "steered"},
		{"time exceeded", err4(11, 17, fromPort(53)), "steered"}, {"echo that looks like it", err4(8, 6, fromPort(22)), "ours"},
		{"error cut", err4(3, 6, fromPort(22)[:1]), "ours"}, {"v6 error", err6(2, fromPort(22)), "steered"},
		{"v6 error about ours", err6(2, fromPort(23)), "ours"}, {"v6 echo", err6(128, fromPort(22)), "ours"},
		{"v4 answer to an echo", frame4(to4(own4, 1, 0, make([]byte, 8))), "steered"}, {"v4 echo", frame4(to4(own4, 1, 0, []byte{8, 7: 0})), "ours"},
		{"v4 answer cut", frame4(to4(own4, 1, 0, make([]byte, 7))), "ours"}, {"error about an echo", err4(3, 1, make([]byte, 8)), "ours"},
		{"v6 answer to an echo", frame6(to6(58, []byte{129, 7: 0})), "steered"},
		{"what the kernel opened", frame4(to4(own4, 6, 0, tcpFrom(22))), "steered"}, {"from a port that any client may have", frame4(to4(own4, 6, 0, tcpFrom(60000))), "ours"},
		{"ospf", frame4(to4(own4, 89, 0, make([]byte, 24))), "steered"}, {"vrrp, v6", frame6(to6(112, make([]byte, 24))), "steered"},
		{"gre", frame4(to4(own4, 47, 0, make([]byte, 24))), "ours"}, {"ospf fragment", frame4(to4(own4, 89, 0x2000, make([]byte, 24))), "ours"},
		{"error about ospf", err4(3, 89, make([]byte, 8)), "steered"},
		{"arp request", eth(0x0806, arp(1, own4)), "ours"}, {"arp reply", eth(0x0806, claim(2, peer4, own4)), "passed and copied"},
		{"na to us", na, "passed and copied"}, {"ns to us", frame6(hops255(from(peer6, ip6(58, own6, nd(135, own6))))), "ours"},
	}
	run := func() {
		t.Helper()
		for _, c := range cases {
			if got := counted(t, p, c.frame); got != c.want {
				t.Errorf("%s: %s, want %s", c.name, got, c.want)
			}
		}
	}
	run()
	// The kernel's ports are outside the filter unless it is for all traffic.
	set(t, p, Filter{Entries: prefixes(Deny, "198.18.0.2/32")})
	if got := counted(t, p, cases[0].frame); got != "steered" {
		t.Error("SSH locked out by a list for the appliance:", got)
	}
	if got := counted(t, p, frame4(to4(own4, 6, 0, tcpTo(7, 2)))); got != "denied" {
		t.Error(got)
	}
	set(t, p, Filter{Entries: prefixes(Deny, "198.18.0.2/32"), All: true})
	if got := counted(t, p, cases[0].frame); got != "denied" {
		t.Error(got)
	}
	set(t, p, Filter{})
	run()
	if err := p.SetKernelPorts(Ports{}); err != nil {
		t.Fatal(err)
	}
	if got := counted(t, p, cases[0].frame); got != "ours" {
		t.Error("ports given back:", got)
	}
	for _, bad := range []Ports{{Rate: -1}, {Rate: RateMax + 1}, {Protocols: []uint8{6}}, {Protocols: []uint8{17}}, {Protocols: []uint8{0}}} {
		if err := p.SetKernelPorts(bad); !errors.Is(err, dataplane.CodeInvalid) {
			t.Error(bad, err)
		}
	}
	for _, bad := range []PortRange{{0, 5}, {7, 6}} {
		if err := p.SetKernelPorts(Ports{UDP: []PortRange{bad}}); !errors.Is(err, dataplane.CodeInvalid) {
			t.Error(bad, err)
		}
	}
}

// TestBehind: where the appliance has copies of what the kernel gets, the filter judges its own packets
// as ever, and what passes goes to the kernel.
func TestBehind(t *testing.T) {
	p := ownProgram(t)
	if err := p.SetBehind(true); err != nil {
		t.Fatal(err)
	}
	set(t, p, Filter{Entries: prefixes(Deny, "198.18.0.2/32")})
	for _, c := range []struct {
		frame []byte
		want  string
	}{
		{frame4(to4(own4, 17, 0)), "denied"}, {frame4(from(netip.MustParseAddr("198.18.0.3"), to4(own4, 17, 0))), "passed"},
		{frame4(to4(other4, 17, 0)), "passed"}, {frame6(to6(17)), "passed"}, {eth(0x0806, arp(1, own4)), "passed"},
		{eth(0x0806, claim(1, other4, other4)), "passed"}, {eth(0x0800, to4(own4, 17, 0)[:19]), "short"},
	} {
		if got := counted(t, p, c.frame); got != c.want {
			t.Errorf("%x: %s, want %s", c.frame, got, c.want)
		}
	}
	if err := p.SetBehind(false); err != nil {
		t.Fatal(err)
	}
	if got := counted(t, p, frame6(to6(17))); got != "ours" {
		t.Error(got)
	}
}

func TestFilterRefused(t *testing.T) {
	p := ownProgram(t)
	good := Filter{Entries: prefixes(Deny, "198.18.0.2/32"), Limits: Limits{Packets: 1000}}
	set(t, p, good)
	many := make([]Entry, EntriesMax+1)
	for i := range many {
		a := binary.BigEndian.AppendUint32(nil, uint32(i)<<8)
		many[i] = Entry{netip.PrefixFrom(netip.AddrFrom4([4]byte(a)), 24), Deny}
	}
	for name, c := range map[string]struct {
		f    Filter
		want error
	}{
		"host bits":  {Filter{Entries: prefixes(Deny, "198.18.0.2/24")}, dataplane.CodeInvalid},
		"twice":      {Filter{Entries: append(prefixes(Deny, "::/0"), prefixes(Allow, "::/0")...)}, dataplane.CodeExists},
		"mapped":     {Filter{Entries: prefixes(Deny, "::ffff:198.18.0.0/112")}, dataplane.CodeInvalid},
		"none":       {Filter{Entries: []Entry{{}}}, dataplane.CodeInvalid},
		"action":     {Filter{Entries: []Entry{{netip.MustParsePrefix("::/0"), 2}}}, dataplane.CodeInvalid},
		"too many":   {Filter{Entries: many}, dataplane.CodeFull},
		"rate":       {Filter{Limits: Limits{Packets: RateMax + 1}}, dataplane.CodeInvalid},
		"negative":   {Filter{Limits: Limits{SYNs: -1}}, dataplane.CodeInvalid},
		"burst":      {Filter{Limits: Limits{SYNs: 1, SYNBurst: BurstMax + 1}}, dataplane.CodeInvalid},
		"burst only": {Filter{Limits: Limits{PacketBurst: 1}}, dataplane.CodeInvalid},
	} {
		if err := p.SetFilter(&c.f); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if got := counted(t, p, frame4(to4(own4, 17, 0))); got != "denied" {
			t.Errorf("%s: the old filter is gone: %s", name, got)
		}
	}
	// As many as there may be, exchanged for as many others.
	full := many[:EntriesMax]
	set(t, p, Filter{Entries: full})
	others := slices.Clone(full)
	for i := range others {
		others[i].Prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, byte(i >> 8), byte(i)}), 32)
	}
	set(t, p, Filter{Entries: others})
	set(t, p, Filter{Entries: full})
	if got := counted(t, p, frame4(from(netip.MustParseAddr("0.0.5.1"), to4(own4, 17, 0)))); got != "denied" {
		t.Error(got)
	}
	p.Close()
	if p.SetFilter(&good) == nil || p.SetKernelPorts(Ports{}) == nil {
		t.Error("works after Close")
	}
	if _, err := p.Hits(); err == nil {
		t.Error("works after Close")
	}
	if _, err := p.LimitedSources(1); err == nil {
		t.Error("works after Close")
	}
}

// TestListExchange: while one list takes another's place each source is judged by
// one of the two.
func TestListExchange(t *testing.T) {
	p := ownProgram(t)
	r := rand.New(rand.NewPCG(3, 4))
	random := func() []Entry {
		m := map[netip.Prefix]Action{}
		for range 20 {
			m[netip.PrefixFrom(netip.AddrFrom4([4]byte{198, byte(r.IntN(4)), byte(r.IntN(4) << 6), 0}), 8+r.IntN(12)).Masked()] = Action(r.IntN(2))
		}
		var out []Entry
		for prefix, a := range m {
			out = append(out, Entry{prefix, a})
		}
		return out
	}
	verdict := func(list []Entry, a netip.Addr) bool {
		denied, bits := false, -1
		for _, e := range list {
			if e.Prefix.Contains(a) && e.Prefix.Bits() > bits {
				denied, bits = e.Action == Deny, e.Prefix.Bits()
			}
		}
		return denied
	}
	sources := make([]netip.Addr, 32)
	for i := range sources {
		sources[i] = netip.AddrFrom4([4]byte{198, byte(i >> 2 & 3), byte(i << 6), 1})
	}
	old := random()
	set(t, p, Filter{Entries: old})
	for round := range 20 {
		next := random()
		come, gone := p.filter.plan(&Filter{Entries: next})
		steps := len(come) + len(gone)
		for n := range steps {
			var err error
			if n < len(come) {
				err = p.filter.put(come[n])
			} else {
				err = p.filter.del(gone[n-len(come)])
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range sources {
				denied := counted(t, p, frame4(from(a, to4(own4, 17, 0)))) == "denied"
				if denied != verdict(old, a) && denied != verdict(next, a) || n == steps-1 && denied != verdict(next, a) {
					t.Fatalf("round %d, step %d of %d: %s denied %v: old list %v, new list %v", round, n+1, steps, a, denied, old, next)
				}
			}
		}
		old = next
	}
}
