package secure

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/dataplane"
)

// Transport is TLS over another transport. Dial completes the handshake; Listen's connections
// shake hands at their first Read or Write, so that a slow client holds up nobody.
// ListenPacket refuses: datagrams would pass in the clear.
type Transport struct {
	Under  dataplane.Transport
	Server *tls.Config // for Listen; nil: Listen refuses
	Client *tls.Config // for Dial; nil: Dial refuses
	// HandshakeTimeout bounds a handshake; 0: 10 s.
	HandshakeTimeout time.Duration
}

var _ dataplane.Transport = (*Transport)(nil)

func (t *Transport) limit() time.Duration {
	if t.HandshakeTimeout > 0 {
		return t.HandshakeTimeout
	}
	return 10 * time.Second
}

// Dial implements [dataplane.Transport].
func (t *Transport) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if t.Client == nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("no TLS client settings")}
	}
	raw, err := t.Under.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	cfg := t.Client
	if cfg.ServerName == "" && !cfg.InsecureSkipVerify {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			host = address
		}
		cfg = cfg.Clone()
		cfg.ServerName = host
	}
	c := &Conn{Conn: tls.Client(raw, cfg), raw: raw, limit: t.limit()}
	ctx, cancel := context.WithTimeout(ctx, t.limit())
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the error that matters is the handshake's
		return nil, &net.OpError{Op: "dial", Net: network, Addr: raw.RemoteAddr(), Err: fmt.Errorf("TLS handshake: %w", Explain(err))}
	}
	return c, nil
}

type listener struct {
	net.Listener
	server *tls.Config
	limit  time.Duration
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &Conn{Conn: tls.Server(raw, l.server), raw: raw, limit: l.limit, server: true}, nil
}

// Listen implements [dataplane.Transport].
func (t *Transport) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if t.Server == nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: errors.New("no TLS server settings")}
	}
	l, err := t.Under.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return NewListener(l, t.Server, t.limit()), nil
}

// NewListener puts TLS on what l accepts, as [Transport.Listen] does.
func NewListener(l net.Listener, server *tls.Config, handshake time.Duration) net.Listener {
	return &listener{Listener: l, server: server, limit: handshake}
}

// ListenPacket refuses: TLS is for streams.
func (t *Transport) ListenPacket(_ context.Context, network, _ string) (net.PacketConn, error) {
	return nil, &net.OpError{Op: "listen", Net: network, Err: fmt.Errorf("TLS needs a stream, expected one of %s", strings.Join(t.streams(), ", "))}
}

func (t *Transport) streams() []string {
	var out []string
	for _, n := range t.Under.Properties().Networks {
		if !strings.HasPrefix(n, "udp") {
			out = append(out, n)
		}
	}
	return out
}

// Properties implements [dataplane.Transport].
func (t *Transport) Properties() dataplane.Properties {
	p := t.Under.Properties()
	p.Networks, p.Secure, p.ZeroCopy, p.Vectored = t.streams(), true, false, false
	return p
}

// Conn is a TLS connection; a [dataplane.StreamConn].
type Conn struct {
	*tls.Conn
	raw    net.Conn
	limit  time.Duration
	server bool
	shaken atomic.Bool
}

var _ dataplane.StreamConn = (*Conn)(nil)

// HandshakeContext shakes hands within the transport's limit.
func (c *Conn) HandshakeContext(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	return c.Conn.HandshakeContext(ctx)
}

// ready ends the handshake of an accepted connection, once.
func (c *Conn) ready() error {
	if !c.server || c.shaken.Load() {
		return nil
	}
	if err := c.HandshakeContext(context.Background()); err != nil {
		return &net.OpError{Op: "handshake", Net: c.raw.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
	}
	c.shaken.Store(true)
	return nil
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	if err := c.ready(); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	if err := c.ready(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// under is the connection below, with what only some have.
func (c *Conn) under() (dataplane.StreamConn, error) {
	if s, ok := c.raw.(dataplane.StreamConn); ok {
		return s, nil
	}
	return nil, fmt.Errorf("%T below TLS: %w", c.raw, errors.ErrUnsupported)
}

// CloseRead gives up what comes from now on.
func (c *Conn) CloseRead() error {
	u, err := c.under()
	if err != nil {
		return err
	}
	return u.CloseRead()
}

// Abort ends the connection at once, without a close_notify.
func (c *Conn) Abort() error {
	if u, err := c.under(); err == nil {
		return u.Abort()
	}
	return c.raw.Close()
}

// SetKeepAlive implements [dataplane.StreamConn].
func (c *Conn) SetKeepAlive(on bool) error {
	u, err := c.under()
	if err != nil {
		return err
	}
	return u.SetKeepAlive(on)
}

// SetKeepAlivePeriod implements [dataplane.StreamConn].
func (c *Conn) SetKeepAlivePeriod(d time.Duration) error {
	u, err := c.under()
	if err != nil {
		return err
	}
	return u.SetKeepAlivePeriod(d)
}

// SetNoDelay implements [dataplane.StreamConn].
func (c *Conn) SetNoDelay(on bool) error {
	u, err := c.under()
	if err != nil {
		return err
	}
	return u.SetNoDelay(on)
}

// recordBytes is the most that one record holds (RFC 8446 §5.1).
const recordBytes = 16384

// ReadBuffers reads one record's worth into memory of its own: what arrived is encrypted, so
// there is nothing to be handed out in place.
func (c *Conn) ReadBuffers() (*dataplane.Buffers, error) {
	b := make([]byte, recordBytes)
	n, err := c.Read(b)
	if n == 0 && err != nil { // with bytes, crypto/tls says the same again at the next Read
		return nil, err
	}
	return dataplane.NewBuffers([][]byte{b[:n]}, nil), nil
}

// WriteBuffers writes bufs in order; what is small goes into one record.
func (c *Conn) WriteBuffers(bufs net.Buffers) (int64, error) {
	total := 0
	for _, b := range bufs {
		total += len(b)
	}
	if total <= recordBytes {
		one := make([]byte, 0, total)
		for _, b := range bufs {
			one = append(one, b...)
		}
		n, err := c.Write(one)
		return int64(n), err
	}
	var sum int64
	for _, b := range bufs {
		n, err := c.Write(b)
		sum += int64(n)
		if err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// Properties describes the connection.
func (c *Conn) Properties() dataplane.Properties {
	p := dataplane.Properties{Secure: true}
	if u, err := c.under(); err == nil {
		p = u.Properties()
		p.Secure, p.ZeroCopy, p.Vectored = true, false, false
	}
	return p
}
