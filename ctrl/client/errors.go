package client

import (
	"errors"
	"fmt"

	"github.com/np-appliance/np/ctrl/npro"
)

var (
	// ErrClosed is returned once Close was called.
	ErrClosed = errors.New("client closed")
	// ErrConnLost is returned for what was in flight when a connection ended.
	ErrConnLost = errors.New("connection lost")
	// ErrUnavailable is returned when there is no connection and reconnecting
	// was given up or is off.
	ErrUnavailable = errors.New("no connection")
	// ErrTimeout is returned when no response came within Config.ResponseTimeout.
	ErrTimeout = errors.New("no response in time")
	// ErrTooLarge is returned for a message over Config.MaxMessage, in either direction.
	ErrTooLarge = errors.New("message over the size limit")
	// ErrHeartbeat ends a connection on which nothing arrived for three heartbeats.
	ErrHeartbeat = errors.New("peer silent for three heartbeats")
	// ErrProtocol ends a connection whose peer broke the protocol.
	ErrProtocol = errors.New("peer broke the protocol")
	// errStreams ends the use of a connection when its stream numbers are used up.
	errStreams = errors.New("connection has no stream numbers left")
	// errNotSent marks a request of which nothing was served: safe to send again.
	errNotSent = errors.New("request not sent")
)

// StatusError is a response whose status is not ok. errors.Is matches its Code,
// as in errors.Is(err, npro.CodeDenied).
type StatusError struct {
	Code    npro.Code
	Payload []byte // what the server sent along
}

func (e *StatusError) Error() string { return fmt.Sprintf("server answered: %v", e.Code) }

// Unwrap returns the code.
func (e *StatusError) Unwrap() error { return e.Code }

// DisconnectError is the peer's DISCONNECT. Before the handshake ended nothing
// vouches for it.
type DisconnectError struct {
	Code            npro.Code
	Reason          string
	Unauthenticated bool
}

func (e *DisconnectError) Error() string {
	s := fmt.Sprintf("peer disconnected: %v", e.Code)
	if e.Reason != "" {
		s += fmt.Sprintf(" (%q)", e.Reason)
	}
	return s
}

// Unwrap returns the code.
func (e *DisconnectError) Unwrap() error { return e.Code }

// ResetError is the peer's RESET of a stream.
type ResetError struct{ Code npro.Code }

func (e *ResetError) Error() string { return fmt.Sprintf("peer reset the stream: %v", e.Code) }

// Unwrap returns the code.
func (e *ResetError) Unwrap() error { return e.Code }

func lost(cause error) error { return fmt.Errorf("%w: %w", ErrConnLost, cause) }
