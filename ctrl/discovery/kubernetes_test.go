package discovery

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// apiServer answers as the published API of Kubernetes says: lists of EndpointSlices by
// label in pages, watches from a resource version, bookmarks, and 410 for versions that
// are too old.
type apiServer struct {
	mu      sync.Mutex
	changed chan struct{}
	version int
	oldest  int
	slices  map[string]map[string]any
	events  []kubeEvent
	raw     string // sent in each watch, and then its end
	lists   int
	auth    []string
	*httptest.Server
}

type kubeEvent struct {
	version int
	line    string
}

func newAPIServer(t *testing.T) *apiServer {
	a := &apiServer{changed: make(chan struct{}), version: 100, slices: map[string]map[string]any{}}
	a.Server = httptest.NewTLSServer(a)
	t.Cleanup(a.Close)
	t.Cleanup(a.CloseClientConnections)
	return a
}

// change makes one event; object nil: delete.
func (a *apiServer) change(name string, object map[string]any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	kind := "MODIFIED"
	if a.slices[name] == nil {
		kind = "ADDED"
	}
	if object == nil {
		kind, object = "DELETED", a.slices[name]
		delete(a.slices, name)
	} else {
		a.slices[name] = object
	}
	object["metadata"] = map[string]any{"name": name, "resourceVersion": strconv.Itoa(a.version), "labels": map[string]string{"kubernetes.io/service-name": "web"}}
	b, _ := json.Marshal(map[string]any{"type": kind, "object": object})
	a.events = append(a.events, kubeEvent{a.version, string(b)})
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := r.URL.Query()
	a.auth = append(a.auth, r.Header.Get("Authorization"))
	if r.URL.Path != "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices" || q.Get("labelSelector") != "kubernetes.io/service-name=web" {
		http.Error(w, `{"kind":"Status","code":404,"reason":"NotFound"}`, 404)
		return
	}
	if q.Get("watch") == "true" {
		a.watch(w, r)
		return
	}
	a.lists++
	names := []string{}
	for n := range a.slices {
		names = append(names, n)
	}
	slices.Sort(names)
	from, _ := strconv.Atoi(q.Get("continue"))
	limit, _ := strconv.Atoi(q.Get("limit"))
	to := min(len(names), from+limit)
	meta := map[string]any{"resourceVersion": strconv.Itoa(a.version)}
	if to < len(names) {
		meta["continue"] = strconv.Itoa(to)
	}
	items := []map[string]any{}
	for _, n := range names[from:to] {
		items = append(items, a.slices[n])
	}
	json.NewEncoder(w).Encode(map[string]any{"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": meta, "items": items})
}

// watch is under mu, which it gives up while it waits.
func (a *apiServer) watch(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	since, _ := strconv.Atoi(q.Get("resourceVersion"))
	seconds, _ := strconv.Atoi(q.Get("timeoutSeconds"))
	end := time.After(time.Duration(seconds) * time.Second)
	if a.raw != "" {
		fmt.Fprint(w, a.raw)
		return
	}
	for {
		if since < a.oldest { // as an event: the stream has begun
			fmt.Fprintf(w, `{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old resource version: %d (%d)"}}`+"\n", since, a.oldest)
			return
		}
		for _, e := range a.events {
			if e.version > since {
				fmt.Fprintln(w, e.line)
				since = e.version
			}
		}
		fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"kind":"EndpointSlice","metadata":{"resourceVersion":"%d"}}}`+"\n", since)
		w.(http.Flusher).Flush()
		changed := a.changed
		a.mu.Unlock()
		over := false
		select {
		case <-changed:
		case <-end:
			over = true
		case <-r.Context().Done():
			over = true
		}
		a.mu.Lock()
		if over {
			return
		}
	}
}

func endpoint(address string, conditions string) map[string]any {
	e := map[string]any{"addresses": []string{address}, "zone": "z"}
	c := map[string]any{}
	for _, s := range strings.Fields(conditions) {
		k, v, _ := strings.Cut(s, "=")
		c[k] = v == "true"
	}
	e["conditions"] = c
	return e
}

func sliceOf(family string, port int, endpoints ...map[string]any) map[string]any {
	return map[string]any{"kind": "EndpointSlice", "addressType": family, "endpoints": endpoints,
		"ports": []map[string]any{{"name": "http", "protocol": "TCP", "port": port}, {"name": "dns", "protocol": "UDP", "port": 53}, {"name": "admin", "protocol": "TCP", "port": 9000}}}
}

// pod makes what a pod finds: the service account's files, and the environment.
func (a *apiServer) pod(t *testing.T) (dir string, env func(string) string) {
	t.Helper()
	dir = t.TempDir()
	writeFile(t, filepath.Join(dir, "namespace"), "shop")
	writeFile(t, filepath.Join(dir, "token"), "one")
	writeFile(t, filepath.Join(dir, "ca.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw})))
	return dir, func(k string) string {
		host, port, _ := net.SplitHostPort(a.Listener.Addr().String())
		return map[string]string{"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}[k]
	}
}

// TestKubernetes follows a service's slices. The API server is a stand-in: the real one
// can't be had as a Go module.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t)
	a.change("web-1", sliceOf("IPv4", 80,
		endpoint("198.18.0.1", "ready=true serving=true terminating=false"),
		endpoint("198.18.0.2", ""), // nothing said: ready
		endpoint("198.18.0.3", "ready=false serving=true terminating=true"),
		endpoint("198.18.0.4", "ready=false serving=false terminating=true"),
		endpoint("198.18.0.5", "ready=false")))
	a.change("web-2", sliceOf("IPv6", 80, endpoint("2001:db8::1", "ready=true")))
	a.change("web-3", map[string]any{"addressType": "IPv4", "endpoints": nil, "ports": nil})
	dir, env := a.pod(t)
	source := func(port string) *Kubernetes {
		return &Kubernetes{Service: "web", Port: port, Getenv: env, Account: dir, Watch: time.Second}
	}
	r := runSource(t, source("http"))
	r.awaitList(t, "198.18.0.1:80 locality=z", "198.18.0.2:80 locality=z", "198.18.0.3:80 locality=z drain", "[2001:db8::1]:80 locality=z")
	none := runSource(t, source(""))
	await(t, "no port", func() string {
		if got := none.reports(); len(got) != 1 || !strings.Contains(got[0], "several ports") {
			return fmt.Sprintf("told %q", got)
		}
		return ""
	})
	a.change("web-1", sliceOf("IPv4", 80, endpoint("198.18.0.1", "ready=false serving=true terminating=true")))
	a.change("web-4", sliceOf("IPv4", 80, endpoint("198.18.0.1", "ready=true"), endpoint("nonsense", "ready=true"), endpoint("0.0.0.0", "ready=true")))
	r.awaitList(t, "198.18.0.1:80 locality=z", "[2001:db8::1]:80 locality=z")
	await(t, "wrong address", func() string {
		if got := r.reports(); len(got) != 1 || !strings.Contains(got[0], `kubernetes shop/web: EndpointSlice "web-4": address "nonsense": expected one of a host (and 1 more`) {
			return fmt.Sprintf("told %q", got)
		}
		return ""
	})
	a.change("web-4", nil)
	r.awaitList(t, "198.18.0.1:80 locality=z drain", "[2001:db8::1]:80 locality=z")
}

// TestKubernetesGap: tokens change, and what happened while nobody watched is no longer in
// the server's history.
func TestKubernetesGap(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t)
	a.change("web-1", sliceOf("IPv4", 80, endpoint("198.18.0.1", "ready=true")))
	a.change("web-2", sliceOf("IPv6", 80, endpoint("2001:db8::1", "ready=true")))
	dir, env := a.pod(t)
	source := func() *Kubernetes {
		return &Kubernetes{Service: "web", Port: "9000", Getenv: env, Account: dir, Watch: time.Second}
	}
	v6 := source()
	v6.Family, v6.KeepLast = IPv6, true
	r, six := runSource(t, source()), runSource(t, v6)
	r.awaitList(t, "198.18.0.1:9000 locality=z", "[2001:db8::1]:9000 locality=z")
	six.awaitList(t, "[2001:db8::1]:9000 locality=z")
	writeFile(t, filepath.Join(dir, "token"), "two") // rotated, as the kubelet does
	await(t, "new token", func() string {
		a.mu.Lock()
		defer a.mu.Unlock()
		if first, last := a.auth[0], a.auth[len(a.auth)-1]; first != "Bearer one" || last != "Bearer two" {
			return first + ", " + last
		}
		return ""
	})
	a.CloseClientConnections()
	a.mu.Lock()
	lists := a.lists
	a.oldest = a.version + 10
	a.version += 20
	a.events = nil
	delete(a.slices, "web-1")
	close(a.changed)
	a.changed = make(chan struct{})
	a.mu.Unlock()
	r.awaitList(t, "[2001:db8::1]:9000 locality=z")
	a.mu.Lock()
	if a.lists == lists {
		t.Error("not listed again")
	}
	a.mu.Unlock()
	a.change("web-2", nil)
	r.awaitList(t)
	six.awaitList(t, "[2001:db8::1]:9000 locality=z")
}

// TestKubernetesPages: many slices come in pages.
func TestKubernetesPages(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t)
	for i := range kubePage + 10 {
		a.change(fmt.Sprint("web-", i), sliceOf("IPv4", 80, endpoint(fmt.Sprintf("198.18.%d.%d", i/250, i%250), "ready=true")))
	}
	ca := writeFile(t, filepath.Join(t.TempDir(), "ca"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw})))
	r := runSource(t, &Kubernetes{Address: a.Listener.Addr().String(), TLS: &TLS{CAFile: ca}, Namespace: "shop", Service: "web", Port: "http"})
	await(t, "pages", func() string {
		if n := len(r.list()); n != kubePage+10 {
			return fmt.Sprint(n, r.reports())
		}
		return ""
	})
}

// TestKubernetesHostile: what is no watch is told, and the list stays.
func TestKubernetesHostile(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"{\n":                                 "event: unexpected end of JSON input",
		`{"type":"ADDED","object":[]}` + "\n": "cannot unmarshal array",
		`{"type":"ADDED","object":{"metadata":{"name":"x"}}}` + "\n":   "expected metadata.resourceVersion",
		`{"type":"X","object":{"metadata":{"resourceVersion":"1"}}}`:   `type "X": expected ADDED`,
		`{"type":"ERROR","object":{"code":403,"message":"forbidden"}}`: `status 403: "forbidden"`,
		strings.Repeat(" ", kubeLine+1):                                "event of more than 4194304 bytes",
	} {
		a := newAPIServer(t)
		a.change("web-1", sliceOf("IPv4", 80, endpoint("198.18.0.1", "ready=true")))
		a.raw = raw
		ca := writeFile(t, filepath.Join(t.TempDir(), "ca"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw})))
		r := runSource(t, &Kubernetes{Address: a.Listener.Addr().String(), TLS: &TLS{CAFile: ca}, Namespace: "shop", Service: "web", Port: "80"})
		await(t, want, func() string {
			if got := r.reports(); len(got) == 0 || !strings.Contains(got[0], want) {
				return fmt.Sprintf("told %q", got)
			}
			return ""
		})
		r.awaitList(t, "198.18.0.1:80 locality=z")
		r.end()
	}
}

// TestKubernetesWrong: what a Kubernetes can't be made of.
func TestKubernetesWrong(t *testing.T) {
	t.Parallel()
	none := func(string) string { return "" }
	for want, s := range map[string]*Kubernetes{
		"are not set":              {Service: "web", Namespace: "x", Getenv: none},
		"expected a namespace":     {Service: "web", Address: "a:1", Account: "/nonexistent"},
		`service "W"`:              {Service: "W", Namespace: "x", Address: "a:1"},
		`port "a b"`:               {Service: "web", Namespace: "x", Address: "a:1", Port: "a b"},
		`port "0"`:                 {Service: "web", Namespace: "x", Address: "a:1", Port: "0"},
		"watch 1ms":                {Service: "web", Namespace: "x", Address: "a:1", Watch: time.Millisecond},
		"KUBERNETES_SERVICE_HOST,": {Service: "web", Namespace: "x", Getenv: func(string) string { return "0" }},
	} {
		if err := s.Run(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// FuzzSlices: what events and lists make is a list, or an error.
func FuzzSlices(f *testing.F) {
	for _, s := range []string{
		`{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"1"},"addressType":"IPv4","endpoints":[{"addresses":["198.18.0.1"]}],"ports":[{"port":80}]}}`,
		`{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"1"}}}`,
		`{"type":"ERROR","object":{"code":410}}`,
		`{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}`,
		`{"type":"MODIFIED","object":{"metadata":{"name":"a","resourceVersion":"1"},"addressType":"IPv6","endpoints":[{"addresses":["::ffff:1.2.3.4"],"conditions":{"ready":false,"serving":true,"terminating":true}}],"ports":[{"port":99999}]}}`,
	} {
		f.Add([]byte(s), "")
		f.Add([]byte(s), "80")
	}
	f.Fuzz(func(t *testing.T, line []byte, port string) {
		k := &Kubernetes{slices: map[string]*slice{}}
		if err := k.event(line); err != nil {
			return
		}
		specs, _ := merge(k.slices, port, AnyFamily)
		for _, s := range specs[:min(len(specs), 10)] {
			checkSpec(t, s)
		}
	})
}
