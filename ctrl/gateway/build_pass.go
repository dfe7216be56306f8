package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/route"
	"github.com/np-appliance/np/ctrl/gateway/server"
	"github.com/np-appliance/np/ctrl/upstream"
)

// passing is the routes of connections that are passed on unopened; nil: there are none.
type passing struct {
	table    *route.Table
	clusters []*cluster // of each rule
}

// passthrough compiles the routes with passthrough. Names of sni are hosts to the table, so
// that an exact one comes before *.example.
func (b *builder) passthrough() {
	var rules []route.Rule
	var at []int
	p := &passing{}
	for i := range b.cfg.HTTPRoutes {
		r := &b.cfg.HTTPRoutes[i]
		if !r.Passthrough {
			continue
		}
		if u := b.cfg.UpstreamNamed(r.Upstream); u != nil && u.TLS.Enabled {
			b.failf(fmt.Sprintf("route[%d].upstream", i), "[[route]] %q: bytes that are TLS already go to upstream %q with tls.enabled, expected one without", r.Name, u.Name)
		}
		rules = append(rules, route.Rule{Name: r.Name, Listeners: r.Listeners, Hosts: r.SNI, ALPN: r.ALPN})
		at = append(at, i)
		p.clusters = append(p.clusters, b.next.clusters[r.Upstream])
	}
	if len(rules) == 0 {
		return
	}
	table, err := route.Compile(rules)
	each(err, func(err error) {
		var re *route.RuleError
		if !errors.As(err, &re) {
			b.fail("route", err)
			return
		}
		key := re.Field
		if key == "hosts" {
			key = "sni"
		}
		path := fmt.Sprintf("route[%d]", at[re.Index])
		if key != "" {
			path += "." + key
			if re.At >= 0 {
				path += fmt.Sprintf("[%d]", re.At)
			}
		}
		b.failf(path, "[[route]] %q: %s%w", b.cfg.HTTPRoutes[at[re.Index]].Name, prefix(key, ": "), re.Err)
	})
	p.table = table
	b.next.pass = p
}

// find returns where a connection with this ClientHello goes, nil nowhere. A route with
// alpn takes it if the client offers one of the route's protocols; which route, the client's
// order of preference decides.
func (p *passing) find(listener string, hello *server.Hello) *cluster {
	q := route.Request{Listener: listener, Method: http.MethodGet, Host: hello.ServerName, Path: "/", TLS: true, SNI: hello.ServerName}
	protocols := hello.Protocols
	if len(protocols) == 0 {
		protocols = []string{""}
	}
	for _, q.ALPN = range protocols { // bound: a ClientHello
		if found := p.table.Match(&q, nil); found.Outcome == route.Matched {
			return p.clusters[found.Rule]
		}
	}
	return nil
}

// passthrough finds the upstream of a connection whose TLS is not ended here.
func (g *Gateway) passthrough(listener string, hello server.Hello) (func(context.Context) (net.Conn, error), bool) {
	gen := g.gen.Load()
	if gen.pass == nil {
		return nil, false
	}
	c := gen.pass.find(listener, &hello)
	if c == nil {
		return nil, false
	}
	return func(ctx context.Context) (net.Conn, error) {
		x := &exchange.Exchange{Start: g.o.Now(), Listener: listener, Peer: hello.Conn.Peer, Client: hello.Conn.Client, Upstream: c.name}
		ctx = context.WithValue(exchange.With(ctx, x), http.LocalAddrContextKey, hello.Conn.Local)
		return c.fwd.Raw(ctx, upstream.Hash(x.Client.Addr().String()))
	}, true
}

// passes says whether connections of TLS have to be looked at before the handshake.
func (g *Gateway) passes() bool { return g.gen.Load().pass != nil }

// misdirected says whether a request came over a connection whose certificate is not for
// its host (RFC 9110 §7.4), where the listener looks at that.
func (n *generation) misdirected(listener string, r *http.Request) bool {
	c := server.From(r.Context())
	return c != nil && !n.anyHost[listener] && !c.Names(r.Host)
}

// hosts finds the listeners that don't look whether the certificate is for the host.
func (b *builder) hosts() {
	b.next.anyHost = map[string]bool{}
	for i := range b.cfg.Listeners {
		if l := &b.cfg.Listeners[i]; l.Protocol == "http" && !l.HTTP.CheckHost {
			b.next.anyHost[l.Name] = true
		}
	}
}
