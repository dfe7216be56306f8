package route

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

func must(t testing.TB, rules []Rule) *Table {
	t.Helper()
	table, err := Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func prefix(s string) []Path  { return []Path{{Prefix, s}} }
func exact(s string) []Path   { return []Path{{Exact, s}} }
func pattern(s string) []Path { return []Path{{Pattern, s}} }

func TestMatch(t *testing.T) {
	table := must(t, []Rule{
		{Name: "any", Paths: prefix("/")},
		{Name: "host", Hosts: []string{"Example.com."}, Paths: prefix("/")},
		{Name: "wild", Hosts: []string{"*.example.com"}, Paths: prefix("/")},
		{Name: "longer wild", Hosts: []string{"*.b.example.com"}, Paths: prefix("/")},
		{Name: "exact", Hosts: []string{"a.example.com", "[2001:DB8::1]"}, Paths: exact("/a/b")},
		{Name: "prefix", Hosts: []string{"a.example.com"}, Paths: prefix("/a")},
		{Name: "slash", Hosts: []string{"a.example.com"}, Paths: prefix("/a/")},
		{Name: "user", Hosts: []string{"a.example.com"}, Paths: pattern("/users/{id}")},
		{Name: "me", Hosts: []string{"a.example.com"}, Paths: exact("/users/me")},
		{Name: "files", Hosts: []string{"a.example.com"}, Paths: pattern("/users/{id}/files/{rest...}")},
		{Name: "backtrack", Hosts: []string{"a.example.com"}, Paths: pattern("/{x}/me/{y}/z")},
		{Name: "dir", Hosts: []string{"a.example.com"}, Paths: exact("/dir/")},
		{Name: "utf8", Hosts: []string{"a.example.com"}, Paths: exact("/größe/%40x/a b")},
		{Name: "two", Hosts: []string{"m.example"}, Paths: []Path{{Exact, "/one"}, {Pattern, "/two/{v}"}}},
	})
	for _, one := range []struct{ host, path, want, vars string }{
		{"other", "/x", "any", ""},
		{"", "/x", "any", ""},
		{strings.Repeat("a", 300), "/x", "any", ""},
		{"EXAMPLE.com:8080", "/x", "host", ""},
		{"example.com.", "/x", "host", ""},
		{"x.example.com", "/x", "wild", ""},
		{"y.x.example.com", "/x", "wild", ""},
		{".example.com", "/x", "any", ""},
		{"x.b.example.com", "/x", "longer wild", ""},
		{"b.example.com", "/x", "wild", ""},
		{"notexample.com", "/x", "any", ""},
		{"[2001:db8:0::1]:443", "/a/b", "exact", ""},
		{"[2001:db8::1", "/a/b", "any", ""},
		{"a.example.com", "/a/b", "exact", ""},
		{"a.example.com", "/a/b/", "slash", ""},
		{"a.example.com", "/a", "prefix", ""},
		{"a.example.com", "/ab", "wild", ""},
		{"a.example.com", "/a/", "slash", ""},
		{"a.example.com", "/users/me", "me", ""},
		{"a.example.com", "/users/7", "user", "id=7"},
		{"a.example.com", "/users/", "wild", ""},
		{"a.example.com", "/users/7/files", "wild", ""},
		{"a.example.com", "/users/7/files/", "files", "id=7 rest="},
		{"a.example.com", "/users/7/files/a/b", "files", "id=7 rest=a/b"},
		{"a.example.com", "/users/me/files/z", "files", "id=me rest=z"},
		{"a.example.com", "/users/me/q/z", "backtrack", "x=users y=q"},
		{"a.example.com", "/dir", "wild", ""},
		{"a.example.com", "/dir/", "dir", ""},
		{"a.example.com", "/größe/@x/a b", "utf8", ""},
		{"a.example.com", "*", "", ""},
		{"m.example", "/two/x%2Fy", "two", "v=x%2Fy"},
		{"m.example", "/one", "two", ""},
	} {
		got := table.Match(&Request{Method: "GET", Host: one.host, Path: one.path}, nil)
		name := ""
		if got.Outcome == Matched {
			name = table.Name(got.Rule)
		}
		var vars []string
		for _, v := range got.Vars {
			vars = append(vars, v.Name+"="+v.Value)
		}
		if name != one.want || strings.Join(vars, " ") != one.vars {
			t.Errorf("%s %s: %q with %q, want %q with %q", one.host, one.path, name, vars, one.want, one.vars)
		}
	}
	if v := table.Vars(9); !slices.Equal(v, []string{"id", "rest"}) {
		t.Errorf("%q", v)
	}
	if v := table.Vars(13); len(v) != 0 { // one of its paths has none
		t.Errorf("%q", v)
	}
}

func TestConditions(t *testing.T) {
	table := must(t, []Rule{
		{Name: "listener", Listeners: []string{"internal"}, Paths: exact("/l")},
		{Name: "present", Paths: exact("/h"), Headers: []Field{{"x-a", Present, ""}}},
		{Name: "equal and more", Paths: exact("/h"), Headers: []Field{{"X-A", Equal, "1"}, {"X-B", Begins, "v"}}},
		{Name: "regexp", Paths: exact("/h"), Headers: []Field{{"X-C", Matches, "a+|b"}}},
		{Name: "query", Paths: exact("/q"), Query: []Field{{"a b", Equal, "1&2"}}},
		{Name: "query prefix", Paths: exact("/q"), Query: []Field{{"p", Begins, "ä"}}},
		{Name: "query regexp", Paths: exact("/q"), Query: []Field{{"r", Matches, "[0-9]+ x"}}},
		{Name: "query present", Paths: exact("/q"), Query: []Field{{"e", Present, ""}}},
		{Name: "sni", Paths: exact("/s"), SNI: []string{"*.s.example", "t.example"}},
		{Name: "h2", Paths: exact("/s"), ALPN: []string{"h2", "h3"}},
		{Name: "method", GRPC: &GRPC{"p.S", "M"}},
		{Name: "service", GRPC: &GRPC{"p.S", ""}},
		{Name: "grpc", GRPC: &GRPC{}},
		{Name: "server", Methods: []string{"OPTIONS"}, Hosts: []string{"*"}},
	})
	h := func(kv ...string) http.Header {
		out := http.Header{}
		for i := 0; i < len(kv); i += 2 {
			out.Add(kv[i], kv[i+1])
		}
		return out
	}
	for _, one := range []struct {
		q    Request
		want string
	}{
		{Request{Path: "/l", Listener: "internal"}, "listener"},
		{Request{Path: "/l", Listener: "public"}, ""},
		{Request{Path: "/h"}, ""},
		{Request{Path: "/h", Header: h("X-A", "2")}, "present"},
		{Request{Path: "/h", Header: h("X-A", "2", "X-A", "1", "X-B", "v2")}, "equal and more"},
		{Request{Path: "/h", Header: h("X-C", "aaa")}, "regexp"},
		{Request{Path: "/h", Header: h("X-C", "aab")}, ""},
		{Request{Path: "/q", Query: "x=1&a+b=1%262"}, "query"},
		{Request{Path: "/q", Query: "a%20b=1%262"}, "query"},
		{Request{Path: "/q", Query: "a%20b=1&2"}, ""},
		{Request{Path: "/q", Query: "p=%C3%A4x"}, "query prefix"},
		{Request{Path: "/q", Query: "p=%C3%A"}, ""},
		{Request{Path: "/q", Query: "r=12+x"}, "query regexp"},
		{Request{Path: "/q", Query: "&&=&e"}, "query present"},
		{Request{Path: "/q", Query: "e%"}, ""},
		{Request{Path: "/s", TLS: true, SNI: "X.s.example"}, "sni"},
		{Request{Path: "/s", TLS: true, SNI: "s.example"}, ""},
		{Request{Path: "/s", TLS: true, SNI: "T.example"}, "sni"},
		{Request{Path: "/s", SNI: "t.example"}, ""},
		{Request{Path: "/s", TLS: true, ALPN: "h2"}, "h2"},
		{Request{Path: "/p.S/M", Method: "POST", Header: h("Content-Type", "application/grpc+proto")}, "method"},
		{Request{Path: "/p.S/N", Method: "POST", Header: h("Content-Type", "application/grpc-web-text;x")}, "service"},
		{Request{Path: "/p.T/N", Method: "POST", Header: h("Content-Type", "application/grpc")}, "grpc"},
		{Request{Path: "/p.S/M", Method: "POST", Header: h("Content-Type", "application/grpcx")}, ""},
		{Request{Path: "/p.S/M", Method: "POST"}, ""},
		{Request{Path: "*", Method: "OPTIONS"}, "server"},
	} {
		got := table.Match(&one.q, nil)
		name := ""
		if got.Outcome == Matched {
			name = table.Name(got.Rule)
		}
		if name != one.want {
			t.Errorf("%+v: %q, want %q", one.q, name, one.want)
		}
	}
}

func TestMethods(t *testing.T) {
	rules := []Rule{
		{Name: "read", Paths: exact("/a"), Methods: []string{"GET"}},
		{Name: "write", Paths: exact("/a"), Methods: []string{"PUT", "DELETE"}, Headers: []Field{{"X-Key", Present, ""}}, Preflight: true},
		{Name: "other", Paths: exact("/a"), Methods: []string{"PATCH"}, Listeners: []string{"l"}},
	}
	table := must(t, rules)
	key := http.Header{"X-Key": {"1"}}
	preflight := http.Header{"Origin": {"https://o.example"}, "Access-Control-Request-Method": {"PUT"}}
	for _, one := range []struct {
		name, method string
		table        *Table
		header       http.Header
		rule         int
		allow        string
	}{
		{"get", "GET", table, nil, 0, ""},
		{"head", "HEAD", table, nil, 0, ""},
		{"put", "PUT", table, key, 1, ""},
		{"put without key", "PUT", table, nil, -1, "GET, HEAD"},
		{"post", "POST", table, key, -1, "DELETE, GET, HEAD, PUT"},
		{"small letters", "get", table, nil, -1, "GET, HEAD"},
		{"preflight", "OPTIONS", table, preflight, 1, ""},
		{"options", "OPTIONS", table, nil, -1, "GET, HEAD"},
		{"trace", "TRACE", table, key, -1, "DELETE, GET, HEAD, PUT"},
	} {
		t.Run(one.name, func(t *testing.T) {
			got := one.table.Match(&Request{Method: one.method, Path: "/a", Header: one.header}, nil)
			if got.Rule != one.rule || got.Allow != one.allow || (got.Outcome == MethodNotAllowed) != (one.allow != "") {
				t.Errorf("%+v", got)
			}
		})
	}
	if got := table.Match(&Request{Method: "GET", Path: "/b"}, nil); got.Outcome != NoRoute || got.Rule != -1 {
		t.Errorf("%+v", got)
	}
}

// TestTrace: an answer to TRACE shows all that the gateway added to a request, so that it
// takes a rule that asks for it.
func TestTrace(t *testing.T) {
	table := must(t, []Rule{
		{Name: "any", Paths: prefix("/")},
		{Name: "debug", Paths: prefix("/debug"), Methods: []string{"TRACE"}},
	})
	for path, want := range map[string]int{"/": -1, "/a": -1, "/debug": 1, "/debug/x": 1} {
		if got := table.Match(&Request{Method: "TRACE", Path: path}, nil); got.Rule != want || (got.Outcome == Matched) != (want >= 0) || want < 0 && got.Allow != "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT" {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

// TestOrder: of rules that match, the one with more conditions, then the first.
func TestOrder(t *testing.T) {
	table := must(t, []Rule{
		{Name: "plain", Paths: prefix("/a")},
		{Name: "header", Paths: prefix("/a"), Headers: []Field{{"X", Present, ""}}},
		{Name: "other header", Paths: prefix("/a"), Headers: []Field{{"Y", Present, ""}}},
		{Name: "both", Paths: prefix("/a"), Headers: []Field{{"X", Present, ""}, {"Y", Present, ""}}, Query: []Field{{"q", Present, ""}}},
	})
	for _, one := range []struct {
		header http.Header
		query  string
		want   int
	}{
		{nil, "", 0},
		{http.Header{"X": {""}}, "", 1},
		{http.Header{"X": {""}, "Y": {""}}, "", 1},
		{http.Header{"X": {""}, "Y": {""}}, "q", 3},
		{http.Header{"Y": {""}}, "", 2},
	} {
		if got := table.Match(&Request{Path: "/a", Header: one.header, Query: one.query}, nil); got.Rule != one.want {
			t.Errorf("%v %s: %d, want %d", one.header, one.query, got.Rule, one.want)
		}
	}
	var lines []string
	for _, e := range table.Entries() {
		lines = append(lines, fmt.Sprint(e.Rule, " ", e.Host, e.Path, " ", e.Conditions))
	}
	want := "3 */a* [header X header Y query q]\n1 */a* [header X]\n2 */a* [header Y]\n0 */a* []"
	if strings.Join(lines, "\n") != want {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
}

func TestCompileErrors(t *testing.T) {
	ok := Rule{Name: "ok", Hosts: []string{"a.example"}, Paths: prefix("/x")}
	for _, one := range []struct {
		rule  Rule
		field string
		at    int
		want  string // part of the error
	}{
		{Rule{}, "", -1, "no condition"},
		{Rule{Paths: prefix("x")}, "paths", 0, `begins with "/"`},
		{Rule{Paths: []Path{{Exact, "/a"}, {Exact, "/a//b"}}}, "paths", 1, "no empty segment"},
		{Rule{Paths: exact("/a/../b")}, "paths", 0, "above the root"},
		{Rule{Paths: exact("/a/./b")}, "paths", 0, "no dot segment"},
		{Rule{Paths: exact("/a%zz")}, "paths", 0, "two hexadecimal digits"},
		{Rule{Paths: exact("/a\\b")}, "paths", 0, "backslash"},
		{Rule{Paths: pattern("/a")}, "paths", 0, "expected a {variable}"},
		{Rule{Paths: pattern("/a/{}")}, "paths", 0, "expected a name"},
		{Rule{Paths: pattern("/a/{x}/{x}")}, "paths", 0, "once"},
		{Rule{Paths: pattern("/a/{x}/{x...}")}, "paths", 0, "once"},
		{Rule{Paths: pattern("/a/{x...}/b")}, "paths", 0, "at the end"},
		{Rule{Paths: pattern("/a/x{y}")}, "paths", 0, "whole segment"},
		{Rule{Paths: pattern("/{...}")}, "paths", 0, "expected a name"},
		{Rule{Paths: pattern(strings.Repeat("/{", 1) + strings.Join(strings.Split("abcdefghijklmnopq", ""), "}/{") + "}")}, "paths", 0, "at most 16"},
		{Rule{Paths: []Path{{Exact, "/a"}, {Exact, "/%61"}}}, "paths", 1, "the same as one before"},
		{Rule{Paths: []Path{{Pattern, "/{a}"}, {Pattern, "/{b}"}}}, "paths", 1, "the same as one before"},
		{Rule{Paths: []Path{{9, "/"}}}, "paths", 0, "kind 9"},
		{Rule{Hosts: []string{"a.example:80"}}, "hosts", 0, "without a port"},
		{Rule{Hosts: []string{"a.*.example"}}, "hosts", 0, "'*'"},
		{Rule{Hosts: []string{"*example"}}, "hosts", 0, "before a dot"},
		{Rule{Hosts: []string{"bücher.example"}}, "hosts", 0, "xn--"},
		{Rule{Hosts: []string{"a..example"}}, "hosts", 0, "labels"},
		{Rule{Hosts: []string{""}}, "hosts", 0, "1 to 253"},
		{Rule{Hosts: []string{"a.example", "A.example."}}, "hosts", 1, "once"},
		{Rule{SNI: []string{"a b"}}, "sni", 0, "letters, digits"},
		{Rule{Methods: []string{"GET", "G T"}}, "methods", 1, "a method"},
		{Rule{Methods: []string{"GET", "GET"}}, "methods", 1, "once"},
		{Rule{Listeners: []string{""}}, "listeners", 0, "name of a listener"},
		{Rule{Headers: []Field{{"a b", Present, ""}}}, "headers", 0, "header field"},
		{Rule{Headers: []Field{{"host", Equal, "a"}}}, "headers", 0, "condition of its own"},
		{Rule{Headers: []Field{{"A", Matches, "("}}}, "headers", 0, "regular expression"},
		{Rule{Headers: []Field{{"A", Matches, "a)(b"}}}, "headers", 0, "regular expression"},
		{Rule{Headers: []Field{{"A", Present, "x"}}}, "headers", 0, "no value"},
		{Rule{Headers: []Field{{"A", Begins, ""}}}, "headers", 0, "not empty"},
		{Rule{Headers: []Field{{"A", Equal, "x"}, {"a", Equal, "x"}}}, "headers", 1, "before"},
		{Rule{Headers: []Field{{"A", 9, "x"}}}, "headers", 0, "test 9"},
		{Rule{Query: []Field{{"", Present, ""}}}, "query", 0, "name of a parameter"},
		{Rule{Query: make([]Field, MaxFields+1)}, "query", -1, "at most"},
		{Rule{GRPC: &GRPC{"", "M"}}, "grpc", -1, "expected a service"},
		{Rule{GRPC: &GRPC{"a..b", ""}}, "grpc", -1, "package.Service"},
		{Rule{GRPC: &GRPC{"a.S", "m.x"}}, "grpc", -1, `such as "Get"`},
		{Rule{GRPC: &GRPC{}, Paths: prefix("/")}, "paths", -1, "beside gRPC"},
		{Rule{GRPC: &GRPC{}, Methods: []string{"GET"}}, "methods", -1, "no request can match"},
		{ok, "", -1, "route 1 (ok) is tried before it"},
		{Rule{Hosts: []string{"b.example", "a.example"}, Paths: prefix("/x")}, "", -1, "host a.example, /x: route 1 (ok)"},
	} {
		one.rule.Name = "one"
		_, err := Compile([]Rule{ok, one.rule})
		var bad *RuleError
		if !errors.As(err, &bad) {
			t.Errorf("%+v: %v", one.rule, err)
			continue
		}
		if bad.Index != 1 || bad.Rule != "one" || bad.Field != one.field || bad.At != one.at || !strings.Contains(err.Error(), one.want) {
			t.Errorf("%+v: field %q %d: %v; want field %q %d: %s", one.rule, bad.Field, bad.At, err, one.field, one.at, one.want)
		}
	}
	if _, err := Compile([]Rule{{Name: "a"}, {Paths: prefix("x"), Methods: []string{""}}}); strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("not everything that is wrong: %v", err)
	}
	if _, err := Compile(make([]Rule, MaxRules+1)); err == nil {
		t.Error("too many rules are taken")
	}
	alike := make([]Rule, MaxAlike+1)
	for i := range alike {
		alike[i] = Rule{Paths: prefix("/a"), Headers: []Field{{"X", Equal, fmt.Sprint(i)}}}
	}
	if _, err := Compile(alike[1:]); err != nil {
		t.Error(err)
	}
	if _, err := Compile(alike); err == nil || !strings.Contains(err.Error(), "tried one by one") {
		t.Errorf("too many alike: %v", err)
	}
	if _, err := Compile([]Rule{{Hosts: many("h"), Paths: manyPaths(t)}}); err == nil || !strings.Contains(err.Error(), "pairs") {
		t.Errorf("too many pairs: %v", err)
	}
}

func many(s string) (out []string) {
	for i := range 400 {
		out = append(out, fmt.Sprint(s, i))
	}
	return out
}

func manyPaths(t *testing.T) (out []Path) {
	for _, s := range many("/") {
		out = append(out, Path{Exact, s})
	}
	return out
}

// TestShadow: which second rule of the same path is never reached.
func TestShadow(t *testing.T) {
	f := func(name string, test Test, value string) []Field { return []Field{{name, test, value}} }
	for _, one := range []struct {
		name          string
		first, second Rule
		shadowed      bool
	}{
		{"same", Rule{}, Rule{}, true},
		{"fewer conditions come later", Rule{Headers: f("A", Present, "")}, Rule{}, false},
		{"more conditions come first", Rule{}, Rule{Headers: f("A", Present, "")}, false},
		{"methods", Rule{Methods: []string{"GET", "PUT"}}, Rule{Methods: []string{"PUT"}}, true},
		{"other methods", Rule{Methods: []string{"GET"}}, Rule{Methods: []string{"PUT"}}, false},
		{"head after get", Rule{Methods: []string{"GET"}}, Rule{Methods: []string{"HEAD"}}, true},
		{"head before get", Rule{Methods: []string{"HEAD"}}, Rule{Methods: []string{"GET"}}, false},
		{"present before equal", Rule{Headers: f("A", Present, "")}, Rule{Headers: f("a", Equal, "x")}, true},
		{"equal before present", Rule{Headers: f("A", Equal, "x")}, Rule{Headers: f("A", Present, "")}, false},
		{"regexp before equal", Rule{Headers: f("A", Matches, "x|y")}, Rule{Headers: f("A", Equal, "y")}, true},
		{"regexp before another", Rule{Headers: f("A", Matches, "x|y")}, Rule{Headers: f("A", Equal, "z")}, false},
		{"same regexp", Rule{Query: f("A", Matches, "x|y")}, Rule{Query: f("A", Matches, "x|y")}, true},
		{"prefix before longer", Rule{Query: f("A", Begins, "x")}, Rule{Query: f("A", Begins, "xy")}, true},
		{"longer before prefix", Rule{Query: f("A", Begins, "xy")}, Rule{Query: f("A", Begins, "x")}, false},
		{"sni", Rule{SNI: []string{"*.a.example"}}, Rule{SNI: []string{"x.a.example", "*.b.a.example"}}, true},
		{"other sni", Rule{SNI: []string{"*.a.example"}}, Rule{SNI: []string{"a.example"}}, false},
		{"listener", Rule{Listeners: []string{"a"}}, Rule{Listeners: []string{"b"}}, false},
		{"preflight", Rule{Methods: []string{"PUT"}}, Rule{Methods: []string{"PUT"}, Preflight: true}, false},
		{"both preflight", Rule{Methods: []string{"PUT"}, Preflight: true}, Rule{Methods: []string{"PUT"}, Preflight: true}, true},
		{"names of variables", Rule{Paths: pattern("/{a}")}, Rule{Paths: pattern("/{b}")}, true},
		{"rest and prefix", Rule{Paths: pattern("/v/{a...}")}, Rule{Paths: prefix("/v/")}, true},
		{"prefix without slash", Rule{Paths: prefix("/v/")}, Rule{Paths: prefix("/v")}, false},
		{"prefix and no path", Rule{Paths: prefix("/")}, Rule{Hosts: []string{"*"}}, true},
		{"grpc twice", Rule{GRPC: &GRPC{"S", ""}}, Rule{GRPC: &GRPC{"S", ""}}, true},
		{"grpc and path", Rule{GRPC: &GRPC{"S", "M"}}, Rule{Paths: exact("/S/M")}, false},
	} {
		t.Run(one.name, func(t *testing.T) {
			for _, r := range []*Rule{&one.first, &one.second} {
				if len(r.Paths) == 0 && r.GRPC == nil && len(r.Hosts) == 0 {
					r.Paths = prefix("/p")
				}
			}
			_, err := Compile([]Rule{one.first, one.second})
			if (err != nil) != one.shadowed {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestOf(t *testing.T) {
	r := httptest.NewRequest("GET", "https://a.example/x?q=1", nil)
	r.TLS = &tls.ConnectionState{ServerName: "a.example", NegotiatedProtocol: "h2"}
	q := Of(r, "l", "/x")
	if q.Listener != "l" || q.Method != "GET" || q.Host != "a.example" || q.Path != "/x" || q.Query != "q=1" || !q.TLS || q.SNI != "a.example" || q.ALPN != "h2" {
		t.Errorf("%+v", q)
	}
	r.Method, r.TLS = "CONNECT", nil
	if q := Of(r, "l", "/x"); q.Method != "CONNECT" || q.TLS {
		t.Errorf("%+v", q)
	}
	r.Header[":protocol"] = []string{"websocket"}
	if q := Of(r, "l", "/x"); q.Method != "GET" {
		t.Errorf("%+v", q)
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	table := thousand(t)
	vars := make([]exchange.Var, 0, MaxVars)
	q := Request{Method: "GET", Host: "Host42.example.com:443", Path: "/users/42/files/a/b/c", Header: http.Header{"X-Version": {"2"}}}
	if got := table.Match(&q, vars); got.Outcome != Matched || len(got.Vars) != 2 {
		t.Fatalf("%+v", got)
	}
	if n := testing.AllocsPerRun(100, func() { table.Match(&q, vars) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// thousand is 100 hosts with 10 rules each.
func thousand(t testing.TB) *Table {
	var rules []Rule
	for i := range 100 {
		for j, p := range []Path{
			{Prefix, "/"}, {Exact, "/health"}, {Prefix, "/api/v1"}, {Prefix, "/api/v2"}, {Pattern, "/users/{id}"},
			{Pattern, "/users/{id}/files/{rest...}"}, {Exact, "/users/me"}, {Prefix, "/static"}, {Pattern, "/orders/{id}/items/{item}"}, {Prefix, "/admin"},
		} {
			r := Rule{Name: fmt.Sprint(i, "-", j), Hosts: []string{fmt.Sprintf("host%d.example.com", i)}, Paths: []Path{p}}
			if j == 5 {
				r.Methods, r.Headers = []string{"GET", "POST"}, []Field{{"X-Version", Equal, "2"}}
			}
			rules = append(rules, r)
		}
	}
	return must(t, rules)
}

func BenchmarkMatch(b *testing.B) {
	wide := make([]Rule, 1000) // at one place of one host
	for i := range wide {
		wide[i] = Rule{Hosts: []string{"host1.example.com"}, Paths: pattern(fmt.Sprintf("/service%d/{id}/x", i))}
	}
	for _, one := range []struct {
		name  string
		table *Table
		q     Request
	}{
		{"exact", thousand(b), Request{Method: "GET", Host: "host42.example.com", Path: "/users/me"}},
		{"variables", thousand(b), Request{Method: "GET", Host: "host42.example.com", Path: "/users/42/files/a/b/c", Header: http.Header{"X-Version": {"2"}}}},
		{"prefix", thousand(b), Request{Method: "GET", Host: "host99.example.com:443", Path: "/static/js/app.js"}},
		{"no host", thousand(b), Request{Method: "GET", Host: "none.example.com", Path: "/static/js/app.js"}},
		{"one host", must(b, wide), Request{Method: "GET", Host: "host1.example.com", Path: "/service777/42/x"}},
	} {
		b.Run(strings.ReplaceAll(one.name, " ", "_"), func(b *testing.B) {
			vars := make([]exchange.Var, 0, MaxVars)
			b.ReportAllocs()
			for b.Loop() {
				one.table.Match(&one.q, vars)
			}
		})
	}
}
