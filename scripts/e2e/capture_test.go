//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// npctl capture shows what the bypass path received, sent and dropped; tcpdump reads it.
func TestCapture(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	file := w.path("x.pcapng")
	cmd := exec.Command(w.bin+"/npctl", "-s", w.path("np.sock"), "capture", "-f", "tcp or icmp", "-w", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	runs := func(file string) { // its header is written when it does
		t.Helper()
		w.eventually(time.Minute, "capture runs", func() error {
			if i, err := os.Stat(file); err != nil || i.Size() == 0 {
				return fmt.Errorf("%s is empty: %v", file, err)
			}
			return nil
		})
	}
	runs(file)
	if err := echo(w.mustDial(addr4(7)), 100); err != nil {
		t.Fatal(err)
	}
	w.pings("c", "-c", "2", "-i", "0.1", "-W", "30", server4)
	r := newWire(w)
	bad := r.tcp4(5555, 7, 1, 0, 2, nil, nil)
	bad[50] ^= 0x55
	r.send(bad)
	w.eventually(time.Minute, "the last packet", func() error {
		if b, err := os.ReadFile(file); err != nil || !bytes.Contains(b, []byte("tcp_bad_checksum")) {
			return fmt.Errorf("%d bytes without it: %v", len(b), err)
		}
		return nil
	})
	_ = cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("npctl capture: %v", err)
	}
	text := w.must(exec.Command("tcpdump", "-nr", file))
	for _, want := range []string{"Flags [S]", "Flags [S.]", "ICMP echo request", "ICMP echo reply", "198.18.0.2.5555 > 198.18.0.1.7"} {
		if !strings.Contains(text, want) {
			t.Errorf("capture lacks %q:\n%s", want, text)
		}
	}
	raw := w.must(exec.Command("strings", "-n", "8", file))
	if !strings.Contains(raw, "tcp_bad_checksum") {
		t.Errorf("the dropped packet has no reason:\n%s", raw)
	}
	// a filter that does not compile is said so
	out, code := w.npctl("capture", "-f", "tcp prot 7", "-w", "-")
	if code == 0 || !strings.Contains(out, "prot") {
		t.Errorf("bad filter: exit %d: %s", code, out)
	}
	// a count ends it
	done := exec.Command(w.bin+"/npctl", "-s", w.path("np.sock"), "capture", "--dir", "rx", "-c", "3", "-w", w.path("y.pcapng"))
	if err := done.Start(); err != nil {
		t.Fatal(err)
	}
	runs(w.path("y.pcapng"))
	w.pings("c", "-c", "5", "-i", "0.1", "-W", "30", server4)
	if err := done.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(w.must(exec.Command("tcpdump", "-nr", w.path("y.pcapng"))), "ICMP echo request"); n != 3 {
		t.Errorf("%d packets, want 3", n)
	}
}
