package h2

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// stuck is a connection on which writing fails and closing takes its time, as with TLS and
// a client that takes nothing.
type stuck struct {
	script
	closing, free chan struct{}
}

func (s *stuck) Read([]byte) (int, error)  { <-s.closing; return 0, io.EOF }
func (s *stuck) Write([]byte) (int, error) { return 0, errors.New("broken") }

func (s *stuck) Close() error {
	select {
	case <-s.closing:
	default:
		close(s.closing)
	}
	<-s.free
	return nil
}

// TestSlowClose: nobody waits for a connection that takes long to close but who closes it.
func TestSlowClose(t *testing.T) {
	e, err := New(Config{
		Handler: http.NotFoundHandler(), HeadBytes: 1 << 10, Streams: 8, StreamBytes: 1 << 10, ConnBytes: minWindow, Head: time.Second,
		Now: func() int64 { return 1 },
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &stuck{closing: make(chan struct{}), free: make(chan struct{})}
	c := e.NewConn(context.Background(), s, nil)
	served := make(chan struct{})
	go func() {
		c.Serve()
		close(served)
	}()
	<-s.closing
	looked := make(chan struct{})
	go func() {
		c.Look()
		c.Shutdown()
		close(looked)
	}()
	select {
	case <-looked:
	case <-time.After(30 * time.Second):
		t.Error("Look waits for Close")
	}
	close(s.free)
	<-served
	<-looked
	e.End()
}

// TestBeforeServe: what is said to a connection before it is served comes after the
// settings (RFC 9113 §3.4), and time before its beginning does not count.
func TestBeforeServe(t *testing.T) {
	for name, do := range map[string]func(*Conn){"shutdown": (*Conn).Shutdown, "look": (*Conn).Look} {
		e, err := New(Config{
			Handler: http.NotFoundHandler(), HeadBytes: 1 << 10, Streams: 8, StreamBytes: 1 << 10, ConnBytes: minWindow, Head: time.Minute, Idle: time.Minute,
			Now: func() int64 { return 1_000_000 },
		})
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe()
		_ = near.SetDeadline(time.Now().Add(30 * time.Second))
		c := e.NewConn(context.Background(), far, nil)
		do(c)
		served := make(chan struct{})
		go func() {
			c.Serve()
			close(served)
		}()
		f := http2.NewFramer(near, near)
		go func() {
			_, _ = io.WriteString(near, http2.ClientPreface)
			_ = f.WriteSettings()
			_ = f.WritePing(false, [8]byte{1})
		}()
		first, told := "", false
		for {
			fr, err := f.ReadFrame()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if first == "" {
				first = fr.Header().Type.String()
			}
			told = told || fr.Header().Type == http2.FrameGoAway
			if p, ok := fr.(*http2.PingFrame); ok && p.IsAck() {
				break
			}
		}
		if first != "SETTINGS" || told != (name == "shutdown") {
			t.Errorf("%s: %s came first, GOAWAY %v", name, first, told)
		}
		near.Close()
		<-served
		e.End()
	}
}

// TestOthersTurn: an answer that waits because others are more urgent, or were asked for
// before, is not one whose client gives no window.
func TestOthersTurn(t *testing.T) {
	r := newRig(t, Config{SendStall: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 1<<20))
	})}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	r.ask(1, "GET", "/", "priority", "u=2")
	r.ask(3, "GET", "/", "priority", "u=3")
	r.until("both to wait", func(c *Conn) bool {
		return c.window == 0 && c.streams[1] != nil && c.streams[3] != nil && c.streams[1].place.In() && c.streams[3].place.In()
	})
	for range 12 { // of five seconds each
		r.pass(5 * time.Second)
		_ = r.WriteWindowUpdate(0, 64<<10)
		r.until("the window to be used", func(c *Conn) bool { return c.window == 0 && c.movedAt == r.now.Load() || c.streams[3] == nil })
	}
	if n := r.cut(CutAnswer); n != 0 {
		t.Errorf("%d answers cut that had the client's window", n)
	}
	r.pass(5 * time.Second)
	r.pass(9 * time.Second)
	r.pass(9 * time.Second)
	if n := r.cut(CutAnswer); n != 2 {
		t.Errorf("%d answers cut when the client gave no window any more", n)
	}
}

// TestManyHeads: each head has its own time, also where the reader never finds itself
// between two of them.
func TestManyHeads(t *testing.T) {
	r := newRig(t, Config{Head: 10 * time.Second})
	var wire struct{ net.Conn }
	wire.Conn = r.nc
	var b capture
	f := http2.NewFramer(&b, nil)
	var rest []byte
	for id := uint32(1); id < 12; id += 2 {
		b.b = nil
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: r.block(":method", "GET", ":scheme", "http", ":authority", "a.test", ":path", "/"), EndStream: true, EndHeaders: true})
		_, _ = wire.Write(append(rest, b.b[:frameHead+1]...))
		rest = append([]byte(nil), b.b[frameHead+1:]...)
		if id > 1 {
			if g := r.answer(id - 2); g.status() != "200" {
				t.Fatalf("stream %d: %+v", id-2, g)
			}
		}
		for r.c.headSince.Load() != r.now.Load() {
			time.Sleep(time.Millisecond)
			if r.cut(CutHead) != 0 {
				t.Fatal("cut")
			}
		}
		r.pass(6 * time.Second)
	}
	if r.cut(CutHead) != 0 {
		t.Error("a head was cut that took six seconds")
	}
	r.pass(6 * time.Second)
	if r.cut(CutHead) != 1 {
		t.Error("a head that takes twelve seconds is not cut")
	}
}

type capture struct{ b []byte }

func (c *capture) Write(p []byte) (int, error) {
	c.b = append(c.b, p...)
	return len(p), nil
}

// TestManyEarlyAnswers: what is still on its way of uploads that were answered early is no
// mistake of the client's, however many there are.
func TestManyEarlyAnswers(t *testing.T) {
	const many = 700
	r := newRig(t, Config{Streams: many, Resets: 5, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { w.WriteHeader(403) })})
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		for i := range uint32(many) {
			if r.tryAsk(2*i+1, "POST", "/") != nil {
				return
			}
		}
	}()
	for n := 0; n < many; {
		next := r.next()
		r.note(&got{}, 0, next) // for the table of fields
		if f, ok := next.(*http2.RSTStreamFrame); ok {
			if f.ErrCode != http2.ErrCodeNo {
				t.Fatalf("%v", f)
			}
			n++
		}
	}
	<-asked
	for i := range uint32(many) { // what the client sent before it knew
		_ = r.WriteData(2*i+1, true, []byte("x"))
	}
	r.ask(2*many+1, "GET", "/")
	if g := r.answer(2*many + 1); g.status() != "403" {
		t.Errorf("%+v", g)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.faults) != 0 {
		t.Errorf("%d faults, the first %q", len(r.faults), r.faults[0])
	}
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if len(r.c.own.ids) > r.e.ownResets() || len(r.c.own.set) != len(r.c.own.ids) {
		t.Errorf("%d and %d are remembered", len(r.c.own.ids), len(r.c.own.set))
	}
}

// TestRing: the last ones are remembered.
func TestRing(t *testing.T) {
	var r ring
	for id := uint32(1); id <= 1000; id++ {
		r.add(id, 256)
		r.add(id, 256)
	}
	for id := uint32(1); id <= 1000; id++ {
		if r.has(id) != (id > 744) {
			t.Fatalf("%d: %v", id, r.has(id))
		}
	}
}

// TestTail: a handler that goes on when its stream has ended both ways is told when the
// connection ends.
func TestTail(t *testing.T) {
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body)
		_ = w.(interface{ CloseWrite() error }).CloseWrite()
		<-q.Context().Done()
	})})
	r.ask(1, "POST", "/")
	_ = r.WriteData(1, true, []byte("x"))
	if g := r.answer(1); !g.ended {
		t.Errorf("%+v", g)
	}
	r.until("the stream's end", func(c *Conn) bool { return len(c.streams) == 0 && c.running == 1 })
	r.nc.Close()
	select {
	case <-r.done:
	case <-time.After(30 * time.Second):
		t.Fatal("the handler is not told")
	}
	if len(r.c.tails) != 0 {
		t.Error("it is still kept")
	}
}
