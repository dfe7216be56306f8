package mgmt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway"
	"github.com/np-appliance/np/ctrl/gateway/server"
	"github.com/np-appliance/np/ctrl/ladder"
	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/plain"
	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/ctrl/secure"
	"github.com/np-appliance/np/ctrl/session"
	"github.com/np-appliance/np/ctrl/upstream"
	"github.com/np-appliance/np/dataplane"
)

// Listener is an open listener.
type Listener struct {
	ID       dataplane.ListenerID
	Name     string
	Address  string
	Protocol string
	TLS      bool
	Port     uint16
	MaxConns int

	CongestionControl string // cubic, newreno, bbr

	Requested string        // backend asked for, a word of package ladder
	Ladder    []ladder.Rung // what was tried

	Service *plain.Stats  // counts of a service in Go, nil: it is in the data plane
	HTTP    *server.Stats // of protocol http, nil: another
}

// Daemon is what the server asks of the daemon itself.
type Daemon interface {
	// State is starting, ready or draining.
	State() string
	Config() *config.Config
	Listeners() []Listener
	// Refuse refuses new connections from now on.
	Refuse(ctx context.Context) error
	Certificates() []secure.Certificate
	// ReloadCertificates reads the files of the certificates in force again, all or nothing.
	ReloadCertificates() error
	LogLevel() string
	SetLogLevel(level string) error
}

// Config is what a Server shows.
type Config struct {
	Daemon     Daemon
	Gateway    *gateway.Gateway // nil: there is none
	Configurer Configurer       // nil: the configuration can't be changed here
	Plane      dataplane.Plane
	Sessions   *session.Manager
	Ports      *ports.Manager
	Metrics    http.Handler
	Log        *slog.Logger
	Version    api.Version
	PublicKey  string
	Start      time.Time
	Now        func() time.Time
	Mono       func() time.Duration // CLOCK_MONOTONIC, as the data plane's times
}

// Server answers requests.
type Server struct {
	cfg Config

	mu   sync.Mutex
	busy []busyMark // of the last status call, by core
}

type busyMark struct {
	at   time.Duration
	busy uint64
}

// Bounds of one request and of all.
const (
	bodyMax     = 64 << 10
	configMax   = 10 << 20 // a configuration of 4 MiB, as a string of JSON
	headerMax   = 16 << 10
	connsMax    = 64 // connections on one socket
	readTimeout = 10 * time.Second
	idleTimeout = 60 * time.Second
)

// New makes a server; Serve starts it.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, busy: make([]busyMark, len(cfg.Plane.Cores()))}
}

// Handler routes requests. readOnly refuses changes, and captures too: a
// capture shows what others say.
func (s *Server) Handler(readOnly bool) http.Handler {
	mux := http.NewServeMux()
	get := func(path string, f func(*http.Request) (any, error)) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			v, err := f(r)
			s.answer(w, v, err)
		})
	}
	sized := func(path string, limit int64, f func(*http.Request) (any, error)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			if readOnly {
				s.answer(w, nil, failf(api.KindPermission, "this socket is for reading; changes go to %s", s.cfg.Daemon.Config().Management.Socket))
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, limit)
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout)) // a recorder in tests has none
			v, err := f(r)
			s.answer(w, v, err)
		})
	}
	post := func(path string, f func(*http.Request) (any, error)) { sized(path, bodyMax, f) }
	get(api.PathVersion, s.version)
	get(api.PathStatus, s.status)
	get(api.PathConns, s.conns)
	get(api.PathConn+"{id}", s.conn)
	get(api.PathDrops, s.drops)
	get(api.PathStats, s.stats)
	get(api.PathBackend, s.backend)
	get(api.PathInterfaces, s.interfaces)
	get(api.PathNeighbors, s.neighbors)
	get(api.PathListeners, s.listeners)
	get(api.PathPeers, s.peers)
	get(api.PathConfig, s.config)
	get(api.PathConfigHistory, s.configHistory)
	sized(api.PathConfigDiff, configMax, s.diffConfig)
	sized(api.PathConfigApply, configMax, s.applyConfig)
	post(api.PathConfigRollback, s.rollbackConfig)
	get(api.PathLogLevel, s.logLevel)
	get(api.PathCerts, s.certs)
	post(api.PathCertsReload, s.reloadCerts)
	post(api.PathBackend, s.setBackend)
	post(api.PathLogLevel, s.setLogLevel)
	post(api.PathDrain, s.drain)
	post(api.PathConnClose, s.closeConn)
	post(api.PathConnSet, s.setConn)
	s.gatewayPaths(get, post)
	get(api.PathNICs, s.nics)
	get(api.PathNIC+"{name}", s.nic)
	get(api.PathNIC+"{name}"+api.NICFilter, s.nicFilter)
	post(api.PathNICFilter, s.setFilter)
	post(api.PathNICLimit, s.setLimit)
	mux.HandleFunc("GET "+api.PathCapture, func(w http.ResponseWriter, r *http.Request) {
		if readOnly {
			s.answer(w, nil, failf(api.KindPermission, "captures need %s", s.cfg.Daemon.Config().Management.Socket))
			return
		}
		s.capture(w, r)
	})
	mux.HandleFunc("GET "+api.PathLive, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET "+api.PathReady, s.ready)
	mux.Handle("GET "+api.PathMetrics, s.cfg.Metrics)
	mux.HandleFunc("/", s.unknown)
	return mux
}

// unknown answers paths and methods that there are not.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		s.answer(w, nil, failf(api.KindUsage, "method %q: expected GET or POST", r.Method))
		return
	}
	s.answer(w, nil, failf(api.KindNotFound, "%s %s: no such resource", r.Method, r.URL.Path))
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	state := s.cfg.Daemon.State()
	if state != StateReady {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = io.WriteString(w, state+"\n")
}

// States of the daemon.
const (
	StateStarting = "starting"
	StateReady    = "ready"
	StateDraining = "draining"
	stateDegraded = "degraded"
)

// failure is an error with its kind.
type failure struct{ kind, text string }

func (f *failure) Error() string { return f.text }

// Failf makes an error of a kind of package api's, which npctl turns into its exit code.
func Failf(kind, format string, args ...any) error { return failf(kind, format, args...) }

func failf(kind, format string, args ...any) error {
	return &failure{kind, fmt.Sprintf(format, args...)}
}

var httpStatus = [...]struct {
	kind string
	code int
}{{api.KindUsage, 400}, {api.KindNotFound, 404}, {api.KindPermission, 403}, {api.KindTimeout, 504}, {api.KindConflict, 409}, {api.KindInvalid, 422}, {api.KindUnavailable, 503}}

// classify finds the kind of any error.
func classify(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return &failure{f.kind, err.Error()}
	}
	var invalid config.Errors
	var one *config.Error
	if errors.As(err, &invalid) || errors.As(err, &one) {
		return &failure{api.KindInvalid, err.Error()}
	}
	kind := api.KindFailed
	switch {
	case errors.Is(err, dataplane.CodeNotfound), errors.Is(err, dataplane.CodeStale), errors.Is(err, gateway.ErrNoUpstream), errors.Is(err, upstream.ErrNoEndpoint):
		kind = api.KindNotFound
	case errors.Is(err, dataplane.CodePerm):
		kind = api.KindPermission
	case errors.Is(err, dataplane.CodeBusy), errors.Is(err, dataplane.CodeExists), errors.Is(err, dataplane.CodeState), errors.Is(err, dataplane.CodeFull):
		kind = api.KindConflict
	case errors.Is(err, dataplane.CodeInvalid):
		kind = api.KindUsage
	case errors.Is(err, dataplane.CodeShutdown):
		kind = api.KindUnavailable
	case errors.Is(err, context.DeadlineExceeded):
		kind = api.KindTimeout
	}
	return &failure{kind, err.Error()}
}

func (s *Server) answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		f := classify(err)
		code := http.StatusInternalServerError
		for _, h := range httpStatus {
			if h.kind == f.kind {
				code = h.code
			}
		}
		w.WriteHeader(code)
		v = api.Error{Schema: api.Schema, Kind: f.kind, Text: f.text}
	}
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.cfg.Log.Debug("management answer not sent", "component", "mgmt", "err", err)
	}
}

// body reads a request's JSON; unknown fields are refused.
func body(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return failf(api.KindUsage, "request body: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return failf(api.KindUsage, "request body: more than one value")
	}
	return nil
}

// Listen makes a management socket: mode 0660, group when it exists. A socket
// that somebody answers on is an error, a left-over file is replaced.
func Listen(path, group string) (net.Listener, error) {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return nil, fmt.Errorf("listen on %s: %w (another npd answers there)", path, syscall.EADDRINUSE)
	}
	if errors.Is(err, syscall.EAGAIN) { // its queue is full, but it is there
		return nil, fmt.Errorf("listen on %s: %w (another npd is there, too busy to answer)", path, syscall.EADDRINUSE)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("listen on %s: a file that is no socket is in the way", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", path, err)
		}
	}
	// Made under a name nobody looks at, so that nobody connects before mode
	// and group are set.
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(tmp)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(tmp, 0o660)
	if g, look := user.LookupGroup(group); group != "" && look == nil && err == nil {
		if gid, bad := strconv.Atoi(g.Gid); bad == nil {
			err = os.Chown(tmp, -1, gid)
		}
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		l.Close()
		_ = os.Remove(tmp)
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return bound(l, path), nil
}

// Bound limits the connections that are open on l at a time.
func Bound(l net.Listener) net.Listener { return bound(l, "") }

func bound(l net.Listener, path string) *socket {
	return &socket{Listener: l, path: path, slots: make(chan struct{}, connsMax), done: make(chan struct{})}
}

// socket bounds connections and removes its file, if it has one, in the end.
type socket struct {
	net.Listener
	path  string
	slots chan struct{}
	done  chan struct{}
	once  sync.Once
}

func (s *socket) Accept() (net.Conn, error) {
	select {
	case s.slots <- struct{}{}:
	case <-s.done:
		return nil, net.ErrClosed
	}
	c, err := s.Listener.Accept()
	if err != nil {
		<-s.slots
		return nil, err
	}
	return &slotConn{Conn: c, s: s}, nil
}

func (s *socket) Close() error {
	err := net.ErrClosed
	s.once.Do(func() {
		close(s.done)
		if s.path != "" {
			_ = os.Remove(s.path)
		}
		err = s.Listener.Close()
	})
	return err
}

type slotConn struct {
	net.Conn
	s    *socket
	once sync.Once
}

func (c *slotConn) Close() error {
	c.once.Do(func() { <-c.s.slots })
	return c.Conn.Close()
}

// Serve answers on l until ctx ends; running captures end with it.
func (s *Server) Serve(ctx context.Context, l net.Listener, readOnly bool) error {
	srv := NewHTTP(s.Handler(readOnly), s.cfg.Log)
	srv.BaseContext = func(net.Listener) context.Context { return ctx }
	srv.ConnContext = withPeer
	return Run(ctx, srv, l)
}

// NewHTTP is an HTTP server with bounds. No ReadTimeout: it would end a capture,
// which only writes, with the connection's read.
func NewHTTP(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: readTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: headerMax, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
}

// Run serves until ctx ends, then gives running requests a moment.
func Run(ctx context.Context, srv *http.Server, l net.Listener) error {
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if srv.Shutdown(end) != nil {
		_ = srv.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
