package wstest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Open3 opens a WebSocket over HTTP/3, by an extended CONNECT (RFC 9220). All share one
// connection, which the test that called first ends.
func Open3(t *testing.T, address, path string, client *tls.Config) func(*testing.T) *Conn {
	t.Helper()
	client = client.Clone()
	client.NextProtos = []string{http3.NextProtoH3}
	tr := &http3.Transport{}
	q, err := quic.DialAddr(t.Context(), address, client, &quic.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.CloseWithError(0x100, "") })
	cc := tr.NewClientConn(q)
	return func(t *testing.T) *Conn {
		t.Helper()
		s, resp := connect3(t, cc, path)
		if resp.StatusCode != 200 || resp.Header.Get("Sec-Websocket-Accept") != "" {
			t.Fatalf("%d, %v", resp.StatusCode, resp.Header)
		}
		c := &stream3{s}
		return &Conn{&Tunnel{in: c, out: c}, bufio.NewReader(c)}
	}
}

func connect3(t *testing.T, cc *http3.ClientConn, path string) (*http3.RequestStream, *http.Response) {
	t.Helper()
	select {
	case <-cc.ReceivedSettings():
	case <-time.After(10 * time.Second):
		t.Fatal("the server sent no settings")
	}
	if !cc.Settings().EnableExtendedConnect {
		t.Fatal("the server's settings don't enable extended CONNECT")
	}
	s, err := cc.OpenRequestStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.CancelRead(0x10c); s.CancelWrite(0x10c) })
	_ = s.SetDeadline(time.Now().Add(20 * time.Second))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, "https://gateway.test"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Proto = "websocket" // as the library has :protocol
	r.Header.Set("Sec-Websocket-Version", "13")
	if err := s.SendRequestHeader(r); err != nil {
		t.Fatal(err)
	}
	resp, err := s.ReadResponse()
	if err != nil {
		t.Fatal(err)
	}
	return s, resp
}

// stream3 is a stream of HTTP/3.
type stream3 struct{ s *http3.RequestStream }

func (c *stream3) Read(p []byte) (int, error)  { return c.s.Read(p) }
func (c *stream3) Write(p []byte) (int, error) { return c.s.Write(p) }

// Close ends what is sent.
func (c *stream3) Close() error {
	if err := c.s.Close(); err != nil {
		return errors.Join(errors.New("end a stream"), err)
	}
	return nil
}
