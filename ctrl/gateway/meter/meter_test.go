package meter

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

func TestCount(t *testing.T) {
	m := New()
	l := m.Listener("web")
	if m.Listener("web") != l {
		t.Error("two listeners of one name")
	}
	good := &exchange.Exchange{Route: "a", Protocol: "h2", Status: 200, Received: 3, Sent: 5, FirstByte: 2 * time.Millisecond}
	bad := &exchange.Exchange{Protocol: "h2", Status: 404, Reason: exchange.NoRoute, Sent: 7}
	gone := &exchange.Exchange{Route: "a", Protocol: "h2", Reason: exchange.ClientGone}
	for range 3 {
		l.Begin()
	}
	l.Done(good, 700*time.Microsecond, false)
	l.Done(good, time.Hour, true)
	l.Done(bad, time.Minute, false)
	l.Begin()
	l.Done(gone, -1, false)
	l.Begin()
	got := m.Series()
	if len(got) != 3 || m.InFlight()["web"] != 1 {
		t.Fatalf("%+v, %v in flight", got, m.InFlight())
	}
	none, reset, ok := got[0], got[1], got[2]
	if ok.Route != "a" || ok.Class != 2 || ok.Requests != 2 || ok.Received != 6 || ok.Sent != 10 || ok.Took != 2700*time.Microsecond || ok.Buckets[1] != 1 || ok.Buckets[2] != 1 {
		t.Errorf("%+v", ok)
	}
	if none.Route != "" || none.Reason != exchange.NoRoute || none.Class != 4 || none.Buckets[15] != 1 || reset.Class != 0 || reset.Buckets[0] != 1 {
		t.Errorf("%+v\n%+v", none, reset)
	}
}

func TestBounds(t *testing.T) {
	b := Bounds()
	for i := 1; i < len(b); i++ {
		if b[i] <= b[i-1] {
			t.Errorf("%v after %v", b[i], b[i-1])
		}
	}
}

// TestMany counts from many goroutines, more kinds than there may be.
func TestMany(t *testing.T) {
	m := New()
	l := m.Listener("web")
	const workers, each = 8, MaxKinds/4 + 100
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			x := &exchange.Exchange{Protocol: "h2", Status: 200}
			for i := range each {
				x.Route = strconv.Itoa(w/2) + "/" + strconv.Itoa(i)
				l.Begin()
				l.Done(x, time.Millisecond, false)
			}
		})
	}
	wg.Wait()
	var n uint64
	series := m.Series()
	for _, s := range series {
		n += s.Requests
	}
	if n != workers*each || len(series) != MaxKinds+1 || series[0].Route != "" || series[0].Requests != 800 || m.InFlight()["web"] != 0 {
		t.Errorf("%d requests in %d kinds, %d without a route, %v in flight", n, len(series), series[0].Requests, m.InFlight())
	}
}

func BenchmarkDone(b *testing.B) {
	m := New()
	l := m.Listener("web")
	for i := range 200 {
		l.Done(&exchange.Exchange{Route: fmt.Sprintf("other route %d", i), Protocol: "http/1.1", Status: 200}, 0, false)
	}
	b.Run("one", func(b *testing.B) {
		x := &exchange.Exchange{Route: "api", Protocol: "http/1.1", Status: 200, Sent: 1000}
		b.ReportAllocs()
		for b.Loop() {
			l.Begin()
			l.Done(x, 3*time.Millisecond, false)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			x := &exchange.Exchange{Route: "api", Protocol: "http/1.1", Status: 200, Sent: 1000}
			for pb.Next() {
				l.Begin()
				l.Done(x, 3*time.Millisecond, false)
			}
		})
	})
}
