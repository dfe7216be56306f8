package nic

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/np-appliance/np/ctrl/host"
	"github.com/np-appliance/np/ctrl/wholefile"
)

// Link is what the kernel's interface had and will have again.
type Link struct {
	MTU       int      `json:"mtu_bytes"`
	Up        bool     `json:"up"`
	Addresses []string `json:"addresses"`        // for people
	Addrs     [][]byte `json:"address_messages"` // netlink's own words, given back to it
	Routes    [][]byte `json:"route_messages"`
}

// State is what was done with a card.
type State struct {
	Schema    string    `json:"schema"`
	Name      string    `json:"name"`
	PCI       string    `json:"pci"`
	Driver    string    `json:"driver"` // it had
	To        string    `json:"to"`     // it was given
	Link      Link      `json:"link"`
	BoundAt   time.Time `json:"bound_at"`
	Deadline  time.Time `json:"deadline"`  // restored then, unless confirmed
	Confirmed bool      `json:"confirmed"` // stays until Unbind
}

// Dir is where state files are: gone after a reboot, like what they tell of.
const Dir = "/run/np/nic"

func file(dir, pci string) string { return filepath.Join(dir, pci+".json") }

// stateMax bounds a state file; its most are the messages of addresses and routes.
const stateMax = 4 << 20

// States reads all state files of a folder that need not exist. One that is wrong is told
// in err and hides none of the others: they are to be restored.
func States(dir string) ([]State, error) {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read states of network cards: %w", err)
	}
	var out []State
	var errs []error
	for _, e := range list {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		s, err := readState(filepath.Join(dir, e.Name()))
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) { // restored meanwhile
				errs = append(errs, err)
			}
			continue
		}
		out = append(out, *s)
	}
	return out, errors.Join(errs...)
}

// readState reads one. It says what root does to a card, so it must be root's own.
func readState(path string) (*State, error) {
	wrap := func(err error) (*State, error) {
		return nil, fmt.Errorf("state of a network card, %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return wrap(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return wrap(err)
	}
	own, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !fi.Mode().IsRegular():
		return wrap(errors.New("it is no regular file"))
	case !ok || own.Uid != 0 && int(own.Uid) != os.Geteuid() || fi.Mode().Perm()&0o022 != 0:
		return wrap(errors.New("others may have written it, expected it of root and mode 0600"))
	}
	b, err := io.ReadAll(io.LimitReader(f, stateMax+1))
	if err != nil {
		return wrap(err)
	}
	if len(b) > stateMax {
		return wrap(fmt.Errorf("longer than %d bytes", stateMax))
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return wrap(err)
	}
	if filepath.Base(path) != s.PCI+".json" {
		return wrap(errors.New("it is of another card than its name says"))
	}
	if err := s.check(); err != nil {
		return wrap(err)
	}
	return &s, nil
}

// check refuses what would lead elsewhere in /sys.
func (s *State) check() error {
	switch {
	case !host.IsPCIAddress(s.PCI):
		return fmt.Errorf("pci %q: expected an address such as 0000:03:00.0", s.PCI)
	case !host.IsName(s.Name) || len(s.Name) > 15:
		return fmt.Errorf("name %q: expected an interface's", s.Name)
	case !host.IsName(s.Driver):
		return fmt.Errorf("driver %q: expected a driver's name", s.Driver)
	}
	return nil
}

// save writes a state so that it survives a crash, whole or not at all.
func (s *State) save(dir string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write state of %s: %w", s.Name, err)
	}
	if err := wholefile.Replace(file(dir, s.PCI), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write state of %s: %w", s.Name, err)
	}
	return nil
}

// lock keeps guard, npctl and npd apart; the function returned unlocks.
func lock(dir string) (func(), error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("states of network cards: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("states of network cards: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock states of network cards: %w", err)
	}
	return func() { _ = f.Close() }, nil
}
