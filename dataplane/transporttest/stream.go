package transporttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/np-appliance/np/dataplane"
)

// ping takes a few bytes there and back.
func ping(t *testing.T, c, sv net.Conn) {
	t.Helper()
	for _, way := range [][2]net.Conn{{c, sv}, {sv, c}} {
		want, got := []byte("are you there?"), make([]byte, 14)
		both(t, func() error { _, err := way[0].Write(want); return err }, func() error { _, err := io.ReadFull(way[1], got); return err })
		if !bytes.Equal(got, want) {
			t.Fatalf("got %q", got)
		}
	}
}

// source yields bytes that differ everywhere and end after left.
type source struct {
	block []byte
	at    int
	count uint64
	left  int64
	sum   hash.Hash
}

func newSource(n int64) *source {
	s := &source{block: make([]byte, 64<<10), left: n, sum: sha256.New()}
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(s.block)
	s.at = len(s.block)
	return s
}

// Read implements [io.Reader]; the block is random and stamped anew each time round.
func (s *source) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	if s.at == len(s.block) {
		s.at = 0
		s.count++
		for i := 0; i < len(s.block); i += 512 {
			binary.LittleEndian.PutUint64(s.block[i:], s.count*0x9e3779b97f4a7c15+uint64(i))
		}
	}
	n := copy(p[:min(int64(len(p)), s.left)], s.block[s.at:])
	s.at += n
	s.left -= int64(n)
	s.sum.Write(p[:n])
	return n, nil
}

// sender writes all of n bytes in pieces of the sizes that size says.
func send(w io.Writer, n int64, size func() int) (sum []byte, err error) {
	src, buf := newSource(n), make([]byte, 256<<10)
	for {
		k, err := io.ReadFull(src, buf[:size()])
		if k == 0 {
			return src.sum.Sum(nil), nil
		}
		if m, err := w.Write(buf[:k]); err != nil || m != k {
			return nil, fmt.Errorf("wrote %d of %d: %w", m, k, err)
		}
		if err != nil {
			return src.sum.Sum(nil), nil
		}
	}
}

// receive reads to the end.
func receive(r io.Reader, size func() int) (n int64, sum []byte, err error) {
	h, buf := sha256.New(), make([]byte, 256<<10)
	for {
		k, err := r.Read(buf[:size()])
		h.Write(buf[:k])
		n += int64(k)
		if errors.Is(err, io.EOF) {
			return n, h.Sum(nil), nil
		}
		if err != nil {
			return n, nil, err
		}
	}
}

// pass sends n bytes from a to b and compares.
func pass(a, b *end, n int64, write, read func() int) error {
	var sent, got []byte
	var m int64
	var e1, e2 error
	var wg sync.WaitGroup
	wg.Go(func() {
		if sent, e1 = send(a, n, write); e1 == nil {
			e1 = a.closeWrite()
		}
	})
	wg.Go(func() { m, got, e2 = receive(b, read) })
	wg.Wait()
	if err := errors.Join(e1, e2); err != nil {
		return err
	}
	if m != n || !bytes.Equal(sent, got) {
		return fmt.Errorf("%d of %d bytes came, or others", m, n)
	}
	return nil
}

func always(n int) func() int { return func() int { return n } }

// sizes are mostly small and now and then large.
func sizes(seed uint64) func() int {
	r := rand.New(rand.NewPCG(seed, 2))
	return func() int {
		switch r.IntN(8) {
		case 0:
			return 1 + r.IntN(100_000)
		case 1:
			return 1
		}
		return 1 + r.IntN(3000)
	}
}

// order: what goes in comes out, both ways at once, in pieces of all sizes.
func (s *suite) order(t *testing.T) {
	c, sv := s.pair(t)
	defer c.Close()
	defer sv.Close()
	both(t, func() error { return pass(c, sv, 2<<20, sizes(1), sizes(2)) }, func() error { return pass(sv, c, 2<<20, sizes(3), sizes(4)) })
}

// bulk: many bytes, by hash, one way.
func (s *suite) bulk(t *testing.T) {
	for _, way := range []string{"up", "down"} {
		c, sv := s.pair(t)
		from, to := c, sv
		if way == "down" {
			from, to = sv, c
		}
		began := time.Now()
		if err := pass(from, to, s.o.Bytes, always(64<<10), always(64<<10)); err != nil {
			t.Errorf("%s: %v", way, err)
		}
		t.Logf("%s: %d bytes, %.2f Gbit/s", way, s.o.Bytes, float64(s.o.Bytes)*8e-9/time.Since(began).Seconds())
		c.Close()
		sv.Close()
	}
}

// timedOut says what is wrong with the error of something whose deadline passed.
func timedOut(err error) error {
	var ne net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
		return fmt.Errorf("after a deadline: %w", err)
	}
	return nil
}

func (s *suite) deadlines(t *testing.T) {
	c, sv := s.pair(t)
	defer c.Close()
	defer sv.Close()
	buf := make([]byte, 1024)
	set := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []time.Duration{-time.Hour, 0, 20 * time.Millisecond} {
		at := time.Now().Add(d)
		set(c.SetReadDeadline(at))
		n, err := c.Read(buf)
		if n != 0 || timedOut(err) != nil {
			t.Errorf("deadline %s: %d, %v", d, n, timedOut(err))
		}
		if d > 0 && time.Since(at) < 0 {
			t.Errorf("%s before the deadline", -time.Since(at))
		}
		if n, err = c.Read(buf); n != 0 || timedOut(err) != nil {
			t.Errorf("deadline %s, once more: %d, %v", d, n, timedOut(err))
		}
	}
	set(c.SetReadDeadline(time.Time{}))
	ping(t, c, sv)
	// A deadline that moves while somebody waits counts as it is then.
	set(c.SetReadDeadline(time.Now().Add(time.Hour)))
	began := time.Now()
	timer := time.AfterFunc(30*time.Millisecond, func() { _ = c.SetReadDeadline(time.Now().Add(-time.Second)) })
	if _, err := c.Read(buf); timedOut(err) != nil || time.Since(began) > patience {
		t.Error(timedOut(err))
	}
	timer.Stop()
	set(c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)))
	set(c.SetReadDeadline(time.Time{}))
	timer = time.AfterFunc(100*time.Millisecond, func() { _, _ = sv.Write([]byte("later")) })
	if n, err := io.ReadFull(c, buf[:5]); err != nil || string(buf[:n]) != "later" {
		t.Error("after a deadline that was cleared:", n, err)
	}
	timer.Stop()
	// A full pipe: the writer stops at its deadline and says how much it wrote.
	set(c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)))
	sent := int64(0)
	var err error
	for err == nil {
		var n int
		n, err = c.Write(make([]byte, 64<<10))
		sent += int64(n)
		if sent > int64(s.b.BufferMax)+64<<10 {
			t.Fatalf("%d bytes written, nobody reads", sent)
		}
	}
	if timedOut(err) != nil {
		t.Error(timedOut(err))
	}
	if s.wrap != nil {
		return // crypto/tls gives a connection up whose write timed out
	}
	set(c.SetDeadline(time.Time{}))
	set(sv.SetReadDeadline(time.Now().Add(patience)))
	if n, err := io.CopyN(io.Discard, sv, sent); err != nil {
		t.Errorf("%d of %d bytes came: %v", n, sent, err)
	}
	ping(t, c, sv)
}

// halfClose: each side ends its half in its own time.
func (s *suite) halfClose(t *testing.T) {
	for _, first := range []string{"client", "server"} {
		a, b := s.pair(t)
		if first == "server" {
			a, b = b, a
		}
		if err := pass(a, b, 300_000, sizes(5), sizes(6)); err != nil {
			t.Error(first, err)
		}
		if n, err := b.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Error(first, "a second read at the end:", n, err)
		}
		if _, err := a.Write([]byte("x")); err == nil {
			t.Error(first, "wrote after CloseWrite")
		} else if s.wrap == nil && !errors.Is(err, syscall.EPIPE) {
			t.Error(first, "write after CloseWrite:", err)
		}
		if err := pass(b, a, 300_000, sizes(7), sizes(8)); err != nil {
			t.Error(first, "the other half:", err)
		}
		both(t, a.Close, b.Close)
	}
	if s.wrap != nil {
		return
	}
	c, sv := s.pair(t)
	if err := c.raw.CloseRead(); err != nil {
		t.Error(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Error("read after CloseRead:", n, err)
	}
	if err := pass(c, sv, 100_000, sizes(9), sizes(10)); err != nil {
		t.Error("writing after CloseRead:", err)
	}
	both(t, c.Close, sv.Close)
}

// backpressure: a reader that stops stops the writer, and what lies between is bounded;
// then all of it comes.
func (s *suite) backpressure(t *testing.T) {
	c, sv := s.pair(t)
	defer c.Close()
	defer sv.Close()
	type result struct {
		sum []byte
		err error
	}
	done := make(chan result, 1)
	w := &counting{w: c}
	total := int64(s.b.BufferMax) + 1<<20
	go func() {
		sum, err := send(w, total, always(16<<10))
		if err == nil {
			err = c.closeWrite()
		}
		done <- result{sum, err}
	}()
	var at int64
	for end := time.Now().Add(patience); ; {
		time.Sleep(150 * time.Millisecond)
		now := w.count()
		if now == at && now > 0 {
			break // it stands still
		}
		if at = now; time.Now().After(end) {
			t.Fatal("the writer never stops")
		}
	}
	if at > int64(s.b.BufferMax) {
		t.Errorf("%d bytes held for a reader that reads nothing, expected at most %d", at, s.b.BufferMax)
	}
	t.Logf("%d bytes held, %d buffers", at, s.held())
	n, sum, err := receive(sv, always(64<<10))
	r := <-done
	if err != nil || r.err != nil || n != total || !bytes.Equal(sum, r.sum) {
		t.Errorf("%d of %d bytes, or others: %v, %v", n, total, err, r.err)
	}
}

// counting counts what was written.
type counting struct {
	w  io.Writer
	mu sync.Mutex
	n  int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.mu.Lock()
	c.n += int64(n)
	c.mu.Unlock()
	return n, err
}

func (c *counting) count() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// buffers: zero-copy reads that are held stay as they are while others come; the
// vectored write is one stream.
func (s *suite) buffers(t *testing.T) {
	c, sv := s.pair(t)
	defer c.Close()
	defer sv.Close()
	const total = 1 << 20
	sent, got := sha256.New(), sha256.New()
	both(t, func() error {
		src := newSource(total)
		for {
			var bufs net.Buffers
			want := 0
			for _, k := range []int{1, 100, 4000, 0, 9000} {
				b := make([]byte, k)
				n, _ := io.ReadFull(src, b)
				sent.Write(b[:n])
				bufs = append(bufs, b[:n])
				want += n
			}
			if want == 0 {
				return c.raw.CloseWrite()
			}
			if n, err := c.raw.WriteBuffers(bufs); err != nil || n != int64(want) {
				return fmt.Errorf("wrote %d of %d: %w", n, want, err)
			}
		}
	}, func() error {
		type kept struct {
			b    *dataplane.Buffers
			copy []byte
		}
		var held []kept
		bytesHeld := 0
		defer func() {
			for _, k := range held {
				k.b.Release()
			}
		}()
		for {
			b, err := sv.raw.ReadBuffers()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if b.Len() == 0 {
				return errors.New("no bytes and no error")
			}
			if _, err := b.WriteTo(got); err != nil {
				return err
			}
			// A few are held, released out of order, and must not have changed. Not many
			// bytes: they count against the window, and who waits with all of it held
			// waits for ever.
			held = append(held, kept{b, bytes.Join(b.Bytes(), nil)})
			bytesHeld += b.Len()
			b.Retain()
			b.Release()
			if len(held) < 4 && bytesHeld < 8<<10 {
				continue
			}
			rand.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
			for _, k := range held {
				if !bytes.Equal(k.copy, bytes.Join(k.b.Bytes(), nil)) {
					return errors.New("a buffer changed while it was held")
				}
				k.b.Release()
			}
			held, bytesHeld = held[:0], 0
		}
	})
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Error("other bytes came")
	}
	if err := sv.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Error(err)
	}
	if b, err := sv.raw.ReadBuffers(); b != nil || timedOut(err) != nil {
		t.Error("ReadBuffers after the deadline:", timedOut(err))
	}
}

// many: connections at the same time, each with its own bytes.
func (s *suite) many(t *testing.T) {
	n := s.o.Conns
	if s.wrap != nil {
		n = (n + 9) / 10 // handshakes are what that would measure
	}
	l := s.listen(t)
	var servers sync.WaitGroup
	servers.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			servers.Go(func() {
				e := s.end(t, c, true)
				defer e.Close()
				_, _ = io.Copy(struct{ io.Writer }{e}, struct{ io.Reader }{e})
			})
		}
	})
	errs := make(chan error, n)
	open := make(chan struct{}, 64) // dials in flight
	var clients, all sync.WaitGroup
	all.Add(n)
	for i := range n {
		clients.Go(func() {
			errs <- func() error {
				open <- struct{}{}
				c, err := s.dial(t, s.target(l))
				<-open
				all.Done()
				if err != nil {
					return err
				}
				defer c.Close()
				all.Wait() // all of them stand
				_ = c.SetDeadline(time.Now().Add(2 * patience))
				out, in := make([]byte, 500), make([]byte, 500)
				for round := range 3 {
					for j := range out {
						out[j] = byte(i*7 + round*13 + j)
					}
					if _, err := c.Write(out); err != nil {
						return err
					}
					if _, err := io.ReadFull(c, in); err != nil {
						return err
					}
					if !bytes.Equal(in, out) {
						return fmt.Errorf("connection %d got another's bytes", i)
					}
				}
				return nil
			}()
		})
	}
	clients.Wait()
	l.Close()
	servers.Wait()
	close(errs)
	bad := 0
	for err := range errs {
		if err != nil {
			if bad++; bad <= 3 {
				t.Error(err)
			}
		}
	}
	if bad > 0 {
		t.Errorf("%d of %d connections failed", bad, n)
	}
}

// void: a dial to where nothing answers ends with its context.
func (s *suite) void(t *testing.T) {
	if s.b.Void == "" {
		t.Skip("no such address")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	c, err := s.b.Client.Dial(ctx, s.b.Network, s.b.Void)
	if err == nil {
		c.Close()
		t.Fatal("somebody answered")
	}
	var ne net.Error
	if !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("dial that timed out: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err = s.b.Client.Dial(ctx, s.b.Network, s.b.Void); err == nil {
		t.Error("somebody answered")
	}
}

// refused: the error is the usual one.
func (s *suite) refused(t *testing.T) {
	if s.b.Refused == "" {
		t.Skip("no such address")
	}
	_, err := s.dial(t, s.b.Refused)
	var op *net.OpError
	if !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &op) || op.Op != "dial" {
		t.Errorf("refused: %v", err)
	}
}
