package mgmt

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/forward"
	"github.com/np-appliance/np/ctrl/gateway/meter"
	"github.com/np-appliance/np/ctrl/gateway/server"
	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/pool"
	"github.com/np-appliance/np/ctrl/upstream"
)

// gatewayPaths adds what there is to see and to change of the gateway.
func (s *Server) gatewayPaths(get, post func(path string, f func(*http.Request) (any, error))) {
	get(api.PathRoutes, s.routes)
	get(api.PathRoute+"{name}", s.route)
	get(api.PathUpstreams, s.upstreams)
	get(api.PathUpstream+"{name}", s.upstream)
	get(api.PathPools, s.pools)
	post(api.PathUpstreamSet, s.setUpstream)
}

var classNames = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

func mean(sum time.Duration, n uint64) float64 {
	if n == 0 {
		return 0
	}
	return sum.Seconds() / float64(n)
}

func (s *Server) routes(*http.Request) (any, error) {
	out := api.Routes{Schema: api.Schema, Routes: []api.Route{}}
	if s.cfg.Gateway == nil {
		return out, nil
	}
	cfg, seen := s.cfg.Gateway.Config(), s.cfg.Gateway.Seen()
	for i := range cfg.HTTPRoutes {
		v, _ := routeView(&cfg.HTTPRoutes[i], seen.Requests)
		out.Routes = append(out.Routes, v)
	}
	return out, nil
}

func (s *Server) route(r *http.Request) (any, error) {
	name := r.PathValue("name")
	if s.cfg.Gateway != nil {
		cfg, seen := s.cfg.Gateway.Config(), s.cfg.Gateway.Seen()
		for i := range cfg.HTTPRoutes {
			if cfg.HTTPRoutes[i].Name != name {
				continue
			}
			out := api.RouteAnswer{Schema: api.Schema, Values: []api.ConfigValue{}}
			out.Route, out.Counts = routeView(&cfg.HTTPRoutes[i], seen.Requests)
			for _, v := range cfg.Entry("route", i) {
				out.Values = append(out.Values, api.ConfigValue{Key: v.Path, Value: v.Value, Origin: v.Origin})
			}
			return out, nil
		}
	}
	return nil, failf(api.KindNotFound, "route %s: no such route", name)
}

// routeView shows a route, and what was counted of it.
func routeView(r *config.HTTPRoute, series []meter.Series) (api.Route, []api.RouteCount) {
	v := api.Route{Name: r.Name, Listeners: append([]string{}, r.Listeners...), Hosts: append([]string{}, r.Hosts...), Methods: append([]string{}, r.Methods...),
		Match: match(r), Upstreams: []string{}}
	v.Action, v.Upstreams = actionOf(r)
	counts := []api.RouteCount{}
	var took time.Duration
	for i := range series {
		m := &series[i]
		if m.Route != r.Name {
			continue
		}
		v.Requests += m.Requests
		v.ReceivedBytes += m.Received
		v.SentBytes += m.Sent
		took += m.Took
		switch m.Class {
		case 4:
			v.ClientErrors += m.Requests
		case 5:
			v.ServerErrors += m.Requests
		}
		counts = append(counts, api.RouteCount{Listener: m.Listener, Protocol: m.Protocol, Status: classNames[m.Class], Reason: m.Reason.String(), Requests: m.Requests, MeanSeconds: mean(m.Took, m.Requests)})
	}
	v.MeanSeconds = mean(took, v.Requests)
	return v, counts
}

// match writes a route's conditions beyond listeners, hosts and methods.
func match(r *config.HTTPRoute) string {
	var out []string
	add := func(format, value string) {
		if value != "" {
			out = append(out, fmt.Sprintf(format, value))
		}
	}
	add("%s", r.Path)
	if strings.HasSuffix(r.PathPrefix, "/") {
		add("%s*", r.PathPrefix)
	} else {
		add("%s[/*]", r.PathPrefix) // itself as well
	}
	add("%s", r.PathPattern)
	add("gRPC %s", strings.Trim(r.GRPCService+"/"+r.GRPCMethod, "/"))
	add("opcode %s", r.Opcode)
	add("header %s", strings.Join(r.Headers, ", "))
	add("query %s", strings.Join(r.Query, ", "))
	add("sni %s", strings.Join(r.SNI, ", "))
	add("alpn %s", strings.Join(r.ALPN, ", "))
	if len(out) == 0 {
		return "*"
	}
	return strings.Join(out, " ")
}

// actionOf writes what becomes of a route's requests, and names the upstreams.
func actionOf(r *config.HTTPRoute) (string, []string) {
	ups := []string{}
	switch {
	case len(r.Parts) > 0:
		for _, p := range r.Parts {
			if !slices.Contains(ups, p.Upstream) {
				ups = append(ups, p.Upstream)
			}
		}
		return fmt.Sprintf("aggregate of %d", len(r.Parts)), ups
	case r.Upstream != "":
		word := "upstream "
		if r.Passthrough {
			word = "passthrough to "
		}
		return word + r.Upstream, []string{r.Upstream}
	case len(r.Split) > 0:
		for _, s := range r.Split {
			name, _, _ := strings.Cut(s, "=")
			ups = append(ups, name)
		}
		return "split " + strings.Join(r.Split, ", "), ups
	case r.Redirect != "":
		return "redirect to " + r.Redirect, ups
	case r.StaticDir != "":
		return "files of " + r.StaticDir, ups
	}
	status := r.Status
	if status == 0 {
		status = http.StatusOK
	}
	return fmt.Sprintf("answer %d", status), ups
}

func (s *Server) upstreams(*http.Request) (any, error) {
	out := api.Upstreams{Schema: api.Schema, Upstreams: []api.Upstream{}}
	if s.cfg.Gateway == nil {
		return out, nil
	}
	cfg := s.cfg.Gateway.Config()
	for _, u := range s.cfg.Gateway.Upstreams() {
		out.Upstreams = append(out.Upstreams, upstreamView(cfg, &u))
	}
	return out, nil
}

func upstreamView(cfg *config.Config, u *upstream.Snapshot) api.Upstream {
	t := &u.Totals
	v := api.Upstream{Name: u.Name, Balance: u.Policy, Endpoints: len(u.Endpoints), InFlight: u.InFlight, Waiting: u.Waiting, Requests: t.Requests, Successes: t.Successes,
		Failures: t.Failures, Timeouts: t.Timeouts, ConnectFailed: t.ConnectFailed, Canceled: t.Canceled, Retries: u.Retries, RetriesRefused: u.RetryNoBudget, RetryBudget: u.RetryTokens,
		MeanSeconds: mean(t.LatencySum, t.Successes+t.Failures+t.Timeouts+t.ConnectFailed)}
	if c := cfg.UpstreamNamed(u.Name); c != nil {
		v.Protocol, v.Balance = c.Protocol, c.Balance
	}
	for _, n := range u.Refused {
		v.Refused += n
	}
	for _, l := range u.Levels {
		v.Panic = v.Panic || l.Panic
	}
	for i := range u.Endpoints {
		if u.Endpoints[i].Takes {
			v.Taking++
		}
	}
	return v
}

func (s *Server) upstream(r *http.Request) (any, error) {
	name := r.PathValue("name")
	if s.cfg.Gateway == nil {
		return nil, failf(api.KindNotFound, "upstream %s: no such upstream", name)
	}
	list := s.cfg.Gateway.Upstreams()
	at := slices.IndexFunc(list, func(u upstream.Snapshot) bool { return u.Name == name })
	if at < 0 {
		return nil, failf(api.KindNotFound, "upstream %s: no such upstream", name)
	}
	u := &list[at]
	out := api.UpstreamAnswer{Schema: api.Schema, Upstream: upstreamView(s.cfg.Gateway.Config(), u), Endpoints: []api.Endpoint{}, Levels: []api.UpstreamLevel{}, Refusals: u.Refused}
	for i := range u.Endpoints {
		out.Endpoints = append(out.Endpoints, endpointView(&u.Endpoints[i]))
	}
	if d, ok := s.cfg.Gateway.Discovery(name); ok {
		out.Discovery = &api.Discovery{Source: d.Source, GoodAt: known(d.Status.Good), LastKnownAt: known(d.LastKnown)}
		if d.Status.Err != nil {
			out.Discovery.Error = d.Status.Err.Error()
		}
	}
	for _, l := range u.Levels {
		out.Levels = append(out.Levels, api.UpstreamLevel{Priority: l.Priority, Endpoints: l.Total, Healthy: l.Healthy, Percent: l.Load, Panic: l.Panic})
	}
	return out, nil
}

func endpointView(e *upstream.EndpointSnapshot) api.Endpoint {
	return api.Endpoint{Address: e.Address, Priority: e.Priority, Weight: e.Weight, ListedWeight: e.Listed, Locality: e.Locality, Takes: e.Takes, Mode: e.Mode, Operator: e.Operator, Health: e.Health,
		HealthSince: known(e.Since), LastCheckAt: known(e.LastCheck), LastError: e.LastError, EjectedSeconds: e.EjectedFor.Seconds(), SlowStart: e.SlowStart,
		Breaker: e.Breaker.State, BreakerTrips: e.Breaker.Trips, BreakerSeconds: e.Breaker.ProbesIn.Seconds(),
		InFlight: e.InFlight, Requests: e.Requests, Successes: e.Successes, Failures: e.Failures, Timeouts: e.Timeouts, ConnectFailed: e.ConnectFailed, Canceled: e.Canceled,
		Checks: e.Checks, ChecksFailed: e.ChecksFailed, Ejections: e.Ejections, MeanSeconds: mean(e.LatencySum, e.Successes+e.Failures+e.Timeouts+e.ConnectFailed)}
}

func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func (s *Server) setUpstream(r *http.Request) (any, error) {
	var in api.UpstreamSet
	if err := body(r, &in); err != nil {
		return nil, err
	}
	if s.cfg.Gateway == nil {
		return nil, failf(api.KindNotFound, "upstream %s: no such upstream", in.Upstream)
	}
	if (in.Mode == "") == (in.Weight == nil) {
		return nil, failf(api.KindUsage, "mode or weight, one of them")
	}
	var err error
	if in.Weight != nil {
		if *in.Weight < 0 || *in.Weight > upstream.MaxWeight {
			return nil, failf(api.KindUsage, "weight %d: expected 1 to %d, or 0 for what the configuration says", *in.Weight, upstream.MaxWeight)
		}
		err = s.cfg.Gateway.SetWeight(in.Upstream, in.Endpoint, *in.Weight)
	} else {
		modes := map[string]upstream.Mode{"list": upstream.ModeList, "enabled": upstream.ModeEnabled, "drain": upstream.ModeDrain, "disabled": upstream.ModeDisabled}
		m, ok := modes[in.Mode]
		if !ok {
			return nil, failf(api.KindUsage, "mode %q: expected enabled, drain, disabled, or list for what the configuration says", in.Mode)
		}
		err = s.cfg.Gateway.SetMode(in.Upstream, in.Endpoint, m)
	}
	if err != nil {
		return nil, err
	}
	what := []any{"upstream", in.Upstream, "endpoint", in.Endpoint}
	if in.Mode != "" {
		what = append(what, "mode", in.Mode)
	}
	if in.Weight != nil {
		what = append(what, "weight", *in.Weight)
	}
	s.cfg.Log.Info("endpoint changed by an operator", what...)
	return api.Done{Schema: api.Schema, Done: true}, nil
}

func (s *Server) pools(*http.Request) (any, error) {
	out := api.Pools{Schema: api.Schema, Pools: []api.Pool{}}
	if s.cfg.Gateway == nil {
		return out, nil
	}
	for _, p := range s.cfg.Gateway.Pools() {
		out.Pools = append(out.Pools, poolView(&p))
	}
	return out, nil
}

func poolView(p *forward.PoolStats) api.Pool {
	v := api.Pool{Upstream: p.Upstream, Endpoint: p.Endpoint, Protocol: p.Protocol, Open: p.Conns, InFlight: p.InFlight, Opened: p.Opened, Requests: p.Requests}
	if p.Protocol != "http/1.1" {
		return v
	}
	s := &p.Pool
	v.Max, v.Open, v.Idle, v.InFlight, v.Waiting, v.Opening = s.Max, int64(s.Open), s.Idle, int64(s.Borrowed), s.Waiting, s.Opening
	v.Requests, v.Opened, v.Failed, v.Closed = s.Acquired, s.Opened(), s.OpenFailed+s.OpenTimedOut, s.ClosedTotal()
	v.Refused = s.TimedOut + s.Cancelled + s.QueueFull + s.Unavailable + s.RefusedClose
	v.WaitMeanSeconds, v.RetrySeconds = mean(s.Wait.Sum, s.Wait.Total()), s.RetryIn.Seconds()
	if s.LastOpen != nil {
		v.LastError = s.LastOpen.Error()
	}
	v.ClosedBy = map[string]uint64{}
	for i, n := range s.Closed {
		if n > 0 {
			v.ClosedBy[pool.Reason(i).String()] = n
		}
	}
	return v
}

// httpView is what a listener of protocol http counted.
func httpView(h *server.Stats) *api.ListenerHTTP {
	v := &api.ListenerHTTP{InFlight: h.Running, Requests: map[string]uint64{}, Refusals: map[string]uint64{}, Broken: map[string]uint64{},
		Passed: h.Passed, Passing: h.Passing, PassedIn: h.PassedIn, PassedOut: h.PassedOut, Panics: h.Panics}
	for protocol, n := range h.Requests {
		v.Requests[protocol] = n
		v.Total += n
	}
	for why, n := range h.Refusals {
		v.Refusals[why.String()] = n
		v.Refused += n
	}
	for why, n := range h.Conns {
		v.Broken[why.String()] = n
	}
	return v
}
