package xdp

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/dataplane"
)

// Interface is what set-up needs to know of a network interface.
type Interface struct {
	Name     string
	Index    int
	MAC      net.HardwareAddr
	MTU      int
	RXQueues int
	Driver   string // "" unknown
	PCI      string // address of the device behind it, "" not on PCI
	NUMANode int    // -1 unknown or none
	Up       bool   // administratively up
	Carrier  bool   // link is there
}

// Inspect reads an interface of the calling thread's network namespace. The
// error wraps dataplane.CodeNodev when there is none of that name, and names
// those there are.
func Inspect(name string) (Interface, error) {
	links, err := dump()
	if err != nil {
		return Interface{}, fmt.Errorf("inspect interface %s: %w", name, err)
	}
	at := slices.IndexFunc(links, func(l Link) bool { return l.Name == name })
	if at < 0 {
		var names []string
		for _, l := range links {
			names = append(names, l.Name)
		}
		return Interface{}, fmt.Errorf("interface %s: %w (there are: %s)", name, dataplane.CodeNodev, strings.Join(names, ", "))
	}
	l := links[at]
	i := Interface{Name: name, Index: l.Index, MAC: l.MAC, MTU: l.MTU, RXQueues: l.rxQueues, NUMANode: -1, Up: l.Up, Carrier: l.Carrier}
	i.Driver = driver(name)
	// The kernel tells the queues in use only by sysfs and ethtool; netlink
	// tells those the device was made with. sysfs may show another namespace.
	dir := filepath.Join("/sys/class/net", name)
	if sysfsNumber(dir, "ifindex", 0) == l.Index {
		if q, err := filepath.Glob(filepath.Join(dir, "queues", "rx-*")); err == nil && len(q) > 0 {
			i.RXQueues = len(q)
		}
		i.NUMANode = sysfsNumber(dir, "device/numa_node", -1)
		i.PCI = pciAddress(dir)
	}
	return i, nil
}

// pciAddress reads where the device of an interface is: "0000:00:04.0". A virtio
// device has one of its own between.
func pciAddress(dir string) string {
	path, err := filepath.EvalSymlinks(filepath.Join(dir, "device"))
	for range 2 {
		if err != nil {
			return ""
		}
		name := filepath.Base(path)
		if len(name) == len("0000:00:04.0") && name[4] == ':' && name[7] == ':' && name[10] == '.' {
			return name
		}
		path = filepath.Dir(path)
	}
	return ""
}

func sysfsNumber(dir, file string, otherwise int) int {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return otherwise
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return otherwise
	}
	return n
}

// driver asks ethtool; "" when it does not know.
func driver(name string) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.Driver[:])
}

// Link is the state of an interface as Watch reports it.
type Link struct {
	Name    string
	Index   int
	MAC     net.HardwareAddr
	MTU     int
	Present bool // false: the interface is gone
	Up      bool
	Carrier bool

	rxQueues int
}

// dump lists the interfaces there are.
func dump() ([]Link, error) {
	rib, err := syscall.NetlinkRIB(syscall.RTM_GETLINK, syscall.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return parseLinks(rib)
}

// parseLinks reads the link messages of a netlink answer.
func parseLinks(b []byte) ([]Link, error) {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil, fmt.Errorf("netlink message: %w", err)
	}
	var out []Link
	for i := range msgs {
		if l, ok := parseLink(&msgs[i]); ok {
			out = append(out, l)
		}
	}
	return out, nil
}

// parseLink reads struct ifinfomsg and the attributes behind it.
func parseLink(m *syscall.NetlinkMessage) (Link, bool) {
	t := m.Header.Type
	if t != syscall.RTM_NEWLINK && t != syscall.RTM_DELLINK || len(m.Data) < syscall.SizeofIfInfomsg {
		return Link{}, false
	}
	// A bridge says that a port left it with RTM_DELLINK of its own family.
	if m.Data[0] != syscall.AF_UNSPEC {
		return Link{}, false
	}
	flags := binary.NativeEndian.Uint32(m.Data[8:])
	l := Link{
		Index:   int(int32(binary.NativeEndian.Uint32(m.Data[4:]))),
		Present: t == syscall.RTM_NEWLINK,
		Up:      flags&syscall.IFF_UP != 0,
		Carrier: flags&syscall.IFF_RUNNING != 0,
	}
	if !l.Present { // the flags are those from before
		l.Up, l.Carrier = false, false
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return Link{}, false
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			l.Name = unix.ByteSliceToString(a.Value)
		case unix.IFLA_ADDRESS:
			l.MAC = slices.Clone(a.Value)
		case unix.IFLA_MTU:
			l.MTU = int(attrU32(a.Value))
		case unix.IFLA_NUM_RX_QUEUES:
			l.rxQueues = int(attrU32(a.Value))
		}
	}
	return l, l.Name != ""
}

func attrU32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}
