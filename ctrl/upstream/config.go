package upstream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Balance is how an endpoint is chosen.
type Balance struct {
	Policy      Policy
	Table       int     // Maglev: places in the table, a prime; 0: DefaultTable
	Points      int     // RingHash: points for each unit of weight; 0: DefaultPoints
	BoundedLoad float64 // RingHash: requests in flight over an endpoint's share before the next is taken, e.g. 1.25; 0: no bound
}

// Limits of each endpoint; 0 is none.
type Limits struct {
	Conns    int // connections, see [Endpoint.AcquireConn]
	InFlight int // requests begun and not done
	Waiting  int // requests of the upstream that wait while all its endpoints are at InFlight; 0: none waits
}

// Timeouts are what whoever speaks a protocol to the endpoints keeps to.
type Timeouts struct {
	Connect   time.Duration // until a connection is made, TLS included
	Request   time.Duration // of one try, from sending to the end of the answer
	Idle      time.Duration // of a connection between requests, before it is closed
	KeepAlive time.Duration // between probes of an idle connection
}

// DefaultTimeouts are used where none are set.
func DefaultTimeouts() Timeouts {
	return Timeouts{Connect: 5 * time.Second, Request: 60 * time.Second, Idle: 90 * time.Second, KeepAlive: 15 * time.Second}
}

// DefaultPanicPercent is used where Config.PanicPercent is 0.
const DefaultPanicPercent = 50

// Config is what an upstream is made of. Only Name is required.
type Config struct {
	Name     string
	Balance  Balance
	Health   HealthConfig
	Outlier  OutlierConfig
	Breaker  BreakerConfig
	Limits   Limits
	Timeouts Timeouts
	Retry    RetryPolicy

	SlowStart    time.Duration // over which a share grows from a tenth to all after an endpoint became healthy; 0: none
	PanicPercent int           // healthy endpoints of a level below which all its endpoints are used; 0: 50; negative: never
	FailoverAt   int           // healthy percentage of a level below which requests begin to go to the next; 0: 72

	Clock Clock         // nil: SystemClock
	Rand  func() uint64 // random bits, safe for concurrent use; nil: math/rand/v2
}

func defaultTo[T int | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// check sets defaults and tells everything that is wrong, by the field's name.
func (c *Config) check() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("upstream %s: %s: %s", c.Name, field, fmt.Sprintf(format, args...)))
	}
	percent := func(field string, v int) {
		if v < 0 || v > 100 {
			bad(field, "%d: expected 0 to 100", v)
		}
	}
	positive := func(field string, v int) {
		if v < 0 {
			bad(field, "%d: expected 0 or more", v)
		}
	}
	span := func(field string, d time.Duration) {
		if d < time.Millisecond {
			bad(field, "%v: expected at least 1ms", d)
		}
	}
	if c.Name == "" {
		errs = append(errs, errors.New("upstream without a name"))
	}
	b := &c.Balance
	defaultTo(&b.Table, DefaultTable)
	defaultTo(&b.Points, DefaultPoints)
	if b.Policy > Maglev {
		bad("policy", "%d: expected round_robin, least_request, ring_hash or maglev", b.Policy)
	}
	if b.Table < 2 || b.Table > MaxTable {
		bad("table", "%d: expected a prime from 2 to %d", b.Table, MaxTable)
	} else if !prime(b.Table) {
		bad("table", "%d: expected a prime, %s is the next", b.Table, nextPrime(b.Table))
	}
	if b.Points < 0 || b.Points > 10_000 {
		bad("points", "%d: expected 1 to 10000", b.Points)
	}
	if b.BoundedLoad != 0 && !(b.BoundedLoad > 1 && b.BoundedLoad <= 100) {
		bad("bounded_load", "%g: expected more than 1, up to 100", b.BoundedLoad)
	}
	for _, v := range []struct {
		field string
		n     int
	}{{"limits.conns", c.Limits.Conns}, {"limits.in_flight", c.Limits.InFlight}, {"limits.waiting", c.Limits.Waiting},
		{"breaker.consecutive_failures", c.Breaker.ConsecutiveFailures}, {"breaker.min_requests", c.Breaker.MinRequests},
		{"outlier.consecutive_failures", c.Outlier.ConsecutiveFailures}, {"health.rise", c.Health.Rise}, {"health.fall", c.Health.Fall},
		{"health.concurrency", c.Health.Concurrency}, {"retry.attempts", c.Retry.Attempts}} {
		positive(v.field, v.n)
	}
	if c.Limits.Waiting > 0 && c.Limits.InFlight == 0 {
		bad("limits.waiting", "expected limits.in_flight too: nothing waits without it")
	}
	if c.SlowStart < 0 {
		bad("slow_start", "%v: expected 0 or more", c.SlowStart)
	}
	defaultTo(&c.PanicPercent, DefaultPanicPercent)
	if c.PanicPercent > 100 {
		bad("panic_percent", "%d: expected at most 100", c.PanicPercent)
	}
	defaultTo(&c.FailoverAt, 72)
	if c.FailoverAt < 1 || c.FailoverAt > 100 {
		bad("failover_at", "%d: expected 1 to 100", c.FailoverAt)
	}
	k := &c.Breaker
	defaultTo(&k.MinRequests, 20)
	defaultTo(&k.Window, 10*time.Second)
	defaultTo(&k.OpenTime, 5*time.Second)
	defaultTo(&k.MaxOpenTime, max(60*time.Second, k.OpenTime))
	defaultTo(&k.Probes, 1)
	defaultTo(&k.ProbeSuccesses, 2)
	defaultTo(&k.Return, 10*time.Second)
	percent("breaker.error_percent", k.ErrorPercent)
	span("breaker.window", k.Window)
	span("breaker.open_time", k.OpenTime)
	if k.MaxOpenTime < k.OpenTime {
		bad("breaker.max_open_time", "%v: expected at least open_time, %v", k.MaxOpenTime, k.OpenTime)
	}
	if k.Probes < 0 || k.ProbeSuccesses < 0 {
		bad("breaker.probes", "expected 1 or more")
	}
	c.Health.defaults()
	span("health.interval", c.Health.Interval)
	span("health.fail_interval", c.Health.FailInterval)
	span("health.timeout", c.Health.Timeout)
	percent("health.jitter_percent", c.Health.JitterPercent)
	c.Outlier.defaults()
	span("outlier.interval", c.Outlier.Interval)
	span("outlier.eject_time", c.Outlier.EjectTime)
	percent("outlier.max_eject_percent", c.Outlier.MaxEjectPercent)
	if c.Outlier.StdevFactor < 0 {
		bad("outlier.stdev_factor", "%g: expected 0 or more", c.Outlier.StdevFactor)
	}
	if c.Outlier.MaxEjectTime < c.Outlier.EjectTime {
		bad("outlier.max_eject_time", "%v: expected at least eject_time, %v", c.Outlier.MaxEjectTime, c.Outlier.EjectTime)
	}
	t, d := &c.Timeouts, DefaultTimeouts()
	defaultTo(&t.Connect, d.Connect)
	defaultTo(&t.Request, d.Request)
	defaultTo(&t.Idle, d.Idle)
	defaultTo(&t.KeepAlive, d.KeepAlive)
	span("timeouts.connect", t.Connect)
	span("timeouts.request", t.Request)
	span("timeouts.idle", t.Idle)
	span("timeouts.keep_alive", t.KeepAlive)
	if err := c.Retry.check(); err != nil {
		bad("retry", "%v", err)
	}
	if c.Clock == nil {
		c.Clock = SystemClock{}
	}
	if c.Rand == nil {
		c.Rand = rand.Uint64
	}
	return errors.Join(errs...)
}
