package pool

import (
	"context"
	"fmt"
	"runtime"
	"sort"
	"strings"
	"time"
)

// measure notes whether more are open than may be. p.mu is held; to be called
// after each change of open, closing or Max.
func (p *Pool[T]) measure() {
	over := p.open-p.closing > p.cfg.Load().Max
	if over == p.over {
		return
	}
	p.over = over
	if over {
		p.slow.Add(1)
	} else {
		p.slow.Add(-1)
	}
}

// checkGone tells Close that nothing is left. p.mu is held.
func (p *Pool[T]) checkGone() {
	if p.closed.Load() && p.open == 0 && p.opening == 0 {
		select {
		case <-p.gone:
		default:
			close(p.gone)
		}
	}
}

// closeOne ends an item that nobody else has.
func (p *Pool[T]) closeOne(it *item[T], why Reason) {
	p.mu.Lock()
	p.closing++
	p.measure()
	p.mu.Unlock()
	p.finish(it, why)
}

// finish ends an item counted as closing. Its place is free only when the close
// function has returned, so that a destination never sees more than Max.
func (p *Pool[T]) finish(it *item[T], why Reason) {
	p.opts.Close(it.value, why)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open--
	p.closing--
	p.totals.Closed[why]++
	p.all.Remove(&it.all)
	p.measure()
	p.startOpeners()
	p.checkGone()
}

// finishAll ends a list of items counted as closing.
func (p *Pool[T]) finishAll(list *item[T], why Reason) {
	for list != nil { // bound: the list
		it := list
		list, it.doomed = it.doomed, nil
		p.finish(it, why)
	}
}

// Flush ends all items open now: idle ones before it returns, borrowed ones as
// they come back. For when their destination has changed.
func (p *Pool[T]) Flush() {
	p.epoch.Add(1)
	var bad *item[T]
	p.mu.Lock()
	epoch := p.epoch.Load()
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
		for it := sh.oldest(); it != nil; { // bound: Max
			newer := it.newer()
			if it.epoch != epoch {
				sh.unlink(it)
				p.closing++
				it.doomed, bad = bad, it
			}
			it = newer
		}
		sh.mu.Unlock()
	}
	p.measure()
	p.mu.Unlock()
	p.finishAll(bad, ReasonFlushed)
}

// Close ends the pool. From its call on nobody acquires, those who wait get
// ErrClosed, openings are cut short and idle items closed. It then waits for
// borrowed items to come back until ctx ends, closes those that have not under
// their borrowers, and returns an error that says how many they were. When it
// returns, every item is closed and the pool's goroutines have ended; for that
// it waits for open and close functions beyond ctx. It may be called again.
func (p *Pool[T]) Close(ctx context.Context) error {
	p.mu.Lock()
	if !p.closed.Load() {
		p.closed.Store(true)
		p.slow.Add(1)
		for p.queue.Len() > 0 { // bound: the waiters
			since := p.queue.Front().Value.since
			p.grant(nil, p.refuse(ErrClosed, since))
		}
		p.stop()
		p.checkGone()
	}
	p.mu.Unlock()
	p.settle()
	var err error
	select {
	case <-p.gone:
	case <-ctx.Done():
		err = p.force(context.Cause(ctx))
		<-p.gone
	}
	p.wg.Wait()
	return err
}

// force closes borrowed items under their borrowers.
func (p *Pool[T]) force(cause error) error {
	var where strings.Builder
	for _, b := range p.Outstanding() {
		fmt.Fprintf(&where, "\nborrowed for %v by\n%s", b.For, b.Stack)
	}
	var bad *item[T]
	n := 0
	p.mu.Lock()
	for at := p.all.Front(); at != nil; at = at.Next() { // bound: Max
		it := at.Value
		if use := it.use.Load(); use%2 == 1 && it.use.CompareAndSwap(use, use+1) {
			p.closing++
			it.doomed, bad = bad, it
			n++
		}
	}
	p.measure()
	p.mu.Unlock()
	p.finishAll(bad, ReasonForced)
	if n == 0 {
		return nil
	}
	return fmt.Errorf("close pool %q: %d items were still borrowed: %w%s", p.opts.Name, n, cause, where.String())
}

// trace is where an item was borrowed. Under Pool.mu.
type trace struct {
	pcs [24]uintptr
	n   int
	at  int64
}

func (t *trace) record(now int64) {
	t.n = runtime.Callers(3, t.pcs[:]) // above record and lease: acquirers, then theirs
	t.at = now
}

func (t *trace) String() string {
	var b strings.Builder
	frames := runtime.CallersFrames(t.pcs[:t.n])
	for more := t.n > 0; more; { // bound: the frames
		var f runtime.Frame
		f, more = frames.Next()
		fmt.Fprintf(&b, "  %s\n    %s:%d\n", f.Function, f.File, f.Line)
	}
	return b.String()
}

// Borrow is an item that somebody has.
type Borrow struct {
	For   time.Duration // since it was borrowed
	Stack string        // where it was
}

// Outstanding returns who has items now, the longest first, for tests that look
// for leaks. Empty without Options.Trace.
func (p *Pool[T]) Outstanding() []Borrow {
	var list []Borrow
	p.mu.Lock()
	now := p.now()
	for at := p.all.Front(); at != nil; at = at.Next() { // bound: Max
		it := at.Value
		if it.trace != nil && it.trace.n > 0 && it.use.Load()%2 == 1 {
			list = append(list, Borrow{For: time.Duration(now - it.trace.at), Stack: it.trace.String()})
		}
	}
	p.mu.Unlock()
	sort.SliceStable(list, func(i, j int) bool { return list[i].For > list[j].For })
	return list
}
