package wstest

import (
	"bufio"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// Echo is a server of WebSockets that sends messages back, over HTTP/1.1 and by extended
// CONNECT. It takes the subprotocol chat, and answers with the field X-Extra: what it got
// of Sec-WebSocket-Key, and the protocol.
func Echo() http.Handler {
	up := websocket.Upgrader{Subprotocols: []string{"chat"}, CheckOrigin: func(*http.Request) bool { return true }, EnableCompression: true}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		extra := http.Header{"X-Extra": {strings.Join(append(r.Header.Values("Sec-Websocket-Key"), r.Proto), " ")}}
		if r.Method == http.MethodConnect {
			w, r = asUpgrade(w, r)
		}
		c, err := up.Upgrade(w, r, extra)
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		c.SetReadLimit(Max)
		for {
			kind, b, err := c.ReadMessage()
			if err != nil {
				return
			}
			if c.WriteMessage(kind, b) != nil {
				return
			}
		}
	})
}

// asUpgrade makes an extended CONNECT look like the upgrade that it stands for: a request
// whose connection can be taken, and then is the stream.
func asUpgrade(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request) {
	inner := r.Clone(r.Context())
	inner.Method = http.MethodGet
	inner.Header.Set("Connection", "Upgrade")
	inner.Header.Set("Upgrade", "websocket")
	inner.Header.Set("Sec-Websocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
	return &taken{ResponseWriter: w, r: r}, inner
}

// taken is a stream as a connection, the first write of which is the head of a 101.
type taken struct {
	http.ResponseWriter
	net.Conn // nil: nothing else is used
	r        *http.Request
	begun    bool
}

// Hijack implements http.Hijacker.
func (t *taken) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t, bufio.NewReadWriter(bufio.NewReader(t), bufio.NewWriter(t)), nil
}

func (t *taken) Read(p []byte) (int, error) { return t.r.Body.Read(p) }

func (t *taken) Write(p []byte) (int, error) {
	out := p
	if !t.begun {
		t.begun = true
		head, err := http.ReadResponse(bufio.NewReader(strings.NewReader(string(p))), nil)
		if err != nil {
			return 0, err
		}
		for name, values := range head.Header {
			if name != "Upgrade" && name != "Connection" && name != "Sec-Websocket-Accept" {
				t.Header()[name] = values
			}
		}
		t.WriteHeader(http.StatusOK)
		out = nil
	}
	if _, err := t.ResponseWriter.Write(out); err != nil {
		return 0, err
	}
	return len(p), http.NewResponseController(t.ResponseWriter).Flush()
}

func (t *taken) Close() error { return t.r.Body.Close() }

func (t *taken) SetDeadline(time.Time) error      { return nil }
func (t *taken) SetReadDeadline(time.Time) error  { return nil }
func (t *taken) SetWriteDeadline(time.Time) error { return nil }
