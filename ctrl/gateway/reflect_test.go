package gateway

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
)

// TestReflectedReload: a route whose descriptors come from its upstream has them after a
// reload from the first request on.
func TestReflectedReload(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	reflection.Register(s)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	text := upstreamOf("grpc", l.Addr().String()) + `protocol = "h2c"
[[route]]
name = "json"
path_prefix = "/"
upstream = "grpc"
grpc.descriptors = "reflection"
grpc.auto_bind = true
`
	r := newRig(t, text)
	ask := func() (int, string) {
		t.Helper()
		res, err := r.client.Post(r.url+"/grpc.health.v1.Health/Check", "application/json", strings.NewReader(`{"service":""}`))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		status, body := ask()
		if status == http.StatusOK && body == `{"status":"SERVING"}` {
			break
		}
		if status != http.StatusServiceUnavailable || time.Now().After(deadline) {
			t.Fatalf("%d, %s", status, body)
		}
	}
	for range 10 {
		r.apply(t, load(t, text))
		if status, body := ask(); status != http.StatusOK {
			t.Fatalf("after a reload: %d, %s", status, body)
		}
	}
}
