package pool

import (
	"sync"
	"sync/atomic"
	"time"
)

// item is one thing pooled. At each moment one of these owns it: a shard's list
// (under the shard's mutex), a borrower, or the goroutine that took it from
// either. born, spread, epoch and value never change.
type item[T any] struct {
	value T
	// use is odd while the item is out to a borrower and grows with each change.
	// A lease remembers the odd value; whoever moves it on from there owns the
	// item, so a lease is ended once, by Return, Discard or a forced Close.
	use atomic.Uint64

	prev, next       *item[T] // idle list, under the shard's mutex; next also links those to be closed
	allPrev, allNext *item[T] // all open items, under Pool.mu

	born   int64   // ns since Pool.start
	spread float64 // 0 to 1: how much of the jitter this one gets
	epoch  uint64  // Pool.epoch when it was opened

	used  int64 // last returned, or opened
	valid int64 // last validated
	lent  int64 // when the present borrower got it
	uses  int
	shard uint32 // which list the janitor took it from

	trace *trace // with Options.Trace; under Pool.mu
}

// expires is when the item's lifetime ends, or never.
func (it *item[T]) expires(c *Config) int64 {
	if c.MaxLifetime == 0 {
		return never
	}
	return it.born + int64(c.MaxLifetime) - int64(float64(c.MaxLifetime)*c.LifetimeJitter*it.spread)
}

// shard is a list of idle items ordered by when they were last used.
type shard[T any] struct {
	mu             sync.Mutex
	oldest, newest *item[T]
	n              atomic.Int32 // items in the list; written under mu, read by those who look for a full one
	quick          uint64       // leases without waiting
	wait, hold     Histogram    // leases with waiting; all ends of leases
	_              [64]byte     // the next shard's mutex is not on this one's cache line
}

// popNewest takes the last used item and marks it lent; nil if there is none.
func (s *shard[T]) popNewest(quick bool) *item[T] {
	s.mu.Lock()
	it := s.newest
	if it != nil {
		s.unlink(it)
		it.use.Add(1)
		if quick {
			s.quick++
		}
	}
	s.mu.Unlock()
	return it
}

func (s *shard[T]) unlink(it *item[T]) {
	if it.prev != nil {
		it.prev.next = it.next
	} else {
		s.oldest = it.next
	}
	if it.next != nil {
		it.next.prev = it.prev
	} else {
		s.newest = it.prev
	}
	it.prev, it.next = nil, nil
	s.n.Add(-1)
}

// push puts an item that nobody has into the list: at its newest end, unless it
// was away for background validation and others were used since.
func (s *shard[T]) push(it *item[T]) {
	after := s.newest
	for after != nil && after.used > it.used {
		after = after.prev
	}
	it.prev = after
	if after != nil {
		it.next, after.next = after.next, it
	} else {
		it.next, s.oldest = s.oldest, it
	}
	if it.next != nil {
		it.next.prev = it
	} else {
		s.newest = it
	}
	s.n.Add(1)
}

// held counts the end of a lease.
func (s *shard[T]) held(d time.Duration) {
	s.mu.Lock()
	s.hold.add(d)
	s.mu.Unlock()
}

// waiter is an Acquire in the queue. ch gets one grant, under Pool.mu, by who
// took the waiter out of the queue.
type waiter[T any] struct {
	ch         chan grant[T]
	home       uint32
	since      int64 // Acquire's beginning
	queued     bool
	prev, next *waiter[T]
}

type grant[T any] struct {
	it  *item[T]
	err error
}

// queue of waiters, first in, first out. Guarded by Pool.mu.
type queue[T any] struct {
	head, tail *waiter[T]
	n          int
}

// push appends w, or puts it first: one whose item proved bad keeps its turn.
func (q *queue[T]) push(w *waiter[T], first bool) {
	w.queued = true
	q.n++
	switch {
	case q.head == nil:
		q.head, q.tail = w, w
	case first:
		w.next, q.head.prev = q.head, w
		q.head = w
	default:
		w.prev, q.tail.next = q.tail, w
		q.tail = w
	}
}

func (q *queue[T]) remove(w *waiter[T]) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		q.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		q.tail = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
	q.n--
}
