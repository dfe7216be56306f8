package filter

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// template is a text with variables.
type template struct{ parts []part }

// part is a piece of a template: a literal, or what value finds in a request.
type part struct {
	literal string
	name    string // of a {var:…} or a {header:…}
	kind    valueKind
	value   func(r *http.Request, x *exchange.Exchange, name string) string
}

// valueKind is how a value is put into a path.
type valueKind uint8

// Kinds of values.
const (
	anyText   valueKind = iota // slashes and percent signs in it are its own
	plainPart                  // a {var:…}: part of a plain path
	wirePath                   // {path}
)

// maxParts bounds what one template makes of a request.
const maxParts = 64

// parseTemplate takes a text apart. vars are the names that {var:…} may have.
func parseTemplate(text string, vars []string) (*template, error) {
	t := &template{}
	var literal strings.Builder
	cut := func() {
		if literal.Len() > 0 {
			t.parts = append(t.parts, part{literal: literal.String()})
			literal.Reset()
		}
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case (c == '{' || c == '}') && i+1 < len(text) && text[i+1] == c:
			literal.WriteByte(c)
			i++
		case c == '}':
			return nil, errors.New(`"}" without "{": expected a variable, or "}}" for a brace`)
		case c == '{':
			end := strings.IndexByte(text[i:], '}')
			if end < 0 {
				return nil, errors.New(`"{" without "}": expected a variable, or "{{" for a brace`)
			}
			cut()
			p, err := parseVariable(text[i+1:i+end], vars)
			if err != nil {
				return nil, err
			}
			t.parts = append(t.parts, p)
			i += end
		default:
			literal.WriteByte(c)
		}
	}
	cut()
	if len(t.parts) > maxParts {
		return nil, fmt.Errorf("%d pieces: expected at most %d", len(t.parts), maxParts)
	}
	return t, nil
}

func parseVariable(s string, vars []string) (part, error) {
	kind, name, has := strings.Cut(s, ":")
	value := fixedVariable(s)
	if !has && value == nil && slices.Contains(vars, s) {
		kind, name, has = "var", s, true
	}
	switch {
	case has && kind == "var":
		if !slices.Contains(vars, name) {
			if len(vars) == 0 {
				return part{}, fmt.Errorf("{%s}: the route's pattern has no variables", s)
			}
			return part{}, fmt.Errorf("{%s}: expected a variable that each path of the route has: %s", s, strings.Join(vars, ", "))
		}
		return part{name: name, kind: plainPart, value: func(_ *http.Request, x *exchange.Exchange, name string) string {
			v, _ := x.Var(name)
			return v
		}}, nil
	case has && kind == "header":
		if !isToken(name) {
			return part{}, fmt.Errorf("{%s}: expected the name of a header field", s)
		}
		return part{name: textproto.CanonicalMIMEHeaderKey(name), value: func(r *http.Request, _ *exchange.Exchange, name string) string {
			if v := r.Header[name]; len(v) > 0 {
				return v[0]
			}
			return ""
		}}, nil
	}
	switch {
	case s == "path":
		return part{kind: wirePath, value: value}, nil
	case value == nil:
		return part{}, fmt.Errorf("{%s}: expected a variable of the route's pattern or client_ip, client_port, peer_ip, request_id, method, scheme, host, path, query, protocol, sni, listener, route, identity, identity_provider, header:NAME", s)
	}
	return part{value: value}, nil
}

func fixedVariable(name string) func(*http.Request, *exchange.Exchange, string) string {
	of := func(f func(r *http.Request, x *exchange.Exchange) string) func(*http.Request, *exchange.Exchange, string) string {
		return func(r *http.Request, x *exchange.Exchange, _ string) string { return f(r, x) }
	}
	switch name {
	case "client_ip":
		return of(func(_ *http.Request, x *exchange.Exchange) string { return address(x.Client) })
	case "client_port":
		return of(func(_ *http.Request, x *exchange.Exchange) string {
			if x.Client.Port() == 0 {
				return ""
			}
			return strconv.Itoa(int(x.Client.Port()))
		})
	case "peer_ip":
		return of(func(_ *http.Request, x *exchange.Exchange) string { return address(x.Peer) })
	case "request_id":
		return of(func(_ *http.Request, x *exchange.Exchange) string { return x.ID })
	case "method":
		return of(func(r *http.Request, _ *exchange.Exchange) string { return r.Method })
	case "scheme":
		return of(scheme)
	case "host":
		return of(func(r *http.Request, _ *exchange.Exchange) string { return r.Host })
	case "path":
		return of(func(r *http.Request, _ *exchange.Exchange) string { return r.URL.EscapedPath() })
	case "query":
		return of(func(r *http.Request, _ *exchange.Exchange) string { return r.URL.RawQuery })
	case "protocol":
		return of(func(_ *http.Request, x *exchange.Exchange) string { return x.Protocol })
	case "listener":
		return of(func(_ *http.Request, x *exchange.Exchange) string { return x.Listener })
	case "route":
		return of(func(_ *http.Request, x *exchange.Exchange) string { return x.Route })
	}
	return peerVariable(name, of)
}

func peerVariable(name string, of func(func(*http.Request, *exchange.Exchange) string) func(*http.Request, *exchange.Exchange, string) string) func(*http.Request, *exchange.Exchange, string) string {
	switch name {
	case "sni":
		return of(func(r *http.Request, x *exchange.Exchange) string {
			switch {
			case x.TLS != nil:
				return x.TLS.ServerName
			case r.TLS != nil:
				return r.TLS.ServerName
			}
			return ""
		})
	case "identity":
		return of(func(_ *http.Request, x *exchange.Exchange) string {
			if x.Identity == nil {
				return ""
			}
			return x.Identity.Subject
		})
	case "identity_provider":
		return of(func(_ *http.Request, x *exchange.Exchange) string {
			if x.Identity == nil {
				return ""
			}
			return x.Identity.Provider
		})
	}
	return nil
}

func address(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.Addr().Unmap().WithZone("").String()
}

func scheme(r *http.Request, x *exchange.Exchange) string {
	if r.TLS != nil || x.TLS != nil {
		return "https"
	}
	return "http"
}

// fixed says whether the text has no variables.
func (t *template) fixed() bool {
	return len(t.parts) == 0 || len(t.parts) == 1 && t.parts[0].value == nil
}

// check runs a test over the literals.
func (t *template) check(good func(string) bool) bool {
	for _, p := range t.parts {
		if p.value == nil && !good(p.literal) {
			return false
		}
	}
	return true
}

// text fills the variables in. escape is applied to each value; nil: none.
func (t *template) text(r *http.Request, escape func(value string, kind valueKind) string) string {
	switch {
	case len(t.parts) == 0:
		return ""
	case t.fixed():
		return t.parts[0].literal
	}
	x := exchange.From(r.Context())
	if len(t.parts) == 1 && escape == nil {
		return t.parts[0].value(r, x, t.parts[0].name)
	}
	var b strings.Builder
	for _, p := range t.parts { // bound: maxParts
		switch {
		case p.value == nil:
			b.WriteString(p.literal)
		case escape == nil:
			b.WriteString(p.value(r, x, p.name))
		default:
			b.WriteString(escape(p.value(r, x, p.name), p.kind))
		}
	}
	return b.String()
}
