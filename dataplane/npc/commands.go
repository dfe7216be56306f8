//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/np-appliance/np/dataplane"
)

// sendToken marks the token of NP_CMD_SEND; the other bits are the bytes of
// the body, so that an error returns them to the sender's budget.
const sendToken = 1 << 31

// core is one poll core. The two halves have a lock each: mu for what Go sends
// (any goroutine), rmu for what it reads. Who needs both takes rmu first.
type core struct {
	p     *Plane
	index int

	mu       sync.Mutex
	dead     bool // memory of the core is gone or going; set under both locks
	cmd      ring
	loan     ring
	queued   uint32             // commands written, not yet published
	free     []*C.struct_np_buf // lent buffers that hold nothing
	frees    []*C.struct_np_buf // chains released while the command ring was full
	orphans  []orphan           // to be ended
	loans    int
	wakeFD   int
	counters *C.struct_np_counters
	token    uint32
	calls    map[uint32]*call
	wakeup   [8]byte // what one wakes with: a native uint64 1

	rmu   sync.Mutex
	event ring
	stash []C.struct_np_event // read aside by set-up calls; Poll takes these first
	taken int                 // how many of stash Poll took
	views [][]byte            // one per buffer of the pool, by np_buf.index
	slab  [][]byte            // for bodies of several pieces
	down  [32]atomic.Bool     // interfaces whose device is gone, as this core sees it

	// live has the open connections by slot.
	live    atomic.Pointer[[]*liveConn]
	starved atomic.Bool // a Send found no room; Wait looks again soon
	asleep  atomic.Bool // in Wait; whoever brings something kicks
	wait    waiter
	file    *os.File           // the core's eventfd, in the runtime's poller
	rest    syscall.RawConn    // file's
	look    func(uintptr) bool // c.woken
}

// liveConn is what Go keeps of a connection here.
type liveConn struct {
	generation atomic.Uint32 // 0 none
	segment    atomic.Uint32 // of a pipe: how long its stream likes pieces, 0 as a buffer holds
	unsent     atomic.Int64  // of a pipe: bytes written and not told as sent
}

var _ dataplane.Core = (*core)(nil)

// capacity is what one lent buffer holds.
func (c *core) capacity() int { return c.p.chunk - C.NP_LOAN_DATA_OFF }

// find returns the connection's entry if it was opened and has not been
// reported closed, else nil. One that closes just now is refused by the core itself.
func (c *core) find(h dataplane.Handle) *liveConn {
	t := *c.live.Load()
	slot := uint64(h) & (1<<C.NP_HANDLE_SLOT_BITS - 1)
	if h == 0 || h.Core() != c.index || slot >= uint64(len(t)) || t[slot].generation.Load() != uint32(h>>32) {
		return nil
	}
	return t[slot]
}

func (c *core) alive(h dataplane.Handle) bool { return c.find(h) != nil }

// mark sets (generation) or clears (0) a connection's entry. rmu is held, which
// makes it the only writer.
func (c *core) mark(h dataplane.Handle, generation uint32) {
	t := *c.live.Load()
	slot := uint64(h) & (1<<C.NP_HANDLE_SLOT_BITS - 1)
	if slot >= uint64(len(t)) {
		if generation == 0 {
			return
		}
		// The entries stay where they are: whoever found one goes on using it.
		more := make([]liveConn, max(2*len(t), int(slot)+1)-len(t))
		grown := slices.Grow(slices.Clone(t), len(more))
		for i := range more {
			grown = append(grown, &more[i])
		}
		c.live.Store(&grown)
		t = grown
	}
	l := t[slot]
	switch was := l.generation.Load(); {
	case was == generation:
		return
	case generation == 0 && was != uint32(h>>32):
		return // the slot is another connection's by now, one of ours that is being opened
	}
	l.segment.Store(0)
	l.unsent.Store(0)
	l.generation.Store(generation)
}

// segments notes how long a pipe's stream likes pieces. rmu is held.
func (c *core) segments(h dataplane.Handle, bytes uint32) {
	if l := c.find(h); l != nil && l.segment.Load() != bytes {
		l.segment.Store(bytes)
	}
}

// sent notes what of a pipe's bytes left. rmu is held.
func (c *core) sent(h dataplane.Handle, bytes uint32) {
	if l := c.find(h); l != nil {
		l.unsent.Add(-int64(bytes))
	}
}

// takeLoans makes sure that n lent buffers are free. What came last is on top and
// used first, while the core's freeing it has it in the caches. mu is held.
func (c *core) takeLoans(n int) bool {
	if have := c.loan.avail(); have > 0 {
		for i := range have {
			c.free = append(c.free, (*C.struct_np_loan)(c.loan.item(i)).buf)
		}
		c.loan.consume(have)
	}
	return len(c.free) >= n
}

// writer fills lent buffers piece by piece.
type writer struct {
	c           *core
	first, last *C.struct_np_buf
	left        []byte // of last
	most        int    // bytes of a piece
}

// take appends a buffer; takeLoans said that there is one.
func (w *writer) take() {
	n := len(w.c.free) - 1
	b := w.c.free[n]
	w.c.free = w.c.free[:n]
	b.next, b.data_off, b.len = nil, C.NP_LOAN_DATA_OFF, 0
	w.left = unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(b), C.NP_LOAN_DATA_OFF)), w.most)
	if w.first == nil {
		w.first = b
	} else {
		w.last.next = b
	}
	w.last = b
}

func (w *writer) write(p []byte) {
	for len(p) > 0 {
		if len(w.left) == 0 {
			w.take()
		}
		n := copy(w.left, p)
		w.left, p = w.left[n:], p[n:]
		w.last.len += C.uint32_t(n)
	}
}

// slot returns the next command, cleared, or nil when the ring is full. mu is held.
func (c *core) slot() *C.struct_np_cmd {
	c.drainFrees()
	if c.cmd.room(c.queued) == 0 {
		return nil
	}
	s := (*C.struct_np_cmd)(c.cmd.slot(c.queued))
	*s = C.struct_np_cmd{}
	return s
}

// drainFrees queues the chains that found no room before. mu is held.
func (c *core) drainFrees() {
	n := 0
	for ; n < len(c.frees) && c.cmd.room(c.queued) > 0; n++ {
		*(*C.struct_np_cmd)(c.cmd.slot(c.queued)) = C.struct_np_cmd{op: C.NP_CMD_FREE, body: c.frees[n]}
		c.queued++
	}
	if n > 0 {
		c.frees = append(c.frees[:0], c.frees[n:]...)
	}
	for len(c.orphans) > 0 && c.cmd.room(c.queued) > 0 {
		o := c.orphans[0]
		*(*C.struct_np_cmd)(c.cmd.slot(c.queued)) = C.struct_np_cmd{op: C.uint16_t(o.op), handle: C.uint64_t(o.handle)}
		c.orphans = c.orphans[1:]
		c.queued++
	}
}

// full says that a command found no room and makes Wait look again soon.
func (c *core) full() error {
	c.starved.Store(true)
	if c.asleep.Load() {
		c.kick()
	}
	return dataplane.CodeFull
}

// put queues one command with a body of the given parts. fill sets the rest.
// mu is held.
func (c *core) put(bytes int, parts [][]byte, fill func(*C.struct_np_cmd)) error {
	return c.putPieces(bytes, parts, c.capacity(), fill)
}

// putPieces is put with pieces of at most most bytes.
func (c *core) putPieces(bytes int, parts [][]byte, most int, fill func(*C.struct_np_cmd)) error {
	if c.dead {
		return dataplane.CodeShutdown
	}
	pieces := (bytes + most - 1) / most
	if pieces > c.loans {
		return dataplane.CodeInvalid // it never fits; messages of that size go in several frames
	}
	s := c.slot()
	if s == nil || !c.takeLoans(pieces) {
		return c.full()
	}
	fill(s)
	w := writer{c: c, most: most}
	for _, p := range parts {
		w.write(p)
	}
	s.body, s.body_bytes = w.first, C.uint32_t(bytes)
	c.queued++
	return nil
}

// onConn queues a command for a connection.
func (c *core) onConn(conn dataplane.Handle, body []byte, fill func(*C.struct_np_cmd)) error {
	if !c.alive(conn) {
		return dataplane.CodeStale
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var parts [1][]byte
	parts[0] = body
	return c.put(len(body), parts[:], func(s *C.struct_np_cmd) {
		s.handle = C.uint64_t(conn)
		fill(s)
	})
}

// Send implements [dataplane.Core]. It allocates nothing.
func (c *core) Send(out *dataplane.Outgoing) error {
	if !c.alive(out.Conn) {
		return dataplane.CodeStale
	}
	n := 0
	for _, p := range out.Parts {
		n += len(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.put(n, out.Parts, func(s *C.struct_np_cmd) {
		s.op, s.handle, s.stream = C.NP_CMD_SEND, C.uint64_t(out.Conn), C.uint32_t(out.Stream)
		s._type, s.flags, s.priority = C.uint8_t(out.Type), C.uint8_t(out.Flags), C.uint8_t(out.Priority)
		s.token = C.uint32_t(sendToken | n)
	})
}

// Credit implements [dataplane.Core].
func (c *core) Credit(conn dataplane.Handle, stream uint32, bytes uint32) error {
	return c.onConn(conn, nil, func(s *C.struct_np_cmd) {
		s.op, s.stream, s.arg = C.NP_CMD_CREDIT, C.uint32_t(stream), C.uint32_t(bytes)
	})
}

// Handshake implements [dataplane.Core].
func (c *core) Handshake(conn dataplane.Handle, frameType uint8, body []byte, more bool) error {
	if frameType < C.NP_NPRO_HANDSHAKE_1 || frameType > C.NP_NPRO_HANDSHAKE_3 {
		return dataplane.CodeInvalid
	}
	return c.onConn(conn, body, func(s *C.struct_np_cmd) {
		s.op, s._type = C.NP_CMD_HANDSHAKE, C.uint8_t(frameType)
		if more {
			s.cmd_flags = C.NP_CMD_F_MORE
		}
	})
}

// InstallKeys implements [dataplane.Core]. keys is wiped in every case. The key
// bytes go straight into the lent buffer, which the core wipes after use.
func (c *core) InstallKeys(conn dataplane.Handle, keys *dataplane.Keys) error {
	defer func() { *keys = dataplane.Keys{} }()
	if !c.alive(conn) {
		return dataplane.CodeStale
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return dataplane.CodeShutdown
	}
	s := c.slot()
	if s == nil || !c.takeLoans(1) {
		return c.full()
	}
	w := writer{c: c, most: c.capacity()}
	w.take()
	encodeKeys((*C.struct_np_npro_keys)(unsafe.Pointer(&w.left[0])), keys)
	w.first.len = C.sizeof_struct_np_npro_keys
	s.op, s.handle = C.NP_CMD_KEYS, C.uint64_t(conn)
	s.body, s.body_bytes = w.first, C.sizeof_struct_np_npro_keys
	c.queued++
	return nil
}

// Reset implements [dataplane.Core].
func (c *core) Reset(conn dataplane.Handle, stream uint32, code uint32) error {
	return c.onConn(conn, nil, func(s *C.struct_np_cmd) {
		s.op, s.stream, s.arg = C.NP_CMD_RESET, C.uint32_t(stream), C.uint32_t(code)
	})
}

// Ping implements [dataplane.Core].
func (c *core) Ping(conn dataplane.Handle, body []byte) error {
	if len(body) > 64 {
		return dataplane.CodeInvalid
	}
	return c.onConn(conn, body, func(s *C.struct_np_cmd) { s.op = C.NP_CMD_PING })
}

// Rekey implements [dataplane.Core].
func (c *core) Rekey(conn dataplane.Handle) error {
	return c.onConn(conn, nil, func(s *C.struct_np_cmd) { s.op = C.NP_CMD_REKEY })
}

// GoAway implements [dataplane.Core].
func (c *core) GoAway(conn dataplane.Handle) error {
	return c.onConn(conn, nil, func(s *C.struct_np_cmd) { s.op = C.NP_CMD_GOAWAY })
}

// CloseConn implements [dataplane.Core]. reason is cut to what one buffer holds.
func (c *core) CloseConn(conn dataplane.Handle, code uint32, reason string) error {
	body := []byte(reason)
	return c.onConn(conn, body[:min(len(body), c.capacity())], func(s *C.struct_np_cmd) {
		s.op, s.arg = C.NP_CMD_CLOSE, C.uint32_t(code)
	})
}

// Abort implements [dataplane.Core].
func (c *core) Abort(conn dataplane.Handle) error {
	return c.onConn(conn, nil, func(s *C.struct_np_cmd) { s.op = C.NP_CMD_ABORT })
}

// Flush implements [dataplane.Core].
func (c *core) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dead {
		c.publish()
	}
}

// publish makes queued commands visible and wakes the core if it sleeps. mu is held.
func (c *core) publish() {
	c.drainFrees()
	if c.queued == 0 {
		return
	}
	c.cmd.publish(c.queued)
	c.queued = 0
	if c.cmd.takeSleeper() {
		// Raw, as it never blocks: the scheduler has nothing to do about it. EAGAIN: the
		// counter is far from 0 and the core wakes anyway.
		_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(c.wakeFD), uintptr(unsafe.Pointer(&c.wakeup)), unsafe.Sizeof(c.wakeup))
	}
}

// Write implements [dataplane.Core]. It allocates nothing. Pieces are as long
// as the connection's segments, so that none is cut or joined on the core.
func (c *core) Write(conn dataplane.Handle, parts [][]byte) error {
	l := c.find(conn)
	if l == nil {
		return dataplane.CodeStale
	}
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n == 0 {
		return nil
	}
	most := c.capacity()
	if seg := int(l.segment.Load()); seg > 0 {
		most = min(most, seg)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return dataplane.CodeShutdown
	}
	if c.overShare(l.unsent.Load(), n, most) {
		return c.full()
	}
	err := c.putPieces(n, parts, most, func(s *C.struct_np_cmd) {
		s.op, s.handle, s.token = C.NP_CMD_SEND, C.uint64_t(conn), C.uint32_t(sendToken|n)
	})
	if err == nil {
		l.unsent.Add(int64(n))
	}
	return err
}

// leastWrite is what a pipe may have unsent however short buffers are.
const leastWrite = 2048

// overShare says whether a pipe has to wait before it writes more: peers that do
// not read make the core's pipes hold too much. Without it they would in time
// have all buffers, and those whose peers do read would wait with them. mu is
// held, and the core is not dead.
func (c *core) overShare(unsent int64, n, piece int) bool {
	share := atomic.LoadUint64((*uint64)(unsafe.Pointer(&c.counters.counter[C.NP_C_PIPE_SHARE])))
	return share > 0 && int(unsent)+n > max(int(share)*piece, leastWrite)
}

// CloseWrite implements [dataplane.Core].
func (c *core) CloseWrite(conn dataplane.Handle) error {
	return c.onConn(conn, nil, func(s *C.struct_np_cmd) { s.op = C.NP_CMD_SHUTDOWN })
}
