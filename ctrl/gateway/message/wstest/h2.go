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
		tr := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, _ string, _ *tls.Config) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}}
		t.Cleanup(tr.CloseIdleConnections)
		pr, pw := io.Pipe()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, "http://gateway.test"+path, pr)
		if err != nil {
			t.Fatal(err)
		}
		r.Header[":protocol"] = []string{"websocket"}
		r.Header.Set("Sec-Websocket-Version", "13")
		resp, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 200 {
			t.Fatalf("%d, %v", resp.StatusCode, resp.Header)
		}
		c := &tunnel{in: resp.Body, out: pw}
		t.Cleanup(func() { _ = c.Close() })
		return &Conn{c, bufio.NewReader(resp.Body)}
	}
}

// tunnel is a stream of HTTP/2 or 3 as a connection.
type tunnel struct {
	net.Conn // nil: nothing else is used
	in       io.ReadCloser
	out      io.WriteCloser
}

func (c *tunnel) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *tunnel) Write(p []byte) (int, error) { return c.out.Write(p) }
func (c *tunnel) Close() error                { return errors.Join(c.out.Close(), c.in.Close()) }
