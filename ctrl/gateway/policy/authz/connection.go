package authz

import (
	"crypto/tls"
	"fmt"
	"net/netip"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// Facts are conditions about connections that can't be told yet, or never where a
// listener stands.
type Facts uint8

// Facts.
const (
	Client Facts = 1 << iota // who it is from
	SNI                      // the server name that the client asks for
	ALPN                     // the protocol
	Cert                     // the verified certificate of the client
)

// fact is what a condition needs; 0: nothing but what is known from the beginning.
func (k kind) fact() Facts {
	switch k {
	case kClient:
		return Client
	case kSNI:
		return SNI
	case kALPN:
		return ALPN
	case kCert:
		return Cert
	}
	return 0
}

// Connection is what is known of a connection.
type Connection struct {
	Listener string
	Client   netip.AddrPort
	TLS      *tls.ConnectionState // nil: none. Before the handshake, what is known of it by then.
	Offered  []string             // ALPN's protocols that the client named, of a connection that is passed on unopened
	Later    Facts                // can't be told yet
}

// Connection decides about a connection, with rules of ParseConnection, as soon as it can:
// it is refused once a rule that denies holds, or none that allows can hold any more,
// whatever is told later. decided: nothing that is told later matters.
func (r *Rules) Connection(c *Connection) (d Decision, decided bool) {
	x := &exchange.Exchange{Listener: c.Listener, Client: c.Client, TLS: c.TLS}
	e := &env{x: x, offered: c.Offered, later: c.Later}
	e.vars, e.segs = e.varSpace[:0], e.segSpace[:0]
	decided = true
	for i := range r.deny {
		switch t, known := e.known(&r.deny[i]); {
		case t == no:
		case known:
			return Decision{Rule: r.deny[i].text}, true
		default:
			decided = false
		}
	}
	var possible *rule
	for i := range r.allow {
		t, known := e.known(&r.allow[i])
		if t != yes {
			continue
		}
		if known {
			return Decision{Allowed: true, Rule: r.allow[i].text}, decided
		}
		possible = &r.allow[i]
	}
	switch {
	case possible != nil:
		return Decision{Allowed: true, Rule: possible.text}, false
	case len(r.allow) == 0: // then there is no rule that denies either
		return Decision{Allowed: true}, true
	}
	return Decision{}, true
}

// known compares with the conditions that can be told by now. known: these are all, or one
// of them does not hold.
func (e *env) known(r *rule) (all truth, known bool) {
	all, known = yes, true
	for i := range r.terms { // bound: maxTerms
		t := &r.terms[i]
		if t.kind.fact()&e.later != 0 {
			known = false
			continue
		}
		got := e.term(t)
		if t.not {
			got = yes - got
		}
		if all = min(all, got); all == no {
			return no, true
		}
	}
	return all, known
}

// Place is where rules about connections stand.
type Place struct {
	Never Facts // conditions that are never told there
	Unix  bool  // it is a Unix socket
}

// misplaced says why a condition can't be told there; nil: it can.
func (p *Place) misplaced(w *word) error {
	f := w.kind.fact()
	if f&p.Never == 0 {
		return nil
	}
	switch {
	case f == Client && p.Unix:
		return fmt.Errorf("%s: a Unix socket tells no address, expected a listener with a port, or http.proxy_protocol or http.trusted with a proxy in front", w.text)
	case f == Cert:
		return fmt.Errorf("%s: clients show no certificates here, expected tls = true and client_auth in [tls] with it", w.text)
	}
	return fmt.Errorf("%s: the listener has no TLS to tell it, expected tls = true with it", w.text)
}
