package handshake

import (
	"crypto/ecdh"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
)

// KeySize is the size of X25519 keys and of pre-shared keys in bytes.
const KeySize = 32

// PrivateKey is an X25519 private key. It never prints itself: fmt and slog
// show a placeholder, Encode gives the text.
type PrivateKey [KeySize]byte

// PublicKey is an X25519 public key, the identity of a peer.
type PublicKey [KeySize]byte

// GenerateKey makes a private key from random, clamped as RFC 7748 §5 says.
func GenerateKey(random io.Reader) (PrivateKey, error) {
	var k PrivateKey
	if _, err := io.ReadFull(random, k[:]); err != nil {
		return PrivateKey{}, fmt.Errorf("generate key: %w", err)
	}
	// X25519 clamps by itself; clamping here too makes the text form canonical.
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k, nil
}

// Public returns the public half.
func (k *PrivateKey) Public() PublicKey {
	p, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		panic("handshake: x25519 refused a 32-byte key: " + err.Error())
	}
	return PublicKey(p.PublicKey().Bytes())
}

// Encode returns the base64 text WireGuard uses. It is the secret itself.
func (k *PrivateKey) Encode() string { return base64.StdEncoding.EncodeToString(k[:]) }

// IsZero tells whether k was never set.
func (k *PrivateKey) IsZero() bool { return *k == PrivateKey{} }

// Wipe overwrites the key.
func (k *PrivateKey) Wipe() { clear(k[:]) }

// Format keeps the key out of anything printed, whatever the verb.
func (k PrivateKey) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "(private key)") }

// LogValue keeps the key out of logs.
func (k PrivateKey) LogValue() slog.Value { return slog.StringValue("(private key)") }

// MarshalJSON keeps the key out of JSON.
func (k PrivateKey) MarshalJSON() ([]byte, error) { return []byte(`"(private key)"`), nil }

// String returns the base64 text.
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// MarshalText gives JSON and TOML the base64 text.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the base64 text.
func (k *PublicKey) UnmarshalText(text []byte) error {
	p, err := ParsePublicKey(string(text))
	if err != nil {
		return err
	}
	*k = p
	return nil
}

// ParsePublicKey reads 44 characters of base64.
func ParsePublicKey(s string) (PublicKey, error) {
	b, err := parseKey(s)
	if err != nil {
		return PublicKey{}, fmt.Errorf("parse public key: %w", err)
	}
	return PublicKey(b), nil
}

// ParsePrivateKey reads 44 characters of base64.
func ParsePrivateKey(s string) (PrivateKey, error) {
	b, err := parseKey(s)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("parse private key: %w", err)
	}
	return PrivateKey(b), nil
}

// ParsePSK reads a pre-shared key: 44 characters of base64.
func ParsePSK(s string) ([KeySize]byte, error) {
	b, err := parseKey(s)
	if err != nil {
		return [KeySize]byte{}, fmt.Errorf("parse pre-shared key: %w", err)
	}
	return b, nil
}

// parseKey never quotes its input: it may be a secret.
func parseKey(s string) (k [KeySize]byte, err error) {
	const textSize = 44
	if len(s) != textSize {
		return k, fmt.Errorf("expected %d characters of base64, got %d", textSize, len(s))
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return k, fmt.Errorf("expected base64 of %d bytes", KeySize)
	}
	if len(b) != KeySize {
		return k, fmt.Errorf("expected %d bytes, got %d", KeySize, len(b))
	}
	copy(k[:], b)
	clear(b)
	return k, nil
}
