package npro

import (
	"encoding/hex"
	"fmt"
)

// TraceparentSize is the size of a W3C trace context in its binary form.
const TraceparentSize = 26

// Traceparent is a W3C trace context: version, trace ID 16, parent ID 8, flags.
type Traceparent [TraceparentSize]byte

// ParseTraceparent reads the header form, 00-<32 hex>-<16 hex>-<2 hex>.
func ParseTraceparent(s string) (t Traceparent, err error) {
	const size = 55
	if len(s) != size || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return t, fmt.Errorf("traceparent %q: expected version-traceid-parentid-flags", s)
	}
	digits := s[:2] + s[3:35] + s[36:52] + s[53:]
	if _, err := hex.Decode(t[:], []byte(digits)); err != nil {
		return Traceparent{}, fmt.Errorf("traceparent %q: %w", s, err)
	}
	return t, nil
}

// String returns the header form.
func (t Traceparent) String() string {
	return fmt.Sprintf("%02x-%x-%x-%02x", t[0], t[1:17], t[17:25], t[25])
}
