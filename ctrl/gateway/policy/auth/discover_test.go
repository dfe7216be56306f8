package auth

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// TestDiscovery: an issuer's name suffices to find its keys, and is asked again where they
// are once they are not there any more.
func TestDiscovery(t *testing.T) {
	clock := newClock()
	key := makeKey(t, "1", jose.ES256)
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{key.jwk()}})
	if err != nil {
		t.Fatal(err)
	}
	var moved, asked bool
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keys := "/old"
		if moved {
			keys = "/new"
		}
		switch r.URL.Path {
		case "/tenant" + wellKnown:
			asked = true
			_ = json.NewEncoder(w).Encode(map[string]string{"issuer": s.URL + "/tenant", "jwks_uri": s.URL + keys})
		case keys:
			_, _ = w.Write(set)
		default:
			w.WriteHeader(404)
		}
	}))
	defer s.Close()
	cfg := JWTConfig{Name: "jwt", Now: clock.now, Keys: KeysConfig{Issuer: s.URL + "/tenant", SameHost: true, Doer: s.Client()}, Rules: TokenRules{Issuers: []string{s.URL + "/tenant"}, AnyAud: true}}
	j, err := NewJWT(cfg)
	if err != nil {
		t.Fatal(err)
	}
	fetch := func() error {
		_, err := j.keys.fetch(t.Context())
		return err
	}
	if err := fetch(); err != nil {
		t.Fatal(err)
	}
	token := key.sign(t, claims(map[string]any{"iss": s.URL + "/tenant"}), nil)
	if _, err := j.Authenticate(bearer(token)); err != nil {
		t.Fatal(err)
	}
	asked = false
	if err := fetch(); err != nil || asked {
		t.Errorf("%v, asked again at once: %v", err, asked)
	}
	moved = true
	if err := fetch(); err == nil || !strings.Contains(j.Stats().LastError, "/old") {
		t.Errorf("%v, %s", err, j.Stats().LastError)
	}
	if err := fetch(); err != nil || !asked {
		t.Errorf("%v, asked again: %v", err, asked)
	}
	asked = false
	clock.move(maxDescribed + time.Second)
	if err := fetch(); err != nil || !asked {
		t.Errorf("%v, asked again after an hour: %v", err, asked)
	}
}

func TestDiscoveryRefuses(t *testing.T) {
	const issuer = "https://issuer.example/t"
	for name, one := range map[string]struct{ doc, want string }{
		"another issuer":       {`{"issuer":"https://issuer.example/T","jwks_uri":"https://issuer.example/k"}`, "it is of issuer"},
		"a slash more":         {`{"issuer":"https://issuer.example/t/","jwks_uri":"https://issuer.example/k"}`, "it is of issuer"},
		"no issuer":            {`{"jwks_uri":"https://issuer.example/k"}`, "it is of issuer"},
		"no keys":              {`{"issuer":"https://issuer.example/t"}`, "jwks_uri"},
		"keys without TLS":     {`{"issuer":"https://issuer.example/t","jwks_uri":"http://issuer.example/k"}`, "expected https"},
		"keys at another host": {`{"issuer":"https://issuer.example/t","jwks_uri":"https://keys.example/k"}`, "another host"},
		"keys of a user":       {`{"issuer":"https://issuer.example/t","jwks_uri":"https://a:b@issuer.example/k"}`, "jwks_uri"},
		"no JSON":              {`<html>`, "no OpenID configuration"},
		"too long":             {strings.Repeat(" ", maxKeySet+1), "bytes, expected"},
	} {
		if _, err := jwksOf([]byte(one.doc), issuer, true); err == nil || !strings.Contains(err.Error(), one.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := jwksOf([]byte(`{"issuer":"https://issuer.example/t","jwks_uri":"https://keys.example/k"}`), issuer, false); err != nil || got != "https://keys.example/k" {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"issuer.example", "https://issuer.example/?a=b", "https://issuer.example/#a", "ldap://issuer.example"} {
		if _, err := newKeys(KeysConfig{Issuer: bad, Doer: http.DefaultClient}); err == nil || !strings.Contains(err.Error(), "issuer whose keys") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// FuzzDiscovery: whatever an issuer says of itself, what is taken of it is a URL that keys
// may be fetched from.
func FuzzDiscovery(f *testing.F) {
	f.Add([]byte(`{"issuer":"https://issuer.example/t","jwks_uri":"https://issuer.example/k"}`), true)
	f.Add([]byte(`{"issuer":"https://issuer.example/t","jwks_uri":"https://keys.example:8443/k?a=b"}`), false)
	f.Add([]byte(`{"issuer":"https://issuer.example/t","jwks_uri":"HTTPS://ISSUER.EXAMPLE/%00"}`), true)
	f.Fuzz(func(t *testing.T, doc []byte, sameHost bool) {
		got, err := jwksOf(doc, "https://issuer.example/t", sameHost)
		if err != nil {
			return
		}
		if checkURL(got) != nil || !strings.HasPrefix(strings.ToLower(got), "https://") || sameHost && !strings.HasPrefix(strings.ToLower(got), "https://issuer.example") {
			t.Errorf("%q", got)
		}
	})
}
