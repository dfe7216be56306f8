package netconn

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/events"
)

// nullPlane has one core that takes everything and does nothing.
type nullPlane struct {
	dataplane.Plane
	core nullCore
}

func (p *nullPlane) Cores() []dataplane.Core { return []dataplane.Core{&p.core} }
func (p *nullPlane) Info() dataplane.Info    { return dataplane.Info{Backend: "null"} }

type nullCore struct {
	dataplane.Core
	written, credited, released int
}

func (c *nullCore) Write(_ dataplane.Handle, parts [][]byte) error {
	for _, p := range parts {
		c.written += len(p)
	}
	return nil
}
func (c *nullCore) Credit(_ dataplane.Handle, _ uint32, n uint32) error {
	c.credited += int(n)
	return nil
}
func (c *nullCore) Release(evs []dataplane.Event) { c.released += len(evs) }
func (c *nullCore) Flush()                        {}

// nullRig is an open connection whose events a test makes itself.
func nullRig(t testing.TB) (*stack, *nullCore, *Conn) {
	p := &nullPlane{}
	tr, err := New(p, events.New(p), Options{})
	if err != nil {
		t.Fatal(err)
	}
	l := &Listener{t: tr, network: "tcp", queue: make(chan *Conn, 1), done: make(chan struct{})}
	tr.s.listeners[1] = l
	tr.s.Event(0, &dataplane.Event{Op: dataplane.EventOpen, Kind: dataplane.SessionPipe, Conn: 1 << 32, Listener: 1, Incoming: true,
		Local: netip.MustParseAddrPort("198.18.0.1:80"), Remote: netip.MustParseAddrPort("198.18.0.2:40000")})
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return tr.s, &p.core, c.(*Conn)
}

// round brings a message, reads it, answers it and has the answer leave.
func round(t testing.TB, s *stack, c net.Conn, ev *dataplane.Event, buf []byte) {
	s.Event(0, ev)
	n, err := c.Read(buf)
	if err == nil {
		n, err = c.Write(buf[:n])
	}
	if err != nil || n != ev.Len() {
		t.Fatal(n, err)
	}
	s.Event(0, &dataplane.Event{Op: dataplane.EventSent, Kind: dataplane.SessionPipe, Conn: ev.Conn, Bytes: uint32(n)})
	s.Turn(0)
}

// TestEchoAllocatesNothing: a message there and back costs no memory, once the
// connection is warm, and returns to the peer's window all but a little.
func TestEchoAllocatesNothing(t *testing.T) {
	s, core, c := nullRig(t)
	buf := make([]byte, 4096)
	for _, size := range []int{64, 3000} {
		*core = nullCore{}
		ev := &dataplane.Event{Op: dataplane.EventData, Kind: dataplane.SessionPipe, Conn: 1 << 32, Token: 1, Body: [][]byte{make([]byte, size/2), make([]byte, size/2)}}
		const rounds = 1000
		if n := testing.AllocsPerRun(rounds, func() { round(t, s, c, ev, buf) }); n > 0 {
			t.Errorf("%v allocations for a message of %d bytes", n, size)
		}
		if all := (rounds + 1) * size; core.written != all || core.released != rounds+1 || core.credited < all-creditIdle {
			t.Errorf("%d bytes in, %d out, %d credited, %d bodies released", all, core.written, core.credited, core.released)
		}
	}
}

// TestDeadlineAllocatesNothing: nor does a deadline for each message, once there was one.
func TestDeadlineAllocatesNothing(t *testing.T) {
	_, _, c := nullRig(t)
	at := time.Now().Add(time.Hour)
	if n := testing.AllocsPerRun(1000, func() {
		if err := c.SetDeadline(at); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations for a deadline", n)
	}
}

func BenchmarkEcho(b *testing.B) {
	s, _, c := nullRig(b)
	buf := make([]byte, 4096)
	ev := &dataplane.Event{Op: dataplane.EventData, Kind: dataplane.SessionPipe, Conn: 1 << 32, Token: 1, Body: [][]byte{make([]byte, 64)}}
	b.ReportAllocs()
	for b.Loop() {
		round(b, s, c, ev, buf)
	}
}
