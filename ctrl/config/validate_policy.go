package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// authKeys are the keys of [[auth]] by kind, beside those that all have.
func authKeys(kind string) []string {
	token := []string{"header", "scheme", "query", "cookie", "strip", "issuer", "audience", "any_audience", "require", "subject_claim", "scope_claims", "group_claims", "clock_skew", "max_age", "max_token",
		"cache_entries", "upstream", "ca_file", "timeout", "via"}
	switch kind {
	case "basic":
		return []string{"file", "strip", "hashing", "cache_ttl", "cache_entries"}
	case "api_key":
		return []string{"file", "strip", "header", "scheme", "query", "cookie"}
	case "jwt":
		return append(token, "file", "algorithms", "types", "jwks_url", "refresh", "refresh_min", "max_stale")
	case "introspection":
		return append(token, "url", "client_id", "client_secret_file", "cache_ttl")
	}
	return []string{"issuer", "subject_from", "allow"}
}

// policies checks [[auth]], [[rate_limit]], [[load_shedding]] and what routes say of them.
func (l *loader) policies() {
	c := l.cfg
	auths, rates, shedders := map[string]string{}, map[string]string{}, map[string]string{}
	for i := range c.Auths {
		at := fmt.Sprintf("auth[%d]", i)
		l.unique(auths, "auth", c.Auths[i].Name, at+".name")
		l.authKeys(&c.Auths[i], at)
	}
	for i := range c.Rates {
		l.unique(rates, "rate_limit", c.Rates[i].Name, fmt.Sprintf("rate_limit[%d].name", i))
	}
	for i := range c.Shedders {
		s, at := &c.Shedders[i], fmt.Sprintf("load_shedding[%d]", i)
		l.unique(shedders, "load_shedding", s.Name, at+".name")
		if s.Max < s.Min {
			l.fail(c.Pos(at+".max"), "load_shedding.max: got %d, expected at least min (%d)", s.Max, s.Min)
		}
		if s.Target != 0 && slices.Contains(given(*s), "tolerance_percent") {
			l.fail(c.Pos(at+".tolerance_percent"), "load_shedding.tolerance_percent: there is a target, expected one of them")
		}
	}
	for i := range c.HTTPRoutes {
		l.routePolicy(&c.HTTPRoutes[i], fmt.Sprintf("route[%d]", i))
	}
	for i := range c.Listeners {
		li, at := &c.Listeners[i], fmt.Sprintf("listener[%d].authz", i)
		if li.Protocol != "http" && li.Protocol != "npro" && !li.TLS && (len(li.Authz.Allow) > 0 || len(li.Authz.Deny) > 0) {
			l.fail(c.Pos(at), "listener.authz: connections of %s without TLS stay on the poll cores, expected tls = true, or lists and rates in [interface.filter]", li.Protocol)
		}
	}
}

// given lists the keys of a table whose values are not the defaults. A default that is
// written down says nothing, so that what npctl config show prints can be read again.
func given[T any](table T) []string {
	v, def := reflect.ValueOf(table), reflect.New(reflect.TypeFor[T]()).Elem()
	setDefaults(def)
	var out []string
	for i := range v.NumField() {
		if format(v.Field(i)) != format(def.Field(i)) {
			out = append(out, v.Type().Field(i).Tag.Get("key"))
		}
	}
	return out
}

// authKeys refuses keys that a kind does not have, and wants those that it can't do without.
func (l *loader) authKeys(a *Auth, at string) {
	c := l.cfg
	known := append(authKeys(a.Kind), "name", "kind", "realm", "expose")
	for _, k := range given(*a) {
		if !slices.Contains(known, k) {
			l.fail(c.Pos(at+"."+k), "auth.%s: kind %s has no such key, expected one of %s", k, a.Kind, strings.Join(known, ", "))
		}
	}
	need := func(key, value, what string) {
		if value == "" {
			l.fail(c.Pos(at), "[[auth]] %q of kind %s has no %s, expected %s", a.Name, a.Kind, key, what)
		}
	}
	switch a.Kind {
	case "basic", "api_key":
		need("file", a.File, "the path of a file")
	case "jwt":
		if a.File != "" && a.JWKSURL != "" || a.File == "" && a.JWKSURL == "" && !a.Discovers() {
			l.fail(c.Pos(at), "[[auth]] %q has %s, expected one of file and jwks_url, or one issuer, whose OpenID configuration tells where its keys are", a.Name, either(a.File != "", "both", "neither"))
		}
		for _, k := range [...]string{"refresh", "refresh_min", "max_stale", "upstream", "ca_file", "timeout", "via"} {
			if a.File != "" && slices.Contains(given(*a), k) {
				l.fail(c.Pos(at+"."+k), "auth.%s: the keys are in a file, expected it only with jwks_url or an issuer that is asked", k)
			}
		}
		if a.RefreshMin > a.Refresh {
			l.fail(c.Pos(at+".refresh_min"), "auth.refresh_min: got %s, expected at most refresh (%s)", a.RefreshMin, a.Refresh)
		}
	case "introspection":
		need("url", a.URL, "the URL that is asked")
		if (a.ClientID == "") != (a.ClientSecretFile == "") {
			l.fail(c.Pos(at), "[[auth]] %q has one of client_id and client_secret_file, expected both or neither", a.Name)
		}
	}
	if (a.Kind == "jwt" || a.Kind == "introspection") && a.AnyAudience == (len(a.Audience) > 0) {
		l.fail(c.Pos(at), "[[auth]] %q has %s audience and any_audience = %v, expected one of audience = [...] and any_audience = true: a token for another service is not for this one", a.Name,
			either(len(a.Audience) > 0, "an", "no"), a.AnyAudience)
	}
	for _, asked := range [...]string{a.JWKSURL, a.URL, discovered(a)} {
		l.asks(at, "auth", "", a.Upstream, asked, given(*a))
	}
	if a.Scheme != "" && a.Header == "" {
		l.fail(c.Pos(at+".scheme"), "auth.scheme: there is no header, expected header = \"Authorization\" or another with it")
	}
}

func discovered(a *Auth) string {
	if a.Discovers() {
		return a.Issuer[0]
	}
	return ""
}

// asks checks what is asked through an upstream: prefix is that of the keys, "external_" or none.
func (l *loader) asks(at, section, prefix, name, asked string, keys []string) {
	c := l.cfg
	if name == "" || asked == "" {
		return
	}
	at += "." + prefix
	key := section + "." + prefix + "upstream"
	u := c.UpstreamNamed(name)
	if u == nil {
		l.fail(c.Pos(at+"upstream"), "%s: there is no [[upstream]] %q%s", key, name, l.meant(name, upstreamNames(c)))
		return
	}
	for _, k := range [...]string{"ca_file", "via"} {
		if slices.Contains(keys, prefix+k) {
			l.fail(c.Pos(at+k), "%s.%s%s: there is an upstream, expected it to say that", section, prefix, k)
		}
	}
	scheme, _, _ := strings.Cut(asked, "://")
	grpc := scheme == "grpc" || scheme == "grpcs"
	switch secure := scheme == "https" || scheme == "grpcs"; {
	case u.Protocol == "tcp" || u.Protocol == "npro":
		l.fail(c.Pos(at+"upstream"), "%s: [[upstream]] %q speaks %s, expected one that speaks HTTP", key, name, u.Protocol)
	case grpc && u.Protocol != "h2" && u.Protocol != "h2c" && u.Protocol != "h3" && (u.Protocol != "auto" || !u.TLS.Enabled):
		l.fail(c.Pos(at+"upstream"), "%s: [[upstream]] %q speaks %s, expected HTTP/2 for gRPC: protocol = \"h2c\", or \"h2\" with tls.enabled", key, name, u.Protocol)
	case secure != u.TLS.Enabled:
		l.fail(c.Pos(at+"upstream"), "%s: %s is asked, and [[upstream]] %q has tls.enabled = %v, expected one that fits the other", key, asked, name, u.TLS.Enabled)
	}
}

// routePolicy checks what a route says of policies.
func (l *loader) routePolicy(r *HTTPRoute, at string) {
	c := l.cfg
	var known []string
	for i := range c.Auths {
		known = append(known, c.Auths[i].Name)
	}
	l.uses(at+".auth.providers", "route.auth.providers", "auth", r.Auth.Providers, known)
	if len(r.Auth.Providers) == 0 && (r.Auth.Optional || r.Auth.Mode != "any") {
		l.fail(c.Pos(at+".auth"), "route.auth: there are no providers, expected some with optional or mode")
	}
	if r.Auth.Optional && r.Auth.Mode == "all" {
		l.fail(c.Pos(at+".auth.optional"), "route.auth.optional: each provider has to vouch (mode = \"all\"), expected one of them")
	}
	known = nil
	for i := range c.Rates {
		known = append(known, c.Rates[i].Name)
	}
	l.uses(at+".rate_limit.use", "route.rate_limit.use", "rate_limit", r.RateLimit.Use, known)
	if slices.Contains(known, r.Name) && r.RateLimit.Requests > 0 {
		l.fail(c.Pos(at+".rate_limit"), "route.rate_limit: its own limit is named as the route, and there is a [[rate_limit]] %q, expected another name", r.Name)
	}
	for _, k := range given(r.RateLimit) {
		if r.RateLimit.Requests == 0 && k != "use" {
			l.fail(c.Pos(at+".rate_limit."+k), "route.rate_limit.%s: there is no limit of the route's own, expected requests with it", k)
		}
	}
	known = nil
	for i := range c.Shedders {
		known = append(known, c.Shedders[i].Name)
	}
	if s := &r.Shedding; s.Use != "" {
		l.uses(at+".load_shedding.use", "route.load_shedding.use", "load_shedding", []string{s.Use}, known)
	} else if s.Header != "" || len(s.From) > 0 || s.Priority != "normal" {
		l.fail(c.Pos(at+".load_shedding"), "route.load_shedding: expected use with it, the name of a [[load_shedding]]")
	}
	if len(r.Shedding.From) > 0 && r.Shedding.Header == "" {
		l.fail(c.Pos(at+".load_shedding.priority_from"), "route.load_shedding.priority_from: expected priority_header with it")
	}
	if r.Passthrough {
		for _, k := range [...]struct {
			key   string
			given []string
		}{{"auth", given(r.Auth)}, {"authz", given(r.Authz)}, {"rate_limit", given(r.RateLimit)}, {"concurrency", given(r.Concurrency)}, {"load_shedding", given(r.Shedding)}} {
			if len(k.given) > 0 {
				l.fail(c.Pos(at+"."+k.key), "route.%s: the route passes connections on unopened, expected it without (rules about connections are [listener.authz])", k.key)
			}
		}
	}
	l.concurrency(&r.Concurrency, at+".concurrency")
	l.external(&r.Authz, at+".authz")
	l.asks(at+".authz", "route.authz", "external_", r.Authz.Upstream, r.Authz.External, given(r.Authz))
}

func (l *loader) uses(path, key, section string, list, known []string) {
	for i, name := range list {
		p := path
		if q := fmt.Sprintf("%s[%d]", path, i); l.cfg.places[q] != (Pos{}) {
			p = q
		}
		if !slices.Contains(known, name) {
			l.fail(l.cfg.Pos(p), "%s: there is no [[%s]] %q%s", key, section, name, l.meant(name, known))
		}
		if slices.Index(list, name) < i {
			l.fail(l.cfg.Pos(p), "%s: %q is there twice, expected it once", key, name)
		}
	}
}

func (l *loader) concurrency(r *Concurrency, at string) {
	for _, k := range given(*r) {
		if r.Max == 0 && r.PerKey == 0 {
			l.fail(l.cfg.Pos(at+"."+k), "route.concurrency.%s: there is no limit, expected max or per_key with it", k)
		}
	}
	if r.PerKey > 0 && len(r.Key) == 0 {
		l.fail(l.cfg.Pos(at+".key"), "route.concurrency.key is empty, expected what per_key is about")
	}
}

// external refuses keys that say something about nobody.
func (l *loader) external(a *RouteAuthz, at string) {
	grpc := strings.HasPrefix(a.External, "grpc://") || strings.HasPrefix(a.External, "grpcs://")
	keys := given(*a)
	for _, k := range keys {
		p := at + "." + k
		if !strings.HasPrefix(k, "external_") {
			continue
		}
		if a.External == "" {
			l.fail(l.cfg.Pos(p), "route.authz.%s: nobody is asked, expected external with it", k)
		} else if grpc && (k == "external_copy" || k == "external_answer" || k == "external_redirects") {
			l.fail(l.cfg.Pos(p), "route.authz.%s: over gRPC the answer itself says that, expected it only with http or https", k)
		}
	}
	if a.CacheTTL == 0 && slices.Contains(keys, "external_cache_entries") {
		l.fail(l.cfg.Pos(at+".external_cache_entries"), "route.authz.external_cache_entries: nothing is remembered, expected external_cache with it")
	}
}
