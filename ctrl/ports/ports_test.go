package ports_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/np-appliance/np/ctrl/ladder"
	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/ctrl/ports/portstest"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/fake"
	"github.com/np-appliance/np/dataplane/xdp"
)

var np0 = ports.Interface{Name: "np0", Backend: "auto", Addresses: []netip.Prefix{netip.MustParsePrefix("198.18.0.1/24"), netip.MustParsePrefix("2001:db8::1/64")}}

func setup(t *testing.T) (*portstest.System, *fake.Plane, *ports.Manager, *bytes.Buffer) {
	t.Helper()
	sys, plane, log := portstest.New("np0"), fake.New(fake.Options{}), &bytes.Buffer{}
	t.Cleanup(func() { plane.Close() })
	return sys, plane, ports.New(sys, plane, slog.New(slog.NewTextHandler(log, nil)), time.Now), log
}

func TestLadder(t *testing.T) {
	unsupported := dataplane.CodeUnsupported
	tests := []struct {
		name   string
		change func(*ports.Interface)
		system func(*portstest.System)
		plane  func(*fake.Plane)
		want   string // chosen rung, or part of the error
		fails  bool
		rungs  int
	}{
		{"zero-copy", func(*ports.Interface) {}, nil, nil, ladder.ZeroCopy, false, 2},
		{"copy", func(*ports.Interface) {}, nil, func(p *fake.Plane) { p.Fail("AddInterface", 1, unsupported) }, ladder.Copy, false, 3},
		{"af_xdp has no dpdk rung", func(i *ports.Interface) { i.Backend = "af_xdp" }, nil, nil, ladder.ZeroCopy, false, 1},
		{"zero-copy off", func(i *ports.Interface) { i.ZeroCopy = dataplane.ZeroCopyOff }, nil, nil, ladder.Copy, false, 2},
		{"must", func(i *ports.Interface) { i.ZeroCopy = dataplane.ZeroCopyMust }, nil, func(p *fake.Plane) { p.Fail("AddInterface", 1, unsupported) }, "af_xdp zero-copy refused", true, 0},
		{"strict", func(i *ports.Interface) { i.Strict = true }, nil, func(p *fake.Plane) { p.Fail("AddInterface", 1, unsupported) }, "af_xdp zero-copy refused", true, 0},
		{"generic", func(*ports.Interface) {}, func(s *portstest.System) { s.Refuse(nil, true) }, nil, ladder.Copy, false, 3},
		{"not permitted", func(*ports.Interface) {}, nil, func(p *fake.Plane) { p.Fail("AddInterface", 9, dataplane.CodePerm) }, "not permitted", true, 0},
		{"AF_XDP refused", func(*ports.Interface) {}, func(s *portstest.System) { s.Refuse(dataplane.CodePerm, false) }, nil, ladder.AFPacket, false, 4},
		{"sockets refused", func(*ports.Interface) {}, nil, func(p *fake.Plane) { p.Fail("AddInterface", 2, unsupported) }, ladder.AFPacket, false, 4},
		{"af_packet asked for", func(i *ports.Interface) { i.Backend = ladder.AFPacket }, nil, nil, ladder.AFPacket, false, 1},
		{"af_packet with a filter", func(i *ports.Interface) {
			i.Backend, i.Filter.Limits.SYNs = ladder.AFPacket, 9
		}, nil, nil, ladder.AFPacket, false, 1},
		{"no filter without XDP", func(i *ports.Interface) {
			i.Backend, i.Filter.Limits.SYNs = ladder.AFPacket, 9
		}, func(s *portstest.System) { s.Refuse(dataplane.CodePerm, false) }, nil, "the filter needs the XDP program", true, 0},
		{"strict, no af_packet", func(i *ports.Interface) { i.Strict = true }, func(s *portstest.System) { s.Refuse(dataplane.CodePerm, false) }, nil, "af_xdp zero-copy refused", true, 0},
		{"DPDK", func(i *ports.Interface) { i.Device = "0000:00:04.0" }, nil, nil, ladder.DPDK, false, 1},
		{"DPDK refused", func(i *ports.Interface) { i.Device = "0000:00:04.0" }, nil, func(p *fake.Plane) { p.Fail("AddInterface", 1, dataplane.CodeNodev) }, ladder.ZeroCopy, false, 2},
		{"DPDK's card is the kernel's", func(i *ports.Interface) { i.Device = "0000:00:04.0" }, nil, func(p *fake.Plane) { p.Fail("AddInterface", 1, dataplane.CodeBusy) }, ladder.ZeroCopy, false, 2},
		{"DPDK or nothing", func(i *ports.Interface) { i.Backend, i.Device, i.Strict = ladder.DPDK, "net_ring0", true }, nil, func(p *fake.Plane) { p.Fail("AddInterface", 1, unsupported) }, "dpdk refused", true, 0},
		{"DPDK without a device", func(i *ports.Interface) { i.Backend = ladder.DPDK }, nil, nil, ladder.ZeroCopy, false, 2},
		{"DPDK without a device, strict", func(i *ports.Interface) { i.Backend, i.Strict = ladder.DPDK, true }, nil, nil, "dpdk refused: interface np0 has no device", true, 0},
		{"DPDK without the kernel's", func(i *ports.Interface) { i.Name, i.Device = "np7", "net_ring0" }, nil, nil, ladder.DPDK, false, 1},
		{"nothing without the kernel's", func(i *ports.Interface) { i.Name, i.Device = "np7", "net_ring0" }, nil, func(p *fake.Plane) { p.Fail("AddInterface", 1, unsupported) }, "no such interface", true, 0},
		{"TAP", func(i *ports.Interface) { i.Name, i.Backend = "np7", ladder.TAP }, nil, nil, ladder.TAP, false, 1},
		{"busy for a moment", func(*ports.Interface) {}, nil, func(p *fake.Plane) { p.Fail("AddInterface", 3, dataplane.CodeBusy) }, ladder.ZeroCopy, false, 2},
		{"XDP refused", func(*ports.Interface) {}, func(s *portstest.System) { s.Refuse(dataplane.CodeBusy, false) }, nil, "busy", true, 0},
		{"unknown", func(i *ports.Interface) { i.Name = "np7" }, nil, nil, "interface np7: no such interface (there are: [np0])", true, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sys, plane, m, log := setup(t)
				cfg := np0
				tt.change(&cfg)
				if tt.system != nil {
					tt.system(sys)
				}
				if tt.plane != nil {
					tt.plane(plane)
				}
				err := m.Add(t.Context(), cfg)
				if tt.fails {
					if err == nil || !strings.Contains(err.Error(), tt.want) {
						t.Errorf("got %v, want %s", err, tt.want)
					}
					for _, p := range sys.Programs() {
						if !p.Closed {
							t.Error("XDP program left behind")
						}
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				s := m.Status()[0]
				if len(s.Ladder) != tt.rungs || !s.Ladder[tt.rungs-1].Chosen || s.Ladder[tt.rungs-1].Backend != tt.want || !s.Up {
					t.Errorf("%+v", s)
				}
				for _, r := range s.Ladder[:tt.rungs-1] {
					if r.Reason == "" || !strings.Contains(log.String(), "backend refused") {
						t.Errorf("rung left silently: %+v", r)
					}
				}
				xdpRung := tt.want == ladder.ZeroCopy || tt.want == ladder.Copy
				for _, prog := range sys.Programs() {
					if prog.Closed {
						continue
					}
					if steered := len(prog.Addresses) == 2 && prog.Sockets[0] == -1; steered != xdpRung {
						t.Errorf("steered: %+v", prog)
					}
					if f, _ := prog.Filter(); !xdpRung && f.Limits.SYNs == 0 {
						t.Error("a program without a use")
					}
				}
				if n := len(sys.Programs()); xdpRung && n != 1 {
					t.Errorf("%d programs", n)
				}
				if err := m.Close(); err != nil {
					t.Error("not closed", err)
				}
				for _, prog := range sys.Programs() {
					if !prog.Closed {
						t.Error("XDP program left behind")
					}
				}
			})
		})
	}
}

// TestVanish follows an interface that goes and comes back, down first, with
// another index, and refusing for a while.
func TestVanish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, plane, m, log := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		if err := m.Add(ctx, np0); err != nil {
			t.Fatal(err)
		}
		if err := m.AddRoute(ctx, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("198.18.0.254"), "np0"); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		look := func(up bool, reason string) {
			t.Helper()
			synctest.Wait()
			if s := m.Status()[0]; s.Up != up || !strings.Contains(s.Reason, reason) {
				t.Errorf("up %v %q, want %v %q", s.Up, s.Reason, up, reason)
			}
		}
		look(true, "")
		sys.Set("np0", false)
		look(false, "link is down")
		if plane.Interfaces()[0].Down {
			t.Error("detached though the device is there")
		}
		sys.Set("np0", true)
		look(true, "")
		sys.Remove("np0")
		look(false, "interface is gone")
		if !plane.Interfaces()[0].Down || !sys.Programs()[0].Closed {
			t.Error("not detached")
		}
		sys.Set("np0", false)
		look(false, "link is down")
		plane.Fail("ReattachInterface", 6, errors.New("not yet")) // two climbs of three rungs
		sys.Set("np0", true)
		look(false, "not yet")
		time.Sleep(10 * time.Second)
		look(true, "")
		if plane.Interfaces()[0].Down || len(plane.Routes()) != 1 {
			t.Error("not taken back")
		}
		s := m.Status()[0]
		if s.Device.Index != 3 || s.Program.Redirected < 20 {
			t.Errorf("index %d, redirected %d: counters of the first program are lost", s.Device.Index, s.Program.Redirected)
		}
		if n := strings.Count(log.String(), "interface down"); n > 8 {
			t.Errorf("%d lines about going down", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestDownAtStart: an interface that is down is taken when it comes up, and
// its routes with it.
func TestDownAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, plane, m, _ := setup(t)
		sys.Set("np0", false)
		ctx, cancel := context.WithCancel(t.Context())
		if err := m.Add(ctx, np0); err != nil {
			t.Fatal(err)
		}
		if err := m.AddRoute(ctx, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("198.18.0.254"), "np0"); err != nil {
			t.Fatal(err)
		}
		if _, ok := m.ID("np0"); ok || len(plane.Routes()) != 0 {
			t.Error("in the plane already")
		}
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		synctest.Wait()
		sys.Set("np0", true)
		synctest.Wait()
		if s := m.Status()[0]; !s.Up || len(plane.Routes()) != 1 {
			t.Errorf("%+v, %d routes", s, len(plane.Routes()))
		}
		cancel()
		<-done
	})
}

// TestGoneBeforeWatch: an interface that vanishes after Add and before the
// watch begins is in none of its reports.
func TestGoneBeforeWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, plane, m, _ := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		if err := m.Add(ctx, np0); err != nil {
			t.Fatal(err)
		}
		sys.Remove("np0")
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s := m.Status()[0]; s.Up || !strings.Contains(s.Reason, "gone") || !plane.Interfaces()[0].Down {
			t.Errorf("%+v", s)
		}
		sys.Set("np0", true)
		synctest.Wait()
		if s := m.Status()[0]; !s.Up {
			t.Errorf("not taken back: %+v", s)
		}
		cancel()
		<-done
	})
}

// TestCarrierAtStart: a driver that drops the carrier while the program is
// attached is starting, not down, unless it stays without for two seconds.
func TestCarrierAtStart(t *testing.T) {
	for _, returns := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			sys, _, m, log := setup(t)
			ctx, cancel := context.WithCancel(t.Context())
			if err := m.Add(ctx, np0); err != nil {
				t.Fatal(err)
			}
			sys.SetCarrier("np0", false)
			done := make(chan error, 1)
			go func() { done <- m.Run(ctx) }()
			synctest.Wait()
			if s := m.Status()[0]; s.Up || !s.Starting {
				t.Errorf("up %v, starting %v", s.Up, s.Starting)
			}
			time.Sleep(time.Second)
			if returns {
				sys.SetCarrier("np0", true)
			}
			time.Sleep(1500 * time.Millisecond)
			synctest.Wait()
			if s := m.Status()[0]; s.Up != returns || s.Starting {
				t.Errorf("up %v, starting %v, carrier %v", s.Up, s.Starting, returns)
			}
			if said := strings.Contains(log.String(), "interface down"); said == returns || strings.Contains(log.String(), "up again") {
				t.Errorf("carrier %v: %s", returns, log)
			}
			sys.SetCarrier("np0", true)
			synctest.Wait()
			sys.SetCarrier("np0", false)
			synctest.Wait()
			if s := m.Status()[0]; s.Up || s.Starting {
				t.Error("a later loss is not told at once")
			}
			cancel()
			<-done
		})
	}
}

func TestAddressesAndRoutes(t *testing.T) {
	sys, plane, m, _ := setup(t)
	ctx := t.Context()
	if err := m.Add(ctx, np0); err != nil {
		t.Fatal(err)
	}
	extra := netip.MustParsePrefix("198.18.0.7/24")
	if err := m.AddAddress(ctx, "np0", extra); err != nil {
		t.Fatal(err)
	}
	prog := sys.Programs()[0]
	if !prog.Addresses[xdp.Address{Addr: extra.Addr()}] || len(plane.Interfaces()[0].Addresses) != 3 || len(m.Status()[0].Config.Addresses) != 3 {
		t.Error("address not everywhere")
	}
	if err := m.AddAddress(ctx, "np0", extra); !errors.Is(err, dataplane.CodeExists) {
		t.Errorf("twice: %v", err)
	}
	if err := m.DelAddress(ctx, "np0", extra); err != nil || prog.Addresses[xdp.Address{Addr: extra.Addr()}] || len(plane.Interfaces()[0].Addresses) != 2 {
		t.Errorf("address still there: %v", err)
	}
	if err := m.AddAddress(ctx, "np9", extra); !errors.Is(err, dataplane.CodeNotfound) {
		t.Errorf("unknown interface: %v", err)
	}
	p, via := netip.MustParsePrefix("203.0.113.0/24"), netip.MustParseAddr("198.18.0.9")
	if err := m.DelRoute(ctx, p, via, "np0"); !errors.Is(err, dataplane.CodeNotfound) {
		t.Errorf("unknown route: %v", err)
	}
	if err := m.AddRoute(ctx, p, via, "np0"); err != nil || len(plane.Routes()) != 1 {
		t.Error(err)
	}
	if err := m.DelRoute(ctx, p, via, "np0"); err != nil || len(plane.Routes()) != 0 {
		t.Error(err)
	}
}

func TestMTU(t *testing.T) {
	for _, tt := range []struct{ cfg, device, want int }{{0, 1500, 1500}, {0, 9000, ports.MTUMax}, {1400, 1500, 1400}, {3000, 1500, 1500}} {
		if got := ports.MTU(&ports.Interface{MTU: tt.cfg}, &xdp.Interface{MTU: tt.device}); got != tt.want {
			t.Errorf("MTU %d on %d gives %d, want %d", tt.cfg, tt.device, got, tt.want)
		}
	}
}

// TestAddresses: what the plane finds out about addresses is said once.
func TestAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, plane, m, log := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if err := m.Add(ctx, np0); err != nil {
			t.Fatal(err)
		}
		id, _ := m.ID("np0")
		go m.Run(ctx)
		rival := []byte{2, 0, 0, 0, 0, 0x66}
		a := dataplane.Address{Prefix: netip.MustParsePrefix("2001:db8::1/64"), Interface: id}
		for _, step := range []struct {
			state     dataplane.AddressState
			conflicts uint32
			want      string
		}{
			{dataplane.AddressTentative, 0, ""},
			{dataplane.AddressPreferred, 0, "address is unique, in use"},
			{dataplane.AddressPreferred, 1, "another host claims an address of ours"},
			{dataplane.AddressPreferred, 50, ""},
			{dataplane.AddressDuplicate, 51, "address is in use by another host, not used"},
			{dataplane.AddressDuplicate, 51, ""},
		} {
			log.Reset()
			a.State, a.Conflicts, a.Rival = step.state, step.conflicts, rival
			plane.SetAddresses(id, []dataplane.Address{a})
			m.AddressesChanged()
			synctest.Wait()
			got := log.String()
			if step.want == "" && got != "" || !strings.Contains(got, step.want) {
				t.Errorf("%s, %d conflicts: %q, want %q", step.state, step.conflicts, got, step.want)
			}
			if step.conflicts > 0 && got != "" && !strings.Contains(got, "02:00:00:00:00:66") {
				t.Errorf("the rival is not named: %s", got)
			}
		}
		cancel()
		synctest.Wait()
	})
}

// TestCopies: the stack sees what the program copied, a flood of it no faster
// than it may come, and the reading ends with the manager.
func TestCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, plane, m, _ := setup(t)
		frames := make([][]byte, 200)
		for i := range frames {
			frames[i] = []byte{byte(i)}
		}
		sys.SetFrames(frames...)
		if err := m.Add(t.Context(), np0); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := len(plane.Observed()); n != 64 {
			t.Errorf("%d frames at once", n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(plane.Observed()); n != len(frames) {
			t.Errorf("%d frames in all, want %d", n, len(frames))
		}
		if err := m.Close(); err != nil || !sys.Programs()[0].Ended {
			t.Error("not ended", err)
		}
	})
}

// TestLearnedAddresses: what the stack makes itself is steered to it, and no
// longer when it is gone or somebody else's.
func TestLearnedAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, plane, m, _ := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		cfg := np0
		cfg.VLAN = 5
		if err := m.Add(ctx, cfg); err != nil {
			t.Fatal(err)
		}
		id, _ := m.ID("np0")
		link, slaac := netip.MustParseAddr("fe80::7"), netip.MustParseAddr("2001:db8:9::7")
		give := func(s dataplane.AddressState, addrs ...netip.Addr) {
			list := []dataplane.Address{{Prefix: cfg.Addresses[0], Interface: id, State: dataplane.AddressPreferred}}
			for _, a := range addrs {
				list = append(list, dataplane.Address{Prefix: netip.PrefixFrom(a, 64), Interface: id, State: s, Origin: dataplane.AddressSLAAC})
			}
			list = append(list, dataplane.Address{Prefix: netip.MustParsePrefix("fe80::9/64"), Interface: id + 1, Origin: dataplane.AddressLinkLocal})
			plane.SetAddresses(id, list)
			m.AddressesChanged()
			synctest.Wait()
		}
		go m.Run(ctx)
		for _, step := range []struct {
			state dataplane.AddressState
			addrs []netip.Addr
			want  int
		}{{dataplane.AddressTentative, []netip.Addr{link}, 1}, {dataplane.AddressPreferred, []netip.Addr{link, slaac}, 2},
			{dataplane.AddressDuplicate, []netip.Addr{link}, 0}, {dataplane.AddressDeprecated, []netip.Addr{slaac}, 1}, {0, nil, 0}} {
			give(step.state, step.addrs...)
			got := sys.Programs()[0].Addresses
			if len(got) != len(cfg.Addresses)+step.want {
				t.Errorf("%s %v: steered %v", step.state, step.addrs, got)
			}
			for _, a := range step.addrs {
				if got[xdp.Address{Addr: a, VLAN: 5}] != (step.want > 0) {
					t.Errorf("%s %s: steered %v", step.state, a, got)
				}
			}
		}
		// Another program, after the device came back, has them too.
		give(dataplane.AddressPreferred, slaac)
		sys.Remove("np0")
		synctest.Wait()
		sys.Set("np0", true)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if p := sys.Programs(); len(p) != 2 || !p[1].Addresses[xdp.Address{Addr: slaac, VLAN: 5}] {
			t.Error("not steered after the return")
		}
		cancel()
		synctest.Wait()
	})
}

// TestMACChanges: the stack gets an interface anew whose MAC was changed, and
// keeps it when nothing changed.
func TestMACChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, _, m, _ := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if err := m.Add(ctx, np0); err != nil {
			t.Fatal(err)
		}
		go m.Run(ctx)
		synctest.Wait()
		sys.Set("np0", true) // the same again
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(sys.Programs()); n != 1 {
			t.Errorf("%d programs", n)
		}
		mac := []byte{2, 0, 0, 0, 0x99, 1}
		sys.SetMAC("np0", mac)
		time.Sleep(time.Second)
		synctest.Wait()
		s := m.Status()[0]
		if !s.Up || !bytes.Equal(s.Device.MAC, mac) || len(sys.Programs()) != 2 || !sys.Programs()[0].Closed {
			t.Errorf("%+v, %d programs", s, len(sys.Programs()))
		}
		cancel()
		synctest.Wait()
	})
}

// TestDeviceOfThePlane follows a device that the kernel does not know: its link
// goes and comes, then the device itself.
func TestDeviceOfThePlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, plane, m, log := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		cfg := np0
		cfg.Name, cfg.Device = "np7", "0000:00:04.0"
		if err := m.Add(ctx, cfg); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		look := func(up bool, reason string) {
			t.Helper()
			synctest.Wait()
			if s := m.Status()[0]; s.Up != up || !strings.Contains(s.Reason, reason) {
				t.Errorf("up %v %q, want %v %q", s.Up, s.Reason, up, reason)
			}
		}
		look(true, "")
		id, _ := m.ID("np7")
		m.PortChanged(id, dataplane.CodePortdown)
		look(false, "link is down")
		if plane.Interfaces()[0].Down {
			t.Error("closed though only its link is down")
		}
		m.PortChanged(id, dataplane.CodeOK)
		look(true, "")
		plane.Fail("ReattachInterface", 8, dataplane.CodeNodev)
		m.PortChanged(id, dataplane.CodeNodev)
		look(false, "the device is gone")
		if !plane.Interfaces()[0].Down {
			t.Error("not closed")
		}
		time.Sleep(time.Second)
		look(false, "dpdk refused: ")
		time.Sleep(time.Minute)
		look(true, "")
		if s := m.Status()[0]; ladder.Actual(s.Ladder) != ladder.DPDK || plane.Interfaces()[0].Down {
			t.Errorf("%+v", s)
		}
		if n := strings.Count(log.String(), "backend refused"); n != 2 {
			t.Errorf("%d lines about the refusal of DPDK and, without the kernel's interface, all below: %s", n, log)
		}
		cancel()
		<-done
	})
}

// TestSetBackend changes a device's backend while it runs; what is refused leaves it
// where it was.
func TestSetBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, plane, m, _ := setup(t)
		ctx := t.Context()
		for _, cfg := range []ports.Interface{np0, vlan(100)} {
			if err := m.Add(ctx, cfg); err != nil {
				t.Fatal(err)
			}
		}
		check := func(what, requested, actual string, programs int) {
			t.Helper()
			s := m.Status()
			if s[0].Config.Backend != requested || s[1].Config.Backend != requested || ladder.Actual(s[0].Ladder) != actual || !s[0].Up || !s[1].Up || plane.Interfaces()[0].Down {
				t.Errorf("%s: %+v", what, s)
			}
			open := 0
			for _, p := range sys.Programs() {
				if !p.Closed {
					open++
				}
			}
			if open != programs {
				t.Errorf("%s: %d XDP programs", what, open)
			}
		}
		if err := m.SetBackend(ctx, "np0.100", ladder.AFPacket, ""); err != nil {
			t.Fatal(err)
		}
		check("af_packet", ladder.AFPacket, ladder.AFPacket, 0)
		if err := m.SetBackend(ctx, "np0", ladder.Auto, ""); err != nil {
			t.Fatal(err)
		}
		check("auto", ladder.Auto, ladder.ZeroCopy, 1)
		for _, bad := range [][3]string{{"np0", "best", ""}, {"np0", ladder.TAP, ""}, {"np0", ladder.AFXDP, "net_ring0"}, {"np7", ladder.Auto, ""}} {
			if err := m.SetBackend(ctx, bad[0], bad[1], bad[2]); err == nil {
				t.Errorf("%v taken", bad)
			}
		}
		check("mistakes", ladder.Auto, ladder.ZeroCopy, 1)
		plane.Fail("ReattachInterface", 1, dataplane.CodeUnsupported)
		if err := m.SetBackend(ctx, "np0", ladder.AFPacket, ""); !errors.Is(err, dataplane.CodeUnsupported) {
			t.Error(err)
		}
		check("refused", ladder.Auto, ladder.ZeroCopy, 1)
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestFindBound: a card that is bound for DPDK while it is in use goes on there, and
// back on the kernel's interface when that returns.
func TestFindBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, plane, m, _ := setup(t)
		var bound atomic.Value
		bound.Store("")
		m.FindBound(func(name string) string {
			if name != "np0" {
				return ""
			}
			return bound.Load().(string)
		})
		ctx, cancel := context.WithCancel(t.Context())
		for _, cfg := range []ports.Interface{np0, vlan(100)} {
			if err := m.Add(ctx, cfg); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		look := func(up bool, backend, device string) {
			t.Helper()
			synctest.Wait()
			s := m.Status()
			if s[0].Up != up || up && ladder.Actual(s[0].Ladder) != backend || s[1].Config.Device != device {
				t.Errorf("%+v, want %v %s", s[0], up, backend)
			}
		}
		look(true, ladder.ZeroCopy, "")
		sys.Remove("np0") // what the kernel sees of npctl nic bind
		look(false, "", "")
		bound.Store("0000:00:04.0")
		time.Sleep(10 * time.Second)
		look(true, ladder.DPDK, "0000:00:04.0")
		if err := m.Add(ctx, vlan(200)); err != nil {
			t.Error(err)
		}
		// And of npctl nic unbind.
		id, _ := m.ID("np0")
		bound.Store("")
		m.PortChanged(id, dataplane.CodeNodev)
		sys.Set("np0", true)
		time.Sleep(10 * time.Second)
		look(true, ladder.ZeroCopy, "")
		if ifs := plane.Interfaces(); len(ifs) != 3 || ifs[0].Down {
			t.Errorf("%+v", ifs)
		}
		cancel()
		<-done
	})
}
