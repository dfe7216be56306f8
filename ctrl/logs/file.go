package logs

import (
	"fmt"
	"os"
	"sync"
)

// File is a log file: written at its end, and opened again by its name after it was moved
// away. Safe for concurrent use.
type File struct {
	path string

	mu sync.Mutex
	f  *os.File // nil: closed
}

// Open opens the file at path, and makes it if there is none. "-" is standard output, which
// is neither opened again nor closed.
func Open(path string) (*File, error) {
	f := &File{path: path}
	if path == "-" {
		f.f = os.Stdout
		return f, nil
	}
	if err := f.Reopen(); err != nil {
		return nil, err
	}
	return f, nil
}

// Path returns the file's name.
func (f *File) Path() string { return f.path }

// Reopen opens the file again. With an error the one that is open stays.
func (f *File) Reopen() error {
	if f.path == "-" {
		return nil
	}
	next, err := os.OpenFile(f.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open log file: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f != nil {
		f.f.Close()
	}
	f.f = next
	return nil
}

// Write appends b.
func (f *File) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f == nil {
		return 0, os.ErrClosed
	}
	return f.f.Write(b)
}

// Close closes the file; what is written later is an error.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f == nil {
		return nil
	}
	var err error
	if f.path != "-" {
		err = f.f.Close()
	}
	f.f = nil
	return err
}
