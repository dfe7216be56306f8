package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// wellKnown is where an issuer describes itself (OpenID Connect Discovery 1.0 §4).
const wellKnown = "/.well-known/openid-configuration"

// maxDescribed is how long what an issuer said of itself is believed without asking again.
const maxDescribed = time.Hour

// keysURL is where the keys are: configured, or found in what their issuer says of itself.
func (k *keys) keysURL(ctx context.Context) (string, error) {
	if k.cfg.Issuer == "" {
		return k.cfg.URL, nil
	}
	now := k.cfg.Now()
	if k.found != "" && now.Sub(k.foundAt) < maxDescribed {
		return k.found, nil
	}
	k.found = ""
	at := strings.TrimSuffix(k.cfg.Issuer, "/") + wellKnown
	body, _, err := get(ctx, k.cfg.Doer, at, "application/json")
	if err != nil {
		return "", fmt.Errorf("fetch %s: %w", at, err)
	}
	found, err := jwksOf(body, k.cfg.Issuer, k.cfg.SameHost)
	if err != nil {
		return "", fmt.Errorf("%s: %w", at, err)
	}
	k.found, k.foundAt = found, now
	return found, nil
}

// jwksOf reads an issuer's description of itself. Its name in it has to be exactly the one
// that it was asked by: else anybody who is believed at one URL could vouch for another.
func jwksOf(body []byte, issuer string, sameHost bool) (string, error) {
	if len(body) > maxKeySet {
		return "", fmt.Errorf("%d bytes, expected %d at most", len(body), maxKeySet)
	}
	var doc struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return "", fmt.Errorf("no OpenID configuration: %w", err)
	}
	if doc.Issuer != issuer {
		return "", fmt.Errorf("it is of issuer %.256q, expected %q", doc.Issuer, issuer)
	}
	if err := checkURL(doc.JWKS); err != nil {
		return "", fmt.Errorf("jwks_uri: %w", err)
	}
	from, _ := url.Parse(issuer) // checked by newKeys
	to, _ := url.Parse(doc.JWKS)
	switch {
	case from.Scheme == "https" && to.Scheme != "https":
		return "", fmt.Errorf("jwks_uri %q, expected https as the issuer's", doc.JWKS)
	case sameHost && !strings.EqualFold(from.Host, to.Host):
		return "", fmt.Errorf("jwks_uri %q is at another host than the issuer, which an upstream does not lead to: expected jwks_url in the configuration", doc.JWKS)
	}
	return doc.JWKS, nil
}

// checkIssuer takes names of issuers that can be asked about themselves.
func checkIssuer(s string) error {
	if err := checkURL(s); err != nil {
		return err
	}
	if strings.ContainsAny(s, "?") {
		return fmt.Errorf("%q, expected no query", s)
	}
	return nil
}
