package handshake

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/np-appliance/np/ctrl/npro"
)

// Limits of Params, and what stands for a zero value.
const (
	MinFrame            = 1 << 10
	MinWindow           = 1 << 10
	MaxWindow           = math.MaxInt32
	MaxName             = 64 // bytes of UTF-8
	MaxOffers           = 8  // entries of a list of AEADs or compressions
	MaxHeartbeat        = time.Hour
	MinHeartbeat        = time.Second // the shortest a responder lets an initiator wish for
	DefaultStreamWindow = 256 << 10
	DefaultConnWindow   = 4 << 20
)

// Params is what a side offers, and its own limits.
type Params struct {
	AEADs        []uint8       // best first; empty: npro.PreferredAEADs
	Compressions []uint8       // best first; empty: none
	MaxFrame     uint32        // largest frame length received; 0: npro.MaxFrame
	StreamWindow uint32        // credit given to each stream at the start; 0: 256 KiB
	ConnWindow   uint32        // credit given to the connection; 0: 4 MiB
	Heartbeat    time.Duration // 0: no wish
	Name         string        // initiator: shown to the operator of the other side
}

// withDefaults fills zero values and checks the rest.
func (p Params) withDefaults() (Params, error) {
	if len(p.AEADs) == 0 {
		p.AEADs = npro.PreferredAEADs()
	}
	if p.MaxFrame == 0 {
		p.MaxFrame = npro.MaxFrame
	}
	if p.StreamWindow == 0 {
		p.StreamWindow = DefaultStreamWindow
	}
	if p.ConnWindow == 0 {
		p.ConnWindow = DefaultConnWindow
	}
	for _, a := range p.AEADs {
		if a != npro.AEADAES256GCM && a != npro.AEADXChaCha20Poly1305 {
			return p, fmt.Errorf("%w: aead %d unknown", ErrParams, a)
		}
	}
	for _, c := range p.Compressions {
		if c != npro.CompressionLZ4 && c != npro.CompressionZstd {
			return p, fmt.Errorf("%w: compression %d unknown", ErrParams, c)
		}
	}
	if p.Heartbeat != 0 && p.Heartbeat < time.Millisecond {
		return p, fmt.Errorf("%w: heartbeat %v under 1ms", ErrParams, p.Heartbeat)
	}
	if p.MaxFrame > npro.MaxFrame {
		return p, fmt.Errorf("%w: max frame %d over %d", ErrParams, p.MaxFrame, npro.MaxFrame)
	}
	o := offer{aeads: p.AEADs, compressions: p.Compressions, maxFrame: p.MaxFrame,
		streamWindow: p.StreamWindow, connWindow: p.ConnWindow, heartbeat: p.Heartbeat, name: p.Name}
	return p, o.check()
}

// Entry keys of a handshake payload.
const (
	keyTimestamp    = 0x01
	keyNonce        = 0x02
	keyAEADs        = 0x03
	keyCompressions = 0x04
	keyMaxFrame     = 0x05
	keyWindows      = 0x06
	keyHeartbeat    = 0x07
	keyName         = 0x08
	keyConnID       = 0x09
)

// offer is a parsed payload: what an initiator offers (lists) or what a
// responder chose (lists of one).
type offer struct {
	has          uint16 // bit 1 << key
	timestamp    uint64 // ms since 1970
	nonce        nonce
	aeads        []uint8
	compressions []uint8
	maxFrame     uint32
	streamWindow uint32
	connWindow   uint32
	heartbeat    time.Duration
	name         string
	connID       [8]byte
}

func appendEntry(b []byte, key uint8, value []byte) []byte {
	b = append(b, key)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	return append(b, value...)
}

func u32(v ...uint32) (b []byte) {
	for _, x := range v {
		b = binary.BigEndian.AppendUint32(b, x)
	}
	return b
}

// append writes the entries whose bit is set in has.
func (o *offer) append(b []byte) []byte {
	for key := uint8(keyTimestamp); key <= keyConnID; key++ {
		if o.has&(1<<key) == 0 {
			continue
		}
		var v []byte
		switch key {
		case keyTimestamp:
			v = binary.BigEndian.AppendUint64(nil, o.timestamp)
		case keyNonce:
			v = o.nonce[:]
		case keyAEADs:
			v = o.aeads
		case keyCompressions:
			v = o.compressions
		case keyMaxFrame:
			v = u32(o.maxFrame)
		case keyWindows:
			v = u32(o.streamWindow, o.connWindow)
		case keyHeartbeat:
			v = u32(uint32(o.heartbeat.Milliseconds()))
		case keyName:
			v = []byte(o.name)
		case keyConnID:
			v = o.connID[:]
		}
		b = appendEntry(b, key, v)
	}
	return b
}

// parseOffer reads entries; required has a bit for each key that must be there.
func parseOffer(b []byte, required uint16) (*offer, error) {
	o := &offer{}
	if err := o.parse(b); err != nil {
		return nil, err
	}
	if missing := required &^ o.has; missing != 0 {
		return nil, fmt.Errorf("%w: entries missing (mask %#x)", ErrMalformed, missing)
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	return o, nil
}

// parse reads entries into o.
func (o *offer) parse(b []byte) error {
	for len(b) > 0 {
		if len(b) < 3 {
			return fmt.Errorf("%w: entry cut short", ErrMalformed)
		}
		key, n := b[0], int(binary.BigEndian.Uint16(b[1:]))
		b = b[3:]
		if n > len(b) {
			return fmt.Errorf("%w: entry %d claims %d bytes of %d", ErrMalformed, key, n, len(b))
		}
		v := b[:n]
		b = b[n:]
		if key < keyTimestamp || key > keyConnID {
			continue // a later version's
		}
		if o.has&(1<<key) != 0 {
			return fmt.Errorf("%w: entry %d twice", ErrMalformed, key)
		}
		o.has |= 1 << key
		if !o.set(key, v) {
			return fmt.Errorf("%w: entry %d of %d bytes", ErrMalformed, key, n)
		}
	}
	return nil
}

// set stores one entry; false when its size is wrong.
func (o *offer) set(key uint8, v []byte) bool {
	want := map[uint8]int{keyTimestamp: 8, keyNonce: NonceSize, keyMaxFrame: 4, keyWindows: 8, keyHeartbeat: 4, keyConnID: 8}
	if n, ok := want[key]; ok && n != len(v) {
		return false
	}
	switch key {
	case keyTimestamp:
		o.timestamp = binary.BigEndian.Uint64(v)
	case keyNonce:
		o.nonce = nonce(v)
	case keyAEADs:
		o.aeads = append([]uint8(nil), v...)
		return len(v) >= 1 && len(v) <= MaxOffers
	case keyCompressions:
		o.compressions = append([]uint8(nil), v...)
		return len(v) <= MaxOffers
	case keyMaxFrame:
		// More than the protocol allows means no limit of the peer's own.
		o.maxFrame = min(binary.BigEndian.Uint32(v), npro.MaxFrame)
	case keyWindows:
		o.streamWindow = binary.BigEndian.Uint32(v)
		o.connWindow = binary.BigEndian.Uint32(v[4:])
	case keyHeartbeat:
		o.heartbeat = time.Duration(binary.BigEndian.Uint32(v)) * time.Millisecond
	case keyName:
		o.name = string(v)
	case keyConnID:
		o.connID = [8]byte(v)
	}
	return true
}

// check holds what both sides hold against each other, and New against its caller.
func (o *offer) check() error {
	switch {
	case len(o.aeads) > MaxOffers || len(o.compressions) > MaxOffers:
		return fmt.Errorf("%w: more than %d offers", ErrParams, MaxOffers)
	case o.maxFrame < MinFrame:
		return fmt.Errorf("%w: max frame %d under %d", ErrParams, o.maxFrame, MinFrame)
	case o.streamWindow < MinWindow || o.connWindow < MinWindow:
		return fmt.Errorf("%w: window under %d", ErrParams, MinWindow)
	case o.streamWindow > MaxWindow || o.connWindow > MaxWindow:
		return fmt.Errorf("%w: window over %d", ErrParams, MaxWindow)
	case o.heartbeat < 0 || o.heartbeat > MaxHeartbeat:
		return fmt.Errorf("%w: heartbeat %v over %v", ErrParams, o.heartbeat, MaxHeartbeat)
	case !validName(o.name):
		return fmt.Errorf("%w: name is not printable UTF-8 of at most %d bytes", ErrParams, MaxName)
	}
	return nil
}

// validName keeps control characters off the terminals that names end up on.
func validName(s string) bool {
	if len(s) > MaxName || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

func contains(list []uint8, v uint8) bool {
	for _, x := range list {
		if x == v {
			return true
		}
	}
	return false
}

// chooseAEAD: doc.go has the rule. 0: nothing in common.
func chooseAEAD(offered, own []uint8) uint8 {
	if offered[0] == own[0] {
		return own[0]
	}
	if contains(offered, npro.AEADXChaCha20Poly1305) && contains(own, npro.AEADXChaCha20Poly1305) {
		return npro.AEADXChaCha20Poly1305
	}
	return firstCommon(offered, own)
}

func firstCommon(offered, own []uint8) uint8 {
	for _, a := range own {
		if contains(offered, a) {
			return a
		}
	}
	return 0
}

// chooseHeartbeat: the shorter wish, but a peer's own does not make us send more
// often than once a second.
func chooseHeartbeat(offered, own time.Duration) time.Duration {
	switch {
	case offered == 0:
		return own
	case own == 0:
		return max(offered, MinHeartbeat)
	}
	return min(max(offered, MinHeartbeat), own)
}
