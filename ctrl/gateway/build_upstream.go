package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/discovery"
	"github.com/np-appliance/np/ctrl/gateway/forward"
	"github.com/np-appliance/np/ctrl/gateway/grpchealth"
	"github.com/np-appliance/np/ctrl/gateway/message"
	"github.com/np-appliance/np/ctrl/pool"
	"github.com/np-appliance/np/ctrl/secure"
	"github.com/np-appliance/np/ctrl/upstream"
)

// cluster is one [[upstream]] with what runs for it.
type cluster struct {
	name   string
	cfg    config.Upstream
	pool   config.Pool
	files  [sha256.Size]byte // what it was made with
	up     *upstream.Upstream
	fwd    *forward.Cluster
	npro   *message.Cluster // of protocol npro
	source upstream.Source  // nil: static
	kept   *discovery.Kept  // source, where its list is kept in a file; nil: it is not
	last   time.Time        // of the list of the last run that it begins with; zero: it does not
	stop   context.CancelFunc
	warms  atomic.Bool // also read where source says what there is
}

// upstreams makes the clusters, or carries them over from the generation before.
func (b *builder) upstreams() {
	for i := range b.cfg.Upstreams {
		u := &b.cfg.Upstreams[i]
		at := fmt.Sprintf("upstream[%d]", i)
		specs := b.endpoints(at, u)
		b.next.specs[u.Name] = specs
		p := b.cfg.PoolOf(u)
		if old := b.old.clusters[u.Name]; old != nil && old.pool.PerWorker == p.PerWorker && sameButEndpoints(&old.cfg, u) && old.files == stampUpstream(u) {
			b.next.clusters[u.Name] = old
			continue
		}
		if c := b.cluster(at, u, p, specs); c != nil {
			b.next.clusters[u.Name] = c
		}
	}
}

// sameButEndpoints says whether two upstreams differ at most in what a running cluster
// takes over: a static list, the pool, and what is of routes.
func sameButEndpoints(a, c *config.Upstream) bool {
	x, y := *a, *c
	for _, u := range [...]*config.Upstream{&x, &y} {
		u.Endpoints, u.Pool = nil, config.Pool{}
		u.Forwarded, u.ViaName, u.DeadlineFields, u.HashKey = "", "", nil, ""
		u.Retry.Statuses, u.Retry.Unsafe, u.Retry.RetryAfterMax, u.Retry.BufferBody, u.Timeouts.Stream = nil, false, 0, 0, 0
	}
	return reflect.DeepEqual(x, y)
}

// endpoints reads the list of an upstream, in the words that a file of endpoints has.
func (b *builder) endpoints(at string, u *config.Upstream) []upstream.Spec {
	var out []upstream.Spec
	for i, line := range u.Endpoints {
		specs, err := upstream.Parse("endpoints", line)
		if err == nil && (strings.Contains(line, "\n") || len(specs) != 1) {
			err = fmt.Errorf("got %q", line)
		}
		if err != nil {
			text := strings.TrimPrefix(err.Error(), "endpoints:1: ")
			b.failf(fmt.Sprintf("%s.endpoints[%d]", at, i), "upstream.endpoints: %s, expected host:port, [IPv6]:port or unix:PATH, then weight=N, priority=N, locality=NAME, drain or disabled", text)
			continue
		}
		out = append(out, specs...)
	}
	return out
}

func (b *builder) cluster(at string, u *config.Upstream, p config.Pool, specs []upstream.Spec) *cluster {
	c := &cluster{name: u.Name, cfg: *u, pool: p, files: stampUpstream(u)}
	c.warms.Store(p.WarmUp && p.Min > 0)
	cfg := upstreamConfig(u)
	cfg.Rand = b.g.o.Rand
	tlsConfig := b.clientTLS(at, u)
	cfg.Health.Checker = b.checker(u, tlsConfig)
	up, err := upstream.New(cfg)
	if u.Discover != "" {
		specs = b.discover(at, u, c)
	}
	if err == nil {
		err = up.Set(specs)
	}
	if err != nil {
		each(err, func(err error) { b.failf(at, "%s", strings.TrimPrefix(err.Error(), "upstream "+u.Name+": ")) })
		return nil
	}
	c.up = up
	if u.Protocol == "npro" {
		if c.npro = b.nproCluster(at, u, p, up); c.npro == nil {
			return nil
		}
	}
	c.fwd, err = forward.NewCluster(b.forwardConfig(u, p, up, tlsConfig))
	if err != nil {
		each(err, func(err error) { b.failf(at, "%s", strings.TrimPrefix(err.Error(), "upstream "+u.Name+": ")) })
		return nil
	}
	return c
}

// forwardConfig is how an upstream's endpoints are spoken to.
func (b *builder) forwardConfig(u *config.Upstream, p config.Pool, up *upstream.Upstream, t *tls.Config) forward.Config {
	c := forward.Config{Upstream: up, Dial: b.dial(u), Pool: poolConfig(u, p), TLS: t}
	switch u.Protocol {
	case "auto":
		c.Protocol = forward.HTTP1
		if c.TLS != nil {
			c.Protocol = forward.Auto
		}
	case "h2":
		c.Protocol = forward.H2
	case "h2c":
		c.Protocol = forward.H2C
	case "h3":
		c.Protocol = forward.H3
		packet, via := b.g.o.Packet, u.Via
		c.Packet = func(ctx context.Context, address string) (net.PacketConn, net.Addr, error) {
			return packet(ctx, via, address)
		}
	}
	switch u.Host {
	case "preserve":
	case "endpoint":
		c.HostMode = forward.HostEndpoint
	default:
		c.HostMode, c.Host = forward.HostFixed, u.Host
	}
	c.ProxyProtocol = proxyVersion(u)
	return c
}

// clientTLS is what an upstream says of TLS towards its endpoints; nil: none.
func (b *builder) clientTLS(at string, u *config.Upstream) *tls.Config {
	t := &u.TLS
	if !t.Enabled {
		return nil
	}
	s := secure.Client{ServerName: t.ServerName, Common: secure.Common{MinVersion: tls.VersionTLS12, Pins: t.Pins, Now: b.g.o.Now}}
	if t.CAFile != "" {
		ca, err := secure.ReadCA(t.CAFile)
		b.fail(at+".tls.ca_file", err)
		s.CA = ca
	}
	if t.CertFile != "" {
		store, err := secure.Load([]secure.Files{{Cert: t.CertFile, Key: t.KeyFile}}, false, b.g.o.Now)
		b.fail(at+".tls.cert_file", err)
		s.Store = store
	}
	c, err := s.Config()
	b.fail(at+".tls", err)
	if c != nil && !t.Verify {
		c.InsecureSkipVerify = true // asked for; pins are checked all the same
	}
	return c
}

// proxyVersion is the version of the PROXY protocol that endpoints are told the client by; 0: none.
func proxyVersion(u *config.Upstream) int {
	return map[string]int{"v1": 1, "v2": 2}[u.ProxyProtocol]
}

// dialCheck is dial for health checks. An endpoint that wants a PROXY header wants one of
// these connections too, and would fail each check without.
func (b *builder) dialCheck(u *config.Upstream) upstream.DialFunc {
	dial, version := b.dial(u), proxyVersion(u)
	if version == 0 {
		return dial
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if at, has := ctx.Deadline(); has {
			_ = nc.SetWriteDeadline(at) // what can't set one can't wait either
		}
		if _, err := nc.Write(forward.OwnProxyHeader(version)); err != nil {
			_ = nc.Close() // the error that matters is the write's
			return nil, fmt.Errorf("write PROXY header: %w", err)
		}
		_ = nc.SetWriteDeadline(time.Time{})
		return nc, nil
	}
}

func (b *builder) checker(u *config.Upstream, t *tls.Config) upstream.Checker {
	switch u.Health.Kind {
	case "tcp":
		return &upstream.TCPChecker{Dial: b.dialCheck(u)}
	case "grpc":
		return &grpchealth.Checker{Dial: b.dialCheck(u), Service: u.Health.Service, TLS: t}
	case "http":
		return &upstream.HTTPChecker{Dial: b.dialCheck(u), TLS: t, Protocols: checkProtocols(u), Path: u.Health.Path, Host: u.Health.Host, StatusMin: u.Health.StatusMin, StatusMax: u.Health.StatusMax, Body: u.Health.Body}
	}
	return nil
}

// dial connects to an endpoint of an upstream.
func (b *builder) dial(u *config.Upstream) upstream.DialFunc {
	dial, via := b.g.o.Dial, u.Via
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return dial(ctx, via, network, address)
	}
}

// speaksHTTP refuses an upstream that requests can't be forwarded to.
func (b *builder) speaksHTTP(path, name string) {
	if u := b.cfg.UpstreamNamed(name); u != nil && (u.Protocol == "tcp" || u.Protocol == "npro") {
		b.failf(path, "[[upstream]] %q speaks %s, expected one that speaks HTTP", name, u.Protocol)
	}
}

// forwardOptions sets what an upstream says of how requests are forwarded to it.
func forwardOptions(o *forward.Options, u *config.Upstream) {
	o.RetryStatus, o.RetryUnsafe, o.RetryAfterMax = u.Retry.Statuses, u.Retry.Unsafe, u.Retry.RetryAfterMax
	if o.BufferBody = int64(u.Retry.BufferBody); o.BufferBody == 0 {
		o.BufferBody = -1
	}
	o.StreamIdle, o.Via = u.Timeouts.Stream, u.ViaName
	switch u.Forwarded {
	case "off":
		o.XForwarded, o.Forwarded = forward.SpokenRemove, forward.SpokenRemove
	case "x":
		o.Forwarded = forward.SpokenRemove
	case "rfc7239":
		o.XForwarded, o.ForwardedOn = forward.SpokenRemove, true
	case "both":
		o.ForwardedOn = true
	case "keep":
		o.XForwarded, o.Forwarded = forward.SpokenKeep, forward.SpokenKeep
	}
	for _, d := range u.DeadlineFields {
		name, unit, _ := strings.Cut(d, "=")
		o.Deadlines = append(o.Deadlines, forward.DeadlineField{Name: name, Unit: map[string]time.Duration{"s": time.Second, "ms": time.Millisecond, "us": time.Microsecond}[unit]})
	}
}

// hashKey is where the key comes from that keeps requests at an endpoint; config checked it.
func hashKey(u *config.Upstream) []forward.HashKey {
	kind, name, _ := strings.Cut(u.HashKey, ":")
	from := map[string]forward.HashFrom{"client_ip": forward.HashClient, "path": forward.HashPath, "header": forward.HashHeader, "cookie": forward.HashCookie, "query": forward.HashQuery}[kind]
	return []forward.HashKey{{From: from, Name: name}}
}

// hashing are the keys by which endpoints of an upstream are chosen; nil: by none.
func (b *builder) hashing(name string) []forward.HashKey {
	if u := b.cfg.UpstreamNamed(name); u != nil && (u.Balance == "ring_hash" || u.Balance == "maglev") {
		return hashKey(u)
	}
	return nil
}

func balance(word string) upstream.Policy {
	switch word {
	case "least_request":
		return upstream.LeastRequest
	case "ring_hash":
		return upstream.RingHash
	case "maglev":
		return upstream.Maglev
	}
	return upstream.RoundRobin
}

func backoff(word string) upstream.Backoff {
	switch word {
	case "fixed":
		return upstream.BackoffFixed
	case "none":
		return upstream.BackoffNone
	}
	return upstream.BackoffExponential
}

func upstreamConfig(u *config.Upstream) upstream.Config {
	c := upstream.Config{
		Name:    u.Name,
		Balance: upstream.Balance{Policy: balance(u.Balance), BoundedLoad: float64(u.HashLoad) / 100},
		Health: upstream.HealthConfig{Interval: u.Health.Interval, FailInterval: u.Health.FailInterval, Timeout: u.Health.Timeout,
			Rise: u.Health.Rise, Fall: u.Health.Fall},
		Outlier: upstream.OutlierConfig{ConsecutiveFailures: u.Outlier.ConsecutiveFailures, Interval: u.Outlier.Interval,
			EjectTime: u.Outlier.EjectTime, MaxEjectTime: u.Outlier.MaxEjectTime, MaxEjectPercent: u.Outlier.MaxEjectPercent},
		Breaker: upstream.BreakerConfig{ConsecutiveFailures: u.Breaker.ConsecutiveFailures, ErrorPercent: u.Breaker.ErrorPercent,
			MinRequests: u.Breaker.MinRequests, Window: u.Breaker.Window, OpenTime: u.Breaker.OpenTime, MaxOpenTime: u.Breaker.MaxOpenTime, Return: u.Breaker.Return},
		Limits:   upstream.Limits{InFlight: u.Limits.InFlight, Waiting: u.Limits.Waiting},
		Timeouts: upstream.Timeouts{Connect: u.Timeouts.Connect, Request: u.Timeouts.Request, Idle: u.Timeouts.Idle, KeepAlive: u.Timeouts.KeepAlive},
		Retry: upstream.RetryPolicy{Attempts: u.Retry.Attempts, Backoff: backoff(u.Retry.Backoff), Base: u.Retry.Base, Max: u.Retry.Max, PerTry: u.Retry.PerTry,
			Total: u.Retry.Total, BudgetPercent: u.Retry.BudgetPercent, BudgetPerSecond: u.Retry.BudgetPerSecond},
		SlowStart: u.SlowStart, PanicPercent: u.PanicPercent, FailoverAt: u.FailoverAt,
	}
	if u.Outlier.Compare {
		c.Outlier.StdevFactor = 1.9
	}
	if u.PanicPercent == 0 {
		c.PanicPercent = -1
	}
	if u.Retry.BudgetPerSecond == 0 {
		c.Retry.BudgetPerSecond = -1
	}
	if u.Breaker.Return == 0 {
		c.Breaker.Return = -1
	}
	return c
}

func poolConfig(u *config.Upstream, p config.Pool) pool.Config {
	c := pool.DefaultConfig()
	c.Min, c.Max, c.MaxWaiting, c.AcquireTimeout = p.Min, p.Max, p.MaxWaiting, p.AcquireTimeout
	c.MaxLifetime, c.MaxUses, c.MaxConnecting, c.FailFast, c.WarmUp = p.MaxLifetime, p.MaxUses, p.MaxConnecting, p.FailFast, p.WarmUp
	c.IdleTimeout, c.ConnectTimeout = u.Timeouts.Idle, u.Timeouts.Connect
	if p.PerWorker {
		c.Shards = min(runtime.GOMAXPROCS(0), 1024)
	}
	// An endpoint that checks or the breaker let back must not wait for the pool's pause.
	c.BackoffMax = time.Second
	if u.Health.Kind != "none" {
		c.BackoffMax = min(c.BackoffMax, u.Health.FailInterval)
	}
	if u.Breaker.ConsecutiveFailures > 0 || u.Breaker.ErrorPercent > 0 {
		c.BackoffMax = min(c.BackoffMax, u.Breaker.OpenTime)
	}
	c.BackoffMin = min(c.BackoffMin, c.BackoffMax)
	return c
}

// start begins what runs for a cluster.
func (g *Gateway) start(c *cluster) {
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	g.wg.Go(func() { _ = c.up.Run(ctx) }) // nil when ctx ends
	c.warm()
	if c.source == nil {
		return
	}
	if !c.last.IsZero() {
		g.o.Log.Warn("endpoints of the last run are used until their source answers", "upstream", c.name, "endpoints", len(c.up.Specs()), "age", g.o.Now().Sub(c.last).Round(time.Second))
	}
	g.wg.Go(func() {
		err := c.source.Run(ctx, c.set, func(err error) {
			g.o.Log.Warn("endpoints not updated, those before stay", "upstream", c.name, "err", err)
		})
		if err != nil && ctx.Err() == nil {
			g.o.Log.Error("source of endpoints ended", "upstream", c.name, "err", err)
		}
	})
}

// set replaces the list of endpoints.
func (c *cluster) set(specs []upstream.Spec) error {
	err := c.up.Set(specs)
	if err == nil {
		c.warm()
	}
	return err
}

// warm opens the connections that are to be there before the first request.
func (c *cluster) warm() {
	switch {
	case !c.warms.Load():
	case c.npro != nil:
		c.npro.Warm()
	default:
		c.fwd.Warm()
	}
}

// update takes over what a running cluster can: another list of endpoints.
func (c *cluster) update(next *config.Config, specs []upstream.Spec) error {
	c.cfg = *next.UpstreamNamed(c.name)
	if p := next.PoolOf(&c.cfg); p != c.pool {
		err := c.fwd.SetPool(poolConfig(&c.cfg, p))
		if c.npro != nil {
			err = errors.Join(err, c.npro.SetPool(nproPool(&c.cfg, p)))
		}
		if err != nil {
			return err
		}
		c.pool = p
		c.warms.Store(p.WarmUp && p.Min > 0)
	}
	if c.source != nil {
		return nil
	}
	return c.set(specs)
}

// retire ends what runs for a cluster; its connections when their requests end.
func (g *Gateway) retire(c *cluster) {
	c.stop()
	g.afterwards(c.close)
}

// discard ends a cluster that never ran.
func (c *cluster) discard() { c.close(context.Background()) }

func (c *cluster) close(ctx context.Context) {
	if c.npro != nil {
		c.npro.Close(ctx)
	}
	c.fwd.Close(ctx)
}
