package h2

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rig is an engine and a connection of it, on a clock that only the test moves.
type rig struct {
	t    *testing.T
	e    *Engine
	c    *Conn
	now  atomic.Int64
	done chan struct{} // Serve has returned

	mu     sync.Mutex
	cuts   []Cut
	faults []string

	*http2.Framer
	nc  net.Conn
	enc *hpack.Encoder
	dec *hpack.Decoder
	buf bytes.Buffer
}

// newRig begins a connection. What the server sends first is taken. The zero of what has no
// default is replaced.
func newRig(t *testing.T, c Config, settings ...http2.Setting) *rig {
	t.Helper()
	r := &rig{t: t, done: make(chan struct{})}
	r.now.Store(1_000_000)
	if c.Handler == nil {
		c.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			_, _ = io.Copy(w, q.Body)
		})
	}
	for _, v := range []struct {
		to  *int
		def int
	}{{&c.HeadBytes, 8 << 10}, {&c.Streams, 20}, {&c.StreamBytes, 128 << 10}, {&c.ConnBytes, 256 << 10}, {&c.Resets, 100}, {&c.Control, 100}} {
		if *v.to == 0 {
			*v.to = v.def
		}
	}
	if c.Head == 0 {
		c.Head = 10 * time.Second
	}
	c.Now = r.now.Load
	c.Cut = func(why Cut) {
		r.mu.Lock()
		r.cuts = append(r.cuts, why)
		r.mu.Unlock()
	}
	c.Fault = func(word string) {
		r.mu.Lock()
		r.faults = append(r.faults, word)
		r.mu.Unlock()
	}
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	r.e = e
	r.connect()
	_, _ = io.WriteString(r.nc, http2.ClientPreface)
	if err := r.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	for acked := false; !acked; {
		s, ok := r.next().(*http2.SettingsFrame)
		acked = ok && s.IsAck()
	}
	if err := r.WriteSettingsAck(); err != nil {
		t.Fatal(err)
	}
	r.until("the acknowledgment", func(c *Conn) bool { return c.unsettled == 0 })
	return r
}

// connect is a connection over loopback: its buffers are the kernel's, so that a test can
// write without reading.
func (r *rig) connect() {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	r.nc = near
	_ = near.SetDeadline(time.Now().Add(30 * time.Second))
	r.Framer = http2.NewFramer(near, near)
	r.enc, r.dec = hpack.NewEncoder(&r.buf), hpack.NewDecoder(4096, nil)
	r.c = r.e.NewConn(context.Background(), far, nil)
	go func() {
		defer close(r.done)
		r.c.Serve()
	}()
	r.t.Cleanup(func() {
		near.Close()
		<-r.done
		r.e.End()
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		if len(r.c.streams) != 0 || r.c.running != 0 || r.c.flushing {
			r.t.Errorf("after the end: %d streams, %d handlers, flushing %v", len(r.c.streams), r.c.running, r.c.flushing)
		}
		for u := range r.c.ready.lists {
			if r.c.ready.lists[u][0].Len() > 0 || r.c.ready.lists[u][1].Len() > 0 {
				r.t.Error("streams in the scheduler after the end")
			}
		}
	})
}

func (r *rig) next() http2.Frame {
	r.t.Helper()
	f, err := r.ReadFrame()
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

func (r *rig) block(fields ...string) []byte {
	r.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = r.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return r.buf.Bytes()
}

// ask sends a request's head: GET without a body, or POST with one to come.
func (r *rig) ask(id uint32, method, path string, more ...string) {
	r.t.Helper()
	if err := r.tryAsk(id, method, path, more...); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) tryAsk(id uint32, method, path string, more ...string) error {
	fields := append([]string{":method", method, ":scheme", "http", ":authority", "a.test", ":path", path}, more...)
	return r.tryHead(id, method == "GET" || method == "HEAD", fields...)
}

func (r *rig) tryHead(id uint32, end bool, fields ...string) error {
	return r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: r.block(fields...), EndStream: end, EndHeaders: true})
}

func (r *rig) head(id uint32, end bool, fields ...string) {
	r.t.Helper()
	if err := r.tryHead(id, end, fields...); err != nil {
		r.t.Fatal(err)
	}
}

// got is what came of a stream.
type got struct {
	interim []string
	head    map[string][]string // with :status; names as they are sent
	body    string
	trailer map[string][]string
	ended   bool
	reset   bool
	code    http2.ErrCode
	goAway  *http2.ErrCode
}

// answer reads until a stream, or the connection, has ended.
func (r *rig) answer(id uint32) (g got) {
	r.t.Helper()
	for !g.ended && !g.reset {
		f, err := r.ReadFrame()
		if err != nil {
			if t, ok := err.(interface{ Timeout() bool }); ok && t.Timeout() {
				r.t.Fatal(err)
			}
			return g
		}
		r.note(&g, id, f)
	}
	return g
}

func (r *rig) note(g *got, id uint32, f http2.Frame) {
	r.t.Helper()
	if a, ok := f.(*http2.GoAwayFrame); ok {
		code := a.ErrCode
		g.goAway = &code
	}
	switch f := f.(type) {
	case *http2.HeadersFrame:
		list, err := r.dec.DecodeFull(f.HeaderBlockFragment())
		if err != nil {
			r.t.Fatal(err)
		}
		if f.StreamID != id {
			return
		}
		h := map[string][]string{}
		for _, v := range list {
			h[v.Name] = append(h[v.Name], v.Value)
		}
		switch s := h[":status"]; {
		case s == nil:
			g.trailer = h
		case s[0][0] == '1':
			g.interim = append(g.interim, s[0])
		default:
			g.head = h
		}
		g.ended = f.StreamEnded()
	case *http2.DataFrame:
		if f.StreamID == id {
			g.body += string(f.Data())
			g.ended = f.StreamEnded()
		}
	case *http2.RSTStreamFrame:
		if f.StreamID == id {
			g.reset, g.code = true, f.ErrCode
		}
	}
}

func (g *got) status() string {
	if g.head == nil {
		return ""
	}
	return g.head[":status"][0]
}

// over reads until the connection ends, and returns what GOAWAY said last; 255: nothing.
func (r *rig) over() http2.ErrCode {
	r.t.Helper()
	code := http2.ErrCode(255)
	for {
		f, err := r.ReadFrame()
		if err != nil {
			if t, ok := err.(interface{ Timeout() bool }); ok && t.Timeout() {
				r.t.Fatal("the connection stays open")
			}
			return code
		}
		if a, ok := f.(*http2.GoAwayFrame); ok {
			code = a.ErrCode
		}
	}
}

// pass moves the clock and has the connection look at it.
func (r *rig) pass(d time.Duration) {
	r.now.Add(d.Milliseconds())
	r.c.Look()
}

// until waits for a condition of the connection's.
func (r *rig) until(what string, ok func(*Conn) bool) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		r.c.mu.Lock()
		done := ok(r.c)
		r.c.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(deadline) {
			r.c.mu.Lock()
			defer r.c.mu.Unlock()
			r.t.Fatalf("waited for %s: %d streams, %d handlers, %d bytes to be sent, flushing %v, window %d, dead %v, %v", what, len(r.c.streams), r.c.running, len(r.c.out), r.c.flushing, r.c.window, r.c.dead, r.c.sendErr)
		}
	}
}

func (r *rig) cut(why Cut) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, c := range r.cuts {
		if c == why {
			n++
		}
	}
	return n
}
