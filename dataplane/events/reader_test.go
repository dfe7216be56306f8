package events

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/fake"
)

// sink notes what it is told.
type sink struct {
	plane *fake.Plane
	keep  bool

	mu    sync.Mutex
	got   []dataplane.Event
	turns int
	ended int
}

func (s *sink) Event(core int, ev *dataplane.Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, *ev)
	if ev.Op == dataplane.EventMessage && !s.keep {
		// The body is not there later.
		s.got[len(s.got)-1].Body = [][]byte{bytes.Join(ev.Body, nil)}
	}
	return s.keep && ev.Token != 0
}

func (s *sink) Turn(int) { s.mu.Lock(); s.turns++; s.mu.Unlock() }
func (s *sink) Ended()   { s.ended++ }

func (s *sink) count(op dataplane.EventOp) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.got {
		if s.got[i].Op == op {
			n++
		}
	}
	return n
}

func listen(t *testing.T, p *fake.Plane, port uint16, k dataplane.SessionKind) dataplane.ListenerID {
	t.Helper()
	id, err := p.Listen(t.Context(), &dataplane.ListenConfig{Address: netip.AddrPortFrom(netip.MustParseAddr("198.18.0.1"), port), Kind: k})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

var remote = netip.MustParseAddrPort("198.18.0.2:40000")

func TestReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fake.New(fake.Options{Cores: 2, PieceBytes: 3})
		one, two := &sink{plane: p}, &sink{plane: p, keep: true}
		r := New(p)
		if err := r.Add(one, dataplane.SessionNPRO); err != nil {
			t.Fatal(err)
		}
		if err := r.Add(two, dataplane.SessionNPRO); !errors.Is(err, dataplane.CodeExists) {
			t.Error("a second sink for a kind:", err)
		}
		if err := r.Add(two, dataplane.SessionNone); !errors.Is(err, dataplane.CodeInvalid) {
			t.Error("a sink for no kind:", err)
		}
		if err := r.Add(two, dataplane.SessionPipe); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		a, err := p.Dial(0, listen(t, p, 1, dataplane.SessionNPRO), remote)
		if err != nil {
			t.Fatal(err)
		}
		b, err := p.Dial(1, listen(t, p, 2, dataplane.SessionPipe), remote)
		if err != nil {
			t.Fatal(err)
		}
		for range 1000 { // several batches
			a.Message(1, 0x20, 8, []byte("to one"))
		}
		b.Message(0, 0x20, 8, []byte("to two"))
		p.PortDown(0)
		synctest.Wait()
		if one.count(dataplane.EventOpen) != 1 || two.count(dataplane.EventOpen) != 1 || one.count(dataplane.EventMessage) != 1000 || two.count(dataplane.EventMessage) != 1 {
			t.Errorf("each to its own: %d, %d", len(one.got), len(two.got))
		}
		if one.count(dataplane.EventPort) != 2 || two.count(dataplane.EventPort) != 2 {
			t.Error("a port's event goes to every sink, from each core")
		}
		for i := range one.got {
			if ev := &one.got[i]; ev.Op == dataplane.EventMessage && string(ev.Body[0]) != "to one" {
				t.Fatalf("%+v", ev)
			}
		}
		// What was kept is still there, and is released by whom it belongs to.
		if n := p.Unreleased(); n != 1 {
			t.Errorf("%d bodies kept, expected 1", n)
		}
		for i := range two.got {
			if ev := &two.got[i]; ev.Op == dataplane.EventMessage {
				if string(bytes.Join(ev.Body, nil)) != "to two" {
					t.Errorf("kept body: %q", ev.Body)
				}
				p.Cores()[1].Release(two.got[i : i+1])
			}
		}
		if n := p.Unreleased(); n != 0 {
			t.Errorf("%d bodies kept", n)
		}
		r.Remove(two)
		b.Message(0, 0x20, 8, []byte("to nobody"))
		synctest.Wait()
		if two.count(dataplane.EventMessage) != 1 || p.Unreleased() != 0 {
			t.Error("told after Remove, or a body leaked")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if one.ended != 1 || two.ended != 0 || one.turns == 0 {
			t.Error("ended", one.ended, two.ended, "turns", one.turns)
		}
		if err := r.Add(two, dataplane.SessionPipe); !errors.Is(err, dataplane.CodeShutdown) {
			t.Error("a sink after the end:", err)
		}
		p.Close()
	})
}

// TestReaderEndsWithPlane: the plane's end is no error, and ends every core's goroutine.
func TestReaderEndsWithPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fake.New(fake.Options{Cores: 3})
		s := &sink{}
		r := New(p)
		if err := r.Add(s, dataplane.SessionPipe); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- r.Run(t.Context()) }()
		synctest.Wait()
		p.Close()
		if err := <-done; err != nil || s.ended != 1 {
			t.Error(err, s.ended)
		}
	})
}

// busyCore always has a batch of events and counts what is released.
type busyCore struct {
	dataplane.Core
	left, released int
	body           [][]byte
}

func (c *busyCore) Poll(out []dataplane.Event) int {
	n := min(c.left, len(out))
	for i := range n {
		out[i] = dataplane.Event{Op: dataplane.EventMessage, Kind: dataplane.SessionNPRO, Body: c.body, Token: 1}
	}
	c.left -= n
	return n
}
func (c *busyCore) Wait(context.Context) error { return dataplane.CodeShutdown }
func (c *busyCore) Flush()                     {}
func (c *busyCore) Release(evs []dataplane.Event) {
	for i := range evs {
		c.released += int(evs[i].Token)
	}
}

type nullPlane struct {
	dataplane.Plane
	core busyCore
}

func (p *nullPlane) Cores() []dataplane.Core { return []dataplane.Core{&p.core} }

type nullSink struct{ n int }

func (s *nullSink) Event(int, *dataplane.Event) bool { s.n++; return false }
func (s *nullSink) Turn(int)                         {}
func (s *nullSink) Ended()                           {}

// TestReaderAllocatesNothing per event.
func TestReaderAllocatesNothing(t *testing.T) {
	run := func(events int) float64 {
		return testing.AllocsPerRun(5, func() {
			p := &nullPlane{core: busyCore{left: events, body: [][]byte{{1}}}}
			r, s := New(p), &nullSink{}
			if err := r.Add(s, dataplane.SessionNPRO); err != nil {
				t.Fatal(err)
			}
			if err := r.Run(context.Background()); err != nil || s.n != events || p.core.released != events {
				t.Fatal(err, s.n, p.core.released)
			}
		})
	}
	if few, many := run(1), run(100_000); many > few+2 { // goroutines of the runtime may cost one
		t.Errorf("%v allocations for 100,000 events, %v for one", many, few)
	}
}

func BenchmarkReader(b *testing.B) {
	p := &nullPlane{core: busyCore{left: b.N, body: [][]byte{{1}}}}
	r, s := New(p), &nullSink{}
	if err := r.Add(s, dataplane.SessionNPRO); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	if err := r.Run(context.Background()); err != nil || s.n != b.N {
		b.Fatal(err, s.n)
	}
}
