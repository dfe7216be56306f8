package auth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	josejson "github.com/go-jose/go-jose/v4/json"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/policy/internal/cache"
	"github.com/np-appliance/np/ctrl/gateway/policy/internal/claim"
)

// TokenRules are what a token has to say, whoever says that it is good.
type TokenRules struct {
	Issuers   []string            // one of them; none: any, when its keys vouch for it
	Audiences []string            // one of them
	AnyAud    bool                // the audience is not looked at; with no Audiences
	Required  map[string][]string // path of a claim → one of these values; none: any value
	Skew      time.Duration       // how far clocks may be apart; 0: 60 s, negative: none
	MaxAge    time.Duration       // since iat; 0: any
	Subject   string              // the claim that names the subject; "": sub
	Scopes    []string            // claims with scopes; none: scope and scp
	Groups    []string            // paths of claims with groups
}

func (t *TokenRules) defaults() {
	setDefault(&t.Skew, time.Minute)
	t.Skew = max(t.Skew, 0)
	setDefault(&t.Subject, "sub")
	if len(t.Scopes) == 0 {
		t.Scopes = []string{"scope", "scp"}
	}
}

func (t *TokenRules) check() error {
	if t.AnyAud != (len(t.Audiences) == 0) {
		return errors.New("expected audiences, or any of them but not both: a token for another service must not serve here by oversight")
	}
	if t.Skew > 10*time.Minute || t.MaxAge < 0 {
		return fmt.Errorf("clock skew %s and maximum age %s, expected up to 10 min and a positive one", t.Skew, t.MaxAge)
	}
	return nil
}

// JWTConfig is bearer tokens that say and prove themselves whose they are (RFC 7519, RFC 9068).
type JWTConfig struct {
	Name       string
	Realm      string // "": Name
	Keys       KeysConfig
	Algorithms []string // none: RS256, PS256, ES256, EdDSA
	Types      []string // "typ" of the header, "" for none; none given: "", JWT and at+jwt
	Rules      TokenRules
	Sources    []Source // none: header Authorization, scheme Bearer
	MaxToken   int      // bytes; 0: 8192
	CacheSize  int      // verified tokens remembered; 0: 4096; -1: none
	Now        func() time.Time
}

// Algorithms are the names that JWTConfig takes.
func Algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// maxTokenMax bounds JWTConfig.MaxToken, maxHeader the token's header.
const (
	maxTokenMax = 64 << 10
	maxHeader   = 4096
	maxKeyID    = 512
)

// remember bounds how long a token that was verified counts without being verified again.
const remember = time.Minute

// JWT checks bearer tokens.
type JWT struct {
	cfg JWTConfig
	counters
	algs  []jose.SignatureAlgorithm
	keys  *keys
	cache *cache.Cache[*exchange.Identity]
}

// NewJWT makes a provider. Run fetches the keys.
func NewJWT(cfg JWTConfig) (*JWT, error) {
	setDefault(&cfg.Realm, cfg.Name)
	setDefault(&cfg.MaxToken, 8192)
	setDefault(&cfg.CacheSize, 4096)
	cfg.Rules.defaults()
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if len(cfg.Algorithms) == 0 {
		cfg.Algorithms = []string{"RS256", "PS256", "ES256", "EdDSA"}
	}
	if len(cfg.Types) == 0 {
		cfg.Types = []string{"", "JWT", "at+jwt"}
	}
	if len(cfg.Sources) == 0 {
		cfg.Sources = []Source{{Header: "Authorization", Scheme: "Bearer"}}
	}
	errs := []error{checkRealm(cfg.Realm), cfg.Rules.check()}
	for _, s := range cfg.Sources {
		errs = append(errs, s.check())
	}
	j := &JWT{cfg: cfg, cache: cache.New[*exchange.Identity](cfg.CacheSize)}
	for _, a := range cfg.Algorithms {
		if !slices.Contains(Algorithms(), a) {
			errs = append(errs, fmt.Errorf("algorithm %q, expected one of %s", a, strings.Join(Algorithms(), ", ")))
		}
		j.algs = append(j.algs, jose.SignatureAlgorithm(a))
	}
	if cfg.MaxToken < 64 || cfg.MaxToken > maxTokenMax {
		errs = append(errs, fmt.Errorf("tokens of up to %d bytes, expected 64 to %d", cfg.MaxToken, maxTokenMax))
	}
	if cfg.Keys.Now == nil {
		cfg.Keys.Now = cfg.Now
	}
	var err error
	j.keys, err = newKeys(cfg.Keys)
	if err = errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	return j, nil
}

// Name implements Provider.
func (j *JWT) Name() string { return j.cfg.Name }

// Run keeps the issuer's keys fresh until ctx ends.
func (j *JWT) Run(ctx context.Context) { j.keys.Run(ctx) }

// Reload reads a file of keys again; keys at a URL are fetched when it is time.
func (j *JWT) Reload() error {
	if j.keys.file != nil {
		return j.keys.file.Reload()
	}
	return nil
}

// Verify implements Reloader.
func (j *JWT) Verify() error {
	if j.keys.file != nil {
		return j.keys.file.Verify()
	}
	return nil
}

// Challenge implements Provider.
func (j *JWT) Challenge(err error) string { return bearerChallenge(j.cfg.Realm, err) }

// bearerChallenge is RFC 6750 §3's: without credentials it has no error.
func bearerChallenge(realm string, err error) string {
	out := `Bearer realm="` + realm + `"`
	var d *Denied
	if errors.As(err, &d) {
		out += `, error="` + d.Code + `", error_description="` + d.Public + `"`
	}
	return out
}

// Strip implements Provider.
func (j *JWT) Strip(r *http.Request) {
	for _, s := range j.cfg.Sources {
		s.strip(r)
	}
}

// Stats implements Provider.
func (j *JWT) Stats() Stats {
	s := j.stats(j.cfg.Name, "jwt")
	s.Cache = j.cache.Stats()
	j.keys.stats(&s)
	return s
}

// Authenticate implements Provider.
func (j *JWT) Authenticate(r *http.Request) (*exchange.Identity, error) {
	id, err := j.authenticate(r)
	j.count(err)
	return id, err
}

func (j *JWT) authenticate(r *http.Request) (*exchange.Identity, error) {
	token, err := first(r, j.cfg.Sources, j.cfg.MaxToken)
	if err != nil {
		return nil, err
	}
	return j.verify(r.Context(), token)
}

// cacheKey is of a token and the key set that verified it: when keys change, all is verified anew.
func (j *JWT) cacheKey(gen uint64, token string) cache.Key {
	var space [2048]byte // most tokens: no allocation
	b := binary.LittleEndian.AppendUint64(space[:0], gen)
	return sha256.Sum256(append(b, token...))
}

func (j *JWT) verify(ctx context.Context, token string) (*exchange.Identity, error) {
	now := j.cfg.Now()
	if s, err := j.keys.fresh(); err == nil {
		if id, ok := j.cache.Get(j.cacheKey(s.gen, token), now); ok {
			return id, nil
		}
	}
	head, err := j.header(token)
	if err != nil {
		return nil, deny("the token is not a valid one", err)
	}
	sig, err := jose.ParseSignedCompact(token, j.algs)
	if err != nil {
		return nil, deny("the token is not a valid one", err)
	}
	found, gen, err := j.keys.find(ctx, head.KeyID, jose.SignatureAlgorithm(head.Algorithm))
	if err != nil {
		return nil, err
	}
	payload, err := verifyWith(sig, found)
	if err != nil {
		return nil, deny("the token is not signed by a known key", err)
	}
	claims, err := decodeClaims(payload)
	if err != nil {
		return nil, deny("the token is not a valid one", err)
	}
	id, until, err := j.cfg.Rules.identity(j.cfg.Name, claims, now, true)
	if err != nil {
		return nil, err
	}
	j.cache.Put(j.cacheKey(gen, token), id, now, earlier(until, now.Add(remember)))
	return id, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func verifyWith(sig *jose.JSONWebSignature, keys []verifyKey) ([]byte, error) {
	if len(keys) == 0 {
		return nil, errors.New("no key has its key ID and algorithm")
	}
	for _, k := range keys { // bound: maxTries
		if payload, err := sig.Verify(k.key); err == nil {
			return payload, nil
		}
	}
	return nil, errors.New("the signature does not fit")
}

// header is a token's (RFC 7515 §4.1). What would make us fetch keys is not even read.
type header struct {
	Algorithm string              `json:"alg"`
	KeyID     string              `json:"kid"`
	Type      string              `json:"typ"`
	Content   string              `json:"cty"`
	Critical  josejson.RawMessage `json:"crit"`
	Base64    josejson.RawMessage `json:"b64"`
}

// header reads and checks a token's header before anything costs something.
func (j *JWT) header(token string) (*header, error) {
	raw, _, ok := strings.Cut(token, ".")
	if strings.Count(token, ".") != 2 || !ok {
		return nil, errors.New("no compact JWS of three parts")
	}
	if len(raw) > maxHeader {
		return nil, fmt.Errorf("a header of %d bytes, %d are allowed", len(raw), maxHeader)
	}
	b, err := base64.RawURLEncoding.DecodeString(raw)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	h := &header{}
	if err := josejson.Unmarshal(b, h); err != nil { // refuses names that come twice
		return nil, fmt.Errorf("header: %w", err)
	}
	if t := strings.TrimPrefix(strings.ToLower(h.Type), "application/"); !slices.ContainsFunc(j.cfg.Types, func(want string) bool {
		return t == strings.TrimPrefix(strings.ToLower(want), "application/")
	}) {
		return nil, fmt.Errorf("typ %.64q, expected one of %q", h.Type, j.cfg.Types)
	}
	switch {
	case h.Critical != nil || h.Base64 != nil: // RFC 7515 §4.1.11: no extension is known here; RFC 7797 §7
		return nil, errors.New("header: crit or b64, which no token may have here")
	case h.Content != "":
		return nil, errors.New("a nested token")
	case len(h.KeyID) > maxKeyID:
		return nil, fmt.Errorf("a key ID of %d bytes, %d are allowed", len(h.KeyID), maxKeyID)
	case !slices.Contains(j.cfg.Algorithms, h.Algorithm):
		return nil, fmt.Errorf("algorithm %.64q, expected one of %q", h.Algorithm, j.cfg.Algorithms)
	}
	return h, nil
}

// maxClaimDepth bounds how deep claims nest.
const maxClaimDepth = 32

// decodeClaims reads a JSON object in which no name comes twice.
func decodeClaims(b []byte) (map[string]any, error) {
	if err := checkDepth(b, maxClaimDepth); err != nil {
		return nil, err
	}
	var claims map[string]any
	if err := josejson.Unmarshal(b, &claims); err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	if claims == nil {
		return nil, errors.New("claims: no JSON object")
	}
	return claims, nil
}

// checkDepth counts brackets outside of strings, so that no decoder gets in too deep.
func checkDepth(b []byte, most int) error {
	depth, inString := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > most {
				return fmt.Errorf("JSON that nests deeper than %d", most)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// date reads a NumericDate (RFC 7519 §2).
func date(claims map[string]any, name string) (t time.Time, has bool, err error) {
	v, has := claims[name]
	if !has {
		return t, false, nil
	}
	f, ok := v.(float64)
	if !ok || math.IsNaN(f) || f < 0 || f > 1<<40 {
		return t, true, fmt.Errorf("claim %s is no date", name)
	}
	sec, frac := math.Modf(f)
	return time.Unix(int64(sec), int64(frac*1e9)), true, nil
}

// identity checks the claims and makes an identity of them, good until a time.
func (t *TokenRules) identity(provider string, claims map[string]any, now time.Time, needExp bool) (*exchange.Identity, time.Time, error) {
	until, err := t.times(claims, now, needExp)
	if err != nil {
		return nil, until, err
	}
	if iss, _ := claims["iss"].(string); len(t.Issuers) > 0 && !slices.Contains(t.Issuers, iss) {
		return nil, until, deny("the token is of another issuer", fmt.Errorf("iss %.128q", iss))
	}
	if len(t.Audiences) > 0 {
		aud := claim.Strings(claims["aud"])
		if !slices.ContainsFunc(aud, func(a string) bool { return slices.Contains(t.Audiences, a) }) {
			return nil, until, deny("the token is for another audience", fmt.Errorf("aud %.128q", aud))
		}
	}
	for path, values := range t.Required {
		v, ok := claim.Lookup(claims, path)
		if ok && len(values) > 0 {
			ok = slices.ContainsFunc(claim.Strings(v), func(s string) bool { return slices.Contains(values, s) })
		}
		if !ok {
			return nil, until, deny("the token lacks a claim that is required", fmt.Errorf("claim %s", path))
		}
	}
	v, _ := claim.Lookup(claims, t.Subject)
	id := &exchange.Identity{Provider: provider, Claims: claims}
	if id.Subject, _ = claim.Text(v); id.Subject == "" || len(id.Subject) > 4096 {
		return nil, until, deny("the token names no subject", fmt.Errorf("claim %s", t.Subject))
	}
	for _, name := range t.Scopes {
		if v, ok := claim.Lookup(claims, name); ok {
			for _, s := range claim.Strings(v) {
				id.Scopes = append(id.Scopes, strings.Fields(s)...)
			}
		}
	}
	for _, path := range t.Groups {
		if v, ok := claim.Lookup(claims, path); ok {
			for _, g := range claim.Strings(v) {
				if id.Groups == nil {
					id.Groups = map[string]struct{}{}
				}
				id.Groups[g] = struct{}{}
			}
		}
	}
	return id, until, nil
}

// times checks exp, nbf and iat (RFC 7519 §4.1.4 to §4.1.6) and says until when they are good.
func (t *TokenRules) times(claims map[string]any, now time.Time, needExp bool) (time.Time, error) {
	exp, hasExp, err1 := date(claims, "exp")
	nbf, hasNbf, err2 := date(claims, "nbf")
	iat, hasIat, err3 := date(claims, "iat")
	until := now.Add(24 * time.Hour)
	if err := errors.Join(err1, err2, err3); err != nil {
		return until, deny("the token is not a valid one", err)
	}
	switch {
	case !hasExp && needExp:
		return until, deny("the token does not say when it ends", nil)
	case hasExp && !now.Before(exp.Add(t.Skew)):
		return until, deny("the token has expired", fmt.Errorf("at %s", exp.UTC().Format(time.RFC3339)))
	case hasNbf && now.Before(nbf.Add(-t.Skew)):
		return until, deny("the token is not valid yet", fmt.Errorf("before %s", nbf.UTC().Format(time.RFC3339)))
	case hasIat && now.Before(iat.Add(-t.Skew)):
		return until, deny("the token is not valid yet", fmt.Errorf("issued at %s", iat.UTC().Format(time.RFC3339)))
	case t.MaxAge > 0 && !hasIat:
		return until, deny("the token does not say when it was issued", nil)
	case t.MaxAge > 0 && !now.Before(iat.Add(t.MaxAge+t.Skew)):
		return until, deny("the token is too old", fmt.Errorf("issued at %s", iat.UTC().Format(time.RFC3339)))
	}
	if hasExp {
		until = earlier(until, exp.Add(t.Skew))
	}
	if t.MaxAge > 0 {
		until = earlier(until, iat.Add(t.MaxAge+t.Skew))
	}
	return until, nil
}
