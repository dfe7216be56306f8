package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/meter"
	"github.com/np-appliance/np/ctrl/gateway/server"
	"github.com/np-appliance/np/ctrl/gateway/target"
)

// Server makes what serves a listener of protocol http; t is nil without TLS.
func (g *Gateway) Server(c *config.Config, l *config.Listener, t *tls.Config) (*server.Server, error) {
	h, entry := &l.HTTP, g.entryOf(l)
	s := server.Config{
		Name:    l.Name,
		Handler: g.Handler(entry),
		NoHTTP1: !slices.Contains(h.Versions, "1.1"), NoHTTP2: !slices.Contains(h.Versions, "2"), EarlyData: h.EarlyData,
		Forwarded: h.Trusted, Admit: g.admitting(entry),
		Limits: server.Limits{Conns: c.ListenerLimit(l), ClientConns: none(h.PerClient), HeadBytes: int(h.MaxHeader), Fields: h.MaxFields, URIBytes: int(h.MaxURI),
			Head: h.HeaderTimeout, Idle: h.IdleTimeout, BodyStall: h.BodyTimeout, SendStall: h.WriteTimeout, Requests: none(h.MaxRequests), Streams: h.MaxStreams,
			Handshake: h.HeaderTimeout, PassIdle: h.PassTimeout, BodyRate: none(int(h.MinBodyRate)), Resets: none(h.MaxResets), Control: none(h.MaxControl)},
		Log: g.o.Log,
	}
	if l.TLS {
		s.TLS = t
		s.Limits.Handshake = c.TLS.HandshakeTimeout
		s.Passes = g.passes
		s.Passthrough = func(hello server.Hello) (func(context.Context) (net.Conn, error), bool) {
			return g.passthrough(l.Name, hello)
		}
	}
	if slices.Contains(h.Versions, "3") && h.AltSvc {
		s.AltSvc = l.Address.AddrPort().Port()
	}
	switch h.ProxyProtocol {
	case "accept":
		s.Proxy, s.ProxyFrom = server.ProxyAccept, h.Trusted
	case "require":
		s.Proxy, s.ProxyFrom = server.ProxyRequire, h.Trusted
	}
	s.Refuse = func(w http.ResponseWriter, r *http.Request, why exchange.Reason, detail, line string) {
		g.refused(entry, w, r, why, detail, line)
	}
	return server.New(s)
}

// none is what the server takes for no limit.
func none(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// begin writes down what the connection tells of a request. A PROXY header counts as the
// connection's own word: who sends it passes bytes on and says nothing in requests, so it is
// the client behind it whose fields are believed or not.
func (g *Gateway) begin(x *exchange.Exchange, e Entry, r *http.Request) {
	ownHop(r.Header)
	x.Start, x.Listener, x.TLS, x.Host = g.o.Now(), e.Listener, r.TLS, r.Host
	if c := server.From(r.Context()); c != nil {
		x.Protocol, x.Peer, x.Client = c.Protocol, c.Client, server.Client(r)
		x.Trusted = e.trusts(c.Client.Addr())
	}
	x.ID = g.requestID(r, x.Trusted)
}

// Entry is where requests come in: a listener as far as they are concerned.
type Entry struct {
	Listener string
	Trusted  []netip.Prefix // proxies in front
	Paths    target.Policy

	meter *meter.Listener
}

func (g *Gateway) entryOf(l *config.Listener) Entry {
	return Entry{Listener: l.Name, Trusted: l.HTTP.Trusted, Paths: policyOf(l), meter: g.meter.Listener(l.Name)}
}

// trusts says whether a peer is a proxy in front. One at a Unix socket has no address: who
// may connect there is the file's mode's matter.
func (e Entry) trusts(peer netip.Addr) bool {
	if !peer.IsValid() {
		return len(e.Trusted) > 0
	}
	peer = peer.Unmap().WithZone("")
	return slices.ContainsFunc(e.Trusted, func(p netip.Prefix) bool { return p.Contains(peer) })
}

// refused answers a request that the server refused before it was one, so that it is seen
// like all others.
func (g *Gateway) refused(e Entry, w http.ResponseWriter, r *http.Request, why exchange.Reason, detail, line string) {
	gen, slot := g.enter()
	defer gen.leave(slot)
	h := &hop{w: w, now: g.o.Now}
	x := &h.Exchange
	g.begin(x, e, r)
	h.open(gen, e, r)
	r = r.WithContext(exchange.With(r.Context(), x))
	if line != "" {
		x.Note(errors.New(line))
	}
	exchange.Refuse(h, r, why, detail)
	g.end(h, r)
}
