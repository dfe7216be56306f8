package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/np-appliance/np/dataplane"
)

// Sink is told what happens on cores. Its methods are called from the goroutine of
// the core, one at a time for a core, and must not block or call the reader.
type Sink interface {
	// Event takes one event. Its body may be read until Event returns, or, if keep is
	// true, until the sink gives it to Release of that core itself, at any time and
	// from any goroutine. ev itself is the reader's.
	Event(core int, ev *dataplane.Event) (keep bool)
	// Turn follows the events of a batch, and comes without any when a command that
	// found no room may be tried again. What it queues is flushed by the reader.
	Turn(core int)
	// Ended is called once when reading has ended: no event comes any more.
	Ended()
}

// batch is how many events are taken at a time.
const batch = 256

// kinds bounds the table; the numbers of session kinds are small.
const kinds = 16

// Reader reads the cores of one plane.
type Reader struct {
	cores []dataplane.Core

	mu    sync.RWMutex // read-locked while sinks are called
	kind  [kinds]Sink
	sinks []Sink
	ended bool
}

// New makes a reader of plane's cores; Run starts it.
func New(plane dataplane.Plane) *Reader { return &Reader{cores: plane.Cores()} }

// Add lets s take the events of connections of these kinds: SessionPipe includes
// UDP sockets. What has no kind (an event of a port, of addresses, a command's
// failure) goes to every sink; they know their handles. A kind has one sink.
func (r *Reader) Add(s Sink, of ...dataplane.SessionKind) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return fmt.Errorf("read events: %w", dataplane.CodeShutdown)
	}
	for _, k := range of {
		if k == dataplane.SessionNone || int(k) >= kinds {
			return fmt.Errorf("read events of session kind %d: %w", k, dataplane.CodeInvalid)
		}
		if r.kind[k] != nil {
			return fmt.Errorf("read events of session kind %d: %w", k, dataplane.CodeExists)
		}
	}
	for _, k := range of {
		r.kind[k] = s
	}
	r.sinks = append(r.sinks, s)
	return nil
}

// Remove ends what Add began. When it returns no call of s is in progress and none
// will come. Not to be called by a sink's own methods.
func (r *Reader) Remove(s Sink) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.kind {
		if r.kind[k] == s {
			r.kind[k] = nil
		}
	}
	r.sinks = slices.DeleteFunc(r.sinks, func(o Sink) bool { return o == s })
}

// Run reads until ctx ends or the plane closes. When it returns its goroutines have
// ended and every sink was told. Once.
func (r *Reader) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(r.cores))
	var wg sync.WaitGroup
	for i := range r.cores {
		wg.Go(func() {
			errs[i] = r.read(ctx, i)
			cancel() // one core's end is everyone's
		})
	}
	wg.Wait()
	r.mu.Lock()
	r.ended = true
	sinks := slices.Clone(r.sinks)
	r.mu.Unlock()
	for _, s := range sinks {
		s.Ended()
	}
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, dataplane.CodeShutdown) {
			return fmt.Errorf("read events: %w", err)
		}
	}
	return nil
}

func (r *Reader) read(ctx context.Context, i int) error {
	core := r.cores[i]
	evs := make([]dataplane.Event, batch)
	for {
		n := core.Poll(evs)
		r.mu.RLock()
		for j := range n {
			r.event(i, &evs[j])
		}
		for _, s := range r.sinks {
			s.Turn(i)
		}
		r.mu.RUnlock()
		if n > 0 {
			core.Release(evs[:n])
		}
		core.Flush()
		if n == len(evs) && ctx.Err() == nil {
			continue
		}
		if err := core.Wait(ctx); err != nil {
			return err
		}
	}
}

// event hands ev on. A body that was kept is no longer ev's. mu is read-locked.
func (r *Reader) event(core int, ev *dataplane.Event) {
	k := ev.Kind
	if ev.Op == dataplane.EventDatagram {
		k = dataplane.SessionPipe
	}
	if k != dataplane.SessionNone {
		if s := r.kind[k%kinds]; s != nil && s.Event(core, ev) {
			ev.Body, ev.Token = nil, 0
		}
		return
	}
	for _, s := range r.sinks {
		if s.Event(core, ev) {
			ev.Body, ev.Token = nil, 0
			return
		}
	}
}
