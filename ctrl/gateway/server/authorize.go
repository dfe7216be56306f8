package server

import (
	"crypto/tls"

	"github.com/np-appliance/np/ctrl/secure"
)

// authorize asks Config.Admit, unless it has said all it has to say. An error: it refuses.
func (s *Server) authorize(c *Conn, at Stage, state *tls.ConnectionState, offered []string) error {
	if s.c.Admit == nil || c.admitted.Load() {
		return nil
	}
	later, err := s.c.Admit(c, at, state, offered)
	if err != nil {
		c.unwanted.Store(true)
		return err
	}
	c.admitted.Store(!later)
	return nil
}

// beforeTLS is what is known of TLS before it begins: whether there is any.
func (s *Server) beforeTLS() *tls.ConnectionState {
	if s.tls == nil {
		return nil
	}
	return &tls.ConnectionState{}
}

// authorizing returns a copy of t whose handshakes, for TCP and QUIC alike, end where
// Config.Admit refuses. The connection is in the handshake's context.
func (s *Server) authorizing(t *tls.Config) *tls.Config {
	return secure.Authorize(t, func(hello *tls.ClientHelloInfo) (func(tls.ConnectionState) error, error) {
		c := From(hello.Context())
		if c == nil { // nobody's handshake but ours comes here
			return nil, nil
		}
		err := s.authorizeTLS(c, Greeted, &tls.ConnectionState{ServerName: hello.ServerName}, hello.SupportedProtos)
		if err != nil || c.admitted.Load() {
			return nil, err
		}
		return func(state tls.ConnectionState) error { return s.authorizeTLS(c, Shaken, &state, nil) }, nil
	})
}

// authorizeTLS is authorize in a handshake.
func (s *Server) authorizeTLS(c *Conn, at Stage, state *tls.ConnectionState, offered []string) error {
	err := s.authorize(c, at, state, offered)
	if err != nil && c.raw == nil { // QUIC's, whose end is its engine's; TCP's is counted when it is dropped
		s.refusedConns[RefusedAuthz].Add(1)
	}
	return err
}
