//go:build e2e

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// Kernels without 802.1Q can't make VLAN devices. Here a VLAN of the client is a veth pair, vIDa with the
// addresses and vIDb, and two programs: what leaves by vIDa gets the tag and goes out by c0, what comes in by
// c0 with the tag loses it and goes in by vIDa.
type vlanSwitch struct {
	w     *world
	ids   []int
	links []link.Link
	progs []*ebpf.Program
}

func newVLANSwitch(w *world, ids ...int) *vlanSwitch {
	w.t.Helper()
	s := &vlanSwitch{w: w, ids: ids}
	for _, id := range ids {
		a, b := fmt.Sprintf("v%da", id), fmt.Sprintf("v%db", id)
		w.must(exec.Command("ip", "-n", w.name+"-c", "link", "add", a, "type", "veth", "peer", "name", b))
		w.must(w.in("c", "sysctl", "-qw", "net.ipv6.conf."+a+".accept_dad=0", "net.ipv6.conf."+b+".disable_ipv6=1"))
		for _, dev := range []string{a, b} {
			w.must(w.in("c", "ethtool", "-K", dev, "tx", "off", "tso", "off", "gso", "off", "gro", "off"))
			w.must(w.in("c", "ip", "link", "set", dev, "up"))
		}
		w.must(w.in("c", "ip", "addr", "add", fmt.Sprintf("198.18.%d.2/24", id), "dev", a))
		w.must(w.in("c", "ip", "addr", "add", fmt.Sprintf("2001:db8:%d::2/64", id), "dev", a, "nodad"))
	}
	w.t.Cleanup(s.close)
	s.plug()
	return s
}

func (s *vlanSwitch) close() {
	for _, l := range s.links {
		_ = l.Close()
	}
	for _, p := range s.progs {
		_ = p.Close()
	}
	s.links, s.progs = nil, nil
}

// plug joins the VLANs to the c0 that is there now.
func (s *vlanSwitch) plug() {
	s.w.t.Helper()
	s.close()
	s.w.must(s.w.in("c", "ethtool", "-K", "c0", "txvlan", "off")) // an XDP program sees tags only in the frame
	err := s.w.inClient(func() error {
		c0, err := net.InterfaceByName("c0")
		if err != nil {
			return err
		}
		for _, id := range s.ids {
			dev, err := net.InterfaceByName(fmt.Sprintf("v%db", id))
			if err != nil {
				return err
			}
			if err := s.attach(dev.Index, tagged(id, c0.Index)); err != nil {
				return err
			}
			if err := s.attach(c0.Index, untagged(id, dev.Index)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.w.t.Fatal(err)
	}
}

func (s *vlanSwitch) attach(ifindex int, prog asm.Instructions) error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: prog})
	if err != nil {
		return err
	}
	s.progs = append(s.progs, p)
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: p, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return err
	}
	s.links = append(s.links, l)
	return nil
}

// Offsets in struct __sk_buff.
const (
	skbVLANPresent = 20
	skbVLANTCI     = 24
)

func tagged(id, out int) asm.Instructions {
	return asm.Instructions{
		// the protocol is in network order: htons(0x8100)
		asm.Mov.Imm(asm.R2, int32(binary.NativeEndian.Uint16([]byte{0x81, 0}))),
		asm.Mov.Imm(asm.R3, int32(id)),
		asm.FnSkbVlanPush.Call(),
		asm.Mov.Imm(asm.R1, int32(out)),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
	}
}

func untagged(id, out int) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, skbVLANPresent, asm.Word),
		asm.JEq.Imm(asm.R2, 0, "next"),
		asm.LoadMem(asm.R2, asm.R1, skbVLANTCI, asm.Word),
		asm.And.Imm(asm.R2, 0xfff),
		asm.JNE.Imm(asm.R2, int32(id), "next"),
		asm.FnSkbVlanPop.Call(),
		asm.Mov.Imm(asm.R1, int32(out)),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, -1).WithSymbol("next"), // TCX_NEXT
		asm.Return(),
	}
}

// vlanConfig gives np0 two VLANs beside its untagged interface, with routes by them.
func vlanConfig(on100, on200 string) func(string) string {
	return func(s string) string {
		return s + fmt.Sprintf(`
[[interface]]
name = "np0"
vlan = 100
addresses = [%s]

[[interface]]
name = "np0"
vlan = 200
addresses = [%s]
gateway = ["2001:db8:200::2"]

[[route_ip]]
prefix = "198.19.0.0/16"
via = "198.18.100.2"
interface = "np0.100"
`, on100, on200)
	}
}

const (
	usual100 = `"198.18.100.1/24", "2001:db8:100::1/64"`
	usual200 = `"198.18.200.1/24", "2001:db8:200::1/64"`
)

// vlanAddresses are where the appliance answers, by interface.
var vlanAddresses = map[string][]string{
	"np0":     {server4, server6},
	"np0.100": {"198.18.100.1", "2001:db8:100::1"},
	"np0.200": {"198.18.200.1", "2001:db8:200::1"},
}

func (s *vlanSwitch) echoes(n int) {
	s.w.t.Helper()
	for name, list := range vlanAddresses {
		for _, a := range list {
			s.w.eventually(time.Minute, name+" "+a, func() error {
				c, err := s.w.dial("tcp", net.JoinHostPort(a, "7"))
				if err != nil {
					return err
				}
				defer c.Close()
				return echo(c, n)
			})
		}
	}
}

// interfaces returns the configured addresses of npctl interface list, by name.
func (w *world) interfaces() map[string][]string {
	w.t.Helper()
	out := map[string][]string{}
	for _, i := range query[api.Interfaces](w, "interface", "list").Interfaces {
		slices.Sort(i.Addresses)
		out[i.Name] = i.Addresses
	}
	return out
}

// from dials from an address of the client's own.
func (w *world) from(src, dst string) (net.Conn, error) {
	var conn net.Conn
	err := w.inClient(func() error {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(src), 0))}
		var err error
		conn, err = d.Dial("tcp", net.JoinHostPort(dst, "7"))
		return err
	})
	return conn, err
}

// The kernel's TCP on two VLANs and untagged, at once, by one device: each interface has its own addresses, routes and
// neighbors; the device's new MAC, and the device itself gone and back, bring all of them back.
func TestVLANs(t *testing.T) {
	t.Parallel()
	testVLANs(t, 1)
}

// The same with two queues, each on a core of its own: a flow's packets may come by another queue than its connection's.
func TestVLANsTwoCores(t *testing.T) {
	t.Parallel()
	testVLANs(t, 2)
}

func testVLANs(t *testing.T, queues int) {
	w := newWorld(t, options{queues: queues, env: []string{fmt.Sprintf("NP_DATAPLANE_CORES=%d", queues)}, config: vlanConfig(usual100, usual200)})
	s := newVLANSwitch(w, 100, 200)
	s.echoes(200_000)

	list := query[api.Interfaces](w, "interface", "list").Interfaces
	for i, want := range []struct {
		name   string
		vlan   uint16
		queues int
	}{{"np0", 0, queues}, {"np0.100", 100, 0}, {"np0.200", 200, 0}} {
		if got := list[i]; got.Name != want.name || got.Device != "np0" || got.VLAN != want.vlan || len(got.Queues) != want.queues || got.State != "up" {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	if out, _ := w.npctl("interface", "list"); !strings.Contains(out, "VLAN") || !strings.Contains(out, "np0.200") {
		t.Errorf("npctl interface list:\n%s", out)
	}
	neighbors := map[string]string{}
	for _, n := range query[api.Neighbors](w, "neighbor", "list").Neighbors {
		neighbors[n.Address] = n.Interface
	}
	if neighbors["198.18.0.2"] != "np0" || neighbors["198.18.100.2"] != "np0.100" || neighbors["198.18.200.2"] != "np0.200" {
		t.Errorf("neighbors %v", neighbors)
	}

	// Beyond the links: the answers leave by the routes' interfaces.
	w.must(w.in("c", "ip", "addr", "add", "198.19.0.5/32", "dev", "lo"))
	w.must(w.in("c", "ip", "addr", "add", "2001:db8:99::5/128", "dev", "lo"))
	for src, dst := range map[string]string{"198.19.0.5": "198.18.100.1", "2001:db8:99::5": "2001:db8:200::1"} {
		c, err := w.from(src, dst)
		if err != nil {
			t.Fatalf("%s to %s: %v", src, dst, err)
		}
		if err := echo(c, 50_000); err != nil {
			t.Errorf("%s to %s: %v", src, dst, err)
		}
		_ = c.Close()
	}
	// An address is its own VLAN's only.
	w.must(w.in("c", "ip", "route", "add", "198.18.200.1/32", "dev", "v100a"))
	if c, err := w.from("198.18.100.2", "198.18.200.1"); err == nil {
		_ = c.Close()
		t.Error("VLAN 200's address answers on VLAN 100")
	}
	w.must(w.in("c", "ip", "route", "del", "198.18.200.1/32", "dev", "v100a"))

	open, err := w.dial("tcp", "198.18.100.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	w.must(w.in("s", "ip", "link", "set", "np0", "address", "02:00:00:00:88:02"))
	w.eventually(time.Minute, "another MAC on all", func() error {
		for _, i := range query[api.Interfaces](w, "interface", "list").Interfaces {
			if i.MAC != "02:00:00:00:88:02" || i.State != "up" {
				return fmt.Errorf("%s has %s, is %s", i.Name, i.MAC, i.State)
			}
		}
		return nil
	})
	if err := echo(open, 10_000); err != nil {
		t.Error("the open connection:", err)
	}
	s.echoes(10_000)

	w.must(w.in("s", "ip", "link", "del", "np0"))
	w.eventually(time.Minute, "all interfaces down", func() error {
		for _, i := range query[api.Interfaces](w, "interface", "list").Interfaces {
			if i.State != "down" {
				return errors.New(i.Name + " is " + i.State)
			}
		}
		return nil
	})
	w.returnOf(queues)
	s.plug()
	s.echoes(10_000)
	w.ready()
}

// returnOf makes np0 and c0 anew, as netns.sh made them.
func (w *world) returnOf(queues int) {
	w.t.Helper()
	q := fmt.Sprint(queues)
	w.must(exec.Command("ip", "-n", w.name+"-s", "link", "add", "np0", "numtxqueues", q, "numrxqueues", q, "type", "veth",
		"peer", "name", "c0", "netns", w.name+"-c", "numtxqueues", q, "numrxqueues", q))
	w.must(w.in("c", "sysctl", "-qw", "net.ipv6.conf.c0.accept_dad=0"))
	w.must(w.in("c", "ip", "link", "set", "c0", "up"))
	w.must(w.in("s", "ip", "link", "set", "np0", "up"))
	w.must(w.in("c", "ip", "addr", "add", "198.18.0.2/24", "dev", "c0"))
	w.must(w.in("c", "ip", "addr", "add", "2001:db8::2/64", "dev", "c0", "nodad"))
	w.must(w.in("c", "ethtool", "-K", "c0", "tx", "off", "gro", "off", "tso", "off", "gso", "off"))
}

// reload writes a configuration, sends HUP and waits for what the log says of it.
func (w *world) reload(text, want string) {
	w.t.Helper()
	w.write("np.toml", text)
	seen := strings.Count(w.logTail(100000), want)
	if err := w.npd.Process.Signal(syscall.SIGHUP); err != nil {
		w.t.Fatal(err)
	}
	w.eventually(time.Minute, want, func() error {
		if strings.Count(w.logTail(100000), want) == seen {
			return errors.New("not said")
		}
		return nil
	})
}

// HUP changes addresses of VLANs, all that it asks for or nothing.
func TestVLANReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{config: vlanConfig(usual100, usual200)})
	s := newVLANSwitch(w, 100, 200)
	example := w.must(exec.Command(w.bin+"/npd", "config", "example"))
	const done, refused = "configuration reloaded", "the old one stays in force"
	old := w.interfaces()
	open := w.mustDial("198.18.100.1:7")

	// refused by the stack after others were taken: nothing changes
	w.reload(vlanConfig(usual100+`, "198.18.100.9/24"`, usual200+`, "240.0.0.9/24"`)(example), refused)
	if got := w.interfaces(); fmt.Sprint(got) != fmt.Sprint(old) {
		t.Errorf("after a refused reload %v, before %v", got, old)
	}
	if c, err := w.from("198.18.100.2", "198.18.100.9"); err == nil {
		_ = c.Close()
		t.Error("an address of the refused reload answers")
	}
	// keys that need a restart
	for _, key := range []string{"mtu = 1400", "dad_transmits = 2", "accept_ra = true", "acd = true"} {
		text := vlanConfig(usual100, usual200)(example)
		if strings.HasPrefix(key, "mtu") {
			text = strings.ReplaceAll(text, `name = "np0"`, key+"\nname = \"np0\"")
		} else {
			text = strings.Replace(text, "vlan = 200", "vlan = 200\n"+key, 1)
		}
		w.reload(text, refused)
	}
	s.echoes(1000)

	// one more on one, one less on the other, one moved from VLAN to VLAN
	w.reload(vlanConfig(usual100+`, "198.18.100.9/24"`, usual200+`, "198.18.200.7/24"`)(example), done)
	for _, a := range []string{"198.18.100.9", "198.18.200.7", "198.18.200.1"} {
		if err := echo(w.mustDial(a+":7"), 1000); err != nil {
			t.Error(a, err)
		}
	}
	w.reload(vlanConfig(usual100+`, "198.18.200.7/32"`, `"2001:db8:200::1/64"`)(example), done)
	w.must(w.in("c", "ip", "route", "add", "198.18.200.7/32", "dev", "v100a"))
	w.eventually(time.Minute, "the moved address", func() error {
		c, err := w.dial("tcp", "198.18.200.7:7")
		if err != nil {
			return err
		}
		defer c.Close()
		return echo(c, 1000)
	})
	if c, err := w.from("198.18.200.2", "198.18.200.1"); err == nil {
		_ = c.Close()
		t.Error("an address that was taken away answers")
	}
	if err := echo(open, 10_000); err != nil {
		t.Error("the connection that was open throughout:", err)
	}
}
