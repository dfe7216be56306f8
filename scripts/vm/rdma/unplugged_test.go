//go:build vm && cgo

package rdma

import (
	"errors"
	"net"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// A device that is taken away ends its connections at once and takes its listener along. The last test: soft-RoCE
// waits with going until this program has ended, so that nothing can come back in it.
func TestUnplugged(t *testing.T) {
	client, server := newEnd(t, with{conns: 16, source: clientAddr, transport: true}), newEnd(t, with{conns: 16, transport: true})
	c, s := pair(t, client, server)
	l, err := server.tr.Listen(t.Context(), "rdma", serverAddr.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := echoes(c, s); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("rdma", "link", "del", "rxe1").Start(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, x := range []net.Conn{s, c} {
		_ = x.SetReadDeadline(time.Now().Add(60 * time.Second))
		if _, err := x.Read(make([]byte, 1)); !errors.Is(err, syscall.ENETDOWN) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a device that is gone: %v", err)
		}
		t.Logf("noticed after %s", time.Since(began))
	}
	for end := time.Now().Add(20 * time.Second); server.m.Stats().Listeners != 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%+v", server.m.Stats())
		}
	}
	if n := client.m.Stats(); n.Failed != 0 {
		t.Errorf("%+v", n)
	}
}
