package servertest

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/server"
)

// Start serves on a port of loopback and returns its address. stop ends it in good order
// and says what went wrong; without patience connections that are left then are cut. It is
// called when the test ends, if it wasn't before.
func Start(t testing.TB, s *server.Server, patience time.Duration) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), max(patience, time.Second))
		defer cancel()
		if err := s.Shutdown(ctx); err != nil && patience > 0 {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}
