package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

func TestRoutes(t *testing.T) {
	one := api.Route{Name: "api", Hosts: []string{"a.example"}, Match: "/v1/*", Action: "upstream users", Requests: 10, ClientErrors: 1, MeanSeconds: 0.0015, ReceivedBytes: 2048}
	sock := daemon(t, map[string]any{api.PathRoutes: api.Routes{Schema: api.Schema, Routes: []api.Route{one, {Name: "rest", Match: "/*", Action: "answer 404"}}},
		api.PathRoute + "{name}": api.RouteAnswer{Schema: api.Schema, Route: one, Values: []api.ConfigValue{{Key: "path_prefix", Value: `"/v1"`, Origin: "np.toml:9:1"}},
			Counts: []api.RouteCount{{Listener: "web", Protocol: "h2", Status: "2xx", Reason: "none", Requests: 9, MeanSeconds: 2}}}})
	out, _, code := npctl("-s", sock, "route", "list")
	want := `NAME  HOSTS      METHODS  MATCH  ACTION          REQUESTS  4XX  5XX   MEAN
api   a.example  any      /v1/*  upstream users        10    1    0  1.5ms
rest  any        any      /*     answer 404             0    0    0      -
`
	if out != want || code != exitDone {
		t.Errorf("code %d, got\n%s", code, out)
	}
	out, _, code = npctl("-s", sock, "route", "show", "a/b")
	for _, want := range []string{"path_prefix  \"/v1\"  np.toml:9:1", "web       h2        2xx     none           9  2.00s"} {
		if !strings.Contains(out, want) || code != exitDone {
			t.Errorf("code %d, got\n%s\nwant %s", code, out, want)
		}
	}
	if _, _, code := npctl("-s", sock, "route", "show"); code != exitUsage {
		t.Errorf("no name: code %d", code)
	}
}

func TestUpstreams(t *testing.T) {
	since := time.Now().Add(-2*time.Minute - time.Second/2)
	list := []api.Endpoint{
		{Address: "198.18.0.1:80", Weight: 2, Takes: true, Mode: "enabled", Operator: "list", Health: "healthy", HealthSince: &since, SlowStart: 100, Breaker: "closed", Requests: 7, MeanSeconds: 0.25},
		{Address: "198.18.0.2:80", Weight: 1, ListedWeight: 5, Mode: "drain", Operator: "drain", Health: "healthy", SlowStart: 100, Breaker: "closed"},
		{Address: "198.18.0.3:80", Weight: 1, Mode: "enabled", Operator: "list", Health: "unhealthy", LastError: "connection refused", SlowStart: 100, Breaker: "closed"},
		{Address: "198.18.0.4:80", Weight: 1, Mode: "enabled", Operator: "list", Health: "healthy", SlowStart: 100, Breaker: "open", BreakerSeconds: 3},
		{Address: "198.18.0.5:80", Weight: 1, Mode: "enabled", Operator: "list", Health: "healthy", SlowStart: 30, Breaker: "closed"},
	}
	var got []api.UpstreamSet
	sock := daemon(t, map[string]any{
		api.PathUpstream + "{name}": api.UpstreamAnswer{Schema: api.Schema, Upstream: api.Upstream{Name: "users", Protocol: "h2c", Balance: "maglev", Endpoints: 5, Taking: 2}, Endpoints: list, Refusals: map[string]uint64{"unhealthy": 4},
			Discovery: &api.Discovery{Source: "dns:///users.example:80", LastKnownAt: &since, Error: "SERVFAIL"}},
		"POST " + api.PathUpstreamSet: func(w http.ResponseWriter, r *http.Request) {
			var in api.UpstreamSet
			if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
				t.Error(err)
			}
			if in.Endpoint == "none" {
				w.WriteHeader(http.StatusNotFound)
				_ = json.NewEncoder(w).Encode(api.Error{Schema: api.Schema, Kind: api.KindNotFound, Text: "no such endpoint"})
				return
			}
			got = append(got, in)
			_ = json.NewEncoder(w).Encode(api.Done{Schema: api.Schema, Done: true})
		}})
	out, _, code := npctl("-s", sock, "upstream", "show", "users", "--no-headers")
	for _, want := range []string{"users  h2c  maglev  2/5", "healthy            0  7", "1 (list 5) no drain (operator)", "unhealthy", "connection refused", "breaker open 3.0s", "slow start 30%", "unhealthy  4", "dns:///users.example:80 - 2m00s SERVFAIL"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), strings.Join(strings.Fields(want), " ")) || code != exitDone {
			t.Errorf("code %d, %q is missing in\n%s", code, want, out)
		}
	}
	for args, want := range map[string]int{"drain users 198.18.0.1:80": exitDone, "enable users 198.18.0.1:80": exitDone, "disable users 198.18.0.1:80": exitDone, "reset users 198.18.0.1:80": exitDone,
		"set users 198.18.0.1:80 weight 7": exitDone, "set users 198.18.0.1:80 weight x": exitUsage, "set users 198.18.0.1:80 mode x": exitUsage, "drain users": exitUsage, "drain users none": exitNotFound} {
		if _, _, code := npctl(append([]string{"-s", sock, "upstream"}, strings.Fields(args)...)...); code != want {
			t.Errorf("%s: code %d, want %d", args, code, want)
		}
	}
	modes := map[string]int{}
	for _, s := range got {
		modes[s.Mode]++
		if s.Weight != nil && *s.Weight != 7 || s.Upstream != "users" {
			t.Errorf("%+v", s)
		}
	}
	if len(modes) != 5 || len(got) != 5 {
		t.Errorf("%+v", got)
	}
}

func TestPools(t *testing.T) {
	sock := daemon(t, map[string]any{api.PathPools: api.Pools{Schema: api.Schema, Pools: []api.Pool{
		{Upstream: "u", Endpoint: "a:1", Protocol: "http/1.1", Max: 9, Open: 3, Idle: 2, InFlight: 1, Requests: 100}, {Upstream: "u", Endpoint: "b:1", Protocol: "h2", Open: 1, InFlight: 30}}}})
	out, _, code := npctl("-s", sock, "pool", "list")
	lines := strings.Split(out, "\n")
	if code != exitDone || len(lines) != 4 || !strings.HasPrefix(strings.Join(strings.Fields(lines[1]), " "), "u a:1 http/1.1 3 9 2 1 0 100") || !strings.HasPrefix(strings.Join(strings.Fields(lines[2]), " "), "u b:1 h2 1 - - 30 0") {
		t.Errorf("code %d\n%s", code, out)
	}
}

func TestConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "next.toml")
	if err := os.WriteFile(file, []byte("[tcp]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	restart := api.ConfigChange{Key: "tcp.sack", Old: "true", New: "false", Restart: true}
	live := api.ConfigChange{Key: "route[a].path", New: `"/a"`}
	sock := daemon(t, map[string]any{
		"POST " + api.PathConfigDiff: func(w http.ResponseWriter, r *http.Request) {
			v := api.ConfigDiff{Schema: api.Schema, Changes: []api.ConfigChange{live}}
			if r.ContentLength == 0 { // npd's own files
				v.Restart, v.Changes = true, append(v.Changes, restart)
			}
			_ = json.NewEncoder(w).Encode(v)
		},
		"POST " + api.PathConfigApply: func(w http.ResponseWriter, r *http.Request) {
			var in api.ConfigCandidate
			if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Name != file || in.Content != "[tcp]\n" {
				t.Errorf("%+v %v", in, err)
			}
			if in.Temporary {
				w.WriteHeader(http.StatusUnprocessableEntity)
				_ = json.NewEncoder(w).Encode(api.Error{Schema: api.Schema, Kind: api.KindInvalid, Text: "next.toml:1:1: one\nnext.toml:2:1: two"})
				return
			}
			_ = json.NewEncoder(w).Encode(api.ConfigApplied{Schema: api.Schema, Changes: []api.ConfigChange{live}, Number: 4, Saved: "/etc/np/np.toml", Warnings: []string{"careful"}})
		},
		"POST " + api.PathConfigRollback: api.ConfigApplied{Schema: api.Schema, From: 2, Number: 5, Warnings: []string{}},
		api.PathConfigHistory:            api.ConfigHistory{Schema: api.Schema, Entries: []api.ConfigEntry{{Number: 4, Reason: "apply", SizeBytes: 2048, InForce: true, AppliedAt: time.Unix(0, 0)}}},
	})
	for _, one := range []struct {
		args, out, err string
		code           int
	}{
		{"diff", "KEY            IN FORCE  NEW    TAKES EFFECT\nroute[a].path  -         \"/a\"   at once\ntcp.sack       true      false  by a restart\n", "", exitConflict},
		{"diff " + file, "KEY            IN FORCE  NEW   TAKES EFFECT\nroute[a].path  -         \"/a\"  at once\n", "", exitDone},
		{"diff -n 3 " + file, "", "npctl: diff: FILE or --number, one of them\nnpctl: try 'npctl --help'\n", exitUsage},
		{"apply " + file, "KEY            IN FORCE  NEW   TAKES EFFECT\nroute[a].path  -         \"/a\"  at once\n", "npctl: careful\nnpctl: applied, kept as 4, saved as /etc/np/np.toml\n", exitDone},
		{"apply --temporary " + file, "", "next.toml:1:1: one\nnext.toml:2:1: two\n", exitFailed},
		{"apply", "", "npctl: want one file, got 0 arguments\nnpctl: try 'npctl --help'\n", exitUsage},
		{"rollback", "", "npctl: nothing changes\nnpctl: rolled back to 2, kept as 5, not saved\n", exitDone},
		{"rollback x", "", "npctl: rollback \"x\": want a number as npctl config list shows\nnpctl: try 'npctl --help'\n", exitUsage},
		{"list", "NUMBER  APPLIED               BY       SIZE  IN FORCE\n     4  1970-01-01T00:00:00Z  apply  2.0KiB  yes\n", "", exitDone},
	} {
		out, errOut, code := npctl(append([]string{"-s", sock, "config"}, strings.Fields(one.args)...)...)
		if out != one.out || errOut != one.err || code != one.code {
			t.Errorf("%s: code %d\n%s\n%s", one.args, code, out, errOut)
		}
	}
	if _, errOut, code := npctl("-s", sock, "config", "apply", "/none"); code != exitFailed || !strings.Contains(errOut, "no such file") {
		t.Errorf("code %d, %s", code, errOut)
	}
}
