package rdma

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"strconv"
	"strings"
)

// Device is an RDMA device as the kernel shows it.
type Device struct {
	Name     string // "mlx5_0", "rxe0"
	NodeGUID string
	Firmware string
	Ports    []Port
}

// Port is one port of a device.
type Port struct {
	Number    int
	State     string // "ACTIVE", "DOWN", ...
	Physical  string // "LinkUp", ...
	LinkLayer string // "Ethernet", "InfiniBand"
	Rate      string // "100 Gb/sec (4X EDR)"
	GIDs      []GID
}

// Active says whether connections can go by it.
func (p *Port) Active() bool { return p.State == "ACTIVE" }

// GID is an address that a port has in the fabric.
type GID struct {
	Index   int
	Address netip.Addr // IPv4 addresses are unmapped
	Type    string     // "RoCE v2", "IB/RoCE v1"
	Netdev  string     // network interface it comes from, "" none
}

// gidsMax bounds a port's table, which is mostly empty on most devices.
const gidsMax = 1024

// Devices lists the RDMA devices of this host. None, without an error, where the kernel has no RDMA.
func Devices() ([]Device, error) { return devices(os.DirFS("/sys/class/infiniband")) }

func devices(fsys fs.FS) ([]Device, error) {
	names, err := fs.ReadDir(fsys, ".")
	if err != nil {
		if os.IsNotExist(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("list RDMA devices: %w", err)
	}
	var out []Device
	for _, n := range names {
		d := Device{Name: n.Name(), NodeGUID: text(fsys, n.Name(), "node_guid"), Firmware: text(fsys, n.Name(), "fw_ver")}
		ports, err := fs.ReadDir(fsys, path.Join(n.Name(), "ports"))
		if err != nil {
			continue // it went away meanwhile
		}
		for _, p := range ports {
			if number, err := strconv.Atoi(p.Name()); err == nil {
				d.Ports = append(d.Ports, port(fsys, path.Join(n.Name(), "ports", p.Name()), number))
			}
		}
		out = append(out, d)
	}
	return out, nil
}

func port(fsys fs.FS, dir string, number int) Port {
	p := Port{Number: number, State: after(text(fsys, dir, "state")), Physical: after(text(fsys, dir, "phys_state")),
		LinkLayer: text(fsys, dir, "link_layer"), Rate: text(fsys, dir, "rate")}
	for i := range gidsMax {
		raw, err := fs.ReadFile(fsys, path.Join(dir, "gids", strconv.Itoa(i)))
		if err != nil {
			break
		}
		a, err := netip.ParseAddr(strings.TrimSpace(string(raw)))
		if err != nil || a.IsUnspecified() {
			continue
		}
		p.GIDs = append(p.GIDs, GID{Index: i, Address: a.Unmap(), Type: text(fsys, dir, "gid_attrs/types/"+strconv.Itoa(i)),
			Netdev: text(fsys, dir, "gid_attrs/ndevs/"+strconv.Itoa(i))})
	}
	return p
}

// text reads a short file; "" when it is not to be had.
func text(fsys fs.FS, dir, name string) string {
	b, err := fs.ReadFile(fsys, path.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// after drops the number in "4: ACTIVE".
func after(s string) string {
	if _, name, ok := strings.Cut(s, ": "); ok {
		return name
	}
	return s
}

// Local is the address by which to listen and dial so that a device's GID of that index is used.
func Local(list []Device, device string, port, index int) (netip.Addr, error) {
	for _, d := range list {
		if d.Name != device {
			continue
		}
		for _, p := range d.Ports {
			for _, g := range p.GIDs {
				if p.Number != port || g.Index != index {
					continue
				}
				if g.Address.Is6() && g.Address.IsLinkLocalUnicast() {
					return netip.Addr{}, fmt.Errorf("RDMA device %s: GID %d is link-local (%s): choose one of an IP address", device, index, g.Address)
				}
				return g.Address, nil
			}
		}
		return netip.Addr{}, fmt.Errorf("RDMA device %s has no GID %d on port %d", device, index, port)
	}
	return netip.Addr{}, fmt.Errorf("there is no RDMA device %s", device)
}
