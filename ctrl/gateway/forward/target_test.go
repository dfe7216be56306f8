package forward

import (
	"net/url"
	"testing"

	"github.com/np-appliance/np/ctrl/gateway/h1"
)

// FuzzTarget: a target goes to an endpoint by HTTP/2 and 3 as it does by HTTP/1.1, byte
// for byte, or not at all.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"/", "*", "/a%2fb?c=d", "//x", "//user@host:1/a", "/?", "/a?b?c", "/%", "/a//b/../c", "/;a=b", "/a%20b", "/'\"<>", "/http://x/", "/a:b", "/?a=%zz", "/a!$&'()*+,;=:@[]^`{|}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q := &h1.Request{Method: "GET", Target: s, Host: "a"}
		if q.Check() != nil {
			return
		}
		u := url.URL{Scheme: "https", Host: "h"}
		if setTarget(&u, s) != nil {
			return
		}
		if u.Host != "h" || u.Scheme != "https" || u.User != nil || u.Opaque != "" || u.Fragment != "" {
			t.Fatalf("%q: %+v", s, u)
		}
		if got := u.RequestURI(); got != s {
			t.Fatalf("%q is sent as %q", s, got)
		}
	})
}

// FuzzTimeouts: no text of a client's makes a deadline that is none.
func FuzzTimeouts(f *testing.F) {
	for _, s := range []string{"1S", "99999999H", "1.5", "2s", "-1", "NaN", "1e309", "0x1p3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, ok := parseGRPCTimeout(s); ok && (d < 0 || d > maxTimeout) {
			t.Fatalf("%q: %v", s, d)
		}
		if d, ok := parseTimeout(s, 0); ok && d < 0 {
			t.Fatalf("%q: %v", s, d)
		}
	})
}
