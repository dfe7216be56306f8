package forward

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/np-appliance/np/ctrl/upstream"
)

// Raw connects to an endpoint for bytes that are none of this package's business: TLS
// that is passed on unopened. The connection counts as a request in flight until it is
// closed; hash is of what keeps clients at an endpoint. The PROXY header, if there is to
// be one, has been sent, with the client that ctx's exchange says.
func (c *Cluster) Raw(ctx context.Context, hash uint64) (net.Conn, error) {
	var out net.Conn
	err := c.up.Do(ctx, upstream.Call{Hash: hash, Try: func(ctx context.Context, t upstream.Try) (upstream.Outcome, error) {
		nc, err := c.dial(ctx, t.Endpoint, nil)
		if err != nil {
			return upstream.ConnectFailed, err // of what the client sent nothing has gone out
		}
		t.Stream(true)
		done := t.Detach()
		out = &rawConn{Conn: nc, end: sync.OnceFunc(func() {
			t.Endpoint.ReleaseConn()
			done(upstream.Success)
		})}
		return upstream.Success, nil
	}})
	return out, err
}

// rawConn is a connection that is counted until it is closed.
type rawConn struct {
	net.Conn
	end func()
}

// Close implements net.Conn.
func (r *rawConn) Close() error {
	err := r.Conn.Close()
	r.end()
	return err
}

// CloseWrite ends what is sent.
func (r *rawConn) CloseWrite() error {
	if c, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}
