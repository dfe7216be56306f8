package servertest

import (
	"context"
	"errors"
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
	return l.Addr().String(), StartOn(t, s, l, patience)
}

// StartOn serves on a listener.
func StartOn(t testing.TB, s *server.Server, l net.Listener, patience time.Duration) (stop func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), max(patience, time.Second))
		defer cancel()
		if err := s.Shutdown(ctx); err != nil && patience > 0 {
			t.Error(err)
		}
		if err := <-done; err != nil && !errors.Is(err, server.ErrClosed) { // the test may be over before it begins
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}
