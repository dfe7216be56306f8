package netconn

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/ksock"
)

// Carriers of kernel sockets: the sockets are made here, and are the core's from then on.

// unixMode is of the files of listening Unix sockets.
const unixMode = 0o600

// unixRetry is how long a dial waits at most before it tries a full backlog again.
const unixRetry = 20 * time.Millisecond

func (o *Options) socket() *ksock.Options {
	k := &ksock.Options{Backlog: o.HalfOpen, DSCP: o.DSCP}
	if o.CongestionControl != dataplane.CongestionDefault {
		k.CongestionControl = o.CongestionControl.String()
	}
	return k
}

// listenSockets listens on kernel sockets, one for each core.
func (t *Transport) listenSockets(ctx context.Context, network string, at netip.AddrPort) (*Listener, error) {
	fds, bound, err := ksock.ListenTCP(at, len(t.s.shards), t.o.socket())
	if err != nil {
		return nil, err
	}
	return t.listen(ctx, &dataplane.ListenConfig{Address: bound, Carrier: t.o.Carrier, Sockets: fds}, network, net.TCPAddrFromAddrPort(bound), nil)
}

// listenUnix listens at a path.
func (t *Transport) listenUnix(ctx context.Context, path string) (net.Listener, error) {
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	u, err := ksock.ListenUnix(path, len(t.s.shards), &ksock.UnixOptions{Mode: t.o.UnixMode, UID: -1, GID: -1, Backlog: t.o.HalfOpen})
	if err != nil {
		return nil, opError("listen", "unix", nil, addr, err)
	}
	l, err := t.listen(ctx, &dataplane.ListenConfig{Carrier: t.o.Carrier, Sockets: u.FDs}, "unix", addr, u.Remove)
	if err != nil {
		u.Remove()
		return nil, opError("listen", "unix", nil, addr, contextErr(planeErr(err)))
	}
	return l, nil
}

// dialSocket begins a connection on a kernel socket and waits until it stands.
func (t *Transport) dialSocket(ctx context.Context, local, to netip.AddrPort) (*Conn, error) {
	fd, err := ksock.DialTCP(local, to, t.o.socket())
	if err != nil {
		return nil, err
	}
	return t.s.connect(ctx, &dataplane.ConnectConfig{Remote: to, Kind: dataplane.SessionPipe, Carrier: t.o.Carrier, Socket: fd, Core: -1})
}

// dialUnix connects to a path. A full backlog is waited for, as net does.
func (t *Transport) dialUnix(ctx context.Context, path string) (net.Conn, error) {
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	fd, err := ksock.DialUnix(path)
	for pause := time.Millisecond; errors.Is(err, syscall.EAGAIN); pause = min(2*pause, unixRetry) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
			fd, err = ksock.DialUnix(path)
		case <-ctx.Done():
			timer.Stop()
			err = ctx.Err()
		}
	}
	if err != nil {
		return nil, opError("dial", "unix", nil, addr, contextErr(err))
	}
	c, err := t.s.connect(ctx, &dataplane.ConnectConfig{Kind: dataplane.SessionPipe, Carrier: t.o.Carrier, Socket: fd, Core: -1})
	if err != nil {
		return nil, opError("dial", "unix", nil, addr, contextErr(err))
	}
	c.o, c.network, c.local, c.remote = &t.o, "unix", &net.UnixAddr{Net: "unix"}, addr
	return c, nil
}
