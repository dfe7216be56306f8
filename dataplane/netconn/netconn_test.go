package netconn_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/fake"
	"github.com/np-appliance/np/dataplane/netconn"
)

var (
	away   = netip.MustParseAddrPort("198.18.0.9:7")
	client = netip.MustParseAddrPort("198.18.0.2:40000")
)

// remote dials a far end that the test plays.
func remote(t *testing.T, r *rig) (*netconn.Conn, *fake.Remote) {
	t.Helper()
	s := r.plane.Serve(away)
	c, err := r.Dial(t.Context(), "tcp", away.String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := s.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*netconn.Conn), far
}

// TestErrors: what ends a connection has its usual names, and what came before can
// still be read.
func TestErrors(t *testing.T) {
	for code, want := range map[dataplane.Code]error{
		dataplane.CodeReset: syscall.ECONNRESET, dataplane.CodeTimedout: syscall.ETIMEDOUT, dataplane.CodeUnreachable: syscall.EHOSTUNREACH,
		dataplane.CodeAborted: syscall.ECONNABORTED, dataplane.CodePortdown: syscall.ENETDOWN, dataplane.CodeEOF: io.EOF, dataplane.CodeOK: io.EOF,
	} {
		r := newRig(t, fake.Options{}, netconn.Options{})
		c, far := remote(t, r)
		if err := far.Write([]byte("before")); err != nil {
			t.Fatal(err)
		}
		far.Abort(code)
		buf := make([]byte, 100)
		if n, err := io.ReadFull(c, buf[:6]); err != nil || string(buf[:n]) != "before" {
			t.Errorf("%v: %q, %v", code, buf[:n], err)
		}
		_, err := c.Read(buf)
		var op *net.OpError
		var ne net.Error
		switch {
		case want == io.EOF:
			if err != io.EOF {
				t.Errorf("%v: %v", code, err)
			}
		case !errors.Is(err, want) || !errors.Is(err, code) || !errors.As(err, &op) || op.Op != "read" || op.Addr.String() != away.String():
			t.Errorf("%v: %v", code, err)
		case !errors.As(err, &ne) || ne.Timeout() != (want == syscall.ETIMEDOUT):
			t.Errorf("%v: is a timeout: %v", code, err)
		}
		if want == io.EOF {
			want = syscall.EPIPE
		}
		if _, err := c.Write(buf); !errors.Is(err, want) {
			t.Errorf("%v: write: %v", code, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := c.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			t.Error("a deadline of a closed connection:", err)
		}
	}
}

// TestCredit: what is read returns to the peer, what is not doesn't, and no window is
// so small that both sides wait.
func TestCredit(t *testing.T) {
	for _, window := range []int{4096, 64 << 10} {
		r := newRig(t, fake.Options{Window: window}, netconn.Options{})
		c, far := remote(t, r)
		if err := far.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); far.Queued() != 1<<20-window; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d bytes wait, expected all but %d", far.Queued(), window)
			}
		}
		if n, err := io.CopyN(io.Discard, c, 1<<20); err != nil {
			t.Errorf("window %d: %d: %v", window, n, err)
		}
		// One that is held counts until it is released.
		if err := far.Write(make([]byte, 2*window)); err != nil {
			t.Fatal(err)
		}
		var held []*dataplane.Buffers
		got := 0
		for got < window-2048 {
			b, err := c.ReadBuffers()
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, b)
			got += b.Len()
		}
		time.Sleep(10 * time.Millisecond)
		if q := far.Queued(); q < window-2048 {
			t.Errorf("window %d: %d bytes wait while %d are held", window, q, got)
		}
		for _, b := range held {
			b.Release()
		}
		if n, err := io.CopyN(io.Discard, c, int64(2*window-got)); err != nil {
			t.Errorf("window %d: %d: %v", window, n, err)
		}
	}
}

// TestNoRoom: a core without room makes writers wait, not fail; nothing is lost.
func TestNoRoom(t *testing.T) {
	r := newRig(t, fake.Options{Cores: 2}, netconn.Options{WriteBuffer: 64 << 10})
	l, err := r.Listen(t.Context(), "tcp", "198.18.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r.plane.SetSendRoom(2)
	var wg sync.WaitGroup
	for range 8 {
		c, err := r.Dial(t.Context(), "tcp", "198.18.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer c.Close()
			if _, err := c.Write(make([]byte, 500_000)); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			defer s.Close()
			if n, err := io.Copy(io.Discard, s); err != nil || n != 500_000 {
				t.Error(n, err)
			}
		})
	}
	wg.Wait()
}

// TestNoRoomDeadline: a writer that waits for the core's room keeps its deadline.
func TestNoRoomDeadline(t *testing.T) {
	r := newRig(t, fake.Options{}, netconn.Options{})
	c, _ := remote(t, r)
	r.plane.SetSendRoom(0)
	if err := c.SetWriteDeadline(time.Now().Add(30 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(n, err)
	}
	r.plane.SetSendRoom(-1)
}

// TestLostWrite: the core's word that a write was lost ends the connection.
func TestLostWrite(t *testing.T) {
	r := newRig(t, fake.Options{}, netconn.Options{})
	c, far := remote(t, r)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	r.plane.Inject(0, dataplane.Event{Op: dataplane.EventSent, Conn: far.Handle(), Bytes: 1, Err: dataplane.CodeNobuf}, nil)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ENOBUFS) {
		t.Error(err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ENOBUFS) {
		t.Error(err)
	}
}

// TestBacklog: connections that nobody accepts are bounded, and counted beyond.
func TestBacklog(t *testing.T) {
	r := newRig(t, fake.Options{}, netconn.Options{Backlog: 3})
	l, err := r.Listen(t.Context(), "tcp", "198.18.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	id := r.plane.Listeners()[0].ID
	var fars []*fake.Remote
	for range 5 {
		far, err := r.plane.DialPipe(0, id, client)
		if err != nil {
			t.Fatal(err)
		}
		fars = append(fars, far)
	}
	for _, far := range fars[3:] {
		if _, err := far.Read(t.Context(), 1); err != dataplane.CodeReset {
			t.Error("beyond the backlog:", err)
		}
	}
	if s := r.Stats(); s.Overflowed != 2 {
		t.Errorf("%+v", s)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for _, far := range fars[1:3] {
		if _, err := far.Read(t.Context(), 1); err != dataplane.CodeReset {
			t.Error("in the queue of a listener that closed:", err)
		}
	}
	if _, err := c.Write([]byte("hi")); err != nil {
		t.Error(err)
	}
	if b, err := fars[0].Read(t.Context(), 10); err != nil || string(b) != "hi" {
		t.Errorf("%q, %v", b, err)
	}
	c.Close()
}

// TestDialGivesUp: a dial whose context ends leaves no connection behind, whenever the
// answer comes.
func TestDialGivesUp(t *testing.T) {
	r := newRig(t, fake.Options{Cores: 2}, netconn.Options{})
	r.plane.Void(away)
	for range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
		if _, err := r.Dial(ctx, "tcp", away.String()); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		cancel()
	}
	there := netip.MustParseAddrPort("198.18.0.9:8")
	r.plane.Serve(there)
	for i := range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(time.Duration(i) * time.Microsecond)
			cancel()
		}()
		if c, err := r.Dial(ctx, "tcp", there.String()); err == nil {
			c.Close()
		}
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		conns, err := r.plane.Connections(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		open := 0
		for _, c := range conns {
			if c.Remote != there { // those that were served and closed wait for their far ends
				open++
			}
		}
		if open == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections left", open)
		}
	}
}

// TestNames: names are looked up, their addresses tried in turn.
func TestNames(t *testing.T) {
	r := newRig(t, fake.Options{}, netconn.Options{})
	for _, bad := range []string{"198.18.0.1", "198.18.0.1:http:80", "[fe80::1%eth0]:80", "198.18.0.1:70000"} {
		if _, err := r.Dial(t.Context(), "tcp", bad); err == nil {
			t.Error(bad, "was dialled")
		}
	}
	if _, err := r.Dial(t.Context(), "tcp6", "198.18.0.1:80"); err == nil {
		t.Error("an IPv4 address over tcp6")
	}
	l, err := r.Listen(t.Context(), "tcp4", ":http")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Addr().String() != "0.0.0.0:80" {
		t.Error(l.Addr())
	}
	go func() {
		if c, err := l.Accept(); err == nil {
			c.Close()
		}
	}()
	c, err := r.Dial(t.Context(), "tcp4", "localhost:http") // 127.0.0.1 in /etc/hosts
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// TestIdle: bytes and ends that came show without a read.
func TestIdle(t *testing.T) {
	r := newRig(t, fake.Options{}, netconn.Options{})
	c, far := remote(t, r)
	becomes := func(want bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); c.Idle() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("idle is not %v", want)
			}
		}
	}
	becomes(true)
	if err := far.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	becomes(false)
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	becomes(true)
	far.Abort(dataplane.CodeEOF)
	becomes(false)
}

// TestClose: the transport's end is everybody's.
func TestClose(t *testing.T) {
	r := newRig(t, fake.Options{Cores: 2}, netconn.Options{})
	l, err := r.Listen(t.Context(), "tcp", "198.18.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.ListenPacket(t.Context(), "udp", "198.18.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, far := remote(t, r)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error("accept:", err)
		}
	})
	wg.Go(func() {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Error("read:", err)
		}
	})
	wg.Go(func() {
		if _, _, err := p.ReadFrom(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Error("read a datagram:", err)
		}
	})
	time.Sleep(5 * time.Millisecond)
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if _, err := far.Read(t.Context(), 1); err != dataplane.CodeReset {
		t.Error("the far end:", err)
	}
	if _, err := r.Dial(t.Context(), "tcp", away.String()); !errors.Is(err, dataplane.CodeShutdown) {
		t.Error("dial after Close:", err)
	}
	if _, err := r.Listen(t.Context(), "tcp", "198.18.0.1:81"); !errors.Is(err, dataplane.CodeShutdown) {
		t.Error("listen after Close:", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// TestPlaneEnds: so is the plane's.
func TestPlaneEnds(t *testing.T) {
	r := newRig(t, fake.Options{Cores: 2}, netconn.Options{})
	l, err := r.Listen(t.Context(), "tcp", "198.18.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	c, _ := remote(t, r)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error("accept:", err)
		}
	})
	wg.Go(func() {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, dataplane.CodeShutdown) {
			t.Error("read:", err)
		}
	})
	wg.Go(func() {
		_, err := c.Write(make([]byte, 10<<20))
		if !errors.Is(err, dataplane.CodeShutdown) {
			t.Error("write:", err)
		}
	})
	time.Sleep(20 * time.Millisecond)
	r.plane.Close()
	wg.Wait()
}

// TestDatagramsBounded: what nobody reads is bounded, and counted beyond.
func TestDatagramsBounded(t *testing.T) {
	r := newRig(t, fake.Options{}, netconn.Options{DatagramBytes: 10_000})
	a, err := r.ListenPacket(t.Context(), "udp", "198.18.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := r.ListenPacket(t.Context(), "udp", "198.18.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for range 100 {
		if _, err := a.WriteTo(make([]byte, 1000), b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	for r.Stats().DatagramsDropped < 90 {
		time.Sleep(time.Millisecond)
	}
	if n := r.plane.Unreleased(); n > 10 {
		t.Errorf("%d datagrams held", n)
	}
	for range 10 {
		if n, _, err := b.ReadFrom(make([]byte, 2000)); n != 1000 || err != nil {
			t.Fatal(n, err)
		}
	}
}
