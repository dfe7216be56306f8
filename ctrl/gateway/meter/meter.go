package meter

import (
	"cmp"
	"maps"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// MaxKinds bounds the kinds of one listener. There are as many as routes, protocols and
// outcomes that occurred; names that a reload took away stay.
const MaxKinds = 4096

// maxShards bounds the copies of a counter. There are four for each CPU, so that two seldom
// take the same one.
const maxShards = 16

const numBuckets = 16

// Bounds returns the upper bounds of a histogram's buckets but the last, which has none.
func Bounds() [numBuckets - 1]time.Duration {
	const ms = time.Millisecond
	return [...]time.Duration{ms / 2, ms, 5 * ms / 2, 5 * ms, 10 * ms, 25 * ms, 50 * ms, 100 * ms, 250 * ms, 500 * ms, 1000 * ms, 2500 * ms, 5000 * ms, 10000 * ms, 30000 * ms}
}

// Meter counts for all listeners.
type Meter struct {
	bounds [numBuckets - 1]time.Duration

	mu        sync.Mutex
	listeners map[string]*Listener
}

// New makes a meter.
func New() *Meter { return &Meter{bounds: Bounds(), listeners: map[string]*Listener{}} }

// Listener returns the counters of a listener; the same ones for the same name.
func (m *Meter) Listener(name string) *Listener {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.listeners[name]
	if l == nil {
		l = &Listener{m: m, name: name, shards: uint64(1) << bits.Len(uint(min(maxShards, 4*runtime.GOMAXPROCS(0))-1))}
		l.flight = make([]line, l.shards)
		l.kinds.Store(&map[kind]counters{})
		m.listeners[name] = l
	}
	return l
}

// Listener counts for one listener.
type Listener struct {
	m      *Meter
	name   string
	shards uint64
	flight []line // begun less done
	kinds  atomic.Pointer[map[kind]counters]
	mu     sync.Mutex // adding kinds
}

// kind is what counters are kept for.
type kind struct {
	route    string
	protocol string
	class    uint8
	reason   exchange.Reason
}

type counters []cell

// cell is one copy, on cache lines of its own.
type cell struct {
	requests, received, sent atomic.Uint64
	sum                      atomic.Int64 // ns
	buckets                  [numBuckets]atomic.Uint64
	_                        [32]byte
}

type line struct {
	n atomic.Int64
	_ [56]byte
}

// Begin counts an exchange in flight; Done ends it.
func (l *Listener) Begin() { l.flight[rand.Uint64()&(l.shards-1)].n.Add(1) }

// Done counts an exchange that ended, and was begun. took is from its head to the end of
// the answer; of one that lasts by its nature (stream), the time to the answer's head is
// taken instead.
func (l *Listener) Done(x *exchange.Exchange, took time.Duration, stream bool) {
	if stream && x.FirstByte > 0 {
		took = x.FirstByte
	}
	class := uint8(0)
	if c := x.Status / 100; c >= 1 && c <= 5 {
		class = uint8(c)
	}
	k := kind{x.Route, x.Protocol, class, x.Reason}
	c := (*l.kinds.Load())[k]
	if c == nil {
		c = l.add(k)
	}
	i := rand.Uint64() & (l.shards - 1)
	at := &c[i]
	at.requests.Add(1)
	if x.Received != 0 {
		at.received.Add(uint64(x.Received))
	}
	if x.Sent != 0 {
		at.sent.Add(uint64(x.Sent))
	}
	took = max(took, 0)
	at.sum.Add(int64(took))
	b := 0
	for b < len(l.m.bounds) && took > l.m.bounds[b] {
		b++
	}
	at.buckets[b].Add(1)
	l.flight[i].n.Add(-1)
}

// add makes the counters of a new kind.
func (l *Listener) add(k kind) counters {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := *l.kinds.Load()
	if c := old[k]; c != nil {
		return c
	}
	if len(old) >= MaxKinds {
		k.route = ""
		if c := old[k]; c != nil {
			return c
		}
	}
	c := make(counters, l.shards)
	next := maps.Clone(old)
	next[k] = c
	l.kinds.Store(&next)
	return c
}

// Series is what was counted of one kind.
type Series struct {
	Listener string
	Route    string // "": none matched
	Protocol string
	Class    int // of the status: 1 to 5; 0: there was none
	Reason   exchange.Reason
	Requests uint64
	Received uint64 // bytes
	Sent     uint64 // bytes
	Took     time.Duration
	Buckets  [numBuckets]uint64 // see Bounds; not cumulative
}

// Series returns what was counted, in the order of its labels.
func (m *Meter) Series() []Series {
	var out []Series
	for _, l := range m.list() {
		for k, c := range *l.kinds.Load() {
			s := Series{Listener: l.name, Route: k.route, Protocol: k.protocol, Class: int(k.class), Reason: k.reason}
			for i := range c {
				at := &c[i]
				s.Requests += at.requests.Load()
				s.Received += at.received.Load()
				s.Sent += at.sent.Load()
				s.Took += time.Duration(at.sum.Load())
				for b := range at.buckets {
					s.Buckets[b] += at.buckets[b].Load()
				}
			}
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b Series) int {
		return cmp.Or(cmp.Compare(a.Listener, b.Listener), cmp.Compare(a.Route, b.Route), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Class, b.Class), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}

// InFlight returns the exchanges in flight of each listener.
func (m *Meter) InFlight() map[string]int64 {
	out := map[string]int64{}
	for _, l := range m.list() {
		var n int64
		for i := range l.flight {
			n += l.flight[i].n.Load()
		}
		out[l.name] = max(n, 0) // read one after the other
	}
	return out
}

func (m *Meter) list() []*Listener {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.listeners))
}
