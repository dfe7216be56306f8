package tracing

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Names of the header fields, as net/http writes them.
const (
	Traceparent = "Traceparent"
	Tracestate  = "Tracestate"
)

// Context is a trace context: which trace, and which span of it comes before.
type Context struct {
	TraceID [16]byte
	SpanID  [8]byte
	Sampled bool
	State   string // tracestate, valid; "": none
}

// Valid says whether there is a context at all.
func (c *Context) Valid() bool { return c.TraceID != [16]byte{} && c.SpanID != [8]byte{} }

const parentSize = 55 // of version 00

const flagSampled = 1

// AppendParent writes the context as the value of a traceparent, version 00. Of the flags
// only the sampled one is known, and the others are sent as 0.
func (c *Context) AppendParent(b []byte) []byte {
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, c.TraceID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, c.SpanID[:])
	if c.Sampled {
		return append(b, "-01"...)
	}
	return append(b, "-00"...)
}

// Inject sets the header's traceparent and tracestate.
func (c *Context) Inject(h http.Header) {
	var b [parentSize]byte
	h[Traceparent] = []string{string(c.AppendParent(b[:0]))}
	if c.State == "" {
		delete(h, Tracestate)
	} else {
		h[Tracestate] = []string{c.State}
	}
}

// Errors of a traceparent.
var (
	errSize    = errors.New("expected 55 bytes, version-traceid-parentid-flags")
	errHex     = errors.New("expected digits 0 to 9 and a to f, with - between the parts")
	errVersion = errors.New("version ff, expected another")
	errZero    = errors.New("an ID of zeros, expected one that is not")
	errTwo     = errors.New("more than one traceparent, expected one")
)

// ParseParent reads the value of a traceparent. A version to come may be longer; of it the
// parts of version 00 are read (§4.3).
func ParseParent(s string) (Context, error) {
	c, err := parseParent(s)
	if err != nil {
		return Context{}, fmt.Errorf("traceparent: %w", err)
	}
	return c, nil
}

func parseParent(s string) (c Context, err error) {
	if len(s) < parentSize {
		return c, errSize
	}
	var version, flags [1]byte
	if s[2] != '-' || s[35] != '-' || s[52] != '-' || !unhex(version[:], s[:2]) || !unhex(c.TraceID[:], s[3:35]) || !unhex(c.SpanID[:], s[36:52]) || !unhex(flags[:], s[53:55]) {
		return c, errHex
	}
	switch {
	case version[0] == 0xff:
		return c, errVersion
	case version[0] == 0 && len(s) != parentSize, len(s) > parentSize && s[parentSize] != '-':
		return c, errSize
	case !c.Valid():
		return c, errZero
	}
	c.Sampled = flags[0]&flagSampled != 0
	return c, nil
}

// unhex reads digits, of which the letters must be small.
func unhex(out []byte, s string) bool {
	for i := range out {
		a, b := nibble(s[2*i]), nibble(s[2*i+1])
		if a > 15 || b > 15 {
			return false
		}
		out[i] = a<<4 | b
	}
	return true
}

func nibble(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// Extract reads a header's context. Without a traceparent it is not valid and there is no
// error. With a tracestate that is none the context has no State.
func Extract(h http.Header) (Context, error) {
	parents := h[Traceparent]
	if len(parents) == 0 {
		return Context{}, nil
	}
	if len(parents) > 1 {
		return Context{}, fmt.Errorf("traceparent: %w", errTwo)
	}
	c, err := ParseParent(parents[0])
	if err != nil {
		return Context{}, err
	}
	if states := h[Tracestate]; len(states) > 0 {
		c.State, _ = ParseState(states) // §3.3.1.5: an invalid one is discarded, the parent stays
	}
	return c, nil
}

// Bounds of a tracestate.
const (
	maxMembers = 32
	maxKey     = 256
	maxValue   = 256
	maxState   = 512 // bytes that are carried on; §3.3.1.5 asks for no more
	longMember = 128 // dropped first where there are more
)

// ParseState checks a tracestate of one or more header fields and returns what is carried
// on: its members in their order, without white space and empty members.
func ParseState(fields []string) (string, error) {
	total := 0
	for _, f := range fields {
		if total += len(f) + 1; total > maxMembers*(maxKey+maxValue+4) {
			return "", errors.New("tracestate: too long, expected at most 32 members")
		}
	}
	var members [maxMembers]string
	n := 0
	for _, f := range fields {
		for f != "" {
			member, rest, _ := strings.Cut(f, ",")
			f = rest
			if member = strings.Trim(member, " \t"); member == "" {
				continue
			}
			if n == maxMembers {
				return "", errors.New("tracestate: more than 32 members")
			}
			key, err := checkMember(member)
			if err != nil {
				return "", fmt.Errorf("tracestate: member %d: %w", n+1, err)
			}
			for _, o := range members[:n] {
				if strings.HasPrefix(o, key) && o[len(key)] == '=' {
					return "", fmt.Errorf("tracestate: member %d: its key is there before", n+1)
				}
			}
			members[n] = member
			n++
		}
	}
	kept := max(0, n-1) // commas
	for _, m := range members[:n] {
		kept += len(m)
	}
	if len(fields) == 1 && kept == len(fields[0]) && kept <= maxState {
		return fields[0], nil // the usual case: nothing to leave out
	}
	return joinState(members[:n]), nil
}

// joinState keeps within the size: long members go first, then the last, which are the oldest.
func joinState(members []string) string {
	size := 0
	for _, m := range members {
		size += len(m) + 1
	}
	for i := len(members) - 1; i >= 0 && size > maxState+1; i-- {
		if len(members[i]) > longMember {
			size -= len(members[i]) + 1
			members[i] = ""
		}
	}
	for i := len(members) - 1; i >= 0 && size > maxState+1; i-- {
		if members[i] != "" {
			size -= len(members[i]) + 1
			members[i] = ""
		}
	}
	if len(members) == 1 {
		return members[0]
	}
	var b strings.Builder
	b.Grow(max(size, 0))
	for _, m := range members {
		if m == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(m)
	}
	return b.String()
}

var (
	errKey   = errors.New("expected a key of small letters, digits, _ - * / and at most one @")
	errValue = errors.New("expected a value of 1 to 256 printing characters without , and =, with no space at its end")
)

func checkMember(m string) (key string, err error) {
	key, value, ok := strings.Cut(m, "=")
	if !ok || !checkKey(key) {
		return "", errKey
	}
	if value == "" || len(value) > maxValue {
		return "", errValue
	}
	for i := range len(value) {
		if c := value[i]; c < 0x20 || c > 0x7e || c == ',' || c == '=' {
			return "", errValue
		}
	}
	return key, nil
}

// checkKey: a name that begins with a letter, or a tenant and a system with @ between.
func checkKey(k string) bool {
	tenant, system, multi := strings.Cut(k, "@")
	if !multi {
		return len(k) <= maxKey && k != "" && letter(k[0]) && keyChars(k)
	}
	return tenant != "" && len(tenant) <= 241 && (letter(tenant[0]) || digit(tenant[0])) && keyChars(tenant) &&
		system != "" && len(system) <= 14 && letter(system[0]) && keyChars(system)
}

func letter(c byte) bool { return c >= 'a' && c <= 'z' }
func digit(c byte) bool  { return c >= '0' && c <= '9' }

func keyChars(s string) bool {
	for i := range len(s) {
		if c := s[i]; !letter(c) && !digit(c) && c != '_' && c != '-' && c != '*' && c != '/' {
			return false
		}
	}
	return true
}
