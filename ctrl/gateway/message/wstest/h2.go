//lint:file-ignore SA1019 net/http's own transport refuses the field :protocol of an extended CONNECT

package wstest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"golang.org/x/net/http2"
)

// Open2 opens a WebSocket over HTTP/2 without TLS, by an extended CONNECT (RFC 8441).
func Open2(address, path string) func(*testing.T) *Conn {
	return func(t *testing.T) *Conn {
		t.Helper()
		c := Connect2(t, address, path, "websocket")
		return &Conn{c, bufio.NewReader(c)}
	}
}

// Connect2 opens a stream of any protocol over HTTP/2 without TLS.
func Connect2(t *testing.T, address, path, protocol string) *Tunnel {
	t.Helper()
	tr := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, _ string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	pr, pw := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, "http://gateway.test"+path, pr)
	if err != nil {
		t.Fatal(err)
	}
	r.Header[":protocol"] = []string{protocol}
	r.Header.Set("Sec-Websocket-Version", "13")
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		t.Fatalf("%d, %v", resp.StatusCode, resp.Header)
	}
	c := &Tunnel{in: resp.Body, out: pw}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Tunnel is a stream of HTTP/2 or 3 as a connection.
type Tunnel struct {
	net.Conn // nil: nothing else is used
	in       io.ReadCloser
	out      io.WriteCloser
}

// Read reads what the server sends.
func (c *Tunnel) Read(p []byte) (int, error) { return c.in.Read(p) }

// Write sends to the server.
func (c *Tunnel) Write(p []byte) (int, error) { return c.out.Write(p) }

// CloseWrite ends what is sent.
func (c *Tunnel) CloseWrite() error { return c.out.Close() }

// Close ends the stream.
func (c *Tunnel) Close() error { return errors.Join(c.out.Close(), c.in.Close()) }
