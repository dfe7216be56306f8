package daemon

import (
	"context"
	"crypto/tls"
	"fmt"
	"path/filepath"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway"
	"github.com/np-appliance/np/ctrl/logs"
	"github.com/np-appliance/np/ctrl/secure"
	"github.com/np-appliance/np/dataplane/netconn"
	"github.com/np-appliance/np/dataplane/nettransport"
)

// tlsConfig makes what [tls] says of servers.
func (d *Daemon) tlsConfig(c *config.Config, certs *secure.Store) (*tls.Config, error) {
	s := secure.Server{Store: certs, NoSessionTickets: !c.TLS.SessionTickets,
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
	return d.makeGateway(c)
}

// makeGateway puts routes and upstreams in force.
func (d *Daemon) makeGateway(c *config.Config) error {
	by := d.makeDialer(nettransport.New(nettransport.Options{}))
	d.clients = logs.NewLimiter(d.o.Log.With("component", "listener"), c.Limits.LogLines, d.o.Now)
	g := gateway.New(gateway.Options{Dial: by.dial, Packet: by.packet, Log: d.o.Log.With("component", "gateway"), Peer: d.clients.Log, State: filepath.Dir(c.Protocol.PrivateKeyFile), Now: d.o.Now, Version: d.o.Version.Version})
	gen, err := g.Prepare(c)
	if err != nil {
		return err
	}
	g.Commit(gen)
	d.gateway = g
	d.later(g.Close)
	return d.opcodes.Route(g.Opcodes()...)
}
