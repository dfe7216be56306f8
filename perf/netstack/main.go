// Command netstack serves echo, discard and a source over gVisor's userspace
// TCP/IP stack on AF_PACKET, as the other side of a benchmark.
//
//	netstack IFNAME ADDR/PREFIX PORT   echo on PORT, discard on PORT+1, source on PORT+2; until SIGTERM
//
// A module of its own, so that nobody who builds np needs gVisor.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "netstack: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 4 {
		return fmt.Errorf("usage: netstack IFNAME ADDR/PREFIX PORT")
	}
	prefix, err := netip.ParsePrefix(os.Args[2])
	if err != nil || !prefix.Addr().Is4() {
		return fmt.Errorf("%s: want an IPv4 address with its prefix length", os.Args[2])
	}
	port, err := strconv.ParseUint(os.Args[3], 10, 16)
	if err != nil {
		return fmt.Errorf("port %s: %w", os.Args[3], err)
	}
	s, err := open(os.Args[1], prefix)
	if err != nil {
		return err
	}
	for i, handle := range []func(net.Conn){echo, discard, source} {
		l, err := gonet.ListenTCP(s, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(prefix.Addr().As4()), Port: uint16(port) + uint16(i)}, ipv4.ProtocolNumber)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		go accept(l, handle)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	<-ctx.Done()
	return nil
}

// open makes a stack whose only link is the interface, by AF_PACKET
// in batches.
func open(name string, prefix netip.Prefix) (*stack.Stack, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	const all = 0x0300 // ETH_P_ALL in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, all)
	if err != nil {
		return nil, fmt.Errorf("AF_PACKET socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}); err != nil {
		return nil, fmt.Errorf("bind to %s: %w", name, err)
	}
	mac := tcpip.LinkAddress(string(i.HardwareAddr))
	link, err := fdbased.New(&fdbased.Options{FDs: []int{fd}, MTU: uint32(i.MTU), EthernetHeader: true, Address: mac,
		PacketDispatchMode: fdbased.RecvMMsg})
	if err != nil {
		return nil, err
	}
	s := stack.New(stack.Options{NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol}})
	if e := s.CreateNIC(1, link); e != nil {
		return nil, fmt.Errorf("NIC: %s", e)
	}
	address := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(prefix.Addr().As4()), PrefixLen: prefix.Bits()}}
	if e := s.AddProtocolAddress(1, address, stack.AddressProperties{}); e != nil {
		return nil, fmt.Errorf("address: %s", e)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: address.AddressWithPrefix.Subnet(), NIC: 1}})
	sack := tcpip.TCPSACKEnabled(true)
	if e := s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); e != nil {
		return nil, fmt.Errorf("SACK: %s", e)
	}
	return s, nil
}

func accept(l *gonet.TCPListener, handle func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			handle(c)
		}()
	}
}

func echo(c net.Conn) {
	buf := make([]byte, 16384)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

func discard(c net.Conn) {
	_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, c, make([]byte, 65536))
}

func source(c net.Conn) {
	buf := make([]byte, 65536)
	for {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}
