package plain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// bufferBytes is one read; a TLS record holds as much.
const bufferBytes = 16 << 10

// Server serves one protocol on a listener.
type Server struct {
	Protocol string        // "echo", "discard" or "chargen"
	MaxConns int           // at a time, more are closed at once; 0: no limit
	Idle     time.Duration // a connection on which nothing moves so long ends; 0: never
	// Admit says why a connection is refused; nil: all are let in. One whose handshake ends with
	// an error that is ErrRefused counts as refused too.
	Admit func(net.Conn) error
	// Failed is told why a connection ended, unless in good order; it must not block. May be nil.
	Failed func(remote net.Addr, err error)

	open     atomic.Int64
	accepted atomic.Uint64
	refused  atomic.Uint64
	failed   atomic.Uint64
	unshaken atomic.Uint64
	buffers  sync.Pool
}

// ErrRefused marks errors of handshakes that found that a connection is not let in.
var ErrRefused = errors.New("refused")

// Stats counts a server's connections.
type Stats struct {
	Open       int64
	Accepted   uint64
	Refused    uint64 // one too many, or not let in
	Failed     uint64 // of those accepted, ended otherwise than in good order
	Handshakes uint64 // of those failed, for the handshake of the layer below (TLS)
}

// Stats returns the counts.
func (s *Server) Stats() Stats {
	return Stats{Open: s.open.Load(), Accepted: s.accepted.Load(), Refused: s.refused.Load(), Failed: s.failed.Load(), Handshakes: s.unshaken.Load()}
}

// New checks the protocol's name.
func New(protocol string) (*Server, error) {
	s := &Server{Protocol: protocol}
	if s.service() == nil {
		return nil, fmt.Errorf("protocol %q, expected echo, discard or chargen", protocol)
	}
	s.buffers.New = func() any { return new([bufferBytes]byte) }
	return s, nil
}

func (s *Server) service() func(*Server, net.Conn) error {
	switch s.Protocol {
	case "echo":
		return (*Server).echo
	case "discard":
		return (*Server).discard
	case "chargen":
		return (*Server).chargen
	}
	return nil
}

// Serve accepts until the listener closes or ctx ends, and waits for the connections: those of a
// listener that was closed stay until they end by themselves or ctx does. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	serve := s.service()
	for {
		c, err := l.Accept()
		if err != nil {
			_ = l.Close()
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			cancel()
			return err
		}
		if s.Admit != nil && s.Admit(c) != nil {
			s.refused.Add(1)
			_ = c.Close()
			continue
		}
		if n := s.open.Add(1); s.MaxConns > 0 && n > int64(s.MaxConns) {
			s.open.Add(-1)
			s.refused.Add(1)
			_ = c.Close()
			continue
		}
		s.accepted.Add(1)
		wg.Go(func() {
			defer s.open.Add(-1)
			end := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
			defer end()
			err := serve(s, c)
			_ = c.Close() // the error that matters came before
			if err != nil && ctx.Err() == nil {
				s.ended(c, err)
			}
		})
	}
}

// ended counts a connection that did not end in good order.
func (s *Server) ended(c net.Conn, err error) {
	if errors.Is(err, ErrRefused) {
		s.refused.Add(1)
		return
	}
	s.failed.Add(1)
	if handshake(err) {
		s.unshaken.Add(1)
	}
	if s.Failed != nil {
		s.Failed(c.RemoteAddr(), err)
	}
}

// handshake says whether an error is of a handshake, as package secure words it.
func handshake(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "handshake"
}

func (s *Server) moved(c net.Conn) error {
	if s.Idle <= 0 {
		return nil
	}
	return c.SetDeadline(time.Now().Add(s.Idle))
}

// echo sends back what comes, then what io.EOF says: the peer's half-close is answered by ours.
func (s *Server) echo(c net.Conn) error {
	b := s.buffers.Get().(*[bufferBytes]byte)
	defer s.buffers.Put(b)
	for {
		if err := s.moved(c); err != nil {
			return err
		}
		n, err := c.Read(b[:])
		if n > 0 {
			if _, err := c.Write(b[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return notEOF(err)
		}
	}
}

func (s *Server) discard(c net.Conn) error {
	b := s.buffers.Get().(*[bufferBytes]byte)
	defer s.buffers.Put(b)
	for {
		if err := s.moved(c); err != nil {
			return err
		}
		if _, err := c.Read(b[:]); err != nil {
			return notEOF(err)
		}
	}
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Lines of RFC 864's recommended pattern: 72 of the 95 printing characters, each line one further.
const (
	lineBytes = 74
	printing  = 95
)

func fill(b []byte, at int) int {
	n := 0
	for ; n+lineBytes <= len(b); n += lineBytes {
		for i := range 72 {
			b[n+i] = byte(' ' + (at+i)%printing)
		}
		b[n+72], b[n+73] = '\r', '\n'
		at = (at + 1) % printing
	}
	return n
}

// chargen sends lines until the peer ends the connection; what the peer sends is thrown away.
func (s *Server) chargen(c net.Conn) error {
	b := s.buffers.Get().(*[bufferBytes]byte)
	defer s.buffers.Put(b)
	gone := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, c)
		_ = c.SetWriteDeadline(time.Unix(1, 0)) // the peer has ended: so do we
	})
	defer func() { _ = c.SetReadDeadline(time.Unix(1, 0)) }()
	for at := 0; ; at = (at + bufferBytes/lineBytes) % printing {
		if s.Idle > 0 {
			if err := c.SetWriteDeadline(time.Now().Add(s.Idle)); err != nil {
				return err
			}
		}
		if _, err := c.Write(b[:fill(b[:], at)]); err != nil {
			select {
			case <-gone:
				if !handshake(err) { // the reader got that error too
					return nil
				}
			default:
			}
			return err
		}
	}
}
