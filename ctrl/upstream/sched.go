package upstream

import (
	"container/heap"
	"context"
	"fmt"
	"time"
)

// due is when an endpoint is checked next.
type due struct {
	at int64
	e  *Endpoint
}

type dueHeap []due

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(due)) }
func (h *dueHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

type checked struct {
	e   *Endpoint
	err error
}

// scheduler is what Run's goroutine owns.
type scheduler struct {
	u       *Upstream
	heap    dueHeap
	known   map[*Endpoint]bool // in the heap or being checked
	running int
	results chan checked
	sweepAt int64
	backAt  int64 // the next ejection ends
}

// Run checks endpoints and ends ejections until ctx ends; then it waits for the checks in
// flight and returns nil. Without it there are no checks, no rates and ejections do not
// end. An upstream is run by one goroutine at a time.
func (u *Upstream) Run(ctx context.Context) error {
	if !u.running.CompareAndSwap(false, true) {
		return fmt.Errorf("upstream %s: run: it is running", u.cfg.Name)
	}
	defer u.running.Store(false)
	ctx, cancel := context.WithCancelCause(ctx)
	s := &scheduler{u: u, known: map[*Endpoint]bool{}, results: make(chan checked, u.cfg.Health.Concurrency)}
	s.sweepAt = u.now() + int64(u.cfg.Outlier.Interval)
	defer func() {
		cancel(errStopped)
		for ; s.running > 0; s.running-- {
			<-s.results
		}
	}()
	s.sync()
	for {
		s.start(ctx)
		wake, stop := u.cfg.Clock.Timer(s.sleep())
		select {
		case <-ctx.Done():
			stop()
			return nil
		case r := <-s.results:
			s.running--
			s.finish(r)
		case <-u.kick:
			s.sync()
		case <-wake:
		}
		stop()
		s.outliers()
	}
}

// sync schedules endpoints that are new, each at a random time within an interval, the
// shorter one: a start should know soon.
func (s *scheduler) sync() {
	u := s.u
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.now()
	s.backAt = u.restore(now)
	if u.cfg.Health.Checker == nil {
		return
	}
	for _, e := range u.list {
		if !s.known[e] {
			s.known[e] = true
			heap.Push(&s.heap, due{now + int64(u.cfg.Rand()%uint64(u.cfg.Health.FailInterval)), e})
		}
	}
}

// start begins the checks that are due, as many as may run at once.
func (s *scheduler) start(ctx context.Context) {
	u := s.u
	c := &u.cfg.Health
	now := u.now()
	for len(s.heap) > 0 && s.heap[0].at <= now && s.running < c.Concurrency {
		e := heap.Pop(&s.heap).(due).e
		u.mu.Lock()
		listed, mode := e.listed, e.effectiveMode()
		u.mu.Unlock()
		switch {
		case !listed:
			delete(s.known, e)
		case mode == ModeDisabled:
			heap.Push(&s.heap, due{now + int64(c.interval(false, u.cfg.Rand())), e})
		default:
			s.running++
			go func() {
				ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("no answer within %v", c.Timeout))
				defer cancel()
				err := c.Checker.Check(ctx, e.address)
				if err != nil && ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				s.results <- checked{e, err}
			}()
		}
	}
}

// finish takes a result and schedules the next check.
func (s *scheduler) finish(r checked) {
	u := s.u
	c := &u.cfg.Health
	e := r.e
	e.stats.checks.Add(1)
	if r.err != nil {
		e.stats.failed.Add(1)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	was := e.health.state
	if e.health.observe(c, r.err, u.cfg.Clock.Now()) {
		if was == Unhealthy {
			e.startRamp(u.now())
		}
		u.rebuild()
	}
	if !e.listed {
		delete(s.known, e)
		return
	}
	heap.Push(&s.heap, due{u.now() + int64(c.interval(e.health.failing(), u.cfg.Rand())), e})
}

// sleep is how long there is nothing to do.
func (s *scheduler) sleep() time.Duration {
	now := s.u.now()
	at := s.backAt
	if s.u.cfg.Outlier.on() {
		at = min(at, s.sweepAt)
	}
	if len(s.heap) > 0 && s.running < s.u.cfg.Health.Concurrency {
		at = min(at, s.heap[0].at)
	}
	return time.Duration(min(max(0, at-now), int64(time.Hour)))
}

// outliers does the outlier detector's work that is due.
func (s *scheduler) outliers() {
	u := s.u
	now := u.now()
	sweep := u.cfg.Outlier.on() && now >= s.sweepAt
	if !sweep && now < s.backAt {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if sweep {
		u.sweep(now)
		s.sweepAt = now + int64(u.cfg.Outlier.Interval)
	}
	s.backAt = u.restore(now)
}
