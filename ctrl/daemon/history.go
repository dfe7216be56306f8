package daemon

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/wholefile"
)

// history keeps the main files that were in force, in a folder: one file each, named by
// number and by what brought it, such as 000012-apply.toml. They are copies to the byte,
// so that one can be put back by hand where npd does not start.
type history struct {
	dir string
	max int
}

// entry is one of them.
type entry struct {
	number int
	reason string // start, reload, apply, rollback
	at     time.Time
	size   int64
	path   string
}

const historySuffix = ".toml"

// list returns the entries, oldest first. Files that are none of ours are left alone.
func (h *history) list() ([]entry, error) {
	files, err := os.ReadDir(h.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("history of configurations: %w", err)
	}
	var out []entry
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), historySuffix)
		num, reason, ok2 := strings.Cut(name, "-")
		n, err := strconv.Atoi(num)
		info, ierr := f.Info()
		if !ok || !ok2 || err != nil || n <= 0 || ierr != nil || !info.Mode().IsRegular() {
			continue
		}
		out = append(out, entry{number: n, reason: reason, at: info.ModTime(), size: info.Size(), path: filepath.Join(h.dir, f.Name())})
	}
	slices.SortFunc(out, func(a, b entry) int { return cmp.Compare(a.number, b.number) })
	return out, nil
}

// read returns what entry n was.
func (h *history) read(n int) (entry, []byte, error) {
	list, err := h.list()
	if err != nil {
		return entry{}, nil, err
	}
	i := slices.IndexFunc(list, func(e entry) bool { return e.number == n })
	if i < 0 {
		return entry{}, nil, fmt.Errorf("configuration %d: %w", n, errNoEntry)
	}
	data, err := os.ReadFile(list[i].path)
	if err != nil {
		return entry{}, nil, fmt.Errorf("history of configurations: %w", err)
	}
	return list[i], data, nil
}

var errNoEntry = errors.New("there is none of this number")

// add keeps data as the newest entry, unless it is the newest already, and forgets the
// oldest beyond max. It returns the newest entry's number; 0: nothing is kept.
func (h *history) add(data []byte, reason string, at time.Time) (int, error) {
	if h.max == 0 || data == nil {
		return 0, nil
	}
	list, err := h.list()
	if err != nil {
		return 0, err
	}
	next := 1
	if n := len(list); n > 0 {
		last := list[n-1]
		next = last.number + 1
		if have, err := os.ReadFile(last.path); err == nil && bytes.Equal(have, data) {
			return last.number, nil
		}
	}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return 0, fmt.Errorf("history of configurations: %w", err)
	}
	path := filepath.Join(h.dir, fmt.Sprintf("%06d-%s%s", next, reason, historySuffix))
	if err := wholefile.Replace(path, data, 0o600); err != nil {
		return 0, fmt.Errorf("history of configurations: %w", err)
	}
	_ = os.Chtimes(path, at, at) // only shown
	for len(list)+1 > h.max {
		if err := os.Remove(list[0].path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return next, fmt.Errorf("history of configurations: %w", err)
		}
		list = list[1:]
	}
	return next, nil
}
