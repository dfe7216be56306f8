package upstream

import (
	"slices"
	"sync/atomic"
	"time"
)

// counters are an endpoint's. Buckets of latency are in [LatencyBounds].
type counters struct {
	requests atomic.Uint64
	outcomes [Canceled + 1]atomic.Uint64
	refused  [reasonCount]atomic.Uint64
	latency  [latencyBuckets]atomic.Uint64
	sum      atomic.Int64 // ns, without canceled requests
	checks   atomic.Uint64
	failed   atomic.Uint64 // checks
	ejects   atomic.Uint64
}

const latencyBuckets = 15

// LatencyBounds returns the upper bounds of the buckets of latency but for the last,
// which has none: 500 µs, doubling.
func LatencyBounds() []time.Duration {
	out := make([]time.Duration, latencyBuckets-1)
	for i := range out {
		out[i] = 500 * time.Microsecond << i
	}
	return out
}

func (c *counters) done(o Outcome, ns int64) {
	c.outcomes[o].Add(1)
	if o == Canceled {
		return
	}
	c.sum.Add(ns)
	i, bound := 0, int64(500*time.Microsecond)
	for i < latencyBuckets-1 && ns > bound {
		i, bound = i+1, bound*2
	}
	c.latency[i].Add(1)
}

// upstreamCounters are the upstream's own.
type upstreamCounters struct {
	refused   [reasonCount]atomic.Uint64
	retries   atomic.Uint64
	noBudget  atomic.Uint64
	waited    atomic.Uint64
	ejectKept atomic.Uint64
}

// EndpointSnapshot is an endpoint at one moment.
type EndpointSnapshot struct {
	Address  string `json:"address"`
	Locality string `json:"locality,omitempty"`
	Priority int    `json:"priority"`
	Weight   int    `json:"weight"`
	Listed   int    `json:"listed_weight"` // what its list says, whatever an operator set
	Mode     string `json:"mode"`          // what holds: enabled, drain, disabled
	Operator string `json:"operator"`      // what the operator set: list is nothing

	Health     string          `json:"health"`
	Since      time.Time       `json:"since"` // the state of health
	LastCheck  time.Time       `json:"last_check"`
	LastError  string          `json:"last_error,omitempty"`
	EjectedFor time.Duration   `json:"ejected_for_ns,omitempty"`
	SlowStart  int             `json:"slow_start_percent"` // of its weight; 100: not in slow start
	Breaker    BreakerSnapshot `json:"breaker"`
	Takes      bool            `json:"takes_requests"`

	InFlight int64 `json:"in_flight"`
	Conns    int64 `json:"connections"`

	Requests      uint64        `json:"requests"`
	Successes     uint64        `json:"successes"`
	Failures      uint64        `json:"failures"`
	Timeouts      uint64        `json:"timeouts"`
	ConnectFailed uint64        `json:"connect_failed"`
	Canceled      uint64        `json:"canceled"`
	ConnsRefused  uint64        `json:"connections_refused"`
	Checks        uint64        `json:"checks"`
	ChecksFailed  uint64        `json:"checks_failed"`
	Ejections     uint64        `json:"ejections"`
	LatencySum    time.Duration `json:"latency_sum_ns"`
	Latency       []uint64      `json:"latency_buckets"` // not cumulative
}

// Totals are what endpoints counted, those that left the list included: they only grow.
type Totals struct {
	Requests      uint64        `json:"requests"`
	Successes     uint64        `json:"successes"`
	Failures      uint64        `json:"failures"`
	Timeouts      uint64        `json:"timeouts"`
	ConnectFailed uint64        `json:"connect_failed"`
	Canceled      uint64        `json:"canceled"`
	Checks        uint64        `json:"checks"`
	ChecksFailed  uint64        `json:"checks_failed"`
	Ejections     uint64        `json:"ejections"`
	LatencySum    time.Duration `json:"latency_sum_ns"`
	Latency       []uint64      `json:"latency_buckets"` // not cumulative
}

func (t *Totals) add(c *counters) {
	t.Requests += c.requests.Load()
	t.Successes += c.outcomes[Success].Load()
	t.Failures += c.outcomes[Failure].Load()
	t.Timeouts += c.outcomes[Timeout].Load()
	t.ConnectFailed += c.outcomes[ConnectFailed].Load()
	t.Canceled += c.outcomes[Canceled].Load()
	t.Checks += c.checks.Load()
	t.ChecksFailed += c.failed.Load()
	t.Ejections += c.ejects.Load()
	t.LatencySum += time.Duration(c.sum.Load())
	if t.Latency == nil {
		t.Latency = make([]uint64, latencyBuckets)
	}
	for i := range c.latency {
		t.Latency[i] += c.latency[i].Load()
	}
}

// forget leaves of endpoints that left no more than what they counted, of those that may be
// forgotten and whose last request ended; under mu.
func (u *Upstream) forget(may func(*Endpoint) bool) {
	u.gone = slices.DeleteFunc(u.gone, func(e *Endpoint) bool {
		if e.inflight.Load() > 0 || !may(e) {
			return false
		}
		u.past.add(e.stats)
		return true
	})
}

// totals sums up under mu. Endpoints that left are forgotten once their last request ended.
func (u *Upstream) totals() Totals {
	u.forget(func(*Endpoint) bool { return true })
	t := u.past
	t.Latency = slices.Clone(t.Latency)
	for _, list := range [...][]*Endpoint{u.gone, u.list} {
		for _, e := range list {
			t.add(e.stats)
		}
	}
	return t
}

// LevelSnapshot is one priority's share.
type LevelSnapshot struct {
	Priority int  `json:"priority"`
	Total    int  `json:"total"`
	Healthy  int  `json:"healthy"`
	Load     int  `json:"load_percent"`
	Panic    bool `json:"panic"`
}

// Snapshot is an upstream at one moment. Counters are read one after the other, while
// requests go on.
type Snapshot struct {
	Name      string             `json:"name"`
	Policy    string             `json:"policy"`
	Levels    []LevelSnapshot    `json:"levels"`
	Endpoints []EndpointSnapshot `json:"endpoints"`
	Totals    Totals             `json:"totals"`

	InFlight       int64             `json:"in_flight"`
	Waiting        int64             `json:"waiting"`
	Waited         uint64            `json:"waited"`
	Retries        uint64            `json:"retries"`
	RetryNoBudget  uint64            `json:"retries_without_budget"`
	RetryTokens    int               `json:"retry_tokens"`
	EjectionsSpare uint64            `json:"ejections_spared"` // too many were ejected already
	Refused        map[string]uint64 `json:"refused"`          // by Reason's label
}

// Snapshot returns what there is to see.
func (u *Upstream) Snapshot() Snapshot {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.now()
	s := Snapshot{Name: u.cfg.Name, Policy: u.cfg.Balance.Policy.String(), InFlight: u.shared.inflight.Load(), Waiting: u.queue.len.Load(),
		Waited: u.stats.waited.Load(), Retries: u.stats.retries.Load(), RetryNoBudget: u.stats.noBudget.Load(), RetryTokens: u.budget.left(now),
		EjectionsSpare: u.stats.ejectKept.Load(), Refused: map[string]uint64{}, Totals: u.totals()}
	for r := ReasonNone + 1; r < reasonCount; r++ {
		if n := u.stats.refused[r].Load(); n != 0 {
			s.Refused[r.Label()] = n
		}
	}
	for _, l := range u.view.Load().levels {
		s.Levels = append(s.Levels, LevelSnapshot{Priority: l.priority, Total: l.total, Healthy: l.healthy, Load: l.load, Panic: l.panic})
	}
	for _, e := range u.list {
		s.Endpoints = append(s.Endpoints, e.snapshot(now))
	}
	return s
}

func (e *Endpoint) snapshot(now int64) EndpointSnapshot {
	c := e.stats
	s := EndpointSnapshot{
		Address: e.address, Locality: e.spec.Locality, Priority: e.spec.Priority, Weight: e.effectiveWeight(), Listed: e.spec.Weight,
		Mode: e.effectiveMode().String(), Operator: e.mode.String(),
		Health: e.health.state.String(), Since: e.health.since, LastCheck: e.health.at, LastError: e.health.err,
		EjectedFor: e.ejectedFor(now), SlowStart: int(e.ramp(now) * 100 / 1024), Breaker: e.brk.snapshot(&e.up.cfg.Breaker, now),
		Takes:    e.effectiveMode() == ModeEnabled && e.usable(),
		InFlight: e.inflight.Load(), Conns: e.conns.Load(),
		Requests: c.requests.Load(), Successes: c.outcomes[Success].Load(), Failures: c.outcomes[Failure].Load(),
		Timeouts: c.outcomes[Timeout].Load(), ConnectFailed: c.outcomes[ConnectFailed].Load(), Canceled: c.outcomes[Canceled].Load(),
		ConnsRefused: c.refused[ReasonConns].Load(), Checks: c.checks.Load(), ChecksFailed: c.failed.Load(), Ejections: c.ejects.Load(),
		LatencySum: time.Duration(c.sum.Load()),
	}
	for i := range c.latency {
		s.Latency = append(s.Latency, c.latency[i].Load())
	}
	return s
}
