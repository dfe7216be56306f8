package xdp

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

// upperModel is what matters of a packet's upper layer: a port and whose it is, and
// whether it counts as a SYN. Written from the documents, not from the program.
type upperModel struct {
	proto byte // whose port, TCP or UDP; another one without; ICMP: an answer to an echo; 0 none
	port  uint16
	peer  uint16 // the other port of TCP or UDP itself, when it is below 1024
	syn   bool
}

func u16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }

func modelUpper(proto byte, b []byte, first bool) (u upperModel) {
	if proto == 6 {
		if len(b) < 14 {
			return upperModel{syn: first}
		}
		u.syn = b[13]&0x12 == 0x02
	}
	if first {
		return u
	}
	switch {
	case proto == 6 || proto == 17:
		if len(b) < 4 {
			break
		}
		u.proto, u.port = proto, u16(b[2:])
		if peer := u16(b); peer < 1024 {
			u.peer = peer
		}
	case proto == 1 && len(b) >= 8 && b[0] == 0, proto == 58 && len(b) >= 8 && b[0] == 129:
		u.proto = 1
	case proto == 1 && len(b) >= 28 && (b[0] == 3 || b[0] == 11 || b[0] == 12) && u16(b[14:])&0x1fff == 0:
		if quoted := b[8:]; len(quoted) >= int(quoted[0]&15)*4+2 {
			u.proto, u.port = quoted[9], u16(quoted[quoted[0]&15*4:])
			if u.proto == 1 { // what a quoted packet asked for is no answer to it
				u.proto = 0
			}
		}
	case proto == 58 && len(b) >= 50 && b[0] >= 1 && b[0] <= 4:
		u.proto, u.port = b[14], u16(b[48:])
		if u.proto == 1 {
			u.proto = 0
		}
	case proto != 1 && proto != 58:
		u.proto = proto
	}
	return u
}

func modelUpper4(p []byte) upperModel {
	header, frag := int(p[0]&15)*4, u16(p[6:])
	offset, more := int(frag&0x1fff)*8, frag&0x2000 != 0
	switch {
	case header < 20:
		return upperModel{}
	case offset > 0:
		return upperModel{syn: offset == 8 && p[9] == 6}
	}
	return modelUpper(p[9], p[min(header, len(p)):], more)
}

func modelUpper6(p []byte) upperModel {
	next, at, first := p[6], 40, false
	for headers := 0; ; headers++ {
		switch next {
		case 0, 43, 44, 60:
		default:
			return modelUpper(next, p[min(at, len(p)):], first)
		}
		if headers == 8 || len(p) < at+8 {
			return upperModel{syn: true}
		}
		size := (int(p[at+1]) + 1) * 8
		if next == 44 {
			frag := u16(p[at+2:])
			if offset := frag &^ 7; offset != 0 {
				return upperModel{syn: offset == 8 && p[at] == 6}
			}
			first, size = first || frag&1 != 0, 8
		}
		next, at = p[at], at+size
		if at > 40+512 {
			return upperModel{syn: true}
		}
	}
}

// modelFilter says how a frame ends, and whether a limit of SYNs would hold it up.
func modelFilter(f []byte, own map[Address]bool, list []Entry, kernel func(proto byte, port uint16) bool, all bool) (kind string, syn bool) {
	ours, short := model(f, own)
	kind = map[bool]string{true: "ours", false: "passed"}[ours]
	if short {
		return "short", false
	}
	proto, p := u16(f[12:]), f[14:]
	if proto == 0x8100 || proto == 0x88a8 {
		proto, p = u16(p[2:]), p[4:]
	}
	var src netip.Addr
	var u upperModel
	switch proto {
	case 0x0800:
		src, u = netip.AddrFrom4([4]byte(p[12:16])), modelUpper4(p)
	case 0x86dd:
		if p[6] == 58 && p[7] == 255 && len(p) > 40 && p[40] >= 133 && p[40] <= 137 {
			if p[40] == 136 {
				kind = "passed"
			}
			return kind, false
		}
		src, u = netip.AddrFrom16([16]byte(p[8:24])), modelUpper6(p)
	case 0x0806:
		if ours && u16(p[6:]) == 2 {
			kind = "passed"
		}
		return kind, false
	default:
		return kind, false
	}
	if ours && (kernel(u.proto, u.port) || u.peer > 0 && kernel(u.proto, u.peer)) {
		kind = "steered"
	}
	if kind != "ours" && !all {
		return kind, false
	}
	bits, allowed := -1, false
	for _, e := range list {
		if e.Prefix.Addr().Is4() == src.Is4() && e.Prefix.Bits() > bits {
			if same, err := src.Prefix(e.Prefix.Bits()); err == nil && same == e.Prefix {
				bits, allowed = e.Prefix.Bits(), e.Action == Allow
			}
		}
	}
	switch {
	case bits >= 0 && !allowed:
		return "denied", false
	case bits >= 0:
		return kind, false
	}
	return kind, u.syn
}

// differential compares the program in the kernel with the model: lists, kernel ports and a
// limit of SYNs are on, in one program for the appliance's packets, in another, the variant
// for fragments, for all.
type differential struct {
	list     []Entry
	own      map[Address]bool
	programs map[bool]*Program
}

func newDifferential(t testing.TB) *differential {
	t.Helper()
	needRoot(t)
	d := &differential{own: map[Address]bool{{own4, 0}: true, {own6, 0}: true, {own4, 7}: true}, programs: map[bool]*Program{},
		list: append(prefixes(Deny, "198.18.64.0/18", "198.18.66.6/32", "2001:db8:f::/48", "8000::/1"), prefixes(Allow, "198.18.66.0/24", "2001:db8:f:1::/64")...)}
	for _, all := range []bool{false, true} {
		p := loaded(t, all)
		for a := range d.own {
			if err := p.AddAddress(a); err != nil {
				t.Fatal(err)
			}
		}
		set(t, p, Filter{Entries: d.list, All: all, Limits: Limits{SYNs: 1}})
		if err := p.SetKernelPorts(Ports{TCP: []PortRange{{22, 22}}, UDP: []PortRange{{0x8000, 0xffff}}, Protocols: []uint8{89, 200}}); err != nil {
			t.Fatal(err)
		}
		p.stretch(t, 1000000)
		d.programs[all] = p
	}
	return d
}

func (d *differential) kernel(proto byte, port uint16) bool {
	return proto == 1 || proto == 6 && port == 22 || proto == 17 && port >= 0x8000 || proto == 89 || proto == 200
}

// check runs a frame twice: one that counts as a SYN exceeds the limit the second time at the latest.
func (d *differential) check(t testing.TB, frame []byte) {
	t.Helper()
	for all, p := range d.programs {
		want, syn := modelFilter(frame, d.own, d.list, d.kernel, all)
		if got, _ := strings.CutSuffix(counted(t, p, frame), " and copied"); got != want && (!syn || got != "syn limited") {
			t.Fatalf("all %v: %s, model %s: %x", all, got, want, frame)
		}
		if syn {
			want = "syn limited"
		}
		if got, _ := strings.CutSuffix(counted(t, p, frame), " and copied"); got != want {
			t.Fatalf("all %v, the second time: %s, model %s: %x", all, got, want, frame)
		}
	}
}

// FuzzProgram runs arbitrary frames through the program in the kernel and the model.
func FuzzProgram(f *testing.F) {
	d := newDifferential(f)
	for _, b := range seeds() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < 14 || len(frame) > 2000 { // what the kernel runs a program on
			return
		}
		d.check(t, frame)
	})
}

// TestFilterRandom does the same with mutations near what the program reads.
func TestFilterRandom(t *testing.T) {
	d := newDifferential(t)
	all := seeds()
	for _, f := range all {
		d.check(t, f)
	}
	r := rand.New(rand.NewPCG(5, 6))
	values := []byte{0, 1, 2, 6, 8, 17, 43, 44, 58, 60, 0x20, 0x45, 0x46, 0xff}
	for range 4000 {
		f := bytes.Clone(all[r.IntN(len(all))])
		for range 1 + r.IntN(3) {
			at := 12 + r.IntN(len(f)-12)
			if r.IntN(2) == 0 {
				f[at] = values[r.IntN(len(values))]
			} else {
				f[at] ^= 1 << r.IntN(8)
			}
		}
		if r.IntN(4) == 0 {
			f = f[:14+r.IntN(len(f)-13)]
		}
		d.check(t, f)
	}
}

// seeds are frames of every kind the program tells apart.
func seeds() [][]byte {
	syn, udp := tcpTo(7, 0x02), udpTo(0x9000)
	out := [][]byte{eth(0x0800, ip4(own4)), eth(0x0806, arp(1, own4)), eth(0x0806, claim(2, peer4, own4)), eth(0x88cc, make([]byte, 46)),
		frame4(to4(own4, 6, 0, syn)), frame4(to4(own4, 6, 0x2000, syn)), frame4(to4(own4, 6, 1, syn)), frame4(to4(own4, 17, 0, udp)), frame4(to4(other4, 6, 0, syn)),
		frame4(from(netip.MustParseAddr("198.18.66.6"), to4(own4, 6, 0, syn))), frame4(from(netip.MustParseAddr("198.18.66.7"), to4(own4, 6, 0, syn))),
		frame4(to4(own4, 1, 0, make([]byte, 8), to4(peer4, 6, 0, tcpTo(22, 0)))), eth(0x8100, vlan(7, 0x0800), to4(own4, 6, 0, tcpTo(22, 0x10))),
		frame6(to6(6, syn)), frame6(to6(17, udp)), frame6(from(netip.MustParseAddr("2001:db8:f:1::9"), to6(6, syn))),
		frame6(to6(44, []byte{6, 0, 0, 1, 0, 0, 0, 1}, syn)), frame6(to6(44, []byte{6, 0, 0, 8, 0, 0, 0, 1}, syn)),
		frame6(hops255(from(peer6, ip6(58, group6, nd(135, own6))))), frame6(hops255(from(peer6, ip6(58, own6, nd(136, own6))))),
		frame4(to4(own4, 1, 0, make([]byte, 8))), frame6(to6(58, []byte{129, 0, 0, 0, 0, 0, 0, 0})), frame6(to6(58, []byte{1, 0, 0, 0, 0, 0, 0, 0}, ip6(6, peer6, tcpTo(1, 0)))), frame6(ip6(17, other6, udp))}
	for _, n := range []int{1, 8, 9} {
		first, b := chain(60, n, n%3, 6)
		out = append(out, frame6(to6(first, b, syn)))
	}
	return out
}
