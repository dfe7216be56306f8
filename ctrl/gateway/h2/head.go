package h2

import (
	"encoding/binary"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// head is a head that arrives: a request's, or its trailers.
type head struct {
	id    uint32 // 0: none arrives
	end   bool   // of the stream
	kind  headKind
	more  int // CONTINUATION frames
	bytes int // of the block
	size  int // as RFC 9113 §6.5.2 counts

	tooLarge bool
	wrong    string // why it is malformed; "": it is not
	plain    bool   // a field came that is no pseudo-header

	method, scheme, authority, path, protocol string
	host                                      string
	said                                      said
	list                                      []hpack.HeaderField // names as they are sent
	cookies                                   int
}

// headKind is what becomes of a head.
type headKind uint8

const (
	headRequest headKind = iota
	headTrailer
	headIgnored // of a stream that was reset, or that comes too late
	headRefused // there are too many streams
	headBad     // of a stream that is reset for another reason: it depends on itself
)

// said is which pseudo-headers a request has (RFC 9113 §8.3.1, RFC 8441 §4).
type said uint8

const (
	saidMethod said = 1 << iota
	saidScheme
	saidAuthority
	saidPath
	saidProtocol
	saidHost
)

// Bounds of a head's frames.
const (
	maxContinuations = 16 // it has HeadBytes at most, and frames take 16 KiB
	leastBlock       = 64 << 10
	maxLine          = 128 // of a refused head that is kept for logs
	maxListKept      = 128 // fields for which there is room while a connection rests
)

// maxBlock is the longest block of fields that is decoded: one that says more than
// HeadBytes can still be answered, one that is far longer costs the connection.
func (e *Engine) maxBlock() int { return max(leastBlock, 2*e.c.HeadBytes) }

func (c *Conn) takeHeaders(f frame, p []byte) error {
	if f.stream%2 == 0 {
		return fatal(ProtocolError, "HEADERS for a stream that can't be the client's")
	}
	p, err := unpad(f, p)
	if err != nil {
		return err
	}
	depends := uint32(0)
	if f.flags&flagPriority != 0 {
		if len(p) < 5 {
			return fatal(FrameSizeError, "HEADERS too short for a priority")
		}
		depends = binary.BigEndian.Uint32(p) & maxWindow
		p = p[5:]
	}
	h := &c.head
	*h = head{id: f.stream, end: f.flags&flagEndStream != 0, list: h.list[:0]}
	if h.kind, err = c.kindOf(f.stream, h.end); err != nil {
		return err
	}
	if depends == f.stream && h.kind == headRequest {
		h.kind = headBad
	}
	c.dec.SetEmitEnabled(true)
	return c.takeBlock(f, p)
}

// kindOf says what a head on a stream is.
func (c *Conn) kindOf(id uint32, end bool) (headKind, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id > c.lastID {
		c.lastID = id
		switch {
		case c.stage == stageLast:
			return headIgnored, nil
		case len(c.streams) >= c.e.c.Streams || c.running >= 2*c.e.c.Streams:
			c.accepted = id
			return headRefused, nil
		}
		c.accepted = id
		return headRequest, nil
	}
	st := c.streams[id]
	switch {
	case st == nil && (c.own.has(id) || id > c.accepted):
		return headIgnored, nil
	case st == nil:
		return 0, fatal(StreamClosed, "HEADERS for a stream that was closed")
	case st.received:
		return 0, fatal(StreamClosed, "HEADERS after the end of a stream")
	case !end:
		return 0, fatal(ProtocolError, "trailers that don't end their stream")
	}
	return headTrailer, nil
}

func (c *Conn) takeContinuation(f frame, p []byte) error {
	h := &c.head
	if h.id == 0 {
		return fatal(ProtocolError, "CONTINUATION that continues nothing")
	}
	if h.more++; h.more > maxContinuations {
		c.e.c.Cut(CutContinuation)
		return fatal(EnhanceYourCalm, "head in too many frames")
	}
	return c.takeBlock(f, p)
}

// takeBlock decodes a piece of a head's block.
func (c *Conn) takeBlock(f frame, p []byte) error {
	h := &c.head
	if h.bytes += len(p); h.bytes > c.e.maxBlock() {
		c.e.c.Cut(CutContinuation)
		return fatal(EnhanceYourCalm, "head far too long")
	}
	if _, err := c.dec.Write(p); err != nil {
		return fatal(CompressionError, "fields that can't be decoded")
	}
	if f.flags&flagEndHeaders == 0 {
		return nil
	}
	if err := c.dec.Close(); err != nil {
		return fatal(CompressionError, "fields that end in the middle of one")
	}
	err := c.headed()
	h.id = 0
	if clear(h.list); cap(h.list) > maxListKept { // what it holds is the request's now
		h.list = nil
	}
	if c.headSince.Load() != 0 { // the next has its own time
		c.headSince.Store(0)
	}
	return err
}

// headed is called at a head's end.
func (c *Conn) headed() error {
	h := &c.head
	switch h.kind {
	case headRequest:
		return c.request()
	case headTrailer:
		return c.trailer()
	case headRefused:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.refuse(h.id, RefusedStream, "too many streams")
	case headBad:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.refuse(h.id, ProtocolError, "stream that depends on itself")
	}
	return nil
}

// field is told every field of a block.
func (c *Conn) field(f hpack.HeaderField) {
	h := &c.head
	if h.size += len(f.Name) + len(f.Value) + 32; h.size > c.e.c.HeadBytes+headSlack {
		h.tooLarge = true
		c.dec.SetEmitEnabled(false) // the rest is decoded for the table's sake alone
		return
	}
	if h.kind > headTrailer || h.wrong != "" {
		return
	}
	if len(f.Name) > 0 && f.Name[0] == ':' {
		h.wrong = h.pseudo(f)
		return
	}
	h.plain = true
	if h.wrong = wrongField(f); h.wrong != "" {
		return
	}
	if f.Name == "host" && h.kind == headRequest {
		if h.said&saidHost != 0 {
			h.wrong = "more than one Host"
		}
		h.said |= saidHost
		h.host = f.Value
		return
	}
	if f.Name == "cookie" {
		h.cookies++
	}
	h.list = append(h.list, f)
}

// pseudo takes a pseudo-header, and says what is wrong with it.
func (h *head) pseudo(f hpack.HeaderField) string {
	if h.kind == headTrailer {
		return "pseudo-header in trailers"
	}
	if h.plain {
		return "pseudo-header after a field"
	}
	var what said
	var to *string
	switch f.Name {
	case ":method":
		what, to = saidMethod, &h.method
	case ":scheme":
		what, to = saidScheme, &h.scheme
	case ":authority":
		what, to = saidAuthority, &h.authority
	case ":path":
		what, to = saidPath, &h.path
	case ":protocol":
		what, to = saidProtocol, &h.protocol
	default:
		return "pseudo-header that no request has"
	}
	if h.said&what != 0 {
		return "pseudo-header twice"
	}
	if !valueText(f.Value) {
		return "pseudo-header with a character that can't be there"
	}
	h.said |= what
	*to = f.Value
	return ""
}

// wrongField says what is wrong with a field (RFC 9113 §8.2).
func wrongField(f hpack.HeaderField) string {
	if len(f.Name) == 0 {
		return "field without a name"
	}
	for i := range len(f.Name) {
		if classes[f.Name[i]]&inName == 0 {
			return "field whose name is no token in small letters"
		}
	}
	if !valueText(f.Value) {
		return "field with a character that can't be there"
	}
	switch len(f.Name) {
	case 2:
		if f.Name == "te" && f.Value != "trailers" {
			return "TE other than trailers"
		}
	case 7, 10, 16, 17:
		switch f.Name {
		case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
			return "field of the connection"
		}
	}
	return ""
}

// valueText says whether a value may be in a field (RFC 9113 §8.2.1).
func valueText(s string) bool {
	if s == "" {
		return true
	}
	for i := range len(s) {
		if classes[s[i]]&inValue == 0 {
			return false
		}
	}
	first, last := s[0], s[len(s)-1]
	return first != ' ' && first != '\t' && last != ' ' && last != '\t'
}

const (
	inName  = 1 << iota // small letters and all else of a token (RFC 9110 §5.6.2)
	inToken             // of any case
	inValue             // RFC 9110 §5.5; bytes above ASCII are opaque
	quick               // of a path that is written in one way, and means itself (RFC 3986 §3.3)
)

var classes = func() (t [256]byte) {
	for c := range t {
		b := byte(c)
		if b == '\t' || b >= ' ' && b != 0x7f {
			t[c] |= inValue
		}
	}
	for _, b := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz") {
		t[b] |= inName | inToken
	}
	for b := 'A'; b <= 'Z'; b++ {
		t[b] |= inToken
	}
	for b := range t {
		c := byte(b)
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~$&+,/:;=@", c) >= 0 {
			t[b] |= quick
		}
	}
	return t
}()

func token(s string) bool {
	for i := range len(s) {
		if classes[s[i]]&inToken == 0 {
			return false
		}
	}
	return s != ""
}

// judge says what is wrong with a request's head as a whole (RFC 9113 §8.3.1, RFC 8441 §4).
func (h *head) judge() string {
	if h.wrong != "" {
		return h.wrong
	}
	if h.said&saidMethod == 0 || !token(h.method) {
		return "no method, or one that is no token"
	}
	extended := h.said&saidProtocol != 0
	switch {
	case extended && h.method != "CONNECT":
		return ":protocol with a method other than CONNECT"
	case extended && h.said&saidAuthority == 0:
		return "CONNECT without an authority"
	case h.method == "CONNECT" && !extended:
		if h.said&(saidScheme|saidPath) != 0 || h.authority == "" {
			return "CONNECT with a path or a scheme, or without an authority"
		}
	case !scheme(h.scheme):
		return "no scheme, or one that can't be"
	case h.path == "" || h.path[0] != '/' && (h.path != "*" || h.method != "OPTIONS"):
		return "path that is none"
	}
	if h.said&saidAuthority != 0 {
		for i := range len(h.authority) {
			if h.authority[i] == '@' {
				return "authority with user information"
			}
		}
		if h.said&saidHost != 0 && !sameHost(h.host, h.authority) {
			return "Host other than the authority"
		}
	}
	return ""
}

// scheme: RFC 3986 §3.1.
func scheme(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && (i == 0 || (s[i] < '0' || s[i] > '9') && s[i] != '+' && s[i] != '-' && s[i] != '.') {
			return false
		}
	}
	return s != ""
}

// sameHost compares without regard to the letters' case.
func sameHost(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		if x >= 'A' && x <= 'Z' {
			x |= 0x20
		}
		if y >= 'A' && y <= 'Z' {
			y |= 0x20
		}
		if x != y {
			return false
		}
	}
	return true
}

// firstLine is the beginning of a head for logs.
func (h *head) firstLine() string {
	b := append([]byte(clip(h.method)), ' ')
	if h.path != "" || h.authority == "" {
		b = append(b, clip(h.path)...)
	} else {
		b = append(b, clip(h.authority)...)
	}
	return strconv.QuoteToASCII(string(b[:min(len(b), maxLine)]))
}

func clip(s string) string { return s[:min(len(s), maxLine)] }
