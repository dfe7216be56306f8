package upstream

import (
	"cmp"
	"slices"
	"strconv"
)

// Bounds and defaults of the consistent policies.
const (
	DefaultTable  = 65_537 // Maglev's table: 65 entries for each of 1,000 endpoints
	MaxTable      = 5_000_011
	DefaultPoints = 160 // of the ring, for each unit of weight
	maxRing       = 1 << 20
)

// ring puts points of each endpoint on a circle of hashes; a key belongs to the first
// point at or after its own hash. How many points an endpoint has depends on its own
// weight alone, so that one leaving moves its own keys and no others.
type ring struct {
	ms     []member
	points []point
	load   float64 // bounded loads: an endpoint may have load times its share, 0 no bound
	total  int     // weight of all
	sh     *shared
}

type point struct {
	hash uint64
	i    uint32
}

func newRing(b *Balance, ms []member, sh *shared) *ring {
	r := &ring{ms: ms, load: b.BoundedLoad, sh: sh}
	for _, m := range ms {
		r.total += m.w
	}
	// Halved until it fits: in steps, so that one endpoint more or less seldom changes it.
	per := float64(b.Points)
	for per*float64(r.total) > maxRing {
		per /= 2
	}
	for i, m := range ms {
		n := max(1, int(per*float64(m.w)))
		h := Hash(m.e.address)
		for k := range n { // bound: maxRing + MaxEndpoints in all
			r.points = append(r.points, point{mix(h ^ mix(uint64(k))), uint32(i)})
		}
	}
	slices.SortFunc(r.points, func(a, b point) int {
		if c := cmp.Compare(a.hash, b.hash); c != 0 {
			return c
		}
		// Two points in one place: the address decides, not the order of the list.
		return cmp.Compare(ms[a.i].e.address, ms[b.i].e.address)
	})
	return r
}

// find returns the first point at or after h, without sort.Search's closure.
func (r *ring) find(h uint64) int {
	lo, hi := 0, len(r.points)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if r.points[mid].hash < h {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(r.points) {
		return 0
	}
	return lo
}

// crowded says whether m has more than load times its share of what is in flight.
func (r *ring) crowded(m member) bool {
	if r.load == 0 {
		return false
	}
	share := float64(r.sh.inflight.Load()+1) * float64(m.w) / float64(r.total)
	return float64(m.e.inflight.Load()) >= max(1, r.load*share)
}

// Pick implements [Picker].
func (r *ring) Pick(q Query) *Endpoint {
	at := r.find(q.Hash)
	first := -1
	for i := range min(len(r.points), 4*len(r.ms)+16) {
		k := int(r.points[(at+i)%len(r.points)].i)
		if m := r.ms[k]; q.ready(m.e) {
			if !r.crowded(m) {
				return m.e
			}
			if first < 0 {
				first = k
			}
		}
	}
	if first >= 0 { // all that were met are crowded
		return r.ms[first].e
	}
	return scan(r.ms, below(q.Hash, len(r.ms)), &q)
}

// maglev looks keys up in a table that the endpoints fill in turns, each by its own
// permutation of the places (Eisenbud and others, NSDI 2016). Looking up costs one load.
// When one of n endpoints leaves, its keys move and a few percent of the others do too
// (the test states the bound); the larger the table for n, the fewer.
type maglev struct {
	ms    []member
	table []uint16
}

func newMaglev(b *Balance, ms []member) *maglev {
	size := uint64(b.Table)
	g := &maglev{ms: ms, table: make([]uint16, size)}
	// The order of the list must not matter: gateways may have it in different orders.
	order := make([]int, len(ms))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(ms[a].e.address, ms[b].e.address) })
	type walk struct{ at, skip, credit uint64 }
	walks := make([]walk, len(ms))
	top := 0
	for i, m := range ms {
		walks[i] = walk{at: Hash(m.e.address) % size, skip: Hash("skip "+m.e.address)%(size-1) + 1}
		top = max(top, m.w)
	}
	taken := make([]bool, size)
	for filled := uint64(0); filled < size; { // bound: each turn fills a place for the heaviest
		for _, i := range order {
			// A turn is worth its weight over the heaviest one's.
			w := &walks[i]
			if w.credit += uint64(ms[i].w); w.credit < uint64(top) {
				continue
			}
			w.credit -= uint64(top)
			for taken[w.at] { // bound: size, which is prime, so each place is met once
				w.at = (w.at + w.skip) % size
			}
			taken[w.at], g.table[w.at] = true, uint16(i)
			if filled++; filled == size {
				break
			}
		}
	}
	return g
}

// Pick implements [Picker].
func (g *maglev) Pick(q Query) *Endpoint {
	at := int(q.Hash % uint64(len(g.table)))
	for i := range min(64, len(g.table)) {
		if e := g.ms[g.table[(at+i)%len(g.table)]].e; q.ready(e) {
			return e
		}
	}
	return scan(g.ms, below(q.Hash, len(g.ms)), &q)
}

// prime is for sizes of tables: at most MaxTable, so trial division will do.
func prime(n int) bool {
	if n < 2 {
		return false
	}
	for d := 2; d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return true
}

// nextPrime names a size that would do, for the error about one that won't.
func nextPrime(n int) string {
	for n = max(n, 2); !prime(n); n++ { // bound: gaps of primes below MaxTable are under 200
	}
	return strconv.Itoa(n)
}
