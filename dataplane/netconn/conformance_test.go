package netconn_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/events"
	"github.com/np-appliance/np/dataplane/fake"
	"github.com/np-appliance/np/dataplane/netconn"
	"github.com/np-appliance/np/dataplane/transporttest"
)

// rig is a transport over a fake plane whose reader runs.
type rig struct {
	*netconn.Transport
	plane *fake.Plane
}

func newRig(t testing.TB, fo fake.Options, o netconn.Options) *rig {
	t.Helper()
	p := fake.New(fo)
	r := events.New(p)
	tr, err := netconn.New(p, r, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := p.Unreleased(); n != 0 {
			t.Errorf("%d bodies not released", n)
		}
		p.Close()
	})
	return &rig{tr, p}
}

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name  string
		cores int
		piece int
		at    string
	}{{"one core", 1, 0, "198.18.0.1"}, {"three cores, short pieces", 3, 700, "[2001:db8::1]"}} {
		r := newRig(t, fake.Options{Cores: c.cores, PieceBytes: c.piece}, netconn.Options{})
		r.plane.Void(netip.MustParseAddrPort(c.at + ":9"))
		transporttest.Run(t, transporttest.Backend{
			Name: c.name, Client: r, Server: r, Network: "tcp", Listen: c.at + ":0", Packet: "udp", PacketListen: c.at + ":0", PacketMax: 60_000,
			Refused: c.at + ":1", Void: c.at + ":9", BufferMax: 1 << 20, Held: r.plane.Unreleased,
		}, transporttest.Options{})
	}
}

var _ dataplane.Transport = (*rig)(nil)
