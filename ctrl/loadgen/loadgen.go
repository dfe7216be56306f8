package loadgen

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/npro"
)

// Options says what to send.
type Options struct {
	Client      client.Config // Connections is ignored
	Connections int
	Depth       int // requests in flight per connection
	Size        int // of the payload, in bytes
	Opcode      string
	Verify      bool          // the answer must equal what was sent
	Rate        float64       // requests per second over all connections; 0: closed loop
	Warmup      time.Duration // not recorded
	Duration    time.Duration // after the warm-up; 0: until Requests
	Requests    int64         // recorded ones; 0: until Duration
	Drain       time.Duration // how long unanswered requests are waited for; 0: 2 s
	// Progress is called once a second of the recorded time.
	Progress func(Progress)
}

// Progress is what happened in the last second.
type Progress struct {
	Elapsed  time.Duration // since recording began; negative in the warm-up
	PerSec   float64
	TxBits   float64 // per second, on the connection: headers and tags included
	RxBits   float64
	Done     int64 // answered since the start, warm-up included
	InFlight int
	Errors   int64 // since the start
}

// Result is what was measured.
type Result struct {
	Info        []client.Info
	Elapsed     time.Duration
	Messages    int64 // answered within Elapsed
	TxPayload   int64 // bytes of these
	RxPayload   int64
	TxBytes     int64 // on the connections within Elapsed, headers and tags included
	RxBytes     int64
	Latency     *hdrhistogram.Histogram // ns
	Errors      map[string]int64
	Interrupted bool
}

// PerSecond returns messages per second.
func (r *Result) PerSecond() float64 { return perSecond(r.Messages, r.Elapsed) }

func perSecond(n int64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

// ErrorCount returns the sum over all kinds.
func (r *Result) ErrorCount() (n int64) {
	for _, c := range r.Errors {
		n += c
	}
	return n
}

const (
	latencyMin = 1 // ns
	latencyMax = int64(10 * time.Minute)
	never      = math.MaxInt64 // the end, while nobody knows it
)

// run is one measurement.
type run struct {
	o       Options
	epoch   time.Time
	began   atomic.Int64 // ns since epoch: recording starts
	ended   atomic.Int64 // and ends
	tx, rx  atomic.Int64 // bytes on the connections
	count   atomic.Int64 // answered, warm-up included
	errs    atomic.Int64
	left    atomic.Int64 // requests still to send, when limited
	flying  atomic.Int64
	workers []*worker
}

// worker drives one connection. Its sender runs on a goroutine of its own, the
// callbacks on the connection's reader; free passes slots between them.
type worker struct {
	r    *run
	cl   *client.Client
	free chan *slot

	mu       sync.Mutex // the callbacks of a connection and its successor, and the end
	hist     *hdrhistogram.Histogram
	messages int64
	rxBytes  int64
	errors   map[string]int64
	last     int64 // when the last answer came
}

// slot is one request that may be in flight.
type slot struct {
	w    *worker
	req  client.Request
	due  int64 // ns since epoch
	seq  uint64
	done func(client.Response, error)
}

// Check tells what is wrong with o, before anything is connected.
func (o *Options) Check() error {
	switch {
	case o.Connections < 1 || o.Connections > 100_000:
		return fmt.Errorf("%d connections, expected 1 to 100000", o.Connections)
	case o.Depth < 1 || o.Depth > 1<<20:
		return fmt.Errorf("depth %d, expected 1 to %d", o.Depth, 1<<20)
	case o.Size < 0 || o.Size > npro.MaxPayload-npro.MaxOpcode-1:
		return fmt.Errorf("size %d, expected 0 to %d", o.Size, npro.MaxPayload-npro.MaxOpcode-1)
	case o.Rate < 0 || math.IsNaN(o.Rate) || math.IsInf(o.Rate, 0):
		return fmt.Errorf("rate %v", o.Rate)
	case o.Duration < 0 || o.Warmup < 0 || o.Requests < 0:
		return errors.New("negative duration or number of requests")
	case o.Duration == 0 && o.Requests == 0:
		return errors.New("neither a duration nor a number of requests")
	}
	return npro.CheckOpcode(o.Opcode)
}

// counted counts a connection's bytes.
type counted struct {
	net.Conn
	r *run
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.r.rx.Add(int64(n))
	return n, err
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.r.tx.Add(int64(n))
	return n, err
}

// Run connects, sends and measures. When ctx ends it stops and returns what it
// has, marked as interrupted. An error means that nothing was measured.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Drain == 0 {
		o.Drain = 2 * time.Second
	}
	r := &run{o: o, epoch: time.Now()}
	defer r.close()
	if err := r.connect(ctx); err != nil {
		return nil, err
	}
	res := &Result{}
	for _, w := range r.workers {
		res.Info = append(res.Info, w.cl.Info()...)
	}
	r.measure(ctx, res)
	return res, nil
}

func (r *run) now() int64 { return int64(time.Since(r.epoch)) }

func (r *run) connect(ctx context.Context) error {
	cfg := r.o.Client
	cfg.Connections = 1
	dial := cfg.DialContext
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	cfg.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return counted{nc, r}, nil
	}
	const parallel = 32 // handshakes at a time: a server limits those in flight
	r.workers = make([]*worker, r.o.Connections)
	errs := make(chan error, parallel)
	next := atomic.Int64{}
	for range parallel {
		go func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(r.workers) {
					errs <- nil
					return
				}
				cl, err := client.Dial(ctx, cfg)
				if err != nil {
					next.Store(int64(len(r.workers)))
					errs <- err
					return
				}
				r.workers[i] = r.worker(cl)
			}
		}()
	}
	var first error
	for range parallel {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (r *run) worker(cl *client.Client) *worker {
	w := &worker{r: r, cl: cl, errors: map[string]int64{},
		free: make(chan *slot, r.o.Depth),
		hist: hdrhistogram.New(latencyMin, latencyMax, 2)}
	random := make([]byte, r.o.Size)
	src := rand.NewChaCha8([32]byte{byte(r.o.Size)})
	_, _ = src.Read(random)
	for range r.o.Depth {
		s := &slot{w: w, req: client.Request{Opcode: r.o.Opcode, Payload: append([]byte(nil), random...)}}
		s.done = s.finish
		w.free <- s
	}
	return w
}

// measure runs the senders and watches the clock.
func (r *run) measure(ctx context.Context, res *Result) {
	sctx, stop := context.WithCancel(ctx)
	defer stop()
	start := r.now()
	r.began.Store(start + int64(r.o.Warmup))
	r.ended.Store(never)
	if r.o.Duration > 0 {
		r.ended.Store(start + int64(r.o.Warmup+r.o.Duration))
	}
	r.left.Store(math.MaxInt64)
	if r.o.Requests > 0 {
		r.left.Store(r.o.Requests)
	}
	var senders sync.WaitGroup
	for i, w := range r.workers {
		senders.Go(func() { w.send(sctx, start, i) })
	}
	sent := make(chan struct{})
	go func() { senders.Wait(); close(sent) }()
	tx, rx := r.watch(ctx, sent, stop)
	end := min(r.now(), r.ended.Load())
	stop()
	<-sent
	r.drain(ctx)
	if r.o.Requests > 0 && ctx.Err() == nil {
		end = min(r.ended.Load(), max(r.lastAnswer(), r.began.Load()))
		tx, rx = r.tx.Load(), r.rx.Load()
	}
	res.Interrupted = ctx.Err() != nil
	res.Elapsed = max(time.Duration(end-r.began.Load()), 0)
	res.TxBytes, res.RxBytes = tx, rx
	r.collect(res)
}

// watch reports progress until the time is over or everything was sent, and
// returns the bytes of the recorded time.
func (r *run) watch(ctx context.Context, sent <-chan struct{}, stop func()) (tx, rx int64) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	begin := time.NewTimer(time.Duration(r.began.Load() - r.now()))
	defer begin.Stop()
	var over <-chan time.Time
	if end := r.ended.Load(); end != never {
		t := time.NewTimer(time.Duration(end - r.now()))
		defer t.Stop()
		over = t.C
	}
	var tx0, rx0 int64
	if r.o.Warmup == 0 {
		tx0, rx0 = r.tx.Load(), r.rx.Load()
	}
	last := snapshot{at: r.now(), tx: r.tx.Load(), rx: r.rx.Load()}
	for {
		select {
		case <-begin.C:
			tx0, rx0 = r.tx.Load(), r.rx.Load()
		case <-tick.C:
			last = r.progress(last)
		case <-over:
			stop()
			return r.tx.Load() - tx0, r.rx.Load() - rx0
		case <-sent:
			return r.tx.Load() - tx0, r.rx.Load() - rx0
		case <-ctx.Done():
			return r.tx.Load() - tx0, r.rx.Load() - rx0
		}
	}
}

type snapshot struct{ at, count, tx, rx int64 }

func (r *run) progress(last snapshot) snapshot {
	s := snapshot{r.now(), r.count.Load(), r.tx.Load(), r.rx.Load()}
	if r.o.Progress != nil {
		d := time.Duration(s.at - last.at)
		r.o.Progress(Progress{
			Elapsed: time.Duration(s.at - r.began.Load()), PerSec: perSecond(s.count-last.count, d),
			TxBits: 8 * perSecond(s.tx-last.tx, d), RxBits: 8 * perSecond(s.rx-last.rx, d),
			Done: s.count, InFlight: int(r.flying.Load()), Errors: r.errs.Load(),
		})
	}
	return s
}

// drain waits for what is in flight.
func (r *run) drain(ctx context.Context) {
	until := time.Now().Add(r.o.Drain)
	for r.flying.Load() > 0 && time.Now().Before(until) && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
}

func (r *run) lastAnswer() (last int64) {
	for _, w := range r.workers {
		w.mu.Lock()
		last = max(last, w.last)
		w.mu.Unlock()
	}
	return last
}

func (r *run) collect(res *Result) {
	res.Errors = map[string]int64{}
	res.Latency = hdrhistogram.New(latencyMin, latencyMax, 2)
	for _, w := range r.workers {
		w.mu.Lock()
		res.Latency.Merge(w.hist)
		res.Messages += w.messages
		res.RxPayload += w.rxBytes
		for k, n := range w.errors {
			res.Errors[k] += n
		}
		w.mu.Unlock()
	}
	res.TxPayload = res.Messages * int64(r.o.Size)
	if n := r.flying.Load(); n > 0 && !res.Interrupted {
		res.Errors["unanswered"] += n
	}
}

func (r *run) close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // what is still in flight was waited for
	var wg sync.WaitGroup
	for _, w := range r.workers {
		if w != nil {
			wg.Go(func() { _ = w.cl.Close(ctx) })
		}
	}
	wg.Wait()
}

// send is a worker's sender.
func (w *worker) send(ctx context.Context, start int64, index int) {
	r := w.r
	var p *pacer
	interval := 0.0
	if r.o.Rate > 0 {
		interval = float64(r.o.Connections) / r.o.Rate * 1e9
		var err error
		if p, err = newPacer(); err != nil {
			w.fault(err)
			return
		}
		defer p.close()
		defer context.AfterFunc(ctx, p.close)()
	}
	// Connections take turns within an interval, so that they don't fire as one.
	offset := interval * float64(index) / float64(max(r.o.Connections, 1))
	for i := int64(0); ; i++ {
		due := int64(0)
		if p != nil {
			due = start + int64(offset+float64(i)*interval)
			if due >= r.ended.Load() {
				return
			}
			if wait := due - r.now(); wait > 0 && p.sleep(time.Duration(wait)) != nil {
				return
			}
		}
		var s *slot
		select {
		case s = <-w.free:
		case <-ctx.Done():
			return
		}
		now := r.now()
		if p == nil {
			due = now
		}
		if now >= r.ended.Load() || ctx.Err() != nil {
			return
		}
		if due >= r.began.Load() && r.left.Add(-1) < 0 {
			return
		}
		s.launch(ctx, due)
	}
}

// launch sends the slot's request.
func (s *slot) launch(ctx context.Context, due int64) {
	w := s.w
	s.due = due
	s.seq++
	if p := s.req.Payload; len(p) >= 8 {
		for i := range 8 {
			p[i] = byte(s.seq >> (8 * i))
		}
	}
	w.r.flying.Add(1)
	// Not ctx: its deadline would travel with each request.
	err := w.cl.Start(ctx, &s.req, s.done)
	if err == nil {
		return
	}
	w.r.flying.Add(-1)
	if ctx.Err() == nil {
		w.fault(err)
		// Nothing to send on: do not turn this into a busy loop.
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	w.free <- s
}

// finish is the callback: on the connection's reader.
func (s *slot) finish(resp client.Response, err error) {
	w := s.w
	r := w.r
	now := r.now()
	if err == nil && r.o.Verify && !equal(resp.Payload, s.req.Payload) {
		err = errMismatch
	}
	if s.due >= r.began.Load() {
		w.record(now, s.due, len(resp.Payload), err)
	} else if err != nil {
		w.fault(err)
	}
	r.count.Add(1)
	r.flying.Add(-1)
	w.free <- s // never blocks: its room is ours
}

func (w *worker) record(now, due int64, size int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.errors[kind(err)]++
		w.r.errs.Add(1)
		return
	}
	_ = w.hist.RecordValue(min(max(now-due, latencyMin), latencyMax)) // within its range by min and max
	if now <= w.r.ended.Load() {
		w.messages++
		w.rxBytes += int64(size)
	}
	w.last = now
}

func (w *worker) fault(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errors[kind(err)]++
	w.r.errs.Add(1)
}

var errMismatch = errors.New("answer differs from what was sent")

// kind sorts errors into few groups.
func kind(err error) string {
	var code npro.Code
	switch {
	case errors.Is(err, errMismatch):
		return "mismatch"
	case errors.Is(err, client.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, client.ErrProtocol):
		return "protocol"
	case errors.Is(err, client.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, client.ErrConnLost):
		return "connection lost"
	case errors.As(err, &code):
		return code.String()
	}
	return "other"
}

func equal(a, b []byte) bool { return string(a) == string(b) }
