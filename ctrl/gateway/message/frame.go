package message

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Kinds of the frames in a stream of messages.
const (
	kindText  = 1
	kindBytes = 2
	kindEnd   = 8

	frameHead = 5
	maxReason = 123 // bytes: what a close frame of WebSocket holds beside its code
)

var (
	// errFrame is matched by errors of a stream that has no messages in it.
	errFrame = errors.New("invalid frame in a stream of messages")
	// errTooLarge is matched where a message is over its limit.
	errTooLarge = errors.New("message over the size limit")
)

// closing is the end of a stream of messages.
type closing struct {
	Code   uint16
	Reason string
}

// appendFrame adds a message to dst.
func appendFrame(dst []byte, kind byte, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32(append(dst, kind), uint32(len(message))), message...)
}

// appendClosing adds the end.
func appendClosing(dst []byte, c closing) []byte {
	reason := c.Reason
	for len(reason) > maxReason || !utf8.ValidString(reason) {
		reason = reason[:len(reason)-1] // bound: its length; a message of text is cut at a character's end
	}
	return appendFrame(dst, kindEnd, append(binary.BigEndian.AppendUint16(nil, c.Code), reason...))
}

// frames reads a stream of messages.
type frames struct {
	r   *bufio.Reader
	max int
	buf []byte
}

func newFrames(r io.Reader, max int) *frames { return &frames{r: bufio.NewReader(r), max: max} }

// next returns the next message, valid until the next call. io.EOF: the stream ended
// without a word. end is not nil for the end.
func (f *frames) next() (kind byte, message []byte, end *closing, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: cut short", errFrame)
		}
		return 0, nil, nil, err
	}
	n := int64(binary.BigEndian.Uint32(head[1:]))
	switch kind = head[0]; {
	case kind != kindText && kind != kindBytes && kind != kindEnd:
		return 0, nil, nil, fmt.Errorf("%w: kind %d, expected 1, 2 or 8", errFrame, kind)
	case kind == kindEnd && (n < 2 || n > 2+maxReason):
		return 0, nil, nil, fmt.Errorf("%w: an end of %d bytes", errFrame, n)
	case n > int64(f.max):
		if kind != kindEnd {
			return 0, nil, nil, fmt.Errorf("%w: %d bytes, at most %d", errTooLarge, n, f.max)
		}
	}
	if message, err = f.body(int(n)); err != nil {
		return 0, nil, nil, err
	}
	switch {
	case kind == kindText && !utf8.Valid(message):
		return 0, nil, nil, fmt.Errorf("%w: text that is not UTF-8", errFrame)
	case kind != kindEnd:
		return kind, message, nil, nil
	case !utf8.Valid(message[2:]):
		return 0, nil, nil, fmt.Errorf("%w: a reason that is not UTF-8", errFrame)
	}
	return kind, nil, &closing{Code: binary.BigEndian.Uint16(message), Reason: string(message[2:])}, nil
}

// step is what is allocated at once for a message that has not arrived yet.
const step = 64 << 10

// body reads n bytes; memory grows with what arrives, not with what was announced.
func (f *frames) body(n int) ([]byte, error) {
	if cap(f.buf) > step && n < step {
		f.buf = nil // one big message should not stay for the stream's life
	}
	f.buf = f.buf[:0]
	for len(f.buf) < n {
		at := len(f.buf)
		f.buf = append(f.buf, make([]byte, min(step, n-at))...)
		if _, err := io.ReadFull(f.r, f.buf[at:]); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("%w: cut short", errFrame)
			}
			return nil, err
		}
	}
	return f.buf, nil
}
