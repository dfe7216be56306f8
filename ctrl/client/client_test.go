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
	"testing/synctest"
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
		for range 200 {
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
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = cl.Close(ctx)
	})
	return cl
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 500 {
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

func TestByteStream(t *testing.T) {
	_, cfg := setup(t, func(s *clienttest.Server) { s.Streams = true })
	cl := dial(t, cfg)
	st, err := cl.OpenStream(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	want := blob(3 << 20)
	var wg sync.WaitGroup
	wg.Go(func() {
		if n, err := io.Copy(st, bytes.NewReader(want)); err != nil || n != int64(len(want)) {
			t.Errorf("wrote %d: %v", n, err)
		}
		if err := st.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(st)
	wg.Wait()
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	if n := cl.Info()[0].InFlight; n != 0 {
		t.Errorf("%d streams left", n)
	}
	if _, err := st.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write after close: %v", err)
	}
}

func TestStreamRefused(t *testing.T) {
	_, cfg := setup(t, nil)
	cl := dial(t, cfg)
	st, err := cl.OpenStream(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Read(make([]byte, 1)); !errors.Is(err, npro.CodeUnknownOpcode) {
		t.Errorf("read: %v", err)
	}
	if _, err := st.Write([]byte("x")); !errors.Is(err, npro.CodeUnknownOpcode) {
		t.Errorf("write: %v", err)
	}
	if _, err := cl.OpenStream(t.Context(), 8); err == nil {
		t.Error("priority 8")
	}
}

// A reader that stops stops the sender, and nothing but windows are held.
func TestStreamBackpressure(t *testing.T) {
	var conn atomic.Pointer[clienttest.Conn]
	_, cfg := setup(t, func(s *clienttest.Server) {
		s.OnConn = func(c *clienttest.Conn) { conn.Store(c) }
		s.Streams = true
	})
	cfg.StreamWindow = 32 << 10
	cl := dial(t, cfg)
	st, err := cl.OpenStream(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	st.SetWriteDeadline(time.Now().Add(5 * time.Second))
	if _, err := st.Write(blob(200_000)); err != nil {
		t.Fatal(err)
	}
	held := func() (n int) {
		st.c.mu.Lock()
		defer st.c.mu.Unlock()
		for _, b := range st.chunks {
			n += len(b)
		}
		return n
	}
	eventually(t, "window full", func() bool { return held() >= 31<<10 })
	time.Sleep(50 * time.Millisecond)
	if n := held(); n > 32<<10 {
		t.Errorf("%d bytes held, window of %d", n, 32<<10)
	}
	if b, err := cl.Request(t.Context(), "ECHO", []byte("others go on")); err != nil || string(b) != "others go on" {
		t.Errorf("%v", err)
	}
	got := make([]byte, 200_000)
	if _, err := io.ReadFull(st, got); err != nil || !bytes.Equal(got, blob(200_000)) {
		t.Fatal(err)
	}
	st.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := st.Read(got); !isTimeout(err) {
		t.Errorf("read deadline: %v", err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "reset seen", func() bool { _, _, resets, _, open := conn.Load().Stats(); return len(resets) == 1 && open == 0 })
}

func TestStreamWriteDeadline(t *testing.T) {
	_, cfg := setup(t, func(s *clienttest.Server) {
		s.Streams = true
		s.HoldCredit = true
	})
	cl := dial(t, cfg)
	st, err := cl.OpenStream(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	st.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := st.Write(blob(1 << 20)); !isTimeout(err) || n == 0 || n > 256<<10 {
		t.Errorf("%d, %v", n, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := cl.Request(ctx, "ECHO", blob(1<<20)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("request without credit: %v", err)
	}
	_ = st.Close()
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
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
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

// What a server may not do, each ends the connection.
func TestServerBreaksRules(t *testing.T) {
	sealed := func(h npro.Header, body []byte) func(c *clienttest.Conn) {
		return func(c *clienttest.Conn) { c.Send(h, body) }
	}
	raw := func(b []byte) func(c *clienttest.Conn) { return func(c *clienttest.Conn) { c.Raw(b) } }
	cases := map[string]func(c *clienttest.Conn){
		"not npro":               raw([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")),
		"version 3":              raw([]byte("NPRO\x03\x01\x00\x00\x00\x10\x01\x00\x00\x00\x00\x00")),
		"clear frame":            raw(npro.Header{Type: npro.TypePing}.Append(nil)),
		"length over limit":      raw(npro.Header{Type: npro.TypeData, Flags: npro.FlagEnc, Length: DefaultMaxFrame + 1, Stream: 1}.Append(nil)),
		"shorter than tag":       raw(npro.Header{Type: npro.TypePing, Flags: npro.FlagEnc, Length: 15}.Append(nil)),
		"does not open":          raw(append(npro.Header{Type: npro.TypePing, Flags: npro.FlagEnc, Length: 16}.Append(nil), make([]byte, 16)...)),
		"handshake again":        sealed(npro.Header{Type: npro.TypeHandshake1}, nil),
		"ping on stream":         sealed(npro.Header{Type: npro.TypePing, Stream: 1}, nil),
		"ping of 65":             sealed(npro.Header{Type: npro.TypePing}, make([]byte, 65)),
		"reset of connection":    sealed(npro.Header{Type: npro.TypeReset}, make([]byte, 4)),
		"window of 3 bytes":      sealed(npro.Header{Type: npro.TypeWindow}, make([]byte, 3)),
		"window overflow":        sealed(npro.Header{Type: npro.TypeWindow}, []byte{0x7f, 0xff, 0xff, 0xff}),
		"stream overflow":        sealed(npro.Header{Type: npro.TypeWindow, Stream: 1}, []byte{0x7f, 0xff, 0xff, 0xff}),
		"rekey with body":        sealed(npro.Header{Type: npro.TypeRekey}, []byte{1}),
		"disconnect of 3":        sealed(npro.Header{Type: npro.TypeDisconnect}, make([]byte, 3)),
		"goaway with end":        sealed(npro.Header{Type: npro.TypeGoAway, Flags: npro.FlagEnd}, make([]byte, 4)),
		"response to nobody":     sealed(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd, Stream: 99}, []byte{0}),
		"response on stream 0":   sealed(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd}, []byte{0}),
		"empty response":         sealed(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd, Stream: 1}, nil),
		"neither end nor more":   sealed(npro.Header{Type: npro.TypeResponse, Stream: 1}, []byte{0}),
		"end and more":           sealed(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd | npro.FlagMore, Stream: 1}, []byte{0}),
		"data for a request":     sealed(npro.Header{Type: npro.TypeData, Flags: npro.FlagEnd, Stream: 1}, []byte{0}),
		"bad context":            sealed(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd | npro.FlagCtx, Stream: 1}, []byte{0, 9, 1}),
		"compression not agreed": sealed(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd | npro.FlagLZ4, Stream: 1}, []byte{0, 0, 0, 1, 0x10, 'x'}),
		"over the window": func(c *clienttest.Conn) {
			c.Send(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagMore, Stream: 1}, make([]byte, 256<<10+1))
		},
		"bad push": sealed(npro.Header{Type: npro.TypeMessage, Flags: npro.FlagEnd, Stream: 2}, []byte{9, 1}),
		"context in the middle": func(c *clienttest.Conn) {
			c.Send(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagMore, Stream: 1}, []byte{0})
			c.Send(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd | npro.FlagCtx, Stream: 1}, []byte{0, 0})
		},
	}
	for name, do := range cases {
		t.Run(name, func(t *testing.T) {
			_, cfg := setup(t, func(s *clienttest.Server) {
				s.Handle = func(c *clienttest.Conn, _ *clienttest.Request) (clienttest.Reply, bool) {
					do(c)
					return clienttest.Reply{}, false
				}
			})
			cfg.NoReconnect = true
			cfg.OnMessage = func(string, []byte) {}
			cl := dial(t, cfg)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if _, err := cl.Request(ctx, "GO", nil); !errors.Is(err, ErrProtocol) || !errors.Is(err, ErrConnLost) {
				var d *DisconnectError
				if name != "window overflow" || !errors.As(err, &d) {
					t.Fatalf("%v", err)
				}
			}
		})
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

// piped runs a client against a server over net.Pipe, which synctest can follow.
func piped(t *testing.T, srv *clienttest.Server, pub handshake.PublicKey, change func(c *Config)) *Client {
	t.Helper()
	key, err := handshake.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Address: "pipe", Static: key, Remote: &pub, DialContext: func(context.Context, string, string) (net.Conn, error) {
		a, b := net.Pipe()
		srv.Serve(b)
		return a, nil
	}}
	if change != nil {
		change(&cfg)
	}
	cl, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, pub, err := clienttest.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		var conn *clienttest.Conn
		srv.OnConn = func(c *clienttest.Conn) { conn = c }
		cl := piped(t, srv, pub, func(c *Config) { c.Heartbeat = 10 * time.Second })
		time.Sleep(65 * time.Second)
		synctest.Wait()
		if pings, _, _, _, _ := conn.Stats(); pings != 6 {
			t.Errorf("%d pings in 65 s", pings)
		}
		if _, err := cl.Request(t.Context(), "ECHO", nil); err != nil {
			t.Error(err)
		}
		_ = cl.Close(t.Context())
		srv.Close()
	})
}

func TestDeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, pub, err := clienttest.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		stuck := make(chan struct{})
		srv.Handle = func(*clienttest.Conn, *clienttest.Request) (clienttest.Reply, bool) {
			<-stuck // the reader hangs: no PONG either
			return clienttest.Reply{}, false
		}
		cl := piped(t, srv, pub, func(c *Config) { c.Heartbeat, c.NoReconnect, c.ResponseTimeout = 10*time.Second, true, -1 })
		began := time.Now()
		_, err = cl.Request(t.Context(), "HANG", nil)
		if took := time.Since(began); !errors.Is(err, ErrHeartbeat) || took < 29*time.Second || took > 32*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		close(stuck)
		_ = cl.Close(t.Context())
		srv.Close()
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, pub, err := clienttest.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		var at []time.Time
		down := false
		cl := piped(t, srv, pub, func(c *Config) {
			c.MaxReconnectAttempts, c.MaxReconnectDelay = 6, 8*time.Second
			inner := c.DialContext
			c.DialContext = func(ctx context.Context, n, a string) (net.Conn, error) {
				at = append(at, time.Now())
				if down {
					return nil, errors.New("down")
				}
				return inner(ctx, n, a)
			}
		})
		down, at = true, []time.Time{time.Now()}
		srv.Drop()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if len(at) != 7 {
			t.Fatalf("%d attempts", len(at)-1)
		}
		for i, want := range []time.Duration{1, 2, 4, 8, 8, 8} {
			if d := at[i+1].Sub(at[i]); d < want*time.Second/2 || d > want*time.Second {
				t.Errorf("attempt %d after %v, expected %v to %v", i+1, d, want*time.Second/2, want*time.Second)
			}
		}
		_ = cl.Close(t.Context())
		srv.Close()
	})
}

func TestRekeyByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, pub, err := clienttest.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		var conn *clienttest.Conn
		srv.OnConn = func(c *clienttest.Conn) { conn = c }
		cl := piped(t, srv, pub, nil)
		time.Sleep(3*time.Hour + time.Minute)
		synctest.Wait()
		if _, rekeys, _, _, _ := conn.Stats(); rekeys != 3 {
			t.Errorf("%d rekeys in 3 h", rekeys)
		}
		if _, err := cl.Request(t.Context(), "ECHO", nil); err != nil {
			t.Error(err)
		}
		_ = cl.Close(t.Context())
		srv.Close()
	})
}

// discard is a net.Conn whose reads never end before Close.
type discard struct {
	net.Conn
	closed chan struct{}
	once   sync.Once
}

func (d *discard) Read([]byte) (int, error)         { <-d.closed; return 0, net.ErrClosed }
func (d *discard) Write(p []byte) (int, error)      { return len(p), nil }
func (d *discard) Close() error                     { d.once.Do(func() { close(d.closed) }); return nil }
func (d *discard) SetDeadline(time.Time) error      { return nil }
func (d *discard) SetReadDeadline(time.Time) error  { return d.Close() }
func (d *discard) SetWriteDeadline(time.Time) error { return nil }

// FuzzFrames feeds the reader with frames as they are after they were opened.
func FuzzFrames(f *testing.F) {
	add := func(hs ...npro.Header) {
		var b []byte
		for _, h := range hs {
			h.Flags |= npro.FlagEnc
			b = append(h.Append(b), 0, 4, 0, 0, 0, 0)
		}
		f.Add(b)
	}
	add(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd, Stream: 1, Length: 22})
	add(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagMore | npro.FlagCtx, Stream: 1, Length: 22}, npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd, Stream: 1, Length: 22})
	add(npro.Header{Type: npro.TypeWindow, Length: 20}, npro.Header{Type: npro.TypeReset, Stream: 1, Length: 20}, npro.Header{Type: npro.TypeGoAway, Length: 20})
	add(npro.Header{Type: npro.TypeResponse, Stream: 3, Length: 17}, npro.Header{Type: npro.TypeData, Flags: npro.FlagEnd, Stream: 3, Length: 22})
	f.Fuzz(func(t *testing.T, b []byte) {
		cfg := &Config{Address: "x", Pattern: handshake.PatternNNpsk0, PSK: &[32]byte{1}, MaxMessage: 1000, OnMessage: func(string, []byte) {}}
		if err := cfg.normalize(); err != nil {
			t.Fatal(err)
		}
		res := &handshake.Result{AEAD: npro.AEADAES256GCM, CompressionRx: 2, MaxFrameTx: 4096, StreamWindowTx: 4096, StreamWindowRx: 4096, ConnWindowTx: 8192, ConnWindowRx: 8192}
		c, err := newConn(&discard{closed: make(chan struct{})}, cfg, res)
		if err != nil {
			t.Fatal(err)
		}
		r := &reader{c: c}
		if r.opener, err = npro.NewOpener(res.AEAD, &res.Rx); err != nil {
			t.Fatal(err)
		}
		answered := 0
		call := &stream{async: func(Response, error) { answered++ }}
		if err := c.start(t.Context(), call, &Request{Opcode: "A"}); err != nil {
			t.Fatal(err)
		}
		bs := &Stream{c: c, readable: make(chan struct{}, 1)}
		bs.s = &stream{bytes: bs}
		if _, err := c.send(t.Context(), bs.s, npro.Header{Type: npro.TypeData}, nil, nil); err != nil {
			t.Fatal(err)
		}
		for len(b) >= npro.HeaderSize {
			h, err := npro.ParseHeader(b, cfg.MaxFrame)
			if err != nil || r.judge(h) != nil {
				break
			}
			b = b[npro.HeaderSize:]
			n := min(int(h.Length)-npro.TagSize, len(b))
			if r.frame(h, b[:n:n]) != nil {
				break
			}
			b = b[n:]
		}
		c.end(ErrClosed, npro.CodeNormal)
		c.stop()
		if answered != 1 {
			t.Fatalf("call answered %d times", answered)
		}
	})
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
