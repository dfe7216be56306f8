package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/np-appliance/np/ctrl/cancel"
)

// Backoff is how the time between tries grows.
type Backoff uint8

// Backoffs.
const (
	BackoffExponential Backoff = iota // doubles, of which a random part is waited (full jitter)
	BackoffFixed                      // Base each time
	BackoffNone                       // at once
)

// String returns the name used in configuration.
func (b Backoff) String() string {
	switch b {
	case BackoffExponential:
		return "exponential"
	case BackoffFixed:
		return "fixed"
	case BackoffNone:
		return "none"
	}
	return "unknown"
}

// RetryPolicy is how requests are repeated. The zero value: one try.
type RetryPolicy struct {
	Attempts int // tries, the first included; 0 is 1
	Backoff  Backoff
	Base     time.Duration // 25 ms
	Max      time.Duration // of one wait; 1 s
	PerTry   time.Duration // of one try; 0: Timeouts.Request
	Total    time.Duration // of all tries and waits; 0: the context's deadline alone

	// The adaptive part: a try beyond the first costs a token. Each success brings
	// BudgetPercent of one, and BudgetPerSecond come by themselves so that little traffic
	// can retry too. When most requests fail, retries end instead of multiplying the load.
	BudgetPercent   int // 0: no budget, retries are bounded by Attempts alone
	BudgetPerSecond int // 0 is 3; negative: none
	BudgetMax       int // tokens kept; 0 is 100
}

func (p *RetryPolicy) check() error {
	defaultTo(&p.Attempts, 1)
	defaultTo(&p.Base, 25*time.Millisecond)
	defaultTo(&p.Max, max(time.Second, p.Base))
	defaultTo(&p.BudgetPerSecond, 3)
	defaultTo(&p.BudgetMax, 100)
	switch {
	case p.Attempts > 100:
		return fmt.Errorf("attempts %d: expected 1 to 100", p.Attempts)
	case p.Backoff > BackoffNone:
		return fmt.Errorf("backoff %d: expected exponential, fixed or none", p.Backoff)
	case p.Base < 0 || p.Max < p.Base:
		return fmt.Errorf("base %v, max %v: expected 0 ≤ base ≤ max", p.Base, p.Max)
	case p.PerTry < 0 || p.Total < 0:
		return fmt.Errorf("per_try %v, total %v: expected 0 or more", p.PerTry, p.Total)
	case p.BudgetPercent < 0 || p.BudgetPercent > 100:
		return fmt.Errorf("budget_percent %d: expected 0 to 100", p.BudgetPercent)
	case p.BudgetMax < 1:
		return fmt.Errorf("budget_max %d: expected 1 or more", p.BudgetMax)
	}
	return nil
}

// wait is the time before try n, the second being 1, of random bits r.
func (p *RetryPolicy) wait(n int, r uint64) time.Duration {
	switch p.Backoff {
	case BackoffFixed:
		return min(p.Base, p.Max)
	case BackoffNone:
		return 0
	}
	d := p.Base
	for i := 1; i < n && d < p.Max; i++ {
		d *= 2
	}
	d = min(d, p.Max)
	return time.Duration(r % uint64(d+1))
}

// budget is the tokens of an upstream's retries, in hundredths.
type budget struct {
	mu      sync.Mutex
	percent int64
	rate    int64 // hundredths a second
	max     int64
	tokens  int64
	at      int64
}

func (b *budget) init(p *RetryPolicy) {
	b.percent, b.rate, b.max = int64(p.BudgetPercent), int64(max(0, p.BudgetPerSecond))*100, int64(p.BudgetMax)*100
	// A second's worth, not all: a start in the middle of an outage must not burst.
	b.tokens = min(b.max, b.rate)
}

func (b *budget) refill(now int64) {
	if b.rate == 0 {
		return
	}
	per := int64(time.Second) / b.rate
	n := (now - b.at) / per
	if n <= 0 {
		return
	}
	b.at += n * per
	b.tokens = min(b.max, b.tokens+min(n, b.max))
}

func (b *budget) success() {
	if b.percent == 0 {
		return
	}
	b.mu.Lock()
	b.tokens = min(b.max, b.tokens+b.percent)
	b.mu.Unlock()
}

func (b *budget) spend(now int64) bool {
	if b.percent == 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill(now)
	if b.tokens < 100 {
		return false
	}
	b.tokens -= 100
	return true
}

func (b *budget) left(now int64) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill(now)
	return int(b.tokens / 100)
}

// Call is one request, to be tried as the policy allows.
type Call struct {
	Hash  uint64        // of the key, for RingHash and Maglev
	Total time.Duration // in place of the policy's; 0: the policy's

	// Repeat says whether the request may be sent once more after this failure: the
	// caller knows whether it is idempotent and its body can be sent again. nil: never.
	// After ConnectFailed and Busy it isn't asked, nothing was sent.
	Repeat func(o Outcome, err error) bool

	// Try sends the request. An outcome other than Success needs an error. It must end
	// with ctx.
	Try func(ctx context.Context, t Try) (Outcome, error)
}

// Try is one try of a call.
type Try struct {
	Endpoint *Endpoint
	Number   int           // from 1
	Time     time.Duration // what it may take: PerTry, or what is left of Total
	hold     *hold
}

// hold is what a try ends with.
type hold struct {
	ctx      cancel.Context
	lease    Lease
	timer    *cancel.Timer // nil: it was stopped
	detached bool
}

func (h *hold) stopTimer() {
	h.timer.Stop()
	h.timer = nil
}

func (h *hold) end(o Outcome) {
	h.stopTimer()
	h.lease.Done(o)
	h.ctx.Cancel(nil)
}

// Stream ends the try's own time, and Total: an answer that has begun and has no end in
// sight may take as long as the context that Do was given. well: that it has begun is a
// success, as far as the circuit breaker is concerned; else its end decides, as that of a
// call whose status comes last.
func (t Try) Stream(well bool) {
	t.hold.stopTimer()
	l := &t.hold.lease
	u := l.e.up
	l.e.brk.streams(&u.cfg.Breaker, u.now(), &l.pass, well)
}

// Cut ends the try's context with a cause. Any goroutine may.
func (t Try) Cut(cause error) { t.hold.ctx.Cancel(cause) }

// Detach takes the request out of Do's hands. Try returns Success at once, and Do nil; the
// request goes on, within the try's time, until the function returned here is called, once,
// with how it went. The context of Try lives until then.
func (t Try) Detach() func(Outcome) {
	h := t.hold
	h.detached = true
	return h.end
}

// RetryError is the last try's error, with why there was no further one.
type RetryError struct {
	Tries int
	Why   string // in words; "": it wasn't to be repeated
	Err   error
}

// Error implements error.
func (e *RetryError) Error() string {
	if e.Why == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("%v (try %d, no further: %s)", e.Err, e.Tries, e.Why)
}

// Unwrap returns the last try's error.
func (e *RetryError) Unwrap() error { return e.Err }

// ErrTryTimeout is the cause of a try's context that ended by its own time, or by Total.
var ErrTryTimeout = errors.New("request timed out")

// Do sends a request, again where that is safe and worth it, to another endpoint than
// before where there is one. It returns nil, a [Refusal] of the first choice, or a
// [RetryError].
func (u *Upstream) Do(ctx context.Context, c Call) error {
	p := &u.cfg.Retry
	outer := ctx // of tries, which may outlive Do
	if c.Total == 0 {
		c.Total = p.Total
	}
	if c.Total > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Total)
		defer cancel()
	}
	q := Query{Hash: c.Hash}
	var last error
	for n := 1; ; n++ { // bound: p.Attempts
		lease, err := u.Acquire(ctx, q)
		if err != nil {
			if last == nil {
				return err
			}
			return &RetryError{Tries: n - 1, Why: err.Error(), Err: last}
		}
		e := lease.Endpoint()
		o, err := u.try1(ctx, outer, &c, lease, n)
		if o == Success {
			u.budget.success()
			return err
		}
		if err == nil {
			err = errors.New(o.String())
		}
		last = fmt.Errorf("%s: %w", e.address, err)
		why, again := u.again(ctx, &c, o, err, n)
		if !again {
			return &RetryError{Tries: n, Why: why, Err: last}
		}
		u.stats.retries.Add(1)
		q.Avoid(e)
		q.Rand = 0
	}
}

// try1 is one try with its own time, within ctx. A panic of Try still ends the lease.
func (u *Upstream) try1(ctx, outer context.Context, c *Call, lease Lease, n int) (o Outcome, err error) {
	d := u.cfg.Retry.PerTry
	if d == 0 {
		d = u.cfg.Timeouts.Request
	}
	if c.Total > 0 {
		if at, has := ctx.Deadline(); has {
			d = min(d, time.Until(at))
		}
	}
	h := &hold{lease: lease}
	h.ctx.Init(outer)
	h.timer = u.timers.Start(&h.ctx, d, ErrTryTimeout)
	o = Failure
	defer func() {
		if !h.detached {
			h.end(o)
		}
	}()
	got, err := c.Try(&h.ctx, Try{Endpoint: lease.e, Number: n, Time: d, hold: h})
	if o = got; o > Canceled {
		o = Failure
	}
	if o != Success && outer.Err() != nil && errors.Is(outer.Err(), context.Canceled) {
		o = Canceled // the client is gone: not the endpoint's fault
	} else if o != Success && o != Canceled && h.ctx.Err() != nil {
		o = Timeout
	}
	return o, err
}

// again waits for the next try, or says why there is none.
func (u *Upstream) again(ctx context.Context, c *Call, o Outcome, err error, n int) (why string, ok bool) {
	p := &u.cfg.Retry
	switch {
	case o == Canceled:
		return "canceled", false
	case o != ConnectFailed && o != Busy && (c.Repeat == nil || !c.Repeat(o, err)):
		return "", false
	case n >= p.Attempts:
		if n == 1 {
			return "", false
		}
		return fmt.Sprintf("%d attempts", p.Attempts), false
	case ctx.Err() != nil:
		return context.Cause(ctx).Error(), false
	}
	d := p.wait(n, u.cfg.Rand())
	if at, has := ctx.Deadline(); has {
		if left := time.Until(at); left <= d {
			return fmt.Sprintf("%v left, %v to wait", left.Round(time.Millisecond), d.Round(time.Millisecond)), false
		}
	}
	if !u.budget.spend(u.now()) {
		u.stats.noBudget.Add(1)
		return "retry budget spent", false
	}
	if d == 0 {
		return "", true
	}
	t, stop := u.cfg.Clock.Timer(d)
	defer stop()
	select {
	case <-t:
		return "", true
	case <-ctx.Done():
		return context.Cause(ctx).Error(), false
	}
}
