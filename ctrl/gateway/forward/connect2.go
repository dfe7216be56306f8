package forward

//lint:file-ignore SA1019 net/http's own transport refuses the field :protocol of an extended CONNECT

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/http2"

	"github.com/np-appliance/np/ctrl/gateway/h1"
)

// Windows of streams that upgrades open: what an endpoint may send while the client doesn't
// read. Many are open for long, and most carry little.
const (
	tunnelStreamBytes = 256 << 10
	tunnelConnBytes   = 4 << 20
)

// connects2 opens streams by extended CONNECT over HTTP/2 (RFC 8441). They have connections
// apart from those of requests, which net/http's transport keeps to itself.
type connects2 struct {
	dial func(context.Context) (net.Conn, error)
	t    *http2.Transport
	turn chan struct{} // holds one token: the right to open a connection

	mu    sync.Mutex
	conns []*http2.ClientConn
}

// newConnects2 takes limits and times from t, net/http's transport for the requests.
func newConnects2(t *http.Transport, dial func(context.Context) (net.Conn, error)) (*connects2, error) {
	own := &http.Transport{DisableCompression: true, MaxResponseHeaderBytes: t.MaxResponseHeaderBytes, IdleConnTimeout: t.IdleConnTimeout,
		HTTP2: &http.HTTP2Config{SendPingTimeout: t.HTTP2.SendPingTimeout, PingTimeout: t.HTTP2.PingTimeout,
			MaxReceiveBufferPerStream: tunnelStreamBytes, MaxReceiveBufferPerConnection: tunnelConnBytes}}
	t2, err := http2.ConfigureTransports(own)
	if err != nil {
		return nil, err
	}
	c := &connects2{dial: dial, t: t2, turn: make(chan struct{}, 1)}
	c.turn <- struct{}{}
	return c, nil
}

// free returns a connection that takes one more stream, with the right to open it; nil:
// there is none.
func (c *connects2) free() *http2.ClientConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = slices.DeleteFunc(c.conns, func(cc *http2.ClientConn) bool { s := cc.State(); return s.Closed || s.Closing })
	for _, cc := range c.conns {
		if cc.ReserveNewRequest() {
			return cc
		}
	}
	return nil
}

// conn returns a connection to open a stream on. Many that ask at once wait for one to be
// opened, rather than open one each.
func (c *connects2) conn(ctx context.Context) (*http2.ClientConn, error) {
	if cc := c.free(); cc != nil {
		return cc, nil
	}
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, &h1.ConnectError{Err: context.Cause(ctx)}
	}
	defer func() { c.turn <- struct{}{} }()
	if cc := c.free(); cc != nil {
		return cc, nil
	}
	nc, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	cc, err := c.t.NewClientConn(nc)
	if err != nil {
		_ = nc.Close()
		return nil, &h1.ConnectError{Err: err}
	}
	// Its settings say how many streams it takes. They come before the answer to a ping.
	if err := cc.Ping(ctx); err != nil {
		_ = cc.Close()
		return nil, &h1.ConnectError{Err: fmt.Errorf("await the settings of HTTP/2: %w", err)}
	}
	cc.ReserveNewRequest()
	c.mu.Lock()
	c.conns = append(c.conns, cc)
	c.mu.Unlock()
	return cc, nil
}

func (c *connects2) connect(ctx context.Context, r *http.Request, protocol string) (*http.Response, duplex, error) {
	cc, err := c.conn(ctx)
	if err != nil {
		return nil, nil, err
	}
	pr, pw := io.Pipe()
	r.Header[":protocol"] = []string{protocol}
	r.Body, r.ContentLength = pr, -1
	resp, err := cc.RoundTrip(r)
	if err != nil {
		_ = pw.Close()
		if strings.Contains(err.Error(), "extended connect not supported") { // the library has no name for it
			return nil, nil, &noConnect{"HTTP/2"}
		}
		return nil, nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		_ = pw.Close()
		return resp, nil, nil
	}
	return resp, &stream2{resp.Body, pw}, nil
}

// stream2 is a stream of HTTP/2: the answer's body, and the request's.
type stream2 struct {
	io.ReadCloser
	w *io.PipeWriter
}

// Write sends to the endpoint.
func (s *stream2) Write(p []byte) (int, error) { return s.w.Write(p) }

// CloseWrite ends what is sent: END_STREAM.
func (s *stream2) CloseWrite() error { return s.w.Close() }

// Close ends the stream. The transport resets it unless both directions have ended.
func (s *stream2) Close() error { return s.ReadCloser.Close() }
