package filter

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// through is the part that all writers have in common: what is not of their concern
// goes to the writer below.
type through struct{ http.ResponseWriter }

// Unwrap is for [http.ResponseController]: deadlines, full duplex.
func (w *through) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack takes the connection over.
func (w *through) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// bare hides all of a writer but Write, so that io.Copy does not come back by ReadFrom.
type bare struct{ io.Writer }

// isFinal says whether a status begins the answer. Others are interim ones, after which
// it still comes.
func isFinal(status int) bool {
	return status >= 200 || status == http.StatusSwitchingProtocols
}

// hookWriter calls a function once, when the answer's head is about to be sent.
type hookWriter struct {
	through
	hook func(h http.Header, status int)
	done bool
}

func (w *hookWriter) head(status int) {
	if !w.done && isFinal(status) {
		w.done = true
		w.hook(w.Header(), status)
	}
}

func (w *hookWriter) WriteHeader(status int) {
	w.head(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *hookWriter) Write(p []byte) (int, error) {
	w.head(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

func (w *hookWriter) ReadFrom(r io.Reader) (int64, error) {
	w.head(http.StatusOK)
	return io.Copy(w.ResponseWriter, r)
}

// Flush sends what there is.
func (w *hookWriter) Flush() { _ = w.FlushError() }

// FlushError sends what there is.
func (w *hookWriter) FlushError() error {
	w.head(http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack takes the connection over; from then on there is no head.
func (w *hookWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := w.through.Hijack()
	if err == nil {
		w.done = true
	}
	return c, rw, err
}

// serve runs a handler whose answer's head the hook sees, an empty answer's too.
func serve(next http.Handler, w http.ResponseWriter, r *http.Request, hook func(h http.Header, status int)) {
	hw := &hookWriter{through: through{w}, hook: hook}
	next.ServeHTTP(hw, r)
	hw.head(http.StatusOK)
}

// addVary adds field names to Vary, unless it has them or is "*".
func addVary(h http.Header, names ...string) {
	for _, name := range names {
		if !hasToken(h["Vary"], name) && !hasToken(h["Vary"], "*") {
			h.Add("Vary", name)
		}
	}
}
