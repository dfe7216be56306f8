package session

import (
	"crypto/rand"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/logs"
	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/dataplane"
)

// nullPlane has one core that takes everything and does nothing.
type nullPlane struct {
	dataplane.Plane
	core nullCore
}

func (p *nullPlane) Cores() []dataplane.Core { return []dataplane.Core{&p.core} }

type nullCore struct {
	dataplane.Core
	sent int
}

func (c *nullCore) Credit(dataplane.Handle, uint32, uint32) error { return nil }
func (c *nullCore) Flush()                                        {}
func (c *nullCore) Send(o *dataplane.Outgoing) error {
	c.sent = 0
	for _, p := range o.Parts {
		c.sent += len(p)
	}
	return nil
}

// inlineRig is an open connection whose events a benchmark makes itself.
func inlineRig(t testing.TB) (*shard, *nullCore) {
	key, err := handshake.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	reg, err := dispatch.New(log, dispatch.Builtin("npd", "test", time.Now(), time.Now)...)
	if err != nil {
		t.Fatal(err)
	}
	p := &nullPlane{}
	m, err := New(Config{Plane: p, Registry: reg, Log: log, Limiter: logs.NewLimiter(log, 1, time.Now), Random: rand.Reader, Now: time.Now,
		Policy: &Policy{Any: NewRights("", []string{"*"})}, Static: key, Patterns: []handshake.Pattern{handshake.PatternXX},
		Keys: dataplane.Keys{MaxPayload: 1 << 20}, HandshakesInFlight: 1, Backpressure: 32, Workers: 1, ConnMemory: 1 << 20, MessageMemory: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	sh := m.shards[0]
	sh.event(&dataplane.Event{Op: dataplane.EventOpen, Conn: 1 << 32, Incoming: true})
	c := sh.find(1 << 32)
	c.state, c.rights, c.frameMax = stateOpen, m.policy.Load().Any, 60_000
	return sh, &p.core
}

// one takes a request through the reader and its EventSent back.
func one(sh *shard, core *nullCore, evs *[2]dataplane.Event, stream uint32) {
	evs[0].Stream = stream
	sh.event(&evs[0])
	evs[1] = dataplane.Event{Op: dataplane.EventSent, Conn: evs[0].Conn, Stream: stream, Bytes: uint32(core.sent)}
	sh.event(&evs[1])
}

func request(t testing.TB, op string, n int) *[2]dataplane.Event {
	body, err := npro.AppendRequest(nil, op, make([]byte, n))
	if err != nil {
		t.Fatal(err)
	}
	return &[2]dataplane.Event{{Op: dataplane.EventMessage, Conn: 1 << 32, Type: uint8(npro.TypeRequest), Flags: npro.FlagEnd, Body: [][]byte{body}}}
}

// TestInlineAllocatesNothing: a message that an inline handler answers costs
// no memory, once the connection is warm.
func TestInlineAllocatesNothing(t *testing.T) {
	sh, core := inlineRig(t)
	ev, stream := request(t, "ECHO", 64), uint32(1)
	n := testing.AllocsPerRun(1000, func() {
		one(sh, core, ev, stream)
		stream += 2
	})
	if n > 0 {
		t.Errorf("%v allocations per message", n)
	}
}

func BenchmarkInline(b *testing.B) {
	sh, core := inlineRig(b)
	ev, stream := request(b, "ECHO", 64), uint32(1)
	b.ReportAllocs()
	for b.Loop() {
		one(sh, core, ev, stream)
		if stream += 2; stream < 2 { // numbers end after 2^31 messages
			b.Fatal("too many iterations")
		}
	}
}
