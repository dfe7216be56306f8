package limit

import (
	"sync"
	"sync/atomic"
	"time"
)

// unit is the resolution of buckets' times: a sixteenth of a nanosecond, so that a million
// tokens a second are right to one part in a hundred thousand. An int64 of them is 18 years.
const unit = 16

// pace is how fast a bucket fills and how much it holds, in units.
type pace struct {
	token int64 // time in which one token comes
	depth int64 // time in which an empty bucket gets full
}

// Decision is what a bucket says of one request.
type Decision struct {
	OK         bool
	Remaining  int           // tokens left
	Reset      time.Duration // until the bucket is full
	RetryAfter time.Duration // until there are tokens for the request; 0: there were
}

// take takes n tokens of a bucket that is full again at full, at the time now. It returns
// the bucket's new time and what to say.
func (p pace) take(full, now int64, n int) (int64, Decision) {
	full = max(full, now)
	next := full + int64(n)*p.token
	d := Decision{OK: next-now <= p.depth}
	if d.OK {
		full = next
	} else {
		d.RetryAfter = time.Duration((next - now - p.depth + unit - 1) / unit)
	}
	d.Remaining = int((p.depth - (full - now)) / p.token)
	d.Reset = time.Duration((full - now + unit - 1) / unit)
	return full, d
}

// bucket is one bucket for everybody.
type bucket struct{ full atomic.Int64 }

func (b *bucket) take(p pace, now int64, n int) Decision {
	for { // ends: each turn that fails means that another's succeeded
		old := b.full.Load()
		next, d := p.take(old, now, n)
		if !d.OK || b.full.CompareAndSwap(old, next) {
			return d
		}
	}
}

func (b *bucket) refund(p pace, n int) { b.full.Add(-int64(n) * p.token) }

// ways is how many buckets a set has: two cache lines.
const ways = 8

type slot struct {
	key  uint64 // 0: empty
	full int64
}

type set [ways]slot

// locks spread the table's; each is alone on its cache line.
const locks = 256

type padded struct {
	sync.Mutex
	_ [56]byte
}

// table has a bucket per key, in memory of a fixed size.
type table struct {
	sets    []set // a power of two
	lock    [locks]padded
	evicted atomic.Uint64
}

// newTable makes a table with room for keys, rounded up.
func newTable(keys int) *table {
	n := 1
	for n*ways < keys {
		n *= 2
	}
	return &table{sets: make([]set, n)}
}

func (t *table) at(key uint64) (*set, *padded) {
	i := key & uint64(len(t.sets)-1)
	return &t.sets[i], &t.lock[i%locks]
}

func (t *table) take(p pace, key uint64, now int64, n int) Decision {
	s, lock := t.at(key)
	lock.Lock()
	defer lock.Unlock()
	victim := &s[0]
	for i := range s {
		if s[i].key == key {
			victim = &s[i]
			break
		}
		if s[i].full < victim.full {
			victim = &s[i]
		}
	}
	full := victim.full
	if victim.key != key {
		full = 0
	}
	next, d := p.take(full, now, n)
	if d.OK { // a refused request leaves no trace: an empty place means a full bucket
		if victim.key != key && victim.full > now {
			t.evicted.Add(1)
		}
		victim.key, victim.full = key, next
	}
	return d
}

func (t *table) refund(p pace, key uint64, n int) {
	s, lock := t.at(key)
	lock.Lock()
	defer lock.Unlock()
	for i := range s {
		if s[i].key == key {
			s[i].full -= int64(n) * p.token
			return
		}
	}
}

// inDebt counts the buckets that are not full.
func (t *table) inDebt(now int64) int {
	n := 0
	for i := range t.sets {
		lock := &t.lock[i%locks]
		lock.Lock()
		for _, one := range t.sets[i] {
			if one.key != 0 && one.full > now {
				n++
			}
		}
		lock.Unlock()
	}
	return n
}
