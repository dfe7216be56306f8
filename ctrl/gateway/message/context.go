package message

import (
	"context"
	"encoding/binary"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/npro"
)

// Keys of the context block that are this package's.
const (
	keyContentType uint8 = 0x40
	keyStatus      uint8 = 0x41
	keyGRPCStatus  uint8 = 0x42
	keyMethod      uint8 = 0x43
	keyTarget      uint8 = 0x44
	keySubprotocol uint8 = 0x45
	keySubject     uint8 = 0x46
)

// Fields are the fields of HTTP that carry entries of the context; "" is none.
type Fields struct {
	Tenant  string
	Session string
}

// entry returns an entry of the application's part of a context.
func entry(c *npro.Context, key uint8) ([]byte, bool) {
	for _, e := range c.Extra { // bound: the block's size
		if e.Key == key {
			return e.Value, true
		}
	}
	return nil, false
}

func addEntry(c *npro.Context, key uint8, value string) {
	if value != "" && len(value) <= 255 && utf8.ValidString(value) {
		c.Extra = append(c.Extra, npro.Entry{Key: key, Value: []byte(value)})
	}
}

// contextOf is what goes along with a request of HTTP.
func (f Fields) contextOf(r *http.Request) npro.Context {
	c := npro.Context{}
	if t, err := npro.ParseTraceparent(r.Header.Get("Traceparent")); err == nil {
		c.Traceparent, c.HasTraceparent = t, true
	}
	if f.Tenant != "" {
		c.Tenant = clip(r.Header.Get(f.Tenant))
	}
	if f.Session != "" {
		c.Session = clip(r.Header.Get(f.Session))
	}
	addEntry(&c, keyContentType, r.Header.Get("Content-Type"))
	if id := exchange.From(r.Context()).Identity; id != nil {
		addEntry(&c, keySubject, id.Subject)
	}
	return c
}

// clip leaves out what can't be an entry.
func clip(s string) string {
	if len(s) > 255 || !utf8.ValidString(s) {
		return ""
	}
	return s
}

// setDeadline tells what is left of a request's time: the least of both.
func setDeadline(c *npro.Context, ctx context.Context, try time.Duration) {
	left := try
	if at, ok := ctx.Deadline(); ok {
		if d := time.Until(at); left == 0 || d < left {
			left = d
		}
	}
	if left > 0 {
		c.Deadline, c.HasDeadline = left, true
	}
}

// fieldsOf puts a context of NPRO into fields of HTTP. What a client of NPRO may not say
// is not in it: the subject is the gateway's own word, so r's identity is set elsewhere.
func (f Fields) fieldsOf(c *npro.Context, h http.Header) {
	if c.HasTraceparent {
		h.Set("Traceparent", c.Traceparent.String())
	}
	if f.Tenant != "" && c.Tenant != "" && validValue(c.Tenant) {
		h.Set(f.Tenant, c.Tenant)
	}
	if f.Session != "" && c.Session != "" && validValue(c.Session) {
		h.Set(f.Session, c.Session)
	}
}

// validValue says whether text can be a field's value.
func validValue(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// contentType returns the media type that a context names.
func contentType(c *npro.Context) string {
	if v, ok := entry(c, keyContentType); ok && validValue(string(v)) {
		return string(v)
	}
	return ""
}

// httpStatus returns the status of HTTP that a context names, 0 none.
func httpStatus(c *npro.Context) int {
	v, ok := entry(c, keyStatus)
	if !ok || len(v) != 2 {
		return 0
	}
	if s := int(binary.BigEndian.Uint16(v)); s >= 200 && s <= 599 {
		return s
	}
	return 0
}

func addStatus(c *npro.Context, status int) {
	c.Extra = append(c.Extra, npro.Entry{Key: keyStatus, Value: binary.BigEndian.AppendUint16(nil, uint16(status))})
}
