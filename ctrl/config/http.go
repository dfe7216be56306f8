package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// HTTP is [listener.http].
type HTTP struct {
	Versions      []string       `key:"versions" default:"1.1,2" oneof:"1.1|2|3" doc:"of HTTP; 2 without TLS is h2c by prior knowledge; 3 needs TLS and takes the UDP port too"`
	HeaderTimeout time.Duration  `key:"header_timeout" default:"10s" min:"10ms" max:"10m" doc:"for the head of a request to arrive"`
	BodyTimeout   time.Duration  `key:"body_timeout" default:"30s" min:"10ms" max:"1h" doc:"that a body may be waited for, beyond what min_body_rate gives; not for gRPC, WebSocket and CONNECT"`
	MinBodyRate   Size           `key:"min_body_rate" default:"512" min:"0" max:"1GiB" doc:"bytes of a body that buy a second of waiting for more; 0: one byte does"`
	WriteTimeout  time.Duration  `key:"write_timeout" default:"30s" min:"10ms" max:"1h" doc:"longest pause of a client that takes none of an answer"`
	IdleTimeout   time.Duration  `key:"idle_timeout" default:"75s" min:"10ms" max:"24h" doc:"of a connection between requests"`
	PassTimeout   time.Duration  `key:"passthrough_timeout" default:"10m" min:"10ms" max:"24h" doc:"of a connection passed on unopened on which nothing moves"`
	MaxHeader     Size           `key:"max_header" default:"32KiB" min:"1KiB" max:"1MiB" doc:"bytes of a request's head"`
	MaxFields     int            `key:"max_fields" default:"128" min:"8" max:"10000" doc:"header fields of a request"`
	MaxURI        Size           `key:"max_uri" default:"8KiB" min:"256" max:"1MiB" doc:"bytes of a request's target"`
	MaxBody       Size           `key:"max_body" default:"0" min:"0" doc:"bytes of a request's body, unless the route says; 0 no limit"`
	EncodedSlash  string         `key:"encoded_slash" default:"refuse" oneof:"refuse|keep" doc:"%2F in a path; kept it is never a slash to a route"`
	DoubleSlash   string         `key:"double_slash" default:"merge" oneof:"merge|refuse" doc:"// in a path"`
	PathParams    string         `key:"path_parameters" default:"keep" oneof:"keep|refuse" doc:"; in a path; refuse it before backends that cut it off, such as Java's servlets"`
	MaxRequests   int            `key:"max_requests" default:"0" min:"0" max:"1000000000" doc:"on one connection; 0 no limit"`
	MaxStreams    int            `key:"max_streams" default:"128" min:"1" max:"10000" doc:"requests of one HTTP/2 or HTTP/3 connection at a time"`
	PerClient     int            `key:"max_per_client" default:"0" min:"0" max:"8388608" doc:"connections of one address (IPv6: one /64); 0 no limit"`
	MaxResets     int            `key:"max_resets" default:"100" min:"0" max:"1000000" doc:"streams that a client of HTTP/2 may reset, a second and connection, in a burst five times as many; 0 no limit"`
	MaxControl    int            `key:"max_control" default:"100" min:"0" max:"1000000" doc:"pings, settings, priorities and empty frames of HTTP/2, likewise"`
	ProxyProtocol string         `key:"proxy_protocol" default:"off" oneof:"off|accept|require" doc:"from trusted peers"`
	Trusted       []netip.Prefix `key:"trusted" default:"" doc:"proxies in front, whose PROXY protocol, X-Forwarded-* and X-Request-Id are believed"`
	EarlyData     bool           `key:"early_data" default:"false" doc:"HTTP/3 0-RTT: such requests can be replayed (RFC 8470)"`
	CheckHost     bool           `key:"check_host" default:"true" doc:"with TLS: a request for a host that the certificate is not for is misdirected (421)"`
	AltSvc        bool           `key:"alt_svc" default:"true" doc:"tell clients of HTTP/3"`
}

// passthrough checks a route whose connections are passed on unopened: what is said in
// the clear is all that it can go by, and nothing can be done to requests.
func (l *loader) passthrough(r *HTTPRoute, at string) {
	c := l.cfg
	if r.Upstream == "" {
		l.fail(c.Pos(at+".passthrough"), "route.passthrough: expected an upstream with it")
	}
	known := []string{"name", "listeners", "sni", "alpn", "upstream", "passthrough"}
	var others []string
	for path := range c.places {
		key, ok := strings.CutPrefix(path, at+".")
		if ok && !strings.ContainsAny(key, "[") && !slices.Contains(known, key) && !slices.ContainsFunc(others, func(o string) bool { return strings.HasPrefix(key, o+".") }) {
			others = append(others, key)
		}
	}
	slices.Sort(others)
	for _, key := range others {
		l.fail(c.Pos(at+"."+key), "route.%s: has nothing to do with passthrough, expected only %s", key, strings.Join(known[1:], ", "))
	}
	withTLS := false
	for i := range c.Listeners {
		o := &c.Listeners[i]
		if o.Protocol != "http" {
			continue
		}
		withTLS = withTLS || o.TLS
		if n := slices.Index(r.Listeners, o.Name); n >= 0 && !o.TLS {
			l.fail(c.Pos(fmt.Sprintf("%s.listeners[%d]", at, n)), "route.listeners: listener %q has no TLS to pass on, expected one with tls = true", o.Name)
		}
	}
	if !withTLS && len(r.Listeners) == 0 {
		l.fail(c.Pos(at+".passthrough"), "route.passthrough: there is no listener of protocol http with TLS, expected one with tls = true")
	}
}
