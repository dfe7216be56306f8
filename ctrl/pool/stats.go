package pool

import "time"

// Reason is why an item was closed.
type Reason uint8

// The reasons, as Stats.Closed counts them.
const (
	ReasonIdle     Reason = iota // nobody needed it for IdleTimeout
	ReasonLifetime               // older than MaxLifetime
	ReasonUses                   // borrowed MaxUses times
	ReasonInvalid                // validation failed
	ReasonBroken                 // its borrower discarded it
	ReasonResized                // more open than a lowered Max
	ReasonFlushed                // opened before a Flush
	ReasonClosed                 // the pool was closed
	ReasonForced                 // borrowed still when Close's context ended
	numReasons
)

func (r Reason) String() string {
	names := [numReasons]string{"idle", "lifetime", "uses", "invalid", "broken", "resized", "flushed", "closed", "forced"}
	if r >= numReasons {
		return "unknown"
	}
	return names[r]
}

// Reasons returns all of them, in the order of Stats.Closed.
func Reasons() []Reason {
	all := make([]Reason, numReasons)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

const numBuckets = 7

// Bounds are the upper bounds of a Histogram's buckets but the last, which has none.
func Bounds() [numBuckets - 1]time.Duration {
	return [...]time.Duration{100 * time.Microsecond, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second}
}

// Histogram counts durations: Counts[i] those up to Bounds()[i] and above the
// bound before it.
type Histogram struct {
	Counts [numBuckets]uint64
	Sum    time.Duration
}

// Total is the number of durations counted.
func (h Histogram) Total() uint64 {
	var n uint64
	for _, c := range h.Counts {
		n += c
	}
	return n
}

func (h *Histogram) add(d time.Duration) {
	i := numBuckets - 1
	switch { // a switch, not a search in Bounds: this is on the return path
	case d <= 100*time.Microsecond:
		i = 0
	case d <= time.Millisecond:
		i = 1
	case d <= 10*time.Millisecond:
		i = 2
	case d <= 100*time.Millisecond:
		i = 3
	case d <= time.Second:
		i = 4
	case d <= 10*time.Second:
		i = 5
	}
	h.Counts[i]++
	h.Sum += d
}

func (h *Histogram) merge(o *Histogram) {
	for i, c := range o.Counts {
		h.Counts[i] += c
	}
	h.Sum += o.Sum
}

// Stats is a pool at one moment. Totals count from New.
type Stats struct {
	Min, Max int
	Open     int // Idle + Borrowed + Validating + Closing
	Idle     int
	Borrowed int // on their way to a borrower included
	Opening  int
	Closing  int
	Waiting  int
	// Validating counts those in background validation; an item validated for a
	// borrower counts as Borrowed.
	Validating int

	OpenedForWaiter uint64 // begun because somebody waited
	OpenedForMin    uint64 // begun to warm up or to keep Min
	OpenFailed      uint64 // by error; OpenTimedOut apart
	OpenTimedOut    uint64
	Closed          [numReasons]uint64 // by Reason

	Acquired     uint64 // as many as Wait holds
	Validations  uint64 // on borrow and in the background
	TimedOut     uint64 // Acquire ended by AcquireTimeout
	Cancelled    uint64 // by its context
	QueueFull    uint64 // by MaxWaiting
	Unavailable  uint64 // by FailFast
	RefusedClose uint64 // because the pool was closed
	StaleReturns uint64 // Return or Discard of a lease that was over

	Wait Histogram // from Acquire to lease
	Hold Histogram // from lease to Return or Discard

	Failures int           // openings failed in a row
	RetryIn  time.Duration // pause left before the next
	LastOpen error         // nil when the latest opening succeeded
}

// Opened is the total of items opened.
func (s Stats) Opened() uint64 { return s.OpenedForWaiter + s.OpenedForMin }

// ClosedTotal is the total of items closed.
func (s Stats) ClosedTotal() uint64 {
	var n uint64
	for _, c := range s.Closed {
		n += c
	}
	return n
}

// Add adds another pool's numbers to s, to tell of several as of one. What is no sum
// (RetryIn, LastOpen) is that of the one that is worst off.
func (s *Stats) Add(o *Stats) {
	for _, f := range [...]struct {
		to   *int
		from int
	}{{&s.Min, o.Min}, {&s.Max, o.Max}, {&s.Open, o.Open}, {&s.Idle, o.Idle}, {&s.Borrowed, o.Borrowed}, {&s.Opening, o.Opening}, {&s.Closing, o.Closing},
		{&s.Waiting, o.Waiting}, {&s.Validating, o.Validating}, {&s.Failures, o.Failures}} {
		*f.to += f.from
	}
	for _, f := range [...]struct {
		to   *uint64
		from uint64
	}{{&s.OpenedForWaiter, o.OpenedForWaiter}, {&s.OpenedForMin, o.OpenedForMin}, {&s.OpenFailed, o.OpenFailed}, {&s.OpenTimedOut, o.OpenTimedOut}, {&s.Acquired, o.Acquired},
		{&s.Validations, o.Validations}, {&s.TimedOut, o.TimedOut}, {&s.Cancelled, o.Cancelled}, {&s.QueueFull, o.QueueFull}, {&s.Unavailable, o.Unavailable},
		{&s.RefusedClose, o.RefusedClose}, {&s.StaleReturns, o.StaleReturns}} {
		*f.to += f.from
	}
	for i, n := range o.Closed {
		s.Closed[i] += n
	}
	s.Wait.merge(&o.Wait)
	s.Hold.merge(&o.Hold)
	if s.RetryIn = max(s.RetryIn, o.RetryIn); s.LastOpen == nil {
		s.LastOpen = o.LastOpen
	}
}

// Stats returns the pool's numbers, consistent with each other.
func (p *Pool[T]) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	cfg := p.cfg.Load()
	s := p.totals
	s.Min, s.Max = cfg.Min, cfg.Max
	s.Open, s.Opening, s.Closing, s.Validating, s.Waiting = p.open, p.opening, p.closing, p.validating, p.queue.Len()
	s.Failures, s.LastOpen = p.failures, p.lastErr
	if d := p.retryAt - p.now(); p.failures > 0 && d > 0 {
		s.RetryIn = time.Duration(d)
	}
	s.Validations += p.validations.Load()
	s.StaleReturns = p.stale.Load()
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
	}
	for i := range p.shards {
		sh := &p.shards[i]
		s.Idle += int(sh.n.Load())
		s.Wait.Counts[0] += sh.quick
		s.Wait.merge(&sh.wait)
		s.Hold.merge(&sh.hold)
		sh.mu.Unlock()
	}
	s.Borrowed = max(0, s.Open-s.Idle-s.Closing-s.Validating)
	s.Acquired = s.Wait.Total()
	return s
}
