package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/policy/authz"
	"github.com/np-appliance/np/ctrl/gateway/server"
	"github.com/np-appliance/np/ctrl/mgmt"
	"github.com/np-appliance/np/ctrl/plain"
	"github.com/np-appliance/np/ctrl/secure"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/ksock"
	"github.com/np-appliance/np/dataplane/netconn"
)

// service answers on the connections of a listener whose bytes come to Go.
type service interface {
	// Serve accepts until the listener closes or ctx ends, and waits for the connections,
	// which end by themselves or with ctx. It closes l.
	Serve(ctx context.Context, l net.Listener) error
	Stats() plain.Stats
}

// goListener is a listener whose service is in Go.
type goListener struct {
	net.Listener
	handover *handover // of protocol http; it is Listener then
	packets  *packets  // of HTTP/3, nil: none
	service  service
}

// packets is the socket of HTTP/3 beside a listener.
type packets struct {
	net.PacketConn
	*server.Packets
}

// Close ends its connections and closes the socket.
func (p *packets) Close() error {
	return errors.Join(p.Packets.Close(), p.PacketConn.Close())
}

func (l *goListener) Close() error {
	err := l.Listener.Close()
	if l.packets != nil {
		err = errors.Join(err, l.packets.Close())
	}
	return err
}

// inGo says whether a listener's bytes come to Go.
func inGo(l *config.Listener) bool { return l.TLS || l.Protocol == "http" }

// newService makes what answers on a listener.
func (d *Daemon) newService(c *config.Config, l *config.Listener) (service, error) {
	if l.Protocol == "http" {
		s, err := d.gateway.Server(c, l, d.tls())
		if err != nil {
			return nil, err
		}
		return &httpService{Server: s}, nil
	}
	s, err := plain.New(l.Protocol)
	if err != nil {
		return nil, err
	}
	s.MaxConns, s.Idle = c.ListenerLimit(l), l.IdleTimeout
	s.Failed = func(remote net.Addr, err error) {
		d.limiter.Log(slog.LevelInfo, "tls_failed", "connection ended", "listener", l.Name, "remote", remote.String(), "reason", secure.Explain(err))
	}
	s.Admit = func(conn net.Conn) error {
		_, err := d.admit(l.Name, conn, &tls.ConnectionState{}, authz.SNI|authz.ALPN|authz.Cert)
		return err
	}
	return &overTLS{s, d, c, l.Name}, nil
}

// overTLS is a plain service behind TLS.
type overTLS struct {
	*plain.Server
	d    *Daemon
	c    *config.Config
	name string // the listener's
}

func (o *overTLS) Serve(ctx context.Context, l net.Listener) error {
	t := secure.Authorize(o.d.tls(), func(hello *tls.ClientHelloInfo) (func(tls.ConnectionState) error, error) {
		later, err := o.d.admit(o.name, hello.Conn, &tls.ConnectionState{ServerName: hello.ServerName}, authz.ALPN|authz.Cert)
		if err != nil || !later {
			return nil, err
		}
		return func(state tls.ConnectionState) error {
			_, err := o.d.admit(o.name, hello.Conn, &state, 0)
			return err
		}, nil
	})
	return o.Server.Serve(ctx, secure.NewListener(l, t, o.c.TLS.HandshakeTimeout))
}

// admit asks [listener.authz] about a connection of a service that knows nothing of it.
func (d *Daemon) admit(listener string, c net.Conn, state *tls.ConnectionState, later authz.Facts) (bool, error) {
	a := authz.Connection{Listener: listener, TLS: state, Later: later}
	if tcp, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		a.Client = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	more, err := d.gateway.Admit(&a)
	if err != nil {
		err = fmt.Errorf("%w: %w", plain.ErrRefused, err)
	}
	return more, err
}

// admitPeer asks it about a connection of NPRO, before its handshake. One of a listener that
// is only just being opened has no name yet: where there are rules it may come again.
func (d *Daemon) admitPeer(id dataplane.ListenerID, remote netip.AddrPort) bool {
	d.mu.Lock()
	at := slices.IndexFunc(d.listeners, func(o mgmt.Listener) bool { return o.ID == id })
	name, c := "", d.cfg
	if at >= 0 {
		name = d.listeners[at].Name
	}
	d.mu.Unlock()
	if at < 0 {
		return !slices.ContainsFunc(c.Listeners, func(l config.Listener) bool { return l.Protocol == "npro" && len(l.Authz.Allow)+len(l.Authz.Deny) > 0 })
	}
	_, err := d.gateway.Admit(&authz.Connection{Listener: name, Client: remote})
	return err == nil
}

// Stats counts connections as listeners of all kinds do; requests are the gateway's own matter.
func (h *httpService) Stats() plain.Stats {
	s := h.counted()
	out := plain.Stats{Open: int64(s.Open), Accepted: s.Accepted}
	for why, n := range s.Conns {
		switch why {
		case server.RefusedFull, server.RefusedClient, server.RefusedPeer, server.RefusedAuthz:
			out.Refused += n
			out.Accepted -= n
		case server.RefusedHandshake, server.RefusedHandshakeLate:
			out.Handshakes += n
			out.Failed += n
		default:
			out.Failed += n
		}
	}
	return out
}

// shutdowner is a service whose connections can be ended in good order.
type shutdowner interface {
	Shutdown(ctx context.Context) error
}

// shutdown ends the connections of listeners of services that can do so in good order.
func (d *Daemon) shutdown(ctx context.Context, listeners ...*goListener) (cut int) {
	var wg sync.WaitGroup
	var n atomic.Int64
	for _, l := range listeners {
		s, ok := l.service.(shutdowner)
		if !ok {
			continue
		}
		wg.Go(func() {
			if s.Shutdown(ctx) != nil {
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return int(n.Load())
}

// listenPlane opens a listener on the plane, with its service in Go behind it where its bytes
// come to Go.
func (d *Daemon) listenPlane(ctx context.Context, c *config.Config, l *config.Listener, lc *dataplane.ListenConfig) (dataplane.ListenerID, error) {
	return d.listenBy(ctx, c, l, lc, netconn.Opener{Listen: d.plane.Listen, Unlisten: d.unlistenCarrier})
}

func (d *Daemon) listenBy(ctx context.Context, c *config.Config, l *config.Listener, lc *dataplane.ListenConfig, by netconn.Opener) (dataplane.ListenerID, error) {
	if !inGo(l) {
		return by.Listen(ctx, lc)
	}
	s, err := d.newService(c, l)
	if err != nil {
		return 0, err
	}
	network, addr := "tcp", net.Addr(net.TCPAddrFromAddrPort(l.Address.AddrPort()))
	if path := l.Address.Path(); path != "" {
		network, addr = "unix", &net.UnixAddr{Net: "unix", Name: path}
	}
	nl, err := d.conns.ListenBy(ctx, by, lc, network, addr)
	if err != nil {
		return 0, err
	}
	return nl.ID(), d.serve1(ctx, c, l, nl.ID(), &goListener{Listener: nl, service: s})
}

// listenNet opens a listener on Go's own sockets: one for all cores, since none has part in it.
func (d *Daemon) listenNet(ctx context.Context, c *config.Config, l *config.Listener) (dataplane.ListenerID, *ksock.Unix, error) {
	s, err := d.newService(c, l)
	if err != nil {
		return 0, nil, err
	}
	fds, file, err := listenSockets(c, l, 1)
	if err != nil {
		return 0, nil, &bindError{err}
	}
	f := os.NewFile(uintptr(fds[0]), string(l.Address))
	nl, err := net.FileListener(f) // has a descriptor of its own
	if cerr := f.Close(); err == nil && cerr != nil {
		err = errors.Join(cerr, nl.Close())
	}
	if err == nil {
		if u, ok := nl.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // file's matter
		}
		d.mu.Lock()
		d.netListeners++
		id := dataplane.ListenerID(netListenerBit | d.netListeners)
		d.mu.Unlock()
		if err = d.serve1(ctx, c, l, id, &goListener{Listener: nl, service: s}); err == nil {
			return id, file, nil
		}
	}
	if file != nil {
		file.Remove()
	}
	return 0, nil, fmt.Errorf("listen on %s: %w", l.Address, err)
}

// netListenerBit marks the IDs of listeners that no plane knows.
const netListenerBit = 1 << 31

// listenPackets opens the socket of HTTP/3 beside a listener.
func (d *Daemon) listenPackets(ctx context.Context, c *config.Config, l *config.Listener, first *server.Server) (*packets, error) {
	var socket net.PacketConn
	var err error
	if c.OnKernel(l) {
		socket, err = new(net.ListenConfig).ListenPacket(ctx, "udp", string(l.Address))
	} else {
		socket, err = d.conns.ListenPacket(ctx, "udp", string(l.Address))
	}
	if err != nil {
		return nil, fmt.Errorf("HTTP/3: %w", err)
	}
	p, err := server.NewPackets(socket, first)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("HTTP/3: %w", err), socket.Close())
	}
	return &packets{socket, p}, nil
}

// servePackets has a service answer on datagrams, in the place of the one before.
func (d *Daemon) servePackets(l *config.Listener, s *server.Server, p *packets) {
	d.wg.Go(func() {
		if err := s.ServePackets(d.serving, p.Packets); err != nil {
			d.o.Log.Error("listener of HTTP/3 ended", "component", "listener", "listener", l.Name, "err", err)
		}
		if d.serving.Err() != nil {
			_ = p.Close() // the end of all
		}
	})
}

// serve1 begins to serve a listener that is open; with an error it is closed.
func (d *Daemon) serve1(ctx context.Context, c *config.Config, l *config.Listener, id dataplane.ListenerID, g *goListener) error {
	log := d.o.Log.With("component", "listener", "listener", l.Name)
	accept := g.Listener
	if _, http := g.service.(*httpService); http {
		g.handover = newHandover(g.Listener)
		g.Listener, accept = g.handover, g.handover.tap
	}
	if h, ok := g.service.(*httpService); ok && slices.Contains(l.HTTP.Versions, "3") {
		var err error
		if g.packets, err = d.listenPackets(ctx, c, l, h.Server); err != nil {
			return errors.Join(err, g.Close())
		}
		d.servePackets(l, h.Server, g.packets)
	}
	d.mu.Lock()
	d.goListeners[id] = g
	d.mu.Unlock()
	if g.handover != nil {
		d.wg.Go(g.handover.run)
	}
	service := g.service // a swap may give it another
	d.wg.Go(func() {
		if err := service.Serve(d.serving, accept); err != nil {
			log.Error("listener ended", "err", err)
		}
	})
	return nil
}

// unlistenPlane ends a listener of any kind; connections stay.
func (d *Daemon) unlistenPlane(ctx context.Context, id dataplane.ListenerID) error {
	d.mu.Lock()
	l, ok := d.goListeners[id]
	delete(d.goListeners, id)
	d.mu.Unlock()
	if !ok {
		return d.unlistenCarrier(ctx, id)
	}
	err := l.Listener.Close()
	d.wg.Go(func() {
		ctx, cancel := context.WithTimeout(d.serving, d.Config().Server.ShutdownTimeout)
		defer cancel()
		d.shutdown(ctx, l) // its own connections end as they may; the error is of those that did not
		if l.packets != nil {
			_ = l.packets.Close()
		}
	})
	return err
}
