package gateway

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// peer finds a server or client of others; without it the test is skipped, or fails where
// NP_PEERS says that it is there.
func peer(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../build/peers", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("NP_PEERS") != "" {
			t.Fatalf("NP_PEERS is set: %v", err)
		}
		t.Skipf("%v: run make peers PEERS=%s", err, name)
	}
	return path
}

// TestInteropGRPC runs grpc-go's interop cases, its client to its server, through the
// gateway as it stands: server, route, stages and forwarding over h2c.
func TestInteropGRPC(t *testing.T) {
	program := peer(t, "grpcinterop")
	ctx, cancel := context.WithCancel(context.Background())
	server := exec.CommandContext(ctx, program, "serve")
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = server.Wait() // killed
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, upstreamOf("grpc", strings.TrimSpace(address))+`protocol = "h2c"
[[route]]
name = "grpc"
grpc_service = "grpc.testing.TestService"
upstream = "grpc"
grpc.max_timeout = "5m"
[[route]]
name = "none"
grpc_service = "grpc.testing.UnimplementedService"
upstream = "grpc"
`)
	list, err := exec.CommandContext(ctx, program, "cases").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(list)) {
		t.Run(name, func(t *testing.T) {
			limit, cancel := context.WithTimeout(ctx, 2*time.Minute)
			defer cancel()
			if out, err := exec.CommandContext(limit, program, "run", strings.TrimPrefix(r.url, "http://"), name).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
