package daemon

import (
	"fmt"
	"slices"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/host"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
	"github.com/np-appliance/np/hugepages"
)

// placeCores chooses the CPUs of the cores, and says what is slow about them.
func (d *Daemon) placeCores(c *config.Config, pc *dataplane.Config) error {
	if d.o.Files == nil {
		return nil
	}
	// A count takes what npd itself was given. A list says what the cores get, and npd may have been
	// started on other CPUs on purpose, to leave these alone: a core's thread is bound by itself.
	usable, err := host.UsableCPUs(d.o.Files)
	if !c.Dataplane.Cores.Counted() && err == nil {
		usable, err = host.OnlineCPUs(d.o.Files)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.Pos("dataplane.cores"), err)
	}
	pc.CPUs, err = c.Dataplane.Cores.Place(usable)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Pos("dataplane.cores"), err)
	}
	cpus := slices.Compact(slices.Sorted(slices.Values(pc.CPUs)))
	if len(cpus) < len(pc.CPUs) {
		d.o.Log.Warn(fmt.Sprintf("%d cores on %d CPUs: they take turns, a busy core yields after each turn", len(pc.CPUs), len(cpus)),
			"cpus", config.CPUList(cpus), "cure", fmt.Sprintf("set [dataplane] cores to %d or fewer", len(cpus)))
	}
	return nil
}

// farCards warns of network cards whose packets cross between NUMA nodes.
func (d *Daemon) farCards(pc *dataplane.Config, cards map[string]xdp.Interface) {
	if d.o.Files == nil {
		return
	}
	var nodes []int
	for _, cpu := range pc.CPUs {
		if n := hugepages.NodeOf(d.o.Files, cpu); n != hugepages.NoNode && !slices.Contains(nodes, n) {
			nodes = append(nodes, n)
		}
	}
	slices.Sort(nodes)
	for name, card := range cards {
		if len(nodes) == 0 || card.NUMANode < 0 || len(nodes) == 1 && nodes[0] == card.NUMANode {
			continue
		}
		d.o.Log.Warn("packets cross between NUMA nodes", "interface", name, "node", card.NUMANode, "cores_on_nodes", nodes,
			"cure", fmt.Sprintf("set [dataplane] cores to some of %s", host.Text(d.o.Files, fmt.Sprintf("sys/devices/system/node/node%d/cpulist", card.NUMANode))))
	}
}
