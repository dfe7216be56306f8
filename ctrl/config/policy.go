package config

import (
	"net/netip"
	"time"
)

// Auth is one [[auth]]: somebody who can tell who asks. Which keys a kind has is in
// authKeys.
type Auth struct {
	Name string `key:"name" need:"a name such as \"users\"" doc:"what routes and rules call it"`
	Kind string `key:"kind" need:"basic, api_key, jwt, introspection or mtls" oneof:"basic|api_key|jwt|introspection|mtls" doc:"passwords, keys, signed bearer tokens, bearer tokens that their issuer is asked about (RFC 7662), client certificates"`

	Realm  string   `key:"realm" default:"" doc:"in WWW-Authenticate; none: name"`
	Strip  bool     `key:"strip" default:"false" doc:"upstreams do not see the credentials"`
	Expose []string `key:"expose" default:"" doc:"fields that tell upstreams who asks, \"X-User: {subject}\", or with {provider}, {scopes}, {groups}, {claim:NAME}; on every route they are taken out of what clients send"`

	File   string `key:"file" default:"" doc:"basic: NAME:HASH or NAME:HASH:GROUP,GROUP a line, bcrypt or argon2id; api_key: [[key]] with name, sha256, scopes, groups, expires, disabled; jwt: a JWK set; read again when it changes"`
	Header string `key:"header" default:"" doc:"where the credential is; none: X-Api-Key (api_key), or Authorization with scheme Bearer (jwt, introspection)"`
	Scheme string `key:"scheme" default:"" doc:"word before it in header, such as Bearer"`
	Query  string `key:"query" default:"" doc:"query parameter that may have it as well; logs on the way will have it too"`
	Cookie string `key:"cookie" default:"" doc:"cookie that may have it as well"`

	Hashing  int           `key:"hashing" default:"2" min:"1" max:"1024" doc:"basic: passwords checked at a time; each keeps a CPU busy and takes the memory that its hash asks for"`
	CacheTTL time.Duration `key:"cache_ttl" default:"1m" min:"1s" max:"24h" doc:"basic, introspection: a good credential is remembered so long, a token never past its end; a bad one 10s at most"`
	CacheMax int           `key:"cache_entries" default:"8192" min:"16" max:"16777216" doc:"basic, jwt, introspection: credentials remembered"`

	Issuer      []string      `key:"issuer" default:"" doc:"jwt, introspection: iss must be one of them; mtls: the issuer's common name or whole name must"`
	Audience    []string      `key:"audience" default:"" doc:"jwt, introspection: aud must have one of them"`
	AnyAudience bool          `key:"any_audience" default:"false" doc:"jwt, introspection: take tokens for anybody, instead of audience"`
	Require     []string      `key:"require" default:"" doc:"jwt, introspection: claims that must be there, \"name\", or have a value, \"name=value\"; several lines of a name are its values"`
	Subject     string        `key:"subject_claim" default:"sub" doc:"jwt, introspection: who it is"`
	Scopes      []string      `key:"scope_claims" default:"scope,scp" doc:"jwt, introspection: what it may"`
	Groups      []string      `key:"group_claims" default:"" doc:"jwt, introspection: what it belongs to, such as \"realm_access.roles\""`
	Skew        time.Duration `key:"clock_skew" default:"30s" max:"10m" doc:"jwt, introspection: how far clocks may be apart"`
	MaxAge      time.Duration `key:"max_age" default:"0" max:"87600h" doc:"jwt, introspection: since iat; 0 any"`
	MaxToken    Size          `key:"max_token" default:"8KiB" min:"64" max:"64KiB" doc:"jwt, introspection: longer ones are refused unread"`

	Algorithms []string      `key:"algorithms" default:"RS256,PS256,ES256,EdDSA" oneof:"RS256|RS384|RS512|PS256|PS384|PS512|ES256|ES384|ES512|EdDSA" doc:"jwt"`
	Types      []string      `key:"types" default:"" doc:"jwt: what typ may be; none: JWT, at+jwt or nothing"`
	JWKSURL    string        `key:"jwks_url" default:"" doc:"jwt: where the issuer's keys are fetched, instead of file; without either one issuer's are found by its OpenID configuration"`
	Refresh    time.Duration `key:"refresh" default:"10m" min:"1s" max:"168h" doc:"jwt: keys are fetched again when so old, or when the issuer says (max-age)"`
	RefreshMin time.Duration `key:"refresh_min" default:"30s" min:"1s" max:"1h" doc:"jwt: time between fetches, though tokens have key IDs that are not known"`
	MaxStale   time.Duration `key:"max_stale" default:"24h" min:"1s" max:"8760h" doc:"jwt: keys serve on so long when they can't be fetched anew"`

	URL              string `key:"url" default:"" doc:"introspection: the endpoint"`
	ClientID         string `key:"client_id" default:"" doc:"introspection: who we are there"`
	ClientSecretFile string `key:"client_secret_file" default:"" doc:"introspection: mode 0600 or 0640"`

	Upstream string        `key:"upstream" default:"" doc:"of jwks_url, url and the issuer: an [[upstream]] that they are asked through, by its endpoints, TLS, checks and breakers; of the URL the host is told as upstream.host says"`
	CAFile   string        `key:"ca_file" default:"" doc:"likewise without an upstream, PEM; none: the system's roots"`
	Timeout  time.Duration `key:"timeout" default:"2s" min:"10ms" max:"1m" doc:"of one request there"`
	Via      string        `key:"via" default:"auto" oneof:"auto|stack|kernel" doc:"who connects there, as of an [[upstream]]"`

	SubjectFrom []string `key:"subject_from" default:"uri,dns,email,cn,dn" oneof:"uri|dns|email|cn|dn" doc:"mtls: the first of these names that the certificate has"`
	Allow       []string `key:"allow" default:"" doc:"mtls: subjects let in, with a * at the beginning or the end; none: all that are verified"`
}

// Discovers says whether the keys are where the issuer's OpenID configuration says.
func (a *Auth) Discovers() bool {
	return a.Kind == "jwt" && a.File == "" && a.JWKSURL == "" && len(a.Issuer) == 1
}

// ListenerAuthz is [listener.authz].
type ListenerAuthz struct {
	Allow []string `key:"allow" default:"" doc:"rules about connections, of which one must hold: client:10.0.0.0/8, tls, sni:NAME, alpn:PROTOCOL, cert:NAME of a verified client certificate; with any, all else is refused"`
	Deny  []string `key:"deny" default:"" doc:"rules of which none may"`
}

// RouteAuth is [route.auth].
type RouteAuth struct {
	Providers []string `key:"providers" default:"" doc:"[[auth]] names"`
	Mode      string   `key:"mode" default:"any" oneof:"any|all" doc:"any: one that knows who asks suffices; all: each has to"`
	Optional  bool     `key:"optional" default:"false" doc:"requests without credentials are let in too; wrong credentials are not"`
}

// RouteAuthz is [route.authz].
type RouteAuthz struct {
	Allow []string `key:"allow" default:"" doc:"rules of which one must hold, see Authorization above; with any, all else is refused"`
	Deny  []string `key:"deny" default:"" doc:"rules of which none may"`

	External  string        `key:"external" default:"" doc:"who is asked as well: a URL, http or https, or grpc://HOST:PORT, grpcs://HOST:PORT (envoy.service.auth.v3)"`
	Upstream  string        `key:"external_upstream" default:"" doc:"an [[upstream]] that is asked instead of the URL's host, each question by its endpoints, TLS, checks and breakers"`
	Headers   []string      `key:"external_headers" default:"Authorization,Cookie" doc:"fields of requests that are sent along"`
	Copy      []string      `key:"external_copy" default:"" doc:"http: fields of its answer that upstreams get, and clients can't send"`
	Answer    []string      `key:"external_answer" default:"WWW-Authenticate,Location,Set-Cookie,Retry-After" doc:"http: fields of its refusal that clients get"`
	Redirects bool          `key:"external_redirects" default:"false" doc:"http: 3xx is a refusal that clients get, as to a login page"`
	Timeout   time.Duration `key:"external_timeout" default:"1s" min:"10ms" max:"1m" doc:""`
	CacheTTL  time.Duration `key:"external_cache" default:"0" max:"1h" doc:"answers are remembered so long, under all that was sent; 0 not"`
	CacheMax  int           `key:"external_cache_entries" default:"8192" min:"16" max:"16777216" doc:""`
	FailOpen  bool          `key:"external_fail_open" default:"false" doc:"let pass what it gives no answer for; false: 503"`
	CAFile    string        `key:"external_ca_file" default:"" doc:"of https and grpcs, PEM; none: the system's roots"`
	Via       string        `key:"external_via" default:"auto" oneof:"auto|stack|kernel" doc:"who connects there, as of an [[upstream]]"`
}

// RateLimit is one [[rate_limit]], which routes use by name and count together.
type RateLimit struct {
	Name     string        `key:"name" need:"a name such as \"per-tenant\"" doc:"in RateLimit fields, logs and metrics"`
	Requests int           `key:"requests" need:"how many requests in per" min:"1" max:"1000000000" doc:"in per"`
	Per      time.Duration `key:"per" default:"1s" min:"1ms" max:"744h" doc:""`
	Burst    int           `key:"burst" default:"0" min:"0" max:"1000000000" doc:"at once after a pause; 0: requests"`
	Key      []string      `key:"key" default:"client" doc:"each of what has a count of its own: client (address; IPv6 /64), subject, header:NAME, cookie:NAME, claim:NAME, var:NAME, host, method, listener, route; several together are one key; an empty list: one count for all"`
	Entries  int           `key:"entries" default:"65536" min:"64" max:"67108864" doc:"keys remembered, 16 bytes each"`
	Fields   string        `key:"fields" default:"ratelimit" oneof:"ratelimit|x-ratelimit|off" doc:"what tells clients: RateLimit and RateLimit-Policy, or X-RateLimit-Limit, -Remaining and -Reset"`
	DryRun   bool          `key:"dry_run" default:"false" doc:"count what would be refused, and let it pass"`
}

// RouteRate is [route.rate_limit].
type RouteRate struct {
	Use      []string      `key:"use" default:"" doc:"[[rate_limit]] names"`
	Requests int           `key:"requests" default:"0" min:"0" max:"1000000000" doc:"a limit of the route's own: so many in per; 0 none. It is named as the route"`
	Per      time.Duration `key:"per" default:"1s" min:"1ms" max:"744h" doc:"this and what follows: as in [[rate_limit]]"`
	Burst    int           `key:"burst" default:"0" min:"0" max:"1000000000" doc:""`
	Key      []string      `key:"key" default:"client" doc:""`
	Entries  int           `key:"entries" default:"65536" min:"64" max:"67108864" doc:""`
	Fields   string        `key:"fields" default:"ratelimit" oneof:"ratelimit|x-ratelimit|off" doc:""`
	DryRun   bool          `key:"dry_run" default:"false" doc:""`
}

// Own is the route's own limit, named as the route.
func (r *RouteRate) Own(name string) RateLimit {
	return RateLimit{name, r.Requests, r.Per, r.Burst, r.Key, r.Entries, r.Fields, r.DryRun}
}

// Concurrency is [route.concurrency].
type Concurrency struct {
	Max     int           `key:"max" default:"0" min:"0" max:"10000000" doc:"requests of the route at a time; 0 no limit"`
	PerKey  int           `key:"per_key" default:"0" min:"0" max:"10000000" doc:"of one key; 0 no limit"`
	Key     []string      `key:"key" default:"client" doc:"as of [[rate_limit]]"`
	Waiting int           `key:"waiting" default:"0" min:"0" max:"1048576" doc:"that wait their turn, first come, first served; of one key at most per_key"`
	Wait    time.Duration `key:"wait" default:"1s" min:"1ms" max:"1m" doc:"at most"`
}

// Shedder is one [[load_shedding]]: routes that use it share what it finds out.
type Shedder struct {
	Name       string        `key:"name" need:"a name such as \"shop\"" doc:"in logs and metrics"`
	Target     time.Duration `key:"target" default:"0" max:"1m" doc:"latency (to the head of the answer) above which fewer requests are let in at a time; 0: tolerance_percent of the lowest of the last 600 windows"`
	Tolerance  int           `key:"tolerance_percent" default:"200" min:"110" max:"10000" doc:"without target"`
	Percentile int           `key:"percentile" default:"50" min:"1" max:"99" doc:"of the latencies in a window"`
	Min        int           `key:"min" default:"8" min:"1" max:"16777216" doc:"requests at a time that are let in whatever the latency"`
	Max        int           `key:"max" default:"65536" min:"1" max:"16777216" doc:"at most"`
	Initial    int           `key:"initial" default:"64" min:"1" max:"16777216" doc:"at the beginning"`
	Window     time.Duration `key:"window" default:"1s" min:"10ms" max:"1m" doc:"between decisions, or until 20 answers came"`
}

// RouteShedding is [route.load_shedding].
type RouteShedding struct {
	Use      string         `key:"use" default:"" doc:"a [[load_shedding]]"`
	Priority string         `key:"priority" default:"normal" oneof:"low|normal|high|critical" doc:"low requests are refused first: they may fill half of what is let in, normal three quarters, high nine tenths, critical all of it"`
	Header   string         `key:"priority_header" default:"" doc:"field of requests with such a word, which counts instead"`
	From     []netip.Prefix `key:"priority_from" default:"" doc:"clients whose field counts; none: all"`
}
