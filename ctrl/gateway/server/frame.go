package server

import (
	"bytes"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// framer follows the framing of HTTP/1.1 requests on one connection (RFC 9112): where heads
// end, how long bodies are. It takes only what has one reading. It reads no connection and
// allocates nothing.
//
// The guard feeds it with scan. Heads are judged as a whole: scan clears no byte of one
// before its last is there.
type framer struct {
	maxHead, maxFields, maxURI int

	phase    phase
	left     int64 // bytes of the body, or of the chunk, that are still to come
	overhead int   // bytes of chunk lines and trailers of this body, beyond what chunks pay for
	line     int   // bytes of the chunk line or trailer line seen so far
	size     int64 // of the chunk whose line is being read
	trailer  [trailerName]byte

	heads   uint64       // that went on
	headed  func(uint64) // told the sum of each one's request line; nil: nobody is
	skipped bool         // an empty line before the head that is awaited
	h       head
}

// phase is what the next byte belongs to.
type phase uint8

const (
	phaseHead phase = iota
	phaseBody
	phaseSize       // digits of a chunk's size
	phaseExtension  // the rest of a chunk's line
	phaseSizeLF     // its LF
	phaseData       // a chunk's bytes
	phaseDataCR     // the CR after them
	phaseDataLF     // the LF
	phaseTrailer    // a line after the last chunk
	phaseTrailerLF  // its LF
	phaseTrailersLF // the LF of the empty line that ends them
	phaseTunnel     // after a head that may end HTTP on this connection
)

// Bounds of chunked bodies. net/http takes no trailers that do not fit into 4 KiB at once.
const (
	maxSizeDigits  = 15 // 2⁶⁰ bytes; none can overflow
	maxChunkLine   = 256
	maxTrailerLine = 1024
	maxTrailers    = 3 << 10
	maxOverhead    = 16 << 10
	trailerName    = 24 // bytes of a trailer's name that are looked at
)

// fault is why a request is refused. The zero value means it is not.
type fault struct {
	why    exchange.Reason
	detail string
}

func bad(detail string) fault { return fault{exchange.BadRequest, detail} }

func (f fault) set() bool { return f.why != exchange.None }

// scan follows b, which continues what was seen before; of an unfinished head it has to be
// given all bytes again, from its first. It returns how many bytes from the beginning may
// go on: whole heads and bytes of bodies. The rest is the beginning of a head, or follows
// a head after which the connection may be no longer HTTP's, or is refused, or is an empty
// line before a head (RFC 9112 §2.2), which net/http does not take.
func (f *framer) scan(b []byte) (cleared int, no fault) {
	for cleared < len(b) {
		switch f.phase {
		case phaseHead:
			n, no := f.h.scan(b[cleared:], f)
			if no.set() || n == 0 {
				return cleared, no
			}
			cleared += n
			f.begin()
		case phaseBody, phaseData:
			n := min(f.left, int64(len(b)-cleared))
			cleared += int(n)
			if f.left -= n; f.left == 0 {
				f.phase = map[bool]phase{true: phaseDataCR, false: phaseHead}[f.phase == phaseData]
			}
		case phaseTunnel:
			return cleared, fault{}
		default:
			if no := f.chunk(b[cleared]); no.set() {
				return cleared, no
			}
			cleared++
		}
	}
	return cleared, fault{}
}

// begin sets the phase after a head.
func (f *framer) begin() {
	h := &f.h
	f.overhead, f.line, f.size = 0, 0, 0
	switch {
	case h.chunked:
		f.phase = phaseSize
	case h.length > 0:
		f.phase, f.left = phaseBody, h.length
	case h.connect || h.upgrade:
		f.phase = phaseTunnel
	default:
		f.phase = phaseHead
	}
	// A request that asks for another protocol and has a body as well: what follows the
	// body is judged as HTTP. Such requests exist (h2c by curl), such tunnels do not.
	if f.headed != nil {
		f.headed(h.sum)
	}
	*h, f.skipped = head{}, false
	f.heads++
}

// chunk takes one byte of the lines around chunks (RFC 9112 §7.1).
func (f *framer) chunk(c byte) fault {
	switch f.phase {
	case phaseSize:
		if v := hexValue(c); v >= 0 {
			if f.line++; f.line > maxSizeDigits {
				return bad("chunk size too large")
			}
			f.size = f.size<<4 | int64(v)
			return fault{}
		}
		if f.line == 0 {
			return bad("chunk size without digits")
		}
		switch c {
		case '\r':
			f.phase = phaseSizeLF
		case ';':
			f.phase = phaseExtension
		default:
			return bad("chunk size with a character that is no hexadecimal digit")
		}
	case phaseExtension:
		if c == '\r' {
			f.phase = phaseSizeLF
		} else if !valueByte(c) {
			return bad("chunk extension with a control character")
		}
		if f.line++; f.line > maxChunkLine {
			return bad("chunk extension too long")
		}
	case phaseSizeLF:
		if c != '\n' {
			return bad("chunk size with CR that no LF follows")
		}
		return f.sized()
	case phaseDataCR:
		if c != '\r' {
			return bad("chunk longer than its size")
		}
		f.phase = phaseDataLF
	case phaseDataLF:
		if c != '\n' {
			return bad("chunk longer than its size")
		}
		f.phase, f.line, f.size = phaseSize, 0, 0
	default:
		return f.trail(c)
	}
	return fault{}
}

// sized is called at the end of a chunk's line.
func (f *framer) sized() fault {
	// A chunk pays for 16 bytes of line and for two bytes of line with each of its own.
	f.overhead = max(0, f.overhead+f.line-16-int(min(2*f.size, maxOverhead)))
	if f.overhead > maxOverhead {
		return bad("chunk lines that are longer than the body")
	}
	f.line = 0
	if f.left = f.size; f.size > 0 {
		f.phase = phaseData
	} else {
		f.phase, f.overhead = phaseTrailer, 0
	}
	return fault{}
}

// trail takes one byte of what follows the last chunk (RFC 9112 §7.1.2).
func (f *framer) trail(c byte) fault {
	switch f.phase {
	case phaseTrailer:
		if c == '\r' {
			f.phase = phaseTrailerLF
			if f.line == 0 {
				f.phase = phaseTrailersLF
			}
			return fault{}
		}
		if !valueByte(c) || f.line == 0 && !tokenByte(c) {
			return bad("trailer with a character that can't be there")
		}
		if f.line < trailerName {
			f.trailer[f.line] = c
		}
		f.line++
		if f.overhead++; f.line > maxTrailerLine || f.overhead > maxTrailers {
			return bad("trailers too long")
		}
	case phaseTrailerLF:
		if c != '\n' {
			return bad("trailer with CR that no LF follows")
		}
		name := f.trailer[:min(f.line, trailerName)]
		colon := bytes.IndexByte(name, ':')
		if colon >= 0 {
			name = name[:colon]
		} else if f.line <= trailerName {
			return bad("trailer without a colon")
		}
		for _, ch := range name { // bound: trailerName
			if !tokenByte(ch) {
				return bad("trailer whose name is no token")
			}
		}
		if framing(name) {
			return bad("trailer that says how the message is framed")
		}
		f.phase, f.line = phaseTrailer, 0
	case phaseTrailersLF:
		if c != '\n' {
			return bad("trailers that end in CR that no LF follows")
		}
		f.phase, f.line = phaseHead, 0
	}
	return fault{}
}

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
