//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dialEcho connects by a transport of ours and echoes n bytes.
func (e *planeEnd) dialEcho(n int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := e.Transport.Dial(ctx, "tcp", addr4(7))
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if err := echo(c, n); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// TestMemif: npd and another process's stack over a memif. npd is killed in the middle of
// traffic: the other process stays, sees its link go down, and speaks to the next npd.
func TestMemif(t *testing.T) {
	w := newWorld(t, options{noNpd: true})
	socket := w.path("memif.sock")
	w.write("np.toml", strings.Replace(w.must(w.in("s", w.bin+"/npd", "config", "example")), `name = "np0"`,
		fmt.Sprintf("name = \"mem0\"\nbackend = \"dpdk\"\ndevice = \"net_memif0,role=server,socket-abstract=no,socket=%s\"", socket), 1))
	us := dpdkEnd(t, w, "net_memif0,role=client,socket-abstract=no,socket="+socket, 1, "198.18.0.3", "2001:db8::3")
	for life := range 2 {
		w.start()
		w.ready()
		us.linked(t)
		w.backendIs("mem0", "dpdk", "dpdk")
		c, err := us.dialEcho(8 << 20)
		if err != nil {
			t.Fatalf("life %d: %v", life, err)
		}
		w.must(w.in("s", w.bin+"/npctl", "-s", w.path("np.sock"), "interface", "list"))
		broken := make(chan error, 1)
		go func() { broken <- echo(c, 1<<30) }()
		time.Sleep(300 * time.Millisecond)
		_ = w.npd.Process.Signal(syscall.SIGKILL)
		<-w.exited
		w.npd = nil
		w.eventually(time.Minute, "the link goes down", func() error {
			if q := us.plane.QueueStats(0); !q[0].Down {
				return fmt.Errorf("%+v", q)
			}
			return nil
		})
		_ = c.Close()
		<-broken
	}
	w.start()
	w.ready()
	us.linked(t)
	c, err := us.dialEcho(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}
