//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/npro"
)

// Byte streams through npd's ECHO handler: more than the window, several at a
// time, and one whose client leaves in the middle.
func TestByteStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	free := w.status().BuffersFree
	c := w.mustConnect(client.Config{})
	data := make([]byte, 3<<20)
	_, _ = rand.Read(data)
	done := make(chan error, 4)
	for range cap(done) {
		go func() { done <- echoStream(c, data) }()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	s, err := c.OpenStream(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(data[:100_000]); err != nil {
		t.Error(err)
	}
	_ = s.Close()
	if err := echoStream(c, data[:1000]); err != nil {
		t.Errorf("after a stream that was left: %v", err)
	}
	_ = c.Close(context.Background())
	w.restful(free)
}

func echoStream(c *client.Client, data []byte) error {
	s, err := c.OpenStream(context.Background(), 0)
	if err != nil {
		return err
	}
	s.SetReadDeadline(time.Now().Add(time.Minute))
	s.SetWriteDeadline(time.Now().Add(30 * time.Second))
	sent := make(chan error, 1)
	go func() {
		_, err := s.Write(data)
		sent <- errors.Join(err, s.CloseWrite())
	}()
	got, err := io.ReadAll(s)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if !bytes.Equal(got, data) {
		return errors.New("stream came back altered")
	}
	return nil
}

// Both compressions, both ways, through the core's ECHO and through Go, with
// text that shrinks and bytes that do not.
func TestCompression(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noNpd: true})
	w.env = append(w.env, "NP_TRANSPORT_COMPRESSION_ENABLED=true")
	w.start()
	w.ready()
	noise := make([]byte, 200_000)
	_, _ = rand.Read(noise)
	text := bytes.Repeat([]byte("the same words over and over, "), 5_000)
	for _, with := range []uint8{npro.CompressionLZ4, npro.CompressionZstd} {
		c := w.mustConnect(client.Config{Compressions: []uint8{with}})
		for _, msg := range [][]byte{text[:100], text[:1000], text[:50_000], text, noise[:1000], noise} {
			if got, err := c.Request(context.Background(), "ECHO", msg); err != nil || !bytes.Equal(got, msg) {
				t.Errorf("compression %d: ECHO of %d bytes: %d back, %v", with, len(msg), len(got), err)
			}
		}
		if _, err := c.Request(context.Background(), "DISCARD", text); err != nil {
			t.Errorf("compression %d: DISCARD: %v", with, err)
		}
		if err := echoStream(c, text); err != nil {
			t.Errorf("compression %d: stream: %v", with, err)
		}
		conns := query[api.Conns](w, "conn", "list")
		want := map[uint8]string{npro.CompressionLZ4: "lz4", npro.CompressionZstd: "zstd"}[with]
		if !slices.ContainsFunc(conns.Connections, func(c api.Conn) bool { return c.Compression == want }) {
			t.Errorf("no connection shows %s", want)
		}
	}
}
