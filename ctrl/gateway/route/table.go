package route

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Table is compiled rules. It is immutable and safe for concurrent use.
type Table struct {
	rules   []compiled
	exact   map[string]*node
	wild    map[string]*node // by what follows the asterisk
	any     *node            // nil: no rule without a host
	entries []*entry         // in the order in which they are tried
}

// node is a place in a tree of path segments. No request visits one twice, so that a
// search has the number of a tree's nodes for a bound.
type node struct {
	literal  map[string]*node
	variable *node
	here     []*entry // the path ends here
	rest     []*entry // a slash and anything follows
	any      []*entry // as rest, or the path ends here
}

// entry is one of a rule's paths at one of its hosts.
type entry struct {
	rule  *compiled
	index int // of the rule
	host  host
	path  *path
}

// Compile makes a table. It tells everything that is wrong, as joined [RuleError]s.
func Compile(rules []Rule) (*Table, error) {
	if len(rules) > MaxRules {
		return nil, fmt.Errorf("%d routes: expected at most %d", len(rules), MaxRules)
	}
	t := &Table{rules: make([]compiled, len(rules)), exact: map[string]*node{}, wild: map[string]*node{}}
	var errs []error
	for i := range rules {
		c := compiler{rule: &rules[i], index: i}
		r, bad := c.compile()
		t.rules[i] = r
		errs = append(errs, bad...)
	}
	if len(errs) == 0 {
		errs = t.build()
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return t, nil
}

func (t *Table) build() []error {
	n := 0
	for i := range t.rules {
		n += len(t.rules[i].hosts) * len(t.rules[i].paths)
	}
	if n > MaxEntries {
		return []error{fmt.Errorf("routes: %d pairs of a host and a path: expected at most %d", n, MaxEntries)}
	}
	for i := range t.rules {
		r := &t.rules[i]
		for _, h := range r.hosts {
			root := t.root(h)
			for p := range r.paths {
				root.add(&entry{rule: r, index: i, host: h, path: &r.paths[p]})
			}
		}
	}
	var errs []error
	for _, root := range t.roots() {
		root.finish(func(e *entry) { t.entries = append(t.entries, e) }, &errs)
	}
	return errs
}

// root returns the tree of a host, which it makes if there is none.
func (t *Table) root(h host) *node {
	if h.name == "" {
		if t.any == nil {
			t.any = &node{}
		}
		return t.any
	}
	m := t.exact
	if h.wild {
		m = t.wild
	}
	if m[h.name] == nil {
		m[h.name] = &node{}
	}
	return m[h.name]
}

// roots returns the trees, in an order that does not change between runs.
func (t *Table) roots() []*node {
	var out []*node
	for _, m := range []map[string]*node{t.exact, t.wild} {
		names := make([]string, 0, len(m))
		for name := range m {
			names = append(names, name)
		}
		slices.SortFunc(names, func(a, b string) int {
			return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b))
		})
		for _, name := range names {
			out = append(out, m[name])
		}
	}
	if t.any != nil {
		out = append(out, t.any)
	}
	return out
}

func (n *node) add(e *entry) {
	for _, s := range e.path.segments {
		next := &n.variable
		if s != "" {
			if s == emptySegment {
				s = ""
			}
			if n.literal == nil {
				n.literal = map[string]*node{}
			}
			child := n.literal[s]
			if child == nil {
				child = &node{}
				n.literal[s] = child
			}
			n = child
			continue
		}
		if *next == nil {
			*next = &node{}
		}
		n = *next
	}
	switch e.path.tail {
	case tailNone:
		n.here = append(n.here, e)
	case tailRest:
		n.rest = append(n.rest, e)
	case tailAny:
		n.any = append(n.any, e)
	}
}

// finish sorts what is at each place and finds what never gets a request there.
func (n *node) finish(each func(*entry), errs *[]error) {
	names := make([]string, 0, len(n.literal))
	for s := range n.literal {
		names = append(names, s)
	}
	slices.Sort(names)
	for _, s := range names {
		n.literal[s].finish(each, errs)
	}
	if n.variable != nil {
		n.variable.finish(each, errs)
	}
	for _, list := range [][]*entry{n.here, n.rest, n.any} {
		slices.SortStableFunc(list, func(a, b *entry) int {
			return cmp.Or(cmp.Compare(b.rule.count, a.rule.count), cmp.Compare(a.index, b.index))
		})
		if len(list) > MaxAlike {
			e := list[MaxAlike]
			*errs = append(*errs, &RuleError{e.index, e.rule.name, "", -1, fmt.Errorf("%d routes have host %s and path %s like it: expected at most %d, they are tried one by one", len(list)-1, e.host, e.path, MaxAlike)})
			continue
		}
		for i, e := range list {
			each(e)
			e.shadowed(list[:i], errs)
		}
	}
	for _, e := range n.any { // the prefix "/" takes what rules without a path would
		if len(e.path.segments) == 0 && e.path.text == "" {
			e.shadowed(n.rest, errs)
		}
	}
}

// shadowed looks for an entry that comes first and matches whenever this one does.
func (e *entry) shadowed(before []*entry, errs *[]error) {
	for _, b := range before {
		if !covers(b.rule, e.rule) {
			continue
		}
		where := e.path.text
		if where == "" {
			where = "any path"
		}
		*errs = append(*errs, &RuleError{
			Index: e.index, Rule: e.rule.name, At: -1,
			Err: fmt.Errorf("no request can reach it at host %s, %s: %s is tried before it and matches whenever it does", e.host, where, b.rule.label(b.index)),
		})
		return
	}
}

func (r *compiled) label(index int) string {
	if r.name == "" {
		return fmt.Sprintf("route %d", index+1)
	}
	return fmt.Sprintf("route %d (%s)", index+1, r.name)
}

// covers says whether the other conditions of a hold whenever those of b do, at one host
// and path. It knows the plain cases; two regular expressions it compares as texts.
func covers(a, b *compiled) bool {
	if a.grpc && !b.grpc {
		return false
	}
	if b.preflight && !a.preflight && (a.grpc || len(a.methods)+len(a.headers) > 0) {
		return false
	}
	for _, w := range [][2][]string{{a.listeners, b.listeners}, {a.methods, b.methods}, {a.alpn, b.alpn}} {
		if !holds(w[0], w[1], func(x, y string) bool { return x == y }) {
			return false
		}
	}
	if !holds(a.sni, b.sni, host.covers) {
		return false
	}
	return implied(a.headers, b.headers) && implied(a.query, b.query)
}

// holds says whether the alternatives of a hold for each of b's; none stand for everything.
func holds[T any](a, b []T, covers func(a, b T) bool) bool {
	if len(a) == 0 {
		return true
	}
	for _, y := range b {
		if !slices.ContainsFunc(a, func(x T) bool { return covers(x, y) }) {
			return false
		}
	}
	return len(b) > 0
}

func (h host) covers(o host) bool {
	switch {
	case h.name == "":
		return true
	case h.wild:
		return strings.HasSuffix(o.name, h.name) && (!o.wild || len(o.name) >= len(h.name))
	}
	return h == o
}

// implied says whether each condition of a holds where those of b do.
func implied(a, b []field) bool {
	for i := range a {
		if !slices.ContainsFunc(b, func(y field) bool { return y.implies(&a[i]) }) {
			return false
		}
	}
	return true
}

func (f *field) implies(o *field) bool {
	switch {
	case f.name != o.name:
		return false
	case o.test == Present:
		return true
	case f.test == Equal:
		return o.meets(f.value)
	case f.test == Begins:
		return o.test == Begins && strings.HasPrefix(f.value, o.value)
	case f.test == Matches:
		return o.test == Matches && f.value == o.value
	}
	return false
}

// Len returns the number of rules.
func (t *Table) Len() int { return len(t.rules) }

// Name returns a rule's name.
func (t *Table) Name(rule int) string { return t.rules[rule].name }

// Vars returns the names of the variables that a rule has whichever of its paths matched.
func (t *Table) Vars(rule int) []string { return slices.Clone(t.rules[rule].vars) }

// Entry is one of a rule's paths at one of its hosts, in words for people.
type Entry struct {
	Rule       int
	Host       string // "*": every one
	Path       string
	Conditions []string // the others
}

// Entries lists a table in the order in which entries are tried: the first that matches
// wins. Of paths that no request matches both of the order is that of their letters.
func (t *Table) Entries() []Entry {
	out := make([]Entry, 0, len(t.entries))
	for _, e := range t.entries {
		out = append(out, Entry{Rule: e.index, Host: e.host.String(), Path: e.path.String(), Conditions: e.rule.conditions()})
	}
	return out
}

func (p *path) String() string {
	switch {
	case p.text == "":
		return "*"
	case p.tail == tailNone || p.restVar:
		return p.text
	}
	return p.text + "*"
}

func (r *compiled) conditions() []string {
	var out []string
	list := func(name string, values []string) {
		if len(values) > 0 {
			out = append(out, name+" "+strings.Join(values, "|"))
		}
	}
	list("listener", r.listeners)
	list("method", r.asked)
	if r.grpc {
		out = append(out, "grpc")
	}
	var sni []string
	for _, h := range r.sni {
		sni = append(sni, h.String())
	}
	list("sni", sni)
	list("alpn", r.alpn)
	for _, f := range r.headers {
		out = append(out, "header "+f.String())
	}
	for _, f := range r.query {
		out = append(out, "query "+f.String())
	}
	return out
}

func (f field) String() string {
	switch f.test {
	case Equal:
		return f.name + "=" + f.value
	case Begins:
		return f.name + "=" + f.value + "*"
	case Matches:
		return f.name + "~" + f.value
	}
	return f.name
}
