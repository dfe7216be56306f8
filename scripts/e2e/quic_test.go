//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/np-appliance/np/dataplane/transporttest"
)

// quicServer echoes streams on a packet socket until ctx ends.
func quicServer(t *testing.T, ctx context.Context, c net.PacketConn, conf *tls.Config) {
	t.Helper()
	l, err := quic.Listen(c, conf, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept(ctx)
			if err != nil {
				return
			}
			go func() {
				for {
					s, err := conn.AcceptStream(ctx)
					if err != nil {
						return
					}
					go func() {
						_, _ = io.Copy(s, s)
						_ = s.Close()
					}()
				}
			}()
		}
	}()
}

// quicEcho sends data on a stream and reads it back.
func quicEcho(ctx context.Context, conn *quic.Conn, data []byte) error {
	s, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := s.Write(data)
		wrote <- errors.Join(err, s.Close())
	}()
	got, err := io.ReadAll(s)
	if err = errors.Join(err, <-wrote); err == nil && !bytes.Equal(got, data) {
		err = errors.New("other bytes came back")
	}
	return err
}

// QUIC as Go programs have it, on our UDP over AF_XDP, with one end on the kernel's: each side serves once.
func TestQUIC(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noNpd: true})
	us, them := xdpEnd(t, w, "s", "np0", server4, server6, 1).end, kernelEnd(w)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, ends := range [][2]end{{them, us}, {us, them}} {
		client, server := ends[0], ends[1]
		cert, pool := transporttest.Certificate(t, server.addr)
		sc, err := server.ListenPacket(ctx, "udp", server.addr+":4433")
		if err != nil {
			t.Fatal(err)
		}
		defer sc.Close()
		quicServer(t, ctx, sc, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"np-echo"}})
		cc, err := client.ListenPacket(ctx, "udp", client.addr+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		conn, err := quic.Dial(ctx, cc, sc.LocalAddr(), &tls.Config{RootCAs: pool, ServerName: server.addr, NextProtos: []string{"np-echo"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 5)
		for i := range cap(done) {
			go func() { done <- quicEcho(ctx, conn, pattern(i*500_000)) }()
		}
		for range cap(done) {
			if err := <-done; err != nil {
				t.Errorf("served by %s: %v", server.addr, err)
			}
		}
		if err := conn.CloseWithError(0, ""); err != nil {
			t.Error(err)
		}
	}
}
