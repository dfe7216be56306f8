package grpcgw

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// Limits bound gRPC requests. The zero value: messages of 4 MiB, deadlines as they come.
type Limits struct {
	RequestMessage  int           // bytes of one message as sent; 0 is 4 MiB
	ResponseMessage int           // the same of answers; 0 is 4 MiB
	DefaultTimeout  time.Duration // for requests that bring none; 0: none
	MaxTimeout      time.Duration // longer ones are lowered to it, those that bring none get it; 0: none
}

const defaultMessage = 4 << 20

func (l *Limits) check() error {
	var errs []error
	for _, one := range [...]struct {
		name  string
		value *int
	}{{"max_request_message", &l.RequestMessage}, {"max_response_message", &l.ResponseMessage}} {
		if *one.value == 0 {
			*one.value = defaultMessage
		}
		if *one.value < 1 || *one.value > 1<<30 {
			errs = append(errs, errors.New(one.name+" is "+strconv.Itoa(*one.value)+", expected 1 to 1073741824 bytes"))
		}
	}
	if l.DefaultTimeout < 0 || l.MaxTimeout < 0 {
		errs = append(errs, errors.New("a timeout is negative"))
	}
	if l.MaxTimeout > 0 && l.DefaultTimeout > l.MaxTimeout {
		errs = append(errs, errors.New("default_timeout is above max_timeout"))
	}
	return errors.Join(errs...)
}

// timeout is what a request gets; 0: none.
func (l *Limits) timeout(header http.Header) (time.Duration, error) {
	d := l.DefaultTimeout
	if d == 0 {
		d = l.MaxTimeout
	}
	values := header.Values("Grpc-Timeout")
	if len(values) > 1 {
		return 0, errors.New("grpc-timeout: more than one")
	}
	if len(values) == 1 {
		asked, err := ParseTimeout(values[0])
		if err != nil {
			return 0, err
		}
		if asked == 0 {
			return 0, context.DeadlineExceeded
		}
		d = asked
	}
	if l.MaxTimeout > 0 {
		d = min(d, l.MaxTimeout)
	}
	return d, nil
}

// guard is the stage that every gRPC request passes, whatever it was before.
type guard struct {
	limits Limits
	next   http.Handler
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !exchange.IsGRPC(r) {
		g.next.ServeHTTP(w, r)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		exchange.Refuse(w, r, exchange.MethodNotAllowed, "gRPC is POST")
		return
	}
	timeout, err := g.limits.timeout(r.Header)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		exchange.Refuse(w, r, exchange.DeadlineExceeded, "grpc-timeout is nothing")
		return
	case err != nil:
		exchange.Refuse(w, r, exchange.BadRequest, err.Error())
		return
	}
	ctx := r.Context()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	inner := r.WithContext(ctx)
	inner.Header = r.Header.Clone()
	if timeout > 0 {
		inner.Header.Set("Grpc-Timeout", FormatTimeout(timeout))
	}
	body := &guardBody{body: r.Body, scan: scanner{max: int64(g.limits.RequestMessage), compressed: compresses(r.Header)}}
	if r.Body == nil {
		body.body = http.NoBody
	}
	inner.Body = body
	out := &guardWriter{w: w, ctx: ctx, request: body, scan: scanner{max: int64(g.limits.ResponseMessage)}}
	defer func() { out.finish(r, ctx, recover()) }()
	g.next.ServeHTTP(out, inner)
}

// compresses says whether messages may have the compressed flag.
func compresses(h http.Header) bool {
	e := h.Get("Grpc-Encoding")
	return e != "" && e != "identity"
}

// guardBody passes a request's body on and looks at its messages.
type guardBody struct {
	body io.ReadCloser
	scan scanner
	fail failure
}

func (b *guardBody) Read(p []byte) (int, error) {
	if err := b.fail.get(); err != nil {
		return 0, err
	}
	n, err := b.body.Read(p)
	bad := b.scan.scan(p[:n])
	if bad == nil && errors.Is(err, io.EOF) {
		bad = b.scan.end()
	}
	if bad != nil {
		b.fail.set(bad)
		return 0, bad
	}
	return n, err
}

func (b *guardBody) Close() error { return b.body.Close() }

// frameStatus is the code and the message of a frame that was refused.
func frameStatus(err error) (code int, message string) {
	if errors.Is(err, errTooLarge) {
		return exchange.GRPCResourceExhausted, err.Error()
	}
	return exchange.GRPCInternal, err.Error()
}

// guardWriter passes an answer on, looks at its messages, and sees to it that it ends
// with a status.
type guardWriter struct {
	w       http.ResponseWriter
	ctx     context.Context
	request *guardBody
	scan    scanner
	wrote   bool
	grpc    bool // the answer is gRPC
	alone   bool // its head has the status, and no body came yet
	bad     error
}

func (o *guardWriter) Header() http.Header { return o.w.Header() }

// Unwrap is for http.ResponseController.
func (o *guardWriter) Unwrap() http.ResponseWriter { return o.w }

// Flush implements http.Flusher. An answer of trailers alone must end with its head: sent
// before that end is known, it would be one without trailers.
func (o *guardWriter) Flush() {
	if !o.alone {
		_ = http.NewResponseController(o.w).Flush()
	}
}

func (o *guardWriter) WriteHeader(code int) {
	if code >= 100 && code < 200 {
		o.w.WriteHeader(code)
		return
	}
	if o.wrote {
		return
	}
	o.wrote = true
	h := o.w.Header()
	if err := o.request.fail.get(); err != nil {
		// Whoever forwards knows only that the body broke off. It says so; this is why.
		c, message := frameStatus(err)
		code = http.StatusOK
		h.Set("Content-Type", "application/grpc")
		h.Del("Content-Length")
		h.Set("Grpc-Status", strconv.Itoa(c))
		h.Set("Grpc-Message", percentEncode(message))
	} else if x := exchange.From(o.ctx); passed(o.ctx, x.Reason) && h.Get("Grpc-Status") != "" {
		x.Reason = exchange.DeadlineExceeded
		h.Set("Grpc-Status", strconv.Itoa(exchange.GRPCDeadlineExceeded))
		h.Set("Grpc-Message", exchange.DeadlineExceeded.Title())
	}
	o.grpc = isGRPCType(h.Get("Content-Type"))
	o.alone = o.grpc && h.Get("Grpc-Status") != ""
	o.scan.compressed = compresses(h)
	o.w.WriteHeader(code)
}

func (o *guardWriter) Write(p []byte) (int, error) {
	if !o.wrote {
		o.WriteHeader(http.StatusOK)
	}
	if o.bad != nil {
		return 0, o.bad
	}
	o.alone = o.alone && len(p) == 0
	if o.grpc {
		if o.bad = o.scan.scan(p); o.bad != nil {
			return 0, o.bad
		}
	}
	return o.w.Write(p)
}

// finish ends the answer. What broke off after its head was sent ends with a status in
// the trailers rather than with a reset, so that clients learn why.
func (o *guardWriter) finish(r *http.Request, ctx context.Context, panicked any) {
	aborted := panicked == http.ErrAbortHandler
	if panicked != nil && !aborted {
		panic(panicked)
	}
	gone := r.Context().Err() != nil && !errors.Is(r.Context().Err(), context.DeadlineExceeded)
	err := o.bad
	if err == nil {
		err = o.request.fail.get()
	}
	switch {
	case err == nil && !aborted:
		return
	case gone || !o.wrote && aborted && err == nil:
		if aborted {
			panic(panicked)
		}
		return
	}
	x := exchange.From(r.Context())
	x.Note(err)
	code, message := statusOf(x.Reason, ctx)
	if err != nil {
		code, message = frameStatus(err)
		if o.bad != nil {
			x.Fail(exchange.UpstreamProtocol)
		} else {
			x.Fail(exchange.BadRequest)
		}
	}
	if !o.wrote {
		o.w.Header().Set("Content-Type", "application/grpc")
		o.w.Header().Set("Grpc-Status", strconv.Itoa(code))
		o.w.Header().Set("Grpc-Message", percentEncode(message))
		o.w.WriteHeader(http.StatusOK)
		return
	}
	if o.grpc && o.w.Header().Get("Grpc-Status") == "" || o.bad != nil {
		setTrailers(o.w.Header(), code, message)
	}
}

// atDeadline is how long before its deadline a request counts as ended by it: backends
// keep the same time, and reset the stream a moment before or after we do.
const atDeadline = 50 * time.Millisecond

// passed says whether a request's failure is that its deadline passed.
func passed(ctx context.Context, why exchange.Reason) bool {
	at, has := ctx.Deadline()
	if !has || time.Until(at) >= atDeadline {
		return false
	}
	return why == exchange.UpstreamReset || why == exchange.UpstreamTimeout || why == exchange.ConnectFailed
}

// statusOf is the status of an exchange that the gateway broke off.
func statusOf(why exchange.Reason, ctx context.Context) (code int, message string) {
	at, has := ctx.Deadline()
	switch {
	case passed(ctx, why), why == exchange.None && has && time.Until(at) < atDeadline:
		return exchange.GRPCDeadlineExceeded, exchange.DeadlineExceeded.Title()
	case why != exchange.None:
		return why.GRPC(), why.Title()
	}
	return exchange.GRPCUnavailable, exchange.UpstreamReset.Title()
}

// setTrailers replaces whatever status a header map announces with this one.
func setTrailers(h http.Header, code int, message string) {
	for name := range h {
		bare := strings.TrimPrefix(name, http.TrailerPrefix)
		if strings.HasPrefix(http.CanonicalHeaderKey(bare), "Grpc-Status") || http.CanonicalHeaderKey(bare) == "Grpc-Message" {
			delete(h, name)
		}
	}
	h.Set(http.TrailerPrefix+"Grpc-Status", strconv.Itoa(code))
	if message != "" {
		h.Set(http.TrailerPrefix+"Grpc-Message", percentEncode(message))
	}
}

func isGRPCType(t string) bool {
	rest, ok := strings.CutPrefix(t, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}
