package h2

import (
	"encoding/binary"
	"fmt"
)

// Types of frames (RFC 9113 §6, RFC 9218 §7.1).
const (
	typeData           = 0x0
	typeHeaders        = 0x1
	typePriority       = 0x2
	typeReset          = 0x3
	typeSettings       = 0x4
	typePush           = 0x5
	typePing           = 0x6
	typeGoAway         = 0x7
	typeWindow         = 0x8
	typeContinuation   = 0x9
	typePriorityUpdate = 0x10
)

// Flags of frames.
const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Settings (RFC 9113 §6.5.2, RFC 8441 §3, RFC 9218 §2.1).
const (
	settingTableSize       = 0x1
	settingPush            = 0x2
	settingStreams         = 0x3
	settingWindow          = 0x4
	settingFrameSize       = 0x5
	settingHeadBytes       = 0x6
	settingConnect         = 0x8
	settingNoOldPriorities = 0x9
)

const (
	frameHead = 9
	maxFrame  = 16 << 10 // the least that is allowed (RFC 9113 §4.2); longer ones save nothing that can be measured and keep more memory
	maxWindow = 1<<31 - 1
	preface   = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

// Code is an error's number (RFC 9113 §7).
type Code uint32

// Codes.
const (
	NoError            Code = 0x0
	ProtocolError      Code = 0x1
	InternalError      Code = 0x2
	FlowControlError   Code = 0x3
	SettingsTimeout    Code = 0x4
	StreamClosed       Code = 0x5
	FrameSizeError     Code = 0x6
	RefusedStream      Code = 0x7
	Cancel             Code = 0x8
	CompressionError   Code = 0x9
	EnhanceYourCalm    Code = 0xb
	InadequateSecurity Code = 0xc
)

var codeNames = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
	"REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

// String returns the RFC's name.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("error %#x", uint32(c))
}

// connError ends a connection.
type connError struct {
	code Code
	why  string
}

// Error implements error.
func (e *connError) Error() string { return "HTTP/2 connection: " + e.code.String() + ": " + e.why }

// streamError ends a stream.
type streamError struct {
	code Code
	why  string
}

// Error implements error.
func (e *streamError) Error() string { return "HTTP/2 stream: " + e.code.String() + ": " + e.why }

func fatal(code Code, why string) error { return &connError{code, why} }

// frame is the head of a frame that was received.
type frame struct {
	length int
	kind   byte
	flags  byte
	stream uint32
}

func parseFrame(b []byte) frame {
	return frame{int(b[0])<<16 | int(b[1])<<8 | int(b[2]), b[3], b[4], binary.BigEndian.Uint32(b[5:]) & maxWindow}
}

func appendFrame(b []byte, length int, kind, flags byte, stream uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), kind, flags, byte(stream>>24), byte(stream>>16), byte(stream>>8), byte(stream))
}

func appendReset(b []byte, stream uint32, code Code) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, typeReset, 0, stream), uint32(code))
}

func appendWindow(b []byte, stream uint32, n int) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, typeWindow, 0, stream), uint32(n))
}

func appendSetting(b []byte, id uint16, v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, id), v)
}

func appendGoAway(b []byte, last uint32, code Code, text string) []byte {
	b = appendFrame(b, 8+len(text), typeGoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, text...)
}

// unpad takes the padding from a payload (RFC 9113 §6.1).
func unpad(f frame, p []byte) ([]byte, error) {
	if f.flags&flagPadded == 0 {
		return p, nil
	}
	if len(p) == 0 {
		return nil, fatal(FrameSizeError, "padded frame without a length of its padding")
	}
	n := int(p[0])
	if p = p[1:]; n > len(p) {
		return nil, fatal(ProtocolError, "padding longer than its frame")
	}
	return p[:len(p)-n], nil
}

// rate is a token bucket.
type rate struct {
	used int64 // thousandths
	at   int64
}

// burst is how many seconds' worth may come at once.
const burst = 5

// take takes one; false: there is none left.
func (r *rate) take(now int64, perSecond int) bool {
	if perSecond <= 0 {
		return true
	}
	r.used = max(0, r.used-(now-r.at)*int64(perSecond)) + 1000
	r.at = now
	return r.used <= burst*1000*int64(perSecond)
}
