package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/npro"
)

const opcode = "ECHO"

// nproChannel is NPRO with nothing around it: no SDK, one goroutine. What it
// asks for is well within the windows of the handshake's defaults, so credit to
// send is not looked at; credit to receive is returned by the half window.
type nproChannel struct {
	nc      net.Conn
	sealer  *npro.Sealer
	opener  *npro.Opener
	payload []byte
	out     []byte // frames not written
	buf     []byte // read, from start to end not handled
	start   int
	end     int
	gather  int // bytes of out worth a write of their own

	nextTx, nextRx uint32 // streams
	window, used   uint32 // the connection's, to receive
}

func dialNPRO(ctx context.Context, o *options) (channel, error) {
	if o.depth*o.size > 256<<10 {
		return nil, fmt.Errorf("depth times size is %d, want at most 256 KiB", o.depth*o.size)
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", o.addr)
	if err != nil {
		return nil, err
	}
	over := context.AfterFunc(ctx, func() { nc.Close() })
	defer over()
	c, err := shake(nc, o)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

func shake(nc net.Conn, o *options) (*nproChannel, error) {
	key, err := handshake.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	m, err := handshake.NewInitiator(&handshake.Config{
		Static: key, Patterns: []handshake.Pattern{handshake.PatternXX}, Hybrid: true, Random: rand.Reader,
		Trust:  func(handshake.PublicKey) error { return nil }, // the server is this run's own
		Params: handshake.Params{AEADs: []uint8{npro.AEADAES256GCM}, Name: "tlsecho"},
	})
	if err != nil {
		return nil, err
	}
	step, err := m.Start(time.Now())
	for err == nil {
		if step.Reply != nil {
			h := npro.Header{Type: npro.Type(step.ReplyType), Length: uint32(len(step.Reply))}
			if _, err = nc.Write(append(h.Append(nil), step.Reply...)); err != nil {
				break
			}
		}
		if step.Done != nil {
			return newChannel(nc, o, step.Done)
		}
		head := make([]byte, npro.HeaderSize)
		if _, err = io.ReadFull(nc, head); err != nil {
			break
		}
		var h npro.Header
		if h, err = npro.ParseHeader(head, handshake.MaxFrameBytes); err != nil {
			break
		}
		body := make([]byte, h.Length)
		if _, err = io.ReadFull(nc, body); err == nil {
			step, err = m.Receive(uint8(h.Type), body, time.Now())
		}
	}
	return nil, fmt.Errorf("handshake: %w", err)
}

func newChannel(nc net.Conn, o *options, res *handshake.Result) (*nproChannel, error) {
	c := &nproChannel{nc: nc, payload: make([]byte, o.size), buf: make([]byte, 64<<10), nextTx: 1, nextRx: 1, window: res.ConnWindowRx, gather: 64 << 10}
	rand.Read(c.payload)
	var err error
	if c.sealer, err = npro.NewSealer(res.AEAD, &res.Tx); err != nil {
		return nil, err
	}
	c.opener, err = npro.NewOpener(res.AEAD, &res.Rx)
	return c, err
}

func (c *nproChannel) frame(h npro.Header, head string, body []byte) {
	at := len(c.out)
	c.out = h.Append(c.out)
	c.out = append(append(c.out, head...), body...)
	c.out = c.sealer.Seal(c.out, at)
}

func (c *nproChannel) send() error {
	c.frame(npro.Header{Type: npro.TypeRequest, Flags: npro.FlagEnd, Stream: c.nextTx}, "\x04"+opcode, c.payload)
	c.nextTx += 2
	if len(c.out) < c.gather {
		return nil
	}
	return c.flush()
}

func (c *nproChannel) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.nc.Write(c.out)
	c.out = c.out[:0]
	return err
}

func (c *nproChannel) close() { c.nc.Close() }

func (c *nproChannel) ready() bool {
	b := c.buf[c.start:c.end]
	return len(b) >= npro.HeaderSize && uint32(len(b)-npro.HeaderSize) >= binary.BigEndian.Uint32(b[6:])
}

// next opens the next frame; its body is good until the one after.
func (c *nproChannel) next() (npro.Header, []byte, error) {
	for !c.ready() {
		// What lay ready may have been a WINDOW, and the answer is to what was not written yet.
		if err := c.flush(); err != nil {
			return npro.Header{}, nil, err
		}
		if c.start > 0 {
			copy(c.buf, c.buf[c.start:c.end])
			c.start, c.end = 0, c.end-c.start
		}
		if c.end == len(c.buf) {
			c.buf = append(c.buf, make([]byte, len(c.buf))...)
		}
		n, err := c.nc.Read(c.buf[c.end:])
		if n == 0 && err != nil {
			return npro.Header{}, nil, err
		}
		c.end += n
	}
	b := c.buf[c.start:c.end]
	h, err := npro.ParseHeader(b, npro.MaxFrame)
	if err != nil {
		return h, nil, err
	}
	body, err := c.opener.Open(b[:npro.HeaderSize], b[npro.HeaderSize:npro.HeaderSize+int(h.Length)])
	c.start += npro.HeaderSize + int(h.Length)
	return h, body, err
}

func (c *nproChannel) receive() error {
	rest := c.payload
	for first := true; ; {
		h, body, err := c.next()
		if err != nil {
			return err
		}
		switch h.Type {
		case npro.TypeWindow:
			continue
		case npro.TypePing:
			c.frame(npro.Header{Type: npro.TypePong, Priority: 7}, "", body)
			continue
		case npro.TypeResponse:
		default:
			return fmt.Errorf("the server sent %v", h.Type)
		}
		if h.Stream != c.nextRx {
			return fmt.Errorf("answer on stream %d, awaited on %d", h.Stream, c.nextRx)
		}
		c.credit(uint32(len(body)))
		if first {
			if len(body) == 0 || body[0] != byte(npro.CodeOK) {
				return fmt.Errorf("the server answered with an error: % x", body[:min(len(body), 1)])
			}
			body, first = body[1:], false
		}
		if len(body) > len(rest) || !bytes.Equal(body, rest[:len(body)]) {
			return errEcho
		}
		rest = rest[len(body):]
		if h.Flags&npro.FlagMore != 0 {
			continue
		}
		if len(rest) != 0 {
			return errEcho
		}
		c.nextRx += 2
		return nil
	}
}

func (c *nproChannel) credit(n uint32) {
	c.used += n
	if c.used >= c.window/2 {
		c.frame(npro.Header{Type: npro.TypeWindow, Priority: 7}, "", npro.AppendUint32(nil, c.used))
		c.used = 0
	}
}
