package limit

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

var epoch = time.Unix(1_700_000_000, 0)

func clock(at *time.Time) func() time.Time { return func() time.Time { return *at } }

func newRate(t testing.TB, cfg RateConfig) *Rate {
	t.Helper()
	if cfg.Now == nil {
		cfg.Now = func() time.Time { return epoch }
	}
	if cfg.Name == "" {
		cfg.Name = "test"
	}
	r, err := NewRate(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustKey(t testing.TB, s string) Key {
	t.Helper()
	k, err := ParseKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestRateAgainstModel compares with a bucket that counts tokens as they come.
func TestRateAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		requests, burst := 1+rng.IntN(1000), 1+rng.IntN(50)
		keyed := seed%2 == 0
		cfg := RateConfig{Requests: requests, Burst: burst, Per: time.Second}
		if keyed {
			cfg.Keys = []Key{mustKey(t, "client")}
		}
		r := newRate(t, cfg)
		tokens, now := float64(burst), epoch
		for range 5000 {
			dt := time.Duration(rng.ExpFloat64() * float64(time.Second) / float64(requests))
			now = now.Add(dt)
			tokens = min(tokens+dt.Seconds()*float64(requests), float64(burst))
			n := 1 + rng.IntN(2)
			d := r.Allow(7, n, now)
			if near := tokens - float64(n); d.OK != (near >= 0) && (near < -1e-3 || near > 1e-3) {
				t.Fatalf("seed %d: %v with %.4f tokens for %d", seed, d, tokens, n)
			}
			if d.OK {
				tokens -= float64(n)
				if diff := float64(d.Remaining) - tokens; diff > 1e-3 || diff < -1.001 {
					t.Fatalf("seed %d: %d remaining, expected %.3f", seed, d.Remaining, tokens)
				}
			} else if n <= burst {
				want := (float64(n) - tokens) / float64(requests)
				if diff := d.RetryAfter.Seconds() - want; diff > 1e-4 || diff < -1e-4 {
					t.Fatalf("seed %d: retry after %s, expected %.6f s", seed, d.RetryAfter, want)
				}
			}
		}
	}
}

func TestRateRetryAfterIsEnough(t *testing.T) {
	for _, requests := range []int{1, 3, 7, 1000, 999_983, 1_000_000_000} {
		r := newRate(t, RateConfig{Requests: requests, Burst: 2})
		now := epoch.Add(12345)
		r.Allow(0, 2, now)
		d := r.Allow(0, 1, now)
		if d.OK || d.RetryAfter <= 0 {
			t.Fatalf("%d: %+v", requests, d)
		}
		if d := r.Allow(0, 1, now.Add(d.RetryAfter)); !d.OK {
			t.Errorf("%d: refused at the time it told: %+v", requests, d)
		}
	}
}

// TestHostileKeys fills the table with keys: memory stays, and whoever is in debt most stays in debt.
func TestHostileKeys(t *testing.T) {
	r := newRate(t, RateConfig{Requests: 10, Keys: []Key{mustKey(t, "client")}, MaxKeys: 1024})
	size := len(r.keyed.sets)
	const heavy = 0x1234567890
	for range 10 {
		r.Allow(heavy, 1, epoch)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		r.Allow(rng.Uint64()|1<<63, 1, epoch)
	}
	if d := r.Allow(heavy, 1, epoch); d.OK {
		t.Error("a flood of keys gave a spent bucket its burst again")
	}
	s := r.Stats()
	if len(r.keyed.sets) != size || s.Keys > s.MaxKeys || s.Evicted < 190_000 {
		t.Errorf("%+v, %d sets, began with %d", s, len(r.keyed.sets), size)
	}
	// full buckets go first, and nobody calls that an eviction
	later := epoch.Add(time.Hour)
	for range 1000 {
		r.Allow(rng.Uint64()|1<<63, 1, later)
		later = later.Add(time.Second)
	}
	if got := r.Stats().Evicted; got != s.Evicted {
		t.Errorf("%d buckets were evicted though others were full", got-s.Evicted)
	}
}

func TestRateConcurrent(t *testing.T) {
	for _, keys := range [][]Key{nil, {mustKey(t, "client")}} {
		r := newRate(t, RateConfig{Requests: 1000, Burst: 1000, Keys: keys})
		var ok atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 1000 {
					if r.Allow(5, 1, epoch).OK {
						ok.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if ok.Load() != 1000 {
			t.Errorf("%d of 1000 tokens were given out", ok.Load())
		}
		r.Refund(5, 3)
		for n := range 4 {
			if d := r.Allow(5, 1, epoch); d.OK != (n < 3) {
				t.Errorf("request %d after three were given back: %+v", n, d)
			}
		}
	}
}

func TestRateConfig(t *testing.T) {
	for name, one := range map[string]struct {
		cfg  RateConfig
		want string
	}{
		"no requests": {RateConfig{Name: "a"}, "positive"},
		"name":        {RateConfig{Name: "a b", Requests: 1}, "name"},
		"too fast":    {RateConfig{Name: "a", Requests: 2, Per: time.Nanosecond}, "1000000000 a second"},
		"too slow":    {RateConfig{Name: "a", Requests: 1, Burst: 1000, Per: 1000 * time.Hour}, "a year"},
		"keys":        {RateConfig{Name: "a", Requests: 1, MaxKeys: MaxKeys + 1}, "keys"},
	} {
		if _, err := NewRate(one.cfg); err == nil || !strings.Contains(err.Error(), one.want) {
			t.Errorf("%s: got %v, expected %q", name, err, one.want)
		}
	}
}

func request(x *exchange.Exchange, method, target string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	return r.WithContext(exchange.With(r.Context(), x))
}

func TestKeys(t *testing.T) {
	base := func() (*http.Request, *exchange.Exchange) {
		x := &exchange.Exchange{Client: netip.MustParseAddrPort("[2001:db8:1:2:3::4]:5"), Listener: "l", Route: "r", Vars: []exchange.Var{{Name: "id", Value: "7"}},
			Identity: &exchange.Identity{Provider: "jwt", Subject: "s", Claims: map[string]any{"org": map[string]any{"id": "o"}}}}
		r := request(x, "GET", "http://h/")
		r.Header.Set("X-Key", "k")
		r.AddCookie(&http.Cookie{Name: "c", Value: "v"})
		return r, x
	}
	for key, change := range map[string]func(*http.Request, *exchange.Exchange){
		"client":       func(_ *http.Request, x *exchange.Exchange) { x.Client = netip.MustParseAddrPort("[2001:db8:1:3::]:5") },
		"subject":      func(_ *http.Request, x *exchange.Exchange) { x.Identity.Provider = "other" },
		"header:x-key": func(r *http.Request, _ *exchange.Exchange) { r.Header.Del("X-Key") },
		"cookie:c":     func(r *http.Request, _ *exchange.Exchange) { r.Header.Set("Cookie", "c=w") },
		"claim:org.id": func(_ *http.Request, x *exchange.Exchange) { x.Identity = nil },
		"var:id":       func(_ *http.Request, x *exchange.Exchange) { x.Vars[0].Value = "8" },
		"host":         func(r *http.Request, _ *exchange.Exchange) { r.Host = "other" },
		"method":       func(r *http.Request, _ *exchange.Exchange) { r.Method = "PUT" },
		"listener":     func(_ *http.Request, x *exchange.Exchange) { x.Listener = "m" },
		"route":        func(_ *http.Request, x *exchange.Exchange) { x.Route = "s" },
	} {
		k := mustKey(t, key)
		if !strings.EqualFold(k.String(), key) {
			t.Errorf("%s is written %s", key, k)
		}
		l := newRate(t, RateConfig{Requests: 1, Keys: []Key{k}})
		r, x := base()
		before := l.Key(r, x)
		x.Client = netip.AddrPortFrom(netip.MustParseAddr("2001:db8:1:2:ffff::"), 9) // same /64, other port
		if l.Key(r, x) != before {
			t.Errorf("%s: another address of the /64 has another bucket", key)
		}
		change(r, x)
		if l.Key(r, x) == before {
			t.Errorf("%s: another value has the same bucket", key)
		}
	}
	hosts := newRate(t, RateConfig{Requests: 1, Keys: []Key{mustKey(t, "host")}})
	for host, like := range map[string]string{"A.Example": "a.example", "a.example:8080": "a.example", "a.example.": "a.example", "A.example.:1": "a.example", "[2001:db8::1]:80": "[2001:db8::1]"} {
		r, x := base()
		r.Host = like
		want := hosts.Key(r, x)
		if r.Host = host; hosts.Key(r, x) != want {
			t.Errorf("%s has another bucket than %s", host, like)
		}
	}
	for _, bad := range []string{"", "header", "header:", "client:x", "claim:", "who", "header:a b"} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("%q is taken for a key", bad)
		}
	}
	v4, mapped := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("[::ffff:192.0.2.1]:1")
	l := newRate(t, RateConfig{Requests: 1, Keys: []Key{mustKey(t, "client")}})
	r, x := base()
	x.Client = v4
	before := l.Key(r, x)
	if x.Client = mapped; l.Key(r, x) != before {
		t.Error("an IPv4 address written as IPv6 has another bucket")
	}
}

func TestRateStage(t *testing.T) {
	now := epoch
	wide := newRate(t, RateConfig{Name: "wide", Requests: 10, Per: time.Minute, Now: clock(&now)})
	tight := newRate(t, RateConfig{Name: "tight", Requests: 2, Per: time.Second, Keys: []Key{mustKey(t, "header:X-Who")}, Now: clock(&now)})
	stage, err := RateStage(wide, tight)
	if err != nil {
		t.Fatal(err)
	}
	h := stage(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
	ask := func(who string) *httptest.ResponseRecorder {
		r := request(&exchange.Exchange{}, "GET", "/")
		r.Header.Set("X-Who", who)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	w := ask("a")
	if got := strings.Join(w.Header()["Ratelimit"], ", "); w.Code != 204 || got != `"wide";r=9;t=6, "tight";r=1;t=1` {
		t.Fatalf("%d %s %v", w.Code, got, w.Header())
	}
	if got := strings.Join(w.Header()["Ratelimit-Policy"], ", "); got != `"wide";q=10;w=60, "tight";q=2;w=1` {
		t.Fatal(got)
	}
	ask("a")
	w = ask("a")
	if w.Code != 429 || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "tight") {
		t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if s := wide.Stats(); s.Allowed != 2 || s.Limited != 0 {
		t.Errorf("the wide limit was not given back its token: %+v", s)
	}
	if w = ask("b"); w.Code != 204 {
		t.Errorf("another key is refused: %d", w.Code)
	}
	now = now.Add(500 * time.Millisecond)
	if w = ask("a"); w.Code != 204 {
		t.Errorf("refused though a token came: %d", w.Code)
	}
}

func TestRateStageKinds(t *testing.T) {
	legacy := newRate(t, RateConfig{Name: "x", Requests: 1, Fields: FieldsLegacy})
	loose := newRate(t, RateConfig{Name: "y", Requests: 5, Fields: FieldsLegacy})
	dry := newRate(t, RateConfig{Name: "dry", Requests: 1, DryRun: true})
	stage, _ := RateStage(dry, legacy, loose)
	h := stage(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
	var last *httptest.ResponseRecorder
	for n, code := range []int{200, 429, 429} {
		last = httptest.NewRecorder()
		h.ServeHTTP(last, request(&exchange.Exchange{}, "GET", "/"))
		if last.Code != code || last.Header().Get("X-Ratelimit-Limit") != "1" || last.Header().Get("X-Ratelimit-Remaining") != "0" || last.Header().Get("Ratelimit") != "" {
			t.Errorf("request %d: %d %v", n, last.Code, last.Header())
		}
	}
	if s := dry.Stats(); s.Limited == 0 {
		t.Errorf("a dry run counts nothing: %+v", s)
	}
	if _, err := RateStage(make([]*Rate, 9)...); err == nil {
		t.Error("nine limits are taken")
	}
}

func TestAllowAllocatesNothing(t *testing.T) {
	l := newRate(t, RateConfig{Requests: 1e6, Keys: []Key{mustKey(t, "client"), mustKey(t, "header:X-Key"), mustKey(t, "subject")}})
	x := &exchange.Exchange{Client: netip.MustParseAddrPort("[2001:db8::1]:5"), Identity: &exchange.Identity{Subject: "s"}}
	r := request(x, "GET", "/")
	r.Header.Set("X-Key", "k")
	if n := testing.AllocsPerRun(1000, func() { l.Allow(l.Key(r, x), 1, epoch) }); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

func BenchmarkRate(b *testing.B) {
	x := &exchange.Exchange{}
	for _, one := range []struct {
		name string
		keys []Key
		many int
	}{{"one bucket", nil, 1}, {"one key", []Key{mustKey(b, "client")}, 1}, {"10000 keys", []Key{mustKey(b, "client")}, 10000}} {
		b.Run(one.name, func(b *testing.B) {
			l := newRate(b, RateConfig{Requests: 1e9, Keys: one.keys, Now: time.Now})
			var next atomic.Uint32
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				n := next.Add(1)
				x := *x
				for pb.Next() {
					n = n*1664525 + 1013904223
					x.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n % uint32(one.many) >> 8), byte(n % uint32(one.many))}), 1)
					l.Allow(l.Key(nil, &x), 1, l.cfg.Now())
				}
			})
		})
	}
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"client", "header:X", "claim:a.b", "var:", "cookie:a=b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseKey(s)
		if err != nil {
			return
		}
		again, err := ParseKey(k.String())
		if err != nil || again != k {
			t.Errorf("%q is %v, and that is %v, %v", s, k, again, err)
		}
	})
}
