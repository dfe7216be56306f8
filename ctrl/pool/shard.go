package pool

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/linked"
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

	idle   linked.Node[*item[T]] // in a shard's list, under its mutex
	all    linked.Node[*item[T]] // in Pool.all, under Pool.mu
	doomed *item[T]              // the next of those to be closed

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
	mu         sync.Mutex
	idle       linked.List[*item[T]] // the oldest first
	n          atomic.Int32          // its length; written under mu, read by those who look for a full one
	quick      uint64                // leases without waiting
	wait, hold Histogram             // leases with waiting; all ends of leases
	_          [64]byte              // the next shard's mutex is not on this one's cache line
}

// oldest is the item longest unused; nil: there is none.
func (s *shard[T]) oldest() *item[T] { return value(s.idle.Front()) }

// newer is the one after it in its shard's list; nil: none is.
func (it *item[T]) newer() *item[T] { return value(it.idle.Next()) }

func value[T any](n *linked.Node[*T]) *T {
	if n == nil {
		return nil
	}
	return n.Value
}

// popNewest takes the last used item and marks it lent; nil if there is none.
func (s *shard[T]) popNewest(quick bool) *item[T] {
	s.mu.Lock()
	it := value(s.idle.Back())
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
	s.idle.Remove(&it.idle)
	s.n.Add(-1)
}

// push puts an item that nobody has into the list: at its newest end, unless it
// was away for background validation and others were used since.
func (s *shard[T]) push(it *item[T]) {
	after := s.idle.Back()
	for after != nil && after.Value.used > it.used {
		after = after.Prev()
	}
	s.idle.InsertAfter(&it.idle, after)
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
	ch    chan grant[T]
	home  uint32
	since int64 // Acquire's beginning
	place linked.Node[*waiter[T]]
}

type grant[T any] struct {
	it  *item[T]
	err error
}

// enqueue puts w last in the queue, or first: one whose item proved bad keeps its
// turn. p.mu is held.
func (p *Pool[T]) enqueue(w *waiter[T], first bool) {
	w.place.Value = w
	if first {
		p.queue.PushFront(&w.place)
	} else {
		p.queue.PushBack(&w.place)
	}
}
