package netconn

import (
	"errors"
	"net"
	"syscall"

	"github.com/np-appliance/np/dataplane"
)

// codeError is a plane's error in the words of the system.
type codeError struct {
	code  dataplane.Code
	errno syscall.Errno
	cause error // what carries the code and says more, or nil
}

func (e *codeError) Error() string {
	if e.cause != nil {
		return e.errno.Error() + " (" + e.cause.Error() + ")"
	}
	return e.errno.Error()
}

func (e *codeError) Unwrap() []error { return []error{e.code, e.errno} }

// Timeout implements [net.Error] through net.OpError.
func (e *codeError) Timeout() bool { return e.errno.Timeout() }

// Temporary implements [net.Error].
func (e *codeError) Temporary() bool { return e.errno.Temporary() }

// errnoOf says how the system calls a code; 0: not at all.
func errnoOf(c dataplane.Code) syscall.Errno {
	switch c {
	case dataplane.CodeReset:
		return syscall.ECONNRESET
	case dataplane.CodeRefused:
		return syscall.ECONNREFUSED
	case dataplane.CodeTimedout, dataplane.CodeDead:
		return syscall.ETIMEDOUT
	case dataplane.CodeUnreachable, dataplane.CodeNoroute:
		return syscall.EHOSTUNREACH
	case dataplane.CodePortdown:
		return syscall.ENETDOWN
	case dataplane.CodeAborted, dataplane.CodeShutdown:
		return syscall.ECONNABORTED
	case dataplane.CodeAddrinuse, dataplane.CodeExists:
		return syscall.EADDRINUSE
	case dataplane.CodeAddrnotavail:
		return syscall.EADDRNOTAVAIL
	case dataplane.CodeNomem, dataplane.CodeNobuf, dataplane.CodeFull, dataplane.CodeLimit:
		return syscall.ENOBUFS
	case dataplane.CodeInvalid:
		return syscall.EINVAL
	case dataplane.CodePerm:
		return syscall.EACCES
	case dataplane.CodeUnsupported:
		return syscall.EOPNOTSUPP
	}
	return 0
}

// codeErr is the error for a code that ended something.
func codeErr(c dataplane.Code) error {
	if n := errnoOf(c); n != 0 {
		return &codeError{code: c, errno: n}
	}
	return c
}

// planeErr translates what a call of the plane returned.
func planeErr(err error) error {
	var c dataplane.Code
	if !errors.As(err, &c) {
		return err
	}
	n := errnoOf(c)
	if n == 0 {
		return err
	}
	if err == error(c) {
		return &codeError{code: c, errno: n}
	}
	return &codeError{code: c, errno: n, cause: err}
}

func opError(op, network string, local, remote net.Addr, err error) error {
	return &net.OpError{Op: op, Net: network, Source: local, Addr: remote, Err: err}
}
