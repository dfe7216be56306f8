package fake

import (
	"context"
	"net/netip"
	"time"

	"github.com/np-appliance/np/dataplane"
)

// Peer is the far end of a connection, played by the test. Its methods are
// safe for concurrent use; they return CodeStale once the connection is gone.
type Peer struct {
	p             *Plane
	core          *Core
	handle        dataplane.Handle
	listener      dataplane.ListenerID
	kind          dataplane.SessionKind
	local, remote netip.AddrPort
	created       time.Duration
	notify        chan struct{}

	// guarded by p.mu
	state   state
	queue   []Command
	credit  map[uint32]uint64
	keys    *dataplane.Keys
	badness []string

	congestion dataplane.CongestionControl
}

// state follows enum np_npro_state as far as the contract shows it.
type state uint8

const (
	awaitHandshake state = iota
	awaitControl
	open
	draining
	ended
)

func (s state) String() string {
	return [...]string{"await_handshake", "await_control", "open", "draining", "closed"}[s]
}

// Dial opens a connection to a listener on the given core, as an accepted TCP
// connection does; the reader gets EventOpen. Errors: CodeStale (no such
// listener), CodeLimit (its MaxConns), CodeShutdown (draining or closed).
func (p *Plane) Dial(core int, id dataplane.ListenerID, remote netip.AddrPort) (*Peer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.draining {
		return nil, dataplane.CodeShutdown
	}
	l := p.listeners[id]
	if l == nil {
		return nil, dataplane.CodeStale
	}
	if l.Config.MaxConns > 0 && l.Conns >= l.Config.MaxConns {
		return nil, dataplane.CodeLimit
	}
	l.Conns++
	h := p.newHandle(core)
	peer := &Peer{p: p, core: p.cores[core], handle: h, listener: id, kind: l.Config.Kind, local: l.Config.Address,
		remote: remote, created: p.now(), notify: make(chan struct{}, 1), credit: map[uint32]uint64{}}
	p.peers[h] = peer
	peer.core.push(dataplane.Event{Op: dataplane.EventOpen, Kind: peer.kind, Conn: h, Listener: id, Incoming: true,
		Local: peer.local, Remote: remote}, nil)
	return peer, nil
}

// Handle returns the connection's handle.
func (e *Peer) Handle() dataplane.Handle { return e.handle }

func (e *Peer) wake() {
	select {
	case e.notify <- struct{}{}:
	default:
	}
}

// info is what Connections shows. p.mu is held.
func (e *Peer) info() dataplane.Conn {
	c := dataplane.Conn{Handle: e.handle, Listener: e.listener, Local: e.local, Remote: e.remote, State: "established",
		Kind: e.kind, SessionState: e.state.String(), Core: e.core.index, Created: e.created, LastRx: e.created}
	if e.keys != nil {
		c.AEAD, c.ConnID = e.keys.AEAD, e.keys.ConnID
	}
	c.CongestionControl = max(e.congestion, dataplane.CongestionCubic)
	return c
}

// end forgets the connection. p.mu is held.
func (e *Peer) end() {
	if e.state == ended {
		return
	}
	e.state = ended
	delete(e.p.peers, e.handle)
	e.p.freeHandle(e.handle)
	if l := e.p.listeners[e.listener]; l != nil {
		l.Conns--
	}
	e.wake()
}

// obey carries out a flushed command. p.mu is held.
func (e *Peer) obey(cmd Command) {
	switch cmd.Op {
	case OpHandshake:
		if e.state != awaitControl && e.state != awaitHandshake {
			e.complain("handshake frame in state " + e.state.String())
			return
		}
		if cmd.More {
			e.state = awaitHandshake
		}
	case OpKeys:
		if e.state == open || e.state == draining {
			e.complain("keys installed twice")
			return
		}
		e.state, e.keys = open, cmd.Keys
	case OpSend:
		if e.state != open && e.state != draining {
			e.complain("frame sent in state " + e.state.String())
		}
		if !e.p.holdSent {
			e.sent(cmd.Stream, uint32(len(cmd.Body)))
		}
	case OpCredit:
		e.credit[cmd.Stream] += uint64(cmd.Bytes)
	case OpGoAway:
		if e.state == open {
			e.state = draining
		}
	case OpClose:
		e.core.push(dataplane.Event{Op: dataplane.EventClosed, Kind: e.kind, Conn: e.handle}, nil)
		e.end()
	case OpAbort:
		e.core.push(dataplane.Event{Op: dataplane.EventClosed, Kind: e.kind, Conn: e.handle, Err: dataplane.CodeAborted}, nil)
		e.end()
	}
}

func (e *Peer) complain(what string) { e.badness = append(e.badness, what) }

func (e *Peer) sent(stream, n uint32) {
	if e.p.room >= 0 {
		e.p.room++
	}
	e.core.push(dataplane.Event{Op: dataplane.EventSent, Kind: e.kind, Conn: e.handle, Stream: stream, Bytes: n}, nil)
}

func (e *Peer) event(ev dataplane.Event, body []byte) error {
	e.p.mu.Lock()
	defer e.p.mu.Unlock()
	if e.state == ended {
		return dataplane.CodeStale
	}
	ev.Conn, ev.Kind = e.handle, e.kind
	e.core.push(ev, body)
	if ev.Op == dataplane.EventHandshake {
		e.state = awaitControl
	}
	if ev.Op == dataplane.EventClosed {
		e.end()
	}
	return nil
}

// Handshake sends a handshake frame to the control plane.
func (e *Peer) Handshake(frameType uint8, body []byte) error {
	return e.event(dataplane.Event{Op: dataplane.EventHandshake, Type: frameType}, nonNil(body))
}

// Message sends a REQUEST, RESPONSE, MESSAGE or DATA frame to the control
// plane, decrypted and decompressed as a core hands it up.
func (e *Peer) Message(stream uint32, frameType, flags uint8, body []byte) error {
	return e.event(dataplane.Event{Op: dataplane.EventMessage, Stream: stream, Type: frameType, Flags: flags}, nonNil(body))
}

// Reset gives a stream up.
func (e *Peer) Reset(stream, code uint32) error {
	return e.event(dataplane.Event{Op: dataplane.EventReset, Stream: stream, Code: code}, nil)
}

// Sent returns budget of Send; needed only after Plane.HoldSent(true).
func (e *Peer) Sent(stream, n uint32) error {
	e.p.mu.Lock()
	defer e.p.mu.Unlock()
	if e.state == ended {
		return dataplane.CodeStale
	}
	e.sent(stream, n)
	return nil
}

// SendFailed reports that the core refused a frame after Send took it: n is
// the bytes of its body. Needed with Plane.HoldSent(true), instead of Sent.
func (e *Peer) SendFailed(stream, n uint32, why dataplane.Code) error {
	return e.event(dataplane.Event{Op: dataplane.EventSent, Stream: stream, Bytes: n, Err: why}, nil)
}

// Pong answers a Ping.
func (e *Peer) Pong(body []byte) error {
	return e.event(dataplane.Event{Op: dataplane.EventPong}, nonNil(body))
}

// GoAway says that the peer serves no stream after last.
func (e *Peer) GoAway(last uint32) error {
	return e.event(dataplane.Event{Op: dataplane.EventGoAway, Stream: last}, nil)
}

// Close ends the connection from the far side: why and the code of its
// DISCONNECT (0 none).
func (e *Peer) Close(why dataplane.Code, code uint32) error {
	return e.event(dataplane.Event{Op: dataplane.EventClosed, Err: why, Code: code}, nil)
}

// Next returns the next flushed command for this connection, credit excepted.
// It blocks until there is one; CodeEOF once the connection is gone.
func (e *Peer) Next(ctx context.Context) (Command, error) {
	for {
		e.p.mu.Lock()
		if len(e.queue) > 0 {
			cmd := e.queue[0]
			e.queue = e.queue[1:]
			e.p.mu.Unlock()
			return cmd, nil
		}
		gone := e.state == ended
		e.p.mu.Unlock()
		if gone {
			return Command{}, dataplane.CodeEOF
		}
		select {
		case <-e.notify:
		case <-ctx.Done():
			return Command{}, ctx.Err()
		}
	}
}

// Credited returns the bytes of credit given for a stream so far.
func (e *Peer) Credited(stream uint32) uint64 {
	e.p.mu.Lock()
	defer e.p.mu.Unlock()
	return e.credit[stream]
}

// Keys returns the keys installed, or nil.
func (e *Peer) Keys() *dataplane.Keys {
	e.p.mu.Lock()
	defer e.p.mu.Unlock()
	return e.keys
}

// State returns "await_handshake", "await_control", "open", "draining" or "closed".
func (e *Peer) State() string {
	e.p.mu.Lock()
	defer e.p.mu.Unlock()
	return e.state.String()
}

// Misuse lists commands that a real core would have refused with CodeState.
func (e *Peer) Misuse() []string {
	e.p.mu.Lock()
	defer e.p.mu.Unlock()
	return append([]string(nil), e.badness...)
}

func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
