package ports_test

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/np-appliance/np/ctrl/ladder"
	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
)

func entry(a xdp.Action, prefix string) xdp.Entry {
	return xdp.Entry{Prefix: netip.MustParsePrefix(prefix), Action: a}
}

// listed are the entries in force: prefix, action, and * for a live one.
func listed(t *testing.T, m *ports.Manager) string {
	t.Helper()
	f, err := m.Filter("np0", 5)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range f.Entries {
		s := e.Action.String() + " " + e.Prefix.String()
		if e.Live {
			s += "*"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

// TestFilter: what configuration and operators say is in the program, that of a
// device which came back included.
func TestFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, _, m, _ := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		cfg := np0
		cfg.Filter = xdp.Filter{Entries: []xdp.Entry{entry(xdp.Deny, "198.18.5.0/24"), entry(xdp.Allow, "198.18.5.7/32")}, Limits: xdp.Limits{Packets: 100}}
		cfg.KernelPorts = xdp.Ports{TCP: []xdp.PortRange{{First: 22, Last: 22}}}
		for _, c := range []ports.Interface{cfg, vlan(100)} {
			if err := m.Add(ctx, c); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		synctest.Wait()
		check := func(what, want string, limits xdp.Limits) {
			t.Helper()
			if got := listed(t, m); got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
			all := sys.Programs()
			f, kernel := all[len(all)-1].Filter()
			var have []string
			for _, e := range f.Entries {
				have = append(have, e.Action.String()+" "+e.Prefix.String())
			}
			if got := strings.Join(have, ", "); got != strings.ReplaceAll(want, "*", "") || f.Limits != limits || !reflect.DeepEqual(kernel, cfg.KernelPorts) {
				t.Errorf("%s: the program has %s, %+v, %+v", what, got, f.Limits, kernel)
			}
		}
		first := cfg.Filter.Limits
		check("configured", "deny 198.18.5.0/24, allow 198.18.5.7/32", first)
		for _, e := range []xdp.Entry{entry(xdp.Deny, "198.18.6.0/24"), entry(xdp.Deny, "198.18.5.7/32")} {
			if err := m.AddListEntry("np0.100", e); err != nil { // any label of the device
				t.Fatal(err)
			}
		}
		check("added", "deny 198.18.5.0/24, deny 198.18.5.7/32*, deny 198.18.6.0/24*", first)
		if err := m.AddListEntry("np0", entry(xdp.Deny, "198.18.6.0/24")); !errors.Is(err, dataplane.CodeExists) {
			t.Error(err)
		}
		if err := m.AddListEntry("np0", entry(xdp.Deny, "198.18.6.1/24")); !errors.Is(err, dataplane.CodeInvalid) {
			t.Error(err)
		}
		if err := m.DelListEntry("np0", netip.MustParsePrefix("198.18.9.0/24")); !errors.Is(err, dataplane.CodeNotfound) {
			t.Error(err)
		}
		if err := m.AddListEntry("np7", entry(xdp.Deny, "198.18.6.0/24")); !errors.Is(err, dataplane.CodeNotfound) {
			t.Error(err)
		}
		live := xdp.Limits{SYNs: 5, SYNBurst: 9}
		if err := m.ChangeLimits("np0", func(l *xdp.Limits) { *l = live }); err != nil {
			t.Fatal(err)
		}
		sys.Remove("np0")
		synctest.Wait()
		if err := m.DelListEntry("np0", netip.MustParsePrefix("198.18.5.0/24")); err != nil { // while it is gone
			t.Fatal(err)
		}
		if f, err := m.Filter("np0", 5); err != nil || !f.LimitsLive || f.Sources != nil {
			t.Errorf("%+v, %v", f, err)
		}
		sys.Set("np0", true)
		time.Sleep(10 * time.Second)
		check("back", "deny 198.18.5.7/32*, deny 198.18.6.0/24*", live)
		if f, err := m.Filter("np0", 5); err != nil || len(f.Sources) != 1 || f.Entries[0].Hits != 7 {
			t.Errorf("%+v, %v", f, err)
		}
		// A reload: the configuration's entries, and live ones beside them.
		undo, err := m.SetFilter("np0", &xdp.Filter{Entries: []xdp.Entry{entry(xdp.Deny, "198.18.5.0/24"), entry(xdp.Allow, "198.18.6.0/24")}, Limits: first})
		if err != nil {
			t.Fatal(err)
		}
		check("reloaded", "deny 198.18.5.0/24, deny 198.18.5.7/32*, allow 198.18.6.0/24", first)
		if err := undo(); err != nil {
			t.Fatal(err)
		}
		check("undone", "deny 198.18.5.7/32*, deny 198.18.6.0/24*", live)
		// What the program refuses is not remembered either.
		all := sys.Programs()
		all[len(all)-1].RefuseFilter(dataplane.CodeFull)
		if _, err := m.SetFilter("np0", &xdp.Filter{}); !errors.Is(err, dataplane.CodeFull) {
			t.Error(err)
		}
		if err := m.ChangeLimits("np0", func(l *xdp.Limits) { l.SYNs = 1 }); !errors.Is(err, dataplane.CodeFull) {
			t.Error(err)
		}
		check("refused", "deny 198.18.5.7/32*, deny 198.18.6.0/24*", live)
		if err := m.SetKernelPorts("np0", xdp.Ports{}); err != nil {
			t.Error(err)
		}
		cfg.KernelPorts = xdp.Ports{}
		check("ports taken back", "deny 198.18.5.7/32*, deny 198.18.6.0/24*", live)
		cancel()
		<-done
	})
}

// TestFilterOnAFPacket: a backend without a program gets one with the first entry, which
// redirects nothing; TAP can have none.
func TestFilterOnAFPacket(t *testing.T) {
	sys, _, m, _ := setup(t)
	cfg := np0
	cfg.Backend = ladder.AFPacket
	if err := m.Add(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if len(sys.Programs()) != 0 {
		t.Fatal("a program without need")
	}
	sys.Refuse(dataplane.CodeBusy, false)
	if err := m.AddListEntry("np0", entry(xdp.Deny, "198.18.6.0/24")); !errors.Is(err, dataplane.CodeBusy) || listed(t, m) != "" {
		t.Error(err, listed(t, m))
	}
	sys.Refuse(nil, false)
	if err := m.AddListEntry("np0", entry(xdp.Deny, "198.18.6.0/24")); err != nil {
		t.Fatal(err)
	}
	p := sys.Programs()[0]
	if f, _ := p.Filter(); len(f.Entries) != 1 || !p.Behind || len(p.Steered()) != 2 || len(p.Sockets) != 0 {
		t.Errorf("%+v", p)
	}
	if err := m.DelListEntry("np0", netip.MustParsePrefix("198.18.6.0/24")); err != nil || listed(t, m) != "" {
		t.Error(err)
	}
	if err := m.Close(); err != nil || !p.Closed {
		t.Error("left behind", err)
	}
}

// TestFilterTwice: a device has one filter, told by its first interface.
func TestFilterTwice(t *testing.T) {
	_, _, m, _ := setup(t)
	cfg := np0
	cfg.Filter = xdp.Filter{Limits: xdp.Limits{Packets: 1}}
	if err := m.Add(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	second := vlan(5)
	second.Filter = cfg.Filter
	if err := m.Add(t.Context(), second); err == nil || !strings.Contains(err.Error(), "np0.5") {
		t.Error("two filters on a device:", err)
	}
}
