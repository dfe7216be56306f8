package route

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// Request is what rules look at.
type Request struct {
	Listener string
	Method   string
	Host     string // as the request has it, perhaps with a port
	Path     string // the plain form of package target, or "*"
	Query    string // without the question mark, as the request has it
	Header   http.Header
	TLS      bool
	SNI      string
	ALPN     string
}

// Of returns what rules look at of an HTTP request. path is what [target.Policy.Apply] returned.
// An extended CONNECT (RFC 8441, RFC 9220) is a GET: what HTTP/1.1 upgrades by one.
func Of(r *http.Request, listener, path string) Request {
	q := Request{Listener: listener, Method: exchange.Method(r), Host: r.Host, Path: path, Query: r.URL.RawQuery, Header: r.Header}
	if r.TLS != nil {
		q.TLS, q.SNI, q.ALPN = true, r.TLS.ServerName, r.TLS.NegotiatedProtocol
	}
	return q
}

// Outcome is what came of a search.
type Outcome uint8

// Outcomes.
const (
	NoRoute          Outcome = iota
	Matched                  // by Result.Rule
	MethodNotAllowed         // rules match but for the method
)

// Result is what a search found.
type Result struct {
	Outcome Outcome
	Rule    int            // index of the rule; -1: none
	Vars    []exchange.Var // of its pattern, in the pattern's order
	Allow   string         // of MethodNotAllowed, as the Allow field wants it
}

// Match finds the rule of a request. Variables are appended to vars, whose room is used:
// with enough of it nothing is allocated.
func (t *Table) Match(q *Request, vars []exchange.Var) Result {
	w := walk{q: q, path: q.Path}
	if q.Method == http.MethodOptions && len(q.Header["Origin"]) > 0 {
		w.asked = q.Header.Get("Access-Control-Request-Method")
	}
	e := t.search(&w)
	if e == nil {
		if !w.missed {
			return Result{Rule: -1}
		}
		w.collect = true
		t.search(&w)
		slices.Sort(w.allow)
		return Result{Outcome: MethodNotAllowed, Rule: -1, Allow: strings.Join(slices.Compact(w.allow), ", ")}
	}
	for i, name := range e.path.vars { // bound: MaxVars
		vars = append(vars, exchange.Var{Name: name, Value: q.Path[w.spans[i].from:w.spans[i].to]})
	}
	return Result{Outcome: Matched, Rule: e.index, Vars: vars}
}

// search tries the hosts from the most to the least exact.
func (t *Table) search(w *walk) *entry {
	var room [maxHost + 1]byte
	name := normalHost(w.q.Host, room[:0])
	if len(name) > 0 {
		if n := t.exact[string(name)]; n != nil {
			if e := w.from(n); e != nil {
				return e
			}
		}
		if len(t.wild) > 0 {
			for i := 1; i < len(name); i++ { // bound: maxHost
				if name[i] != '.' {
					continue
				}
				if n := t.wild[string(name[i:])]; n != nil {
					if e := w.from(n); e != nil {
						return e
					}
				}
			}
		}
	}
	if t.any != nil {
		return w.from(t.any)
	}
	return nil
}

// normalHost appends a host without port, last dot and capital letters; nothing if it is
// too long to be one.
func normalHost(s string, to []byte) []byte {
	if len(s) > 0 && s[0] == '[' {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return to
		}
		a, err := netip.ParseAddr(s[1:end])
		if err != nil || a.Zone() != "" {
			return to
		}
		return a.AppendTo(to)
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		s = s[:i]
	}
	s = strings.TrimSuffix(s, ".")
	if len(s) > maxHost {
		return to
	}
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		to = append(to, c)
	}
	return to
}

type span struct{ from, to int }

// walk is one search.
type walk struct {
	q       *Request
	path    string
	asked   string // method that a preflight request is about; "": it is none
	spans   [MaxVars + 1]span
	missed  bool // something matched but for the method
	collect bool // find out what methods would do, nothing else
	allow   []string
}

// from searches a host's tree.
func (w *walk) from(root *node) *entry {
	if w.path == "" || w.path[0] != '/' { // "*": it has no segments
		return w.first(root.any)
	}
	return w.down(root, 1, 0)
}

// down searches what follows a node; the next segment begins at the index at, nv
// variables have values. Its depth is that of the tree.
func (w *walk) down(n *node, at, nv int) *entry {
	if at > len(w.path) {
		if e := w.first(n.here); e != nil {
			return e
		}
		return w.first(n.any)
	}
	if n.literal != nil || n.variable != nil {
		end := strings.IndexByte(w.path[at:], '/')
		if end < 0 {
			end = len(w.path)
		} else {
			end += at
		}
		if c := n.literal[w.path[at:end]]; c != nil {
			if e := w.down(c, end+1, nv); e != nil {
				return e
			}
		}
		if n.variable != nil && end > at {
			w.spans[nv] = span{at, end}
			if e := w.down(n.variable, end+1, nv+1); e != nil {
				return e
			}
		}
	}
	if e := w.first(n.rest); e != nil {
		w.spans[nv] = span{at, len(w.path)}
		return e
	}
	return w.first(n.any)
}

// first returns the first of entries whose other conditions hold.
func (w *walk) first(list []*entry) *entry {
	for _, e := range list {
		r := e.rule
		preflight := w.asked != "" && r.preflight
		method := len(r.methods) == 0 && w.q.Method != http.MethodTrace || slices.Contains(r.methods, w.q.Method) || preflight && slices.Contains(r.methods, w.asked)
		if !method && w.missed && !w.collect {
			continue
		}
		if !w.others(r, preflight) {
			continue
		}
		switch {
		case w.collect && len(r.methods) == 0: // all but TRACE; these are what is common
			w.allow = append(w.allow, "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
		case w.collect:
			w.allow = append(w.allow, r.methods...)
		case method:
			return e
		default:
			w.missed = true
		}
	}
	return nil
}

// others says whether a rule's conditions hold, those on host, path and method left aside.
func (w *walk) others(r *compiled, preflight bool) bool {
	q := w.q
	if len(r.listeners) > 0 && !slices.Contains(r.listeners, q.Listener) {
		return false
	}
	if len(r.sni) > 0 && (!q.TLS || !anyHost(r.sni, q.SNI)) || len(r.alpn) > 0 && !slices.Contains(r.alpn, q.ALPN) {
		return false
	}
	if !preflight {
		if r.grpc && !isGRPC(q.Header["Content-Type"]) {
			return false
		}
		for i := range r.headers { // bound: MaxFields
			if !r.headers[i].inHeader(q.Header) {
				return false
			}
		}
	}
	for i := range r.query { // bound: MaxFields
		if !r.query[i].inQuery(q.Query) {
			return false
		}
	}
	return true
}

func anyHost(list []host, name string) bool {
	var room [maxHost + 1]byte
	n := normalHost(name, room[:0])
	for _, h := range list {
		switch {
		case len(n) == 0:
			continue
		case h.name == "", !h.wild && string(n) == h.name:
			return true
		case h.wild && len(n) > len(h.name) && string(n[len(n)-len(h.name):]) == h.name:
			return true
		}
	}
	return false
}

// isGRPC says whether a request is gRPC or gRPC-Web.
func isGRPC(types []string) bool {
	if len(types) == 0 {
		return false
	}
	rest, ok := strings.CutPrefix(types[0], "application/grpc")
	if !ok {
		return false
	}
	rest = strings.TrimPrefix(strings.TrimPrefix(rest, "-web"), "-text")
	return rest == "" || rest[0] == '+' || rest[0] == ';'
}

func (f *field) inHeader(h http.Header) bool {
	for _, v := range h[f.name] {
		if f.meets(v) {
			return true
		}
	}
	return false
}

// inQuery looks for a parameter in a query as it was sent.
func (f *field) inQuery(query string) bool {
	for query != "" { // bound: the query
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, value, _ := strings.Cut(pair, "=")
		if !decodesTo(name, f.name) {
			continue
		}
		if strings.ContainsAny(value, "%+") {
			if f.test == Equal {
				if decodesTo(value, f.value) {
					return true
				}
				continue
			}
			decoded, err := url.QueryUnescape(value)
			if err != nil {
				continue
			}
			value = decoded
		}
		if f.meets(value) {
			return true
		}
	}
	return false
}

// decodesTo says whether a part of a query is a text, without making it.
func decodesTo(raw, text string) bool {
	j := 0
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			if i+2 >= len(raw) {
				return false
			}
			hi, lo := unhex(raw[i+1]), unhex(raw[i+2])
			if hi > 15 || lo > 15 {
				return false
			}
			c, i = hi<<4|lo, i+2
		}
		if j == len(text) || text[j] != c {
			return false
		}
		j++
	}
	return j == len(text)
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}
