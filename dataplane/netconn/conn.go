package netconn

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/np-appliance/np/dataplane"
)

// How much of what was read is held back from the peer's window at most: little when
// all was read, because the peer may wait for it (the smallest receive buffer is
// 4,096 bytes); more when there is more to read, which will return it.
const (
	creditIdle = 1 << 10
	creditBusy = 16 << 10
)

// writesMost bounds the writes that a core has not taken: each may be a buffer, and it
// refuses beyond 1,024.
const writesMost = 256

// leastPiece is what a write is cut down to that finds no room.
const leastPiece = 1 << 10

// Conn is a connection over a plane: a [dataplane.StreamConn]. Its methods are safe
// for concurrent use, as net.Conn's are.
type Conn struct {
	sh            *shard
	o             *Options // set before anybody has it
	network       string
	handle        dataplane.Handle
	local, remote net.Addr
	unix          *dataplane.UnixPeer

	rmu, wmu sync.Mutex // one reads, one writes at a time; before mu
	rch, wch chan struct{}
	wparts   [][]byte // wmu's

	mu     sync.Mutex
	closed bool           // by us
	gone   bool           // the core said its last
	code   dataplane.Code // why

	chunks []chunk // received, from head on
	head   int
	unread int
	held   int    // bytes in Buffers that are not released
	debt   int    // read and not credited
	rbuf   []byte // of a Read that waits
	rn     int    // what it got
	rwait  bool   // somebody waits on rch
	eof    bool   // the peer sent its last
	rshut  bool
	rdead  deadline

	out    int // bytes handed to the core and not reported sent
	writes int // commands since out was 0
	wwait  bool
	wshut  bool
	broken dataplane.Code // a write was lost in the core

	keepAlive time.Duration // as SetKeepAlivePeriod said, 0 nothing
	wdead     deadline
}

var _ dataplane.StreamConn = (*Conn)(nil)

// chunk is what is left of the body of an event. The first slice is copied out of the
// event's list, which is the core's and may be written again once the body is released.
type chunk struct {
	cur   []byte
	rest  [][]byte
	token uintptr
	left  int // bytes
}

func newChunk(ev *dataplane.Event, bytes int) chunk {
	k := chunk{token: ev.Token, left: bytes}
	if len(ev.Body) > 0 {
		k.cur, k.rest = ev.Body[0], ev.Body[1:]
	}
	return k
}

// take copies from the chunk and says how much.
func (k *chunk) take(p []byte) int {
	n := 0
	for n < len(p) && k.left > 0 {
		if len(k.cur) == 0 {
			k.cur, k.rest = k.rest[0], k.rest[1:]
		}
		m := copy(p[n:], k.cur)
		n += m
		k.cur = k.cur[m:]
		k.left -= m
	}
	return n
}

// pieces returns what is left, as slices.
func (k *chunk) pieces() [][]byte {
	out := make([][]byte, 0, 1+len(k.rest))
	if len(k.cur) > 0 {
		out = append(out, k.cur)
	}
	return append(out, k.rest...)
}

// wakeReader lets a Read look again. mu is held.
func (c *Conn) wakeReader() {
	if c.rwait {
		c.rwait = false
		c.rch <- struct{}{} // room for the only one
	}
}

// wakeWrite is the writer's. mu is held.
func (c *Conn) wakeWrite() {
	if c.wwait {
		c.wwait = false
		c.wch <- struct{}{}
	}
}

// data takes what the peer sent: to the Read that waits, else it is kept.
func (c *Conn) data(ev *dataplane.Event) (keep bool) {
	n := ev.Len()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.rshut || n == 0 {
		return false // dropped uncredited
	}
	k := newChunk(ev, n)
	if c.rbuf != nil && c.unread == 0 {
		c.rn = k.take(c.rbuf)
		c.rbuf = nil
		c.debt += c.rn
		c.wakeReader()
		if k.left == 0 {
			c.credit(creditIdle) // the reader flushes
			return false
		}
	}
	c.push(k)
	c.wakeReader()
	return true
}

// push keeps a chunk. mu is held.
func (c *Conn) push(k chunk) {
	if c.head == len(c.chunks) {
		c.chunks, c.head = c.chunks[:0], 0
	} else if len(c.chunks) == cap(c.chunks) && c.head > 0 {
		n := copy(c.chunks, c.chunks[c.head:])
		clear(c.chunks[n:])
		c.chunks, c.head = c.chunks[:n], 0
	}
	c.chunks = append(c.chunks, k)
	c.unread += k.left
}

// credit returns what was read to the peer's window, if it is more than least. mu is
// held. Return: the core has to be flushed.
func (c *Conn) credit(least int) bool {
	if c.debt < least || c.gone || c.closed {
		return false
	}
	n, h, sh := c.debt, c.handle, c.sh
	c.debt = 0
	if errors.Is(sh.core.Credit(h, 0, uint32(n)), dataplane.CodeFull) {
		sh.must(func() error { return sh.core.Credit(h, 0, uint32(n)) })
	}
	return true
}

// ended: the peer sent its last byte.
func (c *Conn) ended() {
	c.mu.Lock()
	c.eof = true
	c.wakeReader()
	c.mu.Unlock()
}

// sent returns budget. An error says that the core lost a write: there is a hole.
func (c *Conn) sent(n int, why dataplane.Code) {
	c.mu.Lock()
	c.out -= min(n, c.out)
	if c.out == 0 {
		c.writes = 0
	}
	if why != dataplane.CodeOK && c.broken == dataplane.CodeOK && !c.closed {
		c.broken = why
		c.abort()
	}
	if c.out == 0 || c.broken != dataplane.CodeOK || (c.o != nil && c.o.WriteBuffer-c.out >= piece && c.writes < writesMost) {
		c.wakeWrite()
	}
	c.mu.Unlock()
}

// over is the core's last word. What was received can still be read.
func (c *Conn) over(code dataplane.Code) {
	if code == dataplane.CodeEOF { // in good order
		code = dataplane.CodeOK
	}
	c.mu.Lock()
	c.gone, c.code = true, code
	c.out, c.writes = 0, 0
	c.wakeReader()
	c.wakeWrite()
	c.mu.Unlock()
}

// abort asks the core to reset the connection. mu is held. The caller flushes.
func (c *Conn) abort() {
	if !c.gone {
		h, sh := c.handle, c.sh
		sh.must(func() error { return sh.core.Abort(h) })
	}
}

// discard ends a connection that nobody got.
func (c *Conn) discard() {
	_ = c.end(true)
}

// readErr says why nothing can be read any more, or now. mu is held.
func (c *Conn) readErr() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.rdead.expired:
		return os.ErrDeadlineExceeded
	case c.unread > 0:
		return nil
	case c.rshut || c.eof:
		return io.EOF
	case c.broken != dataplane.CodeOK:
		return codeErr(c.broken)
	case c.gone && c.code == dataplane.CodeOK:
		return io.EOF
	case c.gone:
		return codeErr(c.code)
	}
	return nil
}

// Idle says whether the connection is open in both directions with nothing to be read, as
// far as is known by now. It doesn't wait.
func (c *Conn) Idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unread == 0 && !c.wshut && c.readErr() == nil
}

func (c *Conn) fail(op string, err error) error {
	if err == io.EOF {
		return err
	}
	return opError(op, c.network, c.local, c.remote, err)
}

// spent is chunks that were read, on their way back to the core.
type spent struct {
	evs [16]dataplane.Event
	n   int
}

var spentPool = sync.Pool{New: func() any { return new(spent) }}

// Read implements [net.Conn].
func (c *Conn) Read(p []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.mu.Lock()
	for {
		if err := c.readErr(); err != nil {
			c.mu.Unlock()
			return 0, c.fail("read", err)
		}
		if len(p) == 0 {
			c.mu.Unlock()
			return 0, nil
		}
		if c.unread > 0 {
			return c.readKept(p), nil
		}
		c.rbuf, c.rn, c.rwait = p, 0, true
		c.mu.Unlock()
		<-c.rch
		c.mu.Lock()
		c.rbuf = nil
		if n := c.rn; n > 0 {
			c.rn = 0
			c.mu.Unlock()
			return n, nil
		}
	}
}

// readKept reads what was kept and gives the memory back. mu is held and let go.
func (c *Conn) readKept(p []byte) int {
	sp := spentPool.Get().(*spent)
	n := 0
	for n < len(p) && c.head < len(c.chunks) && sp.n < len(sp.evs) {
		k := &c.chunks[c.head]
		n += k.take(p[n:])
		if k.left == 0 {
			sp.evs[sp.n].Token = k.token
			sp.n++
			*k = chunk{}
			c.head++
		}
	}
	c.unread -= n
	c.debt += n
	least := creditBusy
	if c.unread == 0 {
		least = creditIdle
	}
	flush := c.credit(least)
	core := c.sh.core
	c.mu.Unlock()
	if sp.n > 0 {
		core.Release(sp.evs[:sp.n])
		clear(sp.evs[:sp.n])
		sp.n = 0
	}
	spentPool.Put(sp)
	if flush {
		core.Flush()
	}
	return n
}

// ReadBuffers implements [dataplane.StreamConn]: what one event brought.
func (c *Conn) ReadBuffers() (*dataplane.Buffers, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.mu.Lock()
	for {
		if err := c.readErr(); err != nil {
			c.mu.Unlock()
			return nil, c.fail("read", err)
		}
		if c.unread > 0 {
			break
		}
		c.rwait = true
		c.mu.Unlock()
		<-c.rch
		c.mu.Lock()
	}
	k := c.chunks[c.head]
	c.chunks[c.head] = chunk{}
	c.head++
	c.unread -= k.left
	c.held += k.left
	c.mu.Unlock()
	n := k.left
	return dataplane.NewBuffers(k.pieces(), func([][]byte) {
		c.sh.core.Release([]dataplane.Event{{Token: k.token}})
		c.mu.Lock()
		c.held -= n
		c.debt += n
		flush := c.credit(creditIdle)
		c.mu.Unlock()
		if flush {
			c.sh.core.Flush()
		}
	}), nil
}

// writeErr says why nothing can be written any more, or now. mu is held.
func (c *Conn) writeErr() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.wdead.expired:
		return os.ErrDeadlineExceeded
	case c.wshut:
		return syscall.EPIPE
	case c.broken != dataplane.CodeOK:
		return codeErr(c.broken)
	case c.gone && c.code == dataplane.CodeOK:
		return syscall.EPIPE
	case c.gone:
		return codeErr(c.code)
	}
	return nil
}

// Write implements [net.Conn]. It returns when all of p is with the core, which has
// copied it.
func (c *Conn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	for n := 0; ; {
		c.wparts = append(c.wparts[:0], p[n:])
		k, err := c.send(len(p) - n)
		if n += k; err != nil || n == len(p) {
			c.wparts[0] = nil
			c.sh.core.Flush()
			if err != nil {
				err = c.fail("write", err)
			}
			return n, err
		}
	}
}

// WriteBuffers implements [dataplane.StreamConn]. The slices go to the core as they
// are, many in one command.
func (c *Conn) WriteBuffers(bufs net.Buffers) (int64, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	total := int64(0)
	for i, off := 0, 0; ; {
		c.wparts = c.wparts[:0]
		want := 0
		for j, o := i, off; j < len(bufs) && want < piece; j, o = j+1, 0 {
			if b := bufs[j][o:]; len(b) > 0 {
				c.wparts = append(c.wparts, b)
				want += len(b)
			}
		}
		k, err := c.send(want)
		total += int64(k)
		for off += k; i < len(bufs) && off >= len(bufs[i]); i++ {
			off -= len(bufs[i])
		}
		if err != nil || i == len(bufs) {
			clear(c.wparts)
			c.sh.core.Flush()
			if err != nil {
				err = c.fail("write", err)
			}
			return total, err
		}
	}
}

// cut shortens wparts to n bytes. wmu is held.
func (c *Conn) cut(n int) {
	for i, b := range c.wparts {
		if len(b) >= n {
			c.wparts[i] = b[:n]
			clear(c.wparts[i+1:])
			c.wparts = c.wparts[:i+1]
			return
		}
		n -= len(b)
	}
}

// send hands at most want bytes of wparts to the core, waiting for budget and room.
// wmu is held. It says how many went.
func (c *Conn) send(want int) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var room <-chan struct{}
	for {
		if err := c.writeErr(); err != nil || want == 0 {
			return 0, err
		}
		n := min(want, c.o.WriteBuffer-c.out, int(c.sh.piece.Load()))
		if n <= 0 || c.writes >= writesMost {
			c.sleepWrite(nil)
			continue
		}
		if n < want {
			c.cut(n)
			want = n
		}
		err := c.sh.core.Write(c.handle, c.wparts)
		switch {
		case err == nil:
			c.out += n
			c.writes++
			return n, nil
		case errors.Is(err, dataplane.CodeFull) && room == nil:
			room = c.sh.waitRoom() // a place first, then the attempt
		case errors.Is(err, dataplane.CodeFull):
			c.sleepWrite(room)
			room = nil
			if want > leastPiece { // less may find room where buffers are short
				want = max(want/2, leastPiece)
				c.cut(want)
			}
		case errors.Is(err, dataplane.CodeInvalid) && n > 1024:
			c.sh.piece.Store(int32(n / 2)) // more than all lent buffers together
		case errors.Is(err, dataplane.CodeStale), errors.Is(err, dataplane.CodeShutdown):
			c.sleepWrite(nil) // it closes just now, and why is said soon
		default:
			return 0, planeErr(err)
		}
	}
}

// sleepWrite waits until the writer is woken, or for room in the core. mu is held, let
// go meanwhile.
func (c *Conn) sleepWrite(room <-chan struct{}) {
	c.wwait = true
	c.mu.Unlock()
	c.sh.core.Flush() // what was handed over before has to go first
	if room == nil {
		<-c.wch
		c.mu.Lock()
		return
	}
	select {
	case <-c.wch:
		c.mu.Lock()
	case <-room:
		c.mu.Lock()
		if !c.wwait {
			<-c.wch // woken meanwhile too
		}
		c.wwait = false
	}
}

// Close implements [net.Conn]; see the package's Ends.
func (c *Conn) Close() error {
	return c.end(false)
}

// Abort implements [dataplane.StreamConn].
func (c *Conn) Abort() error {
	return c.end(true)
}

// end closes or aborts.
func (c *Conn) end(abort bool) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return opError("close", c.network, c.local, c.remote, net.ErrClosed)
	}
	c.closed = true
	c.rdead.stop()
	c.wdead.stop()
	c.rbuf = nil
	lost := c.unread > 0 && !c.rshut
	free := c.drop()
	switch {
	case c.gone:
	case abort || lost || c.broken != dataplane.CodeOK:
		c.abort()
	default:
		h, sh := c.handle, c.sh
		sh.must(func() error { return sh.core.CloseConn(h, 0, "") })
	}
	c.wakeReader()
	c.wakeWrite()
	c.mu.Unlock()
	if len(free) > 0 {
		c.sh.core.Release(free)
	}
	c.sh.core.Flush()
	return nil
}

// drop forgets what was received and returns it to be released. mu is held.
func (c *Conn) drop() []dataplane.Event {
	free := make([]dataplane.Event, 0, len(c.chunks)-c.head)
	for i := range c.chunks[c.head:] {
		free = append(free, dataplane.Event{Token: c.chunks[c.head+i].token})
	}
	c.chunks, c.head, c.unread = nil, 0, 0
	return free
}

// CloseWrite implements [dataplane.StreamConn].
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	var err error
	switch {
	case c.closed:
		err = net.ErrClosed
	case c.wshut:
	case c.gone && c.code != dataplane.CodeOK:
		err = codeErr(c.code)
	default:
		c.wshut = true
		if !c.gone {
			h, sh := c.handle, c.sh
			sh.must(func() error { return sh.core.CloseWrite(h) })
		}
		c.wakeWrite()
	}
	c.mu.Unlock()
	c.sh.core.Flush()
	if err != nil {
		return opError("close", c.network, c.local, c.remote, err)
	}
	return nil
}

// CloseRead implements [dataplane.StreamConn].
func (c *Conn) CloseRead() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return opError("close", c.network, c.local, c.remote, net.ErrClosed)
	}
	c.rshut = true
	free := c.drop()
	c.wakeReader()
	c.mu.Unlock()
	if len(free) > 0 {
		c.sh.core.Release(free)
	}
	return nil
}

// LocalAddr implements [net.Conn].
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements [net.Conn].
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadlines(t, true, true) }

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, true, false) }

// SetWriteDeadline implements [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, false, true) }

func (c *Conn) setDeadlines(t time.Time, read, write bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return opError("set", c.network, c.local, c.remote, net.ErrClosed)
	}
	if read {
		if c.rdead.wake == nil {
			c.rdead.wake = c.wakeReader
		}
		c.rdead.set(&c.mu, t)
	}
	if write {
		if c.wdead.wake == nil {
			c.wdead.wake = c.wakeWrite
		}
		c.wdead.set(&c.mu, t)
	}
	return nil
}

// tune makes a set-up call for the connection.
func (c *Conn) tune(f func(ctx context.Context) error) error {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	err := net.ErrClosed
	if !closed {
		ctx, cancel := context.WithTimeout(context.Background(), undoTime)
		defer cancel()
		if err = f(ctx); err == nil {
			return nil
		}
		err = planeErr(err)
	}
	return opError("set", c.network, c.local, c.remote, err)
}

// SetUserTimeout sets how long what was sent may stay unacknowledged before the
// connection ends, 1 s to a day; 0: for ever.
func (c *Conn) SetUserTimeout(d time.Duration) error {
	return c.tune(func(ctx context.Context) error { return c.sh.s.plane.SetUserTimeout(ctx, c.handle, d) })
}

// Properties implements [dataplane.StreamConn].
func (c *Conn) Properties() dataplane.Properties {
	p := c.o.properties(c.sh.s.plane)
	p.Networks = []string{c.network}
	p.ID, p.Unix = c.handle, c.unix
	return p
}

// keepAlivePeriod is Go's own default.
const keepAlivePeriod = 15 * time.Second

// SetKeepAlive implements [dataplane.StreamConn]. On means a probe after 15 s of silence,
// or what SetKeepAlivePeriod said before.
func (c *Conn) SetKeepAlive(on bool) error {
	c.mu.Lock()
	d := c.keepAlive
	c.mu.Unlock()
	switch {
	case !on:
		d = 0
	case d == 0:
		d = keepAlivePeriod
	}
	return c.tune(func(ctx context.Context) error { return c.sh.s.plane.SetKeepAlive(ctx, c.handle, d) })
}

// SetKeepAlivePeriod implements [dataplane.StreamConn]: whole milliseconds, 1 s to a day.
// It switches keep-alive on.
func (c *Conn) SetKeepAlivePeriod(d time.Duration) error {
	d = d.Round(time.Millisecond)
	err := c.tune(func(ctx context.Context) error {
		if d == 0 {
			return dataplane.CodeInvalid
		}
		return c.sh.s.plane.SetKeepAlive(ctx, c.handle, d)
	})
	if err == nil {
		c.mu.Lock()
		c.keepAlive = d
		c.mu.Unlock()
	}
	return err
}

// SetNoDelay implements [dataplane.StreamConn].
func (c *Conn) SetNoDelay(on bool) error {
	return c.tune(func(ctx context.Context) error { return c.sh.s.plane.SetNoDelay(ctx, c.handle, on) })
}
