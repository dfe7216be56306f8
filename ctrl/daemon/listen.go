package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/user"
	"slices"
	"strconv"
	"syscall"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/ladder"
	"github.com/np-appliance/np/ctrl/mgmt"
	"github.com/np-appliance/np/ctrl/session"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/ksock"
)

// socketRoom is how many connections on kernel sockets a core has room for
// beyond the limits of the listeners there are at the start.
const socketRoom = 1024

// probe asks once whether this kernel gives us io_uring.
func (d *Daemon) probe() {
	d.noUring = errors.New("this program was built without it")
	if d.o.ProbeUring != nil {
		d.noUring = d.o.ProbeUring()
	}
}

// carriers are what listeners may run on besides the stack, and their room.
func (d *Daemon) carriers(c *config.Config, p *dataplane.Config) {
	p.Carriers = []dataplane.Carrier{dataplane.CarrierEpoll}
	if d.noUring == nil {
		p.Carriers = append(p.Carriers, dataplane.CarrierUring)
	}
	p.SocketConns = socketRoom
	for _, l := range c.Listen() {
		if c.OnKernel(&l) && l.Backend != ladder.Net && (l.Protocol != "http" || l.Backend != ladder.Auto) {
			p.SocketConns += c.ListenerLimit(&l)
		}
	}
}

// listen opens one listener.
func (d *Daemon) listen(ctx context.Context, c *config.Config, l *config.Listener) error {
	out := mgmt.Listener{Name: l.Name, Address: string(l.Address), Protocol: l.Protocol, Port: l.Address.AddrPort().Port(), MaxConns: c.ListenerLimit(l),
		CongestionControl: listenerCongestion(c, l), Requested: l.Backend, Ladder: []ladder.Rung{{Backend: ladder.Stack, Chosen: true}}}
	lc := listenConfig(c, l)
	if lc.Kind == dataplane.SessionNPRO {
		lc.MaxConns += session.RefusalRoom
	}
	var file *ksock.Unix
	var err error
	if c.OnKernel(l) {
		out.ID, out.Ladder, file, err = d.listenKernel(ctx, c, l, lc)
	} else if out.ID, err = d.listenPlane(ctx, c, l, lc); err != nil {
		err = fmt.Errorf("listener %s on %s: %w", l.Name, l.Address, err)
	}
	if err != nil {
		return err
	}
	out.TLS = l.TLS
	if lc.Kind == dataplane.SessionNPRO {
		d.session.SetLimit(out.ID, c.ListenerLimit(l))
	}
	d.mu.Lock()
	d.listeners = append(d.listeners, out)
	if file != nil {
		d.files[out.ID] = file
	}
	d.mu.Unlock()
	d.o.Log.Info("listening", "listener", l.Name, "address", string(l.Address), "protocol", l.Protocol, "tls", l.TLS, "backend", ladder.Actual(out.Ladder))
	return nil
}

// listenKernel climbs down from io_uring to epoll, or begins where the listener says.
func (d *Daemon) listenKernel(ctx context.Context, c *config.Config, l *config.Listener, lc *dataplane.ListenConfig) (id dataplane.ListenerID, rungs []ladder.Rung, file *ksock.Unix, err error) {
	policy, err := ladder.ParsePolicy(c.Dataplane.OnFallback)
	if err != nil {
		return 0, nil, nil, err
	}
	try := func(carrier dataplane.Carrier) func(context.Context) error {
		return func(ctx context.Context) error {
			if carrier == dataplane.CarrierUring && d.noUring != nil {
				return d.noUring
			}
			one := *lc
			one.Carrier = carrier
			var made *ksock.Unix
			var err error
			if one.Sockets, made, err = listenSockets(c, l, len(d.plane.Cores())); err != nil {
				return &bindError{err}
			}
			if id, err = d.listenPlane(ctx, c, l, &one); err != nil {
				if made != nil {
					made.Remove()
				}
				return err
			}
			file = made
			return nil
		}
	}
	steps := []ladder.Step{
		{Backend: ladder.IOUring, Try: try(dataplane.CarrierUring), Cure: uringCure, Final: isBind},
		{Backend: ladder.Epoll, Try: try(dataplane.CarrierEpoll), Final: isBind},
	}
	byNet := ladder.Step{Backend: ladder.Net, Final: isBind, Try: func(ctx context.Context) (err error) {
		id, file, err = d.listenNet(ctx, c, l)
		return err
	}}
	if l.Backend == ladder.Net || l.Backend == ladder.Auto && l.Protocol == "http" {
		steps = []ladder.Step{byNet}
	}
	switch l.Backend {
	case ladder.Auto:
		why := "the address is a path"
		if l.Address.Path() == "" {
			why = "the address is on no [[interface]]"
		}
		steps = slices.Insert(steps, 0, ladder.Step{Backend: ladder.Stack, Skip: why})
	case ladder.Epoll:
		steps = steps[1:]
	case ladder.RDMA:
		byRDMA := func(ctx context.Context) (err error) { id, err = d.listenRDMA(ctx, c, l, lc); return err }
		steps = slices.Insert(steps, 0, ladder.Step{Backend: ladder.RDMA, Try: byRDMA, Cure: rdmaCure})
	}
	lad := ladder.Ladder{Kind: "listener", Name: fmt.Sprintf("%s on %s", l.Name, l.Address), Policy: policy}
	err = lad.Climb(ctx, d.o.Log.Logger, steps)
	return id, lad.Rungs(), file, err
}

// bindError is a refusal of the address itself, which no other carrier mends.
type bindError struct{ err error }

func (e *bindError) Error() string { return e.err.Error() }
func (e *bindError) Unwrap() error { return e.err }

func isBind(err error) bool {
	var b *bindError
	return errors.As(err, &b)
}

func uringCure(err error) string {
	if errors.Is(err, syscall.EPERM) || errors.Is(err, dataplane.CodeUnsupported) {
		return "sysctl kernel.io_uring_disabled=0, and allow io_uring_setup in the container's seccomp profile"
	}
	return ""
}

// listenSockets makes n listening sockets of one listener, one for each core.
func listenSockets(c *config.Config, l *config.Listener, n int) ([]int, *ksock.Unix, error) {
	if path := l.Address.Path(); path != "" {
		o, err := unixOptions(l)
		if err != nil {
			return nil, nil, err
		}
		u, err := ksock.ListenUnix(path, n, o)
		if err != nil {
			return nil, nil, err
		}
		return u.FDs, u, nil
	}
	o := ksock.Options{Backlog: l.Backlog, DSCP: l.DSCP, KeepaliveIdle: c.TCP.KeepaliveIdle, UserTimeout: c.TCP.UserTimeout}
	switch cc := l.CongestionControl; cc {
	case "inherit": // the kernel's own
	case "newreno":
		o.CongestionControl = "reno"
	default:
		o.CongestionControl = cc
	}
	fds, _, err := ksock.ListenTCP(l.Address.AddrPort(), n, &o)
	return fds, nil, err
}

func unixOptions(l *config.Listener) (*ksock.UnixOptions, error) {
	mode, err := strconv.ParseUint(l.Mode, 8, 32)
	if err != nil {
		return nil, fmt.Errorf("mode %q: %w", l.Mode, err)
	}
	o := &ksock.UnixOptions{Mode: fs.FileMode(mode), UID: -1, GID: -1, Backlog: l.Backlog}
	if l.Owner != "" {
		u, err := user.Lookup(l.Owner)
		if err != nil {
			if u, err = user.LookupId(l.Owner); err != nil {
				return nil, fmt.Errorf("owner %q: no such user", l.Owner)
			}
		}
		o.UID, _ = strconv.Atoi(u.Uid)
	}
	if l.Group != "" {
		g, err := user.LookupGroup(l.Group)
		if err != nil {
			if g, err = user.LookupGroupId(l.Group); err != nil {
				return nil, fmt.Errorf("group %q: no such group", l.Group)
			}
		}
		o.GID, _ = strconv.Atoi(g.Gid)
	}
	return o, nil
}

// unlisten closes a listener; its connections stay.
func (d *Daemon) unlisten(ctx context.Context, l *config.Listener) error {
	d.mu.Lock()
	at := slices.IndexFunc(d.listeners, func(o mgmt.Listener) bool { return o.Address == string(l.Address) && o.Name == l.Name })
	if at < 0 {
		d.mu.Unlock()
		return fmt.Errorf("listener %s: %w", l.Name, dataplane.CodeNotfound)
	}
	id := d.listeners[at].ID
	d.mu.Unlock()
	if err := d.unlistenPlane(ctx, id); err != nil {
		return fmt.Errorf("listener %s: %w", l.Name, err)
	}
	d.mu.Lock()
	d.listeners = slices.DeleteFunc(d.listeners, func(o mgmt.Listener) bool { return o.ID == id })
	file := d.files[id]
	delete(d.files, id)
	d.mu.Unlock()
	if file != nil {
		file.Remove()
	}
	d.session.ForgetListener(id)
	d.o.Log.Info("no longer listening", "listener", l.Name, "address", string(l.Address))
	return nil
}

// removeFiles removes what Unix listeners leave in the file system.
func (d *Daemon) removeFiles() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.files {
		f.Remove()
	}
	clear(d.files)
}
