package server

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"time"
)

// What is left of a body when its handler is done. net/http reads it, to find the next
// head, and there are two ways in which that goes wrong, both after an answer that was
// sent before the body's end (EnableFullDuplex): a read deadline of the handler's keeps it
// from reading, of which it takes no notice, and the rest of the body is taken for a
// head; or it reads to the body's end, which then begins to watch the connection while
// the next head is read, a panic. So the rest is read here, and where it can't be, the
// connection carries no further request.

// Bounds of what is read after an answer that came before its request's end.
const (
	restBytes = 256 << 10
	restTime  = 250 * time.Millisecond
)

// watchedBody is the body of a request of HTTP/1.1.
type watchedBody struct {
	io.ReadCloser
	g      *guard
	w      http.ResponseWriter
	eof    bool
	duplex bool
}

// Read implements io.Reader. After an error, that of a deadline included, the decoder of
// chunks stays where it is.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch err {
	case nil:
	case io.EOF:
		b.eof = true
	default:
		b.g.torn.Store(true)
	}
	return n, err
}

// handled looks at the body when its handler is done.
func (b *watchedBody) handled() {
	if b.eof || b.g.torn.Load() || b.g.hijacked.Load() {
		return
	}
	b.g.mu.Lock()
	late := !b.g.deadline.IsZero()
	b.g.mu.Unlock()
	switch {
	case late:
		b.g.torn.Store(true)
	case b.duplex && !b.rest():
		b.g.torn.Store(true)
	}
}

// rest reads what is left of the body, and says whether it came to its end.
func (b *watchedBody) rest() bool {
	// Who waits for the answer before it sends the rest gets it.
	if http.NewResponseController(b.w).Flush() != nil || b.g.SetReadDeadline(time.Now().Add(restTime)) != nil {
		return false
	}
	buf := b.g.conn.server.buffer()
	defer b.g.conn.server.free(buf)
	for n := 0; n < restBytes && !b.eof; {
		got, err := b.Read(buf[:cap(buf)])
		if n += got; err != nil && err != io.EOF {
			return false
		}
	}
	return b.eof && b.g.SetReadDeadline(time.Time{}) == nil
}

// duplexWriter is the writer of a request with a body: it sees whether the answer may come
// before the body's end. All else it leaves to net/http's.
type duplexWriter struct {
	http.ResponseWriter
	b *watchedBody
}

// EnableFullDuplex is what [http.ResponseController] looks for.
func (d *duplexWriter) EnableFullDuplex() error {
	err := http.NewResponseController(d.ResponseWriter).EnableFullDuplex()
	if err == nil {
		d.b.duplex = true
	}
	return err
}

// Unwrap is for [http.ResponseController].
func (d *duplexWriter) Unwrap() http.ResponseWriter { return d.ResponseWriter }

// Flush implements [http.Flusher].
func (d *duplexWriter) Flush() { _ = http.NewResponseController(d.ResponseWriter).Flush() }

// Hijack implements [http.Hijacker].
func (d *duplexWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(d.ResponseWriter).Hijack()
}

// ReadFrom implements [io.ReaderFrom], so that files are sent by the kernel.
func (d *duplexWriter) ReadFrom(r io.Reader) (int64, error) { return io.Copy(d.ResponseWriter, r) }
