package netconn

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/events"
	"github.com/np-appliance/np/dataplane/ksock"
)

// Options of a transport; zero values mean defaults.
type Options struct {
	Backend string     // of Properties; "": what the plane says of itself, or the carrier's name
	Source  netip.Addr // of dials; invalid: as the route to the peer has it
	MTU     int        // of Properties

	// Carrier brings the bytes. One of kernel sockets has to be among the plane's; the
	// networks are then "tcp", "tcp4", "tcp6" and "unix". For CarrierRDMA the plane is that of
	// ctrl/rdma, and the networks are "rdma" and, for libraries that know nothing else, "tcp".
	Carrier  dataplane.Carrier
	UnixMode fs.FileMode // of the files of listening Unix sockets; 0: 0600

	CongestionControl dataplane.CongestionControl
	DSCP              int // of listeners and datagrams
	HalfOpen          int // connections of a listener that are being opened; 0: 1,024
	Backlog           int // and opened ones that nobody accepted; 0: 1,024
	MaxConns          int // of a listener; 0: no limit but the plane's
	Cookies           bool

	ReadBuffer    int // the plane's receive buffer, for Properties; 0: 4 MiB
	WriteBuffer   int // bytes of a connection on their way to the core's queue; 0: 256 KiB; at most 512 KiB
	DatagramBytes int // of a socket, not read; 0: 256 KiB
	// Resolver looks names up; nil: the host's.
	Resolver *net.Resolver
}

const (
	backlog        = 1024
	readBuffer     = 4 << 20
	socketBuffer   = 256 << 10
	writeBuffer    = 256 << 10
	writeBufferMax = 512 << 10 // a core's queue takes a megabyte
	datagramBytes  = 256 << 10
	portTries      = 64 // of ports that are in use, until one is free
	portMin        = 49152
	portCount      = 65536 - portMin // RFC 6335 §6: the dynamic ports
)

func (o *Options) defaults() {
	if o.ReadBuffer <= 0 && o.Carrier != dataplane.CarrierStack {
		o.ReadBuffer = socketBuffer
	}
	for _, d := range []struct {
		p *int
		n int
	}{{&o.HalfOpen, backlog}, {&o.Backlog, backlog}, {&o.ReadBuffer, readBuffer}, {&o.WriteBuffer, writeBuffer}, {&o.DatagramBytes, datagramBytes}} {
		if *d.p <= 0 {
			*d.p = d.n
		}
	}
	o.WriteBuffer = min(o.WriteBuffer, writeBufferMax)
	if o.UnixMode == 0 {
		o.UnixMode = unixMode
	}
}

func (o *Options) properties(p dataplane.Plane) dataplane.Properties {
	r := dataplane.Properties{Backend: o.Backend, MTU: o.MTU, ReadBuffer: o.ReadBuffer, WriteBuffer: o.WriteBuffer, ZeroCopy: true, Vectored: true,
		Networks: o.networks(), Latency: dataplane.LatencyPolled}
	if o.sockets() {
		r.Latency = dataplane.LatencyKernel
	}
	switch {
	case r.Backend != "":
	case o.Carrier == dataplane.CarrierStack:
		r.Backend = p.Info().Backend
	default:
		r.Backend = o.Carrier.String()
	}
	return r
}

// sockets says whether the carrier's streams are kernel sockets.
func (o *Options) sockets() bool {
	return o.Carrier == dataplane.CarrierEpoll || o.Carrier == dataplane.CarrierUring
}

// networks are those that the carrier has.
func (o *Options) networks() []string {
	switch {
	case o.Carrier == dataplane.CarrierStack:
		return []string{"tcp", "tcp4", "tcp6", "udp", "udp4", "udp6"}
	case o.sockets():
		return []string{"tcp", "tcp4", "tcp6", "unix"}
	case o.Carrier == dataplane.CarrierRDMA:
		return []string{"rdma", "tcp", "tcp4", "tcp6"}
	}
	return nil
}

// Transport implements [dataplane.Transport] over a plane.
type Transport struct {
	s *stack
	o Options
}

var _ dataplane.Transport = (*Transport)(nil)

// New makes a transport over plane, whose events r reads. It takes the events of all
// pipes and UDP sockets: there is one for a plane, and With makes others of it.
func New(plane dataplane.Plane, r *events.Reader, o Options) (*Transport, error) {
	s, err := newStack(plane, r)
	if err != nil {
		return nil, fmt.Errorf("connections over the data plane: %w", err)
	}
	o.defaults()
	return &Transport{s: s, o: o}, nil
}

// With returns a transport over the same plane with other options. Close of either
// closes both.
func (t *Transport) With(o Options) *Transport {
	o.defaults()
	return &Transport{s: t.s, o: o}
}

// Close aborts every connection and closes all listeners and sockets. The plane stays.
func (t *Transport) Close() error {
	s := t.s
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	var ls []*Listener
	for _, l := range s.listeners {
		ls = append(ls, l)
	}
	s.mu.Unlock()
	for _, l := range ls {
		_ = l.Close() // what the plane can't undo ends with it
	}
	for _, sh := range s.shards {
		sh.mu.Lock()
		var ps []*PacketConn
		for _, p := range sh.sockets {
			ps = append(ps, p)
		}
		sh.mu.Unlock()
		for _, p := range ps {
			_ = p.Close()
		}
	}
	s.reader.Remove(s)
	// Nobody else touches the tables now.
	for _, sh := range s.shards {
		for _, c := range sh.conns {
			if c != nil {
				_ = c.end(true)
			}
		}
	}
	s.end(dataplane.CodeShutdown)
	return nil
}

// Stats counts what a transport's bounds refused, over all transports of the plane.
type Stats struct {
	Accepted         uint64
	Overflowed       uint64 // connections reset because nobody accepted them
	DatagramsDropped uint64 // nobody read them
}

// Stats returns the counts.
func (t *Transport) Stats() Stats {
	return Stats{Accepted: t.s.stats.accepted.Load(), Overflowed: t.s.stats.overflowed.Load(), DatagramsDropped: t.s.stats.datagramsDropped.Load()}
}

// Properties implements [dataplane.Transport].
func (t *Transport) Properties() dataplane.Properties {
	return t.o.properties(t.s.plane)
}

// known says whether network is one of ours, and of the kind that is wanted.
func (t *Transport) known(op, network string, prefixes ...string) error {
	have := slices.DeleteFunc(t.o.networks(), func(n string) bool {
		return !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(n, p) })
	})
	if slices.Contains(have, network) {
		return nil
	}
	return dataplane.UnknownNetwork(op, network, have)
}

// fits says whether an address is of the network's family.
func fits(network string, a netip.Addr) bool {
	switch network[len(network)-1] {
	case '4':
		return a.Is4()
	case '6':
		return a.Is6()
	}
	return true
}

// resolve finds the addresses of "host:port". An empty host is the unspecified address.
func (t *Transport) resolve(ctx context.Context, network, address string) ([]netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	r := t.o.Resolver
	if r == nil {
		r = net.DefaultResolver
	}
	port, err := r.LookupPort(ctx, strings.Replace(network, "rdma", "tcp", 1), service)
	if err != nil {
		return nil, err
	}
	var list []netip.Addr
	switch a, err := netip.ParseAddr(host); {
	case host == "":
		list = []netip.Addr{netip.IPv6Unspecified()}
		if strings.HasSuffix(network, "4") {
			list[0] = netip.IPv4Unspecified()
		}
	case err == nil:
		list = []netip.Addr{a}
	default:
		family := "ip"
		if strings.HasSuffix(network, "4") || strings.HasSuffix(network, "6") {
			family += network[len(network)-1:]
		}
		if list, err = r.LookupNetIP(ctx, family, host); err != nil {
			return nil, err
		}
	}
	var out []netip.AddrPort
	for _, a := range list {
		if a = a.Unmap(); a.Zone() != "" {
			return nil, &net.AddrError{Err: "zones are of no use here: the plane knows its interfaces by addresses", Addr: host}
		} else if fits(network, a) {
			out = append(out, netip.AddrPortFrom(a, uint16(port)))
		}
	}
	if len(out) == 0 {
		return nil, &net.AddrError{Err: "no suitable address", Addr: host}
	}
	return out, nil
}

// Dial implements [dataplane.Transport]: a *Conn for "tcp", a connected datagram socket
// for "udp". A name's addresses are tried in their order, each with its share of the time.
func (t *Transport) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := t.known("dial", network, "tcp", "udp", "unix", "rdma"); err != nil {
		return nil, err
	}
	if network == "unix" {
		return t.dialUnix(ctx, address)
	}
	list, err := t.resolve(ctx, network, address)
	if err != nil {
		return nil, opError("dial", network, nil, nil, contextErr(err))
	}
	var first error
	for i, to := range list {
		c, err := t.dialOne(ctx, network, to, len(list)-i)
		if err == nil {
			return c, nil
		}
		var remote net.Addr = net.TCPAddrFromAddrPort(to)
		if strings.HasPrefix(network, "udp") {
			remote = net.UDPAddrFromAddrPort(to)
		}
		if first == nil {
			first = opError("dial", network, nil, remote, contextErr(err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}

// dialOne dials one of left addresses.
func (t *Transport) dialOne(ctx context.Context, network string, to netip.AddrPort, left int) (net.Conn, error) {
	if end, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(left))
		defer cancel()
	}
	if to.Addr().IsUnspecified() { // this host, as net has it
		return nil, codeErr(dataplane.CodeAddrnotavail)
	}
	var local netip.AddrPort
	if t.o.Source.IsValid() && t.o.Source.Is4() == to.Addr().Is4() {
		local = netip.AddrPortFrom(t.o.Source, 0)
	}
	if strings.HasPrefix(network, "udp") {
		return t.dialPacket(ctx, network, local, to)
	}
	if t.o.sockets() {
		c, err := t.dialSocket(ctx, local, to)
		if err != nil {
			return nil, err
		}
		c.o, c.network = &t.o, network
		return c, nil
	}
	c, err := t.s.connect(ctx, &dataplane.ConnectConfig{Local: local, Remote: to, Kind: dataplane.SessionPipe, CongestionControl: t.o.CongestionControl,
		Carrier: t.o.Carrier, Core: -1})
	if err != nil {
		return nil, err
	}
	c.o, c.network = &t.o, network
	return c, nil
}

// contextErr makes the end of a context what net makes of it: a deadline's is a timeout.
func contextErr(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return err
}

// bindable finds the one address to listen on.
func (t *Transport) bindable(ctx context.Context, network, address string) (netip.AddrPort, error) {
	list, err := t.resolve(ctx, network, address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return list[0], nil
}

// Listen implements [dataplane.Transport]: a *Listener. Port 0 chooses a dynamic one.
func (t *Transport) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if err := t.known("listen", network, "tcp", "unix", "rdma"); err != nil {
		return nil, err
	}
	if network == "unix" {
		return t.listenUnix(ctx, address)
	}
	at, err := t.bindable(ctx, network, address)
	if err != nil {
		return nil, opError("listen", network, nil, nil, contextErr(err))
	}
	if t.o.sockets() { // the kernel chooses a port
		l, err := t.listenSockets(ctx, network, at)
		if err != nil {
			return nil, opError("listen", network, nil, net.TCPAddrFromAddrPort(at), contextErr(planeErr(err)))
		}
		return l, nil
	}
	chosen := at.Port() != 0
	for try := 0; ; try++ {
		if !chosen {
			at = netip.AddrPortFrom(at.Addr(), uint16(portMin+rand.IntN(portCount)))
		}
		l, err := t.listen(ctx, &dataplane.ListenConfig{Address: at, Carrier: t.o.Carrier}, network, net.TCPAddrFromAddrPort(at), nil)
		if err == nil {
			return l, nil
		}
		taken := errors.Is(err, dataplane.CodeAddrinuse) || errors.Is(err, dataplane.CodeExists)
		if chosen || !taken || try == portTries {
			return nil, opError("listen", network, nil, net.TCPAddrFromAddrPort(at), contextErr(planeErr(err)))
		}
	}
}

// listen opens a listener of the plane; cfg says where. remove is called when it ends.
func (t *Transport) listen(ctx context.Context, cfg *dataplane.ListenConfig, network string, addr net.Addr, remove func()) (*Listener, error) {
	cfg.Kind, cfg.Backlog, cfg.MaxConns, cfg.Cookies = dataplane.SessionPipe, t.o.HalfOpen, t.o.MaxConns, t.o.Cookies
	if !t.o.sockets() { // which have theirs already
		cfg.CongestionControl, cfg.DSCP = t.o.CongestionControl, t.o.DSCP
	}
	return t.open(ctx, cfg, Opener{t.s.plane.Listen, t.s.plane.Unlisten}, network, addr, remove)
}

// Opener opens and ends listeners of a plane, in whatever way.
type Opener struct {
	Listen   func(context.Context, *dataplane.ListenConfig) (dataplane.ListenerID, error)
	Unlisten func(context.Context, dataplane.ListenerID) error
}

// ListenBy opens a listener as cfg says, whatever the transport's options are; only its Kind becomes
// that of pipes. For who has settled address, carrier and sockets already. network is "tcp" or
// "unix", addr what Addr says.
func (t *Transport) ListenBy(ctx context.Context, by Opener, cfg *dataplane.ListenConfig, network string, addr net.Addr) (*Listener, error) {
	one := *cfg
	one.Kind = dataplane.SessionPipe
	return t.open(ctx, &one, by, network, addr, nil)
}

func (t *Transport) open(ctx context.Context, cfg *dataplane.ListenConfig, by Opener, network string, addr net.Addr, remove func()) (*Listener, error) {
	s := t.s
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		ksock.Close(cfg.Sockets)
		return nil, dataplane.CodeShutdown
	}
	s.listening++
	s.mu.Unlock()
	id, err := by.Listen(ctx, cfg)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listening--
	var l *Listener
	if err == nil {
		l = &Listener{t: t, by: by, id: id, network: network, addr: addr, remove: remove, queue: make(chan *Conn, t.o.Backlog), done: make(chan struct{})}
		if s.closed {
			err = dataplane.CodeShutdown
			go l.unlisten()
		} else {
			s.listeners[id] = l
		}
	}
	kept := s.orphans[:0]
	for _, o := range s.orphans {
		switch {
		case err == nil && o.id == id:
			l.push(o.c)
		case s.listening > 0:
			kept = append(kept, o)
		default:
			o.c.discard()
		}
	}
	clear(s.orphans[len(kept):])
	s.orphans = kept
	if err != nil {
		return nil, err
	}
	return l, nil
}
