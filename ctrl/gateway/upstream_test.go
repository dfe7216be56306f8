package gateway

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/upstream"
)

const routeToU = "[[route]]\nname = \"all\"\npath_prefix = \"/\"\nupstream = \"u\"\n"

// TestPoolKeys: a pool is warm before the first request, and changes while it runs.
func TestPoolKeys(t *testing.T) {
	text := upstreamOf("u", backend(t, "a"))
	r := newRig(t, text+"pool.min = 3\npool.per_worker = true\n"+routeToU)
	c := r.gen.Load().clusters["u"]
	opened := func(n uint64) bool {
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if p := c.fwd.Pools(); len(p) == 1 && p[0].Pool.Opened() == n && p[0].Pool.Idle == int(n) {
				return true
			}
		}
		return false
	}
	if !opened(3) {
		t.Fatalf("%+v, expected 3 connections without a request", c.fwd.Pools())
	}
	r.apply(t, load(t, text+"pool.min = 5\npool.per_worker = true\n"+routeToU))
	if r.gen.Load().clusters["u"] != c {
		t.Fatal("an upstream that changed its pool alone was made again")
	}
	if !opened(5) {
		t.Errorf("%+v, expected 5 connections", c.fwd.Pools())
	}
}

// TestTold: what endpoints are told, by configuration, which changes while it runs.
func TestTold(t *testing.T) {
	var got http.Header
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Clone() }))
	t.Cleanup(s.Close)
	text := upstreamOf("u", strings.TrimPrefix(s.URL, "http://"))
	r := newRig(t, text+routeToU)
	c := r.gen.Load().clusters["u"]
	for _, one := range []struct{ keys, xff, forwarded, via, left string }{
		{"", "127.0.0.1", "", "", "1.5"},
		{"forwarded = \"off\"\nvia_name = \"edge\"\n", "", "", "1.1 edge", "1.5"},
		{"forwarded = \"rfc7239\"\n", "", "for=127.0.0.1", "", "1.5"},
		{"forwarded = \"both\"\n", "127.0.0.1", "for=127.0.0.1", "", "1.5"},
		{"forwarded = \"keep\"\n", "1.2.3.4", "for=1.2.3.4", "", "1.5"},
		{"deadline_fields = [\"x-left\"]\n", "127.0.0.1", "", "", "1.4"},
	} {
		r.apply(t, load(t, text+one.keys+routeToU))
		q, err := http.NewRequest("GET", r.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header = http.Header{"X-Forwarded-For": {"1.2.3.4"}, "Forwarded": {"for=1.2.3.4"}, "X-Left": {"1.5"}}
		res, err := r.client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		fwd, _, _ := strings.Cut(got.Get("Forwarded"), ";")
		if got.Get("X-Forwarded-For") != one.xff || fwd != one.forwarded || got.Get("Via") != one.via || got.Get("X-Left") > "1.500" || !strings.HasPrefix(got.Get("X-Left"), one.left) {
			t.Errorf("%q: %v", one.keys, got)
		}
	}
	if r.gen.Load().clusters["u"] != c {
		t.Error("an upstream whose endpoints and connections are the same was made again")
	}
}

// TestSourceBesideReload: what a source says of endpoints and what a reload says of the pool
// may come at once.
func TestSourceBesideReload(t *testing.T) {
	address := backend(t, "a")
	text := upstreamOf("a", address)
	r := newRig(t, text)
	c := r.gen.Load().clusters["a"]
	specs, err := upstream.Parse("x", address)
	if err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Microsecond):
			}
			if err := c.set(specs); err != nil {
				t.Error(err)
			}
		}
	}()
	for i := range 10 {
		r.apply(t, load(t, text+fmt.Sprintf("pool.max = %d\npool.min = %d\npool.warm_up = true\n", 8+i, i%2)))
	}
	close(stop)
	<-done
	if r.gen.Load().clusters["a"] != c {
		t.Error("the pool's change made another cluster")
	}
}
