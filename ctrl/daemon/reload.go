package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway"
	"github.com/np-appliance/np/ctrl/mgmt"
	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// step is one change of a reload and its way back.
type step struct {
	do, undo func() error
}

// Reload reads the configuration again and applies it: listeners, addresses,
// routes, filters, peers, log level and a few limits. When anything else changed, or a
// step fails, nothing is changed.
func (d *Daemon) Reload(ctx context.Context) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	next, err := d.o.Origin.Load()
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	if err := d.take(ctx, next); err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	d.remember("reload")
	return nil
}

// take brings a configuration into force, or changes nothing.
func (d *Daemon) take(ctx context.Context, next *config.Config) error {
	old := d.Config()
	ch := config.Diff(old, next)
	if d.ending.Load().certs != nil && len(ch.Restart) == 0 {
		ch.Certificates = true // the files may have changed where their names did not
	}
	if len(next.HTTPRoutes) > 0 && len(ch.Restart) == 0 {
		ch.Gateway = true // so do theirs
	}
	if ch.Empty() {
		d.o.Log.Info("configuration reloaded, nothing changed")
		d.setConfig(next)
		return nil
	}
	if len(ch.Restart) > 0 {
		return mgmt.Failf(api.KindConflict, "a restart is needed for %s", strings.Join(ch.Restart, ", "))
	}
	if err := gateway.Check(next); err != nil {
		return err
	}
	pol, err := policy(next)
	if err != nil {
		return err
	}
	steps := d.steps(ctx, old, next, &ch)
	for i, s := range steps {
		if err := s.do(); err != nil {
			errs := []error{err}
			for _, back := range slices.Backward(steps[:i]) {
				errs = append(errs, back.undo())
			}
			return errors.Join(errs...)
		}
	}
	// From here nothing can fail.
	if ch.PeersOrPolicies {
		d.session.SetPolicy(pol)
		d.sayWho(next)
	}
	d.session.SetLimits(next.Handshake.MaxInFlight, next.Handshake.ClockSkew)
	d.limiter.SetRate(next.Limits.LogLines)
	d.clients.SetRate(next.Limits.LogLines)
	if slices.Contains(ch.Live, "logging.log_level") {
		_ = d.SetLogLevel(next.Logging.LogLevel) // checked by config
	}
	d.setConfig(next)
	d.o.Log.Info("configuration reloaded", "listeners_added", len(ch.AddListeners), "listeners_removed", len(ch.DelListeners),
		"addresses_added", len(ch.AddAddresses), "addresses_removed", len(ch.DelAddresses), "routes_added", len(ch.AddRoutes),
		"routes_removed", len(ch.DelRoutes), "filters", ch.Filters, "gateway", ch.Gateway, "peers_changed", ch.PeersOrPolicies, "values", ch.Live)
	return nil
}

// commit puts the routes and upstreams of a configuration in force.
func (d *Daemon) commit(c *config.Config) error {
	gen, err := d.gateway.Prepare(c)
	if err != nil {
		return err
	}
	d.gateway.Commit(gen)
	return d.opcodes.Route(d.gateway.Opcodes()...) // checked by config: it can't fail
}

func (d *Daemon) setConfig(c *config.Config) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cfg = c
}

// steps orders the changes: what is added before what needs it, and a
// listener's port is free before another takes it.
func (d *Daemon) steps(ctx context.Context, old, next *config.Config, ch *config.Change) []step {
	var out []step
	both := func(do, undo func() error) { out = append(out, step{do, undo}) }
	add := func(a config.InterfaceAddress) func() error {
		return func() error { return d.ports.AddAddress(ctx, a.Interface, a.Prefix) }
	}
	del := func(a config.InterfaceAddress) func() error {
		return func() error { return d.ports.DelAddress(ctx, a.Interface, a.Prefix) }
	}
	// One that gets another prefix or interface can't be there twice.
	moves := func(o config.InterfaceAddress) bool {
		return slices.ContainsFunc(ch.AddAddresses, func(a config.InterfaceAddress) bool { return a.Prefix.Addr() == o.Prefix.Addr() })
	}
	for _, a := range ch.DelAddresses {
		if moves(a) {
			both(del(a), add(a))
		}
	}
	for _, a := range ch.AddAddresses {
		both(add(a), del(a))
	}
	certs := func() {
		if ch.Certificates {
			both(func() error { return d.takeCerts(next) }, func() error { return d.takeCerts(old) })
		}
	}
	if len(old.Certs) == 0 { // the first come before who needs them
		certs()
	}
	closed, opened, swaps, moved := pairs(ch.DelListeners, ch.AddListeners, d.byNet)
	for _, l := range closed {
		both(func() error { return d.unlisten(ctx, &l) }, func() error { return d.listen(ctx, old, &l) })
	}
	if ch.Gateway { // between: neither listener sees requests that nothing is there for
		both(func() error { return d.commit(next) }, func() error { return d.commit(old) })
	}
	for _, s := range swaps {
		both(func() error { return d.swap(next, &s[1]) }, func() error { return d.swap(old, &s[0]) })
	}
	for _, l := range opened {
		both(func() error { return d.listen(ctx, next, &l) }, func() error { return d.unlisten(ctx, &l) })
	}
	for _, m := range moved {
		both(func() error { return d.listen(ctx, next, &m[1]) }, func() error { return d.unlisten(ctx, &m[1]) })
	}
	for _, m := range moved { // once nothing of them can fail
		both(func() error { return d.unlisten(ctx, &m[0]) }, func() error { return d.listen(ctx, old, &m[0]) })
	}
	if len(old.Certs) > 0 {
		certs()
	}
	for _, r := range ch.DelRoutes {
		both(func() error { return d.ports.DelRoute(ctx, r.Prefix, r.Via, r.Interface) },
			func() error { return d.ports.AddRoute(ctx, r.Prefix, r.Via, r.Interface) })
	}
	for _, r := range ch.AddRoutes {
		both(func() error { return d.ports.AddRoute(ctx, r.Prefix, r.Via, r.Interface) },
			func() error { return d.ports.DelRoute(ctx, r.Prefix, r.Via, r.Interface) })
	}
	for _, a := range ch.DelAddresses {
		if !moves(a) {
			both(del(a), add(a))
		}
	}
	for _, name := range ch.Filters {
		at := slices.IndexFunc(next.Interfaces, func(it config.Interface) bool { return it.Label() == name })
		var back func() error
		both(func() (err error) {
			back, err = d.ports.SetFilter(name, filterConfig(&next.Interfaces[at].Filter))
			return err
		}, func() error { return back() })
	}
	return out
}
