package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/client/clienttest"
	"github.com/np-appliance/np/ctrl/npro"
)

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

// A connection that ends is no end of its streams.
func TestStreamConnLost(t *testing.T) {
	srv, cfg := setup(t, func(s *clienttest.Server) { s.Streams = true })
	cl := dial(t, cfg)
	st, err := cl.OpenStream(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(st, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	srv.Drop()
	if _, err := st.Read(make([]byte, 1)); !errors.Is(err, ErrConnLost) || errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
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
	st.SetWriteDeadline(time.Now().Add(time.Minute))
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

// TestStreamCrumbs: what waits to be read takes little more memory than its
// bytes, in however small frames a server sends it.
func TestStreamCrumbs(t *testing.T) {
	b := &Stream{c: &conn{}, s: &stream{}, readable: make(chan struct{}, 1)}
	want := make([]byte, 100_000)
	for i := range want {
		want[i] = byte(i * 7 >> 3)
		if err := b.receive(npro.Header{Type: npro.TypeData}, want[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(b.chunks); n > 30 || !bytes.Equal(bytes.Join(b.chunks, nil), want) {
		t.Errorf("%d chunks for one-byte frames, or not these", n)
	}
}

// A request that opens a stream carries its context and payload, and its refusal is
// known before a byte of the stream is.
func TestOpenRequest(t *testing.T) {
	var got clienttest.Request
	_, cfg := setup(t, func(s *clienttest.Server) {
		s.Accept = func(r *clienttest.Request) npro.Code {
			got = *r
			if r.Opcode == "NO" {
				return npro.CodeDenied
			}
			return npro.CodeOK
		}
	})
	cl := dial(t, cfg)
	st, err := cl.OpenRequest(t.Context(), &Request{Opcode: "TALK", Payload: blob(100_000), Priority: 2, Context: npro.Context{Tenant: "t"}})
	if err != nil {
		t.Fatal(err)
	}
	if got.Opcode != "TALK" || len(got.Payload) != 100_000 || got.Context.Tenant != "t" {
		t.Errorf("server got %q, %d bytes, %+v", got.Opcode, len(got.Payload), got.Context)
	}
	want := blob(1 << 20)
	go func() {
		_, _ = st.Write(want)
		_ = st.CloseWrite()
	}()
	if back, err := io.ReadAll(st); err != nil || !bytes.Equal(back, want) {
		t.Errorf("%d bytes, %v", len(back), err)
	}
	if _, err := cl.OpenRequest(t.Context(), &Request{Opcode: "NO"}); !errors.Is(err, npro.CodeDenied) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := cl.OpenRequest(ctx, &Request{Opcode: "X", Priority: 9}); err == nil {
		t.Error("priority 9")
	}
	if n := cl.Info()[0].InFlight; n != 0 {
		t.Errorf("%d streams left", n)
	}
}
