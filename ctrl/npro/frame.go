package npro

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Frame header constants.
const (
	HeaderSize = 16
	Version    = 2

	// MaxPayload is the largest message body, before encryption.
	MaxPayload = 16 << 20
	// MaxFrame is the largest value of a header's length field.
	MaxFrame = MaxPayload + TagSize
	// MaxEcho is the largest body of PING and PONG.
	MaxEcho = 64
	// MaxReason is the largest reason text of DISCONNECT, in bytes.
	MaxReason = 256
)

const magic = 0x4e50524f // "NPRO"

// Type is the type of a frame.
type Type uint8

// Frame types.
const (
	TypePing       Type = 0x01
	TypePong       Type = 0x02
	TypeDisconnect Type = 0x03
	TypeGoAway     Type = 0x04
	TypeWindow     Type = 0x05
	TypeReset      Type = 0x06
	TypeRekey      Type = 0x07
	TypeHandshake1 Type = 0x10
	TypeHandshake2 Type = 0x11
	TypeHandshake3 Type = 0x12
	TypeRequest    Type = 0x20
	TypeResponse   Type = 0x21
	TypeMessage    Type = 0x22
	TypeData       Type = 0x23
)

// Known tells whether t is a type of version 2.
func (t Type) Known() bool {
	return t >= TypePing && t <= TypeRekey || t >= TypeHandshake1 && t <= TypeHandshake3 || t >= TypeRequest && t <= TypeData
}

// Flow tells whether frames of type t consume flow-control credit.
func (t Type) Flow() bool { return t >= TypeRequest && t <= TypeData }

func (t Type) String() string {
	switch t {
	case TypePing:
		return "PING"
	case TypePong:
		return "PONG"
	case TypeDisconnect:
		return "DISCONNECT"
	case TypeGoAway:
		return "GOAWAY"
	case TypeWindow:
		return "WINDOW"
	case TypeReset:
		return "RESET"
	case TypeRekey:
		return "REKEY"
	case TypeHandshake1, TypeHandshake2, TypeHandshake3:
		return fmt.Sprintf("HANDSHAKE %d", t-TypeHandshake1+1)
	case TypeRequest:
		return "REQUEST"
	case TypeResponse:
		return "RESPONSE"
	case TypeMessage:
		return "MESSAGE"
	case TypeData:
		return "DATA"
	}
	return fmt.Sprintf("type %#02x", uint8(t))
}

// Header flags.
const (
	FlagEnc  uint8 = 0x01 // encrypted
	FlagLZ4  uint8 = 0x02
	FlagZstd uint8 = 0x04
	FlagEnd  uint8 = 0x08 // last frame of this stream in this direction
	FlagMore uint8 = 0x10 // the message goes on in the stream's next frame
	FlagCtx  uint8 = 0x20 // a context block precedes the body
	flagAll  uint8 = 0x3f
)

// Reasons to refuse a header, each a frame error in the data plane's counters.
var (
	ErrMagic    = errors.New("frame does not start with NPRO")
	ErrVersion  = errors.New("unknown protocol version")
	ErrFlags    = errors.New("unknown or contradictory frame flags")
	ErrType     = errors.New("unknown frame type")
	ErrReserved = errors.New("reserved header bits set")
	ErrLength   = errors.New("frame length over the limit")
)

// Header is a frame header.
type Header struct {
	Flags    uint8
	Type     Type
	Priority uint8  // 0 (lowest) to 7
	Length   uint32 // bytes after the header, tag included
	Stream   uint32
}

// Append adds the 16 bytes of h to b.
func (h Header) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, magic)
	b = append(b, Version, h.Flags)
	b = binary.BigEndian.AppendUint32(b, h.Length)
	b = append(b, uint8(h.Type), h.Priority)
	return binary.BigEndian.AppendUint32(b, h.Stream)
}

// Put writes the 16 bytes of h to b, which must have room for them.
func (h Header) Put(b []byte) {
	_ = b[HeaderSize-1]
	binary.BigEndian.PutUint32(b, magic)
	b[4], b[5] = Version, h.Flags
	binary.BigEndian.PutUint32(b[6:], h.Length)
	b[10], b[11] = uint8(h.Type), h.Priority
	binary.BigEndian.PutUint32(b[12:], h.Stream)
}

// ParseHeader reads the first 16 bytes of b. Lengths over maxLength are refused.
// The order of the checks is the data plane's, so both give the same reason.
func ParseHeader(b []byte, maxLength uint32) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, fmt.Errorf("frame header: %d bytes of %d", len(b), HeaderSize)
	}
	h := Header{
		Flags:    b[5],
		Type:     Type(b[10]),
		Priority: b[11],
		Length:   binary.BigEndian.Uint32(b[6:]),
		Stream:   binary.BigEndian.Uint32(b[12:]),
	}
	switch {
	case binary.BigEndian.Uint32(b) != magic:
		return Header{}, ErrMagic
	case b[4] != Version:
		return Header{}, ErrVersion
	case h.Flags&^flagAll != 0, h.Flags&(FlagLZ4|FlagZstd) == FlagLZ4|FlagZstd:
		return Header{}, ErrFlags
	case !h.Type.Known():
		return Header{}, ErrType
	case h.Priority > 7:
		return Header{}, ErrReserved
	case h.Length > maxLength:
		return Header{}, ErrLength
	}
	return h, nil
}
