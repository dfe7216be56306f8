package forward

import (
	"context"
	"strconv"
	"strings"
	"time"
)

// maxTimeout bounds what a client can ask for: beyond it no deadline is worth keeping.
const maxTimeout = 24 * time.Hour

// deadline reads how long the client waits, and bounds the request by it and by Timeout.
func (f *flight) deadline() context.CancelFunc {
	var d time.Duration
	found := false
	take := func(v time.Duration, ok bool) {
		if ok && v < maxTimeout && (!found || v < d) {
			d, found = v, true
		}
	}
	if f.grpc {
		take(parseGRPCTimeout(f.r.Header.Get("Grpc-Timeout")))
	}
	for _, k := range f.o.Deadlines {
		if v := f.r.Header.Get(k.Name); v != "" {
			take(parseTimeout(v, k.Unit))
		}
	}
	if !found {
		return nil
	}
	var cancel context.CancelFunc
	f.ctx, cancel = context.WithTimeoutCause(f.ctx, d, errDeadline)
	return cancel
}

// tellDeadline sets the fields that carry a deadline to what is left, of the try's own
// time for fields that the client sent too.
func (f *flight) tellDeadline(try time.Duration) {
	q := &f.out
	grpc := f.grpc && f.r.Header.Get("Grpc-Timeout") != ""
	if !grpc && len(f.o.Deadlines) == 0 {
		return
	}
	left := try
	if at, has := f.ctx.Deadline(); has {
		left = time.Until(at)
		if !f.grpc { // a gRPC call may stream, for which the try's time doesn't count
			left = min(left, try)
		}
	}
	left = max(left, time.Millisecond)
	if grpc {
		f.replace("Grpc-Timeout", formatGRPCTimeout(left))
	}
	for _, k := range f.o.Deadlines {
		if len(q.Header[k.Name]) == 0 {
			continue
		}
		if k.Unit == 0 {
			f.replace(k.Name, strconv.FormatFloat(float64(left.Milliseconds())/1000, 'f', 3, 64))
		} else {
			f.replace(k.Name, strconv.FormatInt(int64((left+k.Unit-1)/k.Unit), 10))
		}
	}
}

// replace sets a field that an earlier try may have set.
func (f *flight) replace(name, value string) {
	for i := range f.out.Set {
		if f.out.Set[i].Name == name {
			f.out.Set[i].Value = value
			return
		}
	}
	f.set(name, value)
}

// parseGRPCTimeout reads 1 to 8 digits and a unit.
func parseGRPCTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if err != nil {
		return 0, false
	}
	var unit time.Duration
	switch s[len(s)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	if n > uint64(maxTimeout/unit) {
		return maxTimeout, true
	}
	return time.Duration(n) * unit, true
}

// formatGRPCTimeout writes a duration in the finest unit that 8 digits hold.
func formatGRPCTimeout(d time.Duration) string {
	for _, u := range [...]struct {
		unit time.Duration
		name string
	}{{time.Nanosecond, "n"}, {time.Microsecond, "u"}, {time.Millisecond, "m"}, {time.Second, "S"}} {
		if n := d / u.unit; n <= 99_999_999 {
			return strconv.FormatInt(int64(n), 10) + u.name
		}
	}
	return "99999999S"
}

// parseTimeout reads a number of units, or with unit 0 seconds or a number with its unit.
// What can't be read, or isn't positive, is no deadline.
func parseTimeout(s string, unit time.Duration) (time.Duration, bool) {
	if unit == 0 && strings.HasSuffix(s, "s") {
		d, err := time.ParseDuration(s)
		return d, err == nil && d > 0
	}
	if unit == 0 {
		unit = time.Second
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n > 0) {
		return 0, false
	}
	if n > float64(maxTimeout)/float64(unit) {
		return maxTimeout, true
	}
	return time.Duration(n * float64(unit)), true
}
