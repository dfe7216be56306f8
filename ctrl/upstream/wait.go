package upstream

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/np-appliance/np/ctrl/linked"
)

// queue holds the requests that wait until an endpoint has room, first come first served.
// It belongs to the upstream, not to an endpoint: whichever has room first takes the first.
type queue struct {
	len atomic.Int64

	mu   sync.Mutex
	line linked.List[*waiter]
}

type waiter struct {
	wake  chan struct{} // holds one signal
	place linked.Node[*waiter]
}

func (k *queue) push(w *waiter, limit int) (front, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.len.Load() >= int64(limit) {
		return false, false
	}
	k.len.Add(1)
	w.place.Value = w
	k.line.PushBack(&w.place)
	return k.line.Front() == &w.place, true
}

func (k *queue) remove(w *waiter) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.line.Remove(&w.place)
	k.len.Add(-1)
}

// wakeOne signals the first who has no signal yet.
func (u *Upstream) wakeOne() { u.queue.signal(1) }

// wakeAll lets everyone look again: the set of endpoints changed.
func (u *Upstream) wakeAll() { u.queue.signal(-1) }

func (k *queue) signal(n int) {
	if k.len.Load() == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for w := k.line.Front(); w != nil && n != 0; w = w.Next() { // bound: Limits.Waiting
		select {
		case w.Value.wake <- struct{}{}:
			n--
		default:
		}
	}
}

// wait refuses, or waits for room. Whoever leaves the queue passes on a signal: there may
// be room for the next, and a signal must not be lost with who had it.
func (u *Upstream) wait(ctx context.Context, q Query) (Lease, error) {
	if u.queue.len.Load() == 0 {
		r, detail := u.view.Load().why(u, u.now())
		if r != ReasonInFlight || u.cfg.Limits.Waiting == 0 {
			return Lease{}, u.refuse(r, detail, nil)
		}
	}
	w := &waiter{wake: make(chan struct{}, 1)}
	front, ok := u.queue.push(w, u.cfg.Limits.Waiting)
	if !ok {
		return Lease{}, u.refuse(ReasonWaiting, fmt.Sprintf("%d wait", u.cfg.Limits.Waiting), nil)
	}
	u.stats.waited.Add(1)
	defer u.wakeOne()
	defer u.queue.remove(w)
	for look := front; ; look = true {
		// Looked at once, since room may have come before w was in the queue; those behind
		// the front are woken by who is before them.
		if look {
			if l, ok := u.try(q); ok {
				return l, nil
			}
			if r, detail := u.view.Load().why(u, u.now()); r != ReasonInFlight {
				return Lease{}, u.refuse(r, detail, nil)
			}
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return Lease{}, u.refuse(ReasonWaitDeadline, "", context.Cause(ctx))
		}
	}
}
