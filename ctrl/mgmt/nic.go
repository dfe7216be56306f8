package mgmt

import (
	"net/http"
	"net/netip"
	"slices"
	"strconv"

	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/dataplane/xdp"
)

// sourcesDefault is how many limited sources are told unless the query says.
const sourcesDefault = 10

func xdpPackets(c *xdp.Counters) api.XDPPackets {
	return api.XDPPackets{Seen: c.Seen(), Redirected: c.Redirected, Passed: c.Passed, Steered: c.Steered, Malformed: c.Errors,
		NoSocket: c.Dropped, Denied: c.Denied, RateLimited: c.Limited, SYNLimited: c.SYNLimited, KernelLimited: c.PassedOver}
}

func limitsView(f *ports.FilterStatus) api.Limits {
	l := f.Limits.InForce()
	return api.Limits{Packets: l.Packets, PacketBurst: l.PacketBurst, SYNs: l.SYNs, SYNBurst: l.SYNBurst, Live: f.LimitsLive}
}

func applyTo(f *ports.FilterStatus) string {
	if f.All {
		return "all"
	}
	return "own"
}

func portRanges(list []xdp.PortRange) []api.PortRange {
	out := []api.PortRange{}
	for _, r := range list {
		out = append(out, api.PortRange{First: r.First, Last: r.Last})
	}
	return out
}

// nicView is the device of p, the status of its first interface.
func (s *Server) nicView(p *ports.Status, sources int) (api.NIC, error) {
	f, err := s.cfg.Ports.Filter(p.Config.Name, sources)
	if err != nil {
		return api.NIC{}, err
	}
	n := api.NIC{Name: p.Config.Name, Driver: p.Device.Driver, MAC: p.Device.MAC.String(), RxQueues: p.Device.RXQueues, NUMANode: p.Device.NUMANode,
		State: "down", Reason: p.Reason, XDPReason: p.Fallback, Interfaces: []string{}, Packets: xdpPackets(&p.Program), ListEntries: len(f.Entries),
		ApplyTo: applyTo(&f), Limits: limitsView(&f), KernelTCP: portRanges(f.Kernel.TCP), KernelUDP: portRanges(f.Kernel.UDP), Limited: []api.LimitedSource{}}
	switch {
	case p.Up:
		n.State = "up"
	case p.Starting:
		n.State = StateStarting
	}
	if p.Mode != xdp.ModeAuto {
		n.XDPMode = p.Mode.String()
	}
	for _, r := range p.Ladder {
		if r.Chosen {
			n.Backend = r.Backend
		}
	}
	for _, l := range f.Sources {
		n.Limited = append(n.Limited, api.LimitedSource{Source: l.Source.String(), Packets: l.Packets, SYNs: l.SYNs})
	}
	return n, nil
}

// nicList lists the devices that fit, with their interfaces.
func (s *Server) nicList(fits func(device string) bool, sources int) ([]api.NIC, error) {
	out := []api.NIC{}
	for _, p := range s.cfg.Ports.Status() {
		if !fits(p.Config.Name) {
			continue
		}
		if !p.Shared {
			n, err := s.nicView(&p, sources)
			if err != nil {
				return nil, err
			}
			out = append(out, n)
		}
		last := &out[len(out)-1] // a device's interfaces stand together
		last.Interfaces = append(last.Interfaces, p.Config.Label())
	}
	return out, nil
}

func (s *Server) nics(*http.Request) (any, error) {
	list, err := s.nicList(func(string) bool { return true }, 0)
	return api.NICs{Schema: api.Schema, NICs: list}, err
}

func (s *Server) nic(r *http.Request) (any, error) {
	sources := sourcesDefault
	if t := r.URL.Query().Get(api.NICSources); t != "" {
		n, err := strconv.Atoi(t)
		if err != nil || n < 0 || n > api.NICSourcesMax {
			return nil, failf(api.KindUsage, "%s %q: expected a number from 0 to %d", api.NICSources, t, api.NICSourcesMax)
		}
		sources = n
	}
	f, err := s.cfg.Ports.Filter(r.PathValue("name"), 0)
	if err != nil {
		return nil, err
	}
	list, err := s.nicList(func(device string) bool { return device == f.Device }, sources)
	if err != nil {
		return nil, err
	}
	return api.NICAnswer{Schema: api.Schema, NIC: list[0]}, nil
}

func (s *Server) nicFilter(r *http.Request) (any, error) {
	f, err := s.cfg.Ports.Filter(r.PathValue("name"), 0)
	if err != nil {
		return nil, err
	}
	out := api.FilterAnswer{Schema: api.Schema, NIC: f.Device, ApplyTo: applyTo(&f), Limits: limitsView(&f), Entries: []api.ListEntry{}}
	for _, e := range f.Entries {
		out.Entries = append(out.Entries, api.ListEntry{Prefix: e.Prefix.String(), Action: e.Action.String(), Live: e.Live, Hits: e.Hits})
	}
	return out, nil
}

// prefix reads an address or a prefix without bits behind its length.
func prefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		a, bad := netip.ParseAddr(text)
		if bad != nil {
			return p, failf(api.KindUsage, "%q: expected an address or a prefix such as 203.0.113.0/24 or 2001:db8::/32", text)
		}
		p = netip.PrefixFrom(a.WithZone(""), a.BitLen())
		if a.Zone() != "" {
			return p, failf(api.KindUsage, "%q: expected it without a zone", text)
		}
	}
	switch {
	case p.Addr().Is4In6():
		return p, failf(api.KindUsage, "%q: expected IPv4 as itself, such as 203.0.113.0/24", text)
	case p != p.Masked():
		return p, failf(api.KindUsage, "%s has bits behind its length, expected %s", p, p.Masked())
	}
	return p, nil
}

func (s *Server) setFilter(r *http.Request) (any, error) {
	var q api.FilterRequest
	if err := body(r, &q); err != nil {
		return nil, err
	}
	p, err := prefix(q.Prefix)
	if err != nil {
		return nil, err
	}
	actions := []string{xdp.Deny.String(), xdp.Allow.String()}
	switch {
	case q.Op == "delete" && q.Action == "":
		err = s.cfg.Ports.DelListEntry(q.NIC, p)
	case q.Op == "add" && slices.Contains(actions, q.Action):
		err = s.cfg.Ports.AddListEntry(q.NIC, xdp.Entry{Prefix: p, Action: xdp.Action(slices.Index(actions, q.Action))})
	default:
		return nil, failf(api.KindUsage, "op %q with action %q: expected add with deny or allow, or delete without", q.Op, q.Action)
	}
	return api.Done{Schema: api.Schema, Done: err == nil}, err
}

func (s *Server) setLimit(r *http.Request) (any, error) {
	var q api.LimitRequest
	if err := body(r, &q); err != nil {
		return nil, err
	}
	if q.Packets == nil && q.PacketBurst == nil && q.SYNs == nil && q.SYNBurst == nil {
		return nil, failf(api.KindUsage, "no limit given, expected packets_per_second, packet_burst, syns_per_second or syn_burst")
	}
	rate := func(rate, burst, toRate, toBurst *int) {
		if rate != nil {
			*toRate, *toBurst = *rate, 0
		}
		if burst != nil {
			*toBurst = *burst
		}
	}
	err := s.cfg.Ports.ChangeLimits(q.NIC, func(l *xdp.Limits) {
		rate(q.Packets, q.PacketBurst, &l.Packets, &l.PacketBurst)
		rate(q.SYNs, q.SYNBurst, &l.SYNs, &l.SYNBurst)
	})
	return api.Done{Schema: api.Schema, Done: err == nil}, err
}

// xdpDrops are what XDP programs dropped, over all devices: never received by a
// core, so outside the ledger of those.
func (s *Server) xdpDrops() []api.Counter {
	var sum xdp.Counters
	for _, p := range s.cfg.Ports.Status() {
		sum.Add(&p.Program)
	}
	var out []api.Counter
	for _, d := range sum.ByReason() {
		out = append(out, api.Counter{Name: d.Reason, Layer: "xdp", Value: d.Packets, Help: d.Help})
	}
	return out
}
