package session

import (
	"context"
	"fmt"
	"time"
)

const (
	drainLook  = 5 * time.Millisecond
	drainQuiet = 50 * time.Millisecond // what is on the wire when GOAWAY goes out still comes
	closeGrace = time.Second           // for DISCONNECT to go out
)

// Draining says whether Refuse or Drain was called.
func (m *Manager) Draining() bool { return m.draining.Load() }

// Refuse refuses new connections from now on and says GOAWAY on every session;
// what is open goes on. There is no way back.
func (m *Manager) Refuse(ctx context.Context) error {
	if m.draining.Swap(true) {
		return nil
	}
	if err := m.cfg.Plane.Drain(ctx); err != nil && ctx.Err() == nil {
		m.draining.Store(false)
		return fmt.Errorf("drain: %w", err)
	}
	return nil
}

// Drain refuses new connections, says GOAWAY, waits for what is in flight
// until ctx ends, then closes every connection. cut is how many requests and
// streams did not end in time.
func (m *Manager) Drain(ctx context.Context) (cut int64, err error) {
	if err := m.Refuse(ctx); err != nil {
		return 0, err
	}
	quiet := 0 * time.Second
	for quiet < drainQuiet && pause(ctx, drainLook) {
		if m.busy() == 0 {
			quiet += drainLook
		} else {
			quiet = 0
		}
	}
	cut = m.busy()
	for _, c := range m.all() {
		c.shut(codeShutdown, "shutting down")
	}
	m.flush()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	for len(m.all()) > 0 && pause(end, drainLook) {
	}
	for _, c := range m.all() {
		c.abort()
	}
	m.flush()
	return cut, nil
}

// busy counts what is in flight: requests, byte streams, bytes on their way out.
func (m *Manager) busy() int64 {
	n := m.stats.inflight.Load() + m.streams.Load()
	for _, c := range m.all() {
		c.mu.Lock()
		if c.outBytes > 0 {
			n++
		}
		c.mu.Unlock()
	}
	return n
}

func (m *Manager) flush() {
	for _, sh := range m.shards {
		sh.core.Flush()
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
