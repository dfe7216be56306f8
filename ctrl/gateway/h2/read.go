package h2

import (
	"encoding/binary"
	"io"
)

// read reads frames until the connection ends, and says why it does.
func (c *Conn) read() error {
	if err := c.readPreface(); err != nil {
		return err
	}
	for {
		for c.to-c.from >= frameHead {
			f := parseFrame(c.buf[c.from:])
			if f.length > maxFrame {
				return fatal(FrameSizeError, "frame longer than the settings allow")
			}
			if c.to-c.from < frameHead+f.length {
				break
			}
			p := c.buf[c.from+frameHead : c.from+frameHead+f.length]
			c.from += frameHead + f.length
			if err := c.take(f, p); err != nil {
				return err
			}
		}
		c.awaitHead()
		if err := c.fill(); err != nil {
			return err
		}
	}
}

// readPreface reads what a client sends first (RFC 9113 §3.4).
func (c *Conn) readPreface() error {
	for at := 0; at < len(preface); at++ {
		if c.from == c.to {
			if err := c.fill(); err != nil {
				return err
			}
		}
		if c.buf[c.from] != preface[at] {
			return fatal(ProtocolError, "no preface")
		}
		c.from++
	}
	return nil
}

// fill reads more. What was written in the meantime is sent.
func (c *Conn) fill() error {
	c.mu.Lock()
	c.kick()
	over := c.over
	c.mu.Unlock()
	if over {
		return errOver
	}
	switch {
	case c.from == c.to:
		if c.from, c.to = 0, 0; c.large != nil {
			c.e.ins.Put(c.large)
			c.large, c.buf = nil, c.small[:]
		}
	case c.large == nil && c.to-c.from >= frameHead && frameHead+parseFrame(c.buf[c.from:]).length > len(c.buf):
		c.large = c.e.ins.Get().(*[largeRead]byte)
		c.to = copy(c.large[:], c.buf[c.from:c.to])
		c.from, c.buf = 0, c.large[:]
	case c.from > 0:
		c.to = copy(c.buf, c.buf[c.from:c.to])
		c.from = 0
	}
	n, err := c.nc.Read(c.buf[c.to:])
	if c.to += n; n > 0 {
		c.lastRead.Store(c.e.now())
		return nil
	}
	c.mu.Lock()
	over = c.over
	c.mu.Unlock()
	if over {
		return errOver
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// awaitHead limits the time that a head may take whose frames have begun to arrive.
func (c *Conn) awaitHead() {
	in := !c.greeted || c.head.id != 0
	if !in && c.to-c.from >= frameHead {
		in = c.buf[c.from+3] == typeHeaders
	}
	if !in {
		if c.headSince.Load() != 0 {
			c.headSince.Store(0)
		}
	} else if c.headSince.Load() == 0 {
		c.headSince.Store(c.e.now())
	}
}

// take takes a frame.
func (c *Conn) take(f frame, p []byte) error {
	if c.head.id != 0 && (f.kind != typeContinuation || f.stream != c.head.id) {
		return fatal(ProtocolError, "frame inside a head")
	}
	if !c.greeted {
		if f.kind != typeSettings || f.flags&flagAck != 0 {
			return fatal(ProtocolError, "first frame other than SETTINGS")
		}
		c.greeted = true
	}
	switch f.kind {
	case typeData:
		return c.takeData(f, p)
	case typeHeaders:
		return c.takeHeaders(f, p)
	case typeContinuation:
		return c.takeContinuation(f, p)
	case typeReset:
		return c.takeReset(f, p)
	case typeWindow:
		return c.takeWindow(f, p)
	case typeSettings:
		return c.takeSettings(f, p)
	case typePing:
		return c.takePing(f, p)
	case typePriority:
		return c.takePriority(f, p)
	case typePriorityUpdate:
		return c.takePriorityUpdate(f, p)
	case typeGoAway:
		return c.takeGoAway(f, p)
	case typePush:
		return fatal(ProtocolError, "PUSH_PROMISE from a client")
	}
	c.mu.Lock() // others are ignored (RFC 9113 §4.1)
	defer c.mu.Unlock()
	return c.idle()
}

// idle counts a frame that asks for nothing. c.mu is held.
func (c *Conn) idle() error {
	if c.credit > 0 && len(c.out) < maxControl {
		c.credit--
		return nil
	}
	if len(c.out) >= maxControl || !c.control.take(c.e.now(), c.e.c.Control) {
		c.e.c.Cut(CutControl)
		return fatal(EnhanceYourCalm, "too many frames that ask for nothing")
	}
	return nil
}

// pay gives the client frames of control: gRPC's clients measure the path with pings as
// often as data arrives, others say for every frame of it that they took it.
func (c *Conn) pay(n int) { c.credit = min(c.credit+n, maxCredit) }

const maxCredit = 1000

// mistake counts a stream's reset that is the client's doing. c.mu is held.
func (c *Conn) mistake() error {
	if len(c.out) >= maxControl || !c.resets.take(c.e.now(), c.e.c.Resets) {
		c.e.c.Cut(CutResets)
		return fatal(EnhanceYourCalm, "too many resets")
	}
	return nil
}

// refuse resets a stream for a mistake of the client's. c.mu is held.
func (c *Conn) refuse(id uint32, code Code, why string) error {
	c.e.c.Fault(why)
	c.reset(id, code)
	if st := c.streams[id]; st != nil {
		c.drop(st, &streamError{code, why})
	}
	return c.mistake()
}

// reset sends RST_STREAM. c.mu is held.
func (c *Conn) reset(id uint32, code Code) {
	c.out = appendReset(c.outBuffer(), id, code)
	c.own.add(id, c.e.ownResets())
}

func (c *Conn) takeData(f frame, p []byte) error {
	if f.stream == 0 {
		return fatal(ProtocolError, "DATA without a stream")
	}
	data, err := unpad(f, p)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(data) > 0 {
		c.pay(1)
	} else if f.flags&flagEndStream == 0 {
		if err := c.idle(); err != nil {
			return err
		}
	}
	if c.recv -= f.length; c.recv < 0 {
		return fatal(FlowControlError, "DATA beyond the connection's window")
	}
	st := c.streams[f.stream]
	if st == nil || st.received {
		c.giveBack(f.length)
		switch {
		case f.stream > c.lastID || f.stream%2 == 0:
			return fatal(ProtocolError, "DATA for a stream that was not opened")
		case c.own.has(f.stream) || f.stream > c.accepted:
			return nil
		}
		return c.refuse(f.stream, StreamClosed, "DATA for a stream that was closed")
	}
	if st.window -= f.length; st.window < 0 {
		c.giveBack(f.length)
		return c.refuse(f.stream, FlowControlError, "DATA beyond the stream's window")
	}
	if st.got += int64(len(data)); st.declared >= 0 && st.got > st.declared {
		c.giveBack(f.length)
		return c.refuse(f.stream, ProtocolError, "body longer than its Content-Length")
	}
	if pad := f.length - len(data); pad > 0 { // it is nobody's to read
		c.giveBack(pad)
		c.giveStream(st, pad)
	}
	st.deliver(data)
	if f.flags&flagEndStream != 0 {
		c.endBody(st)
	}
	return nil
}

// endBody ends a request's body. c.mu is held.
func (c *Conn) endBody(st *stream) {
	st.received = true
	if st.declared >= 0 && st.got != st.declared {
		c.e.c.Fault("body shorter than its Content-Length")
		st.malformed = true
		st.endRead(io.ErrUnexpectedEOF)
	} else {
		st.endRead(io.EOF)
	}
	if st.sent {
		c.close(st)
	}
}

// giveBack opens the connection's window again for bytes that don't wait any more. c.mu is held.
func (c *Conn) giveBack(n int) {
	if c.fresh += n; c.fresh >= c.e.c.ConnBytes/4 {
		c.out = appendWindow(c.outBuffer(), 0, c.fresh)
		c.recv += c.fresh
		c.fresh = 0
	}
}

// giveStream opens a stream's.
func (c *Conn) giveStream(st *stream, n int) {
	if st.received {
		return
	}
	if st.fresh += n; st.fresh >= max(1, c.e.c.StreamBytes/4) {
		c.out = appendWindow(c.outBuffer(), st.id, st.fresh)
		st.window += st.fresh
		st.fresh = 0
	}
}

func (c *Conn) takeReset(f frame, p []byte) error {
	if f.length != 4 {
		return fatal(FrameSizeError, "RST_STREAM of another length than 4")
	}
	if f.stream == 0 || f.stream > c.lastID || f.stream%2 == 0 {
		return fatal(ProtocolError, "RST_STREAM for a stream that was not opened")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if st := c.streams[f.stream]; st != nil {
		c.drop(st, &streamError{Code(binary.BigEndian.Uint32(p)), "reset by the client"})
	}
	return c.mistake()
}

func (c *Conn) takeWindow(f frame, p []byte) error {
	if f.length != 4 {
		return fatal(FrameSizeError, "WINDOW_UPDATE of another length than 4")
	}
	n := int64(binary.BigEndian.Uint32(p) & maxWindow)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 && n < smallWindow {
		if err := c.idle(); err != nil {
			return err
		}
	}
	if f.stream == 0 {
		if n == 0 {
			return fatal(ProtocolError, "WINDOW_UPDATE by 0")
		}
		if c.window += n; c.window > maxWindow {
			return fatal(FlowControlError, "window of the connection too large")
		}
		c.pump()
		return nil
	}
	st := c.streams[f.stream]
	switch {
	case f.stream > c.lastID || f.stream%2 == 0:
		return fatal(ProtocolError, "WINDOW_UPDATE for a stream that was not opened")
	case st == nil:
		return nil // it has ended, and the client does not know yet
	case n == 0:
		return c.refuse(f.stream, ProtocolError, "WINDOW_UPDATE by 0")
	}
	if st.give += n; st.give > maxWindow {
		return c.refuse(f.stream, FlowControlError, "window of a stream too large")
	}
	if st.waits() {
		c.ready.add(st)
		c.pump()
	}
	return nil
}

// smallWindow is a window that is counted: each one could have us send a frame of a byte.
const smallWindow = 256

func (c *Conn) takePing(f frame, p []byte) error {
	if f.length != 8 {
		return fatal(FrameSizeError, "PING of another length than 8")
	}
	if f.stream != 0 {
		return fatal(ProtocolError, "PING for a stream")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.flags&flagAck != 0 {
		c.pinged = 0
		if string(p) == goAwayPing && c.stage == stageTold {
			c.last(c.e.now())
		}
		return nil
	}
	if err := c.idle(); err != nil {
		return err
	}
	c.out = append(appendFrame(c.outBuffer(), 8, typePing, flagAck, 0), p...)
	return nil
}

func (c *Conn) takePriority(f frame, p []byte) error {
	if f.stream == 0 {
		return fatal(ProtocolError, "PRIORITY without a stream")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.idle(); err != nil {
		return err
	}
	if f.length != 5 {
		return c.refuse(f.stream, FrameSizeError, "PRIORITY of another length than 5")
	}
	if binary.BigEndian.Uint32(p)&maxWindow == f.stream {
		return c.refuse(f.stream, ProtocolError, "stream that depends on itself")
	}
	return nil // RFC 9113 §5.3.2: nothing else is made of them
}

// maxUpdates bounds what is kept of priorities for streams to come.
const maxUpdates = 64

func (c *Conn) takePriorityUpdate(f frame, p []byte) error {
	if f.stream != 0 {
		return fatal(ProtocolError, "PRIORITY_UPDATE on a stream")
	}
	if f.length < 4 {
		return fatal(FrameSizeError, "PRIORITY_UPDATE shorter than 4")
	}
	id := binary.BigEndian.Uint32(p) & maxWindow
	if id%2 == 0 { // 0, or one of ours, of which there are none
		return fatal(ProtocolError, "PRIORITY_UPDATE for a stream that can't be the client's")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.idle(); err != nil {
		return err
	}
	c.aware = true
	if st := c.streams[id]; st != nil {
		if !c.between {
			c.ready.move(st, parsePriority(plainPriority, string(p[4:])))
		}
		return nil
	}
	if id > c.lastID && len(p) <= 4+maxPriority && (len(c.updates) < min(maxUpdates, c.e.c.Streams) || c.updates[id] != "") {
		if c.updates == nil {
			c.updates = map[uint32]string{}
		}
		c.updates[id] = string(p[4:])
	}
	return nil
}

// maxPriority is the longest priority that is kept.
const maxPriority = 64

func (c *Conn) takeGoAway(f frame, p []byte) error {
	if f.stream != 0 {
		return fatal(ProtocolError, "GOAWAY for a stream")
	}
	if f.length < 8 {
		return fatal(FrameSizeError, "GOAWAY shorter than 8")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.idle(); err != nil {
		return err
	}
	c.last(c.e.now())
	return nil
}

func (c *Conn) takeSettings(f frame, p []byte) error {
	if f.stream != 0 {
		return fatal(ProtocolError, "SETTINGS for a stream")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.flags&flagAck != 0 {
		if f.length != 0 {
			return fatal(FrameSizeError, "acknowledgment of SETTINGS that has settings")
		}
		c.unsettled = 0
		return nil
	}
	if f.length%6 != 0 {
		return fatal(FrameSizeError, "SETTINGS of a length that is no multiple of 6")
	}
	if err := c.idle(); err != nil {
		return err
	}
	first := c.first
	for ; len(p) > 0; p = p[6:] { // bound: maxFrame
		v := binary.BigEndian.Uint32(p[2:])
		switch binary.BigEndian.Uint16(p) {
		case settingTableSize:
			c.enc.SetMaxDynamicTableSize(min(v, tableBytes))
		case settingPush, settingConnect, settingNoOldPriorities:
			if v > 1 {
				return fatal(ProtocolError, "setting that is neither 0 nor 1")
			}
		case settingWindow:
			if v > maxWindow {
				return fatal(FlowControlError, "window in SETTINGS too large")
			}
			first = int64(v)
		case settingFrameSize:
			if v < maxFrame || v > 1<<24-1 {
				return fatal(ProtocolError, "frame size in SETTINGS that can't be")
			}
		}
	}
	// The acknowledgment comes before what the new windows let out: a client may look for it
	// before it takes anything by them.
	c.out = appendFrame(c.outBuffer(), 0, typeSettings, flagAck, 0)
	return c.rewindow(first)
}

// rewindow changes the window that streams begin with, and that of those there are (RFC
// 9113 §6.9.2). c.mu is held.
func (c *Conn) rewindow(first int64) error {
	d := first - c.first
	if c.first = first; d == 0 {
		return nil
	}
	for _, st := range c.streams { // bound: Config.Streams, and once a frame
		if st.give += d; st.give > maxWindow {
			return fatal(FlowControlError, "window of a stream too large")
		}
		if st.waits() {
			c.ready.add(st)
		} else {
			c.ready.remove(st)
		}
	}
	c.pump()
	return nil
}
