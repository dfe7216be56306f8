package forward

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"sync"

	"github.com/np-appliance/np/ctrl/gateway/h1"
	"github.com/np-appliance/np/ctrl/upstream"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// newH3 makes the HTTP/3 link.
func (c *Cluster) newH3(e *upstream.Endpoint) (*sharedLink, error) {
	network, address := e.Network()
	if network == "unix" {
		return nil, fmt.Errorf("endpoint %s: HTTP/3 needs host:port", e.Address())
	}
	timeouts := c.up.Timeouts()
	l := &sharedLink{name: "h3", base: url.URL{Scheme: "https", Host: address}}
	ctx, cancel := context.WithCancel(context.Background())
	d := &quicDialer{c: c, e: e, link: l, ctx: ctx}
	t := &http3.Transport{
		TLSClientConfig:        c.tlsFor(e, []string{http3.NextProtoH3}),
		QUICConfig:             &quic.Config{HandshakeIdleTimeout: timeouts.Connect, MaxIdleTimeout: timeouts.Idle, KeepAlivePeriod: timeouts.KeepAlive},
		Dial:                   d.dial,
		DisableCompression:     true,
		MaxResponseHeaderBytes: c.cfg.Limits.HeadBytes,
	}
	l.rt, l.idle = t, t.CloseIdleConnections
	// A configuration of its own: the transport changes what it was given.
	own := &quic.Config{HandshakeIdleTimeout: timeouts.Connect, MaxIdleTimeout: timeouts.Idle, KeepAlivePeriod: timeouts.KeepAlive,
		Versions: []quic.Version{quic.Version1}, MaxIncomingStreams: -1,
		InitialStreamReceiveWindow: tunnelStreamBytes, MaxStreamReceiveWindow: tunnelStreamBytes,
		InitialConnectionReceiveWindow: tunnelConnBytes, MaxConnectionReceiveWindow: tunnelConnBytes}
	tls := c.tlsFor(e, []string{http3.NextProtoH3})
	streams := newConnects3(t, timeouts.Idle, func(ctx context.Context) (*quic.Conn, error) { return d.dial(ctx, "", tls, own) })
	l.streams = streams
	l.end = func() {
		streams.end()
		_ = t.Close() // nothing can be done about what it says
		cancel()
		d.wg.Wait()
	}
	return l, nil
}

// quicDialer makes QUIC connections, each over a socket of its own, as the address of the
// sender may depend on the endpoint's.
type quicDialer struct {
	c    *Cluster
	e    *upstream.Endpoint
	link *sharedLink
	ctx  context.Context
	wg   sync.WaitGroup // sockets
}

func (d *quicDialer) dial(ctx context.Context, _ string, t *tls.Config, q *quic.Config) (*quic.Conn, error) {
	if err := d.e.AcquireConn(); err != nil {
		return nil, &h1.ConnectError{Err: err}
	}
	conn, err := d.open(ctx, t, q)
	if err != nil {
		d.e.ReleaseConn()
		return nil, &h1.ConnectError{Err: err}
	}
	d.link.conns.Add(1)
	d.link.opened.Add(1)
	return conn, nil
}

func (d *quicDialer) open(ctx context.Context, t *tls.Config, q *quic.Config) (*quic.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.c.up.Timeouts().Connect)
	defer cancel()
	_, address := d.e.Network()
	pc, to, err := d.c.cfg.Packet(ctx, address)
	if err != nil {
		return nil, err
	}
	tr := &quic.Transport{Conn: pc}
	conn, err := tr.Dial(ctx, to, t, q)
	if err != nil {
		d.shut(tr, pc)
		return nil, err
	}
	d.wg.Go(func() {
		select {
		case <-conn.Context().Done():
		case <-d.ctx.Done():
		}
		d.shut(tr, pc)
		d.link.conns.Add(-1)
		d.e.ReleaseConn()
	})
	return conn, nil
}

func (d *quicDialer) shut(tr *quic.Transport, pc net.PacketConn) {
	_ = tr.Close() // it is over either way
	_ = pc.Close()
}
