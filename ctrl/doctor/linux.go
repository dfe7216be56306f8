package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// Linux is the machine we run on.
type Linux struct{}

// AFXDP implements [Probes].
func (Linux) AFXDP() error {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("the kernel has no AF_XDP: %w", err)
	}
	if err != nil {
		return fmt.Errorf("open an AF_XDP socket: %w", err)
	}
	return unix.Close(fd)
}

// XDP implements [Probes].
func (Linux) XDP() error {
	if err := features.HaveProgramType(ebpf.XDP); err != nil {
		return fmt.Errorf("load an XDP program: %w", err)
	}
	return nil
}

// IOUring implements [Probes]. The call has no parameters to read: the kernel
// looks at its policy first and only then for them.
func (Linux) IOUring() error {
	_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 2, 0, 0)
	if errno == unix.EFAULT {
		return nil
	}
	return fmt.Errorf("make a ring: %w", errno)
}

// Channels implements [Probes]: what the kernel made the device for. Those in use are in
// /sys.
func (Linux) Channels(name string) (now, most int) {
	rib, err := syscall.NetlinkRIB(syscall.RTM_GETLINK, syscall.AF_UNSPEC)
	if err != nil {
		return 0, 0
	}
	msgs, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return 0, 0
	}
	for i := range msgs {
		attrs, err := syscall.ParseNetlinkRouteAttr(&msgs[i])
		if err != nil {
			continue
		}
		is, n := false, 0
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.IFLA_IFNAME:
				is = unix.ByteSliceToString(a.Value) == name
			case unix.IFLA_NUM_RX_QUEUES:
				if len(a.Value) == 4 {
					n = int(binary.NativeEndian.Uint32(a.Value))
				}
			}
		}
		if is {
			return 0, n
		}
	}
	return 0, 0
}

// Addresses implements [Probes].
func (Linux) Addresses(name string) []string {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil
	}
	list, err := i.Addrs()
	if err != nil {
		return nil
	}
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

// LoadModule implements [Probes].
func (Linux) LoadModule(name string) error {
	out, err := exec.Command("modprobe", name).CombinedOutput()
	if err != nil {
		return fmt.Errorf("modprobe %s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
