package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/npro"
)

// Client is a small pool of connections to one server.
type Client struct {
	cfg    Config
	slots  []*slot
	next   atomic.Uint32
	ctx    context.Context // ends when Close begins
	cancel context.CancelFunc
	wg     sync.WaitGroup // every connection and every slot's goroutine
	calls  sync.Pool      // *stream of finished calls

	mu      sync.Mutex
	closing bool
	live    map[*conn]struct{}
}

// slot is a place in the pool: one connection, or an attempt to make it.
type slot struct {
	cl  *Client
	cur atomic.Pointer[conn] // nil while there is none

	mu      sync.Mutex
	running bool          // a goroutine keeps this slot connected
	changed chan struct{} // closed and replaced at each change
	err     error         // why the last round of attempts was given up
}

// Dial connects. All of Config.Connections must succeed, or none is kept; later
// losses are mended in the background. ctx governs only the dialling.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	if err := cfg.normalize(); err != nil {
		return nil, err
	}
	cl := &Client{cfg: cfg, live: make(map[*conn]struct{})}
	cl.ctx, cl.cancel = context.WithCancel(context.Background())
	cl.calls.New = func() any { return &stream{wait: &waiter{done: make(chan struct{}, 1)}} }
	errs := make([]error, cfg.Connections)
	var wg sync.WaitGroup
	for i := range cfg.Connections {
		s := &slot{cl: cl, changed: make(chan struct{})}
		cl.slots = append(cl.slots, s)
		wg.Go(func() {
			c, err := connect(ctx, &cl.cfg)
			if err != nil {
				errs[i] = err
				return
			}
			cl.adopt(c)
			s.set(c)
			s.running = true
			cl.wg.Go(s.run)
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			done, cancel := context.WithCancel(context.Background())
			cancel()
			_ = cl.Close(done)
			return nil, err
		}
	}
	return cl, nil
}

// adopt makes c one of the connections that Close waits for.
func (cl *Client) adopt(c *conn) {
	cl.mu.Lock()
	cl.live[c] = struct{}{}
	closing := cl.closing
	cl.mu.Unlock()
	if closing { // Close did not see it
		c.end(ErrClosed, npro.CodeNormal)
	}
	if cl.cfg.OnState != nil {
		cl.cfg.OnState(true, nil)
	}
	cl.wg.Go(func() {
		<-c.done
		c.stop()
		cl.mu.Lock()
		delete(cl.live, c)
		cl.mu.Unlock()
		if cl.cfg.OnState != nil {
			cl.cfg.OnState(false, c.err)
		}
	})
}

func (s *slot) set(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cur.Store(c)
	s.err = nil
	s.broadcast()
}

func (s *slot) broadcast() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// run keeps the slot connected until the client closes or it gives up.
func (s *slot) run() {
	cl := s.cl
	for {
		if c := s.cur.Load(); c != nil {
			select {
			case <-cl.ctx.Done():
				return
			case <-c.done:
			case <-c.drain:
				// What is in flight there ends there; new requests go to a new connection.
				cl.wg.Go(func() { c.finish(context.Background(), ErrClosed) })
			}
			s.cur.CompareAndSwap(c, nil)
			if cl.cfg.NoReconnect {
				s.rest(lost(causeOf(c)))
				return
			}
		}
		c, err := s.reconnect()
		if err != nil {
			s.rest(err)
			return
		}
		cl.adopt(c)
		s.set(c)
	}
}

func causeOf(c *conn) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return npro.CodeUnavailable // draining
	}
	return c.err
}

// rest ends the slot's goroutine; err is what requests are told.
func (s *slot) rest(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running, s.err = false, err
	s.broadcast()
}

// reconnect makes a connection, in as many attempts as are allowed in a row.
func (s *slot) reconnect() (*conn, error) {
	cl := s.cl
	var last error
	delay := cl.cfg.ReconnectDelay
	for attempt := 0; cl.cfg.MaxReconnectAttempts < 0 || attempt < cl.cfg.MaxReconnectAttempts; attempt++ {
		timer := time.NewTimer(delay - time.Duration(rand.Int64N(int64(delay)/2+1)))
		select {
		case <-timer.C:
		case <-cl.ctx.Done():
			timer.Stop()
			return nil, ErrClosed
		}
		c, err := connect(cl.ctx, &cl.cfg)
		if err == nil {
			return c, nil
		}
		last = err
		delay = min(2*delay, cl.cfg.MaxReconnectDelay)
	}
	if last == nil {
		last = errors.New("no attempt allowed")
	}
	return nil, last
}

// get returns a connection, waiting for one where none is up.
func (cl *Client) get(ctx context.Context) (*conn, error) {
	if cl.ctx.Err() != nil {
		return nil, ErrClosed // its connections are draining
	}
	n := uint32(len(cl.slots))
	first := uint32(0)
	if n > 1 {
		first = cl.next.Add(1) % n
	}
	for i := range n {
		if c := cl.slots[(first+i)%n].cur.Load(); c != nil {
			select {
			case <-c.done:
			case <-c.drain:
			default:
				return c, nil
			}
		}
	}
	return cl.slots[first].await(ctx)
}

// await waits until the slot has a connection, and starts a new round of
// attempts where the last was given up.
func (s *slot) await(ctx context.Context) (*conn, error) {
	for started := false; ; {
		if s.cl.ctx.Err() != nil {
			return nil, ErrClosed
		}
		s.mu.Lock()
		changed := s.changed
		if c := s.cur.Load(); c != nil {
			select {
			case <-c.done: // run is about to notice
			case <-c.drain:
			default:
				s.mu.Unlock()
				return c, nil
			}
		}
		if !s.running {
			if err := s.err; started || s.cl.cfg.NoReconnect {
				s.mu.Unlock()
				return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
			started = s.restart()
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.cl.ctx.Done():
			return nil, ErrClosed
		}
	}
}

// restart begins a round of attempts. Needs mu.
func (s *slot) restart() bool {
	cl := s.cl
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.closing {
		return true
	}
	s.running = true
	cl.wg.Go(s.run)
	return true
}

// Request sends payload under opcode and returns the response's payload. A
// status other than ok is a *StatusError.
func (cl *Client) Request(ctx context.Context, opcode string, payload []byte) ([]byte, error) {
	resp, err := cl.Do(ctx, &Request{Opcode: opcode, Payload: payload})
	return resp.Payload, err
}

// Do sends r and waits for the response, or for ctx: then the server is told
// that nobody waits any more.
func (cl *Client) Do(ctx context.Context, r *Request) (Response, error) {
	for {
		c, err := cl.get(ctx)
		if err != nil {
			return Response{}, wrap(r, err)
		}
		s := cl.calls.Get().(*stream)
		resp, err := c.do(ctx, s, r)
		if err == nil {
			cl.recycle(s)
			return resp, nil
		}
		again := errors.Is(err, errNotSent) || r.Idempotent && errors.Is(err, ErrConnLost)
		if !again || ctx.Err() != nil {
			return resp, wrap(r, err)
		}
		s.await(ctx)
	}
}

// await gives the loss of a connection time to be seen by its slot, so that a
// request that is sent again does not spin on the old one.
func (s *stream) await(ctx context.Context) {
	if s.c == nil {
		return
	}
	select {
	case <-s.c.done:
	case <-s.c.drain:
	case <-ctx.Done():
	}
}

// recycle keeps a call whose answer was taken: nobody else has it any more.
func (cl *Client) recycle(s *stream) {
	*s.wait = waiter{done: s.wait.done}
	*s = stream{wait: s.wait}
	cl.calls.Put(s)
}

func wrap(r *Request, err error) error {
	var status *StatusError
	if errors.As(err, &status) {
		return err // says enough by itself
	}
	return fmt.Errorf("request %s: %w", r.Opcode, err)
}

// Start sends r and returns; fn gets the answer or the error, once, unless Start
// itself returns an error. fn runs on the connection's reader and must not block
// or call Start; resp.Payload is valid until it returns. Start blocks while
// there is no connection or no credit. Requests started so are not sent again:
// Idempotent has no effect. ctx governs Start, and its deadline is sent along,
// but it does not cancel what has left.
func (cl *Client) Start(ctx context.Context, r *Request, fn func(resp Response, err error)) error {
	for {
		c, err := cl.get(ctx)
		if err != nil {
			return wrap(r, err)
		}
		s := &stream{async: fn}
		if deadline, ok := ctx.Deadline(); ok {
			s.deadline = c.now() + int64(time.Until(deadline))
		}
		err = c.start(ctx, s, r)
		if err == nil {
			return nil
		}
		if !errors.Is(err, errNotSent) || ctx.Err() != nil {
			return wrap(r, err)
		}
	}
}

// Send sends a one-way message. A nil error means that it was queued, no more.
func (cl *Client) Send(ctx context.Context, r *Request) error {
	for {
		c, err := cl.get(ctx)
		if err != nil {
			return wrap(r, err)
		}
		if err = c.message(ctx, r); err == nil {
			return nil
		}
		if !errors.Is(err, errNotSent) || ctx.Err() != nil {
			return wrap(r, err)
		}
	}
}

// OpenStream opens a stream of bytes to the server's stream handler. It does not
// wait for the server: a refusal is a *ResetError of the first Read, or of a
// Write after it arrived. ctx governs only the opening.
func (cl *Client) OpenStream(ctx context.Context, priority uint8) (*Stream, error) {
	for {
		c, err := cl.get(ctx)
		if err == nil {
			var b *Stream
			if b, err = c.openStream(ctx, priority); err == nil {
				return b, nil
			}
			if errors.Is(err, errNotSent) && ctx.Err() == nil {
				continue
			}
		}
		return nil, fmt.Errorf("open stream: %w", err)
	}
}

// OpenRequest opens a stream of bytes with a request, whose opcode says who shall
// serve it, and waits until the server accepts it. A refusal is a *StatusError. ctx
// governs only the opening; its deadline is told to the server. r.Idempotent means
// nothing here.
func (cl *Client) OpenRequest(ctx context.Context, r *Request) (*Stream, error) {
	for {
		c, err := cl.get(ctx)
		if err == nil {
			var b *Stream
			if b, err = c.openRequest(ctx, r); err == nil {
				return b, nil
			}
			if errors.Is(err, errNotSent) && ctx.Err() == nil {
				continue
			}
		}
		return nil, fmt.Errorf("open stream %q: %w", r.Opcode, err)
	}
}

// Info describes a connection of the pool.
type Info struct {
	ConnID      [8]byte
	AEAD        uint8
	Compression uint8
	Pattern     handshake.Pattern
	Hybrid      bool
	Heartbeat   time.Duration
	Remote      handshake.PublicKey
	HasRemote   bool
	InFlight    int
}

// Info returns what is connected now.
func (cl *Client) Info() []Info {
	var out []Info
	for _, s := range cl.slots {
		if c := s.cur.Load(); c != nil {
			r := &c.res
			out = append(out, Info{r.ConnID, r.AEAD, r.Compression, r.Pattern, r.Hybrid, r.Heartbeat, r.Remote, r.HasRemote, c.inFlight()})
		}
	}
	return out
}

// Close refuses new requests, waits until those in flight have ended or ctx
// has, says DISCONNECT, and returns when nothing of the client runs any more.
// Its error is ctx's when requests had to be cut off.
func (cl *Client) Close(ctx context.Context) error {
	cl.mu.Lock()
	cl.closing = true
	var live []*conn
	for c := range cl.live {
		live = append(live, c)
	}
	cl.mu.Unlock()
	cl.cancel()
	var wg sync.WaitGroup
	var cut atomic.Bool
	for _, c := range live {
		wg.Go(func() {
			if !c.finish(ctx, ErrClosed) {
				cut.Store(true)
			}
		})
	}
	wg.Wait()
	cl.wg.Wait()
	if cut.Load() {
		return ctx.Err()
	}
	return nil
}
