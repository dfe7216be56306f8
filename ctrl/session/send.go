package session

import (
	"context"
	"errors"

	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/dataplane"
)

// Bounds of what a connection may have handed to its core and not seen sent.
// The core refuses a megabyte or 1,024 frames.
const (
	sendFrame   = 64 << 10  // body bytes of one frame
	sendConn    = 512 << 10 // per connection
	sendStream  = 128 << 10 // per stream, so that one whose window is shut leaves room for others
	sendPending = 32        // frames per stream
)

// errNoRoom: there is no budget now.
var errNoRoom = errors.New("no room to send")

// reserve takes send budget for a frame of n bytes. c.mu is held.
func (c *conn) reserve(st *stream, n int) error {
	switch {
	case c.state != stateOpen:
		return dataplane.CodeStale
	case st.dead:
		return st.reason()
	case c.outBytes > 0 && c.outBytes+n > sendConn,
		st.out > 0 && st.out+n > sendStream,
		len(st.frames) >= sendPending:
		return errNoRoom
	}
	if c.outBytes == 0 {
		c.moved = c.m.cfg.Now()
	}
	c.outBytes += n
	st.out += n
	st.frames = append(st.frames, n)
	return nil
}

// unreserve undoes the last reserve. c.mu is held.
func (c *conn) unreserve(st *stream, n int) {
	if st.dead {
		return // its share is gone already
	}
	c.outBytes -= n
	st.out -= n
	st.frames = st.frames[:len(st.frames)-1]
}

// hand gives one frame to the core if there is budget and room: errNoRoom or
// CodeFull otherwise.
func (c *conn) hand(st *stream, typ npro.Type, flags uint8, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	// Under c.mu, so that frames of a stream and its reset keep their order.
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.reserve(st, n); err != nil {
		return err
	}
	c.out = dataplane.Outgoing{Conn: c.handle, Stream: st.id, Type: uint8(typ), Flags: flags, Priority: st.priority, Parts: append(c.out.Parts[:0], parts...)}
	err := c.sh.core.Send(&c.out)
	clear(c.out.Parts)
	if err != nil {
		c.unreserve(st, n)
		if errors.Is(err, dataplane.CodeFull) {
			c.sh.starved.Store(true)
		}
	}
	return err
}

// trySend sends a whole response without waiting; false: it has to wait. An
// answer for a stream or connection that is gone counts as sent.
func (c *conn) trySend(st *stream, head []byte, flags uint8, payload []byte) bool {
	if len(head)+len(payload) > c.frameMax {
		return false
	}
	err := c.hand(st, npro.TypeResponse, flags|npro.FlagEnd, head, payload)
	return !errors.Is(err, errNoRoom) && !errors.Is(err, dataplane.CodeFull)
}

// sendAll sends a response in as many frames as it takes; head and flags are the first one's.
func (c *conn) sendAll(ctx context.Context, st *stream, head []byte, flags uint8, payload []byte) {
	for {
		n := min(len(payload), c.frameMax-len(head))
		last := n == len(payload)
		if last {
			flags |= npro.FlagEnd
		} else {
			flags |= npro.FlagMore
		}
		if err := c.send(ctx, st, npro.TypeResponse, flags, head, payload[:n]); err != nil || last {
			return // on an error the stream or the connection is gone, and nobody waits for the rest
		}
		payload, head, flags = payload[n:], nil, 0
	}
}

// send hands one frame to the core, waiting for budget and room.
func (c *conn) send(ctx context.Context, st *stream, typ npro.Type, flags uint8, parts ...[]byte) error {
	err := c.hand(st, typ, flags, parts...)
	for errors.Is(err, errNoRoom) || errors.Is(err, dataplane.CodeFull) {
		c.sh.core.Flush() // what was handed over before has to go first
		// A place first, then the attempt, so that no wake-up falls between.
		room, core := c.waitRoom(), c.sh.waitCore()
		err = c.hand(st, typ, flags, parts...)
		switch {
		case errors.Is(err, errNoRoom):
			err = wait(ctx, room, err)
		case errors.Is(err, dataplane.CodeFull):
			err = wait(ctx, core, err)
		}
		c.sh.waiting.Add(-1)
	}
	if err == nil {
		c.sh.core.Flush()
	}
	return err
}

// wait returns again when ch closes, or why ctx ended.
func wait(ctx context.Context, ch <-chan struct{}, again error) error {
	select {
	case <-ch:
		return again
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// waitRoom returns a channel that closes when budget comes back or the
// connection goes. It is taken before the attempt, so nothing is missed.
func (c *conn) waitRoom() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.room == nil {
		c.room = make(chan struct{})
	}
	return c.room
}

// waitCore takes a place among those who wait for room in the core's rings;
// the reader closes the channel when it comes round. The caller takes itself
// off waiting.
func (sh *shard) waitCore() <-chan struct{} {
	sh.roomMu.Lock()
	defer sh.roomMu.Unlock()
	if sh.room == nil {
		sh.room = make(chan struct{})
	}
	sh.waiting.Add(1)
	return sh.room
}

// sent returns budget.
func (c *conn) sent(ev *dataplane.Event) {
	if ev.Err == dataplane.CodeNobuf {
		c.sh.starved.Store(true) // somebody holds the core's buffers
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moved = c.m.cfg.Now()
	st := c.streams[ev.Stream]
	if st == nil {
		return // reset: its share went then
	}
	n := min(int(ev.Bytes), st.out)
	st.out -= n
	c.outBytes -= n
	for len(st.frames) > 0 && st.frames[0] <= n {
		n -= st.frames[0]
		st.frames = append(st.frames[:0], st.frames[1:]...) // a few at most; slicing would use the array up
	}
	if len(st.frames) > 0 {
		st.frames[0] -= n
	}
	if ev.Err != dataplane.CodeOK && c.state == stateOpen && !st.dead {
		// The core could not take a frame: what the peer got has a hole.
		c.m.count("send_failed")
		st.fail(ev.Err)
		c.forget(st)
		c.sh.must(func() error { return c.sh.core.Reset(c.handle, st.id, uint32(npro.CodeOverloaded)) })
	}
	c.tidy(st)
	c.wake()
}
