package transporttest

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/np-appliance/np/dataplane"
)

// Backend is one line of a table of transports to test.
type Backend struct {
	Name           string
	Client, Server dataplane.Transport
	Network        string // of streams: "tcp", "unix"
	// Listen is where Server listens, with port 0 if it chooses. Where to dial is
	// what the listener says, or Target of it.
	Listen string
	Target func(net.Addr) string

	Packet       string // of datagrams: "udp"; "" there are none
	PacketListen string // Server's
	PacketClient string // Client's; "": PacketListen
	PacketMax    int    // bytes of the largest datagram tried; 0: 1,400

	Refused string // an address that refuses streams; "": not tried
	Void    string // an address where nothing answers; "": not tried

	// BufferMax bounds the bytes that one direction holds when its reader has stopped.
	BufferMax int
	// NoReset: the peer of an aborted connection may read io.EOF (Unix sockets).
	NoReset bool
	// Vanish makes the peer of the client's connections fall silent until the
	// function it returns is called. nil: not tried.
	Vanish func(t *testing.T) (back func())
	// Held counts what the data plane has lent out and not got back. nil: nothing.
	Held func() int
}

// Options choose what is run; the zero value is all of it, small.
type Options struct {
	Bytes   int64         // of the bulk test; 0: NP_TRANSPORT_BYTES, else 8 MiB
	Conns   int           // of the test with many; 0: NP_TRANSPORT_CONNS, else 1,000
	NoTLS   bool          // not under TLS
	NoPlain bool          // only under TLS
	Settle  time.Duration // for buffers and goroutines to come back; 0: a minute
	Only    []string      // the tests of these names and no others; nil: all
}

// Wrapper puts a layer on a connection, or returns it as it is.
type Wrapper func(c net.Conn, server bool) net.Conn

// patience is how long something may take that takes no time when all is well.
const patience = 20 * time.Second

func fromEnv(name string, otherwise int64) int64 {
	if n, err := strconv.ParseInt(os.Getenv(name), 10, 64); err == nil && n > 0 {
		return n
	}
	return otherwise
}

// Run runs the suite against one backend.
func Run(t *testing.T, b Backend, o Options) {
	if o.Bytes == 0 {
		o.Bytes = fromEnv("NP_TRANSPORT_BYTES", 8<<20)
	}
	if o.Conns == 0 {
		o.Conns = int(fromEnv("NP_TRANSPORT_CONNS", 1000))
	}
	if o.Settle == 0 {
		o.Settle = time.Minute
	}
	t.Run(b.Name, func(t *testing.T) {
		// What a transport makes once it has made with the first connection.
		c, sv := (&suite{b: &b, o: &o}).pair(t)
		ping(t, c, sv)
		both(t, c.Close, sv.Close)
		if !o.NoPlain {
			t.Run("plain", func(t *testing.T) {
				s := &suite{b: &b, o: &o}
				if o.wants("nettest") {
					t.Run("nettest", s.nettest)
				}
				s.run(t)
				if o.wants("datagrams") {
					s.datagrams(t)
				}
			})
		}
		if !o.NoTLS {
			t.Run("tls", func(t *testing.T) { (&suite{b: &b, o: &o, wrap: TLS(t)}).run(t) })
		}
	})
}

// suite is one pass over one backend.
type suite struct {
	b    *Backend
	o    *Options
	wrap Wrapper // nil: as they are
}

func (s *suite) run(t *testing.T) {
	for _, c := range []struct {
		name  string
		f     func(*testing.T)
		below bool // is of the transport alone, whatever is on top
	}{
		{"order", s.order, false}, {"bulk", s.bulk, false}, {"deadlines", s.deadlines, false}, {"half-close", s.halfClose, false},
		{"abort", s.abort, false}, {"close-unread", s.closeUnread, false}, {"linger", s.linger, false}, {"backpressure", s.backpressure, false},
		{"buffers", s.buffers, true}, {"many", s.many, false}, {"close-under-load", s.closeUnderLoad, false}, {"listener", s.listener, false},
		{"refused", s.refused, true}, {"void", s.void, true}, {"vanished", s.vanished, false}, {"settings", s.settings, false}, {"networks", s.networks, true},
	} {
		if s.o.wants(c.name) && !(c.below && s.wrap != nil) {
			t.Run(c.name, func(t *testing.T) { s.clean(t, func() { c.f(t) }) })
		}
	}
}

func (o *Options) wants(name string) bool { return o.Only == nil || slices.Contains(o.Only, name) }

// clean runs f and checks that it leaves nothing behind.
func (s *suite) clean(t *testing.T, f func()) {
	t.Helper()
	held, routines := s.held(), runtime.NumGoroutine()
	f()
	end := time.Now().Add(s.o.Settle)
	for s.held() > held || runtime.NumGoroutine() > routines {
		if time.Now().After(end) {
			buf := make([]byte, 64<<10)
			t.Errorf("left behind: %d held, %d before; %d goroutines, %d before\n%s", s.held(), held, runtime.NumGoroutine(), routines,
				buf[:runtime.Stack(buf, true)])
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *suite) held() int {
	if s.b.Held == nil {
		return 0
	}
	return s.b.Held()
}

// nettest is x/net's own suite. Not under TLS: crypto/tls ends a connection whose write
// timed out, which it does not expect.
func (s *suite) nettest(t *testing.T) {
	s.clean(t, func() {
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			a, b := s.pair(t)
			return a, b, func() { _, _ = a.Close(), b.Close() }, nil
		})
	})
}

// end is one end of a connection: what a protocol sees, and what is below.
type end struct {
	net.Conn
	raw dataplane.StreamConn
}

// closeWrite half-closes the layer that a protocol sees.
func (e *end) closeWrite() error {
	return e.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

func (s *suite) end(t *testing.T, c net.Conn, server bool) *end {
	t.Helper()
	raw, ok := c.(dataplane.StreamConn)
	if !ok {
		t.Fatalf("%T is no StreamConn", c)
	}
	e := &end{Conn: c, raw: raw}
	if s.wrap != nil {
		e.Conn = s.wrap(c, server)
	}
	return e
}

func (s *suite) listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := s.b.Server.Listen(t.Context(), s.b.Network, s.b.Listen)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// target is where to dial for a listener.
func (s *suite) target(l net.Listener) string {
	if s.b.Target != nil {
		return s.b.Target(l.Addr())
	}
	return l.Addr().String()
}

func (s *suite) dial(t *testing.T, address string) (*end, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := s.b.Client.Dial(ctx, s.b.Network, address)
	if err != nil {
		return nil, err
	}
	return s.end(t, c, false), nil
}

// pair makes a connection: the client's end and the server's. TLS has shaken hands.
func (s *suite) pair(t *testing.T) (c, sv *end) {
	t.Helper()
	l := s.listen(t)
	defer l.Close()
	return s.pairOn(t, l)
}

func (s *suite) pairOn(t *testing.T, l net.Listener) (c, sv *end) {
	t.Helper()
	type accepted struct {
		c   net.Conn
		err error
	}
	ch := make(chan accepted, 1)
	go func() {
		c, err := l.Accept()
		ch <- accepted{c, err}
	}()
	c, err := s.dial(t, s.target(l))
	if err != nil {
		l.Close()
		<-ch
		t.Fatal(err)
	}
	select {
	case a := <-ch:
		if a.err != nil {
			t.Fatal(a.err)
		}
		sv = s.end(t, a.c, true)
	case <-time.After(patience):
		l.Close()
		t.Fatal("dialled, and nothing to accept")
	}
	if s.wrap != nil {
		both(t, func() error { return shake(c) }, func() error { return shake(sv) })
	}
	return c, sv
}

// shake does the layer's handshake, if it has one.
func shake(e *end) error {
	h, ok := e.Conn.(interface{ HandshakeContext(context.Context) error })
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return h.HandshakeContext(ctx)
}

// both runs functions at the same time and reports their errors.
func both(t *testing.T, fs ...func() error) {
	t.Helper()
	errs := make([]error, len(fs))
	var wg sync.WaitGroup
	for i, f := range fs {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// settings checks what a connection says of itself and lets itself be told.
func (s *suite) settings(t *testing.T) {
	c, sv := s.pair(t)
	defer c.Close()
	defer sv.Close()
	if a, b := c.LocalAddr().String(), sv.RemoteAddr().String(); a != b && s.b.Network != "unix" {
		t.Errorf("the client is %s here and %s there", a, b)
	}
	if a, b := c.RemoteAddr().String(), sv.LocalAddr().String(); a != b {
		t.Errorf("the server is %s there and %s here", a, b)
	}
	for _, e := range []*end{c, sv} {
		if n := e.raw.LocalAddr().Network(); !strings.HasPrefix(s.b.Network, n) {
			t.Errorf("network %s of a %s connection", n, s.b.Network)
		}
		if p := e.raw.Properties(); p.Backend == "" || p.ReadBuffer <= 0 || p.WriteBuffer <= 0 || p.Latency == dataplane.LatencyUnknown {
			t.Errorf("properties %+v", p)
		}
		for what, err := range map[string]error{
			"keep-alive on": e.raw.SetKeepAlive(true), "keep-alive period": e.raw.SetKeepAlivePeriod(30 * time.Second), "no delay": e.raw.SetNoDelay(true),
			"keep-alive off": e.raw.SetKeepAlive(false)} {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	ping(t, c, sv)
}

// networks: an unknown one is an error that says what there is.
func (s *suite) networks(t *testing.T) {
	for _, tr := range []dataplane.Transport{s.b.Client, s.b.Server} {
		_, e1 := tr.Dial(t.Context(), "carrier-pigeon", s.b.Listen)
		_, e2 := tr.Listen(t.Context(), "carrier-pigeon", s.b.Listen)
		_, e3 := tr.ListenPacket(t.Context(), "carrier-pigeon", s.b.Listen)
		for i, err := range []error{e1, e2, e3} {
			var op *net.OpError
			var unknown net.UnknownNetworkError
			if !errors.As(err, &op) || !errors.As(err, &unknown) || i < 2 && !strings.Contains(err.Error(), s.b.Network) {
				t.Errorf("unknown network: %v", err)
			}
		}
		if p := tr.Properties(); p.Backend == "" || len(p.Networks) == 0 {
			t.Errorf("properties %+v", p)
		}
	}
}
