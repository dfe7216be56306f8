package xdp

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	actDrop     = 1 // XDP_DROP: ours, and no socket is there
	actPass     = 2
	actRedirect = 4
)

var (
	own4    = netip.MustParseAddr("198.18.0.1")
	other4  = netip.MustParseAddr("198.18.0.9")
	own6    = netip.MustParseAddr("2001:db8::12:3456")
	other6  = netip.MustParseAddr("2001:db8::99:3456") // same solicited-node group
	group6  = netip.MustParseAddr("ff02::1:ff12:3456")
	allNode = netip.MustParseAddr("ff02::1")
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to load BPF programs")
	}
}

func loaded(t testing.TB, frags bool) *Program {
	t.Helper()
	needRoot(t)
	p, err := load(frags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func eth(proto uint16, rest ...[]byte) []byte {
	b := append(make([]byte, 12), byte(proto>>8), byte(proto))
	return append(b, bytes.Join(rest, nil)...)
}

func vlan(id, proto uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, 0xe000|id), proto)
}

func ip4(dst netip.Addr) []byte {
	b := make([]byte, 20)
	b[0] = 0x45
	copy(b[16:], dst.AsSlice())
	return b
}

func ip6(next byte, dst netip.Addr, rest ...[]byte) []byte {
	b := make([]byte, 40)
	b[0], b[6] = 0x60, next
	copy(b[24:], dst.AsSlice())
	return append(b, bytes.Join(rest, nil)...)
}

func nd(typ byte, target netip.Addr) []byte {
	b := make([]byte, 8)
	b[0] = typ
	return append(b, target.AsSlice()...)
}

func arp(op uint16, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, byte(op >> 8), byte(op), 18: 0}
	b = append(b, make([]byte, 5)...)
	return append(b, target.AsSlice()...)
}

func TestChoose(t *testing.T) {
	badARP := arp(1, own4)
	badARP[4] = 8 // hardware addresses of 8 bytes
	pad := make([]byte, 60)
	later := ip4(own4) // a fragment without ports: offset 1,480
	later[6], later[7] = 0x20, 185
	cases := []struct {
		name  string
		frame []byte
		ours  bool
		short bool
	}{
		{"ethernet alone", eth(0x0800), false, true},
		{"unknown type", eth(0x88cc, pad), false, false},
		{"802.3 length", eth(0x0040, pad), false, false},
		{"v4 to us", eth(0x0800, ip4(own4)), true, false},
		{"v4 to us, wrong version", eth(0x0800, append([]byte{0x15}, ip4(own4)[1:]...)), true, false},
		{"v4 fragment to us", eth(0x0800, later), true, false},
		{"v6 fragment to us", eth(0x86dd, ip6(44, own6, []byte{17, 0, 5, 201, 0, 0, 0, 1})), true, false},
		{"v4 to another", eth(0x0800, ip4(other4)), false, false},
		{"v4 broadcast", eth(0x0800, ip4(netip.MustParseAddr("255.255.255.255"))), false, false},
		{"v4 one byte short", eth(0x0800, ip4(own4)[:19]), false, true},
		{"v4 on our VLAN", eth(0x8100, vlan(7, 0x0800), ip4(netip.MustParseAddr("198.18.7.1"))), true, false},
		{"v4 on our VLAN by 802.1ad", eth(0x88a8, vlan(7, 0x0800), ip4(netip.MustParseAddr("198.18.7.1"))), true, false},
		{"untagged address on a VLAN", eth(0x8100, vlan(7, 0x0800), ip4(own4)), false, false},
		{"VLAN address untagged", eth(0x0800, ip4(netip.MustParseAddr("198.18.7.1"))), false, false},
		{"priority tag", eth(0x8100, vlan(0, 0x0800), ip4(own4)), true, false},
		{"VLAN tag cut", eth(0x8100, []byte{0, 7, 8}), false, true},
		{"two tags", eth(0x88a8, vlan(7, 0x8100), vlan(7, 0x0800), ip4(own4)), false, false},
		{"v4 behind VLAN short", eth(0x8100, vlan(0, 0x0800), ip4(own4)[:12]), false, true},
		{"arp request for us", eth(0x0806, arp(1, own4)), true, false},
		{"arp reply to us", eth(0x0806, arp(2, own4)), true, false},
		{"arp for another", eth(0x0806, arp(1, other4)), false, false},
		{"arp short", eth(0x0806, arp(1, own4)[:27]), false, true},
		{"arp of odd form", eth(0x0806, badARP), false, false},
		{"v6 to us", eth(0x86dd, ip6(6, own6)), true, false},
		{"v6 to us behind a hop-by-hop header", eth(0x86dd, ip6(0, own6, pad)), true, false},
		{"v6 to another", eth(0x86dd, ip6(6, other6)), false, false},
		{"v6 short", eth(0x86dd, ip6(6, own6)[:39]), false, true},
		{"mapped v4 in v6", eth(0x86dd, ip6(6, netip.AddrFrom16(own4.As16()))), true, false},
		{"ns multicast for us", eth(0x86dd, ip6(58, group6, nd(135, own6))), true, false},
		{"ns multicast for a group mate", eth(0x86dd, ip6(58, group6, nd(135, other6))), false, false},
		{"ns unicast to us", eth(0x86dd, ip6(58, own6, nd(135, own6))), true, false},
		{"ns multicast cut", eth(0x86dd, ip6(58, group6, nd(135, own6)[:23])), false, true},
		{"na to us", eth(0x86dd, ip6(58, own6, nd(136, other6))), true, false},
		{"na to all nodes", eth(0x86dd, ip6(58, allNode, nd(136, other6))), false, false},
		{"router advertisement", eth(0x86dd, ip6(58, allNode, nd(134, own6))), false, false},
		{"udp to our group", eth(0x86dd, ip6(17, group6, nd(135, own6))), false, false},
		{"echo to our group", eth(0x86dd, ip6(58, group6, nd(128, own6))), false, false},
	}
	for _, variant := range []bool{false, true} {
		p := loaded(t, variant)
		set := []Address{{Addr: own4}, {Addr: own6}, {Addr: netip.MustParseAddr("198.18.7.1"), VLAN: 7}}
		if err := p.SetAddresses(set); err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			before, err := p.Counters()
			if err != nil {
				t.Fatal(err)
			}
			act, _, err := p.prog.Test(c.frame)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			want := uint32(actPass)
			after := before
			switch {
			case c.ours:
				want = actDrop
				after.Dropped++
			case c.short:
				after.Errors++
			default:
				after.Passed++
			}
			if act != want {
				t.Errorf("%s: action %d, want %d", c.name, act, want)
			}
			if got, _ := p.Counters(); got.firstFour() != after.firstFour() {
				t.Errorf("%s: counters %+v, want %+v", c.name, got, after)
			}
		}
	}
}

func TestRedirect(t *testing.T) {
	p := loaded(t, false)
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skip("no AF_XDP:", err)
	}
	defer unix.Close(fd)
	frame := eth(0x0800, ip4(own4))
	check := func(what string, want uint32) {
		t.Helper()
		if act, _, err := p.prog.Test(frame); err != nil || act != want {
			t.Errorf("%s: action %d, want %d; %v", what, act, want, err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(p.SetSocket(0, fd))
	check("address unknown", actPass)
	must(p.AddAddress(Address{Addr: netip.AddrFrom16(own4.As16())}))
	check("address mapped", actRedirect)
	must(p.ClearSocket(0))
	must(p.ClearSocket(0))
	check("no socket", actDrop)
	must(p.SetSocket(0, fd))
	must(p.SetAddresses([]Address{{Addr: own6}}))
	check("address replaced", actPass)
	must(p.SetAddresses([]Address{{Addr: own6}, {Addr: own4}}))
	check("address again", actRedirect)
	must(p.DelAddress(Address{Addr: own4}))
	must(p.DelAddress(Address{Addr: own4}))
	check("address deleted", actPass)
	if c, err := p.Counters(); err != nil || c != (Counters{Redirected: 2, Passed: 3, Dropped: 1}) {
		t.Error(c, err)
	}
	for _, bad := range []Address{{}, {Addr: netip.IPv4Unspecified()}, {Addr: allNode}, {Addr: own4, VLAN: 4095}} {
		if p.AddAddress(bad) == nil || p.SetAddresses([]Address{bad}) == nil {
			t.Error("accepted", bad)
		}
	}
	if p.SetSocket(QueuesMax, fd) == nil || p.SetSocket(-1, fd) == nil || p.SetSocket(0, 0) == nil {
		t.Error("accepted a wrong queue or descriptor")
	}
	must(p.Close())
	must(p.Close())
	if p.AddAddress(Address{Addr: own4}) == nil {
		t.Error("works after Close")
	}
}

// model is the choice in Go: the program must agree on any bytes.
func model(f []byte, own map[Address]bool) (ours, short bool) {
	if len(f) < 14 {
		return false, true
	}
	proto, at, id := binary.BigEndian.Uint16(f[12:]), f[14:], uint16(0)
	if proto == 0x8100 || proto == 0x88a8 {
		if len(at) < 4 {
			return false, true
		}
		id, proto, at = binary.BigEndian.Uint16(at)&0xfff, binary.BigEndian.Uint16(at[2:]), at[4:]
	}
	need := map[uint16]int{0x0800: 20, 0x0806: 28, 0x86dd: 40}[proto]
	if need == 0 {
		return false, false
	}
	if len(at) < need {
		return false, true
	}
	is := func(b []byte) bool {
		a, _ := netip.AddrFromSlice(b)
		return own[Address{a.Unmap(), id}]
	}
	switch proto {
	case 0x0800:
		return is(at[16:20]), false
	case 0x0806:
		return bytes.Equal(at[:6], []byte{0, 1, 8, 0, 6, 4}) && is(at[24:28]), false
	}
	group := group6.As16()
	switch {
	case is(at[24:40]):
		return true, false
	case !bytes.Equal(at[24:37], group[:13]) || at[6] != 58:
		return false, false
	case len(at) < 64:
		return false, true
	}
	return at[40] == 135 && is(at[48:64]), false
}

// TestChooseRandom compares the program with the model on mutated frames.
func TestChooseRandom(t *testing.T) {
	p := loaded(t, false)
	own := map[Address]bool{{own4, 0}: true, {own6, 0}: true, {own6, 7}: true}
	for a := range own {
		if err := p.AddAddress(a); err != nil {
			t.Fatal(err)
		}
	}
	seeds := [][]byte{
		eth(0x0800, ip4(own4), make([]byte, 20)), eth(0x0806, arp(1, own4)), eth(0x86dd, ip6(58, group6, nd(135, own6))),
		eth(0x86dd, ip6(6, own6)), eth(0x8100, vlan(7, 0x86dd), ip6(58, group6, nd(135, own6))),
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		f := bytes.Clone(seeds[r.IntN(len(seeds))])
		for range r.IntN(3) {
			f[12+r.IntN(len(f)-12)] ^= 1 << r.IntN(8)
		}
		if r.IntN(4) == 0 {
			f = f[:14+r.IntN(len(f)-13)]
		}
		before, _ := p.Counters()
		act, _, err := p.prog.Test(f)
		if err != nil {
			t.Fatal(err)
		}
		after, _ := p.Counters()
		ours, short := model(f, own)
		if (act == actDrop) != ours || (after.Errors != before.Errors) != short {
			t.Fatalf("round %d: action %d, model ours %v short %v: %x", i, act, ours, short, f)
		}
	}
}
