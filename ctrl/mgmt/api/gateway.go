package api

import "time"

// Paths of the gateway. Those with a trailing slash take one more segment, a name.
const (
	PathRoutes      = "/v1/routes"
	PathRoute       = "/v1/routes/"
	PathUpstreams   = "/v1/upstreams"
	PathUpstream    = "/v1/upstreams/"
	PathUpstreamSet = "/v1/upstreams/set" // POST: UpstreamSet
	PathPools       = "/v1/pools"
)

// Routes answers PathRoutes, in the configuration's order.
type Routes struct {
	Schema string  `json:"schema"`
	Routes []Route `json:"routes"`
}

// Route is one [[route]] with what it counted on all listeners. Match and Action are for people.
type Route struct {
	Name      string   `json:"name"`
	Listeners []string `json:"listeners"` // none: all of protocol http
	Hosts     []string `json:"hosts"`     // none: any
	Match     string   `json:"match"`     // path, and further conditions
	Methods   []string `json:"methods"`   // none: any
	Action    string   `json:"action"`
	Upstreams []string `json:"upstreams"` // that requests go to

	Requests      uint64  `json:"requests_total"`
	ClientErrors  uint64  `json:"client_errors_total"` // status 4xx
	ServerErrors  uint64  `json:"server_errors_total"` // status 5xx
	ReceivedBytes uint64  `json:"received_bytes_total"`
	SentBytes     uint64  `json:"sent_bytes_total"`
	MeanSeconds   float64 `json:"mean_duration_seconds"` // 0: no request yet
}

// RouteAnswer answers PathRoute.
type RouteAnswer struct {
	Schema string        `json:"schema"`
	Route  Route         `json:"route"`
	Values []ConfigValue `json:"values"` // of its configuration, but for defaults
	Counts []RouteCount  `json:"counts"`
}

// RouteCount is what one kind of request counted.
type RouteCount struct {
	Listener    string  `json:"listener"`
	Protocol    string  `json:"protocol"`
	Status      string  `json:"status"` // 2xx, ...; none
	Reason      string  `json:"reason"`
	Requests    uint64  `json:"requests_total"`
	MeanSeconds float64 `json:"mean_duration_seconds"`
}

// Upstreams answers PathUpstreams.
type Upstreams struct {
	Schema    string     `json:"schema"`
	Upstreams []Upstream `json:"upstreams"`
}

// Upstream is one [[upstream]] with what all its endpoints counted.
type Upstream struct {
	Name      string `json:"name"`
	Protocol  string `json:"protocol"`
	Balance   string `json:"balance"`
	Endpoints int    `json:"endpoints"`
	Taking    int    `json:"endpoints_taking"` // that take requests
	Panic     bool   `json:"panic"`            // so few are well that all are used

	InFlight       int64   `json:"requests_in_flight"`
	Waiting        int64   `json:"requests_waiting"`
	Requests       uint64  `json:"requests_total"`
	Successes      uint64  `json:"successes_total"`
	Failures       uint64  `json:"failures_total"`
	Timeouts       uint64  `json:"timeouts_total"`
	ConnectFailed  uint64  `json:"connect_failed_total"`
	Canceled       uint64  `json:"canceled_total"`
	Retries        uint64  `json:"retries_total"`
	RetriesRefused uint64  `json:"retries_without_budget_total"`
	RetryBudget    int     `json:"retry_budget"` // retries that it allows now
	Refused        uint64  `json:"refused_total"`
	MeanSeconds    float64 `json:"mean_duration_seconds"` // 0: no request yet
}

// UpstreamAnswer answers PathUpstream.
type UpstreamAnswer struct {
	Schema    string            `json:"schema"`
	Upstream  Upstream          `json:"upstream"`
	Endpoints []Endpoint        `json:"endpoints"`
	Levels    []UpstreamLevel   `json:"levels"`
	Refusals  map[string]uint64 `json:"refused_total_by_reason"`
	Discovery *Discovery        `json:"discovery,omitempty"` // none: the endpoints are in the configuration
}

// Discovery is where an upstream's endpoints come from.
type Discovery struct {
	Source string     `json:"source"`
	GoodAt *time.Time `json:"good_at,omitempty"` // when all of the list was last confirmed; of DNS, etcd, Consul and Kubernetes
	Error  string     `json:"error,omitempty"`   // what is wrong now

	LastKnownAt *time.Time `json:"last_known_at,omitempty"` // the endpoints are those of the last run, good at this time: the source has not answered since
}

// UpstreamLevel is a priority.
type UpstreamLevel struct {
	Priority  int  `json:"priority"`
	Endpoints int  `json:"endpoints"`
	Healthy   int  `json:"endpoints_healthy"`
	Percent   int  `json:"share_percent"` // of the requests
	Panic     bool `json:"panic"`
}

// Endpoint is one endpoint of an upstream.
type Endpoint struct {
	Address  string `json:"address"`
	Priority int    `json:"priority"`
	Weight   int    `json:"weight"`
	Locality string `json:"locality,omitempty"`
	Takes    bool   `json:"takes_requests"`
	Mode     string `json:"mode"`     // enabled, drain, disabled
	Operator string `json:"operator"` // what an operator set; list: nothing
	Health   string `json:"health"`   // healthy, unhealthy, unknown (not checked)

	ListedWeight   int        `json:"listed_weight"` // whatever an operator set
	HealthSince    *time.Time `json:"health_since,omitempty"`
	LastCheckAt    *time.Time `json:"last_check_at,omitempty"`
	LastError      string     `json:"last_error,omitempty"`
	EjectedSeconds float64    `json:"ejected_for_seconds"` // left out by the outlier detector for so long still
	SlowStart      int        `json:"slow_start_percent"`  // of its weight that it has; 100: all
	Breaker        string     `json:"breaker"`             // closed, open, half-open, returning
	BreakerTrips   uint64     `json:"breaker_trips_total"`
	BreakerSeconds float64    `json:"breaker_open_for_seconds"`

	InFlight      int64   `json:"requests_in_flight"`
	Requests      uint64  `json:"requests_total"`
	Successes     uint64  `json:"successes_total"`
	Failures      uint64  `json:"failures_total"`
	Timeouts      uint64  `json:"timeouts_total"`
	ConnectFailed uint64  `json:"connect_failed_total"`
	Canceled      uint64  `json:"canceled_total"`
	Checks        uint64  `json:"checks_total"`
	ChecksFailed  uint64  `json:"checks_failed_total"`
	Ejections     uint64  `json:"ejections_total"`
	MeanSeconds   float64 `json:"mean_duration_seconds"`
}

// UpstreamSet changes an endpoint until it leaves its list or npd ends; one of Mode and Weight.
type UpstreamSet struct {
	Upstream string `json:"upstream"`
	Endpoint string `json:"endpoint"`         // its address
	Mode     string `json:"mode,omitempty"`   // enabled, drain, disabled; list: what the configuration says
	Weight   *int   `json:"weight,omitempty"` // 0: what the configuration says
}

// Pools answers PathPools.
type Pools struct {
	Schema string `json:"schema"`
	Pools  []Pool `json:"pools"`
}

// Pool is the connections to one endpoint. Those of HTTP/2 and HTTP/3 carry many requests
// each: of them only open connections, requests and openings are counted.
type Pool struct {
	Upstream string `json:"upstream"`
	Endpoint string `json:"endpoint"`
	Protocol string `json:"protocol"` // http/1.1, h2, h2c, h3; "": not known yet

	Max      int    `json:"max_connections"` // 0: none
	Open     int64  `json:"connections"`
	Idle     int    `json:"connections_idle"`
	InFlight int64  `json:"requests_in_flight"`
	Waiting  int    `json:"requests_waiting"`
	Opening  int    `json:"connections_opening"`
	Requests uint64 `json:"requests_total"`
	Opened   uint64 `json:"opened_total"`
	Failed   uint64 `json:"open_failed_total"` // timeouts included
	Closed   uint64 `json:"closed_total"`
	Refused  uint64 `json:"refused_total"` // requests that got none

	WaitMeanSeconds float64 `json:"wait_mean_seconds"`
	LastError       string  `json:"last_error,omitempty"` // of opening, unless the last one worked
	RetrySeconds    float64 `json:"retry_in_seconds"`     // pause left after failures

	ClosedBy map[string]uint64 `json:"closed_total_by_reason,omitempty"`
}
