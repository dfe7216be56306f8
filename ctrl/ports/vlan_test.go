package ports_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
)

// vlan is np0's interface of a VLAN, 198.18.VLAN.1.
func vlan(id uint16) ports.Interface {
	return ports.Interface{Name: "np0", Backend: "auto", VLAN: id, Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(id), 1}), 24)}}
}

// TestVLANs: the interfaces of a device share one program and one set of
// queues, through its going and coming back.
func TestVLANs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, plane, m, _ := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		for _, cfg := range []ports.Interface{np0, vlan(100), vlan(200)} {
			if err := m.Add(ctx, cfg); err != nil {
				t.Fatal(err)
			}
		}
		route := netip.MustParsePrefix("198.19.0.0/16")
		if err := m.AddRoute(ctx, route, netip.MustParseAddr("198.18.100.2"), "np0.100"); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		synctest.Wait()
		want := []xdp.Address{{Addr: np0.Addresses[0].Addr()}, {Addr: np0.Addresses[1].Addr()},
			{Addr: vlan(100).Addresses[0].Addr(), VLAN: 100}, {Addr: vlan(200).Addresses[0].Addr(), VLAN: 200}}
		check := func(programs int, up bool) {
			t.Helper()
			synctest.Wait()
			all := sys.Programs()
			if len(all) != programs {
				t.Fatalf("%d programs, want %d", len(all), programs)
			}
			last := all[programs-1]
			if up && (last.Closed || !slices.Equal(last.Steered(), want) || len(last.Sockets) != 1) {
				t.Errorf("closed %v, steered %v, want %v", last.Closed, last.Steered(), want)
			}
			for i, s := range m.Status() {
				label := []string{"np0", "np0.100", "np0.200"}[i]
				if s.Config.Label() != label || s.Up != up || s.Shared != (i > 0) || s.Port != m.Status()[0].ID || int(s.ID) != i {
					t.Errorf("%s: %+v", label, s)
				}
				if s.Shared && s.Program != (xdp.Counters{}) || !s.Shared && s.Program.Redirected == 0 {
					t.Errorf("%s: the program's packets count once: %+v", label, s.Program)
				}
			}
			if ifs := plane.Interfaces(); len(ifs) != 3 || ifs[1].Config.VLAN != 100 || ifs[1].Config.MTU != ifs[0].Config.MTU || ifs[0].Down == up {
				t.Errorf("%+v", ifs)
			}
			if r := plane.Routes(); len(r) != 1 || r[0].Interface != 1 {
				t.Errorf("routes %+v", r)
			}
		}
		check(1, true)
		sys.Remove("np0")
		check(1, false)
		sys.Set("np0", true)
		time.Sleep(10 * time.Second)
		check(2, true)
		// an address of one VLAN is not another's
		extra := netip.MustParsePrefix("198.18.200.9/24")
		if err := m.AddAddress(ctx, "np0.200", extra); err != nil {
			t.Fatal(err)
		}
		want = append(want, xdp.Address{Addr: extra.Addr(), VLAN: 200})
		check(2, true)
		if err := m.DelAddress(ctx, "np0.100", extra); err == nil {
			t.Error("taken from another VLAN")
		}
		check(2, true)
		if err := m.AddAddress(ctx, "np0.300", extra); !errors.Is(err, dataplane.CodeNotfound) {
			t.Error(err)
		}
		if err := m.Close(); err != nil || !sys.Programs()[1].Closed {
			t.Error("not closed", err)
		}
		cancel()
		<-done
	})
}

// TestVLANsDownAtStart: all of a device's interfaces come with it, after a
// failure on the way too.
func TestVLANsDownAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, plane, m, _ := setup(t)
		sys.Set("np0", false)
		ctx, cancel := context.WithCancel(t.Context())
		for _, cfg := range []ports.Interface{vlan(7), vlan(100)} {
			if err := m.Add(ctx, cfg); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		synctest.Wait()
		if n := len(plane.Interfaces()); n != 0 {
			t.Errorf("%d interfaces of a device that is down", n)
		}
		sys.Set("np0", true)
		synctest.Wait()
		if s := m.Status(); len(s) != 2 || !s[0].Up || !s[1].Up || len(plane.Interfaces()) != 2 {
			t.Errorf("%+v", s)
		}
		cancel()
		<-done
	})
}

func TestVLANsDisagree(t *testing.T) {
	_, _, m, _ := setup(t)
	if err := m.Add(t.Context(), np0); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*ports.Interface){
		"MTU":    func(i *ports.Interface) { i.MTU = 1400 },
		"queues": func(i *ports.Interface) { i.Queues = 2 },
		"mode":   func(i *ports.Interface) { i.Mode = xdp.ModeGeneric },
		"copy":   func(i *ports.Interface) { i.ZeroCopy = dataplane.ZeroCopyOff },
		"twice":  func(i *ports.Interface) { i.VLAN = 0 },
	} {
		cfg := vlan(9)
		change(&cfg)
		if err := m.Add(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), cfg.Label()) || len(m.Status()) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAddressRefused: an address that the program or the plane refuses changes
// neither of them.
func TestAddressRefused(t *testing.T) {
	sys, plane, m, _ := setup(t)
	ctx := t.Context()
	for _, cfg := range []ports.Interface{np0, vlan(100)} {
		if err := m.Add(ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	prog := sys.Programs()[0]
	old, added := vlan(100).Addresses[0], netip.MustParsePrefix("198.18.100.8/24")
	before := prog.Steered()
	check := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, dataplane.CodeFull) {
			t.Errorf("%s: %v", what, err)
		}
		if got := prog.Steered(); !slices.Equal(got, before) {
			t.Errorf("%s: steered %v, want %v", what, got, before)
		}
		if got := plane.Interfaces()[1].Addresses; !slices.Equal(got, []netip.Prefix{old}) {
			t.Errorf("%s: the plane has %v", what, got)
		}
		if got := m.Status()[1].Config.Addresses; !slices.Equal(got, []netip.Prefix{old}) {
			t.Errorf("%s: the manager has %v", what, got)
		}
	}
	prog.RefuseAddress(added.Addr(), dataplane.CodeFull)
	check("program, add", m.AddAddress(ctx, "np0.100", added))
	prog.RefuseAddress(added.Addr(), nil)
	plane.Fail("AddAddress", 1, dataplane.CodeFull)
	check("plane, add", m.AddAddress(ctx, "np0.100", added))
	prog.RefuseAddress(old.Addr(), dataplane.CodeFull)
	check("program, delete", m.DelAddress(ctx, "np0.100", old))
	prog.RefuseAddress(old.Addr(), nil)
	plane.Fail("DelAddress", 1, dataplane.CodeFull)
	check("plane, delete", m.DelAddress(ctx, "np0.100", old))
	if err := m.AddAddress(ctx, "np0.100", added); err != nil {
		t.Error(err)
	}
}
