package server

import (
	"context"
	"net"
	"net/http"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/h2"
)

// newH2 sets up the engine of HTTP/2.
func (s *Server) newH2() error {
	l := &s.c.Limits
	e, err := h2.New(h2.Config{
		Handler: http.HandlerFunc(s.serveH2Request), Refuse: s.refuseH2,
		Patient:   patient,
		HeadBytes: l.HeadBytes, Streams: l.Streams, StreamBytes: l.StreamBytes, ConnBytes: l.ConnBytes, Requests: l.Requests, Resets: l.Resets, Control: l.Control,
		Head: l.Head, Idle: l.Idle, BodyStall: l.BodyStall, BodyRate: l.BodyRate, SendStall: l.SendStall,
		SlowBody: &BodyError{exchange.RequestTimeout, "body that arrives too slowly"},
		Now:      func() int64 { return s.now() + 1 },
		Cut:      func(why h2.Cut) { s.refusedConns[cutsH2[why]].Add(1) },
		Fault:    s.countH2,
	})
	s.h2 = e
	return err
}

var cutsH2 = [...]Refused{
	h2.CutHead: CutHead, h2.CutBody: CutBody, h2.CutAnswer: CutAnswer, h2.CutResets: CutResets, h2.CutControl: CutControl, h2.CutContinuation: CutContinuation,
}

// serveH2 serves HTTP/2 until the connection ends.
func (s *Server) serveH2(ctx context.Context, c *Conn, in net.Conn) {
	defer c.done()
	if s.c.NoHTTP2 {
		s.refuseConn(c.raw, RefusedProtocol)
		return
	}
	c.Protocol = HTTP2
	ctx = context.WithValue(context.WithValue(ctx, http.LocalAddrContextKey, c.Local), connKey{}, c)
	e := s.h2.NewConn(ctx, &sender{in, c}, c.TLS)
	c.h2.Store(e)
	if s.isClosing() {
		e.Shutdown()
	}
	e.Serve()
}

// serveH2Request is the engine's handler.
func (s *Server) serveH2Request(w http.ResponseWriter, r *http.Request) {
	if no := s.judge(r); no.set() {
		s.refusals[no.why].Add(1)
		s.refuse(w, r, no, "")
		return
	}
	s.handle(From(r.Context()), w, r, 1)
}

// refuseH2 answers what the engine lets no handler see.
func (s *Server) refuseH2(w http.ResponseWriter, r *http.Request, why h2.Refusal, detail, line string) {
	no := bad(detail)
	if why == h2.TooLarge {
		no.why = exchange.HeaderTooLarge
	}
	s.refusals[no.why].Add(1)
	s.refuse(w, r, no, line)
}

// sender is a connection whose writes have their time.
type sender struct {
	net.Conn
	conn *Conn
}

// Write implements net.Conn.
func (s *sender) Write(b []byte) (int, error) { return s.conn.write(s.Conn, b) }

// CloseWrite ends what is sent, if the connection can.
func (s *sender) CloseWrite() error { return closeWrite(s.Conn) }
