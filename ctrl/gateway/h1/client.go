package h1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/np-appliance/np/ctrl/pool"
)

// Options is what a client is made of.
type Options struct {
	Name string // of the destination, in errors
	// Dial connects; what it returns is ready for HTTP, TLS included. Required.
	Dial func(ctx context.Context) (net.Conn, error)
	// Closed is called once for each connection that Dial made, when it was closed.
	Closed func()
	Pool   pool.Config
	Limits Limits
	// Single: each request has a connection of its own, which is never pooled.
	Single bool
}

// Client sends requests to one destination. It is safe for concurrent use.
type Client struct {
	opts   Options
	limits Limits
	pool   *pool.Pool[*Conn] // nil: Single
	in     buffers
	out    sync.Pool // *[]byte, for heads and bodies that are sent
}

// New makes a client. Its owner ends it with Close.
func New(o Options) (*Client, error) {
	c := &Client{opts: o, limits: o.Limits}
	if err := c.limits.Check(); err != nil {
		return nil, fmt.Errorf("HTTP/1.1 client %s: %w", o.Name, err)
	}
	if o.Dial == nil {
		return nil, fmt.Errorf("HTTP/1.1 client %s: a function to dial is required", o.Name)
	}
	if o.Single {
		return c, nil
	}
	var err error
	c.pool, err = pool.New(pool.Options[*Conn]{
		Name: o.Name,
		Open: c.open,
		Validate: func(_ context.Context, k *Conn) error {
			if well, known := k.sock.Look(); known && !well {
				return errors.New("the server ended the connection")
			}
			return nil
		},
		Close: func(k *Conn, _ pool.Reason) { c.close(k) },
	}, o.Pool)
	return c, err
}

func (c *Client) open(ctx context.Context) (*Conn, error) {
	nc, err := c.opts.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return newConn(nc), nil
}

func (c *Client) close(k *Conn) {
	_ = k.nc.Close() // whatever it says, it is over
	if c.opts.Closed != nil {
		c.opts.Closed()
	}
}

// Close ends all connections: idle ones at once, borrowed ones when they come back or ctx ends.
func (c *Client) Close(ctx context.Context) error {
	if c.pool == nil {
		return nil
	}
	return c.pool.Close(ctx)
}

// Stats returns the pool's numbers; none for Single.
func (c *Client) Stats() pool.Stats {
	if c.pool == nil {
		return pool.Stats{}
	}
	return c.pool.Stats()
}

// SetPool changes what can be changed of the pool while it runs.
func (c *Client) SetPool(cfg pool.Config) error {
	if c.pool == nil {
		return nil
	}
	return c.pool.SetConfig(cfg)
}

// Flush ends the connections that are open now once they are idle.
func (c *Client) Flush() {
	if c.pool != nil {
		c.pool.Flush()
	}
}

// ConnectError is that there was no connection: nothing was sent.
type ConnectError struct{ Err error }

func (e *ConnectError) Error() string { return "connect: " + e.Err.Error() }

// Unwrap returns the pool's or the dial's error.
func (e *ConnectError) Unwrap() error { return e.Err }

// borrow takes a connection. One that was used before is looked at, unless that is done
// when the request is sent (asks): bytes that came since would be taken for the response.
// again: one that can't be looked at won't do.
// bound: the pool's size, since each turn but the last ends a connection.
func (c *Client) borrow(ctx context.Context, again, asks bool) (k *Conn, l pool.Lease[*Conn], err error) {
	if c.pool == nil {
		if k, err = c.open(ctx); err != nil {
			err = &ConnectError{err}
		}
		return k, l, err
	}
	for {
		if l, err = c.pool.Acquire(ctx); err != nil {
			return nil, l, &ConnectError{err}
		}
		k = l.Value()
		if !l.Reused() || asks && k.sock.CanAsk() {
			return k, l, nil
		}
		if well, known := k.sock.Look(); well || !known && !again {
			return k, l, nil
		}
		_ = l.Discard() // it is borrowed
	}
}

// maxTries bounds the connections that one request is sent on: the first may prove dead,
// and the second may die at that moment too.
const maxTries = 3

// Do sends a request and returns its response once its head is there. The caller reads
// the response's body to its end or closes it; until then the connection is borrowed and
// ctx counts. Errors are *RequestError, *ConnectError, *IOError, *ProtocolError, and the
// cause of ctx inside an *IOError or *ConnectError.
func (c *Client) Do(ctx context.Context, q *Request) (*http.Response, error) {
	out, ok := c.out.Get().(*[]byte)
	if !ok {
		out = new([]byte)
		*out = make([]byte, 0, 2<<10)
	}
	head, err := q.appendHead((*out)[:0])
	if err == nil {
		head = append(head, q.Content...)
		defer func() {
			if cap(head) <= 64<<10 {
				*out = head[:0]
				c.out.Put(out)
			}
		}()
	} else {
		return nil, err
	}
	repeat := q.Repeat && idempotent(q.Method)
	for n := 1; ; n++ { // bound: maxTries, and the pool's size
		conn, lease, err := c.borrow(ctx, n > 1, !q.streams())
		if err != nil {
			return nil, err
		}
		k := &call{client: c, conn: conn, lease: lease, req: q, ctx: ctx}
		resp, err := k.run(head)
		if err == nil {
			return resp, nil
		}
		if err == errEnded { // before anything was sent: it is as if it had not been in the pool
			n--
			continue
		}
		if n >= maxTries || !lease.Reused() || !k.unanswered(err, repeat) {
			return nil, err
		}
	}
}

func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

const inlineBody = 32 << 10 // a body of known length up to this is read before the request is sent

// RoundTrip implements [http.RoundTripper]. A short body of known length is read first.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	q := &Request{Method: r.Method, Target: r.URL.RequestURI(), Host: r.Host, Header: r.Header, Close: r.Close, Repeat: true, Trailer: r.Trailer}
	if q.Method == "" {
		q.Method = http.MethodGet
	}
	if q.Host == "" {
		q.Host = r.URL.Host
	}
	if hasOption(r.Header["Connection"], "upgrade") {
		q.Upgrade = r.Header.Get("Upgrade")
	}
	q.Close = q.Close || hasOption(r.Header["Connection"], "close")
	q.Trailers = hasOption(r.Header["Te"], "trailers")
	q.Continue = strings.EqualFold(r.Header.Get("Expect"), "100-continue")
	if r.Body == nil || r.Body == http.NoBody {
		return c.roundTrip(r, q)
	}
	if r.ContentLength > 0 && r.ContentLength <= inlineBody && !q.Continue && len(q.Trailer) == 0 {
		q.Content = make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, q.Content)
		if e := r.Body.Close(); err == nil {
			err = e
		}
		if err != nil {
			return nil, &IOError{Op: "read body", Body: true, Err: noEOF(err)}
		}
		return c.roundTrip(r, q)
	}
	q.Body, q.Length = r.Body, r.ContentLength
	if q.Length <= 0 || len(q.Trailer) > 0 {
		q.Length = -1
	}
	q.Abort = func() { _ = r.Body.Close() }
	resp, err := c.roundTrip(r, q)
	if err != nil {
		_ = r.Body.Close()
	}
	return resp, err
}

func (c *Client) roundTrip(r *http.Request, q *Request) (*http.Response, error) {
	resp, err := c.Do(r.Context(), q)
	if err != nil {
		return nil, err
	}
	resp.Request = r
	return resp, nil
}

// hasOption says whether a list of tokens has one, in any case.
func hasOption(values []string, option string) bool {
	for _, v := range values {
		for o := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(trimOWS(o), option) {
				return true
			}
		}
	}
	return false
}
