package forward

import (
	"context"
	"encoding/binary"
	"net"
	"net/http"
	"net/netip"
)

// proxySignature begins a header of version 2.
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// proxyHeader makes the PROXY protocol's header for a connection from src, which was made
// to dst. Where either isn't known, or they are of different families that can't be told
// together, it says so: UNKNOWN in version 1, LOCAL in version 2.
func proxyHeader(version int, src, dst netip.AddrPort) []byte {
	known := src.IsValid() && dst.IsValid()
	s, d := src.Addr().Unmap().WithZone(""), dst.Addr().Unmap().WithZone("")
	if known && s.Is4() != d.Is4() { // one family for both: the IPv4 address as IPv6 maps it
		s, d = netip.AddrFrom16(s.As16()), netip.AddrFrom16(d.As16())
	}
	if version == 1 {
		if !known {
			return []byte("PROXY UNKNOWN\r\n")
		}
		b := []byte("PROXY TCP4 ")
		if !s.Is4() {
			b = []byte("PROXY TCP6 ")
		}
		b = s.AppendTo(b)
		b = append(b, ' ')
		b = d.AppendTo(b)
		b = append(b, ' ')
		b = appendPort(b, src.Port())
		b = append(b, ' ')
		b = appendPort(b, dst.Port())
		return append(b, '\r', '\n')
	}
	b := []byte(proxySignature)
	if !known {
		return append(b, 0x20, 0x00, 0, 0) // version 2, LOCAL; unspecified
	}
	if s.Is4() {
		b = append(b, 0x21, 0x11, 0, 12) // PROXY; TCP over IPv4
	} else {
		b = append(b, 0x21, 0x21, 0, 36) // PROXY; TCP over IPv6
	}
	b = append(b, s.AsSlice()...)
	b = append(b, d.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, src.Port())
	return binary.BigEndian.AppendUint16(b, dst.Port())
}

// OwnProxyHeader is the PROXY protocol's header, of version 1 or 2, of a connection that is made
// for nobody else, such as a health check's (§2.2: LOCAL).
func OwnProxyHeader(version int) []byte {
	return proxyHeader(version, netip.AddrPort{}, netip.AddrPort{})
}

func appendPort(b []byte, port uint16) []byte {
	var digits [5]byte
	i := len(digits)
	for {
		i--
		digits[i] = '0' + byte(port%10)
		if port /= 10; port == 0 {
			return append(b, digits[i:]...)
		}
	}
}

// localOf is the address that the client connected to, as net/http's servers tell it.
func localOf(ctx context.Context) netip.AddrPort {
	switch a := ctx.Value(http.LocalAddrContextKey).(type) {
	case *net.TCPAddr:
		return a.AddrPort()
	case *net.UDPAddr:
		return a.AddrPort()
	case net.Addr:
		p, _ := netip.ParseAddrPort(a.String()) // invalid is what proxyHeader takes for not known
		return p
	}
	return netip.AddrPort{}
}
