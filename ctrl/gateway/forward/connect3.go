package forward

import (
	"context"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/np-appliance/np/ctrl/gateway/h1"
)

// connects3 opens streams by extended CONNECT over HTTP/3 (RFC 9220), over connections of
// their own: those of requests are the transport's.
type connects3 struct {
	dial func(context.Context) (*quic.Conn, error)
	t    *http3.Transport
	idle time.Duration // that a connection without streams is kept
	turn chan struct{} // holds one token: the right to open a connection

	mu     sync.Mutex
	conns  []*conn3
	closed bool
}

// conn3 is a connection with the streams that are open or being opened on it. Its fields
// are under the mutex of connects3.
type conn3 struct {
	*http3.ClientConn
	streams int
	room    int // for streams
	timer   *time.Timer
}

// streamRoom is how many streams a connection is taken for: servers allow at least so many
// (RFC 9114 §6.1); one that allows fewer is noticed.
const streamRoom = 100

// streamWait is how long a connection that is in use may take to let one more stream be
// opened before another connection is.
const streamWait = 100 * time.Millisecond

// Codes of HTTP/3 (RFC 9114 §8.1).
const (
	h3NoError         = 0x100
	h3RequestCanceled = 0x10c
)

func newConnects3(t *http3.Transport, idle time.Duration, dial func(context.Context) (*quic.Conn, error)) *connects3 {
	c := &connects3{dial: dial, t: t, idle: idle, turn: make(chan struct{}, 1)}
	c.turn <- struct{}{}
	return c
}

// take returns a connection that has room, and takes it; nil: there is none.
func (c *connects3) take() *conn3 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = slices.DeleteFunc(c.conns, func(q *conn3) bool { return q.Context().Err() != nil })
	for _, q := range c.conns {
		if q.streams < q.room {
			q.streams++
			return q
		}
	}
	return nil
}

// give gives room back. full: the connection takes no more streams than it has now.
func (c *connects3) give(q *conn3, full bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q.streams--
	if full {
		q.room = q.streams
	}
	if q.streams > 0 || c.closed {
		return
	}
	if q.room == 0 {
		c.shut(q)
		return
	}
	if q.timer != nil {
		q.timer.Reset(c.idle)
		return
	}
	q.timer = time.AfterFunc(c.idle, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if q.streams == 0 {
			c.shut(q)
		}
	})
}

// shut ends a connection. c.mu is held.
func (c *connects3) shut(q *conn3) {
	c.conns = slices.DeleteFunc(c.conns, func(o *conn3) bool { return o == q })
	_ = q.CloseWithError(h3NoError, "")
}

// conn returns a connection with room for a stream, taken. Many that ask at once wait for
// one to be opened, rather than open one each.
func (c *connects3) conn(ctx context.Context) (q *conn3, err error) {
	if q := c.take(); q != nil {
		return q, nil
	}
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, &h1.ConnectError{Err: context.Cause(ctx)}
	}
	defer func() { c.turn <- struct{}{} }()
	if q := c.take(); q != nil {
		return q, nil
	}
	raw, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	q = &conn3{ClientConn: c.t.NewClientConn(raw), streams: 1, room: streamRoom}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = q.CloseWithError(h3NoError, "")
		return nil, &h1.ConnectError{Err: errClosed}
	}
	c.conns = append(c.conns, q)
	return q, nil
}

// end closes all connections.
func (c *connects3) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, q := range c.conns {
		if q.timer != nil {
			q.timer.Stop()
		}
		_ = q.CloseWithError(h3NoError, "")
	}
	c.conns = nil
}

// open opens a stream. A connection that lets none be opened is left to those it has, and
// the next is tried.
func (c *connects3) open(ctx context.Context) (*conn3, *http3.RequestStream, error) {
	for { // bound: each turn takes a connection out of use, or opens one, which has room
		q, err := c.conn(ctx)
		if err != nil {
			return nil, nil, err
		}
		select {
		case <-q.ReceivedSettings():
		case <-q.Context().Done():
			err = context.Cause(q.Context())
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			c.give(q, false)
			return nil, nil, err
		}
		if !q.Settings().EnableExtendedConnect {
			c.give(q, false)
			return nil, nil, &noConnect{"HTTP/3"}
		}
		c.mu.Lock()
		alone := q.streams == 1
		c.mu.Unlock()
		short, cancel := ctx, func() {}
		if !alone {
			short, cancel = context.WithTimeout(ctx, streamWait)
		}
		s, err := q.OpenRequestStream(short)
		cancel()
		if err == nil {
			return q, s, nil
		}
		c.give(q, true)
		if alone || ctx.Err() != nil {
			return nil, nil, err
		}
	}
}

func (c *connects3) connect(ctx context.Context, r *http.Request, protocol string) (*http.Response, duplex, error) {
	q, s, err := c.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	st := &stream3{s: s}
	st.done = sync.OnceFunc(func() { c.give(q, false) })
	st.stop = context.AfterFunc(ctx, st.cancel)
	r.Proto, r.ProtoMajor, r.ProtoMinor = protocol, 3, 0 // as the library has :protocol
	if err := s.SendRequestHeader(r); err != nil {
		_ = st.Close()
		return nil, nil, err
	}
	resp, err := st.response()
	if err != nil {
		_ = st.Close()
		return nil, nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		_ = st.CloseWrite() // the request has no content; a stream that is gone tells by its answer
		resp.Body = st
		return resp, nil, nil
	}
	return resp, st, nil
}

// stream3 is a stream of HTTP/3.
type stream3 struct {
	s              *http3.RequestStream
	stop           func() bool // of the context's AfterFunc
	done           func()
	sent, received atomic.Bool // to their ends
}

// maxInformational bounds 1xx responses before the answer.
const maxInformational = 8

func (s *stream3) response() (*http.Response, error) {
	for range maxInformational {
		resp, err := s.s.ReadResponse()
		if err != nil || resp.StatusCode >= 200 {
			return resp, err
		}
	}
	return nil, &h1.ProtocolError{Detail: "too many informational responses"}
}

// cancel resets what has not ended by itself.
func (s *stream3) cancel() {
	if !s.received.Load() {
		s.s.CancelRead(h3RequestCanceled)
	}
	if !s.sent.Load() {
		s.s.CancelWrite(h3RequestCanceled)
	}
}

// Read reads what the endpoint sends.
func (s *stream3) Read(p []byte) (int, error) {
	n, err := s.s.Read(p)
	if err == io.EOF {
		s.received.Store(true)
	}
	return n, err
}

// Write sends to the endpoint.
func (s *stream3) Write(p []byte) (int, error) { return s.s.Write(p) }

// CloseWrite ends what is sent.
func (s *stream3) CloseWrite() error {
	err := s.s.Close()
	s.sent.Store(err == nil)
	return err
}

// Close ends the stream; what has ended by itself isn't reset.
func (s *stream3) Close() error {
	s.stop()
	s.cancel()
	s.done()
	return nil
}
