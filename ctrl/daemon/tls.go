package daemon

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/plain"
	"github.com/np-appliance/np/ctrl/secure"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/netconn"
)

// goListener is a listener whose service is in Go.
type goListener struct {
	*netconn.Listener
	service *plain.Server
}

// tlsConfig makes what [tls] says of servers; nil without certificates.
func (d *Daemon) tlsConfig(c *config.Config) (*tls.Config, error) {
	if d.certs == nil {
		return nil, nil
	}
	s := secure.Server{Store: d.certs, NoSessionTickets: !c.TLS.SessionTickets,
		Common: secure.Common{MinVersion: tls.VersionTLS12, ALPN: c.TLS.ALPN, Pins: c.TLS.ClientPins, Now: d.o.Now}}
	if c.TLS.MinVersion == "1.3" {
		s.MinVersion = tls.VersionTLS13
	}
	switch c.TLS.PostQuantum {
	case "off":
		s.PostQuantum = secure.PostQuantumOff
	case "require":
		s.PostQuantum = secure.PostQuantumRequire
	}
	switch c.TLS.ClientAuth {
	case "request":
		s.ClientAuth = secure.ClientAuthRequest
	case "require":
		s.ClientAuth = secure.ClientAuthRequire
	}
	if c.TLS.ClientCAFile != "" {
		ca, err := secure.ReadCA(c.TLS.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Pos("tls.client_ca_file"), err)
		}
		s.ClientCA = ca
	}
	t, err := s.Config()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Pos("tls"), err)
	}
	return t, nil
}

// listenPlane opens a listener on the plane, with its service in Go behind it where its bytes
// come to Go.
func (d *Daemon) listenPlane(ctx context.Context, c *config.Config, l *config.Listener, lc *dataplane.ListenConfig) (dataplane.ListenerID, error) {
	return d.listenBy(ctx, c, l, lc, netconn.Opener{Listen: d.plane.Listen, Unlisten: d.unlistenCarrier})
}

func (d *Daemon) listenBy(ctx context.Context, c *config.Config, l *config.Listener, lc *dataplane.ListenConfig, by netconn.Opener) (dataplane.ListenerID, error) {
	if !l.TLS {
		return by.Listen(ctx, lc)
	}
	s, err := plain.New(l.Protocol)
	if err != nil {
		return 0, err
	}
	log := d.o.Log.With("component", "listener", "listener", l.Name)
	s.MaxConns = c.ListenerLimit(l)
	s.Failed = func(remote net.Addr, err error) {
		d.limiter.Log(slog.LevelInfo, "tls_failed", "connection ended", "listener", l.Name, "remote", remote.String(), "reason", secure.Explain(err))
	}
	network, addr := "tcp", net.Addr(net.TCPAddrFromAddrPort(l.Address.AddrPort()))
	if path := l.Address.Path(); path != "" {
		network, addr = "unix", &net.UnixAddr{Net: "unix", Name: path}
	}
	nl, err := d.conns.ListenBy(ctx, by, lc, network, addr)
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	d.goListeners[nl.ID()] = goListener{nl, s}
	d.mu.Unlock()
	d.wg.Go(func() {
		if err := s.Serve(d.serving, secure.NewListener(nl, d.tls, c.TLS.HandshakeTimeout)); err != nil {
			log.Error("listener ended", "err", err)
		}
	})
	return nl.ID(), nil
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
	return l.Close()
}

// makeConns makes the way of bytes to Go.
func (d *Daemon) makeConns(c *config.Config) error {
	t, err := netconn.New(d.plane, d.reader, netconn.Options{ReadBuffer: int(c.TCP.ReceiveBuffer)})
	if err != nil {
		return err
	}
	d.conns = t
	d.later(func() { _ = t.Close() })
	var stop context.CancelFunc
	d.serving, stop = context.WithCancel(context.Background())
	d.later(stop)
	d.tls, err = d.tlsConfig(c)
	return err
}
