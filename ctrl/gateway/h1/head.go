package h1

import (
	"net/http"
	"net/textproto"
	"strings"
)

// Classes of bytes.
const (
	token  = 1 << iota // RFC 9110 §5.6.2
	field              // field-vchar, SP, HTAB (RFC 9110 §5.5)
	target             // VCHAR: what a request's target may be made of
)

type classes [256]uint8

var class = func() (t classes) {
	for c := range 256 {
		if c >= 0x20 && c != 0x7f || c == '\t' {
			t[c] |= field
		}
		if c > 0x20 && c < 0x7f {
			t[c] |= target
			if !strings.ContainsRune(`"(),/:;<=>?@[\]{}`, rune(c)) {
				t[c] |= token
			}
		}
	}
	return t
}()

// all says whether s is made of bytes of a class; bad is the first that is not.
func all(s string, of uint8) (bad int) {
	for i := range len(s) {
		if class[s[i]]&of == 0 {
			return i
		}
	}
	return -1
}

// head is a response's head, or with status 0 a trailer.
type head struct {
	minor   int // HTTP/1.minor
	status  int
	reason  string
	text    string // status and reason
	header  http.Header
	length  int64 // Content-Length; -1: none
	chunked bool
	close   bool // Connection: close
	keep    bool // Connection: keep-alive
	coded   bool // has Transfer-Encoding
}

// parseHead reads a head that ends in an empty line. The strings that it returns are
// parts of s.
func parseHead(s string, maxFields int) (head, error) {
	h := head{length: -1}
	line, rest, err := cutLine(s)
	if err != nil {
		return h, err
	}
	if err := h.statusLine(line); err != nil {
		return h, err
	}
	if h.header, err = parseFields(rest, maxFields); err != nil {
		return h, err
	}
	return h, h.framing()
}

// cutLine cuts a line and its CRLF off s.
func cutLine(s string) (line, rest string, err error) {
	i := strings.IndexByte(s, '\n')
	if i < 1 || s[i-1] != '\r' {
		return "", "", protocol("expected lines that end with CR LF")
	}
	return s[:i-1], s[i+1:], nil
}

// statusLine reads HTTP-version SP status-code SP [reason-phrase] (RFC 9112 §4). The second
// space may be missing where no reason follows, as several servers send it.
func (h *head) statusLine(s string) error {
	if len(s) < len("HTTP/1.1 200") || !strings.HasPrefix(s, "HTTP/1.") || s[8] != ' ' || s[7] != '0' && s[7] != '1' {
		return protocol("expected a status line of HTTP/1.0 or HTTP/1.1")
	}
	h.minor = int(s[7] - '0')
	for _, c := range []byte(s[9:12]) {
		if c < '0' || c > '9' {
			return protocol("expected a status of three digits")
		}
		h.status = h.status*10 + int(c-'0')
	}
	if h.status < 100 || h.status > 599 {
		return protocol("status %d, expected 100 to 599", h.status)
	}
	if len(s) > 12 {
		if s[12] != ' ' {
			return protocol("expected a space after the status")
		}
		h.reason, h.text = s[13:], s[9:]
		if i := all(h.reason, field); i >= 0 {
			return protocol("byte %#02x in the reason phrase", h.reason[i])
		}
	}
	return nil
}

// parseFields reads field lines up to the empty one (RFC 9112 §5).
func parseFields(s string, maxFields int) (http.Header, error) {
	n := strings.Count(s, "\n") - 1
	if n > maxFields {
		return nil, protocol("more than %d fields", maxFields)
	}
	h := make(http.Header, max(n, 0))
	values := make([]string, max(n, 0))
	for { // bound: the lines of s
		line, rest, err := cutLine(s)
		if err != nil {
			return nil, err
		}
		if line == "" {
			if rest != "" {
				return nil, protocol("bytes after the empty line")
			}
			return h, nil
		}
		s = rest
		name, value, err := parseField(line)
		if err != nil {
			return nil, err
		}
		if old, ok := h[name]; ok {
			h[name] = append(old, value)
			continue
		}
		values[0] = value
		h[name], values = values[:1:1], values[1:]
	}
}

func parseField(line string) (name, value string, err error) {
	colon := strings.IndexByte(line, ':')
	if line[0] == ' ' || line[0] == '\t' {
		return "", "", protocol("a folded field") // RFC 9112 §5.2
	}
	if colon < 1 {
		return "", "", protocol("a field line without a name and a colon")
	}
	name = line[:colon]
	canonical, upper := true, true
	for i := range len(name) {
		c := name[i]
		if class[c]&token == 0 {
			return "", "", protocol("byte %#02x in a field's name", c)
		}
		if upper && 'a' <= c && c <= 'z' || !upper && 'A' <= c && c <= 'Z' {
			canonical = false
		}
		upper = c == '-'
	}
	if !canonical {
		name = textproto.CanonicalMIMEHeaderKey(name)
	}
	value = trimOWS(line[colon+1:])
	if i := all(value, field); i >= 0 {
		return "", "", protocol("byte %#02x in a field's value", value[i])
	}
	return name, value, nil
}

func trimOWS(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// framing reads what the fields say of the message's end (RFC 9112 §6).
func (h *head) framing() error {
	if te, ok := h.header["Transfer-Encoding"]; ok {
		if len(te) != 1 || !strings.EqualFold(te[0], "chunked") {
			return protocol("a Transfer-Encoding other than chunked")
		}
		if h.minor == 0 {
			return protocol("Transfer-Encoding in HTTP/1.0") // RFC 9112 §6.1
		}
		h.coded, h.chunked = true, true
	}
	if cl, ok := h.header["Content-Length"]; ok {
		if h.coded {
			return protocol("both Content-Length and Transfer-Encoding")
		}
		if len(cl) != 1 {
			return protocol("%d Content-Length fields", len(cl))
		}
		n, ok := parseLength(cl[0])
		if !ok {
			return protocol("a Content-Length that is no number below 2^63")
		}
		h.length = n
	}
	for _, v := range h.header["Connection"] {
		for option := range strings.SplitSeq(v, ",") {
			switch option = trimOWS(option); {
			case strings.EqualFold(option, "close"):
				h.close = true
			case strings.EqualFold(option, "keep-alive"):
				h.keep = true
			}
		}
	}
	return nil
}

// parseLength reads 1*DIGIT below 2^63.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 19 {
		return 0, false
	}
	var n uint64
	for i := range len(s) {
		c := s[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return int64(n), n < 1<<63
}
