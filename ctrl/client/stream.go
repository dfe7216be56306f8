package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/np-appliance/np/ctrl/npro"
)

// Stream is a stream of bytes both ways over a connection, with flow control
// of its own. One reader and one writer may use it at the same time.
type Stream struct {
	s        *stream
	c        *conn
	priority uint8

	// Guarded by the connection's mu, like s.
	readable chan struct{} // capacity 1
	chunks   [][]byte      // received, not read
	eof      bool
	over     error // why both directions are dead
	closed   bool
	asked    bool     // a request began it, and its response is not here yet
	answer   Response // to it, once asked is false; its payload is empty

	deadline  sync.Mutex
	readUntil time.Time
	writeTill time.Time
}

// openStream begins with an empty DATA frame: it gives the stream its number, and
// the server's handler starts before there is anything to send.
func (c *conn) openStream(ctx context.Context, priority uint8) (*Stream, error) {
	if priority > 7 {
		return nil, fmt.Errorf("priority %d, at most 7", priority)
	}
	b := &Stream{c: c, priority: priority, readable: make(chan struct{}, 1)}
	b.s = &stream{bytes: b}
	if _, err := c.send(ctx, b.s, npro.Header{Type: npro.TypeData, Priority: priority}, nil, nil); err != nil {
		return nil, err
	}
	return b, nil
}

// openRequest begins with a request that does not END, and waits for its response.
func (c *conn) openRequest(ctx context.Context, r *Request) (*Stream, error) {
	if len(r.Payload) > c.cfg.MaxMessage {
		return nil, fmt.Errorf("request of %d bytes: %w", len(r.Payload), ErrTooLarge)
	}
	var room [128]byte
	h, head, err := header(room[:0], ctx, r)
	if err != nil {
		return nil, err
	}
	h.Type = npro.TypeRequest
	b := &Stream{c: c, priority: r.Priority, readable: make(chan struct{}, 1), asked: true}
	b.s = &stream{bytes: b}
	if sent, err := c.send(ctx, b.s, h, head, r.Payload); err != nil {
		if sent {
			_ = b.Close()
		}
		return nil, err
	}
	for {
		c.mu.Lock()
		asked, over := b.asked, b.over
		c.mu.Unlock()
		if over != nil {
			return nil, over
		}
		if !asked {
			return b, nil
		}
		select {
		case <-b.readable:
		case <-ctx.Done():
			_ = b.Close()
			return nil, ctx.Err()
		}
	}
}

// accepted takes the response to the request that began the stream. Needs mu.
func (b *Stream) accepted(h npro.Header, body []byte) error {
	if h.Type != npro.TypeResponse || h.Flags&npro.FlagMore != 0 {
		return fmt.Errorf("%v with flags %#x answers a request that opens a stream", h.Type, h.Flags)
	}
	b.c.consumed(b.s, int64(len(body)))
	var err error
	if h.Flags&npro.FlagCtx != 0 {
		if b.answer.Context, body, err = npro.ParseContext(append([]byte(nil), body...)); err != nil {
			return err
		}
	}
	code, payload, err := npro.ParseResponse(body)
	if err != nil {
		return err
	}
	b.asked, b.answer.Status = false, code
	if code != npro.CodeOK {
		b.over = &StatusError{Code: code, Payload: append([]byte(nil), payload...)}
		if !b.s.rxEnd {
			b.c.control(npro.TypeReset, b.s.id, npro.AppendUint32(nil, uint32(npro.CodeCanceled)))
		}
		b.c.forget(b.s)
		return nil
	}
	if b.eof = b.s.rxEnd; b.eof {
		b.ended()
	}
	return nil
}

// Answer is the response that accepted a stream of OpenRequest: its context.
func (b *Stream) Answer() Response { return b.answer }

func (b *Stream) signal() {
	select {
	case b.readable <- struct{}{}:
	default:
	}
}

// crumb is the size up to which chunks are put together, so that a slice header
// for each is little beside them.
const crumb = 4 << 10

// receive takes a frame. The reader calls it with mu.
func (b *Stream) receive(h npro.Header, body []byte) error {
	end := h.Flags&npro.FlagEnd != 0
	b.s.rxEnd = b.s.rxEnd || end
	defer b.signal()
	if b.asked {
		return b.accepted(h, body)
	}
	if h.Type != npro.TypeData || b.eof || h.Flags&npro.FlagCtx != 0 {
		return fmt.Errorf("%v with flags %#x in a byte stream", h.Type, h.Flags)
	}
	switch last := len(b.chunks) - 1; {
	case len(body) == 0:
	case last >= 0 && len(b.chunks[last])+len(body) <= crumb:
		b.chunks[last] = append(b.chunks[last], body...)
	default:
		b.chunks = append(b.chunks, append([]byte(nil), body...))
	}
	b.eof = end
	b.ended()
	return nil
}

// ended forgets the stream once both directions are over. Needs mu.
func (b *Stream) ended() {
	if b.eof && b.s.txEnd {
		b.c.forget(b.s)
	}
}

// broken ends both directions. Needs mu; the stream is out of the table.
func (b *Stream) broken(err error) {
	if b.over == nil {
		b.over = err
	}
	b.drop()
	b.signal()
}

// drop gives unread bytes back to the connection. Needs mu.
func (b *Stream) drop() {
	for _, chunk := range b.chunks {
		b.c.consumed(nil, int64(len(chunk)))
	}
	b.chunks = nil
}

// Read returns io.EOF after the peer's END.
func (b *Stream) Read(p []byte) (int, error) {
	timer, expired := b.timer(&b.readUntil)
	if timer != nil {
		defer timer.Stop()
	}
	for {
		n, err := b.take(p)
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		select {
		case <-b.readable:
		case <-expired:
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// take copies what is there.
func (b *Stream) take(p []byte) (n int, err error) {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for n < len(p) && len(b.chunks) > 0 {
		m := copy(p[n:], b.chunks[0])
		n += m
		if b.chunks[0] = b.chunks[0][m:]; len(b.chunks[0]) == 0 {
			b.chunks = b.chunks[1:]
		}
	}
	switch {
	case n > 0:
		c.consumed(b.s, int64(n))
	case b.closed:
		err = io.ErrClosedPipe
	case b.over != nil:
		err = b.over
	case b.eof:
		err = io.EOF
	}
	return n, err
}

// Write sends p; it blocks while the peer gives no credit.
func (b *Stream) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return b.write(p, 0)
}

func (b *Stream) write(p []byte, flags uint8) (int, error) {
	b.c.mu.Lock()
	over := b.over
	if over == nil && (b.closed || b.s.txEnd) {
		over = io.ErrClosedPipe
	}
	b.c.mu.Unlock()
	if over != nil {
		return 0, over
	}
	ctx := context.Background()
	b.deadline.Lock()
	until := b.writeTill
	b.deadline.Unlock()
	if !until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	for sent := 0; ; {
		// In pieces, so that the count is right when a deadline cuts it off.
		n := min(len(p)-sent, fragmentSize)
		f := uint8(0)
		if sent+n == len(p) {
			f = flags
		}
		if _, err := b.c.send(ctx, b.s, npro.Header{Type: npro.TypeData, Flags: f, Priority: b.priority}, nil, p[sent:sent+n]); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				err = os.ErrDeadlineExceeded
			}
			return sent, err
		}
		if sent += n; sent == len(p) {
			return sent, nil
		}
	}
}

// CloseWrite tells the peer that nothing more comes; reading goes on.
func (b *Stream) CloseWrite() error {
	if _, err := b.write(nil, npro.FlagEnd); err != nil {
		return err
	}
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	b.s.txEnd = true
	b.ended()
	return nil
}

// Close ends the stream. Where a direction is still open the peer gets a RESET.
func (b *Stream) Close() error {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	b.drop()
	if c.streams[b.s.id] == b.s {
		c.forget(b.s)
		c.control(npro.TypeReset, b.s.id, npro.AppendUint32(nil, uint32(npro.CodeCanceled)))
	}
	b.s.err = io.ErrClosedPipe
	c.notify()
	b.signal()
	return nil
}

// SetReadDeadline makes a Read that begins after this call fail at t with
// os.ErrDeadlineExceeded; the zero time is none.
func (b *Stream) SetReadDeadline(t time.Time) { b.setDeadline(&b.readUntil, t) }

// SetWriteDeadline does the same for Write and CloseWrite. What was counted as
// written is on its way.
func (b *Stream) SetWriteDeadline(t time.Time) { b.setDeadline(&b.writeTill, t) }

func (b *Stream) setDeadline(which *time.Time, t time.Time) {
	b.deadline.Lock()
	defer b.deadline.Unlock()
	*which = t
}

func (b *Stream) timer(which *time.Time) (*time.Timer, <-chan time.Time) {
	b.deadline.Lock()
	defer b.deadline.Unlock()
	if which.IsZero() {
		return nil, nil
	}
	t := time.NewTimer(time.Until(*which))
	return t, t.C
}
