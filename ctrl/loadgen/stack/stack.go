package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/np-appliance/np/ctrl/ladder"
	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/dataplane"
)

// Options says what to load and from where.
type Options struct {
	Interface ports.Interface // its first address of the target's family is the source
	Gateway   netip.Addr      // invalid: the target is on the link
	Target    netip.AddrPort
	Mode      dataplane.LoadMode
	Conns     int
	Size      int
	Depth     int
	Blind     bool          // what comes back is not compared
	Warmup    time.Duration // from when all connections are open
	Duration  time.Duration
	Open      time.Duration // how long connections may take to open; 0: 10 s
	CPU       int           // of the poll core; negative: not pinned
	Spin      bool          // the poll core never sleeps
	Buffers   int           // packet buffers; 0: by the number of connections
	TCP       dataplane.TCPConfig
	// NewPlane, System and Log are the machine's.
	NewPlane func(*dataplane.Config) (dataplane.Plane, error)
	System   ports.System
	Log      *slog.Logger
	// Progress is called once a second of the measurement.
	Progress func(Progress)
}

// Progress is what happened in the last second.
type Progress struct {
	Elapsed       time.Duration
	PerSec        float64 // messages, or connections in connect mode
	TxBits        float64 // of payload, per second
	RxBits        float64
	Open          int
	Failed        int64
	BusyNsPerItem float64
}

// Result is what was measured within Elapsed.
type Result struct {
	Elapsed     time.Duration
	Opening     time.Duration // until all connections were open
	Open        int           // at the end
	Opened      int64         // connections
	Closed      int64         // in good order
	Failed      int64
	Mismatches  int64
	Messages    int64
	TxBytes     int64 // payload handed to connections
	RxBytes     int64
	Busy        time.Duration // of the poll core: turns that found work
	Latency     Latency
	Retransmits int64
	Backend     string
	Interrupted bool
}

// Latency is a histogram of durations, some 3 % wide.
type Latency struct {
	counts []uint64
	max    time.Duration
}

// Quantile returns the duration that a share q (0 to 1) of the messages did
// not exceed; 0 when there were none.
func (l *Latency) Quantile(q float64) time.Duration {
	var all uint64
	for _, n := range l.counts {
		all += n
	}
	if all == 0 {
		return 0
	}
	want := uint64(q*float64(all) + 0.5)
	var seen uint64
	for i, n := range l.counts {
		seen += n
		if n > 0 && seen >= max(want, 1) {
			return min(dataplane.LoadLatency(i+1)-1, l.max)
		}
	}
	return l.max
}

// Max returns the longest duration since the run began, warm-up included.
func (l *Latency) Max() time.Duration { return l.max }

// ErrNotOpen says that not all connections could be opened in time.
var ErrNotOpen = errors.New("connections not open")

const (
	openLimit  = 10 * time.Second
	takeLimit  = 5 * time.Second // for the interface to be up
	tick       = 10 * time.Millisecond
	perConn    = 4 // buffers
	buffersMin = 16384
	buffersMax = 1 << 20
)

func (o *Options) check() error {
	if len(o.Interface.Addresses) == 0 {
		return errors.New("no address for our end")
	}
	if _, err := o.source(); err != nil {
		return err
	}
	if o.Duration <= 0 {
		return fmt.Errorf("duration %s: want more than 0", o.Duration)
	}
	return nil
}

// source is the address the connections come from.
func (o *Options) source() (netip.Addr, error) {
	for _, a := range o.Interface.Addresses {
		if a.Addr().Is4() == o.Target.Addr().Unmap().Is4() {
			return a.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address of the family of %s on %s", o.Target.Addr(), o.Interface.Name)
}

func (o *Options) planeConfig(mtu int) *dataplane.Config {
	buffers := o.Buffers
	if buffers == 0 {
		buffers = min(max(buffersMin, o.Conns*perConn), buffersMax)
	}
	c := &dataplane.Config{CPUs: []int{o.CPU}, BuffersPerCore: buffers, ChunkBytes: 2048, LoansPerCore: 64, MaxConns: o.Conns + 1, MaxStreams: 1,
		LoadConns: o.Conns, LoadDepth: o.Depth, TCP: o.TCP}
	if o.Mode == dataplane.LoadConnect {
		// Ours close first, and there are 28,232 ports to one address and port: at a minute of TIME-WAIT
		// each that is 470 connections a second. Our sequence numbers and timestamps go on rising, so
		// that the other end takes the next one for what it is.
		c.MaxConns = o.Conns*8 + 65536
		if c.TCP.TimeWait == 0 {
			c.TCP.TimeWait = time.Millisecond
		}
	}
	if mtu > ports.MTUSmall {
		c.ChunkBytes = 4096
	}
	if o.Spin {
		c.IdleSpin = -1
	}
	return c
}

// run is one run on a plane that stands.
type run struct {
	o      *Options
	plane  dataplane.Plane
	loader dataplane.Loader
}

// Run makes a plane, takes the interface, loads the target and takes all of it
// down again. It fails when no load could be put on; failures within a run are
// in the result.
func Run(ctx context.Context, o Options) (res *Result, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	device, err := o.System.Inspect(o.Interface.Name)
	if err != nil {
		return nil, err
	}
	plane, err := o.NewPlane(o.planeConfig(ports.MTU(&o.Interface, &device)))
	if err != nil {
		return nil, err
	}
	loader, ok := plane.(dataplane.Loader)
	if !ok {
		return nil, errors.Join(fmt.Errorf("load from this data plane: %w", dataplane.CodeUnsupported), plane.Close())
	}
	manager := ports.New(o.System, plane, o.Log, time.Now)
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer func() {
		cancel()
		err = errors.Join(err, manager.Close(), plane.Close())
		wg.Wait()
	}()
	for _, c := range plane.Cores() {
		wg.Go(func() { drain(inner, c) })
	}
	if err := manager.Add(ctx, o.Interface); err != nil {
		return nil, err
	}
	wg.Go(func() { _ = manager.Run(inner) }) // ends with inner
	if o.Gateway.IsValid() {
		all := netip.PrefixFrom(o.Gateway, 0).Masked()
		if err := manager.AddRoute(ctx, all, o.Gateway, o.Interface.Name); err != nil {
			return nil, err
		}
	}
	if err := await(ctx, takeLimit, func() bool { return manager.Status()[0].Up }); err != nil {
		return nil, fmt.Errorf("interface %s: %s: %w", o.Interface.Name, manager.Status()[0].Reason, err)
	}
	r := run{o: &o, plane: plane, loader: loader}
	res, err = r.measure(ctx)
	if res != nil {
		res.Backend = ladder.Actual(manager.Status()[0].Ladder)
	}
	return res, err
}

// drain takes a core's events, of which a generator has none worth reading.
func drain(ctx context.Context, c dataplane.Core) {
	events := make([]dataplane.Event, 64)
	for ctx.Err() == nil {
		n := c.Poll(events)
		c.Release(events[:n])
		if n == 0 && c.Wait(ctx) != nil {
			return
		}
	}
}

// await looks every tick until ok, ctx's end or the limit.
func await(ctx context.Context, limit time.Duration, ok func() bool) error {
	end := time.NewTimer(limit)
	defer end.Stop()
	t := time.NewTicker(tick)
	defer t.Stop()
	for !ok() {
		select {
		case <-t.C:
		case <-end.C:
			if ok() {
				return nil
			}
			return context.DeadlineExceeded
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// point is what the counts were at a moment.
type point struct {
	at      time.Time
	stats   dataplane.LoadStats
	busy    uint64
	retrans uint64
}

func (r *run) now() point {
	p := point{at: time.Now(), stats: r.loader.LoadStats()}
	for i := range r.plane.Cores() {
		c := r.plane.Counters(i)
		p.busy += c.Counter[dataplane.CounterBusyNS]
		p.retrans += c.Counter[dataplane.CounterTCPRetrans]
	}
	return p
}

func (r *run) measure(ctx context.Context) (*Result, error) {
	o := r.o
	local, err := o.source()
	if err != nil {
		return nil, err
	}
	cfg := &dataplane.LoadConfig{Mode: o.Mode, Local: local, Remote: o.Target, Conns: o.Conns, Size: o.Size, Depth: o.Depth, Blind: o.Blind}
	began := time.Now()
	if err := r.loader.StartLoad(ctx, cfg); err != nil {
		return nil, err
	}
	limit := o.Open
	if limit == 0 {
		limit = openLimit
	}
	err = await(ctx, limit, func() bool {
		s := r.loader.LoadStats()
		if o.Mode == dataplane.LoadConnect {
			return s.Messages > 0
		}
		return s.Open == uint64(o.Conns)
	})
	if err != nil {
		s := r.loader.LoadStats()
		return nil, fmt.Errorf("%s: %w: %d of %d after %s, %d refused or lost (is something listening there, and ethtool -K PEER tx off on a veth pair's kernel end?): %w",
			o.Target, ErrNotOpen, s.Open, o.Conns, limit, s.Failed, err)
	}
	opening := time.Since(began)
	if err := pause(ctx, o.Warmup); err != nil {
		return nil, err
	}
	first := r.now()
	interrupted := r.watch(ctx, first)
	last := r.now()
	res := between(first, last)
	res.Opening, res.Interrupted = opening, interrupted
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeLimit)
	defer cancel()
	return res, r.loader.StopLoad(stop)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watch waits for the end of the measurement and tells of each second. It
// returns whether ctx ended it.
func (r *run) watch(ctx context.Context, first point) bool {
	before := first
	for {
		left := r.o.Duration - time.Since(first.at)
		if left <= 0 {
			return false
		}
		if pause(ctx, min(left, time.Second)) != nil {
			return true
		}
		if r.o.Progress == nil || time.Since(before.at) < time.Second/2 {
			continue
		}
		now := r.now()
		d := between(before, now)
		secs := d.Elapsed.Seconds()
		items := d.Items(r.o.Mode)
		p := Progress{Elapsed: now.at.Sub(first.at), PerSec: float64(items) / secs, TxBits: float64(d.TxBytes) * 8 / secs,
			RxBits: float64(d.RxBytes) * 8 / secs, Open: d.Open, Failed: d.Failed}
		if items > 0 {
			p.BusyNsPerItem = float64(d.Busy.Nanoseconds()) / float64(items)
		}
		r.o.Progress(p)
		before = now
	}
}

// Items is what a mode counts: messages, or connections opened.
func (r *Result) Items(mode dataplane.LoadMode) int64 {
	if mode == dataplane.LoadConnect || mode == dataplane.LoadHold {
		return r.Opened
	}
	return r.Messages
}

func between(a, b point) *Result {
	d := func(x, y uint64) int64 { return int64(y - x) }
	res := &Result{Elapsed: b.at.Sub(a.at), Open: int(b.stats.Open), Opened: d(a.stats.Opened, b.stats.Opened), Closed: d(a.stats.Closed, b.stats.Closed),
		Failed: d(a.stats.Failed, b.stats.Failed), Mismatches: d(a.stats.Mismatches, b.stats.Mismatches), Messages: d(a.stats.Messages, b.stats.Messages),
		TxBytes: d(a.stats.BytesTx, b.stats.BytesTx), RxBytes: d(a.stats.BytesRx, b.stats.BytesRx), Busy: time.Duration(d(a.busy, b.busy)),
		Retransmits: d(a.retrans, b.retrans), Latency: Latency{max: b.stats.LatencyMax}}
	for i := range b.stats.Latency {
		res.Latency.counts = append(res.Latency.counts, b.stats.Latency[i]-a.stats.Latency[i])
	}
	return res
}
