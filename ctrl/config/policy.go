package config

import (
	"net/netip"
	"time"
)

// Auth is one [[auth]]: somebody who can tell who asks.
type Auth struct {
	Name string `key:"name" need:"a name such as \"users\"" doc:""`
	Kind string `key:"kind" need:"basic, api_key, jwt, introspection or mtls" oneof:"basic|api_key|jwt|introspection|mtls" doc:"how"`

	File   string   `key:"file" default:"" doc:"basic: user:hash lines (bcrypt, argon2id); api_key: lines of name, SHA-256 and scopes; jwt: a JWKS; read again when it changes"`
	Realm  string   `key:"realm" default:"np" doc:"in WWW-Authenticate"`
	Header string   `key:"header" default:"" doc:"api_key: X-Api-Key by default; jwt and introspection: Authorization"`
	Query  string   `key:"query" default:"" doc:"api_key: a parameter instead"`
	Cookie string   `key:"cookie" default:"" doc:"api_key, jwt: a cookie instead"`
	Strip  bool     `key:"strip" default:"false" doc:"upstreams do not see the credentials"`
	Expose []string `key:"expose" default:"" doc:"fields that tell upstreams: \"X-User: {subject}\", {scopes}, {claim:NAME}"`

	JWKSURL    string        `key:"jwks_url" default:"" doc:"jwt: where keys are fetched"`
	Issuer     string        `key:"issuer" default:"" doc:"jwt: required iss"`
	Audience   []string      `key:"audience" default:"" doc:"jwt, introspection: one of them must be in aud"`
	Algorithms []string      `key:"algorithms" default:"RS256,ES256,EdDSA" oneof:"RS256|RS384|RS512|PS256|PS384|PS512|ES256|ES384|ES512|EdDSA" doc:"jwt"`
	Skew       time.Duration `key:"clock_skew" default:"30s" max:"10m" doc:"jwt: how far clocks may be apart"`
	Require    []string      `key:"require" default:"" doc:"jwt, introspection: claims, \"name\" or \"name=value\""`

	URL              string        `key:"url" default:"" doc:"introspection: the endpoint (RFC 7662)"`
	ClientID         string        `key:"client_id" default:"" doc:"introspection: who we are there"`
	ClientSecretFile string        `key:"client_secret_file" default:"" doc:"introspection"`
	CacheTTL         time.Duration `key:"cache_ttl" default:"1m" max:"24h" doc:"introspection, jwt keys: at most so old"`
	CAFile           string        `key:"ca_file" default:"" doc:"of jwks_url and url; none: the system's roots"`
	Timeout          time.Duration `key:"timeout" default:"2s" min:"10ms" max:"1m" doc:"of one request there"`
}

// RouteAuth is [route.auth].
type RouteAuth struct {
	Providers []string `key:"providers" default:"" doc:"[[auth]] names; one that knows who asks suffices"`
	Optional  bool     `key:"optional" default:"false" doc:"nobody is let in too; wrong credentials are not"`
}

// RouteAuthz is [route.authz].
type RouteAuthz struct {
	Allow    []string      `key:"allow" default:"" doc:"rules of which one must hold: conditions such as subject:ann, scope:write, group:ops, claim:tenant={tenant}, method:GET,POST, client:10.0.0.0/8; with any, all else is refused"`
	Deny     []string      `key:"deny" default:"" doc:"rules of which none may"`
	External string        `key:"external" default:"" doc:"URL that is asked as well, http or https: 2xx lets the request pass"`
	Headers  []string      `key:"external_headers" default:"authorization,cookie" doc:"fields it gets"`
	Copy     []string      `key:"external_copy" default:"" doc:"fields of its answer that upstreams get"`
	Timeout  time.Duration `key:"external_timeout" default:"1s" min:"10ms" max:"1m" doc:""`
	CacheTTL time.Duration `key:"external_cache" default:"0" max:"1h" doc:"answers are kept so long; 0 not"`
	FailOpen bool          `key:"external_fail_open" default:"false" doc:"let pass what it can't be asked about"`
}

// RateLimit is [route.rate_limit].
type RateLimit struct {
	Rate    int    `key:"rate" default:"0" min:"0" max:"100000000" doc:"requests a second; 0 no limit"`
	Burst   int    `key:"burst" default:"0" min:"0" max:"100000000" doc:"at once after a pause; 0: rate"`
	Key     string `key:"key" default:"client_ip" doc:"each of what has its own: client_ip, route (all together), identity, header:NAME, claim:NAME"`
	Group   string `key:"group" default:"" doc:"routes of one group share buckets"`
	Entries int    `key:"entries" default:"65536" min:"64" max:"16777216" doc:"keys remembered"`
}

// Concurrency is [route.concurrency].
type Concurrency struct {
	Max       int           `key:"max" default:"0" min:"0" max:"10000000" doc:"requests of the route at a time; 0 no limit"`
	PerClient int           `key:"per_client" default:"0" min:"0" max:"10000000" doc:"of one address; 0 no limit"`
	Waiting   int           `key:"waiting" default:"0" min:"0" max:"10000000" doc:"that wait for room"`
	Wait      time.Duration `key:"wait" default:"1s" max:"1m" doc:"at most"`
}

// Shed is [route.shed].
type Shed struct {
	Target   time.Duration  `key:"target" default:"0" max:"1m" doc:"latency above which requests are refused, the less important first; 0 off"`
	Interval time.Duration  `key:"interval" default:"500ms" min:"10ms" max:"1m" doc:"over which latency has to stay above it"`
	Priority string         `key:"priority" default:"" doc:"field with 0 (most important) to 9; none: all the same"`
	Trusted  []netip.Prefix `key:"priority_from" default:"" doc:"clients whose priority is believed; none: all"`
}
