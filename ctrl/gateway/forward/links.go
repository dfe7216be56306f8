package forward

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/np-appliance/np/ctrl/gateway/h1"
	"github.com/np-appliance/np/ctrl/pool"
	"github.com/np-appliance/np/ctrl/upstream"
)

// h1Link is the HTTP/1.1 connections to an endpoint.
type h1Link struct{ client *h1.Client }

func (l *h1Link) send(ctx context.Context, q *h1.Request) (*http.Response, error) {
	return l.client.Do(ctx, q)
}
func (l *h1Link) stats() PoolStats            { return PoolStats{Protocol: "http/1.1", Pool: l.client.Stats()} }
func (l *h1Link) setPool(c pool.Config) error { return l.client.SetPool(c) }
func (l *h1Link) close(ctx context.Context)   { _ = l.client.Close(ctx) } // what was cut off is in its requests' errors

// newH1 makes the HTTP/1.1 link; parked gives connections that are open already, if not nil.
func (c *Cluster) newH1(e *upstream.Endpoint, parked func() net.Conn) (*h1Link, error) {
	var alpn []string
	if c.cfg.TLS != nil {
		alpn = []string{"http/1.1"}
	}
	cfg := c.cfg.Pool
	if cfg.Shards == 0 {
		cfg.Shards = 1
	}
	client, err := h1.New(h1.Options{
		Name: c.up.Name() + "/" + e.Address(),
		Dial: func(ctx context.Context) (net.Conn, error) {
			if parked != nil {
				if nc := parked(); nc != nil {
					return nc, nil
				}
			}
			return c.dial(ctx, e, nil, alpn...)
		},
		Closed: e.ReleaseConn, Pool: cfg, Limits: c.cfg.Limits, Single: c.cfg.ProxyProtocol != 0,
	})
	if err != nil {
		return nil, err
	}
	return &h1Link{client}, nil
}

// sharedLink is a transport whose connections carry many requests: HTTP/2 or 3.
type sharedLink struct {
	name string
	base url.URL
	rt   http.RoundTripper
	end  func() // ends all connections
	idle func() // ends those that are idle

	first   *first       // nil: the transport takes care of it itself
	streams opensStreams // for upgrades

	conns, inflight  atomic.Int64
	opened, requests atomic.Uint64
	wg               sync.WaitGroup // requests
}

func (l *sharedLink) stats() PoolStats {
	return PoolStats{Protocol: l.name, Conns: l.conns.Load(), InFlight: l.inflight.Load(), Opened: l.opened.Load(), Requests: l.requests.Load()}
}

func (l *sharedLink) setPool(pool.Config) error { return nil } // it has none

func (l *sharedLink) close(ctx context.Context) {
	done := make(chan struct{})
	go func() { l.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
	l.idle()
	l.end() // its requests tell what was cut off
	<-done
}

// send sends a request by the transport.
func (l *sharedLink) send(ctx context.Context, q *h1.Request) (*http.Response, error) {
	if q.Upgrade != "" {
		return l.upgrade(ctx, q)
	}
	hints := &hints{pass: q.Informational}
	r, err := l.request(ctx, q, hints)
	if err != nil {
		return nil, err
	}
	l.wg.Add(1)
	l.inflight.Add(1)
	l.requests.Add(1)
	resp, err := l.roundTrip(r)
	hints.end()
	if err != nil {
		l.done()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, err
	}
	resp.Body = &sharedBody{ReadCloser: resp.Body, done: l.done}
	return resp, nil
}

// hints passes on 1xx responses while RoundTrip runs. Transports tell of them on goroutines
// of their own, and one may come when the request has been given up already.
type hints struct {
	mu   sync.Mutex
	over bool
	pass func(status int, header http.Header) error // nil: nowhere
}

func (h *hints) got(code int, header textproto.MIMEHeader) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over || code == http.StatusContinue {
		return nil
	}
	return h.pass(code, http.Header(header))
}

func (h *hints) end() {
	h.mu.Lock()
	h.over = true
	h.mu.Unlock()
}

func (l *sharedLink) done() {
	l.inflight.Add(-1)
	l.wg.Done()
}

type sharedBody struct {
	io.ReadCloser
	once sync.Once
	done func()
}

// Close ends the request.
func (b *sharedBody) Close() error {
	err := b.ReadCloser.Close()
	b.once.Do(b.done)
	return err
}

// request makes what the transports of HTTP/2 and 3 take.
func (l *sharedLink) request(ctx context.Context, q *h1.Request, h *hints) (*http.Request, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	u := l.base
	if err := setTarget(&u, q.Target); err != nil {
		return nil, &h1.RequestError{Detail: err.Error()}
	}
	r := &http.Request{Method: q.Method, URL: &u, Host: q.Host, Header: q.Fields(), Proto: "HTTP/2.0", ProtoMajor: 2}
	if q.Trailers {
		r.Header["Te"] = []string{"trailers"}
	}
	if q.Continue {
		r.Header["Expect"] = []string{"100-continue"}
	}
	switch {
	case q.Body != nil:
		r.Body, r.ContentLength, r.Trailer = io.NopCloser(q.Body), q.Length, q.Trailer
	case len(q.Content) > 0:
		b := q.Content
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
	}
	if _, ok := r.Header["User-Agent"]; !ok {
		r.Header["User-Agent"] = []string{""} // else the transport names itself
	}
	if h.pass != nil {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: h.got})
	}
	return r.WithContext(ctx), nil
}

// setTarget puts a request's target into a URL so that it is sent as it is.
func setTarget(u *url.URL, target string) error {
	if target == "*" {
		u.Path = "*"
		return nil
	}
	t, err := url.ParseRequestURI(target)
	if err != nil {
		return err
	}
	if t.Host != "" || t.Scheme != "" || len(target) > 1 && target[1] == '/' { // a path that begins with two slashes is no host
		t = &url.URL{}
		path, query, has := cutQuery(target)
		if t.Path, err = url.PathUnescape(path); err != nil {
			return err
		}
		t.RawPath, t.RawQuery, t.ForceQuery = path, query, has && query == ""
	}
	u.Path, u.RawPath, u.RawQuery, u.ForceQuery = t.Path, t.RawPath, t.RawQuery, t.ForceQuery
	if u.RequestURI() != target { // it would be escaped otherwise than it is; net/url's own writing never is
		return fmt.Errorf("target %q, expected all but unreserved and sub-delims of its path to be escaped", target)
	}
	return nil
}

func cutQuery(s string) (path, query string, has bool) {
	for i := range len(s) {
		if s[i] == '?' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}
