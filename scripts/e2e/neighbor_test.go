//go:build e2e

package e2e

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// addressState is what npctl says of one address of np0.
func (w *world) addressState(prefix string) api.Address {
	w.t.Helper()
	for _, i := range query[api.Interfaces](w, "interface", "list").Interfaces {
		for _, a := range i.AddressStates {
			if a.Address == prefix {
				return a
			}
		}
	}
	return api.Address{State: "absent"}
}

// The kernel changes its MAC and says so (gratuitous ARP, unsolicited NA, to all): a transfer towards it goes on
// at once, and does not wait for the neighbor's entry to be doubted (23 s and more).
func TestNeighborChangesMAC(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{}) // its chargen is on port 19
	w.must(w.in("c", "sysctl", "-qw", "net.ipv4.conf.c0.arp_notify=1", "net.ipv6.conf.c0.ndisc_notify=1"))
	for i, a := range []string{addr4(19), addr6(19)} {
		c := w.mustDial(a)
		buf := make([]byte, 1<<20)
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
		mac := fmt.Sprintf("02:00:00:00:77:%02x", i+1)
		w.must(w.in("c", "ip", "link", "set", "c0", "address", mac))
		start := time.Now()
		_ = c.SetDeadline(start.Add(time.Minute))
		for n := 0; n < 8; n++ { // more than was on its way
			if _, err := io.ReadFull(c, buf); err != nil {
				t.Fatalf("%s: %v after the MAC changed: %v", a, time.Since(start), err)
			}
		}
		t.Logf("%s: 8 MiB in %v after the MAC changed", a, time.Since(start))
		found := false
		for _, n := range query[api.Neighbors](w, "neighbor", "list").Neighbors {
			found = found || n.MAC == mac
		}
		if !found {
			t.Errorf("%s: no neighbor has %s", a, mac)
		}
		_ = c.Close()
	}
}

// The kernel has two of the appliance's addresses already: they are found out, not used, and shown; the others work.
func TestDuplicateAddresses(t *testing.T) {
	t.Parallel()
	const dup4, dup6 = "198.18.0.9", "2001:db8::9"
	w := newWorld(t, options{noNpd: true, config: func(s string) string {
		return strings.Replace(s, `addresses = ["198.18.0.1/24", "2001:db8::1/64"]`,
			`acd = true`+"\n"+`addresses = ["198.18.0.1/24", "2001:db8::1/64", "198.18.0.9/24", "2001:db8::9/64"]`, 1)
	}})
	w.must(w.in("c", "ip", "addr", "add", dup4+"/24", "dev", "c0"))
	w.must(w.in("c", "ip", "addr", "add", dup6+"/64", "dev", "c0", "nodad"))
	w.start()
	w.eventually(time.Minute, "addresses judged", func() error {
		for a, want := range map[string]string{server4 + "/24": "preferred", server6 + "/64": "preferred", dup4 + "/24": "duplicate", dup6 + "/64": "duplicate"} {
			if out, code := w.npctl("status"); code > 1 {
				return fmt.Errorf("npctl: %s", out)
			}
			if s := w.addressState(a); s.State != want {
				return fmt.Errorf("%s is %s, want %s", a, s.State, want)
			}
		}
		return nil
	})
	out, code := w.npctl("status")
	if code != 1 || !strings.Contains(out, dup4) || !strings.Contains(out, dup6) {
		t.Errorf("status, exit %d: %s", code, out)
	}
	if out, _ := w.npctl("interface", "list"); !strings.Contains(out, dup6+"/64(duplicate: ") {
		t.Errorf("interface list: %s", out)
	}
	if n := w.stat("address_duplicates_total"); n != 2 {
		t.Errorf("%d duplicates counted", n)
	}
	for _, a := range []string{addr4(7), addr6(7)} {
		if err := echo(w.mustDial(a), 10_000); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
}

// arpFrame is an ARP packet of sender with mac, to dst.
func arpFrame(op byte, mac byte, dst []byte, sender, target string) []byte {
	m := []byte{2, 0, 0, 0, 0x55, mac}
	f := append(append([]byte{}, dst...), m...)
	f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, op)
	f = append(append(f, m...), netip.MustParseAddr(sender).AsSlice()...)
	return append(append(f, 0, 0, 0, 0, 0, 0), netip.MustParseAddr(target).AsSlice()...)
}

// icmp6Frame is an ICMPv6 message with hop limit 255; its checksum is filled.
func icmp6Frame(mac byte, ethDst []byte, src, dst string, icmp []byte) []byte {
	f := append(append([]byte{}, ethDst...), 2, 0, 0, 0, 0x55, mac, 0x86, 0xdd, 0x60, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(icmp)))
	f = append(f, 58, 255)
	f = append(append(f, netip.MustParseAddr(src).AsSlice()...), netip.MustParseAddr(dst).AsSlice()...)
	binary.BigEndian.PutUint16(icmp[2:], 0)
	sum := fold(sum16(icmp, sum16(f[22:54], 58+uint32(len(icmp)))))
	binary.BigEndian.PutUint16(icmp[2:], sum)
	return append(f, icmp...)
}

func ndMessage(typ, flags byte, target string, opt, mac byte) []byte {
	m := append([]byte{typ, 0, 0, 0, flags, 0, 0, 0}, netip.MustParseAddr(target).AsSlice()...)
	return append(m, opt, 1, 2, 0, 0, 0, 0x55, mac)
}

// What a neighbor announces to all reaches the stack although the kernel gets it too (RFC 4861 §7.2.5, RFC 826): an
// entry that is there gets the new MAC within moments, none is made.
func TestAnnouncementsAreSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := newWire(w)
	all := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes := []byte{0x33, 0x33, 0, 0, 0, 1}
	known := func(addr string) string {
		for _, n := range query[api.Neighbors](w, "neighbor", "list").Neighbors {
			if n.Address == addr {
				return n.MAC
			}
		}
		return "none"
	}
	becomes := func(addr, mac string) {
		t.Helper()
		w.eventually(time.Minute, addr+" has "+mac, func() error {
			if got := known(addr); got != mac {
				return fmt.Errorf("it has %s", got)
			}
			return nil
		})
	}
	r.send(arpFrame(1, 1, all, "198.18.0.33", server4))
	r.send(icmp6Frame(1, []byte{0x33, 0x33, 0xff, 0, 0, 1}, "2001:db8::33", "ff02::1:ff00:1", ndMessage(135, 0, server6, 1, 1)))
	becomes("198.18.0.33", "02:00:00:00:55:01")
	becomes("2001:db8::33", "02:00:00:00:55:01")
	r.send(arpFrame(1, 2, all, "198.18.0.44", "198.18.0.44")) // unknown: no entry
	r.send(icmp6Frame(2, allNodes, "2001:db8::44", "ff02::1", ndMessage(136, 0x20, "2001:db8::44", 2, 2)))
	r.send(arpFrame(1, 2, all, "198.18.0.33", "198.18.0.33"))
	r.send(icmp6Frame(2, allNodes, "2001:db8::33", "ff02::1", ndMessage(136, 0x20, "2001:db8::33", 2, 2)))
	becomes("198.18.0.33", "02:00:00:00:55:02")
	becomes("2001:db8::33", "02:00:00:00:55:02")
	if a, b := known("198.18.0.44"), known("2001:db8::44"); a != "none" || b != "none" {
		t.Errorf("entries were made: %s, %s", a, b)
	}
	// Somebody claims the appliance's addresses to all: defended once, seen many times.
	for range 5 {
		r.send(arpFrame(2, 3, all, server4, server4))
		r.send(icmp6Frame(3, allNodes, server6, "ff02::1", ndMessage(136, 0x20, server6, 2, 3)))
	}
	w.eventually(time.Minute, "claims counted", func() error {
		if n := w.stat("address_conflicts_total"); n != 10 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	if n := w.stat("address_defences_total"); n != 2 {
		t.Errorf("%d defences", n)
	}
	if s := w.addressState(server6 + "/64"); s.State != "preferred" || s.Conflicts != 5 || s.Rival != "02:00:00:00:55:03" {
		t.Errorf("%+v", s)
	}
	w.must(w.in("c", "ip", "neigh", "flush", "dev", "c0"))
	for _, a := range []string{addr4(7), addr6(7)} {
		if err := echo(w.mustDial(a), 10_000); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
}

// The kernel stands as a router: an address is made from its prefix and reached, the default route leads by it, and
// the stack's own link-local address answers beside the kernel's on the same interface.
func TestRouterAdvertisement(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{queues: 2, env: []string{"NP_DATAPLANE_CORES=2"}, config: func(s string) string {
		return strings.Replace(s, `name = "np0" `, "accept_ra = true\nname = \"np0\" ", 1)
	}})
	r := newWire(w)
	var link string
	for _, f := range strings.Fields(w.must(w.in("c", "ip", "-6", "-o", "addr", "show", "dev", "c0", "scope", "link"))) {
		if strings.HasPrefix(f, "fe80") {
			link = strings.TrimSuffix(f, "/64")
		}
	}
	ra := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}
	ra = append(ra, 3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x07, 0x08, 0, 0, 0, 0)
	ra = append(ra, netip.MustParseAddr("2001:db8:77::").AsSlice()...)
	ra = append(append(ra, 1, 1), r.client...)
	frame := icmp6Frame(0, []byte{0x33, 0x33, 0, 0, 0, 1}, link, "ff02::1", ra)
	copy(frame[6:], r.client)
	w.must(w.in("c", "ip", "addr", "add", "2001:db8:77::2/64", "dev", "c0", "nodad"))
	w.must(w.in("c", "ip", "addr", "add", "2001:db8:99::1/128", "dev", "lo"))
	r.send(frame)
	find := func(origin string) netip.Addr {
		var found netip.Addr
		w.eventually(time.Minute, "address from "+origin, func() error {
			for _, i := range query[api.Interfaces](w, "interface", "list").Interfaces {
				for _, a := range i.AddressStates {
					if a.Origin == origin && a.State == "preferred" {
						found = netip.MustParsePrefix(a.Address).Addr()
						return nil
					}
				}
			}
			return fmt.Errorf("none")
		})
		return found
	}
	own, ours := find("router"), find("link-local")
	if !netip.MustParsePrefix("2001:db8:77::/64").Contains(own) {
		t.Errorf("made %s", own)
	}
	w.eventually(time.Minute, "echo at "+own.String(), func() error {
		c, err := w.dial("tcp", netip.AddrPortFrom(own, 7).String())
		if err != nil {
			return err
		}
		defer c.Close()
		return echo(c, 100_000)
	})
	// beyond the link: back by the default route
	w.must(w.in("c", "ip", "route", "add", server6+"/128", "dev", "c0", "src", "2001:db8:99::1"))
	c := w.mustDial(addr6(7))
	if a := c.LocalAddr().String(); !strings.HasPrefix(a, "[2001:db8:99::1]") {
		t.Errorf("dialled from %s", a)
	}
	if err := echo(c, 100_000); err != nil {
		t.Error("by the router:", err)
	}
	// the kernel's link-local address of the same interface is another, and is still the kernel's
	kernel := w.must(w.in("s", "ip", "-6", "-o", "addr", "show", "dev", "np0", "scope", "link"))
	if strings.Contains(kernel, ours.String()) {
		t.Errorf("%s is the kernel's as well: %s", ours, kernel)
	}
	c = w.mustDial(netip.AddrPortFrom(ours.WithZone("c0"), 7).String())
	if err := echo(c, 100_000); err != nil {
		t.Error("link-local:", err)
	}
	for _, f := range strings.Fields(kernel) {
		if strings.HasPrefix(f, "fe80") {
			w.pings("c", "-c", "2", "-i", "0.1", "-W", "30", strings.TrimSuffix(f, "/64")+"%c0")
		}
	}
	if n := w.stat("nd_router_advertisements_total"); n != 2 { // each core's
		t.Errorf("%d advertisements used", n)
	}
	if n := w.stat("mld_reports_total"); n < 2 {
		t.Errorf("%d listener reports sent", n)
	}
}

// A VLAN of the interface: tagged frames for its addresses come to the stack, the same untagged or with another tag do not.
func TestVLAN(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{config: func(s string) string {
		return strings.Replace(s, `name = "np0" `, "vlan = 7\nname = \"np0\" ", 1)
	}})
	r := newWire(w)
	all := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for i, tag := range []uint16{0, 7, 8} {
		f := arpFrame(1, byte(i+1), all, fmt.Sprintf("198.18.0.%d", 60+i), server4)
		if tag != 0 {
			f = append(f[:12:12], append([]byte{0x81, 0, byte(tag >> 8), byte(tag)}, f[12:]...)...)
		}
		r.send(f)
	}
	w.eventually(time.Minute, "the tagged one is learned", func() error {
		if list := query[api.Neighbors](w, "neighbor", "list").Neighbors; len(list) != 1 || list[0].Address != "198.18.0.61" || list[0].MAC != "02:00:00:00:55:02" {
			return fmt.Errorf("%+v", list)
		}
		return nil
	})
	time.Sleep(200 * time.Millisecond)
	if n := w.stat("arp_received_total"); n != 1 {
		t.Errorf("%d ARP packets used", n)
	}
}

// The appliance's interface gets another MAC: it is announced, and the kernel's open connections go on.
func TestOwnMACChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	var conns []io.ReadWriter
	for _, a := range []string{addr4(7), addr6(7)} {
		c := w.mustDial(a)
		if err := echo(c, 1000); err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		conns = append(conns, c)
	}
	const mac = "02:00:00:00:88:01"
	w.must(w.in("s", "ip", "link", "set", "np0", "address", mac))
	w.eventually(time.Minute, "taken over", func() error {
		if got := w.status().Interfaces[0].MAC; got != mac {
			return fmt.Errorf("MAC is %s", got)
		}
		return nil
	})
	w.ready()
	for _, c := range conns {
		if _, err := c.Write([]byte("still there?")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 12)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "still there?" {
			t.Errorf("%q, %v", b, err)
		}
	}
	if out := w.must(w.in("c", "ip", "neigh", "show", "dev", "c0")); strings.Count(out, mac) != 2 {
		t.Errorf("the kernel's neighbors: %s", out)
	}
}
