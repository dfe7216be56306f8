package npro

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"
)

// KeySize is the size of a direction's key in bytes.
const KeySize = 32

// When a sender changes its key by itself, whichever comes first; the third
// limit is one hour.
const (
	RekeyRecords = 1 << 24
	RekeyBytes   = 64 << 30
)

// maxRecords is where a direction ends for good: far beyond RekeyRecords, so a
// peer that gets there ignores the protocol.
const maxRecords = 1 << 48

// ErrOpen is returned for a record that does not authenticate. The connection
// is to be closed at once, without a further word.
var ErrOpen = errors.New("record does not authenticate")

// ErrUnsupportedAEAD is returned for an AEAD number this build does not have.
var ErrUnsupportedAEAD = errors.New("unsupported aead")

// direction is one direction's key schedule: what Noise's Split gave, the AEAD
// made from it, and the number of the next record.
type direction struct {
	key  [KeySize]byte // Split's key, or its successor
	id   uint8
	aead cipher.AEAD
	// base is the nonce base as the AEAD takes it: 12 bytes. For XChaCha the first
	// 16 of its 24 went into the subkey, and 4 zero bytes stand before the last 8.
	base  [12]byte
	nonce [12]byte // of the record at hand
	n     uint64
	bytes uint64 // body bytes under this key
}

// DeriveRecordKeys gives the record key and the 24-byte nonce base of a
// direction's key; AES-256-GCM uses the first 12 bytes of the base.
func DeriveRecordKeys(key *[KeySize]byte) (recordKey [32]byte, base [24]byte) {
	copy(recordKey[:], expand(key, "npro2 key", len(recordKey)))
	copy(base[:], expand(key, "npro2 iv", len(base)))
	return recordKey, base
}

func expand(key *[KeySize]byte, info string, n int) []byte {
	out, err := hkdf.Key(sha256.New, key[:], nil, info, n)
	if err != nil {
		panic("npro: hkdf: " + err.Error())
	}
	return out
}

func (d *direction) init(aead uint8, key *[KeySize]byte) error {
	d.key, d.id, d.n, d.bytes = *key, aead, 0, 0
	recordKey, base := DeriveRecordKeys(key)
	defer clear(recordKey[:])
	var err error
	d.aead, d.base, err = newRecordAEAD(aead, &recordKey, &base)
	return err
}

// newRecordAEAD makes the AEAD of a record key, and the nonce base as it takes it.
func newRecordAEAD(id uint8, key *[32]byte, base *[24]byte) (a cipher.AEAD, nonce [12]byte, err error) {
	switch id {
	case AEADAES256GCM:
		copy(nonce[:], base[:12])
		var block cipher.Block
		if block, err = aes.NewCipher(key[:]); err == nil {
			a, err = cipher.NewGCM(block)
		}
	case AEADXChaCha20Poly1305:
		// The first 16 nonce bytes never change under one key, so HChaCha20 runs
		// once here and not once per record as chacha20poly1305.NewX would.
		var subkey []byte
		if subkey, err = chacha20.HChaCha20(key[:], base[:16]); err == nil {
			copy(nonce[4:], base[16:])
			a, err = chacha20poly1305.New(subkey)
			clear(subkey)
		}
	default:
		return nil, nonce, fmt.Errorf("aead %d: %w", id, ErrUnsupportedAEAD)
	}
	if err != nil {
		return nil, nonce, fmt.Errorf("set up %s: %w", AEADName(id), err)
	}
	return a, nonce, nil
}

func (d *direction) next() []byte {
	d.nonce = d.base
	tail := d.nonce[4:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^d.n)
	return d.nonce[:]
}

// NextKey returns the key after key, as REKEY makes it.
func NextKey(key *[KeySize]byte) (next [KeySize]byte) {
	copy(next[:], expand(key, "npro2 rekey", KeySize))
	return next
}

// Rekey moves to the next key and record number 0. A Sealer calls it after it
// sealed a REKEY frame, an Opener after it opened one.
func (d *direction) Rekey() {
	next := NextKey(&d.key)
	if err := d.init(d.id, &next); err != nil {
		panic("npro: rekey: " + err.Error()) // the same aead worked before
	}
	clear(next[:])
}

// Wipe overwrites the key. The direction can't be used afterwards.
func (d *direction) Wipe() {
	clear(d.key[:])
	clear(d.base[:])
	clear(d.nonce[:])
	d.aead = nil
}

// AEAD returns the number of the AEAD in use.
func (d *direction) AEAD() uint8 { return d.id }

// Records returns how many records the current key has seen.
func (d *direction) Records() uint64 { return d.n }

// Sealer encrypts one direction's records, in order.
type Sealer struct{ direction }

// NewSealer makes a Sealer from Split's key, which it copies.
func NewSealer(aead uint8, key *[KeySize]byte) (*Sealer, error) {
	s := &Sealer{}
	return s, s.init(aead, key)
}

// Seal encrypts in place the body of the frame that starts at buf[start]: 16
// bytes of header, then the body to the end of buf. It sets the header's ENC
// flag and its length, and appends the tag. With TagSize bytes of spare capacity
// nothing is allocated.
func (s *Sealer) Seal(buf []byte, start int) []byte {
	frame := buf[start:]
	body := frame[HeaderSize:]
	if s.n >= maxRecords || len(body) > MaxPayload {
		panic("npro: record beyond the limits of a key or a frame")
	}
	frame[5] |= FlagEnc
	binary.BigEndian.PutUint32(frame[6:], uint32(len(body)+TagSize))
	out := s.aead.Seal(body[:0], s.next(), body, frame[:HeaderSize])
	s.n++
	s.bytes += uint64(len(body))
	if len(buf)+TagSize <= cap(buf) {
		return buf[:len(buf)+TagSize]
	}
	return append(buf[:start+HeaderSize], out...)
}

// RekeyDue tells whether the key has done its share of records or bytes.
func (s *Sealer) RekeyDue() bool { return s.n >= RekeyRecords || s.bytes >= RekeyBytes }

// Opener decrypts one direction's records, in order.
type Opener struct {
	direction
	failed bool
}

// NewOpener makes an Opener from Split's key, which it copies.
func NewOpener(aead uint8, key *[KeySize]byte) (*Opener, error) {
	o := &Opener{}
	return o, o.init(aead, key)
}

// Open decrypts in place the body of a frame: ciphertext and tag. header is the
// 16 bytes as received. After the first failure nothing opens any more.
func (o *Opener) Open(header, sealed []byte) ([]byte, error) {
	if o.failed || len(sealed) < TagSize || o.n >= maxRecords {
		o.failed = true
		return nil, ErrOpen
	}
	body, err := o.aead.Open(sealed[:0], o.next(), sealed, header[:HeaderSize])
	if err != nil {
		o.failed = true
		return nil, ErrOpen
	}
	o.n++
	o.bytes += uint64(len(body))
	return body, nil
}
