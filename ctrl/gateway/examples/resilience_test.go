package examples_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway"
)

// peakServer knows how many requests it had at once and how many connections were made.
type peakServer struct {
	*httptest.Server
	now, peak, conns atomic.Int64
	slow             atomic.Bool
	status           atomic.Int32
}

func (s *peakServer) address() string { return strings.TrimPrefix(s.URL, "http://") }

func newPeakServer(t *testing.T) *peakServer {
	t.Helper()
	s := &peakServer{}
	s.status.Store(200)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			return
		}
		n := s.now.Add(1)
		defer s.now.Add(-1)
		for p := s.peak.Load(); n > p && !s.peak.CompareAndSwap(p, n); p = s.peak.Load() { // bound: requests at once
		}
		if s.slow.Load() {
			time.Sleep(30 * time.Millisecond)
		}
		w.WriteHeader(int(s.status.Load()))
		_, _ = io.Copy(w, r.Body)
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			s.conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// ask sends requests at once, each over a connection of its own, and returns the statuses.
func atOnce(t *testing.T, n int, method, url string) map[int]int {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	c := &http.Client{Transport: tr, Timeout: 20 * time.Second}
	var mu sync.Mutex
	got := map[int]int{}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			body := fmt.Sprint("request ", i)
			req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			res, err := c.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode == 200 && string(b) != body {
				t.Errorf("%q, %v", b, err)
			}
			mu.Lock()
			defer mu.Unlock()
			got[res.StatusCode]++
		})
	}
	wg.Wait()
	return got
}

// TestResilience drives resilience.toml while its endpoints are killed, slow and failing.
func TestResilience(t *testing.T) {
	a, b, stock := newPeakServer(t), newPeakServer(t), newPeakServer(t)
	list := filepath.Join(t.TempDir(), "orders")
	if err := os.WriteFile(list, []byte(a.address()+"\n"+b.address()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	endpoints := map[string]string{"127.0.0.1:9003": stock.address(), a.address(): a.address(), b.address(): b.address()}
	url, g := start(t, "resilience.toml", endpoints, "/etc/np/orders", list)
	awaitTaking(t, g, "orders", 2)

	a.slow.Store(true)
	b.slow.Store(true)
	if got := atOnce(t, 40, "POST", url+"/orders"); got[200] != 40 {
		t.Errorf("forty at once: %v", got)
	}
	if a.peak.Load() > 4 || b.peak.Load() > 4 || a.peak.Load()+b.peak.Load() < 4 {
		t.Errorf("%d and %d at once, pool.max is 4", a.peak.Load(), b.peak.Load())
	}
	a.slow.Store(false)
	b.slow.Store(false)

	a.status.Store(503)
	for range 10 { // fewer than the budget
		if res, _ := askFor(t, "PUT", url+"/orders", "x"); res.StatusCode != 200 {
			t.Errorf("PUT while one answers 503: %d", res.StatusCode)
		}
	}
	a.Close()
	for _, method := range []string{"GET", "POST"} { // nothing is sent to nobody, so POST goes elsewhere too
		for range 10 {
			if res, _ := askFor(t, method, url+"/orders", "x"); res.StatusCode != 200 {
				t.Errorf("%s while one is dead: %d", method, res.StatusCode)
			}
		}
	}
	awaitTaking(t, g, "orders", 1)

	stock.slow.Store(true)
	if got := atOnce(t, 60, "GET", url+"/stock"); got[200] != 60 {
		t.Errorf("sixty clients: %v", got)
	}
	if stock.conns.Load() > 4 || stock.peak.Load() < 10 {
		t.Errorf("%d connections for %d requests at once, expected few for many", stock.conns.Load(), stock.peak.Load())
	}
}

func awaitTaking(t *testing.T, g *gateway.Gateway, name string, want int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		n := 0
		for _, u := range g.Upstreams() {
			for _, e := range u.Endpoints {
				if u.Name == name && e.Takes && e.Health != "unknown" {
					n++
				}
			}
		}
		if n == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %d endpoints take requests, want %d", name, n, want)
		}
	}
}
