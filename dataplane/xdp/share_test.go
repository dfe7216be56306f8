package xdp

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
)

// TestShare runs frames through both programs: what the sockets get, and what the kernel does not.
func TestShare(t *testing.T) {
	needRoot(t)
	s, err := loadShare()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.SetAddresses([]Address{{Addr: own4}, {Addr: own6}, {Addr: own4, VLAN: 7}}); err != nil {
		t.Fatal(err)
	}
	group := netip.MustParseAddr("ff02::1:ff00:1")
	nodes := netip.MustParseAddr("ff02::1")
	const kernels, ours, boths = "kernel", "ours", "both"
	for _, c := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"to us", frame4(to4(own4, 6, 0, tcpTo(7, 2))), ours}, {"v6", frame6(to6(6, tcpTo(7, 2))), ours},
		{"tagged", eth(0x8100, vlan(7, 0x0800), to4(own4, 6, 0, tcpTo(7, 2))), ours}, {"another tag", eth(0x8100, vlan(8, 0x0800), to4(own4, 6, 0, tcpTo(7, 2))), kernels},
		{"fragment", frame4(to4(own4, 6, 0x2000, tcpTo(7, 2))), ours},
		{"not to us", frame4(to4(other4, 6, 0, tcpTo(7, 2))), kernels},
		{"arp request", eth(0x0806, arp(1, own4)), ours}, {"arp for another", eth(0x0806, arp(1, other4)), kernels},
		{"arp reply", eth(0x0806, claim(2, peer4, own4)), ours}, {"announcement", eth(0x0806, claim(1, peer4, peer4)), boths}, {"claim", eth(0x0806, claim(1, own4, other4)), boths},
		{"arp of another kind", eth(0x0806, append([]byte{0, 6}, arp(1, own4)[2:]...)), kernels},
		{"solicitation", frame6(hops255(ip6(58, group, nd(135, own6)))), ours}, {"for another", frame6(hops255(ip6(58, group, nd(135, peer6)))), kernels},
		{"advertisement to all", frame6(hops255(ip6(58, nodes, nd(136, peer6)))), boths}, {"from afar", frame6(ip6(58, nodes, nd(136, peer6))), kernels},
		{"router", frame6(hops255(ip6(58, nodes, nd(134, peer6)))), boths}, {"mld query", frame6(ip6(0, nodes, append([]byte{58, 0, 5, 2, 0, 0, 1, 0}, nd(130, peer6)...))), boths},
		{"echo to all", frame6(ip6(58, nodes, nd(128, peer6))), kernels}, {"lldp", eth(0x88cc, make([]byte, 46)), kernels},
	} {
		frame := c.frame
		for len(frame) < 60 {
			frame = append(frame, 0)
		}
		keep, err := s.filter.Run(&ebpf.RunOptions{Data: frame})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		verdict, err := s.p.prog.Run(&ebpf.RunOptions{Data: frame})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got := map[[2]bool]string{{false, false}: kernels, {true, true}: ours, {true, false}: boths}[[2]bool{keep != 0, verdict == 2}]
		if got != c.want {
			t.Errorf("%s: %q (keeps %d, verdict %d), want %s", c.name, got, keep, int32(verdict), c.want)
		}
	}
}
