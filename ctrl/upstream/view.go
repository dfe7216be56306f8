package upstream

import (
	"fmt"
	"slices"
	"time"
)

// view is an immutable picture of an upstream: what the lists, the operator, the checks
// and the outlier detector say together. Choosing needs no more than a view.
type view struct {
	all    []*Endpoint // in the list's order
	levels []level     // with endpoints that take requests, by priority
}

// level is the endpoints of one priority.
type level struct {
	priority int
	total    int // that take requests as far as lists and the operator go
	healthy  int
	load     int // percent of requests
	panic    bool
	picker   Picker // nil: none
}

// rebuild makes a view of what is under mu, and publishes it.
func (u *Upstream) rebuild() {
	v := &view{all: slices.Clone(u.list)}
	var usable, every [MaxPriority + 1][]member
	for _, e := range v.all {
		if e.effectiveMode() != ModeEnabled {
			continue
		}
		p, m := e.spec.Priority, member{e, e.effectiveWeight()}
		every[p] = append(every[p], m)
		if e.usable() {
			usable[p] = append(usable[p], m)
		}
	}
	health := 0 // of all levels, in percent with over-provisioning
	for p, ms := range every {
		if len(ms) == 0 {
			continue
		}
		l := level{priority: p, total: len(ms), healthy: len(usable[p])}
		l.load = min(100, l.healthy*100*100/(l.total*u.cfg.FailoverAt))
		health += l.load
		v.levels = append(v.levels, l)
	}
	u.spread(v.levels, health)
	for i := range v.levels {
		l := &v.levels[i]
		ms := usable[l.priority]
		if l.panic {
			ms = every[l.priority]
		}
		if len(ms) > 0 {
			l.picker = newPicker(&u.cfg.Balance, ms, &u.shared)
		}
	}
	u.view.Store(v)
	u.wakeAll()
}

// spread turns the health of levels into shares of the requests: each level takes what it
// can and the ones before it left. When all together can't take everything, the shares
// grow to fill it up, and levels below the panic threshold use all their endpoints.
func (u *Upstream) spread(levels []level, health int) {
	if health < 100 {
		members := 0
		for _, l := range levels {
			members += l.total
		}
		for i := range levels {
			l := &levels[i]
			l.panic = u.cfg.PanicPercent > 0 && l.healthy*100 < l.total*u.cfg.PanicPercent
			if health == 0 {
				l.load = l.total * 100 / members
			} else {
				l.load = l.load * 100 / health
			}
		}
	}
	left := 100
	for i := range levels {
		levels[i].load = min(levels[i].load, left)
		left -= levels[i].load
	}
	for i := range levels { // rounding
		if levels[i].load > 0 || health == 0 {
			levels[i].load += left
			break
		}
	}
}

// pick chooses a level by its share, then an endpoint in it; a level without a ready
// endpoint leaves the request to the others.
func (v *view) pick(q Query, consistent bool) *Endpoint {
	if len(v.levels) == 0 {
		return nil
	}
	if len(v.levels) == 1 {
		if p := v.levels[0].picker; p != nil {
			return p.Pick(q)
		}
		return nil
	}
	r := q.Rand
	if consistent {
		r = mix(q.Hash)
	}
	r = uint64(below(r, 100))
	chosen, sum := 0, 0
	for i := range v.levels {
		if sum += v.levels[i].load; int(r) < sum {
			chosen = i
			break
		}
	}
	if p := v.levels[chosen].picker; p != nil {
		if e := p.Pick(q); e != nil {
			return e
		}
	}
	for i := range v.levels {
		if p := v.levels[i].picker; i != chosen && p != nil {
			if e := p.Pick(q); e != nil {
				return e
			}
		}
	}
	return nil
}

// why finds the reason for a choice that found nothing, most telling first: what passes
// soonest by itself.
func (v *view) why(u *Upstream, now int64) (Reason, string) {
	if len(v.all) == 0 {
		return ReasonEmpty, ""
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	var taking, usable, full, open int
	first := int64(never)
	for _, e := range v.all {
		if e.effectiveMode() != ModeEnabled {
			continue
		}
		taking++
		if !e.usable() {
			continue
		}
		usable++
		switch {
		case e.full():
			full++
		case BreakerState(e.brk.state.Load()) != BreakerClosed:
			open++
			if BreakerState(e.brk.state.Load()) == BreakerOpen {
				first = min(first, e.brk.until.Load())
			}
		}
	}
	switch {
	case taking == 0:
		return ReasonDisabled, fmt.Sprintf("%d in the list", len(v.all))
	case full > 0 || usable > 0 && open == 0:
		return ReasonInFlight, fmt.Sprintf("%d of %d endpoints have %d", full, taking, u.cfg.Limits.InFlight)
	case open > 0 && first != never:
		return ReasonBreaker, fmt.Sprintf("at %d of %d endpoints, the first is tried again in %v", open, taking, time.Duration(max(0, first-now)).Round(time.Millisecond))
	case open > 0:
		return ReasonBreaker, fmt.Sprintf("%d of %d endpoints are just coming back and take a share", open, taking)
	}
	return ReasonUnhealthy, fmt.Sprintf("0 of %d", taking)
}
