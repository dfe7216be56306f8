package doctor

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/host"
	"github.com/np-appliance/np/ctrl/nic"
	"github.com/np-appliance/np/hugepages"
)

// zeroCopyDrivers have AF_XDP zero-copy in the mainline kernel, from a version on.
var zeroCopyDrivers = [...]struct {
	driver       string
	major, minor int
}{{"i40e", 4, 20}, {"ixgbe", 4, 20}, {"mlx5_core", 5, 3}, {"ice", 5, 5}, {"stmmac", 5, 13}, {"igc", 5, 14}, {"nfp", 5, 18}, {"tsnep", 6, 4}, {"virtio-pci", 6, 11}, {"igb", 6, 14}, {"gve", 6, 16}}

// mtuOneFrame: above, a frame takes several buffers, and the XDP program must be of the
// kind that knows it.
const mtuOneFrame = 3506

func (m *Machine) nic(name string) *nic.NIC {
	if n, err := nic.Find(m.nics, name); err == nil {
		return &n
	}
	return nil
}

func (m *Machine) iommu() []Result {
	const check = "iommu"
	var needs []string
	for i := range m.Config.Interfaces {
		it := &m.Config.Interfaces[i]
		if host.IsPCIAddress(it.Device) {
			needs = append(needs, it.Label())
		}
	}
	groups := len(host.Names(m.Files, "sys/kernel/iommu_groups"))
	r := Result{Check: check, Found: fmt.Sprintf("%d groups", groups)}
	unsafe := host.Text(m.Files, "sys/module/vfio/parameters/enable_unsafe_noiommu_mode") == "Y"
	if groups == 0 {
		r.Found = "none in use"
		switch {
		case unsafe:
			r.Level, r.Found, r.Cost = Warn, "none in use, vfio works without", "a card bound to vfio-pci can write anywhere in memory"
		case len(needs) == 0:
			r.Found += "; only cards given to DPDK need it"
		default:
			r.Level, r.Cost = Fail, strings.Join(needs, ", ")+" can't be bound to vfio-pci"
		}
		if r.Level != OK {
			r.Cure = "boot with intel_iommu=on (AMD: amd_iommu=on), and switch it on in the firmware"
		}
	}
	out := one(r)
	v := Result{Check: "vfio", Found: "vfio-pci is there"}
	if !host.Exists(m.Files, "sys/bus/pci/drivers/vfio-pci") {
		v.Found = "vfio-pci is not loaded; only cards given to DPDK need it"
		if len(needs) > 0 {
			v.Level, v.Found, v.Cost, v.Cure = Fail, "vfio-pci is not loaded", strings.Join(needs, ", ")+" can't be given to DPDK", "modprobe vfio-pci"
			v.Fix = &Fix{What: "load the kernel module vfio-pci", Back: "modprobe -r vfio-pci", Do: func() error { return m.Probes.LoadModule("vfio-pci") }}
		}
	}
	return append(out, v)
}

// interfaces looks at each device of the configuration.
func (m *Machine) interfaces() []Result {
	var out []Result
	seen := map[string]bool{}
	for i := range m.Config.Interfaces {
		it := &m.Config.Interfaces[i]
		if m.File != "" {
			out = append(out, m.addresses(it)...)
		}
		if seen[it.Name] {
			continue
		}
		seen[it.Name] = true
		out = append(out, m.device(it)...)
	}
	return out
}

// addresses: the kernel would answer for what the appliance is to have, and must be able
// to where [exception] leaves it ports of them.
func (m *Machine) addresses(it *config.Interface) []Result {
	x := &m.Config.Exception
	shared := len(x.TCPPorts)+len(x.UDPPorts)+len(x.Protocols) > 0
	kernel := map[netip.Addr]string{}
	for _, text := range m.Probes.Addresses(it.Name) {
		if p, err := netip.ParsePrefix(text); err == nil {
			kernel[p.Addr()] = text
		}
	}
	var out []Result
	for _, own := range it.Addresses {
		text, has := kernel[own.Addr()]
		switch {
		case has && !shared:
			out = append(out, Result{Check: "interface", On: it.Label(), Level: Fail, Found: fmt.Sprintf("the kernel has %s too", own.Addr()),
				Cost: "both answer: connections break", Cure: fmt.Sprintf("ip addr del %s dev %s", text, it.Name)})
		case !has && shared && m.nic(it.Name) != nil && it.VLAN == 0:
			out = append(out, Result{Check: "interface", On: it.Label(), Level: Warn, Found: fmt.Sprintf("the kernel has not %s", own.Addr()),
				Cost: "ports and protocols that [exception] leaves to it are not answered", Cure: fmt.Sprintf("ip addr add %s dev %s", own, it.Name)})
		}
	}
	return out
}

func (m *Machine) device(it *config.Interface) []Result {
	backend := m.Config.InterfaceBackend(it)
	if backend == "tap" {
		return one(m.tap(it))
	}
	n := m.nic(it.Name)
	if host.IsPCIAddress(it.Device) {
		return one(m.dpdkCard(it, backend))
	}
	if it.Device != "" {
		return one(Result{Check: "interface", On: it.Name, Found: "a virtual device of DPDK's: " + it.Device})
	}
	if n == nil {
		var have []string
		for i := range m.nics {
			have = append(have, m.nics[i].Label())
		}
		level := Fail
		if m.File == "" {
			level = Warn // the default names no interface of anybody's
		}
		return one(Result{Check: "interface", On: it.Name, Level: level, Found: "there is none of that name; there are " + strings.Join(have, ", "), Cost: "npd does not start", Cure: "npctl nic list --all"})
	}
	if nic.Bypass(n.Driver) {
		return one(Result{Check: "interface", On: it.Name, Found: fmt.Sprintf("%s, bound to %s for DPDK", n.PCI, n.Driver)})
	}
	out := []Result{m.link(it, n), m.queues(it, n), m.mtu(it, n)}
	if backend != "af_packet" {
		out = append(out, m.zeroCopy(it, n))
	}
	return out
}

func (m *Machine) tap(it *config.Interface) Result {
	r := Result{Check: "interface", On: it.Name, Found: "npd makes it (tap)"}
	switch {
	case m.nic(it.Name) != nil:
		r.Level, r.Found, r.Cost, r.Cure = Warn, "there is one of that name already", "if it is no TAP, npd does not start", fmt.Sprintf("ip link del %s", it.Name)
	case !host.Exists(m.Files, "dev/net/tun"):
		r.Level, r.Found, r.Cost, r.Cure = Fail, "/dev/net/tun is not there", "no TAP can be made", "modprobe tun"
	}
	return r
}

func (m *Machine) dpdkCard(it *config.Interface, backend string) Result {
	r := Result{Check: "interface", On: it.Name}
	lower := either(backend == "dpdk" && m.Config.Dataplane.OnFallback == "fail" || m.nic(it.Name) == nil, Fail, Warn)
	n, err := nic.Find(m.nics, it.Device)
	switch {
	case err != nil:
		r.Level, r.Found, r.Cost, r.Cure = lower, "there is no network card at "+it.Device, "DPDK is refused", "npctl nic list --all"
	case !nic.Bypass(n.Driver):
		r.Level, r.Found, r.Cost = lower, fmt.Sprintf("%s has driver %q", it.Device, n.Driver), "DPDK is refused"
		r.Cure = fmt.Sprintf("npctl nic bind %s --confirm 60s", n.Label())
	default:
		r.Found = fmt.Sprintf("%s is bound to %s", it.Device, n.Driver)
	}
	return r
}

func (m *Machine) link(it *config.Interface, n *nic.NIC) Result {
	r := Result{Check: "link", On: it.Name, Found: n.State}
	switch n.State {
	case "down":
		r.Level, r.Cost, r.Cure = Warn, "npd starts and waits for it", fmt.Sprintf("ip link set %s up", it.Name)
	case "no carrier":
		r.Level, r.Cost, r.Cure = Warn, "nothing is heard", "look at the cable and the other end"
	}
	if n.Upper != "" {
		r.Level, r.Found, r.Cost, r.Cure = Warn, n.State+", a part of "+n.Upper, "frames for "+n.Upper+" and for np take turns", fmt.Sprintf("ip link set %s nomaster", it.Name)
	}
	return r
}

// queues: each core wants one.
func (m *Machine) queues(it *config.Interface, n *nic.NIC) Result {
	cores := len(m.cores())
	now, most := m.Probes.Channels(it.Name)
	have := n.RXQueues
	if now > 0 {
		have = now
	}
	r := Result{Check: "queues", On: it.Name, Found: fmt.Sprintf("%d receive queues, %d cores", have, cores)}
	if it.Queues > have {
		r.Level, r.Found, r.Cost = Warn, fmt.Sprintf("%d receive queues, %d asked for", have, it.Queues), "the others are not opened"
	} else if have < cores {
		r.Level, r.Cost = Warn, fmt.Sprintf("%d cores get packets of it only from other cores", cores-have)
		if m.Config.Dataplane.Steering == "device" {
			r.Cost = fmt.Sprintf("%d cores get no packets of it ([dataplane] steering)", cores-have)
		}
	}
	if r.Level != OK && most > have {
		r.Cure = fmt.Sprintf("ethtool -L %s combined %d", it.Name, min(most, max(cores, it.Queues)))
	}
	return r
}

func (m *Machine) mtu(it *config.Interface, n *nic.NIC) Result {
	r := Result{Check: "mtu", On: it.Name, Found: fmt.Sprint(n.MTU)}
	switch {
	case it.MTU > n.MTU:
		r.Level, r.Found, r.Cost = Warn, fmt.Sprintf("%d, but %d is configured", n.MTU, it.MTU), fmt.Sprintf("%d is used", n.MTU)
		r.Cure = fmt.Sprintf("ip link set %s mtu %d", it.Name, it.MTU)
	case n.MTU > mtuOneFrame && it.XDPMode == "generic":
		r.Level, r.Found, r.Cost = Warn, fmt.Sprintf("%d, and xdp_mode is generic", n.MTU), fmt.Sprintf("generic mode hands over frames of %d bytes at most", mtuOneFrame)
		r.Cure = `xdp_mode = "native"`
	case n.MTU > mtuOneFrame && !m.since(6, 6):
		r.Level, r.Cost, r.Cure = Warn, fmt.Sprintf("this kernel gives AF_XDP no frames above %d bytes", mtuOneFrame), fmt.Sprintf("ip link set %s mtu %d", it.Name, mtuOneFrame)
	case n.MTU > 9000:
		r.Level, r.Cost, r.Cure = Warn, "np takes 9000 at most", fmt.Sprintf("ip link set %s mtu 9000", it.Name)
	}
	return r
}

func (m *Machine) zeroCopy(it *config.Interface, n *nic.NIC) Result {
	r := Result{Check: "zero-copy", On: it.Name, Found: fmt.Sprintf("driver %s has it", n.Driver)}
	if it.ZeroCopy == "off" {
		r.Found = "not wanted (zero_copy)"
		return r
	}
	name := n.Driver
	if name == "" {
		name = "none of hardware"
	}
	at := slices.IndexFunc(zeroCopyDrivers[:], func(d struct {
		driver       string
		major, minor int
	}) bool {
		return d.driver == n.Driver
	})
	switch {
	case at < 0:
		r.Found = fmt.Sprintf("driver %s is not known to have it", name)
	case !m.since(zeroCopyDrivers[at].major, zeroCopyDrivers[at].minor):
		r.Found, r.Cure = fmt.Sprintf("driver %s has it from Linux %d.%d on", name, zeroCopyDrivers[at].major, zeroCopyDrivers[at].minor), "install a newer kernel"
	default:
		return r
	}
	r.Level, r.Cost = either(it.ZeroCopy == "must", Fail, Warn), "the kernel copies each packet"
	if n.PCI == "" && it.ZeroCopy != "must" {
		r.Level = OK // there is no wire to be fast on
	}
	return r
}

// cpus looks at the configured cores: alone, at full speed, and one left for the rest.
func (m *Machine) cpus() []Result {
	const dir = "sys/devices/system/cpu"
	online, err := host.CPUs(host.Text(m.Files, dir+"/online"))
	if err != nil || len(online) == 0 {
		return one(Result{Check: "cpu", Level: Warn, Found: "the CPUs in use can't be read", Cost: "cores can't be checked"})
	}
	isolated, _ := host.CPUs(host.Text(m.Files, dir+"/isolated"))
	all := m.cores()
	cores := slices.Compact(slices.Sorted(slices.Values(all)))
	var out []Result
	if len(cores) < len(all) {
		out = append(out, Result{Check: "cpu", On: "turns", Level: Warn, Found: fmt.Sprintf("%d cores on %d CPUs", len(all), len(cores)),
			Cost: "they take turns: packets wait for the other core's turn to end", Cure: fmt.Sprintf("set [dataplane] cores to %d or fewer", len(cores))})
	}
	var shared []int
	for _, c := range cores {
		on := fmt.Sprintf("CPU %d", c)
		if !slices.Contains(online, c) {
			out = append(out, Result{Check: "cpu", On: on, Level: Fail, Found: "there is none, there are " + host.Text(m.Files, dir+"/online"), Cost: "npd does not start", Cure: "set [dataplane] cores"})
			continue
		}
		if !slices.Contains(isolated, c) {
			shared = append(shared, c)
		}
		out = append(out, m.governor(c)...)
		out = append(out, m.sibling(c)...)
	}
	r := Result{Check: "cpu", On: "isolation", Found: "the kernel schedules nothing else on the cores"}
	if len(shared) > 0 {
		text := strings.Trim(strings.Join(strings.Fields(fmt.Sprint(shared)), ","), "[]")
		r.Level, r.Found, r.Cost = Warn, "other work may run on CPU "+text, "packets wait for the scheduler: high percentiles of latency"
		r.Cure = fmt.Sprintf("boot with isolcpus=%s nohz_full=%s rcu_nocbs=%s", text, text, text)
	}
	out = append(out, r)
	if rest := slices.DeleteFunc(slices.Clone(online), func(c int) bool { return slices.Contains(cores, c) }); len(rest) == 0 {
		out = append(out, Result{Check: "cpu", On: "control", Level: Warn, Found: "every CPU is a poll core", Cost: "handshakes and management take turns with them", Cure: "set [dataplane] cores to fewer"})
	}
	return append(out, m.clock()...)
}

// cores are the CPUs that npd would choose for its cores, all CPUs being allowed to it; those of the
// configuration where it names some that are not there.
func (m *Machine) cores() []int {
	online, err := host.CPUs(host.Text(m.Files, "sys/devices/system/cpu/online"))
	if err != nil || len(online) == 0 {
		for i := range m.Config.Dataplane.Cores {
			online = append(online, i)
		}
	}
	if out, err := m.Config.Dataplane.Cores.Place(online); err == nil {
		return out
	}
	return m.Config.Dataplane.Cores
}

func (m *Machine) governor(c int) []Result {
	file := fmt.Sprintf("sys/devices/system/cpu/cpu%d/cpufreq/scaling_governor", c)
	is := host.Text(m.Files, file)
	if is == "" || is == "performance" {
		return nil
	}
	r := Result{Check: "cpu", On: fmt.Sprintf("CPU %d", c), Level: Warn, Found: "frequency governor " + is, Cost: "the core is slow after each pause",
		Cure: fmt.Sprintf("echo performance > /%s", file)}
	if strings.Contains(host.Text(m.Files, path.Join(path.Dir(file), "scaling_available_governors")), "performance") {
		r.Fix = &Fix{What: fmt.Sprintf("set CPU %d's governor to performance until the next boot", c), Back: fmt.Sprintf("echo %s > /%s", is, file),
			Do: func() error { return m.Files.WriteFile(file, []byte("performance")) }}
	}
	return one(r)
}

// sibling: two threads of one physical core share it.
func (m *Machine) sibling(c int) []Result {
	list, _ := host.CPUs(host.Text(m.Files, fmt.Sprintf("sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", c)))
	for _, s := range list {
		if s > c && slices.Contains(m.cores(), s) {
			return one(Result{Check: "cpu", On: fmt.Sprintf("CPU %d", c), Level: Warn, Found: fmt.Sprintf("CPU %d is the other thread of the same core, and a poll core too", s),
				Cost: "the two share one core's units: far less than twice the rate", Cure: fmt.Sprintf("set [dataplane] cores without %d, or: echo off > /sys/devices/system/cpu/smt/control", s)})
		}
	}
	return nil
}

func (m *Machine) clock() []Result {
	switch is := host.Text(m.Files, "sys/devices/system/clocksource/clocksource0/current_clocksource"); is {
	case "hpet", "acpi_pm", "jiffies":
		return one(Result{Check: "clock", Level: Warn, Found: "clock source " + is, Cost: "each look at the clock is a microsecond or more", Cure: "boot with tsc=reliable, if the CPU's counter is"})
	}
	return nil
}

// numa: packets that cross nodes cost memory bandwidth and latency.
func (m *Machine) numa() []Result {
	nodes, _ := m.nodesOfCores()
	var out []Result
	for i := range m.Config.Interfaces {
		it := &m.Config.Interfaces[i]
		n := m.nic(it.Name)
		if n == nil && it.Device != "" {
			n = m.nic(it.Device)
		}
		if n == nil || n.NUMANode < 0 || slices.Contains(nodes, n.NUMANode) && len(nodes) == 1 || nodes[0] == hugepages.NoNode {
			continue
		}
		if slices.ContainsFunc(out, func(r Result) bool { return r.On == it.Name }) {
			continue
		}
		cpus := host.Text(m.Files, fmt.Sprintf("sys/devices/system/node/node%d/cpulist", n.NUMANode))
		out = append(out, Result{Check: "numa", On: it.Name, Level: Warn, Found: fmt.Sprintf("it is on node %d, cores are on %v", n.NUMANode, nodes),
			Cost: "every packet crosses the link between the nodes", Cure: fmt.Sprintf("set [dataplane] cores to some of %s", cpus)})
	}
	if len(out) == 0 {
		out = one(Result{Check: "numa", Found: "cores and cards are on the same node"})
	}
	return out
}

// crypto tells what the CPU has for records.
func (m *Machine) crypto() []Result {
	var flags []string
	for line := range strings.Lines(host.Text(m.Files, "proc/cpuinfo")) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "flags" {
			flags = strings.Fields(v)
			break
		}
	}
	has := func(names ...string) bool {
		return !slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(flags, n) })
	}
	r := Result{Check: "crypto"}
	switch {
	case has("avx512f", "avx512bw", "vaes", "vpclmulqdq"):
		r.Found = "AVX-512 with VAES: libipsec-mb at its best"
	case has("avx2", "aes", "pclmulqdq"):
		r.Found = "AVX2 with AES-NI: libipsec-mb"
	case has("aes", "pclmulqdq", "sse4_2"):
		r.Level, r.Found, r.Cost = Warn, "AES-NI without AVX2", "about half the record rate of AVX2"
	default:
		r.Level, r.Found, r.Cost, r.Cure = Warn, "no AES instructions", "records by libcrypto, several times slower", `put xchacha20-poly1305 first in [protocol] aead`
	}
	if m.Config.Dataplane.Crypto == "portable" && r.Level == OK {
		r.Level, r.Cost, r.Cure = Warn, "[dataplane] crypto = \"portable\" leaves it unused: records cost 3 to 6 times as much", `crypto = "auto"`
	}
	return one(r)
}

func (m *Machine) rdma() []Result {
	const dir = "sys/class/infiniband"
	devices := host.Names(m.Files, dir)
	want := m.Config.RDMA.Enabled
	const cost = "listeners by RDMA use kernel sockets instead"
	lower := either(m.Config.Dataplane.OnFallback == "fail", Fail, Warn)
	if len(devices) == 0 {
		r := Result{Check: "rdma", Found: "no device; [rdma] is off"}
		if want {
			r.Level, r.Found, r.Cost, r.Cure = lower, "no device, but [rdma] is on", cost, "load its driver (soft-RoCE: modprobe rdma_rxe; rdma link add rxe0 type rxe netdev IF)"
		}
		return one(r)
	}
	var out []Result
	if d := m.Config.RDMA.Device; want && d != "" && !slices.Contains(devices, d) {
		out = append(out, Result{Check: "rdma", On: d, Level: lower, Found: "there is none of that name; there are " + strings.Join(devices, ", "), Cost: cost, Cure: "set [rdma] device"})
	}
	for _, d := range devices {
		for _, p := range host.Names(m.Files, path.Join(dir, d, "ports")) {
			out = append(out, m.rdmaPort(path.Join(dir, d, "ports", p), d+" port "+p))
		}
	}
	return out
}

func (m *Machine) rdmaPort(dir, on string) Result {
	r := Result{Check: "rdma", On: on}
	state := host.Text(m.Files, dir+"/state")
	_, word, _ := strings.Cut(state, ":")
	if word = strings.TrimSpace(word); word != "ACTIVE" {
		r.Level, r.Found, r.Cost, r.Cure = Warn, "state "+word, "listeners by RDMA use kernel sockets instead", "ip link set the device's interface up (rdma link)"
		return r
	}
	gids, v2 := 0, 0
	for _, i := range host.Names(m.Files, dir+"/gids") {
		gid := host.Text(m.Files, dir+"/gids/"+i)
		if strings.Trim(gid, "0:") == "" {
			continue
		}
		gids++
		if strings.Contains(host.Text(m.Files, dir+"/gid_attrs/types/"+i), "v2") {
			v2++
		}
	}
	r.Found = fmt.Sprintf("active, %d GIDs, %d of them RoCE v2", gids, v2)
	if gids == 0 || v2 == 0 && host.Text(m.Files, dir+"/link_layer") == "Ethernet" {
		r.Level, r.Cost, r.Cure = Warn, "no address that other hosts can route to: RDMA's connection management fails", "give the device's interface an IP address"
	}
	return r
}
