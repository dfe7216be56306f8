package forward

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/np-appliance/np/ctrl/gateway/h1"
)

// duplex is what an upgrade opened towards an endpoint: the body of its 101. A Read and a
// Write may run beside each other.
type duplex interface {
	io.ReadWriteCloser // Close ends both directions, and resets what has not ended by itself
	// CloseWrite ends what is sent; what is received goes on.
	CloseWrite() error
}

// noConnect is an endpoint of HTTP/2 or 3 that takes no upgrades: it didn't say
// SETTINGS_ENABLE_CONNECT_PROTOCOL.
type noConnect struct{ protocol string }

func (e *noConnect) Error() string {
	return fmt.Sprintf("the endpoint speaks %s without extended CONNECT (RFC 8441, RFC 9220), by which WebSockets go there: expected SETTINGS_ENABLE_CONNECT_PROTOCOL, or an upstream of protocol http1, or auto where the endpoint has HTTP/1.1 too", e.protocol)
}

// opensStreams opens streams by extended CONNECT. The request's method and URL are set,
// its fields are those that are sent. An answer other than 2xx has its own body.
type opensStreams interface {
	connect(ctx context.Context, r *http.Request, protocol string) (*http.Response, duplex, error)
}

// upgrade asks for an upgrade by an extended CONNECT (RFC 8441 §5, RFC 9220 §3). The answer
// is as HTTP/1.1 has it, whatever the endpoint speaks: 101 with Upgrade, and for a
// WebSocket with the Sec-WebSocket-Accept that belongs to the request's key, which these
// protocols don't have.
func (l *sharedLink) upgrade(ctx context.Context, q *h1.Request) (*http.Response, error) {
	r, err := l.request(ctx, q, &hints{})
	if err != nil {
		return nil, err
	}
	if strings.IndexByte(q.Upgrade, '/') >= 0 {
		return nil, &h1.RequestError{Detail: "an upgrade to a version of a protocol, which extended CONNECT has no way to ask for (RFC 8441 §4)"}
	}
	key := r.Header.Get("Sec-Websocket-Key")
	if strings.EqualFold(q.Upgrade, "websocket") && !keyOK(key) {
		return nil, &h1.RequestError{Detail: "a WebSocket whose Sec-WebSocket-Key is not 16 bytes in base64 (RFC 6455 §4.1)"}
	}
	r.Header.Del("Sec-Websocket-Key")
	r.Method = http.MethodConnect
	l.wg.Add(1)
	l.inflight.Add(1)
	l.requests.Add(1)
	done := sync.OnceFunc(l.done)
	resp, stream, err := l.streams.connect(ctx, r, strings.ToLower(q.Upgrade))
	if err != nil {
		done()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, err
	}
	if stream == nil {
		resp.Body = &sharedBody{ReadCloser: resp.Body, done: done}
		return resp, nil
	}
	h := resp.Header
	h.Del("Content-Length") // of a tunnel it says nothing (RFC 9110 §9.3.6)
	h.Set("Upgrade", q.Upgrade)
	h.Del("Sec-Websocket-Accept")
	if key != "" {
		h.Set("Sec-Websocket-Accept", acceptFor(key))
	}
	return &http.Response{StatusCode: http.StatusSwitchingProtocols, Header: h, ContentLength: -1, Body: &sharedStream{stream, done}}, nil
}

// keyOK says whether a WebSocket's key is one (RFC 6455 §4.2.1).
func keyOK(key string) bool {
	b, err := base64.StdEncoding.DecodeString(key)
	return err == nil && len(b) == 16
}

// sharedStream counts as a request until it is closed.
type sharedStream struct {
	duplex
	done func()
}

// Close ends the stream.
func (s *sharedStream) Close() error {
	err := s.duplex.Close()
	s.done()
	return err
}
