package auth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/internal/fields"
	"github.com/np-appliance/np/ctrl/gateway/policy/internal/cache"
)

// Provider vouches for one kind of credentials.
type Provider interface {
	// Name is the configured one.
	Name() string
	// Authenticate says who sent r. The error is ErrNone when r shows no credentials of this
	// kind, a *Denied when it shows ones that are not good, an *Unavailable when that can't
	// be told now.
	Authenticate(r *http.Request) (*exchange.Identity, error)
	// Challenge is a value of WWW-Authenticate for an answer after err, "" for none.
	Challenge(err error) string
	// Strip takes the credentials out of a request that is sent on.
	Strip(r *http.Request)
	// Stats returns the counters.
	Stats() Stats
}

// Runner is a provider with work in the background.
type Runner interface{ Run(ctx context.Context) }

// Reloader is a provider with a file. Reload reads it again; after an error what was read
// before stays. Verify says whether Reload would do, and changes nothing.
type Reloader interface {
	Reload() error
	Verify() error
}

// Doer sends requests: an http.Client or an upstream.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// ErrNone: the request shows no credentials of the provider's kind.
var ErrNone = errors.New("no credentials")

// Codes of RFC 6750 §3.1.
const (
	InvalidRequest = "invalid_request"
	InvalidToken   = "invalid_token"
)

// Denied is about credentials that are not good.
type Denied struct {
	Code   string // InvalidToken or InvalidRequest
	Public string // what the client may know, in printing ASCII without quotes
	Cause  error  // for the logs
}

// Error implements error.
func (d *Denied) Error() string {
	if d.Cause != nil {
		return d.Public + ": " + d.Cause.Error()
	}
	return d.Public
}

// Unwrap returns the cause.
func (d *Denied) Unwrap() error { return d.Cause }

func deny(public string, cause error) error {
	return &Denied{Code: InvalidToken, Public: public, Cause: cause}
}

// Unavailable is about credentials that can't be checked now.
type Unavailable struct{ Cause error }

// Error implements error.
func (u *Unavailable) Error() string { return "can't be checked now: " + u.Cause.Error() }

// Unwrap returns the cause.
func (u *Unavailable) Unwrap() error { return u.Cause }

// Stats are a provider's counters since it began.
type Stats struct {
	Name        string      `json:"name"`
	Kind        string      `json:"kind"`
	Accepted    uint64      `json:"accepted"`
	Denied      uint64      `json:"denied"`
	Unavailable uint64      `json:"unavailable"`
	Cache       cache.Stats `json:"cache"`
	Entries     int         `json:"entries"`              // users, keys
	Loaded      time.Time   `json:"loaded"`               // when these were read last
	LastError   string      `json:"last_error,omitempty"` // of reading or asking, until it works again
	Fetches     uint64      `json:"fetches"`              // from outside
	Failures    uint64      `json:"failures"`             // of these
}

// counters are what each provider has.
type counters struct {
	accepted, denied, unavailable atomic.Uint64
}

func (c *counters) count(err error) {
	var d *Denied
	switch {
	case err == nil:
		c.accepted.Add(1)
	case errors.Is(err, ErrNone):
	case errors.As(err, &d):
		c.denied.Add(1)
	default:
		c.unavailable.Add(1)
	}
}

func (c *counters) stats(name, kind string) Stats {
	return Stats{Name: name, Kind: kind, Accepted: c.accepted.Load(), Denied: c.denied.Load(), Unavailable: c.unavailable.Load()}
}

// Use is a provider, and what is sent on of whom it vouches for.
type Use struct {
	Provider
	Strip   bool // its credentials are not sent on
	Forward Forward
}

// Config is who has to vouch for a route's requests.
type Config struct {
	Providers []Use
	All       bool     // each provider has to vouch, not any
	Optional  bool     // requests without credentials pass as nobody's; bad credentials never do
	Remove    []string // fields that clients can't send, beside those of Forward
}

// Authenticator is a route's authentication.
type Authenticator struct {
	cfg    Config
	remove fields.Names
}

// maxProviders bounds what one request can make work.
const maxProviders = 16

// New makes an Authenticator.
func New(cfg Config) (*Authenticator, error) {
	if n := len(cfg.Providers); n == 0 || n > maxProviders {
		return nil, fmt.Errorf("%d providers, expected 1 to %d", n, maxProviders)
	}
	if cfg.All && cfg.Optional {
		return nil, errors.New("all providers have to vouch and yet none needs to, expected all or optional")
	}
	remove := fields.Of(cfg.Remove...)
	for i := range cfg.Providers {
		f := &cfg.Providers[i].Forward
		if err := f.Check(); err != nil {
			return nil, fmt.Errorf("%s: %w", cfg.Providers[i].Name(), err)
		}
		maps.Copy(remove, fields.Of(f.Fields()...))
	}
	return &Authenticator{cfg, remove}, nil
}

// Challenges are the values of WWW-Authenticate for a request that shows no credentials.
func (a *Authenticator) Challenges() []string { return a.challenges(nil) }

// challenges gives each provider's; what failed makes its own more precise.
func (a *Authenticator) challenges(failed map[Provider]error) []string {
	var out []string
	for _, u := range a.cfg.Providers {
		err := failed[u.Provider]
		if err == nil {
			err = ErrNone
		}
		if c := u.Challenge(err); c != "" && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}

// vouched is an identity, and who vouches for it.
type vouched struct {
	*exchange.Identity
	by *Use
}

// Authenticate asks the providers. Without an error and an identity the request is nobody's.
func (a *Authenticator) Authenticate(r *http.Request) (*exchange.Identity, error) {
	ids, _, err := a.authenticate(r)
	return merge(ids), err
}

func (a *Authenticator) authenticate(r *http.Request) ([]vouched, map[Provider]error, error) {
	var ids []vouched
	var failed map[Provider]error
	var unavailable, denied error
	for i := range a.cfg.Providers {
		u := &a.cfg.Providers[i]
		id, err := u.Authenticate(r)
		var d *Denied
		switch {
		case err == nil && !a.cfg.All:
			return []vouched{{id, u}}, nil, nil
		case err == nil:
			ids = append(ids, vouched{id, u})
		case errors.Is(err, ErrNone):
		case errors.As(err, &d):
			if failed == nil {
				failed = map[Provider]error{}
			}
			failed[u.Provider] = err
			denied = errors.Join(denied, fmt.Errorf("%s: %w", u.Name(), err))
		default:
			unavailable = errors.Join(unavailable, fmt.Errorf("%s: %w", u.Name(), err))
		}
	}
	switch {
	case a.cfg.All && len(ids) == len(a.cfg.Providers):
		return ids, nil, nil
	case unavailable != nil && (!a.cfg.All || denied == nil):
		return nil, failed, &Unavailable{unavailable}
	case denied != nil:
		return nil, failed, denied
	case a.cfg.Optional:
		return nil, nil, nil
	}
	return nil, failed, ErrNone
}

// merge makes one identity of several: the first one's subject, and what all of them say;
// where two have the same claim, the first one's counts.
func merge(ids []vouched) *exchange.Identity {
	switch len(ids) {
	case 0:
		return nil
	case 1:
		return ids[0].Identity
	}
	out := *ids[0].Identity
	names := make([]string, len(ids))
	out.Scopes, out.Claims, out.Groups = nil, map[string]any{}, map[string]struct{}{}
	for i, id := range ids {
		names[i] = id.Provider
		for _, s := range id.Scopes {
			if !slices.Contains(out.Scopes, s) {
				out.Scopes = append(out.Scopes, s)
			}
		}
		maps.Copy(out.Groups, id.Groups)
		for k, v := range id.Claims {
			if _, has := out.Claims[k]; !has {
				out.Claims[k] = v
			}
		}
	}
	out.Provider = strings.Join(names, "+")
	return &out
}

// Stage is the stage that authenticates.
func (a *Authenticator) Stage(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := exchange.From(r.Context())
		ids, failed, err := a.authenticate(r)
		if err != nil {
			a.refuse(w, r, failed, err)
			return
		}
		x.Identity = merge(ids)
		for i := range a.cfg.Providers {
			if u := &a.cfg.Providers[i]; u.Strip {
				u.Provider.Strip(r)
			}
		}
		a.remove.From(r)
		for _, id := range ids {
			if err := id.by.Forward.write(r.Header, id.Identity); err != nil {
				x.Note(err)
				exchange.Refuse(w, r, exchange.Forbidden, "the identity can't be passed on")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func (a *Authenticator) refuse(w http.ResponseWriter, r *http.Request, failed map[Provider]error, err error) {
	x := exchange.From(r.Context())
	if err := context.Cause(r.Context()); errors.Is(err, context.Canceled) {
		exchange.Refuse(w, r, exchange.ClientGone, "")
		return
	}
	if !errors.Is(err, ErrNone) {
		x.Note(err)
	}
	var u *Unavailable
	if errors.As(err, &u) {
		w.Header().Set("Retry-After", "5")
		exchange.Refuse(w, r, exchange.AuthUnavailable, "")
		return
	}
	for _, c := range a.challenges(failed) {
		w.Header().Add("WWW-Authenticate", c)
	}
	why, public := exchange.Unauthenticated, ""
	var d *Denied
	if errors.As(err, &d) {
		public = d.Public
		if d.Code == InvalidRequest {
			why = exchange.BadRequest
		}
	}
	exchange.Refuse(w, r, why, public)
}

// checkRealm refuses what can't stand in a quoted string of a challenge (RFC 9110 §5.6.4).
func checkRealm(realm string) error {
	for i := range len(realm) {
		if c := realm[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return fmt.Errorf("realm %q, expected printing ASCII without quotes and backslashes", realm)
		}
	}
	return nil
}
