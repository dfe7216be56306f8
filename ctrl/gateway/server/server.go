package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/h2"
)

// Server serves listeners with one set of settings.
type Server struct {
	c     Config
	shake *tls.Config // Config.TLS with what Config.Admit says of handshakes; nil: none
	tls   *tls.Config // shake with the protocols of TCP's listeners
	h2    *h2.Engine
	h3    *h3 // nil: no TLS

	began                          time.Time
	heads                          headLimits
	idle                           int64                  // milliseconds; 0: no limit
	date                           atomic.Pointer[[]byte] // the field, as it is now
	ending                         atomic.Bool            // as closing
	clock                          atomic.Int64           // milliseconds since began
	headTime, bodyStall, sendStall int64                  // milliseconds; bodyStall and sendStall 0: no limit
	altSvc                         string
	buffers, big                   sync.Pool
	mu                             sync.Mutex
	conns                          map[*Conn]struct{}
	clients                        map[netip.Addr]int
	listeners                      map[io.Closer]struct{}
	run                            *run // nil: nobody serves
	serving                        int  // calls of Serve and ServePacket
	closing                        bool
	counts
}

// New checks the settings. All that is wrong is in the error.
func New(c Config) (*Server, error) {
	c.Limits.defaults()
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("listener %q: %w", c.Name, err)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		c: c, began: time.Now(), conns: map[*Conn]struct{}{}, clients: map[netip.Addr]int{}, listeners: map[io.Closer]struct{}{},
		headTime: c.Limits.Head.Milliseconds(), bodyStall: max(0, c.Limits.BodyStall.Milliseconds()), sendStall: max(0, c.Limits.SendStall.Milliseconds()),
	}
	s.heads, s.idle = headLimits{c.Limits.HeadBytes, c.Limits.Fields, c.Limits.URIBytes}, max(0, c.Limits.Idle.Milliseconds())
	s.buffers.New = func() any { return new([bufferBytes]byte) }
	s.big.New = func() any { return new([bigBytes]byte) }
	s.tellDate(time.Now())
	if c.AltSvc != 0 {
		age := c.AltSvcMaxAge
		if age == 0 {
			age = 24 * time.Hour
		}
		s.altSvc = fmt.Sprintf(`h3=":%d"; ma=%d`, c.AltSvc, int64(age.Seconds()))
	}
	if err := s.newH2(); err != nil {
		return nil, fmt.Errorf("listener %q: %w", c.Name, err)
	}
	if c.TLS != nil {
		s.shake = c.TLS
		if c.Admit != nil {
			s.shake = s.authorizing(c.TLS)
		}
		s.tls = withProtocols(s.shake, s.protocols())
		s.newH3()
	}
	return s, nil
}

// protocols are ALPN's names for what is served over TCP.
func (s *Server) protocols() []string {
	var p []string
	if !s.c.NoHTTP2 {
		p = append(p, "h2")
	}
	if !s.c.NoHTTP1 {
		p = append(p, "http/1.1")
	}
	return p
}

// withProtocols returns a copy of t, and of all it hands out, that negotiates p.
func withProtocols(t *tls.Config, p []string) *tls.Config {
	t = t.Clone()
	t.NextProtos = p
	if pick := t.GetConfigForClient; pick != nil {
		t.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := pick(hello)
			if err != nil || c == nil {
				return c, err
			}
			return withProtocols(c, p), nil
		}
	}
	return t
}

// bufferBytes is a buffer's size: what ordinary heads and short answers fit into.
const bufferBytes = 4 << 10

func (s *Server) buffer() []byte { return s.buffers.Get().(*[bufferBytes]byte)[:0] }

func (s *Server) free(b []byte) {
	if cap(b) == bufferBytes { // else it has grown
		s.buffers.Put((*[bufferBytes]byte)(b[:bufferBytes]))
	}
}

// now is the server's clock: as fine as the keeper's steps.
func (s *Server) now() int64 { return s.clock.Load() }

// paid is how many milliseconds of waiting n bytes of a body pay for.
func (s *Server) paid(n int) int64 {
	if s.c.Limits.BodyRate <= 0 {
		return int64(n) * 1000
	}
	return int64(n) * 1000 / int64(s.c.Limits.BodyRate)
}

// ErrClosed is returned by Serve and ServePacket after Shutdown.
var ErrClosed = errors.New("server is closed")

// begin counts a call of Serve; the first starts what all share.
func (s *Server) begin(l io.Closer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ErrClosed
	}
	s.listeners[l] = struct{}{}
	if s.serving++; s.serving > 1 {
		return nil
	}
	r := &run{stop: make(chan struct{})}
	s.run = r
	r.work.Go(func() { s.keep(r.stop) })
	return nil
}

// run is what all calls of Serve at a time share.
type run struct {
	stop chan struct{}
	work sync.WaitGroup // of the keeper
}

// finish is begin's other end.
func (s *Server) finish(l io.Closer) {
	s.mu.Lock()
	delete(s.listeners, l)
	r := s.run
	if s.serving--; s.serving > 0 {
		r = nil
	} else {
		s.run = nil
	}
	s.mu.Unlock()
	if r != nil {
		close(r.stop)
		r.work.Wait()
		s.h2.End()
	}
}

// Serve accepts connections from l until ctx ends, Shutdown is called or l fails, and
// returns when all of them are gone. It closes l. When ctx ends they are broken off, with
// Shutdown they end in good order.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if err := s.begin(l); err != nil {
		_ = l.Close()
		return err
	}
	defer s.finish(l)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var open group
	stop := context.AfterFunc(ctx, func() {
		_ = l.Close()
		s.cutAll(&open)
	})
	defer stop()
	err := s.accept(ctx, l, &open)
	_ = l.Close()
	if err != nil {
		cancel()
	}
	open.Wait()
	return err
}

// group is the connections of one Serve.
type group struct{ sync.WaitGroup }

// accept accepts until the listener ends.
func (s *Server) accept(ctx context.Context, l net.Listener, open *group) error {
	var pause time.Duration
	for {
		raw, err := l.Accept()
		if err == nil {
			pause = 0
			s.admit(ctx, raw, open)
			continue
		}
		switch {
		case ctx.Err() != nil, errors.Is(err, net.ErrClosed), errors.Is(err, io.EOF), s.isClosing():
			return nil
		case !passes(err):
			return fmt.Errorf("accept on listener %q: %w", s.c.Name, err)
		}
		s.acceptErrors.Add(1)
		pause = min(max(5*time.Millisecond, 2*pause), time.Second)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// passes says whether an error of Accept is one that goes away by itself: the process or
// the machine has no room, or a client went away.
func passes(err error) bool {
	for _, e := range [...]error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// admit takes a connection or closes it.
func (s *Server) admit(ctx context.Context, raw net.Conn, open *group) {
	c := &Conn{Listener: s.c.Name, Local: raw.LocalAddr(), Peer: addrOf(raw.RemoteAddr()), server: s, raw: raw, open: open}
	c.Client, c.born = c.Peer, s.now()
	s.accepted.Add(1)
	s.mu.Lock()
	full := s.c.Limits.Conns > 0 && len(s.conns) >= s.c.Limits.Conns
	if !full {
		s.conns[c] = struct{}{}
		open.Add(1)
	}
	s.mu.Unlock()
	if full {
		s.refuseConn(raw, RefusedFull)
		return
	}
	go s.start(ctx, c)
}

// countClient counts the connection for its client's address, unless there are too many.
func (s *Server) countClient(c *Conn) bool {
	a := c.Client.Addr().WithZone("")
	if s.c.Limits.ClientConns <= 0 || !a.IsValid() {
		return true
	}
	if a.Is6() { // who has one address of a /64 has all
		a = netip.PrefixFrom(a, 64).Masked().Addr()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients[a] >= s.c.Limits.ClientConns {
		return false
	}
	s.clients[a]++
	c.counted = a
	return true
}

// forget takes a connection off the books.
func (s *Server) forget(c *Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	if c.counted.IsValid() {
		if s.clients[c.counted]--; s.clients[c.counted] == 0 {
			delete(s.clients, c.counted)
		}
	}
	s.mu.Unlock()
	if c.open != nil {
		c.open.Done()
	}
}

// cutAll closes the connections of one Serve, or all (nil).
func (s *Server) cutAll(of *group) {
	s.mu.Lock()
	var list []*Conn
	for c := range s.conns {
		if of == nil || c.open == of {
			list = append(list, c)
		}
	}
	s.mu.Unlock()
	for _, c := range list {
		c.sever()
	}
}

// Shutdown stops accepting and ends connections in good order: those of HTTP/1.1 after the
// answer they are at, those of HTTP/2 and HTTP/3 after GOAWAY and the answers they are at.
// When ctx ends the rest is broken off; its error is then returned. A Server can't be used
// again.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.ending.Store(true)
	var list []io.Closer
	for l := range s.listeners {
		list = append(list, l)
	}
	var engines []*h2.Conn
	for c := range s.conns { // bound: Limits.Conns
		if e := c.h2.Load(); e != nil { // one that comes later sees closing
			engines = append(engines, e)
		}
	}
	s.mu.Unlock()
	for _, l := range list {
		if _, packet := l.(net.PacketConn); !packet {
			_ = l.Close()
		}
	}
	var wg sync.WaitGroup
	if s.h3 != nil {
		wg.Go(func() { s.h3.shutdown(ctx) })
	}
	for _, e := range engines {
		e.Shutdown()
	}
	err := s.drained(ctx)
	s.cutAll(nil)
	wg.Wait()
	return err
}

// drained waits until no connection is open.
func (s *Server) drained(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		s.mu.Lock()
		n := len(s.conns)
		var quiet []*Conn
		for c := range s.conns {
			if c.requests.Load() > 0 || s.now()-c.born > freshTime {
				c.atRest()
			}
			if c.Protocol == HTTP3 && c.running.Load() == 0 && c.quietFor() > quietBeforeClose {
				quiet = append(quiet, c)
			}
		}
		s.mu.Unlock()
		if n == 0 {
			return nil
		}
		for _, c := range quiet {
			c.sever()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d connections broken off: %w", n, ctx.Err())
		case <-tick.C:
		}
	}
}

// quietBeforeClose is how long a connection of HTTP/3 that has been told GOAWAY may be
// without a request: clients are to close it themselves, and some never do.
const quietBeforeClose = 500 * time.Millisecond

// freshTime is how old a connection of HTTP/1.1 is, in milliseconds, before it is closed
// without a request: the first one may be on its way.
const freshTime = 1000

// keep is the keeper: it moves the clock and breaks off what takes too long.
func (s *Server) keep(stop chan struct{}) {
	t := time.NewTicker(s.step())
	defer t.Stop()
	trimmed := time.Now()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		}
		now := max(1, time.Since(s.began).Milliseconds())
		s.clock.Store(now)
		s.tellDate(time.Now())
		s.look(now)
		if time.Since(trimmed) > trimEvery {
			s.h2.Trim()
			trimmed = time.Now()
		}
	}
}

// tellDate makes the Date of answers (RFC 9110 §6.6.1), once for all of a second.
func (s *Server) tellDate(now time.Time) {
	b := append(now.UTC().AppendFormat([]byte("Date: "), http.TimeFormat), '\r', '\n')
	if old := s.date.Load(); old == nil || !bytes.Equal(*old, b) {
		s.date.Store(&b)
	}
}

// look breaks off what has waited for too long. It does so after its look at all: ending
// something may wait for an engine, and counting connections must not wait for that.
func (s *Server) look(now int64) {
	var conns []*Conn
	var late []*stream
	var engines []*h2.Conn
	s.mu.Lock()
	for c := range s.conns { // bound: Limits.Conns
		if c.wait.cut.Load() == 0 && c.wait.overdue(now) != 0 {
			conns = append(conns, c)
		}
		late = c.streams.late(now, late)
		if h := c.h1.Load(); h != nil {
			h.glance()
		}
		if e := c.h2.Load(); e != nil {
			engines = append(engines, e)
		}
		if by := c.wait.restBy.Load(); by > 0 && now > by {
			c.atRest()
		}
	}
	s.mu.Unlock()
	for _, c := range conns {
		if why := c.wait.overdue(now); why != 0 {
			c.cutOff(why)
		}
	}
	for _, st := range late {
		st.cutOff(now)
	}
	for _, e := range engines {
		e.Look()
	}
}

// trimEvery is how long HTTP/2's goroutines that nobody needs are kept.
const trimEvery = 10 * time.Second

// step is the keeper's: an eighth of the shortest limit.
func (s *Server) step() time.Duration {
	d := 100 * time.Millisecond // in which a client that goes away should be noticed
	for _, l := range [...]time.Duration{s.c.Limits.Head, s.c.Limits.BodyStall, s.c.Limits.SendStall, s.c.Limits.PassIdle} {
		if l > 0 {
			d = min(d, l/8)
		}
	}
	return max(d, 5*time.Millisecond)
}
