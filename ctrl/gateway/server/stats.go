package server

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// Refused is why a connection was refused or broken off.
type Refused uint8

// Reasons.
const (
	RefusedFull          Refused = iota // Limits.Conns are open
	RefusedClient                       // Limits.ClientConns of its client are
	RefusedProxy                        // no PROXY header where one has to be, a bad one, or one that took too long
	RefusedPeer                         // its address may send no PROXY header, and one has to be
	RefusedHandshake                    // the TLS handshake failed
	RefusedHandshakeLate                // it took too long
	RefusedProtocol                     // no protocol that is served
	RefusedAuthz                        // Config.Admit says so
	RefusedPassthrough                  // the destination of a connection passed through can't be reached
	CutHead                             // a head, or the first one, took too long
	CutBody                             // a body did
	CutAnswer                           // the client does not read
	CutIdle                             // nothing moved on a connection that is passed through
	CutResets                           // HTTP/2: too many resets
	CutControl                          // HTTP/2: too many pings, settings, priorities or empty frames
	CutContinuation                     // HTTP/2: a head in too many frames
	CutTorn                             // a body of HTTP/1.1 could not be read to its end: where the next head begins nobody knows
	refusedReasons
)

// String returns the reason's name: small letters and underscores, a label of metrics.
func (r Refused) String() string {
	switch r {
	case RefusedFull:
		return "full"
	case RefusedClient:
		return "client_full"
	case RefusedProxy:
		return "proxy_header"
	case RefusedPeer:
		return "proxy_peer"
	case RefusedHandshake:
		return "handshake"
	case RefusedHandshakeLate:
		return "handshake_timeout"
	case RefusedProtocol:
		return "protocol"
	case RefusedAuthz:
		return "authz"
	case RefusedPassthrough:
		return "passthrough"
	case CutHead:
		return "slow_head"
	case CutBody:
		return "slow_body"
	case CutAnswer:
		return "slow_answer"
	case CutIdle:
		return "passthrough_idle"
	case CutResets:
		return "h2_resets"
	case CutControl:
		return "h2_control"
	case CutTorn:
		return "torn_body"
	case CutContinuation:
		return "h2_continuation"
	}
	return "other"
}

// Protocols, as Conn.Protocol names them.
const (
	HTTP1 = "http/1.1"
	HTTP2 = "h2"
	HTTP3 = "h3"
)

type counts struct {
	accepted, acceptErrors      atomic.Uint64
	refusedConns                [refusedReasons]atomic.Uint64
	refusals                    [exchange.NumReasons]atomic.Uint64
	requests                    [3]atomic.Uint64
	running                     atomic.Int64
	panics                      atomic.Uint64
	passed, passedIn, passedOut atomic.Uint64
	passing                     atomic.Int64

	frames   sync.Mutex
	h2errors map[string]uint64
}

// Stats counts what a server did.
type Stats struct {
	Open         int                        // connections
	Accepted     uint64                     // connections of TCP, those of Refused included, and of QUIC
	AcceptErrors uint64                     // of the listener, for want of room
	Conns        map[Refused]uint64         // connections refused or broken off
	Requests     map[string]uint64          // that came to the handler, by protocol
	Refusals     map[exchange.Reason]uint64 // requests refused before the handler
	Running      int64                      // handlers
	Panics       uint64                     // of handlers
	Passed       uint64                     // connections passed through unopened
	Passing      int64                      // of them open
	PassedIn     uint64                     // bytes from clients on them
	PassedOut    uint64                     // bytes to clients
	H2Errors     map[string]uint64          // what the engine of HTTP/2 found wrong, in its words
}

// Add adds what another server counted, to tell of several as of one.
func (s *Stats) Add(o *Stats) {
	s.Open += o.Open
	s.Accepted += o.Accepted
	s.AcceptErrors += o.AcceptErrors
	s.Running += o.Running
	s.Panics += o.Panics
	s.Passed += o.Passed
	s.Passing += o.Passing
	s.PassedIn += o.PassedIn
	s.PassedOut += o.PassedOut
	addTo(&s.Conns, o.Conns)
	addTo(&s.Requests, o.Requests)
	addTo(&s.Refusals, o.Refusals)
	addTo(&s.H2Errors, o.H2Errors)
}

func addTo[K comparable](to *map[K]uint64, from map[K]uint64) {
	if *to == nil && from != nil {
		*to = map[K]uint64{}
	}
	for k, n := range from {
		(*to)[k] += n
	}
}

// maxH2Errors bounds the map; the engine has some sixty words.
const maxH2Errors = 256

func (s *Server) countH2(word string) {
	s.frames.Lock()
	defer s.frames.Unlock()
	if s.h2errors == nil {
		s.h2errors = map[string]uint64{}
	}
	if _, known := s.h2errors[word]; known || len(s.h2errors) < maxH2Errors {
		s.h2errors[word]++
	}
}

// Stats returns the counts.
func (s *Server) Stats() Stats {
	st := Stats{
		Accepted: s.accepted.Load(), AcceptErrors: s.acceptErrors.Load(), Conns: map[Refused]uint64{}, Requests: map[string]uint64{},
		Refusals: map[exchange.Reason]uint64{}, Running: s.running.Load(), Panics: s.panics.Load(),
		Passed: s.passed.Load(), Passing: s.passing.Load(), PassedIn: s.passedIn.Load(), PassedOut: s.passedOut.Load(),
	}
	s.mu.Lock()
	st.Open = len(s.conns)
	s.mu.Unlock()
	for r := range refusedReasons {
		if n := s.refusedConns[r].Load(); n > 0 {
			st.Conns[r] = n
		}
	}
	for r := range exchange.NumReasons {
		if n := s.refusals[r].Load(); n > 0 {
			st.Refusals[exchange.Reason(r)] = n
		}
	}
	for i, p := range [...]string{HTTP1, HTTP2, HTTP3} {
		st.Requests[p] = s.requests[i].Load()
	}
	s.frames.Lock()
	st.H2Errors = maps.Clone(s.h2errors)
	s.frames.Unlock()
	return st
}
