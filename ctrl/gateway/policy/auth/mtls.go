package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// MTLSConfig is client certificates that the listener verified. Who issues them is the
// listener's business (its client_ca_file); here their names count.
type MTLSConfig struct {
	Name    string
	Realm   string   // "": Name
	Subject []string // where the subject's name is: uri, dns, email, cn, dn; the first one that the certificate has counts; none: these in this order
	Allow   []string // subjects that may come; "*" at the beginning or the end stands for anything; none: all
	Issuers []string // common names or whole names (RFC 4514) of the issuer; none: all
}

// MTLS knows requests by the certificate of their connection.
type MTLS struct {
	cfg MTLSConfig
	counters
}

// MTLSSubjects are the words of MTLSConfig.Subject.
func MTLSSubjects() []string { return []string{"uri", "dns", "email", "cn", "dn"} }

// NewMTLS makes a provider.
func NewMTLS(cfg MTLSConfig) (*MTLS, error) {
	setDefault(&cfg.Realm, cfg.Name)
	if len(cfg.Subject) == 0 {
		cfg.Subject = MTLSSubjects()
	}
	errs := []error{checkRealm(cfg.Realm)}
	for _, w := range cfg.Subject {
		if !slices.Contains(MTLSSubjects(), w) {
			errs = append(errs, fmt.Errorf("subject %q, expected one of %s", w, strings.Join(MTLSSubjects(), ", ")))
		}
	}
	for _, p := range cfg.Allow {
		if p == "" || strings.Contains(strings.Trim(p, "*"), "*") || strings.Count(p, "*") > 1 {
			errs = append(errs, fmt.Errorf("allowed subject %q, expected one with at most one \"*\", at its beginning or end", p))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &MTLS{cfg: cfg}, nil
}

// Name implements Provider.
func (m *MTLS) Name() string { return m.cfg.Name }

// Challenge implements Provider. The scheme is no registered one: TLS asks for
// certificates, HTTP has no challenge for them, and a 401 needs one.
func (m *MTLS) Challenge(error) string { return `ClientCertificate realm="` + m.cfg.Realm + `"` }

// Strip implements Provider: there is nothing in the request.
func (m *MTLS) Strip(*http.Request) {}

// Stats implements Provider.
func (m *MTLS) Stats() Stats { return m.stats(m.cfg.Name, "mtls") }

// Authenticate implements Provider.
func (m *MTLS) Authenticate(r *http.Request) (*exchange.Identity, error) {
	id, err := m.authenticate(r)
	m.count(err)
	return id, err
}

func (m *MTLS) authenticate(r *http.Request) (*exchange.Identity, error) {
	state := exchange.From(r.Context()).TLS
	if state == nil || len(state.PeerCertificates) == 0 {
		return nil, ErrNone
	}
	if len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return nil, deny("the client certificate was not verified", errors.New("the listener verifies none: look at its client_auth and client_ca_file"))
	}
	leaf := state.VerifiedChains[0][0]
	if len(m.cfg.Issuers) > 0 && !slices.Contains(m.cfg.Issuers, leaf.Issuer.CommonName) && !slices.Contains(m.cfg.Issuers, leaf.Issuer.String()) {
		return nil, deny("the client certificate is of another issuer", fmt.Errorf("%.256q", leaf.Issuer))
	}
	subject := m.subject(leaf)
	if subject == "" || checkName(subject) != nil {
		return nil, deny("the client certificate names no subject", fmt.Errorf("%.256q, looked for %s", leaf.Subject, strings.Join(m.cfg.Subject, ", ")))
	}
	if len(m.cfg.Allow) > 0 && !slices.ContainsFunc(m.cfg.Allow, func(p string) bool { return glob(p, subject) }) {
		return nil, deny("the client certificate's subject is not known here", fmt.Errorf("%q", subject))
	}
	return identityOf(m.cfg.Name, subject, leaf), nil
}

func (m *MTLS) subject(leaf *x509.Certificate) string {
	for _, where := range m.cfg.Subject { // bound: the configuration
		var names []string
		switch where {
		case "uri":
			for _, u := range leaf.URIs {
				names = append(names, u.String())
			}
		case "dns":
			names = leaf.DNSNames
		case "email":
			names = leaf.EmailAddresses
		case "cn":
			names = []string{leaf.Subject.CommonName}
		case "dn":
			names = []string{leaf.Subject.String()}
		}
		if len(names) > 0 && names[0] != "" {
			return names[0]
		}
	}
	return ""
}

// maxNames bounds the names of a certificate that are kept.
const maxNames = 64

// identityOf makes claims of a certificate, so that rules and limits can look at them: san,
// cn, dn, issuer, serial, fingerprint (SHA-256) and ou; its organizational units are groups.
func identityOf(provider, subject string, leaf *x509.Certificate) *exchange.Identity {
	var san []any
	for _, u := range leaf.URIs[:min(len(leaf.URIs), maxNames)] {
		san = append(san, u.String())
	}
	for _, n := range leaf.DNSNames[:min(len(leaf.DNSNames), maxNames)] {
		san = append(san, n)
	}
	for _, n := range leaf.EmailAddresses[:min(len(leaf.EmailAddresses), maxNames)] {
		san = append(san, n)
	}
	sum := sha256.Sum256(leaf.Raw)
	id := &exchange.Identity{Provider: provider, Subject: subject, Groups: map[string]struct{}{}, Claims: map[string]any{
		"san": san, "cn": leaf.Subject.CommonName, "dn": leaf.Subject.String(), "issuer": leaf.Issuer.String(),
		"serial": leaf.SerialNumber.Text(16), "fingerprint": hex.EncodeToString(sum[:]),
	}}
	var ou []any
	for _, u := range leaf.Subject.OrganizationalUnit[:min(len(leaf.Subject.OrganizationalUnit), maxNames)] {
		ou = append(ou, u)
		id.Groups[u] = struct{}{}
	}
	id.Claims["ou"] = ou
	return id
}

// glob matches with one "*" at the beginning or the end.
func glob(pattern, s string) bool {
	if rest, ok := strings.CutPrefix(pattern, "*"); ok {
		return strings.HasSuffix(s, rest)
	}
	if rest, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(s, rest)
	}
	return s == pattern
}
