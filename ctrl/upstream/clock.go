package upstream

import (
	"errors"
	"math"
	"time"
)

// Clock is where time comes from. Contexts' deadlines are not taken from it: tests that
// need those as well run in a testing/synctest bubble with [SystemClock].
type Clock interface {
	Now() time.Time
	// Timer sends once on c after d; stop releases it early.
	Timer(d time.Duration) (c <-chan time.Time, stop func())
}

// SystemClock is package time.
type SystemClock struct{}

// Now implements [Clock].
func (SystemClock) Now() time.Time { return time.Now() }

// Timer implements [Clock].
func (SystemClock) Timer(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

// never is a point in time that does not come, in nanoseconds since an upstream began.
const never = math.MaxInt64

var errStopped = errors.New("stopped")

// mix spreads x over all 64 bits (the finalizer of SplitMix64), so that one drawn number
// serves for several choices.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Hash is the hash of keys and addresses for consistent balancing: FNV-1a, then mixed. It
// depends on nothing but s, so that several gateways choose alike.
func Hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}

// below maps the 64 random bits r to 0..n-1.
func below(r uint64, n int) int { return int((r >> 32) * uint64(n) >> 32) }
