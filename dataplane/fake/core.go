package fake

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"

	"github.com/np-appliance/np/dataplane"
)

// Op is a command on a connection.
type Op uint8

// Commands that a core takes.
const (
	OpSend Op = iota + 1
	OpHandshake
	OpKeys
	OpReset
	OpPing
	OpRekey
	OpGoAway
	OpClose
	OpAbort
	OpCredit
	OpWrite
	OpCloseWrite
	OpSendTo
)

// String returns the name of the method behind the command.
func (o Op) String() string {
	names := [...]string{OpSend: "Send", OpHandshake: "Handshake", OpKeys: "InstallKeys", OpReset: "Reset", OpPing: "Ping",
		OpRekey: "Rekey", OpGoAway: "GoAway", OpClose: "CloseConn", OpAbort: "Abort", OpCredit: "Credit",
		OpWrite: "Write", OpCloseWrite: "CloseWrite", OpSendTo: "SendTo"}
	if int(o) < len(names) && names[o] != "" {
		return names[o]
	}
	return fmt.Sprintf("Op(%d)", uint8(o))
}

// Command is what the control plane asked of a connection; which fields count
// depends on Op.
type Command struct {
	Op       Op
	Conn     dataplane.Handle
	Stream   uint32
	Type     uint8
	Flags    uint8
	Priority uint8
	More     bool
	Code     uint32
	Bytes    uint32
	Reason   string
	Body     []byte
	Keys     *dataplane.Keys
	Local    netip.Addr     // OpSendTo
	Remote   netip.AddrPort // OpSendTo
}

// Core implements [dataplane.Core].
type Core struct {
	p      *Plane
	index  int
	notify chan struct{} // holds one token when events may be there

	// guarded by p.mu
	events []dataplane.Event
	queued []Command // since the last Flush
}

var _ dataplane.Core = (*Core)(nil)

func (c *Core) wake() {
	select {
	case c.notify <- struct{}{}:
	default:
	}
}

// push appends an event. p.mu is held.
func (c *Core) push(ev dataplane.Event, body []byte) {
	if c.p.closed {
		return
	}
	ev.At = c.p.now()
	if body != nil {
		body = bytes.Clone(body)
		c.p.nextToken++
		ev.Token = c.p.nextToken
		c.p.tokens[ev.Token] = body
		step := len(body)
		if c.p.piece > 0 {
			step = c.p.piece
		}
		for rest := body; len(rest) > 0; {
			n := min(step, len(rest))
			ev.Body = append(ev.Body, rest[:n:n])
			rest = rest[n:]
		}
	}
	c.events = append(c.events, ev)
	c.wake()
}

// Poll implements [dataplane.Core].
func (c *Core) Poll(out []dataplane.Event) int {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	n := copy(out, c.events)
	c.events = c.events[n:]
	return n
}

// Wait implements [dataplane.Core].
func (c *Core) Wait(ctx context.Context) error {
	for {
		c.p.mu.Lock()
		closed, n := c.p.closed, len(c.events)
		c.p.mu.Unlock()
		switch {
		case closed:
			return dataplane.CodeShutdown
		case n > 0:
			return nil
		}
		select {
		case <-c.notify:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Release implements [dataplane.Core]. It overwrites the bodies, so that a use
// after Release shows, and panics when a body is released twice.
func (c *Core) Release(events []dataplane.Event) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	for i := range events {
		t := events[i].Token
		if t == 0 {
			continue
		}
		body, ok := c.p.tokens[t]
		if !ok {
			panic(fmt.Sprintf("fake: event of connection %#x released twice", uint64(events[i].Conn)))
		}
		delete(c.p.tokens, t)
		for j := range body {
			body[j] = 0xdb
		}
	}
}

// queue accepts a command for an open connection of this core.
func (c *Core) queue(cmd Command) error {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if err := c.p.enter(cmd.Op.String()); err != nil {
		return err
	}
	if cmd.Conn.Core() != c.index || !c.p.takes(cmd) {
		return dataplane.CodeStale
	}
	if (cmd.Op == OpSend || cmd.Op == OpWrite) && c.p.room >= 0 {
		if c.p.room == 0 {
			return dataplane.CodeFull
		}
		c.p.room--
	}
	c.queued = append(c.queued, cmd)
	return nil
}

// takes says whether what a command names is there. p.mu is held.
func (p *Plane) takes(cmd Command) bool {
	switch cmd.Op {
	case OpSendTo:
		return p.sockets[cmd.Conn] != nil
	case OpWrite, OpCloseWrite:
		return p.pipes[cmd.Conn] != nil
	case OpCredit, OpClose, OpAbort:
		return p.peers[cmd.Conn] != nil || p.pipes[cmd.Conn] != nil
	}
	return p.peers[cmd.Conn] != nil
}

// Flush implements [dataplane.Core]: the core carries out what was queued.
func (c *Core) Flush() {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	q := c.queued
	c.queued = nil
	for _, cmd := range q {
		if peer := c.p.peers[cmd.Conn]; peer != nil {
			c.p.record(peer, cmd)
			peer.obey(cmd)
		} else if e := c.p.pipes[cmd.Conn]; e != nil {
			e.obey(cmd)
		} else if s := c.p.sockets[cmd.Conn]; s != nil {
			c.p.datagram(s, cmd)
		}
	}
}

// record appends to the log and the peer's own queue. p.mu is held.
func (p *Plane) record(peer *Peer, cmd Command) {
	p.log = append(p.log, cmd)
	if cmd.Op != OpCredit {
		peer.queue = append(peer.queue, cmd)
		peer.wake()
	}
}

// Credit implements [dataplane.Core].
func (c *Core) Credit(conn dataplane.Handle, stream uint32, n uint32) error {
	return c.queue(Command{Op: OpCredit, Conn: conn, Stream: stream, Bytes: n})
}

// Send implements [dataplane.Core].
func (c *Core) Send(out *dataplane.Outgoing) error {
	return c.queue(Command{Op: OpSend, Conn: out.Conn, Stream: out.Stream, Type: out.Type, Flags: out.Flags,
		Priority: out.Priority, Body: bytes.Join(out.Parts, nil)})
}

// Handshake implements [dataplane.Core].
func (c *Core) Handshake(conn dataplane.Handle, frameType uint8, body []byte, more bool) error {
	if frameType < 0x10 || frameType > 0x12 {
		return dataplane.CodeInvalid
	}
	return c.queue(Command{Op: OpHandshake, Conn: conn, Type: frameType, Body: bytes.Clone(body), More: more})
}

// InstallKeys implements [dataplane.Core]; keys is wiped even on error.
func (c *Core) InstallKeys(conn dataplane.Handle, keys *dataplane.Keys) error {
	k := *keys
	*keys = dataplane.Keys{}
	return c.queue(Command{Op: OpKeys, Conn: conn, Keys: &k})
}

// Reset implements [dataplane.Core].
func (c *Core) Reset(conn dataplane.Handle, stream uint32, code uint32) error {
	return c.queue(Command{Op: OpReset, Conn: conn, Stream: stream, Code: code})
}

// Ping implements [dataplane.Core].
func (c *Core) Ping(conn dataplane.Handle, body []byte) error {
	if len(body) > 64 {
		return dataplane.CodeInvalid
	}
	return c.queue(Command{Op: OpPing, Conn: conn, Body: bytes.Clone(body)})
}

// Rekey implements [dataplane.Core].
func (c *Core) Rekey(conn dataplane.Handle) error {
	return c.queue(Command{Op: OpRekey, Conn: conn})
}

// GoAway implements [dataplane.Core].
func (c *Core) GoAway(conn dataplane.Handle) error {
	return c.queue(Command{Op: OpGoAway, Conn: conn})
}

// CloseConn implements [dataplane.Core].
func (c *Core) CloseConn(conn dataplane.Handle, code uint32, reason string) error {
	return c.queue(Command{Op: OpClose, Conn: conn, Code: code, Reason: reason})
}

// Abort implements [dataplane.Core].
func (c *Core) Abort(conn dataplane.Handle) error {
	return c.queue(Command{Op: OpAbort, Conn: conn})
}

// Write implements [dataplane.Core].
func (c *Core) Write(conn dataplane.Handle, parts [][]byte) error {
	body := bytes.Join(parts, nil)
	if len(body) == 0 {
		return nil
	}
	return c.queue(Command{Op: OpWrite, Conn: conn, Body: body})
}

// CloseWrite implements [dataplane.Core].
func (c *Core) CloseWrite(conn dataplane.Handle) error {
	return c.queue(Command{Op: OpCloseWrite, Conn: conn})
}

// SendTo implements [dataplane.Core].
func (c *Core) SendTo(h dataplane.Handle, local netip.Addr, remote netip.AddrPort, parts [][]byte) error {
	body := bytes.Join(parts, nil)
	if len(body) > datagramMax || !remote.IsValid() {
		return dataplane.CodeInvalid
	}
	return c.queue(Command{Op: OpSendTo, Conn: h, Local: local, Remote: remote, Body: body})
}
