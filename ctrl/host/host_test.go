package host_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"testing/fstest"

	"github.com/np-appliance/np/ctrl/host"
)

func TestOS(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"sys/a", "dev/0000:00:04.0/virtio1"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "sys/a/n"), []byte(" 0x10\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../dev/0000:00:04.0/virtio1", filepath.Join(dir, "sys/a/device")); err != nil {
		t.Fatal(err)
	}
	o := host.OS(dir)
	if host.Int(o, "sys/a/n", 0) != 16 || host.Int(o, "sys/a/m", 7) != 7 || host.Text(o, "sys/a/n") != "0x10" || !host.Exists(o, "sys/a/device") ||
		host.LinkBase(o, "sys/a/device") != "virtio1" || host.LinkBase(o, "sys/a/n") != "" || !reflect.DeepEqual(host.Names(o, "sys/a"), []string{"device", "n"}) {
		t.Error("not read")
	}
	if err := o.WriteFile("sys/a/n", []byte("5")); err != nil || host.Int(o, "sys/a/n", 0) != 5 {
		t.Error(err)
	}
	for _, name := range []string{"sys/a/other", "../x", "/sys/a/n"} {
		if err := o.WriteFile(name, []byte("5")); err == nil {
			t.Errorf("%s made", name)
		}
	}
}

func TestWords(t *testing.T) {
	if a := host.PCIAddress("../../devices/pci0000:00/0000:00:02.0/0000:01:00.1/virtio3/net/eth0"); a != "0000:01:00.1" {
		t.Error(a)
	}
	for s, want := range map[string]bool{"0000:00:04.0": true, "0000:00:0g.0": false, "pci0000:00": false, "0000-00-04-0": false} {
		if host.IsPCIAddress(s) != want {
			t.Error(s)
		}
	}
	for s, want := range map[string][]int{"": nil, "0-2,5\n": {0, 1, 2, 5}, "3": {3}} {
		if got, err := host.CPUs(s); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"a", "3-1", "-1", "0-999999"} {
		if _, err := host.CPUs(s); err == nil {
			t.Errorf("%q is a list", s)
		}
	}
}

func TestUsableCPUs(t *testing.T) {
	for _, c := range []struct {
		allowed, online string
		want            []int
	}{{"0-127", "0-3", []int{0, 1, 2, 3}}, {"2-3,7", "0-6", []int{2, 3}}, {"1", "", []int{1}}, {"4", "0-3", nil}, {"a", "0", nil}, {"", "0", nil}} {
		f := fstest.MapFS{"proc/self/status": {Data: []byte("Name:\tnpd\nCpus_allowed:\tff\nCpus_allowed_list:\t" + c.allowed + "\nMems_allowed:\t1\n")}}
		if c.online != "" {
			f["sys/devices/system/cpu/online"] = &fstest.MapFile{Data: []byte(c.online + "\n")}
		}
		got, err := host.UsableCPUs(f)
		if !reflect.DeepEqual(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%q of %q: %v, %v", c.allowed, c.online, got, err)
		}
	}
}
