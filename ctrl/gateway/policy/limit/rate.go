package limit

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// Fields are the header fields that tell a client where it stands.
type Fields uint8

// Kinds of fields.
const (
	FieldsDraft  Fields = iota // RateLimit-Policy and RateLimit
	FieldsLegacy               // X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset
	FieldsNone
)

// RateConfig says how many requests may come.
type RateConfig struct {
	Name     string
	Requests int           // in Per, on average; 1 to 1e9 a second
	Per      time.Duration // 0: a second
	Burst    int           // at once after a pause; 0: Requests
	Keys     []Key         // whose; none: one bucket for all
	MaxKeys  int           // buckets in memory (16 bytes each); 0: 65536; rounded up to a power of two
	Fields   Fields
	DryRun   bool // count what would be refused, and let it through
	Now      func() time.Time
}

// Bounds of a RateConfig.
const (
	MaxKeys    = 1 << 26
	maxRate    = 1e9 // tokens a second: a token is a nanosecond
	maxFilling = 366 * 24 * time.Hour
)

func (c *RateConfig) defaults() {
	if c.Per == 0 {
		c.Per = time.Second
	}
	if c.Burst == 0 {
		c.Burst = c.Requests
	}
	if c.MaxKeys == 0 {
		c.MaxKeys = 65536
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// check tells everything that is wrong.
func (c *RateConfig) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" || !isToken(c.Name) {
		bad("name %q, expected letters, digits, \"-\", \"_\" and \".\"", c.Name)
	}
	if c.Requests < 1 || c.Burst < 1 || c.Per < 0 {
		bad("%d requests per %s with burst %d, expected positive numbers", c.Requests, c.Per, c.Burst)
		return errors.Join(errs...)
	}
	perSecond := float64(c.Requests) / c.Per.Seconds()
	if perSecond > maxRate {
		bad("%d requests per %s, expected at most 1000000000 a second", c.Requests, c.Per)
	}
	if fill := float64(c.Burst) / perSecond; fill > maxFilling.Seconds() {
		bad("burst %d takes %.0f hours to fill at %d requests per %s, expected a year at most", c.Burst, fill/3600, c.Requests, c.Per)
	}
	if c.MaxKeys < 0 || c.MaxKeys > MaxKeys {
		bad("room for %d keys, expected 1 to %d", c.MaxKeys, MaxKeys)
	}
	return errors.Join(errs...)
}

// isToken says whether a name can stand in a header field's quoted string and in a label.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return len(s) <= 128
}

// Rate is a rate limit.
type Rate struct {
	cfg     RateConfig
	pace    pace
	start   time.Time
	seed    maphash.Seed
	all     bucket
	keyed   *table // nil: no key
	policy  string // the field's value
	name    string // quoted
	allowed atomic.Uint64
	limited atomic.Uint64
}

// RateStats are a rate limit's counters since it began.
type RateStats struct {
	Name    string `json:"name"`
	Allowed uint64 `json:"allowed"`
	Limited uint64 `json:"limited"`
	Keys    int    `json:"keys"`     // whose bucket is not full
	MaxKeys int    `json:"max_keys"` // that there is room for; 0: one bucket for all
	Evicted uint64 `json:"evicted"`  // buckets forgotten before they were full
}

// NewRate makes a rate limit; all its memory is taken here.
func NewRate(cfg RateConfig) (*Rate, error) {
	cfg.defaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("rate limit %s: %w", cfg.Name, err)
	}
	r := &Rate{cfg: cfg, start: cfg.Now(), seed: maphash.MakeSeed(), name: strconv.Quote(cfg.Name)}
	r.pace.token = max(int64(float64(cfg.Per)*unit/float64(cfg.Requests)+0.5), 1)
	r.pace.depth = r.pace.token * int64(cfg.Burst)
	if len(cfg.Keys) > 0 {
		r.keyed = newTable(cfg.MaxKeys)
	}
	r.policy = r.name + ";q=" + strconv.Itoa(cfg.Requests)
	if cfg.Per%time.Second == 0 {
		r.policy += ";w=" + strconv.Itoa(int(cfg.Per/time.Second))
	}
	return r, nil
}

// Name returns the limit's name.
func (l *Rate) Name() string { return l.cfg.Name }

// NeedsIdentity says whether its key is known only after authentication.
func (l *Rate) NeedsIdentity() bool { return needsIdentity(l.cfg.Keys) }

// Key returns the hash of a request's key, 0 for a limit without.
func (l *Rate) Key(r *http.Request, x *exchange.Exchange) uint64 {
	if l.keyed == nil {
		return 0
	}
	return hash(l.seed, l.cfg.Keys, r, x)
}

// Allow takes n tokens, or none if there are fewer. It allocates nothing.
func (l *Rate) Allow(key uint64, n int, now time.Time) Decision {
	at := max(int64(now.Sub(l.start)), 0) * unit
	var d Decision
	if l.keyed == nil {
		d = l.all.take(l.pace, at, n)
	} else {
		d = l.keyed.take(l.pace, key, at, n)
	}
	if d.OK {
		l.allowed.Add(1)
	} else {
		l.limited.Add(1)
	}
	return d
}

// Refund gives back what an Allow took for a request that did not come about.
func (l *Rate) Refund(key uint64, n int) {
	if l.keyed == nil {
		l.all.refund(l.pace, n)
	} else {
		l.keyed.refund(l.pace, key, n)
	}
	l.allowed.Add(^uint64(0))
}

// Stats returns the counters. It looks at each bucket, so it is not for each request.
func (l *Rate) Stats() RateStats {
	s := RateStats{Name: l.cfg.Name, Allowed: l.allowed.Load(), Limited: l.limited.Load()}
	if l.keyed != nil {
		s.Keys = l.keyed.inDebt(max(int64(l.cfg.Now().Sub(l.start)), 0) * unit)
		s.MaxKeys = len(l.keyed.sets) * ways
		s.Evicted = l.keyed.evicted.Load()
	}
	return s
}

// maxStage bounds the limits of one stage.
const maxStage = 8

// RateStage makes a stage of several limits that all have to agree. What one has taken it
// gets back when a later one refuses. At most eight limits.
func RateStage(limits ...*Rate) (func(http.Handler) http.Handler, error) {
	if len(limits) > maxStage {
		return nil, fmt.Errorf("%d rate limits on one route, expected %d at most", len(limits), maxStage)
	}
	return func(next http.Handler) http.Handler {
		if len(limits) == 0 {
			return next
		}
		return &rateStage{limits: limits, next: next}
	}, nil
}

type rateStage struct {
	limits []*Rate
	next   http.Handler
}

// ServeHTTP implements http.Handler.
func (s *rateStage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchange.From(r.Context())
	var keys [maxStage]uint64
	var said [maxStage]Decision
	for i, l := range s.limits {
		keys[i] = l.Key(r, x)
		said[i] = l.Allow(keys[i], 1, l.cfg.Now())
		if said[i].OK || l.cfg.DryRun {
			continue
		}
		for j := range i {
			if said[j].OK {
				s.limits[j].Refund(keys[j], 1)
			}
		}
		s.fields(w.Header(), said[:i+1])
		w.Header().Set("Retry-After", seconds(max(said[i].RetryAfter, time.Second)))
		exchange.Refuse(w, r, exchange.RateLimited, "limit "+l.cfg.Name)
		return
	}
	s.fields(w.Header(), said[:len(s.limits)])
	s.next.ServeHTTP(w, r)
}

// fields writes where the client stands with each limit.
func (s *rateStage) fields(h http.Header, said []Decision) {
	for i, d := range said {
		l := s.limits[i]
		switch {
		case l.cfg.DryRun:
		case l.cfg.Fields == FieldsDraft:
			h.Add("RateLimit-Policy", l.policy)
			h.Add("RateLimit", l.name+";r="+strconv.Itoa(d.Remaining)+";t="+seconds(d.Reset))
		case l.cfg.Fields == FieldsLegacy:
			// of several limits the tightest is told
			if old, err := strconv.Atoi(h.Get("X-Ratelimit-Remaining")); err == nil && old <= d.Remaining && d.OK {
				continue
			}
			h.Set("X-Ratelimit-Limit", strconv.Itoa(l.cfg.Requests))
			h.Set("X-Ratelimit-Remaining", strconv.Itoa(d.Remaining))
			h.Set("X-Ratelimit-Reset", seconds(d.Reset))
		}
	}
}

// seconds writes a duration as whole seconds, rounded up.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
