package grpchealth

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/np-appliance/np/ctrl/secure"
	"github.com/np-appliance/np/ctrl/upstream"
)

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve runs grpc-go's server with its health service, or without one.
func serve(t *testing.T, l net.Listener, h *health.Server, opts ...grpc.ServerOption) string {
	t.Helper()
	s := grpc.NewServer(opts...)
	if h != nil {
		grpc_health_v1.RegisterHealthServer(s, h)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

// certificate returns a server's side and the CA's PEM.
func certificate(t *testing.T, now time.Time) (credentials.TransportCredentials, []byte) {
	t.Helper()
	g, err := secure.Generate(secure.Request{Names: []string{"health.test"}, Valid: time.Hour, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(g.Cert, g.Key)
	if err != nil {
		t.Fatal(err)
	}
	return credentials.NewServerTLSFromCert(&pair), g.CA
}

func client(t *testing.T, name string, ca []byte) *tls.Config {
	t.Helper()
	c := secure.Client{ServerName: name, CA: ca}
	conf, err := c.Config()
	if err != nil {
		t.Fatal(err)
	}
	return conf
}

// TestCheck asks grpc-go's own servers, over each way to reach them.
func TestCheck(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("servers", testServers)
	for end := time.Now().Add(time.Minute); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func testServers(t *testing.T) {
	h := health.NewServer()
	h.SetServingStatus("api", grpc_health_v1.HealthCheckResponse_SERVING)
	h.SetServingStatus("broken", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	plain := serve(t, listen(t, "tcp", "127.0.0.1:0"), h)
	socket := serve(t, listen(t, "unix", filepath.Join(t.TempDir(), "s")), h)
	bare := serve(t, listen(t, "tcp", "127.0.0.1:0"), nil)
	creds, ca := certificate(t, time.Now())
	secured := serve(t, listen(t, "tcp", "127.0.0.1:0"), h, grpc.Creds(creds))
	oldCreds, oldCA := certificate(t, time.Now().Add(-2*time.Hour))
	expired := serve(t, listen(t, "tcp", "127.0.0.1:0"), h, grpc.Creds(oldCreds))
	garbage := listen(t, "tcp", "127.0.0.1:0")
	answerGarbage(t, garbage)
	silent := listen(t, "tcp", "127.0.0.1:0").Addr().String() // accepts, by its backlog, and says nothing
	closed := listen(t, "tcp", "127.0.0.1:0")
	closed.Close()
	for _, c := range []struct {
		name, address string
		Checker
		want string // "": well
	}{
		{"plain", plain, Checker{}, ""},
		{"service", plain, Checker{Service: "api"}, ""},
		{"authority", plain, Checker{Service: "api", Authority: "api.test"}, ""},
		{"unix", "unix:" + socket, Checker{}, ""},
		{"tls", secured, Checker{TLS: client(t, "health.test", ca)}, ""},
		{"not serving", plain, Checker{Service: "broken"}, `health of service "broken" is NOT_SERVING: expected SERVING`},
		{"unknown", plain, Checker{Service: "other"}, `does not know service "other"`},
		{"no health", bare, Checker{}, "the server has no health service"},
		{"other name", secured, Checker{TLS: client(t, "other.test", ca)}, "valid for health.test, not other.test"},
		{"other authority", secured, Checker{TLS: client(t, "health.test", oldCA)}, "unknown authority"},
		{"expired", expired, Checker{TLS: client(t, "health.test", oldCA)}, "expired"},
		{"plain to TLS", secured, Checker{}, "Unavailable: "},
		{"TLS to plain", plain, Checker{TLS: client(t, "health.test", ca)}, "Unavailable: "},
		{"garbage", garbage.Addr().String(), Checker{}, "Unavailable: "},
		{"closed", closed.Addr().String(), Checker{}, "connection refused"},
		{"silent", silent, Checker{}, "deadline exceeded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := 5 * time.Second
			if c.name == "silent" {
				d = 50 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			c.Dial = (&net.Dialer{}).DialContext
			var checker upstream.Checker = &c.Checker
			err := checker.Check(ctx, c.address)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func answerGarbage(t *testing.T, l net.Listener) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			io.WriteString(c, strings.Repeat("garbage ", 10_000))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}
