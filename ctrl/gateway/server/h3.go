package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// h3 is the engine of HTTP/3, quic-go's.
type h3 struct {
	server *http3.Server
	mu     sync.Mutex
	ends   map[*taker]func() // of what serves each socket
}

// Codes of HTTP/3 (RFC 9114 §8.1).
const (
	h3NoError       = 0x100
	h3ExcessiveLoad = 0x107
)

// newH3 sets up the engine.
func (s *Server) newH3() {
	s.h3 = &h3{ends: map[*taker]func(){}, server: &http3.Server{
		Handler: http.HandlerFunc(s.serveH3Request), MaxHeaderBytes: s.c.Limits.HeadBytes, IdleTimeout: max(0, s.c.Limits.Idle),
		Logger: s.c.Log,
		ConnContext: func(ctx context.Context, q *quic.Conn) context.Context {
			if c, ok := q.Context().Value(connKey{}).(*Conn); ok {
				c.quic.Store(q)
			}
			return ctx
		},
	}}
}

// maxUniStreams is what HTTP/3 needs of streams that only the client sends on: control,
// QPACK's two (RFC 9114 §6.2), and a few that are reserved to be ignored.
const maxUniStreams = 8

// busy says whether so many connections are open that clients of QUIC have to show that
// they can be reached at their address (RFC 9000 §8.1.2) before anything is kept of them.
func (s *Server) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c.Limits.Conns > 0 && len(s.conns) > s.c.Limits.Conns/2
}

// admitQUIC counts a connection at its first packet.
func (s *Server) admitQUIC(ctx context.Context, p net.PacketConn, info *quic.ClientInfo, t *taker) (context.Context, error) {
	s.accepted.Add(1)
	c := &Conn{Listener: s.c.Name, Protocol: HTTP3, Local: p.LocalAddr(), Peer: addrOf(info.RemoteAddr), server: s, open: &t.open, taker: t, land: sync.OnceFunc(t.landed)}
	c.Client = c.Peer
	c.over = func() {
		if q := c.quic.Load(); q != nil {
			_ = q.CloseWithError(h3NoError, "")
		}
	}
	c.early = func() bool {
		q := c.quic.Load()
		if q == nil {
			return false
		}
		select {
		case <-q.HandshakeComplete():
			return false
		default:
			return true
		}
	}
	if err := s.authorize(c, Accepted, s.beforeTLS(), nil); err != nil {
		s.refusedConns[RefusedAuthz].Add(1)
		return nil, err
	}
	s.mu.Lock()
	full := s.closing || s.c.Limits.Conns > 0 && len(s.conns) >= s.c.Limits.Conns
	if !full {
		s.conns[c] = struct{}{}
		t.open.Add(1)
	}
	s.mu.Unlock()
	if full {
		s.refusedConns[RefusedFull].Add(1)
		return nil, errors.New("too many connections")
	}
	if !s.countClient(c) {
		s.refusedConns[RefusedClient].Add(1)
		c.done()
		return nil, errors.New("too many connections from one address")
	}
	context.AfterFunc(ctx, func() { // the connection's own context: it ends with it
		c.land()
		c.done()
	})
	return context.WithValue(ctx, connKey{}, c), nil
}

// serveH3Request is the handler of HTTP/3's engine.
func (s *Server) serveH3Request(w http.ResponseWriter, r *http.Request) {
	if no := s.judge(r); no.set() {
		s.refusals[no.why].Add(1)
		s.refuse(w, r, no, "")
		return
	}
	c := From(r.Context())
	if most := s.c.Limits.Requests; most > 0 && c.requests.Add(1) > uint64(most) {
		if q := c.quic.Load(); q != nil {
			_ = q.CloseWithError(h3ExcessiveLoad, "")
		}
		return
	}
	st := newStream(c, w, r)
	defer st.finish()
	s.handle(c, stream3{st}, r, 2)
}

// shutdown ends in good order: GOAWAY, answers, then the connections.
func (h *h3) shutdown(ctx context.Context) {
	_ = h.server.Shutdown(ctx) // its error is ctx's
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, end := range h.ends {
		end()
	}
}
