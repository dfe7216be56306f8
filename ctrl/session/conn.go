package session

import (
	"context"
	"encoding/hex"
	"net/netip"
	"sync"
	"time"

	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/dataplane"
)

type connState uint8

const (
	stateHandshake connState = iota
	stateOpen
	stateClosing // we asked the core to close it
	stateGone    // the core said it is closed
)

// Close codes of our own doing.
const (
	codeNormal   = uint32(npro.CodeNormal)
	codeShutdown = uint32(npro.CodeShuttingDown)
	codePolicy   = uint32(npro.CodeUnavailable)
)

// conn is one NPRO connection. Its core's reader, workers, streams and the
// janitor meet under mu; nothing blocks while holding it.
type conn struct {
	m             *Manager
	sh            *shard
	handle        dataplane.Handle
	listener      dataplane.ListenerID
	local, remote netip.AddrPort
	opened        time.Time
	ctx           context.Context // ends with the connection
	cancel        context.CancelFunc

	mu         sync.Mutex
	state      connState
	machine    *handshake.Machine
	counted    bool // in m.hsFlight
	pattern    handshake.Pattern
	hybrid     bool
	key        handshake.PublicKey
	hasKey     bool
	rights     *Rights
	peer       dispatch.Peer
	clientName string
	frameMax   int // body bytes of a frame we send

	streams    map[uint32]*stream
	spare      []*stream // ended well; for the next ones
	lastStream uint32
	inflight   int    // requests with handlers
	waiting    []*job // requests that wait for a worker
	runnable   bool   // in m.runnable
	held       int64  // bytes of m.memory

	out      dataplane.Outgoing // for hand, which would allocate one a frame
	outBytes int                // handed to the core, not reported sent: the sum over streams
	moved    time.Time          // last time some were sent, or the first was handed over
	room     chan struct{}
}

// id is how logs name the connection.
func (c *conn) id() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return hex.EncodeToString(c.peer.ConnID[:])
}

// shut asks the core to close the connection in good order. The caller flushes.
func (c *conn) shut(code uint32, reason string) {
	c.mu.Lock()
	if c.state >= stateClosing {
		c.mu.Unlock()
		return
	}
	c.state = stateClosing
	c.mu.Unlock()
	c.sh.must(func() error { return c.sh.core.CloseConn(c.handle, code, reason) })
}

// abort asks the core to cut the connection. The caller flushes.
func (c *conn) abort() {
	c.mu.Lock()
	gone := c.state == stateGone
	c.state = max(c.state, stateClosing)
	c.mu.Unlock()
	if !gone {
		c.sh.must(func() error { return c.sh.core.Abort(c.handle) })
	}
}

// gone cleans up after the core's last word about the connection.
func (c *conn) gone(why dataplane.Code) {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateGone {
		return
	}
	c.state = stateGone
	c.endHandshake()
	for _, st := range c.streams {
		st.fail(why)
	}
	clear(c.streams)
	c.m.stats.inflight.Add(-int64(len(c.waiting)))
	for i := range c.waiting {
		c.waiting[i] = nil
	}
	c.waiting = nil
	c.m.memory.Add(-c.held)
	c.held = 0
	c.wake()
}

// endHandshake drops the machine and its place among those in flight. c.mu is held.
func (c *conn) endHandshake() {
	if c.machine != nil {
		c.machine.Wipe()
		c.machine = nil
	}
	if c.counted {
		c.counted = false
		c.m.hsFlight.Add(-1)
	}
}

// wake lets those who wait for send budget look again. c.mu is held.
func (c *conn) wake() {
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
}

// hold takes n bytes of message memory. c.mu is held.
func (c *conn) hold(n int) bool {
	if c.held+int64(n) > c.m.cfg.ConnMemory {
		return false
	}
	if c.m.memory.Add(int64(n)) > c.m.cfg.MessageMemory {
		c.m.memory.Add(-int64(n))
		return false
	}
	c.held += int64(n)
	return true
}

// free gives n bytes back. c.mu is held.
func (c *conn) free(n int) {
	if c.state == stateGone {
		return // gone gave all of it back
	}
	c.held -= int64(n)
	c.m.memory.Add(-int64(n))
}

// overdue resets streams whose message does not go on, and cuts a peer that
// takes nothing while others find no room.
func (c *conn) overdue(now time.Time, starved bool) {
	limit := c.m.cfg.FragmentTimeout
	var late []*stream
	c.mu.Lock()
	for _, st := range c.streams {
		if st.partial && now.Sub(st.touched) > limit {
			late = append(late, st)
		}
	}
	stuck := starved && c.outBytes > 0 && now.Sub(c.moved) > limit && c.state == stateOpen
	c.mu.Unlock()
	for _, st := range late {
		c.refuse(st.id, npro.CodeTimeout)
		c.m.count("message_timeout")
	}
	if stuck {
		c.m.warn("peer_takes_nothing", "connection cut: its peer takes nothing and the core has no room left", c)
		c.abort()
	}
}
