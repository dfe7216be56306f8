package h1

import (
	"errors"
	"fmt"
	"time"
)

// Limits bound what is taken from a server. 0 stands for the default.
type Limits struct {
	HeadBytes       int           // of a response's status line and fields, and of its trailer; 64 KiB
	Fields          int           // field lines of a head or trailer; 256
	Informational   int           // 1xx responses before the final one; 16
	ExtensionBytes  int           // chunk extensions of a response together; 16 KiB
	DrainBytes      int           // of a body closed early that are read to keep the connection; 16 KiB, negative: none
	ContinueTimeout time.Duration // wait for 100 (Continue) before the body is sent unasked; 1 s
}

const (
	maxHeadBytes  = 16 << 20
	maxFields     = 10_000
	maxChunkLine  = 1024 // bytes of a chunk's size and extensions
	maxSizeDigits = 15   // hexadecimal digits of a chunk's size: below 2^60
)

// Check sets defaults and tells everything that is out of range.
func (l *Limits) Check() error {
	var errs []error
	count := func(name string, v *int, def, lo, hi int) {
		if *v == 0 {
			*v = def
		}
		if *v < lo || *v > hi {
			errs = append(errs, fmt.Errorf("%s is %d, must be %d to %d", name, *v, lo, hi))
		}
	}
	count("head_bytes", &l.HeadBytes, 64<<10, 256, maxHeadBytes)
	count("fields", &l.Fields, 256, 1, maxFields)
	count("informational", &l.Informational, 16, 1, 1000)
	count("extension_bytes", &l.ExtensionBytes, 16<<10, 1, 1<<20)
	if l.DrainBytes == 0 {
		l.DrainBytes = 16 << 10
	}
	if l.DrainBytes > 16<<20 {
		errs = append(errs, fmt.Errorf("drain_bytes is %d, must be at most %d", l.DrainBytes, 16<<20))
	}
	if l.ContinueTimeout == 0 {
		l.ContinueTimeout = time.Second
	}
	if l.ContinueTimeout < 0 || l.ContinueTimeout > time.Minute {
		errs = append(errs, fmt.Errorf("continue_timeout is %v, must be up to 1m", l.ContinueTimeout))
	}
	return errors.Join(errs...)
}

// ProtocolError is a response that is none, or that can't be framed without doubt. Its
// text holds nothing of the server's but single bytes and numbers.
type ProtocolError struct{ Detail string }

func (e *ProtocolError) Error() string { return "HTTP/1.1 response: " + e.Detail }

func protocol(format string, args ...any) error {
	return &ProtocolError{fmt.Sprintf(format, args...)}
}

// RequestError is a request that can't be sent as it is; nothing of it was.
type RequestError struct{ Detail string }

func (e *RequestError) Error() string { return "HTTP/1.1 request: " + e.Detail }

func refuse(format string, args ...any) error {
	return &RequestError{fmt.Sprintf(format, args...)}
}

// IOError is a connection that failed under a request.
type IOError struct {
	Op       string // "write request" or "read response"
	Received bool   // something of a response had come
	Body     bool   // the caller's own body failed, not the connection
	Err      error
}

func (e *IOError) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the connection's error.
func (e *IOError) Unwrap() error { return e.Err }

// ErrAborted is what a body's sender meets once the response is over without it.
var ErrAborted = errors.New("the response ended before the request's body")
