package limit

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// backend serves `serves` requests at a time in `base`; more of them share it.
type backend struct {
	base   time.Duration
	serves int
}

func (b backend) latency(inFlight int64) time.Duration {
	return time.Duration(float64(b.base) * max(1, float64(inFlight)/float64(b.serves)))
}

// drive offers `offered` requests at a time for a window and returns how many got in.
func drive(s *Shedder, now *time.Time, b backend, offered int, class Class) int {
	in := 0
	for range offered {
		if s.Enter(class) {
			in++
		}
	}
	*now = now.Add(s.cfg.Window)
	for n := in; n > 0; n-- {
		s.Leave(b.latency(int64(in)), *now)
	}
	return in
}

func TestShedderConverges(t *testing.T) {
	now := epoch
	s, err := NewShedder(ShedderConfig{Name: "s", Now: clock(&now), Samples: 1, Min: 4})
	if err != nil {
		t.Fatal(err)
	}
	b := backend{10 * time.Millisecond, 40}
	for range 5 {
		drive(s, &now, b, 10, Critical)
	}
	if got := s.Stats(); got.Limit != 64 {
		t.Errorf("the limit moved to %d without need", got.Limit)
	}
	sum, n := 0, 0
	for i := range 300 {
		in := drive(s, &now, b, 1000, Critical)
		if i >= 100 {
			sum, n = sum+in, n+1
		}
	}
	// tolerance 2: about twice of what it serves at once
	if mean := sum / n; mean < 50 || mean > 110 {
		t.Errorf("%d at a time in the mean, expected about 80: %+v", mean, s.Stats())
	}
	// the backend gets slow: the limit follows at once
	slow := backend{40 * time.Millisecond, 10}
	for range 20 {
		drive(s, &now, slow, 1000, Critical)
	}
	if got := s.Stats().Limit; got > 30 {
		t.Errorf("limit %d over a slow backend", got)
	}
	// and it comes back
	for range 60 {
		drive(s, &now, b, 1000, Critical)
	}
	if got := s.Stats().Limit; got < 50 {
		t.Errorf("limit %d after the backend is well again", got)
	}
}

func TestShedderTarget(t *testing.T) {
	now := epoch
	s, err := NewShedder(ShedderConfig{Name: "s", Now: clock(&now), Samples: 1, Target: 25 * time.Millisecond, Max: 200})
	if err != nil {
		t.Fatal(err)
	}
	b := backend{10 * time.Millisecond, 20}
	var last int
	for range 100 {
		last = drive(s, &now, b, 500, Critical)
	}
	if last < 30 || last > 65 {
		t.Errorf("%d at a time, expected about 50", last)
	}
	for range 100 {
		last = drive(s, &now, backend{time.Millisecond, 1000}, 500, Critical)
	}
	if last != 200 {
		t.Errorf("%d at a time, expected the maximum of 200", last)
	}
}

func TestShedderClasses(t *testing.T) {
	now := epoch
	s, err := NewShedder(ShedderConfig{Name: "s", Now: clock(&now), Initial: 100})
	if err != nil {
		t.Fatal(err)
	}
	want := map[Class]int{Low: 50, Normal: 25, High: 15, Critical: 10}
	for c := Low; c <= Critical; c++ {
		in := 0
		for range 200 {
			if s.Enter(c) {
				in++
			}
		}
		if in != want[c] {
			t.Errorf("%s: %d got in, expected %d", c, in, want[c])
		}
	}
	if got := s.Stats(); got.Waiting != 100 || got.Shed[Low] != 150 || got.Admitted[Critical] != 10 {
		t.Errorf("%+v", got)
	}
	for range 100 {
		s.Leave(0, now)
	}
	if got := s.Stats(); got.Waiting != 0 {
		t.Errorf("%+v", got)
	}
}

// TestShedderLastOne: however small the limit, one request at a time gets through.
func TestShedderLastOne(t *testing.T) {
	s, err := NewShedder(ShedderConfig{Name: "s", Min: 1, Initial: 1, Max: 1})
	if err != nil {
		t.Fatal(err)
	}
	if !s.Enter(Low) || s.Enter(Critical) {
		t.Error("expected one and no more")
	}
}

func TestBuckets(t *testing.T) {
	last := 0
	for d := time.Microsecond; d < time.Hour; d += d/16 + 1 {
		i := bucketOf(d)
		if i < last || i >= buckets {
			t.Fatalf("%s is in bucket %d, the one before was %d", d, i, last)
		}
		if end := bucketEnd(i); d >= 8*time.Microsecond && (end < d-time.Microsecond || float64(end) > 1.13*float64(d)+2000) {
			t.Fatalf("%s is in a bucket until %s", d, end)
		}
		last = i
	}
	if bucketOf(0) != 0 || bucketOf(1<<62) != buckets-1 {
		t.Error("the ends are not where they should be")
	}
}

func TestShedderStage(t *testing.T) {
	now := epoch
	s, err := NewShedder(ShedderConfig{Name: "s", Now: clock(&now), Initial: 4, Min: 1, Samples: 1})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s.Enter(Critical)
	}
	h := s.Stage(Priority{Class: Low, Header: "x-priority"})(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if got := s.Stats().Waiting; got != 3 {
			t.Errorf("%d wait, expected 3", got)
		}
		now = now.Add(5 * time.Millisecond)
		w.WriteHeader(http.StatusEarlyHints)
		if got := s.Stats().Waiting; got != 3 {
			t.Errorf("%d wait after an interim answer, expected 3", got)
		}
		w.WriteHeader(200)
		if got := s.Stats().Waiting; got != 2 {
			t.Errorf("%d wait after the head, expected 2", got)
		}
		w.(http.Flusher).Flush()
	}))
	w := httptest.NewRecorder()
	x := &exchange.Exchange{}
	r := request(x, "GET", "/")
	h.ServeHTTP(w, r)
	if w.Code != 503 || x.Reason != exchange.Overloaded || w.Header().Get("Retry-After") == "" {
		t.Errorf("low: %d %s", w.Code, x.Reason)
	}
	r.Header.Set("X-Priority", "Critical")
	x.Reason = exchange.None
	w = httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code == 503 || !w.Flushed { // a recorder keeps the interim status
		t.Errorf("critical: %d", w.Code)
	}
	if s.count.Load() != 1 {
		t.Errorf("%d latencies, expected 1", s.count.Load())
	}
	// a client that broke off says nothing of latency
	ctx, cancel := context.WithCancel(exchange.With(t.Context(), x))
	gone := s.Stage(Priority{Class: Critical})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { cancel() }))
	gone.ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx))
	if s.count.Load() != 1 || s.Stats().Waiting != 2 {
		t.Errorf("%d latencies, %+v", s.count.Load(), s.Stats())
	}
}

// TestShedderIgnoresQuickFailures: neither refusals by stages behind it, which anybody can
// send for, nor failures of a backend that is down make the lowest latency.
func TestShedderIgnoresQuickFailures(t *testing.T) {
	now := epoch
	s, err := NewShedder(ShedderConfig{Name: "s", Now: clock(&now), Samples: 1, Initial: 64, Min: 8})
	if err != nil {
		t.Fatal(err)
	}
	var took time.Duration
	var status, tries int
	var why exchange.Reason
	h := s.Stage(Priority{Class: Critical})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := exchange.From(r.Context())
		x.Tries = tries
		x.Fail(why)
		now = now.Add(took)
		w.WriteHeader(status)
	}))
	ask := func(n int, d time.Duration, code, sent int, reason exchange.Reason) {
		took, status, tries, why = d, code, sent, reason
		for range n {
			h.ServeHTTP(httptest.NewRecorder(), request(&exchange.Exchange{}, "GET", "/"))
		}
		now = now.Add(time.Second)
	}
	for range 10 {
		ask(50, 100*time.Microsecond, 401, 0, exchange.Unauthenticated)
		ask(50, 200*time.Microsecond, 502, 1, exchange.ConnectFailed)
		ask(50, 200*time.Microsecond, 503, 1, exchange.None)
	}
	if got := s.Stats(); got.Baseline != 0 || got.Limit != 64 {
		t.Errorf("failures alone: %+v", got)
	}
	for range 10 {
		ask(5, 100*time.Millisecond, 200, 1, exchange.None)
		ask(50, 100*time.Microsecond, 401, 0, exchange.Unauthenticated)
		ask(50, 200*time.Microsecond, 503, 1, exchange.None)
	}
	if got := s.Stats(); got.Baseline < 90*time.Millisecond || got.Limit < 64 {
		t.Errorf("among good answers: %+v", got)
	}
	// what fails slowly, or is given up, is load all the same
	for range 5 {
		ask(20, time.Second, 503, 1, exchange.None)
		ask(20, 2*time.Second, 504, 1, exchange.UpstreamTimeout)
	}
	if got := s.Stats(); got.Limit > 8 {
		t.Errorf("slow failures: %+v", got)
	}
}

func TestPriorityFrom(t *testing.T) {
	p := Priority{Class: Normal, Header: "X-Priority", From: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/24")}}
	for client, want := range map[string]Class{"198.18.0.1:1": Critical, "[::ffff:198.18.0.1]:1": Critical, "198.18.1.1:1": Normal} {
		r := request(&exchange.Exchange{Client: netip.MustParseAddrPort(client)}, "GET", "/")
		r.Header.Set("X-Priority", "critical")
		if got := p.of(r); got != want {
			t.Errorf("%s: %s", client, got)
		}
		r.Header.Set("X-Priority", "very")
		if got := p.of(r); got != Normal {
			t.Errorf("%s with a word that is none: %s", client, got)
		}
	}
}

func TestShedderConfig(t *testing.T) {
	for name, one := range map[string]struct {
		cfg  ShedderConfig
		want string
	}{
		"name":       {ShedderConfig{}, "name"},
		"order":      {ShedderConfig{Name: "a", Min: 10, Max: 5}, "in this order"},
		"percentile": {ShedderConfig{Name: "a", Percentile: 100}, "percentile"},
		"tolerance":  {ShedderConfig{Name: "a", Tolerance: 1}, "tolerance"},
		"target":     {ShedderConfig{Name: "a", Target: -1}, "target"},
		"samples":    {ShedderConfig{Name: "a", Samples: -1}, "samples"},
	} {
		if _, err := NewShedder(one.cfg); err == nil || !strings.Contains(err.Error(), one.want) {
			t.Errorf("%s: got %v, expected %q", name, err, one.want)
		}
	}
	for c := Low; c <= Critical; c++ {
		if got, err := ParseClass(c.String()); err != nil || got != c {
			t.Errorf("%s: %v, %v", c, got, err)
		}
	}
	if _, err := ParseClass("urgent"); err == nil {
		t.Error("an unknown class is taken")
	}
}

func BenchmarkShedder(b *testing.B) {
	s, err := NewShedder(ShedderConfig{Name: "s", Initial: 65536})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		now := time.Now()
		for pb.Next() {
			if s.Enter(Normal) {
				s.Leave(time.Millisecond, now)
			}
		}
	})
}
