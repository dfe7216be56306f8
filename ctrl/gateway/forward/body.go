package forward

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// errBodyOver is what a transport gets that reads a body after its request is over.
var errBodyOver = errors.New("the request is over")

// inBody is a request's body on its way to an endpoint. Transports read it on goroutines
// of theirs, some beyond their RoundTrip; end stops that, so that nothing reads the
// server's body after the handler has returned.
type inBody struct {
	src io.Reader
	w   http.ResponseWriter

	mu      sync.Mutex
	idle    sync.Cond // reading became false
	reading bool
	over    bool
	touched bool // Read was called
	dog     *watchdog
	n       int64
	err     error // of src, but for io.EOF
	eof     bool
}

func newInBody(src io.Reader, w http.ResponseWriter) *inBody {
	b := &inBody{src: src, w: w}
	b.idle.L = &b.mu
	return b
}

// Read reads from the client.
func (b *inBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.touched = true
	for b.reading { // of an earlier try that has not noticed its end
		b.idle.Wait()
	}
	if b.over {
		b.mu.Unlock()
		return 0, errBodyOver
	}
	b.reading = true
	b.mu.Unlock()
	n, err := b.src.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	b.n += int64(n)
	b.dog.kick()
	if err == io.EOF {
		b.eof = true
	} else if err != nil {
		b.err = err
	}
	b.idle.Broadcast()
	return n, err
}

// endGrace is how long a read may last that waits when the request is over: a client that
// is sending has something there at once, and its connection can go on, which it can't
// once a read was broken off.
const endGrace = 250 * time.Millisecond

// end makes that nothing reads any more, and waits for what does.
func (b *inBody) end() { b.stop(time.Now().Add(endGrace)) }

// breakOff does so without any grace. It is for streams that end with their request, and
// whose end says nothing of the connection that they are on.
func (b *inBody) breakOff() { b.stop(time.Unix(1, 0)) }

func (b *inBody) stop(at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	if !b.reading {
		return
	}
	// A server that can't do this ends the read when the client's connection ends.
	c := http.NewResponseController(b.w)
	_ = c.SetReadDeadline(at)
	for b.reading {
		b.idle.Wait()
	}
	if b.err == nil {
		_ = c.SetReadDeadline(time.Time{})
	}
}

// state returns what was read, and the error that reading met.
func (b *inBody) state() (n int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n, b.err
}

// watch has each read of the body kick a watchdog.
func (b *inBody) watch(w *watchdog) {
	b.mu.Lock()
	b.dog = w
	b.mu.Unlock()
}

// untouched says whether nothing of the body was asked for, so that another try can have it.
func (b *inBody) untouched() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.touched && !b.over
}

// probe finds out whether there is a body where nothing says so: a GET over HTTP/3 has one
// of unknown length, which mostly has no byte, and must not become chunks towards an
// endpoint. It returns what is to be read, nil if there is nothing.
func (f *flight) probe() (io.Reader, error) {
	r := f.r
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodDelete, http.MethodTrace:
	default:
		return r.Body, nil
	}
	if r.ContentLength >= 0 || f.out.Continue || r.ProtoMajor < 2 { // HTTP/1.1 says so by chunked
		return r.Body, nil
	}
	var first [1]byte
	for { // bound: the body
		n, err := r.Body.Read(first[:])
		switch {
		case n > 0:
			return io.MultiReader(bytes.NewReader(first[:]), r.Body), nil
		case err == io.EOF:
			return nil, nil
		case err != nil:
			return nil, &clientError{err}
		}
	}
}

// takeBody decides how the request's body is sent: read now, if it is short and of known
// length, or streamed.
func (f *flight) takeBody() error {
	r, q := f.r, &f.out
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 && len(r.Trailer) == 0 && r.TransferEncoding == nil {
		return nil
	}
	q.Continue = len(r.Header["Expect"]) > 0
	if n := r.ContentLength; n > 0 && n <= f.o.BufferBody && !q.Continue && len(r.Trailer) == 0 {
		content := make([]byte, n)
		if _, err := io.ReadFull(r.Body, content); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return &clientError{err}
		}
		q.Content = content
		return nil
	}
	src, err := f.probe()
	if err != nil || src == nil {
		return err
	}
	q.Upgrade = "" // its body comes first, and what follows it isn't known yet
	f.body = newInBody(src, f.w)
	q.Body, q.Length, q.Trailer, q.Abort = f.body, r.ContentLength, r.Trailer, f.body.end
	if len(r.Trailer) > 0 {
		q.Length = -1
	}
	// An answer may come before the body's end, also over HTTP/1.1; servers for which that
	// needs no leave say that they don't know this.
	if err := http.NewResponseController(f.w).EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}
