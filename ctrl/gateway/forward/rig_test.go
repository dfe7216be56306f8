package forward

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/upstream"
)

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// cluster makes one of endpoints at the given addresses.
func cluster(t testing.TB, change func(*upstream.Config, *Config), addresses ...string) *Cluster {
	t.Helper()
	uc := upstream.Config{Name: "api"}
	cc := Config{Dial: dial}
	if change != nil {
		change(&uc, &cc)
	}
	up, err := upstream.New(uc)
	if err != nil {
		t.Fatal(err)
	}
	specs := make([]upstream.Spec, len(addresses))
	for i, a := range addresses {
		specs[i].Address = a
	}
	if err := up.Set(specs); err != nil {
		t.Fatal(err)
	}
	cc.Upstream = up
	c, err := NewCluster(cc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		c.Close(ctx)
		if n := up.Snapshot().InFlight; n != 0 {
			t.Errorf("%d requests in flight at the end", n)
		}
		for _, e := range up.Snapshot().Endpoints {
			if e.Conns != 0 {
				t.Errorf("%s: %d connections at the end", e.Address, e.Conns)
			}
		}
	})
	return c
}

func handler(t testing.TB, o Options) *Handler {
	t.Helper()
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		h.Close(ctx)
	})
	return h
}

// enter is the gateway's entry handler, as far as forwarding needs it. seen, if not nil,
// gets the exchange at its end. The test waits for its requests, once its server is closed,
// since those of upgraded connections are not waited for by net/http: all is to be
// accounted for when the last has returned.
func enter(t testing.TB, h http.Handler, seen chan<- *exchange.Exchange) http.Handler {
	var under sync.WaitGroup
	t.Cleanup(under.Wait)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		under.Add(1)
		defer under.Done()
		x := &exchange.Exchange{ID: "id-1", Start: time.Now()}
		x.Peer, _ = netip.ParseAddrPort(r.RemoteAddr) // invalid on a Unix socket
		x.Client = x.Peer
		defer func() {
			if seen != nil {
				select {
				case seen <- x:
				default:
					t.Errorf("%s %s: a request that the test does not wait for", r.Method, r.URL)
				}
			}
		}()
		h.ServeHTTP(w, r.WithContext(exchange.With(r.Context(), x)))
	})
}

func backend(t testing.TB, f http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// front starts a gateway of one route.
func front(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(enter(t, h, nil))
	t.Cleanup(s.Close)
	return s
}
