package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Source brings lists of endpoints to apply until ctx ends; then it returns nil. It tells
// errors to report and keeps on.
type Source interface {
	Run(ctx context.Context, apply func([]Spec) error, report func(error)) error
}

// Static is a [Source] of one list that never changes.
type Static []Spec

// Run implements [Source].
func (s Static) Run(ctx context.Context, apply func([]Spec) error, _ func(error)) error {
	if err := apply(s); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

const maxFile = 4 << 20 // bytes; MaxEndpoints lines of 400

// File is a [Source] that reads a file, again when its size or time changes. A file that
// can't be read or is wrong changes nothing: the list before stays, the error is told once.
type File struct {
	Path  string
	Every time.Duration // 1 s when 0
	Clock Clock         // SystemClock when nil

	read  bool
	mtime time.Time
	size  int64
	fresh bool // it changed so shortly before it was read that its time may not tell the next change
	last  string
	told  string
	bad   error // of the content read last
}

// Run implements [Source].
func (f *File) Run(ctx context.Context, apply func([]Spec) error, report func(error)) error {
	every, clock := f.Every, f.clock()
	defaultTo(&every, time.Second)
	for {
		if _, err := f.Poll(apply); err != nil {
			if s := err.Error(); s != f.told {
				f.told = s
				report(err)
			}
		} else {
			f.told = ""
		}
		c, stop := clock.Timer(every)
		select {
		case <-c:
		case <-ctx.Done():
			stop()
			return nil
		}
	}
}

func (f *File) clock() Clock {
	if f.Clock == nil {
		return SystemClock{}
	}
	return f.Clock
}

// Poll reads the file if it changed, and applies it if it is right. While a wrong file
// stays as it is, its error is returned each time.
func (f *File) Poll(apply func([]Spec) error) (applied bool, err error) {
	file, err := os.OpenFile(f.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO would wait for a writer, past ctx
	if err != nil {
		f.read = false
		return false, fmt.Errorf("endpoints of %w", err)
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return false, fmt.Errorf("endpoints of %w", err)
	}
	if !st.Mode().IsRegular() {
		return false, fmt.Errorf("%s: expected a file of endpoints, it is not a regular file", f.Path)
	}
	same := f.read && st.ModTime().Equal(f.mtime) && st.Size() == f.size
	if same && !f.fresh {
		return false, f.bad
	}
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		f.read = false
		return false, fmt.Errorf("endpoints of %s: %w", f.Path, err)
	}
	// Times of files tick coarsely: within 2 s the same time may mean another content.
	f.fresh = f.clock().Now().Sub(st.ModTime()).Abs() < 2*time.Second
	text := string(b)
	if same && text == f.last {
		return false, f.bad
	}
	f.read, f.mtime, f.size, f.last = true, st.ModTime(), st.Size(), text
	f.bad = nil
	if len(b) > maxFile {
		f.bad = fmt.Errorf("%s: more than %d bytes: expected a list of at most %d endpoints", f.Path, maxFile, MaxEndpoints)
		return false, f.bad
	}
	specs, err := Parse(f.Path, text)
	if err == nil {
		err = apply(specs)
	}
	if f.bad = err; err != nil {
		return false, err
	}
	return true, nil
}

// Parse reads a list: an endpoint a line, its address first, then in any order weight=N,
// priority=N, locality=NAME, drain, disabled; # begins a comment. A list that is empty on
// purpose is the one line none, since an empty file is mostly one half written. Errors
// say file:line and what was expected, all that there are up to ten.
func Parse(name, text string) ([]Spec, error) {
	var specs []Spec
	var errs []error
	seen := map[string]int{}
	none := 0
	n := 0
	for line := range strings.Lines(text) { // bound: maxFile
		n++
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) == 1 && fields[0] == "none" {
			none = n
			continue
		}
		s, err := parseLine(fields)
		if err == nil {
			if first := seen[s.Address]; first != 0 {
				err = fmt.Errorf("address %q: expected once, is in line %d", s.Address, first)
			} else if len(specs) == MaxEndpoints {
				err = fmt.Errorf("expected at most %d endpoints", MaxEndpoints)
			}
			seen[s.Address] = n
		}
		if err != nil {
			if errs = append(errs, fmt.Errorf("%s:%d: %w", name, n, err)); len(errs) == 10 {
				break
			}
			continue
		}
		specs = append(specs, s)
	}
	switch {
	case len(errs) > 0:
		return nil, errors.Join(errs...)
	case none != 0 && len(specs) > 0:
		return nil, fmt.Errorf("%s:%d: none among %d endpoints: expected it alone", name, none, len(specs))
	case none == 0 && len(specs) == 0:
		return nil, fmt.Errorf("%s:%d: expected an endpoint, host:port, a line, or the line none", name, max(1, n))
	}
	return specs, nil
}

func parseLine(fields []string) (Spec, error) {
	s := Spec{Address: fields[0]}
	if err := CheckAddress(s.Address); err != nil {
		return s, err
	}
	given := map[string]bool{}
	for _, f := range fields[1:] {
		key, value, has := strings.Cut(f, "=")
		if given[key] {
			return s, fmt.Errorf("%s: expected once", key)
		}
		given[key] = true
		n, err := strconv.Atoi(value)
		switch {
		case key == "weight" && has:
			if s.Weight = n; err != nil || n < 1 || n > MaxWeight {
				return s, fmt.Errorf("weight %q: expected a whole number from 1 to %d", value, MaxWeight)
			}
		case key == "priority" && has:
			if s.Priority = n; err != nil || n < 0 || n > MaxPriority {
				return s, fmt.Errorf("priority %q: expected a whole number from 0 to %d", value, MaxPriority)
			}
		case key == "locality" && has && value != "":
			s.Locality = value
		case f == "drain":
			s.Drain = true
		case f == "disabled":
			s.Disabled = true
		default:
			return s, fmt.Errorf("%q: expected weight=N, priority=N, locality=NAME, drain or disabled", f)
		}
	}
	if s.Weight == 0 {
		s.Weight = 1
	}
	return s, nil
}
