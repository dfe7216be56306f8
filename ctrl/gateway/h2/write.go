package h2

import (
	"os"
	"runtime"
)

// blockBuffer is what the encoder writes a block of fields into.
type blockBuffer struct{ b []byte }

// Write implements io.Writer.
func (b *blockBuffer) Write(p []byte) (int, error) {
	b.b = append(b.b, p...)
	return len(p), nil
}

// maxControl bounds what is to be sent beside answers: a client that makes us answer and
// does not read has nothing more to say.
const maxControl = outBytes + 256<<10

// outBuffer is what is to be sent. c.mu is held.
func (c *Conn) outBuffer() []byte {
	if c.out == nil {
		c.out = *c.e.outs.Get().(*[]byte)
	}
	return c.out
}

// write appends frames to what is to be sent. c.mu is held.
func (c *Conn) write(b []byte) { c.out = append(c.outBuffer(), b...) }

// kick has what is to be sent be sent, by a worker. c.mu is held.
func (c *Conn) kick() {
	if len(c.out) == 0 || c.flushing || c.sendErr != nil {
		return
	}
	c.flushing = true
	c.e.workers.run(task{c, nil})
}

// flushTask is the worker's.
func (c *Conn) flushTask() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushAll()
}

// flush sends. c.mu is held, and released while it sends. Handlers leave it to workers until
// they have ended: who writes to the connection can't be woken.
func (c *Conn) flush() {
	c.flushing = true
	c.flushAll()
}

// flushAll lets run who is ready to, so that what they have to say goes with it, and sends.
func (c *Conn) flushAll() {
	c.mu.Unlock()
	runtime.Gosched()
	c.mu.Lock()
	for len(c.out) > 0 && c.sendErr == nil {
		b := c.out
		c.out, c.spare = c.spare, nil
		c.pump() // the next while these are sent
		c.room.Broadcast()
		c.mu.Unlock()
		_, err := c.nc.Write(b)
		c.mu.Lock()
		if cap(b) <= maxOutKept {
			c.spare = b[:0]
		}
		if err != nil {
			c.sendErr = err
			c.kill(err)
			c.mu.Unlock()
			_ = c.nc.Close() // TLS waits here to say so, for seconds
			c.mu.Lock()
			break
		}
	}
	c.flushing = false
	if len(c.out) == 0 {
		c.freeOut()
	}
	c.flushed.Broadcast()
	c.quiet.Broadcast()
}

// maxOutKept is the largest buffer that is used again.
const maxOutKept = 2 * outBytes

// freeOut gives the buffers back while there is nothing to send. c.mu is held.
func (c *Conn) freeOut() {
	for _, b := range [...]*[]byte{&c.out, &c.spare} {
		if *b != nil && cap(*b) <= maxOutKept {
			free := (*b)[:0]
			c.e.outs.Put(&free)
		}
		*b = nil
	}
}

// writeHead encodes a head, and ends the stream with it or not. c.mu is held.
func (c *Conn) writeHead(st *stream, h *fields, end bool) {
	c.block.b = c.block.b[:0]
	for _, f := range h.list { // bound: the handler's
		_ = c.enc.WriteField(f) // it writes to memory
	}
	b := c.block.b
	kind, flags := byte(typeHeaders), byte(0)
	if end {
		flags = flagEndStream
	}
	out := c.outBuffer()
	for {
		n := min(len(b), maxFrame)
		if n == len(b) {
			flags |= flagEndHeaders
		}
		out = append(appendFrame(out, n, kind, flags, st.id), b[:n]...)
		if b = b[n:]; len(b) == 0 {
			break
		}
		kind, flags = typeContinuation, 0
	}
	c.out = out
	c.pay(1)
	if end {
		c.endSending(st)
	}
}

// endSending notes that the stream has ended on our side. c.mu is held.
func (c *Conn) endSending(st *stream) {
	if st.sent = true; st.received {
		c.close(st)
	}
}

// awaitRoom waits until there is room in the buffer. c.mu is held, and released while it waits.
func (c *Conn) awaitRoom(st *stream) error {
	for len(c.out) >= outBytes && st.sendEnd == nil && !c.dead {
		if st.lateOut.passed() {
			st.sendEnd = os.ErrDeadlineExceeded
			break
		}
		c.kick()
		c.room.Wait()
	}
	return st.sendEnd
}

// send sends a piece of an answer, and the stream's end with it or not. It returns when all
// of it is in the buffer. c.mu is held, and released while it waits.
func (c *Conn) send(st *stream, p []byte, end bool) error {
	if st.sendEnd != nil {
		return st.sendEnd
	}
	if st.sent {
		return errEnded
	}
	if len(p) == 0 {
		if end {
			c.out = appendFrame(c.outBuffer(), 0, typeData, flagEndStream, st.id)
			c.endSending(st)
		}
		return nil
	}
	st.pending, st.ending = p, end
	if st.waits() {
		c.ready.add(st)
		c.pump()
	}
	if len(st.pending) > 0 {
		c.await(st)
	}
	return st.sendEnd
}

// await waits until all that the stream has to send is in the buffer. c.mu is held, and
// released while it waits.
func (c *Conn) await(st *stream) {
	e := c.e
	st.moved, st.sendBy = 0, e.now()+e.sendStall
	for len(st.pending) > 0 && st.sendEnd == nil {
		if st.lateOut.passed() {
			st.sendEnd = os.ErrDeadlineExceeded
			break
		}
		c.kick()
		st.canSend.Wait()
	}
	st.pending, st.sendBy = nil, 0
	c.ready.remove(st)
}

// pump takes from the streams what may be sent. c.mu is held.
func (c *Conn) pump() {
	for len(c.out) < outBytes && c.window > 0 {
		st := c.ready.pick()
		if st == nil {
			return
		}
		n := int(min(int64(len(st.pending)), maxFrame, c.window, st.give))
		flags := byte(0)
		if n == len(st.pending) && st.ending {
			flags = flagEndStream
		}
		c.out = append(appendFrame(c.outBuffer(), n, typeData, flags, st.id), st.pending[:n]...)
		st.pending = st.pending[n:]
		c.window -= int64(n)
		st.give -= int64(n)
		if c.moved += n; c.moved >= maxFrame {
			c.moved, c.movedAt = 0, c.e.now()
		}
		c.pay(3)
		st.progress(n)
		switch {
		case len(st.pending) == 0:
			c.ready.remove(st)
			if flags != 0 {
				c.endSending(st)
			}
			st.canSend.Signal()
		case st.give <= 0:
			c.ready.remove(st)
		case st.prio.incremental: // to the end of the row
			c.ready.remove(st)
			c.ready.add(st)
		}
	}
}

// progress gives an answer that goes on its time again, in portions that are worth it.
func (st *stream) progress(n int) {
	if st.moved += n; st.sendBy != 0 && st.moved >= maxFrame {
		st.moved, st.sendBy = 0, st.c.e.now()+st.c.e.sendStall
	}
}
