package h2

import "io"

// Look breaks off what has waited for too long. It is to be called every now and then, and
// does not wait.
func (c *Conn) Look() {
	e := c.e
	now := e.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return
	}
	for _, st := range c.streams { // bound: Config.Streams
		c.lookStream(st, now)
	}
	if since := c.headSince.Load(); since != 0 && now-since > e.head {
		e.c.Cut(CutHead)
		c.breakOff(EnhanceYourCalm, "head that took too long")
		return
	}
	if c.unsettled != 0 && now-c.unsettled > e.head {
		c.breakOff(SettingsTimeout, "no acknowledgment of SETTINGS")
		return
	}
	if c.stage == stageTold && now-c.stageAt > goAwayWait {
		c.last(now)
	}
	c.lookIdle(now)
	c.kick()
}

// goAwayWait is how long a client has to answer the ping after GOAWAY, in milliseconds.
const goAwayWait = 1000

func (c *Conn) lookStream(st *stream, now int64) {
	e := c.e
	if st.readBy != 0 && now > st.readBy {
		st.readBy = 0
		e.c.Cut(CutBody)
		err := e.c.SlowBody
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		st.endRead(err)
	}
	if e.sendStall > 0 && st.sendBy != 0 && now > st.sendBy {
		if st.give > 0 && now-c.movedAt <= e.sendStall { // it is others' turn, which is our doing
			st.sendBy = now + e.sendStall
			return
		}
		st.sendBy = 0
		e.c.Cut(CutAnswer)
		c.reset(st.id, Cancel)
		c.drop(st, &streamError{Cancel, "the client gives no window"})
	}
}

// lookIdle looks whether the client is there, and needs the connection.
func (c *Conn) lookIdle(now int64) {
	e := c.e
	quiet := now - c.lastRead.Load()
	switch {
	case c.pinged != 0 && quiet > now-c.pinged && now-c.pinged > e.head:
		c.breakOff(NoError, "no answer to a ping")
	case c.pinged != 0 && quiet <= now-c.pinged:
		c.pinged = 0 // something came
	case e.idle == 0:
	case len(c.streams) == 0 && c.running == 0:
		if now-c.idleSince > e.idle {
			c.last(now)
		}
	case c.pinged == 0 && quiet > 2*e.idle:
		c.pinged = now
		c.write(append(appendFrame(nil, 8, typePing, 0, 0), alivePing...))
	}
}

// breakOff ends the connection without the reader's doing. c.mu is held.
func (c *Conn) breakOff(code Code, why string) {
	err := &connError{code, why}
	c.e.c.Fault(why)
	c.write(appendGoAway(nil, c.accepted, code, why))
	c.kick()
	c.kill(err)
	c.stopReading()
}
