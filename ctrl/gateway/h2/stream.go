package h2

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/np-appliance/np/ctrl/cancel"
	"github.com/np-appliance/np/ctrl/linked"
)

// stream is a request and its answer. It is the handler's http.ResponseWriter, and as a
// body the request's.
type stream struct {
	c  *Conn
	id uint32

	// Fixed when the handler begins.
	req      http.Request
	url      url.URL
	ctx      cancel.Context
	declared int64 // Content-Length; -1: none
	refusal  Refusal
	detail   string
	line     string
	trailer  http.Header // announced; it gets values at the body's end
	patient  bool

	answer // the handler's

	// The connection's lock is for what follows.
	received  bool // the client has ended the stream
	sent      bool // we have
	gone      bool // it is not open any more
	halved    bool // by CloseWrite
	malformed bool // the body is: the stream is to be reset after the answer

	// What is received.
	chunks  []*[chunkBytes]byte
	at      int // in the first
	have    int // bytes in all
	got     int64
	window  int
	fresh   int         // bytes for which the client is owed a window
	trailed http.Header // trailers that came
	readEnd error       // after what there is; nil: more comes
	shut    bool        // nobody reads any more
	expects bool        // 100 (Continue) is to be sent when somebody reads
	canRead sync.Cond
	readBy  int64 // on the engine's clock; 0: nothing is waited for
	waited  int64 // for the body, less what its bytes paid for
	lateIn  deadline

	// What is sent.
	give    int64  // the client's window
	pending []byte // of the handler's, to be taken by the scheduler
	ending  bool   // after it the stream ends
	moved   int    // bytes since sendBy was set
	sendBy  int64
	sendEnd error
	canSend sync.Cond
	lateOut deadline

	prio  priority
	place linked.Node[*stream] // among those that are ready
}

// deadline is one that a handler set.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// set sets it; wake is called when it is there. The connection's lock is held.
func (d *deadline) set(at time.Time, wake func()) {
	if d.at = at; d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), wake)
	}
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

// errEnded is what a handler gets that goes on after it has returned.
var errEnded = errors.New("HTTP/2 stream: its handler has ended")

// waits says whether there is something to send that may be. The connection's lock is held.
func (st *stream) waits() bool { return len(st.pending) > 0 && st.give > 0 && !st.gone }

// drop ends a stream that was reset, or with its connection. c.mu is held.
func (c *Conn) drop(st *stream, err error) {
	if st.gone {
		return
	}
	if err == io.EOF { // of the connection: the body's end it is not
		err = io.ErrUnexpectedEOF
	}
	st.sendEnd = err
	st.endRead(err)
	c.close(st)
	st.pending = nil
	st.canSend.Broadcast()
	st.ctx.Cancel(nil) // before the handler sees anything else; what hangs on it does not wait
}

// close takes a stream off the books. c.mu is held.
func (c *Conn) close(st *stream) {
	if st.gone {
		return
	}
	st.gone = true
	c.ready.remove(st)
	delete(c.streams, st.id)
	if st.halved && !st.over {
		if c.tails == nil {
			c.tails = map[*stream]struct{}{}
		}
		c.tails[st] = struct{}{}
	}
	if len(c.streams) == 0 {
		c.idleSince = c.e.now()
	}
}

// deliver keeps what was received until it is read. c.mu is held.
func (st *stream) deliver(p []byte) {
	if len(p) == 0 {
		return
	}
	if st.shut || st.readEnd != nil {
		st.c.giveBack(len(p))
		st.c.giveStream(st, len(p))
		return
	}
	end := st.at + st.have // in the row of chunks
	for len(p) > 0 {       // bound: the stream's window
		if end == len(st.chunks)*chunkBytes {
			st.chunks = append(st.chunks, st.c.e.chunks.Get().(*[chunkBytes]byte))
		}
		n := copy(st.chunks[end/chunkBytes][end%chunkBytes:], p)
		p = p[n:]
		end += n
		st.have += n
	}
	st.canRead.Broadcast()
}

// fetch copies out what was received.
func (st *stream) fetch(p []byte) (n int) {
	for n < len(p) && st.have > 0 {
		part := st.chunks[0][st.at:min(chunkBytes, st.at+st.have)]
		m := copy(p[n:], part)
		n += m
		st.at += m
		if st.have -= m; st.at == chunkBytes || st.have == 0 {
			st.c.e.chunks.Put(st.chunks[0])
			st.chunks[0] = nil
			st.chunks = st.chunks[1:]
			st.at = 0
		}
	}
	return n
}

// shutBody throws away what nobody reads. c.mu is held.
func (st *stream) shutBody() {
	if st.shut = true; st.have > 0 {
		for _, b := range st.chunks {
			st.c.e.chunks.Put(b)
		}
		st.c.giveBack(st.have)
		st.chunks, st.have, st.at = nil, 0, 0
	}
}

// endRead has reads end, after what there is. c.mu is held.
func (st *stream) endRead(err error) {
	if st.readEnd == nil || st.readEnd == io.EOF && err != io.EOF {
		st.readEnd = err
	}
	st.canRead.Broadcast()
}

// body is a stream as its request's body. Only one goroutine may read it at a time.
type body stream

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	st := (*stream)(b)
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for {
		switch {
		case st.shut:
			return 0, http.ErrBodyReadAfterClose
		case st.lateIn.passed():
			return 0, os.ErrDeadlineExceeded
		case st.have > 0 && (st.readEnd == nil || st.readEnd == io.EOF || st.malformed):
			n := st.fetch(p)
			st.waited = max(0, st.waited-c.e.paid(n))
			c.giveBack(n)
			c.giveStream(st, n)
			c.kick()
			return n, nil
		case st.readEnd == io.EOF:
			for name, values := range st.trailed {
				st.trailer[name] = values
			}
			st.trailed = nil
			return 0, io.EOF
		case st.readEnd != nil:
			return 0, st.readEnd
		}
		st.awaitBody()
	}
}

// awaitBody waits for something to be received.
func (st *stream) awaitBody() {
	c := st.c
	if st.expects {
		st.expects = false
		if !st.begun {
			c.writeHead(st, &fields{continued}, false)
			c.kick()
		}
	}
	if c.e.bodyStall == 0 || st.patient {
		st.canRead.Wait()
		return
	}
	now := c.e.now()
	st.readBy = now + max(1, c.e.bodyStall-st.waited)
	st.canRead.Wait()
	st.readBy = 0
	st.waited += c.e.now() - now
}

// Close implements io.Closer. What still comes is thrown away.
func (b *body) Close() error {
	st := (*stream)(b)
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	st.shutBody()
	c.kick()
	st.canRead.Broadcast()
	return nil
}

// SetReadDeadline is for [http.ResponseController].
func (st *stream) SetReadDeadline(t time.Time) error {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.over {
		return errEnded
	}
	st.lateIn.set(t, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		st.canRead.Broadcast()
	})
	st.canRead.Broadcast()
	return nil
}

// SetWriteDeadline is for [http.ResponseController]. A stream whose deadline passes while
// something is to be sent is reset, as what was sent of it is of no use.
func (st *stream) SetWriteDeadline(t time.Time) error {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.over {
		return errEnded
	}
	st.lateOut.set(t, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		st.canSend.Broadcast()
		c.room.Broadcast()
	})
	st.canSend.Broadcast()
	c.room.Broadcast()
	return nil
}

// EnableFullDuplex is for [http.ResponseController]: HTTP/2 always is.
func (st *stream) EnableFullDuplex() error { return nil }

// serve calls the handler. It is a worker's task.
func (st *stream) serve() {
	failed := true
	defer func() {
		if failed {
			recover() // the handler's owner has counted and logged it, or it is http.ErrAbortHandler
		}
		st.finish(failed)
	}()
	e := st.c.e
	if st.refusal != 0 {
		e.c.Refuse(st, &st.req, st.refusal, st.detail, st.line)
	} else {
		st.patient = e.c.Patient != nil && e.c.Patient(&st.req)
		e.c.Handler.ServeHTTP(st, &st.req)
	}
	failed = false
}
