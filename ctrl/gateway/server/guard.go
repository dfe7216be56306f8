package server

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// guard is a connection of HTTP/1.1 as net/http sees it: what it reads has passed the framer.
// A head that is refused is replaced by standIn, for which the server's handler answers the
// refusal: so the answers before it stay in order, and it is logged as requests are.
//
// In the ordinary case a Read gets whole heads and bytes of bodies: they are judged where
// net/http wanted them and nothing is copied. Only the beginning of a head that is not
// whole yet is kept in a buffer of the guard's own.
//
// One goroutine reads and one writes at a time, as net/http does.
type guard struct {
	conn  *Conn
	inner net.Conn // TLS, or the connection itself

	framer
	buf   []byte // buf[out:start] waits for Read, buf[start:] is not judged; empty: nothing of both
	out   int    // may be one more than start: the first byte of a head has gone on
	start int    // of what is not judged
	end   error  // what Read returns after what waits
	over  error  // what the connection's Read returned

	answered  atomic.Uint64 // requests, on connections that are kept
	served    uint64        // requests that came to the handler; its goroutine's
	refused   fault         // set before refusedAt
	line      string
	refusedAt atomic.Uint64 // number of the stand-in among heads; 0: none
	drained   int           // bytes after a refused head

	waited int64 // milliseconds for the body, less what its bytes paid for

	hijacked atomic.Bool
	torn     atomic.Bool // a body's reading failed: where the next head begins nobody knows

	mu       sync.Mutex
	sums     []uint64      // of the request lines that went on and were not served
	deadline time.Time     // for reads
	wake     chan struct{} // of a Read that waits for the end of a request; nil: none does
	closed   bool
}

// standIn takes the place of a refused head.
const standIn = "REFUSED / HTTP/1.1\r\nHost: refused.invalid\r\nConnection: close\r\n\r\n"

// Sizes of buffers and writes.
const (
	minRead     = 512      // a Read with less room goes over the guard's buffer
	writePiece  = 64 << 10 // is to be sent within Limits.SendStall
	lingerBytes = 256 << 10
	lingerTime  = 500 * time.Millisecond
	maxLine     = 128 // of a refused request that is kept for logs
)

// newGuard makes a guard; early is what was read already, in a buffer of the server's that
// is the guard's from now on.
func newGuard(c *Conn, inner net.Conn, early []byte) *guard {
	l := &c.server.c.Limits
	g := &guard{conn: c, inner: inner, framer: framer{maxHead: l.HeadBytes, maxFields: l.Fields, maxURI: l.URIBytes}}
	g.headed = g.noteHead
	if len(early) > 0 {
		g.buf = early
		g.judge()
	}
	return g
}

// noteHead remembers a head that goes on.
func (g *guard) noteHead(sum uint64) {
	g.mu.Lock()
	g.sums = append(g.sums, sum) // bound: heads in this guard's and net/http's buffers
	g.mu.Unlock()
}

// agrees says whether a request is the next of those whose heads went on. It always is,
// unless net/http and the framer have parted, and bytes of a body were taken for a head.
func (g *guard) agrees(r *http.Request) bool {
	sum := addSum(addSum(addSum(addSum(addSum(sumBasis, r.Method), " "), r.RequestURI), " "), r.Proto)
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.sums) == 0 || g.sums[0] != sum {
		return false
	}
	g.sums = append(g.sums[:0], g.sums[1:]...)
	return true
}

// Read implements net.Conn.
func (g *guard) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if g.hijacked.Load() {
			return g.readTunnel(p)
		}
		if g.out < g.start {
			return g.take(p), nil
		}
		if g.end == nil && g.over != nil {
			g.end = g.over
		}
		if g.end != nil {
			return 0, g.ended()
		}
		switch {
		case g.phase == phaseTunnel && g.answered.Load() < g.heads:
			if err := g.readAhead(); err != nil {
				return 0, err
			}
		case g.phase == phaseTunnel: // answered, and nobody took the connection
			g.phase = phaseHead
			g.judge()
		case len(g.buf) > 0 || len(p) < minRead && (len(p) > 1 || g.phase != phaseHead):
			if err := g.fill(); err != nil {
				return 0, err
			}
		case len(p) == 1 && g.phase == phaseHead:
			n, err := g.readFirst(p)
			if n > 0 || err != nil {
				return n, err
			}
		default:
			n, err := g.readDirect(p)
			if n > 0 || err != nil {
				return n, err
			}
		}
	}
	return 0, nil
}

// readDirect reads into p and judges there. It returns 0 if nothing may go on yet.
func (g *guard) readDirect(p []byte) (int, error) {
	n, err := g.read(p)
	if n == 0 {
		return 0, err
	}
	ok, no := g.scan(p[:n])
	if ok > 0 {
		g.conn.wait.headBy.Store(0)
	}
	if ok < n {
		g.buf = append(g.conn.server.buffer(), p[ok:n]...)
		g.out, g.start = 0, 0
	}
	if no.set() {
		g.refuse(no)
	} else if ok < n {
		g.judge()
	}
	return ok, nil
}

// readFirst reads the first byte of a head while net/http waits in the background for the
// client to go away. The byte goes on, for it says nothing yet.
func (g *guard) readFirst(p []byte) (int, error) {
	n, err := g.read(p)
	if n == 0 {
		return 0, err
	}
	g.buf = append(g.conn.server.buffer(), p[0])
	g.out, g.start = 0, 0
	switch {
	case tokenByte(p[0]):
		g.out = 1
		return 1, nil
	case p[0] != '\r':
		g.refuse(bad("request line that begins with a character that can't be there"))
	}
	return 0, nil
}

// fill reads more into the buffer and judges it.
func (g *guard) fill() error {
	if g.buf == nil {
		g.buf = g.conn.server.buffer()
		g.out, g.start = 0, 0
	}
	if len(g.buf) == cap(g.buf) {
		g.buf = append(g.buf, 0)[:len(g.buf)] // bound: the framer refuses a head over its limit
	}
	n, err := g.read(g.buf[len(g.buf):cap(g.buf)])
	g.buf = g.buf[:len(g.buf)+n]
	if n > 0 {
		g.judge()
		return nil
	}
	return err
}

// judge scans what is in the buffer and not judged.
func (g *guard) judge() {
	for { // bound: one empty line a head, and a head has bytes
		ok, no := g.scan(g.buf[g.start:])
		if g.start += ok; ok > 0 {
			g.conn.wait.headBy.Store(0)
		}
		if no.set() {
			g.refuse(no)
			return
		}
		rest := g.buf[g.start:]
		if g.phase != phaseHead || g.skipped || len(rest) < 2 || rest[0] != '\r' || g.out > g.start {
			return
		}
		if rest[1] != '\n' {
			g.refuse(bad("CR that no LF follows"))
			return
		}
		g.skipped = true
		g.buf = append(g.buf[:g.start], rest[2:]...)
	}
}

// take hands out what waits.
func (g *guard) take(p []byte) int {
	n := copy(p, g.buf[g.out:g.start])
	if g.out += n; g.out == g.start {
		rest := copy(g.buf, g.buf[g.start:])
		g.buf, g.out, g.start = g.buf[:rest], 0, 0
		if rest == 0 {
			g.release()
		}
	}
	return n
}

func (g *guard) release() {
	if g.buf != nil {
		g.conn.server.free(g.buf)
		g.buf, g.out, g.start = nil, 0, 0
	}
}

// read reads from the connection within the time that what is awaited may take.
func (g *guard) read(p []byte) (int, error) {
	w := &g.conn.wait
	now := g.conn.server.now()
	switch {
	case g.phase == phaseTunnel:
	case g.phase != phaseHead:
		if g.conn.server.bodyStall > 0 {
			w.readBy.Store(now + max(1, g.conn.server.bodyStall-g.waited))
		}
	case w.headBy.Load() == 0 && (g.heads == 0 || len(g.buf) > 0):
		w.headBy.Store(now + g.conn.server.headTime)
	}
	n, err := g.inner.Read(p)
	if g.phase != phaseHead && g.phase != phaseTunnel {
		w.readBy.Store(0)
		g.waited = max(0, g.waited+g.conn.server.now()-now-g.conn.server.paid(n))
	}
	if n > 0 {
		return n, nil
	}
	if why := w.cut.Load(); why != 0 {
		g.timedOut(cutReason(why))
		return 0, nil
	}
	if err != nil && !isTimeout(err) {
		g.over = err
	}
	return 0, err
}

// timedOut refuses what took too long. The deadline that broke the read stays.
func (g *guard) timedOut(why cutReason) {
	switch {
	case g.phase == phaseHead && len(g.buf) > 0:
		g.refuse(fault{exchange.RequestTimeout, "head that took too long"})
	default:
		g.end = &BodyError{exchange.RequestTimeout, "body that arrives too slowly"}
	}
}

// refuse ends what goes on from this connection: in a head with the stand-in, in a body
// with an error.
func (g *guard) refuse(no fault) {
	g.conn.server.refusals[no.why].Add(1)
	if g.phase != phaseHead {
		g.end = &BodyError{no.why, no.detail}
		g.buf = g.buf[:g.start]
		return
	}
	rest := g.buf[min(g.start, len(g.buf)):]
	line := rest[:min(len(rest), maxLine)]
	for i, c := range line {
		if c == '\r' || c == '\n' {
			line = line[:i]
			break
		}
	}
	g.refused, g.line = no, strconv.QuoteToASCII(string(line))
	g.refusedAt.Store(g.heads + 1)
	ahead := g.out > g.start
	g.buf = append(g.buf[:g.start], standIn...)
	if ahead {
		g.buf[g.start] = rest[0]
	}
	g.start = len(g.buf)
	g.end = io.EOF
}

// ended returns what Read returns when nothing more goes on. What a client sends after a
// refused head is read and thrown away while it is answered: unread bytes would make the
// kernel reset the connection, and the client lose the answer.
func (g *guard) ended() error {
	if g.refusedAt.Load() == 0 {
		return g.end
	}
	b := g.conn.server.buffer()
	defer g.conn.server.free(b)
	for g.drained < lingerBytes {
		n, err := g.inner.Read(b[:cap(b)])
		if g.drained += n; err != nil {
			return err
		}
	}
	return g.end
}

// readAhead waits for the end of a request after which the connection may be another
// protocol's. What arrives until then is kept, once there is something nothing more is read.
func (g *guard) readAhead() error {
	if len(g.buf) == 0 {
		return g.fill()
	}
	g.mu.Lock()
	if g.wake == nil {
		g.wake = make(chan struct{}, 1)
	}
	wake, until, closed := g.wake, g.deadline, g.closed
	g.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	var late <-chan time.Time
	if !until.IsZero() {
		left := time.Until(until)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		t := time.NewTimer(left)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-wake:
	case <-late:
	}
	return nil
}

// stir wakes readAhead: something has changed.
func (g *guard) stir() {
	select {
	case g.wake <- struct{}{}: // nil: nobody waits
	default:
	}
}

// readTunnel reads for whoever took the connection.
func (g *guard) readTunnel(p []byte) (int, error) {
	if g.out < len(g.buf) {
		n := copy(p, g.buf[g.out:])
		g.out += n
		return n, nil
	}
	g.release()
	return g.inner.Read(p)
}

// state is told by net/http what becomes of the connection.
func (g *guard) state(s http.ConnState) {
	switch s {
	case http.StateIdle:
		if g.torn.Load() {
			// net/http would take what is left of the body for the next head. It runs this on the
			// connection's goroutine, the answer is sent, and a panic ends the connection.
			g.conn.server.refusedConns[CutTorn].Add(1)
			panic(http.ErrAbortHandler)
		}
		g.answered.Add(1)
	case http.StateHijacked:
		g.hijacked.Store(true)
		g.conn.wait.headBy.Store(0)
	default:
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stir()
}

// Write implements net.Conn.
func (g *guard) Write(b []byte) (int, error) { return g.conn.write(g.inner, b) }

// Close implements net.Conn. After a refusal it waits for the client to take the answer.
func (g *guard) Close() error {
	g.mu.Lock()
	again := g.closed
	g.closed = true
	g.stir()
	g.mu.Unlock()
	if again {
		return nil
	}
	if (g.refusedAt.Load() != 0 || g.torn.Load()) && g.CloseWrite() == nil {
		g.conn.lingerOn(g.inner)
	}
	err := g.inner.Close()
	g.conn.done()
	return err
}

// CloseWrite ends what is sent, if the connection can.
func (g *guard) CloseWrite() error {
	if c, ok := g.inner.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetReadDeadline implements net.Conn.
func (g *guard) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	g.deadline = t
	g.stir()
	g.mu.Unlock()
	return g.inner.SetReadDeadline(t)
}

// SetDeadline implements net.Conn.
func (g *guard) SetDeadline(t time.Time) error {
	return errors.Join(g.SetReadDeadline(t), g.inner.SetWriteDeadline(t))
}

// SetWriteDeadline implements net.Conn.
func (g *guard) SetWriteDeadline(t time.Time) error { return g.inner.SetWriteDeadline(t) }

// LocalAddr implements net.Conn.
func (g *guard) LocalAddr() net.Addr { return g.inner.LocalAddr() }

// RemoteAddr implements net.Conn.
func (g *guard) RemoteAddr() net.Addr { return g.inner.RemoteAddr() }
