package grpcgw

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// prefixSize is what precedes each message: a flag and the length, u32 big-endian.
const prefixSize = 5

// Flags of the prefix.
const (
	flagCompressed = 0x01
	flagTrailers   = 0x80 // gRPC-Web alone
)

// errTooLarge: a message is over the limit of its direction.
var errTooLarge = errors.New("message over the size limit")

// errFrame: what should be a message's prefix is none.
var errFrame = errors.New("invalid message frame")

// scanner follows the messages of one direction as their bytes pass, and keeps none.
type scanner struct {
	max        int64
	compressed bool // messages may be: grpc-encoding names how

	head [prefixSize]byte
	have int   // of head
	left int64 // of the message
}

// scan looks at the next bytes. After an error nothing of p may be passed on.
func (s *scanner) scan(p []byte) error {
	for len(p) > 0 { // bound: each turn takes at least a byte
		if s.left > 0 {
			n := min(int64(len(p)), s.left)
			s.left -= n
			p = p[n:]
			continue
		}
		n := copy(s.head[s.have:], p)
		s.have += n
		p = p[n:]
		if s.have < prefixSize {
			return nil
		}
		s.have = 0
		n64, err := s.prefix(s.head[:])
		if err != nil {
			return err
		}
		s.left = n64
	}
	return nil
}

// prefix reads a message's length.
func (s *scanner) prefix(head []byte) (int64, error) {
	switch flag := head[0]; {
	case flag > flagCompressed:
		return 0, fmt.Errorf("%w: flag 0x%02x, expected 0 or 1", errFrame, flag)
	case flag == flagCompressed && !s.compressed:
		return 0, fmt.Errorf("%w: compressed, but grpc-encoding names no compression", errFrame)
	}
	n := int64(binary.BigEndian.Uint32(head[1:]))
	if n > s.max {
		return 0, fmt.Errorf("%w: %d bytes, at most %d", errTooLarge, n, s.max)
	}
	return n, nil
}

// end says whether the bytes may end here.
func (s *scanner) end() error {
	if s.have > 0 || s.left > 0 {
		return fmt.Errorf("%w: cut short, %d bytes of the message missing", errFrame, s.left+int64((prefixSize-s.have)%prefixSize))
	}
	return nil
}

// appendMessage adds a message with its prefix.
func appendMessage(dst, message []byte) []byte {
	dst = append(dst, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(message)))
	return append(dst, message...)
}
