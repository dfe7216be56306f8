package session

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/logs"
	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/fake"
)

// rig is a manager on a fake plane, inside a synctest bubble.
type rig struct {
	t      *testing.T
	plane  *fake.Plane
	m      *Manager
	cfg    Config
	lis    dataplane.ListenerID
	server handshake.PrivateKey
	client handshake.PrivateKey
	log    bytes.Buffer
	logMu  sync.Mutex
	block  chan struct{} // BLOCK waits for it
	dials  int
}

func (r *rig) Write(b []byte) (int, error) {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	return r.log.Write(b)
}

func key(t *testing.T) handshake.PrivateKey {
	t.Helper()
	k, err := handshake.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// bubble runs f with a rig in a synctest bubble and checks that nothing is
// left behind. change may alter the configuration.
func bubble(t *testing.T, change func(*Config, *rig), f func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, plane: fake.New(fake.Options{PieceBytes: 700}), server: key(t), client: key(t), block: make(chan struct{})}
		id, err := r.plane.Listen(t.Context(), &dataplane.ListenConfig{Address: netip.MustParseAddrPort("198.18.0.1:7700"), Kind: dataplane.SessionNPRO})
		if err != nil {
			t.Fatal(err)
		}
		r.lis = id
		log := slog.New(slog.NewTextHandler(r, nil))
		entries := append(dispatch.Builtin("npd", "test", time.Now(), time.Now),
			dispatch.Entry{Opcode: "BLOCK", Handle: func(ctx context.Context, req *dispatch.Request) ([]byte, error) {
				select {
				case <-r.block:
					return req.Payload, nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}},
			dispatch.Entry{Opcode: "BIG", Handle: func(context.Context, *dispatch.Request) ([]byte, error) { return make([]byte, 300_000), nil }},
			dispatch.Entry{Opcode: "PANIC", Handle: func(context.Context, *dispatch.Request) ([]byte, error) { panic("boom") }})
		reg, err := dispatch.New(log, entries...)
		if err != nil {
			t.Fatal(err)
		}
		pub := r.client.Public()
		r.cfg = Config{Plane: r.plane, Registry: reg, Log: log, Limiter: logs.NewLimiter(log, 5, time.Now), Random: rand.Reader, Now: time.Now,
			Policy: &Policy{Peers: map[handshake.PublicKey]*Rights{pub: NewRights("tester", []string{"*"})}},
			Static: r.server, Patterns: []handshake.Pattern{handshake.PatternXX, handshake.PatternIK}, Hybrid: true, ClockSkew: 5 * time.Second, ReplayWindow: 100,
			Keys:               dataplane.Keys{MaxStreams: 100, MaxPayload: 1 << 20},
			HandshakesInFlight: 3, Backpressure: 4, Workers: 8, StreamHandlers: 2, ConnMemory: 2 << 20, MessageMemory: 3 << 20,
			FragmentTimeout: 2 * time.Second, StreamOpcode: "ECHO"}
		if change != nil {
			change(&r.cfg, r)
		}
		if r.m, err = New(r.cfg); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.m.Run(ctx) }()
		f(r)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		synctest.Wait()
		if n := r.plane.Unreleased(); n != 0 {
			t.Errorf("%d bodies not released", n)
		}
		if s := r.m.Stats(); s.Inflight != 0 || s.MessageBytes != 0 || s.HandshakesInFlight != 0 || s.Streams != 0 || r.m.partial.Load() != 0 {
			t.Errorf("left behind: %+v, partial %d", s, r.m.partial.Load())
		}
		r.plane.Close()
	})
}

// peer is the client end of a connection.
type peer struct {
	*fake.Peer
	r *rig
}

func (r *rig) dial() *peer {
	r.t.Helper()
	r.dials++
	p, err := r.plane.Dial(0, r.lis, netip.AddrPortFrom(netip.MustParseAddr("198.18.0.2"), uint16(40000+r.dials)))
	if err != nil {
		r.t.Fatal(err)
	}
	return &peer{p, r}
}

func (r *rig) initiator(k handshake.PrivateKey, change func(*handshake.Config)) *handshake.Machine {
	r.t.Helper()
	pub := r.server.Public()
	cfg := &handshake.Config{Static: k, Patterns: []handshake.Pattern{handshake.PatternXX}, Hybrid: true, Remote: &pub, Random: rand.Reader,
		Params: handshake.Params{Name: "test client"}}
	if change != nil {
		change(cfg)
	}
	m, err := handshake.NewInitiator(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// next returns the next command for the peer, waiting as long as it takes.
func (p *peer) next() fake.Command {
	p.r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd, err := p.Next(ctx)
	if err != nil {
		p.r.t.Fatalf("next command: %v", err)
	}
	return cmd
}

// connect does the whole handshake.
func (r *rig) connect(k handshake.PrivateKey, change func(*handshake.Config)) *peer {
	r.t.Helper()
	p := r.dial()
	m := r.initiator(k, change)
	step, err := m.Start(time.Now())
	for {
		if err != nil {
			r.t.Fatal(err)
		}
		if step.Reply != nil {
			p.Handshake(step.ReplyType, step.Reply)
		}
		if step.Done != nil {
			break
		}
		cmd := p.next()
		if cmd.Op != fake.OpHandshake {
			r.t.Fatalf("want a handshake frame, got %+v", cmd)
		}
		step, err = m.Receive(cmd.Type, cmd.Body, time.Now())
	}
	if cmd := p.next(); cmd.Op != fake.OpKeys || cmd.Keys.Rx != step.Done.Tx || cmd.Keys.ConnID != step.Done.ConnID {
		r.t.Fatalf("want keys that fit, got %+v", cmd)
	}
	return p
}

func (p *peer) request(stream uint32, opcode string, payload []byte) {
	p.r.t.Helper()
	body, err := npro.AppendRequest(nil, opcode, payload)
	if err != nil {
		p.r.t.Fatal(err)
	}
	p.Message(stream, uint8(npro.TypeRequest), npro.FlagEnd, body)
}

// response collects the frames of a response.
func (p *peer) response() (stream uint32, code npro.Code, payload []byte) {
	p.r.t.Helper()
	var body []byte
	for {
		cmd := p.next()
		if cmd.Op != fake.OpSend || npro.Type(cmd.Type) != npro.TypeResponse || stream != 0 && stream != cmd.Stream {
			p.r.t.Fatalf("want a response, got %v type %#x stream %d", cmd.Op, cmd.Type, cmd.Stream)
		}
		stream = cmd.Stream
		body = append(body, cmd.Body...)
		if cmd.Flags&npro.FlagEnd != 0 {
			break
		}
		if cmd.Flags&npro.FlagMore == 0 {
			p.r.t.Fatal("frame of a response with neither MORE nor END")
		}
	}
	code, payload, err := npro.ParseResponse(body)
	if err != nil {
		p.r.t.Fatal(err)
	}
	return stream, code, payload
}

func (p *peer) want(stream uint32, code npro.Code, payload string) {
	p.r.t.Helper()
	s, c, b := p.response()
	if s != stream || c != code || string(b) != payload {
		p.r.t.Errorf("stream %d: %v %.60q, want stream %d: %v %.60q", s, c, b, stream, code, payload)
	}
}

func TestRequests(t *testing.T) {
	for _, pattern := range []handshake.Pattern{handshake.PatternXX, handshake.PatternIK} {
		bubble(t, nil, func(r *rig) {
			p := r.connect(r.client, func(c *handshake.Config) { c.Patterns = []handshake.Pattern{pattern} })
			if !p.Keys().AllowEcho || p.Keys().MaxStreams != 100 {
				t.Errorf("keys: %+v", p.Keys())
			}
			long := strings.Repeat("0123456789", 500)
			p.request(1, "ECHO", []byte(long))
			p.want(1, npro.CodeOK, long)
			p.request(3, "NOPE", nil)
			p.want(3, npro.CodeUnknownOpcode, "")
			p.request(5, "PANIC", nil)
			p.want(5, npro.CodeInternal, "")
			p.Message(7, uint8(npro.TypeRequest), npro.FlagEnd, []byte{9, 'x'})
			p.want(7, npro.CodeBadRequest, "")
			p.request(9, "BIG", nil)
			p.want(9, npro.CodeOK, strings.Repeat("\x00", 300_000))
			p.request(11, "INFO", nil)
			if _, code, body := p.response(); code != npro.CodeOK || !json.Valid(body) {
				t.Errorf("INFO: %v %s", code, body)
			}
			body, _ := npro.AppendRequest(nil, "DISCARD", []byte("x"))
			p.Message(13, uint8(npro.TypeMessage), npro.FlagEnd, body)
			synctest.Wait()
			if got := p.Credited(1); got != uint64(len(long)+5) {
				t.Errorf("credit %d, want %d", got, len(long)+5)
			}
			if p.Credited(13) != uint64(len(body)) || r.m.Stats().OneWay != 1 {
				t.Error("one-way message not consumed")
			}
			if len(p.Misuse()) > 0 {
				t.Error(p.Misuse())
			}
			if i, ok := r.m.Lookup(p.Handle()); !ok || i.Peer.Name != "tester" || i.Pattern != pattern.String() || i.ClientName != "test client" || !i.Hybrid {
				t.Errorf("info: %+v", i)
			}
		})
	}
}

// A handler's context goes with the first frame of its response, and a failure's payload
// with its code.
func TestReplyContext(t *testing.T) {
	meta := npro.Context{Tenant: "t", Extra: []npro.Entry{{Key: 0x40, Value: []byte("text/plain")}}}
	bubble(t, func(c *Config, r *rig) {
		set := func(_ context.Context, req *dispatch.Request) ([]byte, error) {
			req.Reply = meta
			if string(req.Payload) == "fail" {
				return nil, &dispatch.Failure{Code: npro.CodeDenied, Payload: []byte("why")}
			}
			return make([]byte, 300_000), nil
		}
		reg, err := dispatch.New(slog.New(slog.NewTextHandler(r, nil)), dispatch.Entry{Opcode: "SET", Handle: set}, dispatch.Entry{Opcode: "INLINE", Inline: true, Handle: set})
		if err != nil {
			t.Fatal(err)
		}
		c.Registry = reg
	}, func(r *rig) {
		p := r.connect(r.client, nil)
		stream := uint32(1)
		for _, opcode := range []string{"SET", "INLINE"} {
			for _, payload := range []string{"", "fail"} {
				p.request(stream, opcode, []byte(payload))
				var body []byte
				var first, last uint8
				for n := 0; last&npro.FlagEnd == 0; n++ {
					cmd := p.next()
					if last = cmd.Flags; n == 0 {
						first = cmd.Flags
					} else if cmd.Flags&npro.FlagCtx != 0 {
						t.Errorf("%s: context flag on frame %d", opcode, n)
					}
					body = append(body, cmd.Body...)
				}
				got, rest, err := npro.ParseContext(body)
				if err != nil || first&npro.FlagCtx == 0 || got.Tenant != "t" || len(got.Extra) != 1 {
					t.Fatalf("%s: %+v, %v, flags %#x", opcode, got, err, first)
				}
				code, answer, _ := npro.ParseResponse(rest)
				if payload == "" && (code != npro.CodeOK || len(answer) != 300_000) || payload == "fail" && (code != npro.CodeDenied || string(answer) != "why") {
					t.Errorf("%s %q: %v, %d bytes", opcode, payload, code, len(answer))
				}
				stream += 2
			}
		}
	})
}

func TestFragments(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		p := r.connect(r.client, nil)
		long := bytes.Repeat([]byte("abcdefgh"), 20_000)
		body, _ := npro.AppendRequest(nil, "ECHO", long)
		ctx, _ := npro.AppendContext(nil, &npro.Context{Tenant: "t", HasDeadline: true, Deadline: time.Second})
		body = append(ctx, body...)
		for i := 0; i < len(body); i += 50_000 {
			end := min(i+50_000, len(body))
			flags := npro.FlagMore
			if end == len(body) {
				flags = npro.FlagEnd
			}
			if i == 0 {
				flags |= npro.FlagCtx
			}
			p.Message(1, uint8(npro.TypeRequest), flags, body[i:end])
		}
		p.want(1, npro.CodeOK, string(long))
		synctest.Wait()
		if p.Credited(1) != uint64(len(body)) {
			t.Errorf("credit %d of %d", p.Credited(1), len(body))
		}
		// one that never ends is given up
		p.Message(3, uint8(npro.TypeRequest), npro.FlagMore, body[:1000])
		if cmd := p.next(); cmd.Op != fake.OpReset || cmd.Stream != 3 || cmd.Code != uint32(npro.CodeTimeout) {
			t.Errorf("got %+v", cmd)
		}
		// one that is too large is refused before it is held
		for i := 0; i < 25; i++ {
			p.Message(5, uint8(npro.TypeRequest), npro.FlagMore, body[:50_000])
		}
		if cmd := p.next(); cmd.Op != fake.OpReset || cmd.Stream != 5 || cmd.Code != uint32(npro.CodeTooLarge) {
			t.Errorf("got %+v", cmd)
		}
		synctest.Wait()
		if p.Credited(5) != 25*50_000 {
			t.Errorf("credit of refused stream %d", p.Credited(5))
		}
		p.Message(7, uint8(npro.TypeRequest), npro.FlagMore, body[:1000])
		p.Close(dataplane.CodeReset, 0)
	})
}

func TestDeniedAndUntrusted(t *testing.T) {
	bubble(t, func(c *Config, r *rig) {
		pub := r.client.Public()
		c.Policy.Peers[pub] = NewRights("tester", []string{"INFO"})
	}, func(r *rig) {
		p := r.connect(r.client, nil)
		if p.Keys().AllowEcho {
			t.Error("ECHO allowed on the core for a peer that may not call it")
		}
		p.request(1, "ECHO", nil)
		p.want(1, npro.CodeDenied, "")
		p.request(3, "NOPE", nil)
		p.want(3, npro.CodeDenied, "") // not UNKNOWN_OPCODE: that would tell
		p.stream(5, "ECHO")
		p.want(5, npro.CodeDenied, "") // refused: it has END
		p.Message(7, uint8(npro.TypeData), 0, []byte("x"))
		if cmd := p.next(); cmd.Op != fake.OpReset || cmd.Code != uint32(npro.CodeDenied) {
			t.Errorf("got %+v", cmd)
		}

		q := r.dial()
		m := r.initiator(key(t), nil)
		step, _ := m.Start(time.Now())
		q.Handshake(step.ReplyType, step.Reply)
		step, err := m.Receive(q.next().Type, nil, time.Now())
		_ = step
		if err == nil {
			t.Fatal("machine took an empty frame")
		}
		q.Close(dataplane.CodeEOF, 0)

		// a key nobody knows, all the way
		q = r.dial()
		m = r.initiator(key(t), nil)
		step, _ = m.Start(time.Now())
		q.Handshake(step.ReplyType, step.Reply)
		cmd := q.next()
		step, err = m.Receive(cmd.Type, cmd.Body, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		q.Handshake(step.ReplyType, step.Reply)
		if cmd := q.next(); cmd.Op != fake.OpClose || cmd.Code != uint32(npro.CodeHandshakeFailed) || strings.Contains(cmd.Reason, "key") {
			t.Errorf("got %+v", cmd)
		}
		synctest.Wait()
		if r.m.Stats().Refused["handshake_untrusted"] != 1 || !strings.Contains(r.log.String(), "reason=handshake_untrusted") {
			t.Errorf("%+v\n%s", r.m.Stats(), r.log.String())
		}
	})
}

func TestHandshakeLimits(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		var waiting []*peer
		for range 3 { // first message only: they hold their places
			p := r.dial()
			step, _ := r.initiator(r.client, nil).Start(time.Now())
			p.Handshake(step.ReplyType, step.Reply)
			if cmd := p.next(); cmd.Op != fake.OpHandshake || !cmd.More {
				t.Fatalf("got %+v", cmd)
			}
			waiting = append(waiting, p)
		}
		p := r.dial()
		step, _ := r.initiator(r.client, nil).Start(time.Now())
		p.Handshake(step.ReplyType, step.Reply)
		if cmd := p.next(); cmd.Op != fake.OpClose || cmd.Code != uint32(npro.CodeHandshakeLimit) {
			t.Errorf("got %+v", cmd)
		}
		waiting[0].Close(dataplane.CodeHandshake, 0)
		r.connect(r.client, nil).Close(dataplane.CodeEOF, 0)
		// garbage, however much of it, makes a bounded number of lines
		for range 50 {
			p := r.dial()
			p.Handshake(0x10, bytes.Repeat([]byte{0xff}, 300))
			if cmd := p.next(); cmd.Op != fake.OpClose {
				t.Fatalf("got %+v", cmd)
			}
		}
		synctest.Wait()
		if n := strings.Count(r.log.String(), "handshake refused"); n > 6 {
			t.Errorf("%d log lines for 51 refusals", n)
		}
		if s := r.m.Stats(); s.LogsHeld < 40 {
			t.Errorf("held back %d", s.LogsHeld)
		}
	})
}

func TestClockAndReplay(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		ik := func(c *handshake.Config) { c.Patterns = []handshake.Pattern{handshake.PatternIK} }
		m := r.initiator(r.client, ik)
		step, _ := m.Start(time.Now())
		for i, want := range []fake.Op{fake.OpHandshake, fake.OpClose} {
			p := r.dial()
			p.Handshake(step.ReplyType, step.Reply)
			if cmd := p.next(); cmd.Op != want {
				t.Errorf("%d: got %+v, want %v", i, cmd, want)
			}
		}
		late, _ := r.initiator(r.client, ik).Start(time.Now().Add(-6 * time.Second))
		p := r.dial()
		p.Handshake(late.ReplyType, late.Reply)
		if cmd := p.next(); cmd.Op != fake.OpClose {
			t.Errorf("got %+v", cmd)
		}
		synctest.Wait()
		if s := r.m.Stats().Refused; s["handshake_replay"] != 1 || s["handshake_clock"] != 1 {
			t.Errorf("%v", s)
		}
	})
}

// TestBackpressure: handlers that hang take no more than Backpressure, credit
// stays with us, and the rest runs when they are done.
func TestBackpressure(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		p := r.connect(r.client, nil)
		for i := range uint32(10) {
			p.request(1+2*i, "BLOCK", []byte("payload"))
		}
		synctest.Wait()
		if i, _ := r.m.Lookup(p.Handle()); i.Inflight != 4 || i.Waiting != 6 {
			t.Errorf("in flight %d, waiting %d", i.Inflight, i.Waiting)
		}
		if p.Credited(1) != 0 || p.Credited(19) != 0 {
			t.Error("credit returned before the handler was done")
		}
		q := r.connect(r.client, nil) // another connection is not held up
		q.request(1, "ECHO", []byte("hi"))
		q.want(1, npro.CodeOK, "hi")
		close(r.block)
		seen := map[uint32]bool{}
		for range 10 {
			s, code, _ := p.response()
			seen[s] = code == npro.CodeOK
		}
		synctest.Wait()
		for i := range uint32(10) {
			if s := 1 + 2*i; !seen[s] || p.Credited(s) != 13 {
				t.Errorf("stream %d: answered %v, credit %d", s, seen[s], p.Credited(s))
			}
		}
	})
}

func TestResetDeadlineAndClose(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		p := r.connect(r.client, nil)
		p.request(1, "BLOCK", nil)
		synctest.Wait()
		p.Reset(1, uint32(npro.CodeCanceled))
		synctest.Wait()
		if s := r.m.Stats(); s.Inflight != 0 {
			t.Errorf("handler goes on after RESET: %+v", s)
		}
		body, _ := npro.AppendContext(nil, &npro.Context{HasDeadline: true, Deadline: 300 * time.Millisecond})
		body, _ = npro.AppendRequest(body, "BLOCK", nil)
		start := time.Now()
		p.Message(3, uint8(npro.TypeRequest), npro.FlagEnd|npro.FlagCtx, body)
		p.want(3, npro.CodeTimeout, "")
		if d := time.Since(start); d != 300*time.Millisecond {
			t.Errorf("timed out after %v", d)
		}
		for i := range uint32(8) {
			p.request(5+2*i, "BLOCK", nil)
		}
		synctest.Wait()
		p.Close(dataplane.CodeReset, 0)
		synctest.Wait()
		if s := r.m.Stats(); s.Inflight != 0 || s.Connections != 0 {
			t.Errorf("after close: %+v", s)
		}
	})
}

// TestSendBudget: a peer that takes nothing stops its own answers, no others'.
func TestSendBudget(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		p := r.connect(r.client, nil)
		r.plane.HoldSent(true)
		for i := range uint32(4) {
			p.request(1+2*i, "BIG", nil)
		}
		synctest.Wait()
		taken, sum := map[uint32]int{}, 0
		for _, cmd := range r.plane.Commands() {
			if cmd.Op == fake.OpSend {
				taken[cmd.Stream] += len(cmd.Body)
				sum += len(cmd.Body)
			}
		}
		if sum > sendConn || taken[1] > sendStream {
			t.Errorf("handed over %d, stream 1 %d", sum, taken[1])
		}
		r.plane.HoldSent(false)
		for s, n := range taken {
			p.Sent(s, uint32(n))
		}
		got := map[uint32]int{}
		for ended := 0; ended < 4; {
			cmd := p.next()
			got[cmd.Stream] += len(cmd.Body)
			if cmd.Flags&npro.FlagEnd != 0 {
				ended++
			}
		}
		for s, n := range got {
			if n != 300_001 {
				t.Errorf("stream %d: %d bytes", s, n)
			}
		}
	})
}

// TestPeerTakesNothing: a peer that leaves its answers lying is cut once others
// find no room, and only then; those that take theirs stay.
func TestPeerTakesNothing(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		lazy, other := r.connect(r.client, nil), r.connect(r.client, nil)
		r.plane.HoldSent(true)
		lazy.request(1, "BIG", nil)
		time.Sleep(time.Minute)
		if lazy.State() != "open" {
			t.Fatal("cut though nobody missed the room")
		}
		r.plane.HoldSent(false)
		other.request(1, "ECHO", nil)
		other.want(1, npro.CodeOK, "")
		r.plane.Inject(0, dataplane.Event{Op: dataplane.EventSent, Conn: other.Handle(), Stream: 1, Err: dataplane.CodeNobuf}, nil)
		time.Sleep(3 * time.Second)
		if lazy.State() != "closed" || other.State() != "open" {
			t.Errorf("lazy %s, other %s", lazy.State(), other.State())
		}
		if r.m.Stats().Refused["peer_takes_nothing"] != 1 || !strings.Contains(r.log.String(), "takes nothing") {
			t.Error("not counted or logged")
		}
	})
}

// TestSendFails: the core could not take a frame of an answer; the stream is
// reset, for what its peer got has a hole.
func TestSendFails(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		p := r.connect(r.client, nil)
		r.plane.HoldSent(true)
		p.request(1, "BIG", nil)
		first := p.next()
		r.plane.Inject(0, dataplane.Event{Op: dataplane.EventSent, Conn: p.Handle(), Stream: 1, Bytes: uint32(len(first.Body)), Err: dataplane.CodeFull}, nil)
		for {
			if cmd := p.next(); cmd.Op == fake.OpReset {
				if cmd.Stream != 1 || cmd.Code != uint32(npro.CodeOverloaded) {
					t.Errorf("got %+v", cmd)
				}
				break
			}
		}
		r.plane.HoldSent(false)
		p.request(3, "ECHO", []byte("x"))
		p.want(3, npro.CodeOK, "x")
	})
}

// TestNoRoom: the core's rings are full for a while; nothing is lost, neither
// answers nor credit.
func TestNoRoom(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		p := r.connect(r.client, nil)
		r.plane.Fail("Send", 3, dataplane.CodeFull)
		r.plane.Fail("Credit", 2, dataplane.CodeFull)
		for i := range uint32(6) {
			p.request(1+2*i, "ECHO", []byte("x"))
		}
		for range 6 {
			r.plane.Inject(0, dataplane.Event{Op: dataplane.EventPong, Conn: p.Handle()}, nil) // brings the reader round
			synctest.Wait()
		}
		for range 6 {
			if _, code, body := p.response(); code != npro.CodeOK || string(body) != "x" {
				t.Errorf("%v %q", code, body)
			}
		}
		synctest.Wait()
		for i := range uint32(6) {
			if p.Credited(1+2*i) != 6 {
				t.Errorf("stream %d credited %d", 1+2*i, p.Credited(1+2*i))
			}
		}
	})
}

// TestByteStream opens with a request, and with DATA alone.
func TestByteStream(t *testing.T) {
	for _, asked := range []bool{true, false} {
		bubble(t, nil, func(r *rig) { testByteStream(t, r, asked) })
	}
}

func testByteStream(t *testing.T, r *rig, asked bool) {
	p := r.connect(r.client, nil)
	opening := 0
	if asked {
		p.stream(1, "ECHO")
		p.accepted(1)
		opening = 5
	}
	want := bytes.Repeat([]byte("stream data "), 10_000)
	go func() {
		for i := 0; i < len(want); i += 10_000 {
			p.Message(1, uint8(npro.TypeData), 0, want[i:min(i+10_000, len(want))])
			time.Sleep(time.Millisecond)
		}
		p.Message(1, uint8(npro.TypeData), npro.FlagEnd, nil)
	}()
	var got []byte
	for {
		cmd := p.next()
		if cmd.Op != fake.OpSend || npro.Type(cmd.Type) != npro.TypeData || cmd.Stream != 1 {
			t.Fatalf("got %+v", cmd.Op)
		}
		got = append(got, cmd.Body...)
		if cmd.Flags&npro.FlagEnd != 0 {
			break
		}
	}
	synctest.Wait()
	if !bytes.Equal(got, want) || p.Credited(1) != uint64(len(want)+opening) {
		t.Errorf("got %d bytes of %d, credit %d", len(got), len(want), p.Credited(1))
	}
	if i, _ := r.m.Lookup(p.Handle()); i.Streams != 0 {
		t.Errorf("%d streams left", i.Streams)
	}
	// two at a time; the third is refused, and one that is reset makes room
	for _, id := range []uint32{3, 5} {
		p.stream(id, "ECHO")
		p.accepted(id)
	}
	p.stream(7, "DISCARD")
	p.want(7, npro.CodeOverloaded, "")
	p.Reset(3, 0)
	synctest.Wait()
	p.stream(9, "ECHO")
	p.accepted(9)
	p.Message(9, uint8(npro.TypeData), npro.FlagEnd, []byte("d"))
	if cmd := p.next(); cmd.Op != fake.OpSend || string(cmd.Body) != "d" {
		t.Errorf("got %+v", cmd)
	}
	p.next()                                                                // END
	p.Message(5, uint8(npro.TypeRequest), npro.FlagEnd, []byte("\x04ECHO")) // no request on a byte stream
	p.stream(11, "INFO")                                                    // serves no streams: an ordinary answer
	if s, code, _ := p.response(); s != 11 || code != npro.CodeOK {
		t.Errorf("stream %d: %v", s, code)
	}
	if n := r.m.Stats().Refused["stray_frame"]; n != 1 {
		t.Errorf("%d stray frames", n)
	}
	p.Message(13, uint8(npro.TypeData), 0, []byte("second")) // beside 5; 3 and 9 have ended
	if cmd := p.next(); cmd.Op != fake.OpSend || string(cmd.Body) != "second" {
		t.Errorf("got %+v", cmd)
	}
	p.Message(15, uint8(npro.TypeData), 0, []byte("one more"))
	if cmd := p.next(); cmd.Op != fake.OpReset || cmd.Stream != 15 || cmd.Code != uint32(npro.CodeOverloaded) {
		t.Errorf("got %+v", cmd)
	}
	synctest.Wait()
	if p.Credited(15) != 8 {
		t.Errorf("credit of refused stream %d", p.Credited(15))
	}
}

// TestResetReturnsCredit: what a byte stream had not read when it ended is the
// connection's credit still, or resets would use it up.
func TestResetReturnsCredit(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		r.plane.HoldSent(true) // the echo waits for its peer
		p := r.connect(r.client, nil)
		const frames = 100
		for range frames {
			p.Message(1, uint8(npro.TypeData), 0, make([]byte, 2000))
		}
		synctest.Wait()
		if n := p.Credited(1); n >= frames*2000 {
			t.Fatalf("credit of %d bytes, all of it: nothing is left unread", n)
		}
		p.Reset(1, 0)
		synctest.Wait()
		if n := p.Credited(1); n != frames*2000 {
			t.Errorf("credit of %d bytes, expected %d", n, frames*2000)
		}
		r.plane.HoldSent(false)
	})
}

// TestCrumbs: what waits in a byte stream takes little more memory than its
// bytes, in however small frames they came, and keeps its order.
func TestCrumbs(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		r.plane.HoldSent(true)
		p := r.connect(r.client, nil)
		want := make([]byte, 200_000)
		for i := range want {
			want[i] = byte(i * 7 >> 3)
			p.Message(1, uint8(npro.TypeData), 0, want[i:i+1])
		}
		synctest.Wait()
		c := r.m.shards[0].find(p.Handle())
		c.mu.Lock()
		in := c.streams[1].in
		if got := bytes.Join(in, nil); len(in) == 0 || len(in) > 60 || !bytes.Equal(got, want[len(want)-len(got):]) {
			t.Errorf("%d pieces for one-byte frames, or not these", len(in))
		}
		c.mu.Unlock()
		p.Reset(1, 0)
		r.plane.HoldSent(false)
	})
}

// stream asks for a byte stream.
func (p *peer) stream(id uint32, opcode string) {
	p.r.t.Helper()
	body, err := npro.AppendRequest(nil, opcode, nil)
	if err != nil {
		p.r.t.Fatal(err)
	}
	p.Message(id, uint8(npro.TypeRequest), 0, body)
}

func (p *peer) accepted(id uint32) {
	p.r.t.Helper()
	if cmd := p.next(); cmd.Op != fake.OpSend || npro.Type(cmd.Type) != npro.TypeResponse || cmd.Flags != 0 || string(cmd.Body) != "\x00" || cmd.Stream != id {
		p.r.t.Fatalf("stream %d not accepted: %+v", id, cmd)
	}
}

func TestStrayFrames(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		p := r.connect(r.client, nil)
		p.request(5, "ECHO", nil)
		p.want(5, npro.CodeOK, "")
		p.request(3, "ECHO", []byte("late")) // numbers only rise
		p.Message(7, uint8(npro.TypeResponse), npro.FlagEnd, []byte{0})
		synctest.Wait()
		if s := r.m.Stats().Refused["stray_frame"]; s != 2 {
			t.Errorf("%d stray frames", s)
		}
		if p.Credited(3) != 9 || p.Credited(7) != 1 {
			t.Error("credit of stray frames kept")
		}
	})
}

func TestPolicyChange(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		p := r.connect(r.client, nil)
		same := &Policy{Peers: map[handshake.PublicKey]*Rights{r.client.Public(): NewRights("tester", []string{"*"})}}
		r.m.SetPolicy(same)
		p.request(1, "ECHO", nil)
		p.want(1, npro.CodeOK, "")
		r.m.SetPolicy(&Policy{})
		if cmd := p.next(); cmd.Op != fake.OpClose {
			t.Errorf("got %+v", cmd)
		}
	})
}

// TestPolicyChangeMeetsHandshake: a policy that comes while a handshake ends
// holds for it too, whichever of the two is first.
func TestPolicyChangeMeetsHandshake(t *testing.T) {
	plane := fake.New(fake.Options{})
	defer plane.Close()
	log, client := slog.New(slog.DiscardHandler), key(t)
	pub := client.Public()
	m, err := New(Config{Plane: plane, Log: log, Limiter: logs.NewLimiter(log, 5, time.Now), Random: rand.Reader, Now: time.Now, Static: key(t),
		Policy:   &Policy{Peers: map[handshake.PublicKey]*Rights{pub: NewRights("tester", []string{"*"})}},
		Patterns: []handshake.Pattern{handshake.PatternXX}, HandshakesInFlight: 1})
	if err != nil {
		t.Fatal(err)
	}
	c := &conn{m: m, sh: m.shards[0], streams: map[uint32]*stream{}, ctx: t.Context()}
	c.mu.Lock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.established(handshake.Step{Done: &handshake.Result{Pattern: handshake.PatternXX, Remote: pub, HasRemote: true, MaxFrameTx: 1 << 16, StreamWindowTx: 1 << 16}})
	}()
	time.Sleep(20 * time.Millisecond) // it waits for the lock
	m.policy.Store(&Policy{})
	c.mu.Unlock()
	<-done
	if c.state != stateClosing || c.rights != nil {
		t.Errorf("state %d, rights %+v of a peer that was taken off the list", c.state, c.rights)
	}
}

func TestDrain(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		p, q := r.connect(r.client, nil), r.connect(r.client, nil)
		p.request(1, "BLOCK", []byte("x"))
		synctest.Wait()
		go func() {
			time.Sleep(2 * time.Second)
			close(r.block)
		}()
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		cut, err := r.m.Drain(ctx)
		if err != nil || cut != 0 {
			t.Errorf("drain: %d cut, %v", cut, err)
		}
		if d := time.Since(start); d < 2*time.Second || d > 3*time.Second {
			t.Errorf("took %v", d)
		}
		for _, end := range []*peer{p, q} {
			var ops []string
			for {
				cmd, err := end.Next(context.Background())
				if err != nil {
					break
				}
				ops = append(ops, cmd.Op.String())
			}
			want := "[GoAway CloseConn]"
			if end == p {
				want = "[GoAway Send CloseConn]"
			}
			if fmt.Sprint(ops) != want {
				t.Errorf("got %v, want %v", ops, want)
			}
		}
	})
	bubble(t, nil, func(r *rig) { // one that does not end is cut
		p := r.connect(r.client, nil)
		p.request(1, "BLOCK", nil)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if cut, err := r.m.Drain(ctx); cut != 1 || err != nil {
			t.Errorf("cut %d, %v", cut, err)
		}
	})
}

// TestChurn is for the race detector: many connections that die half-way, on
// real time.
func TestChurn(t *testing.T) {
	before := runtime.NumGoroutine()
	bubble(t, func(c *Config, _ *rig) { c.HandshakesInFlight = 64 }, func(r *rig) {
		var wg sync.WaitGroup
		for i := range 30 {
			p := r.connect(r.client, nil)
			wg.Go(func() {
				for s := range uint32(20) {
					p.request(1+2*s, []string{"ECHO", "BLOCK", "BIG", "INFO"}[s%4], []byte("x"))
					if i%3 == 0 && s == 10 {
						p.Close(dataplane.CodeReset, 0)
						return
					}
				}
				if i%3 == 1 {
					p.stream(99, "ECHO")
					time.Sleep(time.Millisecond)
					p.Close(dataplane.CodeEOF, 0)
				}
			})
		}
		wg.Wait()
		close(r.block)
		time.Sleep(time.Second)
		if s := r.m.Stats(); s.Inflight != 0 || s.Connections != 10 {
			t.Errorf("%+v", s)
		}
	})
	for end := time.Now().Add(time.Minute); runtime.NumGoroutine() > before+1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
	}
}
