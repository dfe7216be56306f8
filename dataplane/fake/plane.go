package fake

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/np-appliance/np/dataplane"
)

// Options of a fake plane; the zero value is one core.
type Options struct {
	Cores int
	// PieceBytes splits event bodies into pieces of at most this many bytes, as
	// bodies over several buffers are; 0 gives one piece.
	PieceBytes int
	Window     int            // bytes a pipe's reader may be sent beyond its credit; 0: 64 KiB
	Info       dataplane.Info // CPUs and Backend are filled in when empty
}

// Interface is an interface as the fake holds it.
type Interface struct {
	ID        dataplane.InterfaceID
	Config    dataplane.InterfaceConfig
	Addresses []netip.Prefix
	Down      bool
}

// Listener is a listener as the fake holds it.
type Listener struct {
	ID     dataplane.ListenerID
	Config dataplane.ListenConfig
	Conns  int
}

// Plane implements [dataplane.Plane]. Methods are safe for concurrent use.
type Plane struct {
	info  dataplane.Info
	piece int
	start time.Time
	cores []*Core

	mu        sync.Mutex
	closed    bool
	draining  bool
	fail      map[string]*failure
	ifaces    []*Interface
	routes    []dataplane.Route
	listeners map[dataplane.ListenerID]*Listener
	nextLis   dataplane.ListenerID
	nextGen   uint32
	peers     map[dataplane.Handle]*Peer
	log       []Command
	tokens    map[uintptr][]byte // bodies lent to the reader
	nextToken uintptr
	holdSent  bool
	room      int // frames that Send still takes, -1 no limit
	counters  []dataplane.Counters
	queues    map[dataplane.InterfaceID][]dataplane.QueueStats
	conns     []dataplane.Conn
	connsSet  bool
	neighbors []dataplane.Neighbor
	addresses []dataplane.Address
	observed  [][]byte
	captures  []*capture

	window    int
	pipes     map[dataplane.Handle]*pipe
	sockets   map[dataplane.Handle]*socket
	served    map[netip.AddrPort]*Server
	voids     map[netip.AddrPort]bool
	slots     uint32
	freeSlots []uint32
	turn      int
	ports     int
}

type failure struct {
	err  error
	left int // -1: until cleared
}

var _ dataplane.Plane = (*Plane)(nil)

// New makes a plane.
func New(o Options) *Plane {
	n := max(o.Cores, 1)
	p := &Plane{
		info: o.Info, piece: o.PieceBytes, start: time.Now(),
		fail:      map[string]*failure{},
		listeners: map[dataplane.ListenerID]*Listener{},
		peers:     map[dataplane.Handle]*Peer{},
		tokens:    map[uintptr][]byte{},
		room:      -1,
		counters:  make([]dataplane.Counters, n),
		queues:    map[dataplane.InterfaceID][]dataplane.QueueStats{},
		window:    o.Window,
		pipes:     map[dataplane.Handle]*pipe{},
		sockets:   map[dataplane.Handle]*socket{},
		served:    map[netip.AddrPort]*Server{},
		voids:     map[netip.AddrPort]bool{},
	}
	if p.window == 0 {
		p.window = pipeWindow
	}
	if p.info.Backend == "" {
		p.info.Backend = "fake"
	}
	for i := range n {
		p.cores = append(p.cores, &Core{p: p, index: i, notify: make(chan struct{}, 1)})
		if len(p.info.CPUs) < n {
			p.info.CPUs = append(p.info.CPUs, -1)
		}
	}
	return p
}

// enter checks for Close and injected failures. p.mu is held.
func (p *Plane) enter(call string) error {
	if p.closed {
		return dataplane.CodeShutdown
	}
	f := p.fail[call]
	if f == nil || f.left == 0 {
		return nil
	}
	if f.left > 0 {
		f.left--
	}
	return f.err
}

func (p *Plane) now() time.Duration { return time.Since(p.start) }

// Info implements [dataplane.Plane].
func (p *Plane) Info() dataplane.Info {
	i := p.info
	i.CPUs = slices.Clone(i.CPUs)
	return i
}

// Cores implements [dataplane.Plane].
func (p *Plane) Cores() []dataplane.Core {
	out := make([]dataplane.Core, len(p.cores))
	for i, c := range p.cores {
		out[i] = c
	}
	return out
}

func (p *Plane) openQueues(cfg *dataplane.InterfaceConfig) []dataplane.Queue {
	qs := make([]dataplane.Queue, max(cfg.Queues, 1))
	for i := range qs {
		qs[i] = dataplane.Queue{Queue: i, Core: i % len(p.cores), FD: -1}
	}
	return qs
}

// AddInterface implements [dataplane.Plane]. Queues have FD -1.
func (p *Plane) AddInterface(ctx context.Context, cfg *dataplane.InterfaceConfig) (dataplane.InterfaceID, []dataplane.Queue, error) {
	if err := ctx.Err(); err != nil {
		return 0, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.enter("AddInterface"); err != nil {
		return 0, nil, err
	}
	for _, i := range p.ifaces {
		if i.Config.Name == cfg.Name && i.Config.VLAN == cfg.VLAN {
			return 0, nil, dataplane.CodeExists
		}
	}
	if len(p.ifaces) == 32 {
		return 0, nil, dataplane.CodeFull
	}
	i := &Interface{ID: dataplane.InterfaceID(len(p.ifaces)), Config: *cfg, Addresses: slices.Clone(cfg.Addresses)}
	p.ifaces = append(p.ifaces, i)
	return i.ID, p.openQueues(cfg), nil
}

// iface finds an interface. p.mu is held.
func (p *Plane) iface(id dataplane.InterfaceID) (*Interface, error) {
	if int(id) >= len(p.ifaces) {
		return nil, dataplane.CodeNotfound
	}
	return p.ifaces[id], nil
}

// DetachInterface implements [dataplane.Plane].
func (p *Plane) DetachInterface(ctx context.Context, id dataplane.InterfaceID) error {
	return p.change(ctx, "DetachInterface", func() error {
		i, err := p.iface(id)
		if err != nil {
			return err
		}
		if i.Down {
			return dataplane.CodeState
		}
		i.Down = true
		return nil
	})
}

// ReattachInterface implements [dataplane.Plane].
func (p *Plane) ReattachInterface(ctx context.Context, id dataplane.InterfaceID, cfg *dataplane.InterfaceConfig) (qs []dataplane.Queue, err error) {
	err = p.change(ctx, "ReattachInterface", func() error {
		i, err := p.iface(id)
		if err != nil {
			return err
		}
		if !i.Down {
			return dataplane.CodeState
		}
		i.Down, i.Config = false, *cfg
		qs = p.openQueues(cfg)
		return nil
	})
	return qs, err
}

func (p *Plane) change(ctx context.Context, call string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.enter(call); err != nil {
		return err
	}
	return f()
}

// AddAddress implements [dataplane.Plane].
func (p *Plane) AddAddress(ctx context.Context, id dataplane.InterfaceID, pre netip.Prefix) error {
	return p.change(ctx, "AddAddress", func() error {
		i, err := p.iface(id)
		if err != nil {
			return err
		}
		for _, i := range p.ifaces {
			if slices.ContainsFunc(i.Addresses, func(a netip.Prefix) bool { return a.Addr() == pre.Addr() }) {
				return dataplane.CodeExists
			}
		}
		i.Addresses = append(i.Addresses, pre)
		return nil
	})
}

// DelAddress implements [dataplane.Plane].
func (p *Plane) DelAddress(ctx context.Context, id dataplane.InterfaceID, pre netip.Prefix) error {
	return p.change(ctx, "DelAddress", func() error {
		i, err := p.iface(id)
		if err != nil {
			return err
		}
		at := slices.Index(i.Addresses, pre)
		if at < 0 {
			return dataplane.CodeNotfound
		}
		i.Addresses = slices.Delete(i.Addresses, at, at+1)
		return nil
	})
}

// AddRoute implements [dataplane.Plane].
func (p *Plane) AddRoute(ctx context.Context, r dataplane.Route) error {
	return p.change(ctx, "AddRoute", func() error {
		if _, err := p.iface(r.Interface); err != nil {
			return err
		}
		if slices.Contains(p.routes, r) {
			return dataplane.CodeExists
		}
		p.routes = append(p.routes, r)
		return nil
	})
}

// DelRoute implements [dataplane.Plane].
func (p *Plane) DelRoute(ctx context.Context, r dataplane.Route) error {
	return p.change(ctx, "DelRoute", func() error {
		at := slices.Index(p.routes, r)
		if at < 0 {
			return dataplane.CodeNotfound
		}
		p.routes = slices.Delete(p.routes, at, at+1)
		return nil
	})
}

// Listen implements [dataplane.Plane].
// Nobody connects to its kernel sockets: they are closed at once.
func (p *Plane) Listen(ctx context.Context, cfg *dataplane.ListenConfig) (id dataplane.ListenerID, err error) {
	for _, fd := range cfg.Sockets {
		_ = syscall.Close(fd)
	}
	err = p.change(ctx, "Listen", func() error {
		stack := cfg.Carrier == dataplane.CarrierStack
		if stack && (!cfg.Address.IsValid() || cfg.Address.Port() == 0) || !stack && len(cfg.Sockets) != len(p.cores) || cfg.Kind == dataplane.SessionNone {
			return dataplane.CodeInvalid
		}
		if cfg.Carrier != dataplane.CarrierStack {
			return dataplane.CodeUnsupported
		}
		for _, l := range p.listeners {
			if stack && l.Config.Address == cfg.Address {
				return dataplane.CodeAddrinuse
			}
		}
		p.nextLis++
		id = p.nextLis
		p.listeners[id] = &Listener{ID: id, Config: *cfg}
		return nil
	})
	return id, err
}

// Unlisten implements [dataplane.Plane].
func (p *Plane) Unlisten(ctx context.Context, id dataplane.ListenerID) error {
	return p.change(ctx, "Unlisten", func() error {
		if p.listeners[id] == nil {
			return dataplane.CodeStale
		}
		delete(p.listeners, id)
		return nil
	})
}

// Drain implements [dataplane.Plane]: Dial fails from now on, and every
// connection gets a command OpGoAway.
func (p *Plane) Drain(ctx context.Context) error {
	return p.change(ctx, "Drain", func() error {
		p.draining = true
		for h, peer := range p.peers {
			p.record(peer, Command{Op: OpGoAway, Conn: h})
		}
		return nil
	})
}

// Counters implements [dataplane.Plane].
func (p *Plane) Counters(core int) dataplane.Counters {
	p.mu.Lock()
	defer p.mu.Unlock()
	if core < 0 || core >= len(p.counters) {
		return dataplane.Counters{}
	}
	return p.counters[core]
}

// QueueStats implements [dataplane.Plane].
func (p *Plane) QueueStats(id dataplane.InterfaceID) []dataplane.QueueStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	i, err := p.iface(id)
	if err != nil {
		return nil
	}
	if qs, ok := p.queues[id]; ok {
		return slices.Clone(qs)
	}
	qs := make([]dataplane.QueueStats, max(i.Config.Queues, 1))
	for n := range qs {
		qs[n] = dataplane.QueueStats{Queue: n, Core: n % len(p.cores), Down: i.Down}
	}
	return qs
}

// Connections implements [dataplane.Plane]: what SetConnections gave, else the
// open peers.
func (p *Plane) Connections(ctx context.Context) (out []dataplane.Conn, err error) {
	err = p.change(ctx, "Connections", func() error {
		if p.connsSet {
			out = slices.Clone(p.conns)
			return nil
		}
		for _, peer := range p.peers {
			out = append(out, peer.info())
		}
		for _, e := range p.pipes {
			out = append(out, e.info())
		}
		slices.SortFunc(out, func(a, b dataplane.Conn) int { return int(a.Created - b.Created) })
		return nil
	})
	return out, err
}

// SetCongestionControl implements [dataplane.Plane]: on an open peer, or on what
// SetConnections gave.
func (p *Plane) SetCongestionControl(ctx context.Context, conn dataplane.Handle, cc dataplane.CongestionControl) error {
	return p.change(ctx, "SetCongestionControl", func() error {
		if cc == dataplane.CongestionDefault || cc > dataplane.CongestionBBR {
			return dataplane.CodeInvalid
		}
		if i := slices.IndexFunc(p.conns, func(c dataplane.Conn) bool { return c.Handle == conn }); i >= 0 {
			p.conns[i].CongestionControl = cc
			return nil
		}
		if peer, ok := p.peers[conn]; ok {
			peer.congestion = cc
			return nil
		}
		if p.pipes[conn] == nil {
			return dataplane.CodeStale
		}
		return nil
	})
}

// connTime checks a time of a live connection; it is noted nowhere.
func (p *Plane) connTime(ctx context.Context, call string, conn dataplane.Handle, d time.Duration) error {
	return p.change(ctx, call, func() error {
		if d != 0 && (d < time.Second || d > 24*time.Hour) {
			return dataplane.CodeInvalid
		}
		return p.known(conn)
	})
}

// known: there is such a connection, or SetConnections says so. p.mu is held.
func (p *Plane) known(conn dataplane.Handle) error {
	_, peer := p.peers[conn]
	_, pipe := p.pipes[conn]
	if !peer && !pipe && !slices.ContainsFunc(p.conns, func(c dataplane.Conn) bool { return c.Handle == conn }) {
		return dataplane.CodeStale
	}
	return nil
}

// SetUserTimeout implements [dataplane.Plane]: checked and noted nowhere.
func (p *Plane) SetUserTimeout(ctx context.Context, conn dataplane.Handle, d time.Duration) error {
	return p.connTime(ctx, "SetUserTimeout", conn, d)
}

// SetKeepAlive implements [dataplane.Plane]: checked and noted nowhere.
func (p *Plane) SetKeepAlive(ctx context.Context, conn dataplane.Handle, idle time.Duration) error {
	return p.connTime(ctx, "SetKeepAlive", conn, idle)
}

// SetNoDelay implements [dataplane.Plane]: noted nowhere.
func (p *Plane) SetNoDelay(ctx context.Context, conn dataplane.Handle, _ bool) error {
	return p.change(ctx, "SetNoDelay", func() error { return p.known(conn) })
}

// Neighbors implements [dataplane.Plane]: what SetNeighbors gave.
func (p *Plane) Neighbors(ctx context.Context) (out []dataplane.Neighbor, err error) {
	err = p.change(ctx, "Neighbors", func() error {
		out = slices.Clone(p.neighbors)
		return nil
	})
	return out, err
}

// Addresses implements [dataplane.Plane]: what SetAddresses gave.
func (p *Plane) Addresses(ctx context.Context) (out []dataplane.Address, err error) {
	err = p.change(ctx, "Addresses", func() error {
		out = slices.Clone(p.addresses)
		return nil
	})
	return out, err
}

// Observe implements [dataplane.Plane]; Observed tells what came.
func (p *Plane) Observe(ctx context.Context, id dataplane.InterfaceID, frame []byte) error {
	return p.change(ctx, "Observe", func() error {
		if _, err := p.iface(id); err != nil {
			return err
		}
		p.observed = append(p.observed, slices.Clone(frame))
		return nil
	})
}

// Close implements [dataplane.Plane]. A second Close does nothing.
func (p *Plane) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	for _, peer := range p.peers {
		peer.end()
	}
	for _, e := range p.pipes {
		o := e.other
		e.end(dataplane.CodeShutdown)
		if o != nil {
			o.end(dataplane.CodeReset)
		}
	}
	for _, c := range p.cores {
		c.events = nil
		c.wake()
	}
	for _, c := range p.captures {
		c.wake()
	}
	return nil
}
