package accesslog

import (
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// Bounds of fields that a client chooses, in bytes as they came.
const (
	maxPath  = 2048
	maxQuery = 2048
	maxHost  = 255
	maxWord  = 256 // methods, request IDs, subjects, user agents
	maxNote  = 512
)

// stamp remembers the second that was last written as text.
type stamp struct {
	sec  int64
	text [20]byte // "2006-01-02T15:04:05."
}

func (s *stamp) append(b []byte, t time.Time) []byte {
	sec := t.Unix()
	if sec != s.sec || s.text[0] == 0 {
		s.sec = sec
		copy(s.text[:], t.UTC().AppendFormat(make([]byte, 0, 32), "2006-01-02T15:04:05."))
	}
	b = append(b, s.text[:]...)
	us := uint32(t.Nanosecond() / 1000)
	return append(b, digit(us/100000), digit(us/10000), digit(us/1000), digit(us/100), digit(us/10), digit(us), 'Z')
}

func digit(n uint32) byte { return byte('0' + n%10) }

// appendLine writes one line. Fields that are always there come without a test.
func appendLine(b []byte, st *stamp, cfg *Config, x *exchange.Exchange, e *Entry, slow bool, sample float64) []byte {
	b = append(b, `{"time":"`...)
	b = st.append(b, x.Start)
	b = append(b, `","listener":`...)
	b = appendString(b, x.Listener)
	b = append(b, `,"protocol":`...)
	b = appendString(b, x.Protocol)
	b = appendAddr(b, `,"client":"`, x.Client)
	if x.Peer != x.Client {
		b = appendAddr(b, `,"peer":"`, x.Peer)
	}
	b = appendCut(b, "method", e.Method, maxWord)
	b = appendCut(b, "host", e.Host, maxHost)
	b = appendCut(b, "path", e.Path, maxPath)
	if cfg.Query && e.Query != "" {
		b = appendCut(b, "query", e.Query, maxQuery)
	}
	if cfg.UserAgent && e.UserAgent != "" {
		b = appendCut(b, "user_agent", e.UserAgent, maxWord)
	}
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(x.Status), 10)
	b = append(b, `,"reason":`...)
	b = appendString(b, x.Reason.String())
	if isCode(e.GRPC) {
		b = append(append(b, `,"grpc_status":`...), e.GRPC...)
	}
	b = appendWho(b, x)
	b = append(b, `,"duration_seconds":`...)
	b = appendSeconds(b, e.Duration)
	if x.FirstByte > 0 {
		b = append(b, `,"first_byte_seconds":`...)
		b = appendSeconds(b, x.FirstByte)
	}
	b = append(b, `,"received_bytes":`...)
	b = strconv.AppendInt(b, x.Received, 10)
	b = append(b, `,"sent_bytes":`...)
	b = strconv.AppendInt(b, x.Sent, 10)
	if slow {
		b = append(b, `,"slow":true`...)
	}
	if sample < 1 {
		b = append(b, `,"sample":`...)
		b = strconv.AppendFloat(b, sample, 'f', -1, 64)
	}
	if x.Reason != exchange.None {
		b = appendNotes(b, x.Notes())
	}
	return append(b, '}', '\n')
}

// isCode says whether an endpoint's word is a code of gRPC, and a number of JSON.
func isCode(s string) bool {
	if len(s) == 2 {
		return s[0] >= '1' && s[0] <= '9' && s[1] >= '0' && s[1] <= '9'
	}
	return len(s) == 1 && s[0] >= '0' && s[0] <= '9'
}

// appendWho writes where the request went and whose it is.
func appendWho(b []byte, x *exchange.Exchange) []byte {
	b = appendIf(b, `,"route":`, x.Route)
	b = appendIf(b, `,"upstream":`, x.Upstream)
	b = appendIf(b, `,"endpoint":`, x.Endpoint)
	if x.Tries != 0 {
		b = append(b, `,"tries":`...)
		b = strconv.AppendInt(b, int64(x.Tries), 10)
	}
	if id := x.Identity; id != nil {
		b = appendIf(b, `,"provider":`, id.Provider)
		if id.Subject != "" {
			b = appendCut(b, "subject", id.Subject, maxWord)
		}
	}
	if x.ID != "" {
		b = appendCut(b, "request_id", x.ID, maxWord)
	}
	if x.TraceID != [16]byte{} {
		b = append(b, `,"trace_id":"`...)
		for _, c := range x.TraceID {
			b = append(b, hex[c>>4], hex[c&15])
		}
		b = append(b, '"')
		if x.Sampled {
			b = append(b, `,"sampled":true`...)
		}
	}
	return b
}

func appendNotes(b []byte, notes []error) []byte {
	if len(notes) == 0 {
		return b
	}
	b = append(b, `,"errors":[`...)
	for i, err := range notes { // bound: an exchange keeps a few
		if i > 0 {
			b = append(b, ',')
		}
		text := err.Error()
		if len(text) > maxNote {
			text = text[:cut(text, maxNote)] + "..."
		}
		b = appendString(b, text)
	}
	return append(b, ']')
}

func appendIf(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendString(append(b, name...), value)
}

// appendCut writes a field whose value a client chose, with its whole size where it is cut.
func appendCut(b []byte, name, value string, limit int) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	if len(value) <= limit {
		return appendString(b, value)
	}
	b = appendString(b, value[:cut(value, limit)])
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, `_bytes":`...)
	return strconv.AppendInt(b, int64(len(value)), 10)
}

// cut finds the end of the last whole character within limit bytes.
func cut(s string, limit int) int {
	for n := limit; n > limit-utf8.UTFMax && n > 0; n-- {
		if utf8.RuneStart(s[n]) {
			return n
		}
	}
	return limit
}

func appendAddr(b []byte, name string, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return b
	}
	b = append(b, name...)
	if a.Port() == 0 { // nobody said it
		b = a.Addr().AppendTo(b)
	} else {
		b = a.AppendTo(b)
	}
	return append(b, '"')
}

// appendSeconds writes whole microseconds as seconds.
func appendSeconds(b []byte, d time.Duration) []byte {
	us := max(0, d.Microseconds())
	b = strconv.AppendInt(b, us/1e6, 10)
	f := uint32(us % 1e6)
	return append(b, '.', digit(f/100000), digit(f/10000), digit(f/1000), digit(f/100), digit(f/10), digit(f))
}

const hex = "0123456789abcdef"

// plain says which bytes stand for themselves in a string of JSON.
func plain(c byte) bool { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\' }

// appendString writes s as JSON (RFC 8259 §7). Control characters are escaped, those of
// C1 and DEL too, so that a log is safe to look at on a terminal; bytes that are no UTF-8
// become U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain(c) {
			i++
			continue
		}
		size := 1
		if c < utf8.RuneSelf {
			b = append(b, s[from:i]...)
			b = appendEscape(b, c)
		} else {
			var r rune
			r, size = utf8.DecodeRuneInString(s[i:])
			switch {
			case r == utf8.RuneError && size == 1:
				b = append(append(b, s[from:i]...), `\ufffd`...)
			case r < 0xa0: // C1
				b = append(append(b, s[from:i]...), '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
			case r == 0x2028 || r == 0x2029: // line ends of JavaScript
				b = append(append(b, s[from:i]...), `\u202`...)
				b = append(b, hex[r&15])
			default:
				i += size
				continue
			}
		}
		i += size
		from = i
	}
	return append(append(b, s[from:]...), '"')
}

func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	return append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
}
