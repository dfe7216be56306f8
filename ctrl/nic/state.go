package nic

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
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

// States reads all state files of a folder that need not exist.
func States(dir string) ([]State, error) {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read states of network cards: %w", err)
	}
	var out []State
	for _, e := range list {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		var s State
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err == nil {
			err = json.Unmarshal(b, &s)
		}
		if err == nil && e.Name() != s.PCI+".json" {
			err = errors.New("it is of another card than its name says")
		}
		if err != nil {
			return nil, fmt.Errorf("state of a network card, %s: %w", filepath.Join(dir, e.Name()), err)
		}
		out = append(out, s)
	}
	return out, nil
}

// save writes a state so that it survives a crash, whole or not at all.
func (s *State) save(dir string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write state of %s: %w", s.Name, err)
	}
	tmp := file(dir, s.PCI) + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write state of %s: %w", s.Name, err)
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, file(dir, s.PCI))
	}
	if err != nil {
		return fmt.Errorf("write state of %s: %w", s.Name, errors.Join(err, os.Remove(tmp)))
	}
	return nil
}

// lock keeps guard, npctl and npd apart; the function returned unlocks.
func lock(dir string) (func(), error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("states of network cards: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("states of network cards: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock states of network cards: %w", err)
	}
	return func() { _ = f.Close() }, nil
}
