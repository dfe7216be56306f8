package upstream

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

// seeded gives the same random bits each run, also to several goroutines.
func seeded(seed uint64) func() uint64 {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 1))
	return func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return r.Uint64()
	}
}

func specs(n int, weight func(i int) int) []Spec {
	out := make([]Spec, n)
	for i := range out {
		out[i] = Spec{Address: fmt.Sprintf("198.18.%d.%d:80", i/250, i%250+1), Weight: 1}
		if weight != nil {
			out[i].Weight = weight(i)
		}
	}
	return out
}

func newUpstream(t testing.TB, cfg Config, list []Spec) *Upstream {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "api"
	}
	if cfg.Rand == nil {
		cfg.Rand = seeded(7)
	}
	u, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Set(list); err != nil {
		t.Fatal(err)
	}
	return u
}

// counts picks n times, key by key.
func counts(u *Upstream, n int) map[string]int {
	out := map[string]int{}
	for i := range n {
		out[u.Pick(Query{Hash: Hash(fmt.Sprint("key ", i))}).Address()]++
	}
	return out
}

func TestRoundRobinIsExactAndSmooth(t *testing.T) {
	list := specs(3, func(i int) int { return []int{5, 1, 1}[i] })
	u := newUpstream(t, Config{}, list)
	var walk []string
	for range 7 * 100 {
		walk = append(walk, u.Pick(Query{}).Address())
	}
	got := map[string]int{}
	for i, a := range walk {
		got[a]++
		// 5 of 7: never all of them in a row, and the light ones never twice.
		if i >= 5 && a == walk[i-1] && a == walk[i-2] && a == walk[i-3] && a == walk[i-4] && a == walk[i-5] {
			t.Fatalf("%s six times in a row at %d", a, i)
		}
		if a != list[0].Address && i > 0 && walk[i-1] == a {
			t.Fatalf("%s twice in a row at %d", a, i)
		}
	}
	for i, want := range []int{500, 100, 100} {
		if got[list[i].Address] != want {
			t.Errorf("%s: %d times, want exactly %d", list[i].Address, got[list[i].Address], want)
		}
	}
}

func TestSequenceIsBounded(t *testing.T) {
	u := newUpstream(t, Config{}, specs(MaxEndpoints, func(i int) int { return i%MaxWeight + 1 }))
	seq := u.view.Load().levels[0].picker.(*robin).seq
	if len(seq) > maxSequence+MaxEndpoints {
		t.Fatalf("a sequence of %d", len(seq))
	}
	seen := make([]bool, MaxEndpoints)
	for _, i := range seq {
		seen[i] = true
	}
	for i, ok := range seen {
		if !ok {
			t.Fatalf("endpoint %d never comes", i)
		}
	}
}

func TestDistributions(t *testing.T) {
	weights := func(i int) int { return i%4 + 1 }
	for _, tt := range []struct {
		b    Balance
		list []Spec
		off  float64 // from the share by weight, at most
	}{
		{Balance{Policy: RoundRobin}, specs(10, weights), 0.001},
		{Balance{Policy: LeastRequest}, specs(10, weights), 0.05},
		{Balance{Policy: Maglev}, specs(10, weights), 0.05},
		{Balance{Policy: RingHash, Points: 1000}, specs(10, weights), 0.12},
	} {
		u := newUpstream(t, Config{Balance: tt.b}, tt.list)
		const n = 100_000
		got := counts(u, n)
		total := 0
		for _, s := range tt.list {
			total += s.Weight
		}
		for _, s := range tt.list {
			want := float64(n) * float64(s.Weight) / float64(total)
			if off := math.Abs(float64(got[s.Address])-want) / want; off > tt.off {
				t.Errorf("%v: %s with weight %d: %d, want %.0f: %.1f %% off", tt.b.Policy, s.Address, s.Weight, got[s.Address], want, off*100)
			}
		}
	}
}

// TestLeastRequestAvoidsTheBusy holds requests: the busy one of two draws loses.
func TestLeastRequestAvoidsTheBusy(t *testing.T) {
	list := specs(2, func(i int) int { return i + 1 })
	u := newUpstream(t, Config{Balance: Balance{Policy: LeastRequest}}, list)
	for range 300 {
		if _, err := u.Acquire(t.Context(), Query{}); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing is ever done, so that in-flight counts have to follow the weights.
	a, b := u.byAddr[list[0].Address].InFlight(), u.byAddr[list[1].Address].InFlight()
	if a+b != 300 || a < 98 || a > 102 {
		t.Errorf("in flight %d and %d with weights 1 and 2, want about 100 and 200", a, b)
	}
}

// TestDisruption states what the consistent policies promise when one of n endpoints
// leaves: its own keys move, with RingHash no others, with Maglev few others.
func TestDisruption(t *testing.T) {
	const keys = 20_000
	for _, tt := range []struct {
		p      Policy
		n      int
		others float64 // of the keys that need not move and do, at most
	}{
		{RingHash, 10, 0}, {RingHash, 100, 0},
		{Maglev, 10, 0.02}, {Maglev, 100, 0.02}, {Maglev, 1000, 0.05},
	} {
		list := specs(tt.n, nil)
		u := newUpstream(t, Config{Balance: Balance{Policy: tt.p}}, list)
		before := make([]string, keys)
		for i := range before {
			before[i] = u.Pick(Query{Hash: Hash(fmt.Sprint("key ", i))}).Address()
		}
		gone := list[tt.n/2].Address
		if err := u.Remove(gone); err != nil {
			t.Fatal(err)
		}
		own, moved := 0, 0
		for i, was := range before {
			now := u.Pick(Query{Hash: Hash(fmt.Sprint("key ", i))}).Address()
			switch {
			case now == gone:
				t.Fatalf("%v: %s is gone and gets keys", tt.p, gone)
			case was == gone:
				own++
			case now != was:
				moved++
			}
		}
		off := float64(moved) / float64(keys-own)
		t.Logf("%v of %d: %d keys of the one that left, %d others moved (%.2f %%)", tt.p, tt.n, own, moved, off*100)
		if off > tt.others {
			t.Errorf("%v of %d: %.2f %% of the others' keys moved, want at most %.0f %%", tt.p, tt.n, off*100, tt.others*100)
		}
	}
}

func TestConsistentIgnoresTheListsOrder(t *testing.T) {
	list := specs(20, func(i int) int { return i%3 + 1 })
	other := make([]Spec, len(list))
	for i, s := range list {
		other[len(list)-1-i] = s
	}
	for _, p := range []Policy{RingHash, Maglev} {
		a := newUpstream(t, Config{Balance: Balance{Policy: p}}, list)
		b := newUpstream(t, Config{Balance: Balance{Policy: p}}, other)
		for i := range 5000 {
			q := Query{Hash: Hash(fmt.Sprint(i))}
			if x, y := a.Pick(q).Address(), b.Pick(q).Address(); x != y {
				t.Fatalf("%v: key %d goes to %s or %s", p, i, x, y)
			}
		}
	}
}

// TestBoundedLoad sends one hot key: no endpoint holds more than its share times the bound.
func TestBoundedLoad(t *testing.T) {
	u := newUpstream(t, Config{Balance: Balance{Policy: RingHash, BoundedLoad: 1.25}}, specs(10, nil))
	for range 400 {
		if _, err := u.Acquire(t.Context(), Query{Hash: 42}); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range u.list {
		if n := e.InFlight(); n > 51 {
			t.Errorf("%s holds %d of 400, want at most 1.25 times 40", e.Address(), n)
		}
	}
}

// TestNoKey: requests without a key are spread, and do not meet at one endpoint.
func TestNoKey(t *testing.T) {
	for _, p := range []Policy{RingHash, Maglev} {
		u := newUpstream(t, Config{Balance: Balance{Policy: p}}, specs(10, nil))
		seen := map[string]int{}
		for range 2000 {
			seen[u.Pick(Query{}).Address()]++
			l, err := u.Acquire(t.Context(), Query{})
			if err != nil {
				t.Fatal(err)
			}
			seen[l.Endpoint().Address()]++
			l.Done(Success)
		}
		if len(seen) != 10 {
			t.Errorf("%v: %d of 10 endpoints got the requests: %v", p, len(seen), seen)
		}
	}
}

// TestPickSkips: an endpoint without room or already tried is passed over by each policy.
func TestPickSkips(t *testing.T) {
	for _, p := range []Policy{RoundRobin, LeastRequest, RingHash, Maglev} {
		u := newUpstream(t, Config{Balance: Balance{Policy: p}, Limits: Limits{InFlight: 1}}, specs(50, nil))
		for i := range 50 {
			l, err := u.Acquire(t.Context(), Query{Hash: 42})
			if err != nil {
				t.Fatalf("%v: %d: %v", p, i, err)
			}
			if n := l.Endpoint().InFlight(); n != 1 {
				t.Fatalf("%v: %d in flight", p, n)
			}
		}
		_, err := u.Acquire(t.Context(), Query{})
		if err == nil || !strings.Contains(err.Error(), "upstream api: limit of requests in flight: 50 of 50 endpoints have 1") {
			t.Errorf("%v: %v", p, err)
		}
		u = newUpstream(t, Config{Balance: Balance{Policy: p}}, specs(3, nil))
		for i := range 100 {
			q := Query{Hash: Hash(fmt.Sprint(i))}
			a := u.Pick(q)
			q.Avoid(a)
			b := u.Pick(q)
			q.Avoid(b)
			c := u.Pick(q)
			if a == b || b == c || a == c || c == nil {
				t.Fatalf("%v: %v, %v, %v", p, a, b, c)
			}
		}
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	for _, p := range []Policy{RoundRobin, LeastRequest, RingHash, Maglev} {
		for _, n := range []int{3, 1000} {
			u := newUpstream(t, Config{Balance: Balance{Policy: p}, Breaker: BreakerConfig{ConsecutiveFailures: 5}, Outlier: OutlierConfig{ConsecutiveFailures: 5}}, specs(n, nil))
			ctx, k := t.Context(), uint64(0)
			if a := testing.AllocsPerRun(1000, func() {
				k++
				l, err := u.Acquire(ctx, Query{Hash: mix(k)})
				if err != nil {
					t.Fatal(err)
				}
				l.Done(Success)
			}); a != 0 {
				t.Errorf("%v of %d: %v allocations a request", p, n, a)
			}
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, p := range []Policy{RoundRobin, LeastRequest, RingHash, Maglev} {
		for _, n := range []int{3, 1000} {
			b.Run(fmt.Sprintf("%v/%d", p, n), func(b *testing.B) {
				u := newUpstream(b, Config{Balance: Balance{Policy: p}, Rand: rand.Uint64}, specs(n, nil))
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					k := rand.Uint64()
					for pb.Next() {
						k++
						u.Pick(Query{Hash: mix(k)})
					}
				})
			})
		}
	}
}

func BenchmarkAcquireDone(b *testing.B) {
	u := newUpstream(b, Config{Breaker: BreakerConfig{ConsecutiveFailures: 5, ErrorPercent: 50}, Rand: rand.Uint64}, specs(3, nil))
	b.ReportAllocs()
	for b.Loop() {
		l, err := u.Acquire(b.Context(), Query{})
		if err != nil {
			b.Fatal(err)
		}
		l.Done(Success)
	}
}
