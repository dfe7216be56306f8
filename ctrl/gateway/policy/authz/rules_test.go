package authz

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

func ask(method, target string, x *exchange.Exchange) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	return r.WithContext(exchange.With(r.Context(), x))
}

func ann() *exchange.Exchange {
	return &exchange.Exchange{Client: netip.MustParseAddrPort("198.18.0.9:4000"), Listener: "web", Route: "orders", Vars: []exchange.Var{{Name: "tenant", Value: "blue"}, {Name: "empty", Value: ""}},
		Identity: &exchange.Identity{Provider: "jwt", Subject: "ann", Scopes: []string{"orders.read", "a b"}, Groups: map[string]struct{}{"staff": {}, "team-x": {}},
			Claims: map[string]any{"tenant": "blue", "roles": []any{"r1", "r2"}, "org": map[string]any{"id": float64(7)}, "verified": true, "void": ""}}}
}

func mustParse(t testing.TB, allow, deny []string) *Rules {
	t.Helper()
	r, err := Parse(allow, deny)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestConditions: each rule alone, as allow.
func TestConditions(t *testing.T) {
	for rule, want := range map[string]bool{
		"*": true, "!*": false, "authenticated": true, "anonymous": false, "!anonymous": true,
		"subject:ann": true, "subject:bob,ann": true, "subject:an*": true, "subject:*n": true, "subject:*": true, "subject:Ann": false, "!subject:ann": false, "subject:ann*": true, "subject:*x*": false, "subject:*nn*": true,
		"provider:jwt": true, "provider:basic": false,
		"group:staff": true, "group:admins,staff": true, "group:admins": false, "group:team-*": true, "group:*-y": false,
		"scope:orders.read": true, "scope:orders.write": false, `scope:"a b"`: true, "scope:orders.*": true,
		"claim:tenant=blue": true, "claim:tenant=red": false, "claim:tenant": true, "claim:none": false, "!claim:none": true, "claim:roles=r2": true, "claim:org.id=7": true, "claim:verified=true": true,
		"claim:tenant={tenant}": true, "claim:tenant={none}": false, "!claim:tenant={none}": false, "claim:void={empty}": false, "subject:{subject}": true, "claim:tenant={claim:tenant}": true, "claim:tenant={claim:void}": false,
		"claim:tenant=x{tenant}": false, "subject:a{claim:none}n": false,
		"client:198.18.0.0/15": true, "client:198.18.0.9": true, "client:10.0.0.0/8,2001:db8::/32": false, "!client:10.0.0.0/8": true,
		"listener:web": true, "listener:admin": false, "tls": false, "!tls": true, "sni:a": false, "cert:a": false,
		"host:api.example": true, "host:API.example": true, "host:*.example": true, "host:example": false,
		"method:GET": true, "method:post,get": true, "method:POST": false,
		"path:/orders/{id}": true, "path:/orders/{id}/": true, "path:/orders": false, "path:/orders/{rest...}": true, "path:/{all...}": true, "path:/orders/7,/x": true, "path:/orders/8": false, "path:/": false, "path:/orders/7/{r...}": true,
		"path:/{kind}/{id} var:kind=orders": true, "var:id=7 path:/{kind}/{id}": true, "path:/{kind}/{id} var:kind=x": false, "var:id=7": false, "!var:id=7": false, "var:tenant=blue": true,
		"path:/orders/{tenant} claim:tenant={tenant}": false, // the rule's own path comes before the route's
		"grpc:orders/7": true, "grpc:orders/*": true, "grpc:order/*": false,
		"header:x-env=test": true, "header:X-Env": true, "header:X-None": false, "header:X-Env=te*": true,
		"group:staff method:GET path:/orders/{id}": true, "group:staff method:POST": false,
	} {
		x := ann()
		r := ask("GET", "http://Api.Example:8080/orders/7?q=1", x)
		r.Header.Set("X-Env", "test")
		d := mustParse(t, []string{rule}, nil).Check(r, x)
		if d.Allowed != want || d.Allowed && d.Rule != rule {
			t.Errorf("%s: %+v, expected %v", rule, d, want)
		}
	}
}

func TestOrder(t *testing.T) {
	r := mustParse(t, []string{"group:staff", "scope:admin method:GET"}, []string{"client:198.18.0.9 method:DELETE", "subject:eve"})
	x := ann()
	if d := r.Check(ask("GET", "/", x), x); !d.Allowed {
		t.Errorf("%+v", d)
	}
	if d := r.Check(ask("DELETE", "/", x), x); d.Allowed || d.Rule != "client:198.18.0.9 method:DELETE" {
		t.Errorf("%+v", d)
	}
	x.Identity.Groups = nil
	if d := r.Check(ask("GET", "/", x), x); d.Allowed || d.Rule != "" || !slices.Equal(d.Scopes, []string{"admin"}) {
		t.Errorf("%+v", d)
	}
	if d := r.Check(ask("HEAD", "/", x), x); len(d.Scopes) != 1 {
		t.Errorf("HEAD is not what GET is: %+v", d)
	}
	if d := r.Check(ask("POST", "/", x), x); d.Allowed || d.Scopes != nil {
		t.Errorf("%+v", d)
	}
	x.Identity = nil
	if d := r.Check(ask("GET", "/", x), x); d.Allowed {
		t.Errorf("%+v", d)
	}
	if d := mustParse(t, nil, nil).Check(ask("GET", "/", x), x); !d.Allowed {
		t.Error("without rules something is refused")
	}
}

// TestAmbiguous: what other servers may read otherwise is neither allowed nor missed by deny.
func TestAmbiguous(t *testing.T) {
	allow := mustParse(t, []string{"path:/public/{rest...}"}, nil)
	allowNot := mustParse(t, []string{"!path:/admin/{rest...}"}, nil)
	deny := mustParse(t, []string{"*"}, []string{"path:/admin/{rest...}"})
	denyGRPC := mustParse(t, []string{"*"}, []string{"grpc:admin.S/*"})
	for _, path := range []string{"/public/..%2fadmin/x", "/public%2f../admin", "/public//admin", "//admin", "/public/./x", "/public/../admin", "/public/%2e%2e/admin", "/public/x%5c..", "/admin;a=b/x", "/public/%00",
		"/public/" + strings.Repeat("a/", 300)} {
		x := ann()
		r := ask("GET", "/", x)
		if err := setPath(r, path); err != nil {
			t.Fatal(path, err)
		}
		if allow.Check(r, x).Allowed || allowNot.Check(r, x).Allowed || deny.Check(r, x).Allowed || denyGRPC.Check(r, x).Allowed {
			t.Errorf("%s passes: %v %v %v %v", path, allow.Check(r, x).Allowed, allowNot.Check(r, x).Allowed, deny.Check(r, x).Allowed, denyGRPC.Check(r, x).Allowed)
		}
	}
	for _, path := range []string{"/admin", "/admin/", "/admin/x", "/%61dmin/x"} {
		x := ann()
		r := ask("GET", "/", x)
		if err := setPath(r, path); err != nil {
			t.Fatal(path, err)
		}
		if deny.Check(r, x).Allowed || allowNot.Check(r, x).Allowed {
			t.Errorf("%s passes", path)
		}
	}
	x := ann()
	x.Client = netip.AddrPort{}
	if d := mustParse(t, []string{"*"}, []string{"client:10.0.0.0/8"}).Check(ask("GET", "/", x), x); d.Allowed {
		t.Error("a client without an address passes a rule that denies addresses")
	}
}

func setPath(r *http.Request, path string) error {
	u, err := r.URL.Parse("http://h/")
	if err != nil {
		return err
	}
	u.RawPath = path
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) {
			n := strings.IndexByte("0123456789abcdef", path[i+1])*16 + strings.IndexByte("0123456789abcdef", path[i+2])
			u.Path += string([]byte{byte(n)})
			i += 2
			continue
		}
		u.Path += string(path[i])
	}
	u.Path = strings.TrimPrefix(u.Path, "/")
	if !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(path, "//") {
		u.Path = "/" + u.Path
	}
	r.URL = u
	return nil
}

// TestExtendedConnect: a stream that stands for a GET is one for rules, as it is for routes.
func TestExtendedConnect(t *testing.T) {
	rules := mustParse(t, []string{"*"}, []string{"method:GET path:/admin/{rest...}"})
	for name, change := range map[string]func(*http.Request){
		"HTTP/2":                     func(r *http.Request) { r.Header[":protocol"] = []string{"websocket"} },
		"HTTP/3":                     func(r *http.Request) { r.Proto = "websocket" },
		"HTTP/2, in capitals":        func(r *http.Request) { r.Header[":protocol"] = []string{"WebSocket"} },
		"HTTP/3, in capitals":        func(r *http.Request) { r.Proto = "WebSocket" },
		"HTTP/3, no WebSocket":       func(r *http.Request) { r.Proto = "connect-udp" },
		"HTTP/2, no protocol's name": func(r *http.Request) { r.Header[":protocol"] = []string{""} },
	} {
		x := ann()
		r := ask("GET", "http://h/admin/x", x)
		r.Method = "CONNECT"
		change(r)
		if rules.Check(r, x).Allowed {
			t.Errorf("%s: an extended CONNECT passes a rule that denies GET", name)
		}
		if !mustParse(t, []string{"method:GET"}, nil).Check(r, x).Allowed {
			t.Errorf("%s: an extended CONNECT is no GET", name)
		}
	}
}

// TestConnectionRules: a connection is refused as soon as nothing that is told later could
// let it in, and not before.
func TestConnectionRules(t *testing.T) {
	leaf := &x509.Certificate{DNSNames: []string{"worker.example"}, Subject: pkix.Name{CommonName: "worker"}}
	state := &tls.ConnectionState{ServerName: "Api.example", NegotiatedProtocol: "h2", VerifiedChains: [][]*x509.Certificate{{leaf}}}
	hello := &tls.ConnectionState{ServerName: "Api.example"}
	client, bad := netip.MustParseAddrPort("[2001:db8::1]:1"), netip.MustParseAddrPort("[2001:db8:bad::1]:1")
	strict := [][]string{{"tls sni:api.example cert:worker*", "listener:open"}, {"client:2001:db8:bad::/48", "client:2001:db8::/48 sni:*.internal"}}
	const all = SNI | ALPN | Cert
	for name, one := range map[string]struct {
		rules            [][]string
		c                Connection
		allowed, decided bool
	}{
		"address that is denied":             {strict, Connection{Listener: "web", Client: bad, TLS: &tls.ConnectionState{}, Later: all}, false, true},
		"address, the rest later":            {strict, Connection{Listener: "web", Client: client, TLS: &tls.ConnectionState{}, Later: all}, true, false},
		"no TLS, which the only rule wants":  {strict, Connection{Listener: "web", Client: client}, false, true},
		"another listener":                   {strict, Connection{Listener: "open", Client: client}, true, true},
		"another listener, a name later":     {strict, Connection{Listener: "open", Client: client, TLS: &tls.ConnectionState{}, Later: all}, true, false},
		"name that fits, certificate later":  {strict, Connection{Listener: "web", Client: client, TLS: hello, Later: ALPN | Cert}, true, false},
		"name that does not":                 {strict, Connection{Listener: "web", Client: client, TLS: &tls.ConnectionState{ServerName: "x"}, Later: ALPN | Cert}, false, true},
		"all that there is":                  {strict, Connection{Listener: "web", Client: client, TLS: state}, true, true},
		"no certificate":                     {strict, Connection{Listener: "web", Client: client, TLS: hello}, false, true},
		"client that requests tell":          {[][]string{{"client:10.0.0.0/8"}, nil}, Connection{Listener: "web", Client: client, Later: Client}, true, false},
		"unknown client is not allowed":      {[][]string{{"client:::/0"}, nil}, Connection{Listener: "web"}, false, true},
		"unknown client is denied":           {[][]string{{"*"}, {"client:10.0.0.0/8"}}, Connection{Listener: "web"}, false, true},
		"protocol":                           {[][]string{{"alpn:h2,h3"}, nil}, Connection{TLS: state}, true, true},
		"another protocol":                   {[][]string{{"alpn:h3"}, nil}, Connection{TLS: state}, false, true},
		"protocol that is offered":           {[][]string{{"alpn:h3"}, nil}, Connection{TLS: hello, Offered: []string{"h2", "h3"}}, true, true},
		"no protocol":                        {[][]string{{"alpn:h3"}, nil}, Connection{TLS: hello}, false, true},
		"protocol later, denied by it alone": {[][]string{{"*"}, {"alpn:h3"}}, Connection{TLS: hello, Later: ALPN}, true, false},
		"no rules":                           {[][]string{nil, nil}, Connection{TLS: hello, Later: ALPN}, true, true},
	} {
		r, err := ParseConnection(one.rules[0], one.rules[1], Place{})
		if err != nil {
			t.Fatal(err)
		}
		if d, decided := r.Connection(&one.c); d.Allowed != one.allowed || decided != one.decided {
			t.Errorf("%s: %+v, decided %v", name, d, decided)
		}
	}
}

// TestConnectionPlaces: what is never told where a rule stands is an error of the rule.
func TestConnectionPlaces(t *testing.T) {
	for rule, want := range map[string]string{
		"path:/x": "expected one of *, alpn, cert, client, listener, sni, tls", "sni:a": "no TLS", "tls alpn:h2": "character 5: alpn: the listener has no TLS", "cert:a": "client_auth", "client:10.0.0.0/8": "a Unix socket tells no address",
	} {
		_, err := ParseConnection([]string{rule}, nil, Place{Never: Client | SNI | ALPN | Cert, Unix: true})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", rule, err)
		}
	}
	if _, err := ParseConnection([]string{"!tls listener:a", "*"}, nil, Place{Never: Client | SNI | ALPN | Cert}); err != nil {
		t.Error(err)
	}
}

func TestParseErrors(t *testing.T) {
	for rule, want := range map[string]string{
		"":                        "an empty rule",
		"  ":                      "an empty rule",
		"who:ann":                 `character 1: condition "who"`,
		"group:a grp:b":           "character 9: condition \"grp\"",
		"group":                   "group without a value",
		"group:":                  "an empty value",
		"group:a,":                "an empty value",
		"group:a,,b":              "an empty value",
		"*:x":                     "expected none",
		"claim:=x":                "without a name",
		"var:x":                   "without a value",
		"subject:a*b":             `"*" inside`,
		"subject:{":               "braces",
		"subject:{}":              "braces",
		"subject:a}":              "not open",
		"subject:{a:b}":           "variable's name",
		`subject:"a`:              "not closed",
		`subject:"a\n"`:           "backslash",
		`subject:"a"b`:            "behind a value",
		"client:10.0.0.1/8":       "no bits behind",
		"client:host":             "expected an address",
		"path:orders":             "slash at its beginning",
		"path:/a//b":              "empty or a dot segment",
		"path:/../b":              "empty or a dot segment",
		"path:/a*":                "each segment",
		"path:/{a...}/b":          "at the end",
		"path:/{a}/{a}":           "of its own",
		"path:/{}":                "of its own",
		"path:/a/{b},/c":          "a rule for each path",
		"grpc:x":                  "grpc:package.Service/Method",
		"! group:a":               "condition \"\"",
		strings.Repeat("* ", 40):  "more than 32",
		strings.Repeat("x", 5000): "4096",
		"group:" + strings.Repeat("a,", 300) + "a": "more than 256",
	} {
		_, err := Parse([]string{"*", rule}, nil)
		var re *RuleError
		if err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, &re) || re.List != "allow" || re.Index != 1 {
			t.Errorf("%.40q: got %v, expected %q", rule, err, want)
		}
	}
	if _, err := Parse(nil, []string{"group:a"}); err == nil || !strings.Contains(err.Error(), `allow = ["*"]`) {
		t.Errorf("deny alone: %v", err)
	}
}

func TestStageAnswers(t *testing.T) {
	challenges := []string{`Bearer realm="r"`, `Basic realm="r"`}
	h := Stage(Config{Rules: mustParse(t, []string{"scope:orders.write"}, nil), Challenges: challenges})(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
	serve := func(x *exchange.Exchange) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, ask("GET", "/", x))
		return w
	}
	w := serve(&exchange.Exchange{})
	if w.Code != 401 || !slices.Equal(w.Header()["Www-Authenticate"], challenges) {
		t.Errorf("nobody: %d %v", w.Code, w.Header())
	}
	x := ann()
	w = serve(x)
	if w.Code != 403 || !slices.Equal(w.Header()["Www-Authenticate"], []string{`Bearer realm="r", error="insufficient_scope", scope="orders.write"`}) || len(x.Notes()) != 1 {
		t.Errorf("somebody: %d %v %v", w.Code, w.Header(), x.Notes())
	}
	x.Identity.Scopes = []string{"orders.write"}
	if w = serve(x); w.Code != 204 {
		t.Errorf("with the scope: %d", w.Code)
	}
}

func FuzzRules(f *testing.F) {
	for _, s := range []string{"group:a", `claim:t="a b",{x}*`, "path:/a/{b}/{c...} var:b=1", "!client:10.0.0.0/8 method:GET", "header:X=*y*", "grpc:a.B/*"} {
		f.Add(s, "/a/b/c;x/%2e")
	}
	f.Fuzz(func(t *testing.T, rule, path string) {
		r, err := Parse([]string{rule}, nil)
		if err != nil {
			return
		}
		deny, err := Parse([]string{"*"}, []string{rule})
		if err != nil {
			t.Fatal(err)
		}
		x := ann()
		req := ask("GET", "http://h/", x)
		if u, err := req.URL.Parse("http://h" + path); err == nil && strings.HasPrefix(path, "/") {
			req.URL = u
		}
		// what allow says yes to, deny must not miss
		if r.Check(req, x).Allowed && deny.Check(req, x).Allowed {
			t.Errorf("%q holds as allow and not as deny for %s", rule, req.URL)
		}
	})
}

func BenchmarkRules(b *testing.B) {
	r := mustParse(b, []string{"group:admins", "scope:orders.write method:POST,PUT path:/orders/{id}", "claim:tenant={tenant} path:/t/{tenant}/{rest...}"}, []string{"client:198.18.6.0/24"})
	x := ann()
	req := ask("GET", "http://h/t/blue/x/y", x)
	if !r.Check(req, x).Allowed {
		b.Fatal("refused")
	}
	b.ReportAllocs()
	for b.Loop() {
		r.Check(req, x)
	}
}
