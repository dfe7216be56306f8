package forward

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/upstream"
)

// try sends the request to one endpoint and passes the answer on.
func (f *flight) try(ctx context.Context, t upstream.Try) (upstream.Outcome, error) {
	f.kept = nil
	if err := f.waitFor(ctx, t.Endpoint); err != nil {
		return upstream.Timeout, err
	}
	f.last = t.Endpoint
	f.x.Tries++
	f.x.Endpoint = t.Endpoint.Address()
	link, err := f.cluster.link(t.Endpoint)
	if err != nil {
		return upstream.ConnectFailed, err
	}
	f.out.Host = f.cluster.hostFor(t.Endpoint, f.r.Host)
	f.tellDeadline(t.Time)
	f.now = t
	resp, err := link.send(ctx, &f.out)
	if err != nil {
		err = f.blame(ctx, err)
		return outcomeOf(err), err
	}
	defer func() { _ = resp.Body.Close() }() // resp.Body, as keep may replace it; what failed was told by Read
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return f.switchProtocols(ctx, t, resp)
	}
	if slices.Contains(f.o.RetryStatus, resp.StatusCode) && f.repeat(upstream.Failure, nil) {
		if k := f.keep(resp); k != nil {
			f.kept = k
			f.x.Note(&statusError{status: resp.StatusCode})
			return upstream.Failure, &statusError{status: resp.StatusCode}
		}
	}
	if f.streams(resp) {
		t.Stream(!f.grpc)
	}
	return f.pass(ctx, resp)
}

// blame says whose error it was, the client's or the endpoint's.
func (f *flight) blame(ctx context.Context, err error) error {
	if f.body != nil {
		if _, e := f.body.state(); e != nil && f.ctx.Err() == nil {
			return &clientError{e}
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// streams says whether an answer may go on for as long as both sides like.
func (f *flight) streams(resp *http.Response) bool {
	return f.grpc || f.x.Streams || strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream")
}

// waitFor waits as long as an endpoint asked for, if it is to be tried again.
func (f *flight) waitFor(ctx context.Context, e *upstream.Endpoint) error {
	if f.last != e || f.notYet.IsZero() {
		return nil
	}
	d := f.notYet.Sub(f.o.Now())
	f.notYet = time.Time{}
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// kept is an answer that will do if there is no better one.
type kept struct {
	status  int
	header  http.Header
	trailer http.Header
	body    []byte
}

// keepBody bounds the body of an answer that is kept; a longer one is passed on.
const keepBody = 64 << 10

// keep reads an answer that may be tried again; nil if it has to be passed on as it is.
func (f *flight) keep(resp *http.Response) *kept {
	if s := resp.Header.Get("Retry-After"); s != "" {
		d, ok := retryAfter(s, f.o.Now())
		if !ok || d > f.o.RetryAfterMax {
			return nil
		}
		f.notYet = f.o.Now().Add(d)
	}
	if resp.ContentLength > keepBody {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, keepBody+1))
	if err != nil || len(b) > keepBody { // what was read comes first again
		resp.Body = &prefixed{Reader: io.MultiReader(bytes.NewReader(b), &failing{resp.Body, err}), Closer: resp.Body}
		return nil
	}
	return &kept{resp.StatusCode, resp.Header, resp.Trailer, b}
}

type prefixed struct {
	io.Reader
	io.Closer
}

// failing is the rest of a body that met err, if it did.
type failing struct {
	io.Reader
	err error
}

func (r *failing) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	return r.Reader.Read(p)
}

// retryAfter reads Retry-After: seconds or a date (RFC 9110 §10.2.3).
func retryAfter(s string, now time.Time) (time.Duration, bool) {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second, true
	}
	at, err := http.ParseTime(s)
	if err != nil {
		return 0, false
	}
	return max(0, at.Sub(now)), true
}

// passKept passes on the answer of the last try: there was no further one.
func (f *flight) passKept() {
	k := f.kept
	resp := &http.Response{StatusCode: k.status, Header: k.header, Trailer: k.trailer, ContentLength: int64(len(k.body)), Body: io.NopCloser(bytes.NewReader(k.body))}
	if _, ok := k.header["Content-Length"]; !ok {
		resp.ContentLength = -1
	}
	if _, err := f.pass(f.ctx, resp); err != nil && !f.done {
		f.fail(err)
	}
}
