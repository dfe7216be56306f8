package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/npro"
)

const (
	fragmentSize = 64 << 10 // largest body of one frame we send
	writeLimit   = 1 << 20  // bytes queued for the writer before senders wait
	lastWords    = time.Second
)

// conn is one connection after its handshake. mu guards everything that senders
// and the reader share; the reader's own fields are in reader.
type conn struct {
	cfg   *Config
	nc    net.Conn
	res   handshake.Result // keys wiped
	epoch time.Time        // lastTx, lastRx and deadlines count from here

	lastTx atomic.Int64 // ns since epoch
	lastRx atomic.Int64

	mu         sync.Mutex
	wake       sync.Cond // the writer sleeps here
	out        []byte    // frames for the writer
	sealer     *npro.Sealer
	compressor *npro.Compressor // nil: off
	scratch    []byte
	keySince   int64
	streams    map[uint32]*stream
	nextID     uint32
	txCredit   int64 // of the connection, given by the peer
	rxCredit   int64 // of the connection, that the peer has left
	rxFreed    int64 // consumed and not given back yet
	changed    chan struct{}
	waiting    int   // senders that wait on changed
	draining   bool  // no new streams
	drained    bool  // drain was closed
	err        error // why the connection ended
	calls      int   // streams that someone waits for

	drain chan struct{} // closed when the peer says GOAWAY
	done  chan struct{} // closed when err is set
	wg    sync.WaitGroup
}

// connect makes the transport and the handshake.
func connect(ctx context.Context, cfg *Config) (*conn, error) {
	dctx, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout)
	network, address := cfg.where()
	nc, err := cfg.DialContext(dctx, network, address)
	cancel()
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", cfg.Address, err)
	}
	// A context that ends makes reads and writes fail at once.
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	_ = nc.SetDeadline(time.Now().Add(cfg.HandshakeTimeout))
	res, err := shakeHands(nc, cfg)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = nc.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("handshake with %s: %w", cfg.Address, err)
	}
	_ = nc.SetDeadline(time.Time{})
	c, err := newConn(nc, cfg, res)
	res.Wipe()
	if err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("set up connection to %s: %w", cfg.Address, err)
	}
	return c, nil
}

func shakeHands(nc net.Conn, cfg *Config) (*handshake.Result, error) {
	m, err := handshake.NewInitiator(cfg.handshake())
	if err != nil {
		return nil, err
	}
	defer m.Wipe()
	step, err := m.Start(time.Now())
	for err == nil {
		if step.Reply != nil {
			h := npro.Header{Type: npro.Type(step.ReplyType), Length: uint32(len(step.Reply))}
			if _, err = nc.Write(append(h.Append(nil), step.Reply...)); err != nil {
				break
			}
		}
		if step.Done != nil {
			return step.Done, nil
		}
		var h npro.Header
		var body []byte
		if h, body, err = readClear(nc); err == nil {
			step, err = m.Receive(uint8(h.Type), body, time.Now())
		}
	}
	return nil, err
}

// readClear reads one frame of the handshake. A DISCONNECT says why a server
// refuses; it could come from anyone on the path, and so could a closed connection.
func readClear(r io.Reader) (npro.Header, []byte, error) {
	var head [npro.HeaderSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("peer closed the connection: %w (wrong key, pattern or hybrid setting?)", err)
		}
		return npro.Header{}, nil, err
	}
	h, err := npro.ParseHeader(head[:], handshake.MaxFrameBytes)
	if err != nil {
		return h, nil, err
	}
	body := make([]byte, h.Length)
	if _, err := io.ReadFull(r, body); err != nil {
		return h, nil, err
	}
	if h.Type == npro.TypeDisconnect && h.Flags&npro.FlagEnc == 0 {
		code, reason, err := npro.ParseDisconnect(body)
		if err == nil {
			err = &DisconnectError{Code: code, Reason: reason, Unauthenticated: true}
		}
		return h, nil, err
	}
	if h.Flags != 0 || h.Stream != 0 {
		return h, nil, fmt.Errorf("%w: %v with flags %#x on stream %d", ErrProtocol, h.Type, h.Flags, h.Stream)
	}
	return h, body, nil
}

func newConn(nc net.Conn, cfg *Config, res *handshake.Result) (*conn, error) {
	c := &conn{
		cfg: cfg, nc: nc, epoch: time.Now(),
		streams: make(map[uint32]*stream), nextID: 1,
		txCredit: int64(res.ConnWindowTx), rxCredit: int64(res.ConnWindowRx),
		changed: make(chan struct{}), drain: make(chan struct{}), done: make(chan struct{}),
	}
	c.wake.L = &c.mu
	var err error
	if c.sealer, err = npro.NewSealer(res.AEAD, &res.Tx); err != nil {
		return nil, err
	}
	r := &reader{c: c, buf: make([]byte, readBuffer)}
	if r.opener, err = npro.NewOpener(res.AEAD, &res.Rx); err != nil {
		return nil, err
	}
	if res.Compression != npro.CompressionNone {
		if c.compressor, err = npro.NewCompressor(res.Compression, cfg.CompressionLevel); err != nil {
			return nil, err
		}
	}
	c.res = *res
	c.res.Wipe()
	c.wg.Go(r.run)
	c.wg.Go(c.write)
	c.wg.Go(c.keep)
	return c, nil
}

func (c *conn) now() int64 { return int64(time.Since(c.epoch)) }

// end closes the connection because of err. A code other than 0 is told to the
// peer first; what was queued before it leaves too. Only the first call counts.
func (c *conn) end(err error, code npro.Code) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	if code != 0 {
		_ = c.nc.SetWriteDeadline(time.Now().Add(lastWords))
		c.control(npro.TypeDisconnect, 0, npro.AppendDisconnect(nil, code, ""))
	}
	c.err = err
	streams := c.streams
	c.streams = nil
	close(c.done)
	c.notify()
	c.wake.Signal()
	c.mu.Unlock()
	if code == 0 {
		_ = c.nc.Close() // the writer closes it otherwise
	} else {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
	for _, s := range streams {
		s.fail(lost(err))
	}
}

// stop waits until nothing of the connection runs any more.
func (c *conn) stop() {
	c.wg.Wait()
	c.sealer.Wipe()
	if c.compressor != nil {
		c.compressor.Close()
	}
}

// notify wakes senders that wait for credit, room or the end. Needs mu.
func (c *conn) notify() {
	if c.waiting > 0 {
		c.waiting = 0
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// wait lets mu go until something changed; ctx's error when it ended first.
func (c *conn) wait(ctx context.Context) error {
	changed := c.changed
	c.waiting++
	c.mu.Unlock()
	defer c.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// frame adds a frame to out. Its body is head, then tail. Needs mu.
func (c *conn) frame(h npro.Header, head, tail []byte) {
	if c.sealer.RekeyDue() || c.sealer.Records() >= c.cfg.RekeyRecords {
		c.rekey()
	}
	at := len(c.out)
	c.out = h.Append(c.out)
	c.out = append(append(c.out, head...), tail...)
	n := len(c.out) - at - npro.HeaderSize
	if c.compressor != nil && h.Type.Flow() && n >= c.cfg.CompressionThreshold {
		var ok bool
		if c.scratch, ok = c.compressor.Append(c.scratch[:0], c.out[at+npro.HeaderSize:]); ok {
			c.out = append(c.out[:at+npro.HeaderSize], c.scratch...)
			c.out[at+5] |= c.compressor.Flag()
		}
	}
	c.out = c.sealer.Seal(c.out, at)
	c.wake.Signal()
}

// control adds a frame that needs no credit. Needs mu.
func (c *conn) control(t npro.Type, stream uint32, body []byte) {
	if c.err == nil {
		c.frame(npro.Header{Type: t, Priority: 7, Stream: stream}, body, nil)
	}
}

// rekey tells the peer and takes the next key. Needs mu.
func (c *conn) rekey() {
	at := len(c.out)
	c.out = npro.Header{Type: npro.TypeRekey, Priority: 7}.Append(c.out)
	c.out = c.sealer.Seal(c.out, at)
	c.sealer.Rekey()
	c.keySince = c.now()
	c.wake.Signal()
}

// write is the writer: all that was queued meanwhile leaves in one Write.
func (c *conn) write() {
	var mine []byte
	for {
		c.mu.Lock()
		for len(c.out) == 0 && c.err == nil {
			c.wake.Wait()
		}
		over := c.err != nil
		mine, c.out = c.out, mine[:0]
		c.notify() // there is room again
		c.mu.Unlock()
		if len(mine) > 0 {
			if _, err := c.nc.Write(mine); err != nil {
				c.end(fmt.Errorf("write: %w", err), 0)
				_ = c.nc.Close()
				return
			}
			c.lastTx.Store(c.now())
		}
		if over {
			_ = c.nc.Close()
			return
		}
		if cap(mine) > 2*writeLimit {
			mine = nil // one burst should not be kept for ever
		}
	}
}

// keep sends heartbeats, notices a dead peer, expires requests and changes keys.
func (c *conn) keep() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-timer.C:
		}
		next := c.tick(c.now())
		timer.Reset(time.Duration(max(next, int64(time.Millisecond))))
	}
}

// tick does what is due and returns the ns until it wants to be called again.
func (c *conn) tick(now int64) int64 {
	next := int64(c.cfg.RekeyInterval)
	if beat := int64(c.res.Heartbeat); beat > 0 {
		rx := c.lastRx.Load() + 3*beat - now
		if rx <= 0 {
			c.end(ErrHeartbeat, npro.CodeIdleTimeout)
			return next
		}
		tx := c.lastTx.Load() + beat - now
		if tx <= 0 {
			c.mu.Lock()
			c.control(npro.TypePing, 0, nil)
			c.mu.Unlock()
			c.lastTx.Store(now) // or a blocked writer would collect PINGs
			tx = beat
		}
		next = min(next, rx, tx)
	}
	if limit := int64(c.cfg.ResponseTimeout); limit > 0 {
		next = min(next, max(limit/4, 1))
	}
	c.mu.Lock()
	if age := now - c.keySince; age >= int64(c.cfg.RekeyInterval) && c.err == nil && c.sealer.Records() > 0 {
		c.rekey()
	}
	var expired []*stream
	for _, s := range c.streams {
		if s.deadline != 0 && s.deadline <= now {
			expired = append(expired, s)
			c.forget(s)
			c.control(npro.TypeReset, s.id, npro.AppendUint32(nil, uint32(npro.CodeTimeout)))
		}
	}
	c.mu.Unlock()
	for _, s := range expired {
		s.fail(ErrTimeout)
	}
	return next
}

// forget takes s out of the table; when nothing is left of a connection that
// takes nothing new, it ends. Needs mu.
func (c *conn) forget(s *stream) {
	if c.streams[s.id] != s {
		return
	}
	delete(c.streams, s.id)
	c.calls--
	if c.draining && c.calls == 0 {
		c.notify()
	}
}

// goaway handles the peer's GOAWAY: nothing new, and what it will not serve
// goes back to be sent elsewhere.
func (c *conn) goaway(last uint32) {
	var unserved []*stream
	c.mu.Lock()
	c.draining = true
	if !c.drained {
		c.drained = true
		close(c.drain)
	}
	for id, s := range c.streams {
		if id > last {
			unserved = append(unserved, s)
		}
	}
	for _, s := range unserved {
		c.forget(s)
	}
	c.notify()
	c.mu.Unlock()
	for _, s := range unserved {
		s.fail(errNotSent)
	}
}

// finish waits until nothing is in flight, or ctx ends, then says goodbye. It
// returns false when something was cut off.
func (c *conn) finish(ctx context.Context, why error) bool {
	c.mu.Lock()
	c.draining = true
	c.notify() // senders without a stream stop waiting for credit
	for c.calls > 0 && c.err == nil {
		if c.wait(ctx) != nil {
			break
		}
	}
	whole := c.calls == 0 || c.err != nil
	c.mu.Unlock()
	c.end(why, npro.CodeNormal)
	return whole
}

// inFlight returns how many streams are open.
func (c *conn) inFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

// isTimeout tells a deadline of end from a failure of the transport.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// newStream gives s the next number. Needs mu.
func (c *conn) newStream(s *stream) error {
	switch {
	case c.err != nil:
		return fmt.Errorf("%w: %w", errNotSent, c.err)
	case c.draining:
		return errNotSent
	case c.nextID > math.MaxUint32-2:
		// The next request finds no room here either; a new connection has it.
		c.draining = true
		if !c.drained {
			c.drained = true
			close(c.drain)
		}
		return fmt.Errorf("%w: %w", errNotSent, errStreams)
	}
	s.c, s.id = c, c.nextID
	s.tx, s.rx = int64(c.res.StreamWindowTx), int64(c.res.StreamWindowRx)
	c.nextID += 2
	c.streams[s.id] = s
	c.calls++
	return nil
}

// send queues a message of s: head, then tail, cut into frames as credit and
// size ask for. s gets its number with the first frame when it has none. Blocks
// while there is no credit or the writer is behind. sent tells whether anything left.
func (c *conn) send(ctx context.Context, s *stream, h npro.Header, head, tail []byte) (sent bool, err error) {
	biggest := int64(min(fragmentSize, c.res.MaxFrameTx-npro.TagSize))
	end := h.Flags & npro.FlagEnd
	h.Flags &^= npro.FlagEnd
	// What precedes the payload is read from the first frame alone.
	whole := int64(len(head))
	if whole > min(biggest, int64(c.res.StreamWindowTx), int64(c.res.ConnWindowTx)) {
		return false, fmt.Errorf("context of %d bytes: %w", whole, ErrTooLarge)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if s.id == 0 && (c.err != nil || c.draining) {
			return false, fmt.Errorf("%w: connection is ending", errNotSent)
		}
		if c.err != nil {
			return sent, lost(c.err)
		}
		if s.err != nil {
			return sent, s.err
		}
		left := int64(len(head) + len(tail))
		credit := c.txCredit
		if s.id != 0 {
			credit = min(credit, s.tx)
		} else {
			credit = min(credit, int64(c.res.StreamWindowTx))
		}
		if len(c.out) >= writeLimit || left > 0 && credit < max(1, whole) {
			if err := c.wait(ctx); err != nil {
				return sent, err
			}
			continue
		}
		n := min(left, credit, biggest)
		if s.id == 0 {
			if err := c.newStream(s); err != nil {
				return false, err
			}
		}
		h.Stream = s.id
		f := h
		if n < left {
			// A byte stream's pieces are no message: nothing "goes on".
			if h.Type != npro.TypeData {
				f.Flags |= npro.FlagMore
			}
		} else {
			f.Flags |= end
		}
		a := min(n, int64(len(head)))
		c.txCredit -= n
		s.tx -= n
		c.frame(f, head[:a], tail[:n-a])
		head, tail = head[a:], tail[n-a:]
		h.Flags &^= npro.FlagCtx // the block is in the first frame
		whole = 0
		sent = true
		if n == left {
			return true, nil
		}
	}
}

// consumed gives n bytes of body back to the peer: to the connection, and to s
// unless s is nil or has had its last frame. Needs mu.
func (c *conn) consumed(s *stream, n int64) {
	c.rxFreed += n
	if c.rxFreed >= int64(c.res.ConnWindowRx)/2 {
		c.rxCredit += c.rxFreed
		c.window(0, &c.rxFreed)
	}
	if s == nil || s.rxEnd {
		return
	}
	s.rxFreed += n
	if s.rxFreed >= int64(c.res.StreamWindowRx)/2 {
		s.rx += s.rxFreed
		c.window(s.id, &s.rxFreed)
	}
}

func (c *conn) window(stream uint32, freed *int64) {
	var body [4]byte
	binary.BigEndian.PutUint32(body[:], uint32(*freed))
	*freed = 0
	c.control(npro.TypeWindow, stream, body[:])
}
