package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/upstream"
)

// burst sends requests at once and returns how many were answered with 200.
func burst(t *testing.T, url string, n int) (well int) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	var ok atomic.Int64
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			res, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Post(url, "text/plain", strings.NewReader(fmt.Sprint(i)))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			if res.StatusCode == 200 && err == nil && string(b) == fmt.Sprint(i) {
				ok.Add(1)
			}
		})
	}
	wg.Wait()
	return int(ok.Load())
}

// TestFirstConnection: many requests that come at once, before there is a connection,
// share one.
func TestFirstConnection(t *testing.T) {
	for _, kind := range []string{"h2", "h2c", "auto to h2"} {
		t.Run(kind, func(t *testing.T) {
			addr, change := backendOf(t, kind, func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(20 * time.Millisecond)
				io.Copy(w, r.Body)
			})
			c := cluster(t, change, addr)
			s := front(t, handler(t, Options{Targets: []Target{{Cluster: c, Weight: 1}}}))
			if n := burst(t, s.URL, 80); n != 80 {
				t.Errorf("%d of 80 requests were answered", n)
			}
			if p := c.Pools()[0]; p.Opened > 4 || p.Requests != 80 {
				t.Errorf("%d connections for %d requests", p.Opened, p.Requests)
			}
		})
	}
}

// TestFirstConnectionFails: those who wait for another's connection are told why there is
// none, and a client that goes away takes nobody with it.
func TestFirstConnectionFails(t *testing.T) {
	addr, change := backendOf(t, "h2c", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	var dials atomic.Int64
	var refuse atomic.Bool
	hold := make(chan struct{})
	var c *Cluster
	c = cluster(t, func(u *upstream.Config, cc *Config) {
		change(u, cc)
		cc.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			dials.Add(1)
			if refuse.Load() {
				for end := time.Now().Add(time.Minute); dials.Load() == 1 && c.Upstream().Snapshot().InFlight < 40 && time.Now().Before(end); { // until all have come
					time.Sleep(time.Millisecond)
				}
				time.Sleep(20 * time.Millisecond)
				return nil, errors.New("refused for the test")
			}
			<-hold
			return dial(ctx, network, address)
		}
	}, addr)
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: c, Weight: 1}}}))
	refuse.Store(true)
	if n := burst(t, s.URL, 40); n != 0 {
		t.Errorf("%d answers without a connection", n)
	}
	if n := dials.Load(); n > 20 {
		t.Errorf("%d connects for 40 requests at once", n)
	}
	refuse.Store(false)
	before := dials.Load()
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() { // the one that opens
		defer close(gone)
		r, err := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
		if err != nil {
			t.Error(err)
			return
		}
		if res, err := http.DefaultClient.Do(r); err == nil {
			res.Body.Close()
			t.Error("a request that was given up was answered")
		}
	}()
	for dials.Load() == before {
		time.Sleep(time.Millisecond)
	}
	answered := make(chan int, 1)
	go func() { answered <- burst(t, s.URL, 10) }()
	time.Sleep(20 * time.Millisecond)
	cancel()
	<-gone
	close(hold)
	if n := <-answered; n != 10 {
		t.Errorf("%d of 10 requests were answered after the first was given up", n)
	}
}
