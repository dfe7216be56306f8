package bhttp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Limits bound what a Reader takes. The zero value: heads of 32 KiB, 128 fields.
type Limits struct {
	Head   int   // bytes of the control data and of one section of fields; 0 is 32 KiB
	Fields int   // of one section; 0 is 128
	Body   int64 // bytes; 0: no bound, for streams
}

// ErrFormat is matched by every error of a message that is none.
var ErrFormat = errors.New("invalid binary HTTP message")

// ErrTooLarge is matched where a message is over the limits.
var ErrTooLarge = errors.New("binary HTTP message over the limits")

func format(s string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrFormat, fmt.Errorf(s, args...))
}

// Reader reads one message. One goroutine at a time.
type Reader struct {
	r       *bufio.Reader
	limits  Limits
	left    int // of the head's bytes
	stream  bool
	chunk   int64 // left of the chunk, or of the whole body
	opened  bool  // known length: the body's length was read
	body    int64 // read of it
	trailer http.Header
	err     error // after the body
}

// NewReader reads a message of r. It may read ahead.
func NewReader(r io.Reader, l Limits) *Reader {
	if l.Head == 0 {
		l.Head = 32 << 10
	}
	if l.Fields == 0 {
		l.Fields = 128
	}
	return &Reader{r: bufio.NewReader(r), limits: l}
}

// varint reads a variable-length integer. io.EOF: there is nothing.
func (d *Reader) varint() (uint64, error) {
	first, err := d.r.ReadByte()
	if err != nil {
		return 0, err
	}
	v := uint64(first & 0x3f)
	for range 1<<(first>>6) - 1 { // bound: seven
		b, err := d.r.ReadByte()
		if err != nil {
			return 0, format("a number is cut short: %w", noEOF(err))
		}
		v = v<<8 | uint64(b)
	}
	return v, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// headVarint is varint inside a head, which must be whole.
func (d *Reader) headVarint() (uint64, error) {
	v, err := d.varint()
	if errors.Is(err, io.EOF) {
		err = format("the head is cut short")
	}
	return v, err
}

// take reads n bytes of a head, within its limit.
func (d *Reader) take(n uint64) (string, error) {
	if n > uint64(d.left) {
		return "", fmt.Errorf("%w: a head of more than %d bytes", ErrTooLarge, d.limits.Head)
	}
	d.left -= int(n)
	b := make([]byte, n)
	if _, err := io.ReadFull(d.r, b); err != nil {
		return "", format("the head is cut short: %w", noEOF(err))
	}
	return string(b), nil
}

func (d *Reader) text() (string, error) {
	n, err := d.headVarint()
	if err != nil {
		return "", err
	}
	return d.take(n)
}

// Request reads a request's head. The body is read by Read.
func (d *Reader) Request() (*Request, error) {
	kind, err := d.headVarint()
	if err != nil {
		return nil, err
	}
	if kind != knownRequest && kind != streamRequest {
		return nil, format("framing indicator %d is none of a request", kind)
	}
	d.stream, d.left = kind == streamRequest, d.limits.Head
	r := &Request{}
	for _, to := range [...]*string{&r.Method, &r.Scheme, &r.Authority, &r.Path} {
		if *to, err = d.text(); err != nil {
			return nil, err
		}
	}
	if err := r.check(); err != nil {
		return nil, format("%w", err)
	}
	r.Header, err = d.section(false)
	return r, err
}

// Response reads an answer's head. The body is read by Read.
func (d *Reader) Response() (*Response, error) {
	kind, err := d.headVarint()
	if err != nil {
		return nil, err
	}
	if kind != knownResponse && kind != streamResponse {
		return nil, format("framing indicator %d is none of an answer", kind)
	}
	d.stream = kind == streamResponse
	for range maxInformations {
		d.left = d.limits.Head
		status, err := d.headVarint()
		if err != nil {
			return nil, err
		}
		if status < minStatus || status > maxStatus {
			return nil, format("status %d", status)
		}
		h, err := d.section(false)
		if err != nil {
			return nil, err
		}
		if status >= minFinalStatus {
			return &Response{Status: int(status), Header: h}, nil
		}
	}
	return nil, fmt.Errorf("%w: more than %d informational answers", ErrTooLarge, maxInformations)
}

// section reads a section of fields. end: the message may end in its place.
func (d *Reader) section(end bool) (http.Header, error) {
	h := http.Header{}
	size := uint64(0)
	if !d.stream {
		n, err := d.varint()
		if errors.Is(err, io.EOF) {
			if end {
				return h, nil
			}
			err = format("the fields are cut short")
		}
		if err != nil {
			return nil, err
		}
		if n > uint64(d.left) {
			return nil, fmt.Errorf("%w: fields of %d bytes", ErrTooLarge, n)
		}
		size = n
	}
	start := d.left
	for range d.limits.Fields + 1 {
		if !d.stream && uint64(start-d.left) >= size {
			if uint64(start-d.left) > size {
				return nil, format("a field goes beyond its section")
			}
			return h, nil
		}
		n, err := d.fieldVarint()
		if errors.Is(err, io.EOF) && end && d.stream && len(h) == 0 {
			return h, nil
		}
		if errors.Is(err, io.EOF) {
			err = format("the fields are cut short")
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			if d.stream {
				return h, nil
			}
			return nil, format("a field without name")
		}
		if err := d.field(h, n); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: more than %d fields", ErrTooLarge, d.limits.Fields)
}

// fieldVarint is varint with its own bytes taken off the head's.
func (d *Reader) fieldVarint() (uint64, error) {
	first, err := d.r.Peek(1)
	if err != nil {
		return 0, err
	}
	if d.left -= 1 << (first[0] >> 6); d.left < 0 {
		return 0, fmt.Errorf("%w: a head of more than %d bytes", ErrTooLarge, d.limits.Head)
	}
	return d.varint()
}

func (d *Reader) field(h http.Header, size uint64) error {
	name, err := d.take(size)
	if err != nil {
		return err
	}
	n, err := d.fieldVarint()
	if err != nil {
		return format("a field is cut short: %w", noEOF(err))
	}
	value, err := d.take(n)
	if err != nil {
		return err
	}
	switch {
	case !httpguts.ValidHeaderFieldName(name) || strings.ToLower(name) != name:
		return format("field name %.64q", name)
	case connectionField(name):
		return format("field %s describes a connection", name)
	case !httpguts.ValidHeaderFieldValue(value) || strings.Trim(value, " \t") != value:
		return format("value of field %s", name)
	}
	h.Add(name, value)
	return nil
}

// Read reads the body. After io.EOF the Trailer is there.
func (d *Reader) Read(p []byte) (int, error) {
	if d.err != nil || len(p) == 0 {
		return 0, d.err
	}
	if d.chunk == 0 {
		if err := d.next(); err != nil {
			d.err = err
			return 0, err
		}
	}
	n, err := d.r.Read(p[:min(int64(len(p)), d.chunk)])
	d.chunk -= int64(n)
	if err != nil {
		d.err = format("the body is cut short: %w", noEOF(err))
		if n > 0 {
			return n, nil
		}
	}
	return n, d.errIf(n == 0)
}

func (d *Reader) errIf(when bool) error {
	if when {
		return d.err
	}
	return nil
}

// next finds the next bytes of the body; io.EOF: there are none, and the trailer was read.
func (d *Reader) next() error {
	if !d.stream && d.opened {
		return d.finish()
	}
	n, err := d.varint()
	switch {
	case errors.Is(err, io.EOF):
		if d.stream && d.opened {
			return format("the body has no end")
		}
		return io.EOF // ended after its head: an empty body
	case err != nil:
		return err
	}
	d.opened = true
	if n > maxVarint || d.limits.Body > 0 && (n > uint64(d.limits.Body) || d.body+int64(n) > d.limits.Body) {
		return fmt.Errorf("%w: a body of more than %d bytes", ErrTooLarge, d.limits.Body)
	}
	d.chunk = int64(n)
	d.body += int64(n)
	if n == 0 {
		return d.finish()
	}
	return nil
}

// finish reads the trailer and, of a known-length message, the padding, which ends with
// the message.
func (d *Reader) finish() error {
	d.left = d.limits.Head
	h, err := d.section(true)
	if err != nil {
		return err
	}
	d.trailer = h
	if !d.stream {
		for range d.limits.Head {
			b, err := d.r.ReadByte()
			if err != nil {
				return noError(err)
			}
			if b != 0 {
				return format("something follows the message")
			}
		}
		return fmt.Errorf("%w: more than %d bytes of padding", ErrTooLarge, d.limits.Head)
	}
	return io.EOF
}

// noError keeps io.EOF, which is the good end, and names everything else.
func noError(err error) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return fmt.Errorf("read: %w", err)
}

// Trailer returns the trailer's fields once Read returned io.EOF.
func (d *Reader) Trailer() http.Header { return d.trailer }

// ParseRequest reads a whole request.
func ParseRequest(raw []byte, l Limits) (*Request, error) {
	d := NewReader(bytes.NewReader(raw), l)
	r, err := d.Request()
	if err != nil {
		return nil, err
	}
	if r.Body, err = io.ReadAll(d); err != nil {
		return nil, err
	}
	r.Trailer = d.Trailer()
	return r, nil
}

// ParseResponse reads a whole answer.
func ParseResponse(raw []byte, l Limits) (*Response, error) {
	d := NewReader(bytes.NewReader(raw), l)
	r, err := d.Response()
	if err != nil {
		return nil, err
	}
	if r.Body, err = io.ReadAll(d); err != nil {
		return nil, err
	}
	r.Trailer = d.Trailer()
	return r, nil
}
