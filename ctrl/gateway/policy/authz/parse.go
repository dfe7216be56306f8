package authz

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// kind of a condition.
type kind uint8

const (
	kAny kind = iota
	kAuthenticated
	kAnonymous
	kSubject
	kProvider
	kGroup
	kScope
	kClaim
	kCert
	kClient
	kListener
	kSNI
	kALPN
	kTLS
	kHost
	kMethod
	kPath
	kGRPC
	kHeader
	kVar
)

// word is how a kind is written.
type word struct {
	text  string
	kind  kind
	shape shape
	conn  bool // known of a connection before it has a request
}

type shape uint8

const (
	bare       shape = iota
	valued           // kind:V
	named            // kind:NAME=V
	maybeNamed       // kind:NAME or kind:NAME=V
)

var words = [...]word{
	{"*", kAny, bare, true}, {"authenticated", kAuthenticated, bare, false}, {"anonymous", kAnonymous, bare, false},
	{"subject", kSubject, valued, false}, {"provider", kProvider, valued, false}, {"group", kGroup, valued, false}, {"scope", kScope, valued, false},
	{"claim", kClaim, maybeNamed, false}, {"alpn", kALPN, valued, true}, {"cert", kCert, valued, true}, {"client", kClient, valued, true}, {"listener", kListener, valued, true},
	{"sni", kSNI, valued, true}, {"tls", kTLS, bare, true}, {"host", kHost, valued, false}, {"method", kMethod, valued, false},
	{"path", kPath, valued, false}, {"grpc", kGRPC, valued, false}, {"header", kHeader, maybeNamed, false}, {"var", kVar, named, false},
}

// term is one condition.
type term struct {
	kind     kind
	not      bool
	name     string
	values   []value // none, of a shape that has some: it is enough to be there
	prefixes []netip.Prefix
	paths    []pattern
}

// rule is a line.
type rule struct {
	text  string
	terms []term // path first: others use its variables
}

// Bounds of rules.
const (
	maxRules = 1024
	maxText  = 4096
	maxTerms = 32
	maxList  = 256
)

// RuleError is what is wrong with one rule.
type RuleError struct {
	List  string // "allow" or "deny"
	Index int    // in it
	Err   error
}

// Error implements error.
func (e *RuleError) Error() string { return fmt.Sprintf("%s rule %d: %v", e.List, e.Index+1, e.Err) }

// Unwrap returns the cause.
func (e *RuleError) Unwrap() error { return e.Err }

// Rules say what may be done. See the package's text.
type Rules struct {
	allow, deny []rule
	envs        sync.Pool // *env
}

// Parse reads rules. The error joins a *RuleError for each that is wrong.
func Parse(allow, deny []string) (*Rules, error) { return parse(allow, deny, nil) }

// ParseConnection reads rules about connections, which have no request yet: with *, alpn,
// cert, client, listener, sni and tls alone, as far as they are ever told at a place.
func ParseConnection(allow, deny []string, at Place) (*Rules, error) { return parse(allow, deny, &at) }

// parse reads rules about requests, or (conn is not nil) about connections.
func parse(allow, deny []string, conn *Place) (*Rules, error) {
	r := &Rules{}
	var errs []error
	for _, l := range [...]struct {
		name string
		text []string
		out  *[]rule
	}{{"allow", allow, &r.allow}, {"deny", deny, &r.deny}} {
		if len(l.text) > maxRules {
			errs = append(errs, &RuleError{l.name, maxRules, fmt.Errorf("more than %d rules", maxRules)})
			continue
		}
		for i, text := range l.text {
			one, err := parseRule(text, conn)
			if err != nil {
				errs = append(errs, &RuleError{l.name, i, err})
				continue
			}
			*l.out = append(*l.out, one)
		}
	}
	if len(deny) > 0 && len(allow) == 0 {
		errs = append(errs, &RuleError{"deny", 0, errors.New("rules that deny and none that allows refuse everything, expected allow = [\"*\"] with them")})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return r, nil
}

func parseRule(text string, conn *Place) (rule, error) {
	r := rule{text: text}
	if len(text) > maxText {
		return r, fmt.Errorf("a rule of %d bytes, expected %d at most", len(text), maxText)
	}
	p := &parser{text: text}
	for p.blanks(); p.i < len(text); p.blanks() {
		if len(r.terms) == maxTerms {
			return r, fmt.Errorf("more than %d conditions", maxTerms)
		}
		start := p.i
		t, err := p.term(conn)
		if err != nil {
			return r, fmt.Errorf("%q, character %d: %w", text, start+1, err)
		}
		r.terms = append(r.terms, t)
	}
	if len(r.terms) == 0 {
		return r, errors.New("an empty rule, expected conditions such as group:admins, or * for anything")
	}
	slices.SortStableFunc(r.terms, func(a, b term) int {
		switch {
		case (a.kind == kPath) == (b.kind == kPath):
			return 0
		case a.kind == kPath:
			return -1
		}
		return 1
	})
	return r, nil
}

type parser struct {
	text string
	i    int
}

func (p *parser) blanks() {
	for p.i < len(p.text) && (p.text[p.i] == ' ' || p.text[p.i] == '\t') {
		p.i++
	}
}

// until reads up to one of the characters in stop.
func (p *parser) until(stop string) string {
	start := p.i
	for p.i < len(p.text) && strings.IndexByte(stop, p.text[p.i]) < 0 {
		p.i++
	}
	return p.text[start:p.i]
}

func (p *parser) is(c byte) bool {
	if p.i < len(p.text) && p.text[p.i] == c {
		p.i++
		return true
	}
	return false
}

func (p *parser) term(conn *Place) (term, error) {
	t := term{not: p.is('!')}
	name := p.until(": \t")
	i := slices.IndexFunc(words[:], func(w word) bool { return w.text == name })
	if i < 0 || conn != nil && !words[i].conn {
		return t, fmt.Errorf("condition %q, expected one of %s", name, known(conn != nil))
	}
	w := words[i]
	if conn != nil {
		if err := conn.misplaced(&w); err != nil {
			return t, err
		}
	}
	t.kind = w.kind
	if w.shape == bare {
		if p.i < len(p.text) && p.text[p.i] == ':' {
			return t, fmt.Errorf("a value for %s, expected none", name)
		}
		return t, nil
	}
	if !p.is(':') {
		return t, fmt.Errorf("%s without a value, expected %s:…", name, name)
	}
	if w.shape != valued {
		if t.name = p.until("= \t"); t.name == "" {
			return t, fmt.Errorf("%s without a name, expected %s:NAME=VALUE", name, name)
		}
		if w.kind == kHeader {
			t.name = http.CanonicalHeaderKey(t.name)
		}
		if !p.is('=') {
			if w.shape == named {
				return t, fmt.Errorf("%s:%s without a value, expected %s:%s=VALUE", name, t.name, name, t.name)
			}
			return t, nil
		}
	}
	list, err := p.list()
	if err != nil {
		return t, err
	}
	return t, t.compile(list)
}

func known(conn bool) string {
	var out []string
	for _, w := range words {
		if !conn || w.conn {
			out = append(out, w.text)
		}
	}
	return strings.Join(out, ", ")
}

// list reads values with commas between them.
func (p *parser) list() ([]string, error) {
	var out []string
	for {
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		if out = append(out, v); len(out) > maxList {
			return nil, fmt.Errorf("more than %d values", maxList)
		}
		if !p.is(',') {
			break
		}
	}
	if p.i < len(p.text) && p.text[p.i] != ' ' && p.text[p.i] != '\t' {
		return nil, fmt.Errorf("%q behind a value, expected a blank or a comma", p.text[p.i:])
	}
	return out, nil
}

func (p *parser) value() (string, error) {
	if !p.is('"') {
		if v := p.until(", \t"); v != "" {
			return v, nil
		}
		return "", errors.New("an empty value, expected one (\"*\" for any)")
	}
	var b strings.Builder
	for p.i < len(p.text) {
		c := p.text[p.i]
		p.i++
		if c == '"' {
			return b.String(), nil
		}
		if c == '\\' {
			if p.i == len(p.text) || p.text[p.i] != '"' && p.text[p.i] != '\\' {
				return "", errors.New(`a backslash that stands for nothing, expected \" or \\`)
			}
			c = p.text[p.i]
			p.i++
		}
		b.WriteByte(c)
	}
	return "", errors.New("a quote that is not closed")
}

// compile makes values of their text.
func (t *term) compile(list []string) error {
	for _, s := range list {
		switch t.kind {
		case kClient:
			p, err := parsePrefix(s)
			if err != nil {
				return err
			}
			t.prefixes = append(t.prefixes, p)
		case kPath:
			p, err := parsePattern(s)
			if err != nil {
				return err
			}
			t.paths = append(t.paths, p)
		case kGRPC:
			service, method, ok := strings.Cut(strings.TrimPrefix(s, "/"), "/")
			if !ok || service == "" || method == "" || strings.Contains(method, "/") {
				return fmt.Errorf("grpc:%s, expected grpc:package.Service/Method or grpc:package.Service/*", s)
			}
			t.values = append(t.values, value{parts: []part{{text: "/" + service + "/" + strings.TrimSuffix(method, "*")}}, after: method == "*"})
		default:
			v, err := parseValue(s)
			if err != nil {
				return err
			}
			for j := range v.parts {
				if v.parts[j].from == 0 {
					v.parts[j].text = t.fold(v.parts[j].text)
				}
			}
			t.values = append(t.values, v)
		}
	}
	if t.kind == kPath && len(t.paths) > 1 && slices.ContainsFunc(t.paths, pattern.hasNames) {
		return errors.New("several paths and variables in them, expected a rule for each path")
	}
	return nil
}

// fold writes what has no case as it is compared.
func (t *term) fold(s string) string {
	switch t.kind {
	case kMethod:
		return strings.ToUpper(s)
	case kHost, kSNI:
		return strings.ToLower(s)
	}
	return s
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() || p != p.Masked() {
		return p, fmt.Errorf("client:%s, expected an address or a prefix such as 198.18.0.0/15 or 2001:db8::/32 with no bits behind its length", s)
	}
	return p, nil
}

// value is text with variables in it, and perhaps anything before or behind.
type value struct {
	parts         []part
	before, after bool // "*" at the beginning, at the end
}

// part is text, or what stands in braces.
type part struct {
	text string
	from kind // kVar, kSubject or kClaim; 0: text
}

func parseValue(s string) (value, error) {
	var v value
	if rest, ok := strings.CutPrefix(s, "*"); ok {
		v.before, s = true, rest
	}
	if rest, ok := strings.CutSuffix(s, "*"); ok {
		v.after, s = true, rest
	}
	if strings.Contains(s, "*") {
		return v, fmt.Errorf("%q has a \"*\" inside, expected it at the beginning or the end", s)
	}
	for s != "" {
		text, rest, open := strings.Cut(s, "{")
		if strings.Contains(text, "}") {
			return v, fmt.Errorf("%q closes a brace that is not open", s)
		}
		if text != "" {
			v.parts = append(v.parts, part{text: text})
		}
		if !open {
			break
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || name == "" || strings.Contains(name, "{") {
			return v, fmt.Errorf("%q, expected a name in braces: {tenant}, {subject} or {claim:PATH}", "{"+rest)
		}
		p := part{text: name, from: kVar}
		if path, ok := strings.CutPrefix(name, "claim:"); ok && path != "" {
			p = part{text: path, from: kClaim}
		} else if name == "subject" {
			p = part{from: kSubject}
		} else if strings.Contains(name, ":") {
			return v, fmt.Errorf("{%s}, expected a variable's name, {subject} or {claim:PATH}", name)
		}
		v.parts = append(v.parts, p)
		s = after
	}
	return v, nil
}

// pattern is a path's.
type pattern struct {
	segments []segment
	rest     string // the name of {name...}; "": none
	hasRest  bool
}

type segment struct {
	text string
	name bool // it stands for any segment, under this name
}

// maxSegments bounds a pattern.
const maxSegments = 64

func parsePattern(s string) (pattern, error) {
	var p pattern
	rest, ok := strings.CutPrefix(s, "/")
	if !ok {
		return p, fmt.Errorf("path:%s, expected a slash at its beginning", s)
	}
	if rest = strings.TrimSuffix(rest, "/"); rest == "" {
		return p, nil
	}
	list := strings.Split(rest, "/")
	if len(list) > maxSegments {
		return p, fmt.Errorf("path:%s has %d segments, expected %d at most", s, len(list), maxSegments)
	}
	names := map[string]bool{}
	for i, seg := range list {
		name, isName := strings.CutPrefix(seg, "{")
		if isName {
			name, isName = strings.CutSuffix(name, "}")
		}
		base, isRest := strings.CutSuffix(name, "...")
		switch {
		case seg == "" || seg == "." || seg == "..":
			return p, fmt.Errorf("path:%s has an empty or a dot segment, which no request has here", s)
		case !isName && strings.ContainsAny(seg, "{}*;%\\"):
			return p, fmt.Errorf("path:%s, expected each segment to be text, {name} or, at the end, {name...}", s)
		case !isName:
			p.segments = append(p.segments, segment{text: seg})
			continue
		case base == "" || names[base] || strings.ContainsAny(base, "{}:*. "):
			return p, fmt.Errorf("path:%s, expected a name of its own in each pair of braces", s)
		case isRest && i < len(list)-1:
			return p, fmt.Errorf("path:%s, expected {%s} at the end", s, name)
		}
		names[base] = true
		if isRest {
			p.rest, p.hasRest = base, true
		} else {
			p.segments = append(p.segments, segment{base, true})
		}
	}
	return p, nil
}

func (p pattern) hasNames() bool {
	return p.hasRest || slices.ContainsFunc(p.segments, func(s segment) bool { return s.name })
}
