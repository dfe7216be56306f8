package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// doctorRun runs doctor on a tree of files and a configuration.
func doctorRun(t *testing.T, root, config string, args ...string) (int, string, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "np.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	code := run(t.Context(), append([]string{"doctor", "--root", root, "-c", file}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

func TestDoctor(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	jit := "proc/sys/net/core/bpf_jit_enable"
	put(jit, "0\n")
	put("proc/sys/kernel/osrelease", "6.12.0")
	put("sys/class/net/np0/mtu", "1500\n")
	put("sys/devices/system/cpu/online", "0-1\n")
	const good = "[protocol]\nallow_any_peer = true\n[[interface]]\nname = \"np0\"\naddresses = \"198.18.0.1/24\"\n"

	code, out, errs := doctorRun(t, root, good, "-o", "json")
	var v api.Doctor
	if err := json.Unmarshal([]byte(out), &v); err != nil || v.Schema != api.Schema || v.OK+v.Warn+v.Fail != len(v.Results) || v.Warn == 0 {
		t.Fatalf("%v %s %s", err, out, errs)
	}
	if want := 0; (v.Fail > 0) != (code != want) {
		t.Errorf("exit %d with %d failed", code, v.Fail)
	}
	fixable := 0
	for _, r := range v.Results {
		if r.Fixable {
			fixable++
		}
		if r.Result != "ok" && r.Cost == "" {
			t.Errorf("costs nothing: %+v", r)
		}
	}
	if fixable != 1 {
		t.Errorf("%d are fixable", fixable)
	}
	// Asked and refused, then done.
	if _, _, errs = doctorRun(t, root, good, "--fix"); !strings.Contains(errs, "set net.core.bpf_jit_enable to 1 until the next boot? [y/N]") {
		t.Error(errs)
	}
	if b, _ := os.ReadFile(filepath.Join(root, jit)); string(b) != "0\n" {
		t.Errorf("done without consent: %q", b)
	}
	if _, _, errs = doctorRun(t, root, good, "--fix", "--yes"); !strings.Contains(errs, "npctl: done: set net.core.bpf_jit_enable to 1 until the next boot (back: sysctl -w net.core.bpf_jit_enable=0)") {
		t.Error(errs)
	}
	if b, _ := os.ReadFile(filepath.Join(root, jit)); string(b) != "1" {
		t.Errorf("not done: %q", b)
	}
	code, out, _ = doctorRun(t, root, strings.Replace(good, "np0", "np7", 1))
	if code != exitFailed || !strings.Contains(out, "there is none of that name; there are np0") || !strings.Contains(out, "CURE") {
		t.Errorf("exit %d\n%s", code, out)
	}
	if code, _, errs = doctorRun(t, root, good, "more"); code != exitUsage {
		t.Errorf("exit %d, %s", code, errs)
	}
	var sink strings.Builder
	if code := run(t.Context(), []string{"doctor", "-c", filepath.Join(root, "none.toml")}, &sink, &sink); code != exitFailed {
		t.Errorf("exit %d without the file", code)
	}
}
