package sock

import (
	"io"
	"net"
	"os"
	"syscall"
)

// Buffers lends buffers.
type Buffers interface {
	Get() []byte // of at least two bytes
	Put([]byte)  // one of Get's
}

// Reader reads a connection. Methods that read belong to one goroutine at a time.
type Reader struct {
	nc   net.Conn
	raw  syscall.RawConn // of nc itself; nil: none
	idle func() bool     // of nc, or of what is below its TLS, which tells by itself; nil: none does
	look syscall.RawConn // the same, of which the descriptor tells; nil: none

	// Of the call that is under way. It is here because a closure for each would be
	// allocated.
	from  Buffers
	send  func()
	b     []byte
	n     int
	err   error
	step  step
	one   [1]byte
	well  bool
	onRaw func(fd uintptr) bool
}

// step is what a Reader does with the descriptor next.
type step uint8

const (
	stepRead step = iota // reads, or waits for something to read
	stepLook             // looks whether there is nothing
	stepAsk              // looks, sends, and waits
)

// New makes a reader of nc, which is read by nobody else while a method runs.
func New(nc net.Conn) *Reader {
	r := &Reader{nc: nc}
	if s, ok := nc.(syscall.Conn); ok {
		r.raw, _ = s.SyscallConn() // nil with an error: of a connection that is closed
	}
	r.findLook(nc)
	r.onRaw = r.ready
	return r
}

// maxLayers bounds the connections that are within each other.
const maxLayers = 4

// findLook finds how nc, or what is below its TLS, can be looked at.
func (r *Reader) findLook(nc net.Conn) {
	for range maxLayers {
		switch under := nc.(type) {
		case interface{ Idle() bool }: // of dataplane/netconn
			r.idle = under.Idle
			return
		case syscall.Conn:
			r.look, _ = under.SyscallConn()
			return
		case interface{ NetConn() net.Conn }:
			nc = under.NetConn()
		default:
			return
		}
	}
}

// Read waits for bytes and reads them into a buffer of from's, which is the caller's with
// n > 0 and given back else.
func (r *Reader) Read(from Buffers) (b []byte, n int, err error) {
	if r.raw == nil {
		return r.readOne(from)
	}
	r.from, r.step = from, stepRead
	return r.result(r.raw.Read(r.onRaw))
}

// readOne reads a byte first, for which no buffer is needed.
func (r *Reader) readOne(from Buffers) ([]byte, int, error) {
	n, err := r.nc.Read(r.one[:])
	if n == 0 {
		return nil, 0, err
	}
	b := from.Get()
	b[0] = r.one[0]
	return b, 1, nil
}

// result returns what ready found.
func (r *Reader) result(err error) ([]byte, int, error) {
	b, n := r.b, r.n
	if err == nil {
		err = r.err
	}
	if n <= 0 && b != nil {
		r.from.Put(b)
		b, n = nil, 0
	}
	r.from, r.send, r.b, r.n, r.err = nil, nil, nil, 0, nil
	return b, n, err
}

// CanAsk says whether Ask can be used.
func (r *Reader) CanAsk() bool { return r.raw != nil }

// Ask has something sent on a connection on which nothing comes without that, and waits
// for the first bytes of the answer. well: the connection was open with nothing to be
// read, and send was called; else it is of no use, and nothing was sent. It looks before it
// sends, in place of trying to read afterwards when nothing can be there yet.
func (r *Reader) Ask(from Buffers, send func()) (b []byte, n int, well bool, err error) {
	r.from, r.send, r.step, r.well = from, send, stepAsk, false
	b, n, err = r.result(r.raw.Read(r.onRaw))
	return b, n, r.well, err
}

// Look says whether the connection is open with nothing to be read, as far as it can be
// told without waiting; known is false where it can't. No method that reads may run.
func (r *Reader) Look() (well, known bool) {
	if r.idle != nil {
		return r.idle(), true
	}
	if r.look == nil {
		return false, false
	}
	r.step, r.well = stepLook, false
	err := r.look.Read(r.onRaw)
	return err == nil && r.well, true
}

// ready is called with the descriptor, at first and whenever there is something to be
// read. False: it wants to be called again then.
func (r *Reader) ready(fd uintptr) bool {
	if r.step != stepRead {
		_, _, err := syscall.Recvfrom(int(fd), r.one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		r.well = err == syscall.EAGAIN // at its end, or with bytes that nobody asked for, it is of no use
		if r.step == stepLook || !r.well {
			return true
		}
		r.step = stepRead
		r.send()
		return false // what comes from now on wakes us
	}
	r.b = r.from.Get()
	for {
		r.n, r.err = syscall.Read(int(fd), r.b)
		switch r.err {
		case nil:
			if r.n == 0 {
				r.err = io.EOF
			}
			return true
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			r.from.Put(r.b)
			r.b, r.n, r.err = nil, 0, nil
			return false
		}
		r.err = &net.OpError{Op: "read", Net: r.nc.LocalAddr().Network(), Source: r.nc.LocalAddr(), Addr: r.nc.RemoteAddr(), Err: os.NewSyscallError("read", r.err)}
		return true
	}
}
