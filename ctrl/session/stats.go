package session

import (
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/dataplane"
)

type stats struct {
	opened, closed, handshakes, oneWay, streams atomic.Uint64
	inflight                                    atomic.Int64
	status                                      [256]atomic.Uint64 // responses by code

	mu       sync.Mutex
	refused  map[string]uint64
	accepted map[dataplane.ListenerID]uint64
	open     map[dataplane.ListenerID]int
	limit    map[dataplane.ListenerID]int
}

func (s *stats) init() {
	s.refused, s.accepted = map[string]uint64{}, map[dataplane.ListenerID]uint64{}
	s.open, s.limit = map[dataplane.ListenerID]int{}, map[dataplane.ListenerID]int{}
}

// SetLimit bounds the NPRO connections that a listener has at a time over all cores; those
// beyond it are told so and closed. The plane's own limit must be higher by what may be
// on its way out (RefusalRoom). 0: no limit.
func (m *Manager) SetLimit(id dataplane.ListenerID, conns int) {
	m.stats.mu.Lock()
	defer m.stats.mu.Unlock()
	m.stats.limit[id] = conns
}

// RefusalRoom is how many connections beyond its limit a listener of the plane
// should take, so that they can be refused with a code.
const RefusalRoom = 64

// Accepted counts the NPRO connections that a listener took.
func (m *Manager) Accepted(id dataplane.ListenerID) uint64 {
	m.stats.mu.Lock()
	defer m.stats.mu.Unlock()
	return m.stats.accepted[id]
}

// accept counts a connection; false: it is one too many.
func (m *Manager) accept(id dataplane.ListenerID) bool {
	m.stats.opened.Add(1)
	m.stats.mu.Lock()
	defer m.stats.mu.Unlock()
	m.stats.open[id]++
	if limit := m.stats.limit[id]; limit > 0 && m.stats.open[id] > limit {
		m.stats.refused["connection_limit"]++
		return false
	}
	m.stats.accepted[id]++
	return true
}

// leave ends what accept counted.
func (m *Manager) leave(id dataplane.ListenerID) {
	m.stats.closed.Add(1)
	m.stats.mu.Lock()
	defer m.stats.mu.Unlock()
	m.stats.open[id]--
}

// count counts something refused, by a reason of ours.
func (m *Manager) count(reason string) {
	m.stats.mu.Lock()
	defer m.stats.mu.Unlock()
	m.stats.refused[reason]++
}

func (m *Manager) warn(reason, msg string, c *conn) {
	m.count(reason)
	m.cfg.Limiter.Log(slog.LevelWarn, reason, msg, "conn_id", c.id(), "core", c.sh.index, "remote", addr(c.remote))
}

// Stats is a snapshot of what the control plane counts.
type Stats struct {
	Opened, Closed, Handshakes uint64
	Connections                int
	HandshakesInFlight         int64
	Inflight                   int64 // requests with handlers or waiting for one
	Streams                    int64 // byte streams with handlers
	StreamsTotal               uint64
	OneWay                     uint64
	MessageBytes               int64             // messages held
	Responses                  map[string]uint64 // by status text
	Refused                    map[string]uint64 // by reason
	LogsHeld                   uint64
}

// Stats returns the counters.
func (m *Manager) Stats() Stats {
	s := Stats{Opened: m.stats.opened.Load(), Closed: m.stats.closed.Load(), Handshakes: m.stats.handshakes.Load(),
		HandshakesInFlight: m.hsFlight.Load(), Inflight: m.stats.inflight.Load(), Streams: m.streams.Load(), StreamsTotal: m.stats.streams.Load(),
		OneWay: m.stats.oneWay.Load(), MessageBytes: m.memory.Load(), Responses: map[string]uint64{}, Refused: map[string]uint64{},
		LogsHeld: m.cfg.Limiter.Held()}
	for _, sh := range m.shards {
		sh.mu.Lock()
		s.Connections += len(sh.conns)
		sh.mu.Unlock()
	}
	for i := range m.stats.status {
		if n := m.stats.status[i].Load(); n > 0 {
			s.Responses[npro.Code(i).String()] = n
		}
	}
	m.stats.mu.Lock()
	defer m.stats.mu.Unlock()
	for k, v := range m.stats.refused {
		s.Refused[k] = v
	}
	return s
}
