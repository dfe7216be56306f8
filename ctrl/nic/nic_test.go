package nic

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/host"
)

const card = "0000:00:04.0"

// machine plays /sys in a folder: drivers take and leave the card as the kernel would.
type machine struct {
	host.OS
	t       *testing.T
	root    string
	natural string // driver that takes the card by itself
	returns string // interface it makes then
	refuses string // driver whose probe fails
}

func (m *machine) path(p string) string { return filepath.Join(m.root, p) }

func (m *machine) put(name, text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.path(name)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.path(name), []byte(text+"\n"), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) link(name, to string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.path(name)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(to, m.path(name)); err != nil {
		m.t.Fatal(err)
	}
}

// attach is a driver's taking the card; one of the kernel's makes an interface.
func (m *machine) attach(driver, iface string) {
	m.link("sys/bus/pci/devices/"+card+"/driver", "../../../bus/pci/drivers/"+driver)
	if iface != "" {
		m.link("sys/class/net/"+iface, "../../devices/pci0000:00/"+card+"/net/"+iface)
	}
}

func (m *machine) detach() {
	_ = os.Remove(m.path("sys/bus/pci/devices/" + card + "/driver"))
	for _, n := range host.Names(m, "sys/class/net") {
		if to, err := m.ReadLink("sys/class/net/" + n); err == nil && host.PCIAddress(to) == card {
			_ = os.Remove(m.path("sys/class/net/" + n))
		}
	}
}

func (m *machine) WriteFile(name string, data []byte) error {
	text := strings.TrimSpace(string(data))
	switch {
	case strings.HasSuffix(name, "/driver/unbind"):
		m.detach()
		return nil
	case name == "sys/bus/pci/drivers_probe":
		to := host.Text(m, "sys/bus/pci/devices/"+card+"/driver_override")
		if to == "" {
			to = m.natural
		}
		if to == "" || to == m.refuses {
			return nil // as the kernel: no error, no driver
		}
		m.take(to)
		return nil
	case strings.HasPrefix(name, "sys/bus/pci/drivers/") && strings.HasSuffix(name, "/bind"):
		m.take(strings.Split(name, "/")[4])
		return nil
	}
	if name == "sys/bus/pci/devices/"+card+"/driver_override" && text == "" {
		data = nil
	}
	return m.OS.WriteFile(name, data)
}

func (m *machine) take(driver string) {
	iface := ""
	if !Bypass(driver) {
		iface = m.returns
	}
	m.attach(driver, iface)
}

func newMachine(t *testing.T) *machine {
	root := t.TempDir()
	m := &machine{OS: host.OS(root), t: t, root: root, natural: "e1000e", returns: "eth1"}
	dev := "sys/devices/pci0000:00/" + card
	for name, text := range map[string]string{"class": "0x020000", "vendor": "0x8086", "device": "0x10d3", "numa_node": "1", "driver_override": "",
		"net/eth1/speed": "10000", "net/eth1/address": "52:54:00:12:34:56", "net/eth1/mtu": "1500", "net/eth1/flags": "0x1003", "net/eth1/carrier": "1",
		"net/eth1/queues/rx-0/x": "", "net/eth1/queues/rx-1/x": "", "net/eth1/queues/tx-0/x": ""} {
		m.put(dev+"/"+name, text)
	}
	if err := os.Remove(m.path(dev + "/driver_override")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.path(dev+"/driver_override"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	m.link("sys/bus/pci/devices/"+card, "../../../devices/pci0000:00/"+card)
	m.link(dev+"/iommu_group", "../../../kernel/iommu_groups/7")
	m.link("sys/kernel/iommu_groups/7/devices/"+card, "../../../../devices/pci0000:00/"+card)
	m.put("sys/bus/pci/drivers_probe", "")
	m.put("sys/bus/pci/drivers/vfio-pci/x", "")
	m.put("sys/bus/pci/drivers/e1000e/x", "")
	m.put("sys/devices/virtual/net/lo/mtu", "65536")
	m.link("sys/class/net/lo", "../../devices/virtual/net/lo")
	m.put("sys/devices/virtual/net/veth0/flags", "0x1002")
	m.link("sys/class/net/veth0", "../../devices/virtual/net/veth0")
	m.attach("e1000e", "eth1")
	return m
}

// stack plays the kernel's network stack.
type stack struct {
	carries  string
	restored []string
	fail     error
}

func (s *stack) Save(name string) (Link, error) {
	return Link{MTU: 1500, Up: true, Addresses: []string{"198.18.0.5/24"}, Addrs: [][]byte{{1}}, Routes: [][]byte{{2}}}, nil
}
func (s *stack) Carries(string) (string, error) { return s.carries, nil }
func (s *stack) Restore(is, name string, l *Link) error {
	if s.fail != nil {
		return s.fail
	}
	s.restored = append(s.restored, fmt.Sprintf("%s as %s with %v mtu %d", is, name, l.Addresses, l.MTU))
	return nil
}

func binder(t *testing.T, m *machine) (*Binder, *stack, *time.Time) {
	now := time.Now() // Guard's sleeps are real
	s := &stack{}
	return &Binder{Files: m, Dir: t.TempDir(), Net: s, Now: func() time.Time { return now }, Load: func(string) error { return errors.New("no such module") }, Appears: 50 * time.Millisecond}, s, &now
}

func (m *machine) driver() string { return host.LinkBase(m, "sys/bus/pci/devices/"+card+"/driver") }

func TestList(t *testing.T) {
	m := newMachine(t)
	b, _, _ := binder(t, m)
	list, err := List(m, b.Dir)
	want := []NIC{{Name: "eth1", PCI: card, Driver: "e1000e", ID: "8086:10d3", NUMANode: 1, RXQueues: 2, TXQueues: 1, SpeedMbps: 10000, State: "up",
		MAC: "52:54:00:12:34:56", MTU: 1500, IOMMUGroup: "7"}, {Name: "veth0", NUMANode: -1, SpeedMbps: -1, State: "down"}}
	if err != nil || !reflect.DeepEqual(list, want) {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := b.Bind("eth1", "vfio-pci", 0, false); err != nil {
		t.Fatal(err)
	}
	if list, err = List(m, b.Dir); err != nil || len(list) != 2 || list[1].Was != "eth1" || list[1].Driver != "vfio-pci" || list[1].State != "" {
		t.Errorf("%+v, %v", list, err)
	}
	for _, name := range []string{"eth1", card} {
		if n, err := Find(list, name); err != nil || n.PCI != card {
			t.Error(name, err)
		}
	}
	if _, err := Find(list, "eth7"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "veth0, eth1") {
		t.Error(err)
	}
	if Bound(b.Dir, "eth1") != card || Bound(b.Dir, "eth7") != "" || Bound("/nowhere", "eth1") != "" {
		t.Error("Bound")
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name, nic, to string
		change        func(m *machine, s *stack)
		force         bool
		want          string
	}{
		{"unknown", "eth7", "vfio-pci", nil, false, "there are: eth1, veth0"},
		{"virtual", "veth0", "vfio-pci", nil, false, "no PCI device"},
		{"driver", "eth1", "e1000", nil, false, "expected driver vfio-pci"},
		{"default route", "eth1", "vfio-pci", func(_ *machine, s *stack) { s.carries = "it carries the default route" }, false, "it carries the default route; this machine could become unreachable (--force"},
		{"bond", "eth1", "vfio-pci", func(m *machine, _ *stack) {
			m.link("sys/devices/pci0000:00/"+card+"/net/eth1/master", "../bond0")
		}, false, "a part of bond0"},
		{"no driver", "eth1", "uio_pci_generic", nil, false, "modprobe uio_pci_generic"},
		{"no IOMMU", "eth1", "vfio-pci", func(m *machine, _ *stack) {
			_ = os.Remove(m.path("sys/devices/pci0000:00/" + card + "/iommu_group"))
		}, false, "intel_iommu=on"},
		{"shared group", "eth1", "vfio-pci", func(m *machine, _ *stack) {
			m.put("sys/devices/pci0000:00/0000:00:05.0/class", "0x010000")
			m.link("sys/devices/pci0000:00/0000:00:05.0/driver", "../../../bus/pci/drivers/ahci")
			m.link("sys/bus/pci/devices/0000:00:05.0", "../../../devices/pci0000:00/0000:00:05.0")
			m.link("sys/kernel/iommu_groups/7/devices/0000:00:05.0", "../../../../devices/pci0000:00/0000:00:05.0")
		}, true, "0000:00:05.0 (driver ahci) is in the same IOMMU group 7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			b, s, _ := binder(t, m)
			if tt.change != nil {
				tt.change(m, s)
			}
			_, err := b.Bind(tt.nic, tt.to, time.Minute, tt.force)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if states, _ := States(b.Dir); len(states) != 0 || m.driver() != "e1000e" {
				t.Errorf("touched: %+v, driver %s", states, m.driver())
			}
		})
	}
}

// TestForce: what carries the default route is bound with --force, and without
// an IOMMU where the operator allowed that.
func TestForce(t *testing.T) {
	m := newMachine(t)
	b, s, _ := binder(t, m)
	s.carries = "it carries the default route"
	_ = os.Remove(m.path("sys/devices/pci0000:00/" + card + "/iommu_group"))
	m.put("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y")
	if _, err := b.Bind("eth1", "vfio-pci", time.Minute, true); err != nil || m.driver() != "vfio-pci" {
		t.Error(err, m.driver())
	}
	if _, err := b.Bind("eth1", "vfio-pci", time.Minute, true); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "bound to vfio-pci already") {
		t.Error("twice:", err)
	}
}

// TestRoundTrip: bound and restored, by request, at the deadline, when the guard is
// told to end, and by the next to come when the guard was killed.
func TestRoundTrip(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	for _, tt := range []struct {
		name string
		undo func(b *Binder, now *time.Time) error
	}{
		{"unbind", func(b *Binder, _ *time.Time) error { _, err := b.Unbind("eth1"); return err }},
		{"unbind a confirmed one", func(b *Binder, _ *time.Time) error {
			if err := b.Confirm("eth1"); err != nil {
				return err
			}
			if restored, err := b.Guard(t.Context(), card); restored || err != nil {
				return fmt.Errorf("restored %v, %w", restored, err)
			}
			_, err := b.Unbind(card)
			return err
		}},
		{"time-out", func(b *Binder, now *time.Time) error {
			*now = now.Add(time.Minute)
			restored, err := b.Guard(t.Context(), card)
			if !restored {
				return fmt.Errorf("not restored: %w", err)
			}
			return err
		}},
		{"stopped", func(b *Binder, _ *time.Time) error {
			restored, err := b.Guard(ended, card)
			if !restored {
				return fmt.Errorf("not restored: %w", err)
			}
			return err
		}},
		{"killed", func(b *Binder, now *time.Time) error {
			if done, err := b.RestoreExpired(); len(done) != 0 || err != nil {
				return fmt.Errorf("too early: %v, %w", done, err)
			}
			*now = now.Add(time.Hour)
			done, err := b.RestoreExpired()
			if len(done) != 1 || done[0].Name != "eth1" {
				return fmt.Errorf("restored %v", done)
			}
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			b, s, now := binder(t, m)
			st, err := b.Bind("eth1", "vfio-pci", time.Minute, false)
			if err != nil || m.driver() != "vfio-pci" || host.Text(m, "sys/bus/pci/devices/"+card+"/driver_override") != "vfio-pci" {
				t.Fatal(err, m.driver())
			}
			if st.Confirmed || !st.Deadline.Equal(now.Add(time.Minute)) || st.Driver != "e1000e" {
				t.Errorf("%+v", st)
			}
			m.returns = "enp0s4" // udev calls it otherwise now
			if err := tt.undo(b, now); err != nil {
				t.Fatal(err)
			}
			if m.driver() != "e1000e" || host.Text(m, "sys/bus/pci/devices/"+card+"/driver_override") != "" {
				t.Errorf("driver %s", m.driver())
			}
			if want := []string{"enp0s4 as eth1 with [198.18.0.5/24] mtu 1500"}; !reflect.DeepEqual(s.restored, want) {
				t.Errorf("restored %q", s.restored)
			}
			if states, err := States(b.Dir); err != nil || len(states) != 0 {
				t.Errorf("left: %+v, %v", states, err)
			}
			if _, err := b.Unbind("eth1"); !errors.Is(err, ErrNotFound) {
				t.Error("again:", err)
			}
		})
	}
}

// TestBindFails: a driver that does not take the card leaves it as it was.
func TestBindFails(t *testing.T) {
	m := newMachine(t)
	b, s, _ := binder(t, m)
	m.refuses = "vfio-pci"
	_, err := b.Bind("eth1", "vfio-pci", time.Minute, false)
	if err == nil || !strings.Contains(err.Error(), "the kernel bound it to \"\" instead") {
		t.Error(err)
	}
	if m.driver() != "e1000e" || len(s.restored) != 1 {
		t.Errorf("driver %s, restored %q", m.driver(), s.restored)
	}
	if states, _ := States(b.Dir); len(states) != 0 {
		t.Errorf("left: %+v", states)
	}
}

// TestRestoreFails: the state stays until all is as it was; the next try ends it.
func TestRestoreFails(t *testing.T) {
	m := newMachine(t)
	b, s, now := binder(t, m)
	if _, err := b.Bind("eth1", "vfio-pci", time.Minute, false); err != nil {
		t.Fatal(err)
	}
	m.natural, s.fail = "", errors.New("no route") // nobody takes it by itself: the driver is named
	if _, err := b.Unbind("eth1"); err == nil || !strings.Contains(err.Error(), "no route") || m.driver() != "e1000e" {
		t.Error(err, m.driver())
	}
	*now, s.fail = now.Add(time.Hour), nil
	if done, err := b.RestoreExpired(); len(done) != 1 || err != nil {
		t.Error(done, err)
	}
	if err := b.Confirm("eth1"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// TestConfirmTooLate: a confirmation after the deadline is refused, whoever is quicker.
func TestConfirmTooLate(t *testing.T) {
	m := newMachine(t)
	b, _, now := binder(t, m)
	if _, err := b.Bind("eth1", "vfio-pci", time.Minute, false); err != nil {
		t.Fatal(err)
	}
	*now = now.Add(time.Minute)
	if err := b.Confirm("eth1"); err == nil || !strings.Contains(err.Error(), "too late") {
		t.Error(err)
	}
}

func TestStateFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{card + ".json": "{", "0000:00:05.0.json": `{"pci": "0000:00:06.0"}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := States(dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		_ = os.Remove(filepath.Join(dir, name))
	}
}

// TestForeignStates: files that others wrote, or that lead elsewhere, are told and
// stop nothing that is done for other cards.
func TestForeignStates(t *testing.T) {
	m := newMachine(t)
	b, _, now := binder(t, m)
	if _, err := b.Bind("eth1", "vfio-pci", time.Second, false); err != nil {
		t.Fatal(err)
	}
	put := func(name, text string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(b.Dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	good := func(pci string) string {
		return fmt.Sprintf(`{"pci": %q, "name": "eth9", "driver": "e1000e", "confirmed": true}`, pci)
	}
	put("0000:00:10.0.json", "rubbish", 0o600)
	put("0000:00:10.1.json", good("0000:00:10.1"), 0o666)
	put("0000:00:10.2.json", strings.Replace(good("0000:00:10.2"), "e1000e", "../../../../tmp", 1), 0o600)
	put("0000:00:10.3.json", strings.Replace(good("0000:00:10.3"), "eth9", "../eth9", 1), 0o600)
	put("0000:00:10.4.json", good("0000:00:10.4")+strings.Repeat(" ", stateMax), 0o600)
	put("...json", good(".."), 0o600)
	bad := []string{"10.0", "10.1", "10.2", "10.3", "10.4", "...json", "10.5", "10.6", "10.7"}
	if err := errors.Join(os.Symlink(filepath.Join(b.Dir, card+".json"), filepath.Join(b.Dir, "0000:00:10.5.json")),
		syscall.Mkfifo(filepath.Join(b.Dir, "0000:00:10.6.json"), 0o600), os.Mkdir(filepath.Join(b.Dir, "0000:00:10.7.json"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		put("0000:00:10.8.json", good("0000:00:10.8"), 0o600)
		if err := os.Chown(filepath.Join(b.Dir, "0000:00:10.8.json"), 65534, 65534); err != nil {
			t.Fatal(err)
		}
		bad = append(bad, "10.8")
	}
	all, err := States(b.Dir)
	if len(all) != 1 || all[0].PCI != card || err == nil {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, name := range bad {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("nothing is said of %s: %v", name, err)
		}
	}
	if list, err := List(m, b.Dir); err != nil || Bound(b.Dir, "eth1") != card || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := b.Unbind("eth9"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("a card that may be one of those: %v", err)
	}
	*now = now.Add(time.Minute)
	if done, err := b.RestoreExpired(); len(done) != 1 || err == nil || m.driver() != "e1000e" {
		t.Errorf("%+v, %v, driver %s", done, err, m.driver())
	}
	b.Now = time.Now
	if _, err := b.Bind("eth1", "vfio-pci", 50*time.Millisecond, false); err != nil {
		t.Fatal(err)
	}
	if restored, err := b.Guard(t.Context(), card); !restored || err != nil || m.driver() != "e1000e" {
		t.Errorf("guard: %v, %v, driver %s", restored, err, m.driver())
	}
}

// TestHeld: a card that a process has open is not taken from under it, and comes back
// when that process has ended.
func TestHeld(t *testing.T) {
	m := newMachine(t)
	b, _, now := binder(t, m)
	if _, err := b.Bind("eth1", "vfio-pci", time.Minute, false); err != nil {
		t.Fatal(err)
	}
	m.put("proc/4711/comm", "npd")
	m.put("proc/self/x", "")
	m.link("proc/4711/fd/9", "/dev/vfio/7")
	m.link("proc/4711/fd/8", "/dev/vfio/vfio")
	if _, err := b.Unbind("eth1"); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "process 4711 (npd) has it open") {
		t.Error(err)
	}
	*now = now.Add(time.Hour)
	if done, err := b.RestoreExpired(); len(done) != 0 || err == nil || m.driver() != "vfio-pci" {
		t.Error(done, err, m.driver())
	}
	restored := make(chan error, 1)
	go func() {
		_, err := b.Guard(t.Context(), card)
		restored <- err
	}()
	time.Sleep(50 * time.Millisecond)
	if m.driver() != "vfio-pci" {
		t.Error("taken from under it")
	}
	if err := os.RemoveAll(m.path("proc/4711")); err != nil {
		t.Fatal(err)
	}
	if err := <-restored; err != nil || m.driver() != "e1000e" {
		t.Error(err, m.driver())
	}
}
