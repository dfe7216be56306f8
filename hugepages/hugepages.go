package hugepages

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Page sizes in bytes.
const (
	Size2M = 2 << 20
	Size1G = 1 << 30
)

// NoNode is the node of a machine that has none.
const NoNode = -1

// Files are those of the machine, names from the root without a leading slash
// ("sys/devices/system/node").
type Files interface {
	fs.FS
	WriteFile(name string, data []byte) error
}

// Pool is the huge pages of one size on one node.
type Pool struct {
	Node    int // NoNode: of the whole machine
	Bytes   int // per page
	Total   int // pages reserved
	Free    int
	Surplus int // beyond what is reserved, in use
}

const (
	nodes   = "sys/devices/system/node"
	machine = "sys/kernel/mm/hugepages"
)

// Pools lists what there is, by node and size. It is empty when the kernel has no
// huge pages at all.
func Pools(f fs.FS) ([]Pool, error) {
	var out []Pool
	list, err := fs.ReadDir(f, nodes)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list NUMA nodes: %w", err)
	}
	for _, e := range list {
		n, err := strconv.Atoi(strings.TrimPrefix(e.Name(), "node"))
		if err != nil || !strings.HasPrefix(e.Name(), "node") {
			continue
		}
		pools, err := pools(f, path.Join(nodes, e.Name(), "hugepages"), n)
		if err != nil {
			return nil, err
		}
		out = append(out, pools...)
	}
	if len(out) == 0 {
		if out, err = pools(f, machine, NoNode); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b Pool) int { return cmp.Or(a.Node-b.Node, a.Bytes-b.Bytes) })
	return out, nil
}

func pools(f fs.FS, dir string, node int) ([]Pool, error) {
	list, err := fs.ReadDir(f, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list huge pages: %w", err)
	}
	var out []Pool
	for _, e := range list {
		kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"))
		if err != nil {
			continue
		}
		p := Pool{Node: node, Bytes: kib << 10}
		for _, v := range [...]struct {
			name string
			to   *int
		}{{"nr_hugepages", &p.Total}, {"free_hugepages", &p.Free}, {"surplus_hugepages", &p.Surplus}} {
			if *v.to, err = number(f, path.Join(dir, e.Name(), v.name)); err != nil {
				return nil, fmt.Errorf("read huge pages: %w", err)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

func number(f fs.FS, name string) (int, error) {
	b, err := fs.ReadFile(f, name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return n, nil
}

// NodeOf is the NUMA node of a CPU, NoNode when the machine has none.
func NodeOf(f fs.FS, cpu int) int {
	list, err := fs.ReadDir(f, fmt.Sprintf("sys/devices/system/cpu/cpu%d", cpu))
	if err != nil {
		return NoNode
	}
	for _, e := range list {
		if n, err := strconv.Atoi(strings.TrimPrefix(e.Name(), "node")); err == nil && strings.HasPrefix(e.Name(), "node") {
			return n
		}
	}
	return NoNode
}

// file is where the number of 2 MiB pages of a node is read and set.
func file(node int) string {
	if node == NoNode {
		return machine + "/hugepages-2048kB/nr_hugepages"
	}
	return fmt.Sprintf("%s/node%d/hugepages/hugepages-2048kB/nr_hugepages", nodes, node)
}

// Command is what a person would type to have so many 2 MiB pages on a node.
func Command(node, total int) string { return fmt.Sprintf("echo %d > /%s", total, file(node)) }

// Reservation is 2 MiB pages that Reserve added to a node.
type Reservation struct {
	Node  int
	Added int
	f     Files
}

// ErrShort: the kernel found fewer pages than asked for.
var ErrShort = errors.New("fewer huge pages than asked for")

// Reserve makes at least free 2 MiB pages free on a node; what is free already counts.
// When the kernel finds fewer even after compacting memory, the error wraps ErrShort and
// the reservation has those it found.
func Reserve(f Files, node, free int) (*Reservation, error) {
	r := &Reservation{Node: node, f: f}
	where := "this machine"
	if node != NoNode {
		where = fmt.Sprintf("node %d", node)
	}
	wrap := func(err error) error { return fmt.Errorf("reserve huge pages on %s: %w", where, err) }
	all, err := Pools(f)
	if err != nil {
		return r, wrap(err)
	}
	at := slices.IndexFunc(all, func(p Pool) bool { return p.Node == node && p.Bytes == Size2M })
	if at < 0 {
		return r, wrap(errors.New("there are none of 2 MiB (the kernel lacks CONFIG_HUGETLBFS, or the node does not exist)"))
	}
	had := all[at].Total - all[at].Surplus
	want := had + max(free-(all[at].Free), 0)
	if want == had {
		return r, nil
	}
	for try := range 2 {
		if err := f.WriteFile(file(node), []byte(strconv.Itoa(want))); err != nil {
			return r, wrap(err)
		}
		got, err := number(f, file(node))
		if err != nil {
			return r, wrap(err)
		}
		r.Added = max(got-had, 0)
		if got >= want {
			return r, nil
		}
		if try == 0 {
			_ = f.WriteFile("proc/sys/vm/compact_memory", []byte("1")) // without it the second try is as good as the first
		}
	}
	return r, wrap(fmt.Errorf("%w: %d of %d more (memory is short or fragmented; at boot there is most: hugepages=%d on the kernel's command line)",
		ErrShort, r.Added, want-had, want))
}

// Undo takes back what was added, as far as nobody uses it.
func (r *Reservation) Undo() error {
	if r == nil || r.Added == 0 {
		return nil
	}
	now, err := number(r.f, file(r.Node))
	if err == nil {
		err = r.f.WriteFile(file(r.Node), []byte(strconv.Itoa(max(now-r.Added, 0))))
	}
	if err != nil {
		return fmt.Errorf("give back huge pages: %w", err)
	}
	r.Added = 0
	return nil
}
