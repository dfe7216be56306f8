package h2

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestRequests: what a handler gets and what a client gets, for requests of many kinds.
func TestRequests(t *testing.T) {
	seen := make(chan *http.Request, 1)
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		seen <- q
		switch q.URL.Path {
		case "/nothing":
		case "/none":
			w.WriteHeader(204)
			if _, err := w.Write([]byte("x")); err != http.ErrBodyNotAllowed {
				t.Errorf("a body of 204: %v", err)
			}
		case "/long":
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write(make([]byte, 60000))
			_, _ = w.Write(make([]byte, 40000))
			if _, err := w.Write([]byte("x")); err != http.ErrContentLength {
				t.Errorf("more than its length: %v", err)
			}
		case "/short":
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write([]byte("x"))
		case "/panic":
			_, _ = w.Write([]byte("x"))
			panic(http.ErrAbortHandler)
		case "/later":
			w.WriteHeader(200)
			w.Header().Set("X-Late", "1") // is not sent
			_, _ = w.Write([]byte("<html>"))
		default:
			_, _ = io.Copy(w, q.Body)
		}
	})})
	for i, one := range []struct {
		method, path string
		more         []string
		check        func(q *http.Request, g *got) bool
	}{
		{"GET", "/nothing?a=b", nil, func(q *http.Request, g *got) bool {
			return q.URL.Path == "/nothing" && q.URL.RawQuery == "a=b" && q.RequestURI == "/nothing?a=b" && q.Host == "a.test" && q.Proto == "HTTP/2.0" &&
				q.Body == http.NoBody && q.ContentLength == 0 && g.status() == "200" && g.head["content-length"][0] == "0" && g.head["date"] != nil
		}},
		{"HEAD", "/long", nil, func(_ *http.Request, g *got) bool {
			return g.status() == "200" && g.body == "" && g.head["content-length"][0] == "100000"
		}},
		{"GET", "/none", nil, func(_ *http.Request, g *got) bool {
			return g.status() == "204" && g.head["content-length"] == nil
		}},
		{"GET", "/long", nil, func(_ *http.Request, g *got) bool { return len(g.body) == 100000 }},
		{"GET", "/short", nil, func(_ *http.Request, g *got) bool { return g.reset && g.code == http2.ErrCodeInternal }},
		{"GET", "/panic", nil, func(_ *http.Request, g *got) bool { return g.reset && g.code == http2.ErrCodeInternal && g.head == nil }},
		{"GET", "/later", nil, func(_ *http.Request, g *got) bool {
			return g.head["x-late"] == nil && g.head["content-type"][0] == "text/html; charset=utf-8" && g.head["content-length"][0] == "6"
		}},
		{"GET", "/%41?x", []string{"cookie", "a=1", "x", "1", "cookie", "b=2", "x", "2", "x-new-name", "3"}, func(q *http.Request, _ *got) bool {
			return q.URL.Path == "/A" && q.URL.RawPath == "/%41" && slices.Equal(q.Header["Cookie"], []string{"a=1; b=2"}) && slices.Equal(q.Header["X"], []string{"1", "2"}) &&
				q.Header.Get("X-New-Name") == "3" && len(q.Header) == 3
		}},
	} {
		id := uint32(2*i + 1)
		_ = r.WriteWindowUpdate(0, 200_000)
		_ = i
		r.ask(id, one.method, one.path, one.more...)
		if one.path == "/long" && one.method == "GET" {
			_ = r.WriteWindowUpdate(id, 200_000)
		}
		q := <-seen
		if g := r.answer(id); !one.check(q, &g) {
			t.Errorf("%s %s: %+v, %+v", one.method, one.path, q, g)
		}
	}
}

// TestBody: bodies of any size come through both ways within the windows, with padding, and
// trailers after them.
func TestBody(t *testing.T) {
	r := newRig(t, Config{StreamBytes: 20_000, ConnBytes: 70_000, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		n, err := io.Copy(w, q.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("X-Sum", fmt.Sprint(n))
		w.Header().Set(http.TrailerPrefix+"X-More", q.Trailer.Get("X-Note"))
	})})
	r.ask(1, "POST", "/", "trailer", "x-note")
	want := strings.Repeat("0123456789", 50_000)
	var g got
	stream, conn, sent := 20_000, 70_000, 0
	for !g.ended && !g.reset {
		for sent < len(want) {
			n := min(len(want)-sent, 1000, stream-11, conn-11)
			if n <= 0 {
				break
			}
			if err := r.WriteDataPadded(1, false, []byte(want[sent:sent+n]), make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			sent += n
			stream, conn = stream-n-11, conn-n-11
			if sent == len(want) {
				_ = r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.block("x-note", "well", "x-other", "1"), EndHeaders: true, EndStream: true})
			}
		}
		f := r.next()
		switch f := f.(type) {
		case *http2.WindowUpdateFrame:
			if f.StreamID == 0 {
				conn += int(f.Increment)
			} else {
				stream += int(f.Increment)
			}
		case *http2.DataFrame:
			if n := uint32(len(f.Data())); n > 0 {
				_ = r.WriteWindowUpdate(0, n)
				_ = r.WriteWindowUpdate(1, n)
			}
		}
		r.note(&g, 1, f)
	}
	if g.body != want || g.trailer["x-sum"] == nil || g.trailer["x-sum"][0] != "500000" || g.trailer["x-more"][0] != "well" {
		t.Errorf("%d bytes, %v, reset %v %v", len(g.body), g.trailer, g.reset, g.code)
	}
}

// TestInterim: 100 when the body is read, others as the handler sends them.
func TestInterim(t *testing.T) {
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Link", "</a>")
		w.WriteHeader(103)
		b, _ := io.ReadAll(q.Body)
		w.Header().Del("Link")
		_, _ = w.Write(b)
	})})
	r.ask(1, "POST", "/", "expect", "100-continue")
	var g got
	for len(g.interim) < 2 {
		r.note(&g, 1, r.next())
	}
	_ = r.WriteData(1, true, []byte("body"))
	last := r.answer(1)
	if !slices.Equal(g.interim, []string{"103", "100"}) || last.body != "body" || last.head["link"] != nil {
		t.Errorf("%v, %+v", g.interim, last)
	}
}

// TestEarlyAnswer: an answer before the request's end is whole, the rest of the request is
// not wanted, and what is on its way of it costs nothing.
func TestEarlyAnswer(t *testing.T) {
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "no") })})
	for id := uint32(1); id < 100; id += 2 {
		r.ask(id, "POST", "/")
		var g got
		for !g.reset {
			r.note(&g, id, r.next())
		}
		if !g.ended || g.body != "no" || g.code != http2.ErrCodeNo {
			t.Fatalf("%+v", g)
		}
		for range 4 { // the connection's window comes back
			_ = r.WriteData(id, false, make([]byte, 10_000))
		}
		_ = r.WriteRSTStream(id, http2.ErrCodeCancel)
	}
	r.ask(101, "GET", "/")
	if g := r.answer(101); g.body != "no" {
		t.Errorf("%+v, %v", g, r.faults)
	}
}

// TestCancel: a handler learns that its stream was reset, in whatever it waits.
func TestCancel(t *testing.T) {
	ends := make(chan error, 10)
	in := make(chan struct{}, 10)
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Path {
		case "/context":
			in <- struct{}{}
			<-q.Context().Done()
			ends <- q.Context().Err()
		case "/read":
			in <- struct{}{}
			_, err := io.ReadAll(q.Body)
			ends <- err
		case "/write":
			in <- struct{}{}
			_, err := w.Write(make([]byte, 1<<20))
			ends <- err
		}
	})})
	for i, path := range []string{"/context", "/read", "/write"} {
		id := uint32(2*i + 1)
		r.ask(id, "POST", path)
		<-in
		_ = r.WriteRSTStream(id, http2.ErrCodeCancel)
		if err := <-ends; err == nil {
			t.Errorf("%s goes on", path)
		}
	}
	r.ask(7, "POST", "/read")
	<-in
	r.until("the others' end", func(c *Conn) bool { return c.running == 1 })
	r.nc.Close()
	if err := <-ends; err == nil {
		t.Error("goes on after the connection's end")
	}
}

// TestMistakes: what is wrong ends the stream or the connection, with the RFC's code.
func TestMistakes(t *testing.T) {
	ask := func(r *rig) { r.ask(1, "POST", "/") }
	raw := func(kind byte, flags http2.Flags, id uint32, n int) func(*rig) {
		return func(r *rig) { _ = r.WriteRawFrame(http2.FrameType(kind), flags, id, make([]byte, n)) }
	}
	both := func(f ...func(*rig)) func(*rig) {
		return func(r *rig) {
			for _, f := range f {
				f(r)
			}
		}
	}
	for name, one := range map[string]struct {
		send func(*rig)
		code http2.ErrCode
	}{
		"data without a stream":     {raw(typeData, 0, 0, 1), http2.ErrCodeProtocol},
		"data on an idle stream":    {raw(typeData, 0, 1, 1), http2.ErrCodeProtocol},
		"padding too long":          {both(ask, func(r *rig) { _ = r.WriteRawFrame(http2.FrameData, flagPadded, 1, []byte{5, 0, 0}) }), http2.ErrCodeProtocol},
		"headers on a stream of 0":  {raw(typeHeaders, flagEndHeaders, 0, 0), http2.ErrCodeProtocol},
		"headers on an even stream": {raw(typeHeaders, flagEndHeaders, 2, 0), http2.ErrCodeProtocol},
		"headers backwards":         {both(func(r *rig) { r.ask(3, "POST", "/") }, ask), http2.ErrCodeStreamClosed},
		"trailers that don't end":   {both(ask, ask), http2.ErrCodeProtocol},
		"head interrupted":          {both(raw(typeHeaders, 0, 1, 0), raw(typePing, 0, 0, 8)), http2.ErrCodeProtocol},
		"continuation of nothing":   {raw(typeContinuation, 0, 1, 0), http2.ErrCodeProtocol},
		"no fields":                 {both(func(r *rig) { _ = r.WriteRawFrame(typeHeaders, flagEndHeaders, 1, []byte{0xff}) }), http2.ErrCodeCompression},
		"index that is not there":   {func(r *rig) { _ = r.WriteRawFrame(typeHeaders, flagEndHeaders, 1, []byte{0xfe}) }, http2.ErrCodeCompression},
		"reset on idle":             {raw(typeReset, 0, 1, 4), http2.ErrCodeProtocol},
		"reset too short":           {both(ask, raw(typeReset, 0, 1, 3)), http2.ErrCodeFrameSize},
		"settings on a stream":      {raw(typeSettings, 0, 1, 0), http2.ErrCodeProtocol},
		"settings of seven bytes":   {raw(typeSettings, 0, 0, 7), http2.ErrCodeFrameSize},
		"settings too large":        {func(r *rig) { _ = r.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31}) }, http2.ErrCodeFlowControl},
		"push setting":              {func(r *rig) { _ = r.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 2}) }, http2.ErrCodeProtocol},
		"push promise":              {raw(typePush, flagEndHeaders, 1, 4), http2.ErrCodeProtocol},
		"ping of seven":             {raw(typePing, 0, 0, 7), http2.ErrCodeFrameSize},
		"ping on a stream":          {raw(typePing, 0, 1, 8), http2.ErrCodeProtocol},
		"goaway on a stream":        {raw(typeGoAway, 0, 1, 8), http2.ErrCodeProtocol},
		"window of 0":               {raw(typeWindow, 0, 0, 4), http2.ErrCodeProtocol},
		"window on idle":            {raw(typeWindow, 0, 1, 4), http2.ErrCodeProtocol},
		"window too large":          {func(r *rig) { _ = r.WriteWindowUpdate(0, 1<<31-1) }, http2.ErrCodeFlowControl},
		"priority without a stream": {raw(typePriority, 0, 0, 5), http2.ErrCodeProtocol},
		"update on a stream":        {raw(typePriorityUpdate, 0, 1, 4), http2.ErrCodeProtocol},
		"update of nothing":         {raw(typePriorityUpdate, 0, 0, 4), http2.ErrCodeProtocol},
		"update too short":          {raw(typePriorityUpdate, 0, 0, 3), http2.ErrCodeFrameSize},
		"frame too long":            {raw(typeData, 0, 1, maxFrame+1), http2.ErrCodeFrameSize},
		"window of all streams":     {both(ask, func(r *rig) { _ = r.WriteWindowUpdate(1, 1<<30) }, func(r *rig) { _ = r.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1}) }), http2.ErrCodeFlowControl},
		"beyond the conn's window":  {func(r *rig) { flood(r) }, http2.ErrCodeFlowControl},
	} {
		t.Run(name, func(t *testing.T) {
			block := make(chan struct{})
			r := newRig(t, Config{StreamBytes: 1 << 20, ConnBytes: minWindow, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-block })})
			r.SetMaxReadFrameSize(1 << 20)
			defer close(block)
			one.send(r)
			if code := r.over(); code != one.code {
				t.Errorf("%v, expected %v", code, one.code)
			}
			if len(r.faults) == 0 {
				t.Error("nobody was told")
			}
		})
	}
}

func flood(r *rig) {
	r.ask(1, "POST", "/")
	for range 5 {
		_ = r.WriteData(1, false, make([]byte, maxFrame))
	}
}

// TestStreamMistakes end a stream, and the connection goes on.
func TestStreamMistakes(t *testing.T) {
	hold := make(chan struct{})
	r := newRig(t, Config{StreamBytes: 1 << 10, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/hold" {
			select {
			case <-hold:
			case <-q.Context().Done():
			}
			return
		}
		if q.URL.Path == "/length" {
			if _, err := io.ReadAll(q.Body); err == nil {
				t.Error("no error")
			}
			w.WriteHeader(400)
		}
	})})
	defer close(hold)
	id := uint32(1)
	for name, one := range map[string]struct {
		path string
		more []string
		send func()
		code http2.ErrCode
	}{
		"window of 0":        {"/hold", nil, func() { _ = r.WriteRawFrame(typeWindow, 0, id, make([]byte, 4)) }, http2.ErrCodeProtocol},
		"window too large":   {"/hold", nil, func() { _ = r.WriteWindowUpdate(id, 1<<31-1) }, http2.ErrCodeFlowControl},
		"beyond the window":  {"/hold", nil, func() { _ = r.WriteData(id, false, make([]byte, 1100)) }, http2.ErrCodeFlowControl},
		"longer than length": {"/hold", []string{"content-length", "1"}, func() { _ = r.WriteData(id, false, make([]byte, 2)) }, http2.ErrCodeProtocol},
		"shorter":            {"/length", []string{"content-length", "3"}, func() { _ = r.WriteData(id, true, make([]byte, 2)) }, http2.ErrCodeProtocol},
		"bad trailers":       {"/hold", nil, func() { r.head(id, true, ":path", "/x") }, http2.ErrCodeProtocol},
		"framing trailers":   {"/hold", nil, func() { r.head(id, true, "content-length", "1") }, http2.ErrCodeProtocol},
	} {
		r.ask(id, "POST", one.path, one.more...)
		one.send()
		if g := r.answer(id); !g.reset || g.code != one.code {
			t.Errorf("%s: %+v", name, g)
		}
		id += 2
	}
	r.ask(id, "GET", "/")
	if g := r.answer(id); g.status() != "200" {
		t.Errorf("afterwards: %+v", g)
	}
	if err := r.WriteData(1, false, nil); err != nil {
		t.Error(err)
	}
}

// TestMalformed: every malformed head is answered, told to Refuse and reset.
func TestMalformed(t *testing.T) {
	var refused []string
	r := newRig(t, Config{HeadBytes: 2000, Resets: -1, Refuse: func(w http.ResponseWriter, q *http.Request, why Refusal, detail, line string) {
		refused = append(refused, detail+" "+line)
		w.WriteHeader(400 + int(why))
	}})
	base := []string{":method", "GET", ":scheme", "http", ":authority", "a.test", ":path", "/"}
	with := func(more ...string) []string { return append(slices.Clone(base), more...) }
	without := func(name string, more ...string) []string {
		var l []string
		for i := 0; i < len(base); i += 2 {
			if base[i] != name {
				l = append(l, base[i:i+2]...)
			}
		}
		return append(l, more...)
	}
	id := uint32(1)
	for name, fields := range map[string][]string{
		"no method":            without(":method"),
		"no path":              without(":path"),
		"empty path":           without(":path", ":path", ""),
		"relative path":        without(":path", ":path", "a"),
		"star":                 without(":path", ":path", "*"),
		"no scheme":            without(":scheme"),
		"bad scheme":           without(":scheme", ":scheme", "1http"),
		"method twice":         with(":method", "GET"),
		"pseudo late":          without(":path", "x", "y", ":path", "/"),
		"pseudo unknown":       with(":status", "200"),
		"capital":              with("X", "y"),
		"space in name":        with("x y", "z"),
		"no name":              with("", "z"),
		"nul":                  with("x", "a\x00b"),
		"crlf":                 with("x", "a\r\nb: c"),
		"space before":         with("x", " a"),
		"tab after":            with("x", "a\t"),
		"connection":           with("connection", "close"),
		"keep-alive":           with("keep-alive", "1"),
		"proxy-connection":     with("proxy-connection", "1"),
		"transfer-encoding":    with("transfer-encoding", "chunked"),
		"upgrade":              with("upgrade", "h2c"),
		"te":                   with("te", "gzip"),
		"host other":           with("host", "b.test"),
		"hosts":                without(":authority", "host", "a.test", "host", "b.test"),
		"user":                 without(":authority", ":authority", "u@a.test"),
		"protocol without":     with(":protocol", "websocket"),
		"connect with a path":  without(":method", ":method", "CONNECT"),
		"connect to nowhere":   {":method", "CONNECT"},
		"length and no body":   with("content-length", "3"),
		"length no number":     with("content-length", "+3"),
		"length twice":         with("content-length", "0", "content-length", "0"),
		"method with a space":  without(":method", ":method", "GE T"),
		"path with a newline":  without(":path", ":path", "/\n"),
		"authority with a nul": without(":authority", ":authority", "a\x00"),
	} {
		r.head(id, true, fields...)
		if g := r.answer(id); g.status() != "401" || !g.reset || g.code != http2.ErrCodeProtocol || g.ended {
			t.Errorf("%s: %+v", name, g)
		}
		id += 2
	}
	if len(refused) != int(id-1)/2 {
		t.Errorf("%d of %d", len(refused), (id-1)/2)
	}
	r.head(id, true, with("x", strings.Repeat("y", 3000))...)
	if g := r.answer(id); g.status() != "402" || !g.ended {
		t.Errorf("large: %+v", g)
	}
	if got := refused[len(refused)-1]; got != `head that is too large "GET /"` {
		t.Errorf("%q", got)
	}
}

// TestConnect: plain and extended (RFC 8441).
func TestConnect(t *testing.T) {
	seen := make(chan *http.Request, 1)
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		seen <- q
		rc := http.NewResponseController(w)
		w.WriteHeader(200)
		_ = rc.Flush()
		b := make([]byte, 100)
		for {
			n, err := q.Body.Read(b)
			if err != nil {
				return
			}
			_, _ = w.Write(b[:n])
			_ = rc.Flush()
		}
	})})
	r.head(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", "a.test", ":path", "/chat")
	if q := <-seen; q.Header[":protocol"][0] != "websocket" || q.URL.Path != "/chat" || q.Host != "a.test" {
		t.Errorf("%+v", q)
	}
	var g got
	for i := range 3 {
		_ = r.WriteData(1, i == 2, []byte("ping"))
		for len(g.body) < 4*(i+1) {
			r.note(&g, 1, r.next())
		}
	}
	if last := r.answer(1); !last.ended || g.status() != "200" {
		t.Errorf("%+v, %+v", g, last)
	}
	r.head(3, true, ":method", "CONNECT", ":authority", "b.test:443")
	if q := <-seen; q.RequestURI != "b.test:443" || q.URL.Host != "b.test:443" || q.Header[":protocol"] != nil {
		t.Errorf("%+v", q)
	}
	r.answer(3)
}

// TestCloseWrite: an answer that ends before its request.
func TestCloseWrite(t *testing.T) {
	rest := make(chan string, 1)
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.WriteString(w, "all")
		if err := w.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
		if _, err := w.Write(make([]byte, 10_000)); err == nil {
			t.Error("bytes after the end")
		}
		b, err := io.ReadAll(q.Body)
		if err != nil {
			t.Error(err)
		}
		rest <- string(b)
	})})
	r.ask(1, "POST", "/")
	if g := r.answer(1); !g.ended || g.body != "all" {
		t.Errorf("%+v", g)
	}
	_ = r.WriteData(1, false, []byte("more "))
	_ = r.WriteData(1, true, []byte("of it"))
	if got := <-rest; got != "more of it" {
		t.Errorf("%q", got)
	}
	r.until("the end", func(c *Conn) bool { return len(c.streams) == 0 })
	r.ask(3, "POST", "/")
	_ = r.WriteData(3, true, nil)
	if g := r.answer(3); g.reset || g.body != "all" {
		t.Errorf("%+v", g)
	}
}

// TestShutdown: GOAWAY in two steps; what is asked for in between is answered, what comes
// after it is not looked at, and then the connection ends.
func TestShutdown(t *testing.T) {
	hold := make(chan struct{})
	r := newRig(t, Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/hold" {
			<-hold
		}
		_, _ = io.WriteString(w, q.URL.Path)
	})})
	r.ask(1, "GET", "/hold")
	r.until("the handler", func(c *Conn) bool { return c.running == 1 })
	r.c.Shutdown()
	first := r.next().(*http2.GoAwayFrame)
	ping := r.next().(*http2.PingFrame)
	r.ask(3, "GET", "/between")
	g := r.answer(3)
	_ = r.WritePing(true, ping.Data)
	second := r.next().(*http2.GoAwayFrame)
	r.ask(5, "GET", "/late")
	if first.LastStreamID != maxWindow || second.LastStreamID != 3 || g.body != "/between" {
		t.Errorf("%v, %v, %+v", first, second, g)
	}
	close(hold)
	if g = r.answer(1); g.body != "/hold" {
		t.Errorf("%+v", g)
	}
	if code := r.over(); code != 255 {
		t.Errorf("%v", code)
	}
}

// TestShutdownSilent: a client that doesn't answer the ping is told all the same.
func TestShutdownSilent(t *testing.T) {
	r := newRig(t, Config{})
	r.c.Shutdown()
	r.until("the first", func(c *Conn) bool { return c.stage == stageTold })
	r.pass(500 * time.Millisecond)
	r.until("no second", func(c *Conn) bool { return c.stage == stageTold })
	r.pass(time.Second)
	if code := r.over(); code != http2.ErrCodeNo {
		t.Errorf("%v", code)
	}
}

// TestRequestsLimit: the connection ends in good order: what the client asked for before it
// knew is answered.
func TestRequestsLimit(t *testing.T) {
	r := newRig(t, Config{Requests: 2})
	for id := uint32(1); id < 9; id += 2 {
		r.ask(id, "GET", "/")
	}
	answered, told := 0, false
	var ping [8]byte
	for pinged := false; answered < 4 || !told || !pinged; {
		switch f := r.next().(type) {
		case *http2.HeadersFrame:
			answered++
		case *http2.GoAwayFrame:
			told = f.LastStreamID == maxWindow
		case *http2.PingFrame:
			ping, pinged = f.Data, true
		}
	}
	_ = r.WritePing(true, ping)
	if code := r.over(); code != http2.ErrCodeNo {
		t.Errorf("%v", code)
	}
}

// TestPriorityUpdate: kept for a stream to come, taken for one there is.
func TestPriorityUpdate(t *testing.T) {
	hold := make(chan struct{})
	r := newRig(t, Config{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold })})
	update := func(id uint32, p string) {
		_ = r.WriteRawFrame(typePriorityUpdate, 0, 0, append(binary.BigEndian.AppendUint32(nil, id), p...))
	}
	prio := func(id uint32, want priority) {
		t.Helper()
		r.until("a priority", func(c *Conn) bool { return c.streams[id] != nil && c.streams[id].prio == want })
	}
	r.ask(1, "GET", "/")
	prio(1, fairPriority) // a client that knows of none
	update(3, "u=1")
	r.ask(3, "GET", "/", "priority", "u=5, i")
	prio(3, priority{1, false})
	update(3, "u=7, i")
	prio(3, priority{7, true})
	r.ask(5, "GET", "/", "priority", "u=2, i=?0;a=b, q=\"x\"")
	prio(5, priority{2, false})
	r.ask(7, "GET", "/")
	prio(7, plainPriority)
	r.ask(9, "GET", "/", "priority", "u=0", "via", "2 proxy")
	prio(9, fairPriority)
	close(hold)
}
