package forward

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/upstream"
)

const copySize = 32 << 10

// pass sends an answer to the client. Once its head is written, f.started.
func (f *flight) pass(ctx context.Context, resp *http.Response) (upstream.Outcome, error) {
	h := f.w.Header()
	copyHeader(h, resp.Header)
	if f.r.ProtoMajor == 1 && len(resp.Trailer) > 0 && f.out.Trailers {
		h.Del("Content-Length") // which HTTP/2 has beside a trailer; HTTP/1.1 sends one after chunks alone
	}
	var announced []string
	if f.r.ProtoMajor != 1 || h["Content-Length"] == nil {
		announced = announce(h, resp)
	}
	f.started = true
	f.w.WriteHeader(resp.StatusCode)
	if resp.Body != http.NoBody {
		if err := f.copy(ctx, resp); err != nil {
			return outcomeOf(err), err
		}
	}
	if len(resp.Trailer) > 0 {
		f.passTrailer(resp, announced)
	}
	f.done = true
	return judge(f.grpc, resp)
}

// judge says what an answer says of its endpoint.
func judge(grpc bool, resp *http.Response) (upstream.Outcome, error) {
	if resp.StatusCode >= 500 {
		return upstream.Failure, &statusError{status: resp.StatusCode}
	}
	if grpc {
		s := resp.Trailer.Get("Grpc-Status")
		if s == "" {
			s = resp.Header.Get("Grpc-Status")
		}
		switch s {
		case "13", "14", "15": // internal, unavailable, data loss: not what an application's own errors are
			return upstream.Failure, &statusError{what: "gRPC status " + s}
		}
	}
	return upstream.Success, nil
}

// copyHeader copies an answer's fields but for those of the connection (RFC 9110 §7.6.1).
func copyHeader(to, from http.Header) {
	var dropped []string
	if c, ok := from["Connection"]; ok {
		for _, v := range c {
			for option := range strings.SplitSeq(v, ",") {
				if option = strings.Trim(option, " \t"); !strings.EqualFold(option, "keep-alive") && !strings.EqualFold(option, "close") { // nearly always
					dropped = append(dropped, http.CanonicalHeaderKey(option))
				}
			}
		}
	}
next:
	for name, values := range from {
		if exchange.PerConnection(name) || name == "Proxy-Authenticate" {
			continue
		}
		for _, d := range dropped {
			if d == name {
				continue next
			}
		}
		if old, ok := to[name]; ok && additive(name) {
			to[name] = append(old[:len(old):len(old)], values...)
			continue
		}
		to[name] = values
	}
}

// additive: fields that the gateway may have set already, to which the answer's are added.
func additive(name string) bool {
	return name == "Vary" || name == "Set-Cookie" || name == "Link" || name == "Server-Timing" || name == "Via"
}

// announce tells the client which trailer fields follow, as far as it is known.
func announce(h http.Header, resp *http.Response) []string {
	if len(resp.Trailer) == 0 {
		return nil
	}
	names := make([]string, 0, len(resp.Trailer))
	for name := range resp.Trailer {
		names = append(names, name)
	}
	h["Trailer"] = append(h["Trailer"], strings.Join(names, ", "))
	return names
}

// passTrailer sends the trailer; fields that weren't announced have a prefix for that.
func (f *flight) passTrailer(resp *http.Response, announced []string) {
	h := f.w.Header()
	for name, values := range resp.Trailer {
		if slices.Contains(announced, name) {
			h[name] = values
			continue
		}
		h[http.TrailerPrefix+name] = values
	}
	if resp.ContentLength < 0 {
		_ = http.NewResponseController(f.w).Flush() // so that the answer is chunked even if it is empty
	}
}

// copy streams a body. One of unknown length is flushed as it comes.
func (f *flight) copy(ctx context.Context, resp *http.Response) error {
	buf, ok := f.h.buffers.Get().(*[copySize]byte)
	if !ok {
		buf = new([copySize]byte)
	}
	defer f.h.buffers.Put(buf)
	live := resp.ContentLength < 0
	stream := live && f.streams(resp)
	var flush *http.ResponseController
	if live {
		flush = http.NewResponseController(f.w)
	}
	if stream {
		if err := flush.Flush(); err != nil { // the head: the first message may be long in coming
			return &clientError{err}
		}
	}
	var watch *watchdog
	if stream && f.o.StreamIdle > 0 {
		watch = newWatchdog(f.o.StreamIdle, f.now.Cut)
		defer watch.stop()
		if f.body != nil {
			f.body.watch(watch)
			defer f.body.watch(nil)
		}
	}
	for { // bound: the answer, and the contexts
		n, err := resp.Body.Read(buf[:])
		if n > 0 {
			if _, werr := f.w.Write(buf[:n]); werr != nil {
				return &clientError{werr}
			}
			if live && err == nil {
				if werr := flush.Flush(); werr != nil {
					return &clientError{werr}
				}
			}
			watch.kick()
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return f.blame(ctx, err)
		}
	}
}

// informational passes on a 1xx response (RFC 9110 §15.2).
func (f *flight) informational(status int, header http.Header) error {
	if status == http.StatusContinue || status == http.StatusSwitchingProtocols {
		return nil
	}
	h := f.w.Header()
	before := make(http.Header, len(h)) // what is there already is for the final answer
	for name, values := range h {
		before[name] = values
	}
	clear(h)
	copyHeader(h, header)
	f.w.WriteHeader(status)
	clear(h)
	for name, values := range before {
		h[name] = values
	}
	return nil
}

// watchdog ends a stream that carries nothing for too long. A nil one does nothing.
type watchdog struct {
	after time.Duration
	timer *time.Timer
}

func newWatchdog(after time.Duration, cut func(cause error)) *watchdog {
	if after <= 0 {
		return nil
	}
	return &watchdog{after: after, timer: time.AfterFunc(after, func() { cut(errIdle) })}
}

func (w *watchdog) kick() {
	if w != nil && w.timer.Stop() {
		w.timer.Reset(w.after)
	}
}

func (w *watchdog) stop() {
	if w != nil {
		w.timer.Stop()
	}
}
