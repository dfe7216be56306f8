package plain

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func serve(t *testing.T, s *Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := s.Stats().Open; n != 0 {
			t.Errorf("%d connections after the end", n)
		}
	})
	return l.Addr().String()
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c.(*net.TCPConn)
}

func newServer(t *testing.T, protocol string) *Server {
	t.Helper()
	s, err := New(protocol)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEcho(t *testing.T) {
	c := dial(t, serve(t, newServer(t, "echo")))
	want := bytes.Repeat([]byte("0123456789"), 100_000)
	go func() {
		_, _ = c.Write(want)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
}

func TestDiscard(t *testing.T) {
	c := dial(t, serve(t, newServer(t, "discard")))
	if _, err := c.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestChargen(t *testing.T) {
	c := dial(t, serve(t, newServer(t, "chargen")))
	got := make([]byte, 74*1000)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	all := strings.Repeat(" !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~", 2)
	for i := range 1000 {
		if line := string(got[i*74 : i*74+74]); line != all[i%95:i%95+72]+"\r\n" {
			t.Fatalf("line %d: %q", i, line)
		}
	}
	_ = c.CloseWrite() // the peer says that it is done: the server ends too
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
}

func TestBounds(t *testing.T) {
	if _, err := New("gopher"); err == nil || !strings.Contains(err.Error(), "chargen") {
		t.Error(err)
	}
	s := newServer(t, "echo")
	s.MaxConns, s.Idle = 1, 50*time.Millisecond
	failed := make(chan error, 8)
	s.Failed = func(_ net.Addr, err error) { failed <- err }
	addr := serve(t, s)
	first := dial(t, addr)
	if _, err := first.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(first, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, addr).Read(make([]byte, 1)); err == nil {
		t.Error("a second connection was served")
	}
	if err := <-failed; !strings.Contains(err.Error(), "timeout") {
		t.Errorf("idle: %v", err)
	}
	if st := s.Stats(); st.Accepted != 1 || st.Refused != 1 || st.Failed != 1 {
		t.Errorf("%+v", st)
	}
}

// unshaken is a connection whose handshake fails, with the error of package secure.
type unshaken struct{ net.Conn }

var errUnshaken = &net.OpError{Op: "handshake", Net: "tcp", Err: io.ErrUnexpectedEOF}

func (unshaken) Read([]byte) (int, error) { return 0, errUnshaken }
func (unshaken) Write([]byte) (int, error) {
	time.Sleep(2 * time.Millisecond) // chargen's reader is first
	return 0, errUnshaken
}

type unshakenListener struct{ net.Listener }

func (l unshakenListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return unshaken{c}, err
}

// TestHandshakes: each service counts a handshake that failed, chargen too, whose reader meets it first.
func TestHandshakes(t *testing.T) {
	for _, protocol := range []string{"echo", "discard", "chargen"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := newServer(t, protocol)
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- s.Serve(ctx, unshakenListener{l}) }()
		const conns = 20
		for range conns {
			if _, err := dial(t, l.Addr().String()).Read(make([]byte, 1)); err == nil {
				t.Error("bytes came")
			}
		}
		for deadline := time.Now().Add(time.Minute); s.Stats().Open > 0 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		if st := s.Stats(); st.Accepted != conns || st.Failed != conns || st.Handshakes != conns || st.Open != 0 {
			t.Errorf("%s: %+v", protocol, st)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
