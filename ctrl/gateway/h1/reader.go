package h1

import (
	"bytes"
	"io"
	"net/http"
	"sync"
)

const readSize = 8 << 10 // bytes of a connection's buffer while a response is read

// buffers are read buffers that no connection uses.
type buffers struct{ pool sync.Pool }

// Get lends one.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[readSize]byte); ok {
		return p[:]
	}
	return new([readSize]byte)[:]
}

// Put takes one back.
func (b *buffers) Put(buf []byte) {
	if cap(buf) == readSize { // not one that had to grow
		b.pool.Put((*[readSize]byte)(buf[:readSize]))
	}
}

// reader reads one response after the other from a connection.
type reader struct {
	src  io.Reader
	buf  []byte // nil while there is nothing in it and no response is read
	r, w int    // unread: buf[r:w]
	any  bool   // something came since the last reset
	err  error  // to be returned by the next read
}

func (r *reader) buffered() int { return r.w - r.r }

// fill reads more behind what is unread, making room up to limit bytes.
func (r *reader) fill(limit int) error {
	if r.r > 0 {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	if r.w == len(r.buf) {
		if len(r.buf) >= limit {
			return protocol("head longer than %d bytes", limit)
		}
		grown := make([]byte, min(2*len(r.buf), max(limit, readSize)))
		copy(grown, r.buf[:r.w])
		r.buf = grown
	}
	if err := r.err; err != nil {
		r.err = nil
		return err
	}
	n, err := r.src.Read(r.buf[r.w:])
	if n > 0 {
		r.w += n
		r.any = true
		return nil // an error comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// block reads up to and including an empty line, at most limit bytes, and returns it as
// a string. first: up to the first line's end is enough if that is empty.
func (r *reader) block(limit int) (string, error) {
	line := 0 // where the line begins, from r.r
	seen := 0 // looked at, from r.r
	for {     // bound: limit
		b := r.buf[r.r:r.w]
		for seen < len(b) { // bound: b
			i := bytes.IndexByte(b[seen:], '\n')
			if i < 0 {
				seen = len(b)
				break
			}
			i += seen
			if i == 0 || b[i-1] != '\r' {
				return "", protocol("a line that ends with LF alone")
			}
			if i+1 > limit {
				return "", protocol("head longer than %d bytes", limit)
			}
			seen = i + 1
			if i-1 == line {
				s := string(b[:seen])
				r.r += seen
				return s, nil
			}
			line = seen
		}
		if len(b) >= limit {
			return "", protocol("head longer than %d bytes", limit)
		}
		if err := r.fill(limit); err != nil {
			return "", err
		}
	}
}

// read copies what is there, or reads directly where p is as large as the buffer.
func (r *reader) read(p []byte) (int, error) {
	if r.r == r.w {
		if len(p) >= readSize {
			return r.src.Read(p)
		}
		r.r, r.w = 0, 0
		if err := r.fill(readSize); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf[r.r:r.w])
	r.r += n
	return n, nil
}

// chunked reads a body in the chunked coding (RFC 9112 §7.1).
type chunked struct {
	r       *reader
	left    uint64 // of this chunk
	ext     int    // bytes of extensions so far
	begun   bool   // a chunk's data has begun: its CRLF is due when left is 0
	last    bool   // the last chunk's size was read: the trailer is due
	trailer func(http.Header) error
	limits  *Limits
}

// read returns data, with io.EOF once the last chunk and the trailer were read. It waits
// only while it has none: what a server sent is passed on before more of it is waited for.
func (c *chunked) read(p []byte) (n int, err error) {
	for n < len(p) { // bound: p, or one pass for each chunk that is buffered
		if c.left == 0 {
			if n > 0 && !c.ready() {
				return n, nil
			}
			if !c.last {
				if err := c.next(); err != nil {
					return n, noEOF(err)
				}
				continue
			}
			if err := c.end(); err != nil {
				return n, noEOF(err)
			}
			return n, io.EOF
		}
		if n > 0 && c.r.buffered() == 0 {
			return n, nil
		}
		q := p[n:]
		if uint64(len(q)) > c.left {
			q = q[:c.left]
		}
		k, err := c.r.read(q)
		n += k
		c.left -= uint64(k)
		if err != nil {
			return n, noEOF(err)
		}
	}
	return n, nil
}

// ready says whether what comes between chunks is there: CRLF and the next size's line, or
// after the last one an empty trailer.
func (c *chunked) ready() bool {
	b := c.r.buf[c.r.r:c.r.w]
	if c.last {
		return len(b) >= 2 && b[0] == '\r' && b[1] == '\n'
	}
	return len(b) > 2 && bytes.IndexByte(b[2:], '\n') >= 0
}

// next reads the end of a chunk's data and the next one's size.
func (c *chunked) next() error {
	if c.begun {
		if err := c.crlf(); err != nil {
			return err
		}
	}
	line, err := c.line()
	if err != nil {
		return err
	}
	digits := 0
	size := uint64(0)
	for digits < len(line) { // bound: maxChunkLine
		v, ok := hexDigit(line[digits])
		if !ok {
			break
		}
		if digits++; digits > maxSizeDigits {
			return protocol("a chunk's size of more than %d digits", maxSizeDigits)
		}
		size = size<<4 | uint64(v)
	}
	if digits == 0 {
		return protocol("expected a chunk's size")
	}
	if ext := line[digits:]; len(ext) > 0 {
		if ext[0] != ';' {
			return protocol("byte %#02x after a chunk's size", ext[0])
		}
		for _, b := range ext {
			if class[b]&field == 0 {
				return protocol("byte %#02x in a chunk extension", b)
			}
		}
		if c.ext += len(ext); c.ext > c.limits.ExtensionBytes {
			return protocol("more than %d bytes of chunk extensions", c.limits.ExtensionBytes)
		}
	}
	c.left, c.begun = size, true
	c.last = size == 0
	return nil
}

func hexDigit(b byte) (byte, bool) {
	switch {
	case b >= '0' && b <= '9':
		return b - '0', true
	case b >= 'a' && b <= 'f':
		return b - 'a' + 10, true
	case b >= 'A' && b <= 'F':
		return b - 'A' + 10, true
	}
	return 0, false
}

func (c *chunked) crlf() error {
	for c.r.buffered() < 2 { // bound: two bytes
		if err := c.r.fill(readSize); err != nil {
			return err
		}
	}
	b := c.r.buf[c.r.r:]
	if b[0] != '\r' || b[1] != '\n' {
		return protocol("a chunk longer than its size")
	}
	c.r.r += 2
	return nil
}

// line returns a line without its CRLF, valid until the next read.
func (c *chunked) line() ([]byte, error) {
	for { // bound: maxChunkLine
		b := c.r.buf[c.r.r:c.r.w]
		i := bytes.IndexByte(b, '\n')
		switch {
		case i > maxChunkLine || i < 0 && len(b) > maxChunkLine:
			return nil, protocol("a chunk's size and extensions are longer than %d bytes", maxChunkLine)
		case i == 0 || i > 0 && b[i-1] != '\r':
			return nil, protocol("a line that ends with LF alone")
		case i > 0:
			c.r.r += i + 1
			return b[:i-1], nil
		}
		if err := c.r.fill(readSize); err != nil {
			return nil, err
		}
	}
}

// end reads the trailer.
func (c *chunked) end() error {
	s, err := c.r.block(c.limits.HeadBytes)
	if err != nil {
		return err
	}
	if len(s) == 2 {
		return nil
	}
	t, err := parseFields(s, c.limits.Fields)
	if err != nil {
		return err
	}
	for _, name := range [...]string{"Content-Length", "Transfer-Encoding", "Host", "Trailer", "Connection"} {
		if _, ok := t[name]; ok {
			return protocol("%s in the trailer", name) // RFC 9110 §6.5.1
		}
	}
	return c.trailer(t)
}

// noEOF: an end that comes where more is due.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
