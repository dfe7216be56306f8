package target

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	for _, one := range []struct {
		name, in    string
		policy      Policy
		wire, plain string // plain "": as wire
		err         error
	}{
		{name: "as it is", in: "/a/b-c_d.e~f/", wire: "/a/b-c_d.e~f/"},
		{name: "empty", in: "", wire: "/"},
		{name: "root", in: "/", wire: "/"},
		{name: "reserved characters", in: "/a!$&'()*+,=:@", wire: "/a!$&'()*+,=:@"},
		{name: "dot", in: "/./admin", wire: "/admin"},
		{name: "dots up", in: "/x/../admin", wire: "/admin"},
		{name: "dots in escapes", in: "/x/%2e%2E/%2e/admin", wire: "/admin"},
		{name: "dot at the end", in: "/a/.", wire: "/a/"},
		{name: "dots at the end", in: "/a/b/..", wire: "/a/"},
		{name: "dots to the root", in: "/a/..", wire: "/"},
		{name: "dots in names", in: "/.a/..b/c../.../d.", wire: "/.a/..b/c../.../d."},
		{name: "above the root", in: "/a/../../b", err: errAboveRoot},
		{name: "above the root at once", in: "/..", err: errAboveRoot},
		{name: "letter in escape", in: "/%61dmin", wire: "/admin"},
		{name: "small digits", in: "/%c3%bc", wire: "/%C3%BC", plain: "/ü"},
		{name: "no ASCII", in: "/ü", wire: "/%C3%BC", plain: "/ü"},
		{name: "space", in: "/a b", wire: "/a%20b", plain: "/a b"},
		{name: "escape of a reserved character stays", in: "/%40x%3B", wire: "/%40x%3B", plain: "/@x;"},
		{name: "percent", in: "/100%25/%252e%252e", wire: "/100%25/%252e%252e"},
		{name: "question mark", in: "/a%3fb%23", wire: "/a%3Fb%23", plain: "/a?b#"},
		{name: "double slash", in: "//admin///x//", wire: "/admin/x/"},
		{name: "double slash and dots", in: "/a//../b", wire: "/b"},
		{name: "double slash refused", in: "//admin", policy: Policy{RefuseDoubleSlash: true}, err: errDouble},
		{name: "slash at the end is no empty segment", in: "/a/", policy: Policy{RefuseDoubleSlash: true}, wire: "/a/"},
		{name: "encoded slash", in: "/admin%2f..", err: errSlash},
		{name: "encoded slash kept", in: "/admin%2f..", policy: Policy{KeepEncodedSlash: true}, wire: "/admin%2F.."},
		{name: "NUL", in: "/a%00", err: errControl},
		{name: "line feed", in: "/a%0a", err: errControl},
		{name: "raw control", in: "/a\x01", err: errControl},
		{name: "delete", in: "/a%7f", err: errControl},
		{name: "backslash", in: `/x\..\admin`, err: errBackslash},
		{name: "encoded backslash", in: "/x%5c..", err: errBackslash},
		{name: "overlong dot", in: "/%c0%ae%c0%ae/", err: errUTF8},
		{name: "Latin-1", in: "/%e9", err: errUTF8},
		{name: "raw byte", in: "/\xff", err: errUTF8},
		{name: "percent alone", in: "/a%", err: errEscape},
		{name: "one digit", in: "/a%1", err: errEscape},
		{name: "no digits", in: "/a%zz", err: errEscape},
		{name: "escape over a slash", in: "/a%2/f", err: errEscape},
		{name: "relative", in: "admin", err: errRelative},
		{name: "asterisk", in: "*", err: errRelative},
		{name: "parameters", in: "/a;x=1/b", wire: "/a;x=1/b"},
		{name: "parameters refused", in: "/a;x", policy: Policy{RefuseParameters: true}, err: errParameters},
		{name: "escaped parameters refused", in: "/a%3bx", policy: Policy{RefuseParameters: true}, err: errParameters},
		{name: "dots with parameters", in: "/x/..;a/admin", err: errDotParam},
		{name: "dots with escaped parameters", in: "/x/%2e.%3b/admin", err: errDotParam},
	} {
		t.Run(one.name, func(t *testing.T) {
			got, err := one.policy.Clean(one.in)
			if !errors.Is(err, one.err) {
				t.Fatalf("%v, want %v", err, one.err)
			}
			want := Path{one.wire, one.plain}
			if want.Plain == "" {
				want.Plain = want.Wire
			}
			if got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}

// TestApply: what net/http parsed ends in the same form, and nothing of the query changes.
func TestApply(t *testing.T) {
	for _, one := range []struct{ method, target, uri, plain string }{
		{"GET", "/%61dmin/../x?q=%2e%2e/", "/x?q=%2e%2e/", "/x"},
		{"GET", "http://a.example/x//y", "/x/y", "/x/y"},
		{"GET", "http://a.example", "/", "/"},
		{"GET", "/a!b'(c)*", "/a!b'(c)*", "/a!b'(c)*"},
		{"GET", "/a%21b", "/a%21b", "/a!b"},
		{"GET", "/%e2%82%ac?", "/%E2%82%AC?", "/€"},
		{"OPTIONS", "*", "*", "*"},
	} {
		u, err := url.ParseRequestURI(one.target)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(one.method, "/", nil)
		r.URL, r.RequestURI = u, one.target
		plain, err := Policy{}.Apply(r)
		if err != nil || plain != one.plain || r.URL.RequestURI() != one.uri || one.target != "*" && r.RequestURI != one.uri {
			t.Errorf("%s: %q, %q, %q: %v", one.target, plain, r.URL.RequestURI(), r.RequestURI, err)
		}
	}
	if u, err := url.ParseRequestURI("http:admin"); err != nil || u.Opaque == "" {
		t.Errorf("%+v: %v", u, err)
	} else if plain, err := (Policy{}).Apply(&http.Request{Method: "GET", URL: u}); err == nil {
		t.Errorf("an opaque target is taken as %q", plain)
	}
	for _, one := range []struct{ method, path string }{{"GET", "*"}, {"CONNECT", ""}, {"GET", "/a/../.."}} {
		r := &http.Request{Method: one.method, URL: &url.URL{Path: one.path}}
		if plain, err := (Policy{}).Apply(r); err == nil {
			t.Errorf("%s %q: taken as %q", one.method, one.path, plain)
		}
	}
}

func TestSet(t *testing.T) {
	u := &url.URL{Scheme: "http", Host: "a", Path: "/x", RawQuery: "q"}
	if err := (Policy{KeepEncodedSlash: true}).Set(u, "/a%2fb/./c"); err != nil || u.String() != "http://a/a%2Fb/c?q" || u.Path != "/a/b/c" {
		t.Errorf("%s: %v", u, err)
	}
	if err := (Policy{}).Set(u, "/%2f"); err == nil || u.Path != "/a/b/c" {
		t.Errorf("%s: %v", u, err)
	}
}

func TestCleanAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _, _ = Policy{}.Clean("/api/v1/users/4711/files") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzClean: whatever comes in, what comes out is in its one form in the eyes of a plain reader.
func FuzzClean(f *testing.F) {
	for _, s := range []string{"/", "/a/b", "/%61/..", "//x/./y", "/a%2Fb", "/%c3%bc;x=1", "/..;/x", "/a b%25%32%65", "/\\", "*", "/%C0%AE"} {
		f.Add(s, byte(0))
		f.Add(s, byte(7))
	}
	f.Fuzz(func(t *testing.T, s string, flags byte) {
		p := Policy{KeepEncodedSlash: flags&1 != 0, RefuseDoubleSlash: flags&2 != 0, RefuseParameters: flags&4 != 0}
		got, err := p.Clean(s)
		if err != nil {
			return
		}
		decoded, err := url.PathUnescape(got.Wire)
		if err != nil || !utf8.ValidString(decoded) || strings.ContainsFunc(decoded, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
			t.Fatalf("%q: wire %q decodes to %q: %v", s, got.Wire, decoded, err)
		}
		wire, plain := strings.Split(got.Wire, "/"), strings.Split(got.Plain, "/")
		if len(wire) != len(plain) || len(wire) < 2 || wire[0] != "" {
			t.Fatalf("%q: %q and %q", s, got.Wire, got.Plain)
		}
		for i, seg := range wire[1:] {
			d, _ := url.PathUnescape(seg)
			if seg == "" && i != len(wire)-2 || d == "." || d == ".." {
				t.Fatalf("%q: segment %d of %q", s, i, got.Wire)
			}
			same := strings.NewReplacer("%", "%25", "/", "%2F").Replace(d)
			if plain[i+1] != same {
				t.Fatalf("%q: plain %q, want %q", s, plain[i+1], same)
			}
		}
		if again, err := p.Clean(got.Wire); err != nil || again != got {
			t.Fatalf("%q: %+v, again %+v: %v", s, got, again, err)
		}
		if back, err := p.Clean(Encode(got.Plain)); err != nil || back.Plain != got.Plain {
			t.Fatalf("%q: plain %q comes back as %q: %v", s, got.Plain, back.Plain, err)
		}
		u := &url.URL{}
		if err := p.Set(u, s); err != nil || u.EscapedPath() != got.Wire {
			t.Fatalf("%q: URL's path %q, want %q: %v", s, u.EscapedPath(), got.Wire, err)
		}
	})
}

func BenchmarkClean(b *testing.B) {
	for _, s := range []string{"/api/v1/users/4711/files", "/api/v1/%75sers/../x%20y/files"} {
		b.Run(strings.ReplaceAll(s, "/", "_"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = Policy{}.Clean(s)
			}
		})
	}
}
