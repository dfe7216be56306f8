package cancel

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// node embeds a Context, as those for whom it is made do.
type node struct{ Context }

func made(parent context.Context) *node {
	n := &node{}
	n.Init(parent)
	return n
}

type name struct{}

var errWhy = errors.New("why")

// TestEnds: a context ends by itself and with its parent, once, and says why, also to what
// package context derived from it.
func TestEnds(t *testing.T) {
	for _, one := range []struct {
		what       string
		end        func(*node, context.CancelCauseFunc)
		err, cause error
	}{
		{"by itself", func(n *node, _ context.CancelCauseFunc) { n.Cancel(nil) }, context.Canceled, context.Canceled},
		{"with a cause", func(n *node, _ context.CancelCauseFunc) { n.Cancel(errWhy) }, context.Canceled, errWhy},
		{"with the parent", func(_ *node, end context.CancelCauseFunc) { end(nil) }, context.Canceled, context.Canceled},
		{"with the parent's cause", func(_ *node, end context.CancelCauseFunc) { end(errWhy) }, context.Canceled, errWhy},
		{"twice", func(n *node, end context.CancelCauseFunc) { n.Cancel(errWhy); n.Cancel(nil); end(nil) }, context.Canceled, errWhy},
	} {
		synctest.Test(t, func(t *testing.T) {
			outer, end := context.WithCancelCause(context.WithValue(t.Context(), name{}, "outer"))
			defer end(nil)
			top := made(outer)
			defer top.Cancel(nil)
			n := made(top)
			below := made(n)
			derived, stop := context.WithTimeout(context.WithValue(n, name{}, "n"), time.Hour)
			defer stop()
			deep := made(context.WithValue(derived, name{}, "deep"))
			var called atomic.Int32
			var hook, stopped, beyond Hook
			hook.Attach(n, func() { called.Add(1) })
			stopped.Attach(n, func() { called.Add(100) })
			beyond.Attach(context.WithValue(n, name{}, ""), func() { called.Add(1) })
			if !stopped.Stop() || stopped.Stop() {
				t.Errorf("%s: Stop before the end", one.what)
			}
			all := []context.Context{n, below, derived, deep}
			for _, c := range all {
				if c.Err() != nil || context.Cause(c) != nil {
					t.Errorf("%s: %v before the end", one.what, c.Err())
				}
				select {
				case <-c.Done():
					t.Errorf("%s: done before the end", one.what)
				default:
				}
			}
			if n.Value(name{}) != "outer" || derived.Value(name{}) != "n" || deep.Value(name{}) != "deep" {
				t.Errorf("%s: values", one.what)
			}
			one.end(n, end)
			for _, c := range all {
				<-c.Done()
				if c.Err() != one.err || context.Cause(c) != one.cause {
					t.Errorf("%s: %v, %v", one.what, c.Err(), context.Cause(c))
				}
			}
			synctest.Wait()
			if called.Load() != 2 || hook.Stop() {
				t.Errorf("%s: called %d times", one.what, called.Load())
			}
			hook = Hook{}
			hook.Attach(n, func() { called.Add(1) })
			if called.Load() != 3 || hook.Stop() {
				t.Errorf("%s: a hook that came late", one.what)
			}
		})
	}
}

// TestForeignAtOnce: the end of a parent of package context is seen at once, though it is
// told on another goroutine.
func TestForeignAtOnce(t *testing.T) {
	for range 100 {
		outer, end := context.WithTimeoutCause(t.Context(), time.Hour, errWhy)
		n := made(outer)
		end()
		called := make(chan struct{}) // here, or there
		var h Hook
		h.Attach(n, func() { close(called) })
		if n.Err() != context.Canceled {
			t.Fatal(n.Err())
		}
		<-called
	}
}

func TestNever(t *testing.T) {
	n := made(context.Background())
	var h, b Hook
	b.Attach(context.Background(), func() { t.Error("called") })
	if !b.Stop() {
		t.Error("what never ends has ended")
	}
	h.Attach(n, func() {})
	if n.Err() != nil || !h.Stop() {
		t.Error("it has ended")
	}
	if d, ok := n.Deadline(); ok {
		t.Error(d)
	}
	n.Cancel(nil)
}

// TestTimers: timers end what they are lent for, and nothing else.
func TestTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var timers Timers
		var nobody *Timer
		nobody.Stop()
		late := made(context.Background())
		timers.Start(&late.Context, time.Second, errWhy)
		for range 100 {
			n := made(context.Background())
			timer := timers.Start(&n.Context, time.Millisecond, errWhy)
			time.Sleep(time.Microsecond)
			timer.Stop()
			if n.Err() != nil {
				t.Fatal("it ended though its timer was stopped")
			}
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if context.Cause(late) != errWhy {
			t.Errorf("%v", context.Cause(late))
		}
	})
}

// TestRace: ends, hooks and children at once.
func TestRace(t *testing.T) {
	for range 200 {
		outer, end := context.WithCancel(t.Context())
		n := made(outer)
		var timers Timers
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for range 10 {
					child := made(n)
					timer := timers.Start(&child.Context, time.Duration(i)*time.Microsecond, errWhy)
					var h Hook
					ran := make(chan struct{})
					h.Attach(child, func() { close(ran) })
					if i%2 == 0 {
						<-child.Done()
					}
					if !h.Stop() {
						<-ran
					}
					timer.Stop()
					child.Cancel(nil)
				}
			})
		}
		end()
		wg.Wait()
		n.Cancel(nil)
	}
}

// TestAllocations: a child with a hook and a timer costs its own memory and no more.
func TestAllocations(t *testing.T) {
	top := made(context.Background())
	var timers Timers
	run := func() {
		child := made(top)
		var h Hook
		timer := timers.Start(&child.Context, time.Hour, errWhy)
		h.Attach(child, func() {})
		h.Stop()
		timer.Stop()
		child.Cancel(nil)
	}
	run()
	if n := testing.AllocsPerRun(1000, run); n > 3 { // child, hook, and a timer that was not given back
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkChild(b *testing.B) {
	top := made(context.Background())
	var timers Timers
	b.ReportAllocs()
	for b.Loop() {
		child := made(top)
		var h Hook
		timer := timers.Start(&child.Context, time.Hour, errWhy)
		h.Attach(child, func() {})
		h.Stop()
		timer.Stop()
		child.Cancel(nil)
	}
}

// BenchmarkContext is the same by package context.
func BenchmarkContext(b *testing.B) {
	top, end := context.WithCancel(context.Background())
	defer end()
	b.ReportAllocs()
	for b.Loop() {
		child, cancel := context.WithCancelCause(top)
		t := time.AfterFunc(time.Hour, func() { cancel(errWhy) })
		stop := context.AfterFunc(child, func() {})
		stop()
		t.Stop()
		cancel(nil)
	}
}
