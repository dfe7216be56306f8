package upstream

import (
	"math"
	"time"
)

// OutlierConfig is when an endpoint is left out for how its requests went, beside its
// checks. ConsecutiveFailures and StdevFactor both 0: never.
type OutlierConfig struct {
	ConsecutiveFailures int           // that eject it at once; 0: not by these
	StdevFactor         float64       // standard deviations below the mean rate of successes that eject it, e.g. 1.9; 0: not by these
	MinEndpoints        int           // with MinRequests each before rates are compared; 3
	MinRequests         int           // within Interval before its rate counts; 50
	Interval            time.Duration // over which rates are taken; 10 s
	EjectTime           time.Duration // of the first ejection; the n-th in a row takes n times as long; 30 s
	MaxEjectTime        time.Duration // 5 min
	MaxEjectPercent     int           // of the endpoints that may be ejected at once; one of two or more always may; 10
}

func (c *OutlierConfig) defaults() {
	defaultTo(&c.MinEndpoints, 3)
	defaultTo(&c.MinRequests, 50)
	defaultTo(&c.Interval, 10*time.Second)
	defaultTo(&c.EjectTime, 30*time.Second)
	defaultTo(&c.MaxEjectTime, max(5*time.Minute, c.EjectTime))
	defaultTo(&c.MaxEjectPercent, 10)
}

func (c *OutlierConfig) on() bool { return c.ConsecutiveFailures > 0 || c.StdevFactor > 0 }

// judge takes a request's result. The lock is taken only to eject.
func (u *Upstream) judge(e *Endpoint, o Outcome, now int64) {
	c := &u.cfg.Outlier
	if !c.on() || o == Canceled {
		return
	}
	if o == Success {
		e.intervalOK.Add(1)
		if e.failedRow.Load() != 0 {
			e.failedRow.Store(0)
		}
		return
	}
	e.intervalNo.Add(1)
	if row := e.failedRow.Add(1); c.ConsecutiveFailures == 0 || int(row) < c.ConsecutiveFailures {
		return
	}
	e.failedRow.Store(0)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.eject(e, now) {
		u.changed()
	}
}

// eject leaves e out for a while, unless too many are; under mu.
func (u *Upstream) eject(e *Endpoint, now int64) bool {
	if e.ejected != 0 || !e.listed {
		return false
	}
	c := &u.cfg.Outlier
	total, out := 0, 0
	for _, x := range u.list {
		if x.effectiveMode() != ModeEnabled {
			continue
		}
		total++
		if x.ejected != 0 {
			out++
		}
	}
	if limit := max(total*c.MaxEjectPercent/100, min(1, total-1)); out >= limit {
		u.stats.ejectKept.Add(1)
		return false
	}
	e.ejects++
	e.ejectAt = now
	e.ejected = now + int64(min(c.MaxEjectTime, c.EjectTime*time.Duration(min(e.ejects, 1000))))
	e.stats.ejects.Add(1)
	return true
}

// restore lets those back whose time is over and returns when the next one's is; under mu.
func (u *Upstream) restore(now int64) (next int64) {
	next = never
	changed := false
	for _, e := range u.list {
		switch {
		case e.ejected == 0:
		case e.ejected <= now:
			e.ejected = 0
			e.failedRow.Store(0)
			e.intervalOK.Store(0)
			e.intervalNo.Store(0)
			e.startRamp(now)
			changed = true
		default:
			next = min(next, e.ejected)
		}
	}
	if changed {
		u.rebuild()
	}
	return next
}

// sweep compares the rates of an interval; under mu.
func (u *Upstream) sweep(now int64) {
	c := &u.cfg.Outlier
	type rate struct {
		e *Endpoint
		r float64
	}
	var rates []rate
	sum := 0.0
	for _, e := range u.list {
		ok, no := e.intervalOK.Swap(0), e.intervalNo.Swap(0)
		if e.ejected == 0 && e.ejects > 0 && now-e.ejectAt > int64(c.MaxEjectTime) {
			e.ejects-- // behaved for long: its next ejection is shorter again
			e.ejectAt = now
		}
		if n := ok + no; e.ejected == 0 && n >= uint64(c.MinRequests) {
			r := float64(ok) / float64(n)
			rates = append(rates, rate{e, r})
			sum += r
		}
	}
	if c.StdevFactor == 0 || len(rates) < c.MinEndpoints {
		return
	}
	mean := sum / float64(len(rates))
	square := 0.0
	for _, r := range rates {
		square += (r.r - mean) * (r.r - mean)
	}
	limit := mean - c.StdevFactor*math.Sqrt(square/float64(len(rates)))
	changed := false
	for _, r := range rates {
		if r.r < limit {
			changed = u.eject(r.e, now) || changed
		}
	}
	if changed {
		u.rebuild()
	}
}
