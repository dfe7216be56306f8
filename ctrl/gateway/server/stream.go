package server

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/linked"
)

// stream is a request of HTTP/3 that is being handled: its body and its answer have time
// limits of their own, because the connection goes on when they stand still. It is the
// handler's http.ResponseWriter.
type stream struct {
	http.ResponseWriter
	conn *Conn
	body io.ReadCloser // the engine's

	readBy, writeBy atomic.Int64 // by the server's clock, in milliseconds; 0: nothing is waited for
	waited          int64        // for the body, less what its bytes paid for
	patient         bool
	slow            atomic.Bool // the body was broken off
	unsent          int         // bytes written since the last flush

	mu    sync.Mutex // between the keeper and the handler's end
	done  bool
	place linked.Node[*stream] // in the connection's list, under its mutex
}

// streams is the list of a connection's.
type streams struct {
	mu   sync.Mutex
	list linked.List[*stream]
}

func (l *streams) add(st *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st.place.Value = st
	l.list.PushFront(&st.place)
}

func (l *streams) remove(st *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list.Remove(&st.place)
}

// late appends the streams that wait for too long.
func (l *streams) late(now int64, to []*stream) []*stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := l.list.Front(); n != nil; n = n.Next() { // bound: Limits.Streams
		st := n.Value
		if r, w := st.readBy.Load(), st.writeBy.Load(); r != 0 && now > r || w != 0 && now > w {
			to = append(to, st)
		}
	}
	return to
}

// newStream begins the handling of a request.
func newStream(c *Conn, w http.ResponseWriter, r *http.Request) *stream {
	st := &stream{ResponseWriter: w, conn: c}
	if r.ContentLength != 0 && r.Body != nil {
		st.body, r.Body = r.Body, (*streamBody)(st)
		st.patient = patient(r)
	}
	c.streams.add(st)
	return st
}

// finish ends it. What the handler has not flushed the engine sends now, and waits for the
// client's window without an end but this.
func (st *stream) finish() {
	st.mu.Lock()
	st.done = true
	st.mu.Unlock()
	st.conn.streams.remove(st)
	if limit := st.conn.server.c.Limits.SendStall; st.unsent > 0 && limit > 0 {
		_ = http.NewResponseController(st.ResponseWriter).SetWriteDeadline(time.Now().Add(limit))
	}
}

// cutOff breaks off what the stream waits for. The keeper calls it.
func (st *stream) cutOff(now int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.done {
		return
	}
	rc := http.NewResponseController(st.ResponseWriter)
	past := time.Unix(1, 0)
	if by := st.writeBy.Swap(0); by != 0 && now > by {
		st.conn.server.refusedConns[CutAnswer].Add(1)
		_ = rc.SetWriteDeadline(past)
	}
	if by := st.readBy.Swap(0); by != 0 && now > by {
		st.conn.server.refusedConns[CutBody].Add(1)
		st.slow.Store(true)
		_ = rc.SetReadDeadline(past)
	}
}

// sending notes that the handler waits for the client to take something.
func (st *stream) sending() {
	if s := st.conn.server; s.sendStall > 0 {
		st.writeBy.Store(s.now() + s.sendStall)
	}
}

// Write implements http.ResponseWriter.
func (st *stream) Write(b []byte) (int, error) {
	st.sending()
	n, err := st.ResponseWriter.Write(b)
	st.writeBy.Store(0)
	st.unsent += n
	return n, err
}

// FlushError implements what http.ResponseController asks for.
func (st *stream) FlushError() error {
	st.sending()
	err := http.NewResponseController(st.ResponseWriter).Flush()
	st.writeBy.Store(0)
	st.unsent = 0
	return err
}

// Flush implements http.Flusher.
func (st *stream) Flush() { _ = st.FlushError() }

// Unwrap lets http.ResponseController find the engine's writer.
func (st *stream) Unwrap() http.ResponseWriter { return st.ResponseWriter }

// stream3 is a stream of HTTP/3, which can be taken over.
type stream3 struct{ *stream }

// HTTPStream implements http3.HTTPStreamer.
func (st stream3) HTTPStream() (*http3.Stream, error) {
	return st.ResponseWriter.(http3.HTTPStreamer).HTTPStream()
}

// streamBody is a stream as its request's body.
type streamBody stream

// Read implements io.Reader.
func (b *streamBody) Read(p []byte) (int, error) {
	s := b.conn.server
	if s.bodyStall == 0 || b.patient {
		return b.body.Read(p)
	}
	now := s.now()
	b.readBy.Store(now + max(1, s.bodyStall-b.waited))
	n, err := b.body.Read(p)
	b.readBy.Store(0)
	b.waited = max(0, b.waited+s.now()-now-s.paid(n))
	if err != nil && b.slow.Load() && isTimeout(err) {
		err = &BodyError{exchange.RequestTimeout, "body that arrives too slowly"}
	}
	return n, err
}

// Close implements io.Closer.
func (b *streamBody) Close() error { return b.body.Close() }
