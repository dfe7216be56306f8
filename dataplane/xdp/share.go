package xdp

import (
	_ "embed"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/dataplane"
)

//go:embed np_share.bpf.o
var shareObject string

// Share divides the frames of a device between the kernel and packet sockets, which by
// themselves both get all (csrc/bpf/np_share.bpf.c): the sockets get what is for own
// addresses, the kernel the rest. Methods are safe for concurrent use.
type Share struct {
	p      Program // the own addresses, their groups, the program at TCX; no XDP program
	filter *ebpf.Program
}

// NewShare loads the programs and attaches the kernel's. With no address yet the kernel
// gets everything and sockets nothing. The error wraps dataplane.CodeNodev, CodePerm or
// CodeUnsupported (before Linux 6.6) where that is the cause.
func NewShare(ifname string) (*Share, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("share %s with the kernel: %w", ifname, dataplane.CodeNodev)
	}
	s, err := loadShare()
	if err != nil {
		return nil, err
	}
	s.p.ifname = ifname
	if s.p.groups, err = openGroups(ifi.Index); err == nil {
		s.p.link, err = link.AttachTCX(link.TCXOptions{Interface: ifi.Index, Program: s.p.prog, Attach: ebpf.AttachTCXIngress})
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("share %s with the kernel: %w", ifname, s.explain(err))
	}
	return s, nil
}

func loadShare() (*Share, error) {
	_ = rlimit.RemoveMemlock() // as load
	spec, err := ebpf.LoadCollectionSpecFromReader(strings.NewReader(shareObject))
	if err != nil {
		return nil, fmt.Errorf("read embedded BPF object: %w", err)
	}
	var o struct {
		Own      *ebpf.Map     `ebpf:"np_own"`
		Counters *ebpf.Map     `ebpf:"np_counters"`
		Socket   *ebpf.Program `ebpf:"np_share_socket"`
		Kernel   *ebpf.Program `ebpf:"np_share_kernel"`
	}
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		return nil, fmt.Errorf("load BPF programs: %w", explain(err))
	}
	return &Share{p: Program{own: o.Own, counters: o.Counters, prog: o.Kernel, addrs: map[Address]struct{}{}}, filter: o.Socket}, nil
}

func (s *Share) explain(err error) error {
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("%w: Linux 6.6 or newer is needed: %w", dataplane.CodeUnsupported, err)
	}
	return explain(err)
}

// SetSocket puts the filter on a packet socket. It stays as long as the socket.
func (s *Share) SetSocket(fd int) error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if s.p.closed {
		return dataplane.CodeShutdown
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, s.filter.FD()); err != nil {
		return fmt.Errorf("filter a packet socket of %s: %w", s.p.ifname, err)
	}
	return nil
}

// SetAddresses makes the own addresses exactly these, as [Program.SetAddresses].
func (s *Share) SetAddresses(addrs []Address) error { return s.p.SetAddresses(addrs) }

// Counters tells what the kernel did not get because it is ours (Redirected), and what
// it got (Passed).
func (s *Share) Counters() (Counters, error) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if s.p.closed {
		return Counters{}, dataplane.CodeShutdown
	}
	var c Counters
	for i, to := range []*uint64{&c.Redirected, &c.Passed} {
		n, err := sumCPUs(s.p.counters, uint32(i))
		if err != nil {
			return Counters{}, fmt.Errorf("read counters of %s: %w", s.p.ifname, err)
		}
		*to = n
	}
	return c, nil
}

// Close gives the kernel everything again. Filters stay on sockets that have one. A
// second Close does nothing.
func (s *Share) Close() error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if s.p.closed {
		return nil
	}
	s.p.closed = true
	var err error
	if s.p.link != nil {
		err = s.p.link.Close()
	}
	s.p.groups.close()
	s.p.prog.Close()
	s.filter.Close()
	s.p.own.Close()
	s.p.counters.Close()
	return err
}
