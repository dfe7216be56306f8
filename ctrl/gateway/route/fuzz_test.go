package route

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// reader makes choices of fuzzed bytes.
type reader struct{ data []byte }

func (r *reader) pick(n int) int {
	if len(r.data) == 0 {
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	return int(b) % n
}

func pickOf[T any](r *reader, of ...T) T { return of[r.pick(len(of))] }

func (r *reader) someOf(of ...string) []string {
	var out []string
	for range r.pick(3) {
		if s := pickOf(r, of...); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func (r *reader) rule() Rule {
	out := Rule{
		Listeners: r.someOf("l1", "l2"),
		Hosts:     r.someOf("a.b.c", "b.c", "*.b.c", "*.c", "*"),
		Methods:   r.someOf("GET", "HEAD", "PUT", "OPTIONS"),
		Preflight: r.pick(4) == 0,
	}
	for range r.pick(3) {
		k := pickOf(r, Prefix, Exact, Pattern)
		s, names := "", []string{"{v}", "{w}", "{x}"}
		for i := range r.pick(4) {
			seg := pickOf(r, "a", "b", "c")
			if k == Pattern && i < len(names) && r.pick(2) == 0 {
				seg = names[i]
			}
			s += "/" + seg
		}
		if k == Pattern && r.pick(2) == 0 {
			s += "/{rest...}"
		} else if r.pick(3) == 0 || s == "" {
			s += "/"
		}
		out.Paths = append(out.Paths, Path{k, s})
	}
	for range r.pick(3) {
		out.Headers = append(out.Headers, Field{pickOf(r, "X", "Y"), Equal, pickOf(r, "1", "2")})
	}
	if r.pick(3) == 0 {
		out.Query = []Field{{"q", pickOf(r, Present, Begins), ""}}
		if out.Query[0].Test == Begins {
			out.Query[0].Value = "1"
		}
	}
	if r.pick(6) == 0 {
		out.Paths, out.GRPC = nil, &GRPC{pickOf(r, "", "a"), ""}
	}
	return out
}

func (r *reader) request() Request {
	q := Request{
		Listener: pickOf(r, "l1", "l2"), Host: pickOf(r, "a.b.c", "B.c:80", "x.a.b.c", "c", "d", "x.c.", ""),
		Method: pickOf(r, "GET", "HEAD", "PUT", "OPTIONS"), Header: http.Header{}, Query: pickOf(r, "", "q", "q=12", "%71=%31", "p=1&q=2"),
	}
	for range r.pick(5) {
		q.Path += "/" + pickOf(r, "a", "b", "c", "d")
	}
	if q.Path == "" || r.pick(3) == 0 {
		q.Path += "/"
	}
	if r.pick(16) == 0 {
		q.Path = "*"
	}
	for _, name := range []string{"X", "Y"} {
		for range r.pick(3) {
			q.Header.Add(name, pickOf(r, "1", "2"))
		}
	}
	if r.pick(3) == 0 {
		q.Header.Set("Content-Type", "application/grpc")
	}
	if r.pick(2) == 0 {
		q.Header.Set("Origin", "o")
		q.Header.Set("Access-Control-Request-Method", pickOf(r, "GET", "PUT"))
	}
	return q
}

// naive is what the documentation of the package says, without a thought for speed.
type naive struct {
	rule  int
	host  string
	path  Path
	count int
}

func naiveEntries(rules []Rule) []naive {
	var out []naive
	for i, r := range rules {
		paths := r.Paths
		if r.GRPC != nil && r.GRPC.Service != "" {
			paths = []Path{{Prefix, "/" + r.GRPC.Service + "/"}}
		}
		if len(paths) == 0 {
			paths = []Path{{Prefix, ""}}
		}
		hosts := r.Hosts
		if len(hosts) == 0 {
			hosts = []string{"*"}
		}
		n := len(r.Headers) + len(r.Query)
		for _, is := range []bool{len(r.Listeners) > 0, len(r.Methods) > 0, r.GRPC != nil} {
			if is {
				n++
			}
		}
		for _, h := range hosts {
			for _, p := range paths {
				out = append(out, naive{i, h, p, n})
			}
		}
	}
	return out
}

// tokens rank a path's parts; of two paths that match one request the smaller list wins.
func (e naive) tokens() []int {
	var out []int
	s := e.path.Value
	if e.path.Kind == Prefix && strings.HasSuffix(s, "/") {
		s += "\x00"
	}
	for seg := range strings.SplitSeq(strings.TrimPrefix(s, "/"), "/") {
		switch {
		case s == "":
		case seg == "\x00" || strings.HasSuffix(seg, "...}"):
			return append(out, 2)
		case seg == "" || e.path.Kind != Pattern || seg[0] != '{':
			out = append(out, 0)
		default:
			out = append(out, 1)
		}
	}
	if e.path.Kind == Prefix {
		return append(out, 3)
	}
	return append(out, 2)
}

func (e naive) matchPath(path string) ([]exchange.Var, bool) {
	p := e.path.Value
	switch {
	case p == "":
		return nil, true
	case path == "*":
		return nil, false
	case e.path.Kind == Exact:
		return nil, p == path
	case e.path.Kind == Prefix && strings.HasSuffix(p, "/"):
		return nil, strings.HasPrefix(path, p)
	case e.path.Kind == Prefix:
		return nil, p == path || strings.HasPrefix(path, p+"/")
	}
	want, have := strings.Split(p, "/"), strings.Split(path, "/")
	var vars []exchange.Var
	for i, s := range want {
		switch {
		case i >= len(have):
			return nil, false
		case strings.HasSuffix(s, "...}"):
			return append(vars, exchange.Var{Name: s[1 : len(s)-4], Value: strings.Join(have[i:], "/")}), true
		case strings.HasPrefix(s, "{"):
			if have[i] == "" {
				return nil, false
			}
			vars = append(vars, exchange.Var{Name: s[1 : len(s)-1], Value: have[i]})
		case s != have[i]:
			return nil, false
		}
	}
	return vars, len(have) == len(want)
}

func (e naive) matchHost(host string) bool {
	host = strings.ToLower(host)
	host, _, _ = strings.Cut(host, ":")
	host = strings.TrimSuffix(host, ".")
	if e.host == "*" {
		return true
	}
	if suffix, ok := strings.CutPrefix(e.host, "*"); ok {
		return strings.HasSuffix(host, suffix) && len(host) > len(suffix)
	}
	return host == e.host
}

// rest is 2: the entry matches, 1: but for the method, 0: not at all.
func (e naive) rest(r Rule, q Request) int {
	preflight := r.Preflight && q.Method == "OPTIONS" && q.Header.Get("Origin") != "" && q.Header.Get("Access-Control-Request-Method") != ""
	if len(r.Listeners) > 0 && !slices.Contains(r.Listeners, q.Listener) {
		return 0
	}
	if !preflight {
		if r.GRPC != nil && q.Header.Get("Content-Type") != "application/grpc" {
			return 0
		}
		for _, f := range r.Headers {
			if !slices.Contains(q.Header[f.Name], f.Value) {
				return 0
			}
		}
	}
	values, _ := url.ParseQuery(q.Query)
	for _, f := range r.Query {
		if !slices.ContainsFunc(values[f.Name], func(v string) bool { return strings.HasPrefix(v, f.Value) }) {
			return 0
		}
	}
	has := func(m string) bool {
		return slices.Contains(r.Methods, m) || m == "HEAD" && slices.Contains(r.Methods, "GET")
	}
	if len(r.Methods) == 0 || has(q.Method) || preflight && has(q.Header.Get("Access-Control-Request-Method")) {
		return 2
	}
	return 1
}

func naiveMatch(rules []Rule, q Request) Result {
	best, missed := Result{Rule: -1}, false
	var winner naive
	better := func(a, b naive) bool {
		if a.host != b.host {
			rank := func(h string) int {
				if strings.HasPrefix(h, "*") {
					return len(h) - 1
				}
				return 1000
			}
			return rank(a.host) > rank(b.host)
		}
		if c := slices.Compare(a.tokens(), b.tokens()); c != 0 {
			return c < 0
		}
		if a.count != b.count {
			return a.count > b.count
		}
		return a.rule < b.rule
	}
	for _, e := range naiveEntries(rules) {
		vars, ok := e.matchPath(q.Path)
		if !ok || !e.matchHost(q.Host) {
			continue
		}
		switch e.rest(rules[e.rule], q) {
		case 1:
			missed = true
		case 2:
			if best.Outcome != Matched || better(e, winner) {
				winner, best = e, Result{Outcome: Matched, Rule: e.rule, Vars: vars}
			}
		}
	}
	if best.Outcome != Matched && missed {
		best.Outcome = MethodNotAllowed
	}
	return best
}

// FuzzMatch: the table finds what the naive reading of the documentation finds.
func FuzzMatch(f *testing.F) {
	for _, s := range []string{"", "\x01\x02\x03\x04\x05\x06\x07", strings.Repeat("\x01", 60), strings.Repeat("\x02\x05\x01\x00\x03", 40), strings.Repeat("\x00\x01\x01\x00\x02\x07\x03", 60)} {
		f.Add([]byte(s), []byte(s))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		r, rules := &reader{a}, []Rule{}
		for range 1 + r.pick(6) {
			one := r.rule()
			if _, err := Compile([]Rule{one}); err != nil {
				continue // e.g. without a condition
			}
			if _, err := Compile(append(slices.Clone(rules), one)); err != nil {
				continue // shadowed
			}
			rules = append(rules, one)
		}
		table, err := Compile(rules)
		if err != nil {
			t.Fatal(err)
		}
		r = &reader{b}
		for range 8 {
			q := r.request()
			got, want := table.Match(&q, nil), naiveMatch(rules, q)
			if got.Outcome != want.Outcome || got.Rule != want.Rule || !slices.Equal(got.Vars, want.Vars) {
				t.Fatalf("rules %+v\nrequest %+v\ngot %+v\nwant %+v", rules, q, got, want)
			}
		}
	})
}

// FuzzRequest: hostile requests at a table that has all there is.
func FuzzRequest(f *testing.F) {
	table := must(f, []Rule{
		{Hosts: []string{"a.example", "*.example", "[::1]"}, Paths: []Path{{Pattern, "/{a}/{b}/{c...}"}, {Exact, "/a/"}, {Prefix, "/p"}}},
		{Paths: prefix("/"), SNI: []string{"*.example"}, Headers: []Field{{"X", Matches, "a*b?"}}, Query: []Field{{"q", Matches, ".*x"}, {"p q", Equal, "é"}}},
	})
	f.Add("a.example:1", "/a/b/c/d", "q=x&p%20q=%c3%a9", "b.example", "ab")
	f.Add("[::1", "*", "%&%&=%", "[", "")
	f.Add("[::1%25x]:", "", "q=%zz;x", ".", "\x00")
	f.Fuzz(func(t *testing.T, host, path, query, sni, header string) {
		q := Request{Method: "GET", Host: host, Path: path, Query: query, TLS: true, SNI: sni, Header: http.Header{"X": {header}}}
		got := table.Match(&q, nil)
		for _, v := range got.Vars {
			if !strings.Contains(path, v.Value) {
				t.Fatalf("%q is no part of %q", v.Value, path)
			}
		}
		values, err := url.ParseQuery(query)
		if err == nil && got.Rule == 1 && (!slices.Contains(values["p q"], "é") || !slices.ContainsFunc(values["q"], func(v string) bool { return strings.HasSuffix(v, "x") })) {
			t.Fatalf("query %q matches", query)
		}
	})
}
