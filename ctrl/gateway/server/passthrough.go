package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Hello is what a client says before TLS, in the clear.
type Hello struct {
	ServerName string
	Protocols  []string // of ALPN
	Conn       *Conn
}

// maxHello bounds what is kept of a ClientHello; those with post-quantum keys have 2 KiB.
const maxHello = 32 << 10

var errSeen = errors.New("seen")

// peekHello reads a ClientHello. The bytes that were read are returned with it, to be read
// again. crypto/tls parses it, fragments and all; nothing is sent to the client.
func peekHello(ctx context.Context, c *Conn, in net.Conn) (Hello, []byte, error) {
	var hello *Hello
	tap := &tap{Conn: in}
	err := tls.Server(tap, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		hello = &Hello{ServerName: h.ServerName, Protocols: append([]string(nil), h.SupportedProtos...), Conn: c}
		return nil, errSeen
	}}).HandshakeContext(ctx)
	if hello == nil {
		return Hello{}, tap.b, err
	}
	return *hello, tap.b, nil
}

// tap keeps what is read and sends nothing.
type tap struct {
	net.Conn
	b []byte
}

// Read implements net.Conn.
func (t *tap) Read(p []byte) (int, error) {
	if len(t.b) >= maxHello {
		return 0, errors.New("ClientHello too long")
	}
	n, err := t.Conn.Read(p[:min(len(p), maxHello-len(t.b))])
	t.b = append(t.b, p[:n]...)
	return n, err
}

// Write implements net.Conn: alerts of a handshake that is only looked at.
func (t *tap) Write(p []byte) (int, error) { return len(p), nil }

// Close implements net.Conn.
func (t *tap) Close() error { return nil }

// passThrough takes the connection if it is to be passed on unopened, else it returns it
// as it was.
func (s *Server) passThrough(ctx context.Context, c *Conn, in net.Conn) (net.Conn, bool) {
	hello, b, err := peekHello(ctx, c, in)
	if isTimeout(err) {
		s.drop(c, RefusedHandshakeLate)
		return nil, true
	}
	in = &earlyConn{Conn: in, b: b}
	if err != nil { // the handshake will tell the client what is wrong
		if s.tls == nil {
			s.drop(c, RefusedHandshake)
		}
		return in, s.tls == nil
	}
	dial, ok := s.c.Passthrough(hello)
	if !ok {
		if s.tls == nil {
			s.drop(c, RefusedProtocol)
		}
		return in, s.tls == nil
	}
	if s.authorize(c, Passing, &tls.ConnectionState{ServerName: hello.ServerName}, hello.Protocols) != nil {
		s.drop(c, RefusedAuthz)
		return nil, true
	}
	defer c.done()
	_ = c.raw.SetDeadline(time.Time{})
	dialing, cancel := context.WithTimeout(ctx, s.c.Limits.Handshake)
	to, err := dial(dialing)
	cancel()
	if err != nil {
		s.refuseConn(c.raw, RefusedPassthrough)
		s.c.Log.Debug("passthrough", "listener", s.c.Name, "server_name", hello.ServerName, "error", err)
		return nil, true
	}
	s.splice(ctx, c, in, to)
	return nil, true
}

// splice copies both ways until both have ended. An end of one direction is passed on as
// such; a connection on which nothing moves for Limits.PassIdle is broken off.
func (s *Server) splice(ctx context.Context, c *Conn, client, server net.Conn) {
	s.passed.Add(1)
	s.passing.Add(1)
	defer s.passing.Add(-1)
	closeBoth := sync.OnceFunc(func() {
		_ = client.Close()
		_ = server.Close()
	})
	defer closeBoth()
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()
	c.moved()
	var wg sync.WaitGroup
	wg.Go(func() { c.pour(server, client, &s.passedIn, closeBoth) })
	wg.Go(func() { c.pour(client, server, &s.passedOut, closeBoth) })
	wg.Wait()
}

// moved puts off the end of a connection that is passed through.
func (c *Conn) moved() {
	if idle := c.server.c.Limits.PassIdle; idle > 0 {
		c.wait.passBy.Store(c.server.now() + idle.Milliseconds())
	}
}

// pour copies one way.
func (c *Conn) pour(to, from net.Conn, count *atomic.Uint64, broken func()) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			c.moved()
			sent, werr := to.Write(b[:n])
			count.Add(uint64(sent))
			if werr != nil {
				broken()
				return
			}
			c.moved()
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) || closeWrite(to) != nil {
			broken()
		}
		return
	}
}
