package grpcgw

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Bounds of path templates and of the paths matched against them.
const (
	maxTemplate = 2048 // bytes
	maxSegments = 64
)

// Kinds of segments.
const (
	segLiteral = iota
	segOne     // *
	segRest    // **, the last one
)

type segment struct {
	kind    int
	literal string
}

// variable is a field that takes the segments from first to last, last excluded; rest: to
// the end of the path.
type variable struct {
	field       string // dotted path
	first, last int
	rest        bool
}

// template is a path template of google/api/http.proto:
//
//	"/" segments [ ":" verb ];  segment: "*", "**", literal or "{" field [ "=" segments ] "}"
type template struct {
	segments []segment
	vars     []variable
	verb     string
}

// parseTemplate reads a path template.
func parseTemplate(s string) (*template, error) {
	if len(s) > maxTemplate {
		return nil, fmt.Errorf("longer than %d bytes", maxTemplate)
	}
	rest, ok := strings.CutPrefix(s, "/")
	if !ok {
		return nil, errors.New("does not begin with a slash")
	}
	p := &templateParser{s: rest, t: &template{}}
	if err := p.segments(false); err != nil {
		return nil, err
	}
	if p.s != "" {
		verb, ok := strings.CutPrefix(p.s, ":")
		if !ok || !isLiteral(verb) {
			return nil, fmt.Errorf("%q is no verb: expected a colon and a name at the end", p.s)
		}
		p.t.verb = verb
	}
	return p.t, p.check()
}

type templateParser struct {
	s string
	t *template
}

// segments reads one or more, with slashes between them; inside: of a variable.
func (p *templateParser) segments(inside bool) error {
	for range maxSegments {
		if err := p.segment(inside); err != nil {
			return err
		}
		rest, more := strings.CutPrefix(p.s, "/")
		if !more {
			return nil
		}
		p.s = rest
	}
	return fmt.Errorf("more than %d segments", maxSegments)
}

func (p *templateParser) segment(inside bool) error {
	switch {
	case strings.HasPrefix(p.s, "**"):
		p.s = p.s[2:]
		p.t.segments = append(p.t.segments, segment{kind: segRest})
		return nil
	case strings.HasPrefix(p.s, "*"):
		p.s = p.s[1:]
		p.t.segments = append(p.t.segments, segment{kind: segOne})
		return nil
	case strings.HasPrefix(p.s, "{"):
		if inside {
			return errors.New("a variable inside a variable")
		}
		return p.variable()
	}
	end := strings.IndexAny(p.s, "/:{}*=")
	if end < 0 {
		end = len(p.s)
	}
	if !isLiteral(p.s[:end]) {
		return fmt.Errorf("%q is no segment: expected a name, *, ** or {field}", p.s)
	}
	p.t.segments = append(p.t.segments, segment{kind: segLiteral, literal: p.s[:end]})
	p.s = p.s[end:]
	return nil
}

func (p *templateParser) variable() error {
	p.s = p.s[1:]
	end := strings.IndexAny(p.s, "=}")
	if end < 0 {
		return errors.New("a variable without closing brace")
	}
	v := variable{field: p.s[:end], first: len(p.t.segments)}
	if !isFieldPath(v.field) {
		return fmt.Errorf("%q is no field: expected names with dots between them", v.field)
	}
	if p.s[end] == '=' {
		p.s = p.s[end+1:]
		if err := p.segments(true); err != nil {
			return err
		}
		if !strings.HasPrefix(p.s, "}") {
			return fmt.Errorf("variable %s: %q where its closing brace should be", v.field, p.s)
		}
		p.s = p.s[1:]
	} else {
		p.s = p.s[end+1:]
		p.t.segments = append(p.t.segments, segment{kind: segOne})
	}
	v.last = len(p.t.segments)
	v.rest = p.t.segments[v.last-1].kind == segRest
	p.t.vars = append(p.t.vars, v)
	return nil
}

func (p *templateParser) check() error {
	t := p.t
	if len(t.segments) > maxSegments {
		return fmt.Errorf("more than %d segments", maxSegments)
	}
	for i, s := range t.segments {
		if s.kind == segRest && i != len(t.segments)-1 {
			return errors.New("** is not the last segment")
		}
	}
	seen := map[string]bool{}
	for _, v := range t.vars {
		if seen[v.field] {
			return fmt.Errorf("variable %s twice", v.field)
		}
		seen[v.field] = true
	}
	return nil
}

func isLiteral(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !isAlnum(c) && !strings.ContainsRune("-._~!$&'()+,;@%", rune(c)) {
			return false
		}
	}
	return s != ""
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isFieldPath(s string) bool {
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || part[0] >= '0' && part[0] <= '9' {
			return false
		}
		for i := range len(part) {
			if c := part[i]; !isAlnum(c) && c != '_' {
				return false
			}
		}
	}
	return true
}

// key is the template with what does not matter for matching left out: two templates with
// the same key match the same paths.
func (t *template) key() string {
	var b strings.Builder
	for _, s := range t.segments {
		switch s.kind {
		case segLiteral:
			b.WriteString("/" + s.literal)
		case segOne:
			b.WriteString("/*")
		case segRest:
			b.WriteString("/**")
		}
	}
	if t.verb != "" {
		b.WriteString(":" + t.verb)
	}
	return b.String()
}

// value is what a variable gets of a path's segments, as they are in the URL. One
// segment is decoded as a whole; of several the slashes that are data stay escaped.
func (v *variable) value(path []string) (string, error) {
	last := v.last
	if v.rest {
		last = len(path)
	}
	if last-v.first == 1 && !v.rest {
		return url.PathUnescape(path[v.first])
	}
	out := make([]string, 0, last-v.first)
	for _, s := range path[v.first:last] {
		plain, err := unescapeButSlash(s)
		if err != nil {
			return "", err
		}
		out = append(out, plain)
	}
	return strings.Join(out, "/"), nil
}

func unescapeButSlash(s string) (string, error) {
	var b strings.Builder
	for s != "" { // bound: each turn takes at least a byte
		i := strings.Index(strings.ToUpper(s), "%2F")
		part, slash := s, ""
		if i >= 0 {
			part, slash = s[:i], s[i:i+3]
		}
		plain, err := url.PathUnescape(part)
		if err != nil {
			return "", err
		}
		b.WriteString(plain)
		b.WriteString(slash)
		s = s[len(part)+len(slash):]
	}
	return b.String(), nil
}

// node is one step of the tree of all templates. Looking a path up visits each node once
// at most.
type node struct {
	literals map[string]*node
	one      *node
	ends     map[string]verbs // of templates that end here, by verb
	rests    map[string]verbs // of templates that end in ** here
}

// verbs are the bindings of one path by HTTP method; "*" is any.
type verbs map[string]*binding

// add puts a binding into the tree; what is there already is returned.
func (n *node) add(method string, b *binding) *binding {
	t := b.template
	for _, s := range t.segments {
		switch s.kind {
		case segLiteral:
			next := n.literals[s.literal]
			if next == nil {
				next = &node{}
				if n.literals == nil {
					n.literals = map[string]*node{}
				}
				n.literals[s.literal] = next
			}
			n = next
		case segOne:
			if n.one == nil {
				n.one = &node{}
			}
			n = n.one
		case segRest:
			return put(&n.rests, t.verb, method, b)
		}
	}
	return put(&n.ends, t.verb, method, b)
}

func put(m *map[string]verbs, verb, method string, b *binding) *binding {
	if *m == nil {
		*m = map[string]verbs{}
	}
	if (*m)[verb] == nil {
		(*m)[verb] = verbs{}
	}
	if old := (*m)[verb][method]; old != nil {
		return old
	}
	(*m)[verb][method] = b
	return nil
}

// find returns the bindings of the most particular template that matches: a literal goes
// before *, that before **.
func (n *node) find(path []string, verb string) verbs {
	if len(path) == 0 {
		if v := n.ends[verb]; v != nil {
			return v
		}
		return n.rests[verb] // ** takes nothing too
	}
	if next := n.literals[path[0]]; next != nil {
		if v := next.find(path[1:], verb); v != nil {
			return v
		}
	}
	if n.one != nil && path[0] != "" {
		if v := n.one.find(path[1:], verb); v != nil {
			return v
		}
	}
	return n.rests[verb]
}

// lookup matches an escaped path; segments are its parts, without the verb.
func (n *node) lookup(escaped string) (v verbs, segments []string) {
	rest, ok := strings.CutPrefix(escaped, "/")
	if !ok || strings.Count(rest, "/") >= maxSegments {
		return nil, nil
	}
	segments = strings.Split(rest, "/")
	last := len(segments) - 1
	if name, verb, ok := cutLast(segments[last], ":"); ok {
		with := append(segments[:last:last], name)
		if v := n.find(with, verb); v != nil {
			return v, with
		}
	}
	return n.find(segments, ""), segments
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
