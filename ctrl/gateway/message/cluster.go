package message

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/ctrl/pool"
	"github.com/np-appliance/np/ctrl/upstream"
)

// ClusterConfig is what a cluster is made of. Upstream is required, and of Client what
// its pattern needs.
type ClusterConfig struct {
	Upstream *upstream.Upstream
	// Client says how connections are made: keys, pattern, sizes, and DialContext for the
	// transport. Address, Connections and what concerns reconnecting are the cluster's.
	Client client.Config
	Pool   pool.Config // of each endpoint's connections; zero: DefaultPool
	// PerConnection is how many requests and streams one connection carries before another
	// is opened; 0 is 128.
	PerConnection int
}

// DefaultPool is how connections to an endpoint are kept where nothing else is said.
func DefaultPool() pool.Config {
	c := pool.DefaultConfig()
	c.Max, c.WarmUp, c.FailFast, c.ValidateAfter = 64, false, true, 0
	c.BackoffMax = 5 * time.Second
	return c
}

// Cluster is an upstream whose endpoints speak NPRO, with the connections to them. Safe
// for concurrent use.
type Cluster struct {
	cfg ClusterConfig

	mu     sync.Mutex
	ends   map[*upstream.Endpoint]*end
	closed bool
	pruned time.Time
	gone   PoolStats // of ends that were pruned: what they had counted
	wg     sync.WaitGroup
}

// end is the connections to one endpoint. The pool lends each to the end, which lets many
// requests share it.
type end struct {
	pool     *pool.Pool[*client.Client]
	per      int
	requests atomic.Uint64

	mu     sync.Mutex
	shared []*carrier
}

// carrier is a borrowed connection with those who use it.
type carrier struct {
	lease pool.Lease[*client.Client]
	users int
	bad   bool
}

// NewCluster makes a cluster; it opens nothing. Its owner ends it with Close.
func NewCluster(cfg ClusterConfig) (*Cluster, error) {
	if cfg.Upstream == nil {
		return nil, errors.New("cluster without an upstream")
	}
	if cfg.Pool == (pool.Config{}) {
		cfg.Pool = DefaultPool()
	}
	if cfg.PerConnection == 0 {
		cfg.PerConnection = 128
	}
	if cfg.PerConnection < 1 || cfg.PerConnection > 1<<16 {
		return nil, fmt.Errorf("upstream %s: %d requests on a connection, expected 1 to 65536", cfg.Upstream.Name(), cfg.PerConnection)
	}
	if err := cfg.Pool.Check(); err != nil {
		return nil, fmt.Errorf("upstream %s: pool: %w", cfg.Upstream.Name(), err)
	}
	return &Cluster{cfg: cfg, ends: map[*upstream.Endpoint]*end{}}, nil
}

// Name returns the upstream's name.
func (c *Cluster) Name() string { return c.cfg.Upstream.Name() }

// Upstream returns the endpoints and their state.
func (c *Cluster) Upstream() *upstream.Upstream { return c.cfg.Upstream }

// pruneEvery is how often ends of endpoints that left the list are looked for.
const pruneEvery = 10 * time.Second

func (c *Cluster) end(e *upstream.Endpoint) (*end, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := c.ends[e]; x != nil {
		return x, nil
	}
	if c.closed {
		return nil, client.ErrClosed
	}
	cfg := c.cfg.Client
	cfg.Address, cfg.Connections, cfg.NoReconnect = e.Address(), 1, true
	p, err := pool.New(pool.Options[*client.Client]{
		Name: c.cfg.Upstream.Name() + " " + e.Address(),
		Open: func(ctx context.Context) (*client.Client, error) { return client.Dial(ctx, cfg) },
		Validate: func(_ context.Context, cl *client.Client) error {
			if len(cl.Info()) == 0 {
				return client.ErrConnLost
			}
			return nil
		},
		Close: func(cl *client.Client, _ pool.Reason) {
			now, cancel := context.WithCancel(context.Background())
			cancel() // nothing is in flight on what nobody has
			_ = cl.Close(now)
		},
	}, c.cfg.Pool)
	if err != nil {
		return nil, err
	}
	x := &end{pool: p, per: c.cfg.PerConnection}
	c.ends[e] = x
	c.prune(time.Now())
	return x, nil
}

// prune ends the connections to endpoints that are no longer listed. c.mu is held.
func (c *Cluster) prune(now time.Time) {
	if now.Sub(c.pruned) < pruneEvery {
		return
	}
	c.pruned = now
	for e, x := range c.ends {
		if !c.cfg.Upstream.Has(e) {
			delete(c.ends, e)
			last := x.stats("")
			c.gone.Requests += last.Requests
			c.gone.Pool.Add(&last.Pool)
			c.wg.Go(func() { _ = x.pool.Close(context.Background()) }) // requests in flight end first
		}
	}
}

// Close ends all connections: those in use when their requests end, or when ctx does.
func (c *Cluster) Close(ctx context.Context) {
	c.mu.Lock()
	c.closed = true
	for e, x := range c.ends {
		delete(c.ends, e)
		c.wg.Go(func() { _ = x.pool.Close(ctx) })
	}
	c.mu.Unlock()
	c.wg.Wait()
}

// Warm makes the pools of all endpoints, which open what is to be there from the start.
func (c *Cluster) Warm() {
	for _, e := range c.cfg.Upstream.Endpoints() {
		_, _ = c.end(e) // an error is a closed cluster's
	}
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
	for _, x := range c.ends {
		errs = append(errs, x.pool.SetConfig(cfg))
	}
	return errors.Join(errs...)
}

// PoolStats is the connections to one endpoint, each of which carries many requests.
type PoolStats struct {
	Endpoint string // "": of endpoints that are gone, together
	Pool     pool.Stats
	InFlight int64  // requests and streams
	Requests uint64 // begun
}

// Pools returns the state of the endpoints' connections, by address; gone: what was counted
// for endpoints that left the list too.
func (c *Cluster) Pools(gone bool) []PoolStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []PoolStats
	for e, x := range c.ends {
		out = append(out, x.stats(e.Address()))
	}
	slices.SortFunc(out, func(a, b PoolStats) int { return cmp.Compare(a.Endpoint, b.Endpoint) })
	if gone && c.gone.Requests > 0 {
		out = append(out, c.gone)
	}
	return out
}

func (x *end) stats(address string) PoolStats {
	s := PoolStats{Endpoint: address, Pool: x.pool.Stats(), Requests: x.requests.Load()}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, k := range x.shared {
		s.InFlight += int64(k.users)
	}
	return s
}

// acquire finds a connection with room, or borrows one.
func (x *end) acquire(ctx context.Context) (*carrier, error) {
	x.requests.Add(1)
	if k := x.share(); k != nil {
		return k, nil
	}
	l, err := x.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	k := &carrier{lease: l, users: 1}
	x.mu.Lock()
	x.shared = append(x.shared, k)
	x.mu.Unlock()
	return k, nil
}

// share returns the connection in use with the most users that has room: the others get
// a chance to become idle.
func (x *end) share() *carrier {
	x.mu.Lock()
	defer x.mu.Unlock()
	var best *carrier
	for _, k := range x.shared { // bound: the pool's size
		if !k.bad && k.users < x.per && (best == nil || k.users > best.users) {
			best = k
		}
	}
	if best != nil {
		if len(best.lease.Value().Info()) == 0 {
			best.bad = true
			return nil
		}
		best.users++
	}
	return best
}

// release ends one use. broken: nobody shall begin another.
func (x *end) release(k *carrier, broken bool) {
	x.mu.Lock()
	k.users--
	k.bad = k.bad || broken
	last := k.users == 0
	if last {
		for i, o := range x.shared {
			if o == k {
				x.shared = append(x.shared[:i], x.shared[i+1:]...)
				break
			}
		}
	}
	bad := k.bad
	x.mu.Unlock()
	switch {
	case !last:
	case bad:
		_ = k.lease.Discard() // it can't be over: this is its only end
	default:
		_ = k.lease.Return()
	}
}

// broken says whether an error is the connection's.
func broken(err error) bool {
	return errors.Is(err, client.ErrConnLost) || errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrClosed) || errors.Is(err, client.ErrProtocol)
}

// Call is one request to a cluster.
type Call struct {
	Request    client.Request
	Idempotent bool   // it may be sent once more
	Hash       uint64 // of the key, for consistent balancing
	// Tried is told of each endpoint before it is asked; nil: nobody is.
	Tried func(address string, number int)
}

// Do sends a request, with the upstream's retries.
func (c *Cluster) Do(ctx context.Context, call Call) (client.Response, error) {
	var out client.Response
	err := c.try(ctx, &call, func(ctx context.Context, t upstream.Try, x *end, k *carrier) error {
		r := call.Request
		setDeadline(&r.Context, ctx, t.Time)
		resp, err := k.lease.Value().Do(ctx, &r)
		x.release(k, broken(err))
		if err == nil || resp.Status != npro.CodeOK {
			out = resp
		}
		return err
	})
	return out, err
}

// try asks one endpoint after the other, as the upstream's policy has it.
func (c *Cluster) try(ctx context.Context, call *Call, send func(context.Context, upstream.Try, *end, *carrier) error) error {
	return c.cfg.Upstream.Do(ctx, upstream.Call{
		Hash:   call.Hash,
		Repeat: func(o upstream.Outcome, _ error) bool { return call.Idempotent },
		Try: func(ctx context.Context, t upstream.Try) (upstream.Outcome, error) {
			if call.Tried != nil {
				call.Tried(t.Endpoint.Address(), t.Number)
			}
			x, err := c.end(t.Endpoint)
			if err != nil {
				return upstream.ConnectFailed, err
			}
			for again := true; ; again = false {
				k, err := x.acquire(ctx)
				if err != nil {
					if acquire := (*pool.AcquireError)(nil); errors.As(err, &acquire) && acquire.Full() {
						return upstream.Busy, err
					}
					if ctx.Err() != nil {
						err = context.Cause(ctx)
					}
					return upstream.ConnectFailed, err
				}
				err = send(ctx, t, x, k)
				if err != nil && ctx.Err() != nil {
					err = context.Cause(ctx)
				} else if again && (errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrClosed)) {
					continue // the connection had ended before anything was sent: no fault of the endpoint's
				}
				return outcomeOf(err), err
			}
		},
	})
}

// Stream is a byte stream to an endpoint. Its user ends it with Close.
type Stream struct {
	*client.Stream
	end  func(error)
	once sync.Once
}

// Close ends the stream; err is what went wrong with it, nil if nothing did.
func (s *Stream) Close(err error) {
	s.once.Do(func() {
		_ = s.Stream.Close()
		s.end(err)
	})
}

// Open opens a byte stream with a request, with the upstream's retries. ctx bounds the
// whole stream.
func (c *Cluster) Open(ctx context.Context, call Call) (*Stream, error) {
	var out *Stream
	err := c.try(ctx, &call, func(ctx context.Context, t upstream.Try, x *end, k *carrier) error {
		r := call.Request
		st, err := k.lease.Value().OpenRequest(ctx, &r)
		if err != nil {
			x.release(k, broken(err))
			return err
		}
		t.Stream(true)
		done := t.Detach()
		unhook := context.AfterFunc(ctx, func() { _ = st.Close() })
		out = &Stream{Stream: st, end: func(err error) {
			unhook()
			x.release(k, broken(err))
			done(outcomeOf(err))
		}}
		return nil
	})
	return out, err
}
