package ksock

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// pathMax is what sun_path holds, unix(7).
const pathMax = 107

// UnixOptions are the file's mode and owner.
type UnixOptions struct {
	Mode     fs.FileMode // permission bits: who may write to it may connect
	UID, GID int         // -1: as created
	Backlog  int
}

// Unix is a listening Unix socket: one socket for all cores, a descriptor each.
type Unix struct {
	FDs  []int
	path string
	file os.FileInfo
	once sync.Once
}

// Path is where it listens.
func (u *Unix) Path() string { return u.path }

// Remove removes the socket's file, unless another took its place. The
// descriptors are their owner's to close.
func (u *Unix) Remove() {
	u.once.Do(func() {
		fi, err := os.Lstat(u.path)
		// Inode numbers come again; a time with them does not.
		if err == nil && os.SameFile(fi, u.file) && fi.ModTime().Equal(u.file.ModTime()) {
			_ = os.Remove(u.path)
		}
	})
}

// ListenUnix makes a listening socket at path. One that somebody answers on is
// an error (EADDRINUSE), a file left over by a process that is gone is
// replaced, any other file is left alone. Nobody can connect before mode and
// owner are set.
func ListenUnix(path string, n int, o *UnixOptions) (*Unix, error) {
	u, err := listenUnix(path, n, o)
	if err != nil {
		return nil, fmt.Errorf("listen on unix:%s: %w", path, err)
	}
	return u, nil
}

func listenUnix(path string, n int, o *UnixOptions) (_ *Unix, err error) {
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if len(tmp) > pathMax {
		return nil, fmt.Errorf("a path of %d bytes, at most %d", len(path), pathMax-(len(tmp)-len(path)))
	}
	if err := free(path); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("%w (make the folder first: install -d %s)", err, filepath.Dir(path))
	}
	u := &Unix{path: path}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	u.FDs = append(u.FDs, fd)
	defer func() {
		if err != nil {
			Close(u.FDs)
			_ = os.Remove(tmp)
		}
	}()
	_ = os.Remove(tmp)
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: tmp}); err != nil {
		return nil, err
	}
	if err = os.Chmod(tmp, o.Mode.Perm()); err != nil {
		return nil, err
	}
	if o.UID >= 0 || o.GID >= 0 {
		if err = os.Chown(tmp, o.UID, o.GID); err != nil {
			return nil, fmt.Errorf("%w (giving it to another user or group needs root, or membership in the group)", err)
		}
	}
	backlog := o.Backlog
	if backlog == 0 {
		backlog = backlogMost
	}
	if err = unix.Listen(fd, backlog); err != nil {
		return nil, err
	}
	for len(u.FDs) < n {
		more, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		u.FDs = append(u.FDs, more)
	}
	if u.file, err = os.Lstat(tmp); err != nil {
		return nil, err
	}
	if err = os.Rename(tmp, path); err != nil {
		return nil, err
	}
	return u, nil
}

// free makes sure that nobody answers at path, and removes what is left of one that did.
func free(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return errors.New("a file that is no socket is in the way")
	}
	// With a datagram socket, so that whoever listens sees nothing of it: the kernel says
	// that it is of the wrong type where there is a stream's, and refuses where there is none.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err {
	case unix.ECONNREFUSED:
		return os.Remove(path)
	case nil, unix.EPROTOTYPE:
		return fmt.Errorf("%w (another process answers there)", syscall.EADDRINUSE)
	default:
		return fmt.Errorf("%w (%w)", syscall.EADDRINUSE, err)
	}
}

// DialUnix connects to path, which is done when it returns: a full backlog is an error (EAGAIN).
func DialUnix(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("connect to unix:%s: %w", path, err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to unix:%s: %w", path, err)
	}
	return fd, nil
}

func interfaceIndex(zone string) (uint32, error) {
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, err
	}
	return uint32(i.Index), nil
}
