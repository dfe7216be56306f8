package server

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/h2"
	"github.com/quic-go/quic-go"
)

// Conn is what is known of the connection that a request came over. All of it but what
// methods return is fixed before the first request.
type Conn struct {
	Listener string
	Protocol string // "http/1.1", "h2" or "h3"
	Local    net.Addr
	Peer     netip.AddrPort       // the other end; invalid on Unix sockets
	Client   netip.AddrPort       // what the PROXY header says, else Peer
	TLS      *tls.ConnectionState // nil: none

	server   *Server
	raw      net.Conn // what was accepted; nil for HTTP/3
	over     func()   // breaks off HTTP/3's; nil else
	open     *group
	counted  netip.Addr
	wait     wait
	resting  sync.Mutex                // between atRest and rested
	h1       atomic.Pointer[h1conn]    // HTTP/1.1's
	born     int64                     // by the server's clock
	quic     atomic.Pointer[quic.Conn] // HTTP/3's
	named    atomic.Pointer[string]    // the last host that the certificate was found good for
	taker    *taker                    // whose it is
	land     func()                    // it has come to the engine
	early    func() bool
	unwanted atomic.Bool // Config.Admit refused it
	admitted atomic.Bool // and need not be asked again
	ended    atomic.Bool
	streams  streams                 // HTTP/3's
	h2       atomic.Pointer[h2.Conn] // HTTP/2's
	running  atomic.Int64            // handlers
	last     atomic.Int64            // when the last one ended
	requests atomic.Uint64
}

type connKey struct{}

// From returns the connection that a request came over; nil if it came over none of this package's.
func From(ctx context.Context) *Conn {
	c, _ := ctx.Value(connKey{}).(*Conn)
	return c
}

// EarlyData says whether a request came in 0-RTT data that may be another's, sent again
// (RFC 8470): a route for which that matters refuses it with exchange.TooEarly.
func EarlyData(r *http.Request) bool {
	c := From(r.Context())
	return c != nil && c.early != nil && c.early() || r.Header.Get("Early-Data") == "1"
}

// Names says whether this connection may carry requests for a host: with TLS the
// certificate that the client was shown has to cover it, else the request is one that
// another server should have got (RFC 9110 §7.4; exchange.Misdirected). Without TLS it may.
func (c *Conn) Names(host string) bool {
	if c.TLS == nil {
		return true
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if n := c.TLS.ServerName; n == "" || host == "" || // HTTP/1.0 may say neither
		equalFold([]byte(host), n) {
		return true
	}
	if last := c.named.Load(); last != nil && *last == host {
		return true
	}
	if !c.server.covers(c.TLS.ServerName, host) {
		return false
	}
	c.named.Store(&host)
	return true
}

// wait is what a connection waits for: times by the server's clock, in milliseconds, 0 for
// nothing. Whoever reads and writes sets them, the server's keeper looks at them.
type wait struct {
	readBy  atomic.Int64 // bytes of a body
	headBy  atomic.Int64 // the rest of a head, the first bytes
	restBy  atomic.Int64 // another request of HTTP/1.1, or the first bytes without TLS; negative: no longer
	writeBy atomic.Int64 // a piece of an answer to be sent
	passBy  atomic.Int64 // anything to move on a connection passed through
	cut     atomic.Uint32
}

// cutReason is why the keeper broke off a read or a write.
type cutReason uint32

const (
	cutHead cutReason = iota + 1
	cutBody
	cutAnswer
	cutIdle
)

// overdue says what the connection has waited for too long.
func (w *wait) overdue(now int64) cutReason {
	late := func(v *atomic.Int64) bool { by := v.Load(); return by != 0 && now > by }
	switch {
	case late(&w.headBy):
		return cutHead
	case late(&w.readBy):
		return cutBody
	case late(&w.writeBy):
		return cutAnswer
	case late(&w.passBy):
		return cutIdle
	}
	return 0
}

// write sends b in pieces, each within its time.
func (c *Conn) write(to net.Conn, b []byte) (int, error) {
	sent := 0
	for {
		piece := b[sent:min(len(b), sent+writePiece)]
		if c.server.sendStall > 0 {
			c.wait.writeBy.Store(c.server.now() + c.server.sendStall)
		}
		n, err := to.Write(piece)
		c.wait.writeBy.Store(0)
		if sent += n; err != nil || sent >= len(b) {
			return sent, err
		}
	}
}

// lingerOn reads what still comes and throws it away, for a while.
func (c *Conn) lingerOn(from net.Conn) {
	if from.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	b := c.server.buffer()
	defer c.server.free(b)
	for got := 0; got < lingerBytes; {
		n, err := from.Read(b[:cap(b)])
		if got += n; err != nil {
			return
		}
	}
}

// cutOff breaks off what has taken too long.
func (c *Conn) cutOff(why cutReason) {
	c.wait.cut.Store(uint32(why))
	switch why {
	case cutHead:
		c.server.refusedConns[CutHead].Add(1)
	case cutBody:
		c.server.refusedConns[CutBody].Add(1)
	case cutAnswer:
		c.server.refusedConns[CutAnswer].Add(1)
		c.abort()
		return
	case cutIdle:
		c.server.refusedConns[CutIdle].Add(1)
		c.sever()
		return
	}
	if c.raw != nil {
		_ = c.raw.SetReadDeadline(time.Unix(1, 0)) // who reads finds out why
	}
}

// quietFor is how long no handler has run.
func (c *Conn) quietFor() time.Duration {
	return time.Duration(c.server.now()-c.last.Load()) * time.Millisecond
}

// abort resets the connection: what the client has not taken would else stay in the
// kernel's memory for as long as it keeps its window shut.
func (c *Conn) abort() {
	switch raw := c.raw.(type) {
	case interface{ Abort() error }:
		_ = raw.Abort()
	case interface{ SetLinger(int) error }:
		_ = raw.SetLinger(0)
	}
	c.sever()
}

// sever closes what was accepted, whatever is on top of it.
func (c *Conn) sever() {
	if c.raw != nil {
		_ = c.raw.Close()
	} else if c.over != nil {
		c.over()
	}
}

// done counts the connection as closed, once.
func (c *Conn) done() {
	if c.ended.CompareAndSwap(false, true) {
		c.server.forget(c)
	}
}

// BodyError is why a request's body can't be read further.
type BodyError struct {
	Why    exchange.Reason
	Detail string
}

// Error implements error.
func (e *BodyError) Error() string { return "request body: " + e.Detail }

// Reason is what the exchange fails for.
func (e *BodyError) Reason() exchange.Reason { return e.Why }

// Timeout says whether it came too slowly.
func (e *BodyError) Timeout() bool { return e.Why == exchange.RequestTimeout }

// Is lets a body that came too slowly be found as os.ErrDeadlineExceeded.
func (e *BodyError) Is(target error) bool { return e.Timeout() && target == os.ErrDeadlineExceeded }

func isTimeout(err error) bool {
	if t, ok := err.(interface{ Timeout() bool }); ok { // once a request: errors.As costs a microsecond
		return t.Timeout()
	}
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// earlyConn is a connection of which the first bytes have been read.
type earlyConn struct {
	net.Conn
	b []byte
}

// Read implements net.Conn.
func (e *earlyConn) Read(p []byte) (int, error) {
	if len(e.b) > 0 {
		n := copy(p, e.b)
		if e.b = e.b[n:]; len(e.b) == 0 {
			e.b = nil
		}
		return n, nil
	}
	return e.Conn.Read(p)
}

// CloseWrite ends what is sent, if the connection can.
func (e *earlyConn) CloseWrite() error { return closeWrite(e.Conn) }

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// addrOf returns an address's IP and port; invalid for other kinds.
func addrOf(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	case nil:
	default:
		ap, _ = netip.ParseAddrPort(a.String())
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func within(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list { // bound: the configuration
		if p.Contains(a) {
			return true
		}
	}
	return false
}
