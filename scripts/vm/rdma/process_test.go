//go:build vm && cgo

package rdma

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	ctrl "github.com/np-appliance/np/ctrl/rdma"
	"github.com/np-appliance/np/dataplane"
)

// pair is a connection between two transports.
func pair(t *testing.T, client, server *end) (c, s net.Conn) {
	t.Helper()
	l, err := server.tr.Listen(t.Context(), "tcp", serverAddr.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan net.Conn, 1)
	go func() {
		s, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		got <- s
	}()
	if c, err = client.tr.Dial(t.Context(), "tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if s = <-got; s == nil {
		t.FailNow()
	}
	t.Cleanup(func() { s.Close() })
	return c, s
}

func handleOf(c net.Conn) dataplane.Handle { return c.(dataplane.StreamConn).Properties().ID }

// The device sends again what the wire loses; the stream never notices but in time.
func TestLoss(t *testing.T) {
	client, server := newEnd(t, with{conns: 16, source: clientAddr, transport: true}), newEnd(t, with{conns: 16, transport: true})
	c, s := pair(t, client, server)
	netem(t, "loss", "1%", "delay", "1ms", "reorder", "5%")
	defer netem(t)
	const total = 512 << 10
	seed := [32]byte{7}
	go func() {
		if _, err := io.CopyN(c, rand.NewChaCha8(seed), total); err != nil {
			t.Error(err)
		}
		_ = c.(dataplane.StreamConn).CloseWrite()
	}()
	h := sha256.New()
	_ = s.SetReadDeadline(time.Now().Add(2 * time.Minute))
	n, err := io.Copy(h, s)
	want := sha256.New()
	_, _ = io.CopyN(want, rand.NewChaCha8(seed), total)
	if n != total || err != nil || !bytes.Equal(h.Sum(nil), want.Sum(nil)) {
		t.Errorf("%d bytes of %d, %v, or other ones", n, total, err)
	}
}

// One-sided reads and writes of registered memory, and what is not allowed.
func TestOneSided(t *testing.T) {
	client, server := newEnd(t, with{conns: 16, source: clientAddr, transport: true}), newEnd(t, with{conns: 16, transport: true})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, s := pair(t, client, server)
	theirs, err := server.m.RegisterRegion(handleOf(s), 1<<20, dataplane.RDMARemoteRead|dataplane.RDMARemoteWrite)
	if err != nil {
		t.Fatal(err)
	}
	// The key and address go over the stream.
	wire, _ := theirs.Remote().MarshalBinary()
	if _, err := s.Write(wire); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, ctrl.RemoteBytes)
	if _, err := io.ReadFull(c, buf); err != nil {
		t.Fatal(err)
	}
	var remote ctrl.Remote
	if err := remote.UnmarshalBinary(buf); err != nil {
		t.Fatal(err)
	}
	ours, err := client.m.RegisterRegion(handleOf(c), 1<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 300<<10)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(want)
	if _, err := ours.WriteAt(want, 4096); err != nil {
		t.Fatal(err)
	}
	if err := client.m.Write(ctx, handleOf(c), ours, 4096, remote, 100, len(want)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := theirs.ReadAt(got, 100); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what was written is not there: %v", err)
	}
	if err := client.m.Read(ctx, handleOf(c), ours, 512<<10, remote, 100, len(want)); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.ReadAt(got, 512<<10); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what was read is something else: %v", err)
	}
	if err := client.m.Read(ctx, handleOf(c), ours, 0, remote, 1<<20-10, 11); !errors.Is(err, dataplane.CodeInvalid) {
		t.Errorf("beyond the peer's region: %v", err)
	}
	if err := client.m.Read(ctx, handleOf(c), ours, 1<<20-10, remote, 0, 11); !errors.Is(err, dataplane.CodeInvalid) {
		t.Errorf("beyond our region: %v", err)
	}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	// A region that is gone, one that may only be read, and a guessed address: refused, and the end of the connection.
	tries := []func(c, s net.Conn) (ctrl.Remote, io.Closer){
		func(net.Conn, net.Conn) (ctrl.Remote, io.Closer) { return remote, io.NopCloser(nil) },
		func(_, s net.Conn) (ctrl.Remote, io.Closer) {
			g, err := server.m.RegisterRegion(handleOf(s), 4096, dataplane.RDMARemoteRead)
			if err != nil {
				t.Fatal(err)
			}
			return g.Remote(), g
		},
		func(_, s net.Conn) (ctrl.Remote, io.Closer) {
			g, err := server.m.RegisterRegion(handleOf(s), 4096, dataplane.RDMARemoteWrite)
			if err != nil {
				t.Fatal(err)
			}
			r := g.Remote()
			r.Addr ^= 1 << 30
			return r, g
		},
	}
	for i, try := range tries {
		c, s := pair(t, client, server)
		mine, err := client.m.RegisterRegion(handleOf(c), 4096, 0)
		if err != nil {
			t.Fatal(err)
		}
		r, g := try(c, s)
		if err := client.m.Write(ctx, handleOf(c), mine, 0, r, 0, 64); err == nil {
			t.Errorf("try %d was allowed", i)
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("try %d: the connection is still there: %v", i, err)
		}
		if err := mine.Close(); err != nil {
			t.Errorf("try %d: %v", i, err)
		}
		if err := g.Close(); err != nil {
			t.Errorf("try %d: %v", i, err)
		}
	}
	if err := ours.Close(); err != nil {
		t.Error(err)
	}
}

const childEnv = "NP_RDMA_TEST_CHILD"

// TestMain: as a child this program is a server that echoes until it is killed.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	os.Args = []string{os.Args[0], "-test.run=^TestChild$"}
	os.Exit(m.Run())
}

// TestChild is the other process of TestKilled.
func TestChild(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		t.Skip("only as a child")
	}
	e := newEnd(t, with{conns: 16})
	fmt.Println("listening", e.listen(t, dataplane.SessionEcho))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// A peer whose process is killed resets its connections at once.
func TestKilled(t *testing.T) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childEnv+"=1")
	in, _ := child.StdinPipe()
	defer in.Close()
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	at, ok := strings.CutPrefix(strings.TrimSpace(line), "listening ")
	if err != nil || !ok {
		t.Fatal(line, err)
	}
	client := newEnd(t, with{conns: 16, source: clientAddr, transport: true})
	held := client.held()
	c, err := client.tr.Dial(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("there?")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 6)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "there?" {
		t.Fatal(string(buf), err)
	}
	go func() { // bytes are on their way when it happens
		for {
			if _, err := c.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	}()
	go func() { time.Sleep(200 * time.Millisecond); _ = child.Process.Kill() }()
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	began := time.Now()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("the peer was killed: %v", err)
	}
	t.Logf("noticed after %s", time.Since(began))
	for end := time.Now().Add(20 * time.Second); client.held() > held && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	if n := client.held(); n > held {
		t.Errorf("%d held, %d before", n, held)
	}
	if _, err := client.tr.Dial(t.Context(), "tcp", at); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialling nobody: %v", err)
	}
}
