package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/logs"
	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/events"
)

// Config is what a Manager needs.
type Config struct {
	Plane dataplane.Plane
	// Events reads the plane's cores for others too; nil: the manager reads them alone.
	Events   *events.Reader
	Registry *dispatch.Registry
	Policy   *Policy
	Log      *slog.Logger
	Limiter  *logs.Limiter // for lines that peers cause
	Random   io.Reader
	Now      func() time.Time

	Static       handshake.PrivateKey
	PSK          *[32]byte
	Patterns     []handshake.Pattern
	Hybrid       bool
	Params       handshake.Params
	ClockSkew    time.Duration
	ReplayWindow int // nonces per listener
	// Keys is the template of what is installed after a handshake: everything
	// that the handshake does not settle.
	Keys dataplane.Keys

	HandshakesInFlight int
	Backpressure       int
	Workers            int
	StreamHandlers     int
	ConnMemory         int64
	MessageMemory      int64
	FragmentTimeout    time.Duration
	// StreamOpcode names the entry that serves byte streams that begin with DATA.
	// One that begins with a REQUEST without END names its own.
	StreamOpcode string
	// Admit says whether a connection is let in, before its handshake; it must not block. nil: all are.
	Admit func(listener dataplane.ListenerID, remote netip.AddrPort) bool
	// OnPort is told when a core reports a port; it must not block.
	OnPort func(dataplane.InterfaceID, dataplane.Code)
	// OnAddresses is told when addresses changed by themselves; it must not block.
	OnAddresses func()
}

// Manager runs the sessions of one plane.
type Manager struct {
	cfg    Config
	policy atomic.Pointer[Policy]
	shards []*shard
	reader *events.Reader
	alone  bool // the reader is our own
	stats  stats
	codes  [256]byte // every status byte, to send slices of

	hsLimit  atomic.Int64
	hsFlight atomic.Int64
	hsJobs   chan hsJob
	hsConfig atomic.Pointer[handshake.Config] // template; Replay is set per listener

	replayMu sync.Mutex
	replays  map[dataplane.ListenerID]*handshake.ReplayWindow

	memory  atomic.Int64 // bytes of messages held
	partial atomic.Int64 // messages being put together

	runMu    sync.Mutex
	running  int     // workers
	runnable []*conn // connections with requests that wait for a worker
	streams  atomic.Int64

	wg       sync.WaitGroup // all goroutines but those of Run itself
	ctx      context.Context
	stop     context.CancelFunc
	draining atomic.Bool
}

// shard is one core's part.
type shard struct {
	m     *Manager
	core  dataplane.Core
	index int

	mu    sync.Mutex
	conns map[dataplane.Handle]*conn

	scratch parsed // the reader's

	retryMu sync.Mutex
	retry   []func() error // commands that found no room

	roomMu  sync.Mutex
	room    chan struct{} // closed when a Send that found no room may try again
	waiting atomic.Int32
	starved atomic.Bool // a Send found no room since the last look of the janitor
}

// New checks cfg and makes a manager; Run starts it.
func New(cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg, replays: map[dataplane.ListenerID]*handshake.ReplayWindow{}}
	m.stats.init()
	for i := range m.codes {
		m.codes[i] = byte(i)
	}
	m.policy.Store(cfg.Policy)
	m.hsLimit.Store(int64(cfg.HandshakesInFlight))
	m.hsJobs = make(chan hsJob, cfg.HandshakesInFlight)
	m.ctx, m.stop = context.WithCancel(context.Background())
	m.setHandshakeConfig(cfg.ClockSkew)
	probe := *m.hsConfig.Load()
	probe.Replay = handshake.NewReplayWindow(1)
	if _, err := handshake.NewResponder(&probe); err != nil {
		return nil, fmt.Errorf("session set-up: %w", err)
	}
	for i, c := range cfg.Plane.Cores() {
		m.shards = append(m.shards, &shard{m: m, core: c, index: i, conns: map[dataplane.Handle]*conn{}})
	}
	if m.reader = cfg.Events; m.reader == nil {
		m.reader, m.alone = events.New(cfg.Plane), true
	}
	// Before Run, so that a reader that runs already loses nothing.
	if err := m.reader.Add(m, dataplane.SessionNPRO); err != nil {
		return nil, fmt.Errorf("session set-up: %w", err)
	}
	return m, nil
}

func (m *Manager) setHandshakeConfig(skew time.Duration) {
	m.hsConfig.Store(&handshake.Config{
		Static: m.cfg.Static, Patterns: m.cfg.Patterns, Hybrid: m.cfg.Hybrid, PSK: m.cfg.PSK, Params: m.cfg.Params,
		Random: m.cfg.Random, ClockSkew: skew,
		Trust: func(key handshake.PublicKey) error { return m.policy.Load().trust(key) },
	})
}

// SetLimits changes what a reload may change.
func (m *Manager) SetLimits(handshakes int, skew time.Duration) {
	m.hsLimit.Store(int64(min(handshakes, cap(m.hsJobs))))
	m.setHandshakeConfig(skew)
}

// SetPolicy puts a new policy in force. Connections whose peer is no longer
// trusted, or may call something else than before, are closed: their rights
// are fixed at the handshake, ECHO's in the core.
func (m *Manager) SetPolicy(p *Policy) {
	m.policy.Store(p)
	for _, c := range m.all() {
		c.mu.Lock()
		stale := c.state == stateOpen && !p.rights(c.pattern, c.key, c.hasKey).equal(c.rights)
		c.mu.Unlock()
		if stale {
			c.shut(codePolicy, "rights changed, connect again")
			c.sh.core.Flush()
		}
	}
}

// Run serves until ctx ends or, where the manager reads by itself, the plane
// closes. When it returns every goroutine of the manager has ended.
func (m *Manager) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	workers := min(max(runtime.GOMAXPROCS(0), 1), 4)
	for range workers {
		m.wg.Go(m.handshakes)
	}
	m.wg.Go(func() { m.janitor(ctx) })
	var err error
	if m.alone {
		err = m.reader.Run(ctx)
		cancel()
	} else {
		<-ctx.Done()
	}
	m.reader.Remove(m)
	m.stop()
	close(m.hsJobs)
	for _, c := range m.all() {
		c.gone(dataplane.CodeShutdown)
	}
	m.wg.Wait()
	return err
}

// Event implements [events.Sink]. No body is kept.
func (m *Manager) Event(core int, ev *dataplane.Event) bool {
	m.shards[core].event(ev)
	return false
}

// Turn implements [events.Sink].
func (m *Manager) Turn(core int) { m.shards[core].again() }

// Ended implements [events.Sink]. Run cleans up.
func (m *Manager) Ended() {}

// all lists the connections.
func (m *Manager) all() []*conn {
	var out []*conn
	for _, sh := range m.shards {
		sh.mu.Lock()
		for _, c := range sh.conns {
			out = append(out, c)
		}
		sh.mu.Unlock()
	}
	return out
}

func (m *Manager) replay(id dataplane.ListenerID) *handshake.ReplayWindow {
	m.replayMu.Lock()
	defer m.replayMu.Unlock()
	w := m.replays[id]
	if w == nil {
		w = handshake.NewReplayWindow(m.cfg.ReplayWindow)
		m.replays[id] = w
	}
	return w
}

// ForgetListener drops what is kept for a listener that is gone.
func (m *Manager) ForgetListener(id dataplane.ListenerID) {
	m.replayMu.Lock()
	delete(m.replays, id)
	m.replayMu.Unlock()
	m.stats.mu.Lock()
	delete(m.stats.accepted, id)
	m.stats.mu.Unlock()
}

// again wakes senders that found no room and repeats commands that found none.
func (sh *shard) again() {
	if sh.waiting.Load() > 0 {
		sh.roomMu.Lock()
		if sh.room != nil {
			close(sh.room)
			sh.room = nil
		}
		sh.roomMu.Unlock()
	}
	sh.retryMu.Lock()
	list := sh.retry
	sh.retry = nil
	sh.retryMu.Unlock()
	for i, f := range list {
		if errors.Is(f(), dataplane.CodeFull) {
			sh.retryMu.Lock()
			sh.retry = append(list[i:len(list):len(list)], sh.retry...)
			sh.retryMu.Unlock()
			return
		}
	}
}

// must carries out a command that may not be lost; when the core has no room
// it is tried again with the next events. f is called from one goroutine at a
// time. Errors other than "no room" mean that the connection is gone.
func (sh *shard) must(f func() error) {
	sh.retryMu.Lock()
	behind := len(sh.retry) > 0 // keep the order
	if behind {
		sh.retry = append(sh.retry, f)
	}
	sh.retryMu.Unlock()
	if behind || !errors.Is(f(), dataplane.CodeFull) {
		return
	}
	sh.retryMu.Lock()
	sh.retry = append(sh.retry, f)
	sh.retryMu.Unlock()
}

// credit returns credit; it must not be lost either.
func (sh *shard) credit(h dataplane.Handle, stream uint32, n int) {
	if n == 0 || !errors.Is(sh.core.Credit(h, stream, uint32(n)), dataplane.CodeFull) {
		return
	}
	// Credit keeps no order with other commands, so it may go ahead of them.
	sh.must(func() error { return sh.core.Credit(h, stream, uint32(n)) })
}

func (sh *shard) find(h dataplane.Handle) *conn {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.conns[h]
}

func (sh *shard) event(ev *dataplane.Event) {
	switch ev.Op {
	case dataplane.EventOpen:
		sh.open(ev)
		return
	case dataplane.EventPort:
		if sh.m.cfg.OnPort != nil {
			sh.m.cfg.OnPort(ev.Interface, ev.Err)
		}
		return
	case dataplane.EventAddresses:
		if sh.m.cfg.OnAddresses != nil {
			sh.m.cfg.OnAddresses()
		}
		return
	}
	c := sh.find(ev.Conn)
	if c == nil {
		return
	}
	switch ev.Op {
	case dataplane.EventClosed:
		sh.mu.Lock()
		delete(sh.conns, ev.Conn)
		sh.mu.Unlock()
		sh.m.leave(c.listener)
		if l := sh.m.cfg.Log; l.Enabled(c.ctx, slog.LevelDebug) {
			l.Debug("connection closed", "conn_id", c.id(), "core", sh.index, "err", ev.Err, "code", ev.Code)
		}
		c.gone(ev.Err)
	case dataplane.EventHandshake:
		c.handshakeFrame(ev)
	case dataplane.EventMessage:
		c.message(ev)
	case dataplane.EventReset:
		c.reset(ev.Stream, ev.Code)
	case dataplane.EventSent:
		c.sent(ev)
	}
}

func (sh *shard) open(ev *dataplane.Event) {
	m := sh.m
	c := &conn{m: m, sh: sh, handle: ev.Conn, listener: ev.Listener, remote: ev.Remote, local: ev.Local,
		opened: m.cfg.Now(), streams: map[uint32]*stream{}}
	c.ctx, c.cancel = context.WithCancel(m.ctx)
	sh.mu.Lock()
	sh.conns[ev.Conn] = c
	sh.mu.Unlock()
	admitted := m.accept(ev.Listener)
	unwanted := m.cfg.Admit != nil && !m.cfg.Admit(ev.Listener, ev.Remote)
	switch {
	case unwanted:
		m.count("listener_authz")
		c.shut(uint32(npro.CodeHandshakeFailed), "not let in")
	case m.draining.Load():
		c.shut(codeShutdown, "shutting down")
	case !admitted:
		c.shut(uint32(npro.CodeConnectionLimit), npro.CodeConnectionLimit.String())
	}
}

// janitor looks after what no event ends: messages whose rest never comes, and
// peers that take nothing while the core has no room for others.
func (m *Manager) janitor(ctx context.Context) {
	tick := time.NewTicker(min(max(m.cfg.FragmentTimeout/2, 10*time.Millisecond), time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		starved := false
		for _, sh := range m.shards {
			starved = sh.starved.Swap(false) || starved
		}
		if m.partial.Load() == 0 && !starved {
			continue
		}
		now := m.cfg.Now()
		for _, c := range m.all() {
			c.overdue(now, starved)
		}
		for _, sh := range m.shards {
			sh.core.Flush()
		}
	}
}

// Info is what the control plane alone knows of a connection.
type Info struct {
	Peer       dispatch.Peer
	ClientName string // what the peer calls itself; unverified
	Pattern    string
	Hybrid     bool
	Inflight   int
	Waiting    int
	Streams    int
}

// Lookup returns what is known of a connection.
func (m *Manager) Lookup(h dataplane.Handle) (Info, bool) {
	if h.Core() >= len(m.shards) {
		return Info{}, false
	}
	c := m.shards[h.Core()].find(h)
	if c == nil {
		return Info{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i := Info{Peer: c.peer, ClientName: c.clientName, Hybrid: c.hybrid, Inflight: c.inflight, Waiting: len(c.waiting), Streams: len(c.streams)}
	if c.state == stateOpen {
		i.Pattern = c.pattern.String()
	}
	i.Peer.Remote = c.remote
	return i, true
}

// PeerUse counts the connections of one identity.
type PeerUse struct {
	Name, Key   string
	Connections int
}

// Peers counts open connections by identity.
func (m *Manager) Peers() map[string]PeerUse {
	out := map[string]PeerUse{}
	for _, c := range m.all() {
		c.mu.Lock()
		if c.state == stateOpen {
			u := out[c.peer.Key]
			u.Name, u.Key = c.peer.Name, c.peer.Key
			u.Connections++
			out[c.peer.Key] = u
		}
		c.mu.Unlock()
	}
	return out
}

// Close ends one connection for an operator.
func (m *Manager) Close(h dataplane.Handle, reason string) error {
	if h.Core() >= len(m.shards) {
		return dataplane.CodeStale
	}
	c := m.shards[h.Core()].find(h)
	if c == nil {
		return dataplane.CodeStale
	}
	c.shut(codeNormal, reason)
	c.sh.core.Flush()
	return nil
}

func addr(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
