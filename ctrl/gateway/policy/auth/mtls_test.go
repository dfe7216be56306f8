package auth

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

func withCert(leaf *x509.Certificate, verified bool) *http.Request {
	x := &exchange.Exchange{}
	if leaf != nil {
		x.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
		if verified {
			x.TLS.VerifiedChains = [][]*x509.Certificate{{leaf}}
		}
	}
	r := httptest.NewRequest("GET", "/", nil)
	return r.WithContext(exchange.With(r.Context(), x))
}

func TestMTLS(t *testing.T) {
	leaf := &x509.Certificate{SerialNumber: big.NewInt(255), Raw: []byte("x"), Subject: pkix.Name{CommonName: "worker", OrganizationalUnit: []string{"ops"}}, Issuer: pkix.Name{CommonName: "Example CA", Organization: []string{"Example"}},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/ns/a/sa/worker"}}, DNSNames: []string{"worker.example.org"}, EmailAddresses: []string{"w@example.org"}}
	for name, one := range map[string]struct {
		cfg  MTLSConfig
		want string // "": denied
	}{
		"URI first":        {MTLSConfig{}, "spiffe://example.org/ns/a/sa/worker"},
		"DNS":              {MTLSConfig{Subject: []string{"dns"}}, "worker.example.org"},
		"email":            {MTLSConfig{Subject: []string{"email"}}, "w@example.org"},
		"cn":               {MTLSConfig{Subject: []string{"cn"}}, "worker"},
		"dn":               {MTLSConfig{Subject: []string{"dn"}}, "CN=worker,OU=ops"},
		"allowed":          {MTLSConfig{Allow: []string{"x", "spiffe://example.org/ns/a/*"}}, "spiffe://example.org/ns/a/sa/worker"},
		"by its end":       {MTLSConfig{Subject: []string{"dns"}, Allow: []string{"*.example.org"}}, "worker.example.org"},
		"not allowed":      {MTLSConfig{Allow: []string{"spiffe://example.org/ns/b/*"}}, ""},
		"issuer":           {MTLSConfig{Issuers: []string{"Example CA"}, Subject: []string{"cn"}}, "worker"},
		"issuer's DN":      {MTLSConfig{Issuers: []string{"CN=Example CA,O=Example"}, Subject: []string{"cn"}}, "worker"},
		"another issuer's": {MTLSConfig{Issuers: []string{"Other CA"}}, ""},
	} {
		one.cfg.Name = "mtls"
		m, err := NewMTLS(one.cfg)
		if err != nil {
			t.Fatal(err)
		}
		id, err := m.Authenticate(withCert(leaf, true))
		if one.want == "" {
			wantDenied(t, name, err)
			continue
		}
		if err != nil || id.Subject != one.want || id.Claims["serial"] != "ff" || len(id.Groups) != 1 {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
	m, _ := NewMTLS(MTLSConfig{Name: "mtls"})
	_, err := m.Authenticate(withCert(leaf, false))
	wantDenied(t, "not verified", err)
	_, err = m.Authenticate(withCert(&x509.Certificate{SerialNumber: big.NewInt(1)}, true))
	wantDenied(t, "no name", err)
	_, err = m.Authenticate(withCert(&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a\nb"}}, true))
	wantDenied(t, "a line end in the name", err)
	if _, err := m.Authenticate(withCert(nil, false)); !errors.Is(err, ErrNone) {
		t.Errorf("no TLS: %v", err)
	}
	for _, cfg := range []MTLSConfig{{Subject: []string{"ip"}}, {Allow: []string{"a*b"}}, {Allow: []string{"*a*"}}, {Realm: "\n"}} {
		if _, err := NewMTLS(cfg); err == nil || !strings.Contains(err.Error(), "expected") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}
