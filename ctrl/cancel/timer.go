package cancel

import (
	"sync"
	"time"
)

// Timers lends timers. The zero value is ready.
type Timers struct{ pool sync.Pool }

// Timer ends a context after a while.
type Timer struct {
	from *Timers
	t    *time.Timer

	mu    sync.Mutex
	ctx   *Context // nil: it is lent to nobody
	cause error
}

// Start has ctx ended with a cause after d, unless the timer is stopped before.
func (l *Timers) Start(ctx *Context, d time.Duration, cause error) *Timer {
	t, ok := l.pool.Get().(*Timer)
	if !ok {
		t = &Timer{from: l}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ctx, t.cause = ctx, cause
	if t.t == nil {
		t.t = time.AfterFunc(d, t.fire)
	} else {
		t.t.Reset(d)
	}
	return t
}

func (t *Timer) fire() {
	t.mu.Lock()
	ctx, cause := t.ctx, t.cause
	t.ctx = nil
	t.mu.Unlock()
	if ctx != nil {
		ctx.Cancel(cause)
	}
}

// Stop gives the timer back, whether it has fired or not. It must not be used again; a nil
// one has been.
func (t *Timer) Stop() {
	if t == nil {
		return
	}
	t.mu.Lock()
	t.ctx = nil
	t.mu.Unlock()
	if t.t.Stop() { // else it has fired, or does now and must not be lent until it has
		t.from.pool.Put(t)
	}
}
