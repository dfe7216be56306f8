package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// ProxyPolicy says what is done with PROXY protocol headers.
type ProxyPolicy uint8

// Policies. A header from an address that is not in Config.ProxyFrom is never read: with
// ProxyAccept its bytes are what the client sent, with ProxyRequire the connection is refused.
const (
	ProxyOff     ProxyPolicy = iota // connections begin with TLS or HTTP
	ProxyAccept                     // a header is read if there is one
	ProxyRequire                    // a connection without one is refused
)

// Stage is how far a connection has come.
type Stage uint8

// Stages.
const (
	Accepted Stage = iota // its addresses are known; nothing but a PROXY header was read
	Greeted               // what the client says before TLS is
	Passing               // the same, of one that is to be passed on unopened: no more will be known
	Shaken                // TLS's handshake is as good as done: the client's certificate is known
)

// Config is a listener's settings. Its zero value but for Handler is sane.
type Config struct {
	Name    string // of the listener, for Conn.Listener
	Handler http.Handler

	// Refuse answers a request that is refused before Handler could see it. The request is
	// made up: its method, target and fields say nothing; line is the beginning of what the
	// client sent, at most 128 bytes, for logs. nil: exchange.Refuse.
	Refuse func(w http.ResponseWriter, r *http.Request, why exchange.Reason, detail, line string)

	TLS       *tls.Config // nil: none. NextProtos is set by the server.
	NoHTTP1   bool        // HTTP/1.1 is not served
	NoHTTP2   bool        // HTTP/2 is not served, with TLS or without
	EarlyData bool        // requests in 0-RTT packets of HTTP/3 are taken (RFC 8470); see EarlyData

	// AltSvc is the port at which HTTP/3 is advertised in answers over HTTP/1.1 and
	// HTTP/2; 0: none is.
	AltSvc       uint16
	AltSvcMaxAge time.Duration // how long clients may remember it; 0: a day

	Proxy     ProxyPolicy
	ProxyFrom []netip.Prefix // who may send PROXY headers; those at a Unix socket always may

	// Forwarded is whose X-Forwarded-For is believed, for Client.
	Forwarded []netip.Prefix

	// Admit is asked, as more becomes known of a connection, whether it is refused. later:
	// it is to be asked again at the next stage; else the answer stands for all of them. state
	// is what is known of TLS by then (nil: there is none), offered the protocols of ALPN that
	// the client names. nil: none is refused.
	Admit func(c *Conn, at Stage, state *tls.ConnectionState, offered []string) (later bool, err error)

	// Passthrough is asked with each ClientHello whether the connection is to be passed on
	// unopened, and to where. nil: none is.
	Passthrough func(Hello) (dial func(context.Context) (net.Conn, error), ok bool)
	Passes      func() bool // whether Passthrough is to be asked now; nil: it is

	Limits Limits
	Log    *slog.Logger // what the engines complain of; nil: nowhere
}

// Limits bounds what clients can use. Zero means the default in the comment; a negative
// number or duration means no limit where that is possible.
type Limits struct {
	Conns       int // open at a time; 10,000
	ClientConns int // of them from one client address; 1,000

	HeadBytes int // of a request's line and fields; 32 KiB
	Fields    int // of a request's head; 100
	URIBytes  int // of a request's target; 8 KiB

	Handshake time.Duration // PROXY header and TLS handshake; 10 s
	Head      time.Duration // from a head's first byte to its last, and from the connection to the first head; 10 s
	Idle      time.Duration // between requests; 75 s
	PassIdle  time.Duration // of a connection passed through on which nothing moves; 10 min
	BodyStall time.Duration // time that a request's body may be waited for beyond what BodyRate gives; 30 s
	BodyRate  int           // bytes/s: each second's worth of body buys a second of waiting; 512
	SendStall time.Duration // time that an answer may stand still because the client does not read; 30 s

	Requests int // over one connection, after which it is closed in good order; none

	Streams     int // of HTTP/2 and HTTP/3, at a time on one connection; 128
	StreamBytes int // of a request's body that wait for the handler, HTTP/2 and HTTP/3, each stream; 256 KiB
	ConnBytes   int // the same, all streams of a connection; 1 MiB
	Resets      int // of streams by the client, HTTP/2, a second on one connection; 100, in a burst five times as many
	Control     int // PING, SETTINGS, PRIORITY and empty frames, the same; 100, in a burst five times as many
}

func (l *Limits) defaults() {
	ints := []struct {
		v   *int
		def int
	}{
		{&l.Conns, 10_000}, {&l.ClientConns, 1_000}, {&l.HeadBytes, 32 << 10}, {&l.Fields, 100}, {&l.URIBytes, 8 << 10},
		{&l.BodyRate, 512}, {&l.Streams, 128}, {&l.StreamBytes, 256 << 10}, {&l.ConnBytes, 1 << 20}, {&l.Resets, 100}, {&l.Control, 100},
	}
	for _, i := range ints {
		if *i.v == 0 {
			*i.v = i.def
		}
	}
	times := []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&l.Handshake, 10 * time.Second}, {&l.Head, 10 * time.Second}, {&l.Idle, 75 * time.Second}, {&l.PassIdle, 10 * time.Minute},
		{&l.BodyStall, 30 * time.Second}, {&l.SendStall, 30 * time.Second},
	}
	for _, i := range times {
		if *i.v == 0 {
			*i.v = i.def
		}
	}
}

// Bounds of what can be asked for.
const (
	minHeadBytes = 1 << 10
	maxHeadBytes = 1 << 20
	minWindow    = 64<<10 - 1 // RFC 9113 §6.9.2: a connection's window can't begin smaller
	maxWindow    = 1 << 30
	maxStreams   = 100_000
)

func (l *Limits) check() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if l.HeadBytes < minHeadBytes || l.HeadBytes > maxHeadBytes {
		bad("head bytes %d, expected %d to %d", l.HeadBytes, minHeadBytes, maxHeadBytes)
	}
	if l.URIBytes < 1 || l.URIBytes > l.HeadBytes {
		bad("target bytes %d, expected 1 to the head's %d", l.URIBytes, l.HeadBytes)
	}
	if l.Fields < 1 {
		bad("%d fields, expected at least 1", l.Fields)
	}
	if l.Streams < 1 || l.Streams > maxStreams {
		bad("%d streams, expected 1 to %d", l.Streams, maxStreams)
	}
	if l.StreamBytes < 1 || l.StreamBytes > maxWindow {
		bad("%d bytes a stream, expected 1 to %d", l.StreamBytes, maxWindow)
	}
	if l.ConnBytes < minWindow || l.ConnBytes > maxWindow {
		bad("%d bytes a connection, expected %d to %d", l.ConnBytes, minWindow, maxWindow)
	}
	if l.Handshake < 0 || l.Head < 0 {
		bad("no limit on the time of handshakes and heads, expected a positive time")
	}
	return errs
}

// check returns all that is wrong.
func (c *Config) check() error {
	errs := c.Limits.check()
	if c.Handler == nil {
		errs = append(errs, errors.New("no handler"))
	}
	if c.NoHTTP1 && c.NoHTTP2 && c.TLS == nil && c.Passthrough == nil {
		errs = append(errs, errors.New("neither HTTP/1.1 nor HTTP/2 nor TLS, expected one of them"))
	}
	if c.Proxy > ProxyRequire {
		errs = append(errs, fmt.Errorf("PROXY policy %d, expected off, accept or require", c.Proxy))
	}
	if c.Proxy == ProxyOff && len(c.ProxyFrom) > 0 {
		errs = append(errs, errors.New("prefixes for PROXY headers, which are off: expected accept or require"))
	}
	for _, p := range append(append([]netip.Prefix{}, c.ProxyFrom...), c.Forwarded...) {
		if !p.IsValid() {
			errs = append(errs, errors.New("a prefix that is none, expected for example 198.18.0.0/15"))
		}
	}
	return errors.Join(errs...)
}
