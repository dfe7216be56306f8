//go:build cgo

package npc

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/np-appliance/np/dataplane"
)

// small takes little memory; the tests' cores sleep when idle.
func small(cores int) *dataplane.Config {
	c := &dataplane.Config{BuffersPerCore: 1024, LoansPerCore: 64, MaxConns: 256, MaxStreams: 256,
		HugePages: dataplane.HugePagesOff, IdleSpin: 50 * time.Microsecond}
	for range cores {
		c.CPUs = append(c.CPUs, -1)
	}
	return c
}

func start(t testing.TB, cores int) *Plane {
	t.Helper()
	p, err := New(small(cores))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p.(*Plane)
}

func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func TestStartClose(t *testing.T) {
	start(t, 1).Close() // the runtime's own descriptors exist from here on
	fds, routines := descriptors(t), runtime.NumGoroutine()
	for _, cores := range []int{1, 2} {
		p := start(t, cores)
		if i := p.Info(); len(i.CPUs) != cores || i.CryptoEngine == "" || i.Backend != "af_xdp" {
			t.Errorf("%+v", i)
		}
		if len(p.Cores()) != cores || p.Cores()[0].(*core).capacity() < 1500 {
			t.Error("cores")
		}
		before := p.Counters(cores - 1)
		if before.Counter[dataplane.CounterBufTotal] != 1024 {
			t.Errorf("%d buffers", before.Counter[dataplane.CounterBufTotal])
		}
		p.Drain(t.Context())
		if after := p.Counters(cores - 1); after.Counter[dataplane.CounterTurns] <= before.Counter[dataplane.CounterTurns] {
			t.Error("the core does not turn")
		}
		if p.Counters(cores) != (dataplane.Counters{}) || p.Counters(-1) != (dataplane.Counters{}) {
			t.Error("counters of no core")
		}
		p.Close()
		p.Close()
		after(t, p)
	}
	if n := descriptors(t); n != fds {
		t.Errorf("%d descriptors before, %d after", fds, n)
	}
	if n := runtime.NumGoroutine(); n > routines {
		t.Errorf("%d goroutines before, %d after", routines, n)
	}
}

// after checks that a closed plane refuses everything and touches no memory.
func after(t *testing.T, p *Plane) {
	t.Helper()
	ctx := context.Background()
	c := p.cores[0]
	_, listen := p.Listen(ctx, &dataplane.ListenConfig{Address: netip.MustParseAddrPort("198.18.0.1:7"), Kind: dataplane.SessionEcho})
	_, conns := p.Connections(ctx)
	_, capt := p.Capture(ctx, &dataplane.CaptureConfig{Interface: -1})
	for i, err := range []error{listen, conns, capt, p.Drain(ctx), c.Wait(ctx), p.DelRoute(ctx, dataplane.Route{})} {
		if !errors.Is(err, dataplane.CodeShutdown) {
			t.Errorf("call %d after Close: %v", i, err)
		}
	}
	var ev [1]dataplane.Event
	c.Flush()
	c.Release(ev[:])
	if c.Poll(ev[:]) != 0 || p.Counters(0) != (dataplane.Counters{}) || p.QueueStats(0) != nil {
		t.Error("a closed plane still answers")
	}
}

func TestBadConfig(t *testing.T) {
	for name, change := range map[string]func(*dataplane.Config){
		"chunk":      func(c *dataplane.Config) { c.ChunkBytes = 1000 },
		"negative":   func(c *dataplane.Config) { c.MaxConns = -1 },
		"loans":      func(c *dataplane.Config) { c.LoansPerCore = 1 << 20 },
		"cpu":        func(c *dataplane.Config) { c.CPUs = []int{1 << 20} },
		"no cpu":     func(c *dataplane.Config) { c.CPUs = []int{1000} },
		"many cores": func(c *dataplane.Config) { c.CPUs = make([]int, 65) },
	} {
		cfg := small(1)
		change(cfg)
		p, err := New(cfg)
		if err == nil {
			p.Close()
			t.Errorf("%s: accepted", name)
		} else if !errors.Is(err, dataplane.CodeInvalid) {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Log(err)
		}
	}
}

func TestListen(t *testing.T) {
	p := start(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cfg := &dataplane.ListenConfig{Address: netip.MustParseAddrPort("0.0.0.0:7000"), Kind: dataplane.SessionNPRO, Backlog: 16, MaxConns: 100}
	id, err := p.Listen(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Listen(ctx, cfg); !errors.Is(err, dataplane.CodeAddrinuse) {
		t.Error("second listener:", err)
	}
	if err := p.Unlisten(ctx, id); err != nil {
		t.Error(err)
	}
	if err := p.Unlisten(ctx, id); !errors.Is(err, dataplane.CodeStale) {
		t.Error("unlisten twice:", err)
	}
	if _, err = p.Listen(ctx, cfg); err != nil {
		t.Error("listen again:", err)
	}
	cfg.Kind = dataplane.SessionNone
	if _, err := p.Listen(ctx, cfg); !errors.Is(err, dataplane.CodeInvalid) {
		t.Error("no session kind:", err)
	}
	if err := p.Drain(ctx); err != nil {
		t.Error(err)
	}
	if _, err := p.Listen(ctx, cfg); err == nil {
		t.Error("listening while draining")
	}
	canceled, stop := context.WithCancel(ctx)
	stop()
	if err := p.Drain(canceled); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestNothingThere(t *testing.T) {
	p := start(t, 2)
	ctx := t.Context()
	if c, err := p.Connections(ctx); err != nil || len(c) != 0 {
		t.Error(c, err)
	}
	if n, err := p.Neighbors(ctx); err != nil || len(n) != 0 {
		t.Error(n, err)
	}
	pre := netip.MustParsePrefix("198.18.0.1/24")
	for i, err := range []error{
		p.AddAddress(ctx, 0, pre), p.DelAddress(ctx, 0, pre), p.AddRoute(ctx, dataplane.Route{Prefix: pre}),
		p.DelRoute(ctx, dataplane.Route{Prefix: pre}), p.DetachInterface(ctx, 40),
	} {
		if !errors.Is(err, dataplane.CodeNotfound) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	for range 3 { // leaves nothing behind
		_, _, err := p.AddInterface(ctx, &dataplane.InterfaceConfig{Name: "npnone0", Index: 99999, MTU: 1500,
			MAC: []byte{2, 0, 0, 0, 0, 1}, Queues: 1, Addresses: []netip.Prefix{pre}})
		if err == nil || !strings.Contains(err.Error(), "npnone0") {
			t.Error(err)
		}
		t.Log(err)
	}
	if p.QueueStats(0) != nil {
		t.Error("queues of no interface")
	}
}

// reader polls a core the way ctrl does, until the plane closes.
func reader(c dataplane.Core, batch int, each func(*dataplane.Event)) {
	evs := make([]dataplane.Event, batch)
	for {
		n := c.Poll(evs)
		for i := range evs[:n] {
			each(&evs[i])
		}
		c.Release(evs[:n])
		c.Flush()
		if n == 0 && c.Wait(context.Background()) != nil {
			return
		}
	}
}

// TestCallsWithReader makes set-up calls from many goroutines while readers
// sleep and wake.
func TestCallsWithReader(t *testing.T) {
	p := start(t, 2)
	var readers, callers sync.WaitGroup
	for _, c := range p.Cores() {
		readers.Go(func() { reader(c, 8, func(*dataplane.Event) {}) })
	}
	for i := range 4 {
		callers.Go(func() {
			cfg := &dataplane.ListenConfig{Address: netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(8000+i)), Kind: dataplane.SessionEcho}
			for range 100 {
				id, err := p.Listen(t.Context(), cfg)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := p.Connections(t.Context()); err != nil {
					t.Error(err)
				}
				if err := p.Unlisten(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	callers.Wait()
	p.Close()
	readers.Wait()
}

// pretend makes a handle look open to Go. The core knows better and refuses
// each command on it with CodeStale, which makes an event for each command: a
// round trip through all three rings without a network.
func pretend(c *core) dataplane.Handle {
	h := dataplane.Handle(7<<32 | uint64(c.index)<<24 | 5)
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.mark(h, 7)
	return h
}

// TestRings pushes frames of all sizes through the rings from several
// goroutines and counts what comes back, to the byte.
func TestRings(t *testing.T) {
	p := start(t, 2)
	const senders, each = 3, 4000
	for _, dc := range p.Cores() {
		c := dc.(*core)
		h := pretend(c)
		var sent, back, frames atomic.Uint64
		done := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			reader(c, 32, func(ev *dataplane.Event) {
				if ev.Op != dataplane.EventSent || ev.Err != dataplane.CodeStale || ev.Conn != h || ev.Stream != 3 {
					t.Errorf("%+v", ev)
				}
				back.Add(uint64(ev.Bytes))
				if frames.Add(1) == senders*each {
					close(done)
				}
			})
		})
		for s := range senders {
			wg.Go(func() {
				part := make([]byte, 5000)
				for i := range each {
					out := &dataplane.Outgoing{Conn: h, Stream: 3, Type: 0x22, Parts: [][]byte{part[:(i*37)%5000], part[:s]}}
					for {
						err := c.Send(out)
						if err == nil {
							break
						}
						if !errors.Is(err, dataplane.CodeFull) {
							t.Error(err)
							return
						}
						c.Flush()
						runtime.Gosched()
					}
					sent.Add(uint64((i*37)%5000 + s))
					if i%16 == 0 {
						c.Flush()
					}
				}
				c.Flush()
			})
		}
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatalf("%d of %d frames came back", frames.Load(), senders*each)
		}
		if sent.Load() != back.Load() {
			t.Errorf("sent %d bytes, %d came back", sent.Load(), back.Load())
		}
		c.mu.Lock()
		if !c.takeLoans(64) {
			t.Errorf("%d of 64 lent buffers came back", len(c.free))
		}
		c.mu.Unlock()
		defer wg.Wait()
	}
	p.Close()
}

// TestFull has nobody polling: sends end with CodeFull, never block, and the
// set-up calls still get their answers.
func TestFull(t *testing.T) {
	p := start(t, 1)
	c := p.cores[0]
	h := pretend(c)
	full := 0
	for range 40000 {
		if err := c.Send(&dataplane.Outgoing{Conn: h, Stream: 3, Type: 0x22, Parts: [][]byte{{1}}}); err != nil {
			if !errors.Is(err, dataplane.CodeFull) {
				t.Fatal(err)
			}
			full++
			c.Flush()
		}
	}
	if full == 0 {
		t.Fatal("never full")
	}
	if err := c.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	id, err := p.Listen(t.Context(), &dataplane.ListenConfig{Address: netip.MustParseAddrPort("[::]:9"), Kind: dataplane.SessionEcho})
	if err != nil {
		t.Fatal("with a full event ring:", err)
	}
	if err := p.Unlisten(t.Context(), id); err != nil {
		t.Error(err)
	}
	evs := make([]dataplane.Event, 64)
	n := 0
	for c.Wait(t.Context()) == nil {
		got := c.Poll(evs)
		c.Release(evs[:got])
		c.Flush()
		if n += got; n == 40000-full {
			break
		}
	}
	if err := c.Send(&dataplane.Outgoing{Conn: h, Parts: [][]byte{make([]byte, 1<<20)}}); !errors.Is(err, dataplane.CodeInvalid) {
		t.Error("a frame larger than all lent buffers:", err)
	}
	if err := c.Send(&dataplane.Outgoing{Conn: h + 1}); !errors.Is(err, dataplane.CodeStale) {
		t.Error(err)
	}
}

func TestWait(t *testing.T) {
	p := start(t, 1)
	c := p.cores[0]
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		for range 2 {
			if err := c.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		cancel()
	}
	// A set-up call lays events aside; the sleeping reader must find them.
	h := pretend(c)
	woke := make(chan error, 1)
	go func() { woke <- c.Wait(context.Background()) }()
	time.Sleep(5 * time.Millisecond)
	if err := c.Send(&dataplane.Outgoing{Conn: h}); err != nil {
		t.Fatal(err)
	}
	c.Flush()
	c.help()
	if err := <-woke; err != nil {
		t.Error(err)
	}
	var ev [4]dataplane.Event
	for c.Poll(ev[:]) != 1 {
		if err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKeysAreWiped(t *testing.T) {
	p := start(t, 1)
	c := p.cores[0]
	k := dataplane.Keys{Rx: [32]byte{1}, Tx: [32]byte{2}}
	if err := c.InstallKeys(99, &k); !errors.Is(err, dataplane.CodeStale) || k != (dataplane.Keys{}) {
		t.Error("keys stay after an error", err)
	}
	k.Rx[0] = 1
	if err := c.InstallKeys(pretend(c), &k); err != nil || k != (dataplane.Keys{}) {
		t.Error("keys stay", err)
	}
	c.Flush()
}

func TestPerCore(t *testing.T) {
	for _, c := range []struct{ limit, cores, want int }{{0, 2, 0}, {1000, 1, 1000}, {1000, 2, 590}, {3, 2, 3}, {100000, 4, 25633}} {
		if got := perCore(c.limit, c.cores); got != c.want {
			t.Errorf("perCore(%d, %d) = %d, want %d", c.limit, c.cores, got, c.want)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	if underASan {
		t.Skip("ASan allocates")
	}
	p := start(t, 1)
	c := p.cores[0]
	out := &dataplane.Outgoing{Conn: pretend(c), Stream: 3, Type: 0x21, Parts: [][]byte{{0}, make([]byte, 100)}}
	evs := make([]dataplane.Event, 16)
	n := testing.AllocsPerRun(1000, func() {
		if err := c.Send(out); err != nil {
			t.Fatal(err)
		}
		if err := c.Credit(out.Conn, 3, 100); err != nil {
			t.Fatal(err)
		}
		c.Flush()
		for c.Poll(evs) == 0 {
			if err := c.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		c.Release(evs)
	})
	if n > 0 {
		t.Errorf("%.0f allocations per message", n)
	}
}

// BenchmarkRoundTrip is Go's cost of one message each way, in batches of 32:
// command and event rings, a lent buffer, and the core's own work beside it.
func BenchmarkRoundTrip(b *testing.B) {
	p := start(b, 1)
	c := p.cores[0]
	out := &dataplane.Outgoing{Conn: pretend(c), Stream: 3, Type: 0x21, Parts: [][]byte{{0}, make([]byte, 63)}}
	evs := make([]dataplane.Event, 32)
	b.ReportAllocs()
	for left := b.N; left > 0; {
		n := min(left, 32)
		for range n {
			if err := c.Send(out); err != nil {
				b.Fatal(err)
			}
		}
		c.Flush()
		for got := 0; got < n; {
			k := c.Poll(evs)
			c.Release(evs[:k])
			got += k
		}
		left -= n
	}
}

// BenchmarkSend is Go's side of one frame of 64 bytes: checks, a lent buffer,
// the copy, the descriptor. The core does not see it.
func BenchmarkSend(b *testing.B) {
	p := start(b, 1)
	c := p.cores[0]
	out := &dataplane.Outgoing{Conn: pretend(c), Stream: 3, Type: 0x21, Parts: [][]byte{{0}, make([]byte, 63)}}
	c.takeLoans(64)
	lent := len(c.free)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Send(out); err != nil {
			b.Fatal(err)
		}
		c.queued, c.free = 0, c.free[:lent] // as if it had never been
	}
}

// BenchmarkPoll is Go's side of one message of 64 bytes, in batches of 32: the
// descriptor read and decoded, the body's slice made.
func BenchmarkPoll(b *testing.B) {
	p := start(b, 1)
	c := p.cores[0]
	c.takeLoans(1)
	c.free[0].len = 64
	batch := slices.Grow(c.stash, 32)[:32]
	for i := range batch {
		batch[i].op, batch[i].body, batch[i].body_bytes = 5, c.free[0], 64 // NP_EV_MESSAGE
	}
	evs := make([]dataplane.Event, 32)
	b.ReportAllocs()
	for left := b.N; left > 0; left -= 32 {
		c.stash, c.taken = batch, 0
		if c.Poll(evs) != 32 || evs[31].Len() != 64 {
			b.Fatal("events missing")
		}
	}
	c.stash = nil
}

// TestCloseDuringCapture ends the plane under a capture: its reader is told.
func TestCloseDuringCapture(t *testing.T) {
	p := start(t, 2)
	k, err := p.Capture(t.Context(), &dataplane.CaptureConfig{Interface: -1})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := k.Next(t.Context()); !errors.Is(err, dataplane.CodeShutdown) {
		t.Error(err)
	}
	// The core cannot be asked any more; the memory went with the plane.
	_ = k.Close()
	if k.Lost() != 0 {
		t.Error("lost", k.Lost())
	}
}
