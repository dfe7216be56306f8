package client

import (
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/np-appliance/np/ctrl/npro"
)

const readBuffer = 256 << 10

// reader is what only the reading goroutine touches.
type reader struct {
	c      *conn
	opener *npro.Opener
	unpack npro.Decompressor
	buf    []byte
	raw    []byte // decompressed body
	highID uint32 // of the server's streams
}

// run reads, opens and hands out frames until the connection ends.
func (r *reader) run() {
	defer r.opener.Wipe()
	defer r.unpack.Close()
	c := r.c
	start, end := 0, 0
	for {
		used, err := r.frames(r.buf[start:end])
		start += used
		if err != nil {
			return
		}
		if start == end {
			start, end = 0, 0
			if len(r.buf) > readBuffer {
				r.buf = make([]byte, readBuffer)
			}
		} else if start > 0 && len(r.buf)-end < readBuffer/4 {
			copy(r.buf, r.buf[start:end])
			start, end = 0, end-start
		}
		if end == len(r.buf) {
			// A frame longer than the buffer: grow with what arrived, not with what
			// the header claims. ParseHeader has held the claim against our limit.
			r.buf = append(r.buf, make([]byte, len(r.buf))...)
		}
		n, err := c.nc.Read(r.buf[end:])
		if n > 0 {
			c.lastRx.Store(c.now())
		}
		end += n
		if err != nil && n == 0 {
			if err == io.EOF { // even between frames: who reads a stream must not take it for the stream's end
				err = io.ErrUnexpectedEOF
			}
			if !isTimeout(err) {
				c.end(fmt.Errorf("read: %w", err), 0)
			}
			return
		}
	}
}

// frames handles the whole frames at the front of b and returns their length.
// After an error the connection has ended.
func (r *reader) frames(b []byte) (used int, err error) {
	for len(b)-used >= npro.HeaderSize {
		head := b[used : used+npro.HeaderSize]
		h, err := npro.ParseHeader(head, r.c.cfg.MaxFrame)
		if err == nil {
			err = r.judge(h)
		}
		if err != nil {
			r.c.end(fmt.Errorf("%w: %w", ErrProtocol, err), npro.CodeProtocolError)
			return used, err
		}
		size := npro.HeaderSize + int(h.Length)
		if len(b)-used < size {
			return used, nil
		}
		body, err := r.opener.Open(head, b[used+npro.HeaderSize:used+size])
		if err != nil {
			r.c.end(fmt.Errorf("%w: %w", ErrProtocol, err), 0) // not one word more
			return used, err
		}
		if err := r.frame(h, body); err != nil {
			return used, err
		}
		used += size
	}
	return used, nil
}

// judge looks at a header before its frame is opened, as csrc/session does.
func (r *reader) judge(h npro.Header) error {
	switch {
	case h.Flags&npro.FlagEnc == 0:
		return fmt.Errorf("%v in clear", h.Type)
	case h.Type >= npro.TypeHandshake1 && h.Type <= npro.TypeHandshake3:
		return fmt.Errorf("%v after the handshake", h.Type)
	case h.Length < npro.TagSize:
		return fmt.Errorf("%v shorter than its tag", h.Type)
	}
	if !h.Type.Flow() {
		streamed := h.Type == npro.TypeReset || h.Type == npro.TypeWindow && h.Stream != 0
		if h.Flags != npro.FlagEnc || (h.Stream != 0) != streamed {
			return fmt.Errorf("%v with flags %#x on stream %d", h.Type, h.Flags, h.Stream)
		}
		return nil
	}
	packed := h.Flags & (npro.FlagLZ4 | npro.FlagZstd) // FlagLZ4 is 1 << CompressionLZ4, and so on
	switch {
	case h.Stream == 0:
		return fmt.Errorf("%v without a stream", h.Type)
	case h.Flags&npro.FlagEnd != 0 && h.Flags&npro.FlagMore != 0:
		return fmt.Errorf("%v that ends and goes on", h.Type)
	case packed&^r.c.res.CompressionRx != 0:
		return fmt.Errorf("%v with a compression not agreed on", h.Type)
	}
	return nil
}

// fatal ends the connection for a broken rule.
func (r *reader) fatal(code npro.Code, format string, args ...any) error {
	err := fmt.Errorf("%w: %w", ErrProtocol, fmt.Errorf(format, args...))
	r.c.end(err, code)
	return err
}

// frame handles one opened frame.
func (r *reader) frame(h npro.Header, body []byte) error {
	if h.Type.Flow() {
		return r.flow(h, body)
	}
	c := r.c
	switch h.Type {
	case npro.TypePing, npro.TypePong:
		if len(body) > npro.MaxEcho {
			return r.fatal(npro.CodeProtocolError, "%v of %d bytes", h.Type, len(body))
		}
		if h.Type == npro.TypePing {
			c.mu.Lock()
			if len(c.out) < writeLimit { // else the peer asks and does not read
				c.control(npro.TypePong, 0, body)
			}
			c.mu.Unlock()
		}
		return nil
	case npro.TypeRekey:
		if len(body) != 0 {
			return r.fatal(npro.CodeProtocolError, "rekey of %d bytes", len(body))
		}
		r.opener.Rekey()
		return nil
	case npro.TypeDisconnect:
		code, reason, err := npro.ParseDisconnect(body)
		if err != nil {
			return r.fatal(npro.CodeProtocolError, "%w", err)
		}
		err = &DisconnectError{Code: code, Reason: reason}
		c.end(err, 0)
		return err
	}
	v, err := npro.ParseUint32(body)
	if err != nil {
		return r.fatal(npro.CodeProtocolError, "%v: %w", h.Type, err)
	}
	switch h.Type {
	case npro.TypeGoAway:
		c.goaway(v)
	case npro.TypeWindow:
		return r.window(h.Stream, int64(v))
	case npro.TypeReset:
		r.reset(h.Stream, npro.Code(v))
	}
	return nil
}

func (r *reader) window(stream uint32, credit int64) error {
	c := r.c
	c.mu.Lock()
	have := &c.txCredit
	if stream != 0 {
		s := c.streams[stream]
		if s == nil { // it ended while the credit was on its way
			c.mu.Unlock()
			return nil
		}
		have = &s.tx
	}
	*have += credit
	over := *have > math.MaxInt32
	c.notify()
	c.mu.Unlock()
	if over {
		return r.fatal(npro.CodeFlowError, "window over 2^31-1")
	}
	return nil
}

func (r *reader) reset(stream uint32, code npro.Code) {
	c := r.c
	c.mu.Lock()
	s := c.streams[stream]
	if s != nil {
		c.forget(s)
		c.notify() // a sender may wait for its credit
	}
	c.mu.Unlock()
	if s != nil {
		s.fail(&ResetError{Code: code})
	}
}

// flow handles REQUEST, RESPONSE, MESSAGE and DATA.
func (r *reader) flow(h npro.Header, body []byte) error {
	if packed := h.Flags & (npro.FlagLZ4 | npro.FlagZstd); packed != 0 {
		var err error
		if r.raw, err = r.unpack.Append(r.raw[:0], packed, body, npro.MaxRaw); err != nil {
			return r.fatal(npro.CodeProtocolError, "%v: %w", h.Type, err)
		}
		body = r.raw
	}
	c := r.c
	n := int64(len(body))
	c.mu.Lock()
	if c.err != nil {
		err := c.err
		c.mu.Unlock()
		return err
	}
	s := c.streams[h.Stream]
	c.rxCredit -= n
	over := c.rxCredit < 0
	if s != nil {
		s.rx -= n
		over = over || s.rx < 0
	}
	known := h.Stream%2 == 0 || h.Stream < c.nextID
	if over || !known {
		c.mu.Unlock()
		if over {
			return r.fatal(npro.CodeFlowError, "%d bytes over the window", n)
		}
		return r.fatal(npro.CodeProtocolError, "%v on stream %d, which was never opened", h.Type, h.Stream)
	}
	if s == nil {
		c.consumed(nil, n)
		c.mu.Unlock()
		if h.Stream%2 == 0 {
			return r.incoming(h, body)
		}
		return nil // we gave the stream up; this was on its way
	}
	return r.deliver(s, h, body) // unlocks
}

// deliver hands a frame to the stream it belongs to. Called with mu, which it
// lets go.
func (r *reader) deliver(s *stream, h npro.Header, body []byte) error {
	c := r.c
	end := h.Flags&npro.FlagEnd != 0
	if s.bytes != nil {
		err := s.bytes.receive(h, body)
		c.mu.Unlock()
		if err != nil {
			return r.fatal(npro.CodeProtocolError, "stream %d: %w", s.id, err)
		}
		return nil
	}
	if h.Type != npro.TypeResponse || end == (h.Flags&npro.FlagMore != 0) {
		c.mu.Unlock()
		return r.fatal(npro.CodeProtocolError, "%v with flags %#x answers a request", h.Type, h.Flags)
	}
	s.rxEnd = end
	c.consumed(s, int64(len(body)))
	if end {
		c.forget(s)
		if s.tx >= 0 && !s.txEnd { // answered before it was whole: stop sending
			s.err = errAnswered
			c.notify()
		}
	}
	c.mu.Unlock()
	return r.response(s, h, body, end)
}

// response collects the frames of a response; most have one.
func (r *reader) response(s *stream, h npro.Header, body []byte, end bool) error {
	if len(s.parts)+len(body) > r.c.cfg.MaxMessage+1<<16 {
		// With its last frame it left the table already; else whoever takes it out
		// of the table says how it ended.
		if end || r.c.abandon(s, npro.CodeTooLarge) {
			s.fail(ErrTooLarge)
		}
		return nil
	}
	if !s.started {
		s.started, s.withCtx = true, h.Flags&npro.FlagCtx != 0
	} else if h.Flags&npro.FlagCtx != 0 {
		err := errors.New("context block in the middle of a message")
		if end {
			return r.badAnswer(s, err)
		}
		return r.fatal(npro.CodeProtocolError, "response: %w", err)
	}
	if !end {
		s.parts = append(s.parts, body...)
		return nil
	}
	if s.parts != nil {
		body = append(s.parts, body...)
	}
	var resp Response
	var err error
	if s.withCtx {
		if resp.Context, body, err = npro.ParseContext(body); err != nil {
			return r.badAnswer(s, err)
		}
	}
	if resp.Status, resp.Payload, err = npro.ParseResponse(body); err != nil {
		return r.badAnswer(s, err)
	}
	s.answer(resp)
	return nil
}

// badAnswer ends the connection for the last frame of a response, whose call is
// out of the table and would hear nothing otherwise.
func (r *reader) badAnswer(s *stream, err error) error {
	err = r.fatal(npro.CodeProtocolError, "response: %w", err)
	s.fail(lost(err))
	return err
}

// incoming handles streams that the server opened: one-way messages go to
// OnMessage when they fit in one frame; requests are refused.
func (r *reader) incoming(h npro.Header, body []byte) error {
	c := r.c
	fresh := h.Stream > r.highID
	r.highID = max(r.highID, h.Stream)
	if !fresh {
		return nil // the rest of what was refused
	}
	whole := h.Flags&(npro.FlagEnd|npro.FlagMore) == npro.FlagEnd
	if h.Type == npro.TypeMessage && whole && c.cfg.OnMessage != nil {
		var err error
		if h.Flags&npro.FlagCtx != 0 {
			_, body, err = npro.ParseContext(body)
		}
		var op string
		var payload []byte
		if err == nil {
			op, payload, err = npro.ParseRequest(body)
		}
		if err != nil {
			return r.fatal(npro.CodeProtocolError, "message: %w", err)
		}
		c.cfg.OnMessage(op, payload)
		return nil
	}
	c.mu.Lock()
	switch {
	case c.err != nil, len(c.out) >= writeLimit:
	case h.Type == npro.TypeRequest && whole && c.txCredit > 0:
		c.txCredit--
		c.frame(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd, Stream: h.Stream}, []byte{byte(npro.CodeUnknownOpcode)}, nil)
	case h.Type != npro.TypeMessage || !whole:
		c.control(npro.TypeReset, h.Stream, npro.AppendUint32(nil, uint32(npro.CodeUnknownOpcode)))
	}
	c.mu.Unlock()
	return nil
}
