package transporttest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// datagrams tests the packet side, where there is one.
func (s *suite) datagrams(t *testing.T) {
	if s.b.Packet == "" {
		return
	}
	for _, c := range []struct {
		name string
		f    func(*testing.T)
	}{{"sizes", s.packetSizes}, {"peers", s.packetPeers}, {"deadlines", s.packetDeadlines}, {"unreachable", s.packetUnreachable}, {"dialled", s.packetDialled}} {
		t.Run("datagrams/"+c.name, func(t *testing.T) { s.clean(t, func() { c.f(t) }) })
	}
}

func (s *suite) packet(t *testing.T, client bool) net.PacketConn {
	t.Helper()
	tr, at := s.b.Server, s.b.PacketListen
	if client {
		tr = s.b.Client
		if s.b.PacketClient != "" {
			at = s.b.PacketClient
		}
	}
	c, err := tr.ListenPacket(t.Context(), s.b.Packet, at)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// exchange sends from a to b until it arrives: a datagram may be lost.
func exchange(a, b net.PacketConn, to net.Addr, body []byte) (from net.Addr, err error) {
	buf := make([]byte, 65536)
	for range 20 {
		if _, err := a.WriteTo(body, to); err != nil {
			return nil, fmt.Errorf("send %d bytes: %w", len(body), err)
		}
		_ = b.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		for {
			n, from, err := b.ReadFrom(buf)
			if timedOut(err) == nil {
				break
			}
			if err != nil {
				return nil, err
			}
			if bytes.Equal(buf[:n], body) {
				return from, nil
			}
		}
	}
	return nil, fmt.Errorf("a datagram of %d bytes never arrives", len(body))
}

func (s *suite) packetSizes(t *testing.T) {
	a, b := s.packet(t, true), s.packet(t, false)
	defer a.Close()
	defer b.Close()
	most := s.b.PacketMax
	if most == 0 {
		most = 1400
	}
	for _, n := range []int{0, 1, 2, 63, 64, 512, 1200, most - 1, most} {
		body := make([]byte, n)
		for i := range body {
			body[i] = byte(rand.Uint32())
		}
		from, err := exchange(a, b, b.LocalAddr(), body)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := exchange(b, a, from, body); err != nil {
			t.Fatal("back:", err)
		} else if back.String() != b.LocalAddr().String() {
			t.Errorf("from %s, expected %s", back, b.LocalAddr())
		}
	}
	// One that is longer than the reader's buffer is cut, and the next is whole.
	if _, err := a.WriteTo(make([]byte, 100), b.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	_ = b.SetReadDeadline(time.Now().Add(patience))
	if n, _, err := b.ReadFrom(make([]byte, 10)); n != 10 || err != nil {
		t.Error("cut:", n, err)
	}
	if _, err := exchange(a, b, b.LocalAddr(), []byte("next")); err != nil {
		t.Error(err)
	}
	if _, err := a.WriteTo(make([]byte, 70_000), b.LocalAddr()); err == nil {
		t.Error("70,000 bytes in one datagram")
	}
}

// packetPeers: several clients of one socket are told apart.
func (s *suite) packetPeers(t *testing.T) {
	server := s.packet(t, false)
	defer server.Close()
	seen := map[string]bool{}
	for i := range 8 {
		c := s.packet(t, true)
		defer c.Close()
		from, err := exchange(c, server, server.LocalAddr(), fmt.Appendf(nil, "client %d", i))
		if err != nil {
			t.Fatal(err)
		}
		seen[from.String()] = true
		if _, err := exchange(server, c, from, []byte("you")); err != nil {
			t.Fatal(err)
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d sources of 8 sockets: %v", len(seen), seen)
	}
}

func (s *suite) packetDeadlines(t *testing.T) {
	c := s.packet(t, false)
	defer c.Close()
	for _, d := range []time.Duration{-time.Hour, 20 * time.Millisecond} {
		if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.ReadFrom(make([]byte, 10)); timedOut(err) != nil {
			t.Error(timedOut(err))
		}
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	ch := make(chan error, 1)
	go func() { _, _, err := c.ReadFrom(make([]byte, 10)); ch <- err }()
	time.Sleep(10 * time.Millisecond)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := wait(t, ch); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read that waited for Close: %v", err)
	}
	if _, err := c.WriteTo([]byte("x"), c.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after Close: %v", err)
	}
}

// packetUnreachable: what can't be delivered breaks nothing.
func (s *suite) packetUnreachable(t *testing.T) {
	a, b := s.packet(t, true), s.packet(t, false)
	defer a.Close()
	defer b.Close()
	gone := s.packet(t, false)
	nowhere := gone.LocalAddr()
	gone.Close()
	for range 3 {
		_, _ = a.WriteTo([]byte("anybody?"), nowhere) // an error is allowed, later ones too
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := exchange(a, b, b.LocalAddr(), []byte("still here")); err != nil {
		t.Error(err)
	}
}

// packetDialled: Dial of a datagram network gives a connection to one peer.
func (s *suite) packetDialled(t *testing.T) {
	server := s.packet(t, false)
	defer server.Close()
	c, err := s.b.Client.Dial(t.Context(), s.b.Packet, server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 100)
	for i := 0; ; i++ {
		if i == 20 {
			t.Fatal("nothing comes")
		}
		if _, err := c.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		_ = server.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		n, from, err := server.ReadFrom(buf)
		if timedOut(err) == nil {
			continue
		}
		if err != nil || string(buf[:n]) != "question" {
			t.Fatal(n, err)
		}
		if _, err := server.WriteTo([]byte("answer"), from); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		n, err = c.Read(buf)
		if timedOut(err) == nil {
			continue
		}
		if err != nil || string(buf[:n]) != "answer" {
			t.Fatal(n, err)
		}
		return
	}
}
