package upstream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestRetryOnlyWhatIsSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t, Config{Retry: RetryPolicy{Attempts: 3}}, specs(5, nil))
		boom := errors.New("boom")
		for _, tt := range []struct {
			o      Outcome
			repeat bool
			tries  int
		}{{Failure, false, 1}, {Failure, true, 3}, {ConnectFailed, false, 3}, {Canceled, true, 1}, {Success, true, 1}} {
			seen := map[*Endpoint]bool{}
			err := u.Do(t.Context(), Call{
				Repeat: func(Outcome, error) bool { return tt.repeat },
				Try: func(_ context.Context, try Try) (Outcome, error) {
					seen[try.Endpoint] = true
					if tt.o == Success {
						return Success, nil
					}
					return tt.o, boom
				}})
			if len(seen) != tt.tries || (tt.o != Success) != errors.Is(err, boom) {
				t.Errorf("%+v: %d endpoints, %v", tt, len(seen), err)
			}
		}
	})
}

func TestRetryTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t, Config{Retry: RetryPolicy{Attempts: 10, Backoff: BackoffFixed, Base: 100 * time.Millisecond, PerTry: 200 * time.Millisecond, Total: time.Second}}, specs(2, nil))
		begin, tries := time.Now(), 0
		err := u.Do(t.Context(), Call{Repeat: func(Outcome, error) bool { return true },
			Try: func(ctx context.Context, _ Try) (Outcome, error) {
				tries++
				<-ctx.Done()
				return Failure, context.Cause(ctx)
			}})
		// 200 + 100 + 200 + 100 + 200 + 100 + the 100 that are left.
		if d := time.Since(begin); d != time.Second || tries != 4 {
			t.Errorf("%d tries in %v: %v", tries, d, err)
		}
		p := RetryPolicy{Base: 10 * time.Millisecond, Max: 50 * time.Millisecond}
		r := seeded(1)
		for n, limit := range []time.Duration{0, 10, 20, 40, 50, 50} {
			var most time.Duration
			for range 200 {
				most = max(most, p.wait(n, r()))
			}
			if limit *= time.Millisecond; n > 0 && (most > limit || most < limit*9/10) {
				t.Errorf("wait %d: up to %v, want %v", n, most, limit)
			}
		}
	})
}

func TestRetryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t, Config{Retry: RetryPolicy{Attempts: 2, Backoff: BackoffNone, BudgetPercent: 20, BudgetPerSecond: 1}}, specs(2, nil))
		tries := 0
		send := func(n int, o Outcome) error {
			var err error
			for range n {
				err = u.Do(t.Context(), Call{Repeat: func(Outcome, error) bool { return true },
					Try: func(context.Context, Try) (Outcome, error) { tries++; return o, nil }})
			}
			return err
		}
		if err := send(50, Success); err != nil {
			t.Fatal(err)
		}
		tries = 0
		err := send(100, Failure)
		if tries != 111 { // one token from the start, 10 of 50 successes
			t.Errorf("%d tries of 100 requests, want 111", tries)
		}
		if err == nil || !strings.Contains(err.Error(), "retry budget spent") {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		if tries = 0; send(10, Failure) == nil || tries != 12 {
			t.Errorf("%d tries, want 12", tries)
		}
		u = newUpstream(t, Config{Retry: RetryPolicy{Attempts: 2, Backoff: BackoffNone, BudgetPercent: 20, BudgetPerSecond: -1}}, specs(2, nil))
		time.Sleep(time.Minute)
		if tries = 0; send(10, Failure) == nil || tries != 10 {
			t.Errorf("%d tries, want 10: none comes by itself", tries)
		}
	})
}

// TestChaos: endpoints are killed, slow, failing by half and get well again, under load. No
// request may fail that three tries at different endpoints could save, and each endpoint is
// back at its share within the times configured.
func TestChaos(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { chaos(t, seed) }) })
	}
}

func chaos(t *testing.T, seed uint64) {
	sim := newSimulated()
	sim.checks = time.Millisecond
	list := specs(6, nil)
	rnd := seeded(seed)
	u := newUpstream(t, Config{Rand: rnd, Balance: Balance{Policy: LeastRequest},
		Health:  HealthConfig{Checker: sim, Interval: 2 * time.Second, FailInterval: 500 * time.Millisecond, Rise: 2, Fall: 2},
		Breaker: BreakerConfig{ConsecutiveFailures: 5, ErrorPercent: 30, MinRequests: 20, OpenTime: time.Second, MaxOpenTime: 2 * time.Second, Return: 2 * time.Second},
		Outlier: OutlierConfig{ConsecutiveFailures: 8, EjectTime: 2 * time.Second, MaxEjectTime: 4 * time.Second, MaxEjectPercent: 50},
		Retry:   RetryPolicy{Attempts: 3, Base: 5 * time.Millisecond, PerTry: 300 * time.Millisecond}}, list)
	stop := running(t, u)
	defer stop()
	// What is wrong: at most two endpoints, so that a third try always has a good one.
	var killed, slow, half atomic.Pointer[string]
	is := func(p *atomic.Pointer[string], a string) bool { s := p.Load(); return s != nil && *s == a }
	var sent, failed atomic.Int64
	load, done := context.WithCancel(t.Context())
	ended := make(chan bool)
	const clients = 20
	for range clients {
		go func() {
			defer func() { ended <- true }()
			for load.Err() == nil {
				sent.Add(1)
				err := u.Do(context.Background(), Call{Repeat: func(Outcome, error) bool { return true },
					Try: func(ctx context.Context, try Try) (Outcome, error) {
						a := try.Endpoint.Address()
						switch {
						case is(&killed, a):
							return ConnectFailed, errors.New("refused")
						case is(&slow, a):
							<-ctx.Done()
							return Timeout, ctx.Err()
						case is(&half, a) && rnd()%2 == 0:
							return Failure, errors.New("status 500")
						}
						time.Sleep(time.Duration(5+rnd()%5) * time.Millisecond)
						return Success, nil
					}})
				if err != nil {
					failed.Add(1)
					t.Log(err)
				}
			}
		}()
	}
	time.Sleep(2 * time.Second)
	a, b, c := list[0].Address, list[1].Address, list[2].Address
	killed.Store(&a)
	sim.set(true, a)
	time.Sleep(5 * time.Second)
	if e := u.at(t, a); e.Takes {
		t.Errorf("killed and takes requests: %+v", e)
	}
	slow.Store(&b)
	time.Sleep(5 * time.Second)
	killed.Store(nil)
	sim.set(false, a)
	time.Sleep(2 * time.Second)
	half.Store(&c)
	time.Sleep(5 * time.Second)
	slow.Store(nil)
	half.Store(nil)
	// Longest way back: ejected 4 s, then open 2 s, probes, returning 2 s.
	time.Sleep(10 * time.Second)
	before := map[string]uint64{}
	for _, e := range u.Snapshot().Endpoints {
		before[e.Address] = e.Successes
		if !e.Takes || e.Breaker.State != "closed" {
			t.Errorf("not recovered: %+v", e)
		}
	}
	time.Sleep(2 * time.Second)
	total := uint64(0)
	for _, e := range u.Snapshot().Endpoints {
		total += e.Successes - before[e.Address]
	}
	for _, e := range u.Snapshot().Endpoints {
		if n := e.Successes - before[e.Address]; n*6*10 < total*8 {
			t.Errorf("%s: %d of %d after recovery", e.Address, n, total)
		}
	}
	done()
	for range clients {
		<-ended
	}
	if s := u.Snapshot(); failed.Load() != 0 || s.InFlight != 0 || s.Retries == 0 {
		t.Errorf("%d of %d requests failed, %d in flight, %d retries", failed.Load(), sent.Load(), s.InFlight, s.Retries)
	}
}

func TestFileSource(t *testing.T) {
	path := filepath.Join(t.TempDir(), "endpoints")
	write := func(s string, at time.Time) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	u := newUpstream(t, Config{}, nil)
	f := &File{Path: path}
	if _, err := f.Poll(u.Set); err == nil || !strings.Contains(err.Error(), path) {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	write("# ours\n198.18.0.1:80 weight=3\n\n198.18.0.2:80 priority=1 locality=b drain # soon\n", old)
	if ok, err := f.Poll(u.Set); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if s := u.Snapshot().Endpoints; len(s) != 2 || s[0].Weight != 3 || s[1].Mode != "drain" || s[1].Locality != "b" || s[1].Priority != 1 {
		t.Fatalf("%+v", s)
	}
	if ok, err := f.Poll(u.Set); ok || err != nil {
		t.Fatal("read again, unchanged", err)
	}
	write("198.18.0.1:80\n198.18.0.9:80 weight=x\n", old.Add(time.Second))
	for range 2 {
		ok, err := f.Poll(u.Set)
		if want := path + `:2: weight "x": expected a whole number from 1 to 1000`; ok || err == nil || err.Error() != want {
			t.Fatalf("%v, want %s", err, want)
		}
	}
	if n := len(u.Snapshot().Endpoints); n != 2 {
		t.Fatalf("%d endpoints after a bad file", n)
	}
	write("none\n", old.Add(2*time.Second))
	if ok, err := f.Poll(u.Set); !ok || err != nil || len(u.Snapshot().Endpoints) != 0 {
		t.Fatal(ok, err)
	}
	for text, want := range map[string]string{
		"": "f:1: expected an endpoint", "a:1\na:1\n": `f:2: address "a:1": expected once, is in line 1`, "a:1\nnone\n": "f:2: none among 1",
		"a:1 up\n": `f:1: "up": expected weight=N`, "a\n": "expected host:port", "a:1 weight=1 weight=2": "f:1: weight: expected once",
	} {
		if _, err := Parse("f", text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a:1\n", "[2001:db8::1]:80 weight=5 drain\nunix:/run/x disabled", "none", "a:1 weight=1 # x", ":0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := Parse("f", s)
		if err != nil {
			return
		}
		u := newUpstream(t, Config{}, nil)
		if err := u.Set(list); err != nil {
			t.Errorf("parsed and refused: %v", err)
		}
	})
}
