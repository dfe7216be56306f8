package xdp

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/dataplane"
)

//go:embed np_xdp.bpf.o
var object string

// QueuesMax is the number of queues an interface may have sockets on.
const QueuesMax = 64

// Mode says where in the kernel the program runs.
type Mode uint8

// Modes. Native runs in the driver; generic after the kernel made its own
// packet buffer, slower, and on any interface.
const (
	ModeAuto Mode = iota // native, generic where that is refused
	ModeNative
	ModeGeneric
)

// String returns the mode's name in configuration.
func (m Mode) String() string {
	switch m {
	case ModeAuto:
		return "auto"
	case ModeNative:
		return "native"
	case ModeGeneric:
		return "generic"
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// Options of Attach.
type Options struct {
	Mode Mode
	// Frags takes the program variant for frames in several fragments, needed
	// for an MTU above about 3,500; the sockets must be bound with XDP_USE_SG.
	Frags bool
}

// Address is an address of the appliance on a VLAN (0: untagged).
type Address struct {
	Addr netip.Addr
	VLAN uint16
}

// Counters count frames by what the program did with them; each frame counts
// in one of the first nine.
type Counters struct {
	Redirected uint64 // to an AF_XDP socket
	Passed     uint64 // to the kernel
	Steered    uint64 // to an own address, but a port of the kernel's; passed to it
	Errors     uint64 // too short to judge; passed to the kernel
	Dropped    uint64 // ours, but no socket was on the queue
	Denied     uint64 // dropped by a list
	Limited    uint64 // dropped by the limit of packets
	SYNLimited uint64 // dropped by the limit of SYNs
	PassedOver uint64 // for the kernel, dropped by the rate of what it gets
	// Of those passed, what was also copied (Copies), and what should have been.
	Copied, CopyLost uint64
}

// Program is the XDP program on one interface. Methods are safe for
// concurrent use.
type Program struct {
	ifname   string
	mode     Mode
	fallback error
	xsks     *ebpf.Map
	own      *ebpf.Map
	counters *ebpf.Map
	copies   *ebpf.Map
	filter   filterState
	groups   *groups // nil unless attached

	mu     sync.Mutex
	link   link.Link // nil once closed
	addrs  map[Address]struct{}
	prog   *ebpf.Program
	reader *ringbuf.Reader // nil until Copies
	deaf   bool            // EndCopies was called
	closed bool
}

// load brings the object into the kernel: the one variant that is wanted.
func load(frags bool) (*Program, error) {
	// Kernels before 5.11 count BPF memory against RLIMIT_MEMLOCK. Where raising
	// it is refused, loading fails below with the better message.
	_ = rlimit.RemoveMemlock()
	spec, err := ebpf.LoadCollectionSpecFromReader(strings.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("read embedded XDP object: %w", err)
	}
	var o struct {
		Xsks     *ebpf.Map `ebpf:"np_xsks"`
		Own      *ebpf.Map `ebpf:"np_own"`
		Counters *ebpf.Map `ebpf:"np_counters"`
		Copies   *ebpf.Map `ebpf:"np_copies"`
		Settings *ebpf.Map `ebpf:"np_settings"`
		List4    *ebpf.Map `ebpf:"np_list4"`
		List6    *ebpf.Map `ebpf:"np_list6"`
		Hits     *ebpf.Map `ebpf:"np_hits"`
		Ports    *ebpf.Map `ebpf:"np_kernel_ports"`
		Sources  *ebpf.Map `ebpf:"np_sources"`
	}
	name, unwanted := "np_xdp", "np_xdp_frags"
	if frags {
		name, unwanted = unwanted, name
	}
	delete(spec.Programs, unwanted)
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load XDP program: %w", explain(err))
	}
	defer coll.Close()
	if err := coll.Assign(&o); err != nil {
		return nil, fmt.Errorf("load XDP program: %w", err)
	}
	return &Program{
		xsks: o.Xsks, own: o.Own, counters: o.Counters, copies: o.Copies, prog: coll.DetachProgram(name),
		filter: filterState{settings: o.Settings, list4: o.List4, list6: o.List6, hits: o.Hits, ports: o.Ports, outer: o.Sources,
			sourcesSpec: spec.Maps["np_sources"].InnerMap, entries: map[netip.Prefix]slot{}},
		addrs: map[Address]struct{}{},
	}, nil
}

// Attach loads the program and attaches it to an interface. It passes
// everything to the kernel until addresses are added. The error wraps
// dataplane.CodeNodev, CodePerm, CodeBusy or CodeUnsupported where that is the
// cause, and says what to do.
func Attach(ifname string, o Options) (*Program, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("attach XDP program to %s: %w", ifname, dataplane.CodeNodev)
	}
	p, err := load(o.Frags)
	if err != nil {
		return nil, err
	}
	p.ifname = ifname
	if p.groups, err = openGroups(ifi.Index); err == nil {
		err = p.attach(ifi.Index, o.Mode)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("attach XDP program to %s: %w", ifname, err)
	}
	return p, nil
}

func (p *Program) attach(index int, mode Mode) error {
	try := func(flags link.XDPAttachFlags) error {
		l, err := link.AttachXDP(link.XDPOptions{Program: p.prog, Interface: index, Flags: flags})
		if err != nil {
			return err
		}
		p.link = l
		return nil
	}
	if mode != ModeGeneric {
		err := try(link.XDPDriverMode)
		if err == nil {
			p.mode = ModeNative
			return nil
		}
		if mode == ModeNative || final(err) {
			return p.explainAttach(err)
		}
		p.fallback = p.explainAttach(err)
	}
	if err := try(link.XDPGenericMode); err != nil {
		return p.explainAttach(err)
	}
	p.mode = ModeGeneric
	return nil
}

// final says whether generic mode would be refused for the same reason.
func final(err error) bool {
	return errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EEXIST) || errors.Is(err, syscall.EPERM) ||
		errors.Is(err, syscall.ENODEV) || errors.Is(err, ebpf.ErrNotSupported)
}

func (p *Program) explainAttach(err error) error {
	switch {
	case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.EEXIST):
		return fmt.Errorf("%w: another XDP program is attached (`ip link show dev %s` names it, `ip link set dev %s xdp off` "+
			"removes it unless a running process holds its link): %w", dataplane.CodeBusy, p.ifname, p.ifname, err)
	case errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("%w: %w", dataplane.CodeNodev, err)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%w (a veth device needs at least as many RX queues as its peer has TX queues: `ethtool -L`)", err)
	case errors.Is(err, syscall.ERANGE), errors.Is(err, syscall.E2BIG):
		return fmt.Errorf("%w (the MTU is too large for XDP frames in one page)", err)
	}
	return explain(err)
}

// explain adds the cause to errors of loading and attaching.
func explain(err error) error {
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: needs root, or CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF: %w", dataplane.CodePerm, err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%w: Linux 5.9 or newer is needed: %w", dataplane.CodeUnsupported, err)
	}
	return err
}

// Mode returns the mode in use: ModeNative or ModeGeneric.
func (p *Program) Mode() Mode { return p.mode }

// Fallback returns why native mode was refused, nil when it was not tried or
// is in use.
func (p *Program) Fallback() error { return p.fallback }

// key lays an address out as struct own of np_xdp.bpf.c.
func (a Address) key() (k [20]byte) {
	b := a.Addr.As16()
	copy(k[:], b[:])
	binary.NativeEndian.PutUint32(k[16:], uint32(a.VLAN))
	return k
}

func (a Address) valid() error {
	if !a.Addr.IsValid() || a.Addr.IsUnspecified() || a.Addr.IsMulticast() || a.VLAN > 4094 {
		return fmt.Errorf("address %s VLAN %d: %w", a.Addr, a.VLAN, dataplane.CodeInvalid)
	}
	return nil
}

func (a Address) normal() Address {
	return Address{Addr: a.Addr.Unmap().WithZone(""), VLAN: a.VLAN}
}

// AddAddress makes frames to an address come to the appliance from now on.
// Adding it again changes nothing.
func (p *Program) AddAddress(a Address) error {
	a = a.normal()
	if err := a.valid(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.add(a)
}

func (p *Program) add(a Address) error {
	if p.closed {
		return dataplane.CodeShutdown
	}
	if _, ok := p.addrs[a]; !ok {
		if err := p.groups.set(unix.PACKET_ADD_MEMBERSHIP, a.Addr); err != nil {
			return fmt.Errorf("join the solicited-node group of %s on %s: %w", a.Addr, p.ifname, err)
		}
	}
	k := a.key()
	if err := p.own.Put(k[:], uint32(1)); err != nil {
		if errors.Is(err, syscall.E2BIG) {
			err = dataplane.CodeFull
		}
		if _, ok := p.addrs[a]; !ok {
			_ = p.groups.set(unix.PACKET_DROP_MEMBERSHIP, a.Addr) // the first error counts
		}
		return fmt.Errorf("steer %s on %s: %w", a.Addr, p.ifname, err)
	}
	p.addrs[a] = struct{}{}
	return nil
}

// DelAddress leaves frames to an address to the kernel from now on. Deleting
// an unknown one changes nothing.
func (p *Program) DelAddress(a Address) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.del(a.normal())
}

func (p *Program) del(a Address) error {
	if p.closed {
		return dataplane.CodeShutdown
	}
	k := a.key()
	if err := p.own.Delete(k[:]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("stop steering %s on %s: %w", a.Addr, p.ifname, err)
	}
	if _, ok := p.addrs[a]; ok {
		delete(p.addrs, a)
		if err := p.groups.set(unix.PACKET_DROP_MEMBERSHIP, a.Addr); err != nil {
			return fmt.Errorf("leave the solicited-node group of %s on %s: %w", a.Addr, p.ifname, err)
		}
	}
	return nil
}

// SetAddresses makes the own addresses exactly these: new ones are added
// before old ones go, and those that stay see no gap.
func (p *Program) SetAddresses(addrs []Address) error {
	want := make(map[Address]struct{}, len(addrs))
	for _, a := range addrs {
		a = a.normal()
		if err := a.valid(); err != nil {
			return err
		}
		want[a] = struct{}{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for a := range want {
		if err := p.add(a); err != nil {
			return err
		}
	}
	for a := range p.addrs {
		if _, ok := want[a]; ok {
			continue
		}
		if err := p.del(a); err != nil {
			return err
		}
	}
	return nil
}

// SetSocket gives the frames of a queue to the AF_XDP socket fd. The kernel
// forgets the socket by itself when it is closed.
func (p *Program) SetSocket(queue, fd int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return dataplane.CodeShutdown
	case queue < 0 || queue >= QueuesMax || fd < 0:
		return fmt.Errorf("socket of queue %d of %s: %w (queues 0 to %d)", queue, p.ifname, dataplane.CodeInvalid, QueuesMax-1)
	}
	if err := p.xsks.Put(uint32(queue), uint32(fd)); err != nil {
		return fmt.Errorf("steer queue %d of %s to its socket: %w", queue, p.ifname, err)
	}
	return nil
}

// ClearSocket takes a queue's socket away; frames for us are dropped there,
// and counted.
func (p *Program) ClearSocket(queue int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return dataplane.CodeShutdown
	}
	if err := p.xsks.Delete(uint32(queue)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("clear the socket of queue %d of %s: %w", queue, p.ifname, err)
	}
	return nil
}

// Seen is how many frames the program has judged: each ended in one way.
func (c *Counters) Seen() uint64 {
	return c.Redirected + c.Passed + c.Steered + c.Errors + c.Drops()
}

// Drops is how many of them it dropped.
func (c *Counters) Drops() uint64 {
	return c.Dropped + c.Denied + c.Limited + c.SYNLimited + c.PassedOver
}

// Reason is why the program dropped frames, and how many.
type Reason struct {
	Reason  string
	Packets uint64
	Help    string
}

// ByReason are the drops.
func (c *Counters) ByReason() []Reason {
	return []Reason{{"no_socket", c.Dropped, "for the appliance, on a queue without a socket"},
		{"denied", c.Denied, "their source is on the deny list"},
		{"rate_limited", c.Limited, "more packets of one source than the limit"},
		{"syn_limited", c.SYNLimited, "more connection attempts of one source than the limit"},
		{"kernel_rate_limited", c.PassedOver, "for the kernel, over the rate of what it may have"}}
}

// Add adds the counters of another program.
func (c *Counters) Add(o *Counters) {
	c.Redirected += o.Redirected
	c.Passed += o.Passed
	c.Steered += o.Steered
	c.Errors += o.Errors
	c.Dropped += o.Dropped
	c.Denied += o.Denied
	c.Limited += o.Limited
	c.SYNLimited += o.SYNLimited
	c.PassedOver += o.PassedOver
	c.Copied += o.Copied
	c.CopyLost += o.CopyLost
}

// Counters sums the counters of all CPUs.
func (p *Program) Counters() (Counters, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return Counters{}, dataplane.CodeShutdown
	}
	var c Counters
	for i, to := range []*uint64{&c.Redirected, &c.Passed, &c.Dropped, &c.Errors, &c.Copied, &c.CopyLost, &c.Denied, &c.Limited, &c.SYNLimited, &c.Steered, &c.PassedOver} {
		n, err := sumCPUs(p.counters, uint32(i))
		if err != nil {
			return Counters{}, fmt.Errorf("read XDP counters of %s: %w", p.ifname, err)
		}
		*to = n
	}
	return c, nil
}

// copyHead is what stands before the frame in struct copy of np_xdp.bpf.c.
const copyHead = 8

// Copies calls each with the frames that went to the kernel and concern the
// appliance too, until EndCopies or Close. A frame is valid during the call; while each
// runs, what the program's ring cannot hold is lost and counted. Call it once.
func (p *Program) Copies(each func(frame []byte)) error {
	p.mu.Lock()
	if p.deaf {
		p.mu.Unlock()
		return nil
	}
	if p.closed || p.reader != nil {
		p.mu.Unlock()
		return dataplane.CodeState
	}
	r, err := ringbuf.NewReader(p.copies)
	p.reader = r
	p.mu.Unlock()
	if err != nil {
		return fmt.Errorf("read copies of %s: %w", p.ifname, explain(err))
	}
	var rec ringbuf.Record
	for {
		if err := r.ReadInto(&rec); err != nil {
			if errors.Is(err, ringbuf.ErrClosed) {
				return nil
			}
			return fmt.Errorf("read copies of %s: %w", p.ifname, err)
		}
		if len(rec.RawSample) < copyHead {
			continue
		}
		n := uint64(binary.NativeEndian.Uint32(rec.RawSample))
		if n <= uint64(len(rec.RawSample)-copyHead) {
			each(rec.RawSample[copyHead : copyHead+n])
		}
	}
}

// EndCopies makes Copies return, now or when it is called.
func (p *Program) EndCopies() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = true
	if p.reader != nil {
		_ = p.reader.Close() // memory and an epoll instance of ours; nothing to be done about an error
	}
}

// Close detaches the program and frees it. A second Close does nothing; an
// interface that vanished is no error.
func (p *Program) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	var err error
	if p.link != nil {
		err = p.link.Close()
	}
	if p.reader != nil && !p.deaf {
		err = errors.Join(err, p.reader.Close()) // ends Copies
	}
	p.groups.close()
	p.prog.Close()
	p.xsks.Close()
	p.own.Close()
	p.counters.Close()
	p.copies.Close()
	p.filter.close()
	return err
}
