package handshake

import "errors"

// What can end a handshake; doc.go says what each means.
var (
	ErrMalformed = errors.New("malformed handshake message")
	ErrPattern   = errors.New("handshake pattern not allowed")
	ErrHybrid    = errors.New("hybrid key exchange mismatch")
	ErrAuth      = errors.New("handshake authentication failed")
	ErrUntrusted = errors.New("peer key not trusted")
	ErrClock     = errors.New("handshake timestamp outside the allowed skew")
	ErrReplay    = errors.New("handshake nonce seen before")
	ErrParams    = errors.New("handshake parameters not acceptable")
	ErrFinished  = errors.New("handshake is over")
)
