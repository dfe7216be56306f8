package server

import "bytes"

// chunks follows the chunked coding of one body (RFC 9112 §7.1). It takes only what has
// one reading. It is given each byte of the lines around chunks, and told how many bytes
// of the chunks themselves were taken.
type chunks struct {
	phase    phase
	left     int64  // bytes of the chunk that are still to come
	overhead int    // bytes of chunk lines and trailers, beyond what chunks pay for
	line     int    // bytes of the chunk line or trailer line seen so far
	size     int64  // of the chunk whose line is being read
	trailer  []byte // lines after the last chunk, each with LF
}

// phase is what the next byte belongs to.
type phase uint8

const (
	phaseSize       phase = iota // digits of a chunk's size
	phaseExtension               // the rest of a chunk's line
	phaseSizeLF                  // its LF
	phaseData                    // a chunk's bytes
	phaseDataCR                  // the CR after them
	phaseDataLF                  // the LF
	phaseTrailer                 // a line after the last chunk
	phaseTrailerLF               // its LF
	phaseTrailersLF              // the LF of the empty line that ends them
	phaseEnd
)

// Bounds of chunked bodies.
const (
	maxSizeDigits  = 15 // 2⁶⁰ bytes; none can overflow
	maxChunkLine   = 256
	maxTrailerLine = 1024
	maxTrailers    = 3 << 10
	maxOverhead    = 16 << 10
)

// took is told that n bytes of a chunk, at most what is left of it, were taken.
func (f *chunks) took(n int) {
	if f.left -= int64(n); f.left == 0 {
		f.phase = phaseDataCR
	}
}

// chunk takes one byte of the lines around chunks (RFC 9112 §7.1).
func (f *chunks) chunk(c byte) fault {
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
func (f *chunks) sized() fault {
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
func (f *chunks) trail(c byte) fault {
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
		f.trailer = append(f.trailer, c) // bound: maxTrailers
		f.line++
		if f.overhead++; f.line > maxTrailerLine || f.overhead > maxTrailers {
			return bad("trailers too long")
		}
	case phaseTrailerLF:
		if c != '\n' {
			return bad("trailer with CR that no LF follows")
		}
		line := f.trailer[len(f.trailer)-f.line:]
		name, _, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return bad("trailer without a colon")
		}
		for _, ch := range name { // bound: maxTrailerLine
			if !tokenByte(ch) {
				return bad("trailer whose name is no token")
			}
		}
		if framing(name) {
			return bad("trailer that says how the message is framed")
		}
		f.trailer = append(f.trailer, '\n')
		f.phase, f.line = phaseTrailer, 0
	case phaseTrailersLF:
		if c != '\n' {
			return bad("trailers that end in CR that no LF follows")
		}
		f.phase = phaseEnd
	}
	return fault{}
}
