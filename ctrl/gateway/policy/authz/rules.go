package authz

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/policy/internal/claim"
)

// truth of a condition.
type truth uint8

const (
	no truth = iota
	unknown
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// Decision is what rules say.
type Decision struct {
	Allowed bool
	Rule    string   // the rule that decided; "": none allows it
	Scopes  []string // that would have been enough, of the first rule that lacks nothing else
}

// Check decides about a request.
func (r *Rules) Check(req *http.Request, x *exchange.Exchange) Decision {
	e, _ := r.envs.Get().(*env) // it would be allocated for each request
	if e == nil {
		e = &env{}
	}
	e.req, e.x = req, x
	e.vars, e.segs = e.varSpace[:0], e.segSpace[:0]
	d := r.check(e)
	*e = env{} // nothing of a request is kept
	r.envs.Put(e)
	return d
}

func (r *Rules) check(e *env) Decision {
	for i := range r.deny {
		if e.rule(&r.deny[i], 0) != no {
			return Decision{Rule: r.deny[i].text}
		}
	}
	for i := range r.allow {
		if e.rule(&r.allow[i], 0) == yes {
			return Decision{Allowed: true, Rule: r.allow[i].text}
		}
	}
	if len(r.allow) == 0 && len(r.deny) == 0 {
		return Decision{Allowed: true}
	}
	var d Decision
	for i := range r.allow {
		if e.rule(&r.allow[i], kScope) == yes {
			d.Scopes = r.allow[i].scopes()
			break
		}
	}
	return d
}

// scopes are the first ones of each condition about them.
func (r *rule) scopes() []string {
	var out []string
	for _, t := range r.terms {
		if t.kind == kScope && !t.not && len(t.values[0].parts) == 1 && t.values[0].parts[0].from == 0 {
			out = append(out, t.values[0].parts[0].text)
		}
	}
	return out
}

// env is what rules are compared with.
type env struct {
	req  *http.Request
	x    *exchange.Exchange
	vars []exchange.Var // of the rule's own path
	segs []string
	path truth // unknown: nobody can tell what the path means; no: not looked at yet

	offered []string // see Connection
	later   Facts

	varSpace [8]exchange.Var // of vars and segs, for most requests
	segSpace [16]string
}

// rule compares with all conditions but those of a kind (0: with all).
func (e *env) rule(r *rule, but kind) truth {
	e.vars = e.vars[:0]
	all := yes
	for i := range r.terms { // bound: maxTerms
		t := &r.terms[i]
		if but != 0 && t.kind == but {
			continue
		}
		got := e.term(t)
		if t.not {
			got = yes - got
		}
		if all = min(all, got); all == no {
			return no
		}
	}
	return all
}

func (e *env) term(t *term) truth {
	id := e.x.Identity
	switch t.kind {
	case kAny:
		return yes
	case kAuthenticated:
		return truthOf(id != nil)
	case kAnonymous:
		return truthOf(id == nil)
	case kClient:
		a := e.x.Client.Addr().Unmap()
		if !a.IsValid() {
			return unknown
		}
		return truthOf(slices.ContainsFunc(t.prefixes, func(p netip.Prefix) bool { return p.Contains(a) }))
	case kListener:
		return e.any(t, e.x.Listener)
	case kTLS:
		return truthOf(e.x.TLS != nil)
	case kSNI:
		if e.x.TLS == nil {
			return no
		}
		return e.any(t, strings.ToLower(e.x.TLS.ServerName))
	case kALPN:
		return e.protocol(t)
	case kCert:
		return e.any(t, certNames(e.x.TLS)...)
	case kSubject, kProvider, kGroup, kScope, kClaim:
		if id == nil {
			return no
		}
		return e.identity(t, id)
	}
	return e.request(t)
}

// protocol is what was negotiated, or may be.
func (e *env) protocol(t *term) truth {
	if len(e.offered) > 0 {
		return e.any(t, e.offered...)
	}
	if e.x.TLS == nil || e.x.TLS.NegotiatedProtocol == "" {
		return no
	}
	return e.any(t, e.x.TLS.NegotiatedProtocol)
}

func (e *env) identity(t *term, id *exchange.Identity) truth {
	switch t.kind {
	case kSubject:
		return e.any(t, id.Subject)
	case kProvider:
		return e.any(t, id.Provider)
	case kScope:
		return e.any(t, id.Scopes...)
	case kGroup:
		return e.groups(t, id)
	}
	v, ok := claim.Lookup(id.Claims, t.name)
	if !ok || len(t.values) == 0 {
		return truthOf(ok)
	}
	return e.any(t, claim.Strings(v)...)
}

// groups looks up what can be looked up: an identity may have thousands.
func (e *env) groups(t *term, id *exchange.Identity) truth {
	out := no
	for i := range t.values {
		v := &t.values[i]
		if v.before || v.after {
			for g := range id.Groups {
				out = max(out, e.match(v, g))
			}
			continue
		}
		want, known := e.expand(v)
		if !known {
			out = max(out, unknown)
		} else if _, ok := id.Groups[want]; ok {
			return yes
		}
	}
	return out
}

func (e *env) request(t *term) truth {
	switch t.kind {
	case kMethod:
		m := exchange.Method(e.req)
		if m == http.MethodHead {
			return max(e.any(t, m), e.any(t, http.MethodGet))
		}
		return e.any(t, m)
	case kHost:
		return e.any(t, hostOf(e.req.Host))
	case kHeader:
		if len(t.values) == 0 {
			return truthOf(len(e.req.Header[t.name]) > 0)
		}
		return e.any(t, e.req.Header[t.name]...)
	case kVar:
		v, ok := e.variable(t.name)
		if !ok {
			return unknown
		}
		return e.any(t, v)
	case kGRPC:
		if !e.split() {
			return unknown
		}
		return e.any(t, "/"+strings.Join(e.segs, "/"))
	case kPath:
		if !e.split() {
			return unknown
		}
		for i := range t.paths {
			if e.matchPath(&t.paths[i]) {
				return yes
			}
		}
	}
	return no
}

// hostOf takes the port off.
func hostOf(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:i]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func certNames(state *tls.ConnectionState) []string {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return nil
	}
	leaf := state.VerifiedChains[0][0]
	names := append(slices.Clone(leaf.DNSNames), leaf.EmailAddresses...)
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	if leaf.Subject.CommonName != "" {
		names = append(names, leaf.Subject.CommonName)
	}
	return names
}

// any compares each of a term's values with each that is there.
func (e *env) any(t *term, have ...string) truth {
	out := no
	for i := range t.values {
		for _, h := range have {
			if out = max(out, e.match(&t.values[i], h)); out == yes {
				return yes
			}
		}
	}
	return out
}

func (e *env) match(v *value, s string) truth {
	want, known := e.expand(v)
	if !known {
		return unknown
	}
	switch {
	case v.before && v.after:
		return truthOf(strings.Contains(s, want))
	case v.before:
		return truthOf(strings.HasSuffix(s, want))
	case v.after:
		return truthOf(strings.HasPrefix(s, want))
	}
	return truthOf(s == want)
}

// expand puts variables in. A variable that is not there, or empty, makes it unknown.
func (e *env) expand(v *value) (string, bool) {
	switch len(v.parts) {
	case 0:
		return "", true
	case 1:
		return e.part(&v.parts[0])
	}
	var b strings.Builder
	for i := range v.parts {
		s, ok := e.part(&v.parts[i])
		if !ok {
			return "", false
		}
		b.WriteString(s)
	}
	return b.String(), true
}

func (e *env) part(p *part) (string, bool) {
	var s string
	switch p.from {
	case kVar:
		s, _ = e.variable(p.text)
	case kSubject:
		if e.x.Identity != nil {
			s = e.x.Identity.Subject
		}
	case kClaim:
		if e.x.Identity != nil {
			v, _ := claim.Lookup(e.x.Identity.Claims, p.text)
			s, _ = claim.Text(v)
		}
	default:
		return p.text, true
	}
	return s, s != ""
}

func (e *env) variable(name string) (string, bool) {
	for _, v := range e.vars {
		if v.Name == name {
			return v.Value, true
		}
	}
	return e.x.Var(name)
}

// maxPathSegments bounds what is compared; a path of more is one that nobody can tell.
const maxPathSegments = 256

// split takes the request's path apart, once. False: other servers might read it otherwise.
func (e *env) split() bool {
	if e.path != no {
		return e.path == yes
	}
	e.path = unknown
	p, ok := strings.CutPrefix(e.req.URL.EscapedPath(), "/")
	if !ok {
		return false
	}
	if p = strings.TrimSuffix(p, "/"); p == "" {
		e.path = yes
		return true
	}
	if strings.Count(p, "/") >= maxPathSegments {
		return false
	}
	for seg := range strings.SplitSeq(p, "/") {
		s, err := url.PathUnescape(seg)
		if err != nil || s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\\;\x00") {
			return false
		}
		e.segs = append(e.segs, s)
	}
	e.path = yes
	return true
}

// matchPath compares, and notes the variables of a path that fits.
func (e *env) matchPath(p *pattern) bool {
	if len(e.segs) < len(p.segments) || len(e.segs) > len(p.segments) && !p.hasRest {
		return false
	}
	for i, s := range p.segments {
		if !s.name && s.text != e.segs[i] {
			return false
		}
	}
	for i, s := range p.segments {
		if s.name {
			e.vars = append(e.vars, exchange.Var{Name: s.text, Value: e.segs[i]})
		}
	}
	if p.hasRest {
		e.vars = append(e.vars, exchange.Var{Name: p.rest, Value: strings.Join(e.segs[len(p.segments):], "/")})
	}
	return true
}
