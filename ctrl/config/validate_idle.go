package config

import (
	"fmt"
	"slices"
	"strings"
)

// idle finds keys that do nothing beside what else is there. Taken in silence they would
// leave an operator believing in checks, limits and origins that nobody looks at.
func (l *loader) idle() {
	c := l.cfg
	for i := range c.Upstreams {
		l.idleUpstream(&c.Upstreams[i], fmt.Sprintf("upstream[%d]", i))
	}
	for i := range c.HTTPRoutes {
		l.idleRoute(&c.HTTPRoutes[i], fmt.Sprintf("route[%d]", i))
	}
	if c.AccessLog.File == "" && c.AccessLog.SlowFile == "" {
		l.idleKeys("access_log", "access_log", given(c.AccessLog), nil, "no file to write to, expected file or slow_file with it")
	}
	if c.Tracing.Endpoint == "" {
		l.idleKeys("tracing", "tracing", given(c.Tracing), []string{"headers_file", "ca_file"}, "traces pass as they come, expected endpoint with it")
	}
}

// idleKeys refuses keys of the table at a path, all that are given but for some.
func (l *loader) idleKeys(at, name string, given, but []string, why string) {
	for _, key := range given {
		if !slices.Contains(but, key) {
			l.fail(l.cfg.Pos(at+"."+key), "%s.%s: %s", name, key, why)
		}
	}
}

// among returns the elements of list that are of some, or with not those that are of none.
func among(list []string, not bool, some ...string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(some, s) == not })
}

func (l *loader) idleUpstream(u *Upstream, at string) {
	h, keys := &u.Health, given(u.Health)
	ofHTTP := []string{"path", "host", "status_min", "status_max", "body"}
	switch h.Kind {
	case "none":
		l.idleKeys(at+".health", "upstream.health", keys, nil, `nothing is checked with kind = "none", expected kind = "tcp", "http" or "grpc" with it`)
	case "http":
		l.idleKeys(at+".health", "upstream.health", among(keys, false, "service"), nil, `kind is http, expected it with kind = "grpc"`)
		l.healthRequest(h, at+".health")
	case "grpc":
		l.idleKeys(at+".health", "upstream.health", among(keys, false, ofHTTP...), nil, `kind is grpc, expected it with kind = "http"`)
	case "tcp":
		l.idleKeys(at+".health", "upstream.health", among(keys, false, append(ofHTTP, "service")...), nil, `kind is tcp, which asks nothing, expected another kind with it`)
	}
	b, keys := &u.Breaker, given(u.Breaker)
	if b.ConsecutiveFailures == 0 && b.ErrorPercent == 0 {
		l.idleKeys(at+".breaker", "upstream.breaker", keys, nil, "nothing opens the breaker, expected consecutive_failures or error_percent with it")
	} else if b.ErrorPercent == 0 {
		l.idleKeys(at+".breaker", "upstream.breaker", among(keys, false, "min_requests", "window"), nil, "failures in a row open the breaker, expected error_percent with it")
	}
	if u.Protocol != "npro" {
		l.idleKeys(at+".npro", "upstream.npro", given(u.NPRO), nil, fmt.Sprintf(`the upstream speaks %s, expected it with protocol = "npro"`, u.Protocol))
	}
	if u.HashKey != "client_ip" && u.Balance != "ring_hash" && u.Balance != "maglev" && !slices.ContainsFunc(l.cfg.HTTPRoutes, func(r HTTPRoute) bool { return r.sticksBy(u.Name) }) {
		l.bad(at, "hash_key", "requests go to any endpoint with balance = %q, expected ring_hash or maglev, or split_sticky in a route that splits to it first", u.Balance)
	}
}

// sticksBy says whether clients stay with a part of a route's split by an upstream's hash key.
func (r *HTTPRoute) sticksBy(upstream string) bool {
	if !r.SplitSticky || len(r.Split) == 0 {
		return false
	}
	first, _, _ := strings.Cut(r.Split[0], "=")
	return first == upstream
}

// healthRequest checks what a check of kind http asks: a wrong path would fail each check,
// and look as if the endpoints did.
func (l *loader) healthRequest(h *UpstreamHealth, at string) {
	if !strings.HasPrefix(h.Path, "/") || strings.Trim(h.Path, printable+",();\"\\") != "" || strings.Contains(h.Path, "#") {
		l.fail(l.cfg.Pos(at+".path"), "upstream.health.path: got %q, expected a path that begins with \"/\", escaped where it must be, perhaps with a query", h.Path)
	}
	if strings.Trim(h.Host, hostBytes) != "" {
		l.fail(l.cfg.Pos(at+".host"), "upstream.health.host: got %q, expected a host with or without a port", h.Host)
	}
}

func (l *loader) idleRoute(r *HTTPRoute, at string) {
	if len(r.Parts) == 0 {
		l.idleKeys(at+".aggregate", "route.aggregate", given(r.Aggregate), nil, "there is no [[route.part]], expected one with it")
	}
	if r.WebSocket.Mode != "terminate" {
		l.idleKeys(at+".websocket", "route.websocket", given(r.WebSocket), []string{"mode"}, `WebSockets are the upstream's own matter, expected mode = "terminate" with it`)
	}
	g := &r.GRPC
	switch keys := given(*g); {
	case r.Upstream == "" && len(r.Split) == 0:
		l.idleKeys(at+".grpc", "route.grpc", keys, nil, "the route sends nothing on, expected upstream or split with it")
	case g.Descriptors == "":
		l.idleKeys(at+".grpc", "route.grpc", among(keys, false, "auto_bind", "pass_unmatched", "stream", "ignore_unknown", "ignore_query", "emit_defaults", "proto_names", "enum_numbers"), nil,
			"JSON needs descriptors, expected them with it")
		if !g.Health {
			l.idleKeys(at+".grpc", "route.grpc", among(keys, false, "services"), nil, "nothing looks at them, expected descriptors or health with it")
		}
	}
	if r.NPROOpcode == "" && r.Opcode == "" {
		l.idleKeys(at+".npro", "route.npro", given(r.NPRO), nil, "no message of NPRO is made, expected npro_opcode or opcode with it")
	}
	l.grpcRules(r, at)
}

// grpcRules refuses rules that say what may not be called where JSON calls it by other paths.
func (l *loader) grpcRules(r *HTTPRoute, at string) {
	if r.GRPC.Descriptors == "" {
		return
	}
	for key, list := range map[string][]string{"allow": r.Authz.Allow, "deny": r.Authz.Deny} {
		for i, rule := range list {
			for term := range strings.FieldsSeq(rule) {
				if strings.HasPrefix(term, "!grpc:") && key == "allow" || strings.HasPrefix(term, "grpc:") && key == "deny" {
					l.fail(l.cfg.Pos(fmt.Sprintf("%s.authz.%s[%d]", at, key, i)), "route.authz.%s: %s: with grpc.descriptors the method is reached by the paths of its google.api.http rules as well, which this does not forbid; expected rules that name what is allowed", key, term)
				}
			}
		}
	}
}
