package xdp

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/dataplane"
)

// Bounds of a filter.
const (
	EntriesMax = 8192     // of both lists and both families
	SourcesMax = 65536    // remembered by the limits; the one unseen longest goes first
	RateMax    = 10000000 // a second
	BurstMax   = 1000000
)

// Action is what a list entry does with the sources it holds.
type Action uint8

// Actions. Where entries overlap the longest prefix decides; without one a
// source is allowed. An allow entry exempts its sources from the limits, too.
const (
	Deny Action = iota
	Allow
)

// String returns the action's name in configuration.
func (a Action) String() string {
	if a == Allow {
		return "allow"
	}
	return "deny"
}

// Entry is one entry of a device's list.
type Entry struct {
	Prefix netip.Prefix
	Action Action
}

// Limits hold for each source by itself: an IPv4 address or an IPv6 /64. Rates
// are a second's; 0 is none. A burst is what may come at once after a pause;
// 0 is what may come in a second.
type Limits struct {
	Packets, PacketBurst int
	SYNs, SYNBurst       int // TCP segments with SYN and without ACK
}

// Filter is what the program does with packets by their source.
type Filter struct {
	Entries []Entry
	Limits  Limits
	// All applies it to what goes to the kernel as well. Otherwise only packets
	// for the appliance are dropped, and no list locks anybody out of the host.
	All bool
}

// PortRange is first to last, both included.
type PortRange struct{ First, Last uint16 }

// Ports are ports of TCP and UDP, IP protocols, and how much the kernel may have.
type Ports struct {
	TCP, UDP  []PortRange
	Protocols []uint8
	Rate      int // frames a second to the kernel, all sources together; 0 no limit
}

// Empty says that nothing is asked for.
func (p *Ports) Empty() bool {
	return len(p.TCP)+len(p.UDP)+len(p.Protocols) == 0 && p.Rate == 0
}

// LimitedSource is a source that exceeded a limit, and about how many packets
// it lost by that since the limits were last changed.
type LimitedSource struct {
	Source        netip.Prefix
	Packets, SYNs uint64
}

// Bits of struct settings of np_filter.h.
const (
	flagList4 uint32 = 1 << iota
	flagList6
	flagPackets
	flagSYNs
	flagAll
	flagPorts
	flagPassed
	flagBehind
)

// settings is struct settings of np_filter.h.
type settings struct {
	Flags         uint32
	_             uint32
	PacketNs      uint64
	PacketSlackNs uint64
	SYNNs         uint64
	SYNSlackNs    uint64
	PassNs        uint64
	PassSlackNs   uint64
}

// sourceKey and buckets are struct source and struct buckets.
type sourceKey struct {
	Net    [8]byte
	Family uint32
}

type buckets struct{ PacketsNs, SYNsNs, PacketsOver, SYNsOver uint64 }

const (
	portWords   = 1024
	kernelWords = 2*portWords + 4 // ports of TCP and of UDP, IP protocols
)

// filterState is the filter in force.
type filterState struct {
	settings, list4, list6, hits, ports, outer *ebpf.Map

	sourcesSpec *ebpf.MapSpec
	sources     *ebpf.Map // nil: no limits
	entries     map[netip.Prefix]slot
	free        []uint32 // slots given back
	next        uint32   // slots never used begin here
	limits      Limits
	all         bool
	behind      bool
	kernel      [kernelWords]uint64
	passRate    int
}

// slot is an entry's counter.
type slot struct {
	action Action
	at     uint32
}

// Validate says what is wrong with an entry.
func (e Entry) Validate() error {
	switch {
	case !e.Prefix.IsValid() || e.Prefix.Addr().Zone() != "" || e.Prefix.Addr().Is4In6():
		return fmt.Errorf("prefix %s: %w", e.Prefix, dataplane.CodeInvalid)
	case e.Prefix != e.Prefix.Masked():
		return fmt.Errorf("prefix %s has bits behind its length, expected %s: %w", e.Prefix, e.Prefix.Masked(), dataplane.CodeInvalid)
	case e.Action > Allow:
		return fmt.Errorf("action %d: %w", e.Action, dataplane.CodeInvalid)
	}
	return nil
}

// Validate says what is wrong with limits.
func (l Limits) Validate() error {
	for _, v := range [...]struct {
		what       string
		value, max int
	}{{"packet rate", l.Packets, RateMax}, {"packet burst", l.PacketBurst, BurstMax}, {"SYN rate", l.SYNs, RateMax}, {"SYN burst", l.SYNBurst, BurstMax}} {
		if v.value < 0 || v.value > v.max {
			return fmt.Errorf("%s %d: %w (0 to %d)", v.what, v.value, dataplane.CodeInvalid, v.max)
		}
	}
	if l.Packets == 0 && l.PacketBurst != 0 {
		return fmt.Errorf("packet burst %d without a packet rate: %w", l.PacketBurst, dataplane.CodeInvalid)
	}
	if l.SYNs == 0 && l.SYNBurst != 0 {
		return fmt.Errorf("SYN burst %d without a SYN rate: %w", l.SYNBurst, dataplane.CodeInvalid)
	}
	return nil
}

// Validate says what is wrong with a filter.
func (f *Filter) Validate() error {
	if len(f.Entries) > EntriesMax {
		return fmt.Errorf("%d list entries: %w (at most %d)", len(f.Entries), dataplane.CodeFull, EntriesMax)
	}
	seen := make(map[netip.Prefix]struct{}, len(f.Entries))
	for _, e := range f.Entries {
		if err := e.Validate(); err != nil {
			return err
		}
		if _, twice := seen[e.Prefix]; twice {
			return fmt.Errorf("prefix %s is listed twice: %w", e.Prefix, dataplane.CodeExists)
		}
		seen[e.Prefix] = struct{}{}
	}
	return f.Limits.Validate()
}

// InForce are the limits with the bursts that defaults become.
func (l Limits) InForce() Limits {
	if l.PacketBurst == 0 {
		l.PacketBurst = min(l.Packets, BurstMax)
	}
	if l.SYNBurst == 0 {
		l.SYNBurst = min(l.SYNs, BurstMax)
	}
	return l
}

// shares turns a rate into a packet's share of a second and what a burst may
// be ahead of it.
func shares(rate, burst int) (each, slack uint64) {
	if rate == 0 {
		return 0, 0
	}
	each = 1e9 / uint64(rate)
	return each, each * uint64(burst-1)
}

// SetFilter makes the filter exactly this one. Entries that stay keep their
// counts; sources start anew when the limits change. On an error the old
// filter is in force. Meanwhile each packet is judged by the old list or by the
// new one, never by a mixture.
func (p *Program) SetFilter(f *Filter) error {
	if err := f.Validate(); err != nil {
		return fmt.Errorf("filter of %s: %w", p.ifname, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return dataplane.CodeShutdown
	}
	old := p.filter.current()
	err := p.filter.apply(f)
	if err != nil {
		err = errors.Join(fmt.Errorf("filter of %s: %w", p.ifname, err), p.filter.apply(old))
	}
	return err
}

func (s *filterState) current() *Filter {
	f := &Filter{Limits: s.limits, All: s.all}
	for prefix, e := range s.entries {
		f.Entries = append(f.Entries, Entry{prefix, e.action})
	}
	return f
}

// plan lists the entries to put in, the longest prefixes first, and those to
// take out after that, the shortest first: at each moment the longest prefix that
// holds a source is the old list's choice or the new one's.
func (s *filterState) plan(f *Filter) (come, gone []Entry) {
	want := make(map[netip.Prefix]Action, len(f.Entries))
	for _, e := range f.Entries {
		want[e.Prefix] = e.Action
		if is, ok := s.entries[e.Prefix]; !ok || is.action != e.Action {
			come = append(come, e)
		}
	}
	for prefix, e := range s.entries {
		if _, ok := want[prefix]; !ok {
			gone = append(gone, Entry{prefix, e.action})
		}
	}
	slices.SortFunc(come, func(a, b Entry) int { return b.Prefix.Bits() - a.Prefix.Bits() })
	slices.SortFunc(gone, func(a, b Entry) int { return a.Prefix.Bits() - b.Prefix.Bits() })
	return come, gone
}

func (s *filterState) apply(f *Filter) error {
	come, gone := s.plan(f)
	for _, e := range come {
		if err := s.put(e); err != nil {
			return err
		}
	}
	// Before any of the old goes, so that a first list is in force from here on.
	if err := s.setLimits(f.Limits); err != nil {
		return err
	}
	s.limits, s.all = f.Limits, f.All
	if err := s.write(); err != nil {
		return err
	}
	for _, e := range gone {
		if err := s.del(e); err != nil {
			return err
		}
	}
	return s.write()
}

// list is the trie of a prefix and its key there, struct list4_key or list6_key.
func (s *filterState) list(prefix netip.Prefix) (*ebpf.Map, []byte) {
	key := binary.NativeEndian.AppendUint32(nil, uint32(prefix.Bits()))
	key = append(key, prefix.Addr().AsSlice()...)
	if prefix.Addr().Is4() {
		return s.list4, key
	}
	return s.list6, key
}

func (s *filterState) put(e Entry) error {
	was, known := s.entries[e.Prefix]
	at := was.at
	if !known {
		if at = s.next; len(s.free) > 0 {
			at = s.free[len(s.free)-1]
		} else if at == 2*EntriesMax {
			return dataplane.CodeFull
		}
		cpus, err := ebpf.PossibleCPU()
		if err == nil {
			err = s.hits.Put(at, make([]uint64, cpus))
		}
		if err != nil {
			return fmt.Errorf("clear the counter of %s: %w", e.Prefix, err)
		}
	}
	m, key := s.list(e.Prefix)
	value := binary.NativeEndian.AppendUint32(nil, uint32(e.Action))
	if err := m.Put(key, binary.NativeEndian.AppendUint32(value, at)); err != nil {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.E2BIG) {
			err = dataplane.CodeFull
		}
		return fmt.Errorf("%s %s: %w", e.Action, e.Prefix, err)
	}
	if !known {
		if at == s.next {
			s.next++
		} else {
			s.free = s.free[:len(s.free)-1]
		}
	}
	s.entries[e.Prefix] = slot{e.Action, at}
	return nil
}

func (s *filterState) del(e Entry) error {
	m, key := s.list(e.Prefix)
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete %s: %w", e.Prefix, err)
	}
	s.free = append(s.free, s.entries[e.Prefix].at)
	delete(s.entries, e.Prefix)
	return nil
}

// setLimits makes room for sources when there is a limit, anew when it changed:
// times written under another rate mean nothing.
func (s *filterState) setLimits(l Limits) error {
	on := l.Packets > 0 || l.SYNs > 0
	if l == s.limits && on == (s.sources != nil) {
		return nil
	}
	old := s.sources
	if on {
		m, err := ebpf.NewMap(s.sourcesSpec)
		if err != nil {
			return fmt.Errorf("room for %d sources: %w", SourcesMax, explain(err))
		}
		if err := s.outer.Put(uint32(0), m); err != nil {
			m.Close()
			return fmt.Errorf("set limits: %w", err)
		}
		s.sources = m
	} else if old != nil {
		if err := s.outer.Delete(uint32(0)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("end limits: %w", err)
		}
		s.sources = nil
	}
	if old != nil {
		old.Close()
	}
	return nil
}

// write brings the settings word up to date, last of all: the program looks at
// nothing that it does not name.
func (s *filterState) write() error {
	var w settings
	for prefix := range s.entries {
		if prefix.Addr().Is4() {
			w.Flags |= flagList4
		} else {
			w.Flags |= flagList6
		}
	}
	if s.limits.Packets > 0 {
		w.Flags |= flagPackets
	}
	if s.limits.SYNs > 0 {
		w.Flags |= flagSYNs
	}
	if s.all && w.Flags != 0 {
		w.Flags |= flagAll
	}
	if s.behind {
		w.Flags |= flagBehind
	}
	if s.kernel != [len(s.kernel)]uint64{} {
		w.Flags |= flagPorts
	}
	if s.passRate > 0 {
		w.Flags |= flagPassed
		w.PassNs, w.PassSlackNs = shares(s.passRate, max(s.passRate/10, 1))
	}
	l := s.limits.InForce()
	w.PacketNs, w.PacketSlackNs = shares(l.Packets, l.PacketBurst)
	w.SYNNs, w.SYNSlackNs = shares(l.SYNs, l.SYNBurst)
	if err := s.settings.Put(uint32(0), w); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// SetBehind says that the appliance has its frames behind the kernel's driver, as
// copies (AF_PACKET): then what the filter lets pass goes to the kernel, own
// addresses or not, and counts as Passed.
func (p *Program) SetBehind(on bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return dataplane.CodeShutdown
	}
	p.filter.behind = on
	return p.filter.write()
}

// SetKernelPorts leaves to the kernel what comes for these ports or protocols of own
// addresses, or from such a port below 1024, ICMP errors about what left from them, and,
// while there are any, answers to echoes; everything else of the addresses stays the
// appliance's, fragments included. Answers of neighbors then go to both, as either may
// have asked. The kernel must have the addresses too. What it opens itself to other
// ports comes home only to listed ones: list net.ipv4.ip_local_port_range for it. The
// rate is of all that goes to the kernel.
func (p *Program) SetKernelPorts(ports Ports) error {
	var bits [kernelWords]uint64
	if ports.Rate < 0 || ports.Rate > RateMax {
		return fmt.Errorf("rate %d to the kernel on %s: %w (0 to %d)", ports.Rate, p.ifname, dataplane.CodeInvalid, RateMax)
	}
	for _, n := range ports.Protocols {
		if n == 0 || n == unix.IPPROTO_TCP || n == unix.IPPROTO_UDP {
			return fmt.Errorf("protocol %d of %s: %w", n, p.ifname, dataplane.CodeInvalid)
		}
		bits[2*portWords+int(n)/64] |= 1 << (n % 64)
	}
	for i, list := range [...][]PortRange{ports.TCP, ports.UDP} {
		for _, r := range list {
			if r.First == 0 || r.First > r.Last {
				return fmt.Errorf("ports %d to %d of %s: %w", r.First, r.Last, p.ifname, dataplane.CodeInvalid)
			}
			for n := int(r.First); n <= int(r.Last); n++ {
				bits[i*portWords+n/64] |= 1 << (n % 64)
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return dataplane.CodeShutdown
	}
	for i, w := range bits {
		if w == p.filter.kernel[i] {
			continue
		}
		if err := p.filter.ports.Put(uint32(i), w); err != nil {
			return fmt.Errorf("kernel ports of %s: %w", p.ifname, err)
		}
		p.filter.kernel[i] = w
	}
	p.filter.passRate = ports.Rate
	return p.filter.write()
}

// Hits tells how many packets each list entry has decided on since it was made.
func (p *Program) Hits() (map[netip.Prefix]uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, dataplane.CodeShutdown
	}
	out := make(map[netip.Prefix]uint64, len(p.filter.entries))
	for prefix, e := range p.filter.entries {
		n, err := sumCPUs(p.filter.hits, e.at)
		if err != nil {
			return nil, fmt.Errorf("read hits of %s: %w", p.ifname, err)
		}
		out[prefix] = n
	}
	return out, nil
}

// sumCPUs sums a value of a map that is by CPU.
func sumCPUs(m *ebpf.Map, at uint32) (n uint64, err error) {
	var per []uint64
	if err := m.Lookup(at, &per); err != nil {
		return 0, err
	}
	for _, v := range per {
		n += v
	}
	return n, nil
}

// sourcesChunk is how many sources are read at a time; the kernel wants room for
// a whole bucket of the hash.
const sourcesChunk = 4096

// LimitedSources returns the sources that lost most to the limits, at most n.
func (p *Program) LimitedSources(n int) ([]LimitedSource, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, dataplane.CodeShutdown
	}
	if p.filter.sources == nil {
		return nil, nil
	}
	var out []LimitedSource
	var cursor ebpf.MapBatchCursor
	keys, values := make([]sourceKey, sourcesChunk), make([]buckets, sourcesChunk)
	for read := 0; read < 2*SourcesMax; { // a map that changes meanwhile ends too
		got, err := p.filter.sources.BatchLookup(&cursor, keys, values, nil)
		for i := range got {
			if v := &values[i]; v.PacketsOver > 0 || v.SYNsOver > 0 {
				out = append(out, LimitedSource{keys[i].prefix(), v.PacketsOver, v.SYNsOver})
			}
		}
		read += got
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read limited sources of %s: %w", p.ifname, err)
		}
	}
	slices.SortFunc(out, func(a, b LimitedSource) int {
		return cmp.Or(cmp.Compare(b.Packets+b.SYNs, a.Packets+a.SYNs), a.Source.Addr().Compare(b.Source.Addr()))
	})
	return out[:min(n, len(out))], nil
}

func (k *sourceKey) prefix() netip.Prefix {
	if k.Family == 4 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte(k.Net[:4])), 32)
	}
	var a [16]byte
	copy(a[:], k.Net[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

func (s *filterState) close() {
	for _, m := range [...]*ebpf.Map{s.settings, s.list4, s.list6, s.hits, s.ports, s.outer, s.sources} {
		m.Close()
	}
}
