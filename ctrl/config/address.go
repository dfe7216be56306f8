package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// unixScheme begins the address of a Unix socket.
const unixScheme = "unix:"

// Address is where a listener listens: "198.18.0.1:7700", ":7700" for all
// addresses, or "unix:/run/np/npro.sock". Comparable; "" is none.
type Address string

// ParseAddress reads one.
func ParseAddress(v any) (Address, error) {
	s, ok := v.(string)
	path, isUnix := strings.CutPrefix(s, unixScheme)
	if !ok || !isUnix {
		a, err := ParseAddrPort(v)
		return AddressOf(a), err
	}
	if !strings.HasPrefix(path, "/") || strings.ContainsRune(path, 0) || strings.HasSuffix(path, "/") {
		return "", fmt.Errorf("got %q, expected an absolute path such as \"unix:/run/np/npro.sock\"", s)
	}
	if len(path) > socketMax {
		return "", fmt.Errorf("got a path of %d bytes, expected at most %d", len(path), socketMax)
	}
	return Address(s), nil
}

// AddressOf is the address of TCP.
func AddressOf(a netip.AddrPort) Address { return Address(AddrPortString(a)) }

// Path is a Unix socket's, "" for TCP.
func (a Address) Path() string {
	path, ok := strings.CutPrefix(string(a), unixScheme)
	if !ok {
		return ""
	}
	return path
}

// AddrPort is TCP's, invalid for a Unix socket.
func (a Address) AddrPort() netip.AddrPort {
	if a.Path() != "" {
		return netip.AddrPort{}
	}
	p, _ := ParseAddrPort(string(a)) // parsed before
	return p
}

// OnKernel says whether a listener is served by kernel sockets rather than by
// the stack: as its backend says, and by itself for Unix sockets and for
// addresses that no interface of the appliance has.
func (c *Config) OnKernel(l *Listener) bool {
	switch l.Backend {
	case "stack":
		return false
	case "io_uring", "epoll", "net", backendRDMA:
		return true
	}
	a := l.Address.AddrPort().Addr()
	switch {
	case !a.IsValid():
		return true
	case a.IsUnspecified():
		return len(c.Interfaces) == 0
	}
	return !c.ours(a)
}
