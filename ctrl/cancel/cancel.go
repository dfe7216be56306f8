package cancel

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/linked"
)

// Context is a [context.Context] to be embedded. It is ready after Init and must not be
// copied.
type Context struct {
	parent context.Context
	up     Hook // in parent
	ended  atomic.Pointer[ending]

	mu    sync.Mutex
	done  chan struct{}      // nil: nobody asked
	hooks linked.List[*Hook] // those that wait
}

// ending is why a context has ended.
type ending struct {
	err   error
	cause context.Context // ended with the cause: package context finds it there
}

// ended contexts of the usual kind need nothing of their own.
var canceled = &ending{err: context.Canceled}

var (
	_ context.Context = (*Context)(nil)
	_ own             = (*Context)(nil)
)

// own is a Context, or what embeds one.
type own interface{ self() *Context }

func (c *Context) self() *Context { return c }

// key is that by which a context's Value finds the next Context above.
type key struct{}

// Init makes c a child of parent. Its owner calls Cancel in the end.
func (c *Context) Init(parent context.Context) {
	c.parent = parent
	c.up.child = c
	c.up.attach(parent)
}

// Deadline implements [context.Context].
func (c *Context) Deadline() (time.Time, bool) { return c.parent.Deadline() }

// Done implements [context.Context].
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.ended.Load() != nil {
			close(c.done)
		}
	}
	return c.done
}

// Err implements [context.Context].
func (c *Context) Err() error {
	if e := c.ended.Load(); e != nil {
		return e.err
	}
	if c.up.foreign { // whose end may not have come here yet
		if err := c.parent.Err(); err != nil {
			c.end(endOf(c.parent))
			return err
		}
	}
	return nil
}

// Value implements [context.Context].
func (c *Context) Value(k any) any {
	switch k.(type) {
	case key:
		return c
	case *int: // package context asks for what keeps the cause
		if e := c.ended.Load(); e != nil && e.cause != nil {
			return e.cause.Value(k)
		}
	}
	return c.parent.Value(k)
}

// AfterFunc is what package context asks for: f is called in a goroutine when c has ended,
// unless stop comes first.
func (c *Context) AfterFunc(f func()) (stop func() bool) {
	h := &Hook{f: func() { go f() }}
	h.attach(c)
	return h.Stop
}

// Cancel ends c: nil is context.Canceled. The first call counts. Hooks have been called
// when it returns.
func (c *Context) Cancel(cause error) {
	if c.ended.Load() != nil {
		return
	}
	c.up.Stop()
	if cause == nil || cause == context.Canceled {
		c.end(canceled)
		return
	}
	of, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	c.end(&ending{context.Canceled, of})
}

// endOf is why a foreign context has ended.
func endOf(ctx context.Context) *ending {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == err {
		return &ending{err: err, cause: nil}
	}
	of, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	return &ending{err, of}
}

func (c *Context) end(e *ending) {
	c.mu.Lock()
	if c.ended.Load() != nil {
		c.mu.Unlock()
		return
	}
	c.ended.Store(e) // no hook is added any more
	if c.done != nil {
		close(c.done)
	}
	for n := c.hooks.PopFront(); n != nil; n = c.hooks.PopFront() { // bound: those attached
		c.mu.Unlock()
		n.Value.run(e)
		c.mu.Lock()
	}
	c.mu.Unlock()
}

// Hook waits for the end of a context. The zero value waits for nothing. It must not be
// copied while it waits, nor be attached again once Stop has returned false.
type Hook struct {
	f     func()
	child *Context // ended in place of a call of f

	at      *Context           // where it waits, or did
	place   linked.Node[*Hook] // guarded by at.mu
	foreign bool               // the context is none of ours
	never   bool               // it never ends
	stop    func() bool        // of package context
}

// Attach has f called when ctx has ended, at once if it has, by whoever ends it: f must
// not wait for anything. A hook waits for one context at a time.
func (h *Hook) Attach(ctx context.Context, f func()) {
	h.f = f
	h.attach(ctx)
}

func (h *Hook) attach(ctx context.Context) {
	h.at, h.foreign, h.never, h.stop = nil, false, false, nil
	c := find(ctx)
	if c == nil {
		if h.never = ctx.Done() == nil; !h.never {
			h.foreign = true
			h.stop = context.AfterFunc(ctx, func() { h.run(endOf(ctx)) })
		}
		return
	}
	c.mu.Lock()
	e := c.ended.Load()
	if e == nil {
		h.at, h.place.Value = c, h
		c.hooks.PushFront(&h.place)
	}
	c.mu.Unlock()
	if e != nil {
		h.run(e)
	} else if c.up.foreign {
		_ = c.Err() // its parent's end may be on its way
	}
}

// find returns the Context of which ctx tells the end, if there is one.
func find(ctx context.Context) *Context {
	if o, ok := ctx.(own); ok {
		return o.self()
	}
	if c, ok := ctx.Value(key{}).(*Context); ok && c.Done() == ctx.Done() { // there are but values between
		return c
	}
	return nil
}

func (h *Hook) run(e *ending) {
	if h.child != nil {
		h.child.end(e)
		return
	}
	h.f()
}

// Stop ends the waiting. False: the context has ended, and what was to be called was or is
// being called.
func (h *Hook) Stop() bool {
	if h.stop != nil {
		return h.stop()
	}
	c := h.at
	if c == nil {
		return h.never
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !h.place.In() {
		return false
	}
	c.hooks.Remove(&h.place)
	return true
}
