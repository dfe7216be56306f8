package gateway

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/discovery"
	"github.com/np-appliance/np/ctrl/upstream"
)

// discover makes the source of an upstream's endpoints, and returns those to begin with:
// an upstream that is made again has the list of the one before until its source answers.
func (b *builder) discover(at string, u *config.Upstream, c *cluster) []upstream.Spec {
	var err error
	c.source, err = discovery.Open(u.Discover, discovery.Options{Dial: b.dial(u)})
	if err != nil {
		b.failf(at+".discover", "upstream.discover: %w", err)
	}
	if old := b.old.clusters[u.Name]; old != nil && old.cfg.Discover == u.Discover {
		return old.up.Specs()
	}
	return nil
}

// Discovery returns the text that names the source of an upstream's endpoints, and what
// the source knows of itself. ok: there is one.
func (g *Gateway) Discovery(name string) (text string, status discovery.Status, ok bool) {
	n := g.gen.Load()
	c := n.clusters[name]
	if c == nil || c.source == nil {
		return "", discovery.Status{}, false
	}
	if s, has := c.source.(interface{ Status() discovery.Status }); has {
		status = s.Status()
	}
	return n.cfg.UpstreamNamed(name).Discover, status, true
}

// overTLS is dial with TLS on it, for a check by HTTP/1.1; nil: as it is.
func overTLS(dial upstream.DialFunc, t *tls.Config) upstream.DialFunc {
	if t == nil {
		return dial
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		conf := t.Clone()
		conf.NextProtos = []string{"http/1.1"}
		if conf.ServerName == "" {
			if conf.ServerName = address; network != "unix" {
				conf.ServerName, _, _ = net.SplitHostPort(address)
			}
		}
		c := tls.Client(conn, conf)
		if err := c.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		return c, nil
	}
}
