package discovery

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// consulAgent answers as the published API of Consul says: /v1/health/service with passing,
// tag and dc, X-Consul-Index, and queries that wait for an index beyond the one given.
type consulAgent struct {
	mu        sync.Mutex
	changed   chan struct{}
	index     uint64
	instances []map[string]any
	fail      int // status of all answers
	raw       string
	queries   []url.Values
	tokens    []string
	*httptest.Server
}

func newConsul(t *testing.T) *consulAgent {
	a := &consulAgent{changed: make(chan struct{}), index: 10}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *consulAgent) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *consulAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	asked, _ := strconv.ParseUint(q.Get("index"), 10, 64)
	wait, _ := time.ParseDuration(q.Get("wait"))
	end := time.After(wait + wait/16)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queries, a.tokens = append(a.queries, q), append(a.tokens, r.Header.Get("X-Consul-Token"))
	for asked != 0 && a.index <= asked && a.fail == 0 {
		changed := a.changed
		a.mu.Unlock()
		timeout := false
		select {
		case <-changed:
		case <-end:
			timeout = true
		case <-r.Context().Done():
			timeout = true
		}
		a.mu.Lock()
		if timeout || a.index < asked {
			break
		}
	}
	if a.fail != 0 {
		http.Error(w, "rpc error: No cluster leader", a.fail)
		return
	}
	w.Header().Set("X-Consul-Index", strconv.FormatUint(a.index, 10))
	if a.raw != "" {
		fmt.Fprint(w, a.raw)
		return
	}
	out := []map[string]any{}
	for _, i := range a.instances {
		passing := true
		for _, c := range i["Checks"].([]map[string]any) {
			passing = passing && c["Status"] == "passing"
		}
		tags := i["Service"].(map[string]any)["Tags"].([]string)
		has := !slices.ContainsFunc(q["tag"], func(t string) bool { return !slices.Contains(tags, t) })
		if has && (passing || !q.Has("passing")) && r.URL.Path == "/v1/health/service/web" {
			out = append(out, i)
		}
	}
	json.NewEncoder(w).Encode(out)
}

func instanceOf(id, node, address string, port int, status string, tags ...string) map[string]any {
	return map[string]any{
		"Node": map[string]any{"Node": id, "Address": node, "Datacenter": "dc1"},
		"Service": map[string]any{"ID": id, "Service": "web", "Tags": append([]string{}, tags...), "Address": address, "Port": port,
			"Weights": map[string]any{"Passing": 10, "Warning": 1}},
		"Checks": []map[string]any{{"CheckID": "serfHealth", "Status": "passing"}, {"CheckID": "service:" + id, "Status": status}},
	}
}

// TestConsul follows a service by blocking queries. The agent is a stand-in: Consul's own
// can't be had as a Go module or a Debian package.
func TestConsul(t *testing.T) {
	t.Parallel()
	a := newConsul(t)
	a.instances = []map[string]any{
		instanceOf("1", "198.18.0.1", "", 80, "passing", "a", "b"),
		instanceOf("2", "198.18.0.2", "2001:db8::2", 80, "passing", "a"),
		instanceOf("3", "198.18.0.3", "web3.example", 80, "warning", "a"),
		instanceOf("4", "198.18.0.4", "", 80, "critical", "a"),
	}
	token := writeFile(t, filepath.Join(t.TempDir(), "token"), "secret\n")
	source := func() *Consul {
		return &Consul{Address: a.Listener.Addr().String(), Service: "web", Wait: 50 * time.Millisecond, Pause: time.Millisecond}
	}
	s := source()
	s.TokenFile, s.Datacenter = token, "dc1"
	r := runSource(t, s)
	r.awaitList(t, "198.18.0.1:80 weight=10 locality=dc1", "[2001:db8::2]:80 weight=10 locality=dc1")
	w := source()
	w.Warning, w.KeepLast = true, true
	warned := runSource(t, w)
	warned.awaitList(t, "198.18.0.1:80 weight=10 locality=dc1", "[2001:db8::2]:80 weight=10 locality=dc1", "web3.example:80 locality=dc1")
	tagged := source()
	tagged.Tags = []string{"a", "b"}
	runSource(t, tagged).awaitList(t, "198.18.0.1:80 weight=10 locality=dc1")
	a.set(func() { a.index, a.instances = 20, a.instances[:1] })
	r.awaitList(t, "198.18.0.1:80 weight=10 locality=dc1")
	a.mu.Lock()
	q := a.queries[0]
	if q.Get("passing") != "true" || q.Get("dc") != "dc1" || q.Has("index") || a.tokens[0] != "secret" {
		t.Errorf("first query %v, token %q", q, a.tokens[0])
	}
	a.mu.Unlock()
	toldAt := func(r *running, n int, want string) {
		t.Helper()
		await(t, want, func() string {
			if got := r.reports(); len(got) <= n || !strings.Contains(got[n], want) {
				return fmt.Sprintf("told %q, want %d", got, n)
			}
			return ""
		})
	}
	a.set(func() { // a server that lost its state
		a.index, a.instances = 3, []map[string]any{instanceOf("5", "198.18.0.5", "", 81, "passing"), instanceOf("6", "0.0.0.0", "", 80, "passing"), instanceOf("7", "198.18.0.7", "", 0, "passing")}
	})
	r.awaitList(t, "198.18.0.5:81 weight=10 locality=dc1")
	toldAt(r, 0, `instance "6": host 0.0.0.0: expected an address of a host (and 1 more that are left out)`)
	a.set(func() { a.fail = 500 })
	toldAt(r, 1, `status 500: "rpc error: No cluster leader"; the list of 1 from`)
	r.awaitList(t, "198.18.0.5:81 weight=10 locality=dc1")
	a.set(func() { a.fail, a.index, a.instances = 0, 4, nil })
	r.awaitList(t)
	toldAt(warned, 2, "no endpoints; the list of 1 from")
}

// TestConsulHostile: answers that are none keep the list, and are told.
func TestConsulHostile(t *testing.T) {
	t.Parallel()
	many := "[" + strings.Repeat("{},", maxInstances) + "{}]"
	for raw, want := range map[string]string{
		"{}":                                   "expected a JSON array",
		"null":                                 "expected a JSON array",
		`[{"Service":{"Port":"x"}}]`:           "cannot unmarshal string",
		`[{"Service":`:                         "unexpected EOF",
		many:                                   "more than 100000 instances",
		`["` + strings.Repeat("x", consulBody): "answer of more than 33554432 bytes",
	} {
		_, _, err := readInstances(limit(strings.NewReader(raw), consulBody), false)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %q", raw, err, want)
		}
	}
	for _, c := range []struct{ index, next, want uint64 }{{0, 5, 5}, {5, 5, 5}, {5, 4, 0}, {0, 0, 1}, {1, 0, 0}} {
		if got := nextIndex(c.index, c.next); got != c.want {
			t.Errorf("after %d, %d: %d, want %d", c.index, c.next, got, c.want)
		}
	}
	for want, s := range map[string]*Consul{
		`address ""`:        {Service: "x"},
		"name of a service": {Address: "a:1"},
		"wait 1h0m0s":       {Address: "a:1", Service: "x", Wait: time.Hour},
		"pause 1ns":         {Address: "a:1", Service: "x", Pause: 1},
	} {
		if err := s.Run(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// FuzzConsul: what an answer gives is a list, or an error.
func FuzzConsul(f *testing.F) {
	b, err := json.Marshal([]map[string]any{instanceOf("1", "198.18.0.1", "", 80, "passing"), instanceOf("2", "x", "::1", 1, "warning")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`[{"Service":{"Address":"a","Port":1,"Weights":{"Passing":0}}}]`))
	f.Add([]byte(`[{"Node":{"Address":"a"},"Service":{"Port":70000}}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		specs, _, err := readInstances(limit(strings.NewReader(string(b)), 1<<16), true)
		if err != nil {
			return
		}
		for _, s := range specs[:min(len(specs), 10)] {
			checkSpec(t, s)
		}
	})
}
