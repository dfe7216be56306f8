package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// h1answer is the answer to a request of HTTP/1.1, an http.ResponseWriter with all that
// [http.ResponseController] asks for. Its head is written when the handler says so, into a
// buffer; how its end will be found is decided when the buffer goes out, so that a short
// answer gets a Content-Length, and head and body one write.
type h1answer struct {
	x      *h1exchange
	header http.Header
	status int

	head      bool // of HEAD: it has no body. The handler may make another method of it
	old       bool // HTTP/1.0
	wrote     bool // WriteHeader was called
	committed bool // the head is complete, in out or sent
	hijacked  bool
	duplex    bool // the answer may come before the request's end on purpose

	out      []byte // lent: what is to be sent
	body     []byte // lent: of the body, until committed
	length   int64  // as the handler says; -1: it does not
	written  int64  // by the handler
	chunked  bool
	close    bool // the connection ends with this answer
	dated    bool // the handler's Date, or none
	typed    bool // Content-Type needs not be found out
	trailed  bool // there are fields with http.TrailerPrefix
	declared []string
	options  []string // Connection, as the handler has it
	err      error    // of sending

	mu        sync.Mutex // of 100 (Continue), which whoever reads the body sends
	continues bool       // the client waits for it
}

// Sizes of answers.
const (
	holdBytes = 2 << 10  // of a body of unknown length before it is sent in chunks
	bigBytes  = 36 << 10 // that are copied so as to be sent at once
)

func (a *h1answer) init(x *h1exchange) {
	a.x, a.length = x, -1
	a.head, a.old = x.req.Method == http.MethodHead, x.req.ProtoMinor == 0
	a.header = make(http.Header, 8)
	a.close = !x.keep
}

// Header implements http.ResponseWriter.
func (a *h1answer) Header() http.Header { return a.header }

// bodyless says whether an answer of this status has no body, whatever its fields say.
func bodyless(status int) bool {
	return status < 200 || status == http.StatusNoContent || status == http.StatusNotModified
}

// WriteHeader implements http.ResponseWriter. Fields that are changed afterwards are not sent.
func (a *h1answer) WriteHeader(status int) {
	if a.hijacked || a.wrote {
		a.x.c.s.c.Log.Debug("http", "message", "superfluous WriteHeader", "status", status)
		return
	}
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("invalid WriteHeader code %v", status))
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		a.inform(status)
		return
	}
	if !a.x.body.over() {
		a.mu.Lock()
		a.continues = false
		a.mu.Unlock()
	}
	a.wrote, a.status = true, status
	a.out = a.appendStatus(a.lend(), status)
	for name, values := range a.header {
		switch name {
		case "Content-Length":
			a.takeLength(values)
			continue
		case "Transfer-Encoding":
			continue
		case "Connection":
			a.options = values
			for _, v := range values {
				a.close = a.close || hasToken(v, "close")
			}
			continue
		case "Date":
			a.dated = true
		case "Content-Type":
			a.typed = true
		case "Content-Encoding":
			a.typed = a.typed || len(values) > 0 && values[0] != ""
		case "Trailer":
			a.declare(values)
		}
		if strings.HasPrefix(name, http.TrailerPrefix) {
			a.trailed = true
			continue
		}
		a.out = appendFields(a.out, name, values)
	}
	if status == http.StatusNotModified {
		a.typed = true
	}
}

// lend takes a buffer of the server's.
func (a *h1answer) lend() []byte { return (*h1buffers)(a.x.c.s).Get()[:0] }

func (a *h1answer) appendStatus(b []byte, status int) []byte {
	if a.old {
		b = append(b, "HTTP/1.0 "...)
	} else {
		b = append(b, "HTTP/1.1 "...)
	}
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	if text := http.StatusText(status); text != "" {
		b = append(b, text...)
	} else {
		b = strconv.AppendInt(append(b, "status code "...), int64(status), 10)
	}
	return append(b, '\r', '\n')
}

// appendFields writes the values of a field. What can't be in a name or a value does not
// get there, whoever put it into the header.
func appendFields(b []byte, name string, values []string) []byte {
	if name == "" {
		return b
	}
	for i := range len(name) {
		if !tokenByte(name[i]) {
			return b
		}
	}
	for _, v := range values {
		b = append(b, name...)
		b = append(b, ':', ' ')
		from := len(b)
		b = append(b, v...)
		for i := from; i < len(b); i++ {
			if !valueByte(b[i]) {
				b[i] = ' '
			}
		}
		b = append(b, '\r', '\n')
	}
	return b
}

// takeLength takes what the handler says of the body's length; what is no number counts
// for nothing.
func (a *h1answer) takeLength(values []string) {
	if len(values) == 0 || len(values[0]) == 0 || len(values[0]) > 18 {
		return
	}
	n := int64(0)
	for _, c := range []byte(values[0]) {
		if c < '0' || c > '9' {
			return
		}
		n = n*10 + int64(c-'0')
	}
	a.length = n
}

// declare notes the fields that follow the body (RFC 9110 §6.6.2).
func (a *h1answer) declare(values []string) {
	for _, v := range values {
		for name := range strings.SplitSeq(v, ",") {
			if name = canonical(strings.Trim(name, " \t")); name != "" && httpguts.ValidTrailerHeader(name) {
				a.declared = append(a.declared, name)
			}
		}
	}
}

// inform sends a head before the last (RFC 9110 §15.2), at once.
func (a *h1answer) inform(status int) {
	if a.old {
		return // which HTTP/1.0 does not know
	}
	if status == http.StatusContinue {
		a.sendContinue()
		return
	}
	b := a.appendStatus(a.lend(), status)
	for name, values := range a.header {
		if name != "Content-Length" && name != "Transfer-Encoding" && !strings.HasPrefix(name, http.TrailerPrefix) {
			b = appendFields(b, name, values)
		}
	}
	b = append(b, '\r', '\n')
	a.mu.Lock()
	a.send(b)
	a.mu.Unlock()
	a.x.c.s.free(b)
}

// sendContinue tells a client that waits for it to send the body.
func (a *h1answer) sendContinue() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.continues {
		a.continues = false
		a.send([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	}
}

// commit completes the head. p is the beginning of the body; done: all of it.
func (a *h1answer) commit(p []byte, done bool) {
	a.committed = true
	x, s := a.x, a.x.c.s
	none := bodyless(a.status)
	if !none {
		a.sayType(p)
	}
	b := a.out
	if !a.dated {
		b = append(b, *s.date.Load()...)
	}
	if done && a.length < 0 && (!a.head || a.written > 0) && !a.hasTrailer() {
		a.length = a.written
	}
	known := true
	switch {
	case none:
	case a.length >= 0:
		b = strconv.AppendInt(append(b, "Content-Length: "...), a.length, 10)
		b = append(b, '\r', '\n')
	case a.head:
	case !a.old:
		a.chunked = true
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	default:
		known = false
	}
	a.close = a.close || !known || a.status == http.StatusSwitchingProtocols || s.ending.Load() || !x.body.over() && x.body.unlikely()
	switch ok := len(a.options) > 0; {
	case a.close && (ok || !a.old):
		b = append(b, "Connection: close\r\n"...)
	case a.close: // as HTTP/1.0 has it anyway
	case ok:
		b = appendFields(b, "Connection", a.options)
	case a.old:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	a.out = append(b, '\r', '\n')
}

// sayType finds out Content-Type by the body's beginning, as net/http and the engines of
// HTTP/2 and HTTP/3 do, unless the handler had it.
func (a *h1answer) sayType(p []byte) {
	if a.typed || len(p) == 0 {
		return
	}
	a.typed = true
	a.out = append(a.out, "Content-Type: "...)
	a.out = append(a.out, http.DetectContentType(p)...)
	a.out = append(a.out, '\r', '\n')
}

// hasTrailer says whether fields follow the body, as far as it is known.
func (a *h1answer) hasTrailer() bool {
	if a.trailed || len(a.declared) > 0 {
		return true
	}
	for name := range a.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			return true
		}
	}
	return false
}

// Write implements http.ResponseWriter.
func (a *h1answer) Write(p []byte) (int, error) {
	if a.hijacked {
		return 0, http.ErrHijacked
	}
	if !a.wrote {
		a.WriteHeader(http.StatusOK)
	}
	switch {
	case len(p) == 0:
		return 0, nil
	case bodyless(a.status):
		return 0, http.ErrBodyNotAllowed
	case a.err != nil:
		return 0, a.err
	}
	a.written += int64(len(p))
	if a.length >= 0 && a.written > a.length {
		return 0, http.ErrContentLength
	}
	if a.head {
		if !a.committed {
			a.sayType(p)
		}
		return len(p), nil
	}
	if !a.committed {
		if a.length < 0 && len(a.body)+len(p) <= holdBytes {
			if a.body == nil {
				a.body = a.lend()
			}
			a.body = append(a.body, p...)
			return len(p), nil
		}
		a.begin(p)
	}
	a.put(p)
	if a.err != nil {
		return 0, a.err
	}
	return len(p), nil
}

// WriteString implements io.StringWriter.
func (a *h1answer) WriteString(s string) (int, error) { return a.Write([]byte(s)) }

// ReadFrom implements io.ReaderFrom, with a buffer of the server's.
func (a *h1answer) ReadFrom(r io.Reader) (n int64, err error) {
	s := a.x.c.s
	b := s.big.Get().(*[bigBytes]byte)
	defer s.big.Put(b)
	for { // bound: r
		got, err := r.Read(b[:copyBytes])
		if got > 0 {
			sent, werr := a.Write(b[:got])
			if n += int64(sent); werr != nil {
				return n, werr
			}
		}
		switch err {
		case nil:
		case io.EOF:
			return n, nil
		default:
			return n, err
		}
	}
}

const copyBytes = 32 << 10

// begin completes the head before the answer's end, with what is held of the body; p
// follows.
func (a *h1answer) begin(p []byte) {
	held := a.body
	if len(held) > 0 {
		p = held
	}
	a.commit(p, false)
	if len(held) > 0 {
		a.put(held)
	}
	a.giveBody()
}

func (a *h1answer) giveBody() {
	if a.body != nil {
		a.x.c.s.free(a.body)
		a.body = nil
	}
}

// put sends a piece of the body, or keeps it in the buffer.
func (a *h1answer) put(p []byte) {
	end := ""
	if a.chunked {
		a.out = strconv.AppendInt(a.out, int64(len(p)), 16)
		a.out = append(a.out, '\r', '\n')
		end = "\r\n"
	}
	n := len(a.out) + len(p) + len(end)
	switch {
	case n <= cap(a.out):
		a.out = append(append(a.out, p...), end...)
	case n <= bigBytes && len(a.out) > 0:
		big := a.x.c.s.big.Get().(*[bigBytes]byte)
		a.send(append(append(append(big[:0], a.out...), p...), end...))
		a.x.c.s.big.Put(big)
		a.out = a.out[:0]
	default:
		a.flushOut()
		a.send(p)
		a.out = append(a.out, end...)
	}
}

func (a *h1answer) flushOut() {
	if len(a.out) > 0 {
		a.send(a.out)
		a.out = a.out[:0]
	}
}

// send sends bytes. After an error the client counts as gone.
func (a *h1answer) send(b []byte) {
	if a.err != nil {
		return
	}
	h := a.x.c
	if _, err := h.conn.write(h.in, b); err != nil {
		a.err = err
		a.x.ctx.Cancel(nil)
	}
}

// FlushError is what http.ResponseController asks for.
func (a *h1answer) FlushError() error {
	if a.hijacked {
		return http.ErrHijacked
	}
	if !a.wrote {
		a.WriteHeader(http.StatusOK)
	}
	if !a.committed {
		a.begin(nil)
	}
	a.flushOut()
	return a.err
}

// Flush implements http.Flusher.
func (a *h1answer) Flush() { _ = a.FlushError() }

// finish sends what is left of the answer and reads what is left of the request. True:
// another request may follow.
func (x *h1exchange) finish() bool {
	a := &x.h1answer
	if !a.wrote {
		a.WriteHeader(http.StatusOK)
	}
	if !a.committed {
		a.commit(a.body, true)
		if len(a.body) > 0 {
			a.put(a.body)
		}
	}
	if a.chunked {
		a.out = append(a.out, "0\r\n"...)
		a.appendTrailer()
		a.out = append(a.out, '\r', '\n')
	}
	a.flushOut()
	x.drop()
	if a.length >= 0 && a.written != a.length && !a.head && !bodyless(a.status) {
		a.close = true // less than was said
	}
	keep := x.body.ended(!a.close && a.err == nil, a.duplex) && !a.close && a.err == nil
	h := x.c
	if keep && h.readLimited {
		keep = h.in.SetReadDeadline(time.Time{}) == nil
	}
	if keep && h.writeLimited {
		keep = h.in.SetWriteDeadline(time.Time{}) == nil
	}
	h.readLimited, h.writeLimited = false, false
	a.err = errEnded
	return keep
}

// drop gives the buffers back.
func (x *h1exchange) drop() {
	a := &x.h1answer
	a.giveBody()
	if a.out != nil {
		x.c.s.free(a.out)
		a.out = nil
	}
}

// appendTrailer writes the fields after the body.
func (a *h1answer) appendTrailer() {
	for _, name := range a.declared {
		a.out = appendFields(a.out, name, a.header[name])
	}
	for name, values := range a.header {
		if name, ok := strings.CutPrefix(name, http.TrailerPrefix); ok && httpguts.ValidTrailerHeader(name) {
			a.out = appendFields(a.out, name, values)
		}
	}
}

// EnableFullDuplex is what http.ResponseController asks for. An answer may always come
// before the request's end; what was not read of it is then waited for but shortly.
func (a *h1answer) EnableFullDuplex() error {
	a.duplex = true
	return nil
}

// SetReadDeadline is what http.ResponseController asks for.
func (a *h1answer) SetReadDeadline(t time.Time) error {
	if a.err == errEnded {
		return a.err
	}
	h := a.x.c
	h.readLimited = !t.IsZero()
	return h.in.SetReadDeadline(t)
}

// SetWriteDeadline is what http.ResponseController asks for.
func (a *h1answer) SetWriteDeadline(t time.Time) error {
	if a.err == errEnded {
		return a.err
	}
	h := a.x.c
	h.writeLimited = !t.IsZero()
	return h.in.SetWriteDeadline(t)
}

// Hijack implements http.Hijacker. What was read beyond the request is in the reader.
func (a *h1answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if a.hijacked {
		return nil, nil, http.ErrHijacked
	}
	h := a.x.c
	if a.wrote {
		if err := a.FlushError(); err != nil {
			return nil, nil, err
		}
	}
	h.mu.Lock()
	h.hijacked = true
	h.mu.Unlock()
	h.unwatch()
	a.x.body.mu.Lock()
	defer a.x.body.mu.Unlock()
	t := &h1tunnel{earlyConn{Conn: h.in}, h.conn}
	if h.r < h.w {
		t.b = append([]byte(nil), h.buf[h.r:h.w]...)
	}
	h.r, h.w = 0, 0
	h.release()
	a.x.drop()
	a.hijacked = true
	if a.x.body.err == nil {
		a.x.body.err = http.ErrHijacked // what is left of it is in t
	}
	n := len(t.b)
	rw := bufio.NewReadWriter(bufio.NewReaderSize(t, max(n, bufferBytes)), bufio.NewWriter(t))
	if n > 0 {
		if _, err := rw.Peek(n); err != nil {
			return nil, nil, err
		}
	}
	return t, rw, nil
}
