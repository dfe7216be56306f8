package npro

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// MaxOpcode is the longest opcode in bytes.
const MaxOpcode = 63

// ErrBody is matched by every error of this file's parsers.
var ErrBody = errors.New("malformed message body")

// CheckOpcode tells whether s can be sent as an opcode.
func CheckOpcode(s string) error {
	if len(s) < 1 || len(s) > MaxOpcode || !utf8.ValidString(s) {
		return fmt.Errorf("opcode %q: expected 1 to %d bytes of UTF-8", s, MaxOpcode)
	}
	return nil
}

// AppendRequest adds the body of a REQUEST or MESSAGE to dst.
func AppendRequest(dst []byte, opcode string, payload []byte) ([]byte, error) {
	if err := CheckOpcode(opcode); err != nil {
		return dst, err
	}
	dst = append(dst, uint8(len(opcode)))
	dst = append(dst, opcode...)
	return append(dst, payload...), nil
}

// SplitRequest reads the body of a REQUEST or MESSAGE; both results point into it.
func SplitRequest(body []byte) (opcode, payload []byte, err error) {
	if len(body) < 1 {
		return nil, nil, fmt.Errorf("%w: no opcode", ErrBody)
	}
	n := int(body[0])
	if n < 1 || n > MaxOpcode || n > len(body)-1 {
		return nil, nil, fmt.Errorf("%w: opcode of %d bytes", ErrBody, n)
	}
	opcode, payload = body[1:1+n], body[1+n:]
	if !utf8.Valid(opcode) {
		return nil, nil, fmt.Errorf("%w: opcode is not UTF-8", ErrBody)
	}
	return opcode, payload, nil
}

// ParseRequest reads the body of a REQUEST or MESSAGE; payload points into it.
func ParseRequest(body []byte) (opcode string, payload []byte, err error) {
	op, payload, err := SplitRequest(body)
	return string(op), payload, err
}

// AppendResponse adds the body of a RESPONSE to dst. Status codes have one byte.
func AppendResponse(dst []byte, status Code, payload []byte) ([]byte, error) {
	if status > 255 {
		return dst, fmt.Errorf("status %d does not fit in a response", uint32(status))
	}
	return append(append(dst, uint8(status)), payload...), nil
}

// ParseResponse reads the body of a RESPONSE; payload points into it.
func ParseResponse(body []byte) (status Code, payload []byte, err error) {
	if len(body) < 1 {
		return 0, nil, fmt.Errorf("%w: no status", ErrBody)
	}
	return Code(body[0]), body[1:], nil
}

// AppendUint32 adds the body of a WINDOW, RESET or GOAWAY.
func AppendUint32(dst []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(dst, v) }

// ParseUint32 reads the body of a WINDOW, RESET or GOAWAY: exactly four bytes.
func ParseUint32(body []byte) (uint32, error) {
	if len(body) != 4 {
		return 0, fmt.Errorf("%w: %d bytes, expected 4", ErrBody, len(body))
	}
	return binary.BigEndian.Uint32(body), nil
}

// AppendDisconnect adds the body of a DISCONNECT, the reason cut to MaxReason
// bytes at a character's end.
func AppendDisconnect(dst []byte, code Code, reason string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	n := min(len(reason), MaxReason-4)
	for n > 0 && n < len(reason) && !utf8.RuneStart(reason[n]) {
		n--
	}
	return append(dst, reason[:n]...)
}

// ParseDisconnect reads the body of a DISCONNECT.
func ParseDisconnect(body []byte) (code Code, reason string, err error) {
	if len(body) < 4 || len(body) > MaxReason+4 || !utf8.Valid(body[4:]) {
		return 0, "", fmt.Errorf("%w: disconnect of %d bytes", ErrBody, len(body))
	}
	return Code(binary.BigEndian.Uint32(body)), string(body[4:]), nil
}

// Keys of a context block.
const (
	CtxTraceparent uint8 = 0x01
	CtxDeadline    uint8 = 0x02
	CtxTenant      uint8 = 0x03
	CtxSession     uint8 = 0x04
	CtxAppFirst    uint8 = 0x40 // application metadata from here
	CtxAppLast     uint8 = 0x7f
)

// Entry is a context entry this version gives no meaning to, or the application's.
type Entry struct {
	Key   uint8
	Value []byte // at most 255 bytes
}

// Context is the metadata of a message.
type Context struct {
	Traceparent    Traceparent
	HasTraceparent bool
	Deadline       time.Duration // left when it was sent; millisecond steps
	HasDeadline    bool
	Tenant         string // at most 255 bytes
	Session        string
	Extra          []Entry // in order of arrival; forwarded as they came
}

// IsZero tells whether there is nothing to send.
func (c *Context) IsZero() bool {
	return !c.HasTraceparent && !c.HasDeadline && c.Tenant == "" && c.Session == "" && len(c.Extra) == 0
}

// AppendContext adds a context block to dst.
func AppendContext(dst []byte, c *Context) ([]byte, error) {
	at := len(dst)
	dst = append(dst, 0, 0)
	if c.HasTraceparent {
		dst = append(append(dst, CtxTraceparent, TraceparentSize), c.Traceparent[:]...)
	}
	if c.HasDeadline {
		ms := min(max(c.Deadline.Milliseconds(), 0), 1<<32-1)
		dst = binary.BigEndian.AppendUint32(append(dst, CtxDeadline, 4), uint32(ms))
	}
	for _, e := range [...]struct {
		key   uint8
		value string
	}{{CtxTenant, c.Tenant}, {CtxSession, c.Session}} {
		if e.value == "" {
			continue
		}
		if len(e.value) > 255 || !utf8.ValidString(e.value) {
			return dst[:at], fmt.Errorf("context entry %d: expected at most 255 bytes of UTF-8", e.key)
		}
		dst = append(append(dst, e.key, uint8(len(e.value))), e.value...)
	}
	for _, e := range c.Extra {
		if len(e.Value) > 255 || e.Key >= CtxTraceparent && e.Key <= CtxSession {
			return dst[:at], fmt.Errorf("context entry %d of %d bytes can't be sent", e.Key, len(e.Value))
		}
		dst = append(append(dst, e.Key, uint8(len(e.Value))), e.Value...)
	}
	n := len(dst) - at - 2
	if n > 1<<16-1 {
		return dst[:at], fmt.Errorf("context of %d bytes, at most 65535", n)
	}
	binary.BigEndian.PutUint16(dst[at:], uint16(n))
	return dst, nil
}

// SplitContext cuts the context block off a body without reading its entries.
func SplitContext(body []byte) (block, rest []byte, err error) {
	if len(body) < 2 {
		return nil, nil, fmt.Errorf("%w: no context length", ErrBody)
	}
	n := int(binary.BigEndian.Uint16(body))
	if n > len(body)-2 {
		return nil, nil, fmt.Errorf("%w: context of %d bytes in %d", ErrBody, n, len(body)-2)
	}
	return body[2 : 2+n], body[2+n:], nil
}

// ParseContext reads the context block that body begins with. Values of Extra
// and rest point into body.
func ParseContext(body []byte) (c Context, rest []byte, err error) {
	block, rest, err := SplitContext(body)
	if err != nil {
		return Context{}, nil, err
	}
	var seen [CtxSession + 1]bool
	for len(block) > 0 {
		if len(block) < 2 || int(block[1]) > len(block)-2 {
			return Context{}, nil, fmt.Errorf("%w: context entry cut short", ErrBody)
		}
		key, value := block[0], block[2:2+int(block[1])]
		block = block[2+len(value):]
		if int(key) < len(seen) && key != 0 {
			if seen[key] {
				return Context{}, nil, fmt.Errorf("%w: context entry %d twice", ErrBody, key)
			}
			seen[key] = true
		}
		if err := c.set(key, value); err != nil {
			return Context{}, nil, err
		}
	}
	return c, rest, nil
}

func (c *Context) set(key uint8, value []byte) error {
	bad := false
	switch key {
	case CtxTraceparent:
		if bad = len(value) != TraceparentSize; !bad {
			c.Traceparent, c.HasTraceparent = Traceparent(value), true
		}
	case CtxDeadline:
		if bad = len(value) != 4; !bad {
			c.Deadline, c.HasDeadline = time.Duration(binary.BigEndian.Uint32(value))*time.Millisecond, true
		}
	case CtxTenant:
		bad = !utf8.Valid(value)
		c.Tenant = string(value)
	case CtxSession:
		bad = !utf8.Valid(value)
		c.Session = string(value)
	default:
		c.Extra = append(c.Extra, Entry{key, value})
	}
	if bad {
		return fmt.Errorf("%w: context entry %d of %d bytes", ErrBody, key, len(value))
	}
	return nil
}
