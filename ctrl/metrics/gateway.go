package metrics

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/np-appliance/np/ctrl/gateway/accesslog"
	"github.com/np-appliance/np/ctrl/gateway/forward"
	"github.com/np-appliance/np/ctrl/gateway/meter"
	"github.com/np-appliance/np/ctrl/gateway/policy/auth"
	"github.com/np-appliance/np/ctrl/gateway/policy/authz"
	"github.com/np-appliance/np/ctrl/gateway/policy/limit"
	"github.com/np-appliance/np/ctrl/gateway/server"
	"github.com/np-appliance/np/ctrl/pool"
	"github.com/np-appliance/np/ctrl/tracing"
	"github.com/np-appliance/np/ctrl/upstream"
)

// Gateway is what the gateway counted. Fields that are nil are not told.
type Gateway struct {
	Requests    []meter.Series
	InFlight    map[string]int64 // by listener
	Upstreams   []upstream.Snapshot
	Pools       []Pool
	Rates       []limit.RateStats
	Concurrency []limit.ConcurrencyStats
	Shedders    []limit.ShedderStats
	Auth        []auth.Stats
	External    map[string]authz.ExternalStats // by route
	AccessLog   *accesslog.Stats
	Tracing     *tracing.Stats
	Generation  uint64 // configurations in force so far
}

// Pool is the connections of one upstream of one protocol, all endpoints together.
type Pool struct {
	Upstream string
	Protocol string
	Stats    pool.Stats // of connections that one request takes at a time

	// Of connections that carry many requests at a time.
	Open     int64
	Opened   uint64
	InFlight int64 // requests
}

// gatewayMetrics describes them.
type gatewayMetrics struct {
	requests, received, sent, inFlight metric
	duration                           *prometheus.Desc
	bounds                             []float64

	conns, accepted, acceptErrors, broken, panics  metric
	passed, passing, passedBytes, h2Errors         metric
	upEndpoints, upHealth, upBreakers              metric
	upOutcomes, upRetries, upNoBudget, upTokens    metric
	upRefused, upEjections, upChecks, upChecksFail metric
	upInFlight, upWaiting                          metric
	upDuration                                     *prometheus.Desc
	upBounds                                       []float64

	poolConns, poolWaiting, poolOpened, poolFailed, poolClosed, poolRefused, poolAcquired metric
	poolWait                                                                              *prometheus.Desc
	poolBounds                                                                            []float64

	limited, limitKeys, limitRunning, limitWaiting, limitMax metric
	authed, authCache, authFetches, authFailed, authAge      metric
	external, externalAsked                                  metric
	logLines, logDropped, spans, generation                  metric
	all                                                      []*prometheus.Desc
}

func seconds(list []time.Duration) []float64 {
	out := make([]float64, len(list))
	for i, d := range list {
		out[i] = d.Seconds()
	}
	return out
}

func newGatewayMetrics() *gatewayMetrics {
	g := &gatewayMetrics{}
	m := func(name, help string, labels ...string) metric {
		x := describe(name, help, labels...)
		g.all = append(g.all, x.desc)
		return x
	}
	h := func(name, help string, labels ...string) *prometheus.Desc { return m(name, help, labels...).desc }
	g.requests = m("http_requests_total", "requests of the gateway that ended, by class of status and reason", "listener", "route", "protocol", "status", "reason")
	g.received = m("http_request_bytes_total", "bytes of requests' bodies", "listener", "route")
	g.sent = m("http_response_bytes_total", "bytes of answers' bodies", "listener", "route")
	g.inFlight = m("http_requests_in_flight", "requests begun and not ended", "listener")
	g.conns = m("http_connections", "open connections", "listener")
	g.accepted = m("http_connections_accepted_total", "connections accepted, those refused at once included", "listener")
	g.acceptErrors = m("http_accept_errors_total", "connections that could not be accepted, for want of room", "listener")
	g.broken = m("http_connections_broken_off_total", "connections refused or broken off by the gateway, by reason", "listener", "reason")
	g.panics = m("http_panics_total", "requests that met a fault of the gateway's own", "listener")
	g.passed = m("http_passthrough_connections_total", "connections whose TLS was not ended here", "listener")
	g.passing = m("http_passthrough_connections", "of these, those open", "listener")
	g.passedBytes = m("http_passthrough_bytes_total", "bytes of these", "listener", "direction")
	g.h2Errors = m("http2_errors_total", "errors of HTTP/2 connections, in the protocol's words", "listener", "error")
	g.duration = h("http_request_duration_seconds", "from a request's head to the end of its answer; of streams and upgrades to the answer's head", "listener", "route", "protocol")
	bounds := meter.Bounds()
	g.bounds = seconds(bounds[:])

	g.upEndpoints = m("upstream_endpoints", "endpoints by what holds for them: enabled, drain or disabled; takes: yes for those that get requests", "upstream", "mode", "takes")
	g.upHealth = m("upstream_health", "endpoints by state of health: healthy, unhealthy, unknown (not checked) or ejected", "upstream", "state")
	g.upBreakers = m("upstream_breakers", "endpoints by the state of their circuit breaker", "upstream", "state")
	g.upOutcomes = m("upstream_requests_total", "requests sent to endpoints, by how they ended", "upstream", "outcome")
	g.upRetries = m("upstream_retries_total", "requests sent again", "upstream")
	g.upNoBudget = m("upstream_retries_refused_total", "requests not sent again because the budget was used up", "upstream")
	g.upTokens = m("upstream_retry_budget", "retries that the budget allows now", "upstream")
	g.upRefused = m("upstream_refused_total", "requests and connections that no endpoint was given to, by reason", "upstream", "reason")
	g.upEjections = m("upstream_ejections_total", "endpoints left out by the outlier detector", "upstream")
	g.upChecks = m("upstream_checks_total", "checks of health", "upstream")
	g.upChecksFail = m("upstream_checks_failed_total", "checks of health that failed", "upstream")
	g.upInFlight = m("upstream_requests_in_flight", "requests at endpoints", "upstream")
	g.upWaiting = m("upstream_requests_waiting", "requests that wait for room at an endpoint", "upstream")
	g.upDuration = h("upstream_request_duration_seconds", "time that endpoints took, of each try", "upstream")
	g.upBounds = seconds(upstream.LatencyBounds())
	g.poolMetrics(m)
	g.poolWait = h("pool_wait_seconds", "from asking for a connection to having it", "upstream", "protocol")
	pb := pool.Bounds()
	g.poolBounds = seconds(pb[:])

	g.limited = m("limit_requests_total", "requests that a limit decided on", "kind", "limit", "result")
	g.limitKeys = m("limit_keys", "keys that a rate limit remembers", "limit")
	g.limitRunning = m("limit_requests_in_flight", "requests that a limit let in and that have not ended", "kind", "limit")
	g.limitWaiting = m("limit_requests_waiting", "requests that wait to be let in", "limit")
	g.limitMax = m("limit_requests_max", "requests at a time that load shedding finds bearable", "limit")
	g.policyMetrics(m)
	g.logLines = m("access_log_lines_total", "lines written to the access log", "file")
	g.logDropped = m("access_log_dropped_total", "lines not written: sampled, full (the disk is too slow) or failed", "file", "reason")
	g.spans = m("tracing_spans_total", "spans that ended: exported, dropped (no room) or failed", "result")
	g.generation = m("gateway_generation", "configurations of the gateway that came into force")
	return g
}

func (g *gatewayMetrics) policyMetrics(m func(name, help string, labels ...string) metric) {
	g.authed = m("auth_requests_total", "requests with credentials, by what came of them: accepted, denied or unavailable", "auth", "result")
	g.authCache = m("auth_cache_requests_total", "of these, those that were remembered (hit) or had to be checked (miss)", "auth", "result")
	g.authFetches = m("auth_fetches_total", "questions to an issuer: its keys, or about a token", "auth")
	g.authFailed = m("auth_fetches_failed_total", "of these, those without a good answer", "auth")
	g.authAge = m("auth_loaded_timestamp_seconds", "when users or keys were read last", "auth")
	g.external = m("external_authz_requests_total", "requests that somebody else decided on: allowed, denied, failed (no answer) or passed (without an answer)", "route", "result")
	g.externalAsked = m("external_authz_questions_total", "questions asked about them", "route")
}

func (g *gatewayMetrics) collectAuth(send put, v *Gateway) {
	for i := range v.Auth {
		a := &v.Auth[i]
		send(g.authed, float64(a.Accepted), a.Name, "accepted")
		send(g.authed, float64(a.Denied), a.Name, "denied")
		send(g.authed, float64(a.Unavailable), a.Name, "unavailable")
		send(g.authCache, float64(a.Cache.Hits), a.Name, "hit")
		send(g.authCache, float64(a.Cache.Misses), a.Name, "miss")
		send(g.authFetches, float64(a.Fetches), a.Name)
		send(g.authFailed, float64(a.Failures), a.Name)
		if !a.Loaded.IsZero() {
			send(g.authAge, float64(a.Loaded.Unix()), a.Name)
		}
	}
	for route, e := range v.External {
		send(g.externalAsked, float64(e.Asked), route)
		send(g.external, float64(e.Allowed), route, "allowed")
		send(g.external, float64(e.Denied), route, "denied")
		send(g.external, float64(e.Failed-e.Passed), route, "failed")
		send(g.external, float64(e.Passed), route, "passed")
	}
}

func (g *gatewayMetrics) poolMetrics(m func(name, help string, labels ...string) metric) {
	g.poolConns = m("pool_connections", "connections to an upstream's endpoints, by what they do", "upstream", "protocol", "state")
	g.poolWaiting = m("pool_waiting", "requests that wait for a connection", "upstream", "protocol")
	g.poolOpened = m("pool_opened_total", "connections opened", "upstream", "protocol")
	g.poolFailed = m("pool_open_failed_total", "connections that could not be opened", "upstream", "protocol", "reason")
	g.poolClosed = m("pool_closed_total", "connections closed, by reason", "upstream", "protocol", "reason")
	g.poolRefused = m("pool_refused_total", "requests that got no connection, by reason", "upstream", "protocol", "reason")
	g.poolAcquired = m("pool_acquired_total", "requests that got a connection", "upstream", "protocol")
}

// put sends one value.
type put func(m metric, v float64, labels ...string)

func (g *gatewayMetrics) collect(ch chan<- prometheus.Metric, send put, v *Gateway) {
	g.collectRequests(ch, send, v)
	for i := range v.Upstreams {
		g.collectUpstream(ch, send, &v.Upstreams[i])
	}
	for i := range v.Pools {
		g.collectPool(ch, send, &v.Pools[i])
	}
	limits := adder{}
	g.collectLimits(limits.add, v)
	for _, x := range limits {
		send(x.m, x.v, x.labels...)
	}
	g.collectAuth(send, v)
	send(g.generation, float64(v.Generation))
	if t := v.Tracing; t != nil {
		send(g.spans, float64(t.Exported), "exported")
		send(g.spans, float64(t.Dropped), "dropped")
		send(g.spans, float64(t.Failed), "failed")
	}
	if a := v.AccessLog; a != nil {
		for _, f := range [...]struct {
			name string
			s    accesslog.FileStats
		}{{"all", a.All}, {"slow", a.Slow}} {
			send(g.logLines, float64(f.s.Lines), f.name)
			send(g.logDropped, float64(f.s.Sampled), f.name, "sampled")
			send(g.logDropped, float64(f.s.Full), f.name, "full")
			send(g.logDropped, float64(f.s.Failed), f.name, "failed")
		}
	}
}

// collectListener tells the connections of one listener.
func (g *gatewayMetrics) collectListener(send put, name string, s *server.Stats) {
	send(g.conns, float64(s.Open), name)
	send(g.accepted, float64(s.Accepted), name)
	send(g.acceptErrors, float64(s.AcceptErrors), name)
	for why, n := range s.Conns {
		send(g.broken, float64(n), name, why.String())
	}
	send(g.panics, float64(s.Panics), name)
	send(g.passed, float64(s.Passed), name)
	send(g.passing, float64(s.Passing), name)
	send(g.passedBytes, float64(s.PassedIn), name, "received")
	send(g.passedBytes, float64(s.PassedOut), name, "sent")
	for word, n := range s.H2Errors {
		send(g.h2Errors, float64(n), name, word)
	}
}

// Pools sums up the connections of each upstream and protocol.
func Pools(list []forward.PoolStats) []Pool {
	var out []Pool
	for i := range list {
		p := &list[i]
		at := slices.IndexFunc(out, func(o Pool) bool { return o.Upstream == p.Upstream && o.Protocol == p.Protocol })
		if at < 0 {
			at = len(out)
			out = append(out, Pool{Upstream: p.Upstream, Protocol: p.Protocol})
		}
		o := &out[at]
		o.Open += p.Conns
		o.Opened += p.Opened
		o.InFlight += p.InFlight
		o.Stats.Add(&p.Pool)
	}
	return out
}

// adder sums up values of the same labels: limits of different kinds of rules may have the
// same name, and Prometheus refuses a scrape that has a value twice.
type adder map[string]*value

type value struct {
	m      metric
	v      float64
	labels []string
}

func (a adder) add(m metric, v float64, labels ...string) {
	k := m.desc.String() + "\xff" + strings.Join(labels, "\xff")
	if x := a[k]; x != nil {
		x.v += v
		return
	}
	a[k] = &value{m, v, append([]string(nil), labels...)}
}

var classNames = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

// collectRequests tells each kind of request, and what is told of all kinds of a route.
func (g *gatewayMetrics) collectRequests(ch chan<- prometheus.Metric, send put, v *Gateway) {
	for name, n := range v.InFlight {
		send(g.inFlight, float64(n), name)
	}
	type by struct{ listener, route, protocol string }
	times := map[by]*meter.Series{}
	bytes := map[by]*meter.Series{}
	for i := range v.Requests {
		s := &v.Requests[i]
		send(g.requests, float64(s.Requests), s.Listener, s.Route, s.Protocol, classNames[s.Class], s.Reason.String())
		sum(times, by{s.Listener, s.Route, s.Protocol}, s)
		sum(bytes, by{s.Listener, s.Route, ""}, s)
	}
	for k, s := range times {
		ch <- histogram(g.duration, g.bounds, s.Buckets[:], s.Took, k.listener, k.route, k.protocol)
	}
	for k, s := range bytes {
		send(g.received, float64(s.Received), k.listener, k.route)
		send(g.sent, float64(s.Sent), k.listener, k.route)
	}
}

func sum[K comparable](into map[K]*meter.Series, k K, s *meter.Series) {
	t := into[k]
	if t == nil {
		t = &meter.Series{}
		into[k] = t
	}
	t.Received += s.Received
	t.Sent += s.Sent
	t.Took += s.Took
	for i, n := range s.Buckets {
		t.Buckets[i] += n
	}
}

// histogram makes one of counts that are not cumulative, of which the last has no bound.
func histogram(desc *prometheus.Desc, bounds []float64, counts []uint64, sum time.Duration, labels ...string) prometheus.Metric {
	buckets := make(map[float64]uint64, len(bounds))
	var n uint64
	for i, b := range bounds {
		n += counts[i]
		buckets[b] = n
	}
	n += counts[len(bounds)]
	return prometheus.MustNewConstHistogram(desc, n, sum.Seconds(), buckets, labels...)
}

func (g *gatewayMetrics) collectUpstream(ch chan<- prometheus.Metric, send put, s *upstream.Snapshot) {
	type state struct{ mode, takes string }
	modes := map[state]int{}
	for _, mode := range [...]string{"enabled", "drain", "disabled"} {
		modes[state{mode, "no"}] = 0
	}
	modes[state{"enabled", "yes"}] = 0
	health := map[string]int{"healthy": 0, "unhealthy": 0, "unknown": 0, "ejected": 0}
	breakers := map[string]int{"closed": 0, "open": 0, "half_open": 0, "returning": 0}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		takes := "no"
		if e.Takes {
			takes = "yes"
		}
		modes[state{e.Mode, takes}]++
		if e.EjectedFor > 0 {
			health["ejected"]++
		} else {
			health[e.Health]++
		}
		breakers[strings.ReplaceAll(e.Breaker.State, "-", "_")]++
	}
	for k, n := range modes {
		send(g.upEndpoints, float64(n), s.Name, k.mode, k.takes)
	}
	for k, n := range health {
		send(g.upHealth, float64(n), s.Name, k)
	}
	for k, n := range breakers {
		send(g.upBreakers, float64(n), s.Name, k)
	}
	t := &s.Totals
	send(g.upOutcomes, float64(t.Successes), s.Name, "success")
	send(g.upOutcomes, float64(t.Failures), s.Name, "failure")
	send(g.upOutcomes, float64(t.Timeouts), s.Name, "timeout")
	send(g.upOutcomes, float64(t.ConnectFailed), s.Name, "connect_failed")
	send(g.upOutcomes, float64(t.Canceled), s.Name, "canceled")
	send(g.upRetries, float64(s.Retries), s.Name)
	send(g.upNoBudget, float64(s.RetryNoBudget), s.Name)
	send(g.upTokens, float64(s.RetryTokens), s.Name)
	for reason, n := range s.Refused {
		send(g.upRefused, float64(n), s.Name, reason)
	}
	send(g.upEjections, float64(t.Ejections), s.Name)
	send(g.upChecks, float64(t.Checks), s.Name)
	send(g.upChecksFail, float64(t.ChecksFailed), s.Name)
	send(g.upInFlight, float64(s.InFlight), s.Name)
	send(g.upWaiting, float64(s.Waiting), s.Name)
	counts := t.Latency
	if len(counts) == 0 {
		counts = make([]uint64, len(g.upBounds)+1)
	}
	ch <- histogram(g.upDuration, g.upBounds, counts, t.LatencySum, s.Name)
}

func (g *gatewayMetrics) collectPool(ch chan<- prometheus.Metric, send put, p *Pool) {
	s := &p.Stats
	state := func(name string, n int) { send(g.poolConns, float64(n), p.Upstream, p.Protocol, name) }
	if p.Open != 0 || p.Opened != 0 { // shared by their requests
		state("shared", int(p.Open))
		send(g.poolOpened, float64(p.Opened), p.Upstream, p.Protocol)
		return
	}
	state("idle", s.Idle)
	state("borrowed", s.Borrowed)
	state("opening", s.Opening)
	state("closing", s.Closing)
	state("validating", s.Validating)
	send(g.poolWaiting, float64(s.Waiting), p.Upstream, p.Protocol)
	send(g.poolOpened, float64(s.Opened()), p.Upstream, p.Protocol)
	send(g.poolFailed, float64(s.OpenFailed), p.Upstream, p.Protocol, "error")
	send(g.poolFailed, float64(s.OpenTimedOut), p.Upstream, p.Protocol, "timeout")
	for _, r := range pool.Reasons() {
		send(g.poolClosed, float64(s.Closed[r]), p.Upstream, p.Protocol, r.String())
	}
	send(g.poolAcquired, float64(s.Acquired), p.Upstream, p.Protocol)
	refused := func(reason string, n uint64) {
		send(g.poolRefused, float64(n), p.Upstream, p.Protocol, reason)
	}
	refused("timeout", s.TimedOut)
	refused("canceled", s.Cancelled)
	refused("queue_full", s.QueueFull)
	refused("unavailable", s.Unavailable)
	refused("closed", s.RefusedClose)
	ch <- histogram(g.poolWait, g.poolBounds, s.Wait.Counts[:], s.Wait.Sum, p.Upstream, p.Protocol)
}

func (g *gatewayMetrics) collectLimits(send put, v *Gateway) {
	for i := range v.Rates {
		r := &v.Rates[i]
		send(g.limited, float64(r.Allowed), "rate", r.Name, "allowed")
		send(g.limited, float64(r.Limited), "rate", r.Name, "refused")
		send(g.limitKeys, float64(r.Keys), r.Name)
	}
	for i := range v.Concurrency {
		c := &v.Concurrency[i]
		send(g.limited, float64(c.Admitted), "concurrency", c.Name, "allowed")
		send(g.limited, float64(c.Full), "concurrency", c.Name, "refused")
		send(g.limited, float64(c.TimedOut), "concurrency", c.Name, "timed_out")
		send(g.limited, float64(c.Gone), "concurrency", c.Name, "gone")
		send(g.limitRunning, float64(c.Running), "concurrency", c.Name)
		send(g.limitWaiting, float64(c.Waiting), c.Name)
	}
	for i := range v.Shedders {
		s := &v.Shedders[i]
		for class := range s.Shed {
			name := "shed_" + limit.Class(class).String()
			send(g.limited, float64(s.Shed[class]), "shed", s.Name, name)
		}
		var allowed uint64
		for _, n := range s.Admitted {
			allowed += n
		}
		send(g.limited, float64(allowed), "shed", s.Name, "allowed")
		send(g.limitRunning, float64(s.Waiting), "shed", s.Name)
		send(g.limitMax, float64(s.Limit), s.Name)
	}
}
