package metrics

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/np-appliance/np/ctrl/gateway/accesslog"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/meter"
	"github.com/np-appliance/np/ctrl/gateway/policy/auth"
	"github.com/np-appliance/np/ctrl/gateway/policy/authz"
	"github.com/np-appliance/np/ctrl/gateway/policy/limit"
	"github.com/np-appliance/np/ctrl/pool"
	"github.com/np-appliance/np/ctrl/tracing"
	"github.com/np-appliance/np/ctrl/upstream"
)

func gatewaySource(t *testing.T) Source {
	m := meter.New()
	l := m.Listener("web")
	l.Begin()
	l.Begin()
	l.Done(&exchange.Exchange{Route: "api", Protocol: "h2", Status: 200, Received: 10, Sent: 20}, 3*time.Millisecond, false)
	l.Begin()
	l.Done(&exchange.Exchange{Route: "api", Protocol: "h2", Status: 503, Reason: exchange.NoEndpoint, Sent: 5}, time.Minute, false)
	up, err := upstream.New(upstream.Config{Name: "users"})
	if err == nil {
		err = up.Set([]upstream.Spec{{Address: "198.18.0.1:80"}, {Address: "198.18.0.2:80"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Drain("198.18.0.2:80"); err != nil {
		t.Fatal(err)
	}
	lease, err := up.Acquire(t.Context(), upstream.Query{})
	if err != nil {
		t.Fatal(err)
	}
	lease.Done(upstream.Failure)
	src := source(t)
	src.Gateway = func() *Gateway {
		return &Gateway{Requests: m.Series(), InFlight: m.InFlight(), Upstreams: []upstream.Snapshot{up.Snapshot()},
			Pools:       []Pool{{Upstream: "users", Protocol: "http/1.1", Stats: pool.Stats{Idle: 3, Acquired: 7}}, {Upstream: "users", Protocol: "h2", Open: 2, Opened: 4}},
			Rates:       []limit.RateStats{{Name: "api", Allowed: 5, Limited: 2}, {Name: "api", Allowed: 1}},
			Concurrency: []limit.ConcurrencyStats{{Name: "api", Running: 4}}, Shedders: []limit.ShedderStats{{Name: "api", Limit: 9}},
			Auth:      []auth.Stats{{Name: "jwt", Accepted: 3, Denied: 2, Fetches: 1, Loaded: time.Unix(1000, 0)}},
			External:  map[string]authz.ExternalStats{"api": {Asked: 4, Failed: 3, Passed: 1}},
			AccessLog: &accesslog.Stats{All: accesslog.FileStats{Lines: 8, Full: 1}}, Tracing: &tracing.Stats{Exported: 6, Dropped: 1}, Generation: 2}
	}
	return src
}

func TestGateway(t *testing.T) {
	src := gatewaySource(t)
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(New(src)); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if strings.Contains(l.GetValue(), "198.18.") {
					t.Errorf("%s: an address: %v", f.GetName(), m)
				}
			}
		}
	}
	rec := httptest.NewRecorder()
	Handler(src).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	body := rec.Body.String()
	for _, want := range []string{
		`np_http_requests_total{listener="web",protocol="h2",reason="none",route="api",status="2xx"} 1`,
		`np_http_requests_total{listener="web",protocol="h2",reason="no_endpoint",route="api",status="5xx"} 1`,
		`np_http_requests_in_flight{listener="web"} 1`,
		`np_http_request_bytes_total{listener="web",route="api"} 10`, `np_http_response_bytes_total{listener="web",route="api"} 25`,
		`np_http_request_duration_seconds_bucket{listener="web",protocol="h2",route="api",le="0.0025"} 0`,
		`np_http_request_duration_seconds_bucket{listener="web",protocol="h2",route="api",le="0.005"} 1`,
		`np_http_request_duration_seconds_bucket{listener="web",protocol="h2",route="api",le="+Inf"} 2`,
		`np_http_request_duration_seconds_sum{listener="web",protocol="h2",route="api"} 60.003`,
		`np_upstream_endpoints{mode="drain",takes="no",upstream="users"} 1`, `np_upstream_endpoints{mode="enabled",takes="yes",upstream="users"} 1`,
		`np_upstream_requests_total{outcome="failure",upstream="users"} 1`, `np_upstream_breakers{state="closed",upstream="users"} 2`,
		`np_pool_connections{protocol="http/1.1",state="idle",upstream="users"} 3`, `np_pool_connections{protocol="h2",state="shared",upstream="users"} 2`,
		`np_limit_requests_total{kind="rate",limit="api",result="allowed"} 6`, `np_limit_requests_total{kind="rate",limit="api",result="refused"} 2`,
		`np_limit_requests_in_flight{kind="concurrency",limit="api"} 4`, `np_limit_requests_max{limit="api"} 9`,
		`np_auth_requests_total{auth="jwt",result="denied"} 2`, `np_auth_fetches_total{auth="jwt"} 1`, `np_auth_loaded_timestamp_seconds{auth="jwt"} 1000`,
		`np_external_authz_requests_total{result="failed",route="api"} 2`, `np_external_authz_requests_total{result="passed",route="api"} 1`, `np_external_authz_questions_total{route="api"} 4`,
		`np_access_log_lines_total{file="all"} 8`, `np_access_log_dropped_total{file="all",reason="full"} 1`, `np_tracing_spans_total{result="dropped"} 1`, `np_gateway_generation 2`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("%s is missing", want)
		}
	}
	if t.Failed() {
		t.Log(body)
	}
}
