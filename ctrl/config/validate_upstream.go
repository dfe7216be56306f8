package config

import (
	"fmt"
	"strings"
	"time"
)

// upstreams checks each [[upstream]] by itself.
func (l *loader) upstreams() {
	names := map[string]string{}
	for i := range l.cfg.Upstreams {
		u := &l.cfg.Upstreams[i]
		at := fmt.Sprintf("upstream[%d]", i)
		l.unique(names, "upstream", u.Name, at+".name")
		if (len(u.Endpoints) == 0) == (u.Discover == "") {
			l.fail(l.cfg.Pos(at), "[[upstream]] %q has %s, expected one of endpoints and discover", u.Name, either(u.Discover != "", "both", "neither"))
		}
		if k := u.LastKnown; k != "auto" && k != "off" && !strings.HasPrefix(k, "/") {
			l.bad(at, "last_known", "got %q, expected auto, off or the path of a file", k)
		}
		if u.Discover == "" && (u.LastKnown != "auto" || u.LastKnownAge != 24*time.Hour) {
			l.bad(at, either(u.LastKnown != "auto", "last_known", "last_known_max_age"), "the endpoints are in the configuration, expected it only with discover")
		}
		l.spoken(u, at)
		l.upstreamNPRO(u, at)
		l.upstreamTLS(u, at)
		l.hashing(u, at)
		l.orders(u, at)
		l.repeating(u, at)
	}
}

// bad is an error at a key of an upstream.
func (l *loader) bad(at, key, format string, args ...any) {
	l.fail(l.cfg.Pos(at+"."+key), "upstream.%s: %s", key, fmt.Sprintf(format, args...))
}

// spoken checks what is spoken with endpoints, and what they are told.
func (l *loader) spoken(u *Upstream, at string) {
	switch {
	case (u.Protocol == "h3" || u.Protocol == "h2") && !u.TLS.Enabled:
		l.bad(at, "protocol", "%s without TLS, expected tls.enabled = true%s", u.Protocol, either(u.Protocol == "h2", ", or h2c", ""))
	case u.Protocol == "h2c" && u.TLS.Enabled:
		l.bad(at, "protocol", "h2c is HTTP/2 without TLS, expected h2 with tls.enabled")
	}
	if u.ProxyProtocol != "off" && (u.Protocol != "http1" && u.Protocol != "tcp" && u.Protocol != "auto" || u.Protocol == "auto" && u.TLS.Enabled) {
		l.bad(at, "proxy_protocol", "a connection of protocol %s is for many clients, expected protocol = \"http1\"", u.Protocol)
	}
	if h := u.Host; h != "preserve" && h != "endpoint" && strings.Trim(h, hostBytes) != "" {
		l.bad(at, "host", "got %q, expected preserve, endpoint, or a host with or without a port", h)
	}
	if n := u.ViaName; strings.ContainsAny(n, " \t,()\"\\;") || strings.Trim(n, printable) != "" {
		l.bad(at, "via_name", "got %q, expected a name without spaces, such as \"edge-1\"", n)
	}
	for i, d := range u.DeadlineFields {
		name, unit, has := strings.Cut(d, "=")
		if name == "" || strings.Trim(name, tokenBytes) != "" || has && unit != "s" && unit != "ms" && unit != "us" {
			l.fail(l.cfg.Pos(fmt.Sprintf("%s.deadline_fields[%d]", at, i)), "upstream.deadline_fields: got %q, expected a field's name, with a unit s, ms or us, such as \"X-Request-Timeout=ms\"", d)
		}
	}
}

const (
	printable  = "!#$%&'*+-./0123456789:<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~"
	hostBytes  = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:[]"
	tokenBytes = "!#$%&'*+-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ^_`abcdefghijklmnopqrstuvwxyz|~" // RFC 9110 §5.6.2
)

// upstreamTLS checks [upstream.tls].
func (l *loader) upstreamTLS(u *Upstream, at string) {
	t := &u.TLS
	for _, k := range [...]struct {
		key string
		set bool
	}{{"ca_file", t.CAFile != ""}, {"server_name", t.ServerName != ""}, {"cert_file", t.CertFile != ""}, {"key_file", t.KeyFile != ""}, {"pins", len(t.Pins) > 0}, {"verify", !t.Verify}} {
		if k.set && !t.Enabled {
			l.bad(at, "tls."+k.key, "has nothing to do without TLS, expected tls.enabled = true")
		}
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		l.bad(at, either(t.CertFile != "", "tls.cert_file", "tls.key_file"), "expected cert_file and key_file, or neither")
	}
	if !t.Verify && t.CAFile != "" {
		l.bad(at, "tls.ca_file", "says nothing with verify = false, expected one of them")
	}
}

// hashing checks where keys come from that keep requests at an endpoint.
func (l *loader) hashing(u *Upstream, at string) {
	kind, name, has := strings.Cut(u.HashKey, ":")
	switch kind {
	case "client_ip", "path":
		has = !has
	case "header", "cookie", "query":
		has = name != ""
	default:
		has = false
	}
	if !has {
		l.bad(at, "hash_key", "got %q, expected client_ip, path, header:NAME, cookie:NAME or query:NAME", u.HashKey)
	}
	if u.HashLoad != 0 && (u.Balance != "ring_hash" || u.HashLoad <= 100) {
		l.bad(at, "hash_load_percent", "%d with balance %s, expected more than 100, of ring_hash", u.HashLoad, u.Balance)
	}
}

// orders checks pairs of which one must not be above the other.
func (l *loader) orders(u *Upstream, at string) {
	for _, p := range [...]struct {
		low, high string
		a, b      time.Duration
	}{
		{"outlier.eject_time", "outlier.max_eject_time", u.Outlier.EjectTime, u.Outlier.MaxEjectTime},
		{"breaker.open_time", "breaker.max_open_time", u.Breaker.OpenTime, u.Breaker.MaxOpenTime},
		{"retry.base", "retry.max", u.Retry.Base, u.Retry.Max},
	} {
		if p.a > p.b {
			l.bad(at, p.high, "%v, expected at least %s, %v", p.b, p.low, p.a)
		}
	}
	if h := &u.Health; h.StatusMin > h.StatusMax {
		l.bad(at, "health.status_max", "%d, expected at least status_min, %d", h.StatusMax, h.StatusMin)
	}
	if u.Limits.Waiting > 0 && u.Limits.InFlight == 0 {
		l.bad(at, "limits.waiting", "nothing waits without limits.in_flight, expected it too")
	}
	if p := l.cfg.PoolOf(u); p.Min > p.Max {
		l.bad(at, "pool.min", "%d, expected at most max, %d", p.Min, p.Max)
	}
}

// repeating checks [upstream.retry].
func (l *loader) repeating(u *Upstream, at string) {
	r := &u.Retry
	if r.Attempts > 1 {
		return
	}
	if len(r.Statuses) > 0 {
		l.bad(at, "retry.statuses", "nothing is repeated with attempts = 1, expected attempts of 2 or more")
	}
	if r.Unsafe {
		l.bad(at, "retry.unsafe", "nothing is repeated with attempts = 1, expected attempts of 2 or more")
	}
}
