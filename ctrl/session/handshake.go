package session

import (
	"errors"
	"log/slog"
	"time"

	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/dataplane"
)

// hsJob is one handshake frame on its way through the machine. The core reads
// nothing more of the connection until it is answered, so a connection has one
// at most.
type hsJob struct {
	c    *conn
	typ  uint8
	body []byte
}

// handshakeFrame admits a frame and hands it to the goroutines that do the
// arithmetic. Runs on the core's reader.
func (c *conn) handshakeFrame(ev *dataplane.Event) {
	m := c.m
	c.mu.Lock()
	if c.state != stateHandshake {
		c.mu.Unlock()
		return
	}
	if !c.counted {
		if m.hsFlight.Add(1) > m.hsLimit.Load() {
			m.hsFlight.Add(-1)
			c.mu.Unlock()
			c.handshakeFailed("in_flight_limit", npro.CodeHandshakeLimit, nil)
			return
		}
		c.counted = true
	}
	c.mu.Unlock()
	if ev.Len() > handshake.MaxFrameBytes {
		c.handshakeFailed("malformed", npro.CodeHandshakeFailed, handshake.ErrMalformed)
		return
	}
	// Each counted connection has at most one job, and there is a place for each.
	select {
	case m.hsJobs <- hsJob{c, ev.Type, join(nil, ev.Body)}:
	default:
		c.handshakeFailed("in_flight_limit", npro.CodeHandshakeLimit, nil)
	}
}

func join(dst []byte, parts [][]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if cap(dst)-len(dst) < n {
		dst = append(make([]byte, 0, len(dst)+n), dst...)
	}
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}

func (m *Manager) handshakes() {
	for j := range m.hsJobs {
		if m.ctx.Err() == nil {
			j.c.handshakeStep(j.typ, j.body)
			j.c.sh.core.Flush()
		}
	}
}

// handshakeStep gives one frame to the machine and carries out what it says.
func (c *conn) handshakeStep(typ uint8, body []byte) {
	m := c.m
	c.mu.Lock()
	if c.state != stateHandshake {
		c.mu.Unlock()
		return
	}
	machine := c.machine
	c.machine = nil // ours while we compute; gone() must not wipe it under us
	c.mu.Unlock()
	if machine == nil {
		cfg := *m.hsConfig.Load()
		cfg.Replay = m.replay(c.listener)
		var err error
		if machine, err = handshake.NewResponder(&cfg); err != nil {
			c.handshakeFailed("set_up", npro.CodeInternal, err)
			return
		}
	}
	step, err := machine.Receive(typ, body, m.cfg.Now())
	if err != nil {
		machine.Wipe()
		c.handshakeFailed(failure(err), npro.CodeHandshakeFailed, err)
		return
	}
	if step.Done != nil {
		machine.Wipe()
		c.established(step)
		return
	}
	c.mu.Lock()
	if c.state != stateHandshake {
		c.mu.Unlock()
		machine.Wipe()
		return
	}
	c.machine = machine
	c.mu.Unlock()
	c.sh.must(func() error { return c.sh.core.Handshake(c.handle, step.ReplyType, step.Reply, true) })
}

// established installs the keys and opens the connection for messages.
func (c *conn) established(step handshake.Step) {
	m := c.m
	r := step.Done
	c.mu.Lock()
	if c.state != stateHandshake {
		c.mu.Unlock()
		r.Wipe()
		return
	}
	// Under the lock: SetPolicy, which stores first and then looks at each
	// connection, either sees this one open or its policy is the one read here.
	rights := m.policy.Load().rights(r.Pattern, r.Remote, r.HasRemote)
	if rights == nil {
		c.mu.Unlock()
		r.Wipe()
		c.handshakeFailed("untrusted", npro.CodeHandshakeFailed, errUntrusted)
		return
	}
	c.endHandshake()
	c.state = stateOpen
	c.pattern, c.hybrid, c.key, c.hasKey, c.rights, c.clientName = r.Pattern, r.Hybrid, r.Remote, r.HasRemote, rights, r.PeerName
	c.peer = dispatch.Peer{Name: rights.Name, Remote: c.remote, ConnID: r.ConnID}
	if r.HasRemote {
		c.peer.Key = r.Remote.String()
	}
	c.frameMax = min(int(r.MaxFrameTx)-npro.TagSize, int(r.StreamWindowTx), sendFrame)
	c.mu.Unlock()
	replied := step.Reply == nil
	c.sh.must(func() error {
		if !replied {
			if err := c.sh.core.Handshake(c.handle, step.ReplyType, step.Reply, false); err != nil {
				if !errors.Is(err, dataplane.CodeFull) {
					r.Wipe()
				}
				return err
			}
			replied = true
		}
		keys := m.keys(r, rights) // wiped by InstallKeys
		err := c.sh.core.InstallKeys(c.handle, &keys)
		if !errors.Is(err, dataplane.CodeFull) {
			r.Wipe()
		}
		return err
	})
	m.stats.handshakes.Add(1)
	if l := m.cfg.Log; l.Enabled(c.ctx, slog.LevelDebug) {
		l.Debug("peer connected", "conn_id", c.id(), "peer", rights.Name, "peer_id", c.peer.Key, "client", r.PeerName,
			"remote", addr(c.remote), "pattern", r.Pattern.String(), "hybrid", r.Hybrid, "duration", m.cfg.Now().Sub(c.opened).Round(time.Microsecond))
	}
}

// keys fills the template with what the handshake settled.
func (m *Manager) keys(r *handshake.Result, rights *Rights) dataplane.Keys {
	k := m.cfg.Keys
	k.Rx, k.Tx, k.ConnID = r.Rx, r.Tx, r.ConnID
	k.AEAD, k.Compression, k.CompressionRx = r.AEAD, r.Compression, r.CompressionRx
	k.MaxFrameTx, k.MaxFrameRx = r.MaxFrameTx, r.MaxFrameRx
	k.StreamWindowTx, k.StreamWindowRx = r.StreamWindowTx, r.StreamWindowRx
	k.ConnWindowTx, k.ConnWindowRx = r.ConnWindowTx, r.ConnWindowRx
	k.Heartbeat = r.Heartbeat
	k.AllowEcho = rights.May("ECHO")
	return k
}

// failure names the class of a handshake error, for counters and logs.
func failure(err error) string {
	for _, f := range [...]struct {
		err  error
		name string
	}{{handshake.ErrClock, "clock"}, {handshake.ErrReplay, "replay"}, {handshake.ErrUntrusted, "untrusted"},
		{handshake.ErrPattern, "pattern"}, {handshake.ErrHybrid, "hybrid"}, {handshake.ErrAuth, "auth"}, {handshake.ErrParams, "params"}} {
		if errors.Is(err, f.err) {
			return f.name
		}
	}
	return "malformed"
}

// handshakeFailed counts, logs within limits and closes. The peer learns no
// more than a code: which check failed is for the operator.
func (c *conn) handshakeFailed(reason string, code npro.Code, err error) {
	c.m.count("handshake_" + reason)
	args := []any{"listener", c.listener, "core", c.sh.index, "remote", addr(c.remote)}
	if err != nil {
		args = append(args, "err", err)
	}
	c.m.cfg.Limiter.Log(slog.LevelWarn, "handshake_"+reason, "handshake refused", args...)
	c.shut(uint32(code), code.String())
}
