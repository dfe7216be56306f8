package upstream

import "fmt"

// Reason is why a request or a connection was not let through.
type Reason uint8

// Reasons.
const (
	ReasonNone         Reason = iota
	ReasonEmpty               // the list is empty
	ReasonDisabled            // all endpoints are drained or disabled
	ReasonUnhealthy           // none is healthy
	ReasonBreaker             // circuit breakers keep requests back
	ReasonInFlight            // all are at the limit of requests in flight
	ReasonWaiting             // as many wait as may
	ReasonWaitDeadline        // the deadline came while waiting
	ReasonConns               // the limit of connections
	reasonCount
)

// String returns the reason in words.
func (r Reason) String() string {
	switch r {
	case ReasonEmpty:
		return "no endpoint in the list"
	case ReasonDisabled:
		return "all endpoints are drained or disabled"
	case ReasonUnhealthy:
		return "no healthy endpoint"
	case ReasonBreaker:
		return "circuit breaker open"
	case ReasonInFlight:
		return "limit of requests in flight"
	case ReasonWaiting:
		return "limit of waiting requests"
	case ReasonWaitDeadline:
		return "ended while waiting for an endpoint"
	case ReasonConns:
		return "limit of connections"
	}
	return "none"
}

// Label is the reason as a metric's label.
func (r Reason) Label() string {
	return [...]string{"none", "empty", "disabled", "unhealthy", "breaker", "in_flight", "waiting", "wait_deadline", "conns"}[r]
}

// Refusal is the error of a request that no endpoint was given to; nothing was sent.
type Refusal struct {
	Upstream string
	Reason   Reason
	Detail   string
	Err      error // of the context, with ReasonWaitDeadline
}

// Error implements error.
func (r *Refusal) Error() string {
	s := fmt.Sprintf("upstream %s: %s", r.Upstream, r.Reason)
	if r.Detail != "" {
		s += ": " + r.Detail
	}
	if r.Err != nil {
		s += ": " + r.Err.Error()
	}
	return s
}

// Unwrap returns the context's error, if that was it.
func (r *Refusal) Unwrap() error { return r.Err }
