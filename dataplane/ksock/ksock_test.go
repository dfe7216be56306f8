package ksock_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/dataplane/ksock"
)

func TestListenTCP(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0", "0.0.0.0:0"} {
		fds, bound, err := ksock.ListenTCP(netip.MustParseAddrPort(addr), 3, &ksock.Options{DSCP: 10, Backlog: 5})
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Logf("%s: %v", addr, err) // no IPv6 here
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		if len(fds) != 3 || bound.Port() == 0 {
			t.Errorf("%s: %d sockets on %s", addr, len(fds), bound)
		}
		to := bound
		if to.Addr().IsUnspecified() {
			to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), to.Port()) // IPv4 reaches [::] too
		}
		c, err := net.Dial("tcp", to.String())
		if err != nil {
			t.Errorf("%s: %v", addr, err)
		} else {
			c.Close()
		}
		ksock.Close(fds)
	}
}

func TestListenTCPErrors(t *testing.T) {
	for _, cores := range []int{1, 3} {
		fds, bound, err := ksock.ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"), cores, &ksock.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = ksock.ListenTCP(bound, cores, &ksock.Options{})
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), bound.String()) || !strings.Contains(err.Error(), "ss -ltnp") {
			t.Errorf("in use, %d cores: %v", cores, err)
		}
		ksock.Close(fds)
	}
	_, _, err := ksock.ListenTCP(netip.MustParseAddrPort("198.18.77.77:7700"), 1, &ksock.Options{})
	if !errors.Is(err, syscall.EADDRNOTAVAIL) || !strings.Contains(err.Error(), "the kernel has no address 198.18.77.77") {
		t.Errorf("no such address: %v", err)
	}
	_, _, err = ksock.ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"), 1, &ksock.Options{CongestionControl: "nonesuch"})
	if err == nil || !strings.Contains(err.Error(), "nonesuch") {
		t.Errorf("congestion control: %v", err)
	}
}

func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	o := &ksock.UnixOptions{Mode: 0o620, UID: -1, GID: os.Getgid()}
	u, err := ksock.ListenUnix(path, 2, o)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o620 || len(u.FDs) != 2 {
		t.Errorf("mode %v, %d descriptors, %v", fi.Mode(), len(u.FDs), err)
	}
	fd, err := ksock.DialUnix(path)
	if err != nil {
		t.Error(err)
	}
	ksock.Close([]int{fd})
	if _, err := ksock.ListenUnix(path, 1, o); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), path) {
		t.Errorf("in use: %v", err)
	}
	ksock.Close(u.FDs) // as a process that died: its file stays
	again, err := ksock.ListenUnix(path, 1, o)
	if err != nil {
		t.Fatalf("left-over file: %v", err)
	}
	u.Remove() // not its file any more
	if _, err := os.Stat(path); err != nil {
		t.Errorf("another's socket was removed: %v", err)
	}
	ksock.Close(again.FDs)
	again.Remove()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ksock.ListenUnix(path, 1, o); err == nil || !strings.Contains(err.Error(), "no socket is in the way") {
		t.Errorf("a file: %v", err)
	}
	if _, err := ksock.ListenUnix(filepath.Join(t.TempDir(), "no", "such", "s.sock"), 1, o); err == nil || !strings.Contains(err.Error(), "install -d") {
		t.Errorf("no folder: %v", err)
	}
	if _, err := ksock.ListenUnix("/"+strings.Repeat("x", 120), 1, o); err == nil || !strings.Contains(err.Error(), "bytes") {
		t.Errorf("long path: %v", err)
	}
}

func TestDial(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err := ksock.DialTCP(netip.AddrPort{}, netip.MustParseAddrPort(l.Addr().String()), &ksock.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ksock.Close([]int{fd})
	if _, err := ksock.DialTCP(netip.MustParseAddrPort("198.18.77.77:0"), netip.MustParseAddrPort("127.0.0.1:1"), &ksock.Options{}); err == nil || !strings.Contains(err.Error(), "198.18.77.77") {
		t.Errorf("from a foreign address: %v", err)
	}
	if _, err := ksock.DialUnix(filepath.Join(t.TempDir(), "none")); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("no socket: %v", err)
	}
}
