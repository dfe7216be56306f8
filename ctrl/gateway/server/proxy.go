package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
)

// PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt, §2.1 and §2.2).

const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyV1Max     = 107 // bytes of a line, its CR LF included
	proxyV2Head    = 16
	proxyV2Max     = 2 << 10 // bytes after the head: addresses and TLVs. Certificates of clients may be among them, the protocol's 64 KiB are not needed for them.
)

// proxyHeader is what a header says.
type proxyHeader struct {
	local  bool // the proxy asks by itself (health checks): the connection's own addresses stand
	client netip.AddrPort
	server netip.AddrPort
}

var errNoProxy = errors.New("no PROXY header")

// proxyHeader reads a connection's PROXY header if it may and has to have one.
func (s *Server) proxyHeader(c *Conn, in net.Conn) (net.Conn, Refused, bool) {
	if s.c.Proxy == ProxyOff {
		return in, 0, true
	}
	if c.Peer.IsValid() && !within(s.c.ProxyFrom, c.Peer.Addr()) {
		return in, RefusedPeer, s.c.Proxy != ProxyRequire
	}
	b := make([]byte, 0, proxyV2Head)
	h, b, err := readProxy(in, b)
	switch {
	case errors.Is(err, errNoProxy) && s.c.Proxy == ProxyAccept:
	case err != nil:
		return in, RefusedProxy, false
	default:
		if !h.local {
			c.Client = h.client
		}
		b = nil
	}
	if len(b) > 0 {
		in = &earlyConn{Conn: in, b: b}
	}
	return in, 0, true
}

// readProxy reads a header and nothing after it. With errNoProxy the bytes that were read
// begin no header and are returned.
func readProxy(r io.Reader, b []byte) (proxyHeader, []byte, error) {
	more := func(n int) error { // bound: proxyV1Max, proxyV2Head+proxyV2Max
		at := len(b)
		b = append(b, make([]byte, n)...)
		got, err := io.ReadFull(r, b[at:])
		b = b[:at+got]
		return err
	}
	const v1 = "PROXY "
	for len(b) < len(proxySignature) { // a byte at a time: one too many might never come
		if err := more(1); err != nil {
			if len(b) == 0 {
				return proxyHeader{}, b, err
			}
			return proxyHeader{}, b, errNoProxy
		}
		if string(b) == v1 {
			return readProxyV1(more, &b)
		}
		if len(b) > len(v1) && b[0] == v1[0] || !bytes.HasPrefix([]byte(v1), b) && !bytes.HasPrefix([]byte(proxySignature), b) {
			return proxyHeader{}, b, errNoProxy
		}
	}
	if err := more(proxyV2Head - len(b)); err != nil {
		return proxyHeader{}, b, fmt.Errorf("PROXY header: %w", err)
	}
	if n := int(binary.BigEndian.Uint16(b[14:])); n > proxyV2Max {
		return proxyHeader{}, b, fmt.Errorf("PROXY header of %d bytes, expected at most %d", n, proxyV2Max)
	} else if err := more(n); err != nil {
		return proxyHeader{}, b, fmt.Errorf("PROXY header: %w", err)
	}
	h, err := parseProxyV2(b)
	return h, b, err
}

func readProxyV1(more func(int) error, b *[]byte) (proxyHeader, []byte, error) {
	for !bytes.HasSuffix(*b, []byte("\r\n")) {
		if len(*b) >= proxyV1Max {
			return proxyHeader{}, *b, fmt.Errorf("PROXY line longer than %d bytes", proxyV1Max)
		}
		if err := more(1); err != nil {
			return proxyHeader{}, *b, fmt.Errorf("PROXY line: %w", err)
		}
	}
	h, err := parseProxyV1(*b)
	return h, *b, err
}

// parseProxyV1 reads "PROXY TCP4 source destination sourceport destinationport\r\n".
func parseProxyV1(line []byte) (proxyHeader, error) {
	wrong := func(what string) (proxyHeader, error) {
		return proxyHeader{}, fmt.Errorf("PROXY line %q: %s", line, what)
	}
	if !bytes.HasPrefix(line, []byte("PROXY ")) || !bytes.HasSuffix(line, []byte("\r\n")) {
		return wrong("expected PROXY to CR LF")
	}
	text := string(line[len("PROXY ") : len(line)-2])
	if text == "UNKNOWN" || len(text) > 8 && text[:8] == "UNKNOWN " {
		return proxyHeader{local: true}, nil
	}
	parts := bytes.Split([]byte(text), []byte{' '})
	if len(parts) != 5 {
		return wrong("expected protocol, two addresses and two ports")
	}
	var addrs [2]netip.AddrPort
	for i := range addrs {
		a, err := netip.ParseAddr(string(parts[1+i]))
		if err != nil || a.Zone() != "" || a.Is4() != (string(parts[0]) == "TCP4") {
			return wrong("an address that is none of its protocol")
		}
		p := string(parts[3+i])
		port, err := strconv.ParseUint(p, 10, 16)
		if err != nil || p[0] == '+' || len(p) > 1 && p[0] == '0' {
			return wrong("a port that is none")
		}
		addrs[i] = netip.AddrPortFrom(a.Unmap(), uint16(port))
	}
	if string(parts[0]) != "TCP4" && string(parts[0]) != "TCP6" {
		return wrong("expected TCP4, TCP6 or UNKNOWN")
	}
	return proxyHeader{client: addrs[0], server: addrs[1]}, nil
}

// parseProxyV2 reads a whole binary header.
func parseProxyV2(b []byte) (proxyHeader, error) {
	wrong := func(what string) (proxyHeader, error) { return proxyHeader{}, errors.New("PROXY header: " + what) }
	if len(b) < proxyV2Head || string(b[:12]) != proxySignature || len(b) != proxyV2Head+int(binary.BigEndian.Uint16(b[14:])) {
		return wrong("cut off")
	}
	body := b[proxyV2Head:]
	if b[12]>>4 != 2 {
		return wrong("version other than 2")
	}
	if command := b[12] & 0xf; command > 1 {
		return wrong("command that is neither LOCAL nor PROXY")
	} else if command == 0 {
		return proxyHeader{local: true}, nil // what follows is to be passed over
	}
	var h proxyHeader
	var size int
	switch b[13] {
	case 0x11, 0x12: // TCP, UDP over IPv4
		if size = 12; len(body) < size {
			return wrong("addresses that are cut off")
		}
		h.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte(body)), binary.BigEndian.Uint16(body[8:]))
		h.server = netip.AddrPortFrom(netip.AddrFrom4([4]byte(body[4:])), binary.BigEndian.Uint16(body[10:]))
	case 0x21, 0x22:
		if size = 36; len(body) < size {
			return wrong("addresses that are cut off")
		}
		h.client = netip.AddrPortFrom(netip.AddrFrom16([16]byte(body)).Unmap(), binary.BigEndian.Uint16(body[32:]))
		h.server = netip.AddrPortFrom(netip.AddrFrom16([16]byte(body[16:])).Unmap(), binary.BigEndian.Uint16(body[34:]))
	case 0x31, 0x32: // Unix sockets: paths say nothing about a client
		if size = 216; len(body) < size {
			return wrong("addresses that are cut off")
		}
		h.local = true
	case 0x00: // unspecified
		h.local, size = true, len(body)
	default:
		return wrong("family and protocol that are not defined")
	}
	return h, checkTLVs(body[size:])
}

// checkTLVs walks the type-length-value triples after the addresses.
func checkTLVs(b []byte) error {
	for len(b) > 0 { // bound: proxyV2Max
		if len(b) < 3 || len(b)-3 < int(binary.BigEndian.Uint16(b[1:])) {
			return errors.New("PROXY header: TLV that is cut off")
		}
		b = b[3+int(binary.BigEndian.Uint16(b[1:])):]
	}
	return nil
}
