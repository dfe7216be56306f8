package fake

import (
	"context"
	"net/netip"
	"time"

	"github.com/np-appliance/np/dataplane"
)

const (
	pipeWindow  = 64 << 10 // bytes that a reader is ahead of its credit, unless Options say otherwise
	pipePiece   = 16 << 10 // bytes of an EventData at most
	ephemeral   = 32768
	ephemerals  = 28232
	pipeQueue   = 1 << 20 // bytes that a writer may have queued, as with the C cores
	datagramMax = 65507
)

// pipe is one end of a byte stream: of a connection of the plane, or (core nil) played
// by a test. All is guarded by p.mu.
type pipe struct {
	p             *Plane
	core          *Core
	handle        dataplane.Handle
	listener      dataplane.ListenerID
	local, remote netip.AddrPort
	created       time.Duration
	other         *pipe // nil: it is gone, or there never was one

	out    [][]byte // written, no room at the other end yet
	outLen int
	writes int // commands in out, for SetSendRoom
	window int // bytes this end still takes
	shut   bool
	eof    bool // the other end was told that there is no more
	closed bool // by CloseConn: nothing is read
	ended  bool

	in     []byte // received, of one that a test plays
	inEOF  bool
	why    dataplane.Code
	notify chan struct{}
}

// newHandle makes a handle that no other has or had. p.mu is held.
func (p *Plane) newHandle(core int) dataplane.Handle {
	slot := p.slots
	if n := len(p.freeSlots); n > 0 {
		slot = p.freeSlots[n-1]
		p.freeSlots = p.freeSlots[:n-1]
	} else {
		p.slots++
	}
	p.nextGen++
	return dataplane.Handle(uint64(p.nextGen)<<32 | uint64(core)<<24 | uint64(slot))
}

// freeHandle lets the slot be used again. p.mu is held.
func (p *Plane) freeHandle(h dataplane.Handle) {
	p.freeSlots = append(p.freeSlots, uint32(h&0xffffff))
}

func (p *Plane) newPipe(core *Core, local, remote netip.AddrPort) *pipe {
	e := &pipe{p: p, core: core, local: local, remote: remote, created: p.now(), window: p.window, notify: make(chan struct{}, 1)}
	if core != nil {
		e.handle = p.newHandle(core.index)
		p.pipes[e.handle] = e
	}
	return e
}

// info is what Connections shows. p.mu is held.
func (e *pipe) info() dataplane.Conn {
	return dataplane.Conn{Handle: e.handle, Listener: e.listener, Local: e.local, Remote: e.remote, State: "established", Kind: dataplane.SessionPipe,
		Core: e.core.index, Created: e.created, LastRx: e.created, Outgoing: e.listener == 0, CongestionControl: dataplane.CongestionCubic}
}

func (e *pipe) event(ev dataplane.Event, body []byte) {
	if e.core == nil {
		return
	}
	ev.Kind, ev.Conn, ev.Listener = dataplane.SessionPipe, e.handle, e.listener
	e.core.push(ev, body)
}

// found is the listener that a connection to an address reaches, or nil. p.mu is held.
func (p *Plane) found(to netip.AddrPort) *Listener {
	var any *Listener
	for _, l := range p.listeners {
		a := l.Config.Address
		switch {
		case l.Config.Kind != dataplane.SessionPipe || a.Port() != to.Port():
		case a == to:
			return l
		case a.Addr().IsUnspecified():
			any = l
		}
	}
	return any
}

// nextCore spreads connections over the cores. p.mu is held.
func (p *Plane) nextCore() *Core {
	p.turn++
	return p.cores[p.turn%len(p.cores)]
}

// port chooses a local port. p.mu is held.
func (p *Plane) port() uint16 {
	p.ports++
	return uint16(ephemeral + p.ports%ephemerals)
}

// Connect implements [dataplane.Plane]: to a listener of pipes of this plane, to a
// test that called Serve, to nobody (Void), else it is refused.
func (p *Plane) Connect(ctx context.Context, cfg *dataplane.ConnectConfig) (h dataplane.Handle, err error) {
	err = p.change(ctx, "Connect", func() error {
		if !cfg.Remote.IsValid() || cfg.Core >= len(p.cores) {
			return dataplane.CodeInvalid
		}
		if cfg.Kind != dataplane.SessionPipe || cfg.Carrier != dataplane.CarrierStack {
			return dataplane.CodeUnsupported
		}
		var core *Core
		if cfg.Core >= 0 {
			core = p.cores[cfg.Core]
		} else {
			core = p.nextCore()
		}
		local := cfg.Local
		if !local.Addr().IsValid() {
			local = netip.AddrPortFrom(cfg.Remote.Addr(), local.Port())
		}
		if local.Port() == 0 {
			local = netip.AddrPortFrom(local.Addr(), p.port())
		}
		e := p.newPipe(core, local, cfg.Remote)
		h = e.handle
		p.reach(e)
		return nil
	})
	return h, err
}

// reach finds the other end of a connection that begins. p.mu is held.
func (p *Plane) reach(e *pipe) {
	l := p.found(e.remote)
	switch {
	case l != nil && !p.draining && (l.Config.MaxConns == 0 || l.Conns < l.Config.MaxConns):
		o := p.newPipe(p.nextCore(), e.remote, e.local)
		o.listener = l.ID
		l.Conns++
		e.other, o.other = o, e
		o.event(dataplane.Event{Op: dataplane.EventOpen, Incoming: true, Local: o.local, Remote: o.remote}, nil)
	case p.served[e.remote] != nil:
		o := p.newPipe(nil, e.remote, e.local)
		e.other, o.other = o, e
		s := p.served[e.remote]
		s.waiting = append(s.waiting, &Remote{o})
		s.wake()
	case p.voids[e.remote]:
		return
	default:
		e.end(dataplane.CodeRefused)
		return
	}
	e.event(dataplane.Event{Op: dataplane.EventOpen, Local: e.local, Remote: e.remote}, nil)
}

// end is a connection's last event. p.mu is held.
func (e *pipe) end(why dataplane.Code) {
	if e.ended {
		return
	}
	e.ended, e.why = true, why
	e.out, e.outLen = nil, 0
	e.sentRoom()
	if e.core != nil {
		e.event(dataplane.Event{Op: dataplane.EventClosed, Err: why}, nil)
		delete(e.p.pipes, e.handle)
		e.p.freeHandle(e.handle)
		if l := e.p.listeners[e.listener]; l != nil {
			l.Conns--
		}
	}
	e.wake()
}

func (e *pipe) wake() {
	select {
	case e.notify <- struct{}{}:
	default:
	}
}

// sentRoom returns what SetSendRoom counts. p.mu is held.
func (e *pipe) sentRoom() {
	if e.p.room >= 0 {
		e.p.room += e.writes
	}
	e.writes = 0
}

// move passes on what the other end has room for. p.mu is held.
func (e *pipe) move() {
	o := e.other
	sent := 0
	for len(e.out) > 0 && !e.ended {
		b := e.out[0]
		n := min(len(b), pipePiece)
		switch {
		case o == nil: // closed there: nobody takes it
			e.end(dataplane.CodeReset)
			return
		case o.closed:
		case o.window <= 0:
			n = 0
		default:
			n = min(n, o.window)
			o.window -= n
			o.receive(b[:n])
		}
		if n == 0 {
			break
		}
		if sent += n; n == len(b) {
			e.out[0] = nil
			e.out = e.out[1:]
		} else {
			e.out[0] = b[n:]
		}
		e.outLen -= n
	}
	if sent > 0 {
		if len(e.out) == 0 {
			e.sentRoom()
		}
		if !e.closed {
			e.event(dataplane.Event{Op: dataplane.EventSent, Bytes: uint32(sent)}, nil)
		}
		e.wake()
	}
	if len(e.out) == 0 && e.shut {
		e.finish()
	}
}

func (e *pipe) receive(b []byte) {
	if e.core == nil {
		e.in = append(e.in, b...)
		e.wake()
		return
	}
	e.event(dataplane.Event{Op: dataplane.EventData}, b)
}

// finish tells the other end that there is no more, and ends what is over. p.mu is held.
func (e *pipe) finish() {
	o := e.other
	if !e.eof && o != nil {
		e.eof = true
		if o.core == nil {
			o.inEOF = true
			o.wake()
		} else if !o.closed {
			o.event(dataplane.Event{Op: dataplane.EventEOF}, nil)
		}
	}
	switch {
	case o == nil, o.eof: // both halves are over
		e.end(dataplane.CodeOK)
		if o != nil {
			o.end(dataplane.CodeOK)
		}
	case e.closed:
		// The other half may go on for nobody; what it sends now is answered by a reset.
		o.other = nil
		e.end(dataplane.CodeOK)
	}
}

// obeyPipe carries out a flushed command. p.mu is held.
func (e *pipe) obey(cmd Command) {
	switch cmd.Op {
	case OpWrite:
		if e.shut || e.outLen >= pipeQueue {
			// As the cores do: refused, and the writer's stream has a hole.
			e.event(dataplane.Event{Op: dataplane.EventSent, Bytes: uint32(len(cmd.Body)), Err: dataplane.CodeFull}, nil)
			return
		}
		e.out = append(e.out, cmd.Body)
		e.outLen += len(cmd.Body)
		e.writes++
		e.move()
	case OpCloseWrite:
		e.shut = true
		e.move()
	case OpCredit:
		e.window += int(cmd.Bytes)
		if e.other != nil {
			e.other.move()
		}
	case OpClose:
		e.shut, e.closed = true, true
		o := e.other
		e.move()
		if o != nil && !o.ended {
			o.move() // what waited for room has nobody to wait for
		}
	case OpAbort:
		e.abort(dataplane.CodeAborted, dataplane.CodeReset)
	}
}

// abort ends both ends, each with its reason. p.mu is held.
func (e *pipe) abort(here, there dataplane.Code) {
	o := e.other
	e.end(here)
	if o != nil {
		o.end(there)
	}
}

// Remote is the far end of a pipe, played by a test. Its methods are safe for
// concurrent use.
type Remote struct{ e *pipe }

// DialPipe opens a connection to a listener of pipes on a core, as Dial does for NPRO.
func (p *Plane) DialPipe(core int, id dataplane.ListenerID, remote netip.AddrPort) (*Remote, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.draining {
		return nil, dataplane.CodeShutdown
	}
	l := p.listeners[id]
	if l == nil || l.Config.Kind != dataplane.SessionPipe {
		return nil, dataplane.CodeStale
	}
	if l.Config.MaxConns > 0 && l.Conns >= l.Config.MaxConns {
		return nil, dataplane.CodeLimit
	}
	l.Conns++
	o := p.newPipe(p.cores[core], l.Config.Address, remote)
	e := p.newPipe(nil, remote, l.Config.Address)
	o.listener = id
	e.other, o.other = o, e
	o.event(dataplane.Event{Op: dataplane.EventOpen, Incoming: true, Local: o.local, Remote: o.remote}, nil)
	return &Remote{e}, nil
}

// Server is who answers an address outside the plane, played by a test.
type Server struct {
	p       *Plane
	waiting []*Remote
	notify  chan struct{}
}

func (s *Server) wake() {
	select {
	case s.notify <- struct{}{}:
	default:
	}
}

// Serve makes connections to an address succeed; the test plays their far ends.
func (p *Plane) Serve(at netip.AddrPort) *Server {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &Server{p: p, notify: make(chan struct{}, 1)}
	p.served[at] = s
	return s
}

// Void makes connections to an address wait for ever.
func (p *Plane) Void(at netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.voids[at] = true
}

// Accept returns the next connection.
func (s *Server) Accept(ctx context.Context) (*Remote, error) {
	for {
		s.p.mu.Lock()
		if len(s.waiting) > 0 {
			r := s.waiting[0]
			s.waiting = s.waiting[1:]
			s.p.mu.Unlock()
			return r, nil
		}
		s.p.mu.Unlock()
		select {
		case <-s.notify:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Handle returns the plane's end, 0 when it is gone.
func (r *Remote) Handle() dataplane.Handle {
	r.e.p.mu.Lock()
	defer r.e.p.mu.Unlock()
	if r.e.other == nil {
		return 0
	}
	return r.e.other.handle
}

// Write sends bytes to the plane. What its reader has no room for waits; Queued tells.
func (r *Remote) Write(b []byte) error {
	r.e.p.mu.Lock()
	defer r.e.p.mu.Unlock()
	if r.e.ended || r.e.shut {
		return dataplane.CodeState
	}
	r.e.out = append(r.e.out, append([]byte(nil), b...))
	r.e.outLen += len(b)
	r.e.move()
	return nil
}

// Queued returns the bytes written that the plane's end has no room for.
func (r *Remote) Queued() int {
	r.e.p.mu.Lock()
	defer r.e.p.mu.Unlock()
	return r.e.outLen
}

// CloseWrite ends what the plane's end reads.
func (r *Remote) CloseWrite() {
	r.e.p.mu.Lock()
	defer r.e.p.mu.Unlock()
	r.e.shut = true
	r.e.move()
}

// Abort ends the plane's end with a reason, as a reset or a time-out does.
func (r *Remote) Abort(why dataplane.Code) {
	r.e.p.mu.Lock()
	defer r.e.p.mu.Unlock()
	r.e.abort(dataplane.CodeAborted, why)
}

// Read returns what the plane's end sent, at most n bytes, and makes room for as many.
// It blocks until there is something; CodeEOF at the end, else why the connection ended.
func (r *Remote) Read(ctx context.Context, n int) ([]byte, error) {
	e := r.e
	for {
		e.p.mu.Lock()
		switch {
		case len(e.in) > 0:
			b := append([]byte(nil), e.in[:min(n, len(e.in))]...)
			e.in = e.in[len(b):]
			e.window += len(b)
			if e.other != nil {
				e.other.move()
			}
			e.p.mu.Unlock()
			return b, nil
		case e.inEOF:
			e.p.mu.Unlock()
			return nil, dataplane.CodeEOF
		case e.ended:
			e.p.mu.Unlock()
			return nil, e.why
		}
		e.p.mu.Unlock()
		select {
		case <-e.notify:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// socket is a UDP socket: one handle for each core.
type socket struct {
	local   netip.AddrPort
	handles []dataplane.Handle
}

// BindUDP implements [dataplane.Plane]. Datagrams reach other sockets of the plane.
func (p *Plane) BindUDP(ctx context.Context, local netip.AddrPort, dscp int) (hs []dataplane.Handle, bound netip.AddrPort, err error) {
	err = p.change(ctx, "BindUDP", func() error {
		if !local.Addr().IsValid() || dscp < 0 || dscp > 63 {
			return dataplane.CodeInvalid
		}
		for try := 0; local.Port() == 0 || p.bound(local) != nil; try++ {
			if local.Port() != 0 && try == 0 || try > ephemerals {
				return dataplane.CodeAddrinuse
			}
			local = netip.AddrPortFrom(local.Addr(), p.port())
		}
		s := &socket{local: local}
		for i := range p.cores {
			h := p.newHandle(i)
			s.handles = append(s.handles, h)
			p.sockets[h] = s
		}
		hs, bound = append([]dataplane.Handle(nil), s.handles...), local
		return nil
	})
	return hs, bound, err
}

// bound is the socket with exactly this address. p.mu is held.
func (p *Plane) bound(at netip.AddrPort) *socket {
	for _, s := range p.sockets {
		if s.local == at {
			return s
		}
	}
	return nil
}

// CloseUDP implements [dataplane.Plane].
func (p *Plane) CloseUDP(ctx context.Context, handles []dataplane.Handle) error {
	return p.change(ctx, "CloseUDP", func() error {
		for _, h := range handles {
			if p.sockets[h] == nil {
				return dataplane.CodeStale
			}
			delete(p.sockets, h)
			p.freeHandle(h)
		}
		return nil
	})
}

// datagram carries out OpSendTo. p.mu is held.
func (p *Plane) datagram(s *socket, cmd Command) {
	from := s.local
	switch {
	case cmd.Local.IsValid():
		from = netip.AddrPortFrom(cmd.Local, from.Port())
	case from.Addr().IsUnspecified():
		from = netip.AddrPortFrom(cmd.Remote.Addr(), from.Port()) // to oneself
	}
	to := p.bound(cmd.Remote)
	if to == nil {
		any := netip.IPv6Unspecified()
		if cmd.Remote.Addr().Is4() {
			any = netip.IPv4Unspecified()
		}
		if to = p.bound(netip.AddrPortFrom(any, cmd.Remote.Port())); to == nil {
			to = p.bound(netip.AddrPortFrom(netip.IPv6Unspecified(), cmd.Remote.Port()))
		}
	}
	if to == nil {
		return
	}
	i := int(from.Port()) % len(p.cores)
	if len(p.cores[i].events) < datagramsMax {
		p.cores[i].push(dataplane.Event{Op: dataplane.EventDatagram, Conn: to.handles[i], Local: cmd.Remote, Remote: from}, nonNil(cmd.Body))
	}
}

// datagramsMax is how many events a core has waiting when datagrams are dropped.
const datagramsMax = 4096
