package message

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/message/bhttp"
	"github.com/np-appliance/np/ctrl/npro"
)

// SouthOptions are what an opcode of NPRO is answered by. Opcode and Handler are required.
type SouthOptions struct {
	Opcode  string
	Handler http.Handler // that answers: a route's stages and what forwards
	Payload Payload
	Fields  Fields
	// Method and Path of requests with payload body: POST and "/" and the opcode unless
	// set. Of payload grpc Path is /package.Service/Method.
	Method string
	Path   string
	Host   string
	// ContentType is of requests whose context names none; "" is application/octet-stream.
	ContentType string
	// Streams also answers byte streams.
	Streams bool
	// MaxAnswer bounds the body of an answer that is no stream; 0 is 1 MiB.
	MaxAnswer int
	// Begin gives a request the context of the gateway (its exchange); nil: none.
	Begin func(r *http.Request, peer dispatch.Peer) *http.Request
}

// South answers NPRO by a handler of HTTP. Immutable; safe for concurrent use.
type South struct{ o SouthOptions }

// NewSouth checks the options.
func NewSouth(o SouthOptions) (*South, error) {
	errs := []error{npro.CheckOpcode(o.Opcode)}
	if o.Handler == nil {
		errs = append(errs, errors.New("nothing that answers"))
	}
	if o.Payload > PayloadGRPC {
		errs = append(errs, fmt.Errorf("payload %d is not known", o.Payload))
	}
	if o.Method == "" {
		o.Method = http.MethodPost
	}
	if o.Path == "" && o.Payload != PayloadGRPC {
		o.Path = "/" + url.PathEscape(o.Opcode)
	}
	if o.MaxAnswer == 0 {
		o.MaxAnswer = mebibyte
	}
	if o.MaxAnswer < 1 || o.MaxAnswer > npro.MaxPayload {
		errs = append(errs, fmt.Errorf("answers of %d bytes, expected 1 to %d", o.MaxAnswer, npro.MaxPayload))
	}
	if o.Payload == PayloadGRPC {
		o.Method, o.ContentType = http.MethodPost, "application/grpc"
		if strings.Count(o.Path, "/") != 2 || !strings.HasPrefix(o.Path, "/") {
			errs = append(errs, fmt.Errorf("path %q, expected /package.Service/Method", o.Path))
		}
	} else if o.ContentType == "" {
		o.ContentType = "application/octet-stream"
	}
	if _, err := url.ParseRequestURI(o.Path); err != nil {
		errs = append(errs, fmt.Errorf("path %q: %w", o.Path, err))
	}
	if o.Host == "" {
		o.Host = "npro"
	}
	return &South{o}, errors.Join(errs...)
}

// Entry is what ctrl/dispatch registers.
func (s *South) Entry() dispatch.Entry {
	e := dispatch.Entry{Opcode: s.o.Opcode, Handle: s.handle}
	if s.o.Streams {
		e.Stream = s.stream
	}
	return e
}

// request makes the request of HTTP that stands for one of NPRO. body is nil for a
// stream, whose bytes the caller adds.
func (s *South) request(ctx context.Context, q *dispatch.Request, in *bhttp.Request, body io.Reader, length int64) (*http.Request, error) {
	h := http.Header{}
	method, path, host := s.o.Method, s.o.Path, s.o.Host
	var trailer http.Header
	if in != nil {
		h, method, path, trailer = in.Header, in.Method, in.Path, in.Trailer
		if in.Authority != "" {
			host = in.Authority
		}
		for _, name := range [...]string{"Content-Length", "Te", "Trailer"} {
			h.Del(name)
		}
	}
	u, err := url.ParseRequestURI(path)
	if err != nil || u.Host != "" {
		return nil, fmt.Errorf("target %q: %w", path, npro.CodeBadRequest)
	}
	s.o.Fields.fieldsOf(&q.Context, h)
	if in == nil {
		kind := contentType(&q.Context)
		if kind == "" || s.o.Payload == PayloadGRPC {
			kind = s.o.ContentType
		}
		h.Set("Content-Type", kind)
	}
	if s.o.Payload == PayloadGRPC {
		h.Set("Te", "trailers")
	}
	r := (&http.Request{Method: method, URL: u, Host: host, RequestURI: path, Proto: "HTTP/2.0", ProtoMajor: 2, Header: h, Trailer: trailer,
		Body: http.NoBody, ContentLength: length}).WithContext(ctx)
	if q.Peer.Remote.IsValid() {
		r.RemoteAddr = q.Peer.Remote.String()
	}
	if body != nil {
		r.Body = io.NopCloser(body)
	}
	if s.o.Begin != nil {
		r = s.o.Begin(r, q.Peer)
	}
	return r, nil
}

// handle answers one REQUEST.
func (s *South) handle(ctx context.Context, q *dispatch.Request) ([]byte, error) {
	var in *bhttp.Request
	body := q.Payload
	switch s.o.Payload {
	case PayloadHTTP:
		var err error
		if in, err = bhttp.ParseRequest(q.Payload, bhttp.Limits{}); err != nil {
			return nil, &dispatch.Failure{Code: npro.CodeBadRequest, Payload: []byte(err.Error())}
		}
		body = in.Body
	case PayloadGRPC:
		body = appendUnary(nil, q.Payload)
	}
	r, err := s.request(ctx, q, in, bytes.NewReader(body), int64(len(body)))
	if err != nil {
		return nil, err
	}
	rec := &recorder{header: http.Header{}, max: s.o.MaxAnswer + grpcPrefix}
	if err := serve(s.o.Handler, rec, r); err != nil {
		return nil, err
	}
	if rec.over {
		return nil, fmt.Errorf("answer of more than %d bytes: %w", s.o.MaxAnswer, npro.CodeTooLarge)
	}
	rec.WriteHeader(http.StatusOK) // if nothing was said
	switch s.o.Payload {
	case PayloadHTTP:
		rec.clean()
		return bhttp.AppendResponse(nil, &bhttp.Response{Status: rec.status, Header: rec.sent, Body: rec.body, Trailer: rec.trailers()})
	case PayloadGRPC:
		return s.grpcAnswer(q, rec)
	}
	addEntry(&q.Reply, keyContentType, rec.sent.Get("Content-Type"))
	addStatus(&q.Reply, rec.status)
	if s.o.Fields.Session != "" {
		q.Reply.Session = clip(rec.sent.Get(s.o.Fields.Session))
	}
	if code := codeOfStatus(rec.status); code != npro.CodeOK {
		return nil, &dispatch.Failure{Code: code, Payload: rec.body}
	}
	return rec.body, nil
}

// grpcAnswer takes the message out of an answer, or its status.
func (s *South) grpcAnswer(q *dispatch.Request, rec *recorder) ([]byte, error) {
	code, message := grpcStatus(rec.status, rec.sent, rec.trailers())
	if code == 0 {
		payload, err := unary(rec.body)
		if err != nil {
			return nil, fmt.Errorf("answer of gRPC: %w", err)
		}
		return payload, nil
	}
	q.Reply.Extra = append(q.Reply.Extra, npro.Entry{Key: keyGRPCStatus, Value: []byte{byte(code)}})
	return nil, &dispatch.Failure{Code: codeOfGRPC(code), Payload: []byte(message)}
}

// grpcStatus finds the status of an answer; -1 and an odd number are UNKNOWN.
func grpcStatus(status int, header, trailer http.Header) (code int, message string) {
	from := trailer
	if from.Get("Grpc-Status") == "" {
		from = header
	}
	text := from.Get("Grpc-Status")
	if text == "" {
		if status != http.StatusOK {
			return exchange.GRPCUnavailable, "answer is " + strconv.Itoa(status)
		}
		return exchange.GRPCUnknown, "answer has no status of gRPC"
	}
	code, err := strconv.Atoi(text)
	if err != nil || code < 0 || code > 255 {
		code = exchange.GRPCUnknown
	}
	message = from.Get("Grpc-Message")
	if plain, err := url.PathUnescape(message); err == nil {
		message = plain
	}
	return code, strings.ToValidUTF8(message, "\uFFFD")
}

// serve runs a handler; that it broke off is an error.
func serve(h http.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				panic(p)
			}
			err = fmt.Errorf("upstream broke off: %w", npro.CodeUnavailable)
			if r.Context().Err() != nil {
				err = r.Context().Err()
			}
		}
	}()
	h.ServeHTTP(w, r)
	if exchange.From(r.Context()).Reason == exchange.ClientGone {
		return npro.CodeCanceled
	}
	return nil
}

// recorder keeps an answer.
type recorder struct {
	header    http.Header // what the handler changes
	sent      http.Header // as it was with the status
	status    int
	body      []byte
	max       int
	over      bool
	announced []string
}

func (c *recorder) Header() http.Header { return c.header }

// Flush implements http.Flusher: there is nobody to flush to yet.
func (c *recorder) Flush() {}

func (c *recorder) WriteHeader(status int) {
	if status >= 100 && status < 200 || c.status != 0 {
		return
	}
	c.status, c.sent = status, c.header.Clone()
	for _, line := range c.header.Values("Trailer") {
		for name := range strings.SplitSeq(line, ",") {
			c.announced = append(c.announced, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
}

func (c *recorder) Write(p []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	if len(c.body)+len(p) > c.max {
		c.over = true
		return 0, errTooLarge
	}
	c.body = append(c.body, p...)
	return len(p), nil
}

// clean leaves out what does not belong into a message of its own.
func (c *recorder) clean() {
	cleanFields(c.sent)
	for name := range c.sent {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			delete(c.sent, name)
		}
	}
}

// trailers returns what was set after the body, or with Go's prefix.
func (c *recorder) trailers() http.Header {
	out := http.Header{}
	for _, name := range c.announced {
		if v := c.header.Values(name); len(v) > 0 {
			out[name] = v
		}
	}
	for name, v := range c.header {
		if bare, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			out[http.CanonicalHeaderKey(bare)] = v
		}
	}
	return out
}

// stream answers a byte stream.
func (s *South) stream(ctx context.Context, q *dispatch.Request, st dispatch.Stream) error {
	var in *bhttp.Request
	var body io.Reader = st
	if s.o.Payload == PayloadHTTP {
		d := bhttp.NewReader(st, bhttp.Limits{})
		var err error
		if in, err = d.Request(); err != nil {
			return fmt.Errorf("%w: %w", err, npro.CodeBadRequest)
		}
		body = d
	}
	if q.Context.HasDeadline {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, q.Context.Deadline)
		defer cancel()
	}
	r, err := s.request(ctx, q, in, body, -1)
	if err != nil {
		return err
	}
	out := &streamWriter{recorder: recorder{header: http.Header{}}, st: st, payload: s.o.Payload}
	if err := serve(s.o.Handler, out, r); err != nil {
		return err
	}
	return out.end()
}

// streamWriter sends an answer as it comes.
type streamWriter struct {
	recorder
	st      dispatch.Stream
	payload Payload
	err     error
}

func (c *streamWriter) WriteHeader(status int) {
	if status >= 100 && status < 200 || c.status != 0 {
		return
	}
	c.recorder.WriteHeader(status)
	if c.payload == PayloadHTTP {
		c.clean()
		raw, err := bhttp.AppendResponseHead(nil, status, c.sent)
		if err == nil {
			_, err = c.st.Write(raw)
		}
		c.err = err
	}
}

func (c *streamWriter) Write(p []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	if c.err != nil {
		return 0, c.err
	}
	if c.payload != PayloadHTTP && codeOfStatus(c.status) != npro.CodeOK {
		return len(p), nil // the stream is reset with the status's code, which has no body
	}
	out := p
	if c.payload == PayloadHTTP {
		out = bhttp.AppendChunk(nil, p)
	}
	if len(out) == 0 {
		return 0, nil
	}
	if _, c.err = c.st.Write(out); c.err != nil {
		return 0, c.err
	}
	return len(p), nil
}

// end says how the answer ended.
func (c *streamWriter) end() error {
	c.WriteHeader(http.StatusOK)
	if c.err != nil {
		return c.err
	}
	switch c.payload {
	case PayloadHTTP:
		raw, err := bhttp.AppendEnd(nil, c.trailers())
		if err == nil {
			_, err = c.st.Write(raw)
		}
		return err
	case PayloadGRPC:
		if code, _ := grpcStatus(c.status, c.sent, c.trailers()); code != 0 {
			return codeOfGRPC(code)
		}
		return nil
	}
	if code := codeOfStatus(c.status); code != npro.CodeOK {
		return code
	}
	return nil
}
