package h2

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestFloods: each ends the connection and is counted.
func TestFloods(t *testing.T) {
	for name, one := range map[string]struct {
		why  Cut
		send func(r *rig, i uint32) error
	}{
		"rapid reset": {CutResets, func(r *rig, i uint32) error {
			_ = r.tryAsk(2*i+1, "GET", "/")
			return r.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
		}},
		"made you reset": {CutResets, func(r *rig, i uint32) error {
			_ = r.tryAsk(2*i+1, "GET", "/")
			return r.WriteRawFrame(typeWindow, 0, 2*i+1, make([]byte, 4))
		}},
		"malformed": {CutResets, func(r *rig, i uint32) error {
			return r.tryHead(2*i+1, true, ":path", "/")
		}},
		"too many streams": {CutResets, func(r *rig, i uint32) error { return r.tryAsk(2*i+1, "POST", "/") }},
		"ping":             {CutControl, func(r *rig, _ uint32) error { return r.WritePing(false, [8]byte{}) }},
		"settings":         {CutControl, func(r *rig, _ uint32) error { return r.WriteSettings() }},
		"priority": {CutControl, func(r *rig, i uint32) error {
			return r.WritePriority(2*i+1, http2.PriorityParam{Weight: 1})
		}},
		"unknown": {CutControl, func(r *rig, _ uint32) error { return r.WriteRawFrame(0xee, 0, 0, nil) }},
		"small windows": {CutControl, func(r *rig, _ uint32) error {
			return r.WriteWindowUpdate(0, 1)
		}},
		"empty data": {CutControl, func(r *rig, i uint32) error {
			if i == 0 {
				_ = r.tryAsk(1, "POST", "/")
			}
			return r.WriteData(1, false, nil)
		}},
		"continuation": {CutContinuation, func(r *rig, i uint32) error {
			if i == 0 {
				return r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.block(":method", "GET")})
			}
			return r.WriteContinuation(1, false, nil)
		}},
		"long head": {CutContinuation, func(r *rig, i uint32) error {
			b := append([]byte{0x40, 1, 'x', 0x7f, 0x81, 0x7f}, make([]byte, 16000)...) // a value that never ends
			if i == 0 {
				return r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b})
			}
			return r.WriteContinuation(1, false, b[:16000])
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{Resets: 20, Control: 20, Handler: http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() })})
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				r.over()
			}()
			defer func() { <-gone }()
			for i := range uint32(100_000) {
				select {
				case <-gone:
					if r.cut(one.why) != 1 {
						t.Errorf("%v", r.cuts)
					}
					return
				default:
				}
				if one.send(r, i) != nil {
					<-gone
				}
			}
			t.Error("the flood is taken")
		})
	}
}

// TestRunning: handlers whose streams were reset count.
func TestRunning(t *testing.T) {
	hold := make(chan struct{})
	r := newRig(t, Config{Streams: 5, Resets: -1, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold })})
	refused := 0
	for id := uint32(1); id < 101; id += 2 {
		r.ask(id, "GET", "/")
		_ = r.WriteRSTStream(id, http2.ErrCodeCancel)
	}
	_ = r.WritePing(false, [8]byte{1})
	for {
		f := r.next()
		if s, ok := f.(*http2.RSTStreamFrame); ok && s.ErrCode == http2.ErrCodeRefusedStream {
			refused++
		}
		if p, ok := f.(*http2.PingFrame); ok && p.IsAck() {
			break
		}
	}
	if refused != 40 {
		t.Errorf("%d refused", refused)
	}
	close(hold)
	r.until("the handlers' end", func(c *Conn) bool { return c.running == 0 })
}

// TestBomb: a small block that is large when it is decoded.
func TestBomb(t *testing.T) {
	r := newRig(t, Config{HeadBytes: 4 << 10})
	fields := []string{":method", "GET", ":scheme", "http", ":authority", "a.test", ":path", "/", "x", strings.Repeat("b", 3000)}
	for range 5000 {
		fields = append(fields, "x", fields[9])
	}
	r.head(1, true, fields...)
	if g := r.answer(1); g.status() != "431" {
		t.Errorf("%+v", g)
	}
	r.ask(3, "GET", "/", "x", fields[9]) // the table is as it was
	if g := r.answer(3); g.status() != "200" {
		t.Errorf("%+v", g)
	}
}

// TestTimes: everything that can be waited for ends by the clock.
func TestTimes(t *testing.T) {
	slow := errors.New("slow")
	ends := make(chan error, 1)
	c := Config{
		Head: 10 * time.Second, Idle: 60 * time.Second, BodyStall: 5 * time.Second, BodyRate: 100, SendStall: 7 * time.Second, SlowBody: slow,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			switch q.URL.Path {
			case "/read":
				_, err := io.ReadAll(q.Body)
				ends <- err
				w.WriteHeader(408)
			case "/write":
				_, err := w.Write(make([]byte, 1<<20))
				ends <- err
			case "/wait":
				<-q.Context().Done()
			}
		}),
	}
	t.Run("body", func(t *testing.T) {
		r := newRig(t, c)
		r.ask(1, "POST", "/read")
		reading := func(c *Conn) bool { return c.streams[1] != nil && c.streams[1].readBy != 0 }
		r.until("the read", reading)
		r.pass(4 * time.Second)
		_ = r.WriteData(1, false, make([]byte, 300)) // pays for three seconds
		r.until("the next", func(c *Conn) bool {
			return reading(c) && c.streams[1].got == 300 && c.streams[1].have == 0 && c.streams[1].waited == 1000
		})
		r.pass(3 * time.Second)
		r.until("no cut", reading)
		r.pass(2 * time.Second)
		if err := <-ends; err != slow || r.cut(CutBody) != 1 {
			t.Errorf("%v, %v", err, r.cuts)
		}
		if g := r.answer(1); g.status() != "408" {
			t.Errorf("%+v", g)
		}
	})
	t.Run("answer", func(t *testing.T) {
		r := newRig(t, c)
		r.ask(1, "GET", "/write")
		r.until("the window's end", func(c *Conn) bool { return c.streams[1] != nil && c.streams[1].sendBy != 0 && c.window == 0 })
		r.pass(6 * time.Second)
		_ = r.WriteWindowUpdate(0, 50_000)
		_ = r.WriteWindowUpdate(1, 50_000)
		r.until("some more", func(c *Conn) bool { return c.streams[1] != nil && len(c.streams[1].pending) == 1<<20-minWindow-50_000 })
		r.pass(6 * time.Second) // from what was sent last
		r.until("no cut", func(c *Conn) bool { return c.streams[1] != nil })
		r.pass(2 * time.Second)
		if err := <-ends; err == nil || r.cut(CutAnswer) != 1 {
			t.Errorf("%v, %v", err, r.cuts)
		}
		if g := r.answer(1); !g.reset {
			t.Errorf("%+v", g)
		}
	})
	t.Run("idle", func(t *testing.T) {
		r := newRig(t, c)
		r.pass(59 * time.Second)
		r.ask(1, "GET", "/")
		r.answer(1)
		r.until("the stream's end", func(c *Conn) bool { return c.running == 0 })
		r.pass(59 * time.Second)
		r.pass(2 * time.Second)
		if code := r.over(); code != http2.ErrCodeNo {
			t.Errorf("%v", code)
		}
	})
	t.Run("ping", func(t *testing.T) {
		r := newRig(t, c)
		r.ask(1, "GET", "/wait")
		r.until("the handler", func(c *Conn) bool { return c.running == 1 })
		r.pass(121 * time.Second)
		p := r.next().(*http2.PingFrame)
		_ = r.WritePing(true, p.Data)
		r.until("the answer", func(c *Conn) bool { return c.pinged == 0 })
		r.pass(11 * time.Second)
		r.pass(121 * time.Second)
		_ = r.next().(*http2.PingFrame)
		r.pass(11 * time.Second)
		r.over()
	})
	t.Run("head", func(t *testing.T) {
		r := newRig(t, c)
		_ = r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.block(":method", "GET")})
		for r.c.headSince.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		r.pass(9 * time.Second)
		r.pass(2 * time.Second)
		if code := r.over(); code != http2.ErrCodeEnhanceYourCalm || r.cut(CutHead) != 1 {
			t.Errorf("%v, %v", code, r.cuts)
		}
	})
}

// TestSettingsTimeout: a client that neither sends settings nor acknowledges ours.
func TestSettingsTimeout(t *testing.T) {
	r := newRig(t, Config{Head: time.Second})
	r.nc.Close() // the rig's own
	<-r.done
	r.done = make(chan struct{})
	r.connect()
	_, _ = io.WriteString(r.nc, http2.ClientPreface)
	_ = r.WriteSettings()
	for acked := false; !acked; {
		s, ok := r.next().(*http2.SettingsFrame)
		acked = ok && s.IsAck()
	}
	r.pass(2 * time.Second)
	if code := r.over(); code != http2.ErrCodeSettingsTimeout {
		t.Errorf("%v", code)
	}
}

// TestNoReader: a client that reads nothing has us keep no more than the buffers.
func TestNoReader(t *testing.T) {
	ends := make(chan error, 20)
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var err error
		for range 10_000 {
			if _, err = w.Write(make([]byte, 32<<10)); err != nil {
				break
			}
		}
		ends <- err
	})}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	_ = r.WriteWindowUpdate(0, 1<<31-1-minWindow)
	for id := uint32(1); id < 40; id += 2 {
		r.ask(id, "GET", "/")
	}
	r.until("the buffers to be full", func(c *Conn) bool { return c.running == 20 && c.flushing && len(c.out) >= outBytes })
	r.c.mu.Lock()
	if n := len(r.c.out) + cap(r.c.spare); n > outBytes+maxFrame+20*(frameHead+100)+maxOutKept {
		t.Errorf("%d bytes", n)
	}
	r.c.mu.Unlock()
	r.nc.Close()
	for range 20 {
		if err := <-ends; err == nil {
			t.Error("all of it was sent")
		}
	}
}

// TestSettingsFirst: SETTINGS are acknowledged before anything is sent by them.
func TestSettingsFirst(t *testing.T) {
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "twelve bytes") })},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	r.ask(1, "GET", "/")
	r.until("the answer to wait", func(c *Conn) bool {
		return c.streams[1] != nil && c.streams[1].sendBy != 0 && len(c.out) == 0 && !c.flushing
	})
	_ = r.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
	if _, head := r.next().(*http2.HeadersFrame); !head {
		t.Error("no head")
	}
	if s, ok := r.next().(*http2.SettingsFrame); !ok || !s.IsAck() {
		t.Error("something else comes before the acknowledgment")
	}
	if d, ok := r.next().(*http2.DataFrame); !ok || string(d.Data()) != "t" {
		t.Error("not the one byte that there is a window for")
	}
}

// TestDeadlines: those that a handler sets, and takes back.
func TestDeadlines(t *testing.T) {
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		var b [10]byte
		if _, err := q.Body.Read(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		_ = rc.SetReadDeadline(time.Time{})
		_ = rc.Flush()
		if n, err := io.ReadFull(q.Body, b[:]); n != 10 || err != nil {
			t.Errorf("read: %d, %v", n, err)
		}
		_ = rc.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
		if _, err := w.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
	})})
	r.ask(1, "POST", "/")
	var g got
	for g.head == nil {
		r.note(&g, 1, r.next())
	}
	_ = r.WriteData(1, true, make([]byte, 10))
	if g := r.answer(1); !g.reset || g.code != http2.ErrCodeCancel {
		t.Errorf("reset %v, %v", g.reset, g.code)
	}
}

// TestOrder: with one window for all, the most urgent answer goes first, and those that can
// be used in parts take turns.
func TestOrder(t *testing.T) {
	in := make(chan struct{}, 10)
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		in <- struct{}{}
		_, _ = w.Write(make([]byte, 100<<10))
	})}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	r.ask(1, "GET", "/", "priority", "u=7")
	r.until("the window's end", func(c *Conn) bool { return c.window == 0 })
	for i, p := range []string{"u=4", "u=3, i", "u=3, i", "u=1"} {
		r.ask(uint32(3+2*i), "GET", "/", "priority", p)
	}
	r.until("all of them", func(c *Conn) bool {
		n := 0
		for _, st := range c.streams {
			if st.place.In() {
				n++
			}
		}
		return n == 5
	})
	_ = r.WriteWindowUpdate(0, 1<<20)
	var order []uint32
	for ended := 0; ended < 5; {
		if d, ok := r.next().(*http2.DataFrame); ok {
			if len(d.Data()) > 0 && (len(order) == 0 || order[len(order)-1] != d.StreamID) {
				order = append(order, d.StreamID)
			}
			if d.StreamEnded() {
				ended++
			}
		}
	}
	for len(order) > 0 && order[0] == 1 { // what went into the first window
		order = order[1:]
	}
	if order[0] != 9 || order[len(order)-2] != 3 || order[len(order)-1] != 1 || len(order) < 8 {
		t.Errorf("%v", order)
	}
}
