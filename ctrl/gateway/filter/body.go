package filter

import (
	"bufio"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// NewBodyLimit makes the stage that takes no body of more than limit bytes (0: none at
// all). A body whose length is told is refused before a byte of it is read. One that turns
// out too long ends with an [*http.MaxBytesError] for who reads it; if the answer has not
// begun by then, it is the refusal (413), whatever the next stages make of the error. A
// connection of HTTP/1 with the rest of such a body on it is closed.
//
// Tunnels (CONNECT, and what follows an upgrade) are no bodies.
func NewBodyLimit(limit int64) (Stage, error) {
	var c checker
	if limit < 0 {
		c.bad("max_body", "%d: expected 0 or more bytes", limit)
		return nil, c.err()
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodConnect || r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0:
				next.ServeHTTP(w, r)
				return
			case r.ContentLength > limit:
				refuseBody(w, r, limit)
				return
			case r.ContentLength > 0 && r.ProtoMajor == 1: // the server reads no more than what was told
				next.ServeHTTP(w, r)
				return
			}
			body := &limitedBody{ReadCloser: r.Body, left: limit, limit: limit}
			out := new(http.Request)
			*out = *r
			out.Body = body
			lw := &limitWriter{through: through{w}, r: r, body: body, before: maps.Clone(w.Header())}
			next.ServeHTTP(lw, out)
			if !lw.begun && body.over.Load() {
				refuseBody(w, r, limit)
			}
		})
	}, nil
}

func refuseBody(w http.ResponseWriter, r *http.Request, limit int64) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	exchange.Refuse(w, r, exchange.BodyTooLarge, "more than "+strconv.FormatInt(limit, 10)+" bytes")
}

// limitedBody is a body whose length is not known, or not kept to by the framing. One goroutine reads it, perhaps another than
// the one that answers.
type limitedBody struct {
	io.ReadCloser
	left  int64
	limit int64
	over  atomic.Bool
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.over.Load() {
		return 0, &http.MaxBytesError{Limit: b.limit}
	}
	if len(p) == 0 {
		return 0, nil
	}
	if int64(len(p))-1 > b.left { // one more tells the end from the excess
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if int64(n) <= b.left {
		b.left -= int64(n)
		return n, err
	}
	n, b.left = int(b.left), 0
	b.over.Store(true)
	return n, &http.MaxBytesError{Limit: b.limit}
}

// limitWriter puts the refusal in the place of an answer that begins after the body
// turned out too long.
type limitWriter struct {
	through
	r       *http.Request
	body    *limitedBody
	before  http.Header // fields that were there before the next stages
	begun   bool
	refused bool
}

func (w *limitWriter) begin() {
	if w.begun {
		return
	}
	w.begun = true
	if w.body.over.Load() {
		w.refused = true
		clear(w.Header())
		maps.Copy(w.Header(), w.before)
		refuseBody(w.ResponseWriter, w.r, w.body.limit)
	}
}

func (w *limitWriter) WriteHeader(status int) {
	if isFinal(status) {
		w.begin()
	}
	if !w.refused {
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *limitWriter) Write(p []byte) (int, error) {
	w.begin()
	if w.refused {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

func (w *limitWriter) ReadFrom(r io.Reader) (int64, error) {
	w.begin()
	if w.refused {
		return io.Copy(bare{w}, r)
	}
	return io.Copy(w.ResponseWriter, r)
}

// Flush sends what there is.
func (w *limitWriter) Flush() { _ = w.FlushError() }

// FlushError sends what there is.
func (w *limitWriter) FlushError() error {
	w.begin()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack takes the connection over: the answer has begun.
func (w *limitWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := w.through.Hijack()
	if err == nil {
		w.begun = true
	}
	return c, rw, err
}
