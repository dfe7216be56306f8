package server

import (
	"bytes"
	"strings"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// head is what is known of a head while it arrives, and where its parts are once it is
// whole: from what it was given, counted from the head's first byte.
type head struct {
	begun    int // bytes of lines that were judged
	searched int // bytes in which a line's end was looked for
	lines    int // lines that were judged

	method, target int    // ends of them
	version        byte   // '0' or '1': HTTP/1.x
	connect        bool   // CONNECT
	absolute       bool   // the target has scheme and host
	authority      string // of an absolute target
	hosts          int
	hasLength      bool
	length         int64
	chunked        bool
	fields         []fieldAt
}

// fieldAt is where a field's name and its value, without white space around it, are.
type fieldAt struct {
	name, colon, value, end int32
	what                    fieldKind
}

// fieldKind says what becomes of a field.
type fieldKind uint8

const (
	fieldPlain fieldKind = iota
	fieldHost
	fieldCoding // Transfer-Encoding
)

// reset makes ready for another head.
func (h *head) reset() { *h = head{fields: h.fields[:0]} }

// fault is why a request is refused. The zero value means it is not.
type fault struct {
	why    exchange.Reason
	detail string
}

func bad(detail string) fault { return fault{exchange.BadRequest, detail} }

func (f fault) set() bool { return f.why != exchange.None }

// headLimits are what a head may have at most.
type headLimits struct{ bytes, fields, uri int }

// maxMethod is the longest method that is taken; IANA's longest has 17 letters.
const maxMethod = 32

// scan judges b, which begins with the head's first byte. It returns the bytes of the whole
// head, 0 while its end has not arrived.
func (h *head) scan(b []byte, l *headLimits) (int, fault) {
	for {
		i := bytes.IndexByte(b[h.searched:], '\n')
		if i < 0 {
			h.searched = len(b)
			no := h.early(b[h.begun:], l)
			if !no.set() && len(b) > l.bytes {
				no = fault{exchange.HeaderTooLarge, "head too long"}
			}
			return 0, no
		}
		end := h.searched + i
		if end+1 > l.bytes {
			return 0, fault{exchange.HeaderTooLarge, "head too long"}
		}
		line := b[h.begun:end]
		if len(line) == 0 || line[len(line)-1] != '\r' {
			return 0, bad("line that ends in LF without CR")
		}
		line = line[:len(line)-1]
		from := h.begun
		h.begun, h.searched = end+1, end+1
		if h.lines == 0 {
			if no := h.request(line, l); no.set() {
				return 0, no
			}
		} else if len(line) == 0 {
			return h.begun, h.whole()
		} else if no := h.field(line, from, l); no.set() {
			return 0, no
		}
		h.lines++
	}
}

// early refuses the beginning of a line that can't become one, so that what is no HTTP at
// all is answered before a time limit.
func (h *head) early(b []byte, l *headLimits) fault {
	if h.lines == 0 && len(b) > 0 && !tokenByte(b[0]) {
		return bad("request line that begins with a character that can't be there")
	}
	if h.lines == 0 && len(b) > maxMethod+1+l.uri+len(" HTTP/1.1\r\n") {
		return fault{exchange.URITooLong, ""}
	}
	return fault{}
}

// request judges a request line (RFC 9112 §3): its parts are parted by single spaces.
func (h *head) request(line []byte, l *headLimits) fault {
	sp := bytes.IndexByte(line, ' ')
	if sp <= 0 || sp > maxMethod {
		return bad("request line without a method")
	}
	for _, c := range line[:sp] {
		if !tokenByte(c) {
			return bad("method that is no token")
		}
	}
	method := line[:sp]
	h.method = sp
	rest := line[sp+1:]
	sp = bytes.IndexByte(rest, ' ')
	if sp < 0 {
		return bad("request line without a version")
	}
	if string(rest[sp+1:]) != "HTTP/1.1" && string(rest[sp+1:]) != "HTTP/1.0" {
		return bad("version other than HTTP/1.1 and HTTP/1.0")
	}
	h.version = rest[len(rest)-1]
	h.target = h.method + 1 + sp
	h.connect = string(method) == "CONNECT"
	target := rest[:sp]
	if len(target) > l.uri {
		return fault{exchange.URITooLong, ""}
	}
	return h.judgeTarget(method, target)
}

// judgeTarget judges a request's target: of the four forms (RFC 9112 §3.2) the one that its method has.
func (h *head) judgeTarget(method, target []byte) fault {
	if len(target) == 0 {
		return bad("request line without a target")
	}
	if no := pathFault(target); no.set() {
		return no
	}
	if h.connect {
		return hostFault(target, true)
	}
	if target[0] == '/' {
		return fault{}
	}
	if len(target) == 1 && target[0] == '*' {
		if string(method) != "OPTIONS" {
			return bad("target * with a method other than OPTIONS")
		}
		return fault{}
	}
	rest, ok := cutScheme(target)
	if !ok {
		return bad("target that is neither a path nor a URI of http or https")
	}
	if i := bytes.IndexAny(rest, "/?"); i >= 0 {
		rest = rest[:i]
	}
	h.authority, h.absolute = string(rest), true
	return hostFault(rest, false)
}

func cutScheme(target []byte) ([]byte, bool) {
	for _, s := range [...]string{"http://", "https://"} {
		if len(target) > len(s) && equalFold(target[:len(s)], s) {
			return target[len(s):], true
		}
	}
	return nil, false
}

// field judges a line of the head after the first (RFC 9112 §5), which begins at from.
func (h *head) field(line []byte, from int, l *headLimits) fault {
	if h.lines > l.fields {
		return fault{exchange.HeaderTooLarge, "too many fields"}
	}
	colon := 0
	for colon < len(line) && tokenByte(line[colon]) {
		colon++
	}
	if colon == 0 || colon == len(line) || line[colon] != ':' {
		if line[0] == ' ' || line[0] == '\t' {
			return bad("field that is continued on a second line")
		}
		return bad("field whose name is no token that a colon follows")
	}
	value := line[colon+1:]
	for _, c := range value {
		if !valueByte(c) {
			return bad("field with a control character")
		}
	}
	begin, end := colon+1, len(line)
	for begin < end && (line[begin] == ' ' || line[begin] == '\t') {
		begin++
	}
	for begin < end && (line[end-1] == ' ' || line[end-1] == '\t') {
		end--
	}
	what, no := h.known(line[:colon], value)
	h.fields = append(h.fields, fieldAt{int32(from), int32(from + colon), int32(from + begin), int32(from + end), what}) // bound: l.fields
	return no
}

// known looks at the fields by which the message is framed.
func (h *head) known(name, value []byte) (fieldKind, fault) {
	switch len(name) {
	case 4:
		if equalFold(name, "host") {
			return fieldHost, h.hostField(value)
		}
	case 14:
		if equalFold(name, "content-length") {
			return fieldPlain, h.contentLength(name, value)
		}
	case 17:
		if equalFold(name, "transfer-encoding") {
			return fieldCoding, h.transferEncoding(name, value)
		}
	}
	return fieldPlain, fault{}
}

func (h *head) hostField(value []byte) fault {
	if h.hosts++; h.hosts > 1 {
		return bad("more than one Host")
	}
	value = trim(value)
	if h.absolute && !strings.EqualFold(string(value), h.authority) {
		return bad("Host other than the target's")
	}
	return hostFault(value, false)
}

// contentLength takes digits alone: signs, lists and repetitions have been read in more than
// one way (RFC 9112 §6.3).
func (h *head) contentLength(name, value []byte) fault {
	if bytes.IndexByte(name, '_') >= 0 {
		return bad("Content-Length with an underscore")
	}
	if h.hasLength {
		return bad("more than one Content-Length")
	}
	if h.chunked {
		return bad("Content-Length beside Transfer-Encoding")
	}
	value = trim(value)
	if len(value) == 0 || len(value) > 18 {
		return bad("Content-Length that is no number")
	}
	for _, c := range value {
		if c < '0' || c > '9' {
			return bad("Content-Length that is no number")
		}
		h.length = h.length*10 + int64(c-'0')
	}
	h.hasLength = true
	return fault{}
}

// transferEncoding takes chunked alone, once, in HTTP/1.1 (RFC 9112 §6.1).
func (h *head) transferEncoding(name, value []byte) fault {
	if bytes.IndexByte(name, '_') >= 0 {
		return bad("Transfer-Encoding with an underscore")
	}
	if h.chunked {
		return bad("more than one Transfer-Encoding")
	}
	if h.hasLength {
		return bad("Content-Length beside Transfer-Encoding")
	}
	if h.version == '0' {
		return bad("Transfer-Encoding in HTTP/1.0")
	}
	value = trim(value)
	if bytes.EqualFold(value, []byte("chunked")) {
		h.chunked = true
		return fault{}
	}
	for _, c := range value {
		if !tokenByte(c) && c != ',' && c != ' ' {
			return bad("Transfer-Encoding that is no list of codings")
		}
	}
	return fault{exchange.Unsupported, "transfer coding other than chunked"}
}

// whole judges the head when its end is there.
func (h *head) whole() fault {
	if h.hosts == 0 && h.version == '1' {
		return bad("no Host")
	}
	return fault{}
}

// hostFault judges the authority of a target or a Host: a name or an address, and a port
// (RFC 9110 §7.2). User information is not for requests.
func hostFault[T string | []byte](b T, needPort bool) fault {
	end := 0 // of the name or address
	if len(b) > 0 && b[0] == '[' {
		for end = 1; end < len(b) && b[end] != ']'; end++ {
			if hexValue(b[end]) < 0 && b[end] != ':' && b[end] != '.' {
				return bad("host that is no IPv6 address")
			}
		}
		if end++; end < 4 || end > len(b) || end < len(b) && b[end] != ':' {
			return bad("host that is no IPv6 address")
		}
	} else {
		for ; end < len(b) && b[end] != ':'; end++ {
			if !hostByte(b[end]) {
				return bad("host with a character that can't be there")
			}
		}
		if end == 0 || end > 255 {
			return bad("host that is empty or too long")
		}
	}
	port := b[end:]
	if len(port) == 1 || len(port) > 6 || needPort && len(port) == 0 {
		return bad("host whose port is no number")
	}
	for i := 1; i < len(port); i++ {
		if port[i] < '0' || port[i] > '9' {
			return bad("host whose port is no number")
		}
	}
	return fault{}
}

// hostByte says whether a character may be in a name of DNS; names with underscores exist.
func hostByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_'
}

// pathFault judges the characters of a target.
func pathFault[T string | []byte](target T) fault {
	for i := range len(target) {
		c := target[i]
		if c <= ' ' || c >= 0x7f || c == '#' {
			return bad("target with a character that can't be there")
		}
		if c == '%' && (i+2 >= len(target) || hexValue(target[i+1]) < 0 || hexValue(target[i+2]) < 0) {
			return bad("target with a percent sign that two hexadecimal digits don't follow")
		}
	}
	return fault{}
}

// trim takes spaces from both ends. Tabs are white space too (RFC 9110 §5.6.3), but no
// sender of ours and none we know of puts them around the values that are trimmed here,
// and parsers differ in them: the value is then refused for them.
func trim(b []byte) []byte {
	for len(b) > 0 && b[0] == ' ' {
		b = b[1:]
	}
	for len(b) > 0 && b[len(b)-1] == ' ' {
		b = b[:len(b)-1]
	}
	return b
}

// tokenByte says whether a character may be in a token (RFC 9110 §5.6.2).
func tokenByte(c byte) bool { return classes[c]&1 != 0 }

// valueByte says whether a character may be in a field's value (RFC 9110 §5.5); bytes above
// ASCII are opaque.
func valueByte(c byte) bool { return classes[c]&2 != 0 }

// plainByte says whether net/url leaves a character of a path as it is.
func plainByte(c byte) bool { return classes[c]&4 != 0 }

// classes holds for each byte: 1, it may be in a token; 2, in a value; 4, net/url leaves it
// as it is in a path.
var classes = func() (t [256]byte) {
	for c := range 256 {
		switch b := byte(c); {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), b) >= 0:
			t[c] = 3
		case b == '\t' || b >= ' ' && b != 0x7f:
			t[c] = 2
		}
		if b := byte(c); t[c] == 3 && bytes.IndexByte([]byte("!#%'*+^`|"), b) < 0 || bytes.IndexByte([]byte("$&+,/:;=@~"), b) >= 0 {
			t[c] |= 4
		}
	}
	return t
}()

// framing says whether a field may not come after the body, because parsers that merge it
// into the head would read the message, or whom it is for, otherwise (RFC 9110 §6.5.1).
func framing(name []byte) bool {
	for _, f := range [...]string{"content-length", "transfer-encoding", "host", "trailer", "te", "connection", "upgrade", "expect"} {
		if equalFold(name, f) {
			return true
		}
	}
	return false
}

func hexValue(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// equalFold compares a field's name with one in small letters. An underscore is taken for
// a hyphen: servers that hand fields on as variables of an environment do the same.
func equalFold(b []byte, small string) bool {
	if len(b) != len(small) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		} else if c == '_' {
			c = '-'
		}
		if c != small[i] {
			return false
		}
	}
	return true
}
