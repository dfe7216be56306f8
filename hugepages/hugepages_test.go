package hugepages_test

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/np-appliance/np/hugepages"
)

// kernel plays /sys: a node has memory for so many pages at most, more once it was
// compacted.
type kernel struct {
	fstest.MapFS
	room, compacted int
	used            int
	refuse          error
}

func (k *kernel) WriteFile(name string, data []byte) error {
	if k.refuse != nil {
		return k.refuse
	}
	if strings.HasSuffix(name, "compact_memory") {
		k.room += k.compacted
		return nil
	}
	if _, ok := k.MapFS[name]; !ok {
		return fs.ErrNotExist
	}
	var n int
	if _, err := fmt.Sscan(string(data), &n); err != nil {
		return err
	}
	n = max(min(n, k.room), k.used)
	k.MapFS[name].Data = fmt.Appendln(nil, n)
	k.MapFS[strings.Replace(name, "nr_", "free_", 1)].Data = fmt.Appendln(nil, n-k.used)
	return nil
}

func node(n string, total, free int) fstest.MapFS {
	m := fstest.MapFS{}
	add := func(dir string, total, free int) {
		m[dir+"/nr_hugepages"] = &fstest.MapFile{Data: fmt.Appendln(nil, total)}
		m[dir+"/free_hugepages"] = &fstest.MapFile{Data: fmt.Appendln(nil, free)}
		m[dir+"/surplus_hugepages"] = &fstest.MapFile{Data: []byte("0\n")}
	}
	add("sys/devices/system/node/"+n+"/hugepages/hugepages-2048kB", total, free)
	add("sys/devices/system/node/"+n+"/hugepages/hugepages-1048576kB", 0, 0)
	return m
}

func TestPools(t *testing.T) {
	m := node("node1", 8, 3)
	m["sys/devices/system/cpu/cpu3/node1/x"] = &fstest.MapFile{}
	if hugepages.NodeOf(m, 3) != 1 || hugepages.NodeOf(m, 4) != hugepages.NoNode {
		t.Error("node of a CPU")
	}
	m["sys/devices/system/node/possible"] = &fstest.MapFile{Data: []byte("0-1\n")}
	got, err := hugepages.Pools(m)
	want := []hugepages.Pool{{Node: 1, Bytes: hugepages.Size2M, Total: 8, Free: 3}, {Node: 1, Bytes: hugepages.Size1G}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := hugepages.Pools(fstest.MapFS{}); err != nil || len(got) != 0 {
		t.Errorf("without: %+v, %v", got, err)
	}
	m["sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages"].Data = []byte("many")
	if _, err := hugepages.Pools(m); err == nil {
		t.Error("nonsense read")
	}
}

func TestReserve(t *testing.T) {
	pool := func(k *kernel) hugepages.Pool {
		t.Helper()
		all, err := hugepages.Pools(k)
		if err != nil {
			t.Fatal(err)
		}
		return all[0]
	}
	for _, tt := range []struct {
		name        string
		k           *kernel
		want        int
		added       int
		short, fail bool
	}{
		{"enough are free", &kernel{MapFS: node("node0", 8, 5), room: 100, used: 3}, 5, 0, false, false},
		{"what is missing", &kernel{MapFS: node("node0", 8, 5), room: 100, used: 3}, 20, 15, false, false},
		{"after compacting", &kernel{MapFS: node("node0", 0, 0), room: 4, compacted: 10}, 10, 10, false, false},
		{"short", &kernel{MapFS: node("node0", 2, 2), room: 4}, 10, 2, true, true},
		{"not permitted", &kernel{MapFS: node("node0", 2, 2), refuse: fs.ErrPermission}, 10, 0, false, true},
		{"no such node", &kernel{MapFS: node("node3", 2, 2)}, 10, 0, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := pool(tt.k)
			r, err := hugepages.Reserve(tt.k, 0, tt.want)
			if (err != nil) != tt.fail || errors.Is(err, hugepages.ErrShort) != tt.short || r.Added != tt.added {
				t.Fatalf("added %d, %v", r.Added, err)
			}
			if p := pool(tt.k); !tt.fail && p.Free < tt.want {
				t.Errorf("%+v", p)
			}
			tt.k.refuse = nil
			if err := r.Undo(); err != nil || pool(tt.k) != before {
				t.Errorf("undone: %+v, was %+v, %v", pool(tt.k), before, err)
			}
			if err := r.Undo(); err != nil || pool(tt.k) != before {
				t.Error("undone twice", err)
			}
		})
	}
	if c := hugepages.Command(1, 512); c != "echo 512 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages" {
		t.Error(c)
	}
}
