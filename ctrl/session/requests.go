package session

import (
	"context"

	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/dataplane"
)

// job is one complete REQUEST or MESSAGE.
type job struct {
	st     *stream
	body   []byte // in place, or a copy that hold() accounts for
	flags  uint8
	oneWay bool
	credit int // returned to the stream when the handler is done
	held   int
}

// message takes one frame of a REQUEST, MESSAGE or DATA. Runs on the core's
// reader; ev.Body is gone when it returns.
func (c *conn) message(ev *dataplane.Event) {
	n := ev.Len()
	c.mu.Lock()
	if c.state != stateOpen {
		c.mu.Unlock()
		return // closing: credit is of no use to anyone
	}
	st := c.streams[ev.Stream]
	if st == nil && !c.opens(ev) || st != nil && !st.takes(ev) {
		c.mu.Unlock()
		c.m.count("stray_frame")
		c.sh.credit(c.handle, ev.Stream, n)
		return
	}
	first := st == nil
	if first {
		st = newStream(c, ev)
		c.streams[st.id] = st
		c.lastStream = st.id
	}
	st.touched = c.m.cfg.Now()
	if npro.Type(ev.Type) == npro.TypeData {
		c.data(st, ev, n)
		c.mu.Unlock()
		if first {
			c.open(st)
		}
		return
	}
	if st.partial || ev.Flags&npro.FlagMore != 0 {
		done := c.assemble(st, ev, n)
		c.mu.Unlock()
		if done != nil {
			c.run(*done, false)
		}
		return
	}
	st.busy = true
	c.mu.Unlock()
	c.run(job{st: st, flags: ev.Flags, oneWay: st.oneWay, credit: n}, true, ev.Body...)
}

// opens says whether a frame may begin a stream: numbers rise, and a RESPONSE
// answers a request of ours, of which there are none. c.mu is held.
func (c *conn) opens(ev *dataplane.Event) bool {
	return ev.Stream > c.lastStream && npro.Type(ev.Type) != npro.TypeResponse
}

// assemble adds a frame to a message that comes in several. Its credit returns
// at once: what is held is bounded by ConnMemory and MessageMemory instead, and
// a message longer than the window could not arrive otherwise. c.mu is held.
func (c *conn) assemble(st *stream, ev *dataplane.Event, n int) *job {
	defer c.sh.credit(c.handle, st.id, n)
	if !st.partial {
		st.partial, st.flags = true, ev.Flags
		c.m.partial.Add(1)
	}
	max := int64(c.m.cfg.Keys.MaxPayload) + slack
	switch {
	case int64(len(st.body)+n) > max:
		c.drop(st, npro.CodeTooLarge, "message_too_large")
		return nil
	case !c.hold(n):
		c.drop(st, npro.CodeOverloaded, "message_memory")
		return nil
	}
	st.held += n
	if len(st.body)+n > cap(st.body) { // double, so that adding stays linear
		grown := make([]byte, len(st.body), max64(2*cap(st.body), len(st.body)+n))
		copy(grown, st.body)
		st.body = grown
	}
	for _, p := range ev.Body {
		st.body = append(st.body, p...)
	}
	if ev.Flags&npro.FlagMore != 0 {
		return nil
	}
	c.m.partial.Add(-1)
	st.partial, st.busy = false, true
	j := &job{st: st, body: st.body, flags: st.flags&npro.FlagCtx | ev.Flags&npro.FlagEnd, oneWay: st.oneWay, held: st.held}
	st.body, st.held = nil, 0
	return j
}

// slack is what opcode and context may add to a payload.
const slack = 1 + npro.MaxOpcode + 2 + 1<<16

func max64(a, b int) int { return max(a, b, 4096) }

// drop resets a stream and forgets what it held. c.mu is held.
func (c *conn) drop(st *stream, code npro.Code, reason string) {
	c.m.count(reason)
	c.forget(st)
	c.sh.must(func() error { return c.sh.core.Reset(c.handle, st.id, uint32(code)) })
}

// refuse is drop for those who do not hold c.mu and have no stream.
func (c *conn) refuse(id uint32, code npro.Code) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if st := c.streams[id]; st != nil && c.state == stateOpen {
		st.fail(dataplane.CodeTimedout)
		c.forget(st)
		c.sh.must(func() error { return c.sh.core.Reset(c.handle, id, uint32(code)) })
	}
}

// parsed is a request ready for its handler, or the code it is refused with.
type parsed struct {
	entry *dispatch.Entry
	req   dispatch.Request
	code  npro.Code
	why   string
}

// opensStream says whether a request begins a byte stream: it does not END, and
// its opcode serves streams.
func (j *job) opensStream(p *parsed) bool {
	return p.entry != nil && p.entry.Stream != nil && !j.oneWay && j.flags&npro.FlagEnd == 0
}

// parse reads a message's body into p and checks its sender's rights.
func (c *conn) parse(p *parsed, j *job, body []byte) {
	*p = parsed{}
	if j.flags&npro.FlagCtx != 0 {
		ctx, rest, err := npro.ParseContext(body)
		if err != nil {
			p.code, p.why = npro.CodeBadRequest, "bad_context"
			return
		}
		p.req.Context, body = ctx, rest
	}
	opcode, payload, err := npro.SplitRequest(body)
	switch {
	case err != nil:
		p.code, p.why = npro.CodeBadRequest, "bad_request"
		return
	case int64(len(payload)) > int64(c.m.cfg.Keys.MaxPayload):
		p.code, p.why = npro.CodeTooLarge, "message_too_large"
		return
	case !c.rights.may(opcode):
		// Before UNKNOWN_OPCODE: who may not call learns nothing of what there is.
		p.code, p.why = npro.CodeDenied, "denied"
		return
	case p.req.Context.HasDeadline && p.req.Context.Deadline <= 0:
		p.code, p.why = npro.CodeTimeout, "deadline_passed"
		return
	}
	if p.entry = c.m.cfg.Registry.Find(opcode); p.entry == nil {
		p.code, p.why = npro.CodeUnknownOpcode, "unknown_opcode"
		return
	}
	p.req.Opcode, p.req.Payload, p.req.OneWay, p.req.Peer = p.entry.Opcode, payload, j.oneWay, c.peer
}

// run starts a complete message on the core's reader: inline handlers and
// refusals here and now, the rest by workers. inPlace: pieces is the body, and
// gone when run returns.
func (c *conn) run(j job, inPlace bool, pieces ...[]byte) {
	body := j.body
	if inPlace {
		if len(pieces) == 1 {
			body = pieces[0]
		} else {
			body = join(nil, pieces)
			j.body, inPlace = body, false
		}
	}
	c.mu.Lock()
	free := c.inflight < c.m.cfg.Backpressure && len(c.waiting) == 0
	if free {
		c.inflight++
	}
	c.mu.Unlock()
	if free && c.inline(&j, body) {
		return
	}
	waits := j // only those that wait are kept
	c.queue(&waits, body, inPlace)
}

// inline answers a message on the reader if that may be, or starts its byte
// stream; the message's place is taken, and given back when it may not.
func (c *conn) inline(j *job, body []byte) bool {
	p := &c.sh.scratch
	c.parse(p, j, body)
	stream := j.opensStream(p)
	if p.entry != nil && !p.entry.Inline && !stream {
		c.mu.Lock()
		c.inflight--
		c.mu.Unlock()
		return false
	}
	c.m.stats.inflight.Add(1)
	if stream && c.begin(j, p) {
		return true
	}
	code, payload := c.call(c.ctx, p)
	if j.oneWay {
		c.m.stats.oneWay.Add(1)
		c.finish(j)
		return true
	}
	head, flags := c.head(code, &p.req)
	if c.trySend(j.st, head, flags, payload) {
		c.finish(j)
		return true
	}
	// It has to wait for its peer, and the reader must not: a goroutine of its
	// own, that counts as in flight.
	late, payload := *j, append([]byte(nil), payload...)
	c.m.wg.Go(func() {
		c.sendAll(c.ctx, late.st, head, flags, payload)
		c.finish(&late)
		c.sh.core.Flush()
		c.m.schedule(c)
	})
	return true
}

// queue keeps a message for a worker.
func (c *conn) queue(j *job, body []byte, inPlace bool) {
	c.mu.Lock()
	if c.state != stateOpen {
		c.mu.Unlock()
		return
	}
	if j.held == 0 {
		if !c.hold(len(body)) {
			c.mu.Unlock()
			c.m.count("message_memory")
			c.overloaded(j)
			return
		}
		j.held = len(body)
		if inPlace {
			body = append(make([]byte, 0, len(body)), body...)
		}
		j.body = body
	}
	c.waiting = append(c.waiting, j)
	c.m.stats.inflight.Add(1)
	c.mu.Unlock()
	c.m.schedule(c)
}

// overloaded resets the stream of a message there is no memory for, and
// returns its credit.
func (c *conn) overloaded(j *job) {
	c.mu.Lock()
	if c.state == stateOpen {
		c.forget(j.st)
		c.sh.must(func() error { return c.sh.core.Reset(c.handle, j.st.id, uint32(npro.CodeOverloaded)) })
	}
	c.mu.Unlock()
	c.sh.credit(c.handle, j.st.id, j.credit)
}

// schedule puts a connection with waiting messages in the workers' queue and
// starts a worker if there may be one more.
func (m *Manager) schedule(c *conn) {
	c.mu.Lock()
	add := len(c.waiting) > 0 && !c.runnable && c.inflight < m.cfg.Backpressure
	c.runnable = c.runnable || add
	c.mu.Unlock()
	if !add {
		return
	}
	m.runMu.Lock()
	m.runnable = append(m.runnable, c)
	start := m.running < m.cfg.Workers && m.ctx.Err() == nil
	if start {
		m.running++
		m.wg.Add(1)
	}
	m.runMu.Unlock()
	if start {
		go m.work()
	}
}

// work runs waiting messages, one connection after the other, until there is
// none.
func (m *Manager) work() {
	defer m.wg.Done()
	for {
		m.runMu.Lock()
		if len(m.runnable) == 0 || m.ctx.Err() != nil {
			m.running--
			m.runMu.Unlock()
			return
		}
		c := m.runnable[0]
		m.runnable[0] = nil
		m.runnable = m.runnable[1:]
		m.runMu.Unlock()
		if j := c.take(); j != nil {
			m.schedule(c) // the connection's next one, for another worker
			c.handle1(j)
			c.sh.core.Flush()
		}
		m.schedule(c)
	}
}

// take removes the first waiting message.
func (c *conn) take() *job {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runnable = false
	if len(c.waiting) == 0 || c.inflight >= c.m.cfg.Backpressure {
		return nil
	}
	j := c.waiting[0]
	c.waiting[0] = nil
	c.waiting = c.waiting[1:]
	c.inflight++
	return j
}

// handle1 runs one message on a worker.
func (c *conn) handle1(j *job) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	c.mu.Lock()
	j.st.cancel = cancel
	dead := j.st.dead
	c.mu.Unlock()
	if dead { // given up while it waited
		c.finish(j)
		return
	}
	var p parsed
	c.parse(&p, j, j.body)
	if j.opensStream(&p) && c.begin(j, &p) {
		return
	}
	if p.entry != nil && p.req.Context.HasDeadline {
		var end context.CancelFunc
		ctx, end = context.WithTimeout(ctx, p.req.Context.Deadline)
		defer end()
	}
	code, payload := c.call(ctx, &p)
	if j.oneWay {
		c.m.stats.oneWay.Add(1)
	} else {
		head, flags := c.head(code, &p.req)
		c.sendAll(c.ctx, j.st, head, flags, payload)
	}
	c.finish(j)
}

// call runs the handler, or counts the refusal.
func (c *conn) call(ctx context.Context, p *parsed) (npro.Code, []byte) {
	if p.entry == nil {
		c.m.count(p.why)
		return p.code, nil
	}
	return c.m.cfg.Registry.Call(ctx, p.entry, &p.req)
}

// status counts a response and gives its first byte. A close code is no status.
func (c *conn) status(code npro.Code) []byte {
	if code > 255 {
		code = npro.CodeInternal
	}
	c.m.stats.status[code].Add(1)
	return c.m.codes[code : code+1]
}

// head is what a response begins with, and its flags: its status, after the context
// that the handler wants to go with it.
func (c *conn) head(code npro.Code, req *dispatch.Request) ([]byte, uint8) {
	status := c.status(code)
	if req.Reply.IsZero() {
		return status, 0
	}
	block, err := npro.AppendContext(nil, &req.Reply)
	if err != nil || len(block) >= c.frameMax {
		c.m.count("bad_reply_context")
		return status, 0
	}
	return append(block, status...), npro.FlagCtx
}

// finish ends a message and its stream.
func (c *conn) finish(j *job) {
	c.release(j)
	c.mu.Lock()
	defer c.mu.Unlock()
	j.st.cancel = nil
	j.st.busy, j.st.done = false, true
	c.tidy(j.st)
}

// release ends a message's stay here: its credit, memory and place go back.
func (c *conn) release(j *job) {
	c.sh.credit(c.handle, j.st.id, j.credit)
	c.m.stats.inflight.Add(-1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inflight--
	c.free(j.held)
}
