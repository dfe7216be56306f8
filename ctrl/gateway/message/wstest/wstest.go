package wstest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// Conn is a client of WebSocket that can do what it must not.
type Conn struct {
	net.Conn
	r *bufio.Reader
}

// Dial opens a WebSocket at a path; the fields are of the request. The answer may be any.
func Dial(t *testing.T, address, path string, fields ...string) (*Conn, *http.Response) {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	head := "GET " + path + " HTTP/1.1\r\nHost: gateway.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for i := 0; i+1 < len(fields); i += 2 {
		head += fields[i] + ": " + fields[i+1] + "\r\n"
	}
	if _, err := io.WriteString(nc, head+"\r\n"); err != nil {
		t.Fatal(err)
	}
	w := &Conn{nc, bufio.NewReader(nc)}
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return w, resp
}

// Frame makes a frame. first is FIN, RSV and opcode.
func Frame(first byte, payload []byte) []byte {
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

// Bits and opcodes of a frame's first byte (RFC 6455 §5.2).
const (
	Fin     = 0x80
	rsv1    = 0x40
	opCont  = 0
	OpText  = 1
	opBin   = 2
	OpClose = 8
	OpPing  = 9
	opPong  = 10
)

// Next reads a frame of control, or a whole message.
func (w *Conn) Next() (op byte, payload []byte, err error) {
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
		if head[0]&Fin != 0 {
			return op, payload, nil
		}
	}
}

type reply struct {
	op      byte
	payload string
}

func text(s string) reply { return reply{OpText, s} }
func bin(s string) reply  { return reply{opBin, s} }
func closed(codes ...uint16) reply {
	b := []byte{}
	for _, c := range codes {
		b = binary.BigEndian.AppendUint16(b, c)
	}
	return reply{OpClose, string(b)}
}

// CloseFrame makes a close frame.
func CloseFrame(code uint16, reason string) []byte {
	return Frame(Fin|OpClose, append(binary.BigEndian.AppendUint16(nil, code), reason...))
}

func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

// Max is the largest message that a server under test takes.
const Max = 100_000

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
	bye := CloseFrame(1000, "bye")
	all := map[string]one{
		"text":                    {join(Frame(Fin|OpText, []byte("hello \u20ac")), bye), []reply{text("hello \u20ac"), closed(1000)}},
		"empty":                   {join(Frame(Fin|OpText, nil), Frame(Fin|opBin, nil), bye), []reply{text(""), bin(""), closed(1000)}},
		"fragments":               {join(Frame(OpText, []byte("frag")), Frame(opCont, nil), Frame(Fin|opCont, []byte("ment")), bye), []reply{text("fragment"), closed(1000)}},
		"ping":                    {join(Frame(Fin|OpPing, []byte("x")), Frame(Fin|OpPing, make([]byte, 125)), bye), []reply{{opPong, "x"}, {opPong, string(make([]byte, 125))}, closed(1000)}},
		"ping between fragments":  {join(Frame(OpText, []byte("a")), Frame(Fin|OpPing, []byte("p")), Frame(Fin|opCont, []byte("b")), bye), []reply{{opPong, "p"}, text("ab"), closed(1000)}},
		"pong that nobody asked":  {join(Frame(Fin|opPong, []byte("x")), Frame(Fin|OpText, []byte("t")), bye), []reply{text("t"), closed(1000)}},
		"character in two pieces": {join(Frame(OpText, []byte{0xe2, 0x82}), Frame(Fin|opCont, []byte{0xac}), bye), []reply{text("\u20ac"), closed(1000)}},
		"bytes that are no text":  {join(Frame(Fin|opBin, []byte{0xff, 0}), bye), []reply{bin("\xff\x00"), closed(1000)}},
		"no UTF-8":                {Frame(Fin|OpText, []byte{'a', 0xff}), []reply{closed(1007)}},
		"surrogate":               {Frame(Fin|OpText, []byte{0xed, 0xa0, 0x80}), []reply{closed(1007)}},
		"overlong":                {Frame(Fin|OpText, []byte{0xc0, 0xaf}), []reply{closed(1007)}},
		"no UTF-8 in pieces":      {join(Frame(OpText, []byte{0xe2}), Frame(Fin|opCont, []byte("x"))), []reply{closed(1007)}},
		"half a character":        {Frame(Fin|OpText, []byte{0xe2, 0x82}), []reply{closed(1007)}},
		"RSV1":                    {Frame(Fin|rsv1|OpText, []byte("x")), []reply{closed(1002)}},
		"RSV2":                    {Frame(Fin|0x20|OpText, []byte("x")), []reply{closed(1002)}},
		"RSV3":                    {Frame(Fin|0x10|OpPing, []byte("x")), []reply{closed(1002)}},
		"opcode 3":                {Frame(Fin|3, nil), []reply{closed(1002)}},
		"opcode 7":                {Frame(7, []byte("x")), []reply{closed(1002)}},
		"opcode 11":               {Frame(Fin|11, nil), []reply{closed(1002)}},
		"opcode 15":               {Frame(Fin|15, []byte("x")), []reply{closed(1002)}},
		"long ping":               {Frame(Fin|OpPing, make([]byte, 126)), []reply{closed(1002)}},
		"ping in pieces":          {join(Frame(OpPing, []byte("x")), Frame(Fin|opCont, nil)), []reply{closed(1002)}},
		"long close":              {Frame(Fin|OpClose, make([]byte, 126)), []reply{closed(1002)}},
		"close in pieces":         {Frame(OpClose, []byte{3, 0xe8}), []reply{closed(1002)}},
		"continuation of nothing": {Frame(Fin|opCont, []byte("x")), []reply{closed(1002)}},
		"text inside fragments":   {join(Frame(OpText, []byte("x")), Frame(Fin|OpText, []byte("y"))), []reply{closed(1002)}},
		"without mask":            {[]byte{Fin | OpText, 1, 'x'}, []reply{closed(1002)}},
		"close of one byte":       {Frame(Fin|OpClose, []byte{3}), []reply{closed(1000, 1002)}}, // the library takes it for one without code
		"close without code":      {Frame(Fin|OpClose, nil), []reply{closed(1000)}},
		"close, bad reason":       {CloseFrame(1000, "\xff"), []reply{closed(1002, 1007)}},
		"close, long reason":      {CloseFrame(1000, strings.Repeat("r", 123)), []reply{closed(1000)}},
		"something after close":   {join(bye, Frame(Fin|OpText, []byte("x")), Frame(Fin|OpPing, nil)), []reply{closed(1000)}},
		"too large":               {Frame(Fin|opBin, make([]byte, Max+1)), []reply{closed(1009)}},
		"too large in pieces":     {join(Frame(opBin, make([]byte, Max)), Frame(Fin|opCont, []byte("xx"))), []reply{closed(1009)}},
		"length of a lie":         {frameSized(Fin|opBin, 1<<40, []byte("x")), []reply{closed(1009)}},
		"length below zero":       {frameSized(Fin|opBin, 1<<63, []byte("x")), []reply{closed(1002, 1009)}},
	}
	for _, n := range []int{125, 126, 127, 128, 65535, 65536, Max} {
		payload := strings.Repeat("*", n)
		all[fmt.Sprint(n, " bytes")] = one{join(Frame(Fin|opBin, []byte(payload)), bye), []reply{bin(payload), closed(1000)}}
	}
	for _, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		all[fmt.Sprint("close ", code)] = one{CloseFrame(code, ""), []reply{closed(code)}}
	}
	for _, code := range []uint16{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		all[fmt.Sprint("close ", code)] = one{CloseFrame(code, ""), []reply{closed(1002)}}
	}
	var pings []byte
	var pongs []reply
	for i := range 20 {
		pings = append(pings, Frame(Fin|OpPing, []byte{byte(i)})...)
		pongs = append(pongs, reply{opPong, string([]byte{byte(i)})})
	}
	all["many pings"] = one{join(pings, bye), append(pongs, closed(1000))}
	return all
}

// Open1 opens a WebSocket over HTTP/1.1.
func Open1(address, path string) func(*testing.T) *Conn {
	return func(t *testing.T) *Conn {
		t.Helper()
		w, resp := Dial(t, address, path)
		if resp.StatusCode != 101 || resp.Header.Get("Sec-Websocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || resp.Header.Get("Sec-Websocket-Extensions") != "" {
			t.Fatalf("%d, %v", resp.StatusCode, resp.Header)
		}
		return w
	}
}

// Run runs the cases against a server that sends messages back and takes none over Max.
// Short ones are sent a byte at a time too. only names some; none: all.
func Run(t *testing.T, open func(*testing.T) *Conn, only ...string) {
	for name, one := range strict() {
		for _, cut := range []bool{false, true} {
			if cut && (len(one.send) > 300 || len(only) > 0) || len(only) > 0 && !slices.Contains(only, name) {
				continue
			}
			t.Run(fmt.Sprint(name, map[bool]string{true: ", a byte at a time"}[cut]), func(t *testing.T) {
				t.Parallel()
				w := open(t)
				send := one.send
				for len(send) > 0 {
					n := len(send)
					if cut {
						n = 1
					}
					if _, err := w.Write(send[:n]); err != nil {
						break // closed already, which the replies show
					}
					send = send[n:]
				}
				for i, want := range one.want {
					op, payload, err := w.Next()
					if err != nil {
						t.Fatalf("reply %d: %v", i, err)
					}
					if want.op == OpClose && op == OpClose && len(payload) >= 2 && strings.Contains(want.payload, string(payload[:2])) {
						continue
					}
					if op != want.op || string(payload) != want.payload {
						t.Fatalf("reply %d: opcode %d, %.40q, expected %d, %.40q", i, op, payload, want.op, want.payload)
					}
				}
				if op, payload, err := w.Next(); !errors.Is(err, io.EOF) {
					t.Errorf("after the close: opcode %d, %q, %v", op, payload, err)
				}
			})
		}
	}
}
