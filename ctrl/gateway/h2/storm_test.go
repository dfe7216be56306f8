package h2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// storm is a client that does what a client may do, at any moment, and holds what it gets
// against what it may get: windows, the order of frames, each byte.
type storm struct {
	r    *rig
	rand *rand.Rand

	mu      sync.Mutex
	changed sync.Cond
	streams map[uint32]*blow
	order   []uint32
	window  int64 // the server's, of the connection
	first   []int64
	give    int64 // ours
	failed  error
	over    bool
	next    uint32
	open    int
	lulls   int // that are not over
}

var lullPing = [8]byte{255, 255}

// lull waits until the server has taken all that was sent, so that answers come in between.
func (s *storm) lull() error {
	s.lulls++
	err := s.r.WritePing(false, lullPing)
	for err == nil && s.lulls > 0 && s.failed == nil && !s.over {
		s.changed.Wait()
	}
	return err
}

// blow is a stream of a storm.
type blow struct {
	id           uint32
	want         int   // bytes of the answer
	got          int64 // bytes of it
	updates      int64
	give         int64 // for what we send
	sent, ours   int   // of the body, and all of it
	upload       bool
	closed       bool // by us
	ended, reset bool
	headed       bool
	mine         bool // reset by us: what is on its way counts no more, but for the connection
	trailer      bool
	untold       int64 // bytes that we gave no window for again
}

// pattern is a byte of a stream's bodies.
func pattern(id uint32, at int64) byte { return byte(int64(id)*31 + at*7 + at>>8) }

// stormHandler answers with so many bytes of the pattern, in pieces, reads the body and
// says in a trailer what it got.
func stormHandler(w http.ResponseWriter, q *http.Request) {
	id, _ := strconv.Atoi(q.Header.Get("Id"))
	n, _ := strconv.Atoi(q.Header.Get("Want"))
	h := w.Header()
	h.Set("Trailer", "X-Got")
	h.Set("X-Id", q.Header.Get("Id"))
	h.Set("X-Same", "the same for all")
	var read int64
	bad := ""
	var buf [5000]byte
	readSome := func() bool {
		m, err := q.Body.Read(buf[:1+(id*37+int(read))%len(buf)])
		for i := range m {
			if buf[i] != pattern(uint32(id), read) {
				bad = fmt.Sprintf("byte %d", read)
			}
			read++
		}
		if err == io.EOF && q.Header.Get("Trailer") != "" && q.Trailer.Get("X-End") != "yes" {
			bad = "no trailer"
		}
		return err == nil
	}
	more, piece := true, make([]byte, 1+id*97%20_000)
	for at := 0; at < n; {
		m := min(len(piece), n-at)
		for i := range m {
			piece[i] = pattern(uint32(id), int64(at+i))
		}
		if _, err := w.Write(piece[:m]); err != nil {
			return
		}
		at += m
		if id%3 == 0 {
			_ = http.NewResponseController(w).Flush()
		}
		more = more && id%5 != 4 && readSome()
	}
	for more && id%7 != 6 { // some answer without having read it all
		more = readSome()
	}
	h.Set("X-Got", fmt.Sprint(read, bad))
}

func (s *storm) fail(format string, args ...any) {
	if s.failed == nil {
		s.failed = fmt.Errorf(format, args...)
	}
	s.changed.Broadcast()
}

// listen takes frames until the connection ends.
func (s *storm) listen() {
	for {
		f, err := s.r.ReadFrame()
		s.mu.Lock()
		if err != nil {
			if s.over = true; s.streams != nil && s.open > 0 {
				s.fail("the connection ended: %v", err)
			}
			s.changed.Broadcast()
			s.mu.Unlock()
			return
		}
		s.take(f)
		s.changed.Broadcast()
		s.mu.Unlock()
	}
}

func (s *storm) take(f http2.Frame) {
	id := f.Header().StreamID
	b := s.streams[id]
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			s.first = s.first[1:]
		}
		return
	case *http2.WindowUpdateFrame:
		if id == 0 {
			s.window += int64(f.Increment)
		} else if b != nil {
			b.give += int64(f.Increment)
		}
		return
	case *http2.GoAwayFrame:
		s.fail("GOAWAY %v %s", f.ErrCode, f.DebugData())
		return
	case *http2.PingFrame:
		if f.IsAck() && f.Data == lullPing {
			s.lulls--
		}
		return
	}
	switch {
	case b == nil:
		s.fail("%v", f)
	case b.mine:
		s.ignore(f)
		return
	case b.ended || b.reset:
		if _, ok := f.(*http2.RSTStreamFrame); !ok {
			s.fail("after the end: %v", f)
		}
	}
	if s.failed != nil {
		return
	}
	switch f := f.(type) {
	case *http2.HeadersFrame:
		s.takeHead(b, f)
	case *http2.DataFrame:
		s.takeData(b, f)
	case *http2.RSTStreamFrame:
		if f.ErrCode != http2.ErrCodeNo || !b.ended {
			s.fail("stream %d: %v, ended %v", id, f.ErrCode, b.ended)
		}
		s.done(b)
		b.closed = true
	default:
		s.fail("%v", f)
	}
}

func (s *storm) ignore(f http2.Frame) {
	switch f := f.(type) {
	case *http2.HeadersFrame:
		if _, err := s.decode(f.HeaderBlockFragment()); err != nil {
			s.fail("fields: %v", err)
		}
	case *http2.DataFrame:
		if s.give -= int64(len(f.Data())); s.give < 0 {
			s.fail("beyond the connection's window")
		}
	}
}

func (s *storm) done(b *blow) {
	if !b.reset {
		b.reset = true
		s.open--
	}
}

// decode decodes a block, which may begin with two sizes of the table where the smaller one
// was in force between two heads (RFC 7541 §4.2); package hpack's decoder takes but one.
func (s *storm) decode(block []byte) ([]hpack.HeaderField, error) {
	for n := 0; len(block) > 0 && block[0]&0xe0 == 0x20; n++ {
		if n == 2 {
			return nil, errors.New("three sizes of the table")
		}
		end := 1
		if block[0]&0x1f == 0x1f {
			for block[end]&0x80 != 0 {
				end++
			}
			end++
		}
		if _, err := s.r.dec.DecodeFull(block[:end]); err != nil {
			return nil, err
		}
		block = block[end:]
	}
	return s.r.dec.DecodeFull(block)
}

func (s *storm) takeHead(b *blow, f *http2.HeadersFrame) {
	list, err := s.decode(f.HeaderBlockFragment())
	if err != nil {
		s.fail("fields: %v", err)
		return
	}
	h := map[string]string{}
	for _, v := range list {
		h[v.Name] = v.Value
	}
	if !b.headed {
		b.headed = true
		if h[":status"] != "200" || h["x-id"] != strconv.Itoa(int(b.id)) || h["x-same"] != "the same for all" {
			s.fail("stream %d: %v", b.id, h)
		}
	} else if !f.StreamEnded() || b.got != int64(b.want) {
		s.fail("trailers of stream %d after %d of %d bytes", b.id, b.got, b.want)
	} else if b.id%5 != 4 && b.id%7 != 6 && (!b.upload || b.closed) && h["x-got"] != fmt.Sprint(b.ours) && !(b.id%5 == 4) {
		s.fail("stream %d: the handler got %s of %d bytes", b.id, h["x-got"], b.ours)
	}
	s.end(b, f.StreamEnded())
}

func (s *storm) end(b *blow, ended bool) {
	if ended && !b.ended {
		if b.ended = true; b.closed {
			s.done(b)
		}
	}
}

func (s *storm) takeData(b *blow, f *http2.DataFrame) {
	n := int64(len(f.Data()))
	most := s.first[0]
	for _, v := range s.first {
		most = max(most, v)
	}
	for i, c := range f.Data() {
		if c != pattern(b.id, b.got+int64(i)) {
			s.fail("stream %d: byte %d", b.id, b.got+int64(i))
			return
		}
	}
	b.got += n
	s.give -= n
	b.untold += n
	if s.give < 0 || n > 0 && b.got > most+b.updates || !b.headed || b.got > int64(b.want) {
		s.fail("stream %d: %d bytes, windows %d and %d", b.id, b.got, s.give, most+b.updates-b.got)
	}
	s.end(b, f.StreamEnded())
}

// blowOnce does one thing. s.mu is held, as it may be while something is written: the
// server reads always.
func (s *storm) blowOnce() error {
	r, n := s.r, s.rand.IntN
	var b *blow
	if len(s.order) > 0 {
		b = s.streams[s.order[max(0, len(s.order)-1-n(20))]]
	}
	switch what := n(20); {
	case what < 6 || b == nil:
		return s.ask()
	case what < 10:
		return s.upload(b, 1+n(9000), n(3) == 0)
	case what < 11: // seldom: this window is to be what answers wait for, too
		d := 1 + n(6_000)
		s.give += int64(d)
		return r.WriteWindowUpdate(0, uint32(d))
	case what < 15:
		if b.reset || b.ended {
			return nil
		}
		d := 1 + n(20_000)
		b.updates += int64(d)
		return r.WriteWindowUpdate(b.id, uint32(d))
	case what < 16:
		if len(s.first) > 3 {
			return nil
		}
		v := uint32(n(40_000))
		s.first = append(s.first, int64(v))
		return r.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: v}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: uint32(n(5000))})
	case what < 17:
		return r.WriteRawFrame(typePriorityUpdate, 0, 0, append(binary.BigEndian.AppendUint32(nil, b.id), fmt.Sprintf("u=%d", n(8))...))
	case what < 18:
		return r.WritePing(false, [8]byte{byte(n(256))})
	case what < 19 && !b.reset:
		s.done(b)
		b.closed, b.mine = true, true
		return r.WriteRSTStream(b.id, http2.ErrCodeCancel)
	}
	return nil
}

func (s *storm) ask() error {
	if s.open >= 20 {
		return nil
	}
	n := s.rand.IntN
	b := &blow{id: s.next, want: n(4) * n(30_000), give: 128 << 10, upload: n(2) == 0}
	s.next += 2
	s.streams[b.id] = b
	s.order = append(s.order, b.id)
	s.open++
	if b.upload {
		b.ours = n(60_000)
	} else {
		b.closed = true
	}
	fields := []string{":method", "POST", ":scheme", "http", ":authority", "a.test", ":path", "/", "id", strconv.Itoa(int(b.id)), "want", strconv.Itoa(b.want)}
	if n(3) == 0 {
		fields = append(fields, "priority", fmt.Sprintf("u=%d, i", n(8)))
	}
	if b.trailer = b.upload && n(3) == 0; b.trailer {
		fields = append(fields, "trailer", "x-end")
	}
	return s.r.WriteHeaders(http2.HeadersFrameParam{StreamID: b.id, BlockFragment: s.r.block(fields...), EndStream: !b.upload, EndHeaders: true})
}

// upload sends a piece of a body, and its end.
func (s *storm) upload(b *blow, n int, pad bool) error {
	if b.closed || b.reset {
		return nil
	}
	n = int(min(int64(n), int64(b.ours-b.sent), s.window-10, b.give-10))
	if n < 0 || n == 0 && b.sent < b.ours {
		return nil
	}
	p := make([]byte, n)
	for i := range p {
		p[i] = pattern(b.id, int64(b.sent+i))
	}
	b.sent += n
	last := b.sent == b.ours
	end := last && !b.trailer
	cost := int64(n)
	var err error
	if pad {
		cost += 6
		err = s.r.WriteDataPadded(b.id, end, p, make([]byte, 5))
	} else {
		err = s.r.WriteData(b.id, end, p)
	}
	s.window -= cost
	b.give -= cost
	if last && b.trailer && err == nil {
		err = s.r.WriteHeaders(http2.HeadersFrameParam{StreamID: b.id, BlockFragment: s.r.block("x-end", "yes"), EndStream: true, EndHeaders: true})
	}
	if b.closed = last; last && b.ended {
		s.done(b)
	}
	return err
}

// calm finishes everything: windows for all, the rest of all bodies.
func (s *storm) calm() error {
	s.give += 1 << 26
	if err := s.r.WriteWindowUpdate(0, 1<<26); err != nil {
		return err
	}
	s.first = append(s.first, 1<<20)
	if err := s.r.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}); err != nil {
		return err
	}
	for s.open > 0 && s.failed == nil {
		before := s.window
		for _, id := range s.order {
			if err := s.upload(s.streams[id], 9000, false); err != nil {
				return err
			}
		}
		if s.open > 0 && s.window == before {
			s.changed.Wait()
		}
	}
	return nil
}

func runStorm(t *testing.T, seed uint64, steps int) {
	r := newRig(t, Config{Handler: http.HandlerFunc(stormHandler), Resets: -1, Control: -1, Streams: 64}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000})
	s := &storm{r: r, rand: rand.New(rand.NewPCG(seed, 1)), streams: map[uint32]*blow{}, window: 256 << 10, first: []int64{1000}, give: minWindow, next: 1}
	s.changed.L = &s.mu
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		s.listen()
	}()
	s.mu.Lock()
	var err error
	for i := 0; i < steps && err == nil && s.failed == nil; i++ {
		if err = s.blowOnce(); err == nil && i%16 == 0 {
			err = s.lull()
		}
	}
	if err == nil {
		err = s.calm()
	}
	if s.failed != nil || err != nil {
		t.Errorf("seed %d: %v, %v", seed, s.failed, err)
	}
	s.streams = nil
	s.mu.Unlock()
	if !t.Failed() {
		r.until("the handlers' end", func(c *Conn) bool { return c.running == 0 && len(c.streams) == 0 })
	}
	r.nc.Close()
	<-heard
}

// TestStorm: a client does what it may in any order, and gets what it should, to the byte,
// within its windows. Handlers and goroutines end.
func TestStorm(t *testing.T) {
	for seed := range uint64(15) {
		runStorm(t, seed, 600)
	}
}

// FuzzStorm is TestStorm with other seeds.
func FuzzStorm(f *testing.F) {
	f.Add(uint64(100), 300)
	f.Add(uint64(101), 50)
	f.Fuzz(func(t *testing.T, seed uint64, steps int) { runStorm(t, seed, min(max(0, steps), 1000)) })
}
