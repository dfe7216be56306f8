package gateway

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

// TestH2Spec runs the conformance suite of HTTP/2 against a gateway with a backend behind
// it. What may fail, and why, is in the server's own test of that name.
func TestH2Spec(t *testing.T) {
	if os.Getenv("NP_PEERS") == "" {
		t.Skip("takes 12 s: NP_PEERS=1 runs it")
	}
	program, err := filepath.Abs("../../build/peers/h2spec")
	if err != nil {
		t.Fatal(err)
	}
	var s sights
	m := newSmuggler(t, goBackend(t, &s))
	_, port, _ := net.SplitHostPort(m.addr)
	out, err := exec.CommandContext(t.Context(), program, "-S", "-o", "3", "-p", port).CombinedOutput()
	if err != nil {
		t.Fatalf("%v (make peers PEERS=h2spec builds it)\n%s", err, out)
	}
	found := regexp.MustCompile(`(\d+) tests, (\d+) passed, \d+ skipped, (\d+) failed`).FindSubmatch(out)
	if found == nil {
		t.Fatalf("%s", out)
	}
	if failed, _ := strconv.Atoi(string(found[3])); failed > 1 {
		t.Errorf("%s", out)
	}
	t.Logf("%s", found[0])
}
