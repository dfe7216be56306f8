package message

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/message/bhttp"
	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/ctrl/upstream"
)

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestClusterShares(t *testing.T) {
	b := newBackend(t)
	c := newCluster(t, func(_ *upstream.Config, cc *ClusterConfig) { cc.PerConnection = 8 }, b)
	warm := Call{Request: client.Request{Opcode: "ECHO", Payload: []byte("x")}}
	if resp, err := c.Do(t.Context(), warm); err != nil || string(resp.Payload) != "x" {
		t.Fatalf("%q, %v", resp.Payload, err)
	}
	// 32 streams at a time need four connections of eight.
	var open []*Stream
	for range 32 {
		st, err := c.Open(t.Context(), Call{Request: client.Request{Opcode: "TALK"}})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, st)
	}
	if b.conns != 4 {
		t.Errorf("%d connections", b.conns)
	}
	for _, st := range open {
		st.Close(nil)
	}
	if s := c.Pools(true); len(s) != 1 || s[0].Pool.Borrowed != 0 || s[0].InFlight != 0 || s[0].Requests != 33 || s[0].Endpoint != b.address {
		t.Errorf("%+v", s)
	}
}

func TestClusterRetries(t *testing.T) {
	b1, b2 := newBackend(t), newBackend(t)
	c := newCluster(t, func(uc *upstream.Config, _ *ClusterConfig) {
		uc.Retry = upstream.RetryPolicy{Attempts: 4, Backoff: upstream.BackoffNone}
	}, b1, b2)
	call := Call{Request: client.Request{Opcode: "ECHO", Payload: []byte("x")}, Idempotent: true}
	for range 4 {
		if _, err := c.Do(t.Context(), call); err != nil {
			t.Fatal(err)
		}
	}
	b1.Close()
	for i := range 20 {
		if _, err := c.Do(t.Context(), call); err != nil {
			t.Fatalf("request %d after one of two was gone: %v", i, err)
		}
	}
	b2.Drop() // its connections, not itself
	for i := range 4 {
		if _, err := c.Do(t.Context(), call); err != nil {
			t.Fatalf("request %d after the connections were gone: %v", i, err)
		}
	}
	b2.Close()
	_, err := c.Do(t.Context(), call)
	if why := reasonOf(t.Context(), err); err == nil || why != exchange.ConnectFailed && why != exchange.UpstreamReset {
		t.Errorf("%v: %v", err, why)
	}
}

// rec gives what the answerer of REC was asked.
func recOpcode(into *dispatch.Request, mu *sync.Mutex, reply func(q *dispatch.Request) ([]byte, error)) dispatch.Entry {
	return dispatch.Entry{Opcode: "REC", Handle: func(ctx context.Context, q *dispatch.Request) ([]byte, error) {
		mu.Lock()
		*into = *q
		into.Payload = bytes.Clone(q.Payload)
		mu.Unlock()
		return reply(q)
	}}
}

func TestNorthBody(t *testing.T) {
	var got dispatch.Request
	var mu sync.Mutex
	hold := make(chan struct{})
	defer close(hold)
	b := newBackend(t, recOpcode(&got, &mu, func(q *dispatch.Request) ([]byte, error) {
		addEntry(&q.Reply, keyContentType, "text/x-answer")
		switch string(q.Payload) {
		case "created":
			addStatus(&q.Reply, 201)
		case "teapot":
			addStatus(&q.Reply, 418)
			return nil, &dispatch.Failure{Code: npro.CodeBadRequest, Payload: []byte("short and stout")}
		case "slow":
			<-hold // far beyond its deadline
		case "panic":
			return nil, errors.New("secret")
		}
		return []byte("answer"), nil
	}))
	n, err := NewNorth(NorthOptions{Cluster: newCluster(t, func(uc *upstream.Config, _ *ClusterConfig) { uc.Timeouts.Request = 300 * time.Millisecond }, b), Opcode: "REC",
		Fields: Fields{Tenant: "X-Tenant", Session: "X-Session"}, MaxRequest: 1000})
	if err != nil {
		t.Fatal(err)
	}
	url := front(t, n).URL
	resp, body := do(t, "POST", url+"/a/b?c=d", strings.NewReader("hello"), "Content-Type", "text/plain", "X-Tenant", "t1", "X-Session", "s1", "Traceparent", traceparent)
	if resp.StatusCode != 200 || body != "answer" || resp.Header.Get("Content-Type") != "text/x-answer" {
		t.Errorf("%d, %q, %v", resp.StatusCode, body, resp.Header)
	}
	mu.Lock()
	c := got.Context
	mu.Unlock()
	for key, want := range map[uint8]string{keyContentType: "text/plain", keyMethod: "POST", keyTarget: "/a/b?c=d", keySubject: "somebody"} {
		if v, _ := entry(&c, key); string(v) != want {
			t.Errorf("entry %#x is %q, expected %q", key, v, want)
		}
	}
	if string(got.Payload) != "hello" || c.Tenant != "t1" || c.Session != "s1" || c.Traceparent.String() != traceparent || !c.HasDeadline || c.Deadline > 300*time.Millisecond {
		t.Errorf("%q, %+v", got.Payload, c)
	}
	for _, one := range []struct {
		payload string
		status  int
		want    string
	}{{"created", 201, "answer"}, {"teapot", 418, "short and stout"}, {"panic", 502, "upstream_reset"}, {"slow", 504, "upstream_timeout"}, {strings.Repeat("x", 1001), 413, "body_too_large"}} {
		resp, body := do(t, "POST", url, strings.NewReader(one.payload))
		if resp.StatusCode != one.status || !strings.Contains(body, one.want) || strings.Contains(body, "secret") {
			t.Errorf("%.20q: %d, %q", one.payload, resp.StatusCode, body)
		}
	}
	if resp, body := do(t, "HEAD", url, nil); resp.StatusCode != 200 || body != "" {
		t.Errorf("HEAD: %d, %q", resp.StatusCode, body)
	}
}

func TestNorthCodes(t *testing.T) {
	b := newBackend(t, dispatch.Entry{Opcode: "CODE", Handle: func(_ context.Context, q *dispatch.Request) ([]byte, error) {
		return nil, npro.Code(q.Payload[0])
	}})
	n, err := NewNorth(NorthOptions{Cluster: newCluster(t, nil, b), Opcode: "CODE"})
	if err != nil {
		t.Fatal(err)
	}
	url := front(t, n).URL
	for code, want := range map[byte]int{1: 501, 2: 403, 3: 400, 4: 502, 5: 503, 6: 504, 7: 502, 8: 413, 9: 503, 99: 502} {
		if resp, body := do(t, "POST", url, bytes.NewReader([]byte{code})); resp.StatusCode != want {
			t.Errorf("code %d: %d, %s", code, resp.StatusCode, body)
		}
		// The same as gRPC.
		resp, _ := do(t, "POST", url, bytes.NewReader(appendUnary(nil, []byte{code})), "Content-Type", "application/grpc")
		if got := resp.Header.Get("Grpc-Status"); resp.StatusCode != 200 || got != fmt.Sprint(grpcOfCode(npro.Code(code))) {
			t.Errorf("code %d: %d, %s", code, resp.StatusCode, got)
		}
	}
}

// TestThere sends HTTP over NPRO to a handler of HTTP and compares what it sees with what
// was sent.
func TestThereAndBack(t *testing.T) {
	var seen *http.Request
	var seenBody string
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		seen, seenBody = r, string(raw)
		w.Header().Set("X-Answer", "1")
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "answer to "+seenBody)
		w.Header().Set("X-Sum", "42")
		w.Header().Set(http.TrailerPrefix+"X-More", "43")
	})
	s, err := NewSouth(SouthOptions{Opcode: "HTTP", Handler: handler, Payload: PayloadHTTP})
	if err != nil {
		t.Fatal(err)
	}
	b := newBackend(t, s.Entry())
	n, err := NewNorth(NorthOptions{Cluster: newCluster(t, nil, b), Opcode: "HTTP", Payload: PayloadHTTP})
	if err != nil {
		t.Fatal(err)
	}
	resp, body := do(t, "PUT", front(t, n).URL+"/a%2Fb?c=%20d", strings.NewReader("hello"), "X-Q", "1", "Te", "trailers")
	if resp.StatusCode != 202 || body != "answer to hello" || resp.Header.Get("X-Answer") != "1" || resp.Trailer.Get("X-Sum") != "42" || resp.Trailer.Get("X-More") != "43" {
		t.Errorf("%d, %q, %v, %v", resp.StatusCode, body, resp.Header, resp.Trailer)
	}
	if seen.Method != "PUT" || seen.URL.EscapedPath() != "/a%2Fb" || seen.URL.RawQuery != "c=%20d" || seen.Header.Get("X-Q") != "1" || seen.Header.Get("Connection") != "" || seenBody != "hello" {
		t.Errorf("%s %s, %v", seen.Method, seen.URL, seen.Header)
	}
}

func TestNorthStream(t *testing.T) {
	b := newBackend(t)
	c := newCluster(t, nil, b)
	n, err := NewNorth(NorthOptions{Cluster: c, Opcode: "TALK", Stream: StreamBytes, ContentType: "text/plain"})
	if err != nil {
		t.Fatal(err)
	}
	url := front(t, n).URL
	in, out := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), "POST", url, in)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(out, "first") }()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	buf := make([]byte, 6)
	for _, want := range []string{"first", "second"} {
		if _, err := io.ReadFull(resp.Body, buf[:len(want)]); err != nil || string(buf[:len(want)]) != want {
			t.Fatalf("%q, %v", buf, err)
		}
		if want == "first" {
			if _, err := io.WriteString(out, "second"); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = out.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
		t.Errorf("%q, %v", rest, err)
	}
	no, err := NewNorth(NorthOptions{Cluster: c, Opcode: "NO", Stream: StreamBytes})
	if err != nil {
		t.Fatal(err)
	}
	if resp, body := do(t, "POST", front(t, no).URL, strings.NewReader("x")); resp.StatusCode != 403 {
		t.Errorf("%d, %q", resp.StatusCode, body)
	}
	if s := c.Pools(false); len(s) != 1 || s[0].InFlight != 0 {
		t.Errorf("%+v", s)
	}
}

// TestNorthStreamLost: an upstream that goes ends the request, though its client still has
// something to say and its writer knows no deadlines.
func TestNorthStreamLost(t *testing.T) {
	b := newBackend(t)
	n, err := NewNorth(NorthOptions{Cluster: newCluster(t, nil, b), Opcode: "TALK", Stream: StreamBytes})
	if err != nil {
		t.Fatal(err)
	}
	in, out := io.Pipe()
	w := httptest.NewRecorder()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler { // its answer may have begun
				panic(p)
			}
		}()
		n.ServeHTTP(w, httptest.NewRequest("POST", "/", in))
	}()
	if _, err := io.WriteString(out, "x"); err != nil { // it is open, and read
		t.Fatal(err)
	}
	b.Drop()
	<-done
	_ = out.Close()
}

func TestNorthEvents(t *testing.T) {
	b := newBackend(t) // sends back what it is sent: the body is the stream of messages
	n, err := NewNorth(NorthOptions{Cluster: newCluster(t, nil, b), Opcode: "TALK", Stream: StreamEvents, MaxMessage: 100})
	if err != nil {
		t.Fatal(err)
	}
	url := front(t, n).URL
	body := appendFrame(appendFrame(nil, kindText, []byte("one\ntwo\r\n\rthree")), kindText, nil)
	resp, got := do(t, "POST", url, bytes.NewReader(appendClosing(bytes.Clone(body), closing{closeNormal, "done"})))
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || got != "data: one\ndata: two\ndata: \ndata: three\n\ndata: \n\n" {
		t.Errorf("%d, %q", resp.StatusCode, got)
	}
	if resp, got = do(t, "POST", url, bytes.NewReader(body)); resp.StatusCode != 200 || !strings.HasSuffix(got, "three\n\ndata: \n\n") {
		t.Errorf("end without a word: %d, %q", resp.StatusCode, got)
	}
	for name, raw := range map[string][]byte{"bytes": appendFrame(nil, kindBytes, nil), "large": appendFrame(nil, kindText, make([]byte, 101)), "kind": {7, 0, 0, 0, 0}, "cut": {1, 0, 0, 0, 9, 1}, "utf8": appendFrame(nil, kindText, []byte{0xff}), "failed": appendClosing(nil, closing{closeInternal, ""})} {
		if resp, got := do(t, "POST", url, bytes.NewReader(raw)); resp.StatusCode != 502 {
			t.Errorf("%s: %d, %q", name, resp.StatusCode, got)
		}
	}
}

// call asks a south's registry as ctrl/session does.
func call(t *testing.T, s *South, q *dispatch.Request) (npro.Code, []byte) {
	t.Helper()
	reg, err := dispatch.New(slog.New(slog.DiscardHandler), s.Entry())
	if err != nil {
		t.Fatal(err)
	}
	return reg.Call(t.Context(), reg.Lookup(s.o.Opcode), q)
}

func TestSouthBody(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		if r.Method != "POST" || r.URL.Path != "/ORDER/1" || r.Host != "orders" || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("X-Tenant") != "t" || r.Header.Get("Traceparent") != traceparent {
			t.Errorf("%s %s %s %v", r.Method, r.Host, r.URL, r.Header)
		}
		w.Header().Set("Content-Type", "text/plain")
		switch string(raw) {
		case "missing":
			http.Error(w, "no such order", http.StatusNotFound)
		case "abort":
			panic(http.ErrAbortHandler)
		case "large":
			_, err := w.Write(make([]byte, 2000))
			if err == nil {
				t.Error("no error for an answer that is too large")
			}
		default:
			_, _ = io.WriteString(w, "order of "+string(raw))
		}
	})
	s, err := NewSouth(SouthOptions{Opcode: "ORDER", Handler: h, Path: "/ORDER/1", Host: "orders", Fields: Fields{Tenant: "X-Tenant"}, MaxAnswer: 1000})
	if err != nil {
		t.Fatal(err)
	}
	tp, _ := npro.ParseTraceparent(traceparent)
	meta := npro.Context{Tenant: "t", Traceparent: tp, HasTraceparent: true}
	addEntry(&meta, keyContentType, "application/json")
	for payload, want := range map[string]struct {
		code   npro.Code
		answer string
		status int
	}{"7": {npro.CodeOK, "order of 7", 200}, "missing": {npro.CodeBadRequest, "no such order\n", 404}, "abort": {npro.CodeUnavailable, "", 0}, "large": {npro.CodeTooLarge, "", 0}} {
		q := &dispatch.Request{Opcode: "ORDER", Payload: []byte(payload), Context: meta}
		code, got := call(t, s, q)
		if code != want.code || string(got) != want.answer || httpStatus(&q.Reply) != want.status {
			t.Errorf("%s: %v, %q, %+v", payload, code, got, q.Reply)
		}
	}
}

func TestSouthGRPC(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		message, err := unary(raw)
		if err != nil || !exchange.IsGRPC(r) || r.Header.Get("Te") != "trailers" || r.URL.Path != "/a.B/C" {
			t.Errorf("%v, %v, %s", err, r.Header, r.URL)
		}
		w.Header().Set("Content-Type", "application/grpc")
		if string(message) == "fail" {
			w.Header().Set("Grpc-Status", "7")
			w.Header().Set("Grpc-Message", "not%20you")
			return
		}
		_, _ = w.Write(appendUnary(nil, append([]byte("re: "), message...)))
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	})
	s, err := NewSouth(SouthOptions{Opcode: "CALL", Handler: h, Payload: PayloadGRPC, Path: "/a.B/C"})
	if err != nil {
		t.Fatal(err)
	}
	q := &dispatch.Request{Opcode: "CALL", Payload: []byte("hi")}
	if code, got := call(t, s, q); code != npro.CodeOK || string(got) != "re: hi" {
		t.Errorf("%v, %q", code, got)
	}
	q = &dispatch.Request{Opcode: "CALL", Payload: []byte("fail")}
	code, got := call(t, s, q)
	if v, _ := entry(&q.Reply, keyGRPCStatus); code != npro.CodeDenied || string(got) != "not you" || !bytes.Equal(v, []byte{7}) {
		t.Errorf("%v, %q, %v", code, got, v)
	}
}

// duplex is a stream of NPRO whose other end is a test.
type duplex struct {
	io.Reader
	out    bytes.Buffer
	closed bool
}

func (d *duplex) Write(p []byte) (int, error) { return d.out.Write(p) }
func (d *duplex) CloseWrite() error           { d.closed = true; return nil }

func TestSouthStreams(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "a page")
			return
		}
		w.Header().Set("X-A", "1")
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			if line != "" {
				_, _ = io.WriteString(w, "> "+line)
			}
			if err != nil {
				break
			}
		}
		w.Header().Set(http.TrailerPrefix+"X-T", "2")
	})
	run := func(o SouthOptions, in []byte) (*duplex, error) {
		o.Opcode, o.Handler, o.Streams = "S", h, true
		s, err := NewSouth(o)
		if err != nil {
			t.Fatal(err)
		}
		d := &duplex{Reader: bytes.NewReader(in)}
		return d, s.Entry().Stream(t.Context(), &dispatch.Request{Opcode: "S"}, d)
	}
	if d, err := run(SouthOptions{}, []byte("a\nb\n")); err != nil || d.out.String() != "> a\n> b\n" {
		t.Errorf("%q, %v", d.out.String(), err)
	}
	if d, err := run(SouthOptions{Path: "/no"}, nil); !errors.Is(err, npro.CodeDenied) || d.out.Len() != 0 {
		t.Errorf("%q, %v", d.out.String(), err)
	}
	head, err := bhttp.AppendRequestHead(nil, &bhttp.Request{Method: "POST", Scheme: "http", Authority: "a", Path: "/x"})
	if err != nil {
		t.Fatal(err)
	}
	whole, _ := bhttp.AppendEnd(bhttp.AppendChunk(head, []byte("a\n")), nil)
	d, err := run(SouthOptions{Payload: PayloadHTTP}, whole)
	if err != nil {
		t.Fatal(err)
	}
	a, err := bhttp.ParseResponse(d.out.Bytes(), bhttp.Limits{})
	if err != nil || a.Status != 200 || string(a.Body) != "> a\n" || a.Header.Get("X-A") != "1" || a.Trailer.Get("X-T") != "2" {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := run(SouthOptions{Payload: PayloadHTTP}, []byte("nothing of the kind")); !errors.Is(err, npro.CodeBadRequest) {
		t.Errorf("%v", err)
	}
}

func TestOptions(t *testing.T) {
	c := newCluster(t, nil, newBackend(t))
	for want, o := range map[string]NorthOptions{
		"no upstream":        {Opcode: "X"},
		"expected 1 to 63":   {Cluster: c},
		"is not known":       {Cluster: c, Opcode: "X", Stream: 9},
		"events are":         {Cluster: c, Opcode: "X", Stream: StreamEvents, Payload: PayloadHTTP},
		"priority is 8":      {Cluster: c, Opcode: "X", Priority: 8},
		"a limit of -1 byte": {Cluster: c, Opcode: "X", MaxRequest: -1},
	} {
		if _, err := NewNorth(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	h := http.NotFoundHandler()
	for want, o := range map[string]SouthOptions{
		"nothing that answers":    {Opcode: "X"},
		"expected 1 to 63":        {Handler: h},
		"expected /package.Servi": {Opcode: "X", Handler: h, Payload: PayloadGRPC},
		"answers of -1":           {Opcode: "X", Handler: h, MaxAnswer: -1},
		`path "x"`:                {Opcode: "X", Handler: h, Path: "x"},
	} {
		if _, err := NewSouth(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for want, o := range map[string]SocketOptions{
		"no upstream":       {Opcode: "X"},
		`origin "app"`:      {Cluster: c, Opcode: "X", Origins: []string{"app"}},
		`origin "https://a`: {Cluster: c, Opcode: "X", Origins: []string{"https://a/b"}},
		"messages of -1":    {Cluster: c, Opcode: "X", MaxMessage: -1},
		"a time is negativ": {Cluster: c, Opcode: "X", Ping: -1},
	} {
		if _, err := NewSocket(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(appendClosing(appendFrame(appendFrame(nil, kindText, []byte("text")), kindBytes, []byte{0xff}), closing{1000, "bye"}))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		in := newFrames(bytes.NewReader(raw), 1000)
		var again []byte
		for range len(raw)/frameHead + 1 {
			kind, message, end, err := in.next()
			if err != nil {
				return
			}
			if end != nil {
				again = appendClosing(again, *end)
			} else {
				again = appendFrame(again, kind, message)
			}
			if !bytes.HasPrefix(raw, again) {
				t.Fatalf("%x read as %x", raw, again)
			}
		}
	})
}

// FuzzSouth gives hostile payloads and contexts to each kind of opcode.
func FuzzSouth(f *testing.F) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	})
	var all []*South
	for _, o := range []SouthOptions{{Payload: PayloadBody, Fields: Fields{"X-T", "X-S"}}, {Payload: PayloadHTTP}, {Payload: PayloadGRPC, Path: "/a.B/C"}} {
		o.Opcode, o.Handler = "X", h
		s, err := NewSouth(o)
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, s)
	}
	raw, _ := bhttp.AppendRequest(nil, &bhttp.Request{Method: "GET", Scheme: "http", Authority: "a", Path: "/x?y"})
	block, _ := npro.AppendContext(nil, &npro.Context{Tenant: "t", Extra: []npro.Entry{{Key: keyContentType, Value: []byte("a/b")}}})
	f.Add(raw, block)
	f.Add(binary.BigEndian.AppendUint32([]byte{0}, 3), []byte{0, 0})
	f.Fuzz(func(t *testing.T, payload, block []byte) {
		c, _, err := npro.ParseContext(block)
		if err != nil {
			return
		}
		for _, s := range all {
			q := &dispatch.Request{Opcode: "X", Payload: payload, Context: c}
			if out, err := s.handle(context.Background(), q); err == nil && s.o.Payload == PayloadBody && !bytes.Equal(out, payload) {
				t.Fatalf("%x came back as %x", payload, out)
			}
			if _, err := npro.AppendContext(nil, &q.Reply); err != nil {
				t.Fatalf("context of the reply can't be sent: %v", err)
			}
		}
	})
}
