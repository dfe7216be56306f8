package grpcgw

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// maxJSONDepth bounds the nesting of JSON.
const maxJSONDepth = 100

// errClient is matched by errors that the client's request is to blame for.
var errClient = errors.New("invalid request")

// problemError is an error of the client's with its own text.
type problemError struct{ err error }

func (e *problemError) Error() string        { return e.err.Error() }
func (e *problemError) Unwrap() error        { return e.err }
func (e *problemError) Is(target error) bool { return target == errClient }

func bad(err error) error { return &problemError{err} }

// codec turns HTTP's messages into those of one binding and back.
type codec struct {
	b       *binding
	schema  *Schema
	opts    *JSONOptions
	max     int
	path    []string
	query   string
	content string // the request's Content-Type
}

func (c *codec) unmarshal() protojson.UnmarshalOptions {
	return protojson.UnmarshalOptions{Resolver: c.schema.types, RecursionLimit: maxJSONDepth, DiscardUnknown: c.opts.IgnoreUnknown}
}

// message makes one message of a body, or of one value of it. first: the path and the
// query belong to it.
func (c *codec) message(body []byte, first bool) ([]byte, error) {
	m := dynamicpb.NewMessage(c.b.method.desc.Input())
	if err := c.fill(m, body); err != nil {
		return nil, err
	}
	if first {
		if err := c.b.applyQuery(m, c.query, c.opts.IgnoreQuery); err != nil {
			return nil, bad(err)
		}
		if err := c.b.applyPath(m, c.path); err != nil {
			return nil, bad(err)
		}
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, bad(fmt.Errorf("the request makes no %s: %w", m.Descriptor().FullName(), err))
	}
	if len(raw) > c.max {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errTooLarge, len(raw), c.max)
	}
	return raw, nil
}

// fill reads the body.
func (c *codec) fill(m *dynamicpb.Message, body []byte) error {
	if c.b.rawBody() != nil {
		c.b.setRaw(m, c.content, body)
		return nil
	}
	empty := len(bytes.TrimSpace(body)) == 0
	switch {
	case c.b.body == bodyNone && !empty:
		return bad(errors.New("this method takes no body"))
	case empty:
		return nil // a message with nothing in it
	case !json.Valid(body): // before it is wrapped: it must not reach out of its field
		return bad(errors.New("the body is not JSON"))
	case c.b.body == bodyField:
		body = wrap(c.b.field, body)
	}
	if err := c.unmarshal().Unmarshal(body, m); err != nil {
		return bad(fmt.Errorf("the body is no %s: %w", m.Descriptor().FullName(), err))
	}
	return nil
}

// rawBody returns the descriptor of google.api.HttpBody if the body is one.
func (b *binding) rawBody() protoreflect.MessageDescriptor {
	switch {
	case b.body == bodyAll && b.method.desc.Input().FullName() == httpBody:
		return b.method.desc.Input()
	case b.body == bodyField && !b.field.IsList() && b.field.Message() != nil && b.field.Message().FullName() == httpBody:
		return b.field.Message()
	}
	return nil
}

func (b *binding) setRaw(m *dynamicpb.Message, contentType string, body []byte) {
	writeBody(m, b.field, body, contentType)
}

// whole reads a body of at most max bytes.
func whole(body io.Reader, max int) ([]byte, error) {
	if body == nil {
		return nil, nil
	}
	raw, err := io.ReadAll(io.LimitReader(body, int64(max)+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > max {
		return nil, fmt.Errorf("%w: at most %d bytes", errTooLarge, max)
	}
	return raw, nil
}

// upload is the body of a method that takes a stream: messages are made as they are read.
type upload struct {
	codec *codec
	body  io.ReadCloser
	take  func() ([]byte, error) // the next value of the body; io.EOF: no more
	first bool
	out   []byte
	fail  failure
}

func newUpload(c *codec, body io.ReadCloser) *upload {
	u := &upload{codec: c, body: body, first: true}
	if c.b.rawBody() != nil {
		u.take = u.chunk
	} else {
		u.take = newValues(body, c.max).next
	}
	return u
}

// rawChunk is how a body that is no JSON is cut into messages.
const rawChunk = 32 << 10

func (u *upload) chunk() ([]byte, error) {
	buf := make([]byte, max(1, min(rawChunk, u.codec.max/2)))
	n, err := io.ReadAtLeast(u.body, buf, 1)
	if n > 0 {
		return buf[:n], nil
	}
	return nil, err
}

func (u *upload) Read(p []byte) (int, error) {
	if err := u.fail.get(); err != nil {
		return 0, err
	}
	for len(u.out) == 0 && len(p) > 0 {
		value, err := u.take()
		if errors.Is(err, io.EOF) && u.first && (u.codec.b.body == bodyNone || len(u.codec.path) > 0 && len(u.codec.b.vars) > 0) {
			value, err = nil, nil // the path is a message by itself
		}
		if err == nil {
			value, err = u.codec.message(value, u.first)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				u.fail.set(err)
			}
			return 0, err
		}
		u.first = false
		u.out = appendMessage(u.out[:0], value)
	}
	n := copy(p, u.out)
	u.out = u.out[n:]
	return n, nil
}

func (u *upload) Close() error { return u.body.Close() }

// values reads JSON values that follow each other, or the elements of one array.
type values struct {
	in    *meter
	dec   *json.Decoder
	max   int
	begun bool
	array bool
	over  bool
}

// meter ends a reader once more than the budget was read.
type meter struct {
	r    io.Reader
	left int64
}

func (m *meter) Read(p []byte) (int, error) {
	if m.left <= 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > m.left {
		p = p[:m.left]
	}
	n, err := m.r.Read(p)
	m.left -= int64(n)
	return n, err
}

func newValues(r io.Reader, max int) *values {
	in := &meter{r: r}
	return &values{in: in, dec: json.NewDecoder(in), max: max}
}

// readAhead is what the decoder may have read beyond a value.
const readAhead = 4 << 10

func (v *values) next() ([]byte, error) {
	if v.over {
		return nil, io.EOF
	}
	v.in.left = int64(v.max) + readAhead
	if !v.begun {
		v.begun = true
		if err := v.begin(); err != nil {
			return nil, err
		}
	}
	if v.array && !v.dec.More() {
		v.over = true
		if _, err := v.dec.Token(); err != nil { // the closing bracket
			return nil, jsonError(err, true)
		}
		if _, err := v.dec.Token(); !errors.Is(err, io.EOF) {
			return nil, bad(errors.New("something follows the array"))
		}
		return nil, io.EOF
	}
	var raw json.RawMessage
	if err := v.dec.Decode(&raw); err != nil {
		return nil, jsonError(err, v.array)
	}
	if len(raw) > v.max {
		return nil, errTooLarge
	}
	return raw, nil
}

// begin looks whether the values are in an array.
func (v *values) begin() error {
	var one [1]byte
	for { // bound: the meter
		n, err := v.in.Read(one[:])
		if n == 0 && err != nil {
			return jsonError(err, false)
		}
		if n == 0 || bytes.ContainsRune([]byte(" \t\r\n"), rune(one[0])) {
			continue
		}
		break
	}
	v.dec = json.NewDecoder(io.MultiReader(bytes.NewReader(append([]byte(nil), one[0])), v.in))
	if one[0] == '[' {
		v.array = true
		_, err := v.dec.Token()
		return err
	}
	return nil
}

// jsonError tells an end that may be from one that may not, and both from other faults.
func jsonError(err error, inside bool) error {
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF) && !inside:
		return io.EOF
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &syntax):
		return bad(fmt.Errorf("the body is not JSON: %w", noEOF(err)))
	}
	return err
}

// noEOF keeps an io.EOF from being taken for a body's good end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// isJSON says whether a body of this type is taken for JSON; none said counts as such.
func isJSON(h http.Header) bool {
	t := mediaType(h.Get("Content-Type"))
	return t == "" || t == "application/json" || t == "application/x-ndjson" || t == "application/ndjson" || t == "application/stream+json"
}
