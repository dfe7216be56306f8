//go:build cgo

package npc

import (
	"context"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/events"
	"github.com/np-appliance/np/dataplane/netconn"
)

// TestVethSlowPeers has peers that do not read, each with a writer that goes on as
// long as it may: what they hold is bounded, and others are served meanwhile.
func TestVethSlowPeers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces and AF_XDP")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends, and the namespace with it
		r := &rig{t: t}
		r.must(unix.Unshare(unix.CLONE_NEWNET))
		r.pair()
		cfg := small(1)
		cfg.BuffersPerCore, cfg.LoansPerCore = 4096, 512 // half of them posted for receiving
		p, err := New(cfg)
		r.must(err)
		r.p = p.(*Plane)
		rd := events.New(p)
		tr, err := netconn.New(p, rd, netconn.Options{Cookies: true})
		r.must(err)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer p.Close()
		defer func() { r.prog.Close() }()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		wg.Go(func() { _ = rd.Run(ctx) })
		r.add()
		r.slowPeers(tr, &wg)
	}()
	<-done
}

func (r *rig) slowPeers(tr *netconn.Transport, wg *sync.WaitGroup) {
	source := r.serve(tr, wg, "198.18.0.1:1000", func(c net.Conn) {
		buf := make([]byte, 64<<10)
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	})
	defer source.Close()
	echo := r.serve(tr, wg, "198.18.0.1:1001", func(c net.Conn) { _, _ = io.Copy(c, c) })
	defer echo.Close()
	const peers = 60
	var conns [peers]net.Conn
	for i := range conns {
		d := net.Dialer{Timeout: 10 * time.Second, Control: smallWindow}
		c, err := d.DialContext(r.t.Context(), "tcp", "198.18.0.1:1000")
		r.must(err)
		defer c.Close()
		conns[i] = c
	}
	counter := func(c dataplane.Counter) uint64 { n := r.p.Counters(0); return n.Counter[c] }
	for end := time.Now().Add(time.Minute); counter(dataplane.CounterPipeShare) == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond) // as far as they get
	if n, share := counter(dataplane.CounterPipeQueued), counter(dataplane.CounterPipeShare); share == 0 || n > 1400 {
		r.t.Errorf("%d of 4,096 buffers queued, share %d", n, share)
	}
	r.pipeEcho(r.dial("198.18.0.1:1001").(*net.TCPConn), 30_000) // slowly: windows are small while buffers are short
	for _, c := range conns {
		r.must(c.Close())
	}
	for end := time.Now().Add(time.Minute); counter(dataplane.CounterBufFree) != 4096 || counter(dataplane.CounterPipeQueued) != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Errorf("%d of 4,096 buffers are back, %d queued", counter(dataplane.CounterBufFree), counter(dataplane.CounterPipeQueued))
			return
		}
	}
}

// smallWindow keeps what the kernel takes for a peer that does not read small.
func smallWindow(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) }); e != nil {
		return e
	}
	return err
}

func (r *rig) serve(tr *netconn.Transport, wg *sync.WaitGroup, at string, f func(net.Conn)) net.Listener {
	l, err := tr.Listen(r.t.Context(), "tcp", at)
	r.must(err)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				f(c)
				c.Close()
			})
		}
	})
	return l
}
