package upstream

import (
	"sync"
	"sync/atomic"
	"time"
)

// BreakerConfig is when requests stop going to an endpoint that fails, and how they
// return. Zero durations and counts take the defaults given; ConsecutiveFailures and
// ErrorPercent both 0: no breaker.
type BreakerConfig struct {
	ConsecutiveFailures int           // that open it; 0: not by these
	ErrorPercent        int           // of requests within Window that open it, 1 to 100; 0: not by these
	MinRequests         int           // within Window before ErrorPercent counts; 20
	Window              time.Duration // 10 s
	OpenTime            time.Duration // 5 s; doubles each time it opens again before it has closed
	MaxOpenTime         time.Duration // 60 s
	Probes              int           // requests at once while half-open; 1
	ProbeSuccesses      int           // in a row that end half-open; 2
	Return              time.Duration // over which its share grows from a tenth to all, once probes succeed; 10 s; negative: at once
}

// BreakerState is where a breaker stands.
type BreakerState uint8

// States of a breaker.
const (
	BreakerClosed    BreakerState = iota // requests pass
	BreakerOpen                          // none pass
	BreakerHalfOpen                      // a few pass, to find out
	BreakerReturning                     // a growing share passes
)

// String returns "closed", "open", "half-open" or "returning".
func (s BreakerState) String() string {
	switch s {
	case BreakerClosed:
		return "closed"
	case BreakerOpen:
		return "open"
	case BreakerHalfOpen:
		return "half-open"
	case BreakerReturning:
		return "returning"
	}
	return "unknown"
}

const windowBuckets = 10

type bucket struct {
	slot    int64
	ok, bad uint32
}

// breaker is one endpoint's. Choosing reads the atomics; results take the lock.
type breaker struct {
	state  atomic.Uint32
	until  atomic.Int64  // open: probes may begin; returning: closed
	probes atomic.Int32  // in flight while half-open
	gen    atomic.Uint32 // of openings: results of requests begun before the last one say nothing new

	mu      sync.Mutex
	row     int // failures in a row; half-open: successes
	opens   int // since it was last closed
	trips   uint64
	buckets [windowBuckets]bucket
}

func (c *BreakerConfig) on() bool { return c.ConsecutiveFailures > 0 || c.ErrorPercent > 0 }

// share is how much passes while returning, in 1/1024.
func (b *breaker) share(c *BreakerConfig, now int64) int64 {
	left := b.until.Load() - now
	if left <= 0 || c.Return <= 0 {
		return 1024
	}
	return max(102, int64((1-float64(left)/float64(c.Return))*1024))
}

// admits says whether a request may begin; it changes nothing.
func (b *breaker) admits(c *BreakerConfig, now int64, r uint64) bool {
	switch BreakerState(b.state.Load()) {
	case BreakerOpen:
		return now >= b.until.Load()
	case BreakerHalfOpen:
		return b.probes.Load() < int32(c.Probes)
	case BreakerReturning:
		return int64(mix(r^0x5bd1e995)>>54) < b.share(c, now)
	}
	return true
}

// pass is what a request that began gives back at its end.
type pass struct {
	gen   uint32
	probe bool
	free  bool // another probe has its place
}

// begin lets a request pass, or not: others may have been faster since admits.
func (b *breaker) begin(c *BreakerConfig, now int64) (pass, bool) {
	switch BreakerState(b.state.Load()) {
	case BreakerClosed, BreakerReturning:
		return pass{gen: b.gen.Load()}, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch BreakerState(b.state.Load()) {
	case BreakerOpen:
		if now < b.until.Load() {
			return pass{}, false
		}
		b.row = 0
		b.probes.Store(0)
		b.state.Store(uint32(BreakerHalfOpen))
	case BreakerHalfOpen:
	default:
		return pass{gen: b.gen.Load()}, true
	}
	if b.probes.Load() >= int32(c.Probes) {
		return pass{}, false
	}
	b.probes.Add(1)
	return pass{gen: b.gen.Load(), probe: true}, true
}

// streams lets the next probe begin while this request goes on: one that has no end in sight
// would keep all others from an endpoint that answers. well: what came of it so far is a
// success; else its end says that.
func (b *breaker) streams(c *BreakerConfig, now int64, p *pass, well bool) {
	if !p.probe {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.gen != b.gen.Load() || BreakerState(b.state.Load()) != BreakerHalfOpen || p.free {
		return
	}
	b.probes.Add(-1)
	p.free = true
	if !well {
		return
	}
	p.probe = false // its end is one of many then
	if b.row++; b.row >= c.ProbeSuccesses {
		b.back(c, now)
	}
}

// done takes a request's result.
func (b *breaker) done(c *BreakerConfig, now int64, p pass, o Outcome) {
	if !c.on() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.gen != b.gen.Load() {
		return
	}
	state := BreakerState(b.state.Load())
	if p.probe && !p.free && state == BreakerHalfOpen {
		b.probes.Add(-1)
	}
	if o == Canceled {
		return
	}
	switch state {
	case BreakerHalfOpen:
		if !p.probe {
			return
		}
		if o != Success {
			b.open(c, now)
		} else if b.row++; b.row >= c.ProbeSuccesses {
			b.back(c, now)
		}
	case BreakerReturning:
		if o == Success && now >= b.until.Load() {
			b.opens = 0
			b.state.Store(uint32(BreakerClosed))
		}
		b.record(c, now, o)
	case BreakerClosed:
		b.record(c, now, o)
	}
}

// record counts a result in the window and opens the breaker when it is one too many.
func (b *breaker) record(c *BreakerConfig, now int64, o Outcome) {
	width := int64(c.Window) / windowBuckets
	slot := now / width
	k := &b.buckets[slot%windowBuckets]
	if k.slot != slot {
		*k = bucket{slot: slot}
	}
	if o == Success {
		k.ok++
		b.row = 0
		return
	}
	k.bad++
	b.row++
	if c.ConsecutiveFailures > 0 && b.row >= c.ConsecutiveFailures {
		b.open(c, now)
		return
	}
	if c.ErrorPercent == 0 {
		return
	}
	var ok, bad uint64
	for _, k := range b.buckets {
		if slot-k.slot < windowBuckets {
			ok, bad = ok+uint64(k.ok), bad+uint64(k.bad)
		}
	}
	if ok+bad >= uint64(c.MinRequests) && bad*100 >= (ok+bad)*uint64(c.ErrorPercent) {
		b.open(c, now)
	}
}

func (b *breaker) open(c *BreakerConfig, now int64) {
	d := c.OpenTime
	for i := 0; i < b.opens && d < c.MaxOpenTime; i++ {
		d *= 2
	}
	b.until.Store(now + int64(min(d, c.MaxOpenTime)))
	b.opens++
	b.trips++
	b.row = 0
	b.clear()
	b.gen.Add(1)
	b.state.Store(uint32(BreakerOpen))
}

// back begins the gradual return, with an empty window.
func (b *breaker) back(c *BreakerConfig, now int64) {
	b.row = 0
	b.clear()
	if c.Return <= 0 {
		b.opens = 0
		b.state.Store(uint32(BreakerClosed))
		return
	}
	b.until.Store(now + int64(c.Return))
	b.state.Store(uint32(BreakerReturning))
}

func (b *breaker) clear() {
	for i := range b.buckets {
		b.buckets[i] = bucket{slot: -windowBuckets}
	}
}

// BreakerSnapshot is a breaker's state for people.
type BreakerSnapshot struct {
	State    string        `json:"state"`
	Trips    uint64        `json:"trips"`
	ProbesIn time.Duration `json:"probes_in_ns,omitempty"` // open: until the first probe
	Share    int           `json:"share_percent"`          // of its requests that pass
}

func (b *breaker) snapshot(c *BreakerConfig, now int64) BreakerSnapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := BreakerState(b.state.Load())
	out := BreakerSnapshot{State: s.String(), Trips: b.trips}
	switch s {
	case BreakerClosed:
		out.Share = 100
	case BreakerOpen:
		out.ProbesIn = time.Duration(max(0, b.until.Load()-now))
	case BreakerReturning:
		out.Share = int(b.share(c, now) * 100 / 1024)
	}
	return out
}
