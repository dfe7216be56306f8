package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/np-appliance/np/ctrl/npro"
)

// Request is a request or a one-way message.
type Request struct {
	Opcode   string
	Payload  []byte // read until the call returns, not kept
	Priority uint8  // 0 (lowest) to 7
	// Idempotent says that running it twice does no harm: it is sent again when
	// the connection is lost with it in flight.
	Idempotent bool
	// Context is sent along. The context's deadline is added by itself.
	Context npro.Context
}

// Response is what a server answered.
type Response struct {
	Status  npro.Code
	Payload []byte
	Context npro.Context // of the response; zero when it had none
}

// errAnswered stops the sending of a request that was answered early.
var errAnswered = errors.New("request answered before it was sent")

// stream is one open stream of a connection: a call, or bytes when bytes is set.
// Fields down to err are guarded by the connection's mu; the next belong to the reader.
type stream struct {
	c        *conn
	id       uint32 // 0: not opened yet
	tx       int64  // credit to send
	rx       int64  // credit the peer has left
	rxFreed  int64
	rxEnd    bool
	txEnd    bool
	deadline int64 // ns since the connection's epoch; 0: none
	err      error // senders stop with it
	bytes    *Stream

	started bool
	withCtx bool
	parts   []byte

	async func(Response, error) // one of async, wait and bytes is set
	wait  *waiter
}

// waiter is what a call that someone waits for needs beside its stream.
type waiter struct {
	done  chan struct{} // capacity 1
	resp  Response
	fault error
}

// answer ends a call. resp points into the reader's buffer.
func (s *stream) answer(resp Response) {
	if s.async != nil {
		s.async(resp, statusError(resp))
		return
	}
	w := s.wait
	w.resp = resp
	w.resp.Payload = append([]byte(nil), resp.Payload...)
	for i, e := range w.resp.Context.Extra {
		w.resp.Context.Extra[i].Value = append([]byte(nil), e.Value...)
	}
	w.done <- struct{}{}
}

// fail ends a call or a stream that is out of the table. Without mu.
func (s *stream) fail(err error) {
	s.c.mu.Lock()
	s.err = err
	s.c.notify()
	b := s.bytes
	if b != nil {
		b.broken(err)
	}
	s.c.mu.Unlock()
	switch {
	case b != nil:
	case s.async != nil:
		if errors.Is(err, errNotSent) {
			err = lost(npro.CodeUnavailable)
		}
		s.async(Response{}, err)
	default:
		s.wait.fault = err
		s.wait.done <- struct{}{}
	}
}

// statusError is built without the payload of an asynchronous answer: it would
// outlive the reader's buffer.
func statusError(r Response) error {
	if r.Status == npro.CodeOK {
		return nil
	}
	return &StatusError{Code: r.Status}
}

// header builds what precedes the payload: context block and opcode.
func header(dst []byte, ctx context.Context, r *Request) (h npro.Header, b []byte, err error) {
	if r.Priority > 7 {
		return h, nil, fmt.Errorf("priority %d, at most 7", r.Priority)
	}
	h = npro.Header{Priority: r.Priority}
	if deadline, ok := ctx.Deadline(); ok && !r.Context.HasDeadline {
		meta := r.Context
		meta.Deadline, meta.HasDeadline = time.Until(deadline), true
		h.Flags |= npro.FlagCtx
		dst, err = npro.AppendContext(dst, &meta)
	} else if !r.Context.IsZero() {
		h.Flags |= npro.FlagCtx
		dst, err = npro.AppendContext(dst, &r.Context)
	}
	if err != nil {
		return h, nil, err
	}
	dst, err = npro.AppendRequest(dst, r.Opcode, nil)
	return h, dst, err
}

// abandon gives a stream up before its end. Without mu. False when it was over.
func (c *conn) abandon(s *stream, code npro.Code) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[s.id] != s || s.id == 0 {
		return false
	}
	c.forget(s)
	c.control(npro.TypeReset, s.id, npro.AppendUint32(nil, uint32(code)))
	return true
}

// start sends a request; s is in the table when it returns nil.
func (c *conn) start(ctx context.Context, s *stream, r *Request) error {
	if len(r.Payload) > c.cfg.MaxMessage {
		return fmt.Errorf("request %s of %d bytes: %w", r.Opcode, len(r.Payload), ErrTooLarge)
	}
	var room [128]byte
	h, head, err := header(room[:0], ctx, r)
	if err != nil {
		return fmt.Errorf("request %q: %w", r.Opcode, err)
	}
	if _, ok := ctx.Deadline(); !ok && c.cfg.ResponseTimeout > 0 {
		s.deadline = c.now() + int64(c.cfg.ResponseTimeout)
	}
	h.Type, h.Flags = npro.TypeRequest, h.Flags|npro.FlagEnd
	sent, err := c.send(ctx, s, h, head, r.Payload)
	if err == nil || errors.Is(err, errAnswered) {
		return nil
	}
	if sent && !c.abandon(s, codeOf(err)) {
		return nil // it ended meanwhile, and says so itself
	}
	return err
}

// codeOf tells the server why a stream is given up.
func codeOf(err error) npro.Code {
	if errors.Is(err, context.DeadlineExceeded) {
		return npro.CodeTimeout
	}
	return npro.CodeCanceled
}

// do sends a request and waits for its end.
func (c *conn) do(ctx context.Context, s *stream, r *Request) (Response, error) {
	if err := c.start(ctx, s, r); err != nil {
		return Response{}, err
	}
	w := s.wait
	select {
	case <-w.done:
	case <-ctx.Done():
		if c.abandon(s, codeOf(ctx.Err())) {
			return Response{}, ctx.Err()
		}
		<-w.done // it ended at the same time
	}
	if w.fault != nil {
		return Response{}, w.fault
	}
	if w.resp.Status != npro.CodeOK {
		return w.resp, &StatusError{Code: w.resp.Status, Payload: w.resp.Payload}
	}
	return w.resp, nil
}

// message sends a one-way message.
func (c *conn) message(ctx context.Context, r *Request) error {
	if len(r.Payload) > c.cfg.MaxMessage {
		return fmt.Errorf("message %s of %d bytes: %w", r.Opcode, len(r.Payload), ErrTooLarge)
	}
	var room [128]byte
	h, head, err := header(room[:0], ctx, r)
	if err != nil {
		return fmt.Errorf("message %q: %w", r.Opcode, err)
	}
	h.Type, h.Flags = npro.TypeMessage, h.Flags|npro.FlagEnd
	s := &stream{async: func(Response, error) {}} // the sender sees the stream's error itself
	sent, err := c.send(ctx, s, h, head, r.Payload)
	if err != nil && sent {
		c.abandon(s, codeOf(err))
		return err
	}
	if err == nil {
		c.mu.Lock()
		c.forget(s)
		c.mu.Unlock()
	}
	return err
}
