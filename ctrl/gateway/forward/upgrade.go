package forward

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1" // RFC 6455 §4.2.2 wants it; nothing depends on its strength
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/h1"
	"github.com/np-appliance/np/ctrl/upstream"
)

// linger is how long one direction of an upgraded connection may go on after the other's end.
const linger = 10 * time.Second

// askUpgrade takes the first protocol that the client offers and the route allows. Others
// are ignored, as RFC 9110 §7.8 has it: the request is answered as it is.
func (f *flight) askUpgrade() {
	if f.r.ProtoMajor != 1 || f.r.ProtoMinor < 1 {
		return
	}
	for _, v := range f.r.Header["Upgrade"] {
		for p := range strings.SplitSeq(v, ",") {
			if p = strings.Trim(p, " \t"); f.h.upgrade[strings.ToLower(p)] {
				f.out.Upgrade = p
				return
			}
		}
	}
}

// connect makes of an extended CONNECT (RFC 8441, RFC 9220) the upgrade that it stands
// for; a plain CONNECT asks for a tunnel, which a gateway isn't for. A link to an endpoint
// of HTTP/2 or 3 makes an extended CONNECT of it again.
func (f *flight) connect() error {
	protocol := exchange.Connects(f.r)
	if protocol == "" {
		return &refused{exchange.MethodNotAllowed, "CONNECT is not supported"}
	}
	if !f.h.upgrade[protocol] {
		return &refused{exchange.Unsupported, "this protocol can't be connected to"}
	}
	f.tunnel = true
	f.out.Method, f.out.Upgrade = http.MethodGet, protocol
	if protocol != "websocket" {
		return nil
	}
	var key [16]byte
	if _, err := rand.Read(key[:]); err != nil {
		return err
	}
	f.key = base64.StdEncoding.EncodeToString(key[:])
	f.set("Sec-Websocket-Key", f.key)
	return nil
}

// acceptFor is the Sec-WebSocket-Accept of a key (RFC 6455 §4.2.2).
func acceptFor(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// switchProtocols joins the client's connection or stream to the endpoint's.
func (f *flight) switchProtocols(ctx context.Context, t upstream.Try, resp *http.Response) (upstream.Outcome, error) {
	up, ok := resp.Body.(duplex)
	if !ok || !strings.EqualFold(resp.Header.Get("Upgrade"), f.out.Upgrade) {
		err := &h1.ProtocolError{Detail: fmt.Sprintf("101 to %q, asked for %q", resp.Header.Get("Upgrade"), f.out.Upgrade)}
		return upstream.Failure, err
	}
	if f.key != "" && resp.Header.Get("Sec-Websocket-Accept") != acceptFor(f.key) {
		return upstream.Failure, &h1.ProtocolError{Detail: "101 without the Sec-WebSocket-Accept that belongs to the key"}
	}
	t.Stream(true)
	join := f.hijack
	if f.tunnel {
		join = f.openTunnel
	}
	down, err := join(resp)
	if err != nil {
		return upstream.Canceled, &clientError{err}
	}
	defer func() { _ = down.close() }() // the stream is over: errors were met before
	watch := newWatchdog(f.o.StreamIdle, t.Cut)
	defer watch.stop()
	err = f.splice(ctx, up, down, watch)
	if err != nil && f.tunnel { // a stream has a way to say so, by its reset
		err = &brokenOff{err}
		return outcomeOf(err), err
	}
	f.x.Note(err)
	f.done = true
	return upstream.Success, nil
}

// side is the client's end of an upgraded connection.
type side struct {
	io.Reader
	io.Writer
	closeWrite func() error
	unblock    func() // ends a Read that waits
	close      func() error
}

// hijack takes the client's HTTP/1.1 connection and answers the upgrade.
func (f *flight) hijack(resp *http.Response) (*side, error) {
	nc, rw, err := http.NewResponseController(f.w).Hijack()
	if err != nil {
		return nil, err
	}
	f.started = true
	f.x.Status = http.StatusSwitchingProtocols
	_ = nc.SetDeadline(time.Time{}) // the server's own deadlines were for requests
	h := f.w.Header().Clone()
	copyHeader(h, resp.Header)
	h.Set("Upgrade", f.out.Upgrade)
	h.Set("Connection", "Upgrade")
	if _, err = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\n"); err == nil {
		if err = h.Write(rw); err == nil {
			if _, err = rw.WriteString("\r\n"); err == nil {
				err = rw.Flush()
			}
		}
	}
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	s := &side{Reader: readerOf(rw.Reader, nc), Writer: nc, close: nc.Close}
	s.unblock = func() { _ = nc.SetDeadline(time.Unix(1, 0)) }
	s.closeWrite = func() error {
		if c, ok := nc.(interface{ CloseWrite() error }); ok {
			return c.CloseWrite()
		}
		return errors.ErrUnsupported
	}
	return s, nil
}

// readerOf reads what a server has read already, and then the connection itself.
func readerOf(b *bufio.Reader, nc net.Conn) io.Reader {
	n := b.Buffered()
	if n == 0 {
		return nc
	}
	peek, _ := b.Peek(n) // they are there
	return io.MultiReader(strings.NewReader(string(peek)), nc)
}

// openTunnel answers an extended CONNECT: the request's body and the answer's are the
// two directions.
func (f *flight) openTunnel(resp *http.Response) (*side, error) {
	h := f.w.Header()
	copyHeader(h, resp.Header)
	h.Del("Sec-Websocket-Accept")
	f.started = true
	f.w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(f.w)
	if err := rc.Flush(); err != nil {
		return nil, err
	}
	body := newInBody(f.r.Body, f.w)
	s := &side{Reader: body, Writer: &flusher{f.w, rc}, unblock: body.breakOff, closeWrite: func() error { return errors.ErrUnsupported }}
	if c := closerOf(f.w); c != nil {
		s.closeWrite = c.CloseWrite
	}
	s.close = func() error { body.breakOff(); return nil }
	return s, nil
}

// closerOf finds what ends an answer before its handler does, so that a request can go on
// beyond it; nil: this server can't.
func closerOf(w http.ResponseWriter) interface{ CloseWrite() error } {
	for { // bound: writers are in each other
		if c, ok := w.(interface{ CloseWrite() error }); ok {
			return c
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return nil
		}
		w = u.Unwrap()
	}
}

type flusher struct {
	w  io.Writer
	rc *http.ResponseController
}

func (f *flusher) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.rc.Flush()
	}
	return n, err
}

// splice copies both ways until both have ended, or one has and linger is over, or ctx
// ends. It waits for its goroutines. An error is why it ended otherwise than by the
// endpoint's end.
func (f *flight) splice(ctx context.Context, up duplex, down *side, watch *watchdog) error {
	sent, received := make(chan error, 1), make(chan error, 1)
	go func() {
		err := f.relay(up, fromClient{down}, watch)
		if err == nil {
			err = up.CloseWrite()
		}
		sent <- err
	}()
	go func() {
		err := f.relay(toClient{down}, up, watch)
		if err == nil {
			err = down.closeWrite()
		}
		received <- err
	}()
	cut := func() { down.unblock(); _ = up.Close() }
	stop := context.AfterFunc(ctx, cut)
	defer stop()
	var client *clientError
	var out, in error
	select {
	case out = <-sent:
		if errors.As(out, &client) {
			cut()
		} // else an endpoint that takes nothing more may still have something to say
		late := time.AfterFunc(linger, cut)
		in = <-received
		late.Stop()
	case in = <-received:
		if in != nil { // broken off, or an end that can't be passed on
			cut()
		}
		late := time.AfterFunc(linger, cut)
		out = <-sent
		late.Stop()
	}
	_ = up.Close()
	switch {
	case in == nil, errors.Is(in, errors.ErrUnsupported): // the handler's end passes it on
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case client != nil:
		return out
	}
	return in
}

// fromClient and toClient tell errors of the client's side from the endpoint's.
type (
	fromClient struct{ io.Reader }
	toClient   struct{ io.Writer }
)

func (c fromClient) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = &clientError{err}
	}
	return n, err
}

func (c toClient) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	if err != nil {
		err = &clientError{err}
	}
	return n, err
}

// relay copies one direction; nil at its end.
func (f *flight) relay(to io.Writer, from io.Reader, watch *watchdog) error {
	buf, ok := f.h.buffers.Get().(*[copySize]byte)
	if !ok {
		buf = new([copySize]byte)
	}
	defer f.h.buffers.Put(buf)
	for { // bound: the stream
		n, err := from.Read(buf[:])
		if n > 0 {
			watch.kick()
			if _, werr := to.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
