package gateway

import (
	"context"
	"sync/atomic"
	"time"
)

// flight counts the requests of one generation that are under way, spread over cache
// lines so that cores seldom meet.
type flight [16]struct {
	n atomic.Int64
	_ [56]byte
}

// empty says whether none is under way, of a generation that is no longer in force: then
// none can begin any more that has not been counted. Each counter that is 0 stays 0.
func (f *flight) empty() bool {
	for i := range f {
		if f[i].n.Load() != 0 {
			return false
		}
	}
	return true
}

// enter begins a request: it returns the generation in force, and what leave wants.
func (g *Gateway) enter() (*generation, uint64) {
	slot := g.o.Rand() % uint64(len(flight{}))
	for {
		gen := g.gen.Load()
		gen.flight[slot].n.Add(1)
		if g.gen.Load() == gen { // else it may have been found empty already
			return gen, slot
		}
		gen.flight[slot].n.Add(-1)
	}
}

func (n *generation) leave(slot uint64) { n.flight[slot].n.Add(-1) }

const (
	retireTime = time.Minute     // that requests of generations before may open what is theirs alone
	closeTime  = 5 * time.Second // that everything has to end when the gateway closes
)

// afterwards runs f when the requests of all generations before the one in force have
// ended, at the latest after retireTime, or when the gateway closes. What f waits for may
// last, a WebSocket for days: its context ends closeTime after the gateway began to close.
// g.mu is held.
func (g *Gateway) afterwards(f func(context.Context)) {
	live := g.past[:0]
	for _, n := range g.past {
		if !n.flight.empty() {
			live = append(live, n)
		}
	}
	clear(g.past[len(live):])
	g.past = live
	wait := append([]*generation(nil), live...)
	g.wg.Go(func() {
		g.quiet(wait)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		g.wg.Go(func() {
			select {
			case <-ctx.Done():
				return
			case <-g.closing:
			}
			t := time.NewTimer(closeTime)
			defer t.Stop()
			select {
			case <-ctx.Done():
			case <-t.C:
				cancel()
			}
		})
		f(ctx)
	})
}

// quiet waits until generations have no requests, for retireTime at most.
func (g *Gateway) quiet(list []*generation) {
	end := time.NewTimer(retireTime)
	defer end.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for _, n := range list {
		for !n.flight.empty() {
			select {
			case <-look.C:
			case <-end.C:
				return
			case <-g.closing:
				return
			}
		}
	}
}
