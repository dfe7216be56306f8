package gateway

import (
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/discovery"
	"github.com/np-appliance/np/ctrl/upstream"
)

// discover makes the source of an upstream's endpoints, and returns those to begin with:
// an upstream that is made again has the list of the one before until its source answers,
// one that is new that of the last run.
func (b *builder) discover(at string, u *config.Upstream, c *cluster) []upstream.Spec {
	var err error
	c.source, err = discovery.Open(u.Discover, discovery.Options{Dial: b.dial(u)})
	if err != nil {
		b.failf(at+".discover", "upstream.discover: %w", err)
		return nil
	}
	if path := b.lastKnown(u); path != "" {
		c.kept = discovery.Keep(c.source, discovery.Keeping{Path: path, Name: u.Discover, MaxAge: u.LastKnownAge})
		c.source = c.kept
	}
	if old := b.old.clusters[u.Name]; old != nil && old.cfg.Discover == u.Discover {
		if old.kept != nil && !old.kept.Live() {
			c.last = old.last
		}
		return old.up.Specs()
	}
	if c.kept == nil {
		return nil
	}
	specs, good, err := c.kept.Last()
	if err != nil {
		b.g.o.Log.Warn("endpoints of the last run are not used", "upstream", u.Name, "err", err)
	}
	c.last = good
	return specs
}

// lastKnown is the file that an upstream's list is kept in; empty: none. A source that is a
// file is kept already.
func (b *builder) lastKnown(u *config.Upstream) string {
	switch {
	case b.g.dry, u.LastKnown == "off", strings.HasPrefix(u.Discover, "file:"):
		return ""
	case u.LastKnown != "auto":
		return u.LastKnown
	case b.g.o.State == "":
		return ""
	}
	return filepath.Join(b.g.o.State, "endpoints", url.PathEscape(u.Name)+".json")
}

// Discovery is where an upstream's endpoints come from.
type Discovery struct {
	Source    string // the text that names it
	Status    discovery.Status
	LastKnown time.Time // the list in use is of the last run, and was good then; zero: it is not
}

// Discovery returns what is known of an upstream's source. ok: there is one.
func (g *Gateway) Discovery(name string) (d Discovery, ok bool) {
	n := g.gen.Load()
	c := n.clusters[name]
	if c == nil || c.source == nil {
		return d, false
	}
	d.Source = n.cfg.UpstreamNamed(name).Discover
	if s, has := c.source.(interface{ Status() discovery.Status }); has {
		d.Status = s.Status()
	}
	if c.kept != nil && !c.kept.Live() {
		d.LastKnown = c.last
	}
	return d, true
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
