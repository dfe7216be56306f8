package examples_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"golang.org/x/crypto/bcrypt"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway"
	"github.com/np-appliance/np/ctrl/gateway/server/servertest"
)

// policyGateway serves policy.toml with parts of its text replaced.
func policyGateway(t *testing.T, replace ...string) (url string, g *gateway.Gateway) {
	t.Helper()
	text, err := os.ReadFile("policy.toml")
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer(replace...).Replace(string(text))
	c, err := config.Load(config.Input{Files: []config.Source{{Name: "policy.toml", Data: []byte(changed)}}})
	if err != nil {
		t.Fatal(err)
	}
	g = gateway.New(gateway.Options{Dial: func(ctx context.Context, _, network, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}})
	t.Cleanup(g.Close)
	gen, err := g.Prepare(c)
	if err != nil {
		t.Fatal(err)
	}
	g.Commit(gen)
	s, err := g.Server(c, &c.Listeners[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := servertest.Start(t, s, 5*time.Second)
	return "http://" + addr, g
}

// echo answers with what an upstream is told of who asks.
func echo(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "user=%s tenant=%s clearance=%s key=%s basic=%v", r.Header.Get("X-User"), r.Header.Get("X-Tenant"), r.Header.Get("X-Clearance"), r.Header.Get("X-Api-Key"),
			strings.HasPrefix(r.Header.Get("Authorization"), "Basic "))
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func policyFiles(t *testing.T) (users, keys string) {
	t.Helper()
	dir := t.TempDir()
	users, keys = filepath.Join(dir, "users"), filepath.Join(dir, "keys.toml")
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), 8)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("machine-key"))
	for path, text := range map[string]string{
		users: "ann:" + string(hash) + ":staff\nbob:" + string(hash) + "\n",
		keys:  "[[key]]\nname = \"billing\"\nsha256 = \"" + hex.EncodeToString(sum[:]) + "\"\nscopes = [\"orders.read\"]\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return users, keys
}

// signer is an issuer with one key: it publishes it, and signs.
func signer(t *testing.T) (url string, sign func(map[string]any) string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(set) }))
	t.Cleanup(s.Close)
	js, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "1"))
	if err != nil {
		t.Fatal(err)
	}
	return s.URL, func(claims map[string]any) string {
		claims["iss"], claims["aud"], claims["exp"] = "https://issuer.example", "orders", time.Now().Add(time.Hour).Unix()
		b, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := js.Sign(b)
		if err != nil {
			t.Fatal(err)
		}
		out, err := sig.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

// policyAnswers asks as everybody for everything.
func policyAnswers(t *testing.T, url, alice string) {
	t.Helper()
	for _, one := range []struct {
		name, method, path string
		field, value       string
		status             int
		body               string // part of it
	}{
		{"nobody", "GET", "/t/blue/orders/1", "", "", 401, "unauthenticated"},
		{"a token", "GET", "/t/blue/orders/1", "Authorization", "Bearer " + alice, 200, "user=alice tenant=blue"},
		{"another tenant's", "GET", "/t/red/orders/1", "Authorization", "Bearer " + alice, 403, "forbidden"},
		{"a scope that lacks", "POST", "/t/blue/orders/1", "Authorization", "Bearer " + alice, 403, "orders.write"},
		{"a token that is none", "GET", "/t/blue/orders/1", "Authorization", "Bearer " + alice + "x", 401, "known key"},
		{"a machine", "GET", "/t/red/orders/1", "X-Api-Key", "machine-key", 200, "user=billing tenant= clearance= key= "},
		{"a machine that writes", "DELETE", "/t/red/orders/1", "X-Api-Key", "machine-key", 403, "forbidden"},
		{"a forged user", "GET", "/t/red/orders/1", "X-User", "root", 401, ""},
		{"staff", "GET", "/reports/a", "Authorization", basicAuth("ann"), 200, "user=ann tenant= clearance=low ann key= basic=false"},
		{"no staff", "GET", "/reports/a", "Authorization", basicAuth("bob"), 403, "forbidden"},
		{"staff, refused outside", "GET", "/reports/secret", "Authorization", basicAuth("ann"), 403, "forbidden"},
		{"a token where passwords are wanted", "GET", "/reports/a", "Authorization", "Bearer " + alice, 401, ""},
	} {
		status, body, h := ask(t, one.method, url+one.path, one.field, one.value)
		if status != one.status || !strings.Contains(body, one.body) {
			t.Errorf("%s: %d %s", one.name, status, body)
		}
		if (status == 401) != (h.Get("WWW-Authenticate") != "") && status != 403 {
			t.Errorf("%s: %d with %v", one.name, status, h)
		}
	}
}

func TestPolicy(t *testing.T) {
	users, keys := policyFiles(t)
	jwks, sign := signer(t)
	var asked atomic.Int64
	judge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("X-Forwarded-Uri") == "/reports/secret" {
			w.WriteHeader(http.StatusForbidden)
		}
		w.Header().Set("X-Clearance", "low "+r.Header.Get("X-Auth-Subject"))
	}))
	t.Cleanup(judge.Close)
	url, g := policyGateway(t, "/etc/np/users", users, "/etc/np/keys.toml", keys, "https://issuer.example/keys", jwks, "http://127.0.0.1:9003", judge.URL, "127.0.0.1:9001", echo(t), "127.0.0.1:9002", echo(t))

	alice := sign(map[string]any{"sub": "alice", "tenant": "blue", "scope": "orders.read"})
	policyAnswers(t, url, alice)
	before := asked.Load()
	for range 3 {
		ask(t, "GET", url+"/reports/a", "Authorization", basicAuth("ann"))
	}
	if n := asked.Load(); n != before {
		t.Errorf("asked %d times about what is remembered", n-before)
	}
	// 5 at once of one identity: three of alice's above came that far
	refused := 0
	for range 10 {
		if status, _, h := ask(t, "GET", url+"/t/blue/orders/1", "Authorization", "Bearer "+alice); status == 429 {
			refused++
			if h.Get("Retry-After") == "" || !strings.HasPrefix(h.Get("RateLimit"), `"per-identity";r=0`) {
				t.Errorf("%v", h)
			}
		}
	}
	if refused != 8 {
		t.Errorf("%d of 10 refused", refused)
	}
	if status, _, _ := ask(t, "GET", url+"/t/red/orders/1", "X-Api-Key", "machine-key"); status != 200 {
		t.Errorf("another identity: %d", status)
	}
	p := g.Policies()
	if len(p.Auth) != 3 || len(p.Rates) != 2 || len(p.Concurrency) != 1 || len(p.Shedders) != 1 || len(p.External) != 1 {
		t.Fatalf("%+v", p)
	}
	if p.Auth[0].Name != "machines" || p.Auth[0].Accepted != 3 || p.Rates[0].Limited != uint64(refused) || p.Concurrency[0].Running != 0 || p.External["reports"].Denied != 1 {
		t.Errorf("%+v", p)
	}
}

func basicAuth(name string) string {
	r, _ := http.NewRequest(http.MethodGet, "/", nil)
	r.SetBasicAuth(name, "secret")
	return r.Header.Get("Authorization")
}

func ask(t *testing.T, method, url, field, value string) (int, string, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if field != "" {
		r.Header.Set(field, value)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}
