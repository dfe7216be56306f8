package message

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/message/bhttp"
	"github.com/np-appliance/np/ctrl/npro"
)

// Payload is what messages of NPRO hold.
type Payload uint8

// Payloads; see the package.
const (
	PayloadBody Payload = iota
	PayloadHTTP
	PayloadGRPC // South alone: North does so for requests that are gRPC
)

// Mode is whether requests become byte streams.
type Mode uint8

// Modes.
const (
	StreamOff    Mode = iota // one REQUEST, one RESPONSE
	StreamBytes              // bytes both ways, of the payload's kind; of gRPC, messages
	StreamEvents             // the answer's messages become server-sent events
)

// NorthOptions are what a route to NPRO is made of. Cluster and Opcode are required.
type NorthOptions struct {
	Cluster  *Cluster
	Opcode   string
	Payload  Payload
	Stream   Mode
	Fields   Fields
	Priority uint8 // 0 to 7
	// ContentType is of answers whose context names none; "" is application/octet-stream.
	ContentType string
	MaxRequest  int // bytes of a request's body, but of streams; 0 is 1 MiB
	MaxMessage  int // bytes of one message of a stream of them; 0 is 1 MiB
	// Hash gives the key for consistent balancing; nil: none.
	Hash func(*http.Request) uint64
}

const mebibyte = 1 << 20

// North is a handler that answers requests of HTTP and gRPC by NPRO: a unary call by a
// REQUEST, or with StreamBytes any call by a byte stream.
// Immutable; safe for concurrent use.
type North struct{ o NorthOptions }

// NewNorth checks the options.
func NewNorth(o NorthOptions) (*North, error) {
	var errs []error
	if o.Cluster == nil {
		errs = append(errs, errors.New("no upstream that speaks npro"))
	}
	errs = append(errs, npro.CheckOpcode(o.Opcode))
	if o.Payload > PayloadHTTP || o.Stream > StreamEvents {
		errs = append(errs, fmt.Errorf("payload %d with stream %d is not known", o.Payload, o.Stream))
	}
	if o.Payload == PayloadHTTP && o.Stream == StreamEvents {
		errs = append(errs, errors.New("events are messages of their own, expected payload body with them"))
	}
	if o.Priority > 7 {
		errs = append(errs, fmt.Errorf("priority is %d, expected 0 to 7", o.Priority))
	}
	for _, n := range [...]*int{&o.MaxRequest, &o.MaxMessage} {
		if *n == 0 {
			*n = mebibyte
		}
		if *n < 1 || *n > npro.MaxPayload {
			errs = append(errs, fmt.Errorf("a limit of %d bytes, expected 1 to %d", *n, npro.MaxPayload))
		}
	}
	if o.ContentType == "" {
		o.ContentType = "application/octet-stream"
	}
	return &North{o}, errors.Join(errs...)
}

// ServeHTTP implements http.Handler.
func (n *North) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchange.From(r.Context())
	x.Upstream = n.o.Cluster.Name()
	switch {
	case exchange.IsGRPC(r) && n.o.Stream == StreamBytes:
		n.grpcStream(w, r, x)
	case exchange.IsGRPC(r):
		n.grpc(w, r, x)
	case n.o.Stream == StreamOff:
		n.request(w, r, x)
	default:
		n.stream(w, r, x)
	}
}

// call begins a call.
func (n *North) call(r *http.Request, x *exchange.Exchange, payload []byte) Call {
	c := Call{Request: client.Request{Opcode: n.o.Opcode, Payload: payload, Priority: n.o.Priority, Context: n.o.Fields.contextOf(r)},
		Tried: func(address string, number int) { x.Endpoint, x.Tries = address, number }}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		c.Idempotent = true // RFC 9110 §9.2.2
	}
	if n.o.Hash != nil {
		c.Hash = n.o.Hash(r)
	}
	if n.o.Payload == PayloadBody {
		addEntry(&c.Request.Context, keyMethod, r.Method)
		addEntry(&c.Request.Context, keyTarget, r.URL.RequestURI())
	}
	return c
}

// read reads a request's body, refusing one that is too large.
func (n *North) read(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	if r.Body == nil {
		return nil, true
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(n.o.MaxRequest)+1))
	var limit *http.MaxBytesError
	switch {
	case errors.As(err, &limit), len(body) > n.o.MaxRequest:
		exchange.Refuse(w, r, exchange.BodyTooLarge, "")
		return nil, false
	case err != nil:
		exchange.From(r.Context()).Note(err)
		why := exchange.BadRequest
		if r.Context().Err() != nil {
			why = exchange.ClientGone
		}
		exchange.Refuse(w, r, why, "the body broke off")
		return nil, false
	}
	return body, true
}

// bhttpRequest is a request as bhttp has it.
func bhttpRequest(r *http.Request, body []byte) *bhttp.Request {
	q := &bhttp.Request{Method: r.Method, Scheme: "http", Authority: r.Host, Path: r.URL.RequestURI(), Header: r.Header, Body: body}
	if r.TLS != nil {
		q.Scheme = "https"
	}
	return q
}

// request is one REQUEST and its RESPONSE.
func (n *North) request(w http.ResponseWriter, r *http.Request, x *exchange.Exchange) {
	body, ok := n.read(w, r)
	if !ok {
		return
	}
	if n.o.Payload == PayloadHTTP {
		q := bhttpRequest(r, body)
		q.Trailer = r.Trailer
		var err error
		if body, err = bhttp.AppendRequest(nil, q); err != nil {
			exchange.Refuse(w, r, exchange.BadRequest, err.Error())
			return
		}
	}
	resp, err := n.o.Cluster.Do(r.Context(), n.call(r, x, body))
	if err != nil {
		n.failed(w, r, &resp, err)
		return
	}
	if n.o.Payload == PayloadHTTP {
		n.answerHTTP(w, r, resp.Payload)
		return
	}
	status := httpStatus(&resp.Context)
	if status == 0 {
		status = http.StatusOK
	}
	n.answer(w, r, &resp, status)
}

// answer sends a response's payload as the body.
func (n *North) answer(w http.ResponseWriter, r *http.Request, resp *client.Response, status int) {
	h := w.Header()
	kind := contentType(&resp.Context)
	if kind == "" {
		kind = n.o.ContentType
	}
	h.Set("Content-Type", kind)
	n.o.Fields.fieldsOf(&npro.Context{Session: resp.Context.Session}, h)
	if status == http.StatusNoContent || status == http.StatusNotModified || status == http.StatusResetContent {
		h.Del("Content-Type")
		w.WriteHeader(status)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(resp.Payload)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(resp.Payload) // the client is gone if it fails
	}
}

// failed answers for a request that has no good response.
func (n *North) failed(w http.ResponseWriter, r *http.Request, resp *client.Response, err error) {
	exchange.From(r.Context()).Note(err)
	// An error of the handler's own, in terms of HTTP.
	if status := httpStatus(&resp.Context); status >= 400 && resp.Status != npro.CodeOK && !exchange.IsGRPC(r) && r.Context().Err() == nil {
		n.answer(w, r, resp, status)
		return
	}
	exchange.Refuse(w, r, reasonOf(r.Context(), err), "")
}

// cleanFields leaves out what is not an answer's to set.
func cleanFields(h http.Header) {
	for name := range h {
		if canonical := http.CanonicalHeaderKey(name); exchange.PerConnection(canonical) || canonical == "Content-Length" {
			delete(h, name)
		}
	}
}

// answerHTTP sends an answer that came as bytes.
func (n *North) answerHTTP(w http.ResponseWriter, r *http.Request, raw []byte) {
	a, err := bhttp.ParseResponse(raw, bhttp.Limits{Body: npro.MaxPayload})
	if err != nil {
		exchange.From(r.Context()).Note(err)
		exchange.Refuse(w, r, exchange.UpstreamProtocol, "")
		return
	}
	h := w.Header()
	cleanFields(a.Header)
	maps.Copy(h, a.Header)
	bodiless := a.Status == http.StatusNoContent || a.Status == http.StatusNotModified
	if !bodiless && len(a.Trailer) == 0 {
		h.Set("Content-Length", strconv.Itoa(len(a.Body)))
	}
	for name := range a.Trailer { // announced, or HTTP/1.1 would send a length and no trailer
		h.Add("Trailer", name)
	}
	w.WriteHeader(a.Status)
	if !bodiless && r.Method != http.MethodHead {
		_, _ = w.Write(a.Body) // the client is gone if it fails
	}
	for name, v := range a.Trailer {
		h[name] = v
	}
}

// stream makes a byte stream of a request.
func (n *North) stream(w http.ResponseWriter, r *http.Request, x *exchange.Exchange) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	st, err := n.o.Cluster.Open(ctx, n.call(r, x, nil))
	if err != nil {
		n.failed(w, r, &client.Response{}, err)
		return
	}
	// On HTTP/1.1 the answer may begin before the request ended.
	_ = http.NewResponseController(w).EnableFullDuplex()
	sent := make(chan error, 1)
	if r.Body == nil {
		r = r.WithContext(r.Context())
		r.Body = http.NoBody
	}
	go func() { sent <- n.upload(st, r) }()
	err = n.download(w, r, st)
	st.Close(err) // ends upload's writes
	up := endUpload(w, r, sent)
	var began *brokenAnswer
	switch {
	case err == nil:
	case errors.As(err, &began):
		x.Note(err)
		x.Fail(reasonOf(r.Context(), began.err))
		panic(http.ErrAbortHandler) // the only way left to tell
	default:
		x.Note(up)
		n.failed(w, r, &client.Response{}, err)
	}
}

// endUpload waits for the goroutine that sends a request's body, whose writes have been
// ended.
func endUpload(w http.ResponseWriter, r *http.Request, sent <-chan error) error {
	if r.ProtoMajor < 2 {
		grace := time.NewTimer(uploadGrace)
		defer grace.Stop()
		select {
		case err := <-sent:
			return err
		case <-grace.C: // it reads what the client has not sent yet, and nobody wants
		}
	}
	bound := http.NewResponseController(w).SetReadDeadline(aLongTimeAgo)
	_ = r.Body.Close()
	if !errors.Is(bound, http.ErrNotSupported) {
		return <-sent
	}
	select {
	case err := <-sent:
		return err
	default: // the request is NPRO's, whose streams end for their readers when the handler returns
		return nil
	}
}

// uploadGrace is how long a request's body may take to end after its answer did, over
// HTTP/1.1. Only then is reading ended by a deadline: net/http takes one that passes once a
// body has ended for the end of the connection, and cancels the requests that follow on it.
// A stream of HTTP/2 or 3 has no such thing behind it.
const uploadGrace = 250 * time.Millisecond

// upload sends the request's body.
func (n *North) upload(st *Stream, r *http.Request) error {
	body := r.Body
	if n.o.Payload == PayloadBody {
		if _, err := io.CopyBuffer(onlyWriter{st}, onlyReader{body}, make([]byte, copySize)); err != nil {
			return err
		}
		return st.CloseWrite()
	}
	raw, err := bhttp.AppendRequestHead(nil, bhttpRequest(r, nil))
	if err != nil {
		return err
	}
	if _, err := st.Write(raw); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(chunks{st}, onlyReader{body}, make([]byte, copySize)); err != nil {
		return err
	}
	if raw, err = bhttp.AppendEnd(nil, r.Trailer); err != nil {
		return err
	}
	if _, err := st.Write(raw); err != nil {
		return err
	}
	return st.CloseWrite()
}

const copySize = 32 << 10

// onlyReader and onlyWriter hide methods that would make io.Copy leave our buffer out.
type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }

// chunks writes pieces of a body of indeterminate length.
type chunks struct{ w io.Writer }

func (c chunks) Write(p []byte) (int, error) {
	if _, err := c.w.Write(bhttp.AppendChunk(nil, p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// brokenAnswer is an error after the answer's head was sent.
type brokenAnswer struct{ err error }

func (e *brokenAnswer) Error() string { return e.err.Error() }
func (e *brokenAnswer) Unwrap() error { return e.err }

// download sends the answer.
func (n *North) download(w http.ResponseWriter, r *http.Request, st *Stream) error {
	switch {
	case n.o.Stream == StreamEvents:
		return n.events(w, st)
	case n.o.Payload == PayloadHTTP:
		return n.streamHTTP(w, st)
	}
	answer := st.Answer()
	kind := contentType(&answer.Context)
	if kind == "" {
		kind = n.o.ContentType
	}
	// The head waits for the first bytes: until then a failure has a status of its own.
	buf := make([]byte, copySize)
	k, err := st.Read(buf)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(http.StatusOK)
	for {
		if k > 0 {
			if _, werr := w.Write(buf[:k]); werr != nil {
				return &brokenAnswer{werr}
			}
			_ = http.NewResponseController(w).Flush()
		}
		if err != nil {
			break
		}
		k, err = st.Read(buf)
	}
	if !errors.Is(err, io.EOF) {
		return &brokenAnswer{err}
	}
	return nil
}

func (n *North) streamHTTP(w http.ResponseWriter, st *Stream) error {
	d := bhttp.NewReader(st, bhttp.Limits{})
	a, err := d.Response()
	if err != nil {
		return err
	}
	cleanFields(a.Header)
	h := w.Header()
	maps.Copy(h, a.Header)
	w.WriteHeader(a.Status)
	_ = http.NewResponseController(w).Flush()
	if _, err := io.CopyBuffer(flushed{w}, onlyReader{d}, make([]byte, copySize)); err != nil {
		return &brokenAnswer{err}
	}
	for name, v := range d.Trailer() {
		h[http.TrailerPrefix+name] = v
	}
	return nil
}

// flushed sends each piece at once.
type flushed struct{ w http.ResponseWriter }

func (f flushed) Write(p []byte) (int, error) {
	k, err := f.w.Write(p)
	if err == nil {
		_ = http.NewResponseController(f.w).Flush()
	}
	return k, err
}

// events makes server-sent events of a stream of messages. Lines of a message of text are
// data fields of their own; messages of bytes can't be events.
func (n *North) events(w http.ResponseWriter, st *Stream) error {
	in := newFrames(st, n.o.MaxMessage)
	for begun := false; ; begun = true {
		kind, message, end, err := in.next()
		over := errors.Is(err, io.EOF) || end != nil
		switch {
		case !over && err == nil && kind == kindBytes:
			err = fmt.Errorf("%w: bytes, expected text in a stream of events", errFrame)
		case end != nil && end.Code != closeNormal && end.Code != closeGoingAway:
			err, over = fmt.Errorf("%w: ended with code %d: %s", errFrame, end.Code, end.Reason), false
		}
		if err != nil && !over {
			if begun {
				err = &brokenAnswer{err}
			}
			return err
		}
		if !begun {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusOK)
		}
		if over {
			return nil
		}
		var b strings.Builder
		for line := range strings.SplitSeq(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(message)), "\n") {
			b.WriteString("data: " + line + "\n")
		}
		b.WriteString("\n")
		if _, err := (flushed{w}).Write([]byte(b.String())); err != nil {
			return &brokenAnswer{err}
		}
	}
}
