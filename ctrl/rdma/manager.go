package rdma

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/dataplane"
)

// Config of a manager; zero values mean defaults.
type Config struct {
	Pending int           // connections that come in and are not established; 0: 256
	Timeout time.Duration // for each step of making a connection; 0: 5 s
	Retry   time.Duration // until a peer that refused RDMA is asked again; 0: 1 min
	// Prefer says whether a connection out that nobody asked RDMA for is tried by it first. nil: none.
	Prefer func(remote netip.AddrPort) bool
	Log    *slog.Logger // nil: slog.Default()
}

const (
	pendingDefault = 256
	timeoutDefault = 5 * time.Second
	retryDefault   = time.Minute
	backlog        = 128
	attempts       = 16 // events of one attempt that nobody reads yet; there are two or three
)

// Stats counts what a manager did.
type Stats struct {
	Accepted  uint64 // connections in, given to their listener
	Dialled   uint64 // connections out, given to their core
	Refused   uint64 // of those that came in: over a limit, or bad in what they said
	Failed    uint64 // attempts out that did not succeed
	FellBack  uint64 // connections out that went by TCP instead
	Pending   int
	Listeners int
}

// Manager makes RDMA connections of one plane.
type Manager struct {
	plane dataplane.Plane
	rdma  dataplane.RDMA
	cfg   Config

	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	stopped   bool
	listeners map[dataplane.RDMAID]*listener
	lost      []*listener // their device went away; tried again
	pending   map[dataplane.RDMAID]*pending
	dials     map[dataplane.RDMAID]chan dataplane.RDMAEvent
	refusing  map[netip.AddrPort]refusal
	nextCore  int

	accepted, dialled, refused, failed, fellBack atomic.Uint64
}

// listener ties the connection manager's listener to the plane's.
type listener struct {
	id    dataplane.RDMAID
	plane dataplane.ListenerID
	at    netip.AddrPort
	queue int // of the connection manager
}

// pending is a connection that comes in.
type pending struct {
	to    *listener
	until time.Time
}

// New makes a manager and starts it. It does not own the plane, whose Close ends it as well.
func New(plane dataplane.Plane, r dataplane.RDMA, cfg Config) *Manager {
	if cfg.Pending <= 0 {
		cfg.Pending = pendingDefault
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = timeoutDefault
	}
	if cfg.Retry <= 0 {
		cfg.Retry = retryDefault
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &Manager{plane: plane, rdma: r, cfg: cfg, cancel: cancel, listeners: map[dataplane.RDMAID]*listener{},
		pending: map[dataplane.RDMAID]*pending{}, dials: map[dataplane.RDMAID]chan dataplane.RDMAEvent{}, refusing: map[netip.AddrPort]refusal{}}
	m.wg.Add(3)
	go m.readEvents(ctx)
	go m.reap(ctx)
	go m.expire(ctx)
	return m
}

// Stop ends listening and the manager's goroutines. Connections stay until they end or
// the plane is closed.
func (m *Manager) Stop() {
	m.mu.Lock()
	m.stopped = true
	ids := make([]dataplane.RDMAID, 0, len(m.listeners)+len(m.pending))
	for id := range m.listeners {
		ids = append(ids, id)
	}
	for id := range m.pending {
		ids = append(ids, id)
	}
	clear(m.listeners)
	m.lost = nil
	clear(m.pending)
	m.mu.Unlock()
	m.cancel()
	m.wg.Wait()
	for _, id := range ids {
		m.rdma.Drop(id)
	}
}

// Stats returns the counts.
func (m *Manager) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Stats{Accepted: m.accepted.Load(), Dialled: m.dialled.Load(), Refused: m.refused.Load(), Failed: m.failed.Load(),
		FellBack: m.fellBack.Load(), Pending: len(m.pending), Listeners: len(m.listeners)}
}

// readEvents takes the connection manager's events until the end.
func (m *Manager) readEvents(ctx context.Context) {
	defer m.wg.Done()
	for {
		ev, err := m.rdma.NextEvent(ctx)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, dataplane.CodeShutdown) {
				m.cfg.Log.Error("RDMA's connection manager is no longer read", "error", err)
			}
			return
		}
		m.event(&ev)
	}
}

// reap ends connections whose sessions are over.
func (m *Manager) reap(ctx context.Context) {
	defer m.wg.Done()
	for {
		ids, err := m.rdma.WaitRetired(ctx)
		if err != nil {
			return
		}
		for _, id := range ids {
			m.forget(id)
			m.rdma.Drop(id)
		}
	}
}

// expire gives up connections that do not become established.
func (m *Manager) expire(ctx context.Context) {
	defer m.wg.Done()
	tick := time.NewTicker(m.cfg.Timeout / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			m.sweep(now)
			m.again()
		}
	}
}

func (m *Manager) sweep(now time.Time) {
	var late []dataplane.RDMAID
	m.mu.Lock()
	for id, p := range m.pending {
		if now.After(p.until) {
			late = append(late, id)
			delete(m.pending, id)
		}
	}
	for to, r := range m.refusing {
		if now.After(r.until) {
			delete(m.refusing, to)
		}
	}
	m.mu.Unlock()
	for _, id := range late {
		m.refused.Add(1)
		m.rdma.Drop(id)
	}
}

// again listens where a device is back.
func (m *Manager) again() {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := m.lost[:0]
	for _, l := range m.lost {
		id, _, err := m.rdma.Listen(l.at, l.queue)
		if err != nil {
			kept = append(kept, l)
			continue
		}
		l.id = id
		m.listeners[id] = l
		m.cfg.Log.Info("listening by RDMA again", "address", l.at)
	}
	clear(m.lost[len(kept):])
	m.lost = kept
}

// forget takes an id out of the tables.
func (m *Manager) forget(id dataplane.RDMAID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pending, id)
}

// event does what one event asks for. It must not wait.
func (m *Manager) event(ev *dataplane.RDMAEvent) {
	if ev.Op == dataplane.RDMARequest {
		m.request(ev)
		return
	}
	m.mu.Lock()
	dial := m.dials[ev.ID]
	p := m.pending[ev.ID]
	l := m.listeners[ev.ID]
	m.mu.Unlock()
	switch {
	case dial != nil:
		select {
		case dial <- *ev:
		default: // more than an attempt can have
		}
	case p != nil:
		m.progress(ev, p)
	case l != nil && ev.Op == dataplane.RDMADeviceGone:
		m.cfg.Log.Warn("RDMA device gone, its listener with it", "device", ev.Device, "address", l.at)
		m.mu.Lock()
		delete(m.listeners, ev.ID)
		m.lost = append(m.lost, l)
		m.mu.Unlock()
		m.rdma.Drop(ev.ID)
	case ev.Op == dataplane.RDMADeviceGone:
		m.cfg.Log.Warn("RDMA device gone under a connection", "device", ev.Device, "peer", ev.Remote)
	}
}

// refuse turns a request down.
func (m *Manager) refuse(ev *dataplane.RDMAEvent, why error) {
	m.refused.Add(1)
	m.cfg.Log.Warn("RDMA connection refused", "peer", ev.Remote, "device", ev.Device, "error", why)
	m.rdma.Reject(ev.ID)
}

// request begins to accept a connection.
func (m *Manager) request(ev *dataplane.RDMAEvent) {
	m.mu.Lock()
	l := m.listeners[ev.Listener]
	full := len(m.pending) >= m.cfg.Pending
	core := m.nextCore % len(m.plane.Cores())
	m.nextCore++
	if l != nil && !full && ev.Err == dataplane.CodeOK {
		m.pending[ev.ID] = &pending{to: l, until: time.Now().Add(m.cfg.Timeout)}
	}
	m.mu.Unlock()
	switch {
	case l == nil:
		m.refuse(ev, dataplane.CodeRefused)
		return
	case full:
		m.refuse(ev, fmt.Errorf("%w: %d are being made", dataplane.CodeLimit, m.cfg.Pending))
		return
	case ev.Err != dataplane.CodeOK:
		m.refuse(ev, fmt.Errorf("private data: %w", ev.Err))
		return
	}
	if _, err := m.rdma.Prepare(ev.ID, core); err != nil {
		m.forget(ev.ID)
		m.refuse(ev, err)
		return
	}
	if err := m.rdma.Accept(ev.ID); err != nil {
		m.forget(ev.ID)
		m.refused.Add(1)
		m.cfg.Log.Warn("RDMA connection not accepted", "peer", ev.Remote, "error", err)
		m.rdma.Drop(ev.ID)
	}
}

// progress goes on with a connection that comes in.
func (m *Manager) progress(ev *dataplane.RDMAEvent, p *pending) {
	m.forget(ev.ID)
	if ev.Op != dataplane.RDMAEstablished {
		m.refused.Add(1)
		m.rdma.Drop(ev.ID)
		return
	}
	if err := m.rdma.Adopt(ev.ID, p.to.plane); err != nil {
		m.refused.Add(1)
		m.cfg.Log.Warn("RDMA connection refused", "peer", ev.Remote, "listener", p.to.at, "error", err)
		m.rdma.Drop(ev.ID)
		return
	}
	m.accepted.Add(1)
}

// Listen opens a listener on every core and for RDMA connections to cfg.Address; port 0
// is chosen. It returns the plane's listener and where it is.
func (m *Manager) Listen(ctx context.Context, cfg *dataplane.ListenConfig) (dataplane.ListenerID, netip.AddrPort, error) {
	one := *cfg
	one.Carrier, one.Sockets = dataplane.CarrierRDMA, nil
	plane, err := m.plane.Listen(ctx, &one)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	n := cfg.Backlog
	if n <= 0 {
		n = backlog
	}
	// No request is looked at before the table knows its listener.
	m.mu.Lock()
	if m.stopped {
		m.mu.Unlock()
		_ = m.plane.Unlisten(context.WithoutCancel(ctx), plane)
		return 0, netip.AddrPort{}, dataplane.CodeShutdown
	}
	id, at, err := m.rdma.Listen(cfg.Address, n)
	if err == nil {
		m.listeners[id] = &listener{id: id, plane: plane, at: at, queue: n}
	}
	m.mu.Unlock()
	if err != nil {
		_ = m.plane.Unlisten(context.WithoutCancel(ctx), plane)
		return 0, netip.AddrPort{}, err
	}
	return plane, at, nil
}

// Unlisten ends a listener of Listen; its connections stay. known is false for others.
func (m *Manager) Unlisten(ctx context.Context, id dataplane.ListenerID) (known bool, err error) {
	m.mu.Lock()
	var l *listener
	for _, o := range m.listeners {
		if o.plane == id {
			l = o
		}
	}
	if at := slices.IndexFunc(m.lost, func(o *listener) bool { return o.plane == id }); at >= 0 {
		m.lost = slices.Delete(m.lost, at, at+1)
		m.mu.Unlock()
		return true, m.plane.Unlisten(ctx, id)
	}
	if l == nil {
		m.mu.Unlock()
		return false, nil
	}
	delete(m.listeners, l.id)
	m.mu.Unlock()
	m.rdma.Drop(l.id)
	return true, m.plane.Unlisten(ctx, id)
}
