package clienttest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/npro"
)

// Server answers connections handed to Serve or accepted by Listen.
type Server struct {
	Handshake handshake.Config
	// Handle answers a whole request; a nil Handle echoes. A false second result
	// leaves the request unanswered.
	Handle func(c *Conn, r *Request) (Reply, bool)
	// Message takes a one-way message.
	Message func(r *Request)
	// Streams accepts byte streams and sends their bytes back.
	Streams bool
	// Accept says whether a request that does not END may begin a byte stream, whose
	// bytes are sent back; nil: none may.
	Accept func(r *Request) npro.Code
	// OnConn sees each connection after its handshake.
	OnConn func(c *Conn)
	// Refuse answers every handshake with this DISCONNECT in clear.
	Refuse npro.Code
	// HoldCredit keeps WINDOW frames back.
	HoldCredit bool
	// Compress is the smallest body to compress; 0: none.
	Compress int

	mu    sync.Mutex
	conns map[*Conn]struct{}
	ln    net.Listener
	wg    sync.WaitGroup
	done  bool
}

// Request is a whole request or message.
type Request struct {
	Stream  uint32
	Opcode  string
	Payload []byte
	Context npro.Context
	Frames  int
}

// Reply is a response.
type Reply struct {
	Status  npro.Code
	Payload []byte
	Context *npro.Context
}

// Conn is one connection.
type Conn struct {
	Result handshake.Result // keys wiped

	srv    *Server
	nc     net.Conn
	opener *npro.Opener
	unpack npro.Decompressor

	mu       sync.Mutex
	wake     sync.Cond
	out      []byte
	sealer   *npro.Sealer
	pack     *npro.Compressor
	txCredit int64
	rxCredit int64
	highest  uint32 // stream of the client's
	streams  map[uint32]*stream
	closed   bool
	Pings    int // received
	Rekeys   int
	Resets   []npro.Code
	Goodbye  npro.Code // the client's DISCONNECT
	Err      error
}

type stream struct {
	tx, rx  int64
	request []byte
	ctx     bool
	frames  int
	started bool
	bytes   bool
	queue   []out
}

type out struct {
	h    npro.Header
	body []byte
}

// NewServer makes a server with a key of its own that trusts everybody.
func NewServer() (*Server, handshake.PublicKey, error) {
	key, err := handshake.GenerateKey(rand.Reader)
	if err != nil {
		return nil, handshake.PublicKey{}, err
	}
	psk := [32]byte{0: 1, 31: 9}
	s := &Server{conns: map[*Conn]struct{}{}, Handshake: handshake.Config{
		Static: key, Hybrid: true, PSK: &psk, Random: rand.Reader,
		Patterns: []handshake.Pattern{handshake.PatternXX, handshake.PatternIK, handshake.PatternNX, handshake.PatternNNpsk0},
		Trust:    func(handshake.PublicKey) error { return nil },
		Replay:   handshake.NewReplayWindow(0),
	}}
	return s, key.Public(), nil
}

// Listen serves a loopback port until Close and returns its address.
func (s *Server) Listen() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s.ln = ln
	s.wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			s.Serve(nc)
		}
	})
	return ln.Addr().String(), nil
}

// Serve runs a connection in the background.
func (s *Server) Serve(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		_ = nc.Close()
		return
	}
	c := &Conn{srv: s, nc: nc, streams: map[uint32]*stream{}}
	c.wake.L = &c.mu
	s.conns[c] = struct{}{}
	s.wg.Go(func() {
		err := c.serve()
		c.mu.Lock()
		c.Err = err
		c.mu.Unlock()
		c.close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	})
}

// Drop closes every connection without a word.
func (s *Server) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.nc.Close()
	}
}

// Close ends everything and waits.
func (s *Server) Close() {
	s.mu.Lock()
	s.done = true
	s.mu.Unlock()
	if s.ln != nil {
		_ = s.ln.Close()
	}
	s.Drop()
	s.wg.Wait()
}

func (c *Conn) close() {
	c.mu.Lock()
	c.closed = true
	c.wake.Broadcast()
	c.mu.Unlock()
}

func (c *Conn) serve() error {
	defer func() { _ = c.nc.Close() }()
	res, err := c.shake()
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	c.opener, err = npro.NewOpener(res.AEAD, &res.Rx)
	if err == nil {
		c.sealer, err = npro.NewSealer(res.AEAD, &res.Tx)
	}
	if err == nil && res.Compression != 0 {
		c.pack, err = npro.NewCompressor(res.Compression, 1)
	}
	if err != nil {
		return err
	}
	defer c.unpack.Close()
	c.txCredit, c.rxCredit = int64(res.ConnWindowTx), int64(res.ConnWindowRx)
	res.Wipe()
	c.Result = *res
	c.srv.wg.Go(c.write)
	if c.srv.OnConn != nil {
		c.srv.OnConn(c)
	}
	buf, used := make([]byte, 1<<18), 0
	for {
		n, err := c.nc.Read(buf[used:])
		if err != nil {
			return err
		}
		used += n
		at := 0
		for used-at >= npro.HeaderSize {
			h, err := npro.ParseHeader(buf[at:], c.Result.MaxFrameRx)
			if err != nil {
				return err
			}
			size := npro.HeaderSize + int(h.Length)
			if used-at < size {
				break
			}
			if h.Flags&npro.FlagEnc == 0 {
				return errors.New("frame in clear")
			}
			body, err := c.opener.Open(buf[at:at+npro.HeaderSize], buf[at+npro.HeaderSize:at+size])
			if err != nil {
				return err
			}
			if err := c.frame(h, body); err != nil {
				return err
			}
			at += size
		}
		copy(buf, buf[at:used])
		if used -= at; used == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
		}
	}
}

func (c *Conn) shake() (*handshake.Result, error) {
	_ = c.nc.SetDeadline(time.Now().Add(10 * time.Second))
	defer func() { _ = c.nc.SetDeadline(time.Time{}) }()
	m, err := handshake.NewResponder(&c.srv.Handshake)
	if err != nil {
		return nil, err
	}
	for {
		var head [npro.HeaderSize]byte
		if _, err := io.ReadFull(c.nc, head[:]); err != nil {
			return nil, err
		}
		h, err := npro.ParseHeader(head[:], handshake.MaxFrameBytes)
		if err != nil {
			return nil, err
		}
		body := make([]byte, h.Length)
		if _, err := io.ReadFull(c.nc, body); err != nil {
			return nil, err
		}
		if c.srv.Refuse != 0 {
			word := npro.AppendDisconnect(nil, c.srv.Refuse, "refused by test")
			_, err := c.nc.Write(append(npro.Header{Type: npro.TypeDisconnect, Length: uint32(len(word))}.Append(nil), word...))
			return nil, errors.Join(errors.New("refused"), err)
		}
		step, err := m.Receive(uint8(h.Type), body, time.Now())
		if err != nil {
			return nil, err
		}
		if step.Reply != nil {
			f := npro.Header{Type: npro.Type(step.ReplyType), Length: uint32(len(step.Reply))}.Append(nil)
			if _, err := c.nc.Write(append(f, step.Reply...)); err != nil {
				return nil, err
			}
		}
		if step.Done != nil {
			return step.Done, nil
		}
	}
}

func (c *Conn) write() {
	var mine []byte
	for {
		c.mu.Lock()
		for len(c.out) == 0 && !c.closed {
			c.wake.Wait()
		}
		over := c.closed
		mine, c.out = c.out, mine[:0]
		c.mu.Unlock()
		if len(mine) > 0 {
			if _, err := c.nc.Write(mine); err != nil {
				over = true
			}
		}
		if over {
			_ = c.nc.Close()
			return
		}
	}
}

// Send queues any frame, whatever it says and whatever credit there is.
func (c *Conn) Send(h npro.Header, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.send(h, body)
}

func (c *Conn) send(h npro.Header, body []byte) {
	at := len(c.out)
	c.out = append(h.Append(c.out), body...)
	if c.pack != nil && h.Type.Flow() && c.srv.Compress > 0 && len(body) >= c.srv.Compress {
		if small, ok := c.pack.Append(nil, body); ok {
			c.out = append(c.out[:at+npro.HeaderSize], small...)
			c.out[at+5] |= c.pack.Flag()
		}
	}
	c.out = c.sealer.Seal(c.out, at)
	c.wake.Signal()
}

// Raw queues bytes as they are.
func (c *Conn) Raw(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = append(c.out, b...)
	c.wake.Signal()
}

// Rekey changes the sending key.
func (c *Conn) Rekey() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.send(npro.Header{Type: npro.TypeRekey, Priority: 7}, nil)
	c.sealer.Rekey()
}

// GoAway sends GOAWAY.
func (c *Conn) GoAway(last uint32) {
	c.Send(npro.Header{Type: npro.TypeGoAway, Priority: 7}, npro.AppendUint32(nil, last))
}

// Disconnect sends DISCONNECT and closes once it left.
func (c *Conn) Disconnect(code npro.Code, reason string) {
	c.Send(npro.Header{Type: npro.TypeDisconnect, Priority: 7}, npro.AppendDisconnect(nil, code, reason))
	c.close()
}

// Cut closes the connection without a word.
func (c *Conn) Cut() { _ = c.nc.Close() }

// Stats returns what a test may want to look at while the connection lives.
func (c *Conn) Stats() (pings, rekeys int, resets []npro.Code, goodbye npro.Code, open int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Pings, c.Rekeys, append([]npro.Code(nil), c.Resets...), c.Goodbye, len(c.streams)
}

func (c *Conn) frame(h npro.Header, body []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.Type.Flow() {
		return c.flow(h, body)
	}
	switch h.Type {
	case npro.TypePing:
		c.Pings++
		c.send(npro.Header{Type: npro.TypePong, Priority: 7}, body)
	case npro.TypePong:
	case npro.TypeRekey:
		c.Rekeys++
		c.opener.Rekey()
	case npro.TypeDisconnect:
		c.Goodbye, _, _ = npro.ParseDisconnect(body)
		return io.EOF
	case npro.TypeReset:
		v, err := npro.ParseUint32(body)
		c.Resets = append(c.Resets, npro.Code(v))
		delete(c.streams, h.Stream)
		return err
	case npro.TypeWindow:
		v, err := npro.ParseUint32(body)
		if h.Stream == 0 {
			c.txCredit += int64(v)
			for id, s := range c.streams {
				c.pump(id, s)
			}
		} else if s := c.streams[h.Stream]; s != nil {
			s.tx += int64(v)
			c.pump(h.Stream, s)
		}
		return err
	default:
		return fmt.Errorf("unexpected %v", h.Type)
	}
	return nil
}

func (c *Conn) flow(h npro.Header, body []byte) error {
	if packed := h.Flags & (npro.FlagLZ4 | npro.FlagZstd); packed != 0 {
		var err error
		if body, err = c.unpack.Append(nil, packed, body, npro.MaxRaw); err != nil {
			return err
		}
	}
	s := c.streams[h.Stream]
	if s == nil {
		if h.Stream <= c.highest {
			return nil // of a stream that was reset
		}
		if h.Stream%2 == 0 || h.Type == npro.TypeResponse {
			return fmt.Errorf("%v opens stream %d", h.Type, h.Stream)
		}
		c.highest = h.Stream
		if h.Type == npro.TypeData && !c.srv.Streams {
			c.send(npro.Header{Type: npro.TypeReset, Priority: 7, Stream: h.Stream}, npro.AppendUint32(nil, uint32(npro.CodeUnknownOpcode)))
			return nil
		}
		s = &stream{tx: int64(c.Result.StreamWindowTx), rx: int64(c.Result.StreamWindowRx), bytes: h.Type == npro.TypeData}
		c.streams[h.Stream] = s
	}
	n := int64(len(body))
	s.rx -= n
	c.rxCredit -= n
	if s.rx < 0 || c.rxCredit < 0 {
		c.send(npro.Header{Type: npro.TypeDisconnect}, npro.AppendDisconnect(nil, npro.CodeFlowError, "over the window"))
		return errors.New("client went over the window")
	}
	end := h.Flags&npro.FlagEnd != 0
	if !c.srv.HoldCredit && n > 0 {
		c.rxCredit += n
		c.send(npro.Header{Type: npro.TypeWindow, Priority: 7}, npro.AppendUint32(nil, uint32(n)))
		if !end {
			s.rx += n
			c.send(npro.Header{Type: npro.TypeWindow, Priority: 7, Stream: h.Stream}, npro.AppendUint32(nil, uint32(n)))
		}
	}
	if h.Type == npro.TypeData {
		if !s.bytes {
			return errors.New("data on a stream that carries none")
		}
		s.queue = append(s.queue, out{npro.Header{Type: npro.TypeData, Flags: h.Flags & npro.FlagEnd, Stream: h.Stream}, append([]byte(nil), body...)})
		c.pump(h.Stream, s)
		return nil
	}
	if !s.started {
		s.started, s.ctx = true, h.Flags&npro.FlagCtx != 0
	}
	s.frames++
	s.request = append(s.request, body...)
	if h.Flags&npro.FlagMore != 0 {
		return nil
	}
	return c.whole(h, s, end)
}

// whole handles a request or message of which every frame is here.
func (c *Conn) whole(h npro.Header, s *stream, end bool) error {
	r := &Request{Stream: h.Stream, Frames: s.frames}
	body := s.request
	s.request = nil
	var err error
	if s.ctx {
		if r.Context, body, err = npro.ParseContext(body); err != nil {
			return err
		}
	}
	if r.Opcode, r.Payload, err = npro.ParseRequest(body); err != nil {
		return err
	}
	if h.Type == npro.TypeMessage {
		delete(c.streams, h.Stream)
		if c.srv.Message != nil {
			c.srv.Message(r)
		}
		return nil
	}
	if !end {
		if c.srv.Accept == nil {
			return errors.New("request without an end")
		}
		code := c.srv.Accept(r)
		if code != npro.CodeOK {
			c.reply(r.Stream, s, Reply{Status: code})
			return nil
		}
		s.bytes = true
		body, err := npro.AppendResponse(nil, code, nil)
		s.queue = append(s.queue, out{npro.Header{Type: npro.TypeResponse, Stream: r.Stream}, body})
		c.pump(r.Stream, s)
		return err
	}
	reply, ok := Reply{Payload: r.Payload}, true
	if c.srv.Handle != nil {
		c.mu.Unlock()
		reply, ok = c.srv.Handle(c, r)
		c.mu.Lock()
	}
	if ok {
		c.reply(r.Stream, s, reply)
	}
	return nil
}

// Reply answers a request that Handle left unanswered.
func (c *Conn) Reply(id uint32, r Reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		c.reply(id, s, r)
	}
}

func (c *Conn) reply(id uint32, s *stream, r Reply) {
	h := npro.Header{Type: npro.TypeResponse, Flags: npro.FlagEnd, Stream: id}
	var body []byte
	if r.Context != nil {
		h.Flags |= npro.FlagCtx
		body, _ = npro.AppendContext(nil, r.Context)
	}
	body, _ = npro.AppendResponse(body, r.Status, r.Payload)
	s.queue = append(s.queue, out{h, body})
	c.pump(id, s)
}

// pump sends what credit allows, in frames of 16 KiB.
func (c *Conn) pump(id uint32, s *stream) {
	const fragment = 16 << 10
	for len(s.queue) > 0 {
		q := &s.queue[0]
		left := int64(len(q.body))
		n := min(left, s.tx, c.txCredit, fragment)
		if n == 0 && left > 0 {
			return
		}
		h := q.h
		if n < left {
			h.Flags &^= npro.FlagEnd
			if h.Type != npro.TypeData {
				h.Flags |= npro.FlagMore
			}
		}
		s.tx -= n
		c.txCredit -= n
		c.send(h, q.body[:n])
		q.body = q.body[n:]
		q.h.Flags &^= npro.FlagCtx
		if n < left {
			continue
		}
		s.queue = s.queue[1:]
		if h.Flags&npro.FlagEnd != 0 {
			delete(c.streams, id)
		}
	}
}
