package xdp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"syscall"

	"golang.org/x/sys/unix"
)

// Watch calls report for each interface there is, and then for each change
// until ctx ends; it returns ctx's error, or why it can't watch. An interface
// that vanished is reported once with Present false; one of the same name that
// comes later has another Index. report runs on Watch's goroutine; the network
// namespace is that of the thread that called Watch.
func Watch(ctx context.Context, report func(Link)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	// Non-blocking, so the runtime's poller waits and Close ends a Read.
	f := os.NewFile(uintptr(fd), "netlink")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()

	w := watcher{known: map[int]Link{}, report: report}
	// Subscribed first, listed second: no change falls between.
	if err := w.resync(); err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	buf := make([]byte, 1<<16)
	for {
		n, err := f.Read(buf)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, syscall.ENOBUFS):
			// The kernel dropped messages: look at everything again.
			err = w.resync()
		case err == nil:
			err = w.take(buf[:n])
		}
		if err != nil {
			return fmt.Errorf("watch interfaces: %w", err)
		}
	}
}

type watcher struct {
	known  map[int]Link
	report func(Link)
}

func (w *watcher) take(b []byte) error {
	links, err := parseLinks(b)
	if err != nil {
		return err
	}
	for _, l := range links {
		w.see(l)
	}
	return nil
}

// see reports l if it differs from what is known. The kernel repeats itself,
// for statistics among others.
func (w *watcher) see(l Link) {
	old, ok := w.known[l.Index]
	switch {
	case !l.Present && !ok, ok && reflect.DeepEqual(old, l):
		return
	case !l.Present:
		delete(w.known, l.Index)
	default:
		if ok && old.Name != l.Name { // renamed: the old name is gone
			gone := old
			gone.Present, gone.Up, gone.Carrier = false, false, false
			w.report(gone)
		}
		w.known[l.Index] = l
	}
	w.report(l)
}

// resync lists the interfaces and reports what changed.
func (w *watcher) resync() error {
	links, err := dump()
	if err != nil {
		return err
	}
	seen := map[int]bool{}
	for _, l := range links {
		seen[l.Index] = true
	}
	for index, l := range w.known {
		if !seen[index] {
			l.Present, l.Up, l.Carrier = false, false, false
			w.see(l)
		}
	}
	for _, l := range links {
		w.see(l)
	}
	return nil
}
