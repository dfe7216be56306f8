package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/h1"
	"github.com/np-appliance/np/ctrl/pool"
	"github.com/np-appliance/np/ctrl/upstream"
)

// Protocol is what is spoken with endpoints.
type Protocol uint8

// Protocols.
const (
	HTTP1 Protocol = iota
	H2             // over TLS
	H2C            // HTTP/2 in the clear, with prior knowledge (RFC 9113 §3.3)
	H3             // over QUIC
	Auto           // over TLS: h2 or HTTP/1.1, as the endpoint chooses by ALPN
)

// String returns the name used in configuration.
func (p Protocol) String() string {
	switch p {
	case HTTP1:
		return "http1"
	case H2:
		return "h2"
	case H2C:
		return "h2c"
	case H3:
		return "h3"
	case Auto:
		return "auto"
	}
	return "unknown"
}

// HostMode is what an endpoint sees as Host.
type HostMode uint8

// Host modes.
const (
	HostPreserve HostMode = iota // what the client said
	HostEndpoint                 // the endpoint's address, without the port if it is the scheme's
	HostFixed                    // Config.Host
)

// Config is what a cluster is made of. Upstream and Dial (for H3: Packet) are required.
type Config struct {
	Upstream *upstream.Upstream
	Protocol Protocol
	Dial     upstream.DialFunc
	// Packet gives a socket for QUIC to an endpoint's address, and the address to send to.
	Packet func(ctx context.Context, address string) (net.PacketConn, net.Addr, error)

	TLS *tls.Config // towards the endpoints; nil: none. An empty ServerName is the endpoint's host

	HostMode HostMode
	Host     string // for HostFixed

	// ProxyProtocol is 0, 1 or 2: the version of the PROXY protocol that each connection
	// begins with. Such connections carry one request: the client's address is the connection's.
	ProxyProtocol int

	Pool   pool.Config // of each endpoint's HTTP/1.1 connections; zero: DefaultPool
	Limits h1.Limits   // HeadBytes and ContinueTimeout hold for HTTP/2 and 3 too
}

// DefaultPool is how connections to an endpoint are kept where nothing else is said.
func DefaultPool() pool.Config {
	c := pool.DefaultConfig()
	c.Max, c.MaxWaiting, c.WarmUp, c.FailFast = 1024, 4096, false, true
	c.MaxConnecting = 16
	c.BackoffMax = 5 * time.Second
	return c
}

// Cluster is an upstream with the connections to its endpoints. It is safe for concurrent use.
type Cluster struct {
	cfg   Config
	up    *upstream.Upstream
	links atomic.Pointer[map[*upstream.Endpoint]link]

	mu     sync.Mutex // of changes of links
	closed bool
	pruned time.Time
	ending []link                // of endpoints that are gone
	ended  map[string]*PoolStats // totals of those that ended, by protocol
	wg     sync.WaitGroup        // ends of links
	ctx    context.Context
	stop   context.CancelFunc
}

// link is the connections to one endpoint.
type link interface {
	// send sends a request and returns the answer when its head is there. What it started
	// for the request has ended when it returns an error, or the answer's body is closed.
	send(ctx context.Context, q *h1.Request) (*http.Response, error)
	stats() PoolStats
	setPool(pool.Config) error
	close(ctx context.Context)
}

// NewCluster makes a cluster; it opens nothing. Its owner ends it with Close.
func NewCluster(cfg Config) (*Cluster, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, up: cfg.Upstream, ended: map[string]*PoolStats{}}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.links.Store(&map[*upstream.Endpoint]link{})
	return c, nil
}

func (c *Config) check() error {
	if c.Upstream == nil {
		return errors.New("cluster without an upstream")
	}
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("upstream "+c.Upstream.Name()+": "+format, args...))
	}
	if c.Pool == (pool.Config{}) {
		c.Pool = DefaultPool()
	}
	if err := c.Pool.Check(); err != nil {
		bad("pool: %w", err)
	}
	if err := c.Limits.Check(); err != nil {
		bad("limits: %w", err)
	}
	switch {
	case c.Protocol > Auto:
		bad("protocol %d, expected http1, h2, h2c, h3 or auto", c.Protocol)
	case c.TLS == nil && (c.Protocol == H2 || c.Protocol == H3 || c.Protocol == Auto):
		bad("protocol %s needs TLS, expected TLS settings, or protocol http1 or h2c", c.Protocol)
	case c.TLS != nil && c.Protocol == H2C:
		bad("protocol h2c is without TLS, expected protocol h2")
	case c.Protocol == H3 && c.Packet == nil:
		bad("protocol h3 needs a function that gives sockets")
	case c.Protocol != H3 && c.Dial == nil:
		bad("protocol %s needs a function to dial", c.Protocol)
	}
	if c.HostMode > HostFixed || c.HostMode == HostFixed && c.Host == "" {
		bad("host mode %d with host %q, expected preserve, endpoint, or fixed with a host", c.HostMode, c.Host)
	}
	if c.ProxyProtocol < 0 || c.ProxyProtocol > 2 {
		bad("proxy_protocol %d, expected 0 (none), 1 or 2", c.ProxyProtocol)
	}
	if c.ProxyProtocol != 0 && c.Protocol != HTTP1 {
		bad("proxy_protocol with protocol %s, expected http1: other connections carry requests of many clients", c.Protocol)
	}
	return errors.Join(errs...)
}

// Upstream returns the endpoints and their state.
func (c *Cluster) Upstream() *upstream.Upstream { return c.up }

// Name returns the upstream's name.
func (c *Cluster) Name() string { return c.up.Name() }

var errClosed = errors.New("cluster is closed")

// link returns the connections to an endpoint.
func (c *Cluster) link(e *upstream.Endpoint) (link, error) {
	if l, ok := (*c.links.Load())[e]; ok {
		return l, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := *c.links.Load()
	if l, ok := old[e]; ok {
		return l, nil
	}
	if c.closed {
		return nil, &h1.ConnectError{Err: errClosed}
	}
	l, err := c.newLink(e)
	if err != nil {
		return nil, &h1.ConnectError{Err: err}
	}
	next := make(map[*upstream.Endpoint]link, len(old)+1)
	for k, v := range old {
		next[k] = v
	}
	next[e] = l
	c.links.Store(&next)
	c.prune(time.Now())
	return l, nil
}

// Warm makes the pools of all endpoints in the list, so that those with a Min and WarmUp
// open connections before the first request.
func (c *Cluster) Warm() {
	for _, e := range c.up.Endpoints() {
		_, _ = c.link(e) // an error is a closed cluster's
	}
}

// pruneEvery is how often links of endpoints that left the list are looked for, at most:
// looking goes through all endpoints.
const pruneEvery = 10 * time.Second

// prune ends the links of endpoints that are no longer listed. c.mu is held.
func (c *Cluster) prune(now time.Time) {
	if now.Sub(c.pruned) < pruneEvery {
		return
	}
	c.pruned = now
	listed := map[string]bool{}
	for _, e := range c.up.Snapshot().Endpoints {
		listed[e.Address] = true
	}
	old := *c.links.Load()
	next := make(map[*upstream.Endpoint]link, len(old))
	for e, l := range old {
		if listed[e.Address()] && c.up.Has(e) {
			next[e] = l
			continue
		}
		c.end(l)
	}
	c.links.Store(&next)
}

// end closes a link in the background, once its requests have ended, and keeps what it
// counted. c.mu is held.
func (c *Cluster) end(l link) {
	c.ending = append(c.ending, l)
	c.wg.Go(func() {
		l.close(c.ctx)
		s := l.stats()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ending = slices.DeleteFunc(c.ending, func(o link) bool { return o == l })
		t := c.ended[s.Protocol]
		if t == nil {
			t = &PoolStats{Upstream: c.up.Name(), Protocol: s.Protocol}
			c.ended[s.Protocol] = t
		}
		s.Pool.Min, s.Pool.Max = 0, 0
		t.add(&s)
	})
}

func (s *PoolStats) add(o *PoolStats) {
	s.Pool.Add(&o.Pool)
	s.Conns += o.Conns
	s.InFlight += o.InFlight
	s.Opened += o.Opened
	s.Requests += o.Requests
}

// Gone returns the connections to endpoints that are no longer there, by protocol. With
// those of Pools they are what a sum needs that must not shrink.
func (c *Cluster) Gone() []PoolStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []PoolStats
	for _, t := range c.ended {
		out = append(out, *t)
	}
	for _, l := range c.ending {
		s := l.stats()
		s.Upstream = c.up.Name()
		out = append(out, s)
	}
	return out
}

func (c *Cluster) newLink(e *upstream.Endpoint) (link, error) {
	switch c.cfg.Protocol {
	case H2, H2C:
		return c.newH2(e)
	case H3:
		return c.newH3(e)
	case Auto:
		return c.newAuto(e), nil
	}
	return c.newH1(e, nil)
}

// Close ends all connections: those in use when their requests end, or when ctx does.
func (c *Cluster) Close(ctx context.Context) {
	c.mu.Lock()
	c.closed = true
	for _, l := range *c.links.Load() {
		c.wg.Go(func() { l.close(ctx) })
	}
	c.links.Store(&map[*upstream.Endpoint]link{})
	c.mu.Unlock()
	unhook := context.AfterFunc(ctx, c.stop)
	c.wg.Wait()
	unhook()
	c.stop()
}

// SetPool changes the pools of all endpoints, those to come included.
func (c *Cluster) SetPool(cfg pool.Config) error {
	if err := cfg.Check(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cfg.Pool = cfg
	var errs []error
	for _, l := range *c.links.Load() {
		errs = append(errs, l.setPool(cfg))
	}
	return errors.Join(errs...)
}

// PoolStats is the connections to one endpoint.
type PoolStats struct {
	Upstream string
	Endpoint string
	Protocol string // as spoken: "http/1.1", "h2", "h2c", "h3"; "" not known yet

	Pool pool.Stats // of HTTP/1.1

	// Of HTTP/2 and HTTP/3, whose connections carry many requests.
	Conns    int64  // open
	InFlight int64  // requests
	Opened   uint64 // connections
	Requests uint64
}

// Pools returns the connections of all endpoints, by address.
func (c *Cluster) Pools() []PoolStats {
	links := *c.links.Load()
	out := make([]PoolStats, 0, len(links))
	for e, l := range links {
		s := l.stats()
		s.Upstream, s.Endpoint = c.up.Name(), e.Address()
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Endpoint < out[j].Endpoint })
	return out
}

// scheme is that of requests to the cluster.
func (c *Cluster) scheme() string {
	if c.cfg.TLS != nil {
		return "https"
	}
	return "http"
}

// hostFor is what an endpoint sees as Host, asked for as host.
func (c *Cluster) hostFor(e *upstream.Endpoint, host string) string {
	switch c.cfg.HostMode {
	case HostFixed:
		return c.cfg.Host
	case HostEndpoint:
		return authority(e, c.cfg.TLS != nil)
	}
	return host
}

// authority is an endpoint's address as a Host field has it.
func authority(e *upstream.Endpoint, secure bool) string {
	network, address := e.Network()
	if network == "unix" {
		return "localhost"
	}
	port := ":80"
	if secure {
		port = ":443"
	}
	return strings.TrimSuffix(address, port)
}
