package doctor

import (
	"fmt"
	"slices"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/host"
	"github.com/np-appliance/np/ctrl/nic"
)

// Level is how bad a result is.
type Level uint8

// Levels.
const (
	OK   Level = iota
	Warn       // it runs, not as well as it could
	Fail       // what the configuration asks for will not run
)

// String returns ok, warn or fail.
func (l Level) String() string {
	switch l {
	case OK:
		return "ok"
	case Warn:
		return "warn"
	case Fail:
		return "fail"
	}
	return fmt.Sprintf("Level(%d)", uint8(l))
}

// Result is what one check says of one thing.
type Result struct {
	Check string // "hugepages"
	On    string // "node 0", "np0"; "" the machine
	Level Level
	Found string
	Cost  string // "" nothing
	Cure  string // the command, "" none helps
	Fix   *Fix   // nil: not one that doctor does itself
}

// Fix is a cure that is safe and can be taken back.
type Fix struct {
	What string // "reserve 64 huge pages on node 0"
	Back string // the command that takes it back
	Do   func() error
}

// Probes are what must be tried, or asked of the kernel by other means than files.
type Probes interface {
	// AFXDP opens an AF_XDP socket and closes it.
	AFXDP() error
	// XDP asks whether the kernel takes XDP programs.
	XDP() error
	// IOUring sets up a ring and closes it.
	IOUring() error
	// Channels are the queues a driver has and could have, by ethtool; 0 unknown.
	Channels(name string) (now, most int)
	// Addresses are the kernel's own on an interface.
	Addresses(name string) []string
	// LoadModule loads a kernel module.
	LoadModule(name string) error
}

// Machine is what is looked at.
type Machine struct {
	Files    host.Files
	Probes   Probes
	NICState string // folder of state files of bound cards

	File   string // of the configuration, "" none was found
	Config *config.Config
	// Errors are what is wrong with the configuration; Config has defaults then.
	Errors []string

	nics []nic.NIC
}

// Run makes every check, in order.
func Run(m *Machine) []Result {
	var out []Result
	list, err := nic.List(m.Files, m.NICState)
	if err != nil {
		out = append(out, Result{Check: "interfaces", Level: Fail, Found: err.Error(), Cost: "interfaces can't be checked"})
	}
	m.nics = list
	for _, check := range [...]func(*Machine) []Result{
		(*Machine).configuration, (*Machine).kernel, (*Machine).capabilities, (*Machine).memlock, (*Machine).files,
		(*Machine).bpf, (*Machine).afxdp, (*Machine).ioUring, (*Machine).hugepages, (*Machine).iommu,
		(*Machine).interfaces, (*Machine).cpus, (*Machine).numa, (*Machine).crypto, (*Machine).rdma,
	} {
		out = append(out, check(m)...)
	}
	return out
}

// Count counts the results of a level.
func Count(list []Result, l Level) int {
	n := 0
	for i := range list {
		if list[i].Level == l {
			n++
		}
	}
	return n
}

func one(r Result) []Result { return []Result{r} }

// uses says whether an interface of the configuration may be on a backend.
func (m *Machine) uses(words ...string) bool {
	for i := range m.Config.Interfaces {
		it := &m.Config.Interfaces[i]
		switch b := m.Config.InterfaceBackend(it); {
		case slices.Contains(words, b):
			return true
		case b == "auto" && (slices.Contains(words, "af_xdp") || slices.Contains(words, "af_packet") || it.Device != "" && slices.Contains(words, "dpdk")):
			return true
		}
	}
	return false
}

// either chooses a level.
func either(cond bool, yes, no Level) Level {
	if cond {
		return yes
	}
	return no
}
