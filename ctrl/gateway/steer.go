package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/forward"
	"github.com/np-appliance/np/ctrl/upstream"
)

// ErrNoUpstream: a name that no [[upstream]] has.
var ErrNoUpstream = errors.New("no such upstream")

// Config returns the configuration in force.
func (g *Gateway) Config() *config.Config { return g.gen.Load().cfg }

func (g *Gateway) clusters() []*cluster {
	list := slices.Collect(maps.Values(g.gen.Load().clusters))
	slices.SortFunc(list, func(a, b *cluster) int { return cmp.Compare(a.name, b.name) })
	return list
}

// Upstreams returns all upstreams as they are now, by name.
func (g *Gateway) Upstreams() []upstream.Snapshot {
	out := []upstream.Snapshot{}
	for _, c := range g.clusters() {
		out = append(out, c.up.Snapshot())
	}
	return out
}

// Pools returns the connections to endpoints, by upstream and address.
func (g *Gateway) Pools() []forward.PoolStats {
	out := []forward.PoolStats{}
	for _, c := range g.clusters() {
		out = append(out, c.fwd.Pools()...)
		out = append(out, c.nproPools(false)...)
	}
	return out
}

// AllPools returns the connections to endpoints with those to endpoints that are gone, for
// sums that must not shrink.
func (g *Gateway) AllPools() []forward.PoolStats {
	out := []forward.PoolStats{}
	for _, c := range g.clusters() {
		out = append(append(out, c.fwd.Pools()...), c.fwd.Gone()...)
		out = append(out, c.nproPools(true)...)
	}
	return out
}

// nproPools are the connections to endpoints that speak NPRO.
func (c *cluster) nproPools(gone bool) (out []forward.PoolStats) {
	if c.npro == nil {
		return nil
	}
	for _, p := range c.npro.Pools(gone) {
		out = append(out, forward.PoolStats{Upstream: c.name, Endpoint: p.Endpoint, Protocol: "npro", Conns: int64(p.Pool.Open), InFlight: p.InFlight, Opened: p.Pool.Opened(), Requests: p.Requests})
	}
	return out
}

// SetMode overrides what the configuration says of an endpoint; upstream.ModeList: no more.
func (g *Gateway) SetMode(name, address string, m upstream.Mode) error {
	return g.steer(name, func(u *upstream.Upstream) error { return u.SetMode(address, m) })
}

// SetWeight overrides the weight of an endpoint; 0: no more.
func (g *Gateway) SetWeight(name, address string, weight int) error {
	return g.steer(name, func(u *upstream.Upstream) error { return u.SetWeight(address, weight) })
}

// steer changes an upstream, and not while another configuration comes into force.
func (g *Gateway) steer(name string, change func(*upstream.Upstream) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.gen.Load().clusters[name]
	if c == nil {
		return fmt.Errorf("upstream %s: %w", name, ErrNoUpstream)
	}
	return change(c.up)
}
