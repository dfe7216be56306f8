package gateway

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/np-appliance/np/ctrl/gateway/pipes"
	"github.com/np-appliance/np/ctrl/gateway/server/servertest"
	"github.com/np-appliance/np/ctrl/upstream"
)

// chaosGroup is one upstream with its backends and its load.
type chaosGroup struct {
	name     string
	backends []*chaosBackend
	load     *chaosLoad
}

const (
	chaosBackends = 3
	// detectTime is more than it may take until a failing endpoint gets no more requests:
	// three checks of health.timeout and fail_interval.
	detectTime = 10 * time.Second
	// recoverTime is more than it may take until one that is well again gets its share:
	// checks, breaker.max_open_time and outlier.max_eject_time.
	recoverTime = 10 * time.Second
)

// chaosUpstream is tuned to find out and to recover in a fraction of a second.
const chaosUpstream = `
panic_percent = 30 # one of three is enough
health.kind = "http"
health.path = "/health"
health.interval = "50ms"
health.fail_interval = "50ms"
health.timeout = "1s"
health.fall = 2
health.rise = 2
outlier.consecutive_failures = 3
outlier.interval = "50ms"
outlier.eject_time = "300ms"
outlier.max_eject_time = "500ms"
outlier.max_eject_percent = 67
breaker.consecutive_failures = 10
breaker.open_time = "200ms"
breaker.max_open_time = "300ms"
breaker.return = "100ms"
retry.attempts = 4
retry.base = "5ms"
retry.per_try = "1s"
retry.budget_percent = 0
retry.statuses = [503]
timeouts.connect = "1s"
`

// chaosWorld is a gateway under load, before backends of each protocol.
type chaosWorld struct {
	*rig
	groups []*chaosGroup
	log    *chaosLog
	net    *chaosNet // of the backends
	front  *pipes.Listener
	text   string // the configuration
}

func newChaos(t *testing.T) *chaosWorld {
	certs, ca := chaosCerts(t)
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	w := &chaosWorld{log: &chaosLog{seen: map[string][]int{}}, net: &chaosNet{listeners: map[string]*pipes.Listener{}}, front: pipes.Listen()}
	var conf strings.Builder
	for name, more := range map[string]string{
		"http1": "protocol = \"http1\"\n",
		"h2c":   "protocol = \"h2c\"\n",
		"tls1":  "protocol = \"http1\"\ntls.enabled = true\ntls.server_name = \"backend.test\"\ntls.ca_file = \"" + caFile + "\"\n",
		"tls2":  "protocol = \"auto\"\ntls.enabled = true\ntls.server_name = \"backend.test\"\ntls.ca_file = \"" + caFile + "\"\n",
	} {
		g := &chaosGroup{name: name}
		var addresses []string
		for i := range chaosBackends {
			b := &chaosBackend{index: i, log: w.log, listen: w.net.listen}
			if strings.Contains(more, "tls.enabled") {
				b.certs = certs
			}
			b.start(t)
			t.Cleanup(func() {
				if fault(b.fault.Load()) != faultDead {
					b.stop(t)
				}
			})
			g.backends = append(g.backends, b)
			addresses = append(addresses, b.address)
		}
		w.groups = append(w.groups, g)
		conf.WriteString(upstreamOf(name, addresses...) + more + chaosUpstream)
		fmt.Fprintf(&conf, "[[route]]\nname = %q\npath_prefix = \"/%s\"\nupstream = %q\n", name, name, name)
	}
	w.text = conf.String()
	r, s := rigServer(t, load(t, w.text), func(ctx context.Context, _, network, address string) (net.Conn, error) {
		for _, g := range w.groups {
			for _, b := range g.backends {
				if b.address == address {
					if err := b.lost(ctx); err != nil {
						return nil, err
					}
				}
			}
		}
		return w.net.dial(ctx, network, address)
	})
	servertest.StartOn(t, s, w.front, time.Minute)
	w.rig = r
	for _, g := range w.groups {
		g.load = startLoad(t, w.front.Dial, "http://gateway/"+g.name, "GET", "PUT", "POST", "POST")
	}
	return w
}

// endpoints are a group's, in the order of its backends.
func (w *chaosWorld) endpoints(g *chaosGroup) (out [chaosBackends]upstream.EndpointSnapshot) {
	for _, e := range w.gen.Load().clusters[g.name].up.Snapshot().Endpoints {
		for i, b := range g.backends {
			if b.address == e.Address {
				out[i] = e
			}
		}
	}
	return out
}

// takes says which endpoints of a group take requests and are well.
func (w *chaosWorld) takes(g *chaosGroup) []bool {
	var out []bool
	for _, e := range w.endpoints(g) {
		out = append(out, e.Takes && e.Health == "healthy")
	}
	return out
}

// awaitTakes waits until all groups' endpoints take requests as wanted, and returns when
// that was for each.
func (w *chaosWorld) awaitTakes(t *testing.T, within time.Duration, want ...bool) map[string]time.Time {
	t.Helper()
	at := map[string]time.Time{}
	for end := time.Now().Add(within); len(at) < len(w.groups); time.Sleep(2 * time.Millisecond) {
		for _, g := range w.groups {
			got := w.takes(g)
			if _, ok := at[g.name]; !ok && slices.Equal(got, want) {
				at[g.name] = time.Now()
			} else if !ok && time.Now().After(end) {
				t.Fatalf("%s: endpoints take requests: %v, want %v after %v", g.name, got, want, within)
			}
		}
	}
	return at
}

// TestChaos breaks backends in each way under load. No idempotent request fails while one
// backend is well; others fail only if they were with a failing backend before that was
// found out, and none is sent twice. Backends that are well again get their share.
// All of it runs on a clock that stands still while anybody has something to do: what is
// too late there would be with any machine.
func TestChaos(t *testing.T) { synctest.Test(t, testChaos) }

func testChaos(t *testing.T) {
	t.Cleanup(func() { time.Sleep(time.Minute) }) // for what takes its time to end, when all else has
	w := newChaos(t)
	w.awaitTakes(t, detectTime, true, true, true)
	for _, f := range [][2]fault{{faultDead, faultDead}, {faultStall, faultLost}, {faultSlow, faultSlow}, {faultGarbage, faultHalfClose}, {faultReset, faultReset},
		{faultStatus, faultGarbage}, {faultTruncate, faultTruncate}, {faultExpired, faultExpired}} {
		w.step(t, f)
		if t.Failed() {
			return
		}
	}
	w.allDown(t)
	w.reloads(t)
	w.rudeClients(t)
	w.nothingLeft(t)
}

// reloads makes all upstreams again, over and over: nothing fails, POST included.
func (w *chaosWorld) reloads(t *testing.T) {
	t.Helper()
	w.log.forget()
	for _, g := range w.groups {
		g.load.take()
	}
	for i := range 30 {
		w.apply(t, load(t, strings.ReplaceAll(w.text, "panic_percent = 30", fmt.Sprintf("panic_percent = 30\nslow_start = \"%dms\"", i%2))))
		time.Sleep(20 * time.Millisecond)
	}
	for _, g := range w.groups {
		g.load.await(t, 20)
	}
	for _, g := range w.groups {
		_, failed := g.load.take()
		for _, r := range failed {
			t.Errorf("%s: %s failed while reloading: %v", g.name, r.id, r.err)
		}
	}
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	for id, seen := range w.log.seen {
		if len(seen) > 1 && id != "" {
			t.Errorf("%s was sent to %v while reloading", id, seen)
		}
	}
}

// rudeClients go away in the middle of requests, which must not be held against
// endpoints: nothing of others fails.
func (w *chaosWorld) rudeClients(t *testing.T) {
	t.Helper()
	for _, g := range w.groups {
		for _, b := range g.backends {
			b.set(t, faultSlow)
		}
		g.load.take()
	}
	for i := range 300 {
		c, err := w.front.Dial(t.Context(), "tcp", "")
		if err != nil {
			t.Fatal(err)
		}
		g := w.groups[i%len(w.groups)]
		whole := fmt.Sprintf("POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n%s", g.name, strings.Repeat("r", 1000))
		fmt.Fprint(c, whole[:i*len(whole)/300])
		time.Sleep(time.Duration(i%7) * time.Millisecond)
		c.Close()
	}
	for _, g := range w.groups {
		for i, takes := range w.takes(g) {
			if !takes {
				t.Errorf("%s: endpoint %d takes no requests since clients went away", g.name, i)
			}
			g.backends[i].set(t, faultNone)
		}
		_, failed := g.load.take()
		for _, r := range failed {
			t.Errorf("%s: %s failed beside clients that went away: %v", g.name, r.id, r.err)
		}
	}
}

// nothingLeft: after the load no request counts as being in flight, and no connection as
// being in use.
func (w *chaosWorld) nothingLeft(t *testing.T) {
	t.Helper()
	for _, g := range w.groups {
		g.load.stop()
	}
	for end := time.Now().Add(recoverTime); ; time.Sleep(5 * time.Millisecond) {
		left := ""
		for _, u := range w.Upstreams() {
			for _, e := range u.Endpoints {
				if e.InFlight != 0 {
					left += fmt.Sprintf(" %s %s: %d requests", u.Name, e.Address, e.InFlight)
				}
			}
			if u.InFlight != 0 || u.Waiting != 0 {
				left += fmt.Sprintf(" %s: %d requests, %d waiting", u.Name, u.InFlight, u.Waiting)
			}
		}
		for _, p := range w.Pools() {
			if p.InFlight != 0 || p.Pool.Borrowed != 0 || p.Pool.Waiting != 0 {
				left += fmt.Sprintf(" %s %s: %+v", p.Upstream, p.Endpoint, p)
			}
		}
		if left == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left after all requests:%s", left)
		}
	}
}

// step makes two of three backends fail, and be well again.
func (w *chaosWorld) step(t *testing.T, f [2]fault) {
	t.Helper()
	for _, g := range w.groups {
		g.load.take()
	}
	broken := time.Now()
	for _, g := range w.groups {
		for i, b := range g.backends[:2] {
			if f[i] != faultExpired || b.certs[0] != nil {
				b.set(t, f[i])
			}
		}
	}
	found := w.awaitFound(t, f)
	time.Sleep(300 * time.Millisecond) // requests that begin now must not fail
	healed := time.Now()
	var before [][chaosBackends]int64
	for _, g := range w.groups {
		var n [chaosBackends]int64
		for i, b := range g.backends {
			if i < 2 {
				b.set(t, faultNone)
			}
			n[i] = b.served.Load()
		}
		before = append(before, n)
	}
	w.awaitTakes(t, recoverTime, true, true, true)
	for i, g := range w.groups {
		for k, b := range g.backends {
			for end := time.Now().Add(recoverTime); b.served.Load() < before[i][k]+10; time.Sleep(2 * time.Millisecond) {
				if time.Now().After(end) {
					t.Errorf("%s after %v: backend %d got %d requests within %v", g.name, f, k, b.served.Load()-before[i][k], recoverTime)
					break
				}
			}
		}
		w.judge(t, g, f, broken, found[g.name])
	}
	w.log.forget()
	t.Logf("%v: found within %v, well again within %v", f, latest(found).Sub(broken).Round(time.Millisecond), time.Since(healed).Round(time.Millisecond))
}

func latest(m map[string]time.Time) time.Time {
	var last time.Time
	for _, at := range m {
		if at.After(last) {
			last = at
		}
	}
	return last
}

// awaitFound waits until no failing endpoint takes requests. Those that are merely slow go
// on, and so do those whose health check succeeds.
func (w *chaosWorld) awaitFound(t *testing.T, f [2]fault) map[string]time.Time {
	t.Helper()
	if f[0] == faultSlow {
		return w.awaitTakes(t, detectTime, true, true, true)
	}
	at := map[string]time.Time{}
	for end := time.Now().Add(detectTime); len(at) < len(w.groups); time.Sleep(2 * time.Millisecond) {
		for _, g := range w.groups {
			if _, ok := at[g.name]; ok {
				continue
			}
			got := w.endpoints(g)
			found := func(e upstream.EndpointSnapshot) bool {
				// Ejections end before checks have failed as often as they must, where those time out.
				return e.Health == "unhealthy" || f[0] == faultTruncate && !e.Takes
			}
			if found(got[0]) && found(got[1]) && got[2].Takes || f[0] == faultExpired && g.backends[0].certs[0] == nil {
				at[g.name] = time.Now()
			} else if time.Now().After(end) {
				t.Fatalf("%s, %v: not found within %v: %+v", g.name, f, detectTime, got)
			}
		}
	}
	return at
}

// judge says which failed requests should not have.
func (w *chaosWorld) judge(t *testing.T, g *chaosGroup, f [2]fault, broken, found time.Time) {
	t.Helper()
	n, failed := g.load.take()
	if n < 20 {
		t.Errorf("%s, %v: %d requests, the load stood still", g.name, f, n)
	}
	allowed := 0
	for _, r := range failed {
		seen := w.log.of(r.id)
		// What began to come can't be asked for again.
		torn := f[0] == faultTruncate && strings.Contains(r.err.Error(), "EOF")
		withFailing := len(seen) == 0 || len(seen) == 1 && seen[0] < 0
		inTime := r.begin.Before(found) && !r.end.Before(broken)
		atCut := (f[0] == faultDead || f[0] == faultExpired) && r.begin.Before(found) // seen before the cut
		switch {
		case torn && (r.begin.Before(found) || len(seen) > 0):
			allowed++
		case r.method == http.MethodPost && inTime && (withFailing || atCut && len(seen) == 1 && seen[0] != 2):
			allowed++
		default:
			t.Errorf("%s, %v: %s %s failed: %v; begun %v after the fault, which was found after %v; seen by %v", g.name, f, r.method, r.id, r.err,
				r.begin.Sub(broken), found.Sub(broken), seen)
		}
	}
	w.log.mu.Lock()
	for id, seen := range w.log.seen {
		if len(seen) > 1 && strings.Contains(id, "/POST/") {
			t.Errorf("%s, %v: %s was sent to %v", g.name, f, id, seen)
		}
	}
	w.log.mu.Unlock()
	t.Logf("%s, %v: %d requests, %d failed as they may", g.name, f, n, allowed)
}

// allDown kills everybody: requests fail at once and not by a time-out, and all is well
// soon after the backends are.
func (w *chaosWorld) allDown(t *testing.T) {
	t.Helper()
	for _, g := range w.groups {
		for _, b := range g.backends {
			b.set(t, faultDead)
		}
	}
	time.Sleep(1500 * time.Millisecond) // long enough for pauses between connects to grow
	for _, g := range w.groups {
		g.load.take()
	}
	for _, g := range w.groups {
		g.load.await(t, 10)
	}
	for _, g := range w.groups {
		n, failed := g.load.take()
		if len(failed) != n {
			t.Errorf("%s: %d of %d requests failed with nobody there", g.name, len(failed), n)
		}
		for _, r := range failed {
			if d := r.end.Sub(r.begin); d > time.Second || !strings.Contains(r.err.Error(), "status 50") {
				t.Errorf("%s: %s failed after %v: %v", g.name, r.id, d, r.err)
			}
		}
	}
	for _, g := range w.groups {
		for _, b := range g.backends {
			b.set(t, faultNone)
		}
	}
	w.awaitQuiet(t, time.Now())
	w.awaitTakes(t, recoverTime, true, true, true)
}

// awaitQuiet waits until no request of any group fails for a while, as it has to be soon
// after all backends are well.
func (w *chaosWorld) awaitQuiet(t *testing.T, healed time.Time) {
	t.Helper()
	const quiet = 300 * time.Millisecond
	last := healed
	var lastErr string
	for time.Since(last) < quiet {
		time.Sleep(10 * time.Millisecond)
		for _, g := range w.groups {
			_, failed := g.load.take()
			for _, r := range failed {
				if r.end.After(last) {
					last, lastErr = r.end, fmt.Sprintf("%s: %s: %v", g.name, r.id, r.err)
				}
			}
		}
		if last.Sub(healed) > recoverTime {
			t.Fatalf("requests fail %v after all backends were well: %s", last.Sub(healed), lastErr)
		}
	}
	t.Logf("all down: the last failure was %v after all backends were well: %s", last.Sub(healed).Round(time.Millisecond), lastErr)
}

// chaosName is a DNS server with one name, whose answers change.
type chaosName struct {
	mu      sync.Mutex
	rcode   int
	address string
}

func (n *chaosName) set(rcode int, address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rcode, n.address = rcode, address
}

// ServeDNS implements [dns.Handler].
func (n *chaosName) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := new(dns.Msg)
	m.SetRcode(q, n.rcode)
	m.RecursionAvailable = true
	if n.rcode == dns.RcodeSuccess && q.Question[0].Qtype == dns.TypeA {
		if rr, err := dns.NewRR("api.test. 0 IN A " + n.address); err == nil {
			m.Answer = []dns.RR{rr}
		}
	}
	w.WriteMsg(m)
}

// serve starts the server and returns its address.
func (n *chaosName) serve(t *testing.T) string {
	t.Helper()
	started, served := make(chan struct{}), make(chan error, 1)
	server := &dns.Server{Addr: "127.0.0.1:0", Net: "udp", Handler: n, NotifyStartedFunc: func() { close(started) }}
	go func() { served <- server.ListenAndServe() }()
	select {
	case <-started:
	case err := <-served:
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Shutdown(); <-served })
	return server.PacketConn.LocalAddr().String()
}

// TestChaosDNS: names that fail, vanish and move, under load. Nothing fails.
func TestChaosDNS(t *testing.T) {
	log := &chaosLog{seen: map[string][]int{}}
	var backends []*chaosBackend
	var port string
	for i := range 2 { // one port of two addresses of loopback
		b := &chaosBackend{index: i, log: log, listen: listenNet}
		if i > 0 {
			b.address = "127.0.0.2:" + port
		}
		b.start(t)
		t.Cleanup(func() { b.stop(t) })
		_, port, _ = strings.Cut(b.address, ":")
		backends = append(backends, b)
	}
	name := &chaosName{address: "127.0.0.1"}
	r := newRig(t, fmt.Sprintf("[[upstream]]\nname = \"u\"\ndiscover = \"dns://%s/api.test:%s?ttl_min=20ms&timeout=5s&empty=keep\"\n%s[[route]]\nname = \"u\"\npath_prefix = \"/\"\nupstream = \"u\"\n",
		name.serve(t), port, strings.ReplaceAll(chaosUpstream, `"1s"`, `"30s"`))) // nothing is to be late here
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	serves := func(b *chaosBackend) {
		t.Helper()
		before := b.served.Load()
		until(fmt.Sprintf("backend %d does not serve", b.index), func() bool { return b.served.Load() >= before+20 })
	}
	at := func(address string) func() bool {
		return func() bool {
			s := r.gen.Load().clusters["u"].up.Specs()
			return len(s) == 1 && strings.HasPrefix(s[0].Address, address+":")
		}
	}
	until("no endpoint", at("127.0.0.1"))
	load := startLoad(t, new(net.Dialer).DialContext, r.url, "GET", "POST", "PUT", "POST")
	serves(backends[0])
	for _, rcode := range []int{dns.RcodeServerFailure, dns.RcodeNameError, dns.RcodeRefused} {
		name.set(rcode, "")
		time.Sleep(150 * time.Millisecond)
		serves(backends[0])
		until("no error is told", func() bool { d, _ := r.Discovery("u"); return d.Status.Err != nil && !d.Status.Good.IsZero() })
	}
	name.set(dns.RcodeSuccess, "127.0.0.2")
	until("did not move", at("127.0.0.2"))
	serves(backends[1])
	name.set(dns.RcodeSuccess, "0.0.0.0")
	time.Sleep(100 * time.Millisecond)
	serves(backends[1])
	load.stop()
	if n, failed := load.take(); len(failed) > 0 {
		t.Errorf("%d of %d requests failed: %s, %v", len(failed), n, failed[0].id, failed[0].err)
	}
}
