package mgmt

import (
	"testing"

	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/dataplane"
)

// TestCaptureOn: a device's name takes all its VLANs, a VLAN's only its frames.
func TestCaptureOn(t *testing.T) {
	list := []ports.Status{
		{Config: ports.Interface{Name: "np0"}, ID: 3, Port: 3, Added: true},
		{Config: ports.Interface{Name: "np0", VLAN: 100}, ID: 4, Port: 3, Added: true, Shared: true},
		{Config: ports.Interface{Name: "np1", VLAN: 7}, ID: 5, Port: 5, Added: true},
		{Config: ports.Interface{Name: "np2"}, ID: 0},
	}
	for _, tt := range []struct {
		name, filter string
		found        bool
		port         int
		want         string
	}{
		{"np0", "tcp", true, 3, "tcp"},
		{"np0.100", "", true, 3, "vlan 100"},
		{"np0.100", "tcp or udp", true, 3, "vlan 100 and (tcp or udp)"},
		{"np1", "", true, 5, ""},
		{"np1.7", "arp", true, 5, "vlan 7 and (arp)"},
		{"np2", "", false, -1, ""},
		{"np0.7", "", false, -1, ""},
	} {
		cfg := &dataplane.CaptureConfig{Interface: -1, Filter: tt.filter}
		if got := captureOn(cfg, list, tt.name); got != tt.found || cfg.Interface != tt.port || cfg.Filter != tt.want {
			t.Errorf("%s: %v, port %d, filter %q", tt.name, got, cfg.Interface, cfg.Filter)
		}
	}
}
