package pool

import (
	"context"
	"errors"
	"time"
)

// startOpeners begins what may be opened now, and has the janitor see to what
// may be opened later. p.mu is held.
func (p *Pool[T]) startOpeners() {
	if at := p.openNow(); at < p.nextWake.Load() {
		p.kick()
	}
}

// openNow begins what may be opened now and returns when more may be; never if
// no more is wanted or it waits for another event than time. p.mu is held.
func (p *Pool[T]) openNow() int64 {
	for { // bound: MaxConnecting
		at := p.openAt(p.now())
		if at != 0 {
			return at
		}
		p.beginOpen()
		p.wg.Add(1)
		go p.opener()
	}
}

// openAt is 0 if another item is wanted and may be opened now, and otherwise as
// openNow's result. p.mu is held.
func (p *Pool[T]) openAt(now int64) int64 {
	cfg := p.cfg.Load()
	want := p.queue.Len()
	if p.keepMin {
		want = max(want, cfg.Min-(p.open-p.closing))
	}
	limit := cfg.MaxConnecting
	if p.failures > 0 {
		limit = 1 // one asks whether the destination is back
	}
	if p.closed.Load() || p.opening >= min(want, limit) || p.open+p.opening >= cfg.Max {
		return never
	}
	var at int64
	if p.failures > 0 {
		at = p.retryAt
	}
	if cfg.OpenRate > 0 {
		interval := int64(time.Second) / int64(cfg.OpenRate)
		at = max(at, p.rateAt-interval*int64(cfg.MaxConnecting-1))
	}
	if at <= now {
		return 0
	}
	return at
}

// beginOpen counts an opening. p.mu is held.
func (p *Pool[T]) beginOpen() {
	if rate := p.cfg.Load().OpenRate; rate > 0 {
		p.rateAt = max(p.rateAt, p.now()) + int64(time.Second)/int64(rate)
	}
	p.opening++
}

// opener opens items as long as more are wanted at once; begun by beginOpen.
func (p *Pool[T]) opener() {
	defer p.wg.Done()
	for more := true; more; { // bound: ends when openAt says so, or the pool is closed
		p.mu.Lock()
		forWaiter := p.queue.Len() > 0
		p.mu.Unlock()
		began := p.now()
		ctx, cancel := context.WithTimeout(p.ctx, p.cfg.Load().ConnectTimeout)
		v, err := p.opts.Open(ctx)
		late := ctx.Err() != nil
		cancel()
		if err != nil {
			more = p.openFailed(err, late, began)
		} else {
			more = p.opened(v, forWaiter)
		}
	}
}

// opened takes in a new item, and begins another opening if it returns true.
func (p *Pool[T]) opened(v T, forWaiter bool) bool {
	now := p.now()
	it := &item[T]{value: v, born: now, used: now, valid: now, spread: p.opts.Rand(), epoch: p.epoch.Load()}
	it.idle.Value, it.all.Value = it, it
	if p.opts.Trace {
		it.trace = &trace{}
	}
	p.mu.Lock()
	p.opening--
	p.open++
	p.all.PushFront(&it.all)
	if forWaiter {
		p.totals.OpenedForWaiter++
	} else {
		p.totals.OpenedForMin++
	}
	p.failures, p.lastErr, p.retryAt = 0, nil, 0
	p.measure()
	p.mu.Unlock()

	p.put(it, uint32(it.born)%uint32(len(p.shards)))
	if p.ages(it) < p.nextWake.Load() {
		p.kick()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.openAt(p.now()) == 0 {
		p.beginOpen()
		p.startOpeners() // after failures this was the only one
		return true
	}
	p.startOpeners()
	return false
}

// ages is when the janitor has to look at a new item at the latest.
func (p *Pool[T]) ages(it *item[T]) int64 {
	cfg := p.cfg.Load()
	at := it.expires(cfg)
	if cfg.IdleTimeout > 0 {
		at = min(at, it.born+int64(cfg.IdleTimeout))
	}
	if p.validates(cfg) {
		at = min(at, it.born+int64(cfg.ValidateEvery))
	}
	return at
}

// openFailed takes note of a failed opening, and begins another if it returns true.
func (p *Pool[T]) openFailed(err error, late bool, began int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opening--
	if p.closed.Load() {
		p.checkGone()
		return false
	}
	if late && errors.Is(err, context.DeadlineExceeded) {
		p.totals.OpenTimedOut++
	} else {
		p.totals.OpenFailed++
	}
	p.lastErr = err
	now := p.now()
	if p.failures == 0 || began >= p.failedAt { // those begun together fail as one
		p.failures++
		p.failedAt = now
		p.retryAt = now + int64(p.pause())
	}
	if p.cfg.Load().FailFast && p.open == 0 {
		for p.queue.Len() > 0 { // bound: the waiters
			since := p.queue.Front().Value.since
			p.grant(nil, p.refuse(ErrUnavailable, since))
		}
	}
	p.startOpeners()
	return false
}

// pause is how long nothing is opened after the latest failure. p.mu is held.
func (p *Pool[T]) pause() time.Duration {
	cfg := p.cfg.Load()
	d := cfg.BackoffMin
	for i := 1; i < p.failures && d < cfg.BackoffMax; i++ { // bound: d doubles up to an hour
		d *= 2
	}
	d = min(d, cfg.BackoffMax)
	return d - time.Duration(float64(d/2)*p.opts.Rand())
}
