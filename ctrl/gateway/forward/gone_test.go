package forward

import (
	"io"
	"net/http"
	"testing"
	"time"
)

// TestGone: an endpoint that leaves takes its connections with it, and its counts stay.
func TestGone(t *testing.T) {
	ok := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }
	a, b := backend(t, ok), backend(t, ok)
	c := cluster(t, nil, a, b)
	ask := func(n int) {
		for range n {
			r, err := http.NewRequestWithContext(t.Context(), "GET", "http://x/", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Error(err)
			}
			resp.Body.Close()
		}
	}
	total := func() (acquired uint64, open int) {
		for _, p := range append(c.Pools(), c.Gone()...) {
			acquired += p.Pool.Acquired
			open += p.Pool.Open
		}
		return acquired, open
	}
	ask(10)
	if n, open := total(); n != 10 || open != 2 {
		t.Fatalf("%d requests, %d connections", n, open)
	}
	if err := c.Upstream().Remove(a); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	c.prune(time.Now().Add(time.Hour))
	c.mu.Unlock()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		n, open := total()
		if n != 10 {
			t.Fatalf("%d requests", n)
		}
		if open == 1 || time.Now().After(deadline) {
			break
		}
	}
	ask(5)
	if n, open := total(); n != 15 || open != 1 || len(c.Pools()) != 1 {
		t.Errorf("%d requests, %d connections, %v", n, open, c.Pools())
	}
	if gone := c.Gone(); len(gone) != 1 || gone[0].Protocol != "http/1.1" || gone[0].Upstream != "api" || gone[0].Pool.Acquired != 5 || gone[0].Pool.Max != 0 {
		t.Errorf("%+v", gone)
	}
}
