package fake

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/np-appliance/np/dataplane"
)

// drain takes a core's events and releases their bodies; data is put together.
func drain(c dataplane.Core) (ops []dataplane.EventOp, data string, last dataplane.Event) {
	var evs [64]dataplane.Event
	for {
		n := c.Poll(evs[:])
		if n == 0 {
			return ops, data, last
		}
		for i := range evs[:n] {
			ops = append(ops, evs[i].Op)
			if evs[i].Op == dataplane.EventData {
				for _, b := range evs[i].Body {
					data += string(b)
				}
			}
			last = evs[i]
		}
		c.Release(evs[:n])
	}
}

// TestPipe takes a connection of the plane to itself through its life.
func TestPipe(t *testing.T) {
	p := New(Options{Cores: 2, PieceBytes: 3, Window: 10})
	defer p.Close()
	at := netip.MustParseAddrPort("198.18.0.1:80")
	if _, err := p.Listen(t.Context(), &dataplane.ListenConfig{Address: at, Kind: dataplane.SessionPipe, MaxConns: 1}); err != nil {
		t.Fatal(err)
	}
	h, err := p.Connect(t.Context(), &dataplane.ConnectConfig{Remote: at, Kind: dataplane.SessionPipe, Core: 0})
	if err != nil {
		t.Fatal(err)
	}
	a := p.Cores()[0]
	if ops, _, ev := drain(a); len(ops) != 1 || ev.Op != dataplane.EventOpen || ev.Incoming || ev.Conn != h || ev.Remote != at {
		t.Fatalf("%v %+v", ops, ev)
	}
	var b dataplane.Core
	var open dataplane.Event
	for _, c := range p.Cores() {
		if ops, _, ev := drain(c); len(ops) == 1 {
			b, open = c, ev
		}
	}
	if b == nil || !open.Incoming || open.Local != at {
		t.Fatalf("%+v", open)
	}
	if err := a.Write(h, [][]byte{[]byte("fourteen "), []byte("bytes")}); err != nil {
		t.Fatal(err)
	}
	if _, data, _ := drain(b); data != "" {
		t.Errorf("%q came before Flush", data)
	}
	a.Flush()
	if _, data, _ := drain(b); data != "fourteen b" { // its window
		t.Errorf("%q", data)
	}
	if _, _, ev := drain(a); ev.Op != dataplane.EventSent || ev.Bytes != 10 {
		t.Errorf("%+v", ev)
	}
	if err := a.CloseWrite(h); err != nil {
		t.Fatal(err)
	}
	a.Flush()
	if ops, _, _ := drain(b); len(ops) != 0 {
		t.Errorf("%v before there was room", ops)
	}
	if err := b.Credit(open.Conn, 0, 10); err != nil {
		t.Fatal(err)
	}
	b.Flush()
	if ops, data, ev := drain(b); data != "ytes" || ev.Op != dataplane.EventEOF {
		t.Errorf("%v %q", ops, data)
	}
	// The other half, then both are over.
	if err := b.Write(open.Conn, [][]byte{[]byte("back")}); err != nil {
		t.Fatal(err)
	}
	if err := b.CloseConn(open.Conn, 0, ""); err != nil {
		t.Fatal(err)
	}
	b.Flush()
	if ops, data, ev := drain(a); data != "back" || ev.Op != dataplane.EventClosed || ev.Err != dataplane.CodeOK || ops[len(ops)-2] != dataplane.EventEOF {
		t.Errorf("%v %q %+v", ops, data, ev)
	}
	if _, _, ev := drain(b); ev.Op != dataplane.EventClosed || ev.Err != dataplane.CodeOK {
		t.Errorf("%+v", ev)
	}
	for _, err := range []error{a.Write(h, [][]byte{{1}}), a.CloseWrite(h), a.Credit(h, 0, 1), a.Abort(h)} {
		if !errors.Is(err, dataplane.CodeStale) {
			t.Error("on a connection that is gone:", err)
		}
	}
	if p.Unreleased() != 0 || p.Listeners()[0].Conns != 0 {
		t.Error("left behind", p.Unreleased(), p.Listeners())
	}
}

// TestPipeEnds: refusals, resets, a writer that ignores its budget.
func TestPipeEnds(t *testing.T) {
	p := New(Options{})
	defer p.Close()
	c := p.Cores()[0]
	at := netip.MustParseAddrPort("198.18.0.1:80")
	connect := func() dataplane.Handle {
		t.Helper()
		h, err := p.Connect(t.Context(), &dataplane.ConnectConfig{Remote: at, Kind: dataplane.SessionPipe, Core: -1})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	h := connect()
	if ops, _, ev := drain(c); len(ops) != 1 || ev.Op != dataplane.EventClosed || ev.Err != dataplane.CodeRefused || ev.Conn != h {
		t.Errorf("%v %+v", ops, ev)
	}
	s := p.Serve(at)
	h = connect()
	far, err := s.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	drain(c)
	if err := c.Write(h, [][]byte{[]byte(strings.Repeat("x", pipeWindow+10))}); err != nil {
		t.Fatal(err)
	}
	c.Flush()
	if _, _, ev := drain(c); ev.Bytes != pipeWindow {
		t.Errorf("%d bytes sent of a window of %d", ev.Bytes, pipeWindow)
	}
	for range 2 {
		c.Write(h, [][]byte{make([]byte, pipeQueue)})
	}
	c.Flush()
	if _, _, ev := drain(c); ev.Op != dataplane.EventSent || ev.Err != dataplane.CodeFull || ev.Bytes != pipeQueue {
		t.Errorf("more than a core queues: %+v", ev)
	}
	far.Abort(dataplane.CodeReset)
	if _, _, ev := drain(c); ev.Op != dataplane.EventClosed || ev.Err != dataplane.CodeReset {
		t.Errorf("%+v", ev)
	}
	p.Void(netip.MustParseAddrPort("198.18.0.1:81"))
	at = netip.MustParseAddrPort("198.18.0.1:81")
	h = connect()
	if err := c.Abort(h); err != nil {
		t.Error(err)
	}
	c.Flush()
	if ops, _, ev := drain(c); len(ops) != 1 || ev.Op != dataplane.EventClosed || ev.Err != dataplane.CodeAborted {
		t.Errorf("a dial given up: %v %+v", ops, ev)
	}
}
