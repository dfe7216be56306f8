package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/policy/authz"
	"github.com/np-appliance/np/ctrl/gateway/server"
)

// connRules compiles [listener.authz] of all listeners, whatever they speak.
func (b *builder) connRules() {
	for i := range b.cfg.Listeners {
		l := &b.cfg.Listeners[i]
		if len(l.Authz.Allow)+len(l.Authz.Deny) == 0 {
			continue
		}
		rules, err := authz.ParseConnection(l.Authz.Allow, l.Authz.Deny, place(b.cfg, l))
		b.rules(fmt.Sprintf("listener[%d].authz", i), "listener.authz", err)
		b.next.policy.conns[l.Name] = rules
	}
}

// place is what a listener's connections never tell.
func place(c *config.Config, l *config.Listener) authz.Place {
	p := authz.Place{Unix: l.Address.Path() != ""}
	if !l.TLS {
		p.Never |= authz.SNI | authz.ALPN
	}
	if !l.TLS || c.TLS.ClientAuth == "none" {
		p.Never |= authz.Cert
	}
	if p.Unix && (l.Protocol != "http" || l.HTTP.ProxyProtocol == "off" && len(l.HTTP.Trusted) == 0) {
		p.Never |= authz.Client
	}
	return p
}

// ErrNotAdmitted is why a connection is refused that [listener.authz] does not let in.
var ErrNotAdmitted = errors.New("listener.authz does not let the connection in")

// Admit says whether a connection is let in, as far as can be told of it by now. later: it
// is to be asked again when more is known. For listeners of all protocols.
func (g *Gateway) Admit(c *authz.Connection) (later bool, err error) {
	rules := g.gen.Load().policy.conns[c.Listener]
	if rules == nil {
		return false, nil
	}
	d, decided := rules.Connection(c)
	if d.Allowed {
		return !decided, nil
	}
	args := []any{"listener", c.Listener}
	if c.Client.IsValid() {
		args = append(args, "client", c.Client.String())
	}
	if c.TLS != nil && c.TLS.ServerName != "" {
		args = append(args, "server_name", c.TLS.ServerName)
	}
	if d.Rule != "" {
		args = append(args, "denied_by", d.Rule)
	}
	g.o.Peer(slog.LevelInfo, "listener_authz", "connection refused", args...)
	return false, ErrNotAdmitted
}

// admitting is what a server of HTTP asks of connections. Who is behind one that a trusted
// proxy's requests come over, the requests say.
func (g *Gateway) admitting(e Entry) func(*server.Conn, server.Stage, *tls.ConnectionState, []string) (bool, error) {
	return func(c *server.Conn, at server.Stage, state *tls.ConnectionState, offered []string) (bool, error) {
		a := authz.Connection{Listener: e.Listener, Client: c.Client, TLS: state}
		switch {
		case at == server.Passing: // there are no requests
			a.Offered = offered
		case at == server.Accepted && state != nil:
			a.Later = authz.SNI | authz.ALPN | authz.Cert
		case at == server.Greeted:
			a.Later = authz.ALPN | authz.Cert
		}
		if at != server.Passing && e.trusts(c.Client.Addr()) {
			a.Later |= authz.Client
		}
		return g.Admit(&a)
	}
}

// admits says whether a request's connection may ask anything: what only the request tells
// of it, or rules that came into force after it was let in.
func (p *policies) admits(x *exchange.Exchange) bool {
	rules := p.conns[x.Listener]
	if rules == nil {
		return true
	}
	d, _ := rules.Connection(&authz.Connection{Listener: x.Listener, Client: x.Client, TLS: x.TLS})
	return d.Allowed
}
