package nic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Netlink is the kernel's network stack of the calling thread's namespace. What it
// saves are netlink's own messages, so that nothing of an address or a route is lost
// on the way.
type Netlink struct {
	Files fs.FS
	// SSH is SSH_CONNECTION of the environment, "" none.
	SSH string
}

// headers of messages, in bytes, and where the interface's index is in an address's.
const (
	addrHeader  = 8
	addrIndex   = 4
	routeHeader = 12
)

// Save implements [Network].
func (k Netlink) Save(name string) (Link, error) {
	wrap := func(err error) (Link, error) { return Link{}, fmt.Errorf("save what %s has: %w", name, err) }
	i, err := net.InterfaceByName(name)
	if err != nil {
		return wrap(err)
	}
	l := Link{MTU: i.MTU, Up: i.Flags&net.FlagUp != 0}
	addrs, err := dump(syscall.RTM_GETADDR)
	if err != nil {
		return wrap(err)
	}
	for _, m := range addrs {
		if m.Header.Type == syscall.RTM_NEWADDR && len(m.Data) >= addrHeader && int(binary.NativeEndian.Uint32(m.Data[addrIndex:])) == i.Index {
			l.Addrs = append(l.Addrs, m.Data)
		}
	}
	routes, err := dump(syscall.RTM_GETROUTE)
	if err != nil {
		return wrap(err)
	}
	for _, m := range routes {
		if m.Header.Type == syscall.RTM_NEWROUTE && ownRoute(m.Data, i.Index) {
			l.Routes = append(l.Routes, m.Data)
		}
	}
	list, err := i.Addrs()
	if err != nil {
		return wrap(err)
	}
	for _, a := range list {
		l.Addresses = append(l.Addresses, a.String())
	}
	return l, nil
}

// ownRoute says whether a route goes out of an interface and somebody made it: those of
// the kernel come back with the addresses.
func ownRoute(m []byte, index int) bool {
	if len(m) < routeHeader || m[4] == unix.RT_TABLE_LOCAL || m[5] == unix.RTPROT_KERNEL || m[7] != unix.RTN_UNICAST ||
		binary.NativeEndian.Uint32(m[8:])&unix.RTM_F_CLONED != 0 {
		return false
	}
	own := false
	eachAttr(m[routeHeader:], func(kind uint16, value []byte) {
		own = own || kind == unix.RTA_OIF && len(value) == 4 && int(binary.NativeEndian.Uint32(value)) == index
	})
	return own
}

// eachAttr walks attributes; what is cut short ends it.
func eachAttr(b []byte, each func(kind uint16, value []byte)) {
	for len(b) >= 4 { // bound: each attribute takes four bytes at least
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return
		}
		each(binary.NativeEndian.Uint16(b[2:])&^unix.NLA_F_NESTED, b[4:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}

// Carries implements [Network].
func (k Netlink) Carries(name string) (string, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return "", fmt.Errorf("look what %s carries: %w", name, err)
	}
	routes, err := dump(syscall.RTM_GETROUTE)
	if err != nil {
		return "", fmt.Errorf("look what %s carries: %w", name, err)
	}
	for _, m := range routes {
		if m.Header.Type == syscall.RTM_NEWROUTE && len(m.Data) >= routeHeader && m.Data[1] == 0 && m.Data[4] == unix.RT_TABLE_MAIN && ownRoute(m.Data, i.Index) {
			return "it carries the default route", nil
		}
	}
	list, err := i.Addrs()
	if err != nil {
		return "", fmt.Errorf("look what %s carries: %w", name, err)
	}
	var own []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Addr())
		}
	}
	return session(k.Files, k.SSH, own), nil
}

// session names an SSH session to one of the addresses: this one by its environment,
// or any by the kernel's table of connections.
func session(f fs.FS, env string, own []netip.Addr) string {
	is := func(a netip.Addr) bool {
		for _, o := range own {
			if o.Unmap().WithZone("") == a.Unmap().WithZone("") {
				return true
			}
		}
		return false
	}
	if w := strings.Fields(env); len(w) == 4 { // client, its port, server, its port
		if a, err := netip.ParseAddr(w[2]); err == nil && is(a) {
			return "this SSH session comes by it"
		}
	}
	for _, table := range [...]string{"proc/net/tcp", "proc/net/tcp6"} {
		b, err := fs.ReadFile(f, table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			w := strings.Fields(line)
			if len(w) < 4 || w[3] != "01" { // established
				continue
			}
			if a, port, ok := kernelAddr(w[1]); ok && port == 22 && is(a) {
				return "an SSH session comes by it"
			}
		}
	}
	return ""
}

// kernelAddr reads an address of /proc/net/tcp: words of four bytes in the machine's
// order, in hexadecimal.
func kernelAddr(s string) (netip.Addr, uint16, bool) {
	var addr [16]byte
	var port uint16
	hex, p, ok := strings.Cut(s, ":")
	n := len(hex) / 2
	if !ok || n != 4 && n != 16 || len(hex)%8 != 0 {
		return netip.Addr{}, 0, false
	}
	for i := 0; i < n; i += 4 {
		var word uint32
		if _, err := fmt.Sscanf(hex[2*i:2*i+8], "%08X", &word); err != nil {
			return netip.Addr{}, 0, false
		}
		binary.NativeEndian.PutUint32(addr[i:], word)
	}
	if _, err := fmt.Sscanf(p, "%04X", &port); err != nil {
		return netip.Addr{}, 0, false
	}
	a, _ := netip.AddrFromSlice(addr[:n])
	return a.Unmap(), port, true
}

// Restore implements [Network]: the name, MTU and state, then addresses, then routes.
func (k Netlink) Restore(is, name string, l *Link) error {
	i, err := net.InterfaceByName(is)
	if err != nil {
		return err
	}
	index := uint32(i.Index)
	link := func(up bool, attrs []byte) error {
		h := make([]byte, unix.SizeofIfInfomsg)
		binary.NativeEndian.PutUint32(h[4:], index)
		binary.NativeEndian.PutUint32(h[12:], unix.IFF_UP) // what to change
		if up {
			binary.NativeEndian.PutUint32(h[8:], unix.IFF_UP)
		}
		return request(unix.RTM_NEWLINK, 0, append(h, attrs...))
	}
	if is != name {
		if err := link(false, attr(unix.IFLA_IFNAME, append([]byte(name), 0))); err != nil {
			return fmt.Errorf("rename %s to %s: %w", is, name, err)
		}
	}
	if err := link(l.Up, attr(unix.IFLA_MTU, binary.NativeEndian.AppendUint32(nil, uint32(l.MTU)))); err != nil {
		return fmt.Errorf("set the MTU to %d and the link up: %w", l.MTU, err)
	}
	var errs []error
	for n, m := range l.Addrs {
		if len(m) < addrHeader {
			return errors.New("a saved address is cut short")
		}
		m = append([]byte(nil), m...)
		binary.NativeEndian.PutUint32(m[addrIndex:], index)
		if err := request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, m); err != nil && !errors.Is(err, syscall.EEXIST) {
			errs = append(errs, fmt.Errorf("address %d (of %s): %w", n+1, strings.Join(l.Addresses, ", "), err))
		}
	}
	for n, m := range l.Routes {
		m, err := moved(m, index)
		if err == nil {
			err = request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, m)
		}
		if err != nil && !errors.Is(err, syscall.EEXIST) && (l.Up || !errors.Is(err, syscall.ENETDOWN)) {
			errs = append(errs, fmt.Errorf("route %d of %d: %w", n+1, len(l.Routes), err))
		}
	}
	return errors.Join(errs...)
}

// moved is a saved route out of an interface that has another index now, without what
// only the kernel may say.
func moved(m []byte, index uint32) ([]byte, error) {
	if len(m) < routeHeader {
		return nil, errors.New("a saved route is cut short")
	}
	out := append([]byte(nil), m[:routeHeader]...)
	binary.NativeEndian.PutUint32(out[8:], 0) // flags
	eachAttr(m[routeHeader:], func(kind uint16, value []byte) {
		switch kind {
		case unix.RTA_CACHEINFO:
			return
		case unix.RTA_OIF:
			value = binary.NativeEndian.AppendUint32(nil, index)
		}
		out = append(out, attr(kind, value)...)
	})
	return out, nil
}

func attr(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	return append(b, make([]byte, (4-len(b)&3)&3)...)
}

func dump(kind int) ([]syscall.NetlinkMessage, error) {
	rib, err := syscall.NetlinkRIB(kind, syscall.AF_UNSPEC)
	if err != nil {
		return nil, os.NewSyscallError("netlink", err)
	}
	return syscall.ParseNetlinkMessage(rib)
}

// request sends one message and waits for its acknowledgment.
func request(kind uint16, flags int, body []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	const header = unix.SizeofNlMsghdr
	m := make([]byte, header, header+len(body))
	binary.NativeEndian.PutUint32(m, uint32(header+len(body)))
	binary.NativeEndian.PutUint16(m[4:], kind)
	binary.NativeEndian.PutUint16(m[6:], uint16(unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags))
	binary.NativeEndian.PutUint32(m[8:], 1)
	if err := unix.Sendto(fd, append(m, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 8192)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return os.NewSyscallError("recvfrom", err)
	}
	if n < header+4 || binary.NativeEndian.Uint16(buf[4:]) != unix.NLMSG_ERROR {
		return errors.New("netlink answered with no acknowledgment")
	}
	if code := int32(binary.NativeEndian.Uint32(buf[header:])); code != 0 {
		return syscall.Errno(-code)
	}
	return nil
}
