package mgmt

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/fake"
)

// TestSetCongestionControl: a live connection changes, and what cannot be is said.
func TestSetCongestionControl(t *testing.T) {
	s := newServer(t)
	plane := s.cfg.Plane.(*fake.Plane)
	conn := dataplane.Handle(1<<32 | 5)
	plane.SetConnections([]dataplane.Conn{{Handle: conn, State: "established", CongestionControl: dataplane.CongestionBBR, ECN: true, PacingRate: 125000,
		BBR: &dataplane.BBRState{Phase: "PROBE_BW_UP", Bandwidth: 100000, PacingGain: 1.25, CwndGain: 2.25}}})
	for _, tt := range []struct {
		name, body string
		code       int
		says       string
	}{
		{"works", `{"id":"100000005","congestion_control":"newreno"}`, 200, `"done":true`},
		{"unknown word", `{"id":"100000005","congestion_control":"vegas"}`, 400, "want cubic, newreno, bbr"},
		{"no word", `{"id":"100000005"}`, 400, "one of them"},
		{"two at once", `{"id":"100000005","congestion_control":"bbr","user_timeout_ms":5000}`, 400, "one of them"},
		{"user timeout", `{"id":"100000005","user_timeout_ms":5000}`, 200, `"done":true`},
		{"no user timeout", `{"id":"100000005","user_timeout_ms":0}`, 200, `"done":true`},
		{"user timeout too short", `{"id":"100000005","user_timeout_ms":999}`, 400, "1000 to 86400000"},
		{"user timeout, stale", `{"id":"200000005","user_timeout_ms":5000}`, 404, "200000005"},
		{"default is no choice", `{"id":"100000005","congestion_control":"default"}`, 400, "want cubic"},
		{"stale", `{"id":"200000005","congestion_control":"bbr"}`, 404, "200000005"},
		{"no ID", `{"id":"?","congestion_control":"bbr"}`, 400, "?"},
	} {
		w := httptest.NewRecorder()
		s.Handler(false).ServeHTTP(w, httptest.NewRequest("POST", api.PathConnSet, strings.NewReader(tt.body)))
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.says) {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
	}
	w := httptest.NewRecorder()
	s.Handler(true).ServeHTTP(w, httptest.NewRequest("POST", api.PathConnSet, strings.NewReader(`{"id":"100000005","congestion_control":"bbr"}`)))
	if w.Code != 403 {
		t.Errorf("read-only socket: %d", w.Code)
	}
	w = httptest.NewRecorder()
	s.Handler(false).ServeHTTP(w, httptest.NewRequest("GET", api.PathConn+"100000005", nil))
	for _, want := range []string{`"congestion_control":"newreno"`, `"ecn":true`, `"pacing_rate_bps":1000000`, `"phase":"PROBE_BW_UP"`, `"bandwidth_bps":800000`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s is missing: %s", want, w.Body)
		}
	}
}
