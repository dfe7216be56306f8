package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"

	"github.com/np-appliance/np/ctrl/gateway/h1"
	"github.com/np-appliance/np/ctrl/pool"
	"github.com/np-appliance/np/ctrl/upstream"
)

// opener makes the connections of a link of HTTP/2, and knows them.
type opener struct {
	link *sharedLink
	e    *upstream.Endpoint

	ctx   context.Context // of connects, which net/http lets outlive their requests
	stop  context.CancelFunc
	dials sync.WaitGroup // connects under way

	mu     sync.Mutex
	open   map[*counted]struct{}
	closed bool
}

// counted is a connection, below TLS, that is counted until it is closed.
type counted struct {
	net.Conn
	once sync.Once
	o    *opener
}

// Close closes the connection.
func (c *counted) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.o.mu.Lock()
		_, live := c.o.open[c]
		delete(c.o.open, c)
		c.o.mu.Unlock()
		if live {
			c.o.link.conns.Add(-1)
			c.o.e.ReleaseConn()
		}
	})
	return err
}

// begin lets one connect go ahead, which calls end; ctx ends with the link too.
func (o *opener) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil, nil, errClosed
	}
	o.dials.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(o.ctx, cancel)
	return ctx, func() { unhook(); cancel(); o.dials.Done() }, nil
}

func (o *opener) wrap(nc net.Conn) net.Conn { return &counted{Conn: nc, o: o} }

// take counts a connection that wrap made, and that is ready now.
func (o *opener) take(nc net.Conn) {
	under := nc
	if t, ok := nc.(*tls.Conn); ok {
		under = t.NetConn()
	}
	c := under.(*counted) // made by wrap
	o.mu.Lock()
	o.open[c] = struct{}{}
	o.mu.Unlock()
	o.link.conns.Add(1)
	o.link.opened.Add(1)
}

// closeAll ends the connections, and the connects under way: else one that ended after this
// would be nobody's.
func (o *opener) closeAll() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.stop()
	o.dials.Wait()
	o.mu.Lock()
	all := make([]*counted, 0, len(o.open))
	for c := range o.open {
		all = append(all, c)
	}
	o.mu.Unlock()
	for _, c := range all {
		_ = c.Close() // its requests tell
	}
}

var errNotH2 = errors.New("the endpoint does not speak h2 (ALPN), expected protocol auto or http1")

// newH2 makes a link that speaks HTTP/2 alone, by net/http's transport.
func (c *Cluster) newH2(e *upstream.Endpoint) (*sharedLink, error) {
	timeouts := c.up.Timeouts()
	l := &sharedLink{name: "h2", first: &first{}, base: url.URL{Scheme: c.scheme(), Host: authority(e, c.cfg.TLS != nil)}}
	o := &opener{link: l, e: e, open: map[*counted]struct{}{}}
	o.ctx, o.stop = context.WithCancel(context.Background())
	t := &http.Transport{
		DisableCompression:     true,
		MaxResponseHeaderBytes: int64(c.cfg.Limits.HeadBytes),
		IdleConnTimeout:        timeouts.Idle,
		ExpectContinueTimeout:  c.cfg.Limits.ContinueTimeout,
		Protocols:              new(http.Protocols),
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: timeouts.KeepAlive, PingTimeout: timeouts.Connect},
	}
	open := func(ctx context.Context, _, _ string) (net.Conn, error) {
		ctx, end, err := o.begin(ctx)
		if err != nil {
			return nil, &h1.ConnectError{Err: err}
		}
		defer end()
		nc, err := c.dialH2(ctx, e, o)
		if err != nil {
			return nil, &h1.ConnectError{Err: err}
		}
		o.take(nc)
		return nc, nil
	}
	if c.cfg.TLS != nil {
		t.Protocols.SetHTTP2(true)
		t.DialTLSContext = open
	} else {
		l.name = "h2c"
		t.Protocols.SetUnencryptedHTTP2(true)
		t.DialContext = open
	}
	l.rt, l.idle, l.end = t, t.CloseIdleConnections, o.closeAll
	streams, err := newConnects2(t, func(ctx context.Context) (net.Conn, error) { return open(ctx, "", "") })
	l.streams = streams
	return l, err
}

func (c *Cluster) dialH2(ctx context.Context, e *upstream.Endpoint, o *opener) (net.Conn, error) {
	if c.cfg.TLS == nil {
		return c.dial(ctx, e, o.wrap)
	}
	nc, err := c.dial(ctx, e, o.wrap, "h2")
	if err != nil {
		return nil, err
	}
	if nc.(*tls.Conn).ConnectionState().NegotiatedProtocol != "h2" {
		_ = nc.Close()
		e.ReleaseConn()
		return nil, errNotH2
	}
	return nc, nil
}

// autoLink speaks what its endpoint chose by ALPN when it was first asked.
type autoLink struct {
	c *Cluster
	e *upstream.Endpoint

	turn   chan struct{} // holds one token: the right to ask, and to change inner
	mu     sync.Mutex    // of inner and closed
	inner  link
	closed bool
	parked net.Conn // made in asking, for the first request over HTTP/1.1
	plain  *h1Link  // for upgrades, where inner takes none; nil: not needed yet
}

func (c *Cluster) newAuto(e *upstream.Endpoint) *autoLink {
	l := &autoLink{c: c, e: e, turn: make(chan struct{}, 1)}
	l.turn <- struct{}{}
	return l
}

func (l *autoLink) now() link {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inner
}

// choose asks the endpoint what it speaks, unless that is known.
func (l *autoLink) choose(ctx context.Context) (link, error) {
	if in := l.now(); in != nil {
		return in, nil
	}
	select {
	case <-l.turn:
	case <-ctx.Done():
		return nil, &h1.ConnectError{Err: context.Cause(ctx)}
	}
	defer func() { l.turn <- struct{}{} }()
	if in := l.now(); in != nil {
		return in, nil
	}
	nc, err := l.c.dial(ctx, l.e, nil, "h2", "http/1.1")
	if err != nil {
		return nil, &h1.ConnectError{Err: err}
	}
	var in link
	if nc.(*tls.Conn).ConnectionState().NegotiatedProtocol == "h2" {
		// net/http wants to dial by itself: this one told what there was to know.
		_ = nc.Close()
		l.e.ReleaseConn()
		if in, err = l.c.newH2(l.e); err != nil {
			return nil, &h1.ConnectError{Err: err}
		}
	} else {
		l.park(nc)
		if in, err = l.c.newH1(l.e, l.unpark); err != nil {
			l.drop(l.unpark())
			return nil, &h1.ConnectError{Err: err}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, &h1.ConnectError{Err: errClosed}
	}
	l.inner = in
	return in, nil
}

func (l *autoLink) park(nc net.Conn) {
	l.mu.Lock()
	l.parked = nc
	l.mu.Unlock()
}

func (l *autoLink) unpark() net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	nc := l.parked
	l.parked = nil
	return nc
}

func (l *autoLink) drop(nc net.Conn) {
	if nc != nil {
		_ = nc.Close()
		l.e.ReleaseConn()
	}
}

func (l *autoLink) send(ctx context.Context, q *h1.Request) (*http.Response, error) {
	in, err := l.choose(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := in.send(ctx, q)
	if no := (*noConnect)(nil); q.Upgrade != "" && errors.As(err, &no) {
		return l.sendPlain(ctx, q, no)
	}
	if err != nil && mayHaveChanged(err) {
		l.mu.Lock()
		old := l.inner
		if old == in {
			l.inner = nil
		}
		l.mu.Unlock()
		if old == in {
			l.c.retire(in)
		}
	}
	return resp, err
}

// sendPlain asks for an upgrade over HTTP/1.1, of an endpoint that chose HTTP/2 and takes
// no upgrades over that.
func (l *autoLink) sendPlain(ctx context.Context, q *h1.Request, no *noConnect) (*http.Response, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, &h1.ConnectError{Err: errClosed}
	}
	if l.plain == nil {
		plain, err := l.c.newH1(l.e, nil)
		if err != nil {
			l.mu.Unlock()
			return nil, &h1.ConnectError{Err: err}
		}
		l.plain = plain
	}
	plain := l.plain
	l.mu.Unlock()
	resp, err := plain.send(ctx, q)
	if err != nil && ctx.Err() == nil { // most likely it speaks no HTTP/1.1
		return nil, fmt.Errorf("%w; over HTTP/1.1: %w", no, err)
	}
	return resp, err
}

// mayHaveChanged says whether an endpoint may speak something else now: it refused in TLS.
func mayHaveChanged(err error) bool {
	var pooled *pool.AcquireError
	if errors.As(err, &pooled) && pooled.LastOpen != nil {
		err = pooled.LastOpen
	}
	var alert *net.OpError
	return errors.Is(err, errNotH2) || errors.As(err, &alert) && alert.Op == "remote error" // as crypto/tls calls an alert
}

// retire ends a link in the background once its requests have ended.
func (c *Cluster) retire(l link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed { // Close waits already
		go l.close(c.ctx)
		return
	}
	c.end(l)
}

func (l *autoLink) stats() PoolStats {
	l.mu.Lock()
	in, plain := l.inner, l.plain
	l.mu.Unlock()
	var s PoolStats
	if in != nil {
		s = in.stats()
	}
	if plain != nil {
		more := plain.stats().Pool
		s.Pool.Add(&more)
	}
	return s
}

func (l *autoLink) setPool(cfg pool.Config) error {
	l.mu.Lock()
	in, plain := l.inner, l.plain
	l.mu.Unlock()
	var errs []error
	if in != nil {
		errs = append(errs, in.setPool(cfg))
	}
	if plain != nil {
		errs = append(errs, plain.setPool(cfg))
	}
	return errors.Join(errs...)
}

func (l *autoLink) close(ctx context.Context) {
	l.mu.Lock()
	l.closed = true
	in, plain := l.inner, l.plain
	l.mu.Unlock()
	if in != nil {
		in.close(ctx)
	}
	if plain != nil {
		plain.close(ctx)
	}
	l.drop(l.unpark())
}
