//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"context"
	"errors"
	"os"
	"time"
	"unsafe"

	"github.com/np-appliance/np/dataplane"
)

// starvedWait is how soon Wait returns after a Send found no room: room comes
// back without an event.
const starvedWait = time.Millisecond

// slabPieces is how many slice headers a slab holds.
const slabPieces = 512

// waiter remembers the context of the last Wait, so that waiting again with
// the same one registers nothing. Only Wait touches it.
type waiter struct {
	done  <-chan struct{}
	stop  func() bool
	slept bool
}

// Poll implements [dataplane.Core].
func (c *core) Poll(out []dataplane.Event) int {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if c.dead {
		return 0
	}
	n := 0
	for ; n < len(out) && c.taken < len(c.stash); c.taken++ {
		if c.decode(&c.stash[c.taken], &out[n]) {
			n++
		}
	}
	if c.taken == len(c.stash) {
		c.stash, c.taken = c.stash[:0], 0
	}
	// At most one ring's worth, so that answers alone cannot keep us here.
	for budget := c.event.mask + 1; n < len(out) && budget > 0; {
		have := min(c.event.avail(), budget)
		if have == 0 {
			break
		}
		i := uint32(0)
		for ; i < have && n < len(out); i++ {
			ev := (*C.struct_np_event)(c.event.item(i))
			if c.answer(ev) {
				continue
			}
			if c.decode(ev, &out[n]) {
				n++
			}
		}
		c.event.consume(i)
		budget -= i
	}
	return n
}

// answer takes ev if it is the answer to a set-up call. rmu is held.
func (c *core) answer(ev *C.struct_np_event) bool {
	if ev.op != C.NP_EV_DONE || uint32(ev.token)&sendToken != 0 {
		return false
	}
	c.mu.Lock()
	t := uint32(ev.token)
	call := c.calls[t]
	delete(c.calls, t)
	c.mu.Unlock()
	// Commands to connections have token 0. Their errors need no answer: the
	// connection is closing, and EventClosed says so.
	if call != nil {
		call.finish(answer{err: dataplane.Code(ev.err).Err(), handle: uint64(ev.handle), arg: uint32(ev.arg), stream: uint32(ev.stream)})
	}
	return true
}

// decode translates an event; false when there is nothing to tell. rmu is held.
func (c *core) decode(ev *C.struct_np_event, out *dataplane.Event) bool {
	*out = dataplane.Event{
		Op: eventOp(ev.op), Kind: dataplane.SessionKind(ev.kind), Type: uint8(ev._type), Flags: uint8(ev.flags), Priority: uint8(ev.priority),
		Conn: dataplane.Handle(ev.handle), Stream: uint32(ev.stream), Err: dataplane.Code(ev.err), At: time.Duration(ev.at_ns),
	}
	switch ev.op {
	case C.NP_EV_MESSAGE, C.NP_EV_HANDSHAKE, C.NP_EV_PONG, C.NP_EV_DATA, C.NP_EV_EOF, C.NP_EV_DATAGRAM:
	case C.NP_EV_OPEN:
		c.mark(out.Conn, uint32(ev.handle>>32))
		c.segments(out.Conn, uint32(ev.stream))
		out.Incoming = ev.arg == 1
		out.Listener = c.p.listenerID(uint64(ev.listener))
		if ev.body != nil {
			// Bodies of the core's own making are contiguous and aligned.
			if ev.body.len >= C.sizeof_struct_np_conn_info {
				i := (*C.struct_np_conn_info)(unsafe.Add(unsafe.Pointer(ev.body), ev.body.data_off))
				if i.is_unix != 0 {
					out.Unix = &dataplane.UnixPeer{PID: uint32(i.peer_pid), UID: uint32(i.peer_uid), GID: uint32(i.peer_gid)}
				} else {
					out.Local, out.Remote = addrPort(&i.local, i.local_port), addrPort(&i.remote, i.remote_port)
				}
			}
			c.giveBack(ev.body)
		}
		return true
	case C.NP_EV_CLOSED:
		c.mark(out.Conn, 0)
		out.Code = uint32(ev.arg)
	case C.NP_EV_RESET:
		out.Code = uint32(ev.arg)
	case C.NP_EV_SENT:
		out.Bytes = uint32(ev.arg)
		if out.Kind == dataplane.SessionPipe {
			c.segments(out.Conn, uint32(ev.stream))
			c.sent(out.Conn, out.Bytes)
		}
	case C.NP_EV_DONE: // a Send that failed on the core
		out.Op, out.Bytes = dataplane.EventSent, uint32(ev.token)&^sendToken
		if !c.alive(out.Conn) {
			return false // EventClosed was the last event
		}
		c.sent(out.Conn, out.Bytes) // of a pipe; others do not look
	case C.NP_EV_GOAWAY:
		out.Stream = uint32(ev.arg)
	case C.NP_EV_ADDRS:
		out.Interface = dataplane.InterfaceID(ev.arg)
	case C.NP_EV_PORT:
		out.Interface = dataplane.InterfaceID(ev.arg)
		c.down[ev.arg&31].Store(ev.err != 0)
	default:
		c.giveBack(ev.body)
		return false
	}
	if ev.body != nil {
		out.Body = c.pieces(ev.body)
		out.Token = uintptr(unsafe.Pointer(ev.body))
	}
	if ev.op == C.NP_EV_DATAGRAM && !datagram(out) {
		c.giveBack(ev.body)
		return false
	}
	return true
}

func eventOp(op C.uint16_t) dataplane.EventOp {
	switch op {
	case C.NP_EV_OPEN:
		return dataplane.EventOpen
	case C.NP_EV_CLOSED:
		return dataplane.EventClosed
	case C.NP_EV_HANDSHAKE:
		return dataplane.EventHandshake
	case C.NP_EV_MESSAGE:
		return dataplane.EventMessage
	case C.NP_EV_RESET:
		return dataplane.EventReset
	case C.NP_EV_SENT:
		return dataplane.EventSent
	case C.NP_EV_PONG:
		return dataplane.EventPong
	case C.NP_EV_GOAWAY:
		return dataplane.EventGoAway
	case C.NP_EV_PORT:
		return dataplane.EventPort
	case C.NP_EV_ADDRS:
		return dataplane.EventAddresses
	case C.NP_EV_DATA:
		return dataplane.EventData
	case C.NP_EV_EOF:
		return dataplane.EventEOF
	case C.NP_EV_DATAGRAM:
		return dataplane.EventDatagram
	}
	return 0
}

func view(b *C.struct_np_buf) []byte {
	n := int(b.len)
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(b), b.data_off)), n)[:n:n]
}

// pieces makes the slices of a body. rmu is held.
func (c *core) pieces(b *C.struct_np_buf) [][]byte {
	if i := int(b.index); b.next == nil && i < len(c.views) {
		c.views[i] = view(b)
		return c.views[i : i+1 : i+1]
	}
	n := 0
	for p := b; p != nil; p = p.next {
		n++
	}
	if n > slabPieces {
		c.slab = make([][]byte, 0, n)
	} else if cap(c.slab)-len(c.slab) < n {
		c.slab = make([][]byte, 0, slabPieces)
	}
	from := len(c.slab)
	for p := b; p != nil; p = p.next {
		c.slab = append(c.slab, view(p))
	}
	return c.slab[from:len(c.slab):len(c.slab)]
}

// giveBack queues one chain for NP_CMD_FREE.
func (c *core) giveBack(b *C.struct_np_buf) {
	if b == nil {
		return
	}
	c.mu.Lock()
	c.frees = append(c.frees, b)
	c.drainFrees()
	c.mu.Unlock()
}

// Release implements [dataplane.Core].
func (c *core) Release(events []dataplane.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return // freed with everything else
	}
	for i := range events {
		ev := &events[i]
		if ev.Token == 0 {
			continue
		}
		// Token is the chain's address in C memory, kept as an integer so that
		// unsafe.Pointer stays inside this package.
		c.frees = append(c.frees, *(**C.struct_np_buf)(unsafe.Pointer(&ev.Token)))
		ev.Token, ev.Body = 0, nil
	}
	// Woken too: a core without buffers receives nothing that could wake it.
	c.publish()
}

// kick ends a Wait.
func (c *core) kick() {
	// An error means that the file is closed, and Wait has ended; EAGAIN cannot be.
	_, _ = c.file.Write(c.wakeup[:])
}

// found says whether Poll would find something. Leading answers are taken out.
func (c *core) found() (bool, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if c.dead || c.p.closed.Load() {
		return false, dataplane.CodeShutdown
	}
	if c.taken < len(c.stash) {
		return true, nil
	}
	for c.event.avail() > 0 {
		if !c.answer((*C.struct_np_event)(c.event.item(0))) {
			return true, nil
		}
		c.event.consume(1)
	}
	return false, nil
}

// Wait implements [dataplane.Core]. After a Send found no room it returns
// within starvedWait, so that the caller tries again.
func (c *core) Wait(ctx context.Context) error {
	for {
		if ok, err := c.found(); ok || err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		c.watch(ctx)
		if c.starved.Load() {
			return c.waitStarved()
		}
		if done, err := c.sleep(); done {
			return err
		}
	}
}

// watch makes the end of ctx end sleep.
func (c *core) watch(ctx context.Context) {
	d := ctx.Done()
	if d == c.wait.done {
		return
	}
	if c.wait.stop != nil {
		c.wait.stop()
	}
	c.wait.done, c.wait.stop = d, nil
	if d != nil {
		c.wait.stop = context.AfterFunc(ctx, c.kick)
	}
}

// sleep waits for the eventfd, unless something came in between. done is false
// for wake-ups whose cause the caller has yet to find.
func (c *core) sleep() (done bool, err error) {
	// Both flags are set before the last look (woken's), so whoever brings something
	// after it sees them.
	c.asleep.Store(true)
	defer c.asleep.Store(false)
	if !c.setSleeping(1) {
		return true, dataplane.CodeShutdown
	}
	defer c.setSleeping(0)
	c.wait.slept = false
	if err = c.rest.Read(c.look); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return true, dataplane.CodeShutdown
	}
	return false, nil
}

// woken says whether to sleep no longer. The eventfd itself is never read: the runtime's
// poller reports edges, and each write is one, whatever was written before. The runtime
// forgets those before the first call, whose look is therefore behind them.
func (c *core) woken(uintptr) bool {
	if c.wait.slept {
		return true
	}
	c.wait.slept = true
	select {
	case <-c.wait.done:
		return true
	default:
	}
	ok, err := c.found()
	return ok || err != nil || c.starved.Load()
}

// waitStarved sleeps a moment: room in the command ring and lent buffers come
// back without an event.
func (c *core) waitStarved() error {
	c.starved.Store(false)
	_ = c.file.SetReadDeadline(time.Now().Add(starvedWait))
	_, err := c.sleep()
	_ = c.file.SetReadDeadline(time.Time{})
	return err
}

// setSleeping sets the event ring's flag while its memory is there.
func (c *core) setSleeping(on uint32) bool {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if c.dead {
		return false
	}
	c.event.sleeping(on)
	return true
}

// help does the reader's work for a set-up call that waits: answers out,
// other events aside. See the package comment.
func (c *core) help() {
	c.rmu.Lock()
	if c.dead {
		c.rmu.Unlock()
		return
	}
	laid := false
	for len(c.stash)-c.taken < 2*int(c.event.mask+1) && c.event.avail() > 0 {
		ev := (*C.struct_np_event)(c.event.item(0))
		if !c.answer(ev) {
			c.stash = append(c.stash, *ev)
			laid = true
		}
		c.event.consume(1)
	}
	c.rmu.Unlock()
	if laid && c.asleep.Load() {
		c.kick()
	}
}
