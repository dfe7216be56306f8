package transporttest

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// reset says what is wrong with the error of a connection that its peer aborted.
func (s *suite) reset(err error) error {
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		return nil
	case s.b.NoReset && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE)):
		return nil
	}
	return fmt.Errorf("the peer aborted: %w", err)
}

// abort: the peer learns at once, and whoever waits here does too.
func (s *suite) abort(t *testing.T) {
	c, sv := s.pair(t)
	defer c.Close()
	defer sv.Close()
	mine := make(chan error, 1)
	theirs := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); mine <- err }()
	go func() { _, err := sv.Read(make([]byte, 1)); theirs <- err }()
	time.Sleep(10 * time.Millisecond) // both wait, most likely
	if err := c.raw.Abort(); err != nil {
		t.Error(err)
	}
	if err := wait(t, mine); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read that waited: %v", err)
	}
	if err := s.reset(wait(t, theirs)); err != nil {
		t.Error(err)
	}
	if _, err := c.raw.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after Abort: %v", err)
	}
	// The peer's writes fail too, soon if not at once.
	for end := time.Now().Add(patience); ; {
		_, err := sv.Write([]byte("x"))
		if err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("writes to a connection that was reset go on")
		}
		time.Sleep(time.Millisecond)
	}
}

func wait(t *testing.T, ch <-chan error) error {
	t.Helper()
	select {
	case err := <-ch:
		return err
	case <-time.After(patience):
		t.Fatal("still waiting")
	}
	return nil
}

// closeUnread: a close with bytes unread ends the peer's writing; how it is told is
// the transport's.
func (s *suite) closeUnread(t *testing.T) {
	c, sv := s.pair(t)
	defer c.Close()
	if _, err := c.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // for them to arrive
	if err := sv.Close(); err != nil {
		t.Error(err)
	}
	if err := sv.Close(); err == nil && s.wrap == nil {
		t.Error("closed twice, and no error")
	} else if err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error("closed twice:", err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	var err error
	for err == nil {
		_, err = c.Write(make([]byte, 64<<10))
	}
	if errors.Is(timedOut(err), nil) {
		t.Error("the peer closed and the writer was not told:", err)
	}
}

// linger: what was written before Close arrives.
func (s *suite) linger(t *testing.T) {
	c, sv := s.pair(t)
	const total = 1 << 20
	both(t, func() error {
		_, err := send(c, total, always(32<<10))
		return errors.Join(err, c.Close())
	}, func() error {
		time.Sleep(20 * time.Millisecond)
		n, _, err := receive(sv, always(5000))
		if err == nil && n != total {
			err = fmt.Errorf("%d of %d bytes came before the end", n, total)
		}
		_ = sv.Close() // TLS says goodbye to a peer that is gone
		return err
	})
}

// closeUnderLoad: connections closed and aborted from either side in mid-traffic end
// everybody who uses them.
func (s *suite) closeUnderLoad(t *testing.T) {
	const conns = 20
	l := s.listen(t)
	defer l.Close()
	var wg sync.WaitGroup
	var moved atomic.Int64
	for i := range conns {
		c, sv := s.pairOn(t, l)
		for _, e := range []*end{c, sv} {
			wg.Go(func() {
				buf := make([]byte, 10_000)
				for {
					n, err := e.Read(buf)
					moved.Add(int64(n))
					if err != nil {
						return
					}
				}
			})
			wg.Go(func() {
				buf := make([]byte, 10_000)
				for {
					if _, err := e.Write(buf); err != nil {
						return
					}
				}
			})
		}
		wg.Go(func() {
			defer c.Close()
			defer sv.Close()
			time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
			switch i % 4 {
			case 0:
				_ = c.Close()
			case 1:
				_ = sv.Close()
			case 2:
				_ = c.raw.Abort()
			case 3:
				_ = sv.raw.Abort()
			}
		})
	}
	done := make(chan error, 1)
	go func() { wg.Wait(); done <- nil }()
	if err := wait(t, done); err != nil || moved.Load() == 0 {
		t.Error(err, moved.Load())
	}
}

// listener: Close ends Accept, frees the address, and leaves connections alone.
func (s *suite) listener(t *testing.T) {
	l := s.listen(t)
	address := s.target(l)
	c, sv := s.pairOn(t, l)
	defer c.Close()
	defer sv.Close()
	if _, err := s.b.Server.Listen(t.Context(), s.b.Network, l.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second listener: %v", err)
	}
	accept := make(chan error, 1)
	go func() { _, err := l.Accept(); accept <- err }()
	time.Sleep(10 * time.Millisecond)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := wait(t, accept); !errors.Is(err, net.ErrClosed) {
		t.Errorf("an accept that waited: %v", err)
	}
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
	ping(t, c, sv)
	if e, err := s.dial(t, address); err == nil {
		e.Close()
		t.Error("dialled a listener that is closed")
	}
	again, err := s.b.Server.Listen(t.Context(), s.b.Network, l.Addr().String())
	if err != nil {
		t.Fatalf("the address once more: %v", err)
	}
	again.Close()
}

// vanished: a peer that falls silent ends the connection after its user timeout.
func (s *suite) vanished(t *testing.T) {
	if s.b.Vanish == nil {
		t.Skip("peers can't vanish here")
	}
	c, sv := s.pair(t)
	defer sv.raw.Abort()
	defer c.Close()
	if err := c.raw.(interface{ SetUserTimeout(time.Duration) error }).SetUserTimeout(time.Second); err != nil {
		t.Fatal(err)
	}
	ping(t, c, sv)
	back := s.b.Vanish(t)
	defer back()
	if _, err := c.Write([]byte("hello?")); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	began := time.Now()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("a peer that vanished: %v after %s", err, time.Since(began))
	}
}
