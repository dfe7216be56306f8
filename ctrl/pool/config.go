package pool

import (
	"errors"
	"fmt"
	"time"
)

// Config is what an operator can set of a pool, at start and later with
// SetConfig. The names in Check's errors are the keys of a [pool] section.
type Config struct {
	// Min items are kept open, 0 to Max. With Min = Max the size is fixed.
	Min int
	// Max bounds the items open, being opened and being closed, 1 to 1,000,000.
	Max int
	// WarmUp opens Min items from the start, in the background; without it Min
	// is kept from the first Acquire on.
	WarmUp bool
	// IdleTimeout ends an item that nobody borrowed for so long while more than
	// Min are open. 0: never; else 1 ms to 7 days.
	IdleTimeout time.Duration
	// MaxLifetime ends an item that is so old, once it is not borrowed. 0:
	// never; else 1 ms to 30 days.
	MaxLifetime time.Duration
	// LifetimeJitter shortens each item's MaxLifetime by up to this fraction at
	// random, so that items opened together don't end together. 0 to 0.9.
	LifetimeJitter float64
	// MaxUses ends an item that was borrowed so often. 0: never; to 1e9.
	MaxUses int
	// AcquireTimeout bounds an Acquire beside its context. 0: the context
	// alone; else 1 ms to 1 hour.
	AcquireTimeout time.Duration
	// MaxWaiting bounds those who wait for a borrowed item, 0 to 1,000,000.
	// Those for whom another item may still be opened don't count, so up to
	// MaxWaiting + Max wait when nothing is open yet.
	MaxWaiting int
	// ValidateAfter: an item unused and not validated for longer is validated
	// before it is lent. 0: each time, for a validation that costs nothing, like
	// a look at a flag that the connection's reader sets; to 7 days.
	ValidateAfter time.Duration
	// ValidateEvery: an idle item unused and not validated for so long is
	// validated in the background, one item at a time. 0: never; else 1 ms to 7 days.
	ValidateEvery time.Duration
	// ValidateTimeout bounds one validation, 1 ms to 1 minute.
	ValidateTimeout time.Duration
	// ConnectTimeout bounds one opening, 1 ms to 10 minutes.
	ConnectTimeout time.Duration
	// MaxConnecting bounds the items being opened at a time, 1 to 10,000.
	MaxConnecting int
	// OpenRate bounds openings per second, of which MaxConnecting may come at
	// once. 0: no bound; to 1,000,000.
	OpenRate int
	// BackoffMin and BackoffMax: the pause after a failed opening begins at the
	// first, doubles with each failure in a row up to the second, and is
	// shortened by up to a half at random. 1 ms to 1 hour, the first not above
	// the second.
	BackoffMin, BackoffMax time.Duration
	// FailFast: when opening has just failed and nothing is open, those who wait,
	// and those who come during the pause, get the error at once. Without it
	// they wait on, up to their time limit, for the destination to come back.
	FailFast bool
	// Shards are separate lists of idle items, 1 to 1,024: one for each worker,
	// which uses its own first and takes of others' when it has none. All other
	// limits are of the pool as a whole. It can't be changed later.
	Shards int
}

// DefaultConfig is a dynamic pool of up to 64 items.
func DefaultConfig() Config {
	return Config{
		Max: 64, WarmUp: true, IdleTimeout: 90 * time.Second, MaxLifetime: 30 * time.Minute, LifetimeJitter: 0.1,
		AcquireTimeout: 5 * time.Second, MaxWaiting: 1024, ValidateAfter: 5 * time.Second, ValidateTimeout: time.Second,
		ConnectTimeout: 5 * time.Second, MaxConnecting: 4, BackoffMin: 100 * time.Millisecond, BackoffMax: 30 * time.Second, Shards: 1,
	}
}

const day = 24 * time.Hour

// Check returns every value that is out of its range, joined; nil if none is.
func (c Config) Check() error {
	var errs []error
	count := func(key string, v, lo, hi int) {
		if v < lo || v > hi {
			errs = append(errs, fmt.Errorf("%s is %d, must be %d to %d", key, v, lo, hi))
		}
	}
	span := func(key string, v, lo, hi time.Duration, off bool) {
		switch {
		case off && v == 0:
		case v >= lo && v <= hi:
		case off:
			errs = append(errs, fmt.Errorf("%s is %v, must be 0 (off) or %v to %v", key, v, lo, hi))
		default:
			errs = append(errs, fmt.Errorf("%s is %v, must be %v to %v", key, v, lo, hi))
		}
	}
	const ms = time.Millisecond
	count("max", c.Max, 1, 1_000_000)
	count("min", c.Min, 0, max(c.Max, 0))
	span("idle_timeout", c.IdleTimeout, ms, 7*day, true)
	span("max_lifetime", c.MaxLifetime, ms, 30*day, true)
	if !(c.LifetimeJitter >= 0 && c.LifetimeJitter <= 0.9) { // not a number fails too
		errs = append(errs, fmt.Errorf("lifetime_jitter is %v, must be 0 to 0.9", c.LifetimeJitter))
	}
	count("max_uses", c.MaxUses, 0, 1_000_000_000)
	span("acquire_timeout", c.AcquireTimeout, ms, time.Hour, true)
	count("max_waiting", c.MaxWaiting, 0, 1_000_000)
	span("validate_after", c.ValidateAfter, 0, 7*day, false)
	span("validate_every", c.ValidateEvery, ms, 7*day, true)
	span("validate_timeout", c.ValidateTimeout, ms, time.Minute, false)
	span("connect_timeout", c.ConnectTimeout, ms, 10*time.Minute, false)
	count("max_connecting", c.MaxConnecting, 1, 10_000)
	count("open_rate", c.OpenRate, 0, 1_000_000)
	span("backoff_min", c.BackoffMin, ms, time.Hour, false)
	span("backoff_max", c.BackoffMax, ms, time.Hour, false)
	if c.BackoffMin > c.BackoffMax {
		errs = append(errs, fmt.Errorf("backoff_min is %v, must not be above backoff_max (%v)", c.BackoffMin, c.BackoffMax))
	}
	count("shards", c.Shards, 1, 1024)
	return errors.Join(errs...)
}
