package nic

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/host"
)

// Network is what must be asked of the kernel's network stack; [Netlink] is the real one.
type Network interface {
	// Save reads what an interface has.
	Save(name string) (Link, error)
	// Carries says what would be lost with an interface: the default route, an SSH session. "" nothing.
	Carries(name string) (string, error)
	// Restore gives an interface, which may have got another name, its old one and what it had.
	Restore(is, name string, l *Link) error
}

// Binder binds and restores cards. One process at a time changes anything: a
// lock beside the state files sees to it.
type Binder struct {
	Files   host.Files
	Dir     string // of state files
	Net     Network
	Now     func() time.Time
	Load    func(module string) error // loads a kernel module
	Appears time.Duration             // how long a returning interface may take
}

// System is the machine's binder, with state files in dir.
func System(dir string) *Binder {
	files := host.OS("/")
	return &Binder{Files: files, Dir: dir, Net: Netlink{Files: files, SSH: os.Getenv("SSH_CONNECTION")}, Now: time.Now, Load: modprobe, Appears: 10 * time.Second}
}

func modprobe(module string) error {
	out, err := exec.Command("modprobe", module).CombinedOutput()
	if err != nil {
		return fmt.Errorf("modprobe %s: %w: %s", module, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// ErrNotFound: there is no such card, or none that was bound.
var ErrNotFound = errors.New("not found")

// ErrRefused: binding would do harm; --force does it all the same where the text says so.
var ErrRefused = errors.New("refused")

// Bind gives a card to a driver such as vfio-pci. It is restored at the deadline
// unless confirmed; confirm 0 confirms at once. On an error the card is as it was, or the
// error says what is not.
func (b *Binder) Bind(name, to string, confirm time.Duration, force bool) (*State, error) {
	unlock, err := lock(b.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	list, err := List(b.Files, b.Dir)
	if err != nil {
		return nil, err
	}
	n, err := Find(list, name)
	if err != nil {
		return nil, err
	}
	if err := b.may(&n, to, force); err != nil {
		return nil, fmt.Errorf("bind %s to %s: %w", name, to, err)
	}
	s := &State{Schema: "np/v1", Name: n.Name, PCI: n.PCI, Driver: n.Driver, To: to, BoundAt: b.Now().UTC(), Confirmed: confirm == 0}
	s.Deadline = s.BoundAt.Add(confirm)
	if s.Link, err = b.Net.Save(n.Name); err != nil {
		return nil, fmt.Errorf("bind %s to %s: %w", name, to, err)
	}
	if err := s.save(b.Dir); err != nil {
		return nil, err
	}
	if err := b.give(n.PCI, to); err != nil {
		return nil, errors.Join(fmt.Errorf("bind %s to %s: %w", name, to, err), b.restore(s))
	}
	return s, nil
}

// may says why not.
func (b *Binder) may(n *NIC, to string, force bool) error {
	switch {
	case !Bypass(to):
		return fmt.Errorf("%w: expected driver vfio-pci, uio_pci_generic or igb_uio", ErrRefused)
	case n.PCI == "":
		return fmt.Errorf("%w: it is no PCI device", ErrRefused)
	case Bypass(n.Driver):
		return fmt.Errorf("%w: it is bound to %s already (npctl nic unbind %s)", ErrRefused, n.Driver, n.Label())
	case n.Name == "":
		return fmt.Errorf("%w: the kernel has no interface of it to go back to (driver %q)", ErrRefused, n.Driver)
	}
	if !force {
		why, err := b.Net.Carries(n.Name)
		if err != nil {
			return err
		}
		if why == "" && n.Upper != "" {
			why = "it is a part of " + n.Upper
		}
		if why != "" {
			return fmt.Errorf("%w: %s; this machine could become unreachable (--force does it all the same; it comes back unless confirmed)", ErrRefused, why)
		}
	}
	if !host.Exists(b.Files, "sys/bus/pci/drivers/"+to) {
		if err := b.Load(to); err != nil {
			return fmt.Errorf("driver %s is not there: %w (modprobe %s)", to, err, to)
		}
		if !host.Exists(b.Files, "sys/bus/pci/drivers/"+to) {
			return fmt.Errorf("driver %s is not there (modprobe %s)", to, to)
		}
	}
	if to != "vfio-pci" {
		return nil
	}
	return b.group(n)
}

// group checks that vfio can isolate the card: the IOMMU's group must be its own, as
// all devices of a group go to one program.
func (b *Binder) group(n *NIC) error {
	if n.IOMMUGroup == "" {
		if host.Text(b.Files, "sys/module/vfio/parameters/enable_unsafe_noiommu_mode") == "Y" {
			return nil
		}
		return fmt.Errorf("%w: the machine has no IOMMU in use (boot with intel_iommu=on or amd_iommu=on; or, without its protection: "+
			"echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode)", ErrRefused)
	}
	dir := path.Join(pciDir, n.PCI, "iommu_group/devices")
	for _, other := range host.Names(b.Files, dir) {
		if other == n.PCI || !host.IsPCIAddress(other) || strings.HasPrefix(host.Text(b.Files, path.Join(pciDir, other, "class")), "0x06") {
			continue // bridges stay with the kernel
		}
		if d := host.LinkBase(b.Files, path.Join(pciDir, other, "driver")); d != "" && d != "vfio-pci" {
			return fmt.Errorf("%w: %s (driver %s) is in the same IOMMU group %s and would have to be bound too", ErrRefused, other, d, n.IOMMUGroup)
		}
	}
	return nil
}

// give moves a device from its driver to another; "" lets the kernel choose.
func (b *Binder) give(pci, to string) error {
	dir := path.Join(pciDir, pci)
	override := to
	if override == "" {
		override = "\n"
	}
	if err := b.Files.WriteFile(dir+"/driver_override", []byte(override)); err != nil {
		return err
	}
	if host.Exists(b.Files, dir+"/driver") {
		if err := b.Files.WriteFile(dir+"/driver/unbind", []byte(pci)); err != nil {
			return err
		}
	}
	if err := b.Files.WriteFile("sys/bus/pci/drivers_probe", []byte(pci)); err != nil {
		return err
	}
	if is := host.LinkBase(b.Files, dir+"/driver"); to != "" && is != to {
		return fmt.Errorf("the kernel bound it to %q instead (dmesg says why)", is)
	}
	return nil
}

// state finds a state by the card's name or address. The lock is held.
func (b *Binder) state(name string) (*State, error) {
	all, err := States(b.Dir)
	for i := range all {
		if all[i].Name == name || all[i].PCI == name {
			return &all[i], nil
		}
	}
	if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("network card %s was not bound by npctl: %w", name, ErrNotFound)
}

// Confirm makes a binding stay.
func (b *Binder) Confirm(name string) error {
	unlock, err := lock(b.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := b.state(name)
	if err != nil {
		return err
	}
	if !s.Confirmed && !b.Now().Before(s.Deadline) {
		return fmt.Errorf("confirm %s: too late, it is being restored", name)
	}
	s.Confirmed = true
	return s.save(b.Dir)
}

// Unbind gives a card back to the kernel, with all it had.
func (b *Binder) Unbind(name string) (*State, error) {
	unlock, err := lock(b.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := b.state(name)
	if err != nil {
		return nil, err
	}
	if who := b.holder(s.PCI); who != "" {
		return nil, fmt.Errorf("unbind %s: %w: %s has it open (stop it first)", name, ErrRefused, who)
	}
	return s, b.restore(s)
}

// holder names a process that has a card open by vfio or uio, "" none: taking the card
// from under it would wait for its end.
func (b *Binder) holder(pci string) string {
	var devices []string
	if group := host.LinkBase(b.Files, path.Join(pciDir, pci, "iommu_group")); group != "" {
		devices = append(devices, "/dev/vfio/"+group, "/dev/vfio/noiommu-"+group)
	}
	for _, u := range host.Names(b.Files, path.Join(pciDir, pci, "uio")) {
		devices = append(devices, "/dev/"+u)
	}
	for _, pid := range host.Names(b.Files, "proc") {
		if pid[0] < '0' || pid[0] > '9' {
			continue
		}
		for _, fd := range host.Names(b.Files, "proc/"+pid+"/fd") {
			if to, err := b.Files.ReadLink("proc/" + pid + "/fd/" + fd); err == nil && slices.Contains(devices, to) {
				return fmt.Sprintf("process %s (%s)", pid, host.Text(b.Files, "proc/"+pid+"/comm"))
			}
		}
	}
	return ""
}

// restore undoes a binding. What fails is tried again by the next who comes: the
// state goes only when all is as it was. The lock is held.
func (b *Binder) restore(s *State) error {
	wrap := func(err error) error { return fmt.Errorf("restore %s (%s): %w", s.Name, s.PCI, err) }
	dir := path.Join(pciDir, s.PCI)
	if !host.Exists(b.Files, dir) {
		return errors.Join(wrap(errors.New("the device is gone")), os.Remove(file(b.Dir, s.PCI)))
	}
	if is := host.LinkBase(b.Files, dir+"/driver"); is != s.Driver {
		if err := b.give(s.PCI, ""); err != nil {
			return wrap(err)
		}
		if is = host.LinkBase(b.Files, dir+"/driver"); is == "" { // nobody took it: name the driver
			if err := b.Files.WriteFile("sys/bus/pci/drivers/"+s.Driver+"/bind", []byte(s.PCI)); err != nil {
				return wrap(err)
			}
		}
	} else if err := b.Files.WriteFile(dir+"/driver_override", []byte("\n")); err != nil {
		return wrap(err)
	}
	is, err := b.appears(s.PCI)
	if err != nil {
		return wrap(err)
	}
	if err := b.Net.Restore(is, s.Name, &s.Link); err != nil {
		return wrap(err)
	}
	if err := os.Remove(file(b.Dir, s.PCI)); err != nil {
		return wrap(err)
	}
	return nil
}

// appears waits for the interface of a device that went back to its driver.
func (b *Binder) appears(pci string) (string, error) {
	const pause = 20 * time.Millisecond
	for waited := time.Duration(0); ; waited += pause {
		for _, name := range host.Names(b.Files, netDir) {
			if to, err := fs.ReadLink(b.Files, path.Join(netDir, name)); err == nil && host.PCIAddress(to) == pci {
				return name, nil
			}
		}
		if waited >= b.Appears {
			return "", fmt.Errorf("no interface came within %v", b.Appears)
		}
		time.Sleep(pause)
	}
}

// RestoreExpired undoes bindings that nobody confirmed in time; for whoever starts
// next, when the guard was killed. It returns those it restored.
func (b *Binder) RestoreExpired() ([]State, error) {
	all, err := States(b.Dir)
	if len(all) == 0 {
		return nil, err
	}
	unlock, err := lock(b.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	all, err = States(b.Dir)
	var done []State
	errs := []error{err}
	for i := range all {
		if s := &all[i]; !s.Confirmed && !b.Now().Before(s.Deadline) {
			if who := b.holder(s.PCI); who != "" {
				errs = append(errs, fmt.Errorf("restore %s: %s has it open", s.Name, who))
				continue
			}
			if err := b.restore(s); err != nil {
				errs = append(errs, err)
				continue
			}
			done = append(done, *s)
		}
	}
	return done, errors.Join(errs...)
}

// Guard waits for the confirmation of a binding. Without it the card is restored at
// the deadline, and at once when ctx ends; a process that has it open then is waited for. The result says whether it was.
func (b *Binder) Guard(ctx context.Context, pci string) (restored bool, err error) {
	const look = 100 * time.Millisecond
	for {
		s, err := readState(file(b.Dir, pci))
		if errors.Is(err, fs.ErrNotExist) || err == nil && s.Confirmed {
			return false, nil // somebody restored or confirmed it
		}
		if err != nil {
			return false, err
		}
		left := s.Deadline.Sub(b.Now())
		if left <= 0 || ctx.Err() != nil {
			if b.holder(pci) == "" {
				return b.giveUp(pci)
			}
			time.Sleep(look) // it comes back as soon as the process that has it open ends
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(left, look)):
		}
	}
}

// giveUp restores a card unless it was confirmed in the last moment.
func (b *Binder) giveUp(pci string) (bool, error) {
	unlock, err := lock(b.Dir)
	if err != nil {
		return false, err
	}
	defer unlock()
	s, err := b.state(pci)
	if errors.Is(err, ErrNotFound) || err == nil && s.Confirmed {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, b.restore(s)
}

// Bound finds the PCI address of a card that was bound to vfio-pci or the like, by the
// name it had; "" none.
func Bound(dir, name string) string {
	all, _ := States(dir) // of those that are wrong RestoreExpired tells
	for _, s := range all {
		if s.Name == name {
			return s.PCI
		}
	}
	return ""
}
