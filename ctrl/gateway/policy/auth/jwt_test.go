package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

var epoch = time.Unix(1_800_000_000, 0)

// testClock is a clock that tests move.
type testClock struct{ ns atomic.Int64 }

func newClock() *testClock {
	c := &testClock{}
	c.ns.Store(epoch.UnixNano())
	return c
}

func (c *testClock) now() time.Time        { return time.Unix(0, c.ns.Load()) }
func (c *testClock) move(by time.Duration) { c.ns.Add(int64(by)) }

// testKey is one of an issuer's keys.
type testKey struct {
	id   string
	alg  jose.SignatureAlgorithm
	priv crypto.Signer
}

func (k testKey) jwk() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.priv.Public(), KeyID: k.id, Algorithm: string(k.alg), Use: "sig"}
}

func makeKey(t testing.TB, id string, alg jose.SignatureAlgorithm) testKey {
	t.Helper()
	var priv crypto.Signer
	var err error
	switch alg {
	case jose.ES256:
		priv, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.ES384:
		priv, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case jose.ES512:
		priv, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case jose.EdDSA:
		_, priv, err = ed25519.GenerateKey(rand.Reader)
	default:
		priv, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return testKey{id, alg, priv}
}

// sign makes a token; header adds to or replaces members of its header.
func (k testKey) sign(t testing.TB, claims any, header map[string]any) string {
	t.Helper()
	opts := &jose.SignerOptions{}
	if k.id != "" {
		opts.WithHeader("kid", k.id)
	}
	for name, v := range header {
		opts.WithHeader(jose.HeaderKey(name), v)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: k.alg, Key: k.priv}, opts)
	if err != nil {
		t.Fatal(err)
	}
	payload, ok := claims.([]byte)
	if !ok {
		if payload, err = json.Marshal(claims); err != nil {
			t.Fatal(err)
		}
	}
	sig, err := s.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	out, err := sig.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// issuer is a server of keys.
type issuer struct {
	*httptest.Server
	mu    sync.Mutex
	keys  []testKey
	down  bool
	asked atomic.Int64
	body  []byte // instead of keys
	gate  chan struct{}
}

func newIssuer(t testing.TB, keys ...testKey) *issuer {
	is := &issuer{keys: keys}
	is.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		is.asked.Add(1)
		is.mu.Lock()
		defer is.mu.Unlock()
		if is.gate != nil {
			<-is.gate
		}
		if is.down {
			http.Error(w, "down", 500)
			return
		}
		body := is.body
		if body == nil {
			set := jose.JSONWebKeySet{}
			for _, k := range is.keys {
				set.Keys = append(set.Keys, k.jwk())
			}
			body, _ = json.Marshal(set)
		}
		_, _ = w.Write(body)
	}))
	t.Cleanup(is.Close)
	return is
}

func (is *issuer) set(down bool, keys ...testKey) {
	is.mu.Lock()
	defer is.mu.Unlock()
	is.down, is.keys = down, keys
}

func claims(change map[string]any) map[string]any {
	c := map[string]any{"iss": "https://issuer.example", "aud": "orders", "sub": "alice", "exp": epoch.Add(time.Hour).Unix(), "iat": epoch.Unix(), "scope": "a b", "scp": []string{"c"},
		"realm_access": map[string]any{"roles": []string{"admins"}}}
	maps.Copy(c, change)
	for k, v := range change {
		if v == nil {
			delete(c, k)
		}
	}
	return c
}

func jwtConfig(is *issuer, clock *testClock) JWTConfig {
	return JWTConfig{Name: "jwt", Now: clock.now, Algorithms: Algorithms(), Keys: KeysConfig{URL: is.URL, Doer: is.Client()},
		Rules: TokenRules{Issuers: []string{"https://issuer.example"}, Audiences: []string{"orders", "billing"}, Groups: []string{"realm_access.roles"}}}
}

// start makes a provider and runs it until the test ends.
func start(t testing.TB, cfg JWTConfig) *JWT {
	t.Helper()
	j, err := NewJWT(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { j.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return j
}

func bearer(token string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func wantDenied(t *testing.T, what string, err error) {
	t.Helper()
	var d *Denied
	if !errors.As(err, &d) {
		t.Errorf("%s: got %v, expected it denied", what, err)
	}
}

func TestJWTAlgorithms(t *testing.T) {
	clock := newClock()
	var keys []testKey
	for _, a := range Algorithms() {
		keys = append(keys, makeKey(t, "key "+a, jose.SignatureAlgorithm(a)))
	}
	j := start(t, jwtConfig(newIssuer(t, keys...), clock))
	for _, k := range keys {
		id, err := j.Authenticate(bearer(k.sign(t, claims(nil), nil)))
		if err != nil {
			t.Errorf("%s: %v", k.alg, err)
			continue
		}
		if _, admin := id.Groups["admins"]; id.Subject != "alice" || id.Provider != "jwt" || strings.Join(id.Scopes, ",") != "a,b,c" || !admin {
			t.Errorf("%s: %+v", k.alg, id)
		}
		// without a key ID all keys of the type are tried
		k.id = ""
		if _, err := j.Authenticate(bearer(k.sign(t, claims(map[string]any{"jti": "2"}), nil))); err != nil {
			t.Errorf("%s without kid: %v", k.alg, err)
		}
	}
	if s := j.Stats(); s.Accepted != 20 || s.Entries != 10 || s.Fetches != 1 || s.LastError != "" {
		t.Errorf("%+v", s)
	}
}

func TestJWTTimes(t *testing.T) {
	clock := newClock()
	key := makeKey(t, "k", jose.ES256)
	cfg := jwtConfig(newIssuer(t, key), clock)
	cfg.Rules.Skew = 30 * time.Second
	cfg.Rules.MaxAge = 2 * time.Hour
	j := start(t, cfg)
	at := func(d time.Duration) int64 { return epoch.Add(d).Unix() }
	for name, one := range map[string]struct {
		claims map[string]any
		ok     bool
	}{
		"expired within skew":    {map[string]any{"exp": at(-29 * time.Second)}, true},
		"expired at skew":        {map[string]any{"exp": at(-30 * time.Second)}, false},
		"not yet within skew":    {map[string]any{"nbf": at(30 * time.Second)}, true},
		"not yet beyond skew":    {map[string]any{"nbf": at(31 * time.Second)}, false},
		"issued within skew":     {map[string]any{"iat": at(30 * time.Second)}, true},
		"issued in the future":   {map[string]any{"iat": at(31 * time.Second)}, false},
		"as old as may be":       {map[string]any{"iat": at(-2*time.Hour - 29*time.Second)}, true},
		"too old":                {map[string]any{"iat": at(-2*time.Hour - 30*time.Second)}, false},
		"no iat":                 {map[string]any{"iat": nil}, false},
		"no exp":                 {map[string]any{"exp": nil}, false},
		"exp is text":            {map[string]any{"exp": "1900000000"}, false},
		"exp is huge":            {map[string]any{"exp": 1e300}, false},
		"exp is negative":        {map[string]any{"exp": -1}, false},
		"fraction":               {map[string]any{"exp": float64(at(0)) + 0.5}, true},
		"other issuer":           {map[string]any{"iss": "https://issuer.example.evil"}, false},
		"no issuer":              {map[string]any{"iss": nil}, false},
		"issuer is a list":       {map[string]any{"iss": []string{"https://issuer.example"}}, false},
		"other audience":         {map[string]any{"aud": "other"}, false},
		"one audience of a list": {map[string]any{"aud": []string{"other", "billing"}}, true},
		"no audience":            {map[string]any{"aud": nil}, false},
		"no subject":             {map[string]any{"sub": ""}, false},
		"subject is an object":   {map[string]any{"sub": map[string]any{}}, false},
		"subject is a number":    {map[string]any{"sub": 12}, true},
		"subject is too big":     {map[string]any{"sub": 1 << 60}, false},
	} {
		_, err := j.Authenticate(bearer(key.sign(t, claims(one.claims), nil)))
		if (err == nil) != one.ok {
			t.Errorf("%s: %v", name, err)
		}
		if !one.ok {
			wantDenied(t, name, err)
		}
	}
}

func TestJWTRequiredClaims(t *testing.T) {
	clock := newClock()
	key := makeKey(t, "k", jose.ES256)
	cfg := jwtConfig(newIssuer(t, key), clock)
	cfg.Rules.Required = map[string][]string{"email_verified": {"true"}, "org.id": nil}
	j := start(t, cfg)
	org := map[string]any{"id": "1"}
	for name, one := range map[string]struct {
		claims map[string]any
		ok     bool
	}{
		"both":  {map[string]any{"email_verified": true, "org": org}, true},
		"false": {map[string]any{"email_verified": false, "org": org}, false},
		"one":   {map[string]any{"email_verified": true}, false},
		"none":  {nil, false},
	} {
		if _, err := j.Authenticate(bearer(key.sign(t, claims(one.claims), nil))); (err == nil) != one.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestJWTCacheEnds: a token that was verified is not good a moment longer for it.
func TestJWTCacheEnds(t *testing.T) {
	clock := newClock()
	key := makeKey(t, "k", jose.ES256)
	cfg := jwtConfig(newIssuer(t, key), clock)
	cfg.Rules.Skew = -1
	j := start(t, cfg)
	token := key.sign(t, claims(map[string]any{"exp": epoch.Add(20 * time.Second).Unix()}), nil)
	for range 3 {
		if _, err := j.Authenticate(bearer(token)); err != nil {
			t.Fatal(err)
		}
	}
	if s := j.Stats(); s.Cache.Hits != 2 {
		t.Errorf("%+v", s.Cache)
	}
	clock.move(20 * time.Second)
	_, err := j.Authenticate(bearer(token))
	wantDenied(t, "after its end", err)
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// hostileTokens are what attackers make who know an issuer's public keys and one of its tokens.
func hostileTokens(t *testing.T, good, url string, rsaKey, ecKey, stranger testKey) map[string]string {
	t.Helper()
	parts := strings.Split(good, ".")
	body, _ := json.Marshal(claims(nil))
	hmacWith := func(secret []byte) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: secret}, (&jose.SignerOptions{}).WithHeader("kid", "rsa"))
		if err != nil {
			t.Fatal(err)
		}
		sig, _ := s.Sign(body)
		out, _ := sig.CompactSerialize()
		return out
	}
	der, _ := x509.MarshalPKIXPublicKey(rsaKey.priv.Public())
	pemKey := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	ps := rsaKey
	ps.alg = jose.PS256
	asEC := ecKey
	asEC.id = "rsa"
	evil := stranger.jwk()
	return map[string]string{
		"none":                     b64(`{"alg":"none"}`) + "." + b64(string(body)) + ".",
		"nOnE":                     b64(`{"alg":"nOnE","kid":"rsa"}`) + "." + b64(string(body)) + "." + parts[2],
		"no alg":                   b64(`{"kid":"rsa"}`) + "." + b64(string(body)) + "." + parts[2],
		"HMAC with the PEM":        hmacWith(pemKey),
		"HMAC with the DER":        hmacWith(der),
		"an algorithm not allowed": ps.sign(t, claims(nil), nil),
		"a key of another type":    asEC.sign(t, claims(nil), nil),
		"a stranger's key":         stranger.sign(t, claims(nil), nil),
		"its own key":              stranger.sign(t, claims(nil), map[string]any{"jwk": evil}),
		"jku":                      stranger.sign(t, claims(nil), map[string]any{"jku": url}),
		"x5u":                      stranger.sign(t, claims(nil), map[string]any{"x5u": url}),
		"crit":                     rsaKey.sign(t, claims(nil), map[string]any{"crit": []string{"exp"}, "exp": 1}),
		"b64":                      rsaKey.sign(t, claims(nil), map[string]any{"b64": true}),
		"cty":                      rsaKey.sign(t, claims(nil), map[string]any{"cty": "JWT"}),
		"typ":                      rsaKey.sign(t, claims(nil), map[string]any{"typ": "secevent+jwt"}),
		"two algs":                 b64(`{"alg":"RS256","alg":"none","kid":"rsa"}`) + "." + parts[1] + "." + parts[2],
		"two subs":                 rsaKey.sign(t, []byte(strings.Replace(string(body), `{`, `{"sub":"root",`, 1)), nil),
		"nested dups":              rsaKey.sign(t, []byte(strings.Replace(string(body), `{`, `{"o":{"a":1,"a":2},`, 1)), nil),
		"deep":                     rsaKey.sign(t, []byte(`{"a":`+strings.Repeat("[", 2000)+strings.Repeat("]", 2000)+`}`), nil),
		"no object":                rsaKey.sign(t, []byte(`"alice"`), nil),
		"null":                     rsaKey.sign(t, []byte(`null`), nil),
		"not JSON":                 rsaKey.sign(t, []byte(`alice`), nil),
		"trailing":                 rsaKey.sign(t, append(body, body...), nil),
		"huge":                     rsaKey.sign(t, claims(map[string]any{"pad": strings.Repeat("x", 10000)}), nil),
		"huge header":              rsaKey.sign(t, claims(nil), map[string]any{"pad": strings.Repeat("x", 3500)}),
		"huge kid":                 b64(`{"alg":"RS256","kid":"`+strings.Repeat("k", 600)+`"}`) + "." + parts[1] + "." + parts[2],
		"kid is a path":            b64(`{"alg":"RS256","kid":"../../dev/null"}`) + "." + parts[1] + "." + parts[2],
		"kid is SQL":               b64(`{"alg":"RS256","kid":"' OR 1=1 --"}`) + "." + parts[1] + "." + parts[2],
		"kid is a number":          b64(`{"alg":"RS256","kid":1}`) + "." + parts[1] + "." + parts[2],
		"kid is an object":         b64(`{"alg":"RS256","kid":{"$ne":""}}`) + "." + parts[1] + "." + parts[2],
		"another payload":          parts[0] + "." + b64(strings.Replace(string(body), "alice", "root", 1)) + "." + parts[2],
		"no signature":             parts[0] + "." + parts[1] + ".",
		"two parts":                parts[0] + "." + parts[1],
		"five parts":               good + ".a.b",
		"dots":                     "..",
		"dot":                      ".",
		"JSON":                     `{"payload":"","signatures":[]}`,
		"psychic":                  b64(`{"alg":"ES256","kid":"ec"}`) + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)),
		"not base64":               "a!b.c.d",
		"text before":              "x" + good,
	}
}

// TestJWTHostile sends what attackers send.
func TestJWTHostile(t *testing.T) {
	clock := newClock()
	rsaKey, ecKey, edKey := makeKey(t, "rsa", jose.RS256), makeKey(t, "ec", jose.ES256), makeKey(t, "ed", jose.EdDSA)
	stranger := makeKey(t, "rsa", jose.RS256)
	is := newIssuer(t, rsaKey, ecKey, edKey)
	cfg := jwtConfig(is, clock)
	cfg.Algorithms = []string{"RS256", "ES256", "EdDSA"}
	j := start(t, cfg)
	good := rsaKey.sign(t, claims(nil), nil)
	if _, err := j.Authenticate(bearer(good)); err != nil {
		t.Fatal(err)
	}
	for name, token := range hostileTokens(t, good, is.URL, rsaKey, ecKey, stranger) {
		_, err := j.Authenticate(bearer(token))
		wantDenied(t, name, err)
		if c := j.Challenge(err); !strings.HasPrefix(c, `Bearer realm="jwt", error="invalid_token", error_description="`) || strings.ContainsAny(c, "\r\n\\") || strings.Count(c, `"`) != 6 {
			t.Errorf("%s: challenge %s", name, c)
		}
	}
	if n := is.asked.Load(); n > 2 {
		t.Errorf("the issuer was asked %d times: tokens choose when", n)
	}
	if _, err := j.Authenticate(bearer(good)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	two := bearer(good)
	two.Header.Add("Authorization", "Bearer "+good)
	_, err := j.Authenticate(two)
	var d *Denied
	if !errors.As(err, &d) || d.Code != InvalidRequest {
		t.Errorf("two tokens: %v", err)
	}
	if _, err := j.Authenticate(bearer("")); !errors.Is(err, ErrNone) {
		t.Errorf("no token: %v", err)
	}
}

func TestKeyRotation(t *testing.T) {
	clock := newClock()
	old, fresh := makeKey(t, "1", jose.ES256), makeKey(t, "2", jose.ES256)
	is := newIssuer(t, old)
	j := start(t, jwtConfig(is, clock))
	oldToken, newToken := old.sign(t, claims(nil), nil), fresh.sign(t, claims(nil), nil)
	if _, err := j.Authenticate(bearer(oldToken)); err != nil {
		t.Fatal(err)
	}
	is.set(false, fresh)
	_, err := j.Authenticate(bearer(newToken))
	wantDenied(t, "too soon after the last fetch", err)
	clock.move(31 * time.Second)
	// many come at once; the issuer is asked once
	before := is.asked.Load()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := j.Authenticate(bearer(newToken)); err != nil {
				t.Errorf("a token by the new key: %v", err)
			}
		})
	}
	wg.Wait()
	if n := is.asked.Load() - before; n != 1 {
		t.Errorf("the issuer was asked %d times", n)
	}
	_, err = j.Authenticate(bearer(oldToken))
	wantDenied(t, "a token by a key that was taken back, verified before", err)
}

func TestIssuerDown(t *testing.T) {
	clock := newClock()
	key := makeKey(t, "1", jose.ES256)
	is := newIssuer(t, key)
	is.set(true)
	cfg := jwtConfig(is, clock)
	cfg.Keys.MaxStale = time.Hour
	cfg.Keys.MinRefresh = time.Second
	j := start(t, cfg)
	token := func(n int) string {
		return key.sign(t, claims(map[string]any{"jti": n, "exp": clock.now().Add(time.Hour).Unix()}), nil)
	}
	wantUnavailable := func(what string, err error) {
		t.Helper()
		var u *Unavailable
		if !errors.As(err, &u) {
			t.Errorf("%s: got %v, expected it unavailable", what, err)
		}
	}
	_, err := j.Authenticate(bearer(token(1)))
	wantUnavailable("no keys yet", err)
	if s := j.Stats(); s.Failures == 0 || !strings.Contains(s.LastError, "status 500") {
		t.Errorf("%+v", s)
	}
	is.set(false, key)
	clock.move(2 * time.Second)
	if _, err := j.Authenticate(bearer(token(2))); err != nil {
		t.Errorf("up again: %v", err)
	}
	is.set(true)
	clock.move(time.Hour)
	if _, err := j.Authenticate(bearer(token(3))); err != nil {
		t.Errorf("keys that are stale but may be used: %v", err)
	}
	clock.move(11 * time.Minute)
	_, err = j.Authenticate(bearer(token(4)))
	wantUnavailable("keys that are too old", err)
}

// TestIssuerStalls: requests wait for a fetch only so long.
func TestIssuerStalls(t *testing.T) {
	clock := newClock()
	key := makeKey(t, "1", jose.ES256)
	is := newIssuer(t, key)
	is.gate = make(chan struct{})
	cfg := jwtConfig(is, clock)
	cfg.Keys.Timeout = 50 * time.Millisecond
	j := start(t, cfg)
	_, err := j.Authenticate(bearer(key.sign(t, claims(nil), nil)))
	var u *Unavailable
	if !errors.As(err, &u) {
		t.Errorf("got %v, expected it unavailable", err)
	}
	close(is.gate)
}

func TestKeySetBounds(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip(err) // a build that refuses to make such keys
	}
	good := makeKey(t, "good", jose.ES256)
	set := func(keys ...any) []byte {
		b, _ := json.Marshal(map[string]any{"keys": keys})
		return b
	}
	for name, one := range map[string]struct {
		body []byte
		want int // usable keys, 0: refused
	}{
		"one":           {set(good.jwk()), 1},
		"a short RSA":   {set(jose.JSONWebKey{Key: small.Public(), KeyID: "s"}), 0},
		"a private one": {set(jose.JSONWebKey{Key: good.priv, KeyID: "p"}), 0},
		"a symmetric":   {set(jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "o"}, good.jwk()), 1},
		"for secrecy":   {set(jose.JSONWebKey{Key: good.priv.Public(), Use: "enc"}), 0},
		"to sign":       {[]byte(strings.Replace(string(set(good.jwk())), `"use":"sig"`, `"key_ops":["sign"]`, 1)), 0},
		"wrong alg":     {set(jose.JSONWebKey{Key: good.priv.Public(), Algorithm: "RS256"}), 0},
		"unknown type":  {[]byte(`{"keys":[{"kty":"XYZ"},` + string(set(good.jwk())[len(`{"keys":[`):])), 1},
		"a point off":   {[]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}]}`), 0},
		"none":          {set(), 0},
		"no set":        {[]byte(`[]`), 0},
		"not JSON":      {[]byte(`<html>`), 0},
		"huge":          {[]byte(`{"keys":[],"p":"` + strings.Repeat("x", maxKeySet) + `"}`), 0},
		"many":          {[]byte(`{"keys":[` + strings.Repeat(`{},`, 200) + `{}]}`), 0},
	} {
		s, err := parseKeySet(one.body)
		if one.want == 0 != (err != nil) || err == nil && len(s.keys) != one.want {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

func TestKeysFromFile(t *testing.T) {
	clock := newClock()
	key, next := makeKey(t, "1", jose.ES256), makeKey(t, "2", jose.ES256)
	path := filepath.Join(t.TempDir(), "keys.json")
	write := func(k testKey) {
		t.Helper()
		b, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{k.jwk()}})
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(key)
	cfg := JWTConfig{Name: "jwt", Now: clock.now, Keys: KeysConfig{File: path}, Rules: TokenRules{AnyAud: true}}
	j, err := NewJWT(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Authenticate(bearer(key.sign(t, claims(nil), nil))); err != nil {
		t.Error(err)
	}
	write(next)
	if err := j.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Authenticate(bearer(next.sign(t, claims(nil), nil))); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := j.Reload(); err == nil || !strings.Contains(err.Error(), "no usable key") {
		t.Errorf("an empty set is taken: %v", err)
	}
	if _, err := j.Authenticate(bearer(next.sign(t, claims(map[string]any{"jti": "x"}), nil))); err != nil {
		t.Errorf("after a file that is not good: %v", err)
	}
}

func TestJWTConfig(t *testing.T) {
	ok := func() JWTConfig {
		return JWTConfig{Name: "j", Keys: KeysConfig{URL: "https://issuer.example/keys", Doer: http.DefaultClient}, Rules: TokenRules{AnyAud: true}}
	}
	if _, err := NewJWT(ok()); err != nil {
		t.Fatal(err)
	}
	for name, one := range map[string]struct {
		change func(*JWTConfig)
		want   string
	}{
		"HS256":       {func(c *JWTConfig) { c.Algorithms = []string{"HS256"} }, `algorithm "HS256"`},
		"none":        {func(c *JWTConfig) { c.Algorithms = []string{"none"} }, `algorithm "none"`},
		"no audience": {func(c *JWTConfig) { c.Rules.AnyAud = false }, "audience"},
		"both":        {func(c *JWTConfig) { c.Rules.Audiences = []string{"a"} }, "audience"},
		"no keys":     {func(c *JWTConfig) { c.Keys.URL = "" }, "in a file, at a URL, or where the issuer says"},
		"two keys":    {func(c *JWTConfig) { c.Keys.File = "x" }, "in a file, at a URL, or where the issuer says"},
		"URL":         {func(c *JWTConfig) { c.Keys.URL = "ftp://x/" }, "https://HOST/PATH"},
		"realm":       {func(c *JWTConfig) { c.Realm = `a"b` }, "realm"},
		"size":        {func(c *JWTConfig) { c.MaxToken = 1 << 20 }, "bytes"},
		"skew":        {func(c *JWTConfig) { c.Rules.Skew = time.Hour }, "skew"},
		"refresh":     {func(c *JWTConfig) { c.Keys.Refresh = time.Second }, "refresh"},
		"source":      {func(c *JWTConfig) { c.Sources = []Source{{Header: "A", Query: "b"}} }, "one header"},
	} {
		cfg := ok()
		one.change(&cfg)
		if _, err := NewJWT(cfg); err == nil || !strings.Contains(err.Error(), one.want) {
			t.Errorf("%s: got %v, expected %q", name, err, one.want)
		}
	}
}

func TestMaxAge(t *testing.T) {
	for field, want := range map[string]time.Duration{"max-age=60": time.Minute, "public, Max-Age=\"5\", x": 5 * time.Second, "no-cache": 0, "": 365 * 24 * time.Hour, "max-age=-1": 365 * 24 * time.Hour, "max-age=4294967295": 365 * 24 * time.Hour} {
		if got := maxAge(field); got != want {
			t.Errorf("%q: %s, expected %s", field, got, want)
		}
	}
}

func BenchmarkJWT(b *testing.B) {
	clock := newClock()
	for _, alg := range []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA} {
		key := makeKey(b, "k", alg)
		for _, size := range []int{-1, 4096} {
			cfg := jwtConfig(newIssuer(b, key), clock)
			cfg.CacheSize = size
			j := start(b, cfg)
			r := bearer(key.sign(b, claims(nil), nil)).WithContext(exchange.With(context.Background(), &exchange.Exchange{}))
			b.Run(fmt.Sprintf("%s/cache %d", alg, size), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := j.Authenticate(r); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
