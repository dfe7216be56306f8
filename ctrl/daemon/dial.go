package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/np-appliance/np/dataplane"
)

// dialer connects to endpoints of upstreams: by the appliance's stack where an
// [[interface]] has a network that holds the address, else by the kernel.
type dialer struct {
	stack  dataplane.Transport // nil: no interface
	kernel dataplane.Transport
	near   func(netip.Addr) bool // whether an interface's network holds it
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// dial connects as via says: "auto", "stack" or "kernel".
func (d *dialer) dial(ctx context.Context, via, network, address string) (net.Conn, error) {
	if d.stack == nil || via == "kernel" || network == "unix" {
		if via == "stack" {
			return nil, fmt.Errorf("dial %s: via = \"stack\": expected an [[interface]]", address)
		}
		return d.kernel.Dial(ctx, network, address)
	}
	if via == "stack" {
		return d.stack.Dial(ctx, network, address)
	}
	if a, err := netip.ParseAddrPort(address); err == nil {
		return d.pick(a.Addr()).Dial(ctx, network, address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addrs, err := d.lookup(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, a := range addrs { // bound: a resolver's answer
		a = a.Unmap()
		c, err := d.pick(a).Dial(ctx, network, net.JoinHostPort(a.String(), port))
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("dial %s: the name has no address", address)
	}
	return nil, errors.Join(errs...)
}

// packet opens a datagram socket for an endpoint, and resolves its address.
func (d *dialer) packet(ctx context.Context, via, address string) (net.PacketConn, net.Addr, error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, nil, err
		}
		addrs, err := d.lookup(ctx, "ip", host)
		if err != nil {
			return nil, nil, err
		}
		p, err := strconv.ParseUint(port, 10, 16)
		if err != nil || len(addrs) == 0 {
			return nil, nil, fmt.Errorf("%s: expected a host with an address, and a port", address)
		}
		a = netip.AddrPortFrom(addrs[0].Unmap(), uint16(p))
	}
	by := d.kernel
	switch {
	case via == "stack" && d.stack == nil:
		return nil, nil, fmt.Errorf("dial %s: via = \"stack\": expected an [[interface]]", address)
	case via == "stack", via == "auto" && d.stack != nil && d.near(a.Addr().Unmap()):
		by = d.stack
	}
	c, err := by.ListenPacket(ctx, "udp", ":0")
	return c, net.UDPAddrFromAddrPort(a), err
}

func (d *dialer) pick(a netip.Addr) dataplane.Transport {
	if d.near(a.Unmap()) {
		return d.stack
	}
	return d.kernel
}

// makeDialer makes the one of the configuration in force.
func (d *Daemon) makeDialer(kernel dataplane.Transport) *dialer {
	out := &dialer{kernel: kernel, near: d.near, lookup: net.DefaultResolver.LookupNetIP}
	if len(d.cfg.Interfaces) > 0 {
		out.stack = d.conns
	}
	return out
}

func (d *Daemon) near(a netip.Addr) bool {
	c := d.Config()
	for i := range c.Interfaces {
		for _, p := range c.Interfaces[i].Addresses {
			if p.Masked().Contains(a) {
				return true
			}
		}
	}
	return false
}
