package loadgen

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/np-appliance/np/ctrl/client"
)

// longest latency told apart; longer ones count as this.
const longest = 2 * time.Minute

// Config of a run. Zero values mean the defaults named.
type Config struct {
	Client   client.Config
	Conns    int           // 1
	Depth    int           // requests in flight on each connection, closed loop; 1
	Rate     float64       // requests a second over all connections; 0: closed loop
	Size     int           // payload bytes; 64
	Opcode   string        // ECHO
	Verify   bool          // the answer must equal the request
	Duration time.Duration // 10 s; measured, without the warm-up
	Warmup   time.Duration // not measured
	Requests uint64        // end after so many; 0: Duration decides
	// Progress is called each second with what was done so far; it must not block.
	Progress func(Progress)
}

// Progress is a moment of a run.
type Progress struct {
	Elapsed  time.Duration
	Done     uint64  // requests answered
	Rate     float64 // a second, in the last interval
	Errors   uint64
	InFlight int64
}

// Result is a finished run.
type Result struct {
	Elapsed   time.Duration
	Done      uint64
	Bytes     uint64 // payload, each way
	Errors    map[string]uint64
	Latency   *hdrhistogram.Histogram // ns
	Connected int
	Reached   bool // the open loop kept its rate within 1 %
}

func (c *Config) normalize() error {
	if c.Conns == 0 {
		c.Conns = 1
	}
	if c.Depth == 0 {
		c.Depth = 1
	}
	if c.Size == 0 {
		c.Size = 64
	}
	if c.Opcode == "" {
		c.Opcode = "ECHO"
	}
	if c.Duration == 0 {
		c.Duration = 10 * time.Second
	}
	switch {
	case c.Conns < 0 || c.Conns > 100_000:
		return fmt.Errorf("connections %d: want 1 to 100000", c.Conns)
	case c.Depth < 0 || c.Depth > 1024:
		return fmt.Errorf("depth %d: want 1 to 1024", c.Depth)
	case c.Size < 0 || c.Size > 16<<20:
		return fmt.Errorf("size %d: want 1 byte to 16 MiB", c.Size)
	case c.Rate < 0:
		return fmt.Errorf("rate %g: want 0 (closed loop) or more", c.Rate)
	case c.Duration < 0 || c.Warmup < 0:
		return errors.New("durations must not be negative")
	}
	return nil
}

// run is the state shared by the connections of one run.
type run struct {
	cfg      Config
	begin    time.Time // of the measured part
	end      time.Time // of it; answers that come later do not count
	done     atomic.Uint64
	errs     atomic.Uint64
	inFlight atomic.Int64
	stop     context.CancelFunc
	mu       sync.Mutex
	kinds    map[string]uint64
}

func (r *run) fail(err error) {
	r.errs.Add(1)
	kind := errorKind(err)
	r.mu.Lock()
	r.kinds[kind]++
	r.mu.Unlock()
}

// errorKind is the innermost text of err: few kinds, however many addresses are in it.
func errorKind(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}

// slot is one request in flight. Its payload stays as it is until the answer came.
type slot struct {
	payload []byte
	due     time.Time
}

// conn drives one connection. hist belongs to the connection's reader until Close.
type conn struct {
	r    *run
	cl   *client.Client
	free chan *slot
	hist *hdrhistogram.Histogram
	n    uint64
}

// errMismatch is an answer that differs from its request.
var errMismatch = errors.New("answer differs from the request")

func (c *conn) answered(s *slot, resp client.Response, err error) {
	now := time.Now()
	c.r.inFlight.Add(-1)
	if err == nil && c.r.cfg.Verify && !bytes.Equal(resp.Payload, s.payload) {
		err = errMismatch
	}
	switch {
	case err != nil:
		c.r.fail(err)
	case now.After(c.r.begin) && now.Before(c.r.end):
		_ = c.hist.RecordValue(int64(min(now.Sub(s.due), longest)))
		if n := c.r.done.Add(1); n == c.r.cfg.Requests {
			c.r.stop()
		}
	}
	c.free <- s
}

// send starts one request on a free slot.
func (c *conn) send(ctx context.Context, s *slot) error {
	c.n++
	if len(s.payload) >= 8 {
		binary.LittleEndian.PutUint64(s.payload, c.n) // no two requests are alike
	}
	c.r.inFlight.Add(1)
	err := c.cl.Start(ctx, &client.Request{Opcode: c.r.cfg.Opcode, Payload: s.payload}, func(resp client.Response, err error) { c.answered(s, resp, err) })
	if err != nil {
		c.r.inFlight.Add(-1)
		c.free <- s
	}
	return err
}

// closed keeps depth requests in flight.
func (c *conn) closed(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-c.free:
			s.due = time.Now()
			if err := c.send(ctx, s); err != nil {
				return err
			}
		}
	}
}

// open sends at fixed moments, the first one after offset. A late request
// counts its lateness.
func (c *conn) open(ctx context.Context, start time.Time, offset, interval time.Duration) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := int64(0); ; i++ {
		due := start.Add(offset + time.Duration(i)*interval)
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return nil
			case <-timer.C:
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case s := <-c.free:
			s.due = due
			if err := c.send(ctx, s); err != nil {
				return err
			}
		}
	}
}

// openDepth is how many requests an open-loop connection may have in flight: enough that the server, not the
// generator, is the limit.
const openDepth = 1024

func (r *run) dial(ctx context.Context) (*conn, error) {
	cc := r.cfg.Client
	cc.Connections = 1
	cc.NoReconnect = true
	cl, err := client.Dial(ctx, cc)
	if err != nil {
		return nil, err
	}
	depth := r.cfg.Depth
	if r.cfg.Rate > 0 {
		depth = openDepth
	}
	c := &conn{r: r, cl: cl, free: make(chan *slot, depth), hist: hdrhistogram.New(1, int64(longest), 2)}
	for i := range depth {
		p := make([]byte, r.cfg.Size)
		for k := range p {
			p[k] = byte(k*7 + i)
		}
		c.free <- &slot{payload: p}
	}
	return c, nil
}

// Run connects, warms up, measures and disconnects. It returns an error when
// no connection could be made; what went wrong later is counted in the result.
// When ctx ends early the result holds what was measured until then.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if err := cfg.normalize(); err != nil {
		return nil, err
	}
	r := &run{cfg: cfg, kinds: map[string]uint64{}}
	conns, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	r.begin = start.Add(cfg.Warmup)
	limit := cfg.Warmup + cfg.Duration
	if cfg.Requests > 0 {
		limit = 24 * time.Hour
	}
	r.end = start.Add(limit)
	load, stop := context.WithDeadline(ctx, r.end)
	defer stop()
	r.stop = stop
	var wg sync.WaitGroup
	interval := time.Duration(0)
	if cfg.Rate > 0 {
		interval = time.Duration(float64(len(conns)) / cfg.Rate * 1e9)
	}
	for i, c := range conns {
		wg.Go(func() {
			var err error
			if interval > 0 {
				err = c.open(load, start, interval*time.Duration(i)/time.Duration(len(conns)), interval)
			} else {
				err = c.closed(load)
			}
			if err != nil && load.Err() == nil {
				r.fail(err)
			}
		})
	}
	r.watch(load)
	wg.Wait()
	elapsed := time.Since(r.begin)
	r.finish(conns)
	return r.result(conns, max(elapsed, 0)), nil
}

func (r *run) connect(ctx context.Context) ([]*conn, error) {
	var conns []*conn
	var last error
	var mu sync.Mutex
	var wg sync.WaitGroup
	gate := make(chan struct{}, 4*runtime.NumCPU()) // a handshake is work for both sides
	for range r.cfg.Conns {
		wg.Go(func() {
			gate <- struct{}{}
			defer func() { <-gate }()
			c, err := r.dial(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				last = err
				r.fail(err)
				return
			}
			conns = append(conns, c)
		})
	}
	wg.Wait()
	if len(conns) == 0 {
		return nil, last
	}
	return conns, nil
}

// watch reports progress until the load ends.
func (r *run) watch(load context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var before uint64
	for {
		select {
		case <-load.Done():
			return
		case <-tick.C:
			done := r.done.Load()
			if r.cfg.Progress != nil {
				r.cfg.Progress(Progress{Elapsed: time.Since(r.begin), Done: done, Rate: float64(done - before), Errors: r.errs.Load(), InFlight: r.inFlight.Load()})
			}
			before = done
		}
	}
}

// finish waits a little for what is in flight and closes the connections.
func (r *run) finish(conns []*conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() { _ = c.cl.Close(ctx) })
	}
	wg.Wait()
}

func (r *run) result(conns []*conn, elapsed time.Duration) *Result {
	res := &Result{Elapsed: elapsed, Latency: hdrhistogram.New(1, int64(longest), 2), Connected: len(conns)}
	for _, c := range conns {
		res.Latency.Merge(c.hist)
	}
	res.Done = uint64(res.Latency.TotalCount())
	res.Bytes = res.Done * uint64(r.cfg.Size)
	r.mu.Lock()
	res.Errors = r.kinds
	r.mu.Unlock()
	res.Reached = r.cfg.Rate == 0 || float64(res.Done) >= 0.99*r.cfg.Rate*elapsed.Seconds()
	return res
}
