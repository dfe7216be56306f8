package metrics

import (
	"io"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/ctrl/secure"
	"github.com/np-appliance/np/ctrl/session"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/fake"
	"github.com/np-appliance/np/dataplane/xdp"
)

func source(t *testing.T) Source {
	t.Helper()
	p := fake.New(fake.Options{})
	t.Cleanup(func() { _ = p.Close() })
	return Source{Plane: p, Version: "v", Commit: "c",
		Sessions: func() session.Stats { return session.Stats{} }, Ports: func() []ports.Status { return nil }, Certs: func() []secure.Certificate { return nil }}
}

// TestXDP: what a program did, by interface and reason, and its mode; no source's address.
func TestXDP(t *testing.T) {
	src := source(t)
	src.Ports = func() []ports.Status {
		return []ports.Status{{Config: ports.Interface{Name: "np0"}, Mode: xdp.ModeGeneric, Fallback: "no native mode",
			Program: xdp.Counters{Redirected: 9, Steered: 5, Dropped: 4, Denied: 3, Limited: 2, SYNLimited: 1}}, {Config: ports.Interface{Name: "np0", VLAN: 5}, Shared: true}}
	}
	rec := httptest.NewRecorder()
	Handler(src).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{`np_xdp_dropped_packets_total{interface="np0",reason="denied"} 3`, `np_xdp_dropped_packets_total{interface="np0",reason="no_socket"} 4`,
		`np_xdp_dropped_packets_total{interface="np0",reason="rate_limited"} 2`, `np_xdp_dropped_packets_total{interface="np0",reason="syn_limited"} 1`,
		`np_xdp_steered_packets_total{interface="np0"} 5`, `np_xdp_mode_info{interface="np0",mode="generic",reason="no native mode"} 1`} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("%s is missing", want)
		}
	}
}

// Everything in the tables is there, once, under our prefix, and no label holds an address.
func TestScrape(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(New(source(t))); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather() // pedantic: descriptions, types and labels are checked
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, f := range families {
		have[f.GetName()] = true
		if !strings.HasPrefix(f.GetName(), prefix) || f.GetHelp() == "" {
			t.Errorf("%s: %q", f.GetName(), f.GetHelp())
		}
	}
	for _, want := range []string{"np_rx_packets_total", "np_tcp_connections", "np_npro_echoes_total"} {
		if !have[want] {
			t.Errorf("%s is missing", want)
		}
	}
	if len(have) < int(dataplane.CounterCount) {
		t.Errorf("%d families for %d counters", len(have), dataplane.CounterCount)
	}
}

func TestHandler(t *testing.T) {
	rec := httptest.NewRecorder()
	Handler(source(t)).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	body, _ := io.ReadAll(rec.Body)
	if rec.Code != 200 || !strings.Contains(string(body), `reason="tcp_bad_checksum"`) {
		t.Errorf("status %d\n%s", rec.Code, body)
	}
	if a := regexp.MustCompile(`="\d+\.\d+\.\d+\.\d+`).Find(body); a != nil {
		t.Errorf("a label holds an address: %s", a)
	}
}
