package h1

import (
	"io"
	"strconv"
	"sync/atomic"
)

const (
	sendSize  = 32 << 10 // bytes of a body read at a time
	chunkHead = 10       // room for a chunk's size and CRLF
)

// sender streams a request's body while the response is read.
type sender struct {
	done chan struct{}
	read atomic.Bool // something of the body was asked for
	last atomic.Bool // what is being written is the body's end
	gone atomic.Bool // the response is over: nothing more is sent
	// Set before done is closed.
	err  error // of the connection or the body
	body error // of the body alone
}

func (k *call) startSend() {
	k.send = &sender{done: make(chan struct{})}
	go k.send.run(k)
}

// ending says whether all of the body was read, so that its last write is all that is left.
func (s *sender) ending() bool { return s.last.Load() }

// abort ends the sender and waits for it; its connection is closed.
func (s *sender) abort(q *Request) {
	s.gone.Store(true)
	if q.Abort != nil {
		select {
		case <-s.done:
		default:
			q.Abort()
		}
	}
	<-s.done
}

func (s *sender) run(k *call) {
	defer close(s.done)
	p, ok := k.client.out.Get().(*[]byte)
	if !ok || cap(*p) < chunkHead+sendSize+2 {
		p = new([]byte)
		*p = make([]byte, 0, chunkHead+sendSize+2)
	}
	defer k.client.out.Put(p)
	s.err = s.copy(k, (*p)[:cap(*p)])
	if s.body != nil {
		k.conn.interrupt() // the server waits for the rest in vain, and the reader for it
	}
}

func (s *sender) copy(k *call, buf []byte) error {
	q := k.req
	left := q.Length
	for { // bound: the body, which the reader of the response or the context ends
		room := buf[chunkHead : chunkHead+sendSize]
		if left >= 0 && left < sendSize {
			room = room[:max(left, 1)]
		}
		if s.gone.Load() { // the answer was faster: the body is not touched
			return ErrAborted
		}
		s.read.Store(true)
		n, err := q.Body.Read(room)
		if s.gone.Load() {
			return ErrAborted
		}
		end := err == io.EOF
		if err != nil && !end {
			s.body = err
			return err
		}
		if left >= 0 {
			if int64(n) > left {
				s.body = refuse("a body longer than its length")
				return s.body
			}
			left -= int64(n)
			if end && left > 0 {
				s.body = io.ErrUnexpectedEOF
				return s.body
			}
			end = left == 0
		}
		out := room[:n]
		if q.Length < 0 {
			if out, err = frame(q, buf, n, end); err != nil {
				s.body = err
				return err
			}
		}
		if end {
			s.last.Store(true)
		}
		if len(out) > 0 {
			if _, err := k.conn.nc.Write(out); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

// frame makes a chunk of the n bytes behind the room for its head, and the end of the
// body behind it.
func frame(q *Request, buf []byte, n int, end bool) ([]byte, error) {
	start := chunkHead
	out := buf[:chunkHead+n]
	if n > 0 {
		var size [chunkHead]byte
		head := append(strconv.AppendInt(size[:0], int64(n), 16), '\r', '\n')
		start -= len(head)
		copy(out[start:], head)
		out = append(out, '\r', '\n')
	}
	if end {
		var err error
		if out, err = q.appendTrailer(out); err != nil {
			return nil, err
		}
	}
	return out[start:], nil
}
