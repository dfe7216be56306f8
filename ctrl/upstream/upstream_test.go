package upstream

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"weak"
)

func (u *Upstream) at(t *testing.T, address string) EndpointSnapshot {
	t.Helper()
	for _, e := range u.Snapshot().Endpoints {
		if e.Address == address {
			return e
		}
	}
	t.Fatalf("no endpoint %s", address)
	return EndpointSnapshot{}
}

func mustAcquire(t *testing.T, u *Upstream) Lease {
	t.Helper()
	l, err := u.Acquire(t.Context(), Query{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func refusal(t *testing.T, err error, r Reason) *Refusal {
	t.Helper()
	var out *Refusal
	if !errors.As(err, &out) || out.Reason != r {
		t.Fatalf("error %v, want a refusal because of: %v", err, r)
	}
	return out
}

func TestSetKeepsState(t *testing.T) {
	list := specs(3, nil)
	a, b := list[0].Address, list[1].Address
	u := newUpstream(t, Config{}, list)
	if err := u.SetWeight(a, 9); err != nil {
		t.Fatal(err)
	}
	if err := u.Drain(b); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		l := mustAcquire(t, u)
		l.Done(Success)
	}
	before := u.at(t, a)
	if before.Requests != 90 || before.Weight != 9 || u.at(t, b).Requests != 0 {
		t.Fatalf("%+v", before)
	}
	list[0].Priority, list[0].Weight = 1, 3
	if err := u.Set(list); err != nil {
		t.Fatal(err)
	}
	after := u.at(t, a)
	if after.Requests != 90 || after.Weight != 9 || after.Priority != 1 || u.at(t, b).Mode != "drain" {
		t.Fatalf("after the list was replaced: %+v", after)
	}
	if err := u.SetWeight(a, 0); err != nil {
		t.Fatal(err)
	}
	if w := u.at(t, a).Weight; w != 3 {
		t.Errorf("weight %d, want the list's 3", w)
	}
	// Gone and back: a new endpoint. A request in flight across it ends well.
	l := mustAcquire(t, u)
	for l.Endpoint().Address() != list[2].Address {
		t.Fatalf("%s is the only one of priority 0 that takes requests", list[2].Address)
	}
	if err := u.Remove(list[2].Address); err != nil {
		t.Fatal(err)
	}
	l.Done(Success)
	if err := u.Add(list[2]); err != nil {
		t.Fatal(err)
	}
	if n := u.at(t, list[2].Address).Requests; n != 0 {
		t.Errorf("%d requests of an endpoint that was away", n)
	}
	if n := u.Snapshot().InFlight; n != 0 {
		t.Errorf("%d in flight", n)
	}
	if all := u.Snapshot().Totals; all.Requests != 101 || all.Successes != 101 {
		t.Errorf("with those that left: %+v", all)
	}
}

// TestInherit: what operators set survives that an upstream is made again, for endpoints that
// are found later too.
func TestInherit(t *testing.T) {
	list := specs(3, nil)
	a, b, c := list[0].Address, list[1].Address, list[2].Address
	old := newUpstream(t, Config{}, list)
	if err := errors.Join(old.Drain(a), old.SetWeight(b, 7), old.Disable(c)); err != nil {
		t.Fatal(err)
	}
	l := mustAcquire(t, old)
	u := newUpstream(t, Config{}, list[:2])
	u.Inherit(old)
	l.Done(Success) // of before: it counts
	if n := u.Snapshot().Totals; n.Requests != 1 || n.Successes != 1 || u.at(t, b).Successes != 1 {
		t.Errorf("%+v", n)
	}
	if u.at(t, a).Mode != "drain" || u.at(t, b).Weight != 7 {
		t.Errorf("%+v", u.Snapshot().Endpoints)
	}
	if err := u.Add(list[2]); err != nil || u.at(t, c).Mode != "disabled" {
		t.Errorf("found later: %+v, %v", u.Snapshot().Endpoints, err)
	}
	// Twice in a row, before a source found anything.
	none, next := newUpstream(t, Config{}, nil), newUpstream(t, Config{}, nil)
	none.Inherit(u)
	next.Inherit(none)
	if err := next.Set(list); err != nil {
		t.Fatal(err)
	}
	if next.at(t, a).Mode != "drain" || next.at(t, b).Weight != 7 || next.at(t, c).Mode != "disabled" || next.at(t, b).Successes != 1 {
		t.Errorf("%+v", next.Snapshot().Endpoints)
	}
	if err := next.Remove(c); err != nil {
		t.Fatal(err)
	}
	if err := next.Add(list[2]); err != nil {
		t.Fatal(err)
	}
	if n := next.Snapshot().Totals; n.Requests != 1 || n.Successes != 1 {
		t.Errorf("%+v", n)
	}
	if m := next.at(t, c).Mode; m != "enabled" {
		t.Errorf("gone and back: %s", m)
	}
	if err := next.Drain("198.18.0.99:1"); !errors.Is(err, ErrNoEndpoint) {
		t.Error(err)
	}
}

// TestInheritForgets: an upstream that is made again and again, each time with another
// list, keeps nothing of those long before but what they counted.
func TestInheritForgets(t *testing.T) {
	var all []weak.Pointer[Upstream]
	var u *Upstream
	for i := range 20 {
		next := newUpstream(t, Config{}, []Spec{{Address: fmt.Sprintf("198.18.1.%d:1", i)}})
		if u != nil {
			next.Inherit(u)
		}
		u = next
		l := mustAcquire(t, u)
		l.Done(Success)
		all = append(all, weak.Make(u))
	}
	for end := time.Now().Add(time.Minute); all[len(all)-4].Value() != nil && time.Now().Before(end); {
		runtime.GC()
	}
	left := 0
	for _, p := range all {
		if p.Value() != nil {
			left++
		}
	}
	if n := u.Snapshot().Totals; left > 3 || n.Requests != 20 || n.Successes != 20 {
		t.Errorf("%d of %d upstreams are left; %+v", left, len(all), n)
	}
}

func TestSetIsAllOrNothing(t *testing.T) {
	u := newUpstream(t, Config{}, specs(2, nil))
	for _, tt := range []struct {
		s    Spec
		want string
	}{
		{Spec{Address: "host"}, `endpoint 1: address "host": expected host:port, [IPv6]:port or unix:PATH`},
		{Spec{Address: "host:0"}, `expected a port from 1 to 65535`},
		{Spec{Address: "unix:"}, `expected unix:PATH`},
		{Spec{Address: "h:1", Weight: 1001}, `weight 1001: expected 1 to 1000`},
		{Spec{Address: "h:1", Weight: -1}, `weight -1: expected 1 to 1000`},
		{Spec{Address: "h:1", Priority: 16}, `priority 16: expected 0 to 15`},
		{Spec{Address: "x:1"}, `address "x:1": expected once`},
	} {
		err := u.Set([]Spec{tt.s, {Address: "x:1"}})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.s, err, tt.want)
		}
	}
	if n := len(u.Snapshot().Endpoints); n != 2 {
		t.Errorf("%d endpoints", n)
	}
	if err := u.Drain("nobody:1"); err == nil || !strings.Contains(err.Error(), "no such endpoint") {
		t.Error(err)
	}
}

func TestConfigErrors(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "upstream without a name"},
		{Config{Balance: Balance{Table: 1000}}, "table: 1000: expected a prime, 1009 is the next"},
		{Config{Balance: Balance{BoundedLoad: 0.5}}, "bounded_load: 0.5: expected more than 1"},
		{Config{Limits: Limits{Waiting: 5}}, "expected limits.in_flight too"},
		{Config{Limits: Limits{InFlight: -1}}, "limits.in_flight: -1"},
		{Config{Breaker: BreakerConfig{ErrorPercent: 101}}, "breaker.error_percent: 101"},
		{Config{Breaker: BreakerConfig{OpenTime: time.Minute, MaxOpenTime: time.Second}}, "expected at least open_time"},
		{Config{Health: HealthConfig{Interval: -1}}, "health.interval"},
		{Config{Retry: RetryPolicy{Attempts: 101}}, "retry: attempts 101: expected 1 to 100"},
		{Config{Retry: RetryPolicy{Base: time.Second, Max: time.Millisecond}}, "expected 0 ≤ base ≤ max"},
		{Config{Timeouts: Timeouts{Connect: -1}}, "timeouts.connect"},
		{Config{PanicPercent: 101}, "panic_percent"},
	} {
		if _, err := New(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.cfg, err, tt.want)
		}
	}
}

func TestEmptyAndDisabled(t *testing.T) {
	u := newUpstream(t, Config{}, nil)
	_, err := u.Acquire(t.Context(), Query{})
	refusal(t, err, ReasonEmpty)
	if err := u.Set(specs(1, nil)); err != nil {
		t.Fatal(err)
	}
	if err := u.Disable("198.18.0.1:80"); err != nil {
		t.Fatal(err)
	}
	_, err = u.Acquire(t.Context(), Query{})
	refusal(t, err, ReasonDisabled)
	s := u.Snapshot()
	if s.Refused["empty"] != 1 || s.Refused["disabled"] != 1 {
		t.Errorf("%v", s.Refused)
	}
}

// setHealth is what a check would find.
func setHealth(u *Upstream, unhealthy ...int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, e := range u.list {
		e.health.state = Healthy
	}
	for _, i := range unhealthy {
		u.list[i].health.state = Unhealthy
	}
	u.changed()
}

func TestPanicThreshold(t *testing.T) {
	list := specs(10, nil)
	u := newUpstream(t, Config{PanicPercent: 40}, list)
	used := func() int { return len(counts(u, 1000)) }
	setHealth(u, 0, 1, 2, 3, 4, 5)
	if n := used(); n != 4 || u.Snapshot().Levels[0].Panic {
		t.Errorf("40 %% healthy: %d used, want 4", n)
	}
	setHealth(u, 0, 1, 2, 3, 4, 5, 6)
	if n := used(); n != 10 || !u.Snapshot().Levels[0].Panic {
		t.Errorf("30 %% healthy: %d used, want all", n)
	}
	if err := u.Drain(list[9].Address); err != nil {
		t.Fatal(err)
	}
	if n := used(); n != 9 {
		t.Errorf("in a panic: %d used, want all but the drained", n)
	}
	u = newUpstream(t, Config{PanicPercent: -1}, specs(2, nil))
	setHealth(u, 0, 1)
	_, err := u.Acquire(t.Context(), Query{})
	if refusal(t, err, ReasonUnhealthy).Detail != "0 of 2" {
		t.Error(err)
	}
}

func TestPriorities(t *testing.T) {
	list := specs(8, nil)
	for i := 4; i < 8; i++ {
		list[i].Priority = 3
	}
	u := newUpstream(t, Config{FailoverAt: 80, PanicPercent: 30}, list)
	share := func() int { // percent that go to priority 0
		n := 0
		for a, c := range counts(u, 20_000) {
			if u.byAddr[a].spec.Priority == 0 {
				n += c
			}
		}
		return (n + 100) / 200
	}
	for _, tt := range []struct {
		ill      []int
		lo, hi   int
		describe string
	}{
		{nil, 100, 100, "all well: none goes on"},
		{[]int{0}, 91, 95, "75 % of 80 %: 93"},
		{[]int{0, 1}, 60, 64, "50 % of 80 %: 62"},
		{[]int{0, 1, 2, 3}, 0, 0, "none left: all go on"},
		{[]int{0, 1, 2, 4, 5, 6}, 48, 52, "both at 25 %: halves, in panic"},
		{[]int{0, 1, 2, 3, 4, 5, 6, 7}, 48, 52, "none anywhere: by the numbers of endpoints"},
	} {
		setHealth(u, tt.ill...)
		if n := share(); n < tt.lo || n > tt.hi {
			t.Errorf("%s: %d %%, levels %+v", tt.describe, n, u.Snapshot().Levels)
		}
	}
	// A level whose breakers or limits take nothing leaves the request to the other.
	u = newUpstream(t, Config{Limits: Limits{InFlight: 1}}, list)
	for range 8 {
		mustAcquire(t, u)
	}
	for _, e := range u.list {
		if e.InFlight() != 1 {
			t.Errorf("%s: %d in flight", e.Address(), e.InFlight())
		}
	}
}

func TestLimitsAndWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t, Config{Limits: Limits{InFlight: 2, Waiting: 3, Conns: 1}}, specs(1, nil))
		a, b := mustAcquire(t, u), mustAcquire(t, u)
		order := make(chan int, 3)
		leases := make(chan Lease, 3)
		for i := range 3 {
			go func() {
				l, err := u.Acquire(context.Background(), Query{})
				if err != nil {
					t.Error(err)
				}
				order <- i
				leases <- l
			}()
			synctest.Wait() // one after the other into the queue
		}
		_, err := u.Acquire(t.Context(), Query{})
		if refusal(t, err, ReasonWaiting).Error() != "upstream api: limit of waiting requests: 3 wait" {
			t.Error(err)
		}
		if s := u.Snapshot(); s.Waiting != 3 || s.InFlight != 2 {
			t.Errorf("%+v", s)
		}
		a.Done(Success)
		synctest.Wait()
		b.Done(Success)
		synctest.Wait()
		l := <-leases
		l.Done(Success)
		for want := range 3 {
			if got := <-order; got != want {
				t.Errorf("number %d came as number %d", got, want)
			}
		}
		for range 2 {
			l := <-leases
			defer l.Done(Success)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err = u.Acquire(ctx, Query{})
		if refusal(t, err, ReasonWaitDeadline); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		// A new endpoint lets those in who wait.
		done := make(chan error)
		go func() {
			l, err := u.Acquire(context.Background(), Query{})
			if err == nil {
				l.Done(Success)
			}
			done <- err
		}()
		synctest.Wait()
		if err := u.Add(Spec{Address: "h:1"}); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		e := u.list[0]
		if err := e.AcquireConn(); err != nil {
			t.Fatal(err)
		}
		refusal(t, e.AcquireConn(), ReasonConns)
		e.ReleaseConn()
		if err := e.AcquireConn(); err != nil {
			t.Error(err)
		}
	})
}

// TestWaitingUnderLoad: more clients than room; each gets its turn, none is lost.
func TestWaitingUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t, Config{Limits: Limits{InFlight: 3, Waiting: 200}}, specs(2, nil))
		ends := make(chan error)
		for i := range 100 {
			go func() {
				for k := range 20 {
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					l, err := u.Acquire(ctx, Query{})
					cancel()
					if err != nil {
						ends <- fmt.Errorf("client %d, request %d: %w", i, k, err)
						return
					}
					if n := l.Endpoint().InFlight(); n > 4 { // take counts one too many for a moment
						t.Errorf("%d in flight", n)
					}
					time.Sleep(time.Duration(1+(i+k)%7) * time.Millisecond)
					l.Done(Success)
				}
				ends <- nil
			}()
		}
		for range 100 {
			if err := <-ends; err != nil {
				t.Error(err)
			}
		}
		if s := u.Snapshot(); s.Waiting != 0 || s.InFlight != 0 || s.Waited == 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t, Config{Breaker: BreakerConfig{ConsecutiveFailures: 3, OpenTime: time.Second, MaxOpenTime: 3 * time.Second, Probes: 1, ProbeSuccesses: 2, Return: 10 * time.Second}}, specs(1, nil))
		addr := u.list[0].Address()
		late := mustAcquire(t, u)
		for i, o := range []Outcome{Failure, Timeout, Success, ConnectFailed, Failure, Canceled, Failure} {
			if s := u.at(t, addr).Breaker.State; s != "closed" {
				t.Fatalf("%s before result %d", s, i)
			}
			l := mustAcquire(t, u)
			l.Done(o)
		}
		_, err := u.Acquire(t.Context(), Query{})
		if refusal(t, err, ReasonBreaker); err.Error() != "upstream api: circuit breaker open: at 1 of 1 endpoints, the first is tried again in 1s" {
			t.Error(err)
		}
		time.Sleep(time.Second)
		late.Done(Failure) // began before it opened: says nothing
		probe := mustAcquire(t, u)
		if s := u.at(t, addr).Breaker.State; s != "half-open" {
			t.Fatal(s)
		}
		_, err = u.Acquire(t.Context(), Query{})
		refusal(t, err, ReasonBreaker)
		probe.Done(Canceled) // gives its place back
		probe = mustAcquire(t, u)
		probe.Done(Failure)
		time.Sleep(1999 * time.Millisecond) // twice as long the second time
		_, err = u.Acquire(t.Context(), Query{})
		refusal(t, err, ReasonBreaker)
		time.Sleep(time.Millisecond)
		for range 2 {
			l := mustAcquire(t, u)
			l.Done(Success)
		}
		passed := func() (n int) {
			for range 1000 {
				if l, err := u.Acquire(t.Context(), Query{}); err == nil {
					l.Done(Success)
					n++
				}
			}
			return n
		}
		if n := passed(); n < 70 || n > 130 {
			t.Errorf("%d of 1000 pass at first, want a tenth", n)
		}
		time.Sleep(5 * time.Second)
		if n := passed(); n < 450 || n > 550 {
			t.Errorf("%d of 1000 pass halfway, want half", n)
		}
		time.Sleep(5 * time.Second)
		if n := passed(); n != 1000 {
			t.Errorf("%d of 1000 pass at the end", n)
		}
		if b := u.at(t, addr).Breaker; b.State != "closed" || b.Trips != 2 || b.Share != 100 {
			t.Errorf("%+v", b)
		}
	})
}

// TestBreakerStreams: a probe that became a stream without end keeps nobody else from an
// endpoint that is well.
func TestBreakerStreams(t *testing.T) {
	for _, well := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			u := newUpstream(t, Config{Breaker: BreakerConfig{ConsecutiveFailures: 1, OpenTime: time.Second, Probes: 1, ProbeSuccesses: 2, Return: -1}}, specs(1, nil))
			addr := u.list[0].Address()
			l := mustAcquire(t, u)
			l.Done(Failure)
			time.Sleep(time.Second)
			var ends []func(Outcome)
			for i := range 4 {
				err := u.Do(t.Context(), Call{Try: func(_ context.Context, try Try) (Outcome, error) {
					try.Stream(well)
					ends = append(ends, try.Detach())
					return Success, nil
				}})
				if err != nil {
					t.Fatalf("well %v: stream %d: %v", well, i, err)
				}
			}
			if s, want := u.at(t, addr).Breaker.State, map[bool]string{true: "closed", false: "half-open"}[well]; s != want {
				t.Errorf("well %v: %s while streams go on, want %s", well, s, want)
			}
			for i, end := range ends {
				end(Success)
				if s := u.at(t, addr).Breaker.State; i > 0 && s != "closed" {
					t.Errorf("well %v: %s after the end of %d streams", well, s, i+1)
				}
			}
			if s := u.Snapshot(); s.InFlight != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
	// one whose end is a failure opens it again
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t, Config{Breaker: BreakerConfig{ConsecutiveFailures: 1, OpenTime: time.Second}}, specs(1, nil))
		l := mustAcquire(t, u)
		l.Done(Failure)
		time.Sleep(time.Second)
		_ = u.Do(t.Context(), Call{Try: func(_ context.Context, try Try) (Outcome, error) {
			try.Stream(false)
			return Failure, errors.New("gRPC status 14")
		}})
		if s := u.at(t, u.list[0].Address()).Breaker.State; s != "open" {
			t.Error(s)
		}
	})
}

func TestBreakerErrorRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t, Config{Breaker: BreakerConfig{ErrorPercent: 50, MinRequests: 20, Window: 10 * time.Second}}, specs(1, nil))
		addr := u.list[0].Address()
		send := func(o Outcome) { l := mustAcquire(t, u); l.Done(o) }
		for range 19 {
			send(Failure) // too few to tell
		}
		time.Sleep(11 * time.Second) // out of the window
		for i := range 38 {
			send([]Outcome{Success, Failure, Success}[i%3])
		}
		if s := u.at(t, addr).Breaker.State; s != "closed" {
			t.Fatalf("%s at a third", s)
		}
		n := 0
		for u.at(t, addr).Breaker.State == "closed" {
			send(Failure)
			n++
		}
		if n != 12 { // 13 of 38 + n reach half with 12
			t.Errorf("open after %d more failures, want 12", n)
		}
	})
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, p := range []Policy{RoundRobin, LeastRequest} {
			list := specs(4, nil)
			u := newUpstream(t, Config{Balance: Balance{Policy: p}, SlowStart: 10 * time.Second}, list)
			if err := u.Add(Spec{Address: "new:1"}); err != nil {
				t.Fatal(err)
			}
			share := func() float64 { return float64(counts(u, 20_000)["new:1"]) / 200 }
			if s := share(); s < 1.5 || s > 3.5 {
				t.Errorf("%v: %.1f %% at first, want a tenth of 20", p, s)
			}
			time.Sleep(5 * time.Second)
			if s := share(); s < 9 || s > 13 { // 0.5 of 4.5
				t.Errorf("%v: %.1f %% halfway, want about 11", p, s)
			}
			time.Sleep(5 * time.Second)
			if s := share(); s < 19 || s > 21 {
				t.Errorf("%v: %.1f %% at the end, want 20", p, s)
			}
		}
	})
}
