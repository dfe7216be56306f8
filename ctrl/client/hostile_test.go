package client

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/client/clienttest"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/npro"
)

// What a server may not do, each ends the connection.
func TestServerBreaksRules(t *testing.T) {
	sealed := func(h npro.Header, body []byte) func(c *clienttest.Conn) {
		return func(c *clienttest.Conn) { c.Send(h, body) }
	}
	raw := func(b []byte) func(c *clienttest.Conn) { return func(c *clienttest.Conn) { c.Raw(b) } }
	cases := map[string]func(c *clienttest.Conn){
		"not npro":               raw([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")),
		"version 3":              raw([]byte("NPRO\x03\x01\x00\x00\x00\x10\x01\x00\x00\x00\x00\x00")),
		"clear frame":            raw(npro.Header{Type: npro.TypePing}.Append(nil)),
		"length over limit":      raw(npro.Header{Type: npro.TypeData, Flags: npro.FlagEnc, Length: DefaultMaxFrame + 1, Stream: 1}.Append(nil)),
		"shorter than tag":       raw(npro.Header{Type: npro.TypePing, Flags: npro.FlagEnc, Length: 15}.Append(nil)),
		"does not open":          raw(append(npro.Header{Type: npro.TypePing, Flags: npro.FlagEnc, Length: 16}.Append(nil), make([]byte, 16)...)),
		"handshake again":        sealed(npro.Header{Type: npro.TypeHandshake1}, nil),
		"ping on stream":         sealed(npro.Header{Type: npro.TypePing, Stream: 1}, nil),
		"ping of 65":             sealed(npro.Header{Type: npro.TypePing}, make([]byte, 65)),
		"reset of connection":    sealed(npro.Header{Type: npro.TypeReset}, make([]byte, 4)),
		"window of 3 bytes":      sealed(npro.Header{Type: npro.TypeWindow}, make([]byte, 3)),
		"window overflow":        sealed(npro.Header{Type: npro.TypeWindow}, []byte{0x7f, 0xff, 0xff, 0xff}),
		"stream overflow":        sealed(npro.Header{Type: npro.TypeWindow, Stream: 1}, []byte{0x7f, 0xff, 0xff, 0xff}),
		"rekey with body":        sealed(npro.Header{Type: npro.TypeRekey}, []byte{1}),
		"disconnect of 3":        sealed(npro.Header{Type: npro.TypeDisconnect}, make([]byte, 3)),
		"goaway with end":        sealed(npro.Header{Type: npro.TypeGoAway, Flags: npro.FlagEnd}, make([]byte, 4)),
		"response to nobody":     sealed(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd, Stream: 99}, []byte{0}),
		"response on stream 0":   sealed(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd}, []byte{0}),
		"empty response":         sealed(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd, Stream: 1}, nil),
		"neither end nor more":   sealed(npro.Header{Type: npro.TypeResponse, Stream: 1}, []byte{0}),
		"end and more":           sealed(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd | npro.FlagMore, Stream: 1}, []byte{0}),
		"data for a request":     sealed(npro.Header{Type: npro.TypeData, Flags: npro.FlagEnd, Stream: 1}, []byte{0}),
		"bad context":            sealed(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd | npro.FlagCtx, Stream: 1}, []byte{0, 9, 1}),
		"compression not agreed": sealed(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd | npro.FlagLZ4, Stream: 1}, []byte{0, 0, 0, 1, 0x10, 'x'}),
		"over the window": func(c *clienttest.Conn) {
			c.Send(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagMore, Stream: 1}, make([]byte, 256<<10+1))
		},
		"bad push": sealed(npro.Header{Type: npro.TypeMessage, Flags: npro.FlagEnd, Stream: 2}, []byte{9, 1}),
		"context in the middle": func(c *clienttest.Conn) {
			c.Send(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagMore, Stream: 1}, []byte{0})
			c.Send(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd | npro.FlagCtx, Stream: 1}, []byte{0, 0})
		},
	}
	for name, do := range cases {
		t.Run(name, func(t *testing.T) {
			_, cfg := setup(t, func(s *clienttest.Server) {
				s.Handle = func(c *clienttest.Conn, _ *clienttest.Request) (clienttest.Reply, bool) {
					do(c)
					return clienttest.Reply{}, false
				}
			})
			cfg.NoReconnect = true
			cfg.OnMessage = func(string, []byte) {}
			cl := dial(t, cfg)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := cl.Request(ctx, "GO", nil); !errors.Is(err, ErrProtocol) || !errors.Is(err, ErrConnLost) {
				var d *DisconnectError
				if name != "window overflow" || !errors.As(err, &d) {
					t.Fatalf("%v", err)
				}
			}
		})
	}
}

// discard is a net.Conn whose reads never end before Close.
type discard struct {
	net.Conn
	closed chan struct{}
	once   sync.Once
}

func (d *discard) Read([]byte) (int, error)         { <-d.closed; return 0, net.ErrClosed }
func (d *discard) Write(p []byte) (int, error)      { return len(p), nil }
func (d *discard) Close() error                     { d.once.Do(func() { close(d.closed) }); return nil }
func (d *discard) SetDeadline(time.Time) error      { return nil }
func (d *discard) SetReadDeadline(time.Time) error  { return d.Close() }
func (d *discard) SetWriteDeadline(time.Time) error { return nil }

// FuzzFrames feeds the reader with frames as they are after they were opened.
func FuzzFrames(f *testing.F) {
	add := func(hs ...npro.Header) {
		var b []byte
		for _, h := range hs {
			h.Flags |= npro.FlagEnc
			b = append(h.Append(b), 0, 4, 0, 0, 0, 0)
		}
		f.Add(b)
	}
	add(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd, Stream: 1, Length: 22})
	add(npro.Header{Type: npro.TypeResponse, Flags: npro.FlagMore | npro.FlagCtx, Stream: 1, Length: 22}, npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd, Stream: 1, Length: 22})
	add(npro.Header{Type: npro.TypeWindow, Length: 20}, npro.Header{Type: npro.TypeReset, Stream: 1, Length: 20}, npro.Header{Type: npro.TypeGoAway, Length: 20})
	add(npro.Header{Type: npro.TypeResponse, Stream: 3, Length: 17}, npro.Header{Type: npro.TypeData, Flags: npro.FlagEnd, Stream: 3, Length: 22})
	f.Fuzz(func(t *testing.T, b []byte) {
		cfg := &Config{Address: "x", Pattern: handshake.PatternNNpsk0, PSK: &[32]byte{1}, MaxMessage: 1000, OnMessage: func(string, []byte) {}}
		if err := cfg.normalize(); err != nil {
			t.Fatal(err)
		}
		res := &handshake.Result{AEAD: npro.AEADAES256GCM, CompressionRx: 2, MaxFrameTx: 4096, StreamWindowTx: 4096, StreamWindowRx: 4096, ConnWindowTx: 8192, ConnWindowRx: 8192}
		c, err := newConn(&discard{closed: make(chan struct{})}, cfg, res)
		if err != nil {
			t.Fatal(err)
		}
		r := &reader{c: c}
		if r.opener, err = npro.NewOpener(res.AEAD, &res.Rx); err != nil {
			t.Fatal(err)
		}
		answered := 0
		call := &stream{async: func(Response, error) { answered++ }}
		if err := c.start(t.Context(), call, &Request{Opcode: "A"}); err != nil {
			t.Fatal(err)
		}
		bs := &Stream{c: c, readable: make(chan struct{}, 1)}
		bs.s = &stream{bytes: bs}
		if _, err := c.send(t.Context(), bs.s, npro.Header{Type: npro.TypeData}, nil, nil); err != nil {
			t.Fatal(err)
		}
		for len(b) >= npro.HeaderSize {
			h, err := npro.ParseHeader(b, cfg.MaxFrame)
			if err != nil || r.judge(h) != nil {
				break
			}
			b = b[npro.HeaderSize:]
			n := min(int(h.Length)-npro.TagSize, len(b))
			if r.frame(h, b[:n:n]) != nil {
				break
			}
			b = b[n:]
		}
		c.end(ErrClosed, npro.CodeNormal)
		c.stop()
		if answered != 1 {
			t.Fatalf("call answered %d times", answered)
		}
	})
}
