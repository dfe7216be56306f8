package gateway

import (
	"net/http"

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

// checkProtocols is what an upstream's endpoints are asked in by checks of kind http.
func checkProtocols(u *config.Upstream) *http.Protocols {
	p := new(http.Protocols)
	switch u.Protocol {
	case "h2":
		p.SetHTTP2(true)
	case "h2c":
		p.SetUnencryptedHTTP2(true)
	case "auto", "h3": // which is asked over TCP
		p.SetHTTP1(true)
		p.SetHTTP2(u.TLS.Enabled)
	default:
		p.SetHTTP1(true)
	}
	return p
}
