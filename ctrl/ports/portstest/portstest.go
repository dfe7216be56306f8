package portstest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
)

// System implements [ports.System].
type System struct {
	mu       sync.Mutex
	links    map[string]xdp.Interface
	next     int
	programs []*Program
	fail     error
	generic  bool
	frames   [][]byte
	watch    []chan xdp.Link
}

// New makes a machine with interfaces that are up.
func New(names ...string) *System {
	s := &System{links: map[string]xdp.Interface{}, next: 1}
	for _, n := range names {
		s.Set(n, true)
	}
	return s
}

// Set makes an interface, or sets it up or down.
func (s *System) Set(name string, up bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.links[name]
	if !ok {
		s.next++
		d = xdp.Interface{Name: name, Index: s.next, MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(s.next)}, MTU: 1500, RXQueues: 1, Driver: "veth"}
	}
	d.Up, d.Carrier = up, up
	s.links[name] = d
	s.tell(link(d, true))
}

// SetCarrier plugs or unplugs an interface that is up.
func (s *System) SetCarrier(name string, carrier bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.links[name]
	d.Carrier = carrier
	s.links[name] = d
	s.tell(link(d, true))
}

// SetMAC changes an interface's MAC.
func (s *System) SetMAC(name string, mac net.HardwareAddr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.links[name]
	d.MAC = mac
	s.links[name] = d
	s.tell(link(d, true))
}

// SetMTU changes an interface's MTU.
func (s *System) SetMTU(name string, mtu int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.links[name]
	d.MTU = mtu
	s.links[name] = d
}

// Remove makes an interface vanish.
func (s *System) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.links[name]
	delete(s.links, name)
	s.tell(link(d, false))
}

// Refuse makes Attach fail; nil ends that. Generic makes it fall back.
func (s *System) Refuse(err error, generic bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail, s.generic = err, generic
}

// SetFrames sets what programs attached from now on will have copied.
func (s *System) SetFrames(frames ...[]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frames = frames
}

// Programs returns all that were attached, oldest first.
func (s *System) Programs() []*Program {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.programs)
}

func link(d xdp.Interface, present bool) xdp.Link {
	return xdp.Link{Name: d.Name, Index: d.Index, MAC: d.MAC, MTU: d.MTU, Present: present, Up: present && d.Up, Carrier: present && d.Carrier}
}

func (s *System) tell(l xdp.Link) {
	for _, w := range s.watch {
		w <- l
	}
}

// Inspect implements [ports.System].
func (s *System) Inspect(name string) (xdp.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.links[name]
	if !ok {
		return d, fmt.Errorf("interface %s: %w (there are: %v)", name, dataplane.CodeNodev, slices.Sorted(maps.Keys(s.links)))
	}
	return d, nil
}

// Watch implements [ports.System].
func (s *System) Watch(ctx context.Context, report func(xdp.Link)) error {
	s.mu.Lock()
	ch := make(chan xdp.Link, 64)
	for _, n := range slices.Sorted(maps.Keys(s.links)) {
		ch <- link(s.links[n], true)
	}
	s.watch = append(s.watch, ch)
	s.mu.Unlock()
	for {
		select {
		case l := <-ch:
			report(l)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Share implements [ports.System]: there is no such kernel here.
func (s *System) Share(name string) (ports.Sharer, error) {
	return nil, dataplane.CodeUnsupported
}

// Attach implements [ports.System].
func (s *System) Attach(name string, o xdp.Options) (ports.Program, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return nil, fmt.Errorf("attach XDP program to %s: %w", name, s.fail)
	}
	p := &Program{Frames: s.frames, Name: name, Options: o, mode: xdp.ModeNative, Addresses: map[xdp.Address]bool{}, Sockets: map[int]int{}}
	if s.generic || o.Mode == xdp.ModeGeneric {
		p.mode, p.fallback = xdp.ModeGeneric, errors.New("driver has no native mode")
	}
	s.programs = append(s.programs, p)
	return p, nil
}

// Program implements [ports.Program].
type Program struct {
	Frames   [][]byte // what Copies shows
	Ended    bool     // EndCopies was called
	Name     string
	Options  xdp.Options
	mode     xdp.Mode
	fallback error

	mu        sync.Mutex
	refuse    map[netip.Addr]error
	refuseAll error // SetFilter's answer
	filter    xdp.Filter
	kernel    xdp.Ports
	Addresses map[xdp.Address]bool
	Sockets   map[int]int
	Behind    bool
	Closed    bool
}

// Mode implements [ports.Program].
func (p *Program) Mode() xdp.Mode { return p.mode }

// Fallback implements [ports.Program].
func (p *Program) Fallback() error { return p.fallback }

// RefuseAddress makes every change of an address fail, as a full map does; nil
// ends that.
func (p *Program) RefuseAddress(a netip.Addr, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse == nil {
		p.refuse = map[netip.Addr]error{}
	}
	p.refuse[a] = err
}

// Steered lists what the program steers, in order.
func (p *Program) Steered() []xdp.Address {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedFunc(maps.Keys(p.Addresses), func(a, b xdp.Address) int {
		return cmp.Or(cmp.Compare(a.VLAN, b.VLAN), a.Addr.Compare(b.Addr))
	})
}

// SetAddresses implements [ports.Program].
func (p *Program) SetAddresses(list []xdp.Address) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range list {
		if err := p.refuse[a.Addr]; err != nil && !p.Addresses[a] {
			return err
		}
	}
	clear(p.Addresses)
	for _, a := range list {
		p.Addresses[a] = true
	}
	return nil
}

// AddAddress implements [ports.Program].
func (p *Program) AddAddress(a xdp.Address) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.refuse[a.Addr]; err != nil {
		return err
	}
	p.Addresses[a] = true
	return nil
}

// DelAddress implements [ports.Program].
func (p *Program) DelAddress(a xdp.Address) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.refuse[a.Addr]; err != nil {
		return err
	}
	delete(p.Addresses, a)
	return nil
}

// SetSocket implements [ports.Program].
func (p *Program) SetSocket(queue, fd int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Sockets[queue] = fd
	return nil
}

// RefuseFilter makes changes of the filter fail; nil ends that.
func (p *Program) RefuseFilter(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuseAll = err
}

// Filter is the filter in force, its entries in order.
func (p *Program) Filter() (xdp.Filter, xdp.Ports) {
	p.mu.Lock()
	defer p.mu.Unlock()
	slices.SortFunc(p.filter.Entries, func(a, b xdp.Entry) int { return strings.Compare(a.Prefix.String(), b.Prefix.String()) })
	return p.filter, p.kernel
}

// SetFilter implements [ports.Program].
func (p *Program) SetFilter(f *xdp.Filter) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuseAll != nil {
		return p.refuseAll
	}
	p.filter = *f
	return nil
}

// SetBehind implements [ports.Program].
func (p *Program) SetBehind(on bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Behind = on
	return nil
}

// SetKernelPorts implements [ports.Program].
func (p *Program) SetKernelPorts(k xdp.Ports) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kernel = k
	return nil
}

// Hits implements [ports.Program]: each entry decided on seven packets.
func (p *Program) Hits() (map[netip.Prefix]uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[netip.Prefix]uint64{}
	for _, e := range p.filter.Entries {
		out[e.Prefix] = 7
	}
	return out, nil
}

// LimitedSources implements [ports.Program]: there is one when there are limits.
func (p *Program) LimitedSources(n int) ([]xdp.LimitedSource, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.filter.Limits == (xdp.Limits{}) || n == 0 {
		return nil, nil
	}
	return []xdp.LimitedSource{{Source: netip.MustParsePrefix("198.18.0.66/32"), Packets: 3, SYNs: 4}}, nil
}

// Copies implements [ports.Program]: it shows what SetFrames of the system gave, and returns.
func (p *Program) Copies(each func(frame []byte)) error {
	for _, f := range p.Frames {
		each(f)
	}
	return nil
}

// EndCopies implements [ports.Program].
func (p *Program) EndCopies() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Ended = true
}

// Counters implements [ports.Program].
func (p *Program) Counters() (xdp.Counters, error) {
	return xdp.Counters{Redirected: 10, Passed: 5, Steered: 4, Denied: 3, Limited: 2, SYNLimited: 1}, nil
}

// Close implements [ports.Program].
func (p *Program) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Closed = true
	return nil
}
