package handshake

import (
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/mlkem"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"golang.org/x/crypto/chacha20poly1305"
)

// This file is the Noise Protocol Framework, revision 34, and nothing of NPRO:
// names, prologues and payloads arrive as arguments, as the published test
// vectors need.

type token uint8

const (
	tokE     token = iota + 1
	tokS           // static key
	tokEE          // DH of both ephemerals
	tokES          // initiator's ephemeral, responder's static
	tokSE          // initiator's static, responder's ephemeral
	tokSS          // DH of both statics
	tokPSK         // pre-shared key
	tokE1          // HFS: KEM public key
	tokEKEM1       // HFS: KEM ciphertext
)

// noisePattern is a handshake pattern before the HFS modifier.
type noisePattern struct {
	name        string // with its modifiers
	hfsName     string
	responderPk bool // pre-message "<- s"
	psk         bool
	messages    [][]token
}

func patternXX() noisePattern {
	return noisePattern{name: "XX", hfsName: "XXhfs", messages: [][]token{
		{tokE}, {tokE, tokEE, tokS, tokES}, {tokS, tokSE}}}
}

func patternIK() noisePattern {
	return noisePattern{name: "IK", hfsName: "IKhfs", responderPk: true, messages: [][]token{
		{tokE, tokES, tokS, tokSS}, {tokE, tokEE, tokSE}}}
}

func patternNX() noisePattern {
	return noisePattern{name: "NX", hfsName: "NXhfs", messages: [][]token{
		{tokE}, {tokE, tokEE, tokS, tokES}}}
}

func patternNNpsk0() noisePattern {
	return noisePattern{name: "NNpsk0", hfsName: "NNhfs+psk0", psk: true, messages: [][]token{
		{tokPSK, tokE}, {tokE, tokEE}}}
}

// protocolName builds the name that seeds the transcript hash.
func (p *noisePattern) protocolName(hybrid bool) string {
	if hybrid {
		return "Noise_" + p.hfsName + "_25519+MLKEM768_ChaChaPoly_SHA256"
	}
	return "Noise_" + p.name + "_25519_ChaChaPoly_SHA256"
}

// withHFS inserts e1 after the first "e" (after the "es" that follows it, where
// one does, so that e1 is encrypted) and ekem1 after "ee".
func withHFS(messages [][]token) [][]token {
	out := make([][]token, len(messages))
	for i, m := range messages {
		for j, t := range m {
			out[i] = append(out[i], t)
			esNext := j+1 < len(m) && m[j+1] == tokES
			switch {
			case i == 0 && t == tokE && !esNext, i == 0 && t == tokES:
				out[i] = append(out[i], tokE1)
			case t == tokEE:
				out[i] = append(out[i], tokEKEM1)
			}
		}
	}
	return out
}

// cipherState is Noise §5.1. n cannot run out: a handshake encrypts a handful of times.
type cipherState struct {
	aead cipher.AEAD
	n    uint64
}

func (c *cipherState) init(key []byte) {
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		panic("handshake: chacha20poly1305 refused a 32-byte key: " + err.Error())
	}
	c.aead, c.n = aead, 0
}

func (c *cipherState) nonce() []byte {
	var n [chacha20poly1305.NonceSize]byte
	binary.LittleEndian.PutUint64(n[4:], c.n)
	return n[:]
}

func (c *cipherState) encrypt(dst, ad, plain []byte) []byte {
	out := c.aead.Seal(dst, c.nonce(), plain, ad)
	c.n++
	return out
}

func (c *cipherState) decrypt(ad, sealed []byte) ([]byte, error) {
	out, err := c.aead.Open(nil, c.nonce(), sealed, ad)
	if err != nil {
		return nil, ErrAuth
	}
	c.n++
	return out, nil
}

// symmetricState is Noise §5.2.
type symmetricState struct {
	cs   cipherState
	ck   [sha256.Size]byte
	h    [sha256.Size]byte
	work [3 * sha256.Size]byte // HKDF output, wiped after use
}

func (s *symmetricState) init(protocolName string) {
	if len(protocolName) <= len(s.h) {
		copy(s.h[:], protocolName)
	} else {
		s.h = sha256.Sum256([]byte(protocolName))
	}
	s.ck = s.h
}

// derive is Noise's HKDF(chaining_key, ikm, n): RFC 5869 with an empty info.
func (s *symmetricState) derive(ikm []byte, n int) []byte {
	out, err := hkdf.Key(sha256.New, ikm, s.ck[:], "", n*sha256.Size)
	if err != nil {
		panic("handshake: hkdf: " + err.Error())
	}
	copy(s.work[:], out)
	clear(out)
	return s.work[:n*sha256.Size]
}

func (s *symmetricState) mixHash(data []byte) {
	h := sha256.New()
	h.Write(s.h[:])
	h.Write(data)
	h.Sum(s.h[:0])
}

func (s *symmetricState) mixKey(ikm []byte) {
	o := s.derive(ikm, 2)
	copy(s.ck[:], o[:32])
	s.cs.init(o[32:64])
	clear(s.work[:])
}

func (s *symmetricState) mixKeyAndHash(ikm []byte) {
	o := s.derive(ikm, 3)
	copy(s.ck[:], o[:32])
	s.mixHash(o[32:64])
	s.cs.init(o[64:96])
	clear(s.work[:])
}

func (s *symmetricState) hasKey() bool { return s.cs.aead != nil }

func (s *symmetricState) encryptAndHash(dst, plain []byte) []byte {
	at := len(dst)
	if s.hasKey() {
		dst = s.cs.encrypt(dst, s.h[:], plain)
	} else {
		dst = append(dst, plain...)
	}
	s.mixHash(dst[at:])
	return dst
}

func (s *symmetricState) decryptAndHash(sealed []byte) ([]byte, error) {
	plain := sealed
	if s.hasKey() {
		var err error
		if plain, err = s.cs.decrypt(s.h[:], sealed); err != nil {
			return nil, err
		}
	}
	s.mixHash(sealed)
	return plain, nil
}

// split returns the keys of initiator → responder and back.
func (s *symmetricState) split() (i2r, r2i [32]byte) {
	o := s.derive(nil, 2)
	copy(i2r[:], o[:32])
	copy(r2i[:], o[32:64])
	clear(s.work[:])
	return i2r, r2i
}

func (s *symmetricState) wipe() {
	clear(s.ck[:])
	clear(s.h[:])
	clear(s.work[:])
	s.cs = cipherState{}
}

// noiseConfig starts a handshakeState.
type noiseConfig struct {
	pattern   noisePattern
	hybrid    bool
	initiator bool
	prologue  []byte
	static    *ecdh.PrivateKey // nil where the pattern needs none of ours
	remote    *ecdh.PublicKey  // for the pre-message of IK
	psk       *[32]byte
	random    io.Reader
}

// handshakeState is Noise §5.3.
type handshakeState struct {
	sym       symmetricState
	initiator bool
	psk       *[32]byte
	random    io.Reader
	messages  [][]token
	at        int // next message

	s, e   *ecdh.PrivateKey
	rs, re *ecdh.PublicKey
	e1     *mlkem.DecapsulationKey768
	re1    *mlkem.EncapsulationKey768
}

func newHandshakeState(c *noiseConfig) (*handshakeState, error) {
	hs := &handshakeState{initiator: c.initiator, random: c.random, s: c.static, rs: c.remote, messages: c.pattern.messages}
	if c.hybrid {
		hs.messages = withHFS(hs.messages)
	}
	if c.pattern.psk {
		if c.psk == nil {
			return nil, fmt.Errorf("%w: pattern %s needs a pre-shared key", ErrParams, c.pattern.name)
		}
		psk := *c.psk
		hs.psk = &psk
	}
	hs.sym.init(c.pattern.protocolName(c.hybrid))
	hs.sym.mixHash(c.prologue)
	if c.pattern.responderPk {
		pk := c.remote
		if !c.initiator && c.static != nil {
			pk = c.static.PublicKey()
		}
		if pk == nil {
			return nil, fmt.Errorf("%w: pattern %s needs the responder's static key", ErrParams, c.pattern.name)
		}
		hs.sym.mixHash(pk.Bytes())
	}
	return hs, nil
}

func (hs *handshakeState) done() bool { return hs.at == len(hs.messages) }

func (hs *handshakeState) nextTokens() []token {
	if hs.done() {
		return nil
	}
	m := hs.messages[hs.at]
	hs.at++
	return m
}

// writeMessage appends the next message, with payload, to dst.
func (hs *handshakeState) writeMessage(dst, payload []byte) ([]byte, error) {
	for _, t := range hs.nextTokens() {
		var err error
		switch t {
		case tokE:
			dst, err = hs.writeE(dst)
		case tokS:
			if hs.s == nil {
				return nil, fmt.Errorf("%w: no static key", ErrParams)
			}
			dst = hs.sym.encryptAndHash(dst, hs.s.PublicKey().Bytes())
		case tokE1:
			dst, err = hs.writeE1(dst)
		case tokEKEM1:
			shared, ct := hs.re1.Encapsulate()
			dst = hs.sym.encryptAndHash(dst, ct)
			hs.sym.mixKey(shared)
			clear(shared)
		default:
			err = hs.mix(t)
		}
		if err != nil {
			return nil, err
		}
	}
	return hs.sym.encryptAndHash(dst, payload), nil
}

func (hs *handshakeState) writeE(dst []byte) ([]byte, error) {
	var seed [32]byte
	if _, err := io.ReadFull(hs.random, seed[:]); err != nil {
		return nil, fmt.Errorf("generate ephemeral key: %w", err)
	}
	e, err := ecdh.X25519().NewPrivateKey(seed[:])
	clear(seed[:])
	if err != nil {
		return nil, fmt.Errorf("generate ephemeral key: %w", err)
	}
	hs.e = e
	pub := e.PublicKey().Bytes()
	hs.mixE(pub)
	return append(dst, pub...), nil
}

// mixE: in a pattern with a pre-shared key "e" is mixed into the key as well (Noise §9.2).
func (hs *handshakeState) mixE(pub []byte) {
	hs.sym.mixHash(pub)
	if hs.psk != nil {
		hs.sym.mixKey(pub)
	}
}

func (hs *handshakeState) writeE1(dst []byte) ([]byte, error) {
	var seed [mlkem.SeedSize]byte
	if _, err := io.ReadFull(hs.random, seed[:]); err != nil {
		return nil, fmt.Errorf("generate ml-kem key: %w", err)
	}
	e1, err := mlkem.NewDecapsulationKey768(seed[:])
	clear(seed[:])
	if err != nil {
		return nil, fmt.Errorf("generate ml-kem key: %w", err)
	}
	hs.e1 = e1
	return hs.sym.encryptAndHash(dst, e1.EncapsulationKey().Bytes()), nil
}

// readMessage consumes the next message and returns its payload.
func (hs *handshakeState) readMessage(msg []byte) ([]byte, error) {
	take := func(n int, sealed bool) ([]byte, error) {
		if sealed && hs.sym.hasKey() {
			n += chacha20poly1305.Overhead
		}
		if len(msg) < n {
			return nil, fmt.Errorf("%w: %d bytes where %d were expected", ErrMalformed, len(msg), n)
		}
		b := msg[:n]
		msg = msg[n:]
		return b, nil
	}
	for _, t := range hs.nextTokens() {
		var b []byte
		var err error
		switch t {
		case tokE:
			if b, err = take(KeySize, false); err == nil {
				hs.re, err = ecdh.X25519().NewPublicKey(b)
				hs.mixE(b)
			}
		case tokS:
			if b, err = take(KeySize, true); err == nil {
				err = hs.readS(b)
			}
		case tokE1:
			if b, err = take(mlkem.EncapsulationKeySize768, true); err == nil {
				err = hs.readE1(b)
			}
		case tokEKEM1:
			if b, err = take(mlkem.CiphertextSize768, true); err == nil {
				err = hs.readEKEM1(b)
			}
		default:
			err = hs.mix(t)
		}
		if err != nil {
			return nil, err
		}
	}
	if hs.sym.hasKey() && len(msg) < chacha20poly1305.Overhead {
		return nil, fmt.Errorf("%w: payload shorter than its tag", ErrMalformed)
	}
	return hs.sym.decryptAndHash(msg)
}

func (hs *handshakeState) readS(sealed []byte) error {
	pub, err := hs.sym.decryptAndHash(sealed)
	if err != nil {
		return err
	}
	hs.rs, err = ecdh.X25519().NewPublicKey(pub)
	return err
}

func (hs *handshakeState) readE1(sealed []byte) error {
	pub, err := hs.sym.decryptAndHash(sealed)
	if err != nil {
		return err
	}
	// Refuses encodings that are not reduced modulo q (FIPS 203 §7.2).
	if hs.re1, err = mlkem.NewEncapsulationKey768(pub); err != nil {
		return fmt.Errorf("%w: ml-kem key: %w", ErrMalformed, err)
	}
	return nil
}

func (hs *handshakeState) readEKEM1(sealed []byte) error {
	ct, err := hs.sym.decryptAndHash(sealed)
	if err != nil {
		return err
	}
	shared, err := hs.e1.Decapsulate(ct)
	if err != nil {
		return fmt.Errorf("%w: ml-kem ciphertext: %w", ErrMalformed, err)
	}
	hs.sym.mixKey(shared)
	clear(shared)
	return nil
}

// mix does the tokens that put nothing on the wire.
func (hs *handshakeState) mix(t token) error {
	var priv *ecdh.PrivateKey
	var pub *ecdh.PublicKey
	switch t {
	case tokPSK:
		hs.sym.mixKeyAndHash(hs.psk[:])
		return nil
	case tokEE:
		priv, pub = hs.e, hs.re
	case tokSS:
		priv, pub = hs.s, hs.rs
	case tokES:
		priv, pub = hs.s, hs.re
		if hs.initiator {
			priv, pub = hs.e, hs.rs
		}
	case tokSE:
		priv, pub = hs.e, hs.rs
		if hs.initiator {
			priv, pub = hs.s, hs.re
		}
	default:
		panic("handshake: token without meaning")
	}
	if priv == nil || pub == nil {
		return fmt.Errorf("%w: pattern needs a key that is not configured", ErrParams)
	}
	// ECDH refuses a public key of low order: its shared secret would be zero
	// whatever our key (RFC 7748 §6.1), and Noise §12.1 lets us refuse.
	shared, err := priv.ECDH(pub)
	if err != nil {
		return fmt.Errorf("%w: public key of low order", ErrAuth)
	}
	hs.sym.mixKey(shared)
	clear(shared)
	return nil
}

// wipe overwrites what this package holds and drops the rest: crypto/ecdh and
// crypto/mlkem keep private keys where they can't be reached.
func (hs *handshakeState) wipe() {
	hs.sym.wipe()
	if hs.psk != nil {
		clear(hs.psk[:])
	}
	hs.s, hs.e, hs.e1, hs.rs, hs.re, hs.re1 = nil, nil, nil, nil, nil, nil
}
