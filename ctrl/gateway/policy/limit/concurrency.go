package limit

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"sync"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/linked"
)

// ConcurrencyConfig says how many requests may be served at a time.
type ConcurrencyConfig struct {
	Name   string
	Max    int           // at a time; 0: no limit but PerKey
	PerKey int           // at a time of one key; 0: no limit but Max
	Keys   []Key         // whose, with PerKey
	Queue  int           // that may wait; 0: none waits
	Wait   time.Duration // at most; 0: a second
}

// MaxQueue bounds what waits.
const MaxQueue = 1 << 20

func (c *ConcurrencyConfig) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" || !isToken(c.Name) {
		bad("name %q, expected letters, digits, \"-\", \"_\" and \".\"", c.Name)
	}
	if c.Max < 0 || c.PerKey < 0 || c.Max == 0 && c.PerKey == 0 {
		bad("max %d and per key %d, expected at least one of them above 0", c.Max, c.PerKey)
	}
	if (c.PerKey > 0) != (len(c.Keys) > 0) {
		bad("%d keys and %d per key, expected both or neither", len(c.Keys), c.PerKey)
	}
	if c.Queue < 0 || c.Queue > MaxQueue {
		bad("queue %d, expected 0 to %d", c.Queue, MaxQueue)
	}
	if c.Wait < 0 {
		bad("wait %s, expected none or a positive one", c.Wait)
	}
	return errors.Join(errs...)
}

// Errors of Acquire.
var (
	// ErrFull: no room, and none to wait in.
	ErrFull = errors.New("no room, and the queue is full")
	// ErrWaited: no room came in time.
	ErrWaited = errors.New("no room in time")
)

// Concurrency is a limit on requests at a time.
type Concurrency struct {
	cfg  ConcurrencyConfig
	seed maphash.Seed

	mu      sync.Mutex
	running int
	waiting int
	line    queue // have a place of their key's, wait for one of Max
	keys    map[uint64]perKey
	stats   ConcurrencyStats
}

// perKey is what one key has. An entry lives as long as one of its requests runs or waits,
// so there are never more entries than requests.
type perKey struct {
	held int   // places of PerKey
	line queue // wait for one, at most PerKey: one key can't take the whole queue
}

// ConcurrencyStats are what a limit has in hand, and its counters since it began.
type ConcurrencyStats struct {
	Name     string        `json:"name"`
	Running  int           `json:"running"`
	Waiting  int           `json:"waiting"`
	Keys     int           `json:"keys"`
	Admitted uint64        `json:"admitted"`
	Waited   uint64        `json:"waited"`    // of those, after waiting
	WaitTime time.Duration `json:"wait_ns"`   // of these, the sum
	Full     uint64        `json:"full"`      // refused: no room to wait in
	TimedOut uint64        `json:"timed_out"` // refused: waited too long
	Gone     uint64        `json:"gone"`      // left while they waited
}

// waiter is one request that waits, in one line at most.
type waiter struct {
	place linked.Node[*waiter]
	in    *queue // Concurrency.line; nil: its key's
	key   uint64
	ready chan struct{} // closed when its turn has come
}

// queue is first in, first out.
type queue = linked.List[*waiter]

// NewConcurrency makes a limit.
func NewConcurrency(cfg ConcurrencyConfig) (*Concurrency, error) {
	if cfg.Wait == 0 {
		cfg.Wait = time.Second
	}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("concurrency limit %s: %w", cfg.Name, err)
	}
	return &Concurrency{cfg: cfg, seed: maphash.MakeSeed(), keys: map[uint64]perKey{}, stats: ConcurrencyStats{Name: cfg.Name}}, nil
}

// Name returns the limit's name.
func (c *Concurrency) Name() string { return c.cfg.Name }

// NeedsIdentity says whether its key is known only after authentication.
func (c *Concurrency) NeedsIdentity() bool { return needsIdentity(c.cfg.Keys) }

// Acquire waits for room. The error is ErrFull, ErrWaited or the context's cause; without
// one the caller calls Release with the same key when it is done.
func (c *Concurrency) Acquire(ctx context.Context, key uint64) error {
	c.mu.Lock()
	state := stateRun
	if c.cfg.PerKey > 0 {
		if k := c.keys[key]; k.held < c.cfg.PerKey {
			k.held++
			c.keys[key] = k
		} else {
			state = stateKey
		}
	}
	if state == stateRun && c.cfg.Max > 0 && (c.running >= c.cfg.Max || c.line.Len() > 0) {
		state = stateLine
	}
	if state == stateRun {
		c.running++
		c.stats.Admitted++
		c.mu.Unlock()
		return nil
	}
	if c.waiting >= c.cfg.Queue || state == stateKey && c.waits(key) >= c.cfg.PerKey {
		if state == stateLine {
			c.freeKey(key)
		}
		c.stats.Full++
		c.mu.Unlock()
		return ErrFull
	}
	w := &waiter{key: key, ready: make(chan struct{})}
	w.place.Value = w
	c.waiting++
	if state == stateKey {
		k := c.keys[key]
		k.line.PushBack(&w.place)
		c.keys[key] = k
	} else {
		c.line.PushBack(&w.place)
		w.in = &c.line
	}
	c.mu.Unlock()
	return c.wait(ctx, w)
}

// waits is how many wait for a place of a key.
func (c *Concurrency) waits(key uint64) int {
	k := c.keys[key]
	return k.line.Len()
}

// What a request does next.
const (
	stateRun  = iota
	stateKey  // wait for a place of its key
	stateLine // wait for one of all
)

func (c *Concurrency) wait(ctx context.Context, w *waiter) error {
	began := time.Now()
	timer := time.NewTimer(c.cfg.Wait)
	defer timer.Stop()
	err := ErrWaited
	select {
	case <-w.ready:
	case <-timer.C:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-w.ready: // perhaps at the same moment
		c.stats.Admitted++
		c.stats.Waited++
		c.stats.WaitTime += time.Since(began)
		return nil
	default:
	}
	c.waiting--
	if w.in != nil {
		c.line.Remove(&w.place)
		c.freeKey(w.key)
	} else {
		k := c.keys[w.key]
		k.line.Remove(&w.place)
		c.putKey(w.key, k)
	}
	if errors.Is(err, ErrWaited) {
		c.stats.TimedOut++
	} else {
		c.stats.Gone++
	}
	return err
}

// Release ends what a successful Acquire began.
func (c *Concurrency) Release(key uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	c.freeKey(key)
	c.advance()
}

// freeKey gives a place of a key to the next that waits for it.
func (c *Concurrency) freeKey(key uint64) {
	if c.cfg.PerKey == 0 {
		return
	}
	k := c.keys[key]
	if first := k.line.PopFront(); first != nil { // the place goes from one to the other
		w := first.Value
		c.putKey(key, k)
		w.in = &c.line
		c.line.PushBack(&w.place)
		c.advance()
		return
	}
	k.held--
	c.putKey(key, k)
}

func (c *Concurrency) putKey(key uint64, k perKey) {
	if k.held == 0 && k.line.Len() == 0 {
		delete(c.keys, key)
		return
	}
	c.keys[key] = k
}

// advance lets those in while there is room.
func (c *Concurrency) advance() {
	for c.cfg.Max == 0 || c.running < c.cfg.Max { // bound: Queue
		first := c.line.PopFront()
		if first == nil {
			return
		}
		w := first.Value
		c.waiting--
		c.running++
		close(w.ready)
	}
}

// Stats returns what is in hand, and the counters.
func (c *Concurrency) Stats() ConcurrencyStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Running, s.Waiting, s.Keys = c.running, c.waiting, len(c.keys)
	return s
}

// Stage is a stage that holds a place for as long as the rest of the route serves a request.
func (c *Concurrency) Stage(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var key uint64
		x := exchange.From(r.Context())
		if len(c.cfg.Keys) > 0 {
			key = hash(c.seed, c.cfg.Keys, r, x)
		}
		if err := c.Acquire(r.Context(), key); err != nil {
			x.Note(fmt.Errorf("concurrency limit %s: %w", c.cfg.Name, err))
			if !errors.Is(err, ErrFull) && !errors.Is(err, ErrWaited) {
				why, _ := exchange.Ended(r.Context()) // which is what ended the wait
				exchange.Refuse(w, r, why, "")
				return
			}
			w.Header().Set("Retry-After", "1")
			exchange.Refuse(w, r, exchange.Overloaded, "limit "+c.cfg.Name)
			return
		}
		defer c.Release(key)
		next.ServeHTTP(w, r)
	})
}
