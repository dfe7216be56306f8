package ksock

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Options of TCP sockets; those that a listener accepts inherit them. Zero
// values leave the kernel's.
type Options struct {
	Backlog           int    // of a listener; 0: as many as the kernel allows
	CongestionControl string // a name the kernel knows: "cubic", "reno", "bbr"
	DSCP              int    // 0 to 63
	KeepaliveIdle     time.Duration
	UserTimeout       time.Duration
}

// backlogMost: listen(2) cuts it to net.core.somaxconn.
const backlogMost = 65535

// ListenTCP opens n listening sockets for one address: with more than one they
// share its port by SO_REUSEPORT, and the kernel spreads connections over
// them by hash. The unspecified IPv6 address stands for both families. Port 0
// chooses one; bound has it.
func ListenTCP(addr netip.AddrPort, n int, o *Options) (fds []int, bound netip.AddrPort, err error) {
	defer func() {
		if err != nil {
			Close(fds)
			fds = nil
		}
	}()
	bound = addr
	for range max(n, 1) {
		first := len(fds) == 0
		fd, err := listenTCP(bound, n > 1, first, o)
		if errors.Is(err, unix.EAFNOSUPPORT) && bound.Addr() == netip.IPv6Unspecified() { // a machine without IPv6
			bound = netip.AddrPortFrom(netip.IPv4Unspecified(), bound.Port())
			fd, err = listenTCP(bound, n > 1, first, o)
		}
		if err != nil {
			return fds, bound, fmt.Errorf("listen on %s: %w%s", addr, err, cure(err, addr))
		}
		fds = append(fds, fd)
		if bound.Port() == 0 {
			if bound, err = localOf(fd); err != nil {
				return fds, bound, fmt.Errorf("listen on %s: %w", addr, err)
			}
		}
	}
	return fds, bound, nil
}

// cure is what the operator can do about a refusal.
func cure(err error, addr netip.AddrPort) string {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Sprintf(" (ss -ltnp 'sport = %d' shows who has it)", addr.Port())
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Sprintf(" (the kernel has no address %s; ip address shows those it has)", addr.Addr())
	case errors.Is(err, unix.EACCES):
		return " (ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE)"
	case errors.Is(err, unix.EMFILE):
		return " (raise the limit of open files: LimitNOFILE= of the unit, or ulimit -n)"
	}
	return ""
}

// listenTCP makes one socket. Of those that share a port the first binds alone and begins
// to share afterwards: somebody else's listener there is an error, though it shares too.
func listenTCP(addr netip.AddrPort, share, first bool, o *Options) (fd int, err error) {
	if fd, err = tcpSocket(addr.Addr(), o); err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, err
	}
	if share && !first {
		if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return -1, err
		}
	}
	if addr.Addr().Is6() {
		both := addr.Addr().IsUnspecified()
		if err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, flag(!both)); err != nil {
			return -1, err
		}
	}
	sa, err := sockaddr(addr)
	if err != nil {
		return -1, err
	}
	if err = unix.Bind(fd, sa); err != nil {
		return -1, err
	}
	if share && first {
		if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return -1, err
		}
	}
	backlog := o.Backlog
	if backlog == 0 {
		backlog = backlogMost
	}
	if err = unix.Listen(fd, backlog); err != nil {
		return -1, err
	}
	return fd, nil
}

// tcpSocket makes one with the options set.
func tcpSocket(addr netip.Addr, o *Options) (int, error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	if err := setOptions(fd, addr, o); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func setOptions(fd int, addr netip.Addr, o *Options) error {
	if o.CongestionControl != "" {
		if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, o.CongestionControl); err != nil {
			return fmt.Errorf("congestion control %s: %w (sysctl net.ipv4.tcp_allowed_congestion_control lists what may be used)", o.CongestionControl, err)
		}
	}
	if o.DSCP != 0 {
		if addr.Is6() {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, o.DSCP<<2); err != nil {
				return fmt.Errorf("DSCP %d: %w", o.DSCP, err)
			}
		}
		if addr.Is4() || addr.IsUnspecified() {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, o.DSCP<<2); err != nil {
				return fmt.Errorf("DSCP %d: %w", o.DSCP, err)
			}
		}
	}
	if o.KeepaliveIdle > 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(max(o.KeepaliveIdle/time.Second, 1))); err != nil {
			return err
		}
	}
	if o.UserTimeout > 0 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(max(o.UserTimeout/time.Millisecond, 1)))
	}
	return nil
}

// DialTCP begins a connection; the core that gets the socket learns how it ends.
// An invalid local address is chosen.
func DialTCP(local, remote netip.AddrPort, o *Options) (int, error) {
	fd, err := tcpSocket(remote.Addr(), o)
	if err != nil {
		return -1, fmt.Errorf("connect to %s: %w", remote, err)
	}
	if err = dialTCP(fd, local, remote); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", remote, err)
	}
	return fd, nil
}

func dialTCP(fd int, local, remote netip.AddrPort) error {
	if local.IsValid() && (local.Port() != 0 || !local.Addr().IsUnspecified()) {
		sa, err := sockaddr(local)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, sa); err != nil {
			return fmt.Errorf("from %s: %w%s", local, err, cure(err, local))
		}
	}
	sa, err := sockaddr(remote)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, sa); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	return nil
}

// Close closes descriptors that nobody took.
func Close(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func sockaddr(a netip.AddrPort) (unix.Sockaddr, error) {
	addr := a.Addr().Unmap()
	if addr.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: addr.As4()}, nil
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: addr.As16()}
	if zone := addr.Zone(); zone != "" {
		index, err := interfaceIndex(zone)
		if err != nil {
			return nil, err
		}
		sa.ZoneId = index
	}
	return sa, nil
}

func localOf(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("an address of another kind: %T", sa)
}
