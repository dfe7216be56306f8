package h2

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// answer is what a handler has said. It is the handler's alone, but for over.
type answer struct {
	header http.Header
	status int // 0: nothing was said yet
	length int64
	wrote  int64
	head   *fields           // not sent yet
	buf    *[chunkBytes]byte // bytes not sent yet
	in     int               // of them
	names  []string          // of trailers that were announced
	over   bool              // the handler has returned; the connection's lock is for it
	begun  bool              // the head was sent
	last   bool              // the connection is to end: Connection: close
	typed  bool              // there is a Content-Type or a Content-Encoding
}

// Header implements [http.ResponseWriter].
func (st *stream) Header() http.Header {
	if st.header == nil {
		st.header = make(http.Header)
	}
	return st.header
}

// continued is the head of 100 (Continue).
var continued = []hpack.HeaderField{{Name: ":status", Value: "100"}}

// WriteHeader implements [http.ResponseWriter]. Heads before the last (RFC 9110 §15.2) are
// sent at once.
func (st *stream) WriteHeader(status int) {
	if status < 100 || status > 999 || status == http.StatusSwitchingProtocols {
		panic(fmt.Sprintf("HTTP/2: WriteHeader with status %d", status))
	}
	if st.status != 0 {
		return
	}
	e, c := st.c.e, st.c
	h := e.heads.Get().(*fields)
	if status < 200 {
		st.flatten(h, status)
		c.mu.Lock()
		st.expects = st.expects && status != http.StatusContinue
		if st.sendEnd == nil && !st.gone {
			c.writeHead(st, h, false)
			c.kick()
		}
		c.mu.Unlock()
		e.recycle(h)
		return
	}
	st.status = status
	st.flatten(h, status)
	st.head = h
}

func (e *Engine) recycle(h *fields) {
	clear(h.list)
	h.list = h.list[:0]
	e.heads.Put(h)
}

// statuses that are often sent.
func statusText(status int) string {
	switch status {
	case 200:
		return "200"
	case 204:
		return "204"
	case 304:
		return "304"
	case 404:
		return "404"
	}
	return strconv.Itoa(status)
}

// flatten writes an answer's fields down as they are now.
func (st *stream) flatten(h *fields, status int) {
	h.list = append(h.list, hpack.HeaderField{Name: ":status", Value: statusText(status)})
	dated := status < 200
	for name, values := range st.header { // bound: the handler's
		switch name {
		case "Connection":
			st.last = st.last || len(values) > 0 && strings.EqualFold(values[0], "close")
			continue
		case "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade":
			continue // RFC 9113 §8.2.2
		case "Trailer":
			if status >= 200 {
				st.announce(values)
			}
		case "Content-Length":
			if status < 200 || status == http.StatusNoContent || len(values) == 0 {
				continue // RFC 9110 §8.6
			}
			if st.length = contentLength(values[0]); st.length < 0 {
				continue
			}
			values = values[:1]
		case "Date":
			dated = true
		case "Content-Type", "Content-Encoding":
			st.typed = st.typed || len(values) > 0
		default:
			if strings.HasPrefix(name, http.TrailerPrefix) {
				continue
			}
		}
		h.add(name, values)
	}
	if !dated {
		h.list = append(h.list, hpack.HeaderField{Name: "date", Value: st.c.e.today()})
	}
}

// add appends a field's values. What can't be sent is left out.
func (h *fields) add(name string, values []string) {
	name = small(name)
	for i := range len(name) {
		if classes[name[i]]&inName == 0 {
			return
		}
	}
	for _, v := range values {
		if v = strings.Trim(v, " \t"); name != "" && valueText(v) {
			h.list = append(h.list, hpack.HeaderField{Name: name, Value: v, Sensitive: once(name)})
		}
	}
}

// once says whether a field's value is not one to keep in the table of the connection: it
// is a secret, or not sent twice.
func once(name string) bool {
	switch name {
	case "set-cookie", "authorization", "x-request-id", "etag", "content-length", "grpc-message", "last-modified", "traceparent", "content-range", "age":
		return true
	}
	return false
}

// announce notes which fields come after the body.
func (st *stream) announce(values []string) {
	for _, v := range values {
		for name := range strings.SplitSeq(v, ",") { // bound: the handler's
			if name = http.CanonicalHeaderKey(strings.Trim(name, " \t")); token(name) && mayTrail(name) {
				st.names = append(st.names, name)
			}
		}
	}
}

// bodiless: RFC 9110 §6.4.1, but for HEAD.
func bodiless(status int) bool {
	return status == http.StatusNoContent || status == http.StatusNotModified
}

// Write implements [http.ResponseWriter].
func (st *stream) Write(p []byte) (int, error) {
	if st.status == 0 {
		st.WriteHeader(http.StatusOK)
	}
	if bodiless(st.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if st.length >= 0 && st.wrote+int64(len(p)) > st.length {
		return 0, http.ErrContentLength
	}
	st.wrote += int64(len(p))
	if st.req.Method == http.MethodHead {
		st.sniff(p)
		return len(p), nil
	}
	if st.in+len(p) <= chunkBytes {
		if st.buf == nil {
			st.buf = st.c.e.chunks.Get().(*[chunkBytes]byte)
		}
		st.in += copy(st.buf[st.in:], p)
		return len(p), nil
	}
	st.sniff(p)
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	err := st.begin(false)
	if err == nil {
		err = st.sendBuffered()
	}
	if err == nil {
		err = c.send(st, p, false)
	}
	c.kick()
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteString implements [io.StringWriter].
func (st *stream) WriteString(s string) (int, error) { return st.Write([]byte(s)) }

// sniff says what an answer's type is, where the handler does not, as net/http does.
func (st *stream) sniff(p []byte) {
	if st.typed || st.head == nil || st.begun || len(p)+st.in == 0 {
		return
	}
	st.typed = true
	if st.in > 0 {
		p = st.buf[:st.in]
	}
	st.head.list = append(st.head.list, hpack.HeaderField{Name: "content-type", Value: http.DetectContentType(p)})
}

// begin sends the head, if it was not. The connection's lock is held.
func (st *stream) begin(end bool) error {
	if st.over {
		return errEnded
	}
	if st.sendEnd != nil || st.begun {
		return st.sendEnd
	}
	c := st.c
	if err := c.awaitRoom(st); err != nil {
		return err
	}
	st.begun = true
	c.writeHead(st, st.head, end)
	c.e.recycle(st.head)
	st.head = nil
	if st.last {
		c.leave(c.e.now())
	}
	return nil
}

// sendBuffered sends what is buffered. The connection's lock is held.
func (st *stream) sendBuffered() error {
	if st.in == 0 {
		return nil
	}
	b := st.buf[:st.in]
	st.in = 0
	return st.c.send(st, b, false)
}

// FlushError is for [http.ResponseController]. What there is leaves soon, together with
// what others have to send.
func (st *stream) FlushError() error {
	if st.status == 0 {
		st.WriteHeader(http.StatusOK)
	}
	st.sniffBuffered()
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	err := st.begin(false)
	if err == nil {
		err = st.sendBuffered()
	}
	c.kick()
	return err
}

func (st *stream) sniffBuffered() {
	if st.in > 0 {
		st.sniff(nil)
	}
}

// Flush implements [http.Flusher].
func (st *stream) Flush() { _ = st.FlushError() }

// finish ends the answer when the handler has.
func (st *stream) finish(failed bool) {
	c := st.c
	if !failed && st.status == 0 {
		st.WriteHeader(http.StatusOK)
	}
	var trailers *fields
	if !failed {
		st.complete()
		trailers = st.trailers()
	}
	c.mu.Lock()
	if !failed && st.sendEnd == nil && !st.sent {
		st.finishSending(trailers)
	}
	if !st.gone {
		st.finishStream(failed)
	}
	if st.over = true; st.halved {
		delete(c.tails, st)
	}
	st.shutBody()
	st.lateIn.stop()
	st.lateOut.stop()
	if st.buf != nil {
		c.e.chunks.Put(st.buf)
		st.buf = nil
	}
	c.running--
	c.ended()
	if len(c.out) > 0 && !c.flushing {
		c.flush()
	}
	if c.running == 0 {
		c.quiet.Broadcast()
	}
	c.mu.Unlock()
	if trailers != nil {
		c.e.recycle(trailers)
	}
	st.ctx.Cancel(nil)
}

// CloseWrite ends the answer while the handler goes on with the request's body.
func (st *stream) CloseWrite() error {
	if st.status == 0 {
		st.WriteHeader(http.StatusOK)
	}
	st.complete()
	trailers := st.trailers()
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	err := errEnded
	if !st.over && !st.sent {
		st.halved = true
		st.finishSending(trailers)
		err = st.sendEnd
	}
	if trailers != nil {
		c.e.recycle(trailers)
	}
	c.kick()
	return err
}

// complete adds what is known of the answer when it has ended.
func (st *stream) complete() {
	if st.head == nil {
		return
	}
	if st.length < 0 && !bodiless(st.status) && !st.hasTrailers() {
		n := st.wrote
		if st.req.Method != http.MethodHead || n > 0 {
			st.length = n
			st.head.list = append(st.head.list, hpack.HeaderField{Name: "content-length", Value: strconv.FormatInt(n, 10), Sensitive: true})
		}
	}
	st.sniffBuffered()
}

func (st *stream) hasTrailers() bool {
	if len(st.names) > 0 {
		return true
	}
	for name := range st.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			return true
		}
	}
	return false
}

// trailers are what comes after the body; nil: nothing.
func (st *stream) trailers() *fields {
	if !st.hasTrailers() {
		return nil
	}
	t := st.c.e.heads.Get().(*fields)
	for _, name := range st.names {
		t.add(name, st.header[name])
	}
	for name, values := range st.header {
		if after, ok := strings.CutPrefix(name, http.TrailerPrefix); ok && mayTrail(after) {
			t.add(after, values)
		}
	}
	if len(t.list) == 0 {
		st.c.e.recycle(t)
		return nil
	}
	return t
}

var errShort = errors.New("HTTP/2 stream: answer shorter than its Content-Length")

// finishSending sends what is left of the answer, and its end. The connection's lock is held.
func (st *stream) finishSending(trailers *fields) {
	c := st.c
	short := st.length >= 0 && st.wrote < st.length && st.req.Method != http.MethodHead && !bodiless(st.status)
	whole := trailers == nil && !short && !st.malformed && st.refusal != Malformed
	if st.begin(whole && st.in == 0) != nil || st.sent {
		return
	}
	b := []byte(nil)
	if st.in > 0 {
		b = st.buf[:st.in]
	}
	if c.send(st, b, whole) != nil || st.sent {
		return
	}
	switch {
	case short:
		st.sendEnd = errShort
	case trailers != nil && c.awaitRoom(st) == nil && !st.malformed && st.refusal != Malformed:
		c.writeHead(st, trailers, true)
	}
}

// finishStream ends the stream, one way or another. The connection's lock is held.
func (st *stream) finishStream(failed bool) {
	c := st.c
	if st.sent && st.received {
		c.close(st)
		return
	}
	code := InternalError
	switch {
	case failed:
	case st.sent:
		code = NoError // the rest of the request is not wanted (RFC 9113 §8.1)
	case st.malformed || st.refusal == Malformed:
		code = ProtocolError
	case st.sendEnd == os.ErrDeadlineExceeded:
		code = Cancel
	}
	c.reset(st.id, code)
	c.close(st)
}
