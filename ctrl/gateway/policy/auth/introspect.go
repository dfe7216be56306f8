package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/policy/internal/cache"
)

// IntrospectionConfig is bearer tokens that their issuer is asked about (RFC 7662).
type IntrospectionConfig struct {
	Name         string
	Realm        string // "": Name
	URL          string
	Doer         Doer
	ClientID     string
	ClientSecret string // sent as Basic credentials (RFC 6749 §2.3.1)
	Rules        TokenRules
	Sources      []Source      // none: header Authorization, scheme Bearer
	Timeout      time.Duration // of one question; 0: 2 s
	Concurrency  int           // questions at a time; 0: 64
	Remember     time.Duration // that a token is good, at most until it ends; 0: 60 s; negative: not
	RememberBad  time.Duration // that it is not; 0: 10 s; negative: not
	CacheSize    int           // 0: 8192
	MaxToken     int           // bytes; 0: 8192
	Now          func() time.Time
}

// maxAnswer bounds what an issuer may say about a token.
const maxAnswer = 64 << 10

// Introspection asks the issuer.
type Introspection struct {
	cfg IntrospectionConfig
	counters
	cache    *cache.Cache[verdict]
	flight   singleflight.Group
	slots    chan struct{}
	fetches  atomic.Uint64
	failures atomic.Uint64

	mu      sync.Mutex
	lastErr string
}

// verdict is an identity, or why there is none.
type verdict struct {
	id  *exchange.Identity
	err error // a *Denied
}

// NewIntrospection makes a provider.
func NewIntrospection(cfg IntrospectionConfig) (*Introspection, error) {
	setDefault(&cfg.Realm, cfg.Name)
	setDefault(&cfg.Timeout, 2*time.Second)
	setDefault(&cfg.Concurrency, 64)
	setDefault(&cfg.Remember, time.Minute)
	setDefault(&cfg.RememberBad, 10*time.Second)
	setDefault(&cfg.CacheSize, 8192)
	setDefault(&cfg.MaxToken, 8192)
	cfg.Rules.defaults()
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if len(cfg.Sources) == 0 {
		cfg.Sources = []Source{{Header: "Authorization", Scheme: "Bearer"}}
	}
	errs := []error{checkRealm(cfg.Realm), cfg.Rules.check()}
	if err := checkURL(cfg.URL); err != nil {
		errs = append(errs, fmt.Errorf("introspection URL: %w", err))
	}
	for _, s := range cfg.Sources {
		errs = append(errs, s.check())
	}
	if cfg.Doer == nil {
		errs = append(errs, errors.New("a URL to ask and nobody to ask it"))
	}
	if cfg.Timeout < 0 || cfg.Concurrency < 1 || cfg.CacheSize < 0 || cfg.MaxToken < 1 || cfg.MaxToken > maxTokenMax {
		errs = append(errs, fmt.Errorf("timeout %s, concurrency %d, cache of %d, tokens of up to %d bytes: expected positive numbers and %d bytes at most",
			cfg.Timeout, cfg.Concurrency, cfg.CacheSize, cfg.MaxToken, maxTokenMax))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Introspection{cfg: cfg, cache: cache.New[verdict](cfg.CacheSize), slots: make(chan struct{}, cfg.Concurrency)}, nil
}

// Name implements Provider.
func (i *Introspection) Name() string { return i.cfg.Name }

// Challenge implements Provider.
func (i *Introspection) Challenge(err error) string { return bearerChallenge(i.cfg.Realm, err) }

// Strip implements Provider.
func (i *Introspection) Strip(r *http.Request) {
	for _, s := range i.cfg.Sources {
		s.strip(r)
	}
}

// Stats implements Provider.
func (i *Introspection) Stats() Stats {
	s := i.stats(i.cfg.Name, "introspection")
	s.Cache = i.cache.Stats()
	s.Fetches, s.Failures = i.fetches.Load(), i.failures.Load()
	i.mu.Lock()
	defer i.mu.Unlock()
	s.LastError = i.lastErr
	return s
}

// Authenticate implements Provider.
func (i *Introspection) Authenticate(r *http.Request) (*exchange.Identity, error) {
	id, err := i.authenticate(r)
	i.count(err)
	return id, err
}

func (i *Introspection) authenticate(r *http.Request) (*exchange.Identity, error) {
	token, err := first(r, i.cfg.Sources, i.cfg.MaxToken)
	if err != nil {
		return nil, err
	}
	for k := range len(token) { // RFC 6750 §2.1: b64token; nothing else is worth a question
		if c := token[k]; c <= ' ' || c > '~' {
			return nil, deny("the token is not a valid one", errors.New("characters that no token has"))
		}
	}
	key := cache.Key(sha256.Sum256([]byte(token)))
	if v, ok := i.cache.Get(key, i.cfg.Now()); ok {
		return v.id, v.err
	}
	// one question for all that wait for its answer; the first one's going does not end it
	done := i.flight.DoChan(string(key[:]), func() (any, error) { return i.question(key, token) })
	select {
	case res := <-done:
		if res.Err != nil {
			return nil, &Unavailable{res.Err}
		}
		v := res.Val.(verdict)
		return v.id, v.err
	case <-r.Context().Done():
		return nil, &Unavailable{context.Cause(r.Context())}
	}
}

// question asks, and remembers the answer. The error: there is none.
func (i *Introspection) question(key cache.Key, token string) (verdict, error) {
	select {
	case i.slots <- struct{}{}:
		defer func() { <-i.slots }()
	default:
		return verdict{}, fmt.Errorf("%d questions are being asked already", i.cfg.Concurrency)
	}
	i.fetches.Add(1)
	claims, err := i.ask(token)
	i.mu.Lock()
	i.lastErr = ""
	if err != nil {
		i.lastErr = err.Error()
		i.failures.Add(1)
	}
	i.mu.Unlock()
	if err != nil {
		return verdict{}, err
	}
	now := i.cfg.Now()
	var v verdict
	until := now.Add(i.cfg.RememberBad)
	if active, _ := claims["active"].(bool); !active {
		v.err = deny("the token is not active", nil)
	} else {
		var end time.Time
		if v.id, end, v.err = i.cfg.Rules.identity(i.cfg.Name, claims, now, false); v.err == nil {
			until = earlier(end, now.Add(i.cfg.Remember))
		}
	}
	i.cache.Put(key, v, now, until)
	return v, nil
}

func (i *Introspection) ask(token string) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), i.cfg.Timeout)
	defer cancel()
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.cfg.URL, strings.NewReader(form))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if i.cfg.ClientID != "" {
		req.SetBasicAuth(url.QueryEscape(i.cfg.ClientID), url.QueryEscape(i.cfg.ClientSecret))
	}
	res, err := i.cfg.Doer.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("ask %s: %w", i.cfg.URL, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK { // RFC 7662 §2.3: 401 is about us, not about the token
		return nil, fmt.Errorf("ask %s: status %d, expected 200", i.cfg.URL, res.StatusCode)
	}
	if kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, fmt.Errorf("ask %s: an answer of type %.64q, expected application/json", i.cfg.URL, res.Header.Get("Content-Type"))
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	}
	var claims map[string]any
	if err == nil {
		claims, err = decodeClaims(b)
	}
	if err == nil {
		if _, ok := claims["active"].(bool); !ok {
			err = errors.New("an answer that does not say whether the token is active")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", i.cfg.URL, err)
	}
	return claims, nil
}
