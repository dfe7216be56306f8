package pool

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// What ends an Acquire other than its context; each inside an *AcquireError.
var (
	ErrTimeout     = errors.New("no item within the acquire timeout")
	ErrQueueFull   = errors.New("too many wait already")
	ErrUnavailable = errors.New("destination unavailable")
	ErrClosed      = errors.New("pool is closed")
)

// ErrNotBorrowed is a Return or Discard of a Lease that is over: returned
// before, or closed by the end of Close. Nothing was done.
var ErrNotBorrowed = errors.New("item is not borrowed under this lease")

// AcquireError says why an Acquire got nothing.
type AcquireError struct {
	Pool  string
	Cause error // one of the sentinels above, or the context's error with its cause

	Borrowed, Waiting, Opening, Max int // when it gave up, itself not among the waiting
	Waited                          time.Duration

	// LastOpen is the latest error of opening when no opening succeeded since,
	// Failures how many failed in a row, and RetryIn the time to the next
	// attempt. Unwrap leaves LastOpen out: a caller that asks whether its own
	// context ended must not be answered by a dial's.
	LastOpen error
	Failures int
	RetryIn  time.Duration
}

func (e *AcquireError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "acquire from pool %q: %v", e.Pool, e.Cause)
	if e.Cause != ErrClosed {
		fmt.Fprintf(&b, " (%d borrowed, %d opening, %d waiting, limit %d, waited %v)", e.Borrowed, e.Opening, e.Waiting, e.Max, e.Waited.Round(time.Microsecond))
	}
	if e.LastOpen != nil {
		fmt.Fprintf(&b, "; last of %d connect errors: %v", e.Failures, e.LastOpen)
		if e.RetryIn > 0 {
			fmt.Fprintf(&b, " (next attempt in %v)", e.RetryIn.Round(time.Millisecond))
		}
	}
	return b.String()
}

// Full says whether there was nothing because all that may be open were in use: no sign of
// what they are connections to.
func (e *AcquireError) Full() bool {
	return (e.Cause == ErrQueueFull || e.Cause == ErrTimeout) && e.LastOpen == nil && e.Opening == 0
}

// Unwrap returns Cause.
func (e *AcquireError) Unwrap() error { return e.Cause }
