package ports

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/ctrl/ladder"
	"github.com/np-appliance/np/dataplane"
)

// TestMissing: only what no backend of an interface can do without is an error.
func TestMissing(t *testing.T) {
	for _, tt := range []struct {
		name string
		list []Interface
		have []int
		want string
	}{
		{"no interface", nil, nil, ""},
		{"auto", []Interface{{Backend: ladder.Auto}}, nil, "CAP_NET_RAW"},
		{"auto falls to af_packet", []Interface{{Backend: ladder.Auto}}, []int{unix.CAP_NET_RAW}, ""},
		{"auto that must not fall", []Interface{{Backend: ladder.Auto, Strict: true}}, []int{unix.CAP_NET_RAW}, "CAP_NET_ADMIN,CAP_BPF,CAP_IPC_LOCK"},
		{"older name of CAP_BPF", []Interface{{Backend: ladder.AFXDP, ZeroCopy: dataplane.ZeroCopyMust}}, []int{unix.CAP_NET_RAW, unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_IPC_LOCK}, ""},
		{"tap", []Interface{{Backend: ladder.TAP}}, []int{unix.CAP_NET_RAW}, "CAP_NET_ADMIN"},
		{"device", []Interface{{Backend: ladder.DPDK, Device: "net_ring0", Strict: true}}, nil, ""},
		{"the most of several", []Interface{{Backend: ladder.AFPacket}, {Backend: ladder.TAP}}, nil, "CAP_NET_ADMIN,CAP_NET_RAW"},
	} {
		if got := strings.Join(missing(tt.list, func(c int) bool { return slices.Contains(tt.have, c) }), ","); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}
