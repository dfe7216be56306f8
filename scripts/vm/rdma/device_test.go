//go:build vm && cgo

package rdma

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// echoes sends six bytes from c to s.
func echoes(c, s net.Conn) error {
	if _, err := c.Write([]byte("there?")); err != nil {
		return err
	}
	_ = s.SetReadDeadline(time.Now().Add(30 * time.Second))
	_, err := io.ReadFull(s, make([]byte, 6))
	return err
}

// A wire that goes dead without a word ends its connections in time, and when it is back new ones are made. (A port
// that is down will not do: what this kernel's soft-RoCE sends by it kills its own connection manager's queue pair.)
func TestDeadWire(t *testing.T) {
	client, server := newEnd(t, with{conns: 16, source: clientAddr, transport: true}), newEnd(t, with{conns: 16, transport: true})
	held := client.held() + server.held()
	c, s := pair(t, client, server)
	if err := echoes(c, s); err != nil {
		t.Fatal(err)
	}
	netem(t, "loss", "100%")
	began := time.Now()
	_, _ = c.Write(make([]byte, 8192))
	for _, x := range []net.Conn{c, s} { // the writer by its device, the idle reader by the keep-alive
		_ = x.SetReadDeadline(time.Now().Add(60 * time.Second))
		if _, err := x.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("a dead wire: %v", err)
		}
		t.Logf("noticed after %s", time.Since(began))
		x.Close()
	}
	netem(t)
	c, s = pair(t, client, server)
	if err := echoes(c, s); err != nil {
		t.Error(err)
	}
	c.Close()
	s.Close()
	for end := time.Now().Add(30 * time.Second); client.held()+server.held() > held; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d held, %d before", client.held()+server.held(), held)
		}
	}
}
