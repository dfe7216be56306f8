package session

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/dataplane"
)

// stream is one NPRO stream: a message on its way to its answer, or a byte
// stream. Guarded by its connection's mu.
type stream struct {
	c        *conn
	id       uint32
	priority uint8
	data     bool // a byte stream
	oneWay   bool
	touched  time.Time
	cancel   context.CancelFunc // ends its handler's context
	busy     bool               // a handler has it, or will
	done     bool               // our side has said all
	dead     bool               // reset, or its connection is gone
	why      dataplane.Code     // of dead

	// a message being put together
	partial bool
	flags   uint8
	body    []byte
	held    int

	// sending
	out    int   // bytes handed to the core, not reported sent
	frames []int // the same, frame by frame

	// a byte stream
	peerEnd  bool     // its peer has said all
	in       [][]byte // received, not read
	credited int      // read, credit not returned yet
	readable chan struct{}
	wroteEnd bool
}

// spares bounds the streams that a connection keeps for later.
const spares = 32

// newStream makes a stream, of a spare one if there is. c.mu is held.
func newStream(c *conn, ev *dataplane.Event) *stream {
	var st *stream
	if n := len(c.spare); n > 0 {
		st, c.spare = c.spare[n-1], c.spare[:n-1]
	} else {
		st = new(stream)
	}
	t := npro.Type(ev.Type)
	*st = stream{c: c, id: ev.Stream, priority: ev.Priority, data: t == npro.TypeData, oneWay: t == npro.TypeMessage, frames: st.frames[:0]}
	return st
}

// takes says whether a frame may follow on a known stream. c.mu is held.
func (st *stream) takes(ev *dataplane.Event) bool {
	t := npro.Type(ev.Type)
	switch {
	case st.dead:
		return false
	case st.data:
		return t == npro.TypeData && !st.peerEnd
	case st.busy, st.done:
		return false
	}
	return st.partial && (t == npro.TypeMessage) == st.oneWay && t != npro.TypeData && t != npro.TypeResponse
}

// reason is the error of a dead stream.
func (st *stream) reason() error { return fmt.Errorf("stream %d: %w", st.id, st.why) }

// fail ends a stream at once. c.mu is held.
func (st *stream) fail(why dataplane.Code) {
	if st.dead {
		return
	}
	st.dead, st.why = true, why
	if why == dataplane.CodeOK {
		st.why = dataplane.CodeEOF
	}
	st.c.outBytes -= st.out
	st.out, st.frames = 0, nil
	st.settle()
	if st.partial {
		st.partial = false
		st.c.m.partial.Add(-1)
	}
	if st.c.state != stateGone {
		st.c.free(st.held)
	}
	st.held, st.body = 0, nil
	if st.cancel != nil {
		st.cancel()
	}
	st.wakeReader()
	st.c.wake()
}

// settle drops what was not read and returns its credit: the stream's is of no
// use any more, the connection's is. c.mu is held.
func (st *stream) settle() {
	left := st.credited
	for _, b := range st.in {
		left += len(b)
	}
	st.in, st.credited = nil, 0
	if st.c.state == stateOpen {
		st.c.sh.credit(st.c.handle, st.id, left)
	}
}

func (st *stream) wakeReader() {
	if st.readable != nil {
		close(st.readable)
		st.readable = nil
	}
}

// forget takes a stream that ended badly off its connection. c.mu is held.
func (c *conn) forget(st *stream) {
	st.fail(dataplane.CodeAborted)
	delete(c.streams, st.id)
}

// tidy forgets a stream that ended well, once all of it is sent. c.mu is held.
func (c *conn) tidy(st *stream) {
	if !st.done || st.out > 0 || st.busy || st.data && !st.peerEnd || c.streams[st.id] != st {
		return
	}
	delete(c.streams, st.id)
	// Its handler was the last to know it, and has returned. A byte stream's
	// handler may have left the stream to others.
	if !st.data && len(c.spare) < spares {
		c.spare = append(c.spare, st)
	}
}

// reset is the peer giving a stream up.
func (c *conn) reset(id, code uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if st := c.streams[id]; st != nil {
		st.fail(dataplane.CodeReset)
		delete(c.streams, id)
	}
}

// admitStream takes a place for a byte stream's handler.
func (m *Manager) admitStream() bool {
	if m.streams.Add(1) > int64(m.cfg.StreamHandlers) {
		m.streams.Add(-1)
		return false
	}
	return true
}

// crumb is the size up to which pieces of a byte stream are put together.
const crumb = 4 << 10

// data takes a DATA frame. c.mu is held.
func (c *conn) data(st *stream, ev *dataplane.Event, n int) {
	st.peerEnd = st.peerEnd || ev.Flags&npro.FlagEnd != 0
	if st.done { // its handler ended: the rest goes nowhere
		c.sh.credit(c.handle, st.id, n)
		c.tidy(st)
		return
	}
	if n > 0 {
		// Bounded by the stream's window, if each piece is worth its slice header:
		// a peer may send a byte a frame.
		if last := len(st.in) - 1; last >= 0 && len(st.in[last])+n <= crumb {
			for _, p := range ev.Body {
				st.in[last] = append(st.in[last], p...)
			}
		} else {
			st.in = append(st.in, join(nil, ev.Body))
		}
	}
	st.wakeReader()
}

// begin makes a request's stream a byte stream: it accepts with a RESPONSE that
// does not END, and a goroutine of its own runs the handler. false: there are
// too many, and p says so.
func (c *conn) begin(j *job, p *parsed) bool {
	if !c.m.admitStream() {
		p.entry, p.code, p.why = nil, npro.CodeOverloaded, "stream_handlers"
		return false
	}
	req := p.req
	req.Payload = append([]byte(nil), req.Payload...)
	c.mu.Lock()
	j.st.data = true
	c.mu.Unlock()
	c.release(j)
	c.serve(j.st, p.entry, &req, true)
	return true
}

// open gives a stream that began with DATA to the handler there is for those,
// or resets it.
func (c *conn) open(st *stream) {
	op := c.m.cfg.StreamOpcode
	entry, code, why := c.m.cfg.Registry.Lookup(op), npro.CodeOK, ""
	switch {
	case !c.rights.May(op):
		code, why = npro.CodeDenied, "denied"
	case entry == nil || entry.Stream == nil:
		code, why = npro.CodeUnknownOpcode, "unknown_opcode"
	case !c.m.admitStream():
		code, why = npro.CodeOverloaded, "stream_handlers"
	}
	if code == npro.CodeOK {
		c.serve(st, entry, &dispatch.Request{Opcode: op, Peer: c.peer}, false)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(st, code, why)
}

// serve runs a byte stream's handler; accept: a RESPONSE says so first.
func (c *conn) serve(st *stream, entry *dispatch.Entry, req *dispatch.Request, accept bool) {
	ctx, cancel := context.WithCancel(c.ctx)
	c.mu.Lock()
	st.busy, st.cancel = true, cancel
	if st.dead {
		cancel()
	}
	c.mu.Unlock()
	c.m.stats.streams.Add(1)
	c.m.wg.Go(func() {
		defer c.m.streams.Add(-1)
		defer cancel()
		s := &byteStream{st: st, ctx: ctx}
		code := npro.CodeCanceled
		if !accept || c.send(ctx, st, npro.TypeResponse, 0, []byte{byte(npro.CodeOK)}) == nil {
			code = c.m.cfg.Registry.Serve(ctx, entry, req, s)
		}
		s.end(code)
		c.sh.core.Flush()
	})
}

// byteStream is what a StreamHandler gets.
type byteStream struct {
	st  *stream
	ctx context.Context
}

var _ dispatch.Stream = (*byteStream)(nil)

// creditStep is how much is read before credit returns while more is there.
const creditStep = 32 << 10

// Read implements io.Reader.
func (s *byteStream) Read(p []byte) (int, error) {
	st, c := s.st, s.st.c
	for {
		c.mu.Lock()
		if len(st.in) > 0 {
			n := copy(p, st.in[0])
			if st.in[0] = st.in[0][n:]; len(st.in[0]) == 0 {
				st.in[0] = nil
				st.in = st.in[1:]
			}
			st.credited += n
			due := 0
			if st.credited >= creditStep || len(st.in) == 0 {
				due, st.credited = st.credited, 0
			}
			c.mu.Unlock()
			if due > 0 {
				c.sh.credit(c.handle, st.id, due)
				c.sh.core.Flush()
			}
			return n, nil
		}
		switch {
		case st.dead:
			c.mu.Unlock()
			return 0, st.reason()
		case st.peerEnd:
			c.mu.Unlock()
			return 0, io.EOF
		case len(p) == 0:
			c.mu.Unlock()
			return 0, nil
		}
		if st.readable == nil {
			st.readable = make(chan struct{})
		}
		ch := st.readable
		c.mu.Unlock()
		select {
		case <-ch:
		case <-s.ctx.Done():
			return 0, context.Cause(s.ctx)
		}
	}
}

// Write implements io.Writer.
func (s *byteStream) Write(p []byte) (int, error) {
	if s.st.wroteEnd {
		return 0, fmt.Errorf("stream %d: write after CloseWrite", s.st.id)
	}
	total := len(p)
	for len(p) > 0 {
		n := min(len(p), s.st.c.frameMax)
		if err := s.st.c.send(s.ctx, s.st, npro.TypeData, 0, p[:n]); err != nil {
			return total - len(p), err
		}
		p = p[n:]
	}
	return total, nil
}

// CloseWrite implements [dispatch.Stream].
func (s *byteStream) CloseWrite() error {
	if s.st.wroteEnd {
		return nil
	}
	s.st.wroteEnd = true
	return s.st.c.send(s.ctx, s.st, npro.TypeData, npro.FlagEnd)
}

// end is the handler's return: what it wrote ends well, or is reset.
func (s *byteStream) end(code npro.Code) {
	st, c := s.st, s.st.c
	if code == npro.CodeOK && s.CloseWrite() != nil {
		code = npro.CodeCanceled
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	st.cancel, st.busy, st.done = nil, false, true
	if st.dead {
		return
	}
	if code != npro.CodeOK {
		c.forget(st)
		c.sh.must(func() error { return c.sh.core.Reset(c.handle, st.id, uint32(code)) })
		return
	}
	st.settle()
	c.tidy(st)
}
