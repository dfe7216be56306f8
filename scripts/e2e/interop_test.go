//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The kernel's TCP against npd's through a relay, over a matrix of what the kernel offers and what the wire does.
//
//	make e2e       the cells of a pairwise covering, and every combination over a perfect wire
//	make interop   every cell (hours; goes on where it stopped), NP_INTEROP_CELL=name for one of them
//
// Throughput is logged beside the kernel's with itself through the same wire, and is never a reason to fail.

// usableDims are the dimensions without the congestion controls that this kernel lacks.
func usableDims(t *testing.T) []dim {
	ds := interopDims()
	have, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil {
		t.Fatal(err)
	}
	for i := range ds {
		if ds[i].name != "cc" {
			continue
		}
		ds[i].values = slices.DeleteFunc(ds[i].values, func(v string) bool {
			lacks := !slices.Contains(strings.Fields(string(have)), v)
			if lacks {
				t.Logf("this kernel has no %s: cells with it are left out", v)
			}
			return lacks
		})
	}
	return ds
}

// runCells runs cells against npd or the kernel: one world for each MTU, a new relay whenever the wire changes.
// result sees each outcome as it comes.
func runCells(t *testing.T, ds []dim, cells []cell, kernel bool, size func(cell) int64, result func(cell, outcome)) {
	t.Helper()
	byMTU := map[string][]cell{}
	for _, c := range cells {
		byMTU[c.get(ds, "mtu")] = append(byMTU[c.get(ds, "mtu")], c)
	}
	for _, d := range ds {
		if d.name != "mtu" {
			continue
		}
		for _, mtu := range d.values {
			if len(byMTU[mtu]) > 0 {
				runWorld(t, ds, byMTU[mtu], mtu, kernel, size, result)
			}
		}
	}
}

func runWorld(t *testing.T, ds []dim, cells []cell, mtu string, kernel bool, size func(cell) int64, result func(cell, outcome)) {
	t.Helper()
	w := newWorld(t, options{relay: true, mtu: int(mustFloat(mtu)), noNpd: kernel, config: withServices})
	p := &peer{w: w, isNpd: true}
	var free uint64
	if kernel {
		var end func()
		p, end = w.kernelPeer()
		defer end()
	} else {
		free = w.status().BuffersFree
	}
	var r *relay
	wire := ""
	end := func() (stats [2]relayStats) {
		if r == nil {
			return stats
		}
		stats, err := r.stop()
		if err != nil {
			t.Error(err)
		}
		r = nil
		return stats
	}
	defer end()
	for _, c := range cells {
		// a perfect wire has no state: the cells in the corner share one relay
		if next := c.wire(ds); r == nil || next != wire || next != "none" {
			end()
			var err error
			if r, err = w.startRelay(next, next, c.seed(ds)); err != nil {
				t.Fatal(err)
			}
			wire = next
		}
		o := p.transferCell(ds, c, size(c))
		if wire != "none" {
			o.Relay = end()
			o.check(ds, c)
		}
		result(c, o)
	}
	end()
	if !kernel {
		w.restful(free)
	}
}

// withServices adds listeners with each of npd's congestion controls to the example configuration, which has those with the default.
func withServices(example string) string {
	for _, own := range []string{"newreno", "bbr"} {
		for dir, protocol := range map[string]string{"both": "echo", "up": "discard", "down": "chargen"} {
			example += fmt.Sprintf("\n[[listener]]\nname = \"%s-%s\"\naddress = \":%d\"\nprotocol = \"%s\"\ncongestion_control = \"%s\"\n",
				protocol, own, servicePorts(own)[dir], protocol, own)
		}
	}
	return example
}

// check looks at what the relay saw: whether it did to the packets of who sends what it was told. What it lost itself
// (rx_dropped: it was not given the CPU in time) is loss like any other.
func (o *outcome) check(ds []dim, c cell) {
	for i, s := range o.Relay {
		sends := c.get(ds, "dir") == "both" || (c.get(ds, "dir") == "up") == (i == 0)
		if o.Error != "" || !sends || s.In < 10000 {
			continue
		}
		loss := c.get(ds, "loss") != "0"
		if (s.Lost > 0) != loss || (s.Reordered > 0) != (c.get(ds, "order") == "changed") || s.SlabFull > 0 {
			o.Error = fmt.Sprintf("the relay did not do as it was told: %+v", s)
		}
		// a SYN that is lost is repeated without asking for ECN (RFC 3168 §6.1.1.1)
		if !loss && (s.Marked > 0) != (c.get(ds, "ecn") == "with") {
			o.Error = fmt.Sprintf("ECN was not used, or not wanted: %+v", s)
		}
	}
}

// table prints cells with what they reached, ours beside the kernel's.
func table(ds []dim, ours, kernels []outcome) string {
	byCell := map[string]outcome{}
	for _, o := range kernels {
		byCell[o.Cell] = o
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-124s %9s %8s %9s %9s %6s %8s\n", "cell", "KiB", "s", "Mbit/s", "Linux's", "ratio", "retrans")
	for _, o := range ours {
		if o.Error != "" {
			fmt.Fprintf(&b, "%-124s failed: %s\n", o.Cell, firstLine(o.Error))
			continue
		}
		l, ratio := "-", "-"
		if k, ok := byCell[o.Cell]; ok && k.Error == "" {
			l, ratio = fmt.Sprintf("%.1f", k.Mbps), fmt.Sprintf("%.2f", o.Mbps/k.Mbps)
		}
		fmt.Fprintf(&b, "%-124s %9d %8.2f %9.1f %9s %6s %8d\n", o.Cell, o.Bytes>>10, o.Seconds, o.Mbps, l, ratio, o.Retrans)
	}
	return b.String()
}

func firstLine(s string) string { line, _, _ := strings.Cut(s, "\n"); return line }

// TestInteropPairs runs cells that cover every pair of values of any two dimensions twice, against npd and, for the yardstick
// where the table is shown (-v), kernel to kernel.
func TestInteropPairs(t *testing.T) {
	t.Parallel()
	ds := usableDims(t)
	cells := unique(append(covering(ds, 1), covering(ds, 2)...))
	size := func(c cell) int64 { return c.size(ds, 2*time.Second) }
	var ours, kernels []outcome
	runCells(t, ds, cells, false, size, func(c cell, o outcome) {
		ours = append(ours, o)
		if o.Error != "" {
			t.Errorf("%s (make interop NP_INTEROP_CELL=%s):\n%s", o.Cell, o.Cell, o.Error)
		}
	})
	if testing.Verbose() { // else nobody sees the table
		runCells(t, ds, cells, true, size, func(c cell, o outcome) { kernels = append(kernels, o) })
	}
	t.Logf("kernel and npd through a relay:\n%s", table(ds, ours, kernels))
}

// TestInteropCorner runs every combination of what the kernel can offer over a perfect wire.
func TestInteropCorner(t *testing.T) {
	t.Parallel()
	ds := usableDims(t)
	var ours []outcome
	runCells(t, ds, corner(ds), false, func(cell) int64 { return 16 << 20 }, func(c cell, o outcome) {
		ours = append(ours, o)
		if o.Error != "" {
			t.Errorf("%s (make interop NP_INTEROP_CELL=%s):\n%s", o.Cell, o.Cell, o.Error)
		}
	})
	slices.SortStableFunc(ours, func(a, b outcome) int { return int(a.Mbps - b.Mbps) })
	t.Logf("%d cells, 16 MiB each; the slowest:\n%s", len(ours), table(ds, ours[:min(5, len(ours))], nil))
}

// TestInteropFull runs every cell and remembers what is done: it is for make interop, with the file's name in the environment.
func TestInteropFull(t *testing.T) {
	file, one := os.Getenv("NP_INTEROP_FILE"), os.Getenv("NP_INTEROP_CELL")
	if file == "" && one == "" {
		t.Skip("the whole matrix takes hours: make interop")
	}
	ds := usableDims(t)
	size := func(c cell) int64 { return c.size(ds, 4*time.Second) }
	if one != "" {
		runOne(t, ds, one, size)
		return
	}
	done := readOutcomes(t, file)
	todo := product(ds, func(c cell) bool {
		o, ok := done[c.name(ds)]
		return c.differs(ds) && (!ok || o.Error != "")
	})
	t.Logf("%d cells are done, %d to do", len(done), len(todo))
	out, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	begin := time.Now()
	n := 0
	runCells(t, ds, todo, false, size, func(c cell, o outcome) {
		if stop.Err() != nil {
			// this cell may have failed for the signal alone; npd and the relay may have had it too
			t.Fatalf("interrupted after %d cells of %d; make interop goes on there", n, len(todo))
		}
		done[o.Cell] = o
		line, err := json.Marshal(o)
		if err == nil {
			_, err = out.Write(append(line, '\n'))
		}
		if err != nil {
			t.Fatal(err)
		}
		if n++; n%50 == 0 {
			left := time.Since(begin) / time.Duration(n) * time.Duration(len(todo)-n)
			fmt.Fprintf(os.Stderr, "%d of %d cells, about %v left\n", n, len(todo), left.Round(time.Minute))
		}
	})
	var all []outcome
	for _, c := range product(ds, func(c cell) bool { return c.differs(ds) }) {
		o := done[c.name(ds)]
		all = append(all, o)
		if o.Error != "" {
			t.Errorf("%s: %s", o.Cell, o.Error)
		}
	}
	if err := os.WriteFile(file+".txt", []byte(table(ds, all, nil)), 0o644); err != nil {
		t.Error(err)
	}
	t.Logf("the table is in %s.txt", file)
}

// runOne runs one cell and the kernel with itself by turns, for a fair comparison.
func runOne(t *testing.T, ds []dim, name string, size func(cell) int64) {
	t.Helper()
	cells := product(ds, func(c cell) bool { return c.name(ds) == name })
	if len(cells) == 0 {
		t.Fatalf("no cell %q; one is %q", name, make(cell, len(ds)).name(ds))
	}
	mbps := map[bool][]float64{}
	for range 5 {
		for _, kernel := range []bool{false, true} {
			runCells(t, ds, cells, kernel, size, func(_ cell, o outcome) {
				t.Logf("kernel to kernel: %v: %+v", kernel, o)
				mbps[kernel] = append(mbps[kernel], o.Mbps)
				if o.Error != "" && !kernel {
					t.Error(o.Error)
				}
			})
		}
	}
	for _, m := range mbps {
		slices.Sort(m)
	}
	t.Logf("%s: Mbit/s, npd %.1f, kernel to kernel %.1f; median ratio %.2f", name, mbps[false], mbps[true], mbps[false][2]/mbps[true][2])
}

// readOutcomes reads what an earlier run wrote; the last line of a cell counts, a broken one does not.
func readOutcomes(t *testing.T, file string) map[string]outcome {
	t.Helper()
	done := map[string]outcome{}
	f, err := os.Open(file)
	if os.IsNotExist(err) {
		return done
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		var o outcome
		if len(line) > 0 && json.Unmarshal(line, &o) == nil && o.Cell != "" {
			done[o.Cell] = o
		}
		if err == io.EOF {
			return done
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
