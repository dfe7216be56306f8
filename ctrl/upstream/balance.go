package upstream

import "sync/atomic"

// Query is what a choice depends on. The zero value is good.
type Query struct {
	Hash uint64 // of the key, for RingHash and Maglev; see [Hash]. 0: there is none, Rand stands for it
	Rand uint64 // random bits; 0: drawn from Config.Rand

	now   int64
	tried [4]*Endpoint // left out while there are others
	n     uint8
}

// Avoid leaves e out where there is another. The last four are remembered.
func (q *Query) Avoid(e *Endpoint) {
	q.tried[int(q.n)%len(q.tried)] = e
	q.n++
}

// ready says whether e takes a request now: not tried before, room, breaker.
func (q *Query) ready(e *Endpoint) bool {
	if q.n != 0 {
		for _, t := range q.tried {
			if t == e {
				return false
			}
		}
	}
	return !e.full() && e.brk.admits(&e.up.cfg.Breaker, q.now, q.Rand)
}

// ramped says whether e takes this request in spite of slow start: as often as its share.
func (q *Query) ramped(e *Endpoint, try int) bool {
	r := e.ramp(q.now)
	return r >= 1024 || int64(mix(q.Rand+uint64(try)+1)>>54) < r
}

// Picker chooses among the endpoints that it was built for. Pick is safe for concurrent
// use, takes no lock and allocates nothing; nil: none is ready. A Picker is immutable but
// for counters: it is built anew when an endpoint comes, goes, falls ill or gets well.
type Picker interface {
	Pick(q Query) *Endpoint
}

// member is an endpoint with the weight it was built in with.
type member struct {
	e *Endpoint
	w int
}

// shared is what pickers of one upstream keep across rebuilds.
type shared struct {
	next     atomic.Uint64 // of round robin
	inflight atomic.Int64  // requests in flight, all endpoints
}

// Policy names a way of balancing.
type Policy uint8

// Policies.
const (
	RoundRobin   Policy = iota // smooth, weighted
	LeastRequest               // power of two choices, by requests in flight over weight
	RingHash                   // consistent: a ring of points (ketama's idea)
	Maglev                     // consistent: a lookup table
)

// String returns the name used in configuration.
func (p Policy) String() string {
	switch p {
	case RoundRobin:
		return "round_robin"
	case LeastRequest:
		return "least_request"
	case RingHash:
		return "ring_hash"
	case Maglev:
		return "maglev"
	}
	return "unknown"
}

// consistent says that the key decides, so that slow start and levels go by it too.
func (p Policy) consistent() bool { return p == RingHash || p == Maglev }

func newPicker(b *Balance, ms []member, sh *shared) Picker {
	switch b.Policy {
	case LeastRequest:
		return newLeast(ms)
	case RingHash:
		return newRing(b, ms, sh)
	case Maglev:
		return newMaglev(b, ms)
	}
	return newRobin(ms, sh)
}

// scan is the last resort: the first ready one from a starting point, once around.
func scan(ms []member, start int, q *Query) *Endpoint {
	for i := range ms { // bound: MaxEndpoints
		if e := ms[(start+i)%len(ms)].e; q.ready(e) {
			return e
		}
	}
	return nil
}

// maxRamped bounds how often slow start may pass an endpoint over in one choice. When
// all are in slow start, the first one met is taken, which keeps their proportions.
const maxRamped = 8

// robin walks a sequence laid out in advance, in which each endpoint stands as often as
// its weight says and as evenly as that goes. One atomic add is all a choice costs.
type robin struct {
	ms  []member
	seq []uint16
	sh  *shared
}

// maxSequence bounds the sequence; weights are scaled down to fit, none below 1.
const maxSequence = 1 << 15

func newRobin(ms []member, sh *shared) *robin {
	return &robin{ms: ms, seq: sequence(ms), sh: sh}
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// slot is an endpoint's next place in the sequence: its k-th lies at (2k+1)/2w of the way.
type slot struct {
	i    int
	k, w uint64
}

func (a slot) before(b slot) bool {
	x, y := (2*a.k+1)*b.w, (2*b.k+1)*a.w
	return x < y || x == y && a.i < b.i
}

func sequence(ms []member) []uint16 {
	g, total := 0, 0
	for _, m := range ms {
		g = gcd(g, m.w)
		total += m.w
	}
	heap := make([]slot, len(ms))
	n := 0
	for i, m := range ms {
		w := m.w / g
		if total/g > maxSequence {
			w = max(1, m.w*maxSequence/total)
		}
		heap[i] = slot{i: i, w: uint64(w)}
		n += w
	}
	for i := len(heap)/2 - 1; i >= 0; i-- {
		sink(heap, i)
	}
	seq := make([]uint16, n)
	for j := range seq { // bound: maxSequence + MaxEndpoints
		seq[j] = uint16(heap[0].i)
		heap[0].k++
		sink(heap, 0)
	}
	return seq
}

func sink(h []slot, i int) {
	for { // bound: the heap's height
		c := 2*i + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && h[c+1].before(h[c]) {
			c++
		}
		if !h[c].before(h[i]) {
			return
		}
		h[i], h[c] = h[c], h[i]
		i = c
	}
}

// Pick implements [Picker].
func (r *robin) Pick(q Query) *Endpoint {
	var first *Endpoint
	at := 0
	for try := range maxRamped {
		at = int(r.sh.next.Add(1) % uint64(len(r.seq)))
		e := r.ms[r.seq[at]].e
		if !q.ready(e) {
			continue
		}
		if q.ramped(e, try) {
			return e
		}
		if first == nil {
			first = e
		}
	}
	if first != nil {
		return first
	}
	return scan(r.ms, int(r.seq[at]), &q)
}

// least draws two endpoints by weight and takes the one with fewer requests in flight for
// its weight. Drawing by weight keeps the proportions when nothing is in flight.
type least struct {
	ms    []member
	alias []uint16 // Vose's alias tables: one draw, one comparison, whatever the weights
	keep  []uint32 // probability of keeping the column, in 1/2³²
}

func newLeast(ms []member) *least {
	l := &least{ms: ms, alias: make([]uint16, len(ms)), keep: make([]uint32, len(ms))}
	total := 0
	for _, m := range ms {
		total += m.w
	}
	scaled := make([]float64, len(ms))
	var small, large []int
	for i, m := range ms {
		scaled[i] = float64(m.w) * float64(len(ms)) / float64(total)
		l.keep[i], l.alias[i] = 1<<32-1, uint16(i)
		if scaled[i] < 1 {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 { // bound: each turn settles one of small
		s, g := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		l.keep[s], l.alias[s] = uint32(scaled[s]*(1<<32-1)), uint16(g)
		if scaled[g] -= 1 - scaled[s]; scaled[g] < 1 {
			large = large[:len(large)-1]
			small = append(small, g)
		}
	}
	return l
}

func (l *least) draw(r uint64) int {
	i := below(r, len(l.ms))
	if uint32(r) > l.keep[i] {
		return int(l.alias[i])
	}
	return i
}

// drawReady draws until one is ready, a few times.
func (l *least) drawReady(q *Query, r uint64, not int) int {
	first := -1
	for try := range maxRamped {
		r = mix(r)
		i := l.draw(r)
		if i == not || !q.ready(l.ms[i].e) {
			continue
		}
		if q.ramped(l.ms[i].e, try+not+1) {
			return i
		}
		if first < 0 {
			first = i
		}
	}
	return first
}

// Pick implements [Picker].
func (l *least) Pick(q Query) *Endpoint {
	i := l.drawReady(&q, q.Rand, -1)
	if i < 0 {
		return scan(l.ms, below(mix(q.Rand), len(l.ms)), &q)
	}
	a := l.ms[i]
	if len(l.ms) == 1 {
		return a.e
	}
	j := l.drawReady(&q, q.Rand^0xa5a5a5a5a5a5a5a5, i)
	if j < 0 {
		return a.e
	}
	b := l.ms[j]
	if b.e.inflight.Load()*int64(a.w) < a.e.inflight.Load()*int64(b.w) {
		return b.e
	}
	return a.e
}
