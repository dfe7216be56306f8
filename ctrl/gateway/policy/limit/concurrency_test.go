package limit

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

func newConcurrency(t *testing.T, cfg ConcurrencyConfig) *Concurrency {
	t.Helper()
	cfg.Name = "test"
	c, err := NewConcurrency(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConcurrencyFIFO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConcurrency(t, ConcurrencyConfig{Max: 1, Queue: 3, Wait: time.Minute})
		if err := c.Acquire(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		var order []int
		var mu sync.Mutex
		for n := range 3 {
			go func() {
				if err := c.Acquire(t.Context(), 0); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, n)
				mu.Unlock()
				c.Release(0)
			}()
			synctest.Wait()
		}
		if err := c.Acquire(t.Context(), 0); !errors.Is(err, ErrFull) {
			t.Errorf("a fourth waits: %v", err)
		}
		time.Sleep(time.Second)
		c.Release(0)
		synctest.Wait()
		if len(order) != 3 || order[0] != 0 || order[1] != 1 || order[2] != 2 {
			t.Errorf("order %v", order)
		}
		s := c.Stats()
		if s.Running != 0 || s.Waiting != 0 || s.Admitted != 4 || s.Waited != 3 || s.WaitTime != 3*time.Second || s.Full != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestConcurrencyPerKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConcurrency(t, ConcurrencyConfig{Max: 3, PerKey: 1, Keys: []Key{mustKey(t, "client")}, Queue: 10, Wait: time.Minute})
		results := make(chan uint64, 10)
		start := func(key uint64) {
			go func() {
				if c.Acquire(t.Context(), key) == nil {
					results <- key
				}
			}()
			synctest.Wait()
		}
		start(1)
		start(1) // waits for its key
		start(2)
		start(3)
		start(4) // waits for all
		if len(results) != 3 {
			t.Fatalf("%d run, expected 3", len(results))
		}
		if err := c.Acquire(t.Context(), 1); !errors.Is(err, ErrFull) {
			t.Errorf("one key takes more of the queue than it may: %v", err)
		}
		for range 3 {
			<-results
		}
		c.Release(2)
		synctest.Wait()
		if got := <-results; got != 4 {
			t.Errorf("key %d runs, expected 4: who waits for its own key holds up others", got)
		}
		c.Release(1)
		synctest.Wait()
		if got := <-results; got != 1 {
			t.Errorf("key %d runs, expected 1", got)
		}
		for _, k := range []uint64{1, 3, 4} {
			c.Release(k)
		}
		if s := c.Stats(); s.Running != 0 || s.Keys != 0 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestConcurrencyEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConcurrency(t, ConcurrencyConfig{Max: 1, PerKey: 1, Keys: []Key{mustKey(t, "client")}, Queue: 10, Wait: time.Second})
		if err := c.Acquire(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		for _, key := range []uint64{1, 2} {
			if err := c.Acquire(t.Context(), key); !errors.Is(err, ErrWaited) {
				t.Errorf("key %d: %v", key, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			if err := c.Acquire(ctx, key); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("key %d: %v", key, err)
			}
			cancel()
		}
		c.Release(1)
		if s := c.Stats(); s.Running != 0 || s.Keys != 0 || s.Waiting != 0 || s.TimedOut != 2 || s.Gone != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// TestConcurrencyHolds lets many come, go and give up at random; the limits hold throughout.
func TestConcurrencyHolds(t *testing.T) {
	c := newConcurrency(t, ConcurrencyConfig{Max: 5, PerKey: 2, Keys: []Key{mustKey(t, "client")}, Queue: 20, Wait: 2 * time.Millisecond})
	var running atomic.Int64
	var perKey [4]atomic.Int64
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 3))
			for range 300 {
				k := rng.IntN(len(perKey))
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rng.IntN(3000))*time.Microsecond)
				if c.Acquire(ctx, uint64(k)) == nil {
					if n, m := running.Add(1), perKey[k].Add(1); n > 5 || m > 2 {
						t.Errorf("%d run, %d of one key", n, m)
					}
					if rng.IntN(4) == 0 {
						time.Sleep(time.Duration(rng.IntN(200)) * time.Microsecond)
					}
					running.Add(-1)
					perKey[k].Add(-1)
					c.Release(uint64(k))
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if s := c.Stats(); s.Running != 0 || s.Waiting != 0 || s.Keys != 0 || c.line.Len() != 0 {
		t.Errorf("left over: %+v", s)
	}
}

func TestConcurrencyStage(t *testing.T) {
	c := newConcurrency(t, ConcurrencyConfig{Max: 1})
	inside := make(chan struct{})
	leave := make(chan struct{})
	h := c.Stage(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inside <- struct{}{}; <-leave; panic(http.ErrAbortHandler) }))
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = recover() }()
		h.ServeHTTP(httptest.NewRecorder(), request(&exchange.Exchange{}, "GET", "/"))
	}()
	<-inside
	w := httptest.NewRecorder()
	x := &exchange.Exchange{}
	h.ServeHTTP(w, request(x, "GET", "/"))
	if w.Code != 503 || w.Header().Get("Retry-After") == "" || x.Reason != exchange.Overloaded {
		t.Errorf("%d %v %s", w.Code, w.Header(), x.Reason)
	}
	close(leave)
	<-done
	if s := c.Stats(); s.Running != 0 {
		t.Errorf("a handler that panics keeps its place: %+v", s)
	}
}

func TestConcurrencyConfig(t *testing.T) {
	for name, one := range map[string]struct {
		cfg  ConcurrencyConfig
		want string
	}{
		"nothing": {ConcurrencyConfig{Name: "a"}, "above 0"},
		"no keys": {ConcurrencyConfig{Name: "a", PerKey: 1}, "both or neither"},
		"queue":   {ConcurrencyConfig{Name: "a", Max: 1, Queue: MaxQueue + 1}, "queue"},
		"name":    {ConcurrencyConfig{Max: 1}, "name"},
	} {
		if _, err := NewConcurrency(one.cfg); err == nil || !strings.Contains(err.Error(), one.want) {
			t.Errorf("%s: got %v, expected %q", name, err, one.want)
		}
	}
}
