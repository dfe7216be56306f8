package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"strings"
	"time"
)

// refuseConn closes a connection that is not served.
func (s *Server) refuseConn(c net.Conn, why Refused) {
	s.refusedConns[why].Add(1)
	_ = c.Close()
}

// start does what comes before HTTP on a connection and hands it to its engine.
func (s *Server) start(ctx context.Context, c *Conn) {
	in := c.raw
	_ = in.SetDeadline(time.Now().Add(s.c.Limits.Handshake))
	in, why, ok := s.proxyHeader(c, in)
	if !ok {
		s.drop(c, why)
		return
	}
	if s.authorize(c, Accepted, s.beforeTLS(), nil) != nil {
		s.drop(c, RefusedAuthz)
		return
	}
	if !s.countClient(c) {
		s.drop(c, RefusedClient)
		return
	}
	if s.c.Passthrough != nil && (s.c.Passes == nil || s.c.Passes()) {
		var taken bool
		if in, taken = s.passThrough(ctx, c, in); taken {
			return
		}
	}
	if s.tls == nil {
		_ = c.raw.SetDeadline(time.Time{})
		s.startPlain(ctx, c, in)
		return
	}
	t, err := s.handshake(ctx, c, in)
	if err != nil {
		why := handshakeReason(err)
		if c.unwanted.Load() {
			why = RefusedAuthz
		}
		s.drop(c, why)
		return
	}
	_ = c.raw.SetDeadline(time.Time{})
	if c.TLS.NegotiatedProtocol == "h2" {
		s.serveH2(ctx, c, t)
	} else if s.c.NoHTTP1 {
		s.drop(c, RefusedProtocol)
	} else {
		s.serveH1(ctx, c, t, nil)
	}
}

// drop closes a connection that had been admitted.
func (s *Server) drop(c *Conn, why Refused) {
	s.refuseConn(c.raw, why)
	c.done()
}

func handshakeReason(err error) Refused {
	if isTimeout(err) {
		return RefusedHandshakeLate
	}
	return RefusedHandshake
}

// handshake is TLS's.
func (s *Server) handshake(ctx context.Context, c *Conn, in net.Conn) (*tls.Conn, error) {
	t := tls.Server(in, s.tls)
	if s.c.Admit != nil {
		ctx = context.WithValue(ctx, connKey{}, c) // for authorizing
	}
	if err := t.HandshakeContext(ctx); err != nil {
		var plain tls.RecordHeaderError
		if errors.As(err, &plain) && plain.Conn != nil && looksLikeHTTP(plain.RecordHeader) {
			const text = "This is a port for HTTPS.\n"
			_, _ = io.WriteString(plain.Conn, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 26\r\nConnection: close\r\n\r\n"+text)
		}
		return nil, err
	}
	state := t.ConnectionState()
	c.TLS = &state
	return t, nil
}

func looksLikeHTTP(b [5]byte) bool {
	for _, m := range [...]string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH"} {
		if string(b[:]) == m {
			return true
		}
	}
	return false
}

// startPlain finds out whether a client without TLS begins with HTTP/2's preface (RFC 9113
// §3.3: it knows beforehand) or with HTTP/1.1.
func (s *Server) startPlain(ctx context.Context, c *Conn, in net.Conn) {
	if s.c.NoHTTP2 {
		s.serveH1(ctx, c, in, nil)
		return
	}
	b := s.buffer()
	c.wait.headBy.Store(s.now() + s.headTime)
	c.wait.restBy.Store(math.MaxInt64)
	for couldBePreface(b) && len(b) < len(preface) {
		n, err := in.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if _, ok := c.rested(); n == 0 && err != nil || !ok {
			s.free(b)
			_ = c.raw.Close()
			c.done()
			return
		}
	}
	switch {
	case len(b) >= len(preface) && string(b[:len(preface)]) == preface:
		c.wait.headBy.Store(0)
		early := &earlyConn{Conn: in, b: append([]byte(nil), b...)}
		s.free(b)
		s.serveH2(ctx, c, early)
	case s.c.NoHTTP1:
		s.free(b)
		s.drop(c, RefusedProtocol)
	default:
		s.serveH1(ctx, c, in, b)
	}
}

// preface is what a client of HTTP/2 sends first (RFC 9113 §3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

func couldBePreface(b []byte) bool {
	n := min(len(b), len(preface))
	return strings.HasPrefix(preface, string(b[:n]))
}
