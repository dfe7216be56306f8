package config

import "time"

// Upstream is one [[upstream]].
type Upstream struct {
	Name      string   `key:"name" need:"a name such as \"users\"" doc:"what routes call it"`
	Endpoints []string `key:"endpoints" default:"" doc:"host:port, [IPv6]:port or unix:PATH, each with weight=N, priority=N, locality=NAME, drain or disabled behind it"`
	Discover  string   `key:"discover" default:"" doc:"where endpoints come from instead, see Discovery above"`

	LastKnown    string        `key:"last_known" default:"auto" doc:"of discover: a file in which the list is kept, for a start while the source does not answer; auto: endpoints/NAME.json beside [protocol] private_key_file, /var/lib/np/endpoints; off: none"`
	LastKnownAge time.Duration `key:"last_known_max_age" default:"24h" min:"1s" max:"8760h" doc:"an older list is not used"`

	Protocol string `key:"protocol" default:"auto" oneof:"auto|http1|h2|h2c|h3|npro|tcp" doc:"auto: HTTP/1.1, or what TLS agrees on; h2c: HTTP/2 without TLS, as gRPC mostly is; tcp: for passthrough"`
	Via      string `key:"via" default:"auto" oneof:"auto|stack|kernel" doc:"who connects: auto takes the appliance's stack for endpoints in a network of an [[interface]], else the kernel"`
	Host     string `key:"host" default:"preserve" doc:"the Host that endpoints see: preserve (the client's), endpoint (its address), or a fixed one"`
	Balance  string `key:"balance" default:"round_robin" oneof:"round_robin|least_request|ring_hash|maglev" doc:"how an endpoint is chosen; the last two keep a key at its endpoint"`
	HashKey  string `key:"hash_key" default:"client_ip" doc:"of ring_hash, maglev and sticky splits: client_ip, path, header:NAME, cookie:NAME or query:NAME"`
	HashLoad int    `key:"hash_load_percent" default:"0" min:"0" max:"10000" doc:"ring_hash: an endpoint over this percentage of the mean passes keys on; 0 no bound"`

	SlowStart     time.Duration `key:"slow_start" default:"0" max:"1h" doc:"over which an endpoint that came back gets its full share"`
	PanicPercent  int           `key:"panic_percent" default:"50" min:"0" max:"100" doc:"with fewer healthy endpoints than this all are used; 0 never"`
	FailoverAt    int           `key:"failover_percent" default:"72" min:"1" max:"100" doc:"healthy percentage of a priority below which the next gets a share"`
	ProxyProtocol string        `key:"proxy_protocol" default:"off" oneof:"off|v1|v2" doc:"tell endpoints who the client is, before TLS and HTTP"`

	Forwarded      string   `key:"forwarded" default:"x" oneof:"off|x|rfc7239|both|keep" doc:"what endpoints are told of the client: X-Forwarded-For, -Proto and -Host, Forwarded, both, none of them, or what the peer said"`
	ViaName        string   `key:"via_name" default:"" doc:"our name in the field Via; none: no such field"`
	DeadlineFields []string `key:"deadline_fields" default:"" doc:"fields in which clients say how long they wait, such as \"X-Request-Timeout=ms\" (s, ms, us; without a unit seconds, or \"1.5s\"); passed on with what is left, as grpc-timeout always is"`

	NPRO     UpstreamNPRO     `key:"npro" doc:"of protocol npro"`
	TLS      UpstreamTLS      `key:"tls" doc:"towards the endpoints"`
	Health   UpstreamHealth   `key:"health" doc:"checks"`
	Outlier  UpstreamOutlier  `key:"outlier" doc:"leaving out endpoints whose answers are worse than others'"`
	Breaker  UpstreamBreaker  `key:"breaker" doc:"the circuit breaker of each endpoint"`
	Retry    UpstreamRetry    `key:"retry" doc:"repeating what may be repeated"`
	Limits   UpstreamLimits   `key:"limits" doc:"of each endpoint"`
	Timeouts UpstreamTimeouts `key:"timeouts" doc:""`
	Pool     Pool             `key:"pool" doc:"as [pool], for this upstream; keys that are left out are [pool]'s"`
}

// UpstreamTLS is [upstream.tls].
type UpstreamTLS struct {
	Enabled    bool     `key:"enabled" default:"false" doc:"TLS to the endpoints"`
	CAFile     string   `key:"ca_file" default:"" doc:"PEM: who issues their certificates; none: the system's roots"`
	ServerName string   `key:"server_name" default:"" doc:"the name their certificates must have; none: the endpoint's host"`
	CertFile   string   `key:"cert_file" default:"" doc:"PEM: our own certificate"`
	KeyFile    string   `key:"key_file" default:"" doc:"PEM: its key"`
	Pins       []string `key:"pins" default:"" doc:"keys that endpoints may have, as npctl cert show prints"`
	Verify     bool     `key:"verify" default:"true" doc:"false: take any certificate; only with pins, or for a test"`
}

// UpstreamHealth is [upstream.health].
type UpstreamHealth struct {
	Kind         string        `key:"kind" default:"none" oneof:"none|tcp|http|grpc" doc:"tcp: a connection is accepted; http: GET path answers status, in protocol (h3: over TCP); grpc: grpc.health.v1"`
	Path         string        `key:"path" default:"/" doc:"of http"`
	Host         string        `key:"host" default:"" doc:"of http: the Host; none: the endpoint's address"`
	Service      string        `key:"service" default:"" doc:"of grpc: the service asked for; none: the server as a whole"`
	StatusMin    int           `key:"status_min" default:"200" min:"100" max:"599" doc:"of http: the lowest status that is well"`
	StatusMax    int           `key:"status_max" default:"299" min:"100" max:"599" doc:"of http: the highest"`
	Body         string        `key:"body" default:"" doc:"of http: text that the answer must contain"`
	Interval     time.Duration `key:"interval" default:"5s" min:"10ms" max:"1h" doc:"between checks of one endpoint"`
	FailInterval time.Duration `key:"fail_interval" default:"1s" min:"10ms" max:"1h" doc:"the same while its checks fail"`
	Timeout      time.Duration `key:"timeout" default:"2s" min:"10ms" max:"5m" doc:"of one check"`
	Rise         int           `key:"rise" default:"2" min:"1" max:"100" doc:"good checks in a row until it is used again"`
	Fall         int           `key:"fall" default:"3" min:"1" max:"100" doc:"bad checks in a row until it is not"`
}

// UpstreamOutlier is [upstream.outlier].
type UpstreamOutlier struct {
	ConsecutiveFailures int           `key:"consecutive_failures" default:"5" min:"0" max:"10000" doc:"failed requests in a row after which an endpoint is left out; 0 off"`
	Compare             bool          `key:"compare" default:"false" doc:"also those that fail much more than the others"`
	Interval            time.Duration `key:"interval" default:"10s" min:"10ms" max:"1h" doc:"between looks"`
	EjectTime           time.Duration `key:"eject_time" default:"30s" min:"10ms" max:"24h" doc:"left out for so long, longer each time"`
	MaxEjectTime        time.Duration `key:"max_eject_time" default:"5m" min:"10ms" max:"24h" doc:"at most"`
	MaxEjectPercent     int           `key:"max_eject_percent" default:"50" min:"1" max:"100" doc:"of the endpoints that may be left out at a time; of two or more one always may"`
}

// UpstreamBreaker is [upstream.breaker].
type UpstreamBreaker struct {
	ConsecutiveFailures int           `key:"consecutive_failures" default:"0" min:"0" max:"10000" doc:"failures in a row that open it; 0 off"`
	ErrorPercent        int           `key:"error_percent" default:"0" min:"0" max:"100" doc:"of the requests in window that open it; 0 off"`
	MinRequests         int           `key:"min_requests" default:"20" min:"1" max:"1000000" doc:"in window before error_percent counts"`
	Window              time.Duration `key:"window" default:"10s" min:"10ms" max:"1h" doc:""`
	OpenTime            time.Duration `key:"open_time" default:"5s" min:"10ms" max:"1h" doc:"open before it is tried again, longer each time"`
	MaxOpenTime         time.Duration `key:"max_open_time" default:"1m" min:"10ms" max:"24h" doc:"at most"`
	Return              time.Duration `key:"return" default:"10s" min:"0" max:"1h" doc:"over which the share grows back after it closed"`
}

// UpstreamRetry is [upstream.retry].
type UpstreamRetry struct {
	Attempts        int           `key:"attempts" default:"2" min:"1" max:"100" doc:"tries in all; a request of which nothing was sent, or that is safe to repeat, is tried at another endpoint"`
	Statuses        []int         `key:"statuses" default:"" min:"400" max:"599" doc:"answers that count as failed and are repeated, such as [502, 503]"`
	Backoff         string        `key:"backoff" default:"exponential" oneof:"exponential|fixed|none" doc:"between tries; exponential waits a random part of it"`
	Base            time.Duration `key:"base" default:"25ms" min:"1ms" max:"1m" doc:"the first wait"`
	Max             time.Duration `key:"max" default:"1s" min:"1ms" max:"10m" doc:"the longest wait"`
	PerTry          time.Duration `key:"per_try" default:"0" max:"1h" doc:"of one try; 0: timeouts.request"`
	Total           time.Duration `key:"total" default:"0" max:"24h" doc:"of all tries and waits; 0 no bound but the client's"`
	BudgetPercent   int           `key:"budget_percent" default:"20" min:"0" max:"100" doc:"retries at most, of the requests that succeed; 0: attempts alone bounds them"`
	BudgetPerSecond int           `key:"budget_per_second" default:"3" min:"0" max:"1000000" doc:"retries that are allowed in any case; 0 none"`
	Unsafe          bool          `key:"unsafe" default:"false" doc:"also requests that are not safe to repeat, as POST is: endpoints may see them twice"`
	RetryAfterMax   time.Duration `key:"retry_after_max" default:"1s" min:"1ms" max:"1h" doc:"an endpoint that asks for more time with Retry-After is not tried again; less is waited"`
	BufferBody      Size          `key:"buffer_body" default:"64KiB" min:"0" max:"64MiB" doc:"bodies up to this are kept to be sent again"`
}

// UpstreamLimits is [upstream.limits].
type UpstreamLimits struct {
	InFlight int `key:"in_flight" default:"0" min:"0" max:"10000000" doc:"requests at a time; 0 no limit"`
	Waiting  int `key:"waiting" default:"0" min:"0" max:"10000000" doc:"requests of the upstream that wait for room; 0 none"`
}

// UpstreamTimeouts is [upstream.timeouts].
type UpstreamTimeouts struct {
	Connect   time.Duration `key:"connect" default:"5s" min:"1ms" max:"10m" doc:"until a connection is made, TLS included"`
	Request   time.Duration `key:"request" default:"60s" min:"1ms" max:"24h" doc:"of one try, from sending to the answer's end; streams and upgrades: to its head"`
	Stream    time.Duration `key:"stream" default:"0" max:"24h" doc:"of a stream (gRPC, events, upgrades) that carries nothing either way; 0 no end"`
	Idle      time.Duration `key:"idle" default:"90s" min:"1ms" max:"24h" doc:"of a connection between requests"`
	KeepAlive time.Duration `key:"keep_alive" default:"15s" min:"1s" max:"24h" doc:"between probes of an idle connection"`
}

// Pool is [pool] and [upstream.pool].
type Pool struct {
	Min            int           `key:"min" default:"0" min:"0" max:"1000000" doc:"connections kept open to each endpoint; the same as max: a fixed size"`
	Max            int           `key:"max" default:"512" min:"1" max:"1000000" doc:"connections to one endpoint"`
	MaxWaiting     int           `key:"max_waiting" default:"4096" min:"0" max:"1000000" doc:"requests that wait for one"`
	AcquireTimeout time.Duration `key:"acquire_timeout" default:"5s" max:"1h" doc:"that they wait"`
	MaxLifetime    time.Duration `key:"max_lifetime" default:"0" max:"720h" doc:"of a connection, shortened by up to a tenth at random; 0 no end"`
	MaxUses        int           `key:"max_uses" default:"0" min:"0" max:"1000000000" doc:"requests on one connection; 0 no end"`
	MaxConnecting  int           `key:"max_connecting" default:"16" min:"1" max:"10000" doc:"connections being opened at a time"`
	PerWorker      bool          `key:"per_worker" default:"false" doc:"a list of idle connections for each CPU"`
	FailFast       bool          `key:"fail_fast" default:"true" doc:"do not wait for an endpoint that refuses connections"`
	WarmUp         bool          `key:"warm_up" default:"true" doc:"open min at the start"`
}
