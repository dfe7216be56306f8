package stack

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/ctrl/ports/portstest"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/fake"
)

func TestQuantile(t *testing.T) {
	l := Latency{counts: make([]uint64, 1152), max: 900 * time.Microsecond}
	if got := l.Quantile(0.5); got != 0 {
		t.Errorf("of nothing: %s", got)
	}
	l.counts[10], l.counts[40], l.counts[500] = 50, 49, 1
	for _, c := range []struct {
		q    float64
		want time.Duration
	}{{0.5, 10}, {0.51, 40}, {0.99, 40}, {1, l.max}} {
		got := l.Quantile(c.q)
		if c.q == 1 {
			// the last bucket's end, or the maximum where that is less
			if end := dataplane.LoadLatency(501) - 1; got != min(end, l.max) {
				t.Errorf("quantile 1: %s, want %s", got, min(end, l.max))
			}
			continue
		}
		if got != c.want {
			t.Errorf("quantile %g: %d ns, want %d", c.q, got, c.want)
		}
	}
}

func options() Options {
	return Options{Interface: ports.Interface{Name: "np0", Addresses: []netip.Prefix{netip.MustParsePrefix("198.18.0.2/24")}, Backend: "af_xdp"},
		Target: netip.MustParseAddrPort("198.18.0.1:7"), Mode: dataplane.LoadEcho, Conns: 1, Size: 64, Depth: 1, Duration: time.Second, CPU: -1,
		System: portstest.New("np0"), Log: slog.New(slog.DiscardHandler),
		NewPlane: func(*dataplane.Config) (dataplane.Plane, error) { return fake.New(fake.Options{}), nil }}
}

// What cannot work is refused before anything is taken.
func TestRefused(t *testing.T) {
	o := options()
	if _, err := Run(context.Background(), o); !errors.Is(err, dataplane.CodeUnsupported) {
		t.Errorf("a plane without a generator: %v", err)
	}
	o.Target = netip.MustParseAddrPort("[2001:db8::1]:7")
	if _, err := Run(context.Background(), o); err == nil || !strings.Contains(err.Error(), "family") {
		t.Errorf("another family: %v", err)
	}
	o = options()
	o.Duration = 0
	if _, err := Run(context.Background(), o); err == nil || !strings.Contains(err.Error(), "duration") {
		t.Errorf("no duration: %v", err)
	}
	o = options()
	o.Interface.Name = "np7"
	if _, err := Run(context.Background(), o); !errors.Is(err, dataplane.CodeNodev) {
		t.Errorf("no interface: %v", err)
	}
}
