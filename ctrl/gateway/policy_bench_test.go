package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// discard is the writer of an answer that nobody reads.
type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkPolicies is what a request costs from entry to answer without a connection and
// without an upstream: on a bare route, with one policy each, and with all of them.
func BenchmarkPolicies(b *testing.B) {
	dir := b.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		b.Fatal(err)
	}
	keys := filepath.Join(dir, "keys.json")
	if err := os.WriteFile(keys, set, 0o600); err != nil {
		b.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "1"))
	if err != nil {
		b.Fatal(err)
	}
	signed, err := signer.Sign(fmt.Appendf(nil, `{"iss":"i","sub":"ann","scope":"orders.read orders.write","exp":%d}`, time.Now().Add(time.Hour).Unix()))
	if err != nil {
		b.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		b.Fatal(err)
	}
	const (
		jwt   = "auth.providers = [\"t\"]\n"
		rules = "authz.allow = [\"scope:orders.read\"]\n"
		rate  = "rate_limit.requests = 1000000000\nrate_limit.per = \"1s\"\n"
		cors  = "cors.origins = [\"https://page.example\"]\n"
		edits = "request_set = [\"X-Route: {route}\"]\nresponse_set = [\"X-Served-By: np\"]\nresponse_remove = [\"Server\"]\n"
	)
	log := "[access_log]\nfile = \"" + filepath.Join(dir, "access.json") + "\"\n"
	for _, one := range []struct{ name, keys, more string }{
		{"bare", "", ""}, {"jwt", jwt, ""}, {"jwt+rules", jwt + rules, ""}, {"rate", rate, ""}, {"cors", cors, ""}, {"edits", edits, ""}, {"log", "", log}, {"all", jwt + rules + rate + cors + edits, log},
	} {
		b.Run(one.name, func(b *testing.B) {
			g := New(Options{Dial: dialNet})
			b.Cleanup(g.Close)
			gen, err := g.Prepare(load(b, one.more+"[[auth]]\nname = \"t\"\nkind = \"jwt\"\nany_audience = true\nfile = \""+keys+"\"\n[[route]]\nname = \"r\"\npath_prefix = \"/\"\nbody = \"x\"\n"+one.keys))
			if err != nil {
				b.Fatal(err)
			}
			g.Commit(gen)
			h := g.Handler(Entry{Listener: "web"})
			r, err := http.NewRequest(http.MethodGet, "http://a.example/orders/7?x=y", nil)
			if err != nil {
				b.Fatal(err)
			}
			r.RequestURI, r.RemoteAddr = "/orders/7?x=y", "198.18.0.1:1000"
			r.Header = http.Header{"Authorization": {"Bearer " + token}, "Origin": {"https://page.example"}, "Accept": {"*/*"}, "User-Agent": {"bench"}}
			seen := httptest.NewRecorder()
			if h.ServeHTTP(seen, r); seen.Code != http.StatusOK {
				b.Fatalf("%d %s", seen.Code, seen.Body)
			}
			w := &discard{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.h)
				h.ServeHTTP(w, r)
			}
		})
	}
}
