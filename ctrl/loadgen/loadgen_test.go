package loadgen

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/client/clienttest"
	"github.com/np-appliance/np/ctrl/handshake"
)

func server(t *testing.T, change func(*clienttest.Server)) client.Config {
	t.Helper()
	srv, pub, err := clienttest.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(srv)
	}
	addr, err := srv.Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	return client.Config{Address: addr, Pattern: handshake.PatternNX, Remote: &pub}
}

func TestClosedLoopCountsAndEnds(t *testing.T) {
	cfg := Config{Client: server(t, nil), Conns: 3, Depth: 4, Size: 100, Verify: true, Requests: 2000}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	res, err := Run(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if res.Done < 2000 || res.Done > 2000+3*4 || len(res.Errors) != 0 || res.Connected != 3 {
		t.Errorf("%d done on %d connections, errors %v", res.Done, res.Connected, res.Errors)
	}
	if res.Latency.ValueAtQuantile(50) <= 0 || res.Bytes != res.Done*100 {
		t.Errorf("median %d ns, %d bytes", res.Latency.ValueAtQuantile(50), res.Bytes)
	}
}

// A server that stalls once cannot hide it from the open loop: everything that should have left meanwhile counts its wait.
func TestOpenLoopSeesAStall(t *testing.T) {
	stalled := false
	cfg := Config{Client: server(t, func(s *clienttest.Server) {
		s.Handle = func(_ *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
			if !stalled {
				stalled = true
				time.Sleep(300 * time.Millisecond)
			}
			return clienttest.Reply{Payload: r.Payload}, true
		}
	}), Rate: 500, Size: 32, Verify: true, Duration: time.Second}
	res, err := Run(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	// a closed loop would have one slow request; here a quarter of the run waited
	slow := int64(0)
	for _, b := range res.Latency.Distribution() {
		if b.From > int64(20*time.Millisecond) {
			slow += b.Count
		}
	}
	if slow < 50 {
		t.Errorf("%d of %d requests saw the stall, want at least 50", slow, res.Done)
	}
	if res.Done > 510 {
		t.Errorf("%d requests in a second at 500/s", res.Done)
	}
}

func TestMismatchIsAnError(t *testing.T) {
	cfg := Config{Client: server(t, func(s *clienttest.Server) {
		s.Handle = func(*clienttest.Conn, *clienttest.Request) (clienttest.Reply, bool) {
			return clienttest.Reply{Payload: []byte("something else")}, true
		}
	}), Verify: true, Duration: 100 * time.Millisecond}
	res, err := Run(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if res.Errors[errMismatch.Error()] == 0 || res.Done != 0 {
		t.Errorf("done %d, errors %v", res.Done, res.Errors)
	}
}

func TestNoServer(t *testing.T) {
	cfg := Config{Client: server(t, nil)}
	cfg.Client.Address = "127.0.0.1:1"
	if _, err := Run(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v, want connection refused", err)
	}
}

func TestBadConfig(t *testing.T) {
	for _, c := range []Config{{Conns: -1}, {Conns: 1 << 20}, {Depth: 5000}, {Size: 32 << 20}, {Rate: -1}, {Duration: -1}} {
		if _, err := Run(context.Background(), c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}
