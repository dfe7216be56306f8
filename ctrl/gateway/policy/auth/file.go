package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// fileMax bounds a file: a hundred thousand users or keys.
const fileMax = 16 << 20

// checkEvery is how often a file is looked at for changes.
const checkEvery = 5 * time.Second

// file is a file that is read again when it changes.
type file struct {
	path   string
	secret bool                                 // others must not read it
	load   func([]byte) (use func(), err error) // use puts it in force
	now    func() time.Time

	mu     sync.Mutex
	stamp  stamp
	loaded time.Time
	err    error
}

// stamp tells one state of a file from another.
type stamp struct {
	mod   time.Time
	size  int64
	inode uint64
}

func stampOf(fi fs.FileInfo) stamp {
	s := stamp{mod: fi.ModTime(), size: fi.Size()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		s.inode = st.Ino
	}
	return s
}

// Reload reads the file, whether it changed or not. After an error what was read before stays.
func (f *file) Reload() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reload()
}

func (f *file) reload() error {
	use, s, err := f.read()
	if err == nil {
		use()
		f.loaded = f.now()
	}
	f.stamp, f.err = s, err
	return err
}

func (f *file) read() (use func(), s stamp, err error) {
	b, s, err := readFile(f.path, f.secret)
	if err == nil {
		if use, err = f.load(b); err != nil {
			err = fmt.Errorf("%s:%w", f.path, err)
		}
	}
	return use, s, err
}

// Verify says what is wrong with the file as it is now. What was read stays.
func (f *file) Verify() error {
	_, _, err := f.read()
	return err
}

// Run reads the file again when it changes, until ctx ends.
func (f *file) Run(ctx context.Context) {
	t := time.NewTicker(checkEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			f.check()
		}
	}
}

func (f *file) check() {
	f.mu.Lock()
	defer f.mu.Unlock()
	fi, err := os.Stat(f.path)
	if err != nil {
		f.err = err // it may be about to be replaced: what was read stays
		return
	}
	if stampOf(fi) != f.stamp {
		_ = f.reload() // f.err has it
	}
}

func (f *file) state() (loaded time.Time, lastError string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		lastError = f.err.Error()
	}
	return f.loaded, lastError
}

func readFile(path string, secret bool) ([]byte, stamp, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hold up a reload
	if err != nil {
		return nil, stamp{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, stamp{}, err
	}
	if !fi.Mode().IsRegular() {
		return nil, stamp{}, fmt.Errorf("%s is no regular file", path)
	}
	if bits := fi.Mode().Perm(); secret && bits&0o007 != 0 || bits&0o002 != 0 {
		return nil, stamp{}, fmt.Errorf("%s has mode %04o, expected one in which others have no rights, such as 0640 (chmod o= %s)", path, bits, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, fileMax+1))
	if err != nil {
		return nil, stamp{}, err
	}
	if len(b) > fileMax {
		return nil, stamp{}, errors.New(path + " is longer than 16 MiB")
	}
	return b, stampOf(fi), nil
}

// ReadSecret reads a file of one secret that others must not read. A line end behind it is
// not part of it.
func ReadSecret(path string) (string, error) {
	b, _, err := readFile(path, true)
	if err != nil {
		return "", err
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" || strings.ContainsAny(s, "\r\n") {
		return "", fmt.Errorf("%s holds no secret, expected one line", path)
	}
	return s, nil
}
