package dataplane

import (
	"fmt"
	"slices"
	"strings"
)

// CongestionControl names an algorithm; the numbers are those of enum np_cc in
// csrc/include/np/info.h plus one.
type CongestionControl uint8

// Algorithms.
const (
	CongestionDefault CongestionControl = iota
	CongestionCubic                     // RFC 9438
	CongestionNewReno                   // RFC 5681, 6582
	CongestionBBR                       // version 3, draft-ietf-ccwg-bbr
)

func congestionNames() []string { return []string{"default", "cubic", "newreno", "bbr"} }

// String returns the name that configuration and listings use.
func (c CongestionControl) String() string {
	if names := congestionNames(); int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("congestion control %d", uint8(c))
}

// ParseCongestionControl knows cubic, newreno and bbr.
func ParseCongestionControl(name string) (CongestionControl, error) {
	names := congestionNames()
	if i := slices.Index(names, name); i > 0 {
		return CongestionControl(i), nil
	}
	return CongestionDefault, fmt.Errorf("congestion control %q: want %s", name, strings.Join(names[1:], ", "))
}

// ECN says when explicit congestion notification (RFC 3168) is used; the numbers
// are those of enum np_ecn.
type ECN uint8

// Choices for ECN.
const (
	ECNAccept  ECN = iota // when the peer asks
	ECNRequest            // ask in our SYNs too
	ECNOff
)

// MTUProbing says when a connection probes for its path's MTU (RFC 4821); the
// numbers are those of enum np_mtu_probing.
type MTUProbing uint8

// Choices for MTU probing.
const (
	MTUProbingBlackhole MTUProbing = iota
	MTUProbingOff
	MTUProbingAlways
)

// Pacing says whether algorithms without a rate of their own are paced; the
// numbers are those of enum np_pacing.
type Pacing uint8

// Choices for pacing. BBR is paced whatever is chosen.
const (
	PacingAuto Pacing = iota
	PacingOn
	PacingOff
)
