package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func hexSum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func TestAPIKeys(t *testing.T) {
	clock := newClock()
	path := writeFile(t, 0o640, `[[key]]`, `name = "billing"`, `sha256 = "`+hexSum("k-billing")+`"`, `scopes = ["orders.read"]`, `groups = ["services"]`,
		`[[key]]`, `name = "old"`, `sha256 = "`+hexSum("k-old")+`"`, `expires = `+epoch.Add(time.Minute).UTC().Format(time.RFC3339),
		`[[key]]`, `name = "off"`, `sha256 = "`+strings.ToUpper(hexSum("k-off"))+`"`, `disabled = true`)
	a, err := NewAPIKeys(APIKeysConfig{Name: "keys", File: path, Now: clock.now,
		Sources: []Source{{Header: "X-API-Key"}, {Header: "Authorization", Scheme: "ApiKey"}, {Query: "api_key"}, {Cookie: "key"}}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(change func(*http.Request)) error {
		r := httptest.NewRequest("GET", "http://h/a?x=1", nil)
		change(r)
		_, err := a.Authenticate(r)
		return err
	}
	header := func(v string) func(*http.Request) { return func(r *http.Request) { r.Header.Set("X-API-Key", v) } }
	r := httptest.NewRequest("GET", "/", nil)
	header("k-billing")(r)
	id, err := a.Authenticate(r)
	if err != nil || id.Subject != "billing" || id.Provider != "keys" || len(id.Scopes) != 1 || len(id.Groups) != 1 {
		t.Fatalf("%+v, %v", id, err)
	}
	for name, one := range map[string]func(*http.Request){
		"scheme":  func(r *http.Request) { r.Header.Set("Authorization", "apikey k-billing") },
		"query":   func(r *http.Request) { r.URL.RawQuery = "x=1&api_key=k-billing" },
		"cookie":  func(r *http.Request) { r.Header.Set("Cookie", "a=b; key=k-billing") },
		"in time": header("k-old"),
	} {
		if err := ask(one); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, one := range map[string]func(*http.Request){
		"unknown":     header("k-billing "),
		"off":         header("k-off"),
		"the hash":    header(hexSum("k-billing")),
		"two":         func(r *http.Request) { r.Header["X-Api-Key"] = []string{"k-billing", "k-old"} },
		"two queries": func(r *http.Request) { r.URL.RawQuery = "api_key=k-billing&%61pi_key=k-old" },
		"two cookies": func(r *http.Request) { r.Header.Set("Cookie", "key=k-billing; key=x") },
		"long":        header(strings.Repeat("x", maxKeyLen+1)),
	} {
		wantDenied(t, name, ask(one))
	}
	if err := ask(func(*http.Request) {}); !errors.Is(err, ErrNone) {
		t.Errorf("no key: %v", err)
	}
	clock.move(time.Minute)
	wantDenied(t, "expired", ask(header("k-old")))
}

func TestStrip(t *testing.T) {
	r := httptest.NewRequest("GET", "http://h/a?x=%20&%61pi_key=secret&y", nil)
	r.Header.Set("X-Key", "secret")
	r.Header.Set("Authorization", "Bearer other")
	r.Header.Set("Cookie", `a=1;key=secret; b="2"`)
	for _, s := range []Source{{Header: "X-Key"}, {Header: "Authorization", Scheme: "ApiKey"}, {Query: "api_key"}, {Cookie: "key"}} {
		s.strip(r)
	}
	if r.URL.RawQuery != "x=%20&y" || r.RequestURI != "/a?x=%20&y" || r.Header.Get("X-Key") != "" || r.Header.Get("Authorization") != "Bearer other" || r.Header.Get("Cookie") != `a=1; b="2"` {
		t.Errorf("%s, %s, %v", r.URL, r.RequestURI, r.Header)
	}
	Source{Header: "Authorization", Scheme: "bearer"}.strip(r)
	if r.Header.Get("Authorization") != "" {
		t.Error("the token is still there")
	}
	r.Header.Set("Cookie", "key=secret")
	Source{Cookie: "key"}.strip(r)
	if _, has := r.Header["Cookie"]; has {
		t.Error("an empty Cookie field is left")
	}
}

func TestParseAPIKeys(t *testing.T) {
	sum := hexSum("k")
	for name, one := range map[string]struct{ text, want string }{
		"empty":     {"", "0 keys"},
		"no TOML":   {"[[key]]\nname = \n", "2: "},
		"unknown":   {"[[key]]\nname = \"a\"\nsha256 = \"" + sum + "\"\nscope = []\n", "unknown key key.scope"},
		"no name":   {"[[key]]\nsha256 = \"" + sum + "\"\n", "name"},
		"no hash":   {"[[key]]\nname = \"a\"\n", "64 hexadecimal digits"},
		"plain":     {"[[key]]\nname = \"a\"\nsha256 = \"secret\"\n", "64 hexadecimal digits"},
		"nothing's": {"[[key]]\nname = \"a\"\nsha256 = \"" + hexSum("") + "\"\n", "of nothing"},
		"same name": {strings.Repeat("[[key]]\nname = \"a\"\nsha256 = \""+sum+"\"\n", 2), "there twice"},
		"same key":  {"[[key]]\nname = \"a\"\nsha256 = \"" + sum + "\"\n[[key]]\nname = \"b\"\nsha256 = \"" + sum + "\"\n", "same key"},
	} {
		if _, err := parseAPIKeys([]byte(one.text), "p"); err == nil || !strings.Contains(err.Error(), one.want) {
			t.Errorf("%s: got %v, expected %q", name, err, one.want)
		}
	}
}

func FuzzParseAPIKeys(f *testing.F) {
	f.Add([]byte("[[key]]\nname = \"a\"\nsha256 = \"" + hexSum("k") + "\"\nexpires = 2030-01-01T00:00:00Z\n"))
	f.Add([]byte("key = 1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := parseAPIKeys(b, "p")
		if (err == nil) == (len(keys) == 0) {
			t.Errorf("%d keys, %v", len(keys), err)
		}
	})
}

func FuzzSource(f *testing.F) {
	f.Add("a=1&key=2&%6bey=3", "a=b; key=c;;key")
	f.Add("&&==;%", "=;key=")
	f.Fuzz(func(t *testing.T, query, cookie string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.RawQuery = query
		r.Header["Cookie"] = []string{cookie}
		for _, s := range []Source{{Query: "key"}, {Cookie: "key"}} {
			s.strip(r)
			if v, err := s.get(r, 1<<20); err == nil {
				t.Errorf("%s still has %q after it was taken out: %q, %q", s, v, r.URL.RawQuery, r.Header["Cookie"])
			}
		}
	})
}
