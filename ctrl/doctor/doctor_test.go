package doctor_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/np-appliance/np/ctrl/doctor"
)

// files are a machine's, written to as the kernel's.
type files struct {
	fstest.MapFS
	refuse error
}

func (f files) WriteFile(name string, data []byte) error {
	if f.refuse != nil {
		return f.refuse
	}
	if _, ok := f.MapFS[name]; !ok {
		return fs.ErrNotExist
	}
	f.MapFS[name] = &fstest.MapFile{Data: data}
	if dir, ok := strings.CutSuffix(name, "nr_hugepages"); ok {
		f.MapFS[dir+"free_hugepages"] = &fstest.MapFile{Data: data}
	}
	return nil
}

func (f files) put(name, text string) { f.MapFS[name] = &fstest.MapFile{Data: []byte(text + "\n")} }
func (f files) link(name, to string) {
	f.MapFS[name] = &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink}
}

// probes answer as told.
type probes struct {
	afxdp, xdp, uring error
	most              int
	addresses         []string
	loaded            []string
}

func (p *probes) AFXDP() error                 { return p.afxdp }
func (p *probes) XDP() error                   { return p.xdp }
func (p *probes) IOUring() error               { return p.uring }
func (p *probes) Channels(string) (int, int)   { return 0, p.most }
func (p *probes) Addresses(string) []string    { return p.addresses }
func (p *probes) LoadModule(name string) error { p.loaded = append(p.loaded, name); return nil }

const card = "0000:00:04.0"

// good is a machine on which everything is well: two nodes, four CPUs, a card on node 0.
func good() files {
	f := files{MapFS: fstest.MapFS{}}
	for name, text := range map[string]string{
		"proc/sys/kernel/osrelease": "6.12.1-amd64", "proc/self/status": "Name:\tnpctl\nCapEff:\t000001ffffffffff",
		"proc/self/limits":                                                "Limit  Soft Limit  Hard Limit  Units\nMax locked memory   8388608  8388608  bytes\nMax open files   1048576  1048576  files",
		"proc/sys/net/core/bpf_jit_enable":                                "1",
		"proc/sys/kernel/unprivileged_bpf_disabled":                       "2",
		"proc/sys/kernel/io_uring_disabled":                               "0",
		"proc/cpuinfo":                                                    "processor : 0\nflags : aes pclmulqdq avx2 avx512f avx512bw vaes vpclmulqdq",
		"sys/kernel/iommu_groups/7/type":                                  "DMA",
		"sys/bus/pci/drivers/vfio-pci/module":                             "",
		"sys/devices/system/cpu/online":                                   "0-3",
		"sys/devices/system/cpu/isolated":                                 "1-2",
		"sys/devices/system/node/node0/cpulist":                           "0-1",
		"sys/devices/system/node/node1/cpulist":                           "2-3",
		"sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
		"dev/net/tun": "", "sys/class/net/lo/mtu": "65536",
	} {
		f.put(name, text)
	}
	for c := range 4 {
		dir := fmt.Sprintf("sys/devices/system/cpu/cpu%d", c)
		f.put(dir+"/cpufreq/scaling_governor", "performance")
		f.put(dir+"/cpufreq/scaling_available_governors", "performance powersave")
		f.put(dir+"/topology/thread_siblings_list", fmt.Sprint(c))
		f.put(fmt.Sprintf("%s/node%d/x", dir, c/2), "")
	}
	for n := range 2 {
		dir := fmt.Sprintf("sys/devices/system/node/node%d/hugepages/hugepages-2048kB/", n)
		f.put(dir+"nr_hugepages", "512")
		f.put(dir+"free_hugepages", "512")
		f.put(dir+"surplus_hugepages", "0")
	}
	dev := "sys/devices/pci0000:00/" + card
	for name, text := range map[string]string{"class": "0x020000", "vendor": "0x8086", "device": "0x1592", "numa_node": "0", "net/np0/mtu": "1500",
		"net/np0/flags": "0x1003", "net/np0/carrier": "1", "net/np0/speed": "100000", "net/np0/queues/rx-0/x": "", "net/np0/queues/tx-0/x": ""} {
		f.put(dev+"/"+name, text)
	}
	f.put("sys/bus/pci/drivers/ice/x", "")
	f.link(dev+"/driver", "../../../bus/pci/drivers/ice")
	f.link("sys/bus/pci/devices/"+card, "../../../devices/pci0000:00/"+card)
	f.link("sys/class/net/np0", "../../devices/pci0000:00/"+card+"/net/np0")
	return f
}

const head = "[dataplane]\ncores = [1]\n%s\n[protocol]\nallow_any_peer = true\n[[interface]]\nname = \"np0\"\naddresses = \"198.18.0.1/24\"\n"

func machine(t *testing.T, f files, p *probes, dataplane, rest string) *doctor.Machine {
	t.Helper()
	file := filepath.Join(t.TempDir(), "np.toml")
	if err := os.WriteFile(file, []byte(fmt.Sprintf(head, dataplane)+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	m := &doctor.Machine{Files: f, Probes: p, NICState: t.TempDir()}
	if err := m.Load(file, nil); err != nil {
		t.Fatal(err)
	}
	return m
}

func text(list []doctor.Result) string {
	var b strings.Builder
	for _, r := range list {
		fmt.Fprintf(&b, "%s|%s|%s|%s|%s|%s\n", r.Check, r.On, r.Level, r.Found, r.Cost, r.Cure)
	}
	return b.String()
}

// TestGood: nothing to say of a machine on which all is well.
func TestGood(t *testing.T) {
	list := doctor.Run(machine(t, good(), &probes{most: 8}, "", ""))
	if n := doctor.Count(list, doctor.OK); n != len(list) || n < 18 {
		t.Errorf("%d of %d results are ok:\n%s", n, len(list), text(list))
	}
	for _, r := range list {
		if r.Cost != "" || r.Cure != "" || r.Fix != nil || r.Found == "" {
			t.Errorf("ok, but %+v", r)
		}
	}
}

// TestFindings breaks one thing at a time: it is found, and nothing else is.
func TestFindings(t *testing.T) {
	eperm := fmt.Errorf("open: %w", fs.ErrPermission)
	for _, tt := range []struct {
		name, dataplane, rest string
		change                func(f files, p *probes)
		check                 string
		level                 doctor.Level
		found, cure           string
		others                int // results that follow from the same cause
		fix                   bool
	}{
		{"old kernel", "", "", func(f files, _ *probes) { f.put("proc/sys/kernel/osrelease", "5.4.0") }, "kernel", doctor.Fail, "5.4.0", "newer", 2, false},
		{"older kernel", "", "", func(f files, _ *probes) { f.put("proc/sys/kernel/osrelease", "6.1.0-38") }, "kernel", doctor.Warn, "6.1", "6.6", 0, false},
		{"capabilities", "", "", func(f files, _ *probes) { f.put("proc/self/status", "CapEff:\t0000000000003000") }, "capabilities", doctor.Warn, "CAP_IPC_LOCK, CAP_BPF", "setcap", 1, false},
		{"memlock", "", "", func(f files, _ *probes) { f.put("proc/self/status", "CapEff:\t000001ffffffbfff") }, "memlock", doctor.Fail, "8.0 MiB allowed", "ulimit -l unlimited", 1, false},
		{"open files", "", "", func(f files, _ *probes) { f.put("proc/self/limits", "Max open files   1024  4096  files") }, "open files", doctor.Warn, "1024 allowed", "ulimit -n 1256", 0, false},
		{"no JIT", "", "", func(f files, _ *probes) { f.put("proc/sys/net/core/bpf_jit_enable", "0") }, "bpf", doctor.Warn, "off", "sysctl -w net.core.bpf_jit_enable=1", 0, true},
		{"no XDP", "", "", func(_ files, p *probes) { p.xdp = eperm }, "bpf", doctor.Warn, "permission", "CAP_BPF", 0, false},
		{"unprivileged BPF", "", "", func(f files, _ *probes) { f.put("proc/sys/kernel/unprivileged_bpf_disabled", "0") }, "bpf", doctor.Warn, "everybody", "=2", 0, true},
		{"no AF_XDP", "", "", func(_ files, p *probes) { p.afxdp = errors.New("no such family") }, "af_xdp", doctor.Warn, "no such family", "CONFIG_XDP_SOCKETS", 0, false},
		{"no AF_XDP and no fall", `on_fallback = "fail"`, "", func(_ files, p *probes) { p.afxdp = eperm }, "af_xdp", doctor.Fail, "permission", "CAP_NET_RAW", 0, false},
		{"io_uring forbidden", "", "", func(f files, p *probes) {
			f.put("proc/sys/kernel/io_uring_disabled", "2")
			p.uring = eperm
		}, "io_uring", doctor.Warn, "forbidden to everybody", "io_uring_disabled=0", 0, false},
		{"io_uring for some", "", "", func(f files, p *probes) {
			f.put("proc/sys/kernel/io_uring_disabled", "1")
			p.uring = eperm
		}, "io_uring", doctor.Warn, "CAP_SYS_ADMIN", "io_uring_disabled=0", 0, false},
		{"io_uring missing", "", "", func(_ files, p *probes) { p.uring = errors.New("not implemented") }, "io_uring", doctor.Warn, "not implemented", "seccomp", 0, false},
		{"few huge pages", "", "", func(f files, _ *probes) {
			f.put("sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "3")
			f.put("sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages", "1")
		}, "hugepages", doctor.Warn, "3 of 2 MiB", "> /sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", 0, true},
		{"huge pages are a must", `hugepages = "must"`, "", func(f files, _ *probes) {
			f.put("sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "3")
			f.put("sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages", "1")
		}, "hugepages", doctor.Fail, "3 of 2 MiB", "echo ", 0, true},
		{"interface missing", "", "", func(f files, _ *probes) { delete(f.MapFS, "sys/class/net/np0") }, "interface", doctor.Fail, "none of that name; there are " + card, "nic list", 0, false},
		{"link down", "", "", func(f files, _ *probes) { f.put("sys/devices/pci0000:00/"+card+"/net/np0/flags", "0x1002") }, "link", doctor.Warn, "down", "ip link set np0 up", 0, false},
		{"no carrier", "", "", func(f files, _ *probes) { f.put("sys/devices/pci0000:00/"+card+"/net/np0/carrier", "0") }, "link", doctor.Warn, "no carrier", "cable", 0, false},
		{"address of the kernel's", "", "", func(_ files, p *probes) { p.addresses = []string{"198.18.0.1/16", "fe80::1/64"} }, "interface", doctor.Fail, "198.18.0.1", "ip addr del 198.18.0.1/16 dev np0", 0, false},
		{"address for the exception path", "", "[exception]\ntcp_ports = [22]\n", nil, "interface", doctor.Warn, "the kernel has not 198.18.0.1", "ip addr add 198.18.0.1/24 dev np0", 0, false},
		{"few queues", "", "", func(f files, p *probes) {
			f.put("sys/devices/system/cpu/isolated", "0-3")
		}, "queues", doctor.Warn, "1 receive queues, 2 cores", "ethtool -L np0 combined 2", 0, false},
		{"MTU", "", "mtu = 9000\n", nil, "mtu", doctor.Warn, "1500, but 9000", "ip link set np0 mtu 9000", 0, false},
		{"jumbo in generic mode", "", "xdp_mode = \"generic\"\n", func(f files, _ *probes) { f.put("sys/devices/pci0000:00/"+card+"/net/np0/mtu", "9000") }, "mtu", doctor.Warn, "generic", "native", 0, false},
		{"driver without zero-copy", "", "", func(f files, _ *probes) {
			f.put("sys/bus/pci/drivers/e1000e/x", "")
			f.link("sys/devices/pci0000:00/"+card+"/driver", "../../../bus/pci/drivers/e1000e")
		}, "zero-copy", doctor.Warn, "e1000e is not known", "", 0, false},
		{"zero-copy is a must", "", "zero_copy = \"must\"\n", func(f files, _ *probes) {
			f.put("sys/bus/pci/drivers/e1000e/x", "")
			f.link("sys/devices/pci0000:00/"+card+"/driver", "../../../bus/pci/drivers/e1000e")
		}, "zero-copy", doctor.Fail, "e1000e is not known", "", 0, false},
		{"card of the kernel's for DPDK", "", "device = \"" + card + "\"\n", nil, "interface", doctor.Warn, "has driver \"ice\"", "npctl nic bind np0 --confirm 60s", 0, false},
		{"no card for DPDK", "", "device = \"0000:00:09.0\"\n", nil, "interface", doctor.Warn, "no network card at 0000:00:09.0", "nic list", 0, false},
		{"no vfio", "", "device = \"" + card + "\"\n", func(f files, _ *probes) { delete(f.MapFS, "sys/bus/pci/drivers/vfio-pci/module") }, "vfio", doctor.Fail, "not loaded", "modprobe vfio-pci", 1, true},
		{"no IOMMU", "", "device = \"" + card + "\"\n", func(f files, _ *probes) { delete(f.MapFS, "sys/kernel/iommu_groups/7/type") }, "iommu", doctor.Fail, "none", "intel_iommu=on", 1, false},
		{"no TUN", `backend = "tap"`, "", func(f files, _ *probes) {
			delete(f.MapFS, "dev/net/tun")
			delete(f.MapFS, "sys/class/net/np0")
		}, "interface", doctor.Fail, "/dev/net/tun", "modprobe tun", 0, false},
		{"CPU missing", "", "", func(f files, _ *probes) { f.put("sys/devices/system/cpu/online", "0") }, "cpu", doctor.Fail, "there is none", "cores", 0, false},
		{"not isolated", "", "", func(f files, _ *probes) { f.put("sys/devices/system/cpu/isolated", "") }, "cpu", doctor.Warn, "CPU 1", "isolcpus=1", 0, false},
		{"governor", "", "", func(f files, _ *probes) { f.put("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave") }, "cpu", doctor.Warn, "powersave", "echo performance > /sys/devices/system/cpu/cpu1", 0, true},
		{"no CPU left", "", "", func(f files, _ *probes) { f.put("sys/devices/system/cpu/online", "1") }, "cpu", doctor.Warn, "every CPU", "fewer", 0, false},
		{"clock", "", "", func(f files, _ *probes) {
			f.put("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet")
		}, "clock", doctor.Warn, "hpet", "tsc", 0, false},
		{"other node", "", "", func(f files, _ *probes) { f.put("sys/devices/pci0000:00/"+card+"/numa_node", "1") }, "numa", doctor.Warn, "node 1", "2-3", 0, false},
		{"no AES", "", "", func(f files, _ *probes) { f.put("proc/cpuinfo", "flags : sse2") }, "crypto", doctor.Warn, "no AES", "xchacha20", 0, false},
		{"portable", `crypto = "portable"`, "", nil, "crypto", doctor.Warn, "AVX-512", "auto", 0, false},
		{"RDMA without a device", "", "[rdma]\nenabled = true\n", nil, "rdma", doctor.Warn, "but [rdma] is on", "rdma_rxe", 0, false},
		{"RDMA device missing", `on_fallback = "fail"`, "[rdma]\nenabled = true\ndevice = \"mlx5_0\"\n", func(f files, _ *probes) {
			f.put("sys/class/infiniband/rxe0/ports/1/state", "4: ACTIVE")
			f.put("sys/class/infiniband/rxe0/ports/1/gids/0", "fe80:0000:0000:0000:0000:0000:0000:0001")
			f.put("sys/class/infiniband/rxe0/ports/1/gid_attrs/types/0", "RoCE v2")
		}, "rdma", doctor.Fail, "there are rxe0", "[rdma] device", 0, false},
		{"RDMA down", "", "", func(f files, _ *probes) { f.put("sys/class/infiniband/rxe0/ports/1/state", "1: DOWN") }, "rdma", doctor.Warn, "state DOWN", "up", 0, false},
		{"RDMA without GIDs", "", "", func(f files, _ *probes) {
			f.put("sys/class/infiniband/rxe0/ports/1/state", "4: ACTIVE")
			f.put("sys/class/infiniband/rxe0/ports/1/gids/0", "0000:0000:0000:0000:0000:0000:0000:0000")
		}, "rdma", doctor.Warn, "0 GIDs", "IP address", 0, false},
		{"wrong configuration", "backend = \"best\"", "", nil, "configuration", doctor.Fail, "dataplane.backend: got \"best\"", "npd check -c", 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, p := good(), &probes{most: 8}
			if tt.change != nil {
				tt.change(f, p)
			}
			m := machine(t, f, p, tt.dataplane, tt.rest)
			if tt.name == "few queues" {
				m.Config.Dataplane.Cores = []int{0, 1}
			}
			list := doctor.Run(m)
			bad := slices.DeleteFunc(slices.Clone(list), func(r doctor.Result) bool { return r.Level == doctor.OK })
			at := slices.IndexFunc(bad, func(r doctor.Result) bool {
				return r.Check == tt.check && r.Level == tt.level && strings.Contains(r.Found, tt.found) && strings.Contains(r.Cure, tt.cure)
			})
			if at < 0 || len(bad) != 1+tt.others {
				t.Fatalf("want one %s %s %q %q and %d more, found:\n%s", tt.check, tt.level, tt.found, tt.cure, tt.others, text(bad))
			}
			if bad[at].Cost == "" || (bad[at].Fix != nil) != tt.fix {
				t.Errorf("%+v", bad[at])
			}
			if tt.fix { // done, it is no longer found
				done := doctor.Apply(list, func(fix *doctor.Fix) bool { return fix.What != "" && fix.Back != "" })
				if len(done) != 1 || done[0].Err != nil || !done[0].Agreed {
					t.Fatalf("%+v", done)
				}
				if slices.Contains(p.loaded, "vfio-pci") {
					f.put("sys/bus/pci/drivers/vfio-pci/module", "")
				}
				if again := doctor.Run(m); doctor.Count(again, doctor.Warn)+doctor.Count(again, doctor.Fail) != tt.others {
					t.Errorf("after the fix:\n%s", text(again))
				}
			}
		})
	}
}

// TestApply: nothing is done without consent, and a refusal of the machine is told.
func TestApply(t *testing.T) {
	f := good()
	f.put("proc/sys/net/core/bpf_jit_enable", "0")
	m := machine(t, f, &probes{most: 8}, "", "")
	done := doctor.Apply(doctor.Run(m), func(*doctor.Fix) bool { return false })
	if len(done) != 1 || done[0].Agreed || string(f.MapFS["proc/sys/net/core/bpf_jit_enable"].Data) != "0\n" {
		t.Errorf("%+v", done)
	}
	f.refuse = fs.ErrPermission
	m.Files = f
	if done = doctor.Apply(doctor.Run(m), func(*doctor.Fix) bool { return true }); len(done) != 1 || !errors.Is(done[0].Err, fs.ErrPermission) {
		t.Errorf("%+v", done)
	}
}

// TestNoConfiguration: a machine is looked at before there is a file.
func TestNoConfiguration(t *testing.T) {
	m := &doctor.Machine{Files: good(), Probes: &probes{}, NICState: t.TempDir()}
	if _, err := os.Stat(doctor.DefaultFile); err == nil {
		t.Skip("this machine has a configuration")
	}
	if err := m.Load(doctor.DefaultFile, nil); err != nil {
		t.Fatal(err)
	}
	list := doctor.Run(m)
	if list[0].Check != "configuration" || list[0].Level != doctor.Warn || doctor.Count(list, doctor.Fail) != 0 {
		t.Errorf("%s", text(list))
	}
	if err := m.Load(filepath.Join(t.TempDir(), "none.toml"), nil); err == nil {
		t.Error("a file that was named and is not there")
	}
}

// TestNothing: a machine of which nothing can be read is no crash.
func TestNothing(t *testing.T) {
	m := machine(t, files{MapFS: fstest.MapFS{}}, &probes{}, "", "")
	if list := doctor.Run(m); doctor.Count(list, doctor.OK) == len(list) {
		t.Errorf("all is well with nothing:\n%s", text(list))
	}
}
