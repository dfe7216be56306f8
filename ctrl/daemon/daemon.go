package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/gateway"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/logs"
	"github.com/np-appliance/np/ctrl/metrics"
	"github.com/np-appliance/np/ctrl/mgmt"
	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/ctrl/rdma"
	"github.com/np-appliance/np/ctrl/session"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/events"
	"github.com/np-appliance/np/dataplane/ksock"
	"github.com/np-appliance/np/dataplane/netconn"
	"github.com/np-appliance/np/dataplane/xdp"
	"github.com/np-appliance/np/hugepages"
)

// Options are what a daemon is made of.
type Options struct {
	Config   *config.Config
	Origin   Origin // of Config
	NewPlane func(*dataplane.Config) (dataplane.Plane, error)
	System   ports.System
	Bound    func(name string) string // PCI address of a network card that was taken from the kernel, "" none; may be nil
	Files    hugepages.Files          // the machine's, for [dataplane] hugepages = "reserve"; may be nil
	Log      *logs.Log
	Version  api.Version
	Now      func() time.Time
	Mono     func() time.Duration // CLOCK_MONOTONIC
	// ProbeUring, if set, says why this kernel gives no io_uring; nil: it does.
	ProbeUring func() error
	// Ready, if set, is called once the daemon answers.
	Ready func()
}

// Daemon is a running npd.
type Daemon struct {
	o       Options
	start   time.Time
	key     handshake.PublicKey
	plane   dataplane.Plane
	ports   *ports.Manager
	session *session.Manager
	limiter *logs.Limiter          // of what peers of NPRO do
	clients *logs.Limiter          // and clients of listeners
	ending  atomic.Pointer[ending] // of TLS
	gateway *gateway.Gateway
	opcodes *dispatch.Registry
	reader  *events.Reader
	conns   *netconn.Transport
	serving context.Context // ends services in Go
	noUring error           // why there is none

	rdma      *rdma.Manager // nil: none, and noRDMA says why
	noRDMA    error
	rdmaLocal netip.Addr // where listeners on all addresses listen; invalid: everywhere

	changing sync.Mutex // held while another configuration comes into force

	mu           sync.Mutex
	cfg          *config.Config
	state        string
	listeners    []mgmt.Listener
	files        map[dataplane.ListenerID]*ksock.Unix
	goListeners  map[dataplane.ListenerID]*goListener
	netListeners uint32   // opened so far on Go's own sockets
	undo         []func() // takes down what start made, last first
	wg           sync.WaitGroup
	failed       chan error // a part that ended by itself
}

// metricsTimeout bounds a scrape over TCP, so that clients that read nothing do
// not keep others out.
const metricsTimeout = 10 * time.Second

var errStopped = errors.New("stopped")

// Run starts a daemon and serves until a signal ends it or ctx does. Signals
// are those of OPERATOR: HUP reloads, TERM and INT drain and end, a second one
// ends at once, USR1 reopens logs.
func Run(ctx context.Context, o Options, signals <-chan os.Signal) error {
	d := &Daemon{o: o, start: o.Now(), cfg: o.Config, state: mgmt.StateStarting, failed: make(chan error, 8),
		files: map[dataplane.ListenerID]*ksock.Unix{}, goListeners: map[dataplane.ListenerID]*goListener{}}
	defer d.down()
	if err := d.up(ctx); err != nil {
		return err
	}
	d.setState(mgmt.StateReady)
	d.remember("start")
	d.o.Log.Info("npd ready", "version", o.Version.Version, "backend", d.ports.Actual(netip.Addr{}), "crypto", d.plane.Info().CryptoEngine,
		"cores", len(d.plane.Cores()), "socket", d.cfg.Management.Socket)
	if o.Ready != nil {
		o.Ready()
	}
	return d.serve(ctx, signals)
}

// serve waits for signals until one of them, or a failure, ends the daemon.
func (d *Daemon) serve(ctx context.Context, signals <-chan os.Signal) error {
	var drained chan error
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-d.failed:
			return err
		case err := <-drained:
			return err
		case s := <-signals:
			switch s {
			case syscall.SIGHUP:
				if err := d.Reload(ctx); err != nil {
					d.o.Log.Error("configuration not reloaded, the old one stays in force", "err", err)
				}
			case syscall.SIGUSR1:
				if err := errors.Join(d.o.Log.Reopen(), d.gateway.Reopen()); err != nil {
					d.o.Log.Error("log file not reopened", "err", err)
				}
			default:
				if drained != nil {
					d.o.Log.Warn("second signal, ending now", "signal", s.String())
					return nil
				}
				d.o.Log.Info("draining", "signal", s.String(), "timeout", d.Config().Server.ShutdownTimeout)
				drained = make(chan error, 1)
				go func() { drained <- d.drain(ctx) }()
			}
		}
	}
}

// drain ends what is in flight within shutdown_timeout.
func (d *Daemon) drain(ctx context.Context) error {
	d.setState(mgmt.StateDraining)
	ctx, cancel := context.WithTimeout(ctx, d.Config().Server.ShutdownTimeout)
	defer cancel()
	d.mu.Lock()
	served := slices.Collect(maps.Values(d.goListeners))
	d.mu.Unlock()
	var late int
	var wg sync.WaitGroup
	wg.Go(func() { late = d.shutdown(ctx, served...) })
	cut, err := d.session.Drain(ctx)
	wg.Wait()
	if cut > 0 || late > 0 {
		d.o.Log.Warn("drained, some requests did not end in time", "cut", cut, "listeners_cut", late)
	} else if err == nil {
		d.o.Log.Info("drained")
	}
	return err
}

// later remembers how to take down what was just made.
func (d *Daemon) later(f func()) { d.undo = append(d.undo, f) }

// down takes everything down, last made first.
func (d *Daemon) down() {
	for _, f := range slices.Backward(d.undo) {
		f()
	}
	d.undo = nil
	d.wg.Wait()
}

// part runs f in a goroutine that down stops and waits for; its end before that
// ends the daemon.
func (d *Daemon) part(name string, f func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	d.wg.Go(func() {
		defer close(done)
		err := f(ctx)
		if ctx.Err() == nil {
			if err == nil {
				err = errStopped
			}
			d.failed <- fmt.Errorf("%s: %w", name, err)
		} else if err != nil && !errors.Is(err, context.Canceled) {
			d.o.Log.Warn("part ended with an error", "component", name, "err", err)
		}
	})
	d.later(func() { cancel(); <-done })
}

// up starts everything, in the order of dependence.
func (d *Daemon) up(ctx context.Context) error {
	c := d.cfg
	key, err := d.loadKey(c)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Pos("protocol.private_key_file"), err)
	}
	defer key.Wipe()
	d.key = key.Public()
	psk, err := loadPSK(c.Protocol.PSKFile)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Pos("protocol.psk_file"), err)
	}
	d.sayWho(c)
	if err := d.loadCerts(c); err != nil {
		return err
	}
	sockets, err := d.sockets()
	if err != nil {
		return err
	}
	if err := d.makePlane(ctx); err != nil {
		return err
	}
	if err := d.makeSessions(key, psk); err != nil {
		return err
	}
	for _, r := range c.AllRoutes() {
		if err := d.ports.AddRoute(ctx, r.Prefix, r.Via, r.Interface); err != nil {
			return err
		}
	}
	for i, l := range c.Listen() {
		if err := d.listen(ctx, c, &l); err != nil {
			path := fmt.Sprintf("listener[%d].address", i)
			if len(c.Listeners) == 0 {
				path = "server.address"
			}
			return fmt.Errorf("%s: %w", c.Pos(path), err)
		}
	}
	return d.makeManagement(sockets)
}

// sayWho tells the operator which peers may connect.
func (d *Daemon) sayWho(c *config.Config) {
	switch {
	case !c.SpeaksNPRO():
	case c.Protocol.AllowAnyPeer:
		d.o.Log.Warn("any peer may connect (protocol.allow_any_peer)", "listed_peers", len(c.Peers), "any_peer_allow", c.Protocol.AnyPeerAllow)
	case len(c.Peers) == 0 && !slices.Contains(c.Protocol.Patterns, "NNpsk0"):
		d.o.Log.Warn("nobody may connect: there is no [[peer]] and protocol.allow_any_peer is off")
	default:
		d.o.Log.Info("only listed peers may connect", "listed_peers", len(c.Peers), "patterns", c.Protocol.Patterns)
	}
}

// sockets opens the management sockets first: a second npd ends here, before
// it touches an interface.
func (d *Daemon) sockets() (out [2]net.Listener, err error) {
	for i, s := range [...]struct{ path, key string }{{d.cfg.Management.Socket, "management.socket"}, {d.cfg.Management.ROSocket, "management.ro_socket"}} {
		if s.path == "" {
			continue
		}
		l, err := mgmt.Listen(s.path, d.cfg.Management.Group)
		if err != nil {
			return out, fmt.Errorf("%s: %w", d.cfg.Pos(s.key), err)
		}
		d.later(func() { _ = l.Close() })
		out[i] = l
	}
	return out, nil
}

func (d *Daemon) makePlane(ctx context.Context) error {
	c := d.cfg
	mtu := 0
	cards := map[string]xdp.Interface{}
	for i := range c.Interfaces {
		p := portConfig(c, &c.Interfaces[i])
		dev, err := d.o.System.Inspect(p.Name)
		if err != nil {
			dev.MTU = p.MTU // nothing else is known of it yet
		} else {
			cards[p.Name] = dev
		}
		mtu = max(mtu, ports.MTU(&p, &dev))
	}
	d.probe()
	pc := planeConfig(c, mtu)
	if err := d.placeCores(c, pc); err != nil {
		return err
	}
	d.farCards(pc, cards)
	d.carriers(c, pc)
	if c.Dataplane.Hugepages == "reserve" {
		d.reserve(c, pc)
	}
	plane, err := d.o.NewPlane(pc)
	if err != nil {
		return fmt.Errorf("start data plane: %w", err)
	}
	d.plane = plane
	d.later(func() {
		if err := plane.Close(); err != nil {
			d.o.Log.Error("data plane not closed", "err", err)
		}
	})
	d.later(d.removeFiles)
	d.ports = ports.New(d.o.System, plane, d.o.Log.With("component", "ports"), d.o.Now)
	d.ports.FindBound(d.o.Bound)
	d.later(func() {
		if err := d.ports.Close(); err != nil {
			d.o.Log.Warn("XDP programs not detached", "err", err)
		}
	})
	if err := d.takeInterfaces(ctx, c); err != nil {
		return err
	}
	d.part("ports", d.ports.Run)
	d.openRDMA(c)
	return nil
}

// takeInterfaces takes the interfaces there are. One that is missing or refuses is an
// error when there is no other, or when nothing may fall back; else it is waited for, and the
// others don't suffer.
func (d *Daemon) takeInterfaces(ctx context.Context, c *config.Config) error {
	var missing []int
	var errs []error
	for i := range c.Interfaces {
		err := d.ports.Add(ctx, portConfig(c, &c.Interfaces[i]))
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s: %w", c.Pos(fmt.Sprintf("interface[%d].name", i)), err)
		if c.Dataplane.OnFallback == "fail" || ctx.Err() != nil || errors.Is(err, dataplane.CodeInvalid) || errors.Is(err, dataplane.CodeExists) || errors.Is(err, dataplane.CodeFull) {
			return err
		}
		missing, errs = append(missing, i), append(errs, err)
	}
	if len(missing) > 0 && len(missing) == len(c.Interfaces) {
		return errs[0]
	}
	for n, i := range missing {
		if err := d.ports.Expect(ctx, portConfig(c, &c.Interfaces[i]), errs[n]); err != nil {
			return err
		}
	}
	return nil
}

// reserve takes huge pages on the nodes of the cores until the daemon ends. Where there
// are fewer, packet memory is on ordinary pages, as the log says.
func (d *Daemon) reserve(c *config.Config, pc *dataplane.Config) {
	if d.o.Files == nil {
		return
	}
	need := map[int]int{}
	for _, cpu := range pc.CPUs {
		need[hugepages.NodeOf(d.o.Files, cpu)] += c.HugePagesPerCore(pc.ChunkBytes)
	}
	for node, pages := range need {
		r, err := hugepages.Reserve(d.o.Files, node, pages)
		if err != nil {
			d.o.Log.Warn("huge pages not reserved", "node", node, "pages", pages, "err", err)
		} else {
			d.o.Log.Info("huge pages reserved", "node", node, "pages", pages, "added", r.Added)
		}
		d.later(func() {
			if err := r.Undo(); err != nil {
				d.o.Log.Warn("huge pages not given back", "node", node, "err", err)
			}
		})
	}
}

func (d *Daemon) makeSessions(key handshake.PrivateKey, psk *[32]byte) error {
	c := d.cfg
	log := d.o.Log.With("component", "session")
	d.limiter = logs.NewLimiter(log, c.Limits.LogLines, d.o.Now)
	reg, err := dispatch.New(log, dispatch.Builtin(c.Logging.AppName, d.o.Version.Version, d.start, d.o.Now)...)
	if err != nil {
		return err
	}
	d.opcodes = reg
	sc, err := sessionConfig(c, d.plane, reg, log, d.limiter, d.o.Now)
	if err != nil {
		return err
	}
	sc.Static, sc.PSK = key, psk
	sc.Admit = d.admitPeer
	sc.OnPort = d.ports.PortChanged
	sc.OnAddresses = func() { d.ports.AddressesChanged() }
	d.reader = events.New(d.plane)
	sc.Events = d.reader
	if d.session, err = session.New(sc); err != nil {
		return err
	}
	d.part("sessions", d.session.Run)
	d.part("events", d.reader.Run)
	return d.makeConns(c)
}

func (d *Daemon) makeManagement(sockets [2]net.Listener) error {
	log := d.o.Log.With("component", "mgmt")
	handler := metrics.Handler(metrics.Source{Plane: d.plane, Sessions: d.session.Stats, Ports: d.ports.Status, Certs: d.Certificates, Listeners: d.listenerMetrics, Gateway: d.gatewayMetrics,
		Version: d.o.Version.Version, Commit: d.o.Version.Commit})
	srv := mgmt.New(mgmt.Config{Daemon: d, Configurer: d, Gateway: d.gateway, Plane: d.plane, Sessions: d.session, Ports: d.ports, Metrics: handler, Log: log,
		Version: d.o.Version, PublicKey: d.key.String(), Start: d.start, Now: d.o.Now, Mono: d.o.Mono})
	for i, l := range sockets {
		if l != nil {
			d.part("management", func(ctx context.Context) error { return srv.Serve(ctx, l, i == 1) })
		}
	}
	if a := d.cfg.Metrics.Address; a.IsValid() {
		l, err := net.Listen("tcp", a.String())
		if err != nil {
			return fmt.Errorf("%s: metrics: %w", d.cfg.Pos("metrics.address"), err)
		}
		srv := mgmt.NewHTTP(handler, log)
		srv.ReadTimeout, srv.WriteTimeout = metricsTimeout, metricsTimeout // unlike a capture, a scrape ends
		d.part("metrics", func(ctx context.Context) error { return mgmt.Run(ctx, srv, mgmt.Bound(l)) })
	}
	return nil
}

func (d *Daemon) setState(s string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = s
}

// State implements [mgmt.Daemon].
func (d *Daemon) State() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

// Config implements [mgmt.Daemon].
func (d *Daemon) Config() *config.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg
}

// Listeners implements [mgmt.Daemon].
func (d *Daemon) Listeners() []mgmt.Listener {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := slices.Clone(d.listeners)
	for i := range out {
		if l, ok := d.goListeners[out[i].ID]; ok {
			st := l.service.Stats()
			out[i].Service = &st
			if h, ok := l.service.(*httpService); ok {
				hs := h.counted()
				out[i].HTTP = &hs
			}
		}
	}
	return out
}

// listenerMetrics is for the metrics.
func (d *Daemon) listenerMetrics() []metrics.Listener {
	var out []metrics.Listener
	for _, l := range d.Listeners() {
		m := metrics.Listener{Name: l.Name, Requested: l.Requested, Ladder: l.Ladder, Service: l.Service, HTTP: l.HTTP}
		if l.HTTP != nil {
			m.Service = nil // told as HTTP
		}
		out = append(out, m)
	}
	return out
}

// gatewayMetrics is for the metrics.
func (d *Daemon) gatewayMetrics() *metrics.Gateway {
	seen := d.gateway.Seen()
	return &metrics.Gateway{Requests: seen.Requests, InFlight: seen.InFlight, Upstreams: d.gateway.Upstreams(), Pools: metrics.Pools(d.gateway.AllPools()),
		AccessLog: seen.AccessLog, Tracing: seen.Tracing, Generation: seen.Generation, Rates: seen.Rates, Concurrency: seen.Concurrency, Shedders: seen.Shedders,
		Auth: seen.Auth, External: seen.External}
}

// Refuse implements [mgmt.Daemon].
func (d *Daemon) Refuse(ctx context.Context) error {
	if err := d.session.Refuse(ctx); err != nil {
		return err
	}
	d.setState(mgmt.StateDraining)
	d.o.Log.Info("refusing new connections, asked by an operator")
	return nil
}

var levels = [...]struct {
	name  string
	level slog.Level
}{{"debug", slog.LevelDebug}, {"info", slog.LevelInfo}, {"warn", slog.LevelWarn}, {"error", slog.LevelError}}

// LogLevel implements [mgmt.Daemon].
func (d *Daemon) LogLevel() string {
	for _, l := range levels {
		if l.level == d.o.Log.Level() {
			return l.name
		}
	}
	return d.o.Log.Level().String()
}

// SetLogLevel implements [mgmt.Daemon].
func (d *Daemon) SetLogLevel(name string) error {
	for _, l := range levels {
		if l.name == name {
			d.o.Log.SetLevel(l.level)
			return nil
		}
	}
	return fmt.Errorf("log level %q: expected debug, info, warn or error", name)
}
