package gateway

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// echoFields answers with the fields that it is asked about.
func echoFields(t *testing.T, names ...string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range names {
			fmt.Fprintf(w, "%s=%q ", name, r.Header.Values(name))
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// raw sends bytes and returns the answer.
func (r *rig) raw(t *testing.T, request string) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var b strings.Builder
	if _, err := bufio.NewReader(res.Body).WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return res, b.String()
}

// TestConnectionNamesOurFields: what a client names in Connection is left out of what it
// sent, and never of what the gateway sets for the upstream.
func TestConnectionNamesOurFields(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	users(t, file, "ann")
	r := newRig(t, fmt.Sprintf(basicAuth, file)+upstreamOf("u", echoFields(t, "X-User", "X-Env", "X-Mine", "X-Forwarded-For", "X-Kept"))+`
[[route]]
name = "all"
path_prefix = "/"
upstream = "u"
auth.providers = ["users"]
request_set = ["X-Env: prod"]
`)
	for _, connection := range []string{"close, X-User, x-env , X-Mine", "X-Mine\r\nConnection: x-user,X-ENV,,\r\nConnection: close"} {
		_, body := r.raw(t, "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic YW5uOnNlY3JldA==\r\nConnection: "+connection+
			"\r\nX-Mine: 1\r\nX-Kept: 2\r\nX-Env: dev\r\nX-User: root\r\n\r\n")
		if want := `X-User=["ann"] X-Env=["prod"] X-Mine=[] X-Forwarded-For=["127.0.0.1"] X-Kept=["2"] `; body != want {
			t.Errorf("Connection %q: %s\nwant %s", connection, body, want)
		}
	}
}

func TestOwnHop(t *testing.T) {
	for _, one := range []struct{ in, out, gone string }{
		{"keep-alive", "keep-alive", ""},
		{"Upgrade", "Upgrade", ""},
		{"Upgrade, X-A", "Upgrade", "X-A"},
		{" close ,X-A,\tx-b", "close", "X-A X-B"},
		{"X-A", "", "X-A"},
		{"TE, X-A, keep-alive", "TE, keep-alive", "X-A"},
		{"X-Forwarded-For, Forwarded, X-Request-Id", "", ""},
		{"Host, Content-Length, :authority, bad name", "", "Content-Length"},
	} {
		h := http.Header{"Connection": {one.in}}
		for _, name := range []string{"X-A", "X-B", "X-Forwarded-For", "Forwarded", "X-Request-Id", "Content-Length"} {
			h.Set(name, "1")
		}
		ownHop(h)
		if got := h.Get("Connection"); got != one.out {
			t.Errorf("%q: Connection %q, want %q", one.in, got, one.out)
		}
		for _, name := range []string{"X-A", "X-B", "X-Forwarded-For", "Forwarded", "X-Request-Id", "Content-Length"} {
			if gone := h.Get(name) == ""; gone != strings.Contains(" "+one.gone+" ", " "+name+" ") {
				t.Errorf("%q: %s gone: %v", one.in, name, gone)
			}
		}
	}
}

// TestNotBelieved: a client can't have endpoints believe of it what only a proxy in front may
// say; a route and such a proxy can.
func TestNotBelieved(t *testing.T) {
	names := []string{"X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Prefix", "X_forwarded_for", "X-Forwarded_proto", "X-Real-Ip", "X_real_ip", "X-Forward", "X-Rea"}
	ask := func(r *rig, path string) string {
		var b strings.Builder
		for _, name := range names {
			fmt.Fprintf(&b, "%s: 7\r\n", name)
		}
		_, body := r.raw(t, "GET "+path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"+b.String()+"\r\n")
		return body
	}
	rest := `
[[upstream]]
name = "keeps"
endpoints = ["` + echoFields(t, names...) + `"]
forwarded = "keep"
[[route]]
name = "all"
path_prefix = "/"
upstream = "u"
request_set = ["X-Forwarded-Prefix: /all"]
[[route]]
name = "kept"
path_prefix = "/kept"
upstream = "keeps"
`
	text := upstreamOf("u", echoFields(t, names...)) + rest
	r := newRig(t, text)
	if body, want := ask(r, "/"), `X-Forwarded-For=["127.0.0.1"] X-Forwarded-Port=[] X-Forwarded-Prefix=["/all"] X_forwarded_for=[] X-Forwarded_proto=[] X-Real-Ip=[] X_real_ip=[] X-Forward=["7"] X-Rea=["7"] `; body != want {
		t.Errorf("%s\nwant %s", body, want)
	}
	if body, want := ask(r, "/kept"), `X-Forwarded-For=["7"] X-Forwarded-Port=["7"] X-Forwarded-Prefix=["7"] X_forwarded_for=["7"] X-Forwarded_proto=["7"] X-Real-Ip=["7"] X_real_ip=["7"] X-Forward=["7"] X-Rea=["7"] `; body != want {
		t.Errorf("%s\nwant %s", body, want)
	}
}
