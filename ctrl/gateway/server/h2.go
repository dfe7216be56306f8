package server

//lint:file-ignore SA1019 net/http's own engine takes no connection of ours, and no scheduler

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"golang.org/x/net/http2"

	"github.com/np-appliance/np/ctrl/gateway/server/urgency"
	_ "github.com/np-appliance/np/ctrl/gateway/server/xconnect" // before http2 is initialized
)

// newH2 sets up the engine of HTTP/2: golang.org/x/net's, because it is given connections
// (net/http's own takes TLS's only), writes by RFC 9218's priorities and says what it found
// wrong.
func (s *Server) newH2() error {
	l := &s.c.Limits
	s.h2 = &http2.Server{
		MaxConcurrentStreams: uint32(l.Streams), MaxReadFrameSize: h2FrameBytes,
		MaxUploadBufferPerConnection: int32(l.ConnBytes), MaxUploadBufferPerStream: int32(l.StreamBytes),
		IdleTimeout: max(0, l.Idle), ReadIdleTimeout: 2 * max(0, l.Idle), PingTimeout: l.Head,
		CountError: s.countH2, NewWriteScheduler: urgency.NewScheduler(),
	}
	return http2.ConfigureServer(s.h1, s.h2) // so that Shutdown of the one is told to the other
}

// h2FrameBytes is the longest frame that is taken: the least that is allowed (RFC 9113
// §4.2). Longer ones save nothing that can be measured and keep more memory.
const h2FrameBytes = 16 << 10

// serveH2 serves HTTP/2 until the connection ends.
func (s *Server) serveH2(ctx context.Context, c *Conn, in net.Conn) {
	defer c.done()
	if s.c.NoHTTP2 {
		s.refuseConn(c.raw, RefusedProtocol)
		return
	}
	if s.isClosing() {
		_ = in.Close()
		return
	}
	c.Protocol, c.allDone = HTTP2, make(chan struct{}, 1)
	w := &watch{Conn: in, conn: c}
	var conn net.Conn = w
	if t, ok := in.(*tls.Conn); ok {
		conn = &watchTLS{w, t}
	}
	s.h2.ServeConn(conn, &http2.ServeConnOpts{
		Context: context.WithValue(ctx, connKey{}, c), BaseConfig: s.h1, Handler: http.HandlerFunc(s.serveH2Request),
	})
	for c.running.Load() > 0 { // the engine does not wait for its handlers; their contexts have ended
		<-c.allDone
	}
}

// watch is a connection of HTTP/2 as its engine sees it: it counts the frames that the
// client sends (RFC 9113 §4.1) and breaks off who sends too many of those that cost work and
// ask for nothing. The engine by itself bounds streams, handlers and what it queues, but not
// how often a client begins anew (CVE-2023-44487).
type watch struct {
	net.Conn
	conn *Conn

	greeted int // bytes of the preface that went by
	head    [frameHead]byte
	have    int // bytes of head
	left    int // bytes of the frame's payload that are to come

	resets, control rate
	credit          atomic.Int64 // pings and the like that the connection's use pays for
	continued       int          // frames of the head that arrives
	inHead, lastOne bool         // a head arrives; this frame is its last
	cut             bool
}

const (
	frameHead        = 9
	maxContinuations = 16 // of a head: it has HeadBytes at most, and frames take 16 KiB
)

// Types and flags of frames (RFC 9113 §6, RFC 9218 §7.1).
const (
	frameData           = 0x0
	frameHeaders        = 0x1
	framePriority       = 0x2
	frameReset          = 0x3
	frameSettings       = 0x4
	framePing           = 0x6
	frameContinuation   = 0x9
	framePriorityUpdate = 0x10
	flagEndStream       = 0x1
	flagAck             = 0x1
	flagEndHeaders      = 0x4
)

// rate is a token bucket, on the server's clock.
type rate struct {
	used int64 // thousandths
	at   int64
}

// burst is how many seconds' worth may come at once.
const burst = 5

// take takes one; false: there is none left.
func (r *rate) take(now int64, perSecond int) bool {
	if perSecond <= 0 {
		return true
	}
	r.used = max(0, r.used-(now-r.at)*int64(perSecond)) + 1000
	r.at = now
	return r.used <= burst*1000*int64(perSecond)
}

// Read implements net.Conn.
func (w *watch) Read(p []byte) (int, error) {
	if w.cut {
		return 0, io.EOF
	}
	n, err := w.Conn.Read(p)
	if why, no := w.look(p[:n]); no {
		w.cut = true
		w.conn.server.refusedConns[why].Add(1)
		w.conn.sever()
		return 0, io.EOF
	}
	return n, err
}

// look follows the frames in b.
func (w *watch) look(b []byte) (Refused, bool) {
	if w.greeted < len(preface) {
		n := min(len(b), len(preface)-w.greeted)
		w.greeted += n
		b = b[n:]
	}
	for len(b) > 0 {
		if w.left > 0 {
			n := min(w.left, len(b))
			w.left -= n
			b = b[n:]
			w.inHead = w.inHead && !(w.lastOne && w.left == 0)
			continue
		}
		n := copy(w.head[w.have:], b)
		w.have += n
		if b = b[n:]; w.have < frameHead {
			break
		}
		w.have = 0
		w.left = int(w.head[0])<<16 | int(w.head[1])<<8 | int(w.head[2])
		if why, no := w.frame(); no {
			return why, true
		}
	}
	w.timeHead()
	return 0, false
}

// timeHead limits the time that a head may take whose frames have begun to arrive.
func (w *watch) timeHead() {
	by := &w.conn.wait.headBy
	if w.inHead && by.Load() == 0 {
		by.Store(w.conn.server.now() + w.conn.server.headTime)
	} else if !w.inHead && by.Load() != 0 {
		by.Store(0)
	}
}

// frame counts a frame by its head.
func (w *watch) frame() (Refused, bool) {
	l := &w.conn.server.c.Limits
	now := w.conn.server.now()
	kind, flags := w.head[3], w.head[4]
	if kind == frameHeaders || kind == frameContinuation {
		w.lastOne = flags&flagEndHeaders != 0
		w.inHead = w.left > 0 || !w.lastOne
	}
	switch {
	case kind == frameContinuation:
		if w.continued++; w.continued > maxContinuations {
			return CutContinuation, true
		}
	case kind == frameHeaders:
		w.continued = 0
	case kind == frameReset:
		return CutResets, !w.resets.take(now, l.Resets)
	case kind == framePing && flags&flagAck == 0, kind == frameSettings && flags&flagAck == 0, kind == framePriority, kind == framePriorityUpdate,
		kind == frameData && w.left == 0 && flags&flagEndStream == 0:
		if w.credit.Load() > 0 {
			w.credit.Add(-1)
			return 0, false
		}
		return CutControl, !w.control.take(now, l.Control)
	case kind == frameData && w.left > 0:
		w.pay()
	}
	return 0, false
}

// Write implements net.Conn.
func (w *watch) Write(b []byte) (int, error) {
	if len(b) >= usefulWrite {
		w.pay()
	}
	return w.conn.write(w.Conn, b)
}

// usefulWrite is a write that has more in it than answers to pings (17 bytes each).
const usefulWrite = 128

// pay gives the client one ping: gRPC's clients measure the path with pings as often as
// data arrives.
func (w *watch) pay() {
	if w.credit.Load() < maxCredit {
		w.credit.Add(1)
	}
}

const maxCredit = 1000

// watchTLS is a watch over TLS, of which the engine asks version and suite.
type watchTLS struct {
	*watch
	tls *tls.Conn
}

// ConnectionState tells the engine of HTTP/2 what was negotiated.
func (w *watchTLS) ConnectionState() tls.ConnectionState { return w.tls.ConnectionState() }
