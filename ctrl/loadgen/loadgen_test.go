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
		for range 200 {
			if runtime.NumGoroutine() <= before {
				return
			}
			time.Sleep(10 * time.Millisecond)
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
	if res.Latency.ValueAtQuantile(50) <= 0 || res.Elapsed <= 0 || res.PerSecond() < 100 {
		t.Errorf("median %d ns in %v", res.Latency.ValueAtQuantile(50), res.Elapsed)
	}
}

func TestClosedLoopByTime(t *testing.T) {
	o, _ := options(t, nil)
	o.Depth, o.Warmup, o.Duration, o.Size = 8, 100*time.Millisecond, 200*time.Millisecond, 0
	began := time.Now()
	res, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); res.Elapsed < 199*time.Millisecond || res.Elapsed > 201*time.Millisecond || took > 3*time.Second {
		t.Errorf("elapsed %v, took %v", res.Elapsed, took)
	}
	if res.Messages < 100 || res.ErrorCount() != 0 || res.RxPayload != 0 {
		t.Errorf("%+v", res)
	}
}

func TestOpenLoopRate(t *testing.T) {
	o, _ := options(t, nil)
	o.Connections, o.Depth, o.Rate, o.Duration = 4, 64, 2000, 500*time.Millisecond
	res, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if res.Messages < 900 || res.Messages > 1000 || res.ErrorCount() != 0 {
		t.Errorf("%d messages in half a second at 2000/s: %v", res.Messages, res.Errors)
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
	// Depth 1: a closed loop would have one slow request. Half of the stall lies
	// behind the last second's tick and none of it may be lost.
	o.Rate, o.Duration = 500, time.Second
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
	if slow < 100 {
		t.Errorf("%d of %d requests saw the stall, expected at least 100", slow, res.Messages)
	}
	if n := res.Latency.TotalCount(); n < 490 || n > 500 {
		t.Errorf("%d requests in a second at 500/s", n)
	}
}

// What is answered after the end belongs to the latencies, not to the rate.
func TestStallAtTheEnd(t *testing.T) {
	o, _ := options(t, func(s *clienttest.Server) {
		s.Handle = func(_ *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
			time.Sleep(150 * time.Millisecond)
			return clienttest.Reply{Payload: r.Payload}, true
		}
	})
	o.Depth, o.Duration = 2, 100*time.Millisecond
	res, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if res.Messages != 0 || res.Latency.TotalCount() != 2 || res.ErrorCount() != 0 {
		t.Errorf("%d messages, %d latencies, %v", res.Messages, res.Latency.TotalCount(), res.Errors)
	}
	o.Drain = 10 * time.Millisecond
	if res, err = Run(t.Context(), o); err != nil || res.Errors["unanswered"] != 2 {
		t.Errorf("%v, %v", res, err)
	}
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

	o.Requests, o.Duration = 0, 300*time.Millisecond
	time.AfterFunc(100*time.Millisecond, srv.Close)
	if res, err = Run(t.Context(), o); err != nil || res.Errors["connection lost"]+res.Errors["unavailable"] == 0 {
		t.Errorf("%v, %v", res, err)
	}
}

func TestInterrupted(t *testing.T) {
	for _, rate := range []float64{0, 1000, 0.01} {
		o, _ := options(t, nil)
		o.Duration, o.Rate = time.Hour, rate
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		res, err := Run(ctx, o)
		if err != nil || !res.Interrupted || time.Since(began) > 3*time.Second || rate != 0.01 && res.Messages == 0 || res.ErrorCount() != 0 {
			t.Errorf("rate %v: %+v, %v after %v", rate, res, err, time.Since(began))
		}
	}
}

func TestProgress(t *testing.T) {
	o, _ := options(t, nil)
	var calls atomic.Int32
	o.Duration = 1200 * time.Millisecond
	o.Progress = func(p Progress) {
		calls.Add(1)
		if p.PerSec <= 0 || p.TxBits <= 0 || p.RxBits <= 0 || p.Elapsed <= 0 || p.Errors != 0 || p.Done == 0 {
			t.Errorf("%+v", p)
		}
	}
	if _, err := Run(t.Context(), o); err != nil || calls.Load() != 1 {
		t.Errorf("%d calls, %v", calls.Load(), err)
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
