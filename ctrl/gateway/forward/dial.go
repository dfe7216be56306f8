package forward

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/secure"
	"github.com/np-appliance/np/ctrl/upstream"
)

// dial connects to an endpoint: the connection, the PROXY header if there is to be one,
// TLS with the given ALPN. wrap, if not nil, gets the connection below TLS. The caller
// calls ReleaseConn of e once the connection is closed.
func (c *Cluster) dial(ctx context.Context, e *upstream.Endpoint, wrap func(net.Conn) net.Conn, alpn ...string) (net.Conn, error) {
	if err := e.AcquireConn(); err != nil {
		return nil, err
	}
	nc, err := c.connect(ctx, e, wrap, alpn)
	if err != nil {
		e.ReleaseConn()
		return nil, err
	}
	return nc, nil
}

func (c *Cluster) connect(ctx context.Context, e *upstream.Endpoint, wrap func(net.Conn) net.Conn, alpn []string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.up.Timeouts().Connect)
	defer cancel()
	network, address := e.Network()
	nc, err := c.cfg.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if c.cfg.ProxyProtocol != 0 {
		x := exchange.From(ctx)
		if _, err := nc.Write(proxyHeader(c.cfg.ProxyProtocol, x.Client, localOf(ctx))); err != nil {
			_ = nc.Close() // the error that matters is the write's
			return nil, fmt.Errorf("write PROXY header: %w", err)
		}
	}
	under := nc
	if wrap != nil {
		under = wrap(nc)
	}
	if c.cfg.TLS == nil {
		return under, nil
	}
	t := tls.Client(under, c.tlsFor(e, alpn))
	if err := t.HandshakeContext(ctx); err != nil {
		_ = nc.Close() // not under: the connection isn't counted yet
		return nil, fmt.Errorf("TLS handshake with %s: %w", address, secure.Explain(err))
	}
	return t, nil
}

// tlsFor is the configuration for an endpoint.
func (c *Cluster) tlsFor(e *upstream.Endpoint, alpn []string) *tls.Config {
	cfg := c.cfg.TLS
	if cfg.ServerName != "" && slices.Equal(cfg.NextProtos, alpn) {
		return cfg
	}
	cfg = cfg.Clone()
	cfg.NextProtos = alpn
	if cfg.ServerName == "" {
		network, address := e.Network()
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			host = address
		}
		if network == "unix" {
			host = "localhost"
		}
		cfg.ServerName = host
	}
	return cfg
}
