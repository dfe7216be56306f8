package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Packets is a socket on which HTTP/3 is served by one server after the other. A
// connection belongs to the server that was there at its first packet: it goes on with it
// when another takes its place.
type Packets struct {
	socket    net.PacketConn
	transport *quic.Transport
	listener  *quic.EarlyListener
	takes     atomic.Pointer[taker] // new connections
	done      chan struct{}         // closed when nothing is accepted any more
	err       error                 // why, before done
	closing   sync.Once
}

// taker is a server's place at a socket, and the listener that its engine has.
type taker struct {
	p      *Packets
	server *Server
	tls    *tls.Config
	quic   *quic.Config
	open   group
	take   chan *quic.Conn
	ended  chan struct{} // closed when the engine accepts nothing any more

	mu       sync.Mutex
	coming   int           // connections that were let in and have not come to the engine yet
	replaced bool          // nothing is added to coming
	none     chan struct{} // closed when it is and there are none
}

// NewPackets prepares a socket for a first server, whose [Server.ServePackets] has to follow.
// The socket stays the caller's to close, after Close.
func NewPackets(socket net.PacketConn, s *Server) (*Packets, error) {
	if s.h3 == nil {
		return nil, fmt.Errorf("listener %q: HTTP/3 without TLS", s.c.Name)
	}
	p := &Packets{socket: socket, done: make(chan struct{})}
	p.next(s)
	p.transport = &quic.Transport{Conn: socket, ConnContext: p.admit, VerifySourceAddress: func(net.Addr) bool { return p.takes.Load().server.busy() }}
	var err error
	p.listener, err = p.transport.ListenEarly(&tls.Config{GetConfigForClient: tlsOf}, &quic.Config{Allow0RTT: true,
		GetConfigForClient: func(*quic.ClientInfo) (*quic.Config, error) { return p.takes.Load().quic, nil }})
	if err != nil {
		return nil, fmt.Errorf("listener %q: QUIC: %w", s.c.Name, err)
	}
	go p.run()
	return p, nil
}

var errNobody = errors.New("nobody serves this socket")

// tlsOf finds the settings of a connection's server. What these would pick has to be
// picked here: crypto/tls asks once.
func tlsOf(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	c := From(hello.Context())
	if c == nil || c.taker == nil {
		return nil, errNobody
	}
	t := c.taker.tls
	if t.GetConfigForClient != nil {
		picked, err := t.GetConfigForClient(hello)
		if picked != nil || err != nil {
			return picked, err
		}
	}
	return t, nil
}

// admit lets a connection in, or refuses it, at its first packet.
func (p *Packets) admit(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	t := p.takes.Load()
	for !t.begin() { // bound: another has taken its place then
		before := t
		if t = p.takes.Load(); t == before {
			return nil, errNobody // it has ended, and nobody took its place
		}
	}
	ctx, err := t.server.admitQUIC(ctx, p.socket, info, t)
	if err != nil {
		t.landed()
		return nil, err
	}
	return ctx, nil
}

// run hands connections to the engines of their servers.
func (p *Packets) run() {
	defer close(p.done)
	for {
		q, err := p.listener.Accept(context.Background())
		if err != nil {
			p.err = err
			return
		}
		c := From(q.Context())
		if c == nil || c.taker == nil {
			continue // admit lets in no other
		}
		select {
		case c.taker.take <- q:
		case <-c.taker.ended:
			_ = q.CloseWithError(h3NoError, "")
		}
		c.land()
	}
}

// Close ends what is accepted and breaks off all connections that are left.
func (p *Packets) Close() error {
	var err error
	p.closing.Do(func() { err = errors.Join(p.listener.Close(), p.transport.Close()) })
	<-p.done
	return err
}

// next gives the socket to a server.
func (p *Packets) next(s *Server) *taker {
	l := &s.c.Limits
	t := &taker{p: p, server: s, take: make(chan *quic.Conn), ended: make(chan struct{}), none: make(chan struct{}),
		tls: http3.ConfigureTLSConfig(s.shake),
		quic: &quic.Config{
			Allow0RTT: s.c.EarlyData, HandshakeIdleTimeout: l.Handshake / 2, MaxIdleTimeout: max(0, l.Idle) + time.Second,
			MaxIncomingStreams: int64(l.Streams), MaxIncomingUniStreams: maxUniStreams,
			InitialStreamReceiveWindow: uint64(min(l.StreamBytes, 512<<10)), MaxStreamReceiveWindow: uint64(l.StreamBytes),
			InitialConnectionReceiveWindow: uint64(min(l.ConnBytes, 512<<10)), MaxConnectionReceiveWindow: uint64(l.ConnBytes),
		}}
	if before := p.takes.Swap(t); before != nil {
		before.replace()
	}
	return t
}

// begin counts a connection that is on its way to the engine; false: another server has
// the socket.
func (t *taker) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.replaced {
		return false
	}
	t.coming++
	return true
}

// landed ends what begin counted: the connection is the engine's, or is gone.
func (t *taker) landed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.coming--; t.coming == 0 && t.replaced {
		close(t.none)
	}
}

// replace has the engine told that there is nothing more to come, once that is so.
func (t *taker) replace() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.replaced {
		return
	}
	t.replaced = true
	if t.coming == 0 {
		close(t.none)
	}
}

// Accept implements [http3.QUICListener].
func (t *taker) Accept(ctx context.Context) (*quic.Conn, error) {
	select {
	case q := <-t.take:
		return q, nil
	case <-t.none:
		return nil, quic.ErrServerClosed
	case <-t.p.done:
		return nil, t.p.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Addr implements [http3.QUICListener].
func (t *taker) Addr() net.Addr { return t.p.socket.LocalAddr() }

// Close implements [http3.QUICListener].
func (t *taker) Close() error { return nil }

// ServePackets serves HTTP/3 on p, where it takes the place of the server before, until ctx
// ends, Shutdown is called, another server takes its place or p fails, and returns when all
// its connections are gone. Config.TLS has to be set.
func (s *Server) ServePackets(ctx context.Context, p *Packets) error {
	if s.h3 == nil {
		return fmt.Errorf("listener %q: HTTP/3 without TLS", s.c.Name)
	}
	if err := s.begin(p.socket); err != nil {
		return err
	}
	defer s.finish(p.socket)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := p.takes.Load()
	if t.server != s { // else it is the first
		t = p.next(s)
	}
	stop := context.AfterFunc(ctx, func() {
		s.cutAll(&t.open)
		if p.takes.Load() == t {
			_ = p.listener.Close() // handshakes that are under way end with it
		}
	})
	defer stop()
	s.h3.mu.Lock()
	s.h3.ends[t] = cancel
	s.h3.mu.Unlock()
	err := s.h3.server.ServeListener(t)
	if errors.Is(err, http.ErrServerClosed) || ctx.Err() != nil {
		err = nil
	} else {
		err = fmt.Errorf("listener %q: QUIC: %w", s.c.Name, err)
		cancel()
	}
	close(t.ended)
	t.replace()
	t.open.Wait()
	s.h3.mu.Lock()
	delete(s.h3.ends, t)
	s.h3.mu.Unlock()
	return err
}

// ServePacket serves HTTP/3 on p until ctx ends, Shutdown is called or p fails, and returns
// when all its connections are gone. It does not close p. Config.TLS has to be set.
func (s *Server) ServePacket(ctx context.Context, p net.PacketConn) error {
	packets, err := NewPackets(p, s)
	if err != nil {
		return err
	}
	err = s.ServePackets(ctx, packets)
	if cerr := packets.Close(); err == nil && !errors.Is(cerr, quic.ErrTransportClosed) {
		err = cerr
	}
	return err
}
