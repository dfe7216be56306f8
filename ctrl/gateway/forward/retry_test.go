package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/pool"
	"github.com/np-appliance/np/ctrl/upstream"
)

// three makes an upstream of endpoints that answer with the given statuses, and counts
// what each of them got.
func three(t *testing.T, change func(*upstream.Config, *Config), statuses ...int) (*Cluster, []*atomic.Int32) {
	t.Helper()
	var addrs []string
	counts := make([]*atomic.Int32, len(statuses))
	for i, s := range statuses {
		counts[i] = new(atomic.Int32)
		addrs = append(addrs, backend(t, func(w http.ResponseWriter, r *http.Request) {
			counts[i].Add(1)
			b, _ := io.ReadAll(r.Body)
			w.Header().Set("Endpoint", fmt.Sprint(i))
			w.WriteHeader(s)
			fmt.Fprintf(w, "%d %s", i, b)
		}))
	}
	return cluster(t, func(u *upstream.Config, c *Config) {
		u.Retry = upstream.RetryPolicy{Attempts: 3, Backoff: upstream.BackoffNone}
		u.Rand = func() uint64 { return uint64(2*len(statuses) - 2) } // so that the first endpoint is first
		if change != nil {
			change(u, c)
		}
	}, addrs...), counts
}

func TestRetryStatus(t *testing.T) {
	for _, one := range []struct {
		name     string
		method   string
		body     io.Reader
		statuses []int
		want     int
		body2    string
		tries    int
	}{
		{"second is well", "GET", nil, []int{503, 200, 200}, 200, "1 ", 2},
		{"none is well", "GET", nil, []int{503, 502, 503}, 503, "2 ", 3},
		{"not this status", "GET", nil, []int{500, 200, 200}, 500, "0 ", 1},
		{"short body", "PUT", strings.NewReader("hello"), []int{503, 200, 200}, 200, "1 hello", 2},
		{"not idempotent", "POST", strings.NewReader("hello"), []int{503, 200, 200}, 503, "0 hello", 1},
		{"streamed body", "PUT", io.MultiReader(strings.NewReader("hello")), []int{503, 200, 200}, 503, "0 hello", 1},
		{"long body", "PUT", strings.NewReader(strings.Repeat("x", 40_000)), []int{503, 200, 200}, 503, "0 " + strings.Repeat("x", 40_000), 1},
	} {
		t.Run(one.name, func(t *testing.T) {
			c, counts := three(t, nil, one.statuses...)
			seen := make(chan *exchange.Exchange, 1)
			s := httptest.NewServer(enter(t, handler(t, Options{Targets: []Target{{Cluster: c}}, RetryStatus: []int{502, 503}}), seen))
			defer s.Close()
			resp, got := fetch(t, request(t, one.method, s.URL, one.body))
			x := <-seen
			n := 0
			for _, c := range counts {
				n += int(c.Load())
			}
			if resp.StatusCode != one.want || got != one.body2 || x.Tries != one.tries || n != one.tries || x.Reason != exchange.None {
				t.Errorf("%d, %.20q, %d tries, %d seen, %s", resp.StatusCode, got, x.Tries, n, x.Reason)
			}
		})
	}
}

// TestRetryUnsent: a request of which nothing was sent goes to the next endpoint, whatever
// its method.
func TestRetryUnsent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().String()
	l.Close()
	live := backend(t, echoTo)
	c := cluster(t, func(u *upstream.Config, _ *Config) {
		u.Retry = upstream.RetryPolicy{Attempts: 2, Backoff: upstream.BackoffNone}
	}, dead, live)
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: c}}}))
	for range 6 {
		for _, body := range []io.Reader{strings.NewReader("hello"), io.MultiReader(strings.NewReader("hello"))} {
			if resp, got := fetch(t, request(t, "POST", s.URL, body)); resp.StatusCode != 200 || got != "hello" {
				t.Errorf("%d %q", resp.StatusCode, got)
			}
		}
	}
}

// TestRetryBroken: an endpoint that breaks off before its answer costs an idempotent
// request nothing; one in the middle of its answer does.
func TestRetryBroken(t *testing.T) {
	for _, one := range []struct {
		answer string
		ok     bool
	}{{"", true}, {"HTTP/1.1 200 OK\r\nA: ", true}, {"garbage\r\n\r\n", true}, {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", false}} {
		bad, _ := raw(t, func(nc net.Conn, _ int32) { head(nc); io.WriteString(nc, one.answer) })
		c := cluster(t, func(u *upstream.Config, _ *Config) {
			u.Retry = upstream.RetryPolicy{Attempts: 2, Backoff: upstream.BackoffNone}
		}, bad, backend(t, echoTo))
		s := front(t, handler(t, Options{Targets: []Target{{Cluster: c}}}))
		failed := 0
		for range 4 {
			r := request(t, "GET", s.URL, nil)
			r.Close = true // else the client, too, tries again
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			if err != nil || resp.StatusCode != 200 {
				failed++
			}
		}
		if (failed == 0) != one.ok {
			t.Errorf("%q: %d of 4 failed", one.answer, failed)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for after, want := range map[string]int{"0": 200, "1000": 503, "x": 503, "Thu, 26 Nov 2026 05:00:00 GMT": 200} {
		var n atomic.Int32
		b := backend(t, func(w http.ResponseWriter, _ *http.Request) {
			if n.Add(1) == 1 {
				w.Header().Set("Retry-After", after)
				w.WriteHeader(503)
			}
		})
		c := cluster(t, func(u *upstream.Config, _ *Config) {
			u.Retry = upstream.RetryPolicy{Attempts: 2, Backoff: upstream.BackoffNone}
		}, b)
		s := front(t, handler(t, Options{Targets: []Target{{Cluster: c}}, RetryStatus: []int{503}, Now: func() time.Time { return time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC) }}))
		if resp, _ := fetch(t, request(t, "GET", s.URL, nil)); resp.StatusCode != want {
			t.Errorf("%s: %d", after, resp.StatusCode)
		}
	}
}

// TestBudget: when most requests fail, retries end instead of multiplying the load, and
// clients get the answers that there are.
func TestBudget(t *testing.T) {
	c, counts := three(t, func(u *upstream.Config, _ *Config) {
		u.Retry.BudgetPercent, u.Retry.BudgetPerSecond = 10, 3
	}, 503)
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: c}}, RetryStatus: []int{503}}))
	for range 50 {
		if resp, got := fetch(t, request(t, "GET", s.URL, nil)); resp.StatusCode != 503 || got != "0 " {
			t.Fatal(resp.StatusCode, got)
		}
	}
	if n := counts[0].Load(); n > 50+20 {
		t.Errorf("%d requests at the endpoint for 50", n)
	}
}

func TestTimeoutForms(t *testing.T) {
	for s, want := range map[string]time.Duration{"1S": time.Second, "100m": 100 * time.Millisecond, "99999999H": maxTimeout, "1u": time.Microsecond} {
		if d, ok := parseGRPCTimeout(s); !ok || d != want {
			t.Errorf("%s: %v, %v", s, d, ok)
		}
	}
	for _, s := range []string{"", "S", "1", "-1S", "123456789S", "1s", "1.5S", "1S "} {
		if d, ok := parseGRPCTimeout(s); ok {
			t.Errorf("%q: %v", s, d)
		}
	}
	for _, d := range []time.Duration{0, 1, time.Millisecond, time.Second, time.Hour, 1000 * time.Hour, 1 << 62} {
		back, ok := parseGRPCTimeout(formatGRPCTimeout(d))
		if !ok || back > d {
			t.Errorf("%v: %s, %v", d, formatGRPCTimeout(d), back)
		}
	}
	for s, want := range map[string]time.Duration{"1.5": 1500 * time.Millisecond, "2s": 2 * time.Second, "250ms": 250 * time.Millisecond, "1e300": maxTimeout} {
		if d, ok := parseTimeout(s, 0); !ok || d != want {
			t.Errorf("%s: %v, %v", s, d, ok)
		}
	}
	for _, s := range []string{"", "x", "-1", "0", "NaN", "-Inf", "-2s"} {
		if d, ok := parseTimeout(s, 0); ok {
			t.Errorf("%q: %v", s, d)
		}
	}
}

func TestSplit(t *testing.T) {
	a, b := cluster(t, nil, backend(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "a") })), cluster(t, nil, backend(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "b") }))
	h := handler(t, Options{Targets: []Target{{Cluster: a, Weight: 3}, {Cluster: b, Weight: 1}}})
	ask := func(h http.Handler, n int, change func(int, *http.Request)) (got [2]int) {
		for i := range n {
			w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
			if change != nil {
				change(i, r)
			}
			h.ServeHTTP(w, r)
			got[w.Body.String()[0]-'a']++
		}
		return got
	}
	if got := ask(h, 400, nil); got[0] < 240 || got[1] < 60 {
		t.Errorf("%v of 300 and 100", got)
	}
	if err := h.SetWeights([]int{0, 5}); err != nil {
		t.Fatal(err)
	}
	if got := ask(h, 20, nil); got[1] != 20 || !slices.Equal(h.Weights(), []int{0, 5}) {
		t.Errorf("%v", got)
	}
	for _, w := range [][]int{nil, {1}, {0, 0}, {-1, 2}, {1, 1 << 30}} {
		if h.SetWeights(w) == nil {
			t.Errorf("%v was taken", w)
		}
	}
	sticky := handler(t, Options{Targets: []Target{{Cluster: a, Weight: 1}, {Cluster: b, Weight: 1}}, Sticky: true, Hash: []HashKey{{From: HashCookie, Name: "s"}}})
	for user := range 20 {
		got := ask(sticky, 5, func(_ int, r *http.Request) { r.AddCookie(&http.Cookie{Name: "s", Value: fmt.Sprint(user)}) })
		if got[0] != 0 && got[1] != 0 {
			t.Errorf("user %d was split: %v", user, got)
		}
	}
	if got := ask(sticky, 200, func(i int, r *http.Request) { r.AddCookie(&http.Cookie{Name: "s", Value: fmt.Sprint(i)}) }); got[0] < 60 || got[1] < 60 {
		t.Errorf("%v", got)
	}
}

func TestHashKeys(t *testing.T) {
	r := httptest.NewRequest("GET", "/p?q=1&x=2", nil)
	r.Header.Set("H", "h")
	r.AddCookie(&http.Cookie{Name: "c", Value: "v"})
	x := &exchange.Exchange{Client: netip.MustParseAddrPort("198.18.0.1:5")}
	seen := map[uint64]string{}
	for _, k := range []HashKey{{HashClient, ""}, {HashHeader, "H"}, {HashCookie, "c"}, {HashQuery, "x"}, {HashPath, ""}} {
		f := &flight{h: &Handler{opts: Options{Hash: []HashKey{{HashHeader, "Absent"}, k}}}, r: r, x: x}
		h := f.hash()
		if h == 0 || seen[h] != "" {
			t.Errorf("%+v: %d, like %s", k, h, seen[h])
		}
		seen[h] = fmt.Sprint(k)
	}
	if h := (&flight{h: &Handler{opts: Options{Hash: []HashKey{{HashHeader, "Absent"}}}}, r: r, x: x}).hash(); h != 0 {
		t.Error(h)
	}
}

// TestTargetHash: of a split, each target's requests stay with an endpoint by that target's key.
func TestTargetHash(t *testing.T) {
	name := func(n string) string {
		return backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, n) })
	}
	first := cluster(t, nil, name("first"))
	ring := cluster(t, func(u *upstream.Config, _ *Config) { u.Balance.Policy = upstream.RingHash }, name("0"), name("1"), name("2"))
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: first, Weight: 1}, {Cluster: ring, Weight: 3, Own: &Options{Hash: []HashKey{{HashHeader, "x-tenant"}}}}}}))
	all := map[string]bool{}
	for tenant := range 20 {
		met := map[string]bool{}
		for range 20 {
			if _, body := fetch(t, request(t, "GET", s.URL+"/", nil, "X-Tenant", fmt.Sprint(tenant))); body != "first" {
				met[body], all[body] = true, true
			}
		}
		if len(met) > 1 {
			t.Errorf("tenant %d met %v", tenant, met)
		}
	}
	if len(all) < 2 {
		t.Errorf("20 tenants met %v", all)
	}
	if _, err := New(Options{Targets: []Target{{Cluster: first, Weight: 1}, {Cluster: ring, Weight: 1, Own: &Options{Hash: []HashKey{{HashHeader, ""}}}}}}); err == nil {
		t.Error("a key without a name is taken")
	}
}

func TestMirror(t *testing.T) {
	got := make(chan string, 10)
	release := make(chan struct{})
	shadow := cluster(t, nil, backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- r.Method + " " + r.RequestURI + " " + r.Host + " " + r.Header.Get("A") + " " + string(b)
		<-release
		w.WriteHeader(500)
	}))
	main := cluster(t, nil, backend(t, echoTo))
	h := handler(t, Options{Targets: []Target{{Cluster: main}}, Mirror: &Mirror{Cluster: shadow, Concurrency: 1, MaxBody: 10}})
	s := front(t, h)
	if resp, body := fetch(t, request(t, "POST", s.URL+"/x?y", strings.NewReader("hello"), "A", "1")); resp.StatusCode != 200 || body != "hello" {
		t.Fatal(resp.StatusCode, body)
	}
	if g := <-got; g != "POST /x?y "+strings.TrimPrefix(s.URL, "http://")+" 1 hello" {
		t.Errorf("%q", g)
	}
	fetch(t, request(t, "GET", s.URL, nil))                                           // one is on its way still
	fetch(t, request(t, "POST", s.URL, strings.NewReader("more than ten bytes")))     // too long
	fetch(t, request(t, "POST", s.URL, io.MultiReader(strings.NewReader("chunked")))) // of unknown length
	close(release)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h.Close(ctx)
	if st := h.MirrorStats(); st != (MirrorStats{Sent: 1, Full: 1, Skipped: 2}) {
		t.Errorf("%+v", st)
	}
}

func TestDo(t *testing.T) {
	for _, kind := range []string{"http1", "h2c", "h3"} {
		addr, change := backendOf(t, kind, echoTo)
		c := cluster(t, change, addr)
		for _, one := range []struct {
			body io.Reader
			want string
		}{{nil, ""}, {strings.NewReader("hello"), "hello"}, {io.MultiReader(strings.NewReader("chunked")), "chunked"}} {
			resp, err := c.Do(request(t, "POST", "http://who.example/p?q", one.body))
			if err != nil {
				t.Fatal(err)
			}
			if n := c.Upstream().Snapshot().InFlight; n != 1 {
				t.Errorf("%d in flight before the answer's end", n)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			resp.Body.Close()
			if err != nil || string(b) != one.want || !strings.HasSuffix(resp.Header.Get("Seen"), "POST /p?q who.example") {
				t.Errorf("%q, %q, %v", b, resp.Header.Get("Seen"), err)
			}
		}
		if s := c.Upstream().Snapshot(); s.InFlight != 0 || s.Endpoints[0].Successes != 3 {
			t.Errorf("%+v", s)
		}
	}
}

func TestClosedCluster(t *testing.T) {
	c := cluster(t, nil, backend(t, echoTo))
	c.Close(t.Context())
	if _, err := c.Do(request(t, "GET", "http://a/", nil)); !errors.Is(err, errClosed) {
		t.Error(err)
	}
}

// TestPrune: connections to endpoints that left the list are closed, those in use when
// their requests end.
func TestPrune(t *testing.T) {
	a, b := backend(t, echoTo), backend(t, echoTo)
	c := cluster(t, nil, a)
	h := handler(t, Options{Targets: []Target{{Cluster: c}}})
	ask := func() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if w.Code != 200 {
			t.Fatal(w.Code)
		}
	}
	ask()
	if err := c.Upstream().Set([]upstream.Spec{{Address: b}}); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	c.pruned = time.Time{}
	c.mu.Unlock()
	ask()
	if p := c.Pools(); len(p) != 1 || p[0].Endpoint != b {
		t.Errorf("%+v", p)
	}
}

// TestBusyPool: a pool whose connections are all in use says nothing of the endpoint: its
// breaker stays closed.
func TestBusyPool(t *testing.T) {
	held, release := make(chan struct{}), make(chan struct{})
	slow := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/held" {
			close(held)
			<-release
		}
	})
	c := cluster(t, func(u *upstream.Config, c *Config) {
		u.Breaker = upstream.BreakerConfig{ConsecutiveFailures: 2}
		u.Retry.Attempts = 1
		c.Pool = pool.DefaultConfig()
		c.Pool.Max, c.Pool.MaxWaiting = 1, 0
	}, slow)
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: c}}}))
	done := make(chan int, 1)
	go func() {
		resp, err := http.Get(s.URL + "/held")
		if err != nil {
			done <- 0
			return
		}
		resp.Body.Close()
		done <- resp.StatusCode
	}()
	<-held
	for range 5 {
		if resp, body := fetch(t, request(t, "GET", s.URL, nil)); resp.StatusCode != 503 || !strings.Contains(body, "upstream_full") {
			t.Errorf("beside one that is held: %d %s", resp.StatusCode, body)
		}
	}
	if got := c.up.Snapshot().Endpoints[0]; got.Breaker.State != "closed" || got.ConnectFailed != 0 || got.Canceled != 5 {
		t.Errorf("%+v", got)
	}
	close(release)
	if status := <-done; status != 200 {
		t.Errorf("held: %d", status)
	}
}
