package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// KeysConfig says where an issuer's keys are (JWK set, RFC 7517 §5): in a file, at a URL, or
// where the issuer says.
type KeysConfig struct {
	File       string
	URL        string
	Issuer     string        // its OpenID configuration has the URL
	SameHost   bool          // which has to be at the issuer's own host
	Doer       Doer          // of the URL
	Refresh    time.Duration // how old keys get before they are fetched again; a shorter max-age counts; 0: 10 min
	MinRefresh time.Duration // between fetches, whatever asks for one; 0: 30 s
	Timeout    time.Duration // of a fetch; 0: 5 s
	MaxStale   time.Duration // how long keys serve that can't be fetched anew; 0: 24 h
	Now        func() time.Time
}

// Bounds of a key set.
const (
	maxKeySet  = 512 << 10
	maxSetKeys = 128
	minRSA     = 2048 // bits, RFC 7518 §3.3
	maxRSA     = 8192
)

// verifyKey is one key and what it may be used for.
type verifyKey struct {
	id   string
	key  any // *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
	algs []jose.SignatureAlgorithm
}

// keySet is one state of an issuer's keys.
type keySet struct {
	gen  uint64
	at   time.Time // fetched
	keys []verifyKey
	skip []string // why keys of the set are not used
}

// keys holds an issuer's keys and keeps them fresh.
type keys struct {
	cfg      KeysConfig
	file     *file // nil: URL
	set      atomic.Pointer[keySet]
	fetches  atomic.Uint64
	failures atomic.Uint64

	kick chan struct{} // somebody met a key ID that is not known

	found   string // with Issuer: the URL; Run's alone
	foundAt time.Time

	mu       sync.Mutex
	last     time.Time     // the last fetch began
	fetching bool          // it has not ended
	done     chan struct{} // closed when the next fetch ends
	lastErr  string
}

func newKeys(cfg KeysConfig) (*keys, error) {
	setDefault(&cfg.Refresh, 10*time.Minute)
	setDefault(&cfg.MinRefresh, 30*time.Second)
	setDefault(&cfg.Timeout, 5*time.Second)
	setDefault(&cfg.MaxStale, 24*time.Hour)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	k := &keys{cfg: cfg, kick: make(chan struct{}, 1), done: make(chan struct{})}
	places := 0
	for _, p := range [...]string{cfg.File, cfg.URL, cfg.Issuer} {
		if p != "" {
			places++
		}
	}
	switch {
	case places != 1:
		return nil, errors.New("expected the issuer's keys in a file, at a URL, or where the issuer says")
	case cfg.MinRefresh < 0 || cfg.Refresh < cfg.MinRefresh || cfg.Timeout < 0 || cfg.MaxStale < 0:
		return nil, fmt.Errorf("refresh %s and at least %s apart, expected positive ones in this order", cfg.Refresh, cfg.MinRefresh)
	case cfg.File != "":
		k.file = &file{path: cfg.File, now: cfg.Now, load: k.load}
		if err := k.file.Reload(); err != nil {
			return nil, err
		}
		return k, nil
	case cfg.Doer == nil:
		return nil, errors.New("a URL of keys and nobody to fetch it")
	}
	if cfg.Issuer != "" {
		if err := checkIssuer(cfg.Issuer); err != nil {
			return nil, fmt.Errorf("issuer whose keys are to be found: %w", err)
		}
	} else if err := checkURL(cfg.URL); err != nil {
		return nil, fmt.Errorf("URL of keys: %w", err)
	}
	return k, nil
}

// checkURL takes absolute http and https URLs without credentials.
func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return err
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.Fragment != "":
		return fmt.Errorf("%q, expected https://HOST/PATH without user and fragment", s)
	}
	return nil
}

func (k *keys) load(b []byte) (func(), error) {
	s, err := parseKeySet(b)
	if err != nil {
		return nil, err
	}
	return func() {
		s.at = k.cfg.Now()
		if old := k.set.Load(); old != nil {
			s.gen = old.gen + 1
		}
		k.set.Store(s)
	}, nil
}

// parseKeySet takes the keys that verify signatures out of a JWK set; those of other kinds
// are left out, as RFC 7517 §5 wants it.
func parseKeySet(b []byte) (*keySet, error) {
	if len(b) > maxKeySet {
		return nil, fmt.Errorf(" %d bytes, expected %d at most", len(b), maxKeySet)
	}
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf(" no JWK set: %w", err)
	}
	if len(doc.Keys) > maxSetKeys {
		return nil, fmt.Errorf(" %d keys, expected %d at most", len(doc.Keys), maxSetKeys)
	}
	s := &keySet{}
	for i, raw := range doc.Keys {
		v, err := parseKey(raw)
		if err != nil {
			s.skip = append(s.skip, fmt.Sprintf("key %d: %v", i+1, err))
			continue
		}
		s.keys = append(s.keys, v)
	}
	if len(s.keys) == 0 {
		return nil, fmt.Errorf(" no usable key among %d (%s), expected a JWK set with RSA, EC or Ed25519 public keys", len(doc.Keys), strings.Join(s.skip[:min(len(s.skip), 3)], "; "))
	}
	return s, nil
}

func parseKey(raw json.RawMessage) (verifyKey, error) {
	var ops struct {
		Ops []string `json:"key_ops"`
	}
	var jwk jose.JSONWebKey
	if err := errors.Join(json.Unmarshal(raw, &ops), jwk.UnmarshalJSON(raw)); err != nil {
		return verifyKey{}, err
	}
	if jwk.Use != "" && jwk.Use != "sig" || len(ops.Ops) > 0 && !slices.Contains(ops.Ops, "verify") {
		return verifyKey{}, errors.New("not for signatures")
	}
	algs, err := algorithmsOf(jwk.Key)
	if err != nil {
		return verifyKey{}, err
	}
	if a := jose.SignatureAlgorithm(jwk.Algorithm); a != "" {
		if !slices.Contains(algs, a) {
			return verifyKey{}, fmt.Errorf("algorithm %q is none of its type's", a)
		}
		algs = []jose.SignatureAlgorithm{a}
	}
	return verifyKey{id: jwk.KeyID, key: jwk.Key, algs: algs}, nil
}

// algorithmsOf are those that a key's type allows. It takes public keys alone: an issuer that
// publishes a private or a symmetric one has no secret left.
func algorithmsOf(key any) ([]jose.SignatureAlgorithm, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA {
			return nil, fmt.Errorf("RSA of %d bits, expected %d to %d", n, minRSA, maxRSA)
		}
		return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}, nil
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return []jose.SignatureAlgorithm{jose.ES256}, nil
		case 384:
			return []jose.SignatureAlgorithm{jose.ES384}, nil
		case 521:
			return []jose.SignatureAlgorithm{jose.ES512}, nil
		}
	case ed25519.PublicKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}, nil
	}
	return nil, fmt.Errorf("a key of type %T, expected a public one of RSA, EC or Ed25519", key)
}

// find returns the keys for a key ID ("": any) and an algorithm, and the set's number. It
// waits for a fetch where one may help. The error is an *Unavailable.
func (k *keys) find(ctx context.Context, id string, alg jose.SignatureAlgorithm) ([]verifyKey, uint64, error) {
	for asked := k.file != nil; ; asked = true { // bound: twice
		s, err := k.fresh()
		if err == nil {
			if out := s.match(id, alg); len(out) > 0 || id == "" || asked {
				return out, s.gen, nil
			}
		} else if asked {
			return nil, 0, &Unavailable{err}
		}
		k.ask(ctx) // if it is too soon, another's fetch may have ended just now
	}
}

// fresh returns the set unless there is none, or it is too old to be used.
func (k *keys) fresh() (*keySet, error) {
	s := k.set.Load()
	switch {
	case s == nil:
		return nil, errors.New("the issuer's keys have not been fetched yet")
	case k.file == nil && k.cfg.Now().Sub(s.at) > k.cfg.Refresh+k.cfg.MaxStale:
		return nil, fmt.Errorf("the issuer's keys are of %s and can't be fetched anew", s.at.UTC().Format(time.RFC3339))
	}
	return s, nil
}

// maxTries bounds the keys that a token without key ID is tried with.
const maxTries = 8

func (s *keySet) match(id string, alg jose.SignatureAlgorithm) []verifyKey {
	var out []verifyKey
	for _, v := range s.keys { // bound: maxSetKeys
		if (id == "" || v.id == id) && slices.Contains(v.algs, alg) && len(out) < maxTries {
			out = append(out, v)
		}
	}
	return out
}

// ask has the keys fetched, unless it is too soon after the last time, and waits for the end of it.
func (k *keys) ask(ctx context.Context) {
	k.mu.Lock()
	if !k.fetching {
		if !k.last.IsZero() && k.cfg.Now().Sub(k.last) < k.cfg.MinRefresh {
			k.mu.Unlock()
			return
		}
		select {
		case k.kick <- struct{}{}:
		default: // somebody did already
		}
	}
	done := k.done
	k.mu.Unlock()
	timer := time.NewTimer(k.cfg.Timeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Run keeps the keys fresh until ctx ends.
func (k *keys) Run(ctx context.Context) {
	if k.file != nil {
		k.file.Run(ctx)
		return
	}
	next := time.Duration(0)
	failed := 0
	for {
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-k.kick:
			timer.Stop()
			if k.tooSoon() {
				continue // it was asked for before the last fetch ended
			}
		}
		age, err := k.fetch(ctx)
		if err != nil {
			// MinRefresh, doubled with each failure in a row, at most Refresh
			next = min(k.cfg.MinRefresh<<min(failed, 16), k.cfg.Refresh)
			failed++
			continue
		}
		failed, next = 0, min(max(age, k.cfg.MinRefresh), k.cfg.Refresh)
	}
}

func (k *keys) tooSoon() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.last.IsZero() && k.cfg.Now().Sub(k.last) < k.cfg.MinRefresh
}

// fetch gets the set and says how long its server takes it for fresh.
func (k *keys) fetch(ctx context.Context) (time.Duration, error) {
	k.mu.Lock()
	k.last, k.fetching = k.cfg.Now(), true
	k.mu.Unlock()
	k.fetches.Add(1)
	ctx, cancel := context.WithTimeout(ctx, k.cfg.Timeout)
	defer cancel()
	at, age, err := k.fetchSet(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lastErr, k.fetching = "", false
	if err != nil {
		k.failures.Add(1)
		k.found = "" // the issuer may have moved them
		k.lastErr = err.Error()
		if at != "" {
			k.lastErr = fmt.Sprintf("fetch %s: %v", at, err)
		}
	}
	close(k.done)
	k.done = make(chan struct{})
	return age, err
}

// fetchSet gets the set from where it is; at is empty where that is not known.
func (k *keys) fetchSet(ctx context.Context) (at string, age time.Duration, err error) {
	if at, err = k.keysURL(ctx); err != nil {
		return "", 0, err
	}
	body, age, err := get(ctx, k.cfg.Doer, at, "application/jwk-set+json, application/json")
	if err != nil {
		return at, 0, err
	}
	use, err := k.load(body)
	if err == nil {
		use()
	}
	return at, age, err
}

func get(ctx context.Context, d Doer, url, accept string) ([]byte, time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Accept", accept)
	res, err := d.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("status %d, expected 200", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxKeySet+1))
	return body, maxAge(res.Header.Get("Cache-Control")), err
}

// maxAge reads max-age of a Cache-Control field (RFC 9111 §5.2.2.1); without one it is long.
func maxAge(field string) time.Duration {
	const long = 365 * 24 * time.Hour
	for d := range strings.SplitSeq(field, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(d), "=")
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			return 0
		case "max-age":
			if n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 32); err == nil {
				return min(time.Duration(n)*time.Second, long)
			}
		}
	}
	return long
}

func (k *keys) stats(s *Stats) {
	s.Fetches, s.Failures = k.fetches.Load(), k.failures.Load()
	if set := k.set.Load(); set != nil {
		s.Entries, s.Loaded = len(set.keys), set.at
	}
	if k.file != nil {
		s.Loaded, s.LastError = k.file.state()
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s.LastError = k.lastErr
}
