package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/policy/auth"
	"github.com/np-appliance/np/ctrl/gateway/policy/authz"
	"github.com/np-appliance/np/ctrl/gateway/policy/limit"
	"github.com/np-appliance/np/ctrl/secure"
)

// policies are the parts of a generation that remember something of requests: each is
// carried over from one configuration to the next as long as nothing of its own changes.
type policies struct {
	auths       map[string]*carried[*provider]          // by name
	rates       map[string]*carried[*limit.Rate]        // by name, routes' own by the route's
	concurrency map[string]*carried[*limit.Concurrency] // by route
	shedders    map[string]*carried[*limit.Shedder]     // by name
	externals   map[string]*carried[*external]          // by route
	conns       map[string]*authz.Rules                 // by listener
	challenges  map[string][]string                     // by route
	exposed     []string                                // fields that tell upstreams who asks
}

// carried is a part with what it was made of.
type carried[T any] struct {
	cfg  any
	part T
}

// carry takes a part over, or makes it. Nothing is kept of one that can't be made.
func carry[T any](old, next map[string]*carried[T], name string, cfg any, make func() (T, error)) (T, error) {
	if o := old[name]; o != nil && reflect.DeepEqual(o.cfg, cfg) {
		next[name] = o
		return o.part, nil
	}
	part, err := make()
	if err == nil {
		next[name] = &carried[T]{cfg, part}
	}
	return part, err
}

// provider is one [[auth]] with what runs for it.
type provider struct {
	auth.Provider
	use    auth.Use
	client *http.Client // nil: it asks nobody, or through an upstream
	via    *through     // nil: not through one
	plain  []string     // URLs of those it asks without TLS over a network
	stop   context.CancelFunc
}

// external is somebody who is asked what requests may do.
type external struct {
	*authz.External
	via   *through // nil: not through an upstream
	close func()
}

// policies makes what routes share.
func (b *builder) policies() {
	p := &b.next.policy
	*p = policies{map[string]*carried[*provider]{}, map[string]*carried[*limit.Rate]{}, map[string]*carried[*limit.Concurrency]{}, map[string]*carried[*limit.Shedder]{},
		map[string]*carried[*external]{}, map[string]*authz.Rules{}, map[string][]string{}, nil}
	for i := range b.cfg.Auths {
		b.provider(fmt.Sprintf("auth[%d]", i), &b.cfg.Auths[i])
	}
	for i := range b.cfg.Rates {
		b.rate(fmt.Sprintf("rate_limit[%d]", i), "rate_limit", &b.cfg.Rates[i])
	}
	for i := range b.cfg.Shedders {
		s, at := &b.cfg.Shedders[i], fmt.Sprintf("load_shedding[%d]", i)
		_, err := carry(b.old.policy.shedders, p.shedders, s.Name, *s, func() (*limit.Shedder, error) {
			return limit.NewShedder(limit.ShedderConfig{Name: s.Name, Target: s.Target, Tolerance: float64(s.Tolerance) / 100, Percentile: s.Percentile,
				Min: s.Min, Max: s.Max, Initial: min(max(s.Initial, s.Min), s.Max), Window: s.Window, Now: b.g.o.Now})
		})
		b.fail(at, err)
	}
	b.connRules()
	slices.Sort(p.exposed)
	p.exposed = slices.Compact(p.exposed)
}

// rules says what is wrong with rules, each in its place.
func (b *builder) rules(at, key string, err error) {
	each(err, func(err error) {
		var re *authz.RuleError
		if errors.As(err, &re) {
			b.failf(fmt.Sprintf("%s.%s[%d]", at, re.List, re.Index), "%s.%s: %w", key, re.List, re.Err)
			return
		}
		b.failf(at, "%s: %w", key, err)
	})
}

// provider makes one [[auth]]. Its files are read whether it is carried over or not.
func (b *builder) provider(at string, a *config.Auth) {
	use := auth.Use{Strip: a.Strip, Forward: b.expose(at, a)}
	b.next.policy.exposed = append(b.next.policy.exposed, use.Forward.Fields()...)
	place := at
	if a.File != "" {
		place = at + ".file"
	}
	var secret string
	var ca []byte
	if a.ClientSecretFile != "" {
		s, err := auth.ReadSecret(a.ClientSecretFile)
		if err != nil {
			b.failf(at+".client_secret_file", "auth.client_secret_file: %w", err)
			return
		}
		secret = s
	}
	if a.CAFile != "" {
		c, err := secure.ReadCA(a.CAFile)
		if err != nil {
			b.failf(at+".ca_file", "auth.ca_file: %w", err)
			return
		}
		ca = c
	}
	p, err := carry(b.old.policy.auths, b.next.policy.auths, a.Name, []any{*a, secret, string(ca)}, func() (*provider, error) {
		return b.newProvider(at, a, secret, ca)
	})
	if err == nil {
		use.Provider = p.Provider
		p.use = use
		if r := p.reloader(); r != nil {
			err = r.Verify()
		}
	}
	each(err, func(err error) { b.failf(place, "[[auth]] %q: %w", a.Name, err) })
}

// reloader is the provider's file, nil without one.
func (p *provider) reloader() auth.Reloader {
	r, _ := p.Provider.(auth.Reloader)
	return r
}

func (b *builder) newProvider(at string, a *config.Auth, secret string, ca []byte) (*provider, error) {
	p := &provider{}
	var err error
	now := b.g.o.Now
	switch a.Kind {
	case "basic":
		p.Provider, err = auth.NewBasic(auth.BasicConfig{Name: a.Name, Realm: a.Realm, File: a.File, Concurrency: a.Hashing, Remember: a.CacheTTL, CacheSize: a.CacheMax, Rand: rand.Reader, Now: now})
	case "api_key":
		p.Provider, err = auth.NewAPIKeys(auth.APIKeysConfig{Name: a.Name, Realm: a.Realm, File: a.File, Sources: sources(a, auth.Source{Header: "X-Api-Key"}), Now: now})
	case "mtls":
		p.Provider, err = auth.NewMTLS(auth.MTLSConfig{Name: a.Name, Realm: a.Realm, Subject: a.SubjectFrom, Allow: a.Allow, Issuers: a.Issuer})
	case "jwt":
		c := auth.JWTConfig{Name: a.Name, Realm: a.Realm, Algorithms: a.Algorithms, Types: a.Types, Rules: tokenRules(a), Sources: sources(a, bearer), MaxToken: int(a.MaxToken), CacheSize: a.CacheMax, Now: now,
			Keys: auth.KeysConfig{File: a.File, URL: a.JWKSURL, SameHost: a.Upstream != "", Refresh: a.Refresh, MinRefresh: a.RefreshMin, Timeout: a.Timeout, MaxStale: a.MaxStale}}
		if a.Discovers() {
			c.Keys.Issuer = a.Issuer[0]
		}
		if a.File == "" {
			c.Keys.Doer, err = b.asker(p, a, ca)
		}
		if err == nil {
			p.Provider, err = auth.NewJWT(c)
		}
	case "introspection":
		var d auth.Doer
		if d, err = b.asker(p, a, ca); err == nil {
			p.Provider, err = auth.NewIntrospection(auth.IntrospectionConfig{Name: a.Name, Realm: a.Realm, URL: a.URL, Doer: d, ClientID: a.ClientID, ClientSecret: secret, Rules: tokenRules(a),
				Sources: sources(a, bearer), Timeout: a.Timeout, Remember: a.CacheTTL, RememberBad: min(a.CacheTTL, 10*time.Second), CacheSize: a.CacheMax, MaxToken: int(a.MaxToken), Now: now})
		}
	default:
		err = fmt.Errorf("kind %q", a.Kind) // the configuration has no other
	}
	asked := []string{a.JWKSURL, a.URL}
	if a.Discovers() {
		asked = append(asked, a.Issuer[0])
	}
	for _, at := range asked {
		if u, err := url.Parse(at); err == nil && u.Scheme == "http" && a.Upstream == "" && !loopback(u.Hostname()) {
			p.plain = append(p.plain, at)
		}
	}
	return p, err
}

// asker is what a provider asks by: an upstream, or a client of its own.
func (b *builder) asker(p *provider, a *config.Auth, ca []byte) (auth.Doer, error) {
	if p.via = b.through(a.Upstream); p.via != nil {
		return p.via, nil
	}
	var err error
	p.client, err = b.client(a.Via, ca)
	return p.client, err
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

var bearer = auth.Source{Header: "Authorization", Scheme: "Bearer"}

// sources is where a credential may be: in one field, and a parameter and a cookie beside it.
func sources(a *config.Auth, field auth.Source) []auth.Source {
	if a.Header != "" {
		field = auth.Source{Header: a.Header, Scheme: a.Scheme}
	}
	out := []auth.Source{field}
	if a.Query != "" {
		out = append(out, auth.Source{Query: a.Query})
	}
	if a.Cookie != "" {
		out = append(out, auth.Source{Cookie: a.Cookie})
	}
	return out
}

func tokenRules(a *config.Auth) auth.TokenRules {
	r := auth.TokenRules{Issuers: a.Issuer, Audiences: a.Audience, AnyAud: a.AnyAudience, Skew: a.Skew, MaxAge: a.MaxAge, Subject: a.Subject, Scopes: a.Scopes, Groups: a.Groups, Required: map[string][]string{}}
	if a.Skew == 0 {
		r.Skew = -1
	}
	for _, line := range a.Require {
		name, value, has := strings.Cut(line, "=")
		values := r.Required[name]
		if has {
			values = append(values, value)
		}
		r.Required[name] = values
	}
	return r
}

// expose reads lines such as "X-User: {subject}".
func (b *builder) expose(at string, a *config.Auth) auth.Forward {
	f := auth.Forward{Claims: map[string]string{}}
	for i, line := range a.Expose {
		place := fmt.Sprintf("%s.expose[%d]", at, i)
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		into := map[string]*string{"{subject}": &f.Subject, "{provider}": &f.Provider, "{scopes}": &f.Scopes, "{groups}": &f.Groups}[value]
		path, isClaim := strings.CutPrefix(value, "{claim:")
		switch {
		case ok && into != nil && *into == "":
			*into = name
		case ok && into != nil:
			b.failf(place, "auth.expose: %s is exposed twice, expected once", value)
		case ok && isClaim && strings.HasSuffix(path, "}") && len(path) > 1 && f.Claims[name] == "":
			f.Claims[name] = strings.TrimSuffix(path, "}")
		default:
			b.failf(place, "auth.expose: got %q, expected a field with one of {subject}, {provider}, {scopes}, {groups}, {claim:NAME}, such as \"X-User: {subject}\"", line)
		}
	}
	each(f.Check(), func(err error) { b.failf(at+".expose", "auth.expose: %w", err) })
	return f
}

// client is what servers that know more than we do are asked with. It follows no
// redirects: a credential goes where the configuration says and nowhere else.
func (b *builder) client(via string, ca []byte) (*http.Client, error) {
	s := secure.Client{CA: ca, Common: secure.Common{Now: b.g.o.Now}}
	t, err := s.Config()
	if err != nil {
		return nil, err
	}
	dial := b.g.o.Dial
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{TLSClientConfig: t, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 16, MaxConnsPerHost: 256, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 64 << 10,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return dial(ctx, via, network, address)
			}},
	}, nil
}

// rate makes a rate limit.
func (b *builder) rate(at, key string, r *config.RateLimit) *limit.Rate {
	keys, ok := b.keys(at+".key", key+".key", r.Key)
	if !ok {
		return nil
	}
	l, err := carry(b.old.policy.rates, b.next.policy.rates, r.Name, *r, func() (*limit.Rate, error) {
		c := limit.RateConfig{Name: r.Name, Requests: r.Requests, Per: r.Per, Burst: r.Burst, Keys: keys, MaxKeys: r.Entries, DryRun: r.DryRun, Now: b.g.o.Now}
		switch r.Fields {
		case "x-ratelimit":
			c.Fields = limit.FieldsLegacy
		case "off":
			c.Fields = limit.FieldsNone
		}
		return limit.NewRate(c)
	})
	each(err, func(err error) { b.failf(at, "%s: %w", key, err) })
	return l
}

// keys reads what tells clients apart.
func (b *builder) keys(at, key string, words []string) ([]limit.Key, bool) {
	var out []limit.Key
	ok := true
	for i, w := range words {
		k, err := limit.ParseKey(w)
		if err != nil {
			b.failf(fmt.Sprintf("%s[%d]", at, i), "%s: %w", key, err)
			ok = false
		}
		out = append(out, k)
	}
	return out, ok
}

// rates are the limits of a route whose keys need an identity, or don't.
func (b *builder) rates(at string, r *config.HTTPRoute, identity bool) []stage {
	var out []*limit.Rate
	if r.RateLimit.Requests > 0 {
		own := r.RateLimit.Own(r.Name)
		if l := b.once(at, &own, identity); l != nil && l.NeedsIdentity() == identity {
			out = append(out, l)
		}
	}
	for _, name := range r.RateLimit.Use {
		if c := b.next.policy.rates[name]; c != nil && c.part.NeedsIdentity() == identity {
			out = append(out, c.part)
		}
	}
	if len(out) == 0 {
		return nil
	}
	s, err := limit.RateStage(out...)
	if err != nil {
		b.failf(at+".rate_limit", "route.rate_limit: %w", err)
		return nil
	}
	return []stage{s}
}

// once makes a route's own limit the first time it is asked for, and says once what is wrong.
func (b *builder) once(at string, own *config.RateLimit, again bool) *limit.Rate {
	if c := b.next.policy.rates[own.Name]; c != nil {
		return c.part
	}
	if again {
		return nil
	}
	return b.rate(at+".rate_limit", "route.rate_limit", own)
}

// limits are those that need not know who asks.
func (b *builder) limits(at string, r *config.HTTPRoute) []stage {
	out := b.rates(at, r, false)
	if c := b.next.policy.shedders[r.Shedding.Use]; c != nil {
		class, err := limit.ParseClass(r.Shedding.Priority)
		b.fail(at+".load_shedding.priority", err)
		out = append(out, c.part.Stage(limit.Priority{Class: class, Header: r.Shedding.Header, From: r.Shedding.From}))
	}
	return append(out, b.concurrency(at, r, false)...)
}

// limitsByIdentity are those whose keys are known once it is known who asks.
func (b *builder) limitsByIdentity(at string, r *config.HTTPRoute) []stage {
	return append(b.rates(at, r, true), b.concurrency(at, r, true)...)
}

func (b *builder) concurrency(at string, r *config.HTTPRoute, identity bool) []stage {
	c := &r.Concurrency
	if c.Max == 0 && c.PerKey == 0 {
		return nil
	}
	old := b.next.policy.concurrency[r.Name]
	if old == nil && identity {
		return nil // it was made the first time, or something is wrong with it
	}
	if old == nil {
		var keys []limit.Key
		if c.PerKey > 0 {
			var ok bool
			if keys, ok = b.keys(at+".concurrency.key", "route.concurrency.key", c.Key); !ok {
				return nil
			}
		}
		_, err := carry(b.old.policy.concurrency, b.next.policy.concurrency, r.Name, *c, func() (*limit.Concurrency, error) {
			return limit.NewConcurrency(limit.ConcurrencyConfig{Name: r.Name, Max: c.Max, PerKey: c.PerKey, Keys: keys, Queue: c.Waiting, Wait: c.Wait})
		})
		each(err, func(err error) { b.failf(at+".concurrency", "route.concurrency: %w", err) })
		if old = b.next.policy.concurrency[r.Name]; old == nil {
			return nil
		}
	}
	if old.part.NeedsIdentity() != identity {
		return nil
	}
	return []stage{old.part.Stage}
}

// auth is who has to vouch for a route's requests. Where nobody has to, fields that tell
// upstreams who asks are taken out all the same.
func (b *builder) auth(at string, r *config.HTTPRoute) []stage {
	p := &b.next.policy
	if len(r.Auth.Providers) == 0 {
		return []stage{auth.Remove(p.exposed)}
	}
	c := auth.Config{All: r.Auth.Mode == "all", Optional: r.Auth.Optional, Remove: p.exposed}
	for _, name := range r.Auth.Providers {
		if a := p.auths[name]; a != nil {
			c.Providers = append(c.Providers, a.part.use)
		}
	}
	if len(c.Providers) < len(r.Auth.Providers) {
		return nil // what is wrong with them was said
	}
	a, err := auth.New(c)
	if err != nil {
		each(err, func(err error) { b.failf(at+".auth", "route.auth: %w", err) })
		return nil
	}
	p.challenges[r.Name] = a.Challenges()
	return []stage{a.Stage}
}

// authz is what a route's requests may do.
func (b *builder) authz(at string, r *config.HTTPRoute) []stage {
	a := &r.Authz
	c := authz.Config{Challenges: b.next.policy.challenges[r.Name]}
	if len(a.Allow)+len(a.Deny) > 0 {
		rules, err := authz.Parse(a.Allow, a.Deny)
		b.rules(at+".authz", "route.authz", err)
		c.Rules = rules
	}
	if a.External != "" {
		e, err := b.external(at, r)
		each(err, func(err error) { b.failf(at+".authz.external", "route.authz.external: %w", err) })
		if e == nil || err != nil {
			return nil
		}
		c.External = e.External
	}
	return []stage{authz.Stage(c)}
}

func (b *builder) external(at string, r *config.HTTPRoute) (*external, error) {
	a := &r.Authz
	var ca []byte
	if a.CAFile != "" {
		var err error
		if ca, err = secure.ReadCA(a.CAFile); err != nil {
			b.failf(at+".authz.external_ca_file", "route.authz.external_ca_file: %w", err)
			return nil, nil
		}
	}
	about := *a
	about.Allow, about.Deny = nil, nil
	return carry(b.old.policy.externals, b.next.policy.externals, r.Name, []any{about, string(ca)}, func() (*external, error) {
		via := b.through(a.Upstream)
		checker, end, err := b.checkerOf(a, ca, via)
		if err != nil {
			return nil, err
		}
		e, err := authz.NewExternal(authz.ExternalConfig{Checker: checker, Headers: a.Headers, Own: a.Copy, Timeout: a.Timeout, FailOpen: a.FailOpen, Remember: a.CacheTTL, CacheSize: a.CacheMax, Now: b.g.o.Now})
		if err != nil {
			end()
			return nil, err
		}
		return &external{e, via, end}, nil
	})
}

// checkerOf is who is asked, and what ends it.
func (b *builder) checkerOf(a *config.RouteAuthz, ca []byte, via *through) (authz.Checker, func(), error) {
	u, err := url.Parse(a.External)
	if err != nil {
		return nil, nil, err
	}
	if via != nil {
		return b.checkerThrough(a, u, via)
	}
	client, err := b.client(a.Via, ca)
	if err != nil {
		return nil, nil, err
	}
	switch u.Scheme {
	case "http", "https":
		h, err := authz.NewHTTP(authz.HTTPConfig{URL: a.External, Doer: client, Copy: a.Copy, Answer: slices.Clone(a.Answer), Redirects: a.Redirects})
		return h, client.CloseIdleConnections, err
	case "grpc", "grpcs":
		if u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
			return nil, nil, fmt.Errorf("got %q, expected %s://HOST:PORT", a.External, u.Scheme)
		}
		transport := client.Transport.(*http.Transport)
		c := authz.GRPCConfig{Target: u.Host, Dial: transport.DialContext, Now: b.g.o.Now}
		if u.Scheme == "grpcs" {
			c.TLS = transport.TLSClientConfig.Clone()
			c.TLS.ServerName = u.Hostname()
		}
		g, err := authz.NewGRPC(c)
		if err != nil {
			return nil, nil, err
		}
		return g, func() { _ = g.Close() }, nil
	}
	return nil, nil, fmt.Errorf("got %q, expected a URL with http, https, grpc or grpcs", a.External)
}

// checkerThrough is who is asked through an upstream, which is nobody's to end.
func (b *builder) checkerThrough(a *config.RouteAuthz, u *url.URL, via *through) (authz.Checker, func(), error) {
	none := func() {}
	switch u.Scheme {
	case "http", "https":
		h, err := authz.NewHTTP(authz.HTTPConfig{URL: a.External, Doer: via, Copy: a.Copy, Answer: slices.Clone(a.Answer), Redirects: a.Redirects})
		return h, none, err
	case "grpc", "grpcs":
		if u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
			return nil, nil, fmt.Errorf("got %q, expected %s://HOST", a.External, u.Scheme)
		}
		g, err := authz.NewGRPC(authz.GRPCConfig{Target: u.Host, Doer: via, Now: b.g.o.Now})
		return g, none, err
	}
	return nil, nil, fmt.Errorf("got %q, expected a URL with http, https, grpc or grpcs", a.External)
}

// startPolicies begins what runs for providers that are new, and reads files again of the
// others. Prepare has found nothing wrong with them.
func (g *Gateway) startPolicies(next, old *policies, clusters map[string]*cluster) {
	for _, c := range next.externals {
		c.part.via.in(clusters)
	}
	for name, c := range next.auths {
		p := c.part
		p.via.in(clusters)
		if old.auths[name] == c {
			if r := p.reloader(); r != nil {
				if err := r.Reload(); err != nil {
					g.o.Log.Warn("not read again, what was before stays", "auth", name, "err", err)
				}
			}
			continue
		}
		for _, at := range p.plain {
			g.o.Log.Warn("what is asked there and answered travels unencrypted: anybody on the way can vouch for anybody", "auth", name, "url", at)
		}
		ctx, stop := context.WithCancel(context.Background())
		p.stop = stop
		if r, ok := p.Provider.(auth.Runner); ok {
			g.wg.Go(func() { r.Run(ctx) })
		}
	}
}

// stopPolicies ends what next does not have.
func (g *Gateway) stopPolicies(old, next *policies) {
	for name, c := range old.auths {
		if next.auths[name] == c {
			continue
		}
		if c.part.stop != nil { // nil: it never ran
			c.part.stop()
		}
		if c.part.client != nil {
			c.part.client.CloseIdleConnections()
		}
	}
	for name, c := range old.externals {
		if next.externals[name] == c {
			continue
		}
		g.afterwards(func(ctx context.Context) {
			c.part.Close(ctx)
			c.part.close()
		})
	}
}

// Policies are what the policies in force counted.
type Policies struct {
	Auth        []auth.Stats
	Rates       []limit.RateStats
	Concurrency []limit.ConcurrencyStats
	Shedders    []limit.ShedderStats
	External    map[string]authz.ExternalStats // by route
}

// Policies returns the counters, each kind sorted by name.
func (g *Gateway) Policies() Policies { return g.gen.Load().policy.stats() }

func (p *policies) stats() Policies {
	out := Policies{
		Auth:        stats(p.auths, func(p *provider) auth.Stats { return p.Stats() }),
		Rates:       stats(p.rates, (*limit.Rate).Stats),
		Concurrency: stats(p.concurrency, (*limit.Concurrency).Stats),
		Shedders:    stats(p.shedders, (*limit.Shedder).Stats),
		External:    map[string]authz.ExternalStats{},
	}
	for route, e := range p.externals {
		out.External[route] = e.part.Stats()
	}
	return out
}

func stats[T, S any](parts map[string]*carried[T], of func(T) S) []S {
	var out []S
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		out = append(out, of(parts[name].part))
	}
	return out
}
