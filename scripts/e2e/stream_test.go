//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/client"
)

// Byte streams through npd's ECHO handler: more than the window, several at a
// time, and one whose client leaves in the middle.
func TestByteStreams(t *testing.T) {
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
	s.SetReadDeadline(time.Now().Add(30 * time.Second))
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
