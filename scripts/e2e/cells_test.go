//go:build e2e

package e2e

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// dim is one thing that the interop cells vary.
type dim struct {
	name   string
	values []string
}

// dims of the interop matrix. A cell is one value of each; "with" and "without" are the kernel's side, ours offers all.
func interopDims() []dim {
	return []dim{
		{"dir", []string{"both", "up", "down"}}, // up: the kernel sends, down: npd sends
		{"cc", []string{"cubic", "reno", "bbr"}},
		{"ts", []string{"with", "without"}},
		{"sack", []string{"with", "without"}},
		{"wscale", []string{"with", "without"}},
		{"ip", []string{"4", "6"}},
		{"mtu", []string{"1500", "3500", "9000"}},
		{"loss", []string{"0", "0.1", "1", "5"}}, // percent, each way
		{"order", []string{"kept", "changed"}},
		{"delay", []string{"0", "5"}},                // ms, one way
		{"own", []string{"cubic", "newreno", "bbr"}}, // npd's congestion control
		{"ecn", []string{"without", "with"}},         // with: the kernel asks for it, and the wire marks some
	}
}

// cell is an index into each dimension's values.
type cell []int

func (c cell) get(ds []dim, name string) string {
	for i, d := range ds {
		if d.name == name {
			return d.values[c[i]]
		}
	}
	panic("no dimension " + name)
}

func (c cell) name(ds []dim) string {
	parts := make([]string, len(ds))
	for i, d := range ds {
		parts[i] = d.name + "=" + d.values[c[i]]
	}
	return strings.Join(parts, ",")
}

// seed of a cell's wire and bytes: its name's hash, so that a cell is the same in every run.
func (c cell) seed(ds []dim) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(c.name(ds)))
	return h.Sum64()
}

// pair of values of two dimensions.
type pair struct{ d1, v1, d2, v2 int }

func pairsOf(c cell, add func(pair)) {
	for i := range c {
		for j := i + 1; j < len(c); j++ {
			add(pair{i, c[i], j, c[j]})
		}
	}
}

// covering returns cells in which every pair of values of any two dimensions occurs: each is the best of many random
// ones that contain the first pair still missing.
func covering(ds []dim, seed uint64) []cell {
	missing := map[pair]bool{}
	var order []pair
	for i := range ds {
		for j := i + 1; j < len(ds); j++ {
			for a := range ds[i].values {
				for b := range ds[j].values {
					p := pair{i, a, j, b}
					missing[p] = true
					order = append(order, p)
				}
			}
		}
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	var cells []cell
	for len(missing) > 0 {
		first := order[slices.IndexFunc(order, func(p pair) bool { return missing[p] })]
		var best cell
		bestNew := -1
		for range 200 {
			c := make(cell, len(ds))
			for i := range c {
				c[i] = rng.IntN(len(ds[i].values))
			}
			c[first.d1], c[first.d2] = first.v1, first.v2
			n := 0
			pairsOf(c, func(p pair) {
				if missing[p] {
					n++
				}
			})
			if n > bestNew {
				best, bestNew = c, n
			}
		}
		pairsOf(best, func(p pair) { delete(missing, p) })
		cells = append(cells, best)
	}
	return cells
}

// unique drops what occurs again.
func unique(cells []cell) []cell {
	var out []cell
	for _, c := range cells {
		if !slices.ContainsFunc(out, func(o cell) bool { return slices.Equal(o, c) }) {
			out = append(out, c)
		}
	}
	return out
}

// product returns all cells that keep accepts.
func product(ds []dim, keep func(cell) bool) []cell {
	var cells []cell
	c := make(cell, len(ds))
	for {
		if keep(c) {
			cells = append(cells, slices.Clone(c))
		}
		i := len(c) - 1
		for ; i >= 0; i-- {
			if c[i]++; c[i] < len(ds[i].values) {
				break
			}
			c[i] = 0
		}
		if i < 0 {
			return cells
		}
	}
}

// clean says whether the cell's wire is perfect.
func (c cell) clean(ds []dim) bool {
	return c.get(ds, "loss") == "0" && c.get(ds, "order") == "kept" && c.get(ds, "delay") == "0" && c.get(ds, "ecn") == "without"
}

// differs is false for cells that only vary the congestion control of a side that sends nothing.
func (c cell) differs(ds []dim) bool {
	return (c.get(ds, "dir") != "down" || c.get(ds, "cc") == "cubic") && (c.get(ds, "dir") != "up" || c.get(ds, "own") == "cubic")
}

// corner is every cell with a perfect wire, at the smallest and the largest MTU; npd's congestion control varies where it alone sends.
func corner(ds []dim) []cell {
	return product(ds, func(c cell) bool {
		return c.clean(ds) && c.differs(ds) && c.get(ds, "mtu") != "3500" && (c.get(ds, "dir") == "down" || c.get(ds, "own") == "cubic")
	})
}

// ports of an echo, a discard and a chargen server with each of npd's congestion controls.
func servicePorts(own string) map[string]int {
	base := map[string]int{"cubic": 0, "newreno": 100, "bbr": 200}[own]
	return map[string]int{"both": base + 7, "up": base + 9, "down": base + 19}
}

func mustFloat(s string) float64 {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		panic(err)
	}
	return f
}

// wire is the relay's argument for either direction.
func (c cell) wire(ds []dim) string {
	var parts []string
	hold := "200us"
	if d := c.get(ds, "delay"); d != "0" {
		parts = append(parts, "delay="+d+"ms")
		hold = "2ms"
	}
	if l := c.get(ds, "loss"); l != "0" {
		parts = append(parts, "loss="+l+"%")
	}
	if c.get(ds, "order") == "changed" {
		parts = append(parts, "reorder=1%:"+hold)
	}
	if c.get(ds, "ecn") == "with" {
		parts = append(parts, fmt.Sprintf("ce=%dppm", markPPM))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ",")
}

const (
	relayRate    = 2.0e9 / 8 // bytes per second that the relay and two cores carry
	windowScaled = 1 << 20
	rtoSeconds   = 0.2
	markPPM      = 5000
)

// rate is about what TCP reaches in this cell, in bytes per second: the window, the square root of the losses
// (Mathis and others, 1997), and a timeout for each retransmission that is lost again.
func (c cell) rate(ds []dim) float64 {
	rtt := 2*mustFloat(c.get(ds, "delay"))*1e-3 + 2e-4
	window := float64(windowScaled)
	if c.get(ds, "wscale") == "without" {
		window = 65535
	}
	r := min(relayRate, window/rtt)
	if c.get(ds, "dir") == "both" {
		r /= 2
	}
	p := mustFloat(c.get(ds, "loss")) / 100
	mss := mustFloat(c.get(ds, "mtu")) - 60
	if p > 0 {
		r = min(r, 1.2*mss/(rtt*math.Sqrt(p)), mss/(p*p*rtoSeconds))
		if c.get(ds, "sack") == "without" {
			r = min(r, mss/(p*rtt), mss/(p*rtoSeconds)) // one loss a round trip, often by timeout
		}
	}
	if c.get(ds, "ecn") == "with" {
		r = min(r, 1.2*mss/(rtt*math.Sqrt(p+markPPM/1e6)))
	}
	if c.get(ds, "order") == "changed" {
		r = min(r, 1.2*mss/(rtt*math.Sqrt(0.005)))
	}
	return r
}

// size is how much a cell moves so that it takes about as long as wanted: 1 to 100 MiB.
func (c cell) size(ds []dim, wanted time.Duration) int64 {
	n := int64(c.rate(ds) * wanted.Seconds())
	return max(1<<20, min(100<<20, n))
}

// limit is how long a cell may take: far from what is normal, since only a stall should reach it.
func (c cell) limit(ds []dim, size int64) time.Duration {
	return 30*time.Second + time.Duration(20*float64(size)/c.rate(ds)*float64(time.Second))
}

func TestCovering(t *testing.T) {
	ds := interopDims()
	cells := covering(ds, 1)
	seen := map[pair]bool{}
	for _, c := range cells {
		pairsOf(c, func(p pair) { seen[p] = true })
	}
	want := 0
	for i := range ds {
		for j := i + 1; j < len(ds); j++ {
			want += len(ds[i].values) * len(ds[j].values)
		}
	}
	if len(seen) != want {
		t.Errorf("%d pairs occur, want %d", len(seen), want)
	}
	if again := covering(ds, 1); fmt.Sprint(again) != fmt.Sprint(cells) {
		t.Error("another run gives other cells")
	}
	all := 1
	for _, d := range ds {
		all *= len(d.values)
	}
	t.Logf("%d of %d cells cover %d pairs; %d in the corner", len(cells), all, want, len(corner(ds)))
	if n := len(product(ds, func(cell) bool { return true })); n != all {
		t.Errorf("the product has %d cells, want %d", n, all)
	}
}
