package ports

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/ctrl/ladder"
	"github.com/np-appliance/np/dataplane"
)

// CheckPrivileges tells, before anything is touched, which capabilities are missing
// without which some interface could run on no backend. What a better backend lacks is
// the ladder's to say. The error wraps dataplane.CodePerm.
func CheckPrivileges(list []Interface) error {
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	missing := missing(list, func(c int) bool { return data[c/32].Effective&(1<<(c%32)) != 0 })
	if len(missing) == 0 {
		return nil
	}
	exe, err := os.Executable()
	if err != nil {
		exe = "npd"
	}
	return fmt.Errorf("%w: needs %s (run as root, or: setcap cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock+ep %s)",
		dataplane.CodePerm, strings.Join(missing, ", "), exe)
}

// missing lists the capabilities that some interface cannot do without.
func missing(list []Interface, have func(int) bool) []string {
	need := map[int]bool{}
	for i := range list {
		switch it := &list[i]; {
		case it.Backend == ladder.TAP:
			need[unix.CAP_NET_ADMIN] = true
		case it.Device != "":
			// Which driver needs what is DPDK's to say.
		case it.Backend == ladder.AFPacket:
			need[unix.CAP_NET_RAW] = true
		case it.Strict || it.ZeroCopy == dataplane.ZeroCopyMust:
			need[unix.CAP_NET_ADMIN], need[unix.CAP_NET_RAW], need[unix.CAP_IPC_LOCK] = true, true, true
			need[unix.CAP_BPF] = !have(unix.CAP_SYS_ADMIN)
		default: // AF_PACKET, at least
			need[unix.CAP_NET_RAW] = true
		}
	}
	var out []string
	for _, c := range [...]struct {
		n    int
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}, {unix.CAP_BPF, "CAP_BPF"}, {unix.CAP_IPC_LOCK, "CAP_IPC_LOCK"}} {
		if need[c.n] && !have(c.n) {
			out = append(out, c.name)
		}
	}
	return out
}
