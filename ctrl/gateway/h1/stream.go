package h1

import (
	"errors"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"sync"
)

// Stream is the body of a 101 response: the connection, with what came behind the head
// first. Reads and writes may run beside each other. The context of the request still
// counts.
type Stream struct {
	k     *call
	close sync.Once
}

// Read reads what the server sends.
func (s *Stream) Read(p []byte) (int, error) { return s.k.conn.in.read(p) }

// Write sends to the server.
func (s *Stream) Write(p []byte) (int, error) { return s.k.conn.nc.Write(p) }

// CloseWrite tells the server that nothing more comes, if the connection can.
func (s *Stream) CloseWrite() error {
	if w, ok := s.k.conn.nc.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Conn returns the connection, for its deadlines and addresses.
func (s *Stream) Conn() net.Conn { return s.k.conn.nc }

// Close ends the connection. A Read that waits returns with an error.
func (s *Stream) Close() error {
	s.close.Do(func() {
		s.k.hook.Stop()
		s.k.over = true
		// The buffer is left to the garbage collector: a Read may be using it.
		if s.k.client.pool == nil {
			s.k.client.close(s.k.conn)
			return
		}
		_ = s.k.lease.Discard() // it is over only if the pool was closed by force
	})
	return nil
}

// trailerNames makes a Trailer of what a Trailer field announces, without what a trailer
// may not hold (RFC 9110 §6.5.1).
func trailerNames(values []string) http.Header {
	t := http.Header{}
	for _, v := range values {
		for name := range strings.SplitSeq(v, ",") {
			name = textproto.CanonicalMIMEHeaderKey(trimOWS(name))
			if name == "" || all(name, token) >= 0 || own(name) || name == "Content-Length" || name == "Transfer-Encoding" {
				continue
			}
			t[name] = nil
		}
	}
	return t
}
