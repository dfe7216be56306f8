package grpcgw

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// maxTimeoutDigits is what the protocol allows.
const maxTimeoutDigits = 8

// ParseTimeout reads a grpc-timeout: one to eight digits and a unit, H, M, S, m, u or n.
// What is longer than a time.Duration can say is the longest one.
func ParseTimeout(s string) (time.Duration, error) {
	if len(s) < 2 || len(s) > maxTimeoutDigits+1 {
		return 0, fmt.Errorf("grpc-timeout %q: expected one to eight digits and a unit", s)
	}
	unit, err := timeoutUnit(s[len(s)-1])
	if err != nil {
		return 0, fmt.Errorf("grpc-timeout %q: %w", s, err)
	}
	var n int64
	for i := range len(s) - 1 { // bound: eight digits
		c := s[i]
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("grpc-timeout %q: expected one to eight digits and a unit", s)
		}
		n = n*10 + int64(c-'0')
	}
	if n > int64(maxDuration/unit) {
		return maxDuration, nil
	}
	return time.Duration(n) * unit, nil
}

const maxDuration = time.Duration(1<<63 - 1)

var errUnit = errors.New("the unit is none of H, M, S, m, u, n")

func timeoutUnit(c byte) (time.Duration, error) {
	switch c {
	case 'H':
		return time.Hour, nil
	case 'M':
		return time.Minute, nil
	case 'S':
		return time.Second, nil
	case 'm':
		return time.Millisecond, nil
	case 'u':
		return time.Microsecond, nil
	case 'n':
		return time.Nanosecond, nil
	}
	return 0, errUnit
}

// FormatTimeout writes a grpc-timeout in the finest unit that eight digits hold, rounded
// up so that nobody gives up before the gateway does; of nothing left it makes 0n.
func FormatTimeout(d time.Duration) string {
	if d <= 0 {
		return "0n"
	}
	const most = 99_999_999
	for _, u := range [...]struct {
		unit time.Duration
		name string
	}{{time.Nanosecond, "n"}, {time.Microsecond, "u"}, {time.Millisecond, "m"}, {time.Second, "S"}, {time.Minute, "M"}} {
		n := int64(d / u.unit)
		if d%u.unit != 0 {
			n++
		}
		if n <= most {
			return strconv.FormatInt(n, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(d/time.Hour), 10) + "H"
}
