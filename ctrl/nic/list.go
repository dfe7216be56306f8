package nic

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/np-appliance/np/ctrl/host"
)

// NIC is a network card, or another interface of the kernel's.
type NIC struct {
	Name       string // the kernel's name; "" while it has none
	Was        string // its name before Bind, "" not bound by it
	PCI        string // "" not on PCI
	Driver     string // of the PCI device, or of the interface; "" none
	ID         string // PCI vendor and device, "8086:10d3"
	NUMANode   int    // -1 none or unknown
	RXQueues   int
	TXQueues   int
	SpeedMbps  int    // -1 unknown
	State      string // "up", "down", "no carrier"; "" while the kernel has no interface of it
	MAC        string
	MTU        int
	IOMMUGroup string // "" none
	Upper      string // the bond or bridge it is a part of
}

// Bypass are the drivers that leave a card to a program.
func Bypass(driver string) bool {
	return driver == "vfio-pci" || driver == "uio_pci_generic" || driver == "igb_uio"
}

const (
	netDir = "sys/class/net"
	pciDir = "sys/bus/pci/devices"
)

// List lists the interfaces that the kernel has and the network cards that it
// left to others, by name and address. State files in dir tell what a bound card was called;
// of those that are wrong [Binder.RestoreExpired] tells.
func List(f host.Files, dir string) ([]NIC, error) {
	names, err := fs.ReadDir(f, netDir)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []NIC
	seen := map[string]bool{}
	for _, e := range names {
		n := kernelNIC(f, e.Name())
		if n.Name == "lo" || n.Name == "bonding_masters" {
			continue
		}
		seen[n.PCI] = n.PCI != ""
		out = append(out, n)
	}
	states, _ := States(dir)
	for _, pci := range host.Names(f, pciDir) {
		if seen[pci] || !strings.HasPrefix(host.Text(f, path.Join(pciDir, pci, "class")), "0x02") {
			continue
		}
		n := NIC{PCI: pci, SpeedMbps: -1}
		n.pci(f)
		if i := slices.IndexFunc(states, func(s State) bool { return s.PCI == pci }); i >= 0 {
			n.Was = states[i].Name
		}
		out = append(out, n)
	}
	return out, nil
}

// Find finds a card by the kernel's name, the name it had before Bind, or its
// PCI address. The error wraps ErrNotFound and names those there are.
func Find(list []NIC, name string) (NIC, error) {
	var known []string
	for _, n := range list {
		if name != "" && (n.Name == name || n.Was == name || n.PCI == name) {
			return n, nil
		}
		known = append(known, n.Label())
	}
	return NIC{}, fmt.Errorf("network card %s: %w (there are: %s)", name, ErrNotFound, strings.Join(known, ", "))
}

// Label is what a person calls the card.
func (n *NIC) Label() string {
	switch {
	case n.Name != "":
		return n.Name
	case n.Was != "":
		return n.Was
	}
	return n.PCI
}

func kernelNIC(f host.Files, name string) NIC {
	dir := path.Join(netDir, name)
	n := NIC{Name: name, NUMANode: -1, SpeedMbps: host.Int(f, dir+"/speed", -1), MAC: host.Text(f, dir+"/address"), MTU: host.Int(f, dir+"/mtu", 0),
		State: "down", Upper: host.LinkBase(f, dir+"/master")}
	if n.SpeedMbps <= 0 {
		n.SpeedMbps = -1
	}
	if host.Int(f, dir+"/flags", 0)&1 != 0 {
		n.State = "no carrier"
		if host.Text(f, dir+"/carrier") == "1" {
			n.State = "up"
		}
	}
	for _, q := range host.Names(f, dir+"/queues") {
		if strings.HasPrefix(q, "rx-") {
			n.RXQueues++
		} else if strings.HasPrefix(q, "tx-") {
			n.TXQueues++
		}
	}
	to, err := fs.ReadLink(f, dir)
	if err != nil {
		to = ""
	}
	if n.PCI = host.PCIAddress(to); n.PCI != "" {
		n.pci(f)
	} else {
		n.Driver = host.LinkBase(f, dir+"/device/driver")
	}
	return n
}

// pci fills in what the PCI device tells.
func (n *NIC) pci(f host.Files) {
	dir := path.Join(pciDir, n.PCI)
	n.Driver = host.LinkBase(f, dir+"/driver")
	n.NUMANode = host.Int(f, dir+"/numa_node", -1)
	n.IOMMUGroup = host.LinkBase(f, dir+"/iommu_group")
	n.ID = strings.TrimPrefix(host.Text(f, dir+"/vendor"), "0x") + ":" + strings.TrimPrefix(host.Text(f, dir+"/device"), "0x")
}
