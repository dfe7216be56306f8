package loadgen

import (
	"context"
	"crypto/rand"
	"errors"
	"math"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/client/clienttest"
	"github.com/np-appliance/np/ctrl/handshake"
)

func options(t testing.TB, change func(*clienttest.Server)) (Options, *clienttest.Server) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if runtime.NumGoroutine() <= before {
				return
			}
		}
		t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
	})
	srv, pub, err := clienttest.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(srv)
	}
	addr, err := srv.Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	key, err := handshake.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Client: client.Config{Address: addr, Static: key, Remote: &pub, ReconnectDelay: 5 * time.Millisecond},
		Connections: 1, Depth: 1, Size: 64, Opcode: "ECHO", Verify: true}, srv
}

func TestClosedLoopByRequests(t *testing.T) {
	o, _ := options(t, nil)
	o.Connections, o.Depth, o.Size, o.Requests = 3, 4, 100, 2000
	res, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if res.Messages != 2000 || res.ErrorCount() != 0 || len(res.Info) != 3 || res.Latency.TotalCount() != 2000 || res.Interrupted {
		t.Errorf("%+v", res)
	}
	if res.TxPayload != 200_000 || res.RxPayload != 200_000 || res.TxBytes < 200_000+2000*37 || res.RxBytes < 200_000+2000*33 {
		t.Errorf("bytes: %+v", res)
	}
	if res.Latency.ValueAtQuantile(50) <= 0 || res.Elapsed <= 0 || res.PerSecond() <= 0 {
		t.Errorf("median %d ns in %v", res.Latency.ValueAtQuantile(50), res.Elapsed)
	}
}

func TestClosedLoopByTime(t *testing.T) {
	o, _ := options(t, nil)
	o.Depth, o.Warmup, o.Duration, o.Size = 8, 100*time.Millisecond, 200*time.Millisecond, 0
	res, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if res.Elapsed != 200*time.Millisecond {
		t.Errorf("elapsed %v", res.Elapsed)
	}
	if res.Messages < 1 || res.ErrorCount() != 0 || res.RxPayload != 0 {
		t.Errorf("%+v", res)
	}
}

// TestOpenLoopRate: by time there are never more requests than the rate allows, and by
// number none of them leaves before its time. How many leave late is the machine's matter.
func TestOpenLoopRate(t *testing.T) {
	o, _ := options(t, nil)
	o.Connections, o.Depth, o.Rate, o.Duration, o.Drain = 4, 64, 2000, 500*time.Millisecond, time.Minute
	res, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if n := res.Latency.TotalCount(); n < 1 || n > 1000 || res.Messages > n || res.ErrorCount() != 0 {
		t.Errorf("%d messages of %d in half a second at 2000/s: %v", res.Messages, n, res.Errors)
	}
	o.Duration, o.Requests = 0, 1000
	if res, err = Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if res.Messages != 1000 || res.Elapsed < 498*time.Millisecond || res.ErrorCount() != 0 { // the last but three are due at 498 ms
		t.Errorf("%d messages within %v at 2000/s: %v", res.Messages, res.Elapsed, res.Errors)
	}
}

// A server that stalls once cannot hide it: everything that should have left
// meanwhile counts its wait.
func TestOpenLoopSeesAStall(t *testing.T) {
	var stalled atomic.Bool
	o, _ := options(t, func(s *clienttest.Server) {
		s.Handle = func(_ *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
			if !stalled.Swap(true) {
				time.Sleep(300 * time.Millisecond)
			}
			return clienttest.Reply{Payload: r.Payload}, true
		}
	})
	// Depth 1: a closed loop would have one slow request. Here the 140 that are due in
	// the first 280 ms are.
	o.Rate, o.Requests = 500, 500
	res, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	slow := int64(0)
	for _, b := range res.Latency.Distribution() {
		if b.From > int64(20*time.Millisecond) {
			slow += b.Count
		}
	}
	if slow < 130 {
		t.Errorf("%d of %d requests saw the stall, expected at least 130", slow, res.Messages)
	}
	if n := res.Latency.TotalCount(); n != 500 {
		t.Errorf("%d requests of 500", n)
	}
}

// What is answered after the end belongs to the latencies, not to the rate.
func TestStallAtTheEnd(t *testing.T) {
	var hold atomic.Bool // answers stay out
	o, _ := options(t, func(s *clienttest.Server) {
		s.Handle = func(_ *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
			time.Sleep(110 * time.Millisecond) // what has been sent in time is answered later than that
			return clienttest.Reply{Payload: r.Payload}, !hold.Load()
		}
	})
	o.Depth, o.Duration, o.Drain = 2, 100*time.Millisecond, time.Minute
	// A sender that does not get to run within its 100 ms sends nothing: then once more.
	until := func(what string, ok func(*Result) bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; {
			res, err := Run(t.Context(), o)
			if err != nil || res.Messages != 0 {
				t.Fatalf("%+v, %v", res, err)
			}
			if ok(res) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %d latencies, %v", what, res.Latency.TotalCount(), res.Errors)
			}
		}
	}
	until("late answers", func(r *Result) bool { return r.Latency.TotalCount() == 2 && r.ErrorCount() == 0 })
	hold.Store(true)
	o.Drain = 10 * time.Millisecond
	until("no answers", func(r *Result) bool { return r.Latency.TotalCount() == 0 && r.Errors["unanswered"] == 2 })
}

func TestErrorsByKind(t *testing.T) {
	var n atomic.Int32
	o, srv := options(t, func(s *clienttest.Server) {
		s.Handle = func(c *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
			switch n.Add(1) {
			case 10:
				return clienttest.Reply{Payload: []byte("something else")}, true
			case 20:
				return clienttest.Reply{Status: 5}, true
			case 30:
				c.Cut()
				return clienttest.Reply{}, false
			}
			return clienttest.Reply{Payload: r.Payload}, true
		}
	})
	o.Requests = 100
	res, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if res.Messages != 97 || res.Errors["mismatch"] != 1 || res.Errors["connection lost"] != 1 || res.Errors["too much in flight, try again later"] != 1 || res.ErrorCount() != 3 {
		t.Errorf("%d messages, errors %v", res.Messages, res.Errors)
	}

	o.Requests, o.Duration = 0, time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Progress = func(p Progress) {
		srv.Close()
		if p.Errors > 0 {
			cancel()
		}
	}
	if res, err = Run(ctx, o); err != nil || res.Errors["connection lost"]+res.Errors["unavailable"] == 0 {
		t.Errorf("%v, %v", res, err)
	}
}

func TestInterrupted(t *testing.T) {
	for _, rate := range []float64{0, 1000, 0.01} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var n atomic.Int32
		o, _ := options(t, func(s *clienttest.Server) {
			s.Handle = func(_ *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
				if rate == 0.01 || n.Add(1) == 10 { // the next would be after 100 s
					time.AfterFunc(10*time.Millisecond, cancel)
				}
				return clienttest.Reply{Payload: r.Payload}, true
			}
		})
		o.Duration, o.Rate = time.Hour, rate // so that ending at all shows that it was interrupted
		res, err := Run(ctx, o)
		if err != nil || !res.Interrupted || rate != 0.01 && res.Messages < 9 || res.ErrorCount() != 0 {
			t.Errorf("rate %v: %+v, %v", rate, res, err)
		}
	}
}

func TestProgress(t *testing.T) {
	o, _ := options(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := false
	o.Duration = time.Hour
	o.Progress = func(p Progress) {
		if p.Elapsed <= 0 || p.Errors != 0 {
			t.Errorf("%+v", p)
		}
		if p.Done > 0 && p.PerSec > 0 && p.TxBits > 0 && p.RxBits > 0 {
			told = true
			cancel()
		}
	}
	if _, err := Run(ctx, o); err != nil || !told {
		t.Errorf("told of progress: %v, %v", told, err)
	}
}

func TestNoServer(t *testing.T) {
	o, _ := options(t, nil)
	o.Requests, o.Client.Address = 1, "127.0.0.1:1"
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v, expected connection refused", err)
	}
	o, _ = options(t, nil)
	o.Requests, o.Client.NoHybrid, o.Connections = 1, true, 10
	if _, err := Run(t.Context(), o); err == nil {
		t.Error("hybrid mismatch connected")
	}
}

func TestBadOptions(t *testing.T) {
	good, _ := options(t, nil)
	good.Requests = 1
	for name, change := range map[string]func(o *Options){
		"no connections": func(o *Options) { o.Connections = 0 }, "many connections": func(o *Options) { o.Connections = 100_001 },
		"no depth": func(o *Options) { o.Depth = 0 }, "size": func(o *Options) { o.Size = 32 << 20 }, "negative size": func(o *Options) { o.Size = -1 },
		"rate": func(o *Options) { o.Rate = -1 }, "rate nan": func(o *Options) { o.Rate = math.NaN() },
		"no end": func(o *Options) { o.Requests = 0 }, "duration": func(o *Options) { o.Duration = -1 }, "opcode": func(o *Options) { o.Opcode = "" },
	} {
		o := good
		change(&o)
		if _, err := Run(t.Context(), o); err == nil || errors.Is(err, client.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// BenchmarkClosedLoop is the generator and clienttest's server together on
// whatever cores there are.
func BenchmarkClosedLoop(b *testing.B) {
	o, _ := options(b, nil)
	o.Depth, o.Requests = 64, int64(b.N)
	b.ReportAllocs()
	res, err := Run(b.Context(), o)
	if err != nil || res.ErrorCount() != 0 {
		b.Fatal(res, err)
	}
	b.ReportMetric(res.PerSecond(), "msg/s")
}
