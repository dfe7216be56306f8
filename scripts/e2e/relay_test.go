//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// relayStats is what np-relay prints about one direction when it ends.
type relayStats struct {
	From       string `json:"from"`
	In         uint64 `json:"in"`
	Out        uint64 `json:"out"`
	Lost       uint64 `json:"lost"`
	QueueFull  uint64 `json:"queue_full"`
	SlabFull   uint64 `json:"slab_full"`
	Reordered  uint64 `json:"reordered"`
	Duplicated uint64 `json:"duplicated"`
	Corrupted  uint64 `json:"corrupted"`
	Marked     uint64 `json:"marked"`
	OnWay      uint64 `json:"on_way"`
	LateUsMax  uint64 `json:"late_us_max"`
	RxDropped  uint64 `json:"rx_dropped"`
}

// relay is a running np-relay between the two namespaces of a world made with options.relay.
type relay struct {
	w      *world
	cmd    *exec.Cmd
	out    *bufio.Reader
	errors *strings.Builder
	ended  bool
}

// startRelay joins the namespaces with the given wire from the client to the appliance (up) and back (down).
func (w *world) startRelay(up, down string, seed uint64) (*relay, error) {
	bin := os.Getenv("NP_RELAY")
	if bin == "" {
		return nil, fmt.Errorf("NP_RELAY is not set: run make e2e")
	}
	r := &relay{w: w, errors: &strings.Builder{}}
	// not on the first CPU, which the appliance's core has
	r.cmd = w.in("r", bin, "--a", "ra", "--b", "rb", "--ab", up, "--ba", down, "--seed", fmt.Sprint(seed), "--cpu", fmt.Sprint(runtime.NumCPU()-1))
	r.cmd.Stderr = r.errors
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.out = bufio.NewReader(out)
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	if line, err := r.out.ReadString('\n'); line != "ready\n" {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		return nil, fmt.Errorf("np-relay %s / %s: %v: %q %s", up, down, err, line, r.errors)
	}
	return r, nil
}

// stop ends the relay and returns its figures: up, down.
func (r *relay) stop() (stats [2]relayStats, err error) {
	if r.ended {
		return stats, nil
	}
	r.ended = true
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return stats, fmt.Errorf("np-relay: %w", err)
	}
	kill := time.AfterFunc(10*time.Second, func() { _ = r.cmd.Process.Kill() })
	defer kill.Stop()
	text, err := io.ReadAll(r.out)
	if err != nil {
		return stats, err
	}
	if err := r.cmd.Wait(); err != nil {
		return stats, fmt.Errorf("np-relay: %w: %s", err, r.errors)
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	for i := range stats {
		if err := d.Decode(&stats[i]); err != nil {
			return stats, fmt.Errorf("np-relay's figures: %w: %q", err, text)
		}
	}
	return stats, nil
}

func (w *world) mustRelay(up, down string, seed uint64) *relay {
	w.t.Helper()
	r, err := w.startRelay(up, down, seed)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _, _ = r.stop() })
	return r
}

// A wire with every kind of harm: the bytes come through, and the relay's figures show that each kind happened.
func TestRelay(t *testing.T) {
	w := newWorld(t, options{relay: true})
	free := w.status().BuffersFree
	up := "delay=1ms,jitter=200us,rate=400mbit,queue=64kib,loss=0.2%,burst=0.01%:4,reorder=0.5%:500us,duplicate=0.2%,corrupt=0.1%"
	r := w.mustRelay(up, up, 7)
	begin := time.Now()
	n := min(transferBytes(t), 16<<20)
	if err := through(w.mustDial(addr4(7)), n, 3); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	w.restful(free)
	stats, err := r.stop()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stats {
		t.Logf("%+v", s)
		if s.In+s.Duplicated != s.Out+s.Lost+s.QueueFull+s.SlabFull+s.OnWay {
			t.Errorf("from %s: figures do not sum", s.From)
		}
		if s.Lost == 0 || s.Reordered == 0 || s.Duplicated == 0 || s.Corrupted == 0 {
			t.Errorf("from %s: some kind of harm did not happen: %+v", s.From, s)
		}
		if s.SlabFull != 0 {
			t.Errorf("from %s: more frames on their way than there is room for", s.From)
		}
	}
	if w.drop("tcp_bad_checksum") == 0 {
		t.Error("no packet with a wrong checksum arrived: corruption does not work")
	}
	t.Logf("%d MiB there and back in %v", n>>20, took.Round(time.Millisecond))
}
