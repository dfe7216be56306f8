package message

import (
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/np-appliance/np/ctrl/gateway/message/wstest"
)

func newSocket(t *testing.T, change func(*SocketOptions)) (http.Handler, *backend) {
	t.Helper()
	b := newBackend(t)
	o := SocketOptions{Cluster: newCluster(t, nil, b), Opcode: "TALK", MaxMessage: wstest.Max}
	if change != nil {
		change(&o)
	}
	s, err := NewSocket(o)
	if err != nil {
		t.Fatal(err)
	}
	return s, b
}

func TestStrict(t *testing.T) {
	t.Parallel()
	h, _ := newSocket(t, nil)
	wstest.Run(t, wstest.Open1(strings.TrimPrefix(front(t, h).URL, "http://"), "/ws?a=b"))
}

func TestStrictRequests(t *testing.T) {
	t.Parallel()
	h, _ := newSocket(t, func(o *SocketOptions) { o.Requests, o.Opcode = true, "ECHO" })
	wstest.Run(t, wstest.Open1(strings.TrimPrefix(front(t, h).URL, "http://"), "/ws?a=b"))
}

func TestHandshake(t *testing.T) {
	h, b := newSocket(t, func(o *SocketOptions) {
		o.Origins = []string{"https://app.test", "https://*.any.test"}
		o.Subprotocols = []string{"v2", "v1"}
	})
	address := strings.TrimPrefix(front(t, h).URL, "http://")
	for origin, want := range map[string]int{"": 101, "https://app.test": 101, "HTTPS://APP.test": 101, "https://a.any.test": 101, "https://any.test": 403, "https://.any.test": 403,
		"https://evil.test": 403, "https://evil.test/.any.test": 403, "https://evil@x.any.test": 403, "null": 403, "http://app.test": 403} {
		fields := []string{"Sec-WebSocket-Protocol", "v1, v2"}
		if origin != "" {
			fields = append(fields, "Origin", origin)
		}
		_, resp := wstest.Dial(t, address, "/ws?a=b", fields...)
		if resp.StatusCode != want {
			t.Errorf("%s: %d", origin, resp.StatusCode)
		}
		if want == 101 && resp.Header.Get("Sec-Websocket-Protocol") != "v2" {
			t.Errorf("%v", resp.Header)
		}
	}
	meta := b.last().Context
	for key, want := range map[uint8]string{keyTarget: "/ws?a=b", keySubprotocol: "v2", keySubject: "somebody"} {
		if v, _ := entry(&meta, key); string(v) != want {
			t.Errorf("entry %#x is %q", key, v)
		}
	}
	if resp, body := do(t, "GET", "http://"+address, nil); resp.StatusCode != 400 || !strings.Contains(body, "expected a WebSocket") {
		t.Errorf("%d, %s", resp.StatusCode, body)
	}
	if _, resp := wstest.Dial(t, address, "/ws?a=b", "Sec-WebSocket-Version", "8"); resp.StatusCode != 400 && resp.StatusCode != 101 {
		t.Errorf("%d", resp.StatusCode)
	}
	same, _ := newSocket(t, nil)
	address = strings.TrimPrefix(front(t, same).URL, "http://")
	for origin, want := range map[string]int{"http://gateway.test": 101, "https://gateway.test": 101, "https://other.test": 403, "null": 403} {
		if _, resp := wstest.Dial(t, address, "/ws?a=b", "Origin", origin); resp.StatusCode != want {
			t.Errorf("%s: %d", origin, resp.StatusCode)
		}
	}
	no, _ := newSocket(t, func(o *SocketOptions) { o.Opcode = "NO" })
	if _, resp := wstest.Dial(t, strings.TrimPrefix(front(t, no).URL, "http://"), "/ws?a=b"); resp.StatusCode != 403 {
		t.Errorf("refused by the upstream: %d", resp.StatusCode)
	}
}

// TestSilent: a client that answers no ping is let go.
func TestSilent(t *testing.T) {
	h, _ := newSocket(t, func(o *SocketOptions) { o.Ping = 30 * time.Millisecond })
	w, _ := wstest.Dial(t, strings.TrimPrefix(front(t, h).URL, "http://"), "/ws?a=b")
	pings := 0
	for {
		op, _, err := w.Next()
		if err != nil {
			break
		}
		if op == wstest.OpPing {
			pings++
		}
	}
	if pings == 0 {
		t.Error("it was not asked")
	}
}

// TestUpstreamEnds: the close of an upstream, and its end without a word, get to the client.
func TestUpstreamEnds(t *testing.T) {
	h, b := newSocket(t, nil)
	address := strings.TrimPrefix(front(t, h).URL, "http://")
	w, _ := wstest.Dial(t, address, "/ws?a=b")
	if _, err := w.Write(wstest.Frame(wstest.Fin|wstest.OpText, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	if op, p, err := w.Next(); err != nil || op != wstest.OpText || string(p) != "x" {
		t.Fatalf("%d, %q, %v", op, p, err)
	}
	b.Drop()
	op, p, err := w.Next()
	if err != nil || op != wstest.OpClose || binary.BigEndian.Uint16(p) != closeInternal {
		t.Fatalf("%d, %q, %v", op, p, err)
	}
	if _, err := w.Write(wstest.CloseFrame(closeInternal, "")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}

// TestBomb: a small compressed message that becomes a large one is refused.
func TestBomb(t *testing.T) {
	h, _ := newSocket(t, func(o *SocketOptions) { o.Compress = true })
	d := websocket.Dialer{EnableCompression: true}
	ws, resp, err := d.DialContext(t.Context(), "ws"+strings.TrimPrefix(front(t, h).URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	if resp.Header.Get("Sec-Websocket-Extensions") == "" {
		t.Fatal("no compression")
	}
	ok := strings.Repeat("a", wstest.Max)
	if err := ws.WriteMessage(websocket.TextMessage, []byte(ok)); err != nil {
		t.Fatal(err)
	}
	if _, m, err := ws.ReadMessage(); err != nil || string(m) != ok {
		t.Fatalf("%d bytes, %v", len(m), err)
	}
	if err := ws.WriteMessage(websocket.TextMessage, make([]byte, 50*wstest.Max)); err != nil {
		t.Fatal(err)
	}
	var closedErr *websocket.CloseError
	if _, _, err := ws.ReadMessage(); !errors.As(err, &closedErr) || closedErr.Code != websocket.CloseMessageTooBig {
		t.Errorf("%v", err)
	}
}

// TestBackpressure: a client that reads nothing stops the upstream, and memory stays
// bounded by the windows; once it reads, all of it comes.
func TestBackpressure(t *testing.T) {
	h, _ := newSocket(t, nil)
	ws, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(front(t, h).URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	const count, size = 300, 50_000
	go func() {
		for i := range count {
			m := make([]byte, size)
			binary.BigEndian.PutUint32(m, uint32(i))
			if ws.WriteMessage(websocket.BinaryMessage, m) != nil {
				return
			}
		}
	}()
	for i := range count {
		_, m, err := ws.ReadMessage()
		if err != nil || len(m) != size || binary.BigEndian.Uint32(m) != uint32(i) {
			t.Fatalf("message %d: %d bytes, %v", i, len(m), err)
		}
	}
}
