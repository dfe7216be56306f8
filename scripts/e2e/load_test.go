//go:build e2e

package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

// nppktgen on a stack of its own, in the place of the kernel's client, in each of its modes.
func TestLoadOwnStack(t *testing.T) {
	w := newWorld(t, options{env: []string{"NP_SERVER_MAX_CONNECTIONS=2000"}})
	for _, c := range []struct {
		args      string
		least     float64 // messages, or connections where there are none
		connects  bool
		sends, rx bool
	}{
		{args: "--target 198.18.0.1:7 -c 64 --depth 4 --size 3000", least: 1000, sends: true, rx: true},
		{args: "--target 198.18.0.1:9 --mode send --size 1000", least: 1000, sends: true},
		{args: "--target 198.18.0.1:19 --mode receive", rx: true},
		{args: "--target 198.18.0.1:7 --mode connect -c 8", least: 200, connects: true, sends: true, rx: true},
		{args: "--target 198.18.0.1:7 --mode hold -c 1500"},
	} {
		t.Run(strings.Fields(c.args)[1]+" "+c.args, func(t *testing.T) {
			out := w.must(w.in("c", w.bin+"/nppktgen", strings.Fields("tcp --interface c0 --address 198.18.0.3/24 -d 1s --warmup 100ms -o json "+c.args)...))
			var r struct {
				Messages, Failed, Mismatches, Closed int64
				Open, Connections                    int
				Tx                                   float64 `json:"tx_gbit_per_second"`
				Rx                                   float64 `json:"rx_gbit_per_second"`
				P50                                  float64 `json:"p50_us"`
			}
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if r.Failed != 0 || r.Mismatches != 0 || float64(r.Messages) < c.least || c.sends != (r.Tx > 0) || c.rx != (r.Rx > 0) {
				t.Errorf("%s", out)
			}
			if !c.connects && r.Open != r.Connections {
				t.Errorf("%d of %d open: %s", r.Open, r.Connections, out)
			}
			if c.connects && r.Closed < 100 {
				t.Errorf("%d closed: %s", r.Closed, out)
			}
		})
	}
	out, err := w.in("c", w.bin+"/nppktgen", strings.Fields("tcp --interface c0 --address 198.18.0.3/24 --target 198.18.0.1:1")...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "connections not open") {
		t.Errorf("a port where nothing listens: %v: %s", err, out)
	}
}
