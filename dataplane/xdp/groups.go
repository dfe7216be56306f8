package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// groups makes an interface receive what neighbors send to the solicited-node
// groups of the appliance's IPv6 addresses (RFC 4861 §7.2.2). A network card
// passes only the multicast MACs it was told of, and the kernel, which tells
// it, knows nothing of our addresses. The memberships belong to a packet
// socket that receives nothing itself, so they end with the process.
type groups struct {
	fd    int
	index int
}

func openGroups(index int) (*groups, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: no packets
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", explain(err))
	}
	g := &groups{fd: fd, index: index}
	// All nodes: the kernel joins it, unless its IPv6 is off on this interface.
	if err := g.join([6]byte{0x33, 0x33, 0, 0, 0, 1}, unix.PACKET_ADD_MEMBERSHIP); err != nil {
		g.close()
		return nil, fmt.Errorf("join the all-nodes group: %w", err)
	}
	return g, nil
}

// set joins or leaves the group of an address; the kernel counts memberships,
// since addresses can share a group. An interface that vanished took its own
// with it.
func (g *groups) set(option int, a netip.Addr) error {
	if g == nil || !a.Is6() {
		return nil
	}
	b := a.As16()
	return g.join([6]byte{0x33, 0x33, 0xff, b[13], b[14], b[15]}, option) // RFC 2464 §7
}

func (g *groups) join(mac [6]byte, option int) error {
	req := packetMreq{index: int32(g.index), kind: unix.PACKET_MR_MULTICAST, alen: 6}
	copy(req.addr[:], mac[:])
	err := unix.SetsockoptString(g.fd, unix.SOL_PACKET, option, req.encode())
	if errors.Is(err, syscall.ENODEV) || option == unix.PACKET_DROP_MEMBERSHIP && errors.Is(err, syscall.EADDRNOTAVAIL) {
		return nil
	}
	return err
}

func (g *groups) close() {
	if g != nil {
		_ = unix.Close(g.fd)
	}
}

// packetMreq is struct packet_mreq of linux/if_packet.h.
type packetMreq struct {
	index int32
	kind  uint16
	alen  uint16
	addr  [8]byte
}

func (m packetMreq) encode() string {
	b := binary.NativeEndian.AppendUint32(nil, uint32(m.index))
	b = binary.NativeEndian.AppendUint16(b, m.kind)
	b = binary.NativeEndian.AppendUint16(b, m.alen)
	return string(append(b, m.addr[:]...))
}
