package config

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// Change is what a reload has to do. Everything that Restart does not name
// can be applied to a running npd.
type Change struct {
	Restart         []string // paths whose change needs a restart
	AddListeners    []Listener
	DelListeners    []Listener
	AddAddresses    []InterfaceAddress
	DelAddresses    []InterfaceAddress
	Filters         []string // labels of interfaces whose filter changed
	AddRoutes       []Route
	DelRoutes       []Route
	Live            []string // other paths that changed and apply live
	PeersOrPolicies bool     // the set of peers, or what who may call
	Certificates    bool     // which files there are, or how they are used
	Gateway         bool     // routes, upstreams, or who may use them
}

// InterfaceAddress is an address on an interface of the configuration, named by
// its label.
type InterfaceAddress struct {
	Interface string
	Prefix    netip.Prefix
}

// live are plain values that a running npd takes over.
var live = [...]string{"logging.log_level", "server.shutdown_timeout", "protocol.allow_any_peer", "protocol.any_peer_allow",
	"protocol.psk_allow", "limits.log_lines", "handshake.max_in_flight", "handshake.clock_skew"}

// tlsLive says which of [tls] a store of certificates takes over.
const tlsLive = "tls.strict_names"

var policies = [...]string{"protocol.allow_any_peer", "protocol.any_peer_allow", "protocol.psk_allow"}

// Empty says that nothing changed.
func (c *Change) Empty() bool { return reflect.ValueOf(*c).IsZero() }

// Diff compares the configuration in force with a new one.
func Diff(old, next *Config) Change {
	var ch Change
	was := plain(old)
	for path, v := range plain(next) {
		if was[path] == v {
			continue
		}
		switch {
		case slices.Contains(policies[:], path):
			ch.PeersOrPolicies = true
			ch.Live = append(ch.Live, path)
		case path == tlsLive || strings.HasPrefix(path, "tls.") && (len(old.Certs) == 0 || len(next.Certs) == 0): // nobody ends TLS by both
			ch.Certificates = true
			ch.Live = append(ch.Live, path)
		case slices.Contains(live[:], path):
			ch.Live = append(ch.Live, path)
		default:
			ch.Restart = append(ch.Restart, path)
		}
	}
	slices.Sort(ch.Live)
	ch.interfaces(old, next)
	ch.AddListeners, ch.DelListeners = sets(old.Listen(), next.Listen(), func(a, b Listener) bool {
		a.Authz, b.Authz = ListenerAuthz{}, ListenerAuthz{} // the gateway's matter, and live
		return reflect.DeepEqual(a, b)
	})
	ch.AddRoutes, ch.DelRoutes = sets(old.AllRoutes(), next.AllRoutes(), func(a, b Route) bool { return a == b })
	if !reflect.DeepEqual(old.Peers, next.Peers) {
		ch.PeersOrPolicies = true
	}
	if !reflect.DeepEqual(old.Certs, next.Certs) {
		ch.Certificates = true
	}
	ch.Gateway = !reflect.DeepEqual(old.HTTPRoutes, next.HTTPRoutes) || !reflect.DeepEqual(old.Auths, next.Auths) ||
		!reflect.DeepEqual(old.Rates, next.Rates) || !reflect.DeepEqual(old.Shedders, next.Shedders) || !reflect.DeepEqual(listenerRules(old), listenerRules(next)) ||
		!reflect.DeepEqual(old.Upstreams, next.Upstreams) || old.Pool != next.Pool ||
		!reflect.DeepEqual(old.AccessLog, next.AccessLog) || old.Tracing != next.Tracing
	if next.SpeaksNPRO() && !old.SpeaksNPRO() {
		ch.Restart = append(ch.Restart, "the first listener or upstream of protocol npro")
	}
	slices.Sort(ch.Restart)
	return ch
}

// plain are the values of sections that are no lists.
func plain(c *Config) map[string]string {
	flat := *c
	flat.Interfaces, flat.Routes, flat.Listeners, flat.Peers, flat.Certs = nil, nil, nil, nil, nil
	flat.Upstreams, flat.HTTPRoutes, flat.Auths, flat.Rates, flat.Shedders, flat.Pool, flat.AccessLog, flat.Tracing = nil, nil, nil, nil, nil, Pool{}, AccessLog{}, Tracing{}
	flat.Server.Address = netip.AddrPort{} // shows as a listener
	m := map[string]string{}
	for _, v := range flat.Values() {
		m[v.Path] = v.Value
	}
	return m
}

func sets[T any](old, next []T, same func(a, b T) bool) (add, del []T) {
	for _, n := range next {
		if !slices.ContainsFunc(old, func(o T) bool { return same(o, n) }) {
			add = append(add, n)
		}
	}
	for _, o := range old {
		if !slices.ContainsFunc(next, func(n T) bool { return same(o, n) }) {
			del = append(del, o)
		}
	}
	return add, del
}

func (ch *Change) interfaces(old, next *Config) {
	byLabel := func(c *Config) map[string]Interface {
		m := map[string]Interface{}
		for _, it := range c.Interfaces {
			m[it.Label()] = it
		}
		return m
	}
	was, is := byLabel(old), byLabel(next)
	for name, n := range is {
		o, ok := was[name]
		if !ok {
			ch.Restart = append(ch.Restart, "interface "+name)
			continue
		}
		add, del := sets(o.Addresses, n.Addresses, func(a, b netip.Prefix) bool { return a == b })
		for _, p := range add {
			ch.AddAddresses = append(ch.AddAddresses, InterfaceAddress{name, p})
		}
		for _, p := range del {
			ch.DelAddresses = append(ch.DelAddresses, InterfaceAddress{name, p})
		}
		if !reflect.DeepEqual(o.Filter, n.Filter) {
			ch.Filters = append(ch.Filters, name)
		}
		for _, key := range fixed(&o, &n) {
			ch.Restart = append(ch.Restart, "interface "+name+" "+key)
		}
	}
	for name := range was {
		if _, ok := is[name]; !ok {
			ch.Restart = append(ch.Restart, "interface "+name)
		}
	}
	slices.Sort(ch.Filters)
	slices.SortFunc(ch.AddAddresses, byPlace)
	slices.SortFunc(ch.DelAddresses, byPlace)
}

func byPlace(a, b InterfaceAddress) int {
	return cmp.Or(strings.Compare(a.Interface, b.Interface), a.Prefix.Addr().Compare(b.Prefix.Addr()), a.Prefix.Bits()-b.Prefix.Bits())
}

// fixed are the keys of an interface that differ and that a running npd can't
// take over: all but addresses, gateway and filter.
func fixed(o, n *Interface) []string {
	var out []string
	a, b := reflect.ValueOf(*o), reflect.ValueOf(*n)
	for i := range a.NumField() {
		key := a.Type().Field(i).Tag.Get("key")
		if key != "addresses" && key != "gateway" && key != "filter" && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			out = append(out, key)
		}
	}
	return out
}

// AllRoutes are the [[route_ip]] entries, each with its interface named, and
// the default routes of the interfaces' gateways.
func (c *Config) AllRoutes() []Route {
	var out []Route
	for _, r := range c.Routes {
		if i := c.RouteInterface(&r); i >= 0 {
			r.Interface = c.Interfaces[i].Label()
		}
		out = append(out, r)
	}
	for _, it := range c.Interfaces {
		for _, g := range it.Gateway {
			all := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			if g.Is4() {
				all = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			}
			out = append(out, Route{Prefix: all, Via: g, Interface: it.Label()})
		}
	}
	return out
}

// listenerRules are what listeners say of connections, by name.
func listenerRules(c *Config) map[string]ListenerAuthz {
	out := map[string]ListenerAuthz{}
	for i := range c.Listeners {
		if a := c.Listeners[i].Authz; len(a.Allow)+len(a.Deny) > 0 {
			out[c.Listeners[i].Name] = a
		}
	}
	return out
}
