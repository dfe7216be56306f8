package ports

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/dataplane"
)

// CheckPrivileges tells, before anything is touched, which capabilities are
// missing. The error wraps dataplane.CodePerm.
func CheckPrivileges() error {
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	have := func(c int) bool { return data[c/32].Effective&(1<<(c%32)) != 0 }
	if have(unix.CAP_NET_ADMIN) && have(unix.CAP_NET_RAW) && have(unix.CAP_IPC_LOCK) && (have(unix.CAP_BPF) || have(unix.CAP_SYS_ADMIN)) {
		return nil
	}
	var missing []string
	for _, c := range [...]struct {
		n    int
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}, {unix.CAP_BPF, "CAP_BPF"}, {unix.CAP_IPC_LOCK, "CAP_IPC_LOCK"}} {
		if !have(c.n) {
			missing = append(missing, c.name)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		exe = "npd"
	}
	return fmt.Errorf("%w: needs %s (run as root, or: setcap cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock+ep %s)",
		dataplane.CodePerm, strings.Join(missing, ", "), exe)
}
