package message

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// raw is a client of WebSocket that can do what it must not.
type raw struct {
	t  *testing.T
	nc net.Conn
	r  *bufio.Reader
}

func dialRaw(t *testing.T, address string, fields ...string) (*raw, *http.Response) {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	head := "GET /ws?a=b HTTP/1.1\r\nHost: gateway.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for i := 0; i+1 < len(fields); i += 2 {
		head += fields[i] + ": " + fields[i+1] + "\r\n"
	}
	if _, err := io.WriteString(nc, head+"\r\n"); err != nil {
		t.Fatal(err)
	}
	w := &raw{t: t, nc: nc, r: bufio.NewReader(nc)}
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return w, resp
}

// frame makes a frame. first is FIN, RSV and opcode.
func frame(first byte, payload []byte) []byte {
	return frameSized(first, uint64(len(payload)), payload)
}

func frameSized(first byte, size uint64, payload []byte) []byte {
	out := []byte{first}
	switch {
	case size < 126:
		out = append(out, 0x80|byte(size))
	case size < 1<<16:
		out = binary.BigEndian.AppendUint16(append(out, 0x80|126), uint16(size))
	default:
		out = binary.BigEndian.AppendUint64(append(out, 0x80|127), size)
	}
	mask := [4]byte{0x12, 0x34, 0x56, 0x78}
	out = append(out, mask[:]...)
	for i, c := range payload {
		out = append(out, c^mask[i%4])
	}
	return out
}

const (
	fin, rsv1                              = 0x80, 0x40
	opCont, opText, opBin, opClose, opPing = 0, 1, 2, 8, 9
	opPong                                 = 10
)

// next reads a frame of the server; a whole message is its only one here, or in pieces.
func (w *raw) next() (op byte, payload []byte, err error) {
	for {
		var head [2]byte
		if _, err := io.ReadFull(w.r, head[:]); err != nil {
			return 0, nil, err
		}
		if head[1]&0x80 != 0 || head[0]&0x70 != 0 {
			return 0, nil, fmt.Errorf("server sent a frame beginning %x", head)
		}
		n := uint64(head[1])
		if n >= 126 {
			size := make([]byte, 2)
			if n == 127 {
				size = make([]byte, 8)
			}
			if _, err := io.ReadFull(w.r, size); err != nil {
				return 0, nil, err
			}
			n = 0
			for _, b := range size {
				n = n<<8 | uint64(b)
			}
		}
		part := make([]byte, n)
		if _, err := io.ReadFull(w.r, part); err != nil {
			return 0, nil, err
		}
		if o := head[0] & 0xf; o >= 8 {
			return o, part, nil
		} else if o != 0 {
			op = o
		}
		payload = append(payload, part...)
		if head[0]&fin != 0 {
			return op, payload, nil
		}
	}
}

type reply struct {
	op      byte
	payload string
}

func text(s string) reply { return reply{opText, s} }
func bin(s string) reply  { return reply{opBin, s} }
func closed(codes ...uint16) reply {
	b := []byte{}
	for _, c := range codes {
		b = binary.BigEndian.AppendUint16(b, c)
	}
	return reply{opClose, string(b)}
}

func closeFrame(code uint16, reason string) []byte {
	return frame(fin|opClose, append(binary.BigEndian.AppendUint16(nil, code), reason...))
}

func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

const socketMax = 100_000

// strict are what a client sends and what it must get. Of a reply of close all codes that
// it names will do.
func strict() map[string]struct {
	send []byte
	want []reply
} {
	type one = struct {
		send []byte
		want []reply
	}
	bye := closeFrame(1000, "bye")
	all := map[string]one{
		"text":                    {join(frame(fin|opText, []byte("hello \u20ac")), bye), []reply{text("hello \u20ac"), closed(1000)}},
		"empty":                   {join(frame(fin|opText, nil), frame(fin|opBin, nil), bye), []reply{text(""), bin(""), closed(1000)}},
		"fragments":               {join(frame(opText, []byte("frag")), frame(opCont, nil), frame(fin|opCont, []byte("ment")), bye), []reply{text("fragment"), closed(1000)}},
		"ping":                    {join(frame(fin|opPing, []byte("x")), frame(fin|opPing, make([]byte, 125)), bye), []reply{{opPong, "x"}, {opPong, string(make([]byte, 125))}, closed(1000)}},
		"ping between fragments":  {join(frame(opText, []byte("a")), frame(fin|opPing, []byte("p")), frame(fin|opCont, []byte("b")), bye), []reply{{opPong, "p"}, text("ab"), closed(1000)}},
		"pong that nobody asked":  {join(frame(fin|opPong, []byte("x")), frame(fin|opText, []byte("t")), bye), []reply{text("t"), closed(1000)}},
		"character in two pieces": {join(frame(opText, []byte{0xe2, 0x82}), frame(fin|opCont, []byte{0xac}), bye), []reply{text("\u20ac"), closed(1000)}},
		"bytes that are no text":  {join(frame(fin|opBin, []byte{0xff, 0}), bye), []reply{bin("\xff\x00"), closed(1000)}},
		"no UTF-8":                {frame(fin|opText, []byte{'a', 0xff}), []reply{closed(1007)}},
		"surrogate":               {frame(fin|opText, []byte{0xed, 0xa0, 0x80}), []reply{closed(1007)}},
		"overlong":                {frame(fin|opText, []byte{0xc0, 0xaf}), []reply{closed(1007)}},
		"no UTF-8 in pieces":      {join(frame(opText, []byte{0xe2}), frame(fin|opCont, []byte("x"))), []reply{closed(1007)}},
		"half a character":        {frame(fin|opText, []byte{0xe2, 0x82}), []reply{closed(1007)}},
		"RSV1":                    {frame(fin|rsv1|opText, []byte("x")), []reply{closed(1002)}},
		"RSV2":                    {frame(fin|0x20|opText, []byte("x")), []reply{closed(1002)}},
		"RSV3":                    {frame(fin|0x10|opPing, []byte("x")), []reply{closed(1002)}},
		"opcode 3":                {frame(fin|3, nil), []reply{closed(1002)}},
		"opcode 7":                {frame(7, []byte("x")), []reply{closed(1002)}},
		"opcode 11":               {frame(fin|11, nil), []reply{closed(1002)}},
		"opcode 15":               {frame(fin|15, []byte("x")), []reply{closed(1002)}},
		"long ping":               {frame(fin|opPing, make([]byte, 126)), []reply{closed(1002)}},
		"ping in pieces":          {join(frame(opPing, []byte("x")), frame(fin|opCont, nil)), []reply{closed(1002)}},
		"long close":              {frame(fin|opClose, make([]byte, 126)), []reply{closed(1002)}},
		"close in pieces":         {frame(opClose, []byte{3, 0xe8}), []reply{closed(1002)}},
		"continuation of nothing": {frame(fin|opCont, []byte("x")), []reply{closed(1002)}},
		"text inside fragments":   {join(frame(opText, []byte("x")), frame(fin|opText, []byte("y"))), []reply{closed(1002)}},
		"without mask":            {[]byte{fin | opText, 1, 'x'}, []reply{closed(1002)}},
		"close of one byte":       {frame(fin|opClose, []byte{3}), []reply{closed(1000, 1002)}}, // the library takes it for one without code
		"close without code":      {frame(fin|opClose, nil), []reply{closed(1000)}},
		"close, bad reason":       {closeFrame(1000, "\xff"), []reply{closed(1002, 1007)}},
		"close, long reason":      {closeFrame(1000, strings.Repeat("r", 123)), []reply{closed(1000)}},
		"something after close":   {join(bye, frame(fin|opText, []byte("x")), frame(fin|opPing, nil)), []reply{closed(1000)}},
		"too large":               {frame(fin|opBin, make([]byte, socketMax+1)), []reply{closed(1009)}},
		"too large in pieces":     {join(frame(opBin, make([]byte, socketMax)), frame(fin|opCont, []byte("xx"))), []reply{closed(1009)}},
		"length of a lie":         {frameSized(fin|opBin, 1<<40, []byte("x")), []reply{closed(1009)}},
		"length below zero":       {frameSized(fin|opBin, 1<<63, []byte("x")), []reply{closed(1002, 1009)}},
	}
	for _, n := range []int{125, 126, 127, 128, 65535, 65536, socketMax} {
		payload := strings.Repeat("*", n)
		all[fmt.Sprint(n, " bytes")] = one{join(frame(fin|opBin, []byte(payload)), bye), []reply{bin(payload), closed(1000)}}
	}
	for _, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		all[fmt.Sprint("close ", code)] = one{closeFrame(code, ""), []reply{closed(code)}}
	}
	for _, code := range []uint16{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		all[fmt.Sprint("close ", code)] = one{closeFrame(code, ""), []reply{closed(1002)}}
	}
	var pings []byte
	var pongs []reply
	for i := range 20 {
		pings = append(pings, frame(fin|opPing, []byte{byte(i)})...)
		pongs = append(pongs, reply{opPong, string([]byte{byte(i)})})
	}
	all["many pings"] = one{join(pings, bye), append(pongs, closed(1000))}
	return all
}

// runStrict runs the cases against the server at an address; cut: a byte at a time.
func runStrict(t *testing.T, address string) {
	for name, one := range strict() {
		for _, cut := range []bool{false, true} {
			if cut && len(one.send) > 300 {
				continue
			}
			t.Run(fmt.Sprint(name, map[bool]string{true: ", a byte at a time"}[cut]), func(t *testing.T) {
				t.Parallel()
				w, resp := dialRaw(t, address)
				if resp.StatusCode != 101 || resp.Header.Get("Sec-Websocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || resp.Header.Get("Sec-Websocket-Extensions") != "" {
					t.Fatalf("%d, %v", resp.StatusCode, resp.Header)
				}
				send := one.send
				for len(send) > 0 {
					n := len(send)
					if cut {
						n = 1
					}
					if _, err := w.nc.Write(send[:n]); err != nil {
						break // closed already, which the replies show
					}
					send = send[n:]
				}
				for i, want := range one.want {
					op, payload, err := w.next()
					if err != nil {
						t.Fatalf("reply %d: %v", i, err)
					}
					if want.op == opClose && op == opClose && len(payload) >= 2 && strings.Contains(want.payload, string(payload[:2])) {
						continue
					}
					if op != want.op || string(payload) != want.payload {
						t.Fatalf("reply %d: opcode %d, %.40q, expected %d, %.40q", i, op, payload, want.op, want.payload)
					}
				}
				if op, payload, err := w.next(); !errors.Is(err, io.EOF) {
					t.Errorf("after the close: opcode %d, %q, %v", op, payload, err)
				}
			})
		}
	}
}

func newSocket(t *testing.T, change func(*SocketOptions)) (http.Handler, *backend) {
	t.Helper()
	b := newBackend(t)
	o := SocketOptions{Cluster: newCluster(t, nil, b), Opcode: "TALK", MaxMessage: socketMax}
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
	runStrict(t, strings.TrimPrefix(front(t, h).URL, "http://"))
}

func TestStrictRequests(t *testing.T) {
	t.Parallel()
	h, _ := newSocket(t, func(o *SocketOptions) { o.Requests, o.Opcode = true, "ECHO" })
	runStrict(t, strings.TrimPrefix(front(t, h).URL, "http://"))
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
		_, resp := dialRaw(t, address, fields...)
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
	if _, resp := dialRaw(t, address, "Sec-WebSocket-Version", "8"); resp.StatusCode != 400 && resp.StatusCode != 101 {
		t.Errorf("%d", resp.StatusCode)
	}
	same, _ := newSocket(t, nil)
	address = strings.TrimPrefix(front(t, same).URL, "http://")
	for origin, want := range map[string]int{"http://gateway.test": 101, "https://gateway.test": 101, "https://other.test": 403, "null": 403} {
		if _, resp := dialRaw(t, address, "Origin", origin); resp.StatusCode != want {
			t.Errorf("%s: %d", origin, resp.StatusCode)
		}
	}
	no, _ := newSocket(t, func(o *SocketOptions) { o.Opcode = "NO" })
	if _, resp := dialRaw(t, strings.TrimPrefix(front(t, no).URL, "http://")); resp.StatusCode != 403 {
		t.Errorf("refused by the upstream: %d", resp.StatusCode)
	}
}

// TestSilent: a client that answers no ping is let go.
func TestSilent(t *testing.T) {
	h, _ := newSocket(t, func(o *SocketOptions) { o.Ping = 30 * time.Millisecond })
	w, _ := dialRaw(t, strings.TrimPrefix(front(t, h).URL, "http://"))
	pings := 0
	for {
		op, _, err := w.next()
		if err != nil {
			break
		}
		if op == opPing {
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
	w, _ := dialRaw(t, address)
	if _, err := w.nc.Write(frame(fin|opText, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	if op, p, err := w.next(); err != nil || op != opText || string(p) != "x" {
		t.Fatalf("%d, %q, %v", op, p, err)
	}
	b.Drop()
	op, p, err := w.next()
	if err != nil || op != opClose || binary.BigEndian.Uint16(p) != closeInternal {
		t.Fatalf("%d, %q, %v", op, p, err)
	}
	if _, err := w.nc.Write(closeFrame(closeInternal, "")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.next(); !errors.Is(err, io.EOF) {
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
	ok := strings.Repeat("a", socketMax)
	if err := ws.WriteMessage(websocket.TextMessage, []byte(ok)); err != nil {
		t.Fatal(err)
	}
	if _, m, err := ws.ReadMessage(); err != nil || string(m) != ok {
		t.Fatalf("%d bytes, %v", len(m), err)
	}
	if err := ws.WriteMessage(websocket.TextMessage, make([]byte, 50*socketMax)); err != nil {
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
