package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestHealthMachine(t *testing.T) {
	c := HealthConfig{Rise: 2, Fall: 3}
	ill := errors.New("ill")
	for _, tt := range []struct {
		results string // + and -
		want    string // the state after each: u, h, x
	}{
		{"+--+---", "hhhhhhx"},
		{"-+", "xx"},
		{"-++", "xxh"},
		{"-+-++", "xxxxh"},
		{"+---++", "hhhxxh"},
	} {
		var h health
		for i, r := range tt.results {
			err := ill
			if r == '+' {
				err = nil
			}
			h.observe(&c, err, time.Unix(int64(i), 0))
			if got := "uhx"[h.state]; got != tt.want[i] {
				t.Errorf("%s: %c after %d, want %c", tt.results, got, i+1, tt.want[i])
			}
		}
	}
}

func TestIntervalJitter(t *testing.T) {
	c := HealthConfig{Interval: 10 * time.Second, FailInterval: time.Second, JitterPercent: 10}
	r := seeded(3)
	lo, hi := time.Hour, time.Duration(0)
	for range 1000 {
		d := c.interval(false, r())
		lo, hi = min(lo, d), max(hi, d)
		if f := c.interval(true, r()); f < 900*time.Millisecond || f > 1100*time.Millisecond {
			t.Fatalf("%v while failing", f)
		}
	}
	if lo < 9*time.Second || lo > 9100*time.Millisecond || hi > 11*time.Second || hi < 10900*time.Millisecond {
		t.Errorf("%v to %v, want the whole of 9 s to 11 s", lo, hi)
	}
}

// simulated endpoints answer checks as a test wants.
type simulated struct {
	mu     sync.Mutex
	ill    map[string]bool
	at     map[string][]time.Time
	now    int
	most   int
	checks time.Duration // how long one takes
}

func newSimulated() *simulated {
	return &simulated{ill: map[string]bool{}, at: map[string][]time.Time{}}
}

func (s *simulated) set(ill bool, addresses ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range addresses {
		s.ill[a] = ill
	}
}

func (s *simulated) Check(ctx context.Context, a string) error {
	s.mu.Lock()
	s.at[a] = append(s.at[a], time.Now())
	s.now++
	s.most = max(s.most, s.now)
	ill := s.ill[a]
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.now--; s.mu.Unlock() }()
	select {
	case <-time.After(s.checks):
	case <-ctx.Done():
		return ctx.Err()
	}
	if ill {
		return errors.New("connection refused")
	}
	return nil
}

// running runs u until the test, in a bubble, ends; a goroutine left over fails the bubble.
func running(t *testing.T, u *Upstream) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	synctest.Wait() // it runs
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestChecksAreScheduled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := newSimulated()
		sim.checks = 10 * time.Millisecond
		list := specs(40, nil)
		u := newUpstream(t, Config{Health: HealthConfig{Checker: sim, Interval: 4 * time.Second, FailInterval: time.Second, Timeout: time.Second, Concurrency: 2, Rise: 2, Fall: 2}}, list)
		stop := running(t, u)
		defer stop()
		if err := u.Run(t.Context()); err == nil {
			t.Error("it ran twice")
		}
		time.Sleep(1500 * time.Millisecond)
		for _, e := range u.Snapshot().Endpoints {
			if e.Health != "healthy" || e.Checks != 1 {
				t.Fatalf("%+v after the first round", e)
			}
		}
		ill := list[7].Address
		sim.set(true, ill)
		time.Sleep(6 * time.Second) // at most 4.4 to the first failure, 1.1 to the second
		if e := u.at(t, ill); e.Health != "unhealthy" || e.LastError != "connection refused" || e.Takes {
			t.Errorf("%+v", e)
		}
		if counts(u, 1000)[ill] != 0 {
			t.Error("the ill one is chosen")
		}
		sim.set(false, ill)
		time.Sleep(2300 * time.Millisecond)
		if e := u.at(t, ill); e.Health != "healthy" {
			t.Errorf("%+v", e)
		}
		if sim.most > 2 {
			t.Errorf("%d checks at once, want at most 2", sim.most)
		}
		// One that is gone is asked no more, one that is new is.
		if err := u.Remove(ill); err != nil {
			t.Fatal(err)
		}
		if err := u.Add(Spec{Address: "new:1"}); err != nil {
			t.Fatal(err)
		}
		if err := u.Disable(list[0].Address); err != nil {
			t.Fatal(err)
		}
		sim.mu.Lock()
		n, m := len(sim.at[ill]), len(sim.at[list[0].Address])
		sim.mu.Unlock()
		time.Sleep(20 * time.Second)
		sim.mu.Lock()
		defer sim.mu.Unlock()
		if len(sim.at[ill]) != n || len(sim.at[list[0].Address]) != m || len(sim.at["new:1"]) < 4 {
			t.Errorf("checks: %d of the removed, %d of the disabled, %d of the new", len(sim.at[ill])-n, len(sim.at[list[0].Address])-m, len(sim.at["new:1"]))
		}
	})
}

func TestCheckTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := newSimulated()
		sim.checks = time.Hour
		u := newUpstream(t, Config{Health: HealthConfig{Checker: sim, Timeout: 500 * time.Millisecond}}, specs(1, nil))
		stop := running(t, u)
		time.Sleep(4 * time.Second)
		if e := u.at(t, "198.18.0.1:80"); e.Health != "unhealthy" || e.LastError != "no answer within 500ms" {
			t.Errorf("%+v", e)
		}
		stop() // a check may be in flight: the bubble fails if it outlives this
	})
}

func TestOutlierConsecutive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list := specs(10, nil)
		u := newUpstream(t, Config{SlowStart: 0, Outlier: OutlierConfig{ConsecutiveFailures: 3, EjectTime: 10 * time.Second, MaxEjectTime: 25 * time.Second, MaxEjectPercent: 20}}, list)
		stop := running(t, u)
		defer stop()
		bad := map[string]bool{list[0].Address: true}
		send := func() {
			for range 60 {
				l := mustAcquire(t, u)
				o := Success
				if bad[l.Endpoint().Address()] {
					o = Failure
				}
				l.Done(o)
			}
		}
		for i, want := range []time.Duration{10 * time.Second, 20 * time.Second, 25 * time.Second} {
			send()
			if e := u.at(t, list[0].Address); e.EjectedFor != want || e.Takes || e.Failures != uint64(3*(i+1)) {
				t.Fatalf("ejection %d: %+v, want %v", i+1, e, want)
			}
			time.Sleep(want - time.Millisecond)
			if u.at(t, list[0].Address).Takes {
				t.Fatal("back too early")
			}
			time.Sleep(2 * time.Millisecond)
			if !u.at(t, list[0].Address).Takes {
				t.Fatal("not back")
			}
		}
		for _, s := range list {
			bad[s.Address] = true
		}
		send()
		out := 0
		for _, e := range u.Snapshot().Endpoints {
			if e.EjectedFor > 0 {
				out++
			}
		}
		if s := u.Snapshot(); out != 2 || s.EjectionsSpare == 0 {
			t.Errorf("%d of 10 ejected, want 20 %%; spared %d", out, s.EjectionsSpare)
		}
	})
}

func TestOutlierRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list := specs(10, nil)
		u := newUpstream(t, Config{Outlier: OutlierConfig{StdevFactor: 1.9, MinRequests: 50, Interval: 5 * time.Second}}, list)
		stop := running(t, u)
		defer stop()
		r := seeded(5)
		for range 1000 {
			l := mustAcquire(t, u)
			switch a := l.Endpoint().Address(); {
			case a == list[3].Address && r()%2 == 0, r()%50 == 1:
				l.Done(Failure)
			default:
				l.Done(Success)
			}
		}
		time.Sleep(5*time.Second + time.Millisecond)
		for i, s := range list {
			if e := u.at(t, s.Address); (e.EjectedFor > 0) != (i == 3) {
				t.Errorf("endpoint %d: %d failures of %d, ejected for %v", i, e.Failures, e.Requests, e.EjectedFor)
			}
		}
	})
}

func TestCheckersOverLoopback(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			_, _ = w.Write([]byte("all is well at " + r.Host))
		case "/moved":
			http.Redirect(w, r, "/ok", http.StatusFound)
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	addr := s.Listener.Addr().String()
	dial := new(net.Dialer).DialContext
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := ln.Addr().String()
	ln.Close()
	for _, tt := range []struct {
		c    Checker
		addr string
		want string
	}{
		{&TCPChecker{dial}, addr, ""},
		{&TCPChecker{dial}, gone, "refused"},
		{&HTTPChecker{Dial: dial, Path: "/ok"}, addr, ""},
		{&HTTPChecker{Dial: dial, Path: "/ok", Host: "api.example", Body: "well at api.example"}, addr, ""},
		{&HTTPChecker{Dial: dial, Path: "/ok", Body: "ill"}, addr, `body without "ill"`},
		{&HTTPChecker{Dial: dial, Path: "/ok", Body: "well", MaxBody: 4}, addr, `in its first 4 bytes`},
		{&HTTPChecker{Dial: dial}, addr, "status 503: expected 200 to 299"},
		{&HTTPChecker{Dial: dial, StatusMin: 503}, addr, ""},
		{&HTTPChecker{Dial: dial, Path: "/moved"}, addr, "status 302"},
		{&HTTPChecker{Dial: dial, Path: "/ok"}, gone, "refused"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := tt.c.Check(ctx, tt.addr)
		cancel()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%+v: %v, want %q", tt.c, err, tt.want)
		}
	}
}
