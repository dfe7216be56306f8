package upstream

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Bounds of a list.
const (
	MaxEndpoints = 10_000
	MaxWeight    = 1_000
	MaxPriority  = 15
	maxAddress   = 512 // bytes
)

// Spec is what a list says of an endpoint.
type Spec struct {
	Address  string // host:port, or unix: and a path; names the endpoint within its upstream
	Weight   int    // 1 to MaxWeight; 0 is 1
	Priority int    // 0 is used first; higher ones as the lower fail
	Locality string // where it is, for people; nothing is chosen by it
	Drain    bool   // takes no new requests, those in flight go on
	Disabled bool   // takes no requests and is not checked
}

// CheckSpec tells what is wrong with an endpoint.
func CheckSpec(s Spec) error { return s.check() }

// check tells what is wrong with s, and sets what 0 stands for.
func (s *Spec) check() error {
	if err := CheckAddress(s.Address); err != nil {
		return err
	}
	if s.Weight == 0 {
		s.Weight = 1
	}
	if s.Weight < 0 || s.Weight > MaxWeight {
		return fmt.Errorf("weight %d: expected 1 to %d", s.Weight, MaxWeight)
	}
	if s.Priority < 0 || s.Priority > MaxPriority {
		return fmt.Errorf("priority %d: expected 0 to %d", s.Priority, MaxPriority)
	}
	return nil
}

// CheckAddress says what is wrong with an endpoint's address.
func CheckAddress(a string) error {
	if len(a) > maxAddress {
		return fmt.Errorf("address of %d bytes: expected at most %d", len(a), maxAddress)
	}
	if path, ok := strings.CutPrefix(a, "unix:"); ok {
		if path == "" {
			return fmt.Errorf("address %q: expected unix:PATH", a)
		}
		return nil
	}
	host, port, err := net.SplitHostPort(a)
	if err != nil || host == "" || strings.ContainsAny(host, " \t/") {
		return fmt.Errorf("address %q: expected host:port, [IPv6]:port or unix:PATH", a)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("address %q: expected a port from 1 to 65535", a)
	}
	return nil
}

// Mode is what the operator wants of an endpoint, whatever its list says.
type Mode uint8

// Modes.
const (
	ModeList     Mode = iota // as the list says
	ModeEnabled              // takes requests
	ModeDrain                // takes no new requests, those in flight go on
	ModeDisabled             // takes no requests and is not checked
)

// String returns "list", "enabled", "drain" or "disabled".
func (m Mode) String() string {
	switch m {
	case ModeEnabled:
		return "enabled"
	case ModeDrain:
		return "drain"
	case ModeDisabled:
		return "disabled"
	}
	return "list"
}

// Endpoint is one destination with what is known of it. It outlives the lists that name
// it: a list that names its address again finds the same endpoint.
type Endpoint struct {
	address string
	up      *Upstream
	brk     breaker
	stats   *counters

	inflight atomic.Int64
	conns    atomic.Int64
	rampFrom atomic.Int64 // slow start began at, ns since the upstream's start; never: no ramp

	// Of the outlier detector: failures in a row, and results in this interval.
	failedRow  atomic.Int32
	intervalOK atomic.Uint64
	intervalNo atomic.Uint64

	// Under Upstream.mu.
	spec    Spec
	mode    Mode
	weight  int // the operator's, 0: the list's
	listed  bool
	health  health
	ejected int64 // until, ns since the upstream's start; 0 not
	ejects  int   // ejections that count for the next one's length
	ejectAt int64
}

func newEndpoint(u *Upstream, s Spec) *Endpoint {
	e := &Endpoint{address: s.Address, up: u, spec: s, stats: new(counters)}
	e.rampFrom.Store(never)
	return e
}

// Address returns what a list called it.
func (e *Endpoint) Address() string { return e.address }

// InFlight returns the requests begun and not done.
func (e *Endpoint) InFlight() int64 { return e.inflight.Load() }

// Network returns the network and the address to dial.
func (e *Endpoint) Network() (network, address string) { return SplitNetwork(e.address) }

// SplitNetwork returns the network and the address to dial for an endpoint's address.
func SplitNetwork(a string) (network, address string) {
	if path, ok := strings.CutPrefix(a, "unix:"); ok {
		return "unix", path
	}
	return "tcp", a
}

// effectiveMode and effectiveWeight are under Upstream.mu.
func (e *Endpoint) effectiveMode() Mode {
	switch {
	case e.mode != ModeList:
		return e.mode
	case e.spec.Disabled:
		return ModeDisabled
	case e.spec.Drain:
		return ModeDrain
	}
	return ModeEnabled
}

func (e *Endpoint) effectiveWeight() int {
	if e.weight != 0 {
		return e.weight
	}
	return e.spec.Weight
}

// usable says whether checks and the outlier detector let it take requests; under
// Upstream.mu. One never checked is usable: a start must not wait for a first check.
func (e *Endpoint) usable() bool { return e.health.state != Unhealthy && e.ejected == 0 }

// AcquireConn counts a connection against Limits.Conns; who made it calls ReleaseConn
// when it is closed.
func (e *Endpoint) AcquireConn() error {
	limit := int64(e.up.cfg.Limits.Conns)
	if n := e.conns.Add(1); limit != 0 && n > limit {
		e.conns.Add(-1)
		e.stats.refused[ReasonConns].Add(1)
		return &Refusal{Upstream: e.up.cfg.Name, Reason: ReasonConns, Detail: fmt.Sprintf("%s has %d", e.address, limit)}
	}
	return nil
}

// ReleaseConn gives back what AcquireConn took.
func (e *Endpoint) ReleaseConn() {
	if e.conns.Add(-1) < 0 {
		panic("upstream: connection released more often than acquired")
	}
}

// full says whether the limit of requests in flight is reached.
func (e *Endpoint) full() bool {
	limit := int64(e.up.cfg.Limits.InFlight)
	return limit != 0 && e.inflight.Load() >= limit
}

// take counts a request in flight, if there is room.
func (e *Endpoint) take() bool {
	limit := int64(e.up.cfg.Limits.InFlight)
	if n := e.inflight.Add(1); limit != 0 && n > limit {
		e.inflight.Add(-1)
		return false
	}
	return true
}

// ramp is the share of its weight that an endpoint in slow start has, in 1/1024.
func (e *Endpoint) ramp(now int64) int64 {
	from := e.rampFrom.Load()
	if from == never {
		return 1024
	}
	window := int64(e.up.cfg.SlowStart)
	if window <= 0 || now-from >= window {
		return 1024
	}
	// A tenth from the start: an endpoint that gets nothing proves nothing.
	return max(102, int64(float64(now-from)/float64(window)*1024))
}

// startRamp begins slow start, if there is one.
func (e *Endpoint) startRamp(now int64) {
	if e.up.cfg.SlowStart > 0 {
		e.rampFrom.Store(now)
	}
}

func (e *Endpoint) ejectedFor(now int64) time.Duration {
	if e.ejected == 0 {
		return 0
	}
	return time.Duration(e.ejected - now)
}
