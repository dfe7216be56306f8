package fake

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/np-appliance/np/dataplane"
)

func setup(t *testing.T, o Options) (*Plane, dataplane.ListenerID) {
	t.Helper()
	p := New(o)
	t.Cleanup(func() { p.Close() })
	id, err := p.Listen(t.Context(), &dataplane.ListenConfig{
		Address: netip.MustParseAddrPort("198.18.0.1:7000"), Kind: dataplane.SessionNPRO, MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	return p, id
}

func next(t *testing.T, c dataplane.Core) dataplane.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	var ev [1]dataplane.Event
	if c.Poll(ev[:]) != 1 {
		t.Fatal("Wait returned, Poll found nothing")
	}
	return ev[0]
}

var remote = netip.MustParseAddrPort("198.18.0.2:40000")

// TestHandshake drives a whole connection the way ctrl does: handshake, keys,
// request, response, credit, close.
func TestHandshake(t *testing.T) {
	p, id := setup(t, Options{PieceBytes: 3})
	c := p.Cores()[0]
	peer, err := p.Dial(0, id, remote)
	if err != nil {
		t.Fatal(err)
	}
	if ev := next(t, c); ev.Op != dataplane.EventOpen || ev.Conn != peer.Handle() || ev.Remote != remote || !ev.Incoming {
		t.Fatalf("open: %+v", ev)
	}
	peer.Handshake(0x10, []byte("hello12"))
	ev := next(t, c)
	if ev.Op != dataplane.EventHandshake || ev.Type != 0x10 || len(ev.Body) != 3 || string(bytes.Join(ev.Body, nil)) != "hello12" {
		t.Fatalf("handshake: %+v", ev)
	}
	body := ev.Body[0]
	c.Release([]dataplane.Event{ev})
	if string(body) == "hel" {
		t.Error("body readable after Release")
	}
	if err := c.Handshake(ev.Conn, 0x11, []byte("answer"), false); err != nil {
		t.Fatal(err)
	}
	keys := dataplane.Keys{AEAD: 2, Rx: [32]byte{1}}
	if err := c.InstallKeys(ev.Conn, &keys); err != nil || keys != (dataplane.Keys{}) {
		t.Fatalf("keys not wiped, err %v", err)
	}
	if n := len(p.Commands()); n != 0 {
		t.Fatalf("%d commands visible before Flush", n)
	}
	c.Flush()
	if cmd, _ := peer.Next(t.Context()); cmd.Op != OpHandshake || string(cmd.Body) != "answer" {
		t.Fatalf("%+v", cmd)
	}
	if cmd, _ := peer.Next(t.Context()); cmd.Op != OpKeys || cmd.Keys.Rx[0] != 1 || peer.State() != "open" {
		t.Fatalf("%+v %s", cmd, peer.State())
	}
	peer.Message(1, 0x20, 8, []byte("\x04ECHOabc"))
	ev = next(t, c)
	if ev.Op != dataplane.EventMessage || ev.Stream != 1 || ev.Len() != 8 {
		t.Fatalf("%+v", ev)
	}
	c.Credit(ev.Conn, ev.Stream, uint32(ev.Len()))
	c.Release([]dataplane.Event{ev})
	c.Send(&dataplane.Outgoing{Conn: ev.Conn, Stream: 1, Type: 0x21, Flags: 8, Parts: [][]byte{{0}, []byte("abc")}})
	c.Flush()
	if cmd, _ := peer.Next(t.Context()); cmd.Op != OpSend || string(cmd.Body) != "\x00abc" {
		t.Fatalf("%+v", cmd)
	}
	if ev = next(t, c); ev.Op != dataplane.EventSent || ev.Bytes != 4 {
		t.Fatalf("%+v", ev)
	}
	if peer.Credited(1) != 8 {
		t.Error("credit", peer.Credited(1))
	}
	c.CloseConn(ev.Conn, 256, "bye")
	c.Flush()
	if ev = next(t, c); ev.Op != dataplane.EventClosed || ev.Err != dataplane.CodeOK {
		t.Fatalf("%+v", ev)
	}
	if err := c.Ping(ev.Conn, nil); !errors.Is(err, dataplane.CodeStale) {
		t.Error("ping on a closed connection:", err)
	}
	if cmd, _ := peer.Next(t.Context()); cmd.Op != OpClose || cmd.Reason != "bye" {
		t.Fatalf("%+v", cmd)
	}
	if _, err := peer.Next(t.Context()); err != dataplane.CodeEOF {
		t.Error(err)
	}
	if p.Unreleased() != 0 || len(peer.Misuse()) != 0 {
		t.Error("unreleased", p.Unreleased(), "misuse", peer.Misuse())
	}
}

func TestRefusals(t *testing.T) {
	p, id := setup(t, Options{})
	c := p.Cores()[0]
	boom := errors.New("boom")
	p.Fail("Listen", 1, boom)
	cfg := &dataplane.ListenConfig{Address: netip.MustParseAddrPort("198.18.0.1:7000"), Kind: dataplane.SessionEcho}
	if _, err := p.Listen(t.Context(), cfg); err != boom {
		t.Error(err)
	}
	if _, err := p.Listen(t.Context(), cfg); err != dataplane.CodeAddrinuse {
		t.Error(err)
	}
	peer, _ := p.Dial(0, id, remote)
	p.Dial(0, id, remote)
	if _, err := p.Dial(0, id, remote); err != dataplane.CodeLimit {
		t.Error(err)
	}
	p.SetSendRoom(1)
	p.HoldSent(true)
	out := &dataplane.Outgoing{Conn: peer.Handle(), Type: 0x22}
	if err := c.Send(out); err != nil {
		t.Error(err)
	}
	if err := c.Send(out); err != dataplane.CodeFull {
		t.Error(err)
	}
	peer.Sent(0, 0)
	if err := c.Send(out); err != nil {
		t.Error(err)
	}
	c.Flush()
	if len(peer.Misuse()) != 2 {
		t.Error("frames before the handshake went unnoticed")
	}
	peer.Handshake(0x10, nil)
	var evs [8]dataplane.Event
	n := c.Poll(evs[:])
	defer func() {
		if recover() == nil {
			t.Error("double Release went unnoticed")
		}
	}()
	c.Release(evs[:n])
	c.Release(evs[:n])
}

func TestCloseWakesWaiters(t *testing.T) {
	p, _ := setup(t, Options{Cores: 2})
	capt, err := p.Capture(t.Context(), &dataplane.CaptureConfig{Interface: -1, Snap: 4})
	if err != nil {
		t.Fatal(err)
	}
	p.Packet(dataplane.Packet{Dir: dataplane.CaptureRx, Data: []byte("abcdef")})
	if pkt, err := capt.Next(t.Context()); err != nil || string(pkt.Data) != "abcd" || pkt.Orig != 6 {
		t.Fatal(pkt, err)
	}
	var wg sync.WaitGroup
	for _, c := range p.Cores() {
		wg.Go(func() {
			if err := c.Wait(context.Background()); err != dataplane.CodeShutdown {
				t.Error(err)
			}
		})
	}
	wg.Go(func() {
		if _, err := capt.Next(context.Background()); err != dataplane.CodeShutdown {
			t.Error(err)
		}
	})
	p.Close()
	p.Close()
	wg.Wait()
	if err := p.AddRoute(t.Context(), dataplane.Route{}); err != dataplane.CodeShutdown {
		t.Error(err)
	}
}

func TestInterfaces(t *testing.T) {
	p, _ := setup(t, Options{Cores: 2})
	a := netip.MustParsePrefix("198.18.0.1/24")
	id, qs, err := p.AddInterface(t.Context(), &dataplane.InterfaceConfig{Name: "veth0", Queues: 3, Addresses: []netip.Prefix{a}})
	if err != nil || len(qs) != 3 || qs[2].Core != 0 {
		t.Fatal(qs, err)
	}
	if err := p.AddAddress(t.Context(), id, a); err != dataplane.CodeExists {
		t.Error(err)
	}
	if err := p.DelAddress(t.Context(), id, a); err != nil || len(p.Interfaces()[0].Addresses) != 0 {
		t.Error(err)
	}
	p.PortDown(id)
	for _, c := range p.Cores() {
		if ev := next(t, c); ev.Op != dataplane.EventPort || ev.Err != dataplane.CodePortdown {
			t.Errorf("%+v", ev)
		}
	}
	if err := p.DetachInterface(t.Context(), id); err != nil || !p.QueueStats(id)[0].Down {
		t.Error(err)
	}
	if _, err := p.ReattachInterface(t.Context(), id, &dataplane.InterfaceConfig{Name: "veth0"}); err != nil {
		t.Error(err)
	}
}

func TestSendFailed(t *testing.T) {
	p, id := setup(t, Options{})
	c := p.Cores()[0]
	peer, err := p.Dial(0, id, remote)
	if err != nil {
		t.Fatal(err)
	}
	next(t, c)
	p.HoldSent(true)
	c.Send(&dataplane.Outgoing{Conn: peer.Handle(), Stream: 5, Type: 0x21, Parts: [][]byte{{0, 1}}})
	c.Flush()
	peer.SendFailed(5, 2, dataplane.CodeNobuf)
	if ev := next(t, c); ev.Op != dataplane.EventSent || ev.Bytes != 2 || ev.Err != dataplane.CodeNobuf {
		t.Errorf("%+v", ev)
	}
	p.PortUp(0)
	if ev := next(t, c); ev.Op != dataplane.EventPort || ev.Err != dataplane.CodeOK {
		t.Errorf("%+v", ev)
	}
}
