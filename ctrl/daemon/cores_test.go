package daemon

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
)

// TestCores: a count is spread over the CPUs there are, with a warning; a list that names
// another one ends the start.
func TestCores(t *testing.T) {
	files := pages{fstest.MapFS{"proc/self/status": {Data: []byte("Cpus_allowed_list:\t2-9")}, "sys/devices/system/cpu/online": {Data: []byte("0-3")}}}
	for _, c := range []struct {
		cores string
		want  []int
		warns bool
		err   string
	}{{"4", []int{2, 3, 2, 3}, true, ""}, {"2", []int{2, 3}, false, ""}, {"[3]", []int{3}, false, ""}, {"\"2-4\"", nil, false, "no CPU 4"}, {"[0]", []int{0}, false, ""}, {"[4]", nil, false, "some of 0-3"}} {
		w := newWorld(t, strings.Replace(config.Example(), "\ncores = 1 ", "\nsteering = \"software\"\ncores = "+c.cores+" ", 1))
		w.files = files
		o, err := w.options(nil)
		if err != nil {
			t.Fatal(err)
		}
		var got *dataplane.Config
		o.NewPlane = func(pc *dataplane.Config) (dataplane.Plane, error) { got = pc; return w.plane, nil }
		ready := make(chan struct{})
		o.Ready = func() { close(ready) }
		go func() { w.done <- Run(t.Context(), o, w.signals) }()
		select {
		case <-ready:
			w.end(syscall.SIGTERM)
		case err := <-w.done:
			if c.err == "" || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), "np.toml:") {
				t.Errorf("cores = %s: %v, want %q", c.cores, err, c.err)
			}
			continue
		}
		if !slices.Equal(got.CPUs, c.want) || got.Steering != dataplane.SteeringSoftware || strings.Contains(w.logged(), "they take turns") != c.warns {
			t.Errorf("cores = %s: CPUs %v, steering %d, log %s", c.cores, got.CPUs, got.Steering, w.logged())
		}
	}
}

// TestFarCards: a card on a node that is not the cores' is worth a line.
func TestFarCards(t *testing.T) {
	w := newWorld(t, config.Example())
	w.files = pages{fstest.MapFS{"sys/devices/system/cpu/cpu0/node0/x": {}, "sys/devices/system/cpu/cpu2/node1/x": {},
		"sys/devices/system/node/node1/cpulist": {Data: []byte("2-3")}}}
	o, err := w.options(nil)
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{o: o}
	d.farCards(&dataplane.Config{CPUs: []int{0}}, map[string]xdp.Interface{"near": {NUMANode: 0}, "none": {NUMANode: -1}})
	if w.logged() != "" {
		t.Errorf("said %s", w.logged())
	}
	d.farCards(&dataplane.Config{CPUs: []int{0, 2}}, map[string]xdp.Interface{"far": {NUMANode: 1}})
	if !strings.Contains(w.logged(), "interface=far") || !strings.Contains(w.logged(), "2-3") {
		t.Errorf("said %s", w.logged())
	}
}
