package upstream

import (
	"context"
	"time"
)

// State is what checks found of an endpoint.
type State uint8

// States.
const (
	Unknown   State = iota // not checked yet; takes requests
	Healthy                // takes requests
	Unhealthy              // takes none, but in a panic
)

// String returns "unknown", "healthy" or "unhealthy".
func (s State) String() string {
	switch s {
	case Healthy:
		return "healthy"
	case Unhealthy:
		return "unhealthy"
	}
	return "unknown"
}

// Checker asks an endpoint how it is; nil is well. It ends with ctx.
type Checker interface {
	Check(ctx context.Context, address string) error
}

// HealthConfig is how endpoints are checked; no Checker: they are not.
type HealthConfig struct {
	Checker       Checker
	Interval      time.Duration // between checks of a healthy endpoint; 10 s
	FailInterval  time.Duration // while it fails or recovers; a quarter of Interval, at most 2 s
	Timeout       time.Duration // of a check; 2 s
	JitterPercent int           // by which intervals differ, up and down; 10
	Rise          int           // successes in a row that make it healthy; 2
	Fall          int           // failures in a row that make it unhealthy; 3
	Concurrency   int           // checks at once; 16
}

func (c *HealthConfig) defaults() {
	defaultTo(&c.Interval, 10*time.Second)
	defaultTo(&c.FailInterval, max(time.Millisecond, min(c.Interval/4, 2*time.Second)))
	defaultTo(&c.Timeout, 2*time.Second)
	defaultTo(&c.JitterPercent, 10)
	defaultTo(&c.Rise, 2)
	defaultTo(&c.Fall, 3)
	defaultTo(&c.Concurrency, 16)
}

// health is the machine of one endpoint. The first check of all decides at once: neither
// should a start wait for Rise checks, nor one that was never seen well get Fall chances.
type health struct {
	state State
	row   int // results in a row that speak against state
	since time.Time
	at    time.Time // of the last check
	err   string    // of the last check
}

// observe takes a check's result and says whether the state changed.
func (h *health) observe(c *HealthConfig, err error, now time.Time) bool {
	h.at = now
	h.err = ""
	found := Healthy
	if err != nil {
		h.err = err.Error()
		found = Unhealthy
	}
	if found == h.state {
		h.row = 0
		return false
	}
	h.row++
	need := 1
	switch h.state {
	case Healthy:
		need = c.Fall
	case Unhealthy:
		need = c.Rise
	}
	if h.row < need {
		return false
	}
	h.state, h.row, h.since = found, 0, now
	return true
}

// failing says that the next check should come soon.
func (h *health) failing() bool { return h.state == Unhealthy || h.row > 0 }

// interval is the time to the next check, with jitter from the random bits r, so that
// checks of many endpoints from many gateways do not fall together.
func (c *HealthConfig) interval(failing bool, r uint64) time.Duration {
	d := c.Interval
	if failing {
		d = c.FailInterval
	}
	j := int64(d) * int64(c.JitterPercent) / 100
	if j == 0 {
		return d
	}
	return time.Duration(int64(d) - j + int64(r%uint64(2*j+1)))
}
