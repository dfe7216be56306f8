package rdma

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/np-appliance/np/dataplane"
)

// Dial makes a connection by RDMA and gives it to a core; EventOpen or EventClosed
// follows for the handle as with Plane.Connect. core -1: one after the other.
func (m *Manager) Dial(ctx context.Context, cfg *dataplane.ConnectConfig) (dataplane.Handle, error) {
	h, err := m.dial(ctx, cfg)
	if err != nil {
		m.failed.Add(1)
		return 0, fmt.Errorf("connect to %s by RDMA: %w", cfg.Remote, err)
	}
	m.dialled.Add(1)
	return h, nil
}

func (m *Manager) dial(ctx context.Context, cfg *dataplane.ConnectConfig) (h dataplane.Handle, err error) {
	if !cfg.Remote.IsValid() || cfg.Remote.Port() == 0 || cfg.Core >= len(m.plane.Cores()) {
		return 0, dataplane.CodeInvalid
	}
	events := make(chan dataplane.RDMAEvent, attempts)
	// The event of a resolution may come before its id is known here: the table is locked meanwhile.
	m.mu.Lock()
	if m.stopped {
		m.mu.Unlock()
		return 0, dataplane.CodeShutdown
	}
	core := cfg.Core
	if core < 0 {
		core = m.nextCore % len(m.plane.Cores())
		m.nextCore++
	}
	id, err := m.rdma.Resolve(cfg.Local.Addr(), cfg.Remote, m.cfg.Timeout)
	if err == nil {
		m.dials[id] = events
	}
	m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	defer func() {
		m.mu.Lock()
		delete(m.dials, id)
		m.mu.Unlock()
		if err != nil {
			m.rdma.Drop(id)
		}
	}()
	if err = m.await(ctx, events, dataplane.RDMAAddress); err != nil {
		return 0, err
	}
	if err = m.rdma.Route(id, m.cfg.Timeout); err != nil {
		return 0, err
	}
	if err = m.await(ctx, events, dataplane.RDMARoute); err != nil {
		return 0, err
	}
	slot, err := m.rdma.Prepare(id, core)
	if err != nil {
		return 0, err
	}
	if err = m.rdma.Connect(id); err != nil {
		return 0, err
	}
	if err = m.await(ctx, events, dataplane.RDMAEstablished); err != nil {
		return 0, err
	}
	one := *cfg
	one.Carrier, one.Socket, one.Core = dataplane.CarrierRDMA, slot, core
	return m.plane.Connect(ctx, &one)
}

// await waits for one step of an attempt. What the manager or the peer says instead is the error.
func (m *Manager) await(ctx context.Context, events <-chan dataplane.RDMAEvent, want dataplane.RDMAEventOp) error {
	// The manager has time limits of its own, but for a peer that never answers a request.
	limit := time.NewTimer(4 * m.cfg.Timeout)
	defer limit.Stop()
	select {
	case ev := <-events:
		switch {
		case ev.Err != dataplane.CodeOK:
			return fmt.Errorf("%s instead of %s: %w", ev.Op, want, ev.Err)
		case ev.Op != want:
			return fmt.Errorf("%w: %s while waiting for %s", dataplane.CodeReset, ev.Op, want)
		}
		return nil
	case <-limit.C:
		return fmt.Errorf("no %s: %w", want, dataplane.CodeTimedout)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Plane is a plane with a manager beside it: connections of CarrierRDMA are made here,
// all else is the plane's own. See [Config.Prefer] for those that may go either way.
type Plane struct {
	dataplane.Plane
	M *Manager
}

// Plane returns the manager's plane with RDMA.
func (m *Manager) Plane() *Plane { return &Plane{Plane: m.plane, M: m} }

// Listen implements [dataplane.Plane].
func (p *Plane) Listen(ctx context.Context, cfg *dataplane.ListenConfig) (dataplane.ListenerID, error) {
	if cfg.Carrier != dataplane.CarrierRDMA {
		return p.Plane.Listen(ctx, cfg)
	}
	id, _, err := p.M.Listen(ctx, cfg)
	return id, err
}

// Unlisten implements [dataplane.Plane].
func (p *Plane) Unlisten(ctx context.Context, id dataplane.ListenerID) error {
	if known, err := p.M.Unlisten(ctx, id); known {
		return err
	}
	return p.Plane.Unlisten(ctx, id)
}

// Connect implements [dataplane.Plane].
func (p *Plane) Connect(ctx context.Context, cfg *dataplane.ConnectConfig) (dataplane.Handle, error) {
	switch {
	case cfg.Carrier == dataplane.CarrierRDMA:
		return p.M.Dial(ctx, cfg)
	case cfg.Carrier != dataplane.CarrierStack || p.M.cfg.Prefer == nil || !p.M.cfg.Prefer(cfg.Remote) || p.M.declined(cfg.Remote):
		return p.Plane.Connect(ctx, cfg)
	}
	h, err := p.M.Dial(ctx, cfg)
	if err == nil || ctx.Err() != nil {
		return h, err
	}
	p.M.fallBack(cfg.Remote, err)
	return p.Plane.Connect(ctx, cfg)
}

// refusal is a peer that can't by RDMA.
type refusal struct {
	why   dataplane.Code
	until time.Time
}

const refusalsMax = 4096 // peers that are remembered

// declined says whether a peer could not a moment ago.
func (m *Manager) declined(to netip.AddrPort) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.refusing[to]
	return ok && time.Now().Before(r.until)
}

// fallBack counts and says that a connection goes by TCP, once for a peer and reason.
func (m *Manager) fallBack(to netip.AddrPort, err error) {
	m.fellBack.Add(1)
	code := dataplane.CodeSys
	errors.As(err, &code)
	m.mu.Lock()
	before, known := m.refusing[to]
	if known || len(m.refusing) < refusalsMax {
		m.refusing[to] = refusal{why: code, until: time.Now().Add(m.cfg.Retry)}
	}
	m.mu.Unlock()
	if !known || before.why != code {
		m.cfg.Log.Warn("falling back", "connection", to, "from", "rdma", "to", "tcp", "error", err)
	}
}
