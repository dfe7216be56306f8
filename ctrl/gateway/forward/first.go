package forward

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"

	"github.com/np-appliance/np/ctrl/gateway/h1"
)

// first lets one request open the connection that many are to share, while the others
// wait for it: by itself net/http dials once for each of those that come at once, which
// is when an endpoint has just come back and can do with it least.
type first struct {
	opening atomic.Pointer[opening] // nil: nobody opens one
	mu      sync.Mutex              // of becoming the one who does
}

// opening is one attempt at a connection.
type opening struct {
	done chan struct{}
	err  error // of the attempt, for all who waited; set before done is closed
	once sync.Once
	f    *first
}

// end lets the others go on; err: why there is no connection.
func (o *opening) end(err error) {
	o.once.Do(func() {
		var connect *h1.ConnectError
		if errors.As(err, &connect) {
			o.err = connect // not that this request was given up: another then opens one
		}
		o.f.opening.Store(nil)
		close(o.done)
	})
}

// pass waits while another opens the first connection. It returns an opening to whoever is
// to open it, who ends it.
func (f *first) pass(ctx context.Context, conns *atomic.Int64) (*opening, error) {
	for {
		o := f.opening.Load()
		if o == nil {
			if conns.Load() > 0 {
				return nil, nil
			}
			if mine := f.lead(); mine != nil {
				return mine, nil
			}
			continue
		}
		select {
		case <-o.done:
			if o.err != nil {
				return nil, o.err
			}
		case <-ctx.Done():
			return nil, &h1.ConnectError{Err: context.Cause(ctx)}
		}
	}
}

func (f *first) lead() *opening {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.opening.Load() != nil {
		return nil
	}
	o := &opening{done: make(chan struct{}), f: f}
	f.opening.Store(o)
	return o
}

// roundTrip sends r, alone if there is no connection yet.
func (l *sharedLink) roundTrip(r *http.Request) (*http.Response, error) {
	if l.first == nil {
		return l.rt.RoundTrip(r)
	}
	o, err := l.first.pass(r.Context(), &l.conns)
	if err != nil {
		return nil, err
	}
	if o == nil {
		return l.rt.RoundTrip(r)
	}
	resp, err := l.rt.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { o.end(nil) },
	})))
	o.end(err)
	return resp, err
}
