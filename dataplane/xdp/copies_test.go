package xdp

import (
	"bytes"
	"net/netip"
	"testing"
	"time"
)

func (c Counters) firstFour() Counters {
	c.Copied, c.CopyLost = 0, 0
	return c
}

// claim is an ARP packet with a sender.
func claim(op uint16, sender, target netip.Addr) []byte {
	b := arp(op, target)
	copy(b[14:], sender.AsSlice())
	return b
}

// hops255 gives an IPv6 packet the hop limit of neighbor discovery.
func hops255(p []byte) []byte {
	p[7] = 255
	return p
}

// TestCopied: what concerns both goes to the kernel and is copied, whole.
func TestCopied(t *testing.T) {
	link := netip.MustParseAddr("fe80::1")
	query := append([]byte{58, 0, 5, 2, 0, 0, 1, 0, 130}, make([]byte, 27)...)
	long := hops255(ip6(58, allNode, []byte{134}, make([]byte, 512-14-40)))
	var cases [][]byte
	for n := range 17 { // every remainder of eight bytes, and frames shorter than most
		cases = append(cases, eth(0x86dd, hops255(ip6(58, allNode, append([]byte{134}, bytes.Repeat([]byte{byte(n + 1)}, n)...)))))
	}
	cases = append(cases,
		eth(0x0806, claim(1, other4, other4)), eth(0x0806, claim(2, other4, other4)), eth(0x0806, claim(1, own4, other4)),
		eth(0x8100, vlan(7, 0x0806), claim(1, other4, other4)), eth(0x86dd, hops255(ip6(58, allNode, nd(136, other6)))),
		eth(0x86dd, hops255(ip6(58, link, nd(136, other6)))), eth(0x86dd, ip6(0, allNode, query)),
		eth(0x86dd, long[:len(long)-1]))
	not := [][]byte{
		eth(0x0806, claim(1, other4, netip.MustParseAddr("198.18.0.3"))), eth(0x0806, arp(1, other4)),
		eth(0x86dd, ip6(58, allNode, nd(136, other6))), // another hop limit: from elsewhere
		eth(0x86dd, hops255(ip6(58, allNode, nd(137, other6)))), eth(0x86dd, hops255(ip6(17, allNode, nd(136, other6)))),
		eth(0x86dd, ip6(0, allNode, append([]byte{58, 1}, query[2:]...))), eth(0x86dd, ip6(0, allNode, query[:8])),
	}
	p := loaded(t, false)
	for _, a := range []Address{{Addr: own4}, {Addr: own6}} {
		if err := p.AddAddress(a); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan []byte, len(cases)+len(not))
	done := make(chan error, 1)
	go func() { done <- p.Copies(func(f []byte) { got <- bytes.Clone(f) }) }()
	for _, f := range append(not, cases...) {
		if act, _, err := p.prog.Test(f); err != nil || act != actPass {
			t.Errorf("%x: action %d, %v", f, act, err)
		}
	}
	for _, want := range cases {
		select {
		case f := <-got:
			if !bytes.Equal(f, want) {
				t.Errorf("copied %x, want %x", f, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("not copied: %x", want)
		}
	}
	if _, _, err := p.prog.Test(eth(0x86dd, append(long, 1))); err != nil {
		t.Fatal(err)
	}
	if c, err := p.Counters(); err != nil || c.Copied != uint64(len(cases)) || c.CopyLost != 1 || c.Passed != uint64(len(cases)+len(not)+1) {
		t.Error(c, err)
	}
	p.EndCopies()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(got) != 0 {
		t.Errorf("copied too: %x", <-got)
	}
}

// TestCopiesFlood: what the ring cannot hold is counted, and goes to the kernel.
func TestCopiesFlood(t *testing.T) {
	p := loaded(t, false)
	f := eth(0x0806, claim(1, other4, other4))
	for range 1000 {
		if act, _, err := p.prog.Test(f); err != nil || act != actPass {
			t.Fatal(act, err)
		}
	}
	c, err := p.Counters()
	if err != nil || c.CopyLost == 0 || c.Copied == 0 || c.Copied+c.CopyLost != 1000 || c.Passed != 1000 {
		t.Error(c, err)
	}
	p.EndCopies()
	if err := p.Copies(func([]byte) { t.Error("called") }); err != nil {
		t.Error(err)
	}
}
