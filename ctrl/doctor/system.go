package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/np-appliance/np/ctrl/host"
	"github.com/np-appliance/np/hugepages"
)

func (m *Machine) configuration() []Result {
	const check = "configuration"
	switch {
	case m.File == "":
		return one(Result{Check: check, Level: Warn, Found: "there is none; the rest is checked for the defaults", Cost: "npd does not start without one", Cure: "npd config example > /etc/np/np.toml"})
	case len(m.Errors) > 0:
		var out []Result
		for _, e := range m.Errors {
			out = append(out, Result{Check: check, On: m.File, Level: Fail, Found: e, Cost: "npd does not start; the rest is checked for the defaults", Cure: "npd check -c " + m.File})
		}
		return out
	}
	return one(Result{Check: check, On: m.File, Found: fmt.Sprintf("%d interfaces, %d listeners", len(m.Config.Interfaces), len(m.Config.Listen()))})
}

// release is the kernel's version; 0.0 when it can't be read.
func (m *Machine) release() (text string, major, minor int) {
	text = host.Text(m.Files, "proc/sys/kernel/osrelease")
	_, _ = fmt.Sscanf(text, "%d.%d", &major, &minor)
	return text, major, minor
}

func (m *Machine) since(major, minor int) bool {
	_, a, b := m.release()
	return a > major || a == major && b >= minor
}

func (m *Machine) kernel() []Result {
	text, _, _ := m.release()
	r := Result{Check: "kernel", Found: "Linux " + text}
	switch {
	case text == "":
		r.Level, r.Found, r.Cost = Warn, "its version can't be read", "what it can do is not known"
	case !m.since(5, 9):
		r.Level, r.Cost, r.Cure = Fail, "no XDP program can be attached: AF_PACKET only", "install Linux 5.9 or newer; 6.6 has everything"
	case !m.since(6, 6):
		r.Level, r.Cost, r.Cure = Warn, "AF_XDP takes no frames above 3506 bytes (6.6); io_uring lacks features before 6.1", "install Linux 6.6 or newer"
	}
	return one(r)
}

// capability numbers of linux/capability.h.
var capabilityNames = [...]struct {
	bit  uint
	name string
}{{12, "CAP_NET_ADMIN"}, {13, "CAP_NET_RAW"}, {14, "CAP_IPC_LOCK"}, {39, "CAP_BPF"}}

const capSysAdmin = 21

// missing lists the capabilities that this process lacks.
func (m *Machine) missing() []string {
	have, err := strconv.ParseUint(m.status("CapEff"), 16, 64)
	if err != nil {
		return nil
	}
	var out []string
	for _, c := range capabilityNames {
		if have>>c.bit&1 == 0 && (c.name != "CAP_BPF" || have>>capSysAdmin&1 == 0) {
			out = append(out, c.name)
		}
	}
	return out
}

// status reads a line of /proc/self/status.
func (m *Machine) status(key string) string {
	for line := range strings.Lines(host.Text(m.Files, "proc/self/status")) {
		if k, v, ok := strings.Cut(line, ":"); ok && k == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func (m *Machine) capabilities() []Result {
	r := Result{Check: "capabilities", Found: "all that npd needs"}
	if miss := m.missing(); len(miss) > 0 {
		r.Level, r.Found = Warn, "this user lacks "+strings.Join(miss, ", ")
		r.Cost = "npd run by it reaches no interface, and some checks below can't be made"
		r.Cure = "setcap cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock+ep /usr/sbin/npd"
	}
	return one(r)
}

// limit reads a soft limit of /proc/self/limits.
func (m *Machine) limit(name string) (uint64, bool) {
	for line := range strings.Lines(host.Text(m.Files, "proc/self/limits")) {
		rest, ok := strings.CutPrefix(line, name)
		w := strings.Fields(rest)
		if !ok || len(w) < 2 {
			continue
		}
		if w[0] == "unlimited" {
			return math.MaxUint64, true
		}
		n, err := strconv.ParseUint(w[0], 10, 64)
		return n, err == nil
	}
	return 0, false
}

func (m *Machine) memlock() []Result {
	const check = "memlock"
	have, ok := m.limit("Max locked memory")
	need := uint64(len(m.Config.Dataplane.Cores)) * uint64(m.Config.PacketMemory(m.chunk()))
	switch {
	case !slices.Contains(m.missing(), "CAP_IPC_LOCK") && m.since(5, 11):
		return one(Result{Check: check, Found: "CAP_IPC_LOCK: the limit does not count"})
	case !ok || have >= need:
		return one(Result{Check: check, Found: fmt.Sprintf("%s needed, %s allowed", mib(need), mib(have))})
	}
	return one(Result{Check: check, Level: Fail, Found: fmt.Sprintf("%s needed for packets, %s allowed", mib(need), mib(have)),
		Cost: "AF_XDP sockets are refused (ENOBUFS)", Cure: "ulimit -l unlimited (systemd: LimitMEMLOCK=infinity)"})
}

func mib(n uint64) string {
	if n == math.MaxUint64 {
		return "any amount"
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// files: kernel sockets of listeners take a descriptor each.
func (m *Machine) files() []Result {
	have, ok := m.limit("Max open files")
	need := uint64(256)
	for _, l := range m.Config.Listen() {
		need += uint64(m.Config.ListenerLimit(&l))
	}
	r := Result{Check: "open files", Found: fmt.Sprintf("%d needed if every connection is a kernel socket, %d allowed", need, have)}
	if ok && have < need {
		r.Level, r.Cost, r.Cure = Warn, "listeners on io_uring or epoll refuse connections beyond that", fmt.Sprintf("ulimit -n %d (systemd: LimitNOFILE=%d)", need, need)
	}
	return one(r)
}

func (m *Machine) bpf() []Result {
	out := one(Result{Check: "bpf", On: "JIT", Found: "on"})
	if jit := host.Text(m.Files, "proc/sys/net/core/bpf_jit_enable"); jit == "0" {
		out[0].Level, out[0].Found = Warn, "off"
		out[0].Cost, out[0].Cure = "the XDP program is interpreted: several times its 28 ns a packet", "sysctl -w net.core.bpf_jit_enable=1"
		out[0].Fix = m.sysctl("net.core.bpf_jit_enable", "1", jit)
	}
	r := Result{Check: "bpf", On: "XDP", Found: "programs can be loaded"}
	if err := m.Probes.XDP(); err != nil {
		r.Level, r.Found, r.Cost = either(m.uses("af_xdp"), Fail, Warn), err.Error(), "no AF_XDP, no filter before the cores"
		r.Cure = "run as root, or with CAP_BPF and CAP_NET_ADMIN"
		if m.uses("af_packet") {
			r.Level = Warn // the ladder has a lower rung
		}
	}
	out = append(out, r)
	if host.Text(m.Files, "proc/sys/kernel/unprivileged_bpf_disabled") == "0" {
		out = append(out, Result{Check: "bpf", On: "unprivileged", Level: Warn, Found: "everybody may load BPF programs", Cost: "nothing for np; it widens what an intruder can do",
			Cure: "sysctl -w kernel.unprivileged_bpf_disabled=2", Fix: m.sysctl("kernel.unprivileged_bpf_disabled", "2", "0")})
	}
	return out
}

// sysctl is a fix that sets one value until the next boot.
func (m *Machine) sysctl(name, to, was string) *Fix {
	return &Fix{What: fmt.Sprintf("set %s to %s until the next boot", name, to), Back: fmt.Sprintf("sysctl -w %s=%s", name, was),
		Do: func() error {
			return m.Files.WriteFile("proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(to))
		}}
}

func (m *Machine) afxdp() []Result {
	r := Result{Check: "af_xdp", Found: "sockets can be opened"}
	if err := m.Probes.AFXDP(); err != nil {
		r.Level, r.Found, r.Cost = Warn, err.Error(), "interfaces run on AF_PACKET, at about half the rate"
		r.Cure = "a kernel with CONFIG_XDP_SOCKETS=y"
		if errors.Is(err, fs.ErrPermission) {
			r.Cure = "run as root, or with CAP_NET_RAW"
		}
		if m.uses("af_xdp") && m.Config.Dataplane.OnFallback == "fail" {
			r.Level = Fail
		}
	}
	return one(r)
}

func (m *Machine) ioUring() []Result {
	r := Result{Check: "io_uring", Found: "rings can be made"}
	policy := host.Text(m.Files, "proc/sys/kernel/io_uring_disabled")
	err := m.Probes.IOUring()
	switch {
	case policy == "2":
		r.Level, r.Found, r.Cure = Warn, "forbidden to everybody (kernel.io_uring_disabled=2)", "sysctl -w kernel.io_uring_disabled=0"
	case policy == "1" && err != nil:
		r.Level, r.Found, r.Cure = Warn, "only for CAP_SYS_ADMIN and the group of kernel.io_uring_group", "sysctl -w kernel.io_uring_disabled=0"
	case err != nil:
		r.Level, r.Found, r.Cure = Warn, err.Error(), "a kernel with CONFIG_IO_URING=y; in a container, a seccomp profile that allows it"
	}
	if r.Level != OK {
		r.Cost = "listeners on kernel sockets use epoll: more system calls a message"
	}
	return one(r)
}

// nodesOfCores are the NUMA nodes of the configured cores, and how many cores each has.
func (m *Machine) nodesOfCores() (nodes []int, cores map[int]int) {
	cores = map[int]int{}
	for _, c := range m.cores() {
		n := hugepages.NodeOf(m.Files, c)
		if cores[n] == 0 {
			nodes = append(nodes, n)
		}
		cores[n]++
	}
	slices.Sort(nodes)
	return nodes, cores
}

func nodeName(n int) string {
	if n == hugepages.NoNode {
		return ""
	}
	return fmt.Sprintf("node %d", n)
}

func (m *Machine) hugepages() []Result {
	const check = "hugepages"
	pools, err := hugepages.Pools(m.Files)
	if err != nil {
		return one(Result{Check: check, Level: Warn, Found: err.Error(), Cost: "packet memory is on ordinary pages"})
	}
	var out []Result
	nodes, cores := m.nodesOfCores()
	mode := m.Config.Dataplane.Hugepages
	need := m.Config.HugePagesPerCore(m.chunk())
	for _, n := range nodes {
		at := slices.IndexFunc(pools, func(p hugepages.Pool) bool { return p.Node == n && p.Bytes == hugepages.Size2M })
		want := cores[n] * need
		r := Result{Check: check, On: nodeName(n)}
		switch {
		case mode == "off":
			r.Found = "not wanted ([dataplane] hugepages)"
		case at < 0:
			r.Level, r.Found, r.Cost = either(mode == "must", Fail, Warn), "the kernel has none", "packet memory is on ordinary pages; DPDK drivers of real cards refuse"
			r.Cure = "a kernel with CONFIG_HUGETLBFS=y"
		case pools[at].Total >= want:
			r.Found = fmt.Sprintf("%d of 2 MiB, %d free; about %d needed", pools[at].Total, pools[at].Free, want)
		default:
			p := pools[at]
			r.Level, r.Found = either(mode == "must", Fail, Warn), fmt.Sprintf("%d of 2 MiB, %d free; about %d needed", p.Total, p.Free, want)
			r.Cost, r.Cure = "packet memory is on ordinary pages: more TLB misses; DPDK drivers of real cards refuse", hugepages.Command(n, want)
			r.Fix = &Fix{What: fmt.Sprintf("reserve %d huge pages of 2 MiB (%s) until the next boot", want, mib(uint64(want)*hugepages.Size2M)), Back: hugepages.Command(n, p.Total),
				Do: func() error {
					got, err := hugepages.Reserve(m.Files, n, want)
					if err != nil { // half of them help nobody
						err = errors.Join(err, got.Undo())
					}
					return err
				}}
			if mode == "reserve" {
				r.Level, r.Cost, r.Fix = OK, "", nil
				r.Found += ", which npd reserves"
			}
		}
		out = append(out, r)
	}
	for _, p := range pools {
		if p.Bytes == hugepages.Size1G && p.Total > 0 {
			out = append(out, Result{Check: check, On: nodeName(p.Node), Found: fmt.Sprintf("%d of 1 GiB, %d free; np uses those of 2 MiB", p.Total, p.Free)})
		}
	}
	return out
}

// chunk is the size of a packet buffer for the largest MTU configured.
func (m *Machine) chunk() int {
	const oneBuffer = 1536
	for i := range m.Config.Interfaces {
		mtu := m.Config.Interfaces[i].MTU
		if mtu == 0 {
			if n := m.nic(m.Config.Interfaces[i].Name); n != nil {
				mtu = n.MTU
			}
		}
		if mtu > oneBuffer {
			return 4096
		}
	}
	return 2048
}
