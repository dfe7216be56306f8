package daemon

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/np-appliance/np/dataplane"
)

// named is a transport that tells in its error who was asked for what.
type named string

func (n named) Dial(_ context.Context, network, address string) (net.Conn, error) {
	return nil, errors.New(string(n) + " " + network + " " + address)
}

func (named) Listen(context.Context, string, string) (net.Listener, error) {
	return nil, errors.ErrUnsupported
}
func (named) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	return nil, errors.ErrUnsupported
}
func (named) Properties() dataplane.Properties { return dataplane.Properties{} }

func TestDialer(t *testing.T) {
	near := netip.MustParsePrefix("198.18.0.0/24")
	d := &dialer{stack: named("stack"), kernel: named("kernel"), near: near.Contains,
		lookup: func(_ context.Context, _, host string) ([]netip.Addr, error) {
			if host != "both.example" {
				return nil, errors.New("no such host")
			}
			return []netip.Addr{netip.MustParseAddr("::ffff:198.18.0.9"), netip.MustParseAddr("2001:db8::9")}, nil
		}}
	none := &dialer{kernel: named("kernel"), near: near.Contains}
	for _, one := range []struct {
		d                           *dialer
		via, network, address, want string
	}{
		{d, "auto", "tcp", "198.18.0.7:80", "stack tcp 198.18.0.7:80"},
		{d, "auto", "tcp", "198.18.1.7:80", "kernel tcp 198.18.1.7:80"},
		{d, "kernel", "tcp", "198.18.0.7:80", "kernel tcp 198.18.0.7:80"},
		{d, "stack", "tcp", "198.18.1.7:80", "stack tcp 198.18.1.7:80"},
		{d, "auto", "unix", "/run/x", "kernel unix /run/x"},
		{d, "auto", "tcp", "both.example:80", "stack tcp 198.18.0.9:80\nkernel tcp [2001:db8::9]:80"},
		{d, "auto", "tcp", "none.example:80", "no such host"},
		{d, "auto", "tcp", "nothing", "missing port"},
		{none, "auto", "tcp", "198.18.0.7:80", "kernel tcp 198.18.0.7:80"},
		{none, "stack", "tcp", "198.18.0.7:80", "expected an [[interface]]"},
	} {
		if _, err := one.d.dial(t.Context(), one.via, one.network, one.address); err == nil || !strings.Contains(err.Error(), one.want) {
			t.Errorf("%s %s %s: %v, want %s", one.via, one.network, one.address, err, one.want)
		}
	}
}
