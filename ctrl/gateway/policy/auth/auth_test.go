package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// providers are one of each of three kinds: users ann:x, key k of service, a token of alice.
func providers(t *testing.T) (users, keys, tokens Provider, token string) {
	t.Helper()
	clock := newClock()
	b, err := NewBasic(BasicConfig{Name: "users", Rand: rand.Reader, File: writeFile(t, 0o600, argonLine("ann", "x")+":staff"), Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAPIKeys(APIKeysConfig{Name: "keys", File: writeFile(t, 0o600, "[[key]]", `name = "service"`, `sha256 = "`+hexSum("k")+`"`, `scopes = ["s"]`), Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	key := makeKey(t, "1", jose.ES256)
	return b, a, start(t, jwtConfig(newIssuer(t, key), clock)), key.sign(t, claims(nil), nil)
}

func uses(ps ...Provider) []Use {
	var out []Use
	for _, p := range ps {
		out = append(out, Use{Provider: p})
	}
	return out
}

// down is a provider that never knows.
type down struct{ *MTLS }

func (down) Authenticate(*http.Request) (*exchange.Identity, error) {
	return nil, &Unavailable{errors.New("it is down")}
}

func serve(t *testing.T, cfg Config, change func(*http.Request)) (*httptest.ResponseRecorder, *exchange.Exchange, *http.Request) {
	t.Helper()
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	x := &exchange.Exchange{ID: "i"}
	r := httptest.NewRequest("GET", "/", nil)
	if change != nil {
		change(r)
	}
	var passed *http.Request
	w := httptest.NewRecorder()
	a.Stage(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { passed = r })).ServeHTTP(w, r.WithContext(exchange.With(r.Context(), x)))
	return w, x, passed
}

func TestCombine(t *testing.T) {
	users, keys, tokens, token := providers(t)
	m, _ := NewMTLS(MTLSConfig{Name: "down"})
	dead := down{m}
	withUser := func(r *http.Request) { r.SetBasicAuth("ann", "x") }
	withKey := func(r *http.Request) { r.Header.Set("X-API-Key", "k") }
	withToken := func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
	wrongKey := func(r *http.Request) { r.Header.Set("X-API-Key", "wrong") }
	both := func(r *http.Request) { withUser(r); withKey(r) }
	for name, one := range map[string]struct {
		cfg     Config
		change  func(*http.Request)
		status  int
		subject string
	}{
		"any, by the first":        {Config{Providers: uses(users, keys, tokens)}, withUser, 200, "ann"},
		"any, by the last":         {Config{Providers: uses(users, keys, tokens)}, withToken, 200, "alice"},
		"any, nothing":             {Config{Providers: uses(users, keys, tokens)}, nil, 401, ""},
		"any, one wrong":           {Config{Providers: uses(keys, tokens)}, func(r *http.Request) { wrongKey(r); withToken(r) }, 200, "alice"},
		"any, all wrong":           {Config{Providers: uses(keys, tokens)}, wrongKey, 401, ""},
		"any, one down":            {Config{Providers: uses(dead, keys)}, withKey, 200, "service"},
		"any, down and wrong":      {Config{Providers: uses(dead, keys)}, wrongKey, 503, ""},
		"optional, nothing":        {Config{Providers: uses(keys), Optional: true}, nil, 200, ""},
		"optional, wrong":          {Config{Providers: uses(keys), Optional: true}, wrongKey, 401, ""},
		"optional, down":           {Config{Providers: uses(dead), Optional: true}, nil, 503, ""},
		"all":                      {Config{Providers: uses(users, keys), All: true}, both, 200, "ann"},
		"all, one lacks":           {Config{Providers: uses(users, keys), All: true}, withUser, 401, ""},
		"all, one down, one lacks": {Config{Providers: uses(dead, keys), All: true}, nil, 503, ""},
		"all, one down, one wrong": {Config{Providers: uses(dead, keys), All: true}, wrongKey, 401, ""},
	} {
		w, x, passed := serve(t, one.cfg, one.change)
		if w.Code != one.status || (passed != nil) != (one.status == 200) {
			t.Errorf("%s: %d, passed on: %v, %v", name, w.Code, passed != nil, x.Notes())
			continue
		}
		if one.subject != "" && (x.Identity == nil || x.Identity.Subject != one.subject) || one.subject == "" && x.Identity != nil {
			t.Errorf("%s: %+v", name, x.Identity)
		}
		if (w.Code == 401) != (len(w.Header()["Www-Authenticate"]) > 0) {
			t.Errorf("%s: %v", name, w.Header())
		}
	}
	_, x, _ := serve(t, Config{Providers: uses(users, keys), All: true}, both)
	if _, staff := x.Identity.Groups["staff"]; x.Identity.Provider != "users+keys" || !slices.Contains(x.Identity.Scopes, "s") || !staff {
		t.Errorf("%+v", x.Identity)
	}
}

func TestChallenges(t *testing.T) {
	users, keys, tokens, _ := providers(t)
	w, _, _ := serve(t, Config{Providers: uses(users, keys, tokens)}, nil)
	if got := w.Header()["Www-Authenticate"]; !slices.Equal(got, []string{`Basic realm="users", charset="UTF-8"`, `ApiKey realm="keys"`, `Bearer realm="jwt"`}) {
		t.Errorf("%q", got)
	}
	w, x, _ := serve(t, Config{Providers: uses(tokens)}, func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") })
	if got := w.Header().Get("WWW-Authenticate"); !strings.Contains(got, `error="invalid_token"`) || x.Reason != exchange.Unauthenticated || len(x.Notes()) != 1 {
		t.Errorf("%q, %v", got, x.Notes())
	}
	w, _, _ = serve(t, Config{Providers: uses(tokens)}, func(r *http.Request) { r.Header["Authorization"] = []string{"Bearer x", "Bearer y"} })
	if got := w.Header().Get("WWW-Authenticate"); w.Code != 400 || !strings.Contains(got, `error="invalid_request"`) {
		t.Errorf("%d %q", w.Code, got)
	}
	w, x, _ = serve(t, Config{Providers: uses(tokens)}, func(r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		cancel()
		*r = *r.WithContext(ctx)
	})
	if x.Reason != exchange.ClientGone || w.Body.Len() > 0 {
		t.Errorf("%s", x.Reason)
	}
}

func TestForward(t *testing.T) {
	_, _, tokens, token := providers(t)
	cfg := Config{Optional: true, Remove: []string{"X-Other-Route"}, Providers: []Use{{Provider: tokens, Strip: true, Forward: Forward{Subject: "X-Auth-Subject", Provider: "X-Auth-Provider", Scopes: "X-Auth-Scopes", Groups: "X-Auth-Groups", Claims: map[string]string{"X-Auth-Audience": "aud", "X-Auth-Tenant": "tenant"}}}}}
	forge := func(r *http.Request) {
		for _, name := range []string{"X-Auth-Subject", "X_Auth_Subject", "x-auth_groups", "X-Auth-Tenant", "X-Auth-Scopes", "X-Other-Route"} {
			r.Header[name] = []string{"root"}
		}
		r.Header.Set("X-Auth-Other", "stays")
	}
	_, _, r := serve(t, cfg, forge)
	if len(r.Header) != 1 || r.Header.Get("X-Auth-Other") != "stays" {
		t.Errorf("nobody is forwarded as %v", r.Header)
	}
	_, _, r = serve(t, cfg, func(r *http.Request) { forge(r); r.Header.Set("Authorization", "Bearer "+token) })
	for name, want := range map[string]string{"X-Auth-Subject": "alice", "X-Auth-Provider": "jwt", "X-Auth-Scopes": "a b c", "X-Auth-Groups": "admins", "X-Auth-Audience": "orders", "X-Auth-Tenant": "", "X_Auth_Subject": "", "Authorization": ""} {
		if got := strings.Join(r.Header[name], "|"); got != want {
			t.Errorf("%s: %q, expected %q", name, got, want)
		}
	}
}

// TestForwardAmbiguous: a value that reads differently at the other end is not sent.
func TestForwardAmbiguous(t *testing.T) {
	f := Forward{Subject: "X-S", Groups: "X-G", Scopes: "X-C"}
	for name, id := range map[string]*exchange.Identity{
		"blank before":     {Subject: " admin"},
		"line end":         {Subject: "a\r\nX-G: admins"},
		"NUL":              {Subject: "a\x00"},
		"comma in a group": {Subject: "a", Groups: map[string]struct{}{"a,admins": {}}},
		"blank in a scope": {Subject: "a", Scopes: []string{"a b"}},
		"no-break at ends": {Subject: "a\u00a0"},
	} {
		if err := f.write(http.Header{}, id); err == nil {
			t.Errorf("%s: sent", name)
		}
	}
	for _, bad := range []Forward{{Subject: "a b"}, {Subject: "X-A", Groups: "x_a"}, {Subject: "Host"}, {Claims: map[string]string{"X-A": ""}}, {Subject: "X-Forwarded-For"}} {
		if bad.Check() == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestRemove(t *testing.T) {
	var seen http.Header
	h := Remove([]string{"X-User"})(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header }))
	r := httptest.NewRequest("GET", "/", nil)
	r.Header = http.Header{"X-User": {"root"}, "X_user": {"root"}, "X-Users": {"a"}}
	h.ServeHTTP(httptest.NewRecorder(), r)
	if len(seen) != 1 || seen.Get("X-Users") != "a" {
		t.Errorf("%v", seen)
	}
}

// TestRemoveTrailers: a field that comes behind the body is taken out too.
func TestRemoveTrailers(t *testing.T) {
	var seen http.Header
	s := httptest.NewServer(Remove([]string{"X-User"})(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		seen = r.Trailer
	})))
	defer s.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, io.MultiReader(strings.NewReader("body")))
	if err != nil {
		t.Fatal(err)
	}
	r.Trailer = http.Header{"X-User": {"root"}, "X-Sum": {"1"}}
	res, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if seen.Get("X-Sum") != "1" || seen.Get("X-User") != "" {
		t.Errorf("%v", seen)
	}
}

func TestNewAuthenticator(t *testing.T) {
	m, _ := NewMTLS(MTLSConfig{Name: "m"})
	for _, cfg := range []Config{{}, {Providers: slices.Repeat(uses(m), 17)}, {Providers: uses(m), All: true, Optional: true}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

func FuzzJWT(f *testing.F) {
	clock := newClock()
	key := makeKey(f, "k", jose.ES256)
	j := start(f, jwtConfig(newIssuer(f, key), clock))
	good := key.sign(f, claims(nil), nil)
	if _, err := j.Authenticate(bearer(good)); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Add(b64(`{"alg":"none"}`) + ".e30.")
	f.Add(b64(`{"alg":"ES256","kid":"k","crit":["b64"],"b64":false}`) + ".e30.AAAA")
	f.Fuzz(func(t *testing.T, token string) {
		id, err := j.verify(t.Context(), token)
		if err == nil && id.Subject != "alice" {
			t.Errorf("a token that nobody signed: %+v", id)
		}
	})
}

func FuzzKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"oct","k":"AA"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseKeySet(b)
		if err == nil && (len(s.keys) == 0 || len(s.keys) > maxSetKeys) {
			t.Errorf("%d keys", len(s.keys))
		}
	})
}

func FuzzClaims(f *testing.F) {
	f.Add([]byte(`{"sub":"a","exp":1900000000,"aud":["orders"],"iss":"https://issuer.example"}`))
	f.Add([]byte(`{"exp":"x"}`))
	rules := TokenRules{AnyAud: true, Groups: []string{"a.b"}, Required: map[string][]string{}}
	rules.defaults()
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeClaims(b)
		if err != nil {
			return
		}
		id, until, err := rules.identity("p", c, epoch, true)
		if err == nil && (id.Subject == "" || !epoch.Before(until)) {
			t.Errorf("%+v until %s", id, until)
		}
	})
}
