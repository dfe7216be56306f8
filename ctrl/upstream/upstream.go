package upstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/cancel"
)

// Upstream is a named set of endpoints that do the same.
type Upstream struct {
	cfg   Config
	begun time.Time

	view   atomic.Pointer[view]
	shared shared
	stats  *upstreamCounters
	budget budget
	queue  queue
	timers cancel.Timers // of tries

	kick    chan struct{} // tells Run that the list or the ejections changed
	running atomic.Bool

	mu     sync.Mutex
	list   []*Endpoint
	byAddr map[string]*Endpoint
	gone   []*Endpoint          // left the list, requests may be in flight
	past   Totals               // of those that left before
	heirs  map[string]*Endpoint // of the upstream that u replaced, and not in the list yet
}

// New makes an upstream without endpoints.
func New(cfg Config) (*Upstream, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	u := &Upstream{cfg: cfg, begun: cfg.Clock.Now(), stats: new(upstreamCounters), kick: make(chan struct{}, 1), byAddr: map[string]*Endpoint{}}
	u.shared.next.Store(cfg.Rand() >> 1) // gateways started together must not go in step
	u.budget.init(&u.cfg.Retry)
	u.view.Store(&view{})
	return u, nil
}

// Name returns the upstream's name.
func (u *Upstream) Name() string { return u.cfg.Name }

// Timeouts returns what was configured, or the defaults.
func (u *Upstream) Timeouts() Timeouts { return u.cfg.Timeouts }

// now is nanoseconds since the upstream was made, from 1 on, by the monotonic clock.
func (u *Upstream) now() int64 { return int64(u.cfg.Clock.Now().Sub(u.begun)) + 1 }

// Set replaces the list: all of it or, with an error, nothing. Endpoints that were there
// before keep their state, requests in flight to those that are gone go on.
func (u *Upstream) Set(specs []Spec) error {
	if len(specs) > MaxEndpoints {
		return fmt.Errorf("upstream %s: %d endpoints: expected at most %d", u.cfg.Name, len(specs), MaxEndpoints)
	}
	specs = append([]Spec(nil), specs...)
	seen := make(map[string]bool, len(specs))
	var errs []error
	for i := range specs {
		s := &specs[i]
		if err := s.check(); err != nil {
			errs = append(errs, fmt.Errorf("upstream %s: endpoint %d: %w", u.cfg.Name, i+1, err))
		} else if seen[s.Address] {
			errs = append(errs, fmt.Errorf("upstream %s: endpoint %d: address %q: expected once, is there before", u.cfg.Name, i+1, s.Address))
		}
		seen[s.Address] = true
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.replace(specs)
	return nil
}

func (u *Upstream) replace(specs []Spec) {
	for _, e := range u.list {
		e.listed = false
	}
	list := make([]*Endpoint, 0, len(specs))
	byAddr := make(map[string]*Endpoint, len(specs))
	for _, s := range specs {
		e := u.byAddr[s.Address]
		if e == nil {
			e = newEndpoint(u, s)
			if o := u.heirs[s.Address]; o != nil {
				u.inheritOne(e, o)
			}
			if len(u.list) > 0 { // one more beside others that are warm
				e.startRamp(u.now())
			}
		}
		e.spec, e.listed = s, true
		list = append(list, e)
		byAddr[s.Address] = e
	}
	for _, e := range u.list {
		if !e.listed {
			u.gone = append(u.gone, e)
		}
	}
	u.list, u.byAddr = list, byAddr
	u.totals() // forgets those that can be
	u.changed()
}

// changed publishes what changed under mu.
func (u *Upstream) changed() {
	u.rebuild()
	select {
	case u.kick <- struct{}{}:
	default:
	}
}

// Add puts one more endpoint into the list.
func (u *Upstream) Add(s Spec) error {
	if err := s.check(); err != nil {
		return fmt.Errorf("upstream %s: %w", u.cfg.Name, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.byAddr[s.Address] != nil {
		return fmt.Errorf("upstream %s: add %s: it is in the list", u.cfg.Name, s.Address)
	}
	if len(u.list) == MaxEndpoints {
		return fmt.Errorf("upstream %s: add %s: the list has %d endpoints, as many as may be", u.cfg.Name, s.Address, MaxEndpoints)
	}
	u.replace(append(u.specs(), s))
	return nil
}

// Remove takes an endpoint out of the list; its requests in flight go on.
func (u *Upstream) Remove(address string) error {
	return u.edit(address, "remove", func(gone *Endpoint) {
		var specs []Spec
		for _, e := range u.list {
			if e != gone {
				specs = append(specs, e.spec)
			}
		}
		u.replace(specs)
	})
}

// Specs returns the list, as it was set.
func (u *Upstream) Specs() []Spec {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.specs()
}

func (u *Upstream) specs() []Spec {
	out := make([]Spec, len(u.list))
	for i, e := range u.list {
		out[i] = e.spec
	}
	return out
}

// SetWeight overrides the list's weight until the endpoint leaves the list; 0: no more.
func (u *Upstream) SetWeight(address string, weight int) error {
	if weight < 0 || weight > MaxWeight {
		return fmt.Errorf("upstream %s: weight %d: expected 0 to %d", u.cfg.Name, weight, MaxWeight)
	}
	return u.edit(address, "set weight of", func(e *Endpoint) { e.weight = weight; u.changed() })
}

// SetMode overrides what the list says until the endpoint leaves it; ModeList: no more.
func (u *Upstream) SetMode(address string, m Mode) error {
	if m > ModeDisabled {
		return fmt.Errorf("upstream %s: mode %d: expected list, enabled, drain or disabled", u.cfg.Name, m)
	}
	return u.edit(address, "set mode of", func(e *Endpoint) { e.mode = m; u.changed() })
}

// Inherit takes over what an upstream that u replaces knows: what operators set at its
// endpoints, what checks found out, what was counted; for endpoints in the list and those
// that come into it later. Both count in the same place from then on, as requests of the
// old one end. It is called before u is used.
func (u *Upstream) Inherit(old *Upstream) {
	old.mu.Lock()
	defer old.mu.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stats = old.stats
	u.past, u.gone = old.past, append(slices.Clone(old.gone), old.list...)
	u.past.Latency = slices.Clone(u.past.Latency)
	u.heirs = map[string]*Endpoint{}
	if len(old.list) == 0 { // it got none yet: those that it waited for are waited for still
		maps.Copy(u.heirs, old.heirs)
	}
	for _, e := range old.list {
		u.heirs[e.address] = e
	}
	for _, e := range u.list {
		if o := u.heirs[e.address]; o != nil {
			u.inheritOne(e, o)
		}
	}
	old.gone, old.heirs = nil, nil // else each would keep all before it
	u.forget(func(e *Endpoint) bool { return u.heirs[e.address] != e })
	u.changed()
}

// inheritOne makes e what another upstream's endpoint of that address was.
func (u *Upstream) inheritOne(e, o *Endpoint) {
	delete(u.heirs, e.address)
	e.mode, e.weight = o.mode, o.weight
	if u.cfg.Health.Checker != nil && o.up.cfg.Health.Checker != nil {
		e.health = o.health
	}
	if i := slices.Index(u.gone, o); i >= 0 { // else its counts are in past already
		u.gone = slices.Delete(u.gone, i, i+1)
		e.stats = o.stats
	}
}

// Drain keeps new requests from an endpoint; those in flight go on.
func (u *Upstream) Drain(address string) error { return u.SetMode(address, ModeDrain) }

// Enable lets requests go to an endpoint.
func (u *Upstream) Enable(address string) error { return u.SetMode(address, ModeEnabled) }

// Disable keeps requests and checks from an endpoint.
func (u *Upstream) Disable(address string) error { return u.SetMode(address, ModeDisabled) }

func (u *Upstream) edit(address, what string, change func(*Endpoint)) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	e := u.byAddr[address]
	if e == nil {
		return fmt.Errorf("upstream %s: %s %s: %w", u.cfg.Name, what, address, ErrNoEndpoint)
	}
	change(e)
	return nil
}

// ErrNoEndpoint: an address that is not in the list.
var ErrNoEndpoint = errors.New("no such endpoint")

// Outcome is how a request went, as far as the endpoint is to blame.
type Outcome uint8

// Outcomes.
const (
	Success       Outcome = iota
	Failure               // answered with what counts as one (HTTP 5xx), or broke off
	Timeout               // Timeouts.Request passed
	ConnectFailed         // no connection: nothing was sent
	Busy                  // no connection was free for it: nothing was sent, and nothing is said of the endpoint
	Canceled              // given up by the client: says nothing of the endpoint
)

// String returns the outcome's name.
func (o Outcome) String() string {
	switch o {
	case Success:
		return "success"
	case Failure:
		return "failure"
	case Timeout:
		return "timeout"
	case ConnectFailed:
		return "connect failed"
	case Busy:
		return "no connection free"
	case Canceled:
		return "canceled"
	}
	return "unknown"
}

// Lease is the right to send one request to an endpoint. It is ended by exactly one Done.
type Lease struct {
	e    *Endpoint
	pass pass
	at   int64
}

// Endpoint returns where to send the request.
func (l *Lease) Endpoint() *Endpoint { return l.e }

// Pick chooses as Acquire does and counts nothing.
func (u *Upstream) Pick(q Query) *Endpoint {
	u.draw(&q)
	q.now = u.now()
	return u.view.Load().pick(q, u.cfg.Balance.Policy.consistent())
}

// draw sets what a query leaves to chance. Requests without a key are spread: with one key
// for all of them they would meet at one endpoint.
func (u *Upstream) draw(q *Query) {
	if q.Rand == 0 {
		q.Rand = u.cfg.Rand()
	}
	if q.Hash == 0 {
		q.Hash = mix(q.Rand)
	}
}

// Acquire chooses an endpoint for one request. Without an endpoint the error is a
// [Refusal]. It waits only while all are at their limit of requests in flight, if
// Limits.Waiting lets it, and until ctx ends.
func (u *Upstream) Acquire(ctx context.Context, q Query) (Lease, error) {
	u.draw(&q)
	// Who waits goes first.
	if u.queue.len.Load() == 0 {
		if l, ok := u.try(q); ok {
			return l, nil
		}
	}
	return u.wait(ctx, q)
}

// try takes no lock while breakers are closed, and allocates nothing.
func (u *Upstream) try(q Query) (Lease, bool) {
	v := u.view.Load()
	q.now = u.now()
	consistent := u.cfg.Balance.Policy.consistent()
	for range 4 { // another took the room between choosing and beginning
		e := v.pick(q, consistent)
		if e == nil && q.n != 0 {
			q.n, q.tried = 0, [4]*Endpoint{} // rather the same one again than none
			e = v.pick(q, consistent)
		}
		if e == nil {
			return Lease{}, false
		}
		if !e.take() {
			continue
		}
		p, ok := e.brk.begin(&u.cfg.Breaker, q.now)
		if !ok {
			e.inflight.Add(-1)
			continue
		}
		u.shared.inflight.Add(1)
		e.stats.requests.Add(1)
		return Lease{e: e, pass: p, at: q.now}, true
	}
	return Lease{}, false
}

// Done ends the request with how it went.
func (l *Lease) Done(o Outcome) {
	e := l.e
	if e == nil {
		panic("upstream: Done of a lease that is done")
	}
	u := e.up
	l.e = nil
	if o == Busy {
		o = Canceled // which the pool counts
	}
	now := u.now()
	e.stats.done(o, now-l.at)
	e.brk.done(&u.cfg.Breaker, now, l.pass, o)
	u.shared.inflight.Add(-1)
	if e.inflight.Add(-1) < 0 {
		panic("upstream: more requests done than begun")
	}
	u.judge(e, o, now)
	if u.queue.len.Load() != 0 {
		u.wakeOne()
	}
}

func (u *Upstream) refuse(r Reason, detail string, err error) error {
	u.stats.refused[r].Add(1)
	return &Refusal{Upstream: u.cfg.Name, Reason: r, Detail: detail, Err: err}
}

// Has says whether e is in the list now.
func (u *Upstream) Has(e *Endpoint) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return e.listed && u.byAddr[e.address] == e
}

// Endpoints returns those in the list now, in its order.
func (u *Upstream) Endpoints() []*Endpoint {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]*Endpoint(nil), u.list...)
}
