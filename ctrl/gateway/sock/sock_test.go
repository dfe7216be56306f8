package sock

import (
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// lent counts the buffers that are lent.
type lent struct{ n atomic.Int32 }

func (l *lent) Get() []byte { l.n.Add(1); return make([]byte, 64) }
func (l *lent) Put([]byte)  { l.n.Add(-1) }

// pair is a connection of the kernel's and its other end; plain hides the descriptor.
func pair(t *testing.T, plain bool) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if far, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	if plain {
		near = struct{ net.Conn }{near}
	}
	return near, far
}

// TestRead: what comes is read, and nothing is lent while nothing comes.
func TestRead(t *testing.T) {
	for _, plain := range []bool{false, true} {
		near, far := pair(t, plain)
		var l lent
		r := New(near)
		type result struct {
			b   []byte
			n   int
			err error
		}
		got := make(chan result)
		read := func() {
			b, n, err := r.Read(&l)
			got <- result{b, n, err}
		}
		go read()
		_, _ = io.WriteString(far, "hello")
		one := <-got
		if text := string(one.b[:one.n]); one.err != nil || !plain && text != "hello" || plain && text != "h" || l.n.Load() != 1 {
			t.Errorf("%q, %v, %d lent", text, one.err, l.n.Load())
		}
		l.Put(one.b)
		if plain {
			_, _ = io.ReadFull(near, make([]byte, 4))
		}
		go read()
		_ = near.SetReadDeadline(time.Now().Add(-time.Second))
		if one = <-got; one.n != 0 || one.b != nil || one.err == nil || l.n.Load() != 0 {
			t.Errorf("%+v, %d lent", one, l.n.Load())
		}
		_ = near.SetReadDeadline(time.Time{})
		far.Close()
		go read()
		if one = <-got; one.n != 0 || one.b != nil || one.err != io.EOF || l.n.Load() != 0 {
			t.Errorf("%+v, %d lent", one, l.n.Load())
		}
	}
}

// TestAsk: what is sent is answered, unless the connection has ended or something is there
// that nobody asked for.
func TestAsk(t *testing.T) {
	near, far := pair(t, false)
	var l lent
	r := New(near)
	if !r.CanAsk() || New(struct{ net.Conn }{near}).CanAsk() {
		t.Fatal("CanAsk")
	}
	go func() {
		var b [4]byte
		for {
			if _, err := io.ReadFull(far, b[:]); err != nil {
				return
			}
			_, _ = far.Write(b[:])
		}
	}()
	send := func() { _, _ = io.WriteString(near, "ping") }
	for range 100 {
		b, n, well, err := r.Ask(&l, send)
		if string(b[:n]) != "ping" || !well || err != nil {
			t.Fatalf("%q, %v, %v", b[:n], well, err)
		}
		l.Put(b)
		if well, known := r.Look(); !well || !known {
			t.Fatal(well, known)
		}
	}
	if l.n.Load() != 0 {
		t.Errorf("%d lent", l.n.Load())
	}
	for name, harm := range map[string]func(net.Conn){
		"unasked": func(far net.Conn) { _, _ = far.Write([]byte("x")) },
		"ended":   func(far net.Conn) { far.Close() },
	} {
		near, far := pair(t, false)
		r := New(near)
		harm(far)
		for well := true; well; { // it is on its way
			well, _ = r.Look()
		}
		_, n, well, err := r.Ask(&l, func() { t.Errorf("%s: sent", name) })
		if n != 0 || well || err != nil {
			t.Errorf("%s: %d, %v, %v", name, n, well, err)
		}
	}
}

// tells is a connection without a descriptor that says by itself whether it is idle.
type tells struct {
	net.Conn
	idle bool
}

func (c *tells) Idle() bool { return c.idle }

// over is what TLS is: a connection over another.
type over struct {
	net.Conn
	under net.Conn
}

func (c *over) NetConn() net.Conn { return c.under }

// TestLookBelow: what can be looked at is found below TLS, and it is no matter how it tells.
func TestLookBelow(t *testing.T) {
	near, far := pair(t, false)
	for name, c := range map[string]net.Conn{
		"tells": &tells{near, true}, "tells, below": tls.Client(&tells{near, true}, &tls.Config{}),
		"descriptor": near, "descriptor, below": tls.Client(near, &tls.Config{}),
	} {
		if well, known := New(c).Look(); !well || !known {
			t.Errorf("%s: %v, %v", name, well, known)
		}
	}
	if well, known := New(tls.Client(&tells{near, false}, &tls.Config{})).Look(); well || !known {
		t.Errorf("not idle, below: %v, %v", well, known)
	}
	endless := &over{Conn: near}
	endless.under = endless
	for name, c := range map[string]net.Conn{"neither": struct{ net.Conn }{near}, "nothing": &over{Conn: near}, "endless": endless} {
		if _, known := New(c).Look(); known {
			t.Errorf("%s: is known", name)
		}
	}
	far.Close()
	below := New(tls.Client(near, &tls.Config{}))
	for well := true; well; { // its end is on its way
		well, _ = below.Look()
	}
}
