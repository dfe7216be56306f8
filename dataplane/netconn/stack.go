package netconn

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/events"
)

// piece is how many bytes one command takes at most: some twenty lent buffers.
const piece = 32 << 10

// undoTime limits the plane's calls that end something.
const undoTime = 5 * time.Second

// stack is what all transports over one plane share: the events' sink and the tables.
type stack struct {
	plane  dataplane.Plane
	reader *events.Reader
	shards []*shard
	stats  stats

	mu        sync.Mutex
	closed    bool
	listeners map[dataplane.ListenerID]*Listener
	listening int // calls of Plane.Listen in progress
	orphans   []orphan
	dialing   int                              // calls of Plane.Connect in progress
	dials     map[dataplane.Handle]chan opened // Connect returned, the connection is not open
	early     map[dataplane.Handle]opened      // open or failed, and Connect has not returned
	given     map[dataplane.Handle]struct{}    // dials whose callers gave up
}

// orphan is an accepted connection whose Plane.Listen has not returned.
type orphan struct {
	id dataplane.ListenerID
	c  *Conn
}

// opened is how a dial ended.
type opened struct {
	c   *Conn
	err error
}

type stats struct{ accepted, overflowed, datagramsDropped atomic.Uint64 }

// shard is one core's part.
type shard struct {
	s     *stack
	core  dataplane.Core
	index int
	conns []*Conn      // by slot; the reader's
	piece atomic.Int32 // bytes that one Write takes at most

	mu      sync.Mutex
	retry   []func() error // commands that found no room
	room    chan struct{}  // closed when calls that found no room may try again
	sockets map[dataplane.Handle]*PacketConn
	busy    atomic.Bool // there is something to do in again
}

var _ events.Sink = (*stack)(nil)

func newStack(plane dataplane.Plane, r *events.Reader) (*stack, error) {
	s := &stack{plane: plane, reader: r, listeners: map[dataplane.ListenerID]*Listener{}, dials: map[dataplane.Handle]chan opened{},
		early: map[dataplane.Handle]opened{}, given: map[dataplane.Handle]struct{}{}}
	for i, c := range plane.Cores() {
		sh := &shard{s: s, core: c, index: i, sockets: map[dataplane.Handle]*PacketConn{}}
		sh.piece.Store(piece)
		s.shards = append(s.shards, sh)
	}
	if err := r.Add(s, dataplane.SessionPipe); err != nil {
		return nil, err
	}
	return s, nil
}

const slotMask = 1<<24 - 1

// find returns a connection by its handle. The reader's.
func (sh *shard) find(h dataplane.Handle) *Conn {
	i := int(h & slotMask)
	if i >= len(sh.conns) {
		return nil
	}
	if c := sh.conns[i]; c != nil && c.handle == h {
		return c
	}
	return nil
}

func (sh *shard) put(c *Conn) {
	i := int(c.handle & slotMask)
	for len(sh.conns) <= i {
		sh.conns = append(sh.conns, make([]*Conn, max(i+1-len(sh.conns), len(sh.conns), 64))...)
	}
	sh.conns[i] = c
}

// Event implements [events.Sink].
func (s *stack) Event(core int, ev *dataplane.Event) bool {
	sh := s.shards[core]
	switch ev.Op {
	case dataplane.EventData:
		if c := sh.find(ev.Conn); c != nil {
			return c.data(ev)
		}
	case dataplane.EventSent:
		if c := sh.find(ev.Conn); c != nil {
			c.sent(int(ev.Bytes), ev.Err)
		}
	case dataplane.EventDatagram:
		if p := sh.socket(ev.Conn); p != nil {
			return p.datagram(sh, ev)
		}
	case dataplane.EventOpen:
		if ev.Kind == dataplane.SessionPipe {
			s.open(sh, ev)
		}
	case dataplane.EventEOF:
		if c := sh.find(ev.Conn); c != nil {
			c.ended()
		}
	case dataplane.EventClosed:
		s.gone(sh, ev)
	}
	return false
}

// Turn implements [events.Sink].
func (s *stack) Turn(core int) {
	if sh := s.shards[core]; sh.busy.Load() {
		sh.again()
	}
}

// Ended implements [events.Sink]: nothing comes any more, so whoever waits is told.
func (s *stack) Ended() { s.end(dataplane.CodeShutdown) }

// open takes a connection that stands: to its listener, or to its dial.
func (s *stack) open(sh *shard, ev *dataplane.Event) {
	c := &Conn{sh: sh, handle: ev.Conn, local: net.TCPAddrFromAddrPort(ev.Local), remote: net.TCPAddrFromAddrPort(ev.Remote),
		rch: make(chan struct{}, 1), wch: make(chan struct{}, 1), unix: ev.Unix}
	sh.put(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if ev.Incoming {
		l := s.listeners[ev.Listener]
		switch {
		case l != nil:
			l.push(c)
		case s.listening > 0:
			s.orphans = append(s.orphans, orphan{ev.Listener, c})
		default:
			c.discard() // its listener was closed
		}
		return
	}
	s.dialled(ev.Conn, opened{c: c})
}

// dialled hands the end of a dial to whoever waits for it. s.mu is held.
func (s *stack) dialled(h dataplane.Handle, o opened) {
	if ch, ok := s.dials[h]; ok {
		delete(s.dials, h)
		ch <- o // room for the only one
		return
	}
	_, given := s.given[h]
	if !given && s.dialing > 0 {
		s.early[h] = o
		return
	}
	if o.c != nil {
		o.c.discard()
	} else {
		delete(s.given, h)
	}
}

// gone ends a connection, or a dial that failed.
func (s *stack) gone(sh *shard, ev *dataplane.Event) {
	if c := sh.find(ev.Conn); c != nil {
		sh.conns[ev.Conn&slotMask] = nil
		c.over(ev.Err)
		s.mu.Lock()
		delete(s.given, ev.Conn)
		s.mu.Unlock()
		return
	}
	if ev.Kind != dataplane.SessionPipe {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	code := ev.Err
	if code == dataplane.CodeOK {
		code = dataplane.CodeAborted
	}
	s.dialled(ev.Conn, opened{err: codeErr(code)})
}

// end ends everything that the plane will not end by an event any more.
func (s *stack) end(code dataplane.Code) {
	s.mu.Lock()
	s.closed = true
	var ls []*Listener
	for _, l := range s.listeners {
		ls = append(ls, l)
	}
	for h, ch := range s.dials {
		delete(s.dials, h)
		ch <- opened{err: codeErr(code)}
	}
	s.orphans = nil
	clear(s.early)
	clear(s.given)
	s.mu.Unlock()
	for _, l := range ls {
		l.shut()
	}
	for _, sh := range s.shards {
		for i, c := range sh.conns {
			if c != nil {
				sh.conns[i] = nil
				c.over(code)
			}
		}
		sh.mu.Lock()
		var ps []*PacketConn
		for _, p := range sh.sockets {
			ps = append(ps, p)
		}
		sh.mu.Unlock()
		for _, p := range ps {
			p.over()
		}
		sh.again()
	}
}

// connect opens a connection and waits until it stands.
func (s *stack) connect(ctx context.Context, cfg *dataplane.ConnectConfig) (*Conn, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, codeErr(dataplane.CodeShutdown)
	}
	s.dialing++
	s.mu.Unlock()
	h, err := s.plane.Connect(ctx, cfg)
	s.mu.Lock()
	s.dialing--
	o, ok := s.early[h]
	delete(s.early, h)
	var ch chan opened
	if err == nil && !ok {
		ch = make(chan opened, 1)
		s.dials[h] = ch
	}
	if s.dialing == 0 {
		// What nobody claims any more belongs to calls that failed.
		for h, o := range s.early {
			delete(s.early, h)
			if o.c != nil {
				o.c.discard()
			}
		}
	}
	s.mu.Unlock()
	if err != nil {
		return nil, planeErr(err)
	}
	if !ok {
		select {
		case o = <-ch:
		case <-ctx.Done():
			o = s.giveUp(h, ch, ctx.Err())
		}
	}
	if o.err != nil {
		return nil, o.err
	}
	return o.c, nil
}

// giveUp ends a dial whose context ended, unless it ended just now.
func (s *stack) giveUp(h dataplane.Handle, ch chan opened, why error) opened {
	s.mu.Lock()
	if _, ok := s.dials[h]; !ok {
		s.mu.Unlock()
		o := <-ch
		if o.c != nil {
			o.c.discard()
		}
		return opened{err: why}
	}
	delete(s.dials, h)
	s.given[h] = struct{}{}
	s.mu.Unlock()
	sh := s.shards[h.Core()]
	sh.must(func() error { return sh.core.Abort(h) })
	sh.core.Flush()
	return opened{err: why}
}

// must carries out a command that may not be lost: when the core has no room it is
// tried again with the next events. Errors other than "no room" mean that the
// connection is gone. The caller flushes.
func (sh *shard) must(f func() error) {
	sh.mu.Lock()
	behind := len(sh.retry) > 0 // keep the order
	sh.mu.Unlock()
	if !behind && !errors.Is(f(), dataplane.CodeFull) {
		return
	}
	sh.mu.Lock()
	sh.retry = append(sh.retry, f)
	sh.busy.Store(true)
	sh.mu.Unlock()
}

// waitRoom returns a channel that closes when a call that found no room may try again.
// It is taken before the attempt, so that nothing is missed.
func (sh *shard) waitRoom() <-chan struct{} {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.room == nil {
		sh.room = make(chan struct{})
	}
	sh.busy.Store(true)
	return sh.room
}

// again wakes callers that found no room and repeats commands that found none.
func (sh *shard) again() {
	sh.mu.Lock()
	list, room := sh.retry, sh.room
	sh.retry, sh.room = nil, nil
	sh.busy.Store(false)
	sh.mu.Unlock()
	if room != nil {
		close(room)
	}
	for i, f := range list {
		if errors.Is(f(), dataplane.CodeFull) {
			sh.mu.Lock()
			sh.retry = append(list[i:len(list):len(list)], sh.retry...)
			sh.busy.Store(true)
			sh.mu.Unlock()
			return
		}
	}
}

func (sh *shard) socket(h dataplane.Handle) *PacketConn {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.sockets[h]
}
