package server

import (
	"context"
	"math"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/np-appliance/np/ctrl/cancel"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/sock"
)

// h1conn serves HTTP/1.1 on one connection. Its goroutine reads a head, judges it, calls
// the handler, sends what is left of the answer and reads what is left of the body, and so
// on. While it waits for a request it holds no buffer.
//
// What is refused is answered in its turn, by the same handler of the gateway that sees all
// else, and ends the connection.
type h1conn struct {
	conn   *Conn
	s      *Server
	in     net.Conn // TLS, or the connection itself
	sock   *sock.Reader
	ctx    cancel.Context // of all requests
	remote string

	// Of who reads: the connection's goroutine, and whoever reads a body.
	buf  []byte // nil: none is lent
	r, w int    // unread: buf[r:w]
	h    head

	readLimited, writeLimited bool // by a deadline of a handler's
	last                      bool // no further request is waited for

	mu       sync.Mutex
	now      *h1exchange   // that is being handled; nil: none
	seen     *h1exchange   // by the keeper when it looked last
	watching chan struct{} // closed when the watch has ended; nil: there is none
	ahead    []byte        // what the watch read, in a buffer of the server's
	hijacked bool
}

// Sizes of buffers and writes.
const (
	writePiece  = 64 << 10 // is to be sent within Limits.SendStall
	lingerBytes = 256 << 10
	lingerTime  = 500 * time.Millisecond
	maxLine     = 128 // of a refused request that is kept for logs
)

// h1buffers lends buffers for heads.
type h1buffers Server

// Get implements sock.Buffers.
func (s *h1buffers) Get() []byte { return s.buffers.Get().(*[bufferBytes]byte)[:] }

// Put implements sock.Buffers.
func (s *h1buffers) Put(b []byte) { (*Server)(s).free(b) }

// serveH1 serves HTTP/1.1 until the connection ends. early is what was read already, in a
// buffer of the server's that is the connection's from now on.
func (s *Server) serveH1(ctx context.Context, c *Conn, in net.Conn, early []byte) {
	h := &h1conn{conn: c, s: s, in: in, sock: sock.New(in)}
	h.ctx.Init(ctx)
	defer h.ctx.Cancel(nil)
	if a := in.RemoteAddr(); a != nil {
		h.remote = a.String()
	}
	if cap(early) > 0 {
		h.buf, h.w = early[:cap(early)], len(early)
	}
	c.Protocol = HTTP1
	c.h1.Store(h)
	if h.serve() {
		return
	}
	h.release()
	_ = h.in.Close() // it is over, whatever that says
	c.done()
}

// serve serves requests until none can follow; true: somebody else has the connection.
func (h *h1conn) serve() (taken bool) {
	for { // bound: what the client sends
		n, no := h.readHead()
		if no.set() {
			h.refuse(no)
			return false
		}
		if n == 0 {
			return false
		}
		x, no := h.newExchange(h.buf[h.r : h.r+n])
		if no.set() {
			x.ctx.Cancel(nil)
			h.refuse(no)
			return false
		}
		if h.r += n; h.r == h.w {
			h.release()
		}
		h.conn.requests.Add(1)
		keep := h.handle(x, fault{}, "")
		if x.hijacked {
			return true
		}
		if !keep {
			if !x.body.over() || h.more() {
				h.linger()
			}
			return false
		}
	}
}

// handle has one request handled. True: another may follow.
func (h *h1conn) handle(x *h1exchange, no fault, line string) (keep bool) {
	h.begin(x)
	ok := h.call(x, no, line)
	h.end()
	x.ctx.Cancel(nil)
	if x.hijacked {
		return false
	}
	if !ok {
		x.body.breakOff()
		x.err = errEnded
		if x.drop(); x.committed && !x.chunked && x.length < 0 {
			h.conn.abort() // the connection's end would be taken for the answer's
		}
		return false
	}
	return x.finish()
}

// call calls the handler, or for a request that was refused what answers it. False: the
// answer was broken off.
func (h *h1conn) call(x *h1exchange, no fault, line string) (ok bool) {
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler { // of a handler Server.handled told
			h.s.c.Log.Error("answering a refused request failed", "listener", h.s.c.Name, "panic", v)
		}
	}()
	s := h.s
	if no.set() {
		s.refuse(&x.h1answer, &x.req, no, line)
		return true
	}
	x.close = x.close || h.last
	if most := s.c.Limits.Requests; most > 0 && h.conn.requests.Load() >= uint64(most) {
		x.header["Connection"] = []string{"close"}
	}
	if want := x.req.Header["Expect"]; len(want) > 0 && !hasToken(want[0], "100-continue") {
		x.header["Connection"] = []string{"close"}
		x.WriteHeader(http.StatusExpectationFailed)
		return true
	}
	s.handle(h.conn, &x.h1answer, &x.req, 0)
	return true
}

// readHead waits for a head and judges it. It returns its bytes in buf[r:]; 0 without a
// fault: the connection is over.
func (h *h1conn) readHead() (int, fault) {
	h.h.reset()
	w := &h.conn.wait
	skipped := false // an empty line before the head (RFC 9112 §2.2)
	for {            // bound: the head's limits
		if h.r == h.w {
			if h.release(); !h.rest() {
				return 0, fault{}
			}
		}
		if b := h.buf[h.r:h.w]; b[0] == '\r' && h.h.lines == 0 && !skipped {
			if len(b) > 1 && b[1] != '\n' {
				return 0, bad("CR that no LF follows")
			}
			if len(b) > 1 {
				h.r += 2
				skipped = true
				continue
			}
		} else if n, no := h.h.scan(b, &h.s.heads); n > 0 || no.set() {
			if w.headBy.Load() != 0 {
				w.headBy.Store(0)
			}
			return n, no
		}
		if w.headBy.Load() == 0 {
			w.headBy.Store(h.s.now() + h.s.headTime)
		}
		h.room(h.s.heads.bytes + 1)
		n, err := h.in.Read(h.buf[h.w:])
		if h.w += n; n > 0 || err == nil {
			continue
		}
		if w.cut.Load() != 0 {
			return 0, fault{exchange.RequestTimeout, "head that took too long"}
		}
		return 0, fault{}
	}
}

// rest waits for the first bytes of the next head. False: none come.
func (h *h1conn) rest() bool {
	w := &h.conn.wait
	switch idle := h.s.idle; {
	case h.conn.requests.Load() == 0:
		if w.headBy.Load() == 0 {
			w.headBy.Store(h.s.now() + h.s.headTime)
		}
		w.restBy.Store(math.MaxInt64)
	case idle > 0:
		w.restBy.Store(h.s.now() + idle)
	default:
		w.restBy.Store(math.MaxInt64)
	}
	h.last = h.s.ending.Load() && h.conn.requests.Load() > 0 // else Shutdown sees restBy
	came := !h.last && h.first()
	ended, ok := h.conn.rested()
	h.last = h.last || ended
	return ok && (came || h.last && h.late())
}

// first reads the first bytes of a head.
func (h *h1conn) first() bool {
	b, n, _ := h.sock.Read((*h1buffers)(h.s))
	if n > 0 {
		h.buf, h.r, h.w = b, 0, n
	}
	return n > 0
}

// late reads the first bytes of a request that came when the connection was about to be
// closed: it is answered yet, and is the last.
func (h *h1conn) late() bool {
	if well, known := h.sock.Look(); well || !known || h.in.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return false
	}
	return h.first() && h.in.SetReadDeadline(time.Time{}) == nil
}

// atRest ends the connection if it waits for a request, as the keeper or Shutdown has it.
func (c *Conn) atRest() {
	c.resting.Lock()
	defer c.resting.Unlock()
	if by := c.wait.restBy.Load(); by > 0 && c.wait.restBy.CompareAndSwap(by, -1) {
		_ = c.raw.SetReadDeadline(time.Unix(1, 0)) // its goroutine closes it
	}
}

// rested ends the wait for a request. ended: atRest would have the connection end. False:
// it can't go on.
func (c *Conn) rested() (ended, ok bool) {
	if c.wait.restBy.Swap(0) >= 0 {
		return false, true
	}
	c.resting.Lock() // atRest has set its deadline
	defer c.resting.Unlock()
	return true, c.raw.SetReadDeadline(time.Time{}) == nil
}

// room makes room for at least a byte behind buf[:w], in a buffer of at most so many bytes.
func (h *h1conn) room(most int) {
	switch {
	case h.buf == nil:
		h.buf, h.r, h.w = (*h1buffers)(h.s).Get(), 0, 0
	case h.w < len(h.buf):
	case h.r > 0:
		h.w = copy(h.buf, h.buf[h.r:h.w])
		h.r = 0
	default:
		b := make([]byte, min(2*len(h.buf), max(most, len(h.buf)+1)))
		h.w = copy(b, h.buf)
		h.s.free(h.buf)
		h.buf = b
	}
}

// release gives the buffer back, in which nothing is.
func (h *h1conn) release() {
	if h.buf != nil {
		h.s.free(h.buf)
		h.buf, h.r, h.w = nil, 0, 0
	}
}

// refuse answers a request that no handler sees. What the client goes on sending is read
// and thrown away: unread bytes would make the kernel reset the connection, and the client
// lose the answer.
func (h *h1conn) refuse(no fault) {
	h.s.refusals[no.why].Add(1)
	line := h.buf[h.r:min(h.w, h.r+maxLine)]
	for i, c := range line {
		if c == '\r' || c == '\n' {
			line = line[:i]
			break
		}
	}
	text := strconv.QuoteToASCII(string(line))
	h.release()
	x := h.standIn()
	if h.handle(x, no, text); x.hijacked {
		return
	}
	h.linger()
}

// more says whether the client has sent something behind the last request that is
// answered: with bytes that nobody reads the kernel resets the connection, and throws away
// what it has not sent yet of the answer (RFC 9112 §9.6).
func (h *h1conn) more() bool {
	if h.r < h.w {
		return true
	}
	well, known := h.sock.Look()
	return known && !well
}

// linger ends what is sent, and waits for the client to take it.
func (h *h1conn) linger() {
	if closeWrite(h.in) == nil {
		h.conn.lingerOn(h.in)
	}
}

// begin lets the keeper see what is being handled.
func (h *h1conn) begin(x *h1exchange) {
	h.mu.Lock()
	h.now = x
	h.mu.Unlock()
}

// end ends that, and the watch if there is one.
func (h *h1conn) end() {
	h.mu.Lock()
	h.now = nil
	h.mu.Unlock()
	h.unwatch()
}

// glance is the keeper's look: a request that has been handled since the one before is
// watched, whether its client goes away. Short ones, which are most, cost nothing for it.
func (h *h1conn) glance() {
	h.mu.Lock()
	defer h.mu.Unlock()
	x := h.now
	if x != nil && x == h.seen && h.watching == nil && len(h.ahead) == 0 && !h.hijacked && x.body.over() {
		h.watching = make(chan struct{})
		go h.watch(x, h.watching)
	}
	h.seen = x
}

// watch reads while a request is handled whose body is at its end. The connection's end
// ends the request; what comes before, of the next requests, is kept, a buffer of it. A
// client that has sent more than that is not watched any more.
func (h *h1conn) watch(x *h1exchange, over chan struct{}) {
	defer close(over)
	b, n, err := h.sock.Read((*h1buffers)(h.s))
	for b = b[:cap(b)]; ; { // bound: the buffer
		if n > 0 {
			h.mu.Lock()
			h.ahead = b[:n]
			h.mu.Unlock()
		}
		if err != nil || n == len(b) {
			break
		}
		var got int
		got, err = h.in.Read(b[n:])
		n += got
	}
	if err != nil && !isTimeout(err) {
		x.ctx.Cancel(nil)
	}
}

// unwatch ends the watch and takes what it read.
func (h *h1conn) unwatch() {
	h.mu.Lock()
	over := h.watching
	h.mu.Unlock()
	if over == nil {
		return
	}
	_ = h.in.SetReadDeadline(time.Unix(1, 0))
	<-over
	_ = h.in.SetReadDeadline(time.Time{})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watching = nil
	if len(h.ahead) == 0 {
		return
	}
	if h.buf == nil {
		h.buf, h.r, h.w = h.ahead[:cap(h.ahead)], 0, len(h.ahead)
	} else {
		b := make([]byte, max(len(h.buf), h.w-h.r+len(h.ahead)))
		n := copy(b, h.buf[h.r:h.w])
		n += copy(b[n:], h.ahead)
		h.s.free(h.ahead)
		h.release()
		h.buf, h.w = b, n
	}
	h.ahead = nil
}

// h1tunnel is a connection that a handler took.
type h1tunnel struct {
	earlyConn // what was read already
	c         *Conn
}

// Write implements net.Conn.
func (t *h1tunnel) Write(b []byte) (int, error) { return t.c.write(t.Conn, b) }

// Close implements net.Conn.
func (t *h1tunnel) Close() error {
	err := t.Conn.Close()
	t.c.done()
	return err
}
