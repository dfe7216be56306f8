package gateway

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/grpcgw"
	"github.com/np-appliance/np/ctrl/gateway/meter"
	"github.com/np-appliance/np/ctrl/gateway/route"
	"github.com/np-appliance/np/ctrl/gateway/server"
	"github.com/np-appliance/np/ctrl/gateway/target"
	"github.com/np-appliance/np/ctrl/upstream"
)

// Options are what a gateway is made of.
type Options struct {
	// Dial connects to an endpoint; via is the upstream's key of that name.
	Dial func(ctx context.Context, via, network, address string) (net.Conn, error)
	// Packet gives a socket for QUIC to an endpoint's address, and that address resolved.
	Packet func(ctx context.Context, via, address string) (net.PacketConn, net.Addr, error)
	Log    *slog.Logger
	// Peer logs what a client did, limited in number; reason is a word of ours. nil: nobody hears of it.
	Peer    func(level slog.Level, reason, msg string, args ...any)
	Now     func() time.Time
	Version string        // of np, for traces
	State   string        // folder of what is kept from one run to the next; "": nothing is
	Rand    func() uint64 // random bits, safe for concurrent use; nil: math/rand/v2
}

// Gateway serves requests by the configuration in force.
type Gateway struct {
	o   Options
	gen atomic.Pointer[generation]

	meter   *meter.Meter
	commits atomic.Uint64
	dry     bool          // it only checks: nothing is opened
	closing chan struct{} // closed by Close
	closed  sync.Once

	mu   sync.Mutex    // Prepare, Commit and Close
	past []*generation // that were in force, and may have requests
	wg   sync.WaitGroup
}

// generation is one configuration, compiled. It does not change once it is in force, but
// for what its parts count.
type generation struct {
	cfg       *config.Config
	clusters  map[string]*cluster
	specs     map[string][]upstream.Spec // static lists of endpoints, by upstream
	table     *route.Table
	routes    []action                   // of each rule of the table
	opcodes   map[string]dispatch.Entry  // of routes for NPRO requests
	reflected map[string]*grpcgw.Gateway // by route and upstream: those whose descriptors come by reflection
	pass      *passing                   // connections that are passed on unopened
	anyHost   map[string]bool            // listeners where a certificate need not be for the host
	closers   []closer
	watch     watch
	policy    policies
	flight    flight
}

// action is what becomes of a route's requests.
type action struct {
	name  string
	early bool // takes requests in 0-RTT data
	http.Handler
}

// New makes a gateway without routes: all is refused until a first Commit.
func New(o Options) *Gateway {
	if o.Rand == nil {
		o.Rand = rand.Uint64
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Peer == nil {
		o.Peer = func(slog.Level, string, string, ...any) {}
	}
	g := &Gateway{o: o, meter: meter.New(), closing: make(chan struct{})}
	table, err := route.Compile(nil)
	if err != nil {
		panic(err) // nothing is wrong with nothing
	}
	g.gen.Store(&generation{cfg: &config.Config{}, table: table})
	return g
}

// Generation is a configuration that was compiled and can be put in force.
type Generation struct{ g *generation }

// Check says everything that is wrong with routes, upstreams and policies, each with its
// place in the configuration. Files that they name are read; nothing is connected to.
func Check(c *config.Config) error {
	g := New(Options{Dial: func(context.Context, string, string, string) (net.Conn, error) { return nil, errors.ErrUnsupported }})
	g.dry = true
	gen, err := g.Prepare(c)
	if err != nil {
		return err
	}
	g.Discard(gen)
	return nil
}

// Prepare compiles a configuration; nothing that is in force changes. What it makes is
// ended by Commit, or by Discard.
func (g *Gateway) Prepare(c *config.Config) (*Generation, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := &builder{g: g, cfg: c, old: g.gen.Load(), next: &generation{cfg: c, clusters: map[string]*cluster{}, specs: map[string][]upstream.Spec{}}}
	b.upstreams()
	b.policies()
	b.routes()
	b.passthrough()
	b.hosts()
	b.seen()
	if err := b.wrong(); err != nil {
		g.discard(b.next)
		return nil, err
	}
	return &Generation{b.next}, nil
}

// Commit puts a generation in force. Requests that are under way end as they began.
func (g *Gateway) Commit(n *Generation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.gen.Load()
	for name, c := range n.g.clusters {
		if before := old.clusters[name]; before != c {
			if before != nil {
				c.up.Inherit(before.up)
			}
			g.start(c)
		} else if err := c.update(n.g.cfg, n.g.specs[name]); err != nil { // checked by Prepare
			g.o.Log.Error("endpoints not updated, those before stay", "upstream", name, "err", err)
		}
	}
	g.startPolicies(&n.g.policy, &old.policy, n.g.clusters)
	g.gen.Store(n.g)
	g.commits.Add(1)
	g.past = append(g.past, old)
	g.finish(old)
	g.stopPolicies(&old.policy, &n.g.policy)
	g.stopWatching(&old.watch, &n.g.watch)
	for name, c := range old.clusters {
		if n.g.clusters[name] != c {
			g.retire(c)
		}
	}
}

// Discard ends what Prepare made for a generation that is not put in force.
func (g *Gateway) Discard(n *Generation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.discard(n.g)
}

// finish ends what the routes of a generation started, when their requests have ended.
func (g *Gateway) finish(n *generation) {
	list := n.closers
	if len(list) == 0 {
		return
	}
	g.afterwards(func(ctx context.Context) { // one that waits for all: there may be thousands of routes
		var wg sync.WaitGroup
		for _, c := range list {
			wg.Go(func() { c(ctx) })
		}
		wg.Wait()
	})
}

func (g *Gateway) discard(n *generation) {
	g.finish(n)
	old := g.gen.Load()
	g.dropWatch(&n.watch, &old.watch)
	g.stopPolicies(&n.policy, &old.policy)
	for name, c := range n.clusters {
		if old.clusters[name] != c {
			c.discard()
		}
	}
}

// Close ends checks, sources and idle connections, and waits for them.
func (g *Gateway) Close() {
	g.mu.Lock()
	old := g.gen.Load()
	g.gen.Store(New(Options{}).gen.Load())
	g.closed.Do(func() { close(g.closing) })
	g.finish(old)
	g.stopWatching(&old.watch, &watch{})
	g.stopPolicies(&old.policy, &policies{})
	for _, c := range old.clusters {
		g.retire(c)
	}
	g.mu.Unlock()
	g.wg.Wait()
}

// serve finds the route of a request and leaves it to it.
func (n *generation) serve(h *hop, r *http.Request, paths target.Policy) {
	x := &h.Exchange
	if x.TLS != nil && n.misdirected(x.Listener, r) {
		exchange.Refuse(h, r, exchange.Misdirected, "")
		return
	}
	if !n.policy.admits(x) {
		h.Header().Set("Connection", "close")
		exchange.Refuse(h, r, exchange.Forbidden, "this connection may not ask here")
		return
	}
	path, err := paths.Apply(r)
	if err != nil {
		exchange.Refuse(h, r, exchange.BadRequest, err.Error())
		return
	}
	q := route.Of(r, x.Listener, path)
	found := n.table.Match(&q, nil)
	switch found.Outcome {
	case route.NoRoute:
		exchange.Refuse(h, r, exchange.NoRoute, "")
	case route.MethodNotAllowed:
		h.Header().Set("Allow", found.Allow)
		exchange.Refuse(h, r, exchange.MethodNotAllowed, "")
	default:
		a := &n.routes[found.Rule]
		x.Route, x.Vars = a.name, found.Vars
		if !a.early && server.EarlyData(r) {
			exchange.Refuse(h, r, exchange.TooEarly, "")
			return
		}
		a.ServeHTTP(h, r)
	}
}
