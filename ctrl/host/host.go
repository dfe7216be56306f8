package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Files are read by package io/fs and written here.
type Files interface {
	fs.FS
	fs.ReadLinkFS
	WriteFile(name string, data []byte) error
}

// OS is the files below a directory: "/" is the machine.
type OS string

// Open implements [fs.FS].
func (o OS) Open(name string) (fs.File, error) { return os.DirFS(string(o)).Open(name) }

// ReadLink implements [fs.ReadLinkFS].
func (o OS) ReadLink(name string) (string, error) { return fs.ReadLink(os.DirFS(string(o)), name) }

// Lstat implements [fs.ReadLinkFS].
func (o OS) Lstat(name string) (fs.FileInfo, error) { return fs.Lstat(os.DirFS(string(o)), name) }

// WriteFile writes a file that there is; it makes none, as /sys does not either.
func (o OS) WriteFile(name string, data []byte) error {
	if !fs.ValidPath(name) {
		return &fs.PathError{Op: "write", Path: name, Err: fs.ErrInvalid}
	}
	f, err := os.OpenFile(filepath.Join(string(o), name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("write %q to /%s: %w", strings.TrimSpace(string(data)), name, err)
	}
	return nil
}

// Text reads a file without the blanks around it; "" when it can't be read.
func Text(f fs.FS, name string) string {
	b, err := fs.ReadFile(f, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Int reads a number, decimal or 0x; otherwise when there is none.
func Int(f fs.FS, name string, otherwise int) int {
	n, err := strconv.ParseInt(Text(f, name), 0, 64)
	if err != nil {
		return otherwise
	}
	return int(n)
}

// Exists says whether a file or folder is there.
func Exists(f fs.FS, name string) bool {
	_, err := fs.Stat(f, name)
	return err == nil
}

// Names lists a folder, in order; nil when it is not there.
func Names(f fs.FS, name string) []string {
	list, err := fs.ReadDir(f, name)
	if err != nil {
		return nil
	}
	out := make([]string, len(list))
	for i, e := range list {
		out[i] = e.Name()
	}
	return out
}

// LinkBase is the last part of where a link points, "" when it is none.
func LinkBase(f fs.FS, name string) string {
	to, err := fs.ReadLink(f, name)
	if err != nil {
		return ""
	}
	return path.Base(to)
}

// PCIAddress finds the last PCI address in a path, such as a link of /sys: a virtio
// device stands below the PCI device it is on.
func PCIAddress(p string) string {
	out := ""
	for part := range strings.SplitSeq(p, "/") {
		if IsPCIAddress(part) {
			out = part
		}
	}
	return out
}

// IsPCIAddress says whether s looks like "0000:00:04.0".
func IsPCIAddress(s string) bool {
	const shape = "xxxx:xx:xx.x"
	if len(s) != len(shape) {
		return false
	}
	for i := range s {
		hex := s[i] >= '0' && s[i] <= '9' || s[i] >= 'a' && s[i] <= 'f'
		if shape[i] == 'x' && !hex || shape[i] != 'x' && s[i] != shape[i] {
			return false
		}
	}
	return true
}

// IsName says whether s can be one part of a path: the name of an interface or a driver.
func IsName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '/' || r == ':' })
}

// CPUs reads a list such as "0-2,5".
func CPUs(s string) ([]int, error) {
	var out []int
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		a, b, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(a)
		last := first
		if ranged && err == nil {
			last, err = strconv.Atoi(b)
		}
		if err != nil || first < 0 || last < first || last > 1<<16 {
			return nil, fmt.Errorf("CPU list %q: expected numbers and ranges such as 0-2,5", s)
		}
		for c := first; c <= last; c++ { // bound: 65,536
			out = append(out, c)
		}
	}
	return out, nil
}

const onlineFile = "sys/devices/system/cpu/online"

// OnlineCPUs are the CPUs that are there, whoever may use them; without /sys those that this
// process may use.
func OnlineCPUs(f fs.FS) ([]int, error) {
	online, err := CPUs(Text(f, onlineFile))
	if err == nil && len(online) == 0 {
		return UsableCPUs(f)
	}
	return online, err
}

// UsableCPUs are the CPUs that this process may use: those of its affinity and its
// cpuset that are there.
func UsableCPUs(f fs.FS) ([]int, error) {
	var out []int
	for line := range strings.SplitSeq(Text(f, "proc/self/status"), "\n") {
		list, found := strings.CutPrefix(line, "Cpus_allowed_list:")
		if !found {
			continue
		}
		var err error
		if out, err = CPUs(list); err != nil {
			return nil, err
		}
	}
	online, err := CPUs(Text(f, onlineFile))
	if err != nil {
		return nil, err
	}
	if len(online) > 0 { // no list: a container without /sys
		out = slices.DeleteFunc(out, func(c int) bool { return !slices.Contains(online, c) })
	}
	if len(out) == 0 {
		return nil, errors.New("/proc/self/status: expected Cpus_allowed_list, the CPUs that the process may use")
	}
	return out, nil
}
