package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// hop is one exchange on its way through the gateway: what is known of it, and the
// writer that sees its answer pass. One allocation for both.
type hop struct {
	exchange.Exchange
	w     http.ResponseWriter
	now   func() time.Time
	wrote bool // the answer's head
	sight
}

// Header implements [http.ResponseWriter].
func (h *hop) Header() http.Header { return h.w.Header() }

// WriteHeader implements [http.ResponseWriter]. Heads before the last (RFC 9110 §15.2)
// pass and count for nothing.
func (h *hop) WriteHeader(status int) {
	h.head(status)
	h.w.WriteHeader(status)
}

func (h *hop) head(status int) {
	if h.wrote || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	h.wrote = true
	h.Status = status
	h.FirstByte = h.now().Sub(h.Start)
}

// Write implements [http.ResponseWriter].
func (h *hop) Write(b []byte) (int, error) {
	h.head(http.StatusOK)
	n, err := h.w.Write(b)
	h.Sent += int64(n)
	return n, err
}

// ReadFrom implements [io.ReaderFrom], so that a file can be sent by the kernel.
func (h *hop) ReadFrom(r io.Reader) (int64, error) {
	h.head(http.StatusOK)
	n, err := io.Copy(h.w, r)
	h.Sent += n
	return n, err
}

// Unwrap is for [http.ResponseController].
func (h *hop) Unwrap() http.ResponseWriter { return h.w }

// Flush implements [http.Flusher], which libraries ask for instead of a controller.
func (h *hop) Flush() { _ = h.FlushError() }

// FlushError flushes.
func (h *hop) FlushError() error {
	h.head(http.StatusOK)
	return http.NewResponseController(h.w).Flush()
}

// Hijack implements [http.Hijacker]: an upgraded connection. Its bytes are not counted.
func (h *hop) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(h.w).Hijack()
	if err == nil {
		h.head(http.StatusSwitchingProtocols)
	}
	return c, rw, err
}

// body counts a request's body.
type body struct {
	io.ReadCloser
	n *int64
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	*b.n += int64(n)
	return n, err
}

// maxID bounds a request's ID that a trusted client brings.
const maxID = 128

// requestID takes the ID that a trusted proxy gave, or makes one of 128 random bits.
func (g *Gateway) requestID(r *http.Request, trusted bool) string {
	if trusted {
		if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= maxID && printable(id) {
			return id
		}
	}
	var b [32]byte
	const hex = "0123456789abcdef"
	for i := 0; i < len(b); i += 16 {
		for v, j := g.o.Rand(), 0; j < 16; j++ {
			b[i+j] = hex[v&15]
			v >>= 4
		}
	}
	return string(b[:])
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\' {
			return false
		}
	}
	return true
}

// Handler returns what a listener serves: every request by the routes in force when it
// came.
func (g *Gateway) Handler(e Entry) http.Handler {
	e.meter = g.meter.Listener(e.Listener)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.serve(e, w, r) })
}

func (g *Gateway) serve(e Entry, w http.ResponseWriter, r *http.Request) {
	gen, slot := g.enter()
	defer gen.leave(slot)
	g.run(gen, e, w, r, nil, nil)
}

// run serves one request by a generation, seen from begin to end: by the routes, or for
// an opcode of NPRO by its own, o, with whom it is from.
func (g *Gateway) run(gen *generation, e Entry, w http.ResponseWriter, r *http.Request, o *action, peer *dispatch.Peer) {
	h := &hop{w: w, now: g.o.Now}
	x := &h.Exchange
	g.begin(x, e, r)
	if peer != nil {
		knowPeer(x, peer)
	}
	h.open(gen, e, r)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &body{r.Body, &x.Received}
	}
	if ctx := exchange.With(r.Context(), x); ctx != r.Context() {
		r = r.WithContext(ctx)
	}
	ended := false
	defer func() {
		if !ended { // a panic: the server ends the connection or the stream, and nobody may be told more
			x.Fail(exchange.Internal)
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				x.Note(fmt.Errorf("panic: %v", p))
				g.o.Log.Error("panic while serving a request", "listener", e.Listener, "route", x.Route, "request_id", x.ID, "panic", fmt.Sprint(p))
			}
			g.end(h, r)
			panic(http.ErrAbortHandler)
		}
		g.end(h, r)
	}()
	if o == nil {
		gen.serve(h, r, e.Paths)
	} else {
		h.Route = o.name
		o.ServeHTTP(h, r)
	}
	ended = true
}

// end completes the exchange and hands it to whoever looks.
func (g *Gateway) end(h *hop, r *http.Request) {
	x := &h.Exchange
	if x.Status == 0 {
		switch {
		case x.Reason == exchange.ClientGone || errors.Is(context.Cause(r.Context()), context.Canceled):
			x.Fail(exchange.ClientGone)
			x.Status = exchange.StatusClientGone
		case x.Reason == exchange.None:
			x.Status = http.StatusOK // servers send it for a handler that wrote nothing
		}
	}
	g.seen(h)
}
