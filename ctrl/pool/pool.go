package pool

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/linked"
)

const never = math.MaxInt64

// Options is what a pool is made of and stays with.
type Options[T any] struct {
	// Name is the pool's in errors.
	Name string
	// Open makes an item. It must end when ctx does. Required.
	Open func(ctx context.Context) (T, error)
	// Validate says whether an unused item still works. It must end when ctx
	// does; its error costs the item. Nil: no validation.
	Validate func(ctx context.Context, v T) error
	// Close ends an item, once for each that Open made. It may run while a
	// borrower uses the item, with ReasonForced only. Required.
	Close func(v T, why Reason)
	// Rand returns numbers from 0 to 1 for the jitters; nil: math/rand/v2.
	Rand func() float64
	// Trace records where each item was borrowed, for Outstanding. For tests:
	// it costs a stack walk and a lock each time.
	Trace bool
}

// Pool is a pool of T. All methods are safe for concurrent use.
type Pool[T any] struct {
	opts   Options[T]
	start  time.Time
	cfg    atomic.Pointer[Config]
	shards []shard[T]

	// slow is not zero while Acquire and Return must look closer than at their
	// shard: the number of waiters, plus one while more than Max are open, plus
	// one once closed. It grows before the one who made it grow looks at the
	// shards, and Return reads it after its push: one of them sees the other.
	slow   atomic.Int64
	closed atomic.Bool // set under mu
	epoch  atomic.Uint64

	stale       atomic.Uint64
	validations atomic.Uint64
	nextWake    atomic.Int64 // when the janitor will look again by itself
	wake        chan struct{}

	mu         sync.Mutex // before a shard's mutex
	all        linked.List[*item[T]]
	queue      linked.List[*waiter[T]] // first in, first out
	open       int                     // items that exist, those being closed included
	opening    int
	closing    int
	validating int
	over       bool // open - closing > Max, counted in slow
	keepMin    bool
	failures   int
	failedAt   int64
	retryAt    int64
	lastErr    error
	rateAt     int64 // when the bucket of OpenRate is full again
	totals     Stats // the counters that are under mu

	ctx  context.Context // of openers and janitor
	stop context.CancelFunc
	gone chan struct{} // closed when the pool is closed and nothing is open
	wg   sync.WaitGroup
}

// New makes a pool and starts its janitor. It opens nothing itself and does not
// wait for the warm-up. The caller ends it with Close.
func New[T any](o Options[T], cfg Config) (*Pool[T], error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("pool %q: %w", o.Name, err)
	}
	if o.Open == nil || o.Close == nil {
		return nil, fmt.Errorf("pool %q: functions to open and to close are required", o.Name)
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	p := &Pool[T]{opts: o, start: time.Now(), shards: make([]shard[T], cfg.Shards), wake: make(chan struct{}, 1), gone: make(chan struct{})}
	p.cfg.Store(&cfg)
	p.keepMin = cfg.WarmUp
	p.nextWake.Store(never)
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.wg.Add(1)
	go p.janitor()
	return p, nil
}

// now is the pool's clock: monotonic ns since it was made.
func (p *Pool[T]) now() int64 { return int64(time.Since(p.start)) }

// Config returns the configuration in effect.
func (p *Pool[T]) Config() Config { return *p.cfg.Load() }

// SetConfig changes everything but Shards, at once and for the items open
// already. When Max falls, idle items above it are closed before it returns,
// borrowed ones as they come back. On an error nothing has changed.
func (p *Pool[T]) SetConfig(cfg Config) error {
	if err := cfg.Check(); err != nil {
		return fmt.Errorf("pool %q: %w", p.opts.Name, err)
	}
	if cfg.Shards != len(p.shards) {
		return fmt.Errorf("pool %q: shards is %d, can't become %d while it runs", p.opts.Name, len(p.shards), cfg.Shards)
	}
	p.mu.Lock()
	p.cfg.Store(&cfg)
	p.keepMin = p.keepMin || cfg.WarmUp
	if b := int64(cfg.BackoffMax); p.failures > 0 {
		p.retryAt = min(p.retryAt, p.now()+b)
	}
	p.measure()
	p.startOpeners()
	p.mu.Unlock()
	p.settle()
	p.kick()
	return nil
}

// Lease is the right to use one item, from Acquire to Return or Discard. It is
// a value: copies are the same lease, and the first to end it ends all.
type Lease[T any] struct {
	pool *Pool[T]
	it   *item[T]
	use  uint64
	home uint32

	reused bool
}

// Value is the item. Not to be used once the lease is over.
func (l Lease[T]) Value() T { return l.it.value }

// Reused reports whether somebody had the item before: a request that fails at
// once on a reused connection probably met one that its peer had closed.
func (l Lease[T]) Reused() bool { return l.reused }

// Return gives the item back. ErrNotBorrowed if the lease is over.
func (l Lease[T]) Return() error { return l.end(false) }

// Discard ends an item that its borrower found broken. It is closed before
// Discard returns, and replaced if somebody waits or fewer than Min are left.
// ErrNotBorrowed if the lease is over.
func (l Lease[T]) Discard() error { return l.end(true) }

func (l Lease[T]) end(broken bool) error {
	if l.it == nil {
		return ErrNotBorrowed
	}
	p, it := l.pool, l.it
	if !it.use.CompareAndSwap(l.use, l.use+1) {
		p.stale.Add(1)
		return ErrNotBorrowed
	}
	cfg := p.cfg.Load()
	now := p.now()
	why, over := ReasonBroken, broken
	if !over {
		why, over = p.ended(it, cfg, now)
	}
	if !over && cfg.MaxUses > 0 && it.uses >= cfg.MaxUses {
		why, over = ReasonUses, true
	}
	sh := &p.shards[l.home]
	if over {
		sh.held(time.Duration(now - it.lent))
		p.closeOne(it, why)
		return nil
	}
	it.used = now
	if p.slow.Load() != 0 {
		sh.held(time.Duration(now - it.lent))
		p.put(it, l.home)
		return nil
	}
	sh.mu.Lock()
	sh.hold.add(time.Duration(now - it.lent))
	sh.push(it)
	sh.mu.Unlock()
	if p.slow.Load() != 0 {
		p.settle()
	}
	return nil
}

// ended says whether an item must not be lent any more, and why.
func (p *Pool[T]) ended(it *item[T], cfg *Config, now int64) (Reason, bool) {
	if it.epoch != p.epoch.Load() {
		return ReasonFlushed, true
	}
	return ReasonLifetime, now >= it.expires(cfg)
}

// Acquire borrows an item, waiting for one if need be until ctx or
// AcquireTimeout ends. Its error is an *AcquireError.
func (p *Pool[T]) Acquire(ctx context.Context) (Lease[T], error) {
	if len(p.shards) == 1 {
		return p.AcquireShard(ctx, 0)
	}
	return p.AcquireShard(ctx, rand.Uint64())
}

// AcquireShard is Acquire for a worker: key, modulo Shards, is the shard that is
// tried first and that the item goes back to.
func (p *Pool[T]) AcquireShard(ctx context.Context, key uint64) (Lease[T], error) {
	home := uint32(key % uint64(len(p.shards)))
	if ctx.Err() != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		return Lease[T]{}, p.refuse(ctxError(ctx), p.now())
	}
	if p.slow.Load() == 0 {
		if it := p.takeIdle(home, true); it != nil {
			now := p.now()
			// Close may have looked at who has items before this one was taken.
			if !p.closed.Load() && p.usable(ctx, it, now) {
				return p.lease(it, home, now), nil
			}
			sh := &p.shards[home]
			sh.mu.Lock()
			sh.quick-- // the lease to come counts as one that waited; the shards' sum is right even if this wraps
			sh.mu.Unlock()
			return p.acquireSlow(ctx, home, now, true, it)
		}
	}
	return p.acquireSlow(ctx, home, p.now(), false, nil)
}

// acquireSlow waits for items until one is usable. bad is one that was not.
// bound: each turn but the last closes an item or ends with an error.
func (p *Pool[T]) acquireSlow(ctx context.Context, home uint32, since int64, first bool, bad *item[T]) (Lease[T], error) {
	for {
		it, err := p.wait(ctx, home, since, first, bad)
		if err != nil {
			return Lease[T]{}, err
		}
		now := p.now()
		if p.usable(ctx, it, now) {
			sh := &p.shards[home]
			now = p.now()
			sh.mu.Lock()
			sh.wait.add(time.Duration(now - since))
			sh.mu.Unlock()
			return p.lease(it, home, now), nil
		}
		bad, first = it, true
	}
}

// usable decides whether an item taken for a borrower may be lent, validating
// it if it was unused for long. If not, the item's fate is drop's.
func (p *Pool[T]) usable(ctx context.Context, it *item[T], now int64) bool {
	cfg := p.cfg.Load()
	if _, over := p.ended(it, cfg, now); over {
		return false
	}
	if p.opts.Validate == nil || now-max(it.used, it.valid) <= int64(cfg.ValidateAfter) {
		return true
	}
	if p.validate(ctx, it, cfg) != nil {
		it.valid = -1
		return false
	}
	it.valid = p.now()
	return true
}

func (p *Pool[T]) validate(ctx context.Context, it *item[T], cfg *Config) error {
	p.validations.Add(1)
	ctx, cancel := context.WithTimeout(ctx, cfg.ValidateTimeout)
	defer cancel()
	err := p.opts.Validate(ctx, it.value)
	if err == nil {
		err = ctx.Err() // one that ended late has cost its time anyway
	}
	return err
}

// drop ends an item that was taken for a borrower and not lent, if there is one.
func (p *Pool[T]) drop(it *item[T]) {
	if it == nil {
		return
	}
	use := it.use.Load()
	if use%2 == 0 || !it.use.CompareAndSwap(use, use+1) {
		return // a forced Close was quicker
	}
	switch why, over := p.ended(it, p.cfg.Load(), p.now()); {
	case it.valid < 0:
		p.closeOne(it, ReasonInvalid)
	case over:
		p.closeOne(it, why)
	default:
		p.put(it, 0) // the pool was closed meanwhile, and put closes it
	}
}

// lease makes the lease of an item that is marked lent.
func (p *Pool[T]) lease(it *item[T], home uint32, now int64) Lease[T] {
	it.lent = now
	it.uses++
	if it.trace != nil {
		p.mu.Lock()
		it.trace.record(now)
		p.mu.Unlock()
	}
	return Lease[T]{pool: p, it: it, use: it.use.Load() | 1, home: home, reused: it.uses > 1}
}

// takeIdle takes an idle item, marked lent: of the home shard, or else of the next that has one.
func (p *Pool[T]) takeIdle(home uint32, quick bool) *item[T] {
	n := uint32(len(p.shards))
	for i := range n {
		sh := &p.shards[(home+i)%n]
		if sh.n.Load() == 0 {
			continue
		}
		if it := sh.popNewest(quick); it != nil {
			return it
		}
	}
	return nil
}

// put gives an item that nobody has to who waits first, or to a shard; or
// closes it, if the pool is closed or too large.
func (p *Pool[T]) put(it *item[T], home uint32) {
	p.mu.Lock()
	switch {
	case p.closed.Load():
		p.mu.Unlock()
		p.closeOne(it, ReasonClosed)
		return
	case p.over:
		p.closing++ // here, so that the next one sees one less
		p.measure()
		p.mu.Unlock()
		p.finish(it, ReasonResized)
		return
	case p.queue.Len() > 0:
		it.use.Add(1)
		p.grant(it, nil)
	default:
		sh := &p.shards[home]
		sh.mu.Lock()
		sh.push(it)
		sh.mu.Unlock()
	}
	p.mu.Unlock()
}

// grant answers the first waiter. p.mu is held, the item marked lent.
func (p *Pool[T]) grant(it *item[T], err error) {
	w := p.queue.PopFront().Value
	p.slow.Add(-1)
	w.ch <- grant[T]{it, err}
}

// settle does what a Return without p.mu could not know of: hands idle items to
// those who wait, and closes them if the pool is closed or too large.
func (p *Pool[T]) settle() {
	var bad *item[T]
	why := ReasonResized
	p.mu.Lock()
	if p.closed.Load() {
		why = ReasonClosed
	}
	for p.over || p.closed.Load() { // bound: each turn takes one idle item
		it := p.takeOldest(never)
		if it == nil {
			break
		}
		p.closing++
		p.measure()
		it.doomed, bad = bad, it
	}
	p.serve()
	p.mu.Unlock()
	p.finishAll(bad, why)
}

// serve hands idle items to waiters. p.mu is held.
func (p *Pool[T]) serve() {
	for p.queue.Len() > 0 && !p.over { // bound: the waiters
		it := p.takeIdle(p.queue.Front().Value.home, false)
		if it == nil {
			return
		}
		p.grant(it, nil)
	}
}

// wait queues for an item, which comes marked lent. first puts it before all
// others. bad, if any, is ended once it is in the queue: what is opened in its
// place is not for those behind.
func (p *Pool[T]) wait(ctx context.Context, home uint32, since int64, first bool, bad *item[T]) (*item[T], error) {
	if first && ctx.Err() != nil {
		p.drop(bad)
		return nil, p.giveUp(nil, ctxError(ctx), since)
	}
	w := &waiter[T]{ch: make(chan grant[T], 1), home: home, since: since}
	p.mu.Lock()
	if p.closed.Load() {
		err := p.refuse(ErrClosed, since)
		p.mu.Unlock()
		p.drop(bad)
		return nil, err
	}
	cfg := p.cfg.Load()
	p.keepMin = true
	p.enqueue(w, first)
	p.slow.Add(1)
	p.serve()
	if w.place.In() {
		now := p.now()
		var cause error
		switch {
		case !first && p.queue.Len() > cfg.MaxWaiting+max(0, cfg.Max-p.open):
			cause = ErrQueueFull
		case cfg.FailFast && p.open == 0 && p.failures > 0 && now < p.retryAt:
			cause = ErrUnavailable
		}
		if cause != nil {
			p.queue.Remove(&w.place)
			p.slow.Add(-1)
			err := p.refuse(cause, since)
			p.mu.Unlock()
			p.drop(bad)
			return nil, err
		}
		p.startOpeners()
	}
	p.mu.Unlock()
	p.drop(bad)

	var late <-chan time.Time
	if cfg.AcquireTimeout > 0 {
		t := time.NewTimer(cfg.AcquireTimeout - time.Duration(p.now()-since))
		defer t.Stop()
		late = t.C
	}
	select {
	case g := <-w.ch:
		return g.it, g.err
	case <-ctx.Done():
		return nil, p.giveUp(w, ctxError(ctx), since)
	case <-late:
		return nil, p.giveUp(w, ErrTimeout, since)
	}
}

// giveUp takes w, if any, out of the queue, or puts back what it was granted meanwhile.
func (p *Pool[T]) giveUp(w *waiter[T], cause error, since int64) error {
	p.mu.Lock()
	if w == nil || w.place.In() {
		defer p.mu.Unlock()
		if w != nil {
			p.queue.Remove(&w.place)
			p.slow.Add(-1)
		}
		return p.refuse(cause, since)
	}
	g := <-w.ch // granted under p.mu: it is there
	if g.it == nil {
		p.mu.Unlock()
		return g.err
	}
	err := p.refuse(cause, since)
	p.mu.Unlock()
	if use := g.it.use.Load(); use%2 == 1 && g.it.use.CompareAndSwap(use, use+1) {
		p.put(g.it, w.home)
	}
	return err
}

// ctxError is the end of a context: its error and, if it has one of its own, its cause.
func ctxError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == err {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// refuse counts and describes the end of an Acquire. p.mu is held.
func (p *Pool[T]) refuse(cause error, since int64) error {
	switch cause { // itself, not what it wraps: a context's cause may come from another pool
	case ErrTimeout:
		p.totals.TimedOut++
	case ErrQueueFull:
		p.totals.QueueFull++
	case ErrUnavailable:
		p.totals.Unavailable++
	case ErrClosed:
		p.totals.RefusedClose++
	default:
		p.totals.Cancelled++
	}
	now := p.now()
	idle := 0
	for i := range p.shards {
		idle += int(p.shards[i].n.Load())
	}
	e := &AcquireError{
		Pool: p.opts.Name, Cause: cause, Borrowed: max(0, p.open-p.closing-p.validating-idle), Waiting: p.queue.Len(),
		Opening: p.opening, Max: p.cfg.Load().Max, Waited: time.Duration(now - since), LastOpen: p.lastErr, Failures: p.failures,
	}
	if p.failures > 0 && p.retryAt > now {
		e.RetryIn = time.Duration(p.retryAt - now)
	}
	return e
}
