package config

import (
	"net/netip"
	"time"
)

// HTTP is [listener.http].
type HTTP struct {
	Versions      []string       `key:"versions" default:"1.1,2" oneof:"1.1|2|3" doc:"of HTTP; 2 without TLS is h2c by prior knowledge; 3 needs TLS and takes the UDP port too"`
	HeaderTimeout time.Duration  `key:"header_timeout" default:"10s" min:"10ms" max:"10m" doc:"for the head of a request to arrive"`
	BodyTimeout   time.Duration  `key:"body_timeout" default:"30s" min:"10ms" max:"1h" doc:"longest pause inside a body"`
	WriteTimeout  time.Duration  `key:"write_timeout" default:"30s" min:"10ms" max:"1h" doc:"longest pause of a client that takes none of an answer"`
	IdleTimeout   time.Duration  `key:"idle_timeout" default:"75s" min:"10ms" max:"24h" doc:"of a connection between requests"`
	MaxHeader     Size           `key:"max_header" default:"32KiB" min:"1KiB" max:"1MiB" doc:"bytes of a request's head"`
	MaxFields     int            `key:"max_fields" default:"128" min:"8" max:"10000" doc:"header fields of a request"`
	MaxURI        Size           `key:"max_uri" default:"8KiB" min:"256" max:"1MiB" doc:"bytes of a request's target"`
	MaxBody       Size           `key:"max_body" default:"0" min:"0" doc:"bytes of a request's body, unless the route says; 0 no limit"`
	MaxRequests   int            `key:"max_requests" default:"0" min:"0" max:"1000000000" doc:"on one connection; 0 no limit"`
	MaxStreams    int            `key:"max_streams" default:"128" min:"1" max:"10000" doc:"requests of one HTTP/2 or HTTP/3 connection at a time"`
	PerClient     int            `key:"max_per_client" default:"0" min:"0" max:"8388608" doc:"connections of one address (IPv6: one /64); 0 no limit"`
	ProxyProtocol string         `key:"proxy_protocol" default:"off" oneof:"off|accept|require" doc:"from trusted peers"`
	Trusted       []netip.Prefix `key:"trusted" default:"" doc:"proxies in front, whose PROXY protocol, X-Forwarded-For and X-Request-Id are believed"`
	EarlyData     bool           `key:"early_data" default:"false" doc:"HTTP/3 0-RTT: such requests can be replayed (RFC 8470)"`
	AltSvc        bool           `key:"alt_svc" default:"true" doc:"tell clients of HTTP/3"`
}
