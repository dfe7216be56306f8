package gateway

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// TestDiscover: endpoints come from a source, which an upstream that is made again does
// not wait for.
func TestDiscover(t *testing.T) {
	a, b := backend(t, "a"), backend(t, "b")
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte(a+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := func(balance string) string {
		return "[[upstream]]\nname = \"u\"\ndiscover = \"file:" + list + "?every=10ms\"\nbalance = \"" + balance +
			"\"\n[[route]]\nname = \"all\"\npath_prefix = \"/\"\nupstream = \"u\"\n"
	}
	r := newRig(t, text("round_robin"))
	answers := func(name string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			status, body, _ := r.get(t, "/x")
			if status == 200 && strings.HasPrefix(body, name+" ") {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d %q, want %s", status, body, name)
			}
		}
	}
	answers("a")
	r.apply(t, load(t, text("least_request")))
	if status, body, _ := r.get(t, "/x"); status != 200 {
		t.Errorf("right after it was made again: %d %s", status, body)
	}
	if err := os.WriteFile(list, []byte(b+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	answers("b")
	if d, ok := r.Discovery("u"); !ok || !strings.HasPrefix(d.Source, "file:") || d.Status.Err != nil {
		t.Errorf("%+v %v", d, ok)
	}
	err := Check(load(t, "[[upstream]]\nname = \"u\"\ndiscover = \"dns:///api.example\"\n"))
	if want := `np.toml:7:1: upstream.discover: source "dns:///api.example": "api.example": expected NAME:PORT`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v\nwant %s", err, want)
	}
}

// TestChecks: checks by gRPC's health protocol and by HTTP, in each protocol, find out who is well.
func TestChecks(t *testing.T) {
	h := health.NewServer()
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, h)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-served })
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			w.WriteHeader(503)
		}
	}))
	web.TLS = &tls.Config{}
	web.StartTLS()
	t.Cleanup(web.Close)
	secured := strings.TrimPrefix(web.URL, "https://")
	two := httptest.NewUnstartedServer(web.Config.Handler)
	two.Config.Protocols = new(http.Protocols)
	two.Config.Protocols.SetUnencryptedHTTP2(true)
	two.Start()
	t.Cleanup(two.Close)
	alone := httptest.NewUnstartedServer(web.Config.Handler)
	alone.EnableHTTP2 = true
	alone.TLS = &tls.Config{NextProtos: []string{"h2"}} // no HTTP/1.1
	alone.StartTLS()
	t.Cleanup(alone.Close)
	times := "health.interval = \"20ms\"\nhealth.fail_interval = \"20ms\"\nhealth.fall = 1\nhealth.rise = 1\n"
	r := newRig(t, upstreamOf("grpc", l.Addr().String())+"protocol = \"h2c\"\nhealth.kind = \"grpc\"\n"+times+
		upstreamOf("tls", secured)+"tls.enabled = true\ntls.verify = false\nhealth.kind = \"http\"\nhealth.path = \"/healthz\"\n"+times+
		upstreamOf("h2c", strings.TrimPrefix(two.URL, "http://"))+"protocol = \"h2c\"\nhealth.kind = \"http\"\nhealth.path = \"/healthz\"\nhealth.host = \"health.test\"\n"+times+
		upstreamOf("h2", strings.TrimPrefix(alone.URL, "https://"))+"protocol = \"h2\"\ntls.enabled = true\ntls.verify = false\nhealth.kind = \"http\"\nhealth.path = \"/healthz\"\n"+times+
		upstreamOf("other", secured)+"tls.enabled = true\ntls.verify = false\nhealth.kind = \"http\"\nhealth.path = \"/other\"\n"+times)
	becomes := func(name, want string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			e := r.gen.Load().clusters[name].up.Snapshot().Endpoints[0]
			if e.Health == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %v, %s, want %v", name, e.Health, e.LastError, want)
			}
		}
	}
	becomes("grpc", "healthy")
	becomes("tls", "healthy")
	becomes("h2c", "healthy")
	becomes("h2", "healthy")
	becomes("other", "unhealthy")
	h.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	becomes("grpc", "unhealthy")
	h.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
	becomes("grpc", "healthy")
}

// TestLastKnown: an upstream whose source does not answer at the start has the endpoints
// of the last run until it does, says so, and takes them for nothing when they are too old
// or another source's.
func TestLastKnown(t *testing.T) {
	state := t.TempDir()
	a, b := backend(t, "a"), backend(t, "b")
	var mu sync.Mutex
	instance, up := a, true
	changed := make(chan struct{})
	consul := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("index") == "1" {
			<-changed // for good: nothing changes while it is up
		}
		mu.Lock()
		defer mu.Unlock()
		if !up {
			w.WriteHeader(503)
			return
		}
		host, port, _ := net.SplitHostPort(instance)
		w.Header().Set("X-Consul-Index", "1")
		fmt.Fprintf(w, `[{"Service":{"Address":%q,"Port":%s}}]`, host, port)
	}))
	t.Cleanup(consul.Close)
	t.Cleanup(func() { close(changed) })
	set := func(address string, is bool) {
		mu.Lock()
		defer mu.Unlock()
		instance, up = address, is
	}
	address := strings.TrimPrefix(consul.URL, "http://")
	text := func(service, more string) string {
		return "[[upstream]]\nname = \"u/1\"\ndiscover = \"consul://" + address + "/" + service + "\"\n" + more + "[[route]]\nname = \"all\"\npath_prefix = \"/\"\nupstream = \"u/1\"\n"
	}
	run := func(text string) (*Gateway, func() (int, string)) {
		g := New(Options{Dial: dialNet, State: state})
		t.Cleanup(g.Close)
		(&rig{Gateway: g}).apply(t, load(t, text))
		h := g.Handler(Entry{Listener: "web"})
		return g, func() (int, string) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "http://a/x", nil))
			return w.Code, w.Body.String()
		}
	}
	becomes := func(ask func() (int, string), want string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			status, body := ask()
			if status == 200 && strings.HasPrefix(body, want) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d %s, want %s", status, body, want)
			}
		}
	}
	g, ask := run(text("s", ""))
	becomes(ask, "a ")
	if d, _ := g.Discovery("u/1"); !d.LastKnown.IsZero() {
		t.Errorf("%+v", d)
	}
	g.Close()
	if _, err := os.Stat(filepath.Join(state, "endpoints", "u%2F1.json")); err != nil {
		t.Fatal(err)
	}
	set(b, false)
	g, ask = run(text("s", ""))
	if status, body := ask(); status != 200 || !strings.HasPrefix(body, "a ") {
		t.Errorf("while the source is down: %d %s", status, body)
	}
	if d, ok := g.Discovery("u/1"); !ok || d.LastKnown.IsZero() || time.Since(d.LastKnown) > time.Hour {
		t.Errorf("%+v", d)
	}
	set(b, true)
	becomes(ask, "b ")
	if d, _ := g.Discovery("u/1"); !d.LastKnown.IsZero() {
		t.Errorf("after its answer: %+v", d)
	}
	g.Close()
	set(b, false)
	for name, one := range map[string]string{"another service": text("other", ""), "off": text("s", "last_known = \"off\"\n"), "another file": text("s", "last_known = \""+filepath.Join(t.TempDir(), "f")+"\"\n")} {
		g, ask := run(one)
		if status, body := ask(); status != 503 {
			t.Errorf("%s: %d %s", name, status, body)
		}
		g.Close()
	}
}
