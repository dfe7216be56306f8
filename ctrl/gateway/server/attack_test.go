package server

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
	}
}

// unharmed asks the server over a connection of its own.
func (r *rig) unharmed() {
	r.t.Helper()
	c := r.dial()
	defer c.Close()
	if got := r.exchange(c, "GET /well HTTP/1.0\r\n\r\n"); len(got) != 1 || got[0] != 200 {
		r.t.Errorf("another client: %v", got)
	}
}

// closed waits for the connection's end.
func closed(t *testing.T, c net.Conn) []byte {
	t.Helper()
	b, err := io.ReadAll(c)
	if isTimeout(err) {
		t.Error("the connection stays open")
	}
	return b
}

// endless answers until the client or the server has had enough.
func endless(t *testing.T) (http.Handler, chan error) {
	ended := make(chan error, 16)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 32<<10)
		for range 10_000 { // 320 MB: more than any buffer
			if _, err := w.Write(b); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}), ended
}

// frames is a client of HTTP/2 that sends what it likes.
type frames struct {
	*http2.Framer
	net.Conn
	t   *testing.T
	enc *hpack.Encoder
	buf bytes.Buffer
}

func (r *rig) frames(settings ...http2.Setting) *frames {
	r.t.Helper()
	c := r.dial()
	f := &frames{Framer: http2.NewFramer(c, c), Conn: c, t: r.t}
	f.enc = hpack.NewEncoder(&f.buf)
	_, _ = io.WriteString(c, http2.ClientPreface)
	if err := f.WriteSettings(settings...); err != nil {
		r.t.Fatal(err)
	}
	return f
}

func (f *frames) block(fields ...string) []byte {
	f.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = f.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return f.buf.Bytes()
}

func (f *frames) request(id uint32, end bool, more ...string) error {
	fields := append([]string{":method", "GET", ":scheme", "http", ":authority", "a.test", ":path", "/two"}, more...)
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.block(fields...), EndStream: end, EndHeaders: true})
}

// over reads until the connection ends, and says what GOAWAY said.
func (f *frames) over() (code http2.ErrCode, told bool) {
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			if isTimeout(err) {
				f.t.Error("the connection stays open")
			}
			return code, told
		}
		if g, ok := fr.(*http2.GoAwayFrame); ok {
			code, told = g.ErrCode, true
		}
	}
}

// TestFloods: each flood of HTTP/2 ends its connection, is counted, and harms nobody else.
func TestFloods(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	r := newRig(t, Config{Limits: Limits{Streams: 20, Resets: 20, Control: 20}, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/two" {
			select {
			case <-q.Context().Done():
			case <-release:
			}
		}
	})})
	const many = 20_000
	floods := []struct {
		name string
		why  Refused
		send func(f *frames, i uint32) error
	}{
		{"rapid reset", CutResets, func(f *frames, i uint32) error {
			_ = f.request(2*i+1, true)
			return f.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
		}},
		{"ping", CutControl, func(f *frames, i uint32) error { return f.WritePing(false, [8]byte{1}) }},
		{"settings", CutControl, func(f *frames, i uint32) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100 + i%2})
		}},
		{"priority", CutControl, func(f *frames, i uint32) error {
			return f.WritePriority(2*i+1, http2.PriorityParam{Weight: 1})
		}},
		{"priority update", CutControl, func(f *frames, i uint32) error {
			return f.WriteRawFrame(frameUpdate, 0, 0, append(binary.BigEndian.AppendUint32(nil, 2*i+1), "u=1"...))
		}},
		{"empty data", CutControl, func(f *frames, i uint32) error {
			if i == 0 {
				_ = f.request(1, false)
			}
			return f.WriteData(1, false, nil)
		}},
		{"continuation", CutContinuation, func(f *frames, i uint32) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(":method", "GET")})
			}
			return f.WriteContinuation(1, false, nil)
		}},
	}
	for _, flood := range floods {
		before := r.s.Stats().Conns[flood.why]
		f := r.frames()
		go func() {
			for i := range uint32(many) {
				if flood.send(f, i) != nil {
					return
				}
			}
		}()
		f.over()
		until(t, flood.name, func() bool { return r.s.Stats().Conns[flood.why] == before+1 && r.s.Stats().Running == 0 })
		r.unharmed()
	}
	if st := r.s.Stats(); st.Requests[HTTP2] > 7*200 {
		t.Errorf("handlers were started %d times", st.Requests[HTTP2])
	}
}

const frameUpdate = http2.FrameType(0x10)

// TestHeadBomb: a head that is small on the wire and large when it is decoded is refused
// before it takes memory (RFC 9113 §10.5.1).
func TestHeadBomb(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{HeadBytes: 8 << 10}})
	f := r.frames()
	bomb := []string{":method", "GET", ":scheme", "http", ":authority", "a.test", ":path", "/", "x", strings.Repeat("b", 3000)}
	for range 4000 {
		bomb = append(bomb, "x", bomb[9]) // one byte each: an index
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	block := f.block(bomb...)
	if len(block) > 9000 {
		t.Fatalf("%d bytes", len(block))
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndStream: true, EndHeaders: true})
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := fr.(*http2.HeadersFrame); ok {
			if got, err := hpack.NewDecoder(4096, nil).DecodeFull(h.HeaderBlockFragment()); err != nil || got[0].Value != "431" {
				t.Errorf("%v %v", got, err)
			}
			break
		}
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.TotalAlloc) - int64(before.TotalAlloc); grown > 4<<20 {
		t.Errorf("%d bytes allocated", grown)
	}
	if len(r.requests()) != 0 {
		t.Errorf("%+v", r.requests())
	}
	r.unharmed()
}

// TestNoWindow: a client that gives no window for answers keeps neither handlers nor streams.
func TestNoWindow(t *testing.T) {
	h, ended := endless(t)
	small := make(chan struct{}, 1)
	r := newRig(t, Config{Limits: Limits{SendStall: 200 * time.Millisecond}, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Small") != "" {
			_, _ = io.WriteString(w, "a few bytes that wait for a window")
			small <- struct{}{}
			return
		}
		h.ServeHTTP(w, q)
	})})
	f := r.frames(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	_ = f.request(1, true)
	_ = f.request(3, true, "small", "1")
	<-small
	if err := <-ended; err == nil {
		t.Error("an answer was sent into no window")
	}
	reset := map[uint32]bool{}
	for len(reset) < 2 {
		fr, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := fr.(*http2.RSTStreamFrame); ok {
			reset[s.StreamID] = true
		}
	}
	if st := r.s.Stats(); st.Conns[CutAnswer] != 2 || st.Open != 1 {
		t.Errorf("%+v", st)
	}
}

// TestJudge2: what HTTP/2 can say and HTTP/1.1 would read otherwise is refused.
func TestJudge2(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{Fields: 20, URIBytes: 100}})
	for name, one := range map[string]struct {
		fields []string
		body   string
		status string // "": the stream is reset
	}{
		"right":              {[]string{":path", "/", ":authority", "a.test", "content-length", "2"}, "ab", "200"},
		"space in path":      {[]string{":path", "/a b", ":authority", "a.test"}, "", "400"},
		"fragment":           {[]string{":path", "/a#b", ":authority", "a.test"}, "", "400"},
		"absolute":           {[]string{":path", "http://b.test/", ":authority", "a.test"}, "", "400"},
		"crlf in path":       {[]string{":path", "/ HTTP/1.1\r\nX: y", ":authority", "a.test"}, "", "400"},
		"crlf in field":      {[]string{":path", "/", ":authority", "a.test", "x", "y\r\nz: a"}, "", "400"},
		"crlf in name":       {[]string{":path", "/", ":authority", "a.test", "x\r\ny", "z"}, "", "400"},
		"colon in name":      {[]string{":path", "/", ":authority", "a.test", "x:y", "z"}, "", "400"},
		"capitals":           {[]string{":path", "/", ":authority", "a.test", "X-Y", "z"}, "", "400"},
		"connection":         {[]string{":path", "/", ":authority", "a.test", "connection", "close"}, "", "400"},
		"transfer-encoding":  {[]string{":path", "/", ":authority", "a.test", "transfer-encoding", "chunked"}, "", "400"},
		"upgrade":            {[]string{":path", "/", ":authority", "a.test", "upgrade", "websocket"}, "", "400"},
		"te":                 {[]string{":path", "/", ":authority", "a.test", "te", "gzip"}, "", "400"},
		"host other":         {[]string{":path", "/", ":authority", "a.test", "host", "b.test"}, "", "400"},
		"host list":          {[]string{":path", "/", ":authority", "a.test,b.test"}, "", "400"},
		"host user":          {[]string{":path", "/", ":authority", "u@a.test"}, "", "400"},
		"no host":            {[]string{":path", "/"}, "", "400"},
		"length too long":    {[]string{":path", "/", ":authority", "a.test", "content-length", "5"}, "ab", "400"},
		"length too short":   {[]string{":path", "/", ":authority", "a.test", "content-length", "1"}, "ab", ""},
		"length and no body": {[]string{":path", "/", ":authority", "a.test", "content-length", "5"}, "", "400"},
		"length plus":        {[]string{":path", "/", ":authority", "a.test", "content-length", "+2"}, "ab", "400 or reset"},
		"length twice":       {[]string{":path", "/", ":authority", "a.test", "content-length", "2", "content-length", "2"}, "ab", "400"},
		"te underscore":      {[]string{":path", "/", ":authority", "a.test", "transfer_encoding", "chunked"}, "", "400"},
		"path long":          {[]string{":path", "/" + strings.Repeat("a", 200), ":authority", "a.test"}, "", "414"},
		"fields":             {append([]string{":path", "/", ":authority", "a.test"}, strings.Split(strings.Repeat("x,y,", 30)+"x,y", ",")...), "", "431"},
	} {
		f := r.frames()
		fields := append([]string{":method", "POST", ":scheme", "http"}, one.fields...)
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(fields...), EndStream: one.body == "", EndHeaders: true})
		if one.body != "" {
			_ = f.WriteData(1, true, []byte(one.body))
		}
		if got := f.status(); got != one.status && !(one.status == "400 or reset" && (got == "" || got == "400")) {
			t.Errorf("%s: %q", name, got)
		}
		f.Conn.Close()
	}
	for _, s := range r.requests() {
		if s.err == nil && (s.target != "/" || s.body != "ab" && s.body != "") {
			t.Errorf("%+v", s)
		}
	}
}

// TestRefuse2: what the engine of HTTP/2 lets no handler see is told to Refuse, with the
// beginning of what was asked for.
func TestRefuse2(t *testing.T) {
	type told struct {
		why          exchange.Reason
		detail, line string
	}
	got := make(chan told, 1)
	r := newRig(t, Config{Refuse: func(w http.ResponseWriter, q *http.Request, why exchange.Reason, detail, line string) {
		if c := From(q.Context()); c == nil || c.Protocol != HTTP2 {
			t.Errorf("over %+v", c)
		}
		got <- told{why, detail, line}
		exchange.Refuse(w, q, why, detail)
	}})
	for _, one := range []struct {
		fields []string
		want   told
	}{
		{[]string{":method", "GET", ":scheme", "http", ":authority", "a.test", ":path", "/a", "connection", "close"}, told{exchange.BadRequest, "field of the connection", `"GET /a"`}},
		{[]string{":method", "PUT", ":scheme", "http", ":authority", "a.test", ":path", "/a", "x", strings.Repeat("y", 40<<10)}, told{exchange.HeaderTooLarge, "head that is too large", `"PUT /a"`}},
		{[]string{":method", "CONNECT", ":authority", "a.test\x00"}, told{exchange.BadRequest, "pseudo-header with a character that can't be there", `"CONNECT "`}},
	} {
		f := r.frames()
		block := f.block(one.fields...)
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:min(len(block), 16<<10)], EndStream: true, EndHeaders: len(block) <= 16<<10})
		for at := 16 << 10; at < len(block); at += 16 << 10 {
			_ = f.WriteContinuation(1, at+16<<10 >= len(block), block[at:min(len(block), at+16<<10)])
		}
		if status := f.status(); status != "400" && status != "431" {
			t.Errorf("%q", status)
		}
		if g := <-got; g != one.want {
			t.Errorf("%+v, expected %+v", g, one.want)
		}
	}
	if st := r.s.Stats(); st.Refusals[exchange.BadRequest] != 2 || st.Refusals[exchange.HeaderTooLarge] != 1 || st.Requests[HTTP2] != 0 {
		t.Errorf("%+v", st)
	}
}

// status is the first answer's; "" if the stream or the connection ends without.
func (f *frames) status() string {
	dec := hpack.NewDecoder(4096, nil)
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			if isTimeout(err) {
				f.t.Error(err)
			}
			return ""
		}
		switch fr := fr.(type) {
		case *http2.HeadersFrame:
			got, err := dec.DecodeFull(fr.HeaderBlockFragment())
			if err != nil {
				f.t.Error(err)
			}
			return got[0].Value
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return ""
		}
	}
}

func TestConnLimits(t *testing.T) {
	r := newRig(t, Config{NoHTTP2: true, Limits: Limits{Conns: 3, ClientConns: 2}})
	first, second := r.dial(), r.dial()
	until(t, "two", func() bool { return r.s.Stats().Open == 2 })
	third := r.dial()
	closed(t, third)
	until(t, "the count", func() bool { st := r.s.Stats(); return st.Open == 2 && st.Conns[RefusedClient] == 1 })
	first.Close()
	until(t, "one", func() bool { return r.s.Stats().Open == 1 })
	r.unharmed()
	second.Close()

	all := newRig(t, Config{NoHTTP2: true, Limits: Limits{Conns: 2}})
	a, b := all.dial(), all.dial()
	until(t, "two", func() bool { return all.s.Stats().Open == 2 })
	closed(t, all.dial())
	until(t, "the count", func() bool { return all.s.Stats().Conns[RefusedFull] == 1 })
	a.Close()
	b.Close()
	until(t, "none", func() bool { return all.s.Stats().Open == 0 })
	all.unharmed()
}

func TestRequestsLimit(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{Requests: 3}})
	one := "GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
	if got := r.exchange(r.dial(), strings.Repeat(one, 10)); len(got) != 3 {
		t.Errorf("%v", got)
	}
	f := r.frames()
	for i := range uint32(3) {
		_ = f.request(2*i+1, true)
	}
	if code, told := f.over(); !told || code != http2.ErrCodeNo {
		t.Errorf("GOAWAY: %v, %v", told, code)
	}
}

func TestSizes(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{HeadBytes: 2 << 10, URIBytes: 1000, Fields: 10}})
	for name, one := range map[string]struct {
		send   string
		status int
	}{
		"target":         {"GET /" + strings.Repeat("a", 1000) + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
		"target, no end": {"GET /" + strings.Repeat("a", 5000), 414},
		"fields":         {"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("A: b\r\n", 10) + "\r\n", 431},
		"head":           {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 2100) + "\r\n\r\n", 431},
		"head, no end":   {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 200_000), 431},
		"head, fields":   {"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("A: "+strings.Repeat("b", 300)+"\r\n", 100), 431},
		"least":          {"GET /" + strings.Repeat("a", 999) + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + strings.Repeat("A: b\r\n", 8) + "\r\n", 200},
	} {
		if got := r.exchange(r.dial(), one.send); len(got) != 1 || got[0] != one.status {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestAnswerArrives: a client that goes on sending after what is refused still gets the answer.
func TestAnswerArrives(t *testing.T) {
	r := newRig(t, Config{})
	for range 20 {
		c := r.dial()
		go func() {
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost : a\r\n\r\n")
			for range 50 {
				if _, err := c.Write(make([]byte, 2000)); err != nil {
					return
				}
			}
		}()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != 400 || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Fatal(resp, err)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(b), "colon") {
			t.Fatalf("%q, %v", b, err)
		}
		c.Close()
	}
}

func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip()
	}
	r := newRig(t, Config{NoHTTP2: true, Limits: Limits{HeadBytes: 16 << 10}})
	const conns = 200
	var list []net.Conn
	for range conns {
		c := r.dial()
		_, _ = fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: a\r\nX: %s", strings.Repeat("x", 15<<10))
		list = append(list, c)
	}
	until(t, "all", func() bool { return r.s.Stats().Open == conns })
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	if each := int64(m.HeapInuse) / conns; each > 200<<10 {
		t.Errorf("%d bytes of heap a connection that holds half a head", each)
	}
	r.unharmed()
	for _, c := range list {
		c.Close()
	}
}

func http2HeadersParam(block []byte) http2.HeadersFrameParam {
	return http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true}
}

// data is the first DATA frame's.
func (f *frames) data() string {
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			f.t.Error(err)
			return ""
		}
		if d, ok := fr.(*http2.DataFrame); ok {
			return string(d.Data())
		}
	}
}

// TestPriority: of two answers that wait for the connection's window the more urgent one
// is sent first (RFC 9218), whichever was asked for first.
func TestPriority(t *testing.T) {
	const size = 400 << 10
	writing := make(chan string, 2)
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		writing <- q.Header.Get("Priority")
		_, _ = w.Write(make([]byte, size))
	})})
	f := r.frames(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	got := map[uint32]int{}
	read := func(until func() bool) {
		for !until() {
			fr, err := f.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if d, ok := fr.(*http2.DataFrame); ok {
				got[d.StreamID] += len(d.Data())
			}
		}
	}
	_ = f.request(1, true, "priority", "u=6")
	<-writing
	read(func() bool { return got[1] == 65535 }) // the connection's window
	_ = f.request(3, true, "priority", "u=0")
	<-writing
	read(func() bool { // an answer's head needs no window
		fr, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		h, ok := fr.(*http2.HeadersFrame)
		return ok && h.StreamID == 3
	})
	_ = f.WriteWindowUpdate(0, 2*size)
	read(func() bool { return got[3] == size })
	if before := got[1] - 65535; before > size/4 {
		t.Errorf("%d bytes of what is less urgent came before the end of what is more urgent", before)
	}
	read(func() bool { return got[1] == size })
}
