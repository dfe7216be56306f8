package h2

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"
)

// Engine is what connections with the same settings share. It is safe for concurrent use.
type Engine struct {
	c Config

	bodyStall, sendStall, head, idle int64 // milliseconds; 0: no limit
	settings                         []byte
	workers                          workers
	date                             atomic.Pointer[date]

	outs   sync.Pool // *[]byte, buffers of what is to be sent
	ins    sync.Pool // *[largeRead]byte
	chunks sync.Pool // *[chunkBytes]byte
	heads  sync.Pool // *fields
}

// fields are an answer's, in the order in which they are sent.
type fields struct{ list []hpack.HeaderField }

type date struct {
	second int64
	text   string
}

// Sizes of buffers.
const (
	smallRead  = 4 << 10
	largeRead  = 2 * (frameHead + maxFrame)
	chunkBytes = 4 << 10 // of a body that waits for its reader or for its head
	outBytes   = 64 << 10
)

// New makes an engine; its owner ends it with End.
func New(c Config) (*Engine, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("HTTP/2: %w", err)
	}
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.Refuse == nil {
		c.Refuse = func(w http.ResponseWriter, _ *http.Request, why Refusal, _, _ string) {
			if why == TooLarge {
				w.WriteHeader(http.StatusRequestHeaderFieldsTooLarge)
			} else {
				w.WriteHeader(http.StatusBadRequest)
			}
		}
	}
	if c.Cut == nil {
		c.Cut = func(Cut) {}
	}
	if c.Fault == nil {
		c.Fault = func(string) {}
	}
	e := &Engine{
		c: c, bodyStall: max(0, c.BodyStall.Milliseconds()), sendStall: max(0, c.SendStall.Milliseconds()), head: max(1, c.Head.Milliseconds()),
		idle: max(0, c.Idle.Milliseconds()),
	}
	e.outs.New = func() any { b := make([]byte, 0, outBytes+maxFrame+smallRead); return &b }
	e.ins.New = func() any { return new([largeRead]byte) }
	e.chunks.New = func() any { return new([chunkBytes]byte) }
	e.heads.New = func() any { return &fields{make([]hpack.HeaderField, 0, 16)} }
	b := appendFrame(nil, 6*6, typeSettings, 0, 0)
	b = appendSetting(b, settingStreams, uint32(c.Streams))
	b = appendSetting(b, settingWindow, uint32(c.StreamBytes))
	b = appendSetting(b, settingFrameSize, maxFrame)
	b = appendSetting(b, settingHeadBytes, uint32(c.HeadBytes+headSlack))
	b = appendSetting(b, settingConnect, 1)
	b = appendSetting(b, settingNoOldPriorities, 1)
	if more := c.ConnBytes - minWindow; more > 0 {
		b = appendWindow(b, 0, more)
	}
	e.settings = b
	return e, nil
}

// headSlack is what HeadBytes may be exceeded by, for the bytes that RFC 9113 §6.5.2 counts
// for each field beside its own: those of ten fields.
const headSlack = 10 * 32

// Trim ends workers that nobody needed since it was called last.
func (e *Engine) Trim() { e.workers.trim() }

// End ends the workers, when all connections have ended. The engine can be used again.
func (e *Engine) End() { e.workers.end() }

func (e *Engine) now() int64 { return e.c.Now() }

// today is the Date of an answer.
func (e *Engine) today() string {
	now := e.c.Wall()
	if d := e.date.Load(); d != nil && d.second == now.Unix() {
		return d.text
	}
	d := &date{now.Unix(), now.UTC().Format(http.TimeFormat)}
	e.date.Store(d)
	return d.text
}

// paid is how many milliseconds of waiting n bytes of a body pay for.
func (e *Engine) paid(n int) int64 {
	if e.c.BodyRate <= 0 {
		return int64(n) * 1000
	}
	return int64(n) * 1000 / int64(e.c.BodyRate)
}

// Conn is a connection. Its methods are safe for concurrent use; Serve is called once.
type Conn struct {
	e      *Engine
	nc     net.Conn
	ctx    context.Context // of all requests; it has no end of its own
	remote string
	tls    *tls.ConnectionState

	// The reader's.
	buf      []byte
	from, to int              // of what was read and not taken apart
	large    *[largeRead]byte // what buf is, if it is lent
	small    [smallRead]byte  // what it is else
	dec      *hpack.Decoder   // of heads
	head     head             // that arrives
	greeted  bool             // the client's first SETTINGS came
	resets   rate
	control  rate
	lastID   uint32            // of the client's streams
	updates  map[uint32]string // PRIORITY_UPDATE for streams to come; at most Config.Streams and maxUpdates
	requests int

	headSince atomic.Int64 // when the head that is awaited began; 0: none is
	lastRead  atomic.Int64

	mu      sync.Mutex
	streams map[uint32]*stream // open, as the client sees them
	running int                // handlers, of streams that were reset as well
	ready   ready
	enc     *hpack.Encoder
	block   blockBuffer // what enc writes
	window  int64       // for what is sent
	moved   int         // bytes of all answers since movedAt was set
	movedAt int64
	first   int64 // window of new streams
	fresh   int   // bytes for which the client is owed a window of the connection
	recv    int   // window of the client's
	credit  int   // frames of control that the connection's use paid for
	aware   bool  // the client has shown that it knows priorities
	between bool  // it is a proxy that mixes requests of many: no priorities among them

	out      []byte // to be sent
	spare    []byte // being sent, or empty
	flushing bool   // somebody sends, or is about to
	flushed  sync.Cond
	room     sync.Cond
	sendErr  error

	tails     map[*stream]struct{} // that have ended both ways while their handlers go on
	own       ring                 // streams that we reset: what is still on its way is ignored
	accepted  uint32
	stage     stage
	stageAt   int64 // when it began
	over      bool  // nothing more is read
	dead      bool
	idleSince int64
	pinged    int64 // when; 0: no answer is awaited
	unsettled int64 // since when our settings are not acknowledged; 0: they are
	quiet     sync.Cond
}

// stage is how far the end in good order has come.
type stage uint8

const (
	stageOpen stage = iota
	stageTold       // GOAWAY without a last stream was sent, and a ping after it
	stageLast       // GOAWAY with the last stream
)

// ring remembers the streams that were added last.
type ring struct {
	ids  []uint32
	next int // of ids that is forgotten
	set  map[uint32]struct{}
}

// ownResets is how many streams of ours that were reset are remembered. A client that has
// as many streams as it may can't have opened more than those before it sees a reset, and
// knows of it when it sends what comes after.
func (e *Engine) ownResets() int { return max(256, 2*e.c.Streams) }

func (r *ring) add(id uint32, most int) {
	if r.has(id) {
		return
	}
	if r.set == nil {
		r.set = map[uint32]struct{}{}
	}
	r.set[id] = struct{}{}
	if len(r.ids) < most {
		r.ids = append(r.ids, id)
		return
	}
	delete(r.set, r.ids[r.next])
	r.ids[r.next] = id
	r.next = (r.next + 1) % most
}

func (r *ring) has(id uint32) bool {
	_, ok := r.set[id]
	return ok
}

// NewConn makes a connection of what was accepted, whose preface was not read yet. ctx
// gives the values of the requests' contexts, its end is not looked at: to end the
// connection, close what was accepted. state: of TLS; nil: none.
func (e *Engine) NewConn(ctx context.Context, nc net.Conn, state *tls.ConnectionState) *Conn {
	c := &Conn{
		e: e, nc: nc, ctx: context.WithoutCancel(ctx), tls: state, streams: map[uint32]*stream{}, window: minWindow, first: minWindow,
		recv: e.c.ConnBytes,
	}
	if a := nc.RemoteAddr(); a != nil {
		c.remote = a.String()
	}
	c.buf = c.small[:]
	c.dec = hpack.NewDecoder(tableBytes, c.field)
	c.dec.SetMaxStringLength(e.maxBlock())
	c.enc = hpack.NewEncoder(&c.block)
	c.flushed.L, c.room.L, c.quiet.L = &c.mu, &c.mu, &c.mu
	now := e.now()
	c.headSince.Store(now)
	c.lastRead.Store(now)
	c.idleSince, c.unsettled = now, now
	c.write(e.settings) // before all that Shutdown or Look may say, which need not wait for Serve
	return c
}

// tableBytes is HPACK's table, both ways: RFC 9113 §6.5.2's first size.
const tableBytes = 4096

// Serve serves the connection until it ends, and closes it. All handlers have ended when
// it returns.
func (c *Conn) Serve() {
	c.mu.Lock()
	c.kick()
	c.mu.Unlock()
	err := c.secure()
	if err == nil {
		err = c.read()
	}
	c.end(err)
}

// secure looks at what TLS has agreed on (RFC 9113 §9.2).
func (c *Conn) secure() error {
	if c.tls == nil || c.tls.Version >= tls.VersionTLS13 {
		return nil
	}
	if c.tls.Version == tls.VersionTLS12 {
		switch c.tls.CipherSuite {
		case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
			return nil
		}
	}
	return fatal(InadequateSecurity, "TLS of an old version or suite")
}

// errOver ends reading in good order.
var errOver = fatal(NoError, "over")

// end ends the connection for a reason, and waits for its handlers.
func (c *Conn) end(err error) {
	bad, told := err.(*connError)
	c.mu.Lock()
	if told && bad.code != NoError {
		c.e.c.Fault(bad.why)
		if c.sendErr == nil {
			c.write(appendGoAway(nil, c.accepted, bad.code, bad.why))
		}
	}
	c.kill(err)
	if c.sendErr == nil {
		_ = c.nc.SetWriteDeadline(time.Now().Add(endTime))
	}
	for c.sendErr == nil && (c.flushing || len(c.out) > 0) {
		if c.flushing {
			c.flushed.Wait()
		} else {
			c.flush()
		}
	}
	sent := c.sendErr == nil
	c.mu.Unlock()
	if told && sent {
		c.linger()
	}
	_ = c.nc.Close()
	if c.large != nil {
		c.e.ins.Put(c.large)
	}
	c.mu.Lock()
	for c.running > 0 || c.flushing {
		c.quiet.Wait()
	}
	c.freeOut()
	c.mu.Unlock()
}

// Bounds of a connection's end.
const (
	endTime     = time.Second // that the last frames may take
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// linger reads what still comes and throws it away, for a while: bytes that nobody reads
// would make the kernel reset the connection, and the client lose what it was told last.
func (c *Conn) linger() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.nc.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	for got := 0; got < lingerBytes; {
		n, err := c.nc.Read(c.buf)
		if got += n; err != nil {
			return
		}
	}
}

// kill breaks all streams off. c.mu is held.
func (c *Conn) kill(err error) {
	if c.dead {
		return
	}
	c.dead, c.over = true, true
	for _, st := range c.streams { // bound: Config.Streams
		c.drop(st, err)
	}
	for st := range c.tails { // bound: twice Config.Streams
		st.ctx.Cancel(nil)
	}
	c.room.Broadcast()
}

// Shutdown ends the connection in good order: the client is told, what it has asked for
// until it knows is answered, and then it is closed. It does not wait.
func (c *Conn) Shutdown() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave(c.e.now())
}

// leave begins the end in good order. c.mu is held.
func (c *Conn) leave(now int64) {
	if c.stage != stageOpen || c.dead {
		return
	}
	c.stage, c.stageAt = stageTold, now
	c.write(appendGoAway(nil, maxWindow, NoError, ""))
	c.write(append(appendFrame(nil, 8, typePing, 0, 0), goAwayPing...))
	c.kick()
}

// Pings of ours: the payload says which.
const (
	goAwayPing = "goingbye"
	alivePing  = "areyouin"
)

// last says which stream is the last, and ends the connection when it has ended. c.mu is held.
func (c *Conn) last(now int64) {
	if c.stage == stageLast || c.dead {
		return
	}
	c.stage, c.stageAt = stageLast, now
	c.write(appendGoAway(nil, c.accepted, NoError, ""))
	c.kick()
	c.ended()
}

// ended looks whether the connection has nothing more to do. c.mu is held.
func (c *Conn) ended() {
	if len(c.streams) == 0 && c.running == 0 && c.stage == stageLast && !c.over {
		c.over = true
		c.stopReading()
	}
}

// stopReading ends a read that waits; the reader finds out why.
func (c *Conn) stopReading() { _ = c.nc.SetReadDeadline(time.Unix(1, 0)) }
