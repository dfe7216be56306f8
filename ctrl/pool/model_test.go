package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// chaos is a random life of a pool: borrowers that return, discard, return
// twice and give up, a destination that fails, stalls and breaks what is idle,
// and an operator who resizes and flushes. What holds at every moment is
// checked in the backend (one borrower, closed once, never while borrowed) and
// by the watcher; what holds at the end by ledger.
type chaos struct {
	t    *testing.T
	b    *backend
	p    *Pool[*conn]
	seed uint64
	top  int // the highest Max ever in effect

	got, refused atomic.Uint64
}

// nap sleeps for less than d, of virtual or of real time.
func nap(r *rand.Rand, d time.Duration) { time.Sleep(time.Duration(r.Int64N(int64(d)))) }

func randomConfig(r *rand.Rand, shards int) Config {
	c := DefaultConfig()
	c.Max = 1 + r.IntN(12)
	c.Min = r.IntN(c.Max + 1)
	c.WarmUp = r.IntN(2) == 0
	some := func(d time.Duration) time.Duration {
		if r.IntN(3) == 0 {
			return 0
		}
		return time.Millisecond + time.Duration(r.Int64N(int64(d)))
	}
	c.IdleTimeout, c.MaxLifetime, c.ValidateAfter = some(50*time.Millisecond), some(200*time.Millisecond), some(20*time.Millisecond)
	c.ValidateEvery, c.AcquireTimeout = some(40*time.Millisecond), some(100*time.Millisecond)
	c.MaxWaiting, c.MaxConnecting, c.MaxUses = r.IntN(40), 1+r.IntN(4), r.IntN(3)*10
	c.OpenRate = r.IntN(2) * 2000
	c.ValidateTimeout, c.ConnectTimeout = 2*time.Millisecond, 5*time.Millisecond
	c.BackoffMin, c.BackoffMax = time.Millisecond, 20*time.Millisecond
	c.FailFast, c.LifetimeJitter, c.Shards = r.IntN(4) == 0, 0.3, shards
	return c
}

func (x *chaos) borrower(r *rand.Rand, turns int) {
	for range turns {
		ctx, cancel := context.WithCancel(context.Background())
		if r.IntN(3) == 0 {
			cancel()
			ctx, cancel = context.WithTimeout(context.Background(), time.Duration(r.Int64N(int64(10*time.Millisecond))))
		}
		l, err := x.p.AcquireShard(ctx, r.Uint64())
		cancel()
		if err != nil {
			x.refused.Add(1)
			var ae *AcquireError
			if !errors.As(err, &ae) || errors.Is(err, context.Canceled) || ae.Borrowed > x.top || ae.Borrowed < 0 {
				x.t.Errorf("seed %d: %v", x.seed, err)
			}
			nap(r, time.Millisecond)
			continue
		}
		x.got.Add(1)
		c := use(x.t, l)
		if r.IntN(4) != 0 {
			nap(r, 3*time.Millisecond)
		}
		c.users.Add(-1)
		end, again := l.Return, l.Discard
		if r.IntN(8) == 0 {
			end, again = again, end
		}
		if err := end(); err != nil {
			x.t.Errorf("seed %d: %v", x.seed, err)
		}
		if r.IntN(8) == 0 {
			if err := again(); !errors.Is(err, ErrNotBorrowed) {
				x.t.Errorf("seed %d: second end of a lease: %v", x.seed, err)
			}
		}
	}
}

// trouble makes the destination fail and the operator busy until stop.
func (x *chaos) trouble(r *rand.Rand, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		nap(r, 10*time.Millisecond)
		switch r.IntN(6) {
		case 0:
			x.b.set(errors.New("down"))
		case 1, 2:
			x.b.set(nil)
		case 3:
			x.b.mu.Lock()
			for _, c := range x.b.conns {
				if r.IntN(3) == 0 {
					c.bad.Store(true)
				}
			}
			x.b.mu.Unlock()
		case 4:
			c := randomConfig(r, len(x.p.shards))
			c.Max = min(c.Max, x.top)
			c.Min = min(c.Min, c.Max)
			if err := x.p.SetConfig(c); err != nil {
				x.t.Error(err)
			}
		case 5:
			if r.IntN(3) == 0 {
				x.p.Flush()
			}
		}
		s := x.p.Stats()
		if s.Open+s.Opening > x.top || s.Idle+s.Borrowed+s.Validating+s.Closing != s.Open || s.Opening < 0 || s.Validating > 1 {
			x.t.Errorf("seed %d: %+v", x.seed, s)
		}
	}
}

func (x *chaos) run(borrowers, turns int) {
	r := rand.New(rand.NewPCG(x.seed, 1))
	c := randomConfig(r, 1+r.IntN(4))
	x.top = 12
	x.p = x.b.pool(c, func(o *Options[*conn]) { o.Trace = r.IntN(4) == 0 })
	stop := make(chan struct{})
	var all, trouble sync.WaitGroup
	trouble.Go(func() { x.trouble(rand.New(rand.NewPCG(x.seed, 2)), stop) })
	for i := range borrowers {
		all.Go(func() { x.borrower(rand.New(rand.NewPCG(x.seed, uint64(i)+3)), turns) })
	}
	all.Wait()
	close(stop)
	trouble.Wait()

	// Nobody is lost: with the destination back everybody is served.
	x.b.set(nil)
	c = quiet(3)
	c.Shards = len(x.p.shards)
	if err := x.p.SetConfig(c); err != nil {
		x.t.Error(err)
	}
	for range 10 {
		all.Go(func() { giveBack(x.t, acquire(x.t, x.p)) })
	}
	all.Wait()
	s := x.p.Stats()
	if s.Borrowed != 0 || s.Waiting != 0 || s.Open > 3 || s.Acquired != s.Hold.Total() || s.Acquired != x.got.Load()+10 {
		x.t.Errorf("seed %d: at rest %+v", x.seed, s)
	}
	if n := s.TimedOut + s.Cancelled + s.QueueFull + s.Unavailable; n != x.refused.Load() {
		x.t.Errorf("seed %d: %d refused, %d counted", x.seed, x.refused.Load(), n)
	}
	if most, dials := x.b.peak(); most > x.top || dials > 4 {
		x.t.Errorf("seed %d: %d open at once, %d being opened", x.seed, most, dials)
	}
	// Half the time Close comes while all is busy.
	if x.seed%2 == 0 {
		for i := range 5 {
			all.Go(func() {
				r := rand.New(rand.NewPCG(x.seed, uint64(i)+1000))
				for {
					l, err := x.p.Acquire(context.Background())
					if errors.Is(err, ErrClosed) {
						return
					} else if err != nil {
						x.t.Errorf("seed %d: %v", x.seed, err)
						return
					}
					nap(r, 4*time.Millisecond)
					l.Return() // the pool may have taken it by force
				}
			})
		}
		nap(r, 10*time.Millisecond)
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(3))*time.Millisecond)
		x.p.Close(ctx)
		cancel()
		ledger(x.t, x.b, x.p)
		all.Wait()
		return
	}
	finish(x.t, x.b, x.p)
}

func TestChaosInVirtualTime(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &backend{t: t, took: time.Duration(seed%3) * time.Millisecond, slow: time.Duration(seed%2) * 300 * time.Microsecond}
				x := &chaos{t: t, b: b, seed: seed}
				x.run(30, 40)
				if x.got.Load() == 0 {
					t.Error("nobody got anything")
				}
			})
		})
	}
}

// The same with threads that really run at once and a clock that runs on.
func TestChaosInRealTime(t *testing.T) {
	for seed := range uint64(2) {
		x := &chaos{t: t, b: &backend{t: t}, seed: 1000 + seed}
		x.run(24, 50)
	}
}

// Many borrowers of few items, nothing failing: all are served and no item is
// with two. Contention on the quick path and the queue, without sleeping.
func TestContention(t *testing.T) {
	for _, shards := range []int{1, 3} {
		b := &backend{t: t}
		c := quiet(4)
		c.Shards, c.AcquireTimeout = shards, 0
		p := b.pool(c)
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				for n := range 500 {
					l, err := p.AcquireShard(context.Background(), uint64(i))
					if err != nil {
						t.Error(err)
						return
					}
					use(t, l)
					if n%50 == 49 {
						discard(t, l)
					} else {
						giveBack(t, l)
					}
				}
			})
		}
		wg.Wait()
		most, _ := b.peak()
		if s := p.Stats(); s.Acquired != 8000 || s.Closed[ReasonBroken] != 160 || most > 4 {
			t.Errorf("%d at once: %+v", most, s)
		}
		finish(t, b, p)
	}
}
