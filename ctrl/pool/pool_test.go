package pool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestConfigCheck(t *testing.T) {
	for _, c := range []Config{DefaultConfig(), quiet(1), quiet(1_000_000 / 100)} {
		if err := c.Check(); err != nil {
			t.Error(err)
		}
	}
	for _, tc := range []struct {
		edit func(c *Config)
		want string
	}{
		{func(c *Config) { c.Max = 0; c.Min = 0 }, "max is 0, must be 1 to 1000000"},
		{func(c *Config) { c.Max = 1_000_001 }, "max is 1000001, must be 1 to 1000000"},
		{func(c *Config) { c.Min = 65 }, "min is 65, must be 0 to 64"},
		{func(c *Config) { c.Min = -1 }, "min is -1, must be 0 to 64"},
		{func(c *Config) { c.IdleTimeout = time.Microsecond }, "idle_timeout is 1µs, must be 0 (off) or 1ms to 168h0m0s"},
		{func(c *Config) { c.MaxLifetime = -time.Second }, "max_lifetime is -1s, must be 0 (off) or 1ms to 720h0m0s"},
		{func(c *Config) { c.LifetimeJitter = 0.91 }, "lifetime_jitter is 0.91, must be 0 to 0.9"},
		{func(c *Config) { c.LifetimeJitter = math.NaN() }, "lifetime_jitter is NaN, must be 0 to 0.9"},
		{func(c *Config) { c.MaxUses = -1 }, "max_uses is -1, must be 0 to 1000000000"},
		{func(c *Config) { c.AcquireTimeout = 2 * time.Hour }, "acquire_timeout is 2h0m0s, must be 0 (off) or 1ms to 1h0m0s"},
		{func(c *Config) { c.MaxWaiting = -1 }, "max_waiting is -1, must be 0 to 1000000"},
		{func(c *Config) { c.ValidateAfter = -1 }, "validate_after is -1ns, must be 0s to 168h0m0s"},
		{func(c *Config) { c.ValidateEvery = 1 }, "validate_every is 1ns, must be 0 (off) or 1ms to 168h0m0s"},
		{func(c *Config) { c.ValidateTimeout = 0 }, "validate_timeout is 0s, must be 1ms to 1m0s"},
		{func(c *Config) { c.ConnectTimeout = 0 }, "connect_timeout is 0s, must be 1ms to 10m0s"},
		{func(c *Config) { c.MaxConnecting = 0 }, "max_connecting is 0, must be 1 to 10000"},
		{func(c *Config) { c.OpenRate = -5 }, "open_rate is -5, must be 0 to 1000000"},
		{func(c *Config) { c.BackoffMin = 0 }, "backoff_min is 0s, must be 1ms to 1h0m0s"},
		{func(c *Config) { c.BackoffMin = time.Minute }, "backoff_min is 1m0s, must not be above backoff_max (30s)"},
		{func(c *Config) { c.BackoffMax = 2 * time.Hour }, "backoff_max is 2h0m0s, must be 1ms to 1h0m0s"},
		{func(c *Config) { c.Shards = 0 }, "shards is 0, must be 1 to 1024"},
	} {
		c := DefaultConfig()
		tc.edit(&c)
		if err := c.Check(); err == nil || err.Error() != tc.want {
			t.Errorf("got %v, want %s", err, tc.want)
		}
		if _, err := New(Options[int]{Name: "x"}, c); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("New took it: %v", err)
		}
	}
	if _, err := New(Options[int]{Name: "x"}, DefaultConfig()); err == nil {
		t.Error("New without functions")
	}
}

func TestReuseIsLastInFirstOut(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		p := b.pool(quiet(4))
		ls := hold(t, p, 3)
		for _, i := range []int{1, 0, 2} {
			giveBack(t, ls[i])
			time.Sleep(time.Millisecond)
		}
		var out []Lease[*conn]
		for _, want := range []int{2, 0, 1} {
			l := acquire(t, p)
			if l.Value() != ls[want].Value() || !l.Reused() || ls[want].Reused() {
				t.Errorf("got conn %d, want %d", l.Value().id, ls[want].Value().id)
			}
			out = append(out, l)
		}
		giveAll(t, out)
		finish(t, b, p)
	})
}

func TestIdleTimeoutEndsOldestDownToMin(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		c := quiet(5)
		c.Min, c.IdleTimeout = 2, 10*time.Second
		p := b.pool(c)
		synctest.Wait() // the janitor has gone to sleep over an empty pool
		ls := hold(t, p, 5)
		for _, l := range ls {
			giveBack(t, l)
			time.Sleep(time.Second)
		}
		// Returned at 0, 1, 2, 3, 4 s: the first three are due at 10, 11, 12 s.
		for i, want := range []int{5, 4, 3, 2, 2, 2} {
			time.Sleep(time.Duration([]int{4900, 1000, 1000, 1000, 1000, 60000}[i]) * time.Millisecond)
			synctest.Wait()
			if s := p.Stats(); s.Idle != want || s.Closed[ReasonIdle] != uint64(5-want) {
				t.Errorf("step %d: %d idle, %d closed, want %d left", i, s.Idle, s.Closed[ReasonIdle], want)
			}
		}
		for i, l := range ls {
			if ended := l.Value().closed.Load() == 1; ended != (i < 3) {
				t.Errorf("conn returned %d. ended: %v", i, ended)
			}
		}
		finish(t, b, p)
	})
}

func TestMaxLifetimeWithJitter(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		c := quiet(20)
		c.MaxLifetime, c.LifetimeJitter = 100*time.Second, 0.5
		i := 0.0
		p := b.pool(c, func(o *Options[*conn]) {
			o.Rand = func() float64 { b.mu.Lock(); defer b.mu.Unlock(); i++; return (i - 1) / 20 }
		})
		synctest.Wait()
		giveAll(t, hold(t, p, 20))
		at := 0
		for _, step := range []struct{ at, open int }{{52, 20}, {53, 19}, {76, 10}, {99, 1}, {101, 0}} {
			time.Sleep(time.Duration(step.at-at) * time.Second)
			at = step.at
			synctest.Wait()
			if s := p.Stats(); s.Open != step.open || int(s.Closed[ReasonLifetime]) != 20-step.open {
				t.Errorf("%d open after %d s, want %d", s.Open, at, step.open)
			}
		}
		// A borrowed one lives until it comes back.
		l := acquire(t, p)
		time.Sleep(200 * time.Second)
		if l.Value().closed.Load() != 0 {
			t.Error("closed while borrowed")
		}
		giveBack(t, l)
		if l.Value().closed.Load() != 1 || l.Value().why != ReasonLifetime {
			t.Error("not closed when it came back")
		}
		finish(t, b, p)
	})
}

func TestMaxUses(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		c := quiet(1)
		c.MaxUses = 3
		p := b.pool(c)
		for range 7 {
			giveBack(t, acquire(t, p))
		}
		if s := p.Stats(); s.Closed[ReasonUses] != 2 || s.Opened() != 3 {
			t.Errorf("%+v", s)
		}
		finish(t, b, p)
	})
}

func TestWarmUp(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		b.took = time.Second
		c := quiet(10)
		c.Min, c.WarmUp, c.MaxConnecting = 6, true, 2
		began := time.Now()
		p := b.pool(c)
		if time.Since(began) != 0 {
			t.Error("New waited")
		}
		time.Sleep(3500 * time.Millisecond)
		_, busy := b.peak()
		if s := p.Stats(); s.Idle != 6 || s.OpenedForMin != 6 || s.OpenedForWaiter != 0 || busy != 2 {
			t.Errorf("%d at a time: %+v", busy, s)
		}
		// Min is kept.
		discard(t, acquire(t, p))
		time.Sleep(1500 * time.Millisecond)
		if s := p.Stats(); s.Idle != 6 || s.OpenedForMin != 7 {
			t.Errorf("not refilled: %+v", s)
		}
		finish(t, b, p)

		b2 := &backend{t: t}
		c.WarmUp = false
		p = b2.pool(c)
		time.Sleep(time.Minute)
		if opened, _, _, _ := b2.counts(); opened != 0 {
			t.Error("opened without warm-up")
		}
		giveBack(t, acquire(t, p))
		synctest.Wait()
		if s := p.Stats(); s.Open != 6 {
			t.Errorf("Min not kept after the first: %+v", s)
		}
		finish(t, b2, p)
	})
}

func TestOpenRate(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		c := quiet(10)
		c.Min, c.WarmUp, c.MaxConnecting, c.OpenRate = 10, true, 3, 2
		p := b.pool(c)
		for _, want := range []int{3, 4, 5, 6, 7, 8, 9, 10, 10} {
			synctest.Wait()
			if s := p.Stats(); s.Open != want {
				t.Errorf("%d open, want %d", s.Open, want)
			}
			time.Sleep(500 * time.Millisecond)
		}
		finish(t, b, p)
	})
}

func TestValidateOnBorrow(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		c := quiet(3)
		c.ValidateAfter = 5 * time.Second
		p := b.pool(c)
		ls := hold(t, p, 3)
		giveAll(t, ls)
		time.Sleep(5 * time.Second)
		giveBack(t, acquire(t, p))
		if _, _, _, checks := b.counts(); checks != 0 {
			t.Error("validated too early")
		}
		ls[0].Value().bad.Store(true)
		ls[1].Value().bad.Store(true)
		time.Sleep(5001 * time.Millisecond)
		good := acquire(t, p) // conn 2 was used last, and is good
		other := acquire(t, p)
		if good.Value() != ls[2].Value() || other.Reused() {
			t.Errorf("got conns %d and %d", good.Value().id, other.Value().id)
		}
		s := p.Stats()
		if s.Closed[ReasonInvalid] != 2 || s.Validations != 3 || s.Acquired != 6 || s.Open != 2 {
			t.Errorf("%+v", s)
		}
		giveBack(t, good)
		giveBack(t, other)
		// One that hangs costs ValidateTimeout, once for each item.
		b.slow = time.Hour
		time.Sleep(time.Minute)
		began := time.Now()
		giveBack(t, acquire(t, p))
		if d := time.Since(began); d != 2*c.ValidateTimeout {
			t.Errorf("took %v", d)
		}
		finish(t, b, p)
	})
}

func TestValidateInBackground(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		c := quiet(3)
		c.ValidateEvery, c.ValidateAfter, c.IdleTimeout = 10*time.Second, 15*time.Second, 35*time.Second
		p := b.pool(c)
		ls := hold(t, p, 3)
		giveAll(t, ls)
		ls[1].Value().bad.Store(true)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if s := p.Stats(); s.Validations != 3 || s.Closed[ReasonInvalid] != 1 || s.Idle != 2 || ls[1].Value().closed.Load() != 1 {
			t.Errorf("%+v", s)
		}
		time.Sleep(10 * time.Second)
		giveBack(t, acquire(t, p)) // unused for 21 s, but validated 1 s ago
		if s := p.Stats(); s.Validations != 5 {
			t.Errorf("%d validations", s.Validations)
		}
		time.Sleep(15 * time.Second) // validation does not make it young
		if s := p.Stats(); s.Closed[ReasonIdle] != 1 || s.Idle != 1 {
			t.Errorf("%+v", s)
		}
		finish(t, b, p)
	})
}

func TestWaitersAreServedInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		c := quiet(2)
		c.Shards = 4
		p := b.pool(c)
		ls := hold(t, p, 2)
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				l, err := p.AcquireShard(t.Context(), uint64(i*3))
				if err != nil {
					t.Error(err)
					return
				}
				use(t, l)
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				time.Sleep(100 * time.Millisecond)
				giveBack(t, l)
			})
			synctest.Wait()
		}
		if s := p.Stats(); s.Waiting != 8 || s.Borrowed != 2 {
			t.Errorf("%+v", s)
		}
		giveBack(t, ls[0])
		synctest.Wait()
		time.Sleep(50 * time.Millisecond) // so that the rest come one by one
		discard(t, ls[1])                 // its replacement goes to the next in turn
		wg.Wait()
		if !slices.IsSorted(order) || len(order) != 8 {
			t.Errorf("served in the order %v", order)
		}
		s := p.Stats()
		if s.Wait.Counts[0] != 3 || s.Wait.Total() != 10 || s.Hold.Counts[3] < 8 { // the two that held them, and the first served
			t.Errorf("wait %+v, hold %+v", s.Wait, s.Hold)
		}
		finish(t, b, p)
	})
}

func TestInvalidItemKeepsTheTurn(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		c := quiet(2)
		c.ValidateAfter = time.Second
		p := b.pool(c)
		ls := hold(t, p, 2)
		giveBack(t, ls[0])
		time.Sleep(2 * time.Second)
		ls[0].Value().bad.Store(true)
		b.slow = 100 * time.Millisecond
		b.took = time.Hour
		got := make(chan int, 2)
		for i := range 2 {
			go func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				l, err := p.Acquire(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				got <- i
				l.Return()
			}()
		}
		time.Sleep(time.Second) // the first has found its item bad behind the second
		giveBack(t, ls[1])
		if first := <-got; first != 0 {
			t.Error("it lost its turn")
		}
		<-got
		finish(t, b, p)
	})
}

// The same for one that waited in the queue; in real time, because in virtual
// time no time passes between a return and the next lease.
func TestInvalidItemKeepsTheTurnInTheQueue(t *testing.T) {
	b := &backend{t: t}
	c := quiet(1)
	c.ValidateAfter = 0
	p := b.pool(c)
	for range 200 {
		l := acquire(t, p)
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				l, err := p.Acquire(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				use(t, l)
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				giveBack(t, l)
			})
			for p.Stats().Waiting != i+1 { // bound: the test's time
				runtime.Gosched()
			}
		}
		l.Value().bad.Store(true)
		giveBack(t, l)
		wg.Wait()
		if !slices.IsSorted(order) {
			t.Fatalf("served in the order %v", order)
		}
	}
	if s := p.Stats(); s.Closed[ReasonInvalid] != 200 {
		t.Errorf("%+v", s)
	}
	finish(t, b, p)
}

// A Return that saw nobody waiting and an Acquire that saw nothing idle, at
// once: one of them must notice.
func TestReturnMeetsAcquire(t *testing.T) {
	for _, shards := range []int{1, 2} {
		b := &backend{t: t}
		c := quiet(1)
		c.Shards = shards
		p := b.pool(c)
		var round, done atomic.Int64
		spin := func(v *atomic.Int64, n int64) {
			for i := 1; v.Load() < n; i++ { // bound: the other goroutine's turn
				if i%100 == 0 {
					runtime.Gosched()
				}
			}
		}
		const last = math.MaxInt64
		var wg sync.WaitGroup
		l := acquire(t, p)
		wg.Go(func() {
			for n := int64(1); ; n++ {
				if spin(&round, n); round.Load() == last {
					return
				}
				l, err := p.AcquireShard(context.Background(), 1)
				if err != nil {
					t.Errorf("round %d: %v", n, err)
				} else {
					l.Return()
				}
				done.Store(n)
			}
		})
		until := time.Now().Add(200 * time.Millisecond)
		for n := int64(1); time.Now().Before(until); n++ {
			round.Store(n)
			for range n * 7 % 2048 { // shifts one against the other, by up to a microsecond or so
				round.Load()
			}
			giveBack(t, l)
			spin(&done, n)
			l = acquire(t, p)
		}
		round.Store(last)
		wg.Wait()
		giveBack(t, l)
		finish(t, b, p)
	}
}

func TestRecoveryOpensInParallel(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		b.took = time.Second
		b.set(errors.New("refused"))
		c := quiet(5)
		c.AcquireTimeout = 0
		p := b.pool(c, func(o *Options[*conn]) { o.Rand = func() float64 { return 0 } })
		began := time.Now()
		var wg sync.WaitGroup
		ls := make([]Lease[*conn], 5)
		for i := range ls {
			wg.Go(func() { ls[i] = acquire(t, p) })
		}
		time.Sleep(1050 * time.Millisecond)
		b.set(nil)
		wg.Wait()
		// All five fail, 100 ms pause, one probes for 1 s, then the other four open at once.
		if d := time.Since(began); d != 3100*time.Millisecond {
			t.Errorf("took %v", d)
		}
		giveAll(t, ls)
		finish(t, b, p)
	})
}

func TestLimitsOnWaiting(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		b.took = time.Second
		c := quiet(3)
		c.MaxWaiting, c.AcquireTimeout, c.MaxConnecting = 2, 4*time.Second, 3
		p := b.pool(c)
		var wg sync.WaitGroup
		var mu sync.Mutex
		var errs []error
		var ls []Lease[*conn]
		for range 6 { // three get new items, two wait for those, one is too many
			wg.Go(func() {
				l, err := p.Acquire(t.Context())
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					errs = append(errs, err)
				} else {
					use(t, l)
					ls = append(ls, l)
				}
			})
		}
		synctest.Wait()
		mu.Lock()
		if len(errs) != 1 || !errors.Is(errs[0], ErrQueueFull) {
			t.Fatalf("%v", errs)
		}
		if want := `acquire from pool "test": too many wait already (0 borrowed, 3 opening, 5 waiting, limit 3, waited 0s)`; errs[0].Error() != want {
			t.Errorf("%v", errs[0])
		}
		mu.Unlock()
		began := time.Now()
		wg.Wait()
		if len(ls) != 3 || len(errs) != 3 || time.Since(began) != 4*time.Second {
			t.Errorf("%d got one, errors %v, after %v", len(ls), errs, time.Since(began))
		}
		if want := `acquire from pool "test": no item within the acquire timeout (3 borrowed, 0 opening, 0 waiting, limit 3, waited 4s)`; errs[2].Error() != want || !errors.Is(errs[2], ErrTimeout) {
			t.Errorf("%v", errs[2])
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.Acquire(ctx)
		var ae *AcquireError
		if !errors.As(err, &ae) || !errors.Is(err, context.DeadlineExceeded) || ae.Waited != time.Second {
			t.Errorf("%v", err)
		}
		if _, err := p.Acquire(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		stop, with := context.WithCancelCause(t.Context())
		with(fmt.Errorf("the client left: %w", ErrTimeout))
		if _, err := p.Acquire(stop); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "context canceled: the client left") {
			t.Errorf("%v", err)
		}
		giveAll(t, ls)
		if s := p.Stats(); s.QueueFull != 1 || s.TimedOut != 2 || s.Cancelled != 3 || s.Idle != 3 {
			t.Errorf("%+v", s)
		}
		finish(t, b, p)
	})
}

// A waiter that is cancelled at the instant it is served loses nothing.
func TestCancelledWaiterLosesNoItem(t *testing.T) {
	for n := range 50 {
		bubble(t, func(t *testing.T, b *backend) {
			c := quiet(1)
			c.AcquireTimeout = 0
			p := b.pool(c)
			l := acquire(t, p)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var wg sync.WaitGroup
			for i := range 3 {
				wg.Go(func() {
					with := ctx
					if i == 2 {
						with = t.Context()
					}
					l, err := p.Acquire(with)
					if err == nil {
						use(t, l)
						giveBack(t, l)
					} else if i == 2 || !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
				})
				synctest.Wait()
			}
			wg.Go(cancel)
			wg.Go(func() { giveBack(t, l) })
			wg.Wait()
			if s := p.Stats(); s.Open != 1 || s.Idle != 1 || s.Opened() != 1 {
				t.Errorf("run %d: %+v", n, s)
			}
			finish(t, b, p)
		})
	}
}

func TestBackoff(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		c := quiet(50)
		c.BackoffMin, c.BackoffMax, c.AcquireTimeout = 100*time.Millisecond, time.Second, 30*time.Second
		c.MaxConnecting = 5
		b.took = time.Millisecond
		b.set(errors.New("refused"))
		p := b.pool(c, func(o *Options[*conn]) { o.Rand = func() float64 { return 0.5 } })
		began := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				l, err := p.Acquire(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				use(t, l)
				giveBack(t, l)
			})
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		// Five at once, then one after each pause: 100, 200, 400, 800, 1000,
		// 1000, ... ms less a quarter, and 1 ms for each attempt.
		at := []time.Duration{0, 0, 0, 0, 0, 76, 227, 528, 1129, 1880, 2631, 3382, 4133, 4884}
		b.mu.Lock()
		tries := slices.Clone(b.tries)
		b.mu.Unlock()
		if len(tries) != len(at) {
			t.Fatalf("%d attempts, want %d", len(tries), len(at))
		}
		for i, w := range at {
			if d := tries[i].Sub(began); d != w*time.Millisecond {
				t.Errorf("attempt %d after %v, want %v ms", i, d, int(w))
			}
		}
		s := p.Stats()
		if s.OpenFailed != 14 || s.Failures != 10 || s.LastOpen == nil || s.RetryIn != 635*time.Millisecond || s.Waiting != 20 {
			t.Errorf("%+v", s)
		}
		b.set(nil)
		wg.Wait()
		if d := time.Since(began); d > 6*time.Second {
			t.Errorf("served after %v", d)
		}
		if s := p.Stats(); s.Failures != 0 || s.LastOpen != nil || s.Acquired != 20 {
			t.Errorf("%+v", s)
		}
		finish(t, b, p)
	})
}

func TestErrorSaysWhyOpeningFails(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		c := quiet(3)
		c.MaxConnecting, c.AcquireTimeout, c.BackoffMin = 1, time.Second, 20*time.Second
		refused := errors.New("dial 192.0.2.1:80: refused")
		b.set(refused)
		p := b.pool(c, func(o *Options[*conn]) { o.Rand = func() float64 { return 0 } })
		_, err := p.Acquire(t.Context())
		want := `acquire from pool "test": no item within the acquire timeout (0 borrowed, 0 opening, 0 waiting, limit 3, waited 1s); last of 1 connect errors: dial 192.0.2.1:80: refused (next attempt in 19s)`
		if err == nil || err.Error() != want {
			t.Errorf("%v", err)
		}
		if errors.Is(err, refused) {
			t.Error("a connect error must not pass for the caller's own")
		}
		finish(t, b, p)
	})
}

func TestFailFast(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		b.took = 10 * time.Millisecond
		c := quiet(3)
		c.FailFast, c.BackoffMin, c.ConnectTimeout = true, time.Second, time.Second
		p := b.pool(c, func(o *Options[*conn]) { o.Rand = func() float64 { return 0 } })
		l := acquire(t, p)
		b.set(errors.New("refused"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, err := p.Acquire(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("must wait while one is borrowed: %v", err)
		}
		cancel()
		discard(t, l)
		time.Sleep(10 * time.Second)
		var wg sync.WaitGroup
		began := time.Now()
		for range 5 {
			wg.Go(func() {
				var ae *AcquireError
				if _, err := p.Acquire(t.Context()); !errors.As(err, &ae) || !errors.Is(err, ErrUnavailable) || ae.LastOpen == nil {
					t.Errorf("%v", err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(began); d != b.took {
			t.Errorf("took %v", d)
		}
		if _, err := p.Acquire(t.Context()); !errors.Is(err, ErrUnavailable) || time.Since(began) != b.took {
			t.Errorf("in the pause: %v", err)
		}
		b.set(nil)
		time.Sleep(time.Minute)
		giveBack(t, acquire(t, p))
		b.took = time.Hour
		l = acquire(t, p)
		discard(t, l)
		if _, err := p.Acquire(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v", err)
		}
		if s := p.Stats(); s.OpenTimedOut != 1 || s.Unavailable != 7 {
			t.Errorf("%+v", s)
		}
		finish(t, b, p)
	})
}

func TestSetConfig(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		c := quiet(8)
		p := b.pool(c)
		ls := hold(t, p, 8)
		giveAll(t, ls[5:])
		c.Max = 2
		if err := p.SetConfig(c); err != nil {
			t.Fatal(err)
		}
		if s := p.Stats(); s.Open != 5 || s.Idle != 0 || s.Closed[ReasonResized] != 3 {
			t.Errorf("%+v", s)
		}
		done := make(chan Lease[*conn])
		go func() { done <- acquire(t, p) }()
		synctest.Wait()
		giveAll(t, ls[:3])
		synctest.Wait()
		if s := p.Stats(); s.Open != 2 || s.Waiting != 1 {
			t.Errorf("%+v", s)
		}
		c.Max, c.Min = 6, 4
		if err := p.SetConfig(c); err != nil {
			t.Fatal(err)
		}
		giveBack(t, <-done)
		giveAll(t, ls[3:5])
		synctest.Wait()
		if s := p.Stats(); s.Open < 4 || s.Open > 6 || s.Max != 6 {
			t.Errorf("%+v", s)
		}
		c.IdleTimeout, c.Min = time.Second, 0
		p.SetConfig(c)
		time.Sleep(2 * time.Second)
		if s := p.Stats(); s.Open != 0 {
			t.Errorf("%+v", s)
		}
		bad := c
		bad.Shards = 2
		if err := p.SetConfig(bad); err == nil || !strings.Contains(err.Error(), "shards is 1") {
			t.Error(err)
		}
		bad.Shards, bad.Max = 1, 0
		if err := p.SetConfig(bad); err == nil || p.Config() != c {
			t.Error(err)
		}
		finish(t, b, p)
	})
}

func TestFlush(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		p := b.pool(quiet(4))
		ls := hold(t, p, 3)
		giveBack(t, ls[0])
		p.Flush()
		if s := p.Stats(); s.Closed[ReasonFlushed] != 1 || s.Open != 2 {
			t.Errorf("%+v", s)
		}
		fresh := acquire(t, p)
		giveBack(t, fresh)
		giveAll(t, ls[1:])
		if s := p.Stats(); s.Closed[ReasonFlushed] != 3 || s.Idle != 1 || fresh.Value().closed.Load() != 0 {
			t.Errorf("%+v", s)
		}
		finish(t, b, p)
	})
}

func TestLeaseEndsOnce(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		p := b.pool(quiet(1))
		first := acquire(t, p)
		giveBack(t, first)
		second := acquire(t, p)
		for _, err := range []error{first.Return(), first.Discard(), Lease[*conn]{}.Return()} {
			if !errors.Is(err, ErrNotBorrowed) {
				t.Error(err)
			}
		}
		if second.Value().closed.Load() != 0 || p.Stats().Idle != 0 || p.Stats().StaleReturns != 2 {
			t.Error("an old lease ended another's")
		}
		giveBack(t, second)
		finish(t, b, p)
	})
}

func TestShardsPreferOwnAndSteal(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		c := quiet(4)
		c.Shards = 2
		p := b.pool(c)
		get := func(key uint64) Lease[*conn] {
			l, err := p.AcquireShard(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			use(t, l)
			return l
		}
		zero, one := get(0), get(1)
		giveBack(t, zero)
		giveBack(t, one)
		l := get(2)
		if l.Value() != zero.Value() {
			t.Error("not its own")
		}
		m := get(4)
		if m.Value() != one.Value() {
			t.Error("opened another instead of taking one that was idle")
		}
		giveBack(t, m) // now of shard 0
		giveBack(t, l)
		first, second := get(0), get(0)
		if first.Value() != l.Value() || second.Value() != m.Value() || p.Stats().Opened() != 2 {
			t.Errorf("got conns %d and %d", first.Value().id, second.Value().id)
		}
		giveAll(t, []Lease[*conn]{first, second})
		finish(t, b, p)
	})
}

func TestCloseWaitsForBorrowed(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		p := b.pool(quiet(2))
		ls := hold(t, p, 2)
		refused := make(chan error)
		go func() { _, err := p.Acquire(t.Context()); refused <- err }()
		synctest.Wait()
		go func() {
			time.Sleep(time.Second)
			giveBack(t, ls[0])
			time.Sleep(time.Second)
			discard(t, ls[1])
		}()
		began := time.Now()
		done := make(chan struct{})
		go func() { finish(t, b, p); close(done) }()
		if err := <-refused; !errors.Is(err, ErrClosed) || err.Error() != `acquire from pool "test": pool is closed` {
			t.Error(err)
		}
		if _, err := p.Acquire(t.Context()); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		<-done
		if d := time.Since(began); d != 2*time.Second {
			t.Errorf("took %v", d)
		}
		finish(t, b, p) // again
	})
}

func TestCloseForcesWhenItsContextEnds(t *testing.T) {
	bubble(t, func(t *testing.T, b *backend) {
		p := b.pool(quiet(3), func(o *Options[*conn]) { o.Trace = true })
		ls := hold(t, p, 2)
		time.Sleep(time.Second)
		out := p.Outstanding()
		if len(out) != 2 || out[0].For != time.Second || !strings.Contains(out[0].Stack, "pool.hold") {
			t.Errorf("%+v", out)
		}
		b.took = time.Minute
		go p.Acquire(t.Context()) // begins an opening that Close cuts short
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		err := p.Close(ctx)
		if err == nil || !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), `close pool "test": 2 items were still borrowed: `) || !strings.Contains(err.Error(), "rig_test.go") {
			t.Error(err)
		}
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("took %v", d)
		}
		ledger(t, b, p)
		for _, l := range ls {
			if err := l.Return(); !errors.Is(err, ErrNotBorrowed) || l.Value().why != ReasonForced {
				t.Error(err)
			}
		}
	})
}

func TestReasonsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Reasons() {
		seen[r.String()] = true
	}
	if len(seen) != int(numReasons) || seen["unknown"] || Reason(200).String() != "unknown" {
		t.Errorf("%v", seen)
	}
}

func TestHistogram(t *testing.T) {
	var h Histogram
	for i, bound := range Bounds() {
		h.add(bound)
		h.add(bound + 1)
		if h.Counts[i] < 1 || h.Counts[i+1] != 1 {
			t.Errorf("%v: %v", bound, h.Counts)
		}
	}
	if h.Total() != 12 || fmt.Sprint(h.Counts) != "[1 2 2 2 2 2 1]" {
		t.Errorf("%v", h)
	}
}
