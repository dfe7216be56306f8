package h1

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/np-appliance/np/ctrl/cancel"
	"github.com/np-appliance/np/ctrl/pool"
)

// How a response's body ends.
const (
	endNow = iota // it has none
	endLength
	endChunked
	endClose
	endUpgrade
)

// call is one request on one connection, and its response's body.
type call struct {
	client *Client
	conn   *Conn
	lease  pool.Lease[*Conn]
	req    *Request
	ctx    context.Context
	hook   cancel.Hook // of the context: it interrupts the connection
	send   *sender     // nil: no body is streamed, or not yet

	resp http.Response
	end  int
	left int64
	code chunked
	keep bool // the connection can be used again, as far as the head says
	over bool // the connection was given back
	err  error
}

// run writes the request and reads the response's head. With an error it has ended the
// connection and the sender.
func (k *call) run(head []byte) (*http.Response, error) {
	c := k.conn
	c.head, c.wrote, c.werr = head, 0, nil
	c.in.r, c.in.w, c.in.any = 0, 0, false
	k.hook.Attach(k.ctx, c.interrupt)
	if !k.ask() {
		k.discard()
		return nil, errEnded
	}
	if c.werr == nil && k.req.streams() && !k.req.Continue {
		k.startSend()
	}
	// A server that refuses early may close before it has read all: what it said counts.
	h, err := k.readHead()
	if err != nil {
		return nil, k.fail(err)
	}
	if err := k.take(h); err != nil {
		return nil, k.fail(err)
	}
	return &k.resp, nil
}

// errEnded is that a connection that was idle has ended, or got bytes that nobody asked
// for. Nothing was sent.
var errEnded = errors.New("the idle connection ended")

// ask writes the request and waits for the answer's first bytes, if the connection can do
// that in one. False: it was idle, and is of no use.
func (k *call) ask() bool {
	c := k.conn
	if k.req.streams() || !c.sock.CanAsk() {
		c.in.buf = k.client.in.Get()
		c.write()
		return true
	}
	var well bool
	c.in.buf, c.in.w, well, c.in.err = c.sock.Ask(&k.client.in, c.write)
	if well {
		c.in.any = c.in.w > 0
	} else if k.lease.Reused() && k.ctx.Err() == nil {
		return false
	} else if c.in.err == nil { // a server that speaks first
		c.write()
	}
	if c.in.buf == nil {
		c.in.buf = k.client.in.Get()
	}
	return true
}

// readHead reads heads up to the final one's, or a 101.
func (k *call) readHead() (head, error) {
	waiting := k.req.streams() && k.req.Continue && k.conn.werr == nil
	if waiting {
		k.conn.deadline(k.ctx, time.Now().Add(k.client.limits.ContinueTimeout))
	}
	for n := 0; n <= k.client.limits.Informational; { // bound: that, and one wait that is over
		s, err := k.conn.in.block(k.client.limits.HeadBytes)
		if err != nil && waiting && errors.Is(err, os.ErrDeadlineExceeded) && k.ctx.Err() == nil {
			waiting = false
			k.proceed()
			continue
		}
		if err != nil {
			return head{}, err
		}
		h, err := parseHead(s, k.client.limits.Fields)
		switch {
		case err != nil:
			return h, err
		case h.status >= 200:
			if waiting {
				k.conn.deadline(k.ctx, time.Time{})
			}
			return h, nil
		case h.coded || h.length >= 0:
			return h, protocol("a %d with Content-Length or Transfer-Encoding", h.status) // RFC 9110 §8.6, RFC 9112 §6.1
		case h.minor == 0:
			return h, protocol("a %d in HTTP/1.0", h.status)
		case h.status == http.StatusSwitchingProtocols:
			return h, nil
		case h.status == http.StatusContinue:
			if waiting {
				waiting = false
				k.proceed()
			}
		case k.req.Informational != nil:
			if err := k.req.Informational(h.status, h.header); err != nil {
				return h, &IOError{Op: "pass on an informational response", Body: true, Received: true, Err: err}
			}
		}
		n++
	}
	return head{}, protocol("more than %d informational responses", k.client.limits.Informational)
}

// proceed begins the body after the wait for 100 (Continue).
func (k *call) proceed() {
	k.conn.deadline(k.ctx, time.Time{})
	k.startSend()
}

// take makes the response of its head.
func (k *call) take(h head) error {
	r := &k.resp
	r.StatusCode, r.Status = h.status, h.reason
	if r.Status = strconv.Itoa(h.status); h.reason != "" {
		r.Status = h.text
	}
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, h.minor
	if h.minor == 0 {
		r.Proto = "HTTP/1.0"
	}
	r.Header, r.ContentLength = h.header, h.length
	k.keep = h.minor == 1 && !h.close || h.minor == 0 && h.keep && !h.close
	k.keep = k.keep && !k.req.Close && k.conn.werr == nil && (!k.req.streams() || k.send != nil)
	r.Close = !k.keep
	switch {
	case h.status == http.StatusSwitchingProtocols:
		return k.upgrade()
	case k.req.Method == http.MethodHead || h.status == http.StatusNoContent || h.status == http.StatusNotModified:
		if h.status == http.StatusNoContent {
			r.ContentLength = 0
			k.keep = k.keep && h.length <= 0 && !h.coded // content may follow, of a server that doesn't know better
		}
		k.end = endNow
	case h.chunked:
		k.end = endChunked
		k.code = chunked{r: &k.conn.in, limits: &k.client.limits, trailer: k.takeTrailer}
		r.TransferEncoding = []string{"chunked"}
		k.announce()
	case h.length == 0:
		k.end = endNow
	case h.length > 0:
		k.end, k.left = endLength, h.length
	default:
		k.end, k.keep = endClose, false
	}
	if h.chunked {
		delete(r.Header, "Transfer-Encoding")
	}
	if k.end == endNow {
		k.finish()
		r.Body = http.NoBody
		return nil
	}
	r.Body = (*body)(k)
	return nil
}

// announce puts the names of the Trailer field into the response's Trailer, as net/http does.
func (k *call) announce() {
	names, ok := k.resp.Header["Trailer"]
	if !ok {
		return
	}
	delete(k.resp.Header, "Trailer")
	k.resp.Trailer = trailerNames(names)
}

func (k *call) takeTrailer(t http.Header) error {
	if k.resp.Trailer == nil {
		k.resp.Trailer = t
		return nil
	}
	for name, v := range t {
		k.resp.Trailer[name] = v
	}
	return nil
}

// upgrade hands out the connection as it is (RFC 9110 §7.8).
func (k *call) upgrade() error {
	if k.req.Upgrade == "" {
		return protocol("101 though no upgrade was asked for")
	}
	if k.req.streams() {
		return protocol("101 before the request's body was read")
	}
	k.end, k.keep = endUpgrade, false
	k.resp.ContentLength = -1
	k.resp.Body = &Stream{k: k}
	return nil
}

// fail ends the call with an error in the words of what failed first.
func (k *call) fail(err error) error {
	received := k.conn.in.any
	k.discard()
	var p *ProtocolError
	var i *IOError
	switch {
	case errors.As(err, &p) || errors.As(err, &i):
		return err
	case k.ctx.Err() != nil:
		return &IOError{Op: "read response", Received: received, Err: context.Cause(k.ctx)}
	case k.send != nil && k.send.body != nil:
		return &IOError{Op: "read body", Received: received, Body: true, Err: k.send.body}
	case k.conn.werr != nil:
		return &IOError{Op: "write request", Received: received, Err: k.conn.werr}
	case k.send != nil && k.send.err != nil && !errors.Is(k.send.err, net.ErrClosed) && !errors.Is(k.send.err, ErrAborted):
		return &IOError{Op: "write request", Received: received, Err: k.send.err}
	}
	return &IOError{Op: "read response", Received: received, Err: noEOF(err)}
}

// unanswered says whether a request that failed may be sent once more: nothing of a
// response came, and either it may be repeated or nothing of it was sent.
func (k *call) unanswered(err error, repeat bool) bool {
	var i *IOError
	if !errors.As(err, &i) || i.Received || i.Body || k.ctx.Err() != nil {
		return false
	}
	if k.send != nil && k.send.read.Load() {
		return false
	}
	return repeat || k.conn.wrote == 0 && k.conn.werr != nil
}

// discard ends the connection, and waits for the sender.
func (k *call) discard() {
	if k.over {
		return
	}
	k.over = true
	k.hook.Stop()
	k.release(false)
	if k.send != nil {
		k.send.abort(k.req)
	}
}

// finish is the response's end: the connection goes back if it can be used again.
func (k *call) finish() {
	if k.over {
		return
	}
	if k.send != nil && !k.send.ending() || !k.keep || k.conn.in.buffered() != 0 || !k.hook.Stop() {
		k.discard()
		return
	}
	if k.send != nil {
		<-k.send.done // it is in its last write, which the server has waited for
		if k.send.err != nil {
			k.discard()
			return
		}
	}
	k.over = true
	k.release(true)
}

func (k *call) release(keep bool) {
	if keep { // else somebody who misuses the body may be reading still, and must not read another's
		k.client.in.Put(k.conn.in.buf)
	}
	k.conn.in.buf = nil
	k.conn.in.r, k.conn.in.w = 0, 0
	switch {
	case k.client.pool == nil:
		k.client.close(k.conn)
	case keep:
		_ = k.lease.Return() // it is over only if the pool was closed by force
	default:
		_ = k.lease.Discard()
	}
}

// body is a response's body.
type body call

// Read returns io.EOF with the last bytes, so that a reader knows that nothing follows.
func (b *body) Read(p []byte) (int, error) {
	k := (*call)(b)
	if k.err != nil {
		return 0, k.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := k.read(p)
	switch {
	case err == io.EOF:
		k.finish()
		k.err = err
	case err != nil:
		k.err = k.fail(err)
	}
	return n, k.err
}

func (k *call) read(p []byte) (int, error) {
	switch k.end {
	case endChunked:
		return k.code.read(p)
	case endClose:
		return k.conn.in.read(p)
	}
	if int64(len(p)) > k.left {
		p = p[:k.left]
	}
	n, err := k.conn.in.read(p)
	k.left -= int64(n)
	if k.left == 0 {
		return n, io.EOF
	}
	return n, noEOF(err)
}

// Close ends the response. What little is left of its body is read, so that the
// connection can be kept, if it is there already.
func (b *body) Close() error {
	k := (*call)(b)
	if k.over {
		return nil
	}
	left := k.client.limits.DrainBytes
	var scratch [512]byte
	for k.err == nil && k.keep && left > 0 && k.conn.in.buffered() > 0 { // bound: DrainBytes
		n, _ := b.Read(scratch[:])
		left -= n
	}
	if k.err == nil {
		k.err = http.ErrBodyReadAfterClose
	}
	k.discard()
	return nil
}
