package authz

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/sync/singleflight"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/internal/fields"
	"github.com/np-appliance/np/ctrl/gateway/policy/internal/cache"
)

// Question is what is sent about a request.
type Question struct {
	Method   string
	Scheme   string
	Host     string
	URI      string // path and query, as they came
	Protocol string // "HTTP/2.0"
	Header   http.Header
	Client   netip.Addr
	Subject  string // "": nobody
	Provider string
	Scopes   []string
	Groups   []string // sorted
	Route    string
	Listener string
	SNI      string
	ID       string // of the request; not part of what is remembered
}

// Verdict is an answer.
type Verdict struct {
	Allow bool
	// Allow: what becomes of the request's fields, in this order, and what the client's answer gets.
	Remove []string
	Set    http.Header
	Add    http.Header
	Answer http.Header
	// Else: what the client is told; Answer are fields of it.
	Status int
	Body   []byte // of statuses other than 401, 403 and 429, which have a problem document
	// NoStore: it is not remembered. MaxAge: at most so long; 0: as configured.
	NoStore bool
	MaxAge  time.Duration
}

// Checker asks somebody.
type Checker interface {
	Check(ctx context.Context, q *Question) (*Verdict, error)
}

// ExternalConfig is whom to ask, and how.
type ExternalConfig struct {
	Checker     Checker
	Headers     []string      // fields of the request that are sent along
	Own         []string      // fields that only an answer sets: clients can't send them, answer or not
	Timeout     time.Duration // 0: 1 s
	FailOpen    bool          // no answer lets requests pass
	Remember    time.Duration // answers; 0: not
	CacheSize   int           // 0: 8192
	Concurrency int           // questions at a time; 0: 256
	Now         func() time.Time
}

// External asks somebody about requests.
type External struct {
	cfg    ExternalConfig
	own    fields.Names // of cfg.Own
	cache  *cache.Cache[*Verdict]
	flight singleflight.Group
	slots  chan struct{}

	asked, allowed, denied, failed, passed atomic.Uint64
}

// ExternalStats are the counters since it began.
type ExternalStats struct {
	Asked   uint64      `json:"asked"`
	Allowed uint64      `json:"allowed"` // requests, by an answer, remembered ones too
	Denied  uint64      `json:"denied"`
	Failed  uint64      `json:"failed"` // requests without an answer
	Passed  uint64      `json:"passed"` // of these, let pass
	Cache   cache.Stats `json:"cache"`
}

// NewExternal makes one.
func NewExternal(cfg ExternalConfig) (*External, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Second
	}
	if cfg.CacheSize == 0 {
		cfg.CacheSize = 8192
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = 256
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Timeout < 0 || cfg.CacheSize < 0 || cfg.Concurrency < 1 || cfg.Remember < 0 {
		return nil, fmt.Errorf("timeout %s, cache of %d for %s, %d at a time: expected positive numbers", cfg.Timeout, cfg.CacheSize, cfg.Remember, cfg.Concurrency)
	}
	names := make([]string, 0, len(cfg.Headers))
	for _, h := range cfg.Headers {
		if !httpguts.ValidHeaderFieldName(h) || !editable(h) {
			return nil, fmt.Errorf("field %q can't be sent along, expected the name of a header field that is about the request and not its connection or body", h)
		}
		names = append(names, http.CanonicalHeaderKey(h))
	}
	cfg.Headers = names
	return &External{cfg: cfg, own: fields.Of(cfg.Own...), cache: cache.New[*Verdict](cfg.CacheSize), slots: make(chan struct{}, cfg.Concurrency)}, nil
}

// Close waits until the questions that are being asked are answered, or ctx ends. Later
// requests get no answer.
func (e *External) Close(ctx context.Context) {
	for range cap(e.slots) {
		select {
		case e.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}

// editable says whether a field can be sent along or altered without altering what the
// message is.
func editable(name string) bool {
	name = http.CanonicalHeaderKey(name)
	switch name {
	case "Host", "Content-Length", "Expect":
		return false
	}
	return !exchange.PerConnection(name) && !strings.HasPrefix(name, ":")
}

// Stats returns the counters.
func (e *External) Stats() ExternalStats {
	return ExternalStats{e.asked.Load(), e.allowed.Load(), e.denied.Load(), e.failed.Load(), e.passed.Load(), e.cache.Stats()}
}

func (e *External) question(r *http.Request, x *exchange.Exchange) *Question {
	q := &Question{Method: exchange.Method(r), Scheme: "http", Host: r.Host, URI: r.URL.RequestURI(), Protocol: r.Proto, Header: http.Header{}, Client: x.Client.Addr(),
		Route: x.Route, Listener: x.Listener, ID: x.ID}
	if x.TLS != nil {
		q.Scheme, q.SNI = "https", x.TLS.ServerName
	}
	for _, h := range e.cfg.Headers {
		if v := r.Header[h]; len(v) > 0 {
			q.Header[h] = slices.Clone(v)
		}
	}
	if id := x.Identity; id != nil {
		q.Subject, q.Provider, q.Scopes = id.Subject, id.Provider, id.Scopes
		for g := range id.Groups {
			q.Groups = append(q.Groups, g)
		}
		slices.Sort(q.Groups)
	}
	return q
}

// key hashes a question; lengths keep parts from running into each other.
func (q *Question) key() cache.Key {
	h := sha256.New()
	for _, s := range [...]string{q.Method, q.Scheme, q.Host, q.URI, q.Protocol, q.Client.String(), q.Subject, q.Provider, q.Route, q.Listener, q.SNI} {
		put(h, s)
	}
	putAll(h, q.Scopes)
	putAll(h, q.Groups)
	names := make([]string, 0, len(q.Header))
	for n := range q.Header {
		names = append(names, n)
	}
	slices.Sort(names)
	putAll(h, names)
	for _, n := range names {
		putAll(h, q.Header[n])
	}
	return cache.Key(h.Sum(nil))
}

func put(h hash.Hash, s string) {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(len(s)))
	h.Write(n[:])
	_, _ = io.WriteString(h, s)
}

func putAll(h hash.Hash, list []string) {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(len(list)))
	h.Write(n[:])
	for _, s := range list {
		put(h, s)
	}
}

// ask returns an answer, a remembered one if there is.
func (e *External) ask(ctx context.Context, q *Question) (*Verdict, error) {
	if e.cfg.Remember == 0 {
		return e.send(ctx, q)
	}
	key := q.key()
	if v, ok := e.cache.Get(key, e.cfg.Now()); ok {
		return v, nil
	}
	// one question for all that wait for its answer; the first one's going does not end it
	done := e.flight.DoChan(string(key[:]), func() (any, error) {
		v, err := e.send(context.WithoutCancel(ctx), q)
		if err == nil && !v.NoStore {
			keep := e.cfg.Remember
			if v.MaxAge > 0 {
				keep = min(keep, v.MaxAge)
			}
			now := e.cfg.Now()
			e.cache.Put(key, v, now, now.Add(keep))
		}
		return v, err
	})
	select {
	case res := <-done:
		v, _ := res.Val.(*Verdict)
		return v, res.Err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (e *External) send(ctx context.Context, q *Question) (*Verdict, error) {
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	default:
		return nil, fmt.Errorf("%d questions are being asked already", e.cfg.Concurrency)
	}
	e.asked.Add(1)
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	v, err := e.cfg.Checker.Check(ctx, q)
	if err == nil {
		err = v.check()
	}
	return v, err
}

// check refuses answers that would make another message of a request.
func (v *Verdict) check() error {
	for _, h := range [...]http.Header{v.Set, v.Add, v.Answer} {
		for name, values := range h {
			if !httpguts.ValidHeaderFieldName(name) || !editable(name) || slices.ContainsFunc(values, func(s string) bool { return !httpguts.ValidHeaderFieldValue(s) }) {
				return fmt.Errorf("an answer with the field %.128q, which can't be set", name)
			}
		}
	}
	for _, name := range v.Remove {
		if !editable(name) {
			return fmt.Errorf("an answer that removes the field %.128q", name)
		}
	}
	if !v.Allow && (v.Status < 300 || v.Status > 599) {
		return fmt.Errorf("an answer that refuses with status %d", v.Status)
	}
	return nil
}

// pass asks, and alters the request as it was told. False: it was answered.
func (e *External) pass(w http.ResponseWriter, r *http.Request, x *exchange.Exchange) bool {
	v, err := e.ask(r.Context(), e.question(r, x))
	if err != nil {
		if why, is := exchange.Ended(r.Context()); is {
			exchange.Refuse(w, r, why, "")
			return false
		}
		x.Note(fmt.Errorf("external authorization: %w", err))
		e.failed.Add(1)
		if e.cfg.FailOpen {
			e.passed.Add(1)
			e.own.From(r)
			return true
		}
		w.Header().Set("Retry-After", "5")
		exchange.Refuse(w, r, exchange.AuthUnavailable, "")
		return false
	}
	for name, values := range v.Answer {
		for _, s := range values {
			w.Header().Add(name, s)
		}
	}
	if v.Allow {
		e.allowed.Add(1)
		e.own.From(r)
		v.apply(r.Header)
		return true
	}
	e.denied.Add(1)
	x.Note(errors.New("refused by external authorization"))
	v.refuse(w, r, x)
	return false
}

func (v *Verdict) apply(h http.Header) {
	for _, name := range v.Remove {
		h.Del(name)
	}
	for name, values := range v.Set {
		h[name] = slices.Clone(values)
	}
	for name, values := range v.Add {
		h[name] = append(slices.Clone(h[name]), values...)
	}
}

func (v *Verdict) refuse(w http.ResponseWriter, r *http.Request, x *exchange.Exchange) {
	switch {
	case v.Status == http.StatusUnauthorized:
		exchange.Refuse(w, r, exchange.Unauthenticated, "")
	case v.Status == http.StatusTooManyRequests:
		exchange.Refuse(w, r, exchange.RateLimited, "")
	case v.Status == http.StatusForbidden || exchange.IsGRPC(r):
		exchange.Refuse(w, r, exchange.Forbidden, "")
	default:
		x.Fail(exchange.Forbidden)
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(v.Status)
		if r.Method != http.MethodHead {
			_, _ = w.Write(v.Body) // the client is gone if it fails
		}
	}
}
