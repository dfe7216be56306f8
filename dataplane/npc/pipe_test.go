//go:build cgo

package npc

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/np-appliance/np/dataplane"
)

// echoer sends back what pipes bring, with a budget per connection as a writer has.
type echoer struct {
	t      *testing.T
	mu     sync.Mutex
	unsent map[dataplane.Handle]int
	eof    map[dataplane.Handle]bool
	ended  map[dataplane.Handle]dataplane.Code
	opened []dataplane.Event
	got    map[dataplane.Handle][]byte // of connections that are not echoed
	keep   bool
}

func newEchoer(t *testing.T) *echoer {
	return &echoer{t: t, unsent: map[dataplane.Handle]int{}, eof: map[dataplane.Handle]bool{},
		ended: map[dataplane.Handle]dataplane.Code{}, got: map[dataplane.Handle][]byte{}}
}

func (r *rig) take(e *echoer) {
	f := e.handle
	r.onEvent.Store(&f)
}

// write waits for room as a writer would; the core gives it back without our doing.
func (e *echoer) write(c dataplane.Core, ev *dataplane.Event) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Microsecond) {
		err := c.Write(ev.Conn, ev.Body)
		if !errors.Is(err, dataplane.CodeFull) || time.Now().After(end) {
			return err
		}
		c.Flush()
	}
}

// handle is the reader's side of one event.
func (e *echoer) handle(c dataplane.Core, ev *dataplane.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch ev.Op {
	case dataplane.EventOpen:
		e.opened = append(e.opened, *ev)
	case dataplane.EventData:
		n := uint32(ev.Len())
		if e.keep {
			e.got[ev.Conn] = append(e.got[ev.Conn], bytes.Join(ev.Body, nil)...)
		} else if err := e.write(c, ev); err != nil && !errors.Is(err, dataplane.CodeStale) {
			e.t.Errorf("write of %d bytes: %v", n, err)
		} else {
			e.unsent[ev.Conn] += int(n)
		}
		if err := c.Credit(ev.Conn, 0, n); err != nil && !errors.Is(err, dataplane.CodeStale) {
			e.t.Error("credit:", err)
		}
	case dataplane.EventEOF:
		e.eof[ev.Conn] = true
		if err := c.CloseWrite(ev.Conn); err != nil && !errors.Is(err, dataplane.CodeStale) {
			e.t.Error("close write:", err)
		}
	case dataplane.EventSent:
		if ev.Err != dataplane.CodeOK {
			e.t.Error("not sent:", ev.Err)
		}
		e.unsent[ev.Conn] -= int(ev.Bytes)
	case dataplane.EventClosed:
		e.ended[ev.Conn] = ev.Err
	}
}

func (e *echoer) wait(what string, cond func() bool) {
	e.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		e.mu.Lock()
		ok := cond()
		e.mu.Unlock()
		if ok {
			return
		}
	}
	e.t.Error("not in time:", what)
}

func TestVethPipe(t *testing.T) {
	for _, cores := range []int{1, 2} {
		inNamespace(t, cores, func(r *rig) {
			e := newEchoer(t)
			r.take(e)
			r.add()
			r.listen("0.0.0.0:7", dataplane.SessionPipe)
			r.listen("[2001:db8::1]:7", dataplane.SessionPipe)
			var wg sync.WaitGroup
			for range 4 {
				c := r.dial("198.18.0.1:7") // in this goroutine, whose thread is in the namespace
				wg.Go(func() { r.pipeEcho(c.(*net.TCPConn), 400_000) })
			}
			c := r.dial("[2001:db8::1]:7")
			wg.Go(func() { r.pipeEcho(c.(*net.TCPConn), 400_000) })
			wg.Wait()
			e.wait("five ends", func() bool { return len(e.ended) == 5 })
			for h, err := range e.ended {
				if err != dataplane.CodeEOF || !e.eof[h] || e.unsent[h] != 0 {
					t.Errorf("%x ended with %v, end seen %v, %d bytes not told as sent", h, err, e.eof[h], e.unsent[h])
				}
			}
			if len(e.opened) != 5 || e.opened[0].Kind != dataplane.SessionPipe || !e.opened[0].Incoming || e.opened[0].Stream < 1000 {
				t.Errorf("opened %+v", e.opened)
			}
		})
	}
}

// pipeEcho writes bytes, half-closes and reads them back to the end.
func (r *rig) pipeEcho(c *net.TCPConn, size int) {
	defer c.Close()
	data := make([]byte, size)
	rand.Read(data)
	var wg sync.WaitGroup
	wg.Go(func() {
		for at := 0; at < size; at += 10_000 {
			if _, err := c.Write(data[at:min(at+10_000, size)]); err != nil {
				r.t.Error(err)
				return
			}
		}
		if err := c.CloseWrite(); err != nil {
			r.t.Error(err)
		}
	})
	back, err := io.ReadAll(c)
	wg.Wait()
	if err != nil || sha256.Sum256(back) != sha256.Sum256(data) {
		r.t.Errorf("%s: %d of %d bytes came back, error %v", c.RemoteAddr(), len(back), size, err)
	}
}

func TestVethConnect(t *testing.T) {
	for _, cores := range []int{1, 2, 3} {
		inNamespace(t, cores, func(r *rig) {
			e := newEchoer(t)
			e.keep = true
			r.take(e)
			r.add()
			for _, addr := range []string{"198.18.0.2:0", "[2001:db8::2]:0"} {
				l, err := net.Listen("tcp", addr)
				r.must(err)
				to := netip.MustParseAddrPort(l.Addr().String())
				for i := range 2 * cores {
					r.connectOne(e, l, to, i)
				}
				r.must(l.Close())
				// Nobody listens any more.
				h, err := r.p.Connect(t.Context(), &dataplane.ConnectConfig{Remote: to, Kind: dataplane.SessionPipe, Core: -1})
				r.must(err)
				e.wait("refusal", func() bool { return e.ended[h] == dataplane.CodeRefused })
			}
			for _, bad := range []dataplane.ConnectConfig{
				{Core: -1, Kind: dataplane.SessionPipe},
				{Remote: netip.MustParseAddrPort("198.18.0.2:7"), Kind: dataplane.SessionPipe, Core: cores},
				{Remote: netip.MustParseAddrPort("198.18.0.2:7"), Kind: dataplane.SessionNone, Core: -1},
				{Remote: netip.MustParseAddrPort("198.19.0.2:7"), Kind: dataplane.SessionPipe, Core: -1}, // no route
			} {
				if _, err := r.p.Connect(t.Context(), &bad); err == nil {
					t.Errorf("%+v was taken", bad)
				}
			}
			gone, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := r.p.Connect(gone, &dataplane.ConnectConfig{Remote: netip.MustParseAddrPort("198.18.0.2:7"), Kind: dataplane.SessionPipe, Core: -1}); !errors.Is(err, context.Canceled) {
				t.Error("with a context that ended:", err)
			}
		})
	}
}

// connectOne opens a connection to the kernel and sends bytes both ways.
func (r *rig) connectOne(e *echoer, l net.Listener, to netip.AddrPort, i int) {
	h, err := r.p.Connect(r.t.Context(), &dataplane.ConnectConfig{Remote: to, Kind: dataplane.SessionPipe, Core: -1})
	r.must(err)
	c, err := l.Accept()
	r.must(err)
	defer c.Close()
	r.must(c.SetDeadline(time.Now().Add(time.Minute)))
	e.wait("open", func() bool {
		for _, ev := range e.opened {
			if ev.Conn == h {
				return !ev.Incoming && ev.Remote == to && ev.Local.String() == c.RemoteAddr().String()
			}
		}
		return false
	})
	core := r.p.Cores()[h.Core()]
	data := make([]byte, 50_000+i)
	rand.Read(data)
	r.must(core.Write(h, [][]byte{data[:20_000], data[20_000:]}))
	r.must(core.CloseWrite(h))
	core.Flush()
	back, err := io.ReadAll(c)
	r.must(err)
	if !bytes.Equal(back, data) {
		r.t.Errorf("%d of %d bytes", len(back), len(data))
	}
	_, err = c.Write(data)
	r.must(err)
	r.must(c.Close())
	e.wait("the end", func() bool { return e.ended[h] == dataplane.CodeEOF })
	if !bytes.Equal(e.got[h], data) {
		r.t.Errorf("%d of %d bytes came", len(e.got[h]), len(data))
	}
	if err := core.Write(h, [][]byte{data}); !errors.Is(err, dataplane.CodeStale) {
		r.t.Error("write after the end:", err)
	}
}

func TestVethUDP(t *testing.T) {
	for _, cores := range []int{1, 2} {
		inNamespace(t, cores, func(r *rig) {
			u := &udpEchoer{t: t}
			f := u.handle
			r.onEvent.Store(&f)
			r.add()
			for _, local := range []string{"[::]:0", "0.0.0.0:0", "198.18.0.1:0", "[2001:db8::1]:0", "[::]:5353"} {
				r.udpSocket(u, netip.MustParseAddrPort(local))
			}
			r.badBinds()
		})
	}
}

// udpEchoer answers each datagram from where it was sent to.
type udpEchoer struct {
	t      *testing.T
	mu     sync.Mutex
	socket map[dataplane.Handle]bool
}

func (u *udpEchoer) handle(c dataplane.Core, ev *dataplane.Event) {
	if ev.Op != dataplane.EventDatagram {
		u.t.Errorf("%+v", ev)
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.socket[ev.Conn] {
		u.t.Errorf("a datagram for socket %x", ev.Conn)
	}
	if err := c.SendTo(ev.Conn, ev.Local.Addr(), ev.Remote, ev.Body); err != nil {
		u.t.Error("send:", err)
	}
}

func (r *rig) udpSocket(u *udpEchoer, local netip.AddrPort) {
	r.t.Helper()
	handles, bound, err := r.p.BindUDP(r.t.Context(), local, 10)
	r.must(err)
	if len(handles) != len(r.p.cores) || bound.Port() == 0 || bound.Addr() != local.Addr() {
		r.t.Errorf("bound %v, %x", bound, handles)
	}
	u.mu.Lock()
	u.socket = map[dataplane.Handle]bool{}
	for _, h := range handles {
		u.socket[h] = true
	}
	u.mu.Unlock()
	for _, our := range []string{"198.18.0.1", "2001:db8::1"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(our), bound.Port())
		a := local.Addr()
		serves := a == to.Addr() || a == netip.IPv6Unspecified() || a == netip.IPv4Unspecified() && to.Addr().Is4()
		for _, size := range []int{0, 1, 1200, 1472, 1500, 9000, 60000} {
			r.udpOnce(to, size, serves)
			if !serves {
				break
			}
		}
	}
	if _, _, err := r.p.BindUDP(r.t.Context(), bound, 0); !errors.Is(err, dataplane.CodeAddrinuse) {
		r.t.Error("bound twice:", err)
	}
	r.must(r.p.CloseUDP(r.t.Context(), handles))
	if err := r.p.CloseUDP(r.t.Context(), handles); !errors.Is(err, dataplane.CodeStale) {
		r.t.Error("closed twice:", err)
	}
	for _, a := range []string{"198.18.0.1", "2001:db8::1"} {
		r.udpOnce(netip.AddrPortFrom(netip.MustParseAddr(a), bound.Port()), 10, false)
	}
}

// udpOnce sends a datagram of size bytes and expects it back, or a refusal.
func (r *rig) udpOnce(to netip.AddrPort, size int, answered bool) {
	r.t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	r.must(err)
	defer c.Close()
	r.must(c.SetDeadline(time.Now().Add(time.Minute)))
	data := make([]byte, size)
	rand.Read(data)
	_, err = c.Write(data)
	r.must(err)
	back := make([]byte, 65536)
	n, err := c.Read(back)
	switch {
	case !answered && !errors.Is(err, syscall.ECONNREFUSED):
		r.t.Errorf("%s, where nobody is bound: %d bytes, error %v", to, n, err)
	case answered && (err != nil || !bytes.Equal(back[:n], data)):
		r.t.Errorf("%s: %d of %d bytes, error %v", to, n, size, err)
		r.explain()
	}
}

func (r *rig) badBinds() {
	r.t.Helper()
	for _, c := range []struct {
		local string
		dscp  int
		want  dataplane.Code
	}{
		{"198.18.0.9:1000", 0, dataplane.CodeAddrnotavail},
		{"[2001:db8::9]:1000", 0, dataplane.CodeAddrnotavail},
		{"198.18.0.1:1000", 64, dataplane.CodeInvalid},
	} {
		if _, _, err := r.p.BindUDP(r.t.Context(), netip.MustParseAddrPort(c.local), c.dscp); !errors.Is(err, c.want) {
			r.t.Errorf("%s: %v, want %v", c.local, err, c.want)
		}
	}
	core := r.p.cores[0]
	if err := core.SendTo(0, netip.Addr{}, netip.MustParseAddrPort("198.18.0.2:9"), nil); !errors.Is(err, dataplane.CodeStale) {
		r.t.Error(err)
	}
	if err := core.SendTo(1<<32, netip.Addr{}, netip.MustParseAddrPort("198.18.0.2:0"), nil); !errors.Is(err, dataplane.CodeInvalid) {
		r.t.Error(err)
	}
	if err := core.SendTo(1<<32, netip.Addr{}, netip.MustParseAddrPort("198.18.0.2:9"), [][]byte{make([]byte, 70000)}); !errors.Is(err, dataplane.CodeInvalid) {
		r.t.Error(err)
	}
}
