package h2

import (
	"errors"
	"net/http"
	"time"
)

// Config is what all connections of an engine share. What has no default has to be set.
type Config struct {
	Handler http.Handler // a panic of its ends the stream; who wants it logged recovers it first

	// Refuse answers a request that Handler is not to see; nil: 400 or 431 without a body.
	// The request is made up but for its context: method, target and fields say nothing.
	// line is the beginning of what the client sent, at most 128 bytes, quoted, for logs.
	Refuse func(w http.ResponseWriter, r *http.Request, why Refusal, detail, line string)

	// Patient says whether a request's body may stand still for longer than BodyStall;
	// nil: none may.
	Patient func(*http.Request) bool

	HeadBytes   int // of a request's head, as RFC 9113 §6.5.2 counts them
	Streams     int // at a time
	StreamBytes int // of a request's body that wait for its handler
	ConnBytes   int // the same, of all streams; at least 65,535
	Requests    int // after which the connection is ended in good order; 0: no limit
	Resets      int // a second, in a burst five times as many; 0 or less: no limit
	Control     int // the same, of frames that ask for nothing

	Head      time.Duration // from a head's first byte to its last; for the client's first SETTINGS, and its answers to ours and to pings
	Idle      time.Duration // without a stream; twice as long a stream may be silent before the client is pinged; 0: no limit
	BodyStall time.Duration // time that a body may be waited for beyond what BodyRate gives; 0: no limit
	BodyRate  int           // bytes/s: each second's worth of body buys a second of waiting; 0 or less: every byte buys one
	SendStall time.Duration // time that an answer may stand still because the client gives no window; 0: no limit

	SlowBody error // what a body's Read returns after BodyStall

	Now   func() int64      // a clock, in milliseconds, of any beginning but 0; a coarse one will do
	Wall  func() time.Time  // for Date; nil: time.Now
	Cut   func(Cut)         // told what was broken off; nil: nobody is
	Fault func(word string) // told what was wrong with a connection or a stream; nil: nobody is
}

// Refusal is why a request is refused.
type Refusal uint8

// Refusals.
const (
	Malformed Refusal = iota + 1 // RFC 9113 §8.1.1; the stream is reset after the answer
	TooLarge                     // its head
)

// Cut is why something was broken off.
type Cut uint8

// Cuts. CutBody and CutAnswer are of a stream, the others of a connection.
const (
	CutHead         Cut = iota // a head, or the first SETTINGS, took too long
	CutBody                    // a body did
	CutAnswer                  // the client gives no window for an answer
	CutResets                  // too many resets, or mistakes that are answered with one
	CutControl                 // too many frames that ask for nothing
	CutContinuation            // a head in too many frames, or far too long
)

// minWindow is RFC 9113 §6.9.2's first window of a connection, and of streams until the
// client has seen our settings.
const minWindow = 65_535

func (c *Config) check() error {
	var errs []error
	if c.Handler == nil {
		errs = append(errs, errors.New("no handler"))
	}
	if c.Now == nil {
		errs = append(errs, errors.New("no clock"))
	}
	if c.Streams < 1 || c.HeadBytes < 1 || c.StreamBytes < 1 || c.ConnBytes < minWindow {
		errs = append(errs, errors.New("limits, expected at least 1 stream, 1 byte of head, 1 byte a stream and 65535 a connection"))
	}
	if c.Head <= 0 {
		errs = append(errs, errors.New("no limit on the time of heads, expected a positive time"))
	}
	return errors.Join(errs...)
}
