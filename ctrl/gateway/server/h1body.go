package server

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// Bounds of what is read of a body that its handler did not read.
const (
	restBytes = 256 << 10
	restTime  = 250 * time.Millisecond // where the answer came before the body's end on purpose
)

// h1body is the body of a request of HTTP/1.1. One goroutine reads it at a time, which need
// not be the handler's.
//
// What is left of it when the handler is done has to be read, to find the next head. Where
// it can't be, because reading failed or a deadline of the handler's is in the way, nobody
// knows where the next head begins, and the connection carries no further request.
type h1body struct {
	x  *h1exchange // nil: there is no body
	mu sync.Mutex

	chunked bool
	left    int64 // of a body of known length
	code    chunks
	waited  int64 // milliseconds, less what the bytes paid for
	asked   bool  // it was waited for, or the client did not want to be asked
	eof     atomic.Bool
	err     error // that ended it
	closed  bool
}

// directRead is how much room a reader needs so that it is read into.
const directRead = 512

func (b *h1body) init(x *h1exchange, h *head) {
	b.x, b.left, b.chunked = x, h.length, h.chunked
	b.asked = !(x.req.ProtoMinor == 1 && len(x.req.Header["Expect"]) > 0 && hasToken(x.req.Header["Expect"][0], "100-continue"))
	x.h1answer.continues = !b.asked
}

// over says whether nothing of it is to come.
func (b *h1body) over() bool { return b.x == nil || b.eof.Load() }

// Read implements io.Reader.
func (b *h1body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.read(p)
}

func (b *h1body) read(p []byte) (n int, err error) {
	switch {
	case b.err != nil:
		return 0, b.err
	case b.eof.Load():
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	if !b.asked {
		b.asked = true
		b.x.h1answer.sendContinue()
	}
	if b.chunked {
		n, err = b.readChunks(p)
	} else if n, err = b.take(p, b.left); err == nil {
		if b.left -= int64(n); b.left == 0 {
			err = io.EOF
		}
	}
	switch err {
	case nil:
	case io.EOF:
		b.eof.Store(true)
	default:
		b.err = err
	}
	return n, err
}

// take reads at most so many bytes: what is there already, else into p if there is room.
func (b *h1body) take(p []byte, most int64) (int, error) {
	h := b.x.c
	if int64(len(p)) > most {
		p = p[:most]
	}
	if h.r == h.w {
		if len(p) >= directRead || !b.chunked && int64(len(p)) == most {
			return b.await(p)
		}
		if err := b.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, h.buf[h.r:h.w])
	if h.r += n; h.r == h.w {
		h.release()
	}
	return n, nil
}

// fill reads into the buffer, in which nothing is.
func (b *h1body) fill() error {
	h := b.x.c
	h.room(bufferBytes)
	n, err := b.await(h.buf[h.w:])
	h.w += n
	return err
}

// await reads from the connection within the time that a body may be waited for.
func (b *h1body) await(p []byte) (int, error) {
	h := b.x.c
	w, s := &h.conn.wait, h.s
	now := s.now()
	if s.bodyStall > 0 {
		w.readBy.Store(now + max(1, s.bodyStall-b.waited))
	}
	n, err := h.in.Read(p)
	w.readBy.Store(0)
	b.waited = max(0, b.waited+s.now()-now-s.paid(n))
	switch {
	case n > 0:
		return n, nil
	case w.cut.Load() != 0:
		return 0, &BodyError{exchange.RequestTimeout, "body that arrives too slowly"}
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}

// readChunks decodes. It waits only while it has nothing to return.
func (b *h1body) readChunks(p []byte) (n int, err error) {
	h, f := b.x.c, &b.code
	for n < len(p) || f.phase != phaseData { // bound: p, and the limits of lines
		if n > 0 && h.r == h.w {
			return n, nil
		}
		if f.phase == phaseData {
			got, err := b.take(p[n:], f.left)
			f.took(got)
			if n += got; err != nil {
				return n, err
			}
			continue
		}
		if h.r == h.w {
			if err := b.fill(); err != nil {
				return n, err
			}
		}
		if no := f.chunk(h.buf[h.r]); no.set() {
			h.s.refusals[no.why].Add(1)
			return n, &BodyError{no.why, no.detail}
		}
		if h.r++; h.r == h.w {
			h.release()
		}
		if f.phase == phaseEnd {
			b.takeTrailer()
			return n, io.EOF
		}
	}
	return n, nil
}

// takeTrailer makes the request's Trailer of lines that were judged.
func (b *h1body) takeTrailer() {
	if len(b.code.trailer) == 0 {
		return
	}
	r := &b.x.req
	if r.Trailer == nil {
		r.Trailer = http.Header{}
	}
	for line := range strings.Lines(string(b.code.trailer)) {
		name, value, _ := strings.Cut(line, ":")
		name = canonical(name)
		r.Trailer[name] = append(r.Trailer[name], strings.Trim(value, " \t\n"))
	}
}

// Close implements io.Closer. What is left is read when the handler is done.
func (b *h1body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}

// unlikely says whether no request can follow, as far as it is known when the answer's
// head is sent: more is left than is read after an answer, or the client waits for leave to
// send the body and might send it or not.
func (b *h1body) unlikely() bool {
	if !b.mu.TryLock() { // somebody reads it
		return false
	}
	defer b.mu.Unlock()
	return !b.asked || b.err != nil || !b.chunked && b.left > restBytes
}

// errEnded is what a handler gets that goes on after it has returned.
var errEnded = errors.New("the request's handler has ended")

// breakOff ends reading for good, also that of a reader whom the handler left behind. The
// connection carries no further request.
func (b *h1body) breakOff() {
	if b.over() {
		return
	}
	if !b.mu.TryLock() {
		_ = b.x.c.in.SetReadDeadline(time.Unix(1, 0))
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = errEnded
	}
}

// ended reads what is left, and says whether it came to the end. keep: another request may
// follow, else nothing is read.
func (b *h1body) ended(keep, duplex bool) bool {
	if b.over() {
		return true
	}
	if !keep {
		b.breakOff()
		return b.over()
	}
	b.mu.Lock() // a reader that the handler left behind ends first
	defer b.mu.Unlock()
	defer func() {
		if b.err == nil && !b.eof.Load() {
			b.err = errEnded
		}
	}()
	h := b.x.c
	torn := func() bool {
		h.s.refusedConns[CutTorn].Add(1)
		return false
	}
	switch {
	case b.eof.Load():
		return true
	case !b.asked: // a client that waits for leave may send it or not
		return false
	case b.err != nil || h.readLimited:
		return torn()
	}
	if duplex && h.in.SetReadDeadline(time.Now().Add(restTime)) != nil {
		return torn()
	}
	scratch := (*h1buffers)(h.s).Get()
	defer h.s.free(scratch)
	for n := 0; n < restBytes; {
		got, err := b.read(scratch)
		n += got
		switch {
		case err == io.EOF:
			return !duplex || h.in.SetReadDeadline(time.Time{}) == nil
		case err != nil && duplex:
			return torn()
		case err != nil:
			return false
		}
	}
	if duplex {
		return torn()
	}
	return false
}

func hasToken(list, token string) bool {
	for t := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.Trim(t, " \t"), token) {
			return true
		}
	}
	return false
}
