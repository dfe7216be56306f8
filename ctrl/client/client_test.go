package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/client/clienttest"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/npro"
)

// noLeaks fails the test when goroutines outlive it.
func noLeaks(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for range 6000 { // a minute
			if runtime.NumGoroutine() <= before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
	})
}

// setup starts a server and returns a configuration that reaches it.
func setup(t *testing.T, change func(s *clienttest.Server)) (*clienttest.Server, Config) {
	t.Helper()
	noLeaks(t)
	srv, pub, err := clienttest.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(srv)
	}
	addr, err := srv.Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	key, err := handshake.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return srv, Config{Address: addr, Static: key, Remote: &pub, PSK: srv.Handshake.PSK, Name: "test", ReconnectDelay: 5 * time.Millisecond}
}

func dial(t *testing.T, cfg Config) *Client {
	t.Helper()
	cl, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = cl.Close(ctx)
	})
	return cl
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 6000 { // a minute
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func blob(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*31 + i/253)
	}
	return b
}

func TestEveryPattern(t *testing.T) {
	for p := handshake.PatternXX; p <= handshake.PatternNNpsk0; p++ {
		for _, hybrid := range []bool{true, false} {
			for _, aead := range npro.PreferredAEADs() {
				t.Run(fmt.Sprintf("%v hybrid=%v %s", p, hybrid, npro.AEADName(aead)), func(t *testing.T) {
					_, cfg := setup(t, func(s *clienttest.Server) { s.Handshake.Hybrid = hybrid })
					cfg.Pattern, cfg.NoHybrid, cfg.AEADs = p, !hybrid, []uint8{aead}
					cl := dial(t, cfg)
					got, err := cl.Request(t.Context(), "ECHO", []byte("hello"))
					if err != nil || string(got) != "hello" {
						t.Fatalf("%q, %v", got, err)
					}
					info := cl.Info()
					if len(info) != 1 || info[0].AEAD != aead || info[0].Pattern != p || info[0].Hybrid != hybrid || info[0].InFlight != 0 {
						t.Errorf("%+v", info)
					}
				})
			}
		}
	}
}

func TestManyInFlight(t *testing.T) {
	_, cfg := setup(t, nil)
	cfg.Connections = 3
	cl := dial(t, cfg)
	var wg sync.WaitGroup
	for g := range 32 {
		wg.Go(func() {
			for i := range 100 {
				want := fmt.Sprintf("%d/%d/%s", g, i, strings.Repeat("x", g*i%700))
				got, err := cl.Request(t.Context(), "ECHO", []byte(want))
				if err != nil || string(got) != want {
					t.Errorf("%q, %v", got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestAnswersOutOfOrder(t *testing.T) {
	var mu sync.Mutex
	var held []uint32
	var conn *clienttest.Conn
	_, cfg := setup(t, func(s *clienttest.Server) {
		s.Handle = func(c *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
			mu.Lock()
			defer mu.Unlock()
			held, conn = append(held, r.Stream), c
			return clienttest.Reply{}, false
		}
	})
	cl := dial(t, cfg)
	got := make(chan string, 3)
	for i := range 3 {
		go func() {
			b, err := cl.Request(t.Context(), "ASK", []byte{byte(i)})
			got <- fmt.Sprint(string(b), err)
		}()
		eventually(t, "request arrives", func() bool { mu.Lock(); defer mu.Unlock(); return len(held) == i+1 })
	}
	for i := 2; i >= 0; i-- {
		conn.Reply(held[i], clienttest.Reply{Payload: fmt.Append(nil, "answer ", i)})
		if s := <-got; s != fmt.Sprintf("answer %d<nil>", i) {
			t.Errorf("%s for %d", s, i)
		}
	}
}

func TestLargeMessages(t *testing.T) {
	for _, window := range []uint32{4 << 10, 256 << 10} {
		for _, compress := range []bool{false, true} {
			t.Run(fmt.Sprintf("window %d compress %v", window, compress), func(t *testing.T) {
				_, cfg := setup(t, func(s *clienttest.Server) {
					s.Handshake.Params.StreamWindow, s.Handshake.Params.ConnWindow = window, 2*window
					s.Handshake.Params.Compressions = []uint8{npro.CompressionZstd, npro.CompressionLZ4}
					s.Compress = 512
				})
				cfg.StreamWindow, cfg.ConnWindow = window, 2*window
				if compress {
					cfg.Compressions = []uint8{npro.CompressionLZ4}
				}
				cl := dial(t, cfg)
				var wg sync.WaitGroup
				for i := range 4 {
					wg.Go(func() {
						want := bytes.Repeat([]byte(fmt.Sprintf("line %d of a long message\n", i)), 20_000+i)
						got, err := cl.Request(t.Context(), "ECHO", want)
						if err != nil || !bytes.Equal(got, want) {
							t.Errorf("%d bytes, %v", len(got), err)
						}
					})
				}
				wg.Wait()
				want := bytes.Clone(blob(300_000))
				if got, err := cl.Request(t.Context(), "ECHO", want); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		}
	}
}

func TestSizeLimits(t *testing.T) {
	_, cfg := setup(t, func(s *clienttest.Server) {
		s.Handle = func(_ *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
			return clienttest.Reply{Payload: make([]byte, 1<<20)}, true
		}
	})
	cfg.MaxMessage = 100_000
	cl := dial(t, cfg)
	if _, err := cl.Request(t.Context(), "BIG", nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("long answer: %v", err)
	}
	if _, err := cl.Request(t.Context(), "BIG", make([]byte, 100_001)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("long request: %v", err)
	}
	if err := cl.Send(t.Context(), &Request{Opcode: "BIG", Payload: make([]byte, 100_001)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("long message: %v", err)
	}
	if _, err := cl.Request(t.Context(), "", nil); err == nil {
		t.Error("empty opcode")
	}
	if _, err := cl.Do(t.Context(), &Request{Opcode: "X", Priority: 8}); err == nil {
		t.Error("priority 8")
	}
}

func TestStatusAndContext(t *testing.T) {
	tp, _ := npro.ParseTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	seen := make(chan npro.Context, 4)
	_, cfg := setup(t, func(s *clienttest.Server) {
		s.Handle = func(_ *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
			seen <- r.Context
			if r.Opcode == "NO" {
				return clienttest.Reply{Status: npro.CodeDenied, Payload: []byte("not you")}, true
			}
			return clienttest.Reply{Payload: []byte("ok"), Context: &npro.Context{Session: "s9", Extra: []npro.Entry{{Key: 0x41, Value: []byte("v")}}}}, true
		}
	})
	cl := dial(t, cfg)
	_, err := cl.Request(t.Context(), "NO", nil)
	var status *StatusError
	if !errors.Is(err, npro.CodeDenied) || !errors.As(err, &status) || string(status.Payload) != "not you" {
		t.Errorf("status: %v", err)
	}
	<-seen
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	resp, err := cl.Do(ctx, &Request{Opcode: "YES", Context: npro.Context{Tenant: "blue", Traceparent: tp, HasTraceparent: true}})
	if err != nil || resp.Context.Session != "s9" || len(resp.Context.Extra) != 1 || string(resp.Context.Extra[0].Value) != "v" {
		t.Errorf("%+v, %v", resp, err)
	}
	c := <-seen
	if c.Tenant != "blue" || c.Traceparent != tp || !c.HasDeadline || c.Deadline < 50*time.Second || c.Deadline > time.Minute {
		t.Errorf("server saw %+v", c)
	}
}

func TestCancelAndTimeout(t *testing.T) {
	var conn atomic.Pointer[clienttest.Conn]
	_, cfg := setup(t, func(s *clienttest.Server) {
		s.OnConn = func(c *clienttest.Conn) { conn.Store(c) }
		s.Handle = func(*clienttest.Conn, *clienttest.Request) (clienttest.Reply, bool) { return clienttest.Reply{}, false }
	})
	cfg.ResponseTimeout = 60 * time.Millisecond
	cl := dial(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		eventually(t, "in flight", func() bool { return cl.Info()[0].InFlight == 1 })
		cancel()
	}()
	if _, err := cl.Request(ctx, "HANG", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, err := cl.Request(t.Context(), "HANG", nil); !errors.Is(err, ErrTimeout) {
		t.Errorf("timed out: %v", err)
	}
	got := make(chan error, 1)
	if err := cl.Start(t.Context(), &Request{Opcode: "HANG"}, func(_ Response, err error) { got <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, ErrTimeout) {
		t.Errorf("asynchronous: %v", err)
	}
	eventually(t, "server told", func() bool {
		_, _, resets, _, open := conn.Load().Stats()
		return open == 0 && fmt.Sprint(resets) == fmt.Sprint([]npro.Code{npro.CodeCanceled, npro.CodeTimeout, npro.CodeTimeout})
	})
}

// A response that comes after its request was given up harms nobody, and its
// credit returns.
func TestLateAnswers(t *testing.T) {
	var mu sync.Mutex
	var late []uint32
	var conn *clienttest.Conn
	_, cfg := setup(t, func(s *clienttest.Server) {
		s.Handle = func(c *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
			if r.Opcode != "HANG" {
				return clienttest.Reply{Payload: r.Payload}, true
			}
			mu.Lock()
			defer mu.Unlock()
			late, conn = append(late, r.Stream), c
			return clienttest.Reply{}, false
		}
	})
	cfg.StreamWindow, cfg.ConnWindow = 8<<10, 8<<10
	cl := dial(t, cfg)
	for i := range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { _, err := cl.Request(ctx, "HANG", nil); done <- err }()
		eventually(t, "request arrives", func() bool { mu.Lock(); defer mu.Unlock(); return len(late) == i+1 })
		cancel()
		<-done
		mu.Lock()
		conn.Send(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd, Stream: late[i]}, make([]byte, 1000))
		mu.Unlock()
		if b, err := cl.Request(t.Context(), "ECHO", []byte("x")); err != nil || string(b) != "x" {
			t.Fatalf("after %d: %v", i, err)
		}
	}
}

func TestOneWay(t *testing.T) {
	got := make(chan string, 10)
	var conn atomic.Pointer[clienttest.Conn]
	_, cfg := setup(t, func(s *clienttest.Server) {
		s.OnConn = func(c *clienttest.Conn) { conn.Store(c) }
		s.Message = func(r *clienttest.Request) { got <- fmt.Sprint(r.Opcode, len(r.Payload)) }
		s.Handshake.Params.StreamWindow = 64 << 10
	})
	pushed := make(chan string, 10)
	cfg.OnMessage = func(op string, payload []byte) { pushed <- op + string(payload) }
	cl := dial(t, cfg)
	for _, n := range []int{0, 10, 500_000} {
		if err := cl.Send(t.Context(), &Request{Opcode: "LOG", Payload: make([]byte, n)}); err != nil {
			t.Fatal(err)
		}
		if s := <-got; s != fmt.Sprint("LOG", n) {
			t.Errorf("server got %s", s)
		}
	}
	if n := cl.Info()[0].InFlight; n != 0 {
		t.Errorf("%d in flight", n)
	}
	conn.Load().Send(npro.Header{Type: npro.TypeMessage, Flags: npro.FlagEnd, Stream: 2}, []byte("\x04NEWSbody"))
	if s := <-pushed; s != "NEWSbody" {
		t.Errorf("client got %s", s)
	}
	// A request of the server is refused, and the connection goes on.
	conn.Load().Send(npro.Header{Type: npro.TypeRequest, Flags: npro.FlagEnd, Stream: 4}, []byte("\x04ECHObody"))
	if b, err := cl.Request(t.Context(), "ECHO", []byte("x")); err != nil || string(b) != "x" {
		t.Errorf("%q %v", b, err)
	}
}

func TestRekeyBothWays(t *testing.T) {
	var conn atomic.Pointer[clienttest.Conn]
	_, cfg := setup(t, func(s *clienttest.Server) { s.OnConn = func(c *clienttest.Conn) { conn.Store(c) } })
	cfg.RekeyRecords = 7
	cl := dial(t, cfg)
	for i := range 100 {
		if i%9 == 8 {
			conn.Load().Rekey()
		}
		if b, err := cl.Request(t.Context(), "ECHO", []byte{byte(i)}); err != nil || b[0] != byte(i) {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if _, rekeys, _, _, _ := conn.Load().Stats(); rekeys < 12 {
		t.Errorf("%d rekeys", rekeys)
	}
}

func TestConnectionLost(t *testing.T) {
	var hang atomic.Bool
	hang.Store(true)
	arrived := make(chan struct{}, 10)
	srv, cfg := setup(t, func(s *clienttest.Server) {
		s.Handle = func(_ *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
			arrived <- struct{}{}
			return clienttest.Reply{Payload: r.Payload}, !hang.Load()
		}
	})
	var states []bool
	var mu sync.Mutex
	cfg.OnState = func(up bool, _ error) { mu.Lock(); defer mu.Unlock(); states = append(states, up) }
	cl := dial(t, cfg)
	plain, again := make(chan error, 1), make(chan error, 1)
	go func() { _, err := cl.Request(t.Context(), "ASK", nil); plain <- err }()
	go func() {
		_, err := cl.Do(t.Context(), &Request{Opcode: "ASK", Idempotent: true})
		again <- err
	}()
	<-arrived
	<-arrived
	hang.Store(false)
	srv.Drop()
	if err := <-plain; !errors.Is(err, ErrConnLost) {
		t.Errorf("plain: %v", err)
	}
	if err := <-again; err != nil {
		t.Errorf("idempotent: %v", err)
	}
	if _, err := cl.Request(t.Context(), "ASK", nil); err != nil {
		t.Errorf("after reconnect: %v", err)
	}
	eventually(t, "states told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprint(states) == "[true false true]" || fmt.Sprint(states) == "[true true false]"
	})
}

func TestGivesUpAndComesBack(t *testing.T) {
	srv, cfg := setup(t, nil)
	var down atomic.Bool
	var dials atomic.Int32
	cfg.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		if down.Load() {
			return nil, errors.New("cable cut")
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	cl := dial(t, cfg)
	down.Store(true)
	srv.Drop()
	eventually(t, "given up", func() bool { return dials.Load() == 4 })
	eventually(t, "resting", func() bool { s := cl.slots[0]; s.mu.Lock(); defer s.mu.Unlock(); return !s.running })
	_, err := cl.Request(t.Context(), "ECHO", nil)
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "cable cut") {
		t.Errorf("%v", err)
	}
	if dials.Load() != 7 {
		t.Errorf("%d dials", dials.Load())
	}
	down.Store(false)
	if _, err := cl.Request(t.Context(), "ECHO", nil); err != nil {
		t.Errorf("back: %v", err)
	}
}

func TestNoReconnect(t *testing.T) {
	srv, cfg := setup(t, nil)
	cfg.NoReconnect = true
	cl := dial(t, cfg)
	srv.Drop()
	eventually(t, "unavailable", func() bool {
		_, err := cl.Request(t.Context(), "ECHO", nil)
		return errors.Is(err, ErrUnavailable)
	})
}

func TestGoAway(t *testing.T) {
	var mu sync.Mutex
	conns := map[*clienttest.Conn][]uint32{}
	_, cfg := setup(t, func(s *clienttest.Server) {
		s.Handle = func(c *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
			mu.Lock()
			defer mu.Unlock()
			first := len(conns) == 0 || len(conns) == 1 && conns[c] != nil
			conns[c] = append(conns[c], r.Stream)
			return clienttest.Reply{Payload: []byte("second")}, !first
		}
	})
	cl := dial(t, cfg)
	got := make(chan string, 2)
	var old *clienttest.Conn
	for i := range 2 {
		go func() { b, err := cl.Request(t.Context(), "ASK", nil); got <- fmt.Sprint(i, string(b), err) }()
		eventually(t, "request arrives", func() bool {
			mu.Lock()
			defer mu.Unlock()
			for c, ids := range conns {
				old = c
				return len(ids) == i+1
			}
			return false
		})
	}
	// Stream 1 will be served; stream 3 is told that it was not, and runs elsewhere.
	old.GoAway(1)
	if s := <-got; s != "1second<nil>" {
		t.Errorf("unserved request: %s", s)
	}
	old.Reply(1, clienttest.Reply{Payload: []byte("first")})
	if s := <-got; s != "0first<nil>" {
		t.Errorf("served request: %s", s)
	}
	eventually(t, "old connection says goodbye", func() bool { _, _, _, bye, _ := old.Stats(); return bye == npro.CodeNormal })
}

func TestDisconnectReason(t *testing.T) {
	var conn atomic.Pointer[clienttest.Conn]
	_, cfg := setup(t, func(s *clienttest.Server) {
		s.Handle = func(c *clienttest.Conn, _ *clienttest.Request) (clienttest.Reply, bool) {
			conn.Store(c)
			c.Disconnect(npro.CodeShuttingDown, "maintenance")
			return clienttest.Reply{}, false
		}
	})
	cl := dial(t, cfg)
	_, err := cl.Request(t.Context(), "ASK", nil)
	var d *DisconnectError
	if !errors.Is(err, ErrConnLost) || !errors.As(err, &d) || d.Code != npro.CodeShuttingDown || d.Reason != "maintenance" || d.Unauthenticated {
		t.Errorf("%v", err)
	}
}

func TestClose(t *testing.T) {
	hold := make(chan struct{})
	var conn atomic.Pointer[clienttest.Conn]
	_, cfg := setup(t, func(s *clienttest.Server) {
		s.OnConn = func(c *clienttest.Conn) { conn.Store(c) }
		s.Handle = func(_ *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
			if r.Opcode == "HANG" {
				return clienttest.Reply{}, false
			}
			<-hold
			return clienttest.Reply{Payload: []byte("done")}, true
		}
	})
	cl := dial(t, cfg)
	got := make(chan error, 1)
	go func() { _, err := cl.Request(t.Context(), "SLOW", nil); got <- err }()
	eventually(t, "in flight", func() bool { return cl.Info()[0].InFlight == 1 })
	closed := make(chan error, 1)
	go func() { closed <- cl.Close(t.Context()) }()
	<-cl.ctx.Done()
	if _, err := cl.Request(t.Context(), "SLOW", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("while closing: %v", err)
	}
	close(hold)
	if err := <-got; err != nil {
		t.Errorf("in flight: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
	eventually(t, "goodbye", func() bool { _, _, _, bye, _ := conn.Load().Stats(); return bye == npro.CodeNormal })

	cl = dial(t, cfg)
	go func() { _, err := cl.Request(t.Context(), "HANG", nil); got <- err }()
	eventually(t, "in flight", func() bool { return cl.Info()[0].InFlight == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := cl.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close with a request that hangs: %v", err)
	}
	if err := <-got; !errors.Is(err, ErrConnLost) || !errors.Is(err, ErrClosed) {
		t.Errorf("cut off: %v", err)
	}
}

func TestDialErrors(t *testing.T) {
	_, cfg := setup(t, nil)
	bad := func(name string, want error, change func(c *Config)) {
		c := cfg
		change(&c)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if cl, err := Dial(ctx, c); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				_ = cl.Close(ctx)
			}
		}
	}
	bad("no address", nil, func(c *Config) { c.Address = "" })
	bad("no key", handshake.ErrParams, func(c *Config) { c.Static = handshake.PrivateKey{} })
	bad("another server key", handshake.ErrUntrusted, func(c *Config) { c.Remote = &handshake.PublicKey{9} })
	bad("hybrid mismatch", io.EOF, func(c *Config) { c.NoHybrid = true })
	bad("wrong psk", io.EOF, func(c *Config) { c.Pattern, c.PSK = handshake.PatternNNpsk0, &[32]byte{5} })
	bad("nobody there", nil, func(c *Config) { c.Address = "127.0.0.1:1" })
	bad("negative connections", nil, func(c *Config) { c.Connections = -1 })

	refusing, rcfg := setup(t, func(s *clienttest.Server) { s.Refuse = npro.CodeHandshakeLimit })
	_ = refusing
	_, err := Dial(t.Context(), rcfg)
	var d *DisconnectError
	if !errors.As(err, &d) || d.Code != npro.CodeHandshakeLimit || !d.Unauthenticated {
		t.Errorf("refused: %v", err)
	}

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	silent := cfg
	silent.Address, silent.HandshakeTimeout = ln.Addr().String(), 30*time.Millisecond
	if _, err := Dial(t.Context(), silent); !isTimeout(err) {
		t.Errorf("silent server: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	silent.HandshakeTimeout = time.Minute
	if _, err := Dial(ctx, silent); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("context: %v", err)
	}
}

func TestAsync(t *testing.T) {
	_, cfg := setup(t, nil)
	cfg.StreamWindow, cfg.ConnWindow = 4<<10, 8<<10
	cl := dial(t, cfg)
	const n = 2000
	var ok, wrong atomic.Int32
	var wg sync.WaitGroup
	wg.Add(n)
	for i := range n {
		want := []byte(fmt.Sprint("payload ", i))
		if err := cl.Start(t.Context(), &Request{Opcode: "ECHO", Payload: want}, func(r Response, err error) {
			defer wg.Done()
			if err == nil && bytes.Equal(r.Payload, want) {
				ok.Add(1)
			} else {
				wrong.Add(1)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if ok.Load() != n || wrong.Load() != 0 {
		t.Errorf("%d right, %d wrong", ok.Load(), wrong.Load())
	}
}

func BenchmarkRequest(b *testing.B) {
	srv, pub, err := clienttest.NewServer()
	if err != nil {
		b.Fatal(err)
	}
	addr, err := srv.Listen()
	if err != nil {
		b.Fatal(err)
	}
	defer srv.Close()
	key, _ := handshake.GenerateKey(rand.Reader)
	cl, err := Dial(b.Context(), Config{Address: addr, Static: key, Remote: &pub})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cl.Close(context.Background()) }()
	payload := blob(64)
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := cl.Request(b.Context(), "ECHO", payload); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("pipelined", func(b *testing.B) {
		b.ReportAllocs()
		var wg sync.WaitGroup
		req := &Request{Opcode: "ECHO", Payload: payload}
		done := func(Response, error) { wg.Done() }
		for b.Loop() {
			wg.Add(1)
			if err := cl.Start(context.Background(), req, done); err != nil {
				b.Fatal(err)
			}
		}
		wg.Wait()
	})
}
