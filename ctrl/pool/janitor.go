package pool

import "time"

// kick has the janitor look again.
func (p *Pool[T]) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// validates reports whether there is background validation.
func (p *Pool[T]) validates(cfg *Config) bool {
	return p.opts.Validate != nil && cfg.ValidateEvery > 0
}

// janitor is the goroutine that ends what has grown old, validates what is
// unused, and resumes opening after a pause.
func (p *Pool[T]) janitor() {
	defer p.wg.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		// While it looks, whoever changes something kicks: it can't know whether
		// it was seen.
		p.nextWake.Store(never)
		next := p.sweep()
		p.nextWake.Store(next)
		if next == never {
			timer.Stop()
		} else {
			// Not sooner than in 1 ms, so that ends of many come together.
			timer.Reset(max(time.Duration(next-p.now()), time.Millisecond))
		}
		select {
		case <-p.ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
	}
}

// sweep does all that is due and returns when to look again.
//
// A Return does not tell the janitor. It need not: next is at most IdleTimeout
// and ValidateEvery away while anything is open, so that an item returned after
// the sweep is not due before the next; and lifetimes are looked at for borrowed
// items too.
func (p *Pool[T]) sweep() int64 {
	next := p.sweepOld()
	cfg := p.cfg.Load()
	for p.validates(cfg) && p.ctx.Err() == nil { // bound: the items; each is due again in ValidateEvery only
		it, at := p.takeUnchecked()
		if it == nil {
			next = min(next, at)
			break
		}
		err := p.validate(p.ctx, it, cfg)
		it.valid = p.now()
		p.mu.Lock()
		p.validating--
		p.mu.Unlock()
		if err != nil && p.ctx.Err() == nil {
			p.closeOne(it, ReasonInvalid)
		} else {
			p.put(it, it.shard)
		}
		if p.now() >= next || len(p.wake) > 0 { // a stalled destination must not hold up the rest
			next = p.sweepOld()
		}
	}
	return next
}

// sweepOld ends items by lifetime, flush and idle time and begins openings. It
// returns when one of these is due next.
func (p *Pool[T]) sweepOld() int64 {
	p.mu.Lock()
	cfg, now := p.cfg.Load(), p.now()
	next := int64(never)
	for n := p.all.Front(); n != nil; n = n.Next() { // bound: Max
		if at := n.Value.expires(cfg); at > now {
			next = min(next, at)
		}
	}
	var bad [numReasons]*item[T]
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
		for it := sh.oldest(); it != nil; { // bound: Max
			newer := it.newer()
			if why, over := p.ended(it, cfg, now); over {
				sh.unlink(it)
				p.closing++
				it.doomed, bad[why] = bad[why], it
			}
			it = newer
		}
		sh.mu.Unlock()
	}
	if idle := int64(cfg.IdleTimeout); idle > 0 && p.open > p.closing {
		next = min(next, now+idle)
		for p.open-p.closing > cfg.Min { // bound: Max
			it := p.takeOldest(now - idle)
			if it == nil {
				next = min(next, p.oldestUse()+idle)
				break
			}
			p.closing++
			it.doomed, bad[ReasonIdle] = bad[ReasonIdle], it
		}
	}
	p.measure()
	p.mu.Unlock()
	for why, list := range bad {
		p.finishAll(list, Reason(why))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(next, p.openNow())
}

// takeOldest takes the idle item longest unused, if it was not used after
// limit; not marked lent. p.mu is held.
func (p *Pool[T]) takeOldest(limit int64) *item[T] {
	for { // bound: a turn more only if a borrower took the one found
		var from *shard[T]
		oldest := int64(never)
		for i := range p.shards {
			sh := &p.shards[i]
			sh.mu.Lock()
			if it := sh.oldest(); it != nil && it.used <= limit && it.used < oldest {
				from, oldest = sh, it.used
			}
			sh.mu.Unlock()
		}
		if from == nil {
			return nil
		}
		from.mu.Lock()
		it := from.oldest()
		if it != nil && it.used <= limit {
			from.unlink(it)
			from.mu.Unlock()
			return it
		}
		from.mu.Unlock()
	}
}

// oldestUse is when the idle item longest unused was used; far off if none is idle.
func (p *Pool[T]) oldestUse() int64 {
	at := int64(never / 2)
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
		if it := sh.oldest(); it != nil {
			at = min(at, it.used)
		}
		sh.mu.Unlock()
	}
	return at
}

// takeUnchecked takes an idle item whose background validation is due, counted
// as validating; or else returns when one is due, at most ValidateEvery away
// while anything is open.
func (p *Pool[T]) takeUnchecked() (*item[T], int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	every, now := int64(p.cfg.Load().ValidateEvery), p.now()
	if every == 0 || p.open == 0 {
		return nil, never
	}
	next := now + every
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
		for it := sh.oldest(); it != nil; it = it.newer() { // bound: Max
			due := max(it.used, it.valid) + every
			if due <= now {
				sh.unlink(it)
				it.shard = uint32(i)
				p.validating++
				sh.mu.Unlock()
				return it, 0
			}
			next = min(next, due)
		}
		sh.mu.Unlock()
	}
	return nil, next
}
