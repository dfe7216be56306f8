package ports

import (
	"context"
	"net/netip"

	"github.com/np-appliance/np/dataplane/xdp"
)

// System is what the package needs of the machine; [Linux] is the real one.
type System interface {
	Inspect(name string) (xdp.Interface, error)
	Attach(name string, o xdp.Options) (Program, error)
	// Share divides a device's frames between the kernel and packet sockets.
	Share(name string) (Sharer, error)
	Watch(ctx context.Context, report func(xdp.Link)) error
}

// Program is an XDP program on an interface, as xdp.Program.
type Program interface {
	Mode() xdp.Mode
	Fallback() error
	SetAddresses([]xdp.Address) error
	AddAddress(xdp.Address) error
	DelAddress(xdp.Address) error
	SetSocket(queue, fd int) error
	SetFilter(*xdp.Filter) error
	SetBehind(on bool) error
	SetKernelPorts(xdp.Ports) error
	Hits() (map[netip.Prefix]uint64, error)
	LimitedSources(n int) ([]xdp.LimitedSource, error)
	Copies(each func(frame []byte)) error
	EndCopies()
	Counters() (xdp.Counters, error)
	Close() error
}

// Linux is the machine we run on.
type Linux struct{}

// Inspect implements [System].
func (Linux) Inspect(name string) (xdp.Interface, error) { return xdp.Inspect(name) }

// Watch implements [System].
func (Linux) Watch(ctx context.Context, report func(xdp.Link)) error { return xdp.Watch(ctx, report) }

// Share implements [System].
func (Linux) Share(name string) (Sharer, error) {
	s, err := xdp.NewShare(name)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Attach implements [System].
func (Linux) Attach(name string, o xdp.Options) (Program, error) {
	p, err := xdp.Attach(name, o)
	if err != nil {
		return nil, err
	}
	return p, nil
}
