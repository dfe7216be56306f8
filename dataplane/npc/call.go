//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"context"
	"errors"
	"time"

	"github.com/np-appliance/np/dataplane"
)

// Set-up calls: a command with a token to one core or to each, and its answer.

// How long a call waits for its answer before it looks into the event ring
// itself, and between later looks at most.
const (
	helpFirst = 100 * time.Microsecond
	helpLast  = 5 * time.Millisecond
)

// undoTime limits what a failed call does to leave nothing behind.
const undoTime = 5 * time.Second

// request is a set-up command. pointer is one into C memory.
type request struct {
	op     uint16
	handle uint64
	stream uint32
	arg    uint32
	flags  uint16 // NP_CMD_F_*
	body   []byte
	// settle, if set, runs when the core has answered or will never do so
	// (then err is CodeShutdown), even if the caller gave up before. It runs on
	// whichever goroutine reads the core, before any later event is polled.
	settle func(answer)
}

type answer struct {
	err    error
	unsent bool // the core never saw the request
	handle uint64
	arg    uint32
	stream uint32
}

type call struct {
	settle func(answer)
	ch     chan answer
}

func (k *call) finish(a answer) {
	if k.settle != nil {
		k.settle(a)
	}
	k.ch <- a // room for the only one
}

// submit queues a request and wakes the core.
func (c *core) submit(ctx context.Context, r request) (*call, error) {
	k := &call{settle: r.settle, ch: make(chan answer, 1)}
	for pause := helpFirst; ; pause = min(2*pause, helpLast) {
		err := c.trySubmit(k, &r)
		if err == nil {
			return k, nil
		}
		if errors.Is(err, dataplane.CodeFull) {
			c.help() // the core takes no commands while its event ring is full
			if sleep(ctx, pause) {
				continue
			}
			err = ctx.Err()
		}
		if r.settle != nil {
			r.settle(answer{err: err, unsent: true})
		}
		return nil, err
	}
}

func (c *core) trySubmit(k *call, r *request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.p.closed.Load() {
		return dataplane.CodeShutdown
	}
	token := c.token%(sendToken-1) + 1
	err := c.put(len(r.body), [][]byte{r.body}, func(s *C.struct_np_cmd) {
		s.op, s.token, s.handle = C.uint16_t(r.op), C.uint32_t(token), C.uint64_t(r.handle)
		s.stream, s.arg, s.cmd_flags = C.uint32_t(r.stream), C.uint32_t(r.arg), C.uint16_t(r.flags)
	})
	if err != nil {
		return err
	}
	c.token = token
	c.calls[token] = k
	c.publish()
	return nil
}

// await waits for the answer. When ctx ends first the core may still carry the
// command out; settle learns of it.
func (c *core) await(ctx context.Context, k *call) (answer, error) {
	timer := time.NewTimer(helpFirst)
	defer timer.Stop()
	for pause := helpFirst; ; pause = min(2*pause, helpLast) {
		select {
		case a := <-k.ch:
			return a, a.err
		case <-ctx.Done():
			return answer{}, ctx.Err()
		case <-timer.C:
			c.help()
			timer.Reset(pause)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// one runs a request on one core.
func (c *core) one(ctx context.Context, r request) (answer, error) {
	k, err := c.submit(ctx, r)
	if err != nil {
		return answer{}, err
	}
	return c.await(ctx, k)
}

// all runs a request on every core. When a core refuses, undo is run on those
// that did not, and the first refusal is the error.
func (p *Plane) all(ctx context.Context, r func(*core) request, undo func(*core) request) error {
	calls := make([]*call, len(p.cores))
	errs := make([]error, len(p.cores))
	for i, c := range p.cores {
		calls[i], errs[i] = c.submit(ctx, r(c))
	}
	for i, c := range p.cores {
		if calls[i] != nil {
			_, errs[i] = c.await(ctx, calls[i])
		}
	}
	var first error
	for _, err := range errs {
		if err != nil {
			first = err
			break
		}
	}
	if first == nil || undo == nil {
		return first
	}
	for i, c := range p.cores {
		// A call that was given up may yet succeed; its undo is queued behind it.
		var code dataplane.Code
		if calls[i] != nil && !errors.As(errs[i], &code) {
			p.undo(func(ctx context.Context) error {
				_, err := c.one(ctx, undo(c))
				return err
			})
		}
	}
	return first
}

// undo runs a step back. Its own error is of no use to the caller, who learns
// of the first one; what it leaves behind goes with the plane.
func (p *Plane) undo(step func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), undoTime)
	defer cancel()
	_ = step(ctx)
}
