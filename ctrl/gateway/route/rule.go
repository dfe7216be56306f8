package route

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/textproto"
	"regexp"
	"slices"
	"strings"

	"github.com/np-appliance/np/ctrl/gateway/target"
)

// PathKind is how a rule's path is compared.
type PathKind uint8

// Kinds of paths.
const (
	Prefix  PathKind = iota // whole segments from the left
	Exact                   // all of it
	Pattern                 // with {variables}
)

// Path is a condition on the path. Value is written decoded ("/größe") or escaped
// ("/gr%C3%B6%C3%9Fe").
type Path struct {
	Kind  PathKind
	Value string
}

// Test is how a value is compared.
type Test uint8

// Tests.
const (
	Present Test = iota // it is there
	Equal               // it is Value
	Begins              // it begins with Value
	Matches             // Value is a regular expression for all of it
)

// Field is a condition on a header field or on a parameter of the query.
type Field struct {
	Name  string
	Test  Test
	Value string
}

// GRPC is a condition on gRPC and gRPC-Web requests.
type GRPC struct {
	Service string // with its package; "": every one
	Method  string // "": every one of the service
}

// Rule is the conditions of one route; see the package's comment. What is empty asks for
// nothing.
type Rule struct {
	Name      string
	Listeners []string
	Hosts     []string
	Paths     []Path
	Methods   []string
	Headers   []Field
	Query     []Field
	SNI       []string // as hosts; connections without TLS don't match
	ALPN      []string
	GRPC      *GRPC // takes the place of Paths
	Preflight bool  // the route answers preflight requests of CORS
}

// Bounds of what is compiled.
const (
	MaxRules   = 20_000
	MaxEntries = 100_000 // hosts times paths, of all rules together
	MaxAlike   = 1_000   // at one host and path, which are tried one by one
	MaxVars    = 16      // in one pattern
	MaxFields  = 16      // conditions on header fields, or on parameters, of one rule
	maxHost    = 255
)

// RuleError is what is wrong with one rule.
type RuleError struct {
	Index int    // of the rule, from 0
	Rule  string // its name
	Field string // "listeners", "hosts", "paths", "methods", "headers", "query", "sni", "alpn", "grpc"; "": the rule as a whole
	At    int    // which of the field's values, from 0; -1: the field as a whole
	Err   error
}

func (e *RuleError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "route %d", e.Index+1)
	if e.Rule != "" {
		fmt.Fprintf(&b, " (%s)", e.Rule)
	}
	if e.Field != "" {
		fmt.Fprintf(&b, ": %s", e.Field)
		if e.At >= 0 {
			fmt.Fprintf(&b, " %d", e.At+1)
		}
	}
	return b.String() + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *RuleError) Unwrap() error { return e.Err }

// compiled is a rule without its hosts and paths, which are places in the table.
type compiled struct {
	name      string
	listeners []string
	methods   []string // with HEAD where GET stands for it
	asked     []string // as the rule has them
	headers   []field
	query     []field
	sni       []host
	alpn      []string
	grpc      bool
	preflight bool
	count     int // conditions

	hosts []host
	paths []path
	vars  []string // of every path
}

// host is a name or, with wild, what follows the asterisk of a wildcard: ".example.com".
// A name of "" is every host.
type host struct {
	name string
	wild bool
}

func (h host) String() string {
	switch {
	case h.wild:
		return "*" + h.name
	case h.name == "":
		return "*"
	}
	return h.name
}

type tail uint8

// What may follow the segments of a path.
const (
	tailNone tail = iota // nothing
	tailRest             // a slash and anything
	tailAny              // nothing, or a slash and anything
)

// path is a condition on the path, taken apart. A variable is a segment of "".
type path struct {
	text     string
	segments []string
	tail     tail
	vars     []string // names, that of {rest...} last
	restVar  bool
	kind     PathKind
}

type field struct {
	name  string
	test  Test
	value string
	re    *regexp.Regexp
}

// meets compares one value.
func (f *field) meets(v string) bool {
	switch f.test {
	case Present:
		return true
	case Equal:
		return v == f.value
	case Begins:
		return strings.HasPrefix(v, f.value)
	}
	return f.re.MatchString(v)
}

// compiler collects what is wrong with one rule.
type compiler struct {
	rule  *Rule
	index int
	errs  []error
}

func (c *compiler) bad(field string, at int, format string, args ...any) {
	c.errs = append(c.errs, &RuleError{c.index, c.rule.Name, field, at, fmt.Errorf(format, args...)})
}

// compile returns the rule, and what is wrong with it.
func (c *compiler) compile() (compiled, []error) {
	r := c.rule
	out := compiled{name: r.Name, preflight: r.Preflight}
	out.listeners = c.words("listeners", r.Listeners, func(s string) bool { return s != "" }, "the name of a listener")
	out.alpn = c.words("alpn", r.ALPN, func(s string) bool { return s != "" && len(s) < 256 }, "a protocol's name of 1 to 255 bytes")
	out.asked = c.words("methods", r.Methods, isToken, `a method such as "GET"`)
	out.methods = out.asked
	if slices.Contains(out.asked, http.MethodGet) && !slices.Contains(out.asked, http.MethodHead) {
		out.methods = append(slices.Clone(out.asked), http.MethodHead)
	}
	out.hosts = c.hosts("hosts", r.Hosts)
	out.sni = c.hosts("sni", r.SNI)
	out.headers = c.fields("headers", r.Headers)
	out.query = c.fields("query", r.Query)
	out.paths = c.paths(&out)
	if len(r.Listeners)+len(r.Hosts)+len(r.Paths)+len(r.Methods)+len(r.Headers)+len(r.Query)+len(r.SNI)+len(r.ALPN) == 0 && r.GRPC == nil {
		c.bad("", -1, `it has no condition: expected one at least, the prefix "/" takes every request`)
	}
	for _, n := range []int{len(out.listeners), len(out.methods), len(out.sni), len(out.alpn)} {
		out.count += min(n, 1)
	}
	out.count += len(out.headers) + len(out.query)
	if out.grpc {
		out.count++
	}
	if len(out.hosts) == 0 {
		out.hosts = []host{{}}
	}
	return out, c.errs
}

// isToken says whether s is a token (RFC 9110 §5.6.2), as names of fields and methods are.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

// words checks a list of names, each of which may be there once.
func (c *compiler) words(field string, list []string, good func(string) bool, expected string) []string {
	var out []string
	for i, s := range list {
		switch {
		case !good(s):
			c.bad(field, i, "%q: expected %s", s, expected)
		case slices.Contains(out, s):
			c.bad(field, i, "%q: expected once, is there before", s)
		default:
			out = append(out, s)
		}
	}
	return out
}

func (c *compiler) hosts(field string, list []string) []host {
	var out []host
	for i, s := range list {
		h, err := parseHost(s)
		switch {
		case err != nil:
			c.bad(field, i, "%q: %w", s, err)
		case slices.Contains(out, h):
			c.bad(field, i, "%q: expected once, is there before", s)
		default:
			out = append(out, h)
		}
	}
	return out
}

func parseHost(s string) (host, error) {
	if s == "*" {
		return host{}, nil
	}
	name, wild := strings.CutPrefix(s, "*")
	if wild && !strings.HasPrefix(name, ".") {
		return host{}, errors.New(`expected "*" before a dot, as in "*.example.com"`)
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil && a.Zone() == "" {
		return host{name: a.String()}, nil
	}
	name = strings.TrimSuffix(lower(name), ".")
	bare := strings.TrimPrefix(name, ".")
	if strings.Contains(bare, ":") {
		return host{}, errors.New("expected a host without a port")
	}
	if bare == "" || len(bare) > 253 {
		return host{}, errors.New("expected a name of 1 to 253 characters")
	}
	for label := range strings.SplitSeq(bare, ".") {
		if label == "" || len(label) > 63 {
			return host{}, errors.New("expected labels of 1 to 63 characters")
		}
		for _, r := range label {
			switch {
			case r > 127:
				return host{}, errors.New(`expected ASCII: write it as requests have it, "xn--…"`)
			case r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z'):
				return host{}, fmt.Errorf("%q: expected letters, digits, - and _", r)
			}
		}
	}
	return host{name, wild}, nil
}

// lower makes small letters of ASCII's capital ones, and of nothing else.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func (c *compiler) fields(what string, list []Field) []field {
	if len(list) > MaxFields {
		c.bad(what, -1, "%d conditions: expected at most %d", len(list), MaxFields)
		return nil
	}
	var out []field
	for i, f := range list {
		n := field{name: f.Name, test: f.Test, value: f.Value}
		if what == "headers" {
			n.name = textproto.CanonicalMIMEHeaderKey(f.Name)
		}
		switch {
		case what == "headers" && !isToken(f.Name):
			c.bad(what, i, "%q: expected the name of a header field", f.Name)
		case what == "headers" && n.name == "Host":
			c.bad(what, i, "%q: expected another field: the host is a condition of its own", f.Name)
		case f.Name == "":
			c.bad(what, i, "expected the name of a parameter")
		case f.Test > Matches:
			c.bad(what, i, "test %d: expected present, equal, prefix or regular expression", f.Test)
		case f.Test == Present && f.Value != "":
			c.bad(what, i, "%q: expected no value with the test for presence", f.Value)
		case f.Test == Begins && f.Value == "":
			c.bad(what, i, "expected a prefix that is not empty; to ask for the field alone test its presence")
		}
		if f.Test == Matches {
			if _, err := regexp.Compile(f.Value); err != nil { // by itself: "a)(b" would pass in parentheses
				c.bad(what, i, "%q: expected a regular expression (RE2): %w", f.Value, err)
				continue
			}
			re, err := regexp.Compile("^(?:" + f.Value + ")$")
			if err != nil { // longer than what may be
				c.bad(what, i, "%q: expected a regular expression (RE2): %w", f.Value, err)
			}
			n.re = re
		}
		if slices.ContainsFunc(out, func(o field) bool { return o.name == n.name && o.test == n.test && o.value == n.value }) {
			c.bad(what, i, "%q: the condition is there before", f.Name)
		}
		out = append(out, n)
	}
	return out
}

// paths takes a rule's paths apart, or makes them of its gRPC condition.
func (c *compiler) paths(out *compiled) []path {
	list, what := c.rule.Paths, "paths"
	if g := c.rule.GRPC; g != nil {
		out.grpc, what = true, "grpc"
		if len(list) > 0 {
			c.bad("paths", -1, "expected no path beside gRPC: the path of gRPC is its service and method")
		}
		if len(out.methods) > 0 && !slices.Contains(out.methods, http.MethodPost) {
			c.bad("methods", -1, "no request can match: gRPC has POST alone")
		}
		list = c.grpcPaths(g)
	}
	if len(list) == 0 {
		return []path{{tail: tailAny}}
	}
	var paths []path
	for i, p := range list {
		n, err := parsePath(p)
		switch {
		case err != nil:
			c.bad(what, i, "%q: %w", p.Value, err)
			continue
		case slices.ContainsFunc(paths, func(o path) bool { return o.tail == n.tail && slices.Equal(o.segments, n.segments) }):
			c.bad(what, i, "%q: it matches the same as one before it", p.Value)
		}
		paths = append(paths, n)
	}
	if len(paths) == 0 {
		return nil
	}
	for _, v := range paths[0].vars {
		if !slices.ContainsFunc(paths, func(p path) bool { return !slices.Contains(p.vars, v) }) {
			out.vars = append(out.vars, v)
		}
	}
	return paths
}

func (c *compiler) grpcPaths(g *GRPC) []Path {
	name := func(s string, dots bool) bool {
		return !strings.ContainsFunc(s, func(r rune) bool {
			return r != '_' && (r != '.' || !dots) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		})
	}
	switch {
	case g.Service == "" && g.Method != "":
		c.bad("grpc", -1, "method %q: expected a service with it", g.Method)
	case !name(g.Service, true) || strings.Trim(g.Service, ".") != g.Service || strings.Contains(g.Service, ".."):
		c.bad("grpc", -1, `service %q: expected a name such as "package.Service"`, g.Service)
	case !name(g.Method, false):
		c.bad("grpc", -1, `method %q: expected a name such as "Get"`, g.Method)
	case g.Method != "":
		return []Path{{Exact, "/" + g.Service + "/" + g.Method}}
	case g.Service != "":
		return []Path{{Prefix, "/" + g.Service + "/"}}
	}
	return nil
}

// VarsOf returns the names of a path's variables, and what is wrong with the path.
func VarsOf(p Path) ([]string, error) {
	out, err := parsePath(p)
	return out.vars, err
}

func parsePath(p Path) (path, error) {
	out := path{text: p.Value, kind: p.Kind}
	if !strings.HasPrefix(p.Value, "/") {
		return out, errors.New(`expected a path that begins with "/"`)
	}
	segments := strings.Split(p.Value[1:], "/")
	last := len(segments) - 1
	rest := ""
	switch p.Kind {
	case Prefix:
		out.tail = tailAny
		if segments[last] == "" {
			out.tail, segments = tailRest, segments[:last]
		}
	case Pattern:
		if name, ok := strings.CutSuffix(segments[last], "...}"); ok && strings.HasPrefix(name, "{") {
			out.tail, out.restVar, rest, segments = tailRest, true, name[1:], segments[:last]
		}
	case Exact:
	default:
		return out, fmt.Errorf("kind %d: expected prefix, exact or pattern", p.Kind)
	}
	if err := out.parse(segments); err != nil {
		return out, err
	}
	if out.restVar {
		return out, out.variable(rest)
	}
	if p.Kind == Pattern && len(out.vars) == 0 {
		return out, errors.New("expected a {variable}; a path without one is exact")
	}
	return out, nil
}

// parse takes the segments over, each checked for being what requests can have.
func (p *path) parse(segments []string) error {
	for i, s := range segments {
		if p.kind == Pattern && strings.HasPrefix(s, "{") && strings.HasSuffix(s, "}") {
			if strings.HasSuffix(s, "...}") {
				return fmt.Errorf("%s: expected it at the end", s)
			}
			if err := p.variable(s[1 : len(s)-1]); err != nil {
				return err
			}
			p.segments = append(p.segments, "")
			continue
		}
		if p.kind == Pattern && strings.ContainsAny(s, "{}") {
			return fmt.Errorf("%q: expected a variable to be a whole segment; a brace itself is %%7B or %%7D", s)
		}
		if s == "" {
			if p.kind == Exact && i == len(segments)-1 || p.kind == Pattern && i == len(segments)-1 && p.tail == tailNone {
				p.segments = append(p.segments, emptySegment)
				continue
			}
			return errors.New("expected no empty segment: requests have none by the time they are matched")
		}
		clean, err := target.Policy{KeepEncodedSlash: true}.Clean("/" + s)
		if err != nil {
			return fmt.Errorf("%q: %w", s, err)
		}
		if strings.Trim(clean.Plain, "/") == "" {
			return fmt.Errorf("%q: expected no dot segment: requests have none by the time they are matched", s)
		}
		p.segments = append(p.segments, clean.Plain[1:])
	}
	return nil
}

// emptySegment stands for the end after a slash, in a tree whose variables are "".
const emptySegment = "/"

func (p *path) variable(name string) error {
	switch {
	case name == "" || strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}):
		return fmt.Errorf("variable %q: expected a name of letters, digits and _", name)
	case slices.Contains(p.vars, name):
		return fmt.Errorf("variable %q: expected once, is there before", name)
	case len(p.vars) == MaxVars:
		return fmt.Errorf("expected at most %d variables", MaxVars)
	}
	p.vars = append(p.vars, name)
	return nil
}
