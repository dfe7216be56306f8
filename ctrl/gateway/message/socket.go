package message

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/npro"
)

// SocketOptions are what WebSockets that end at the gateway are made of. Cluster and
// Opcode are required.
type SocketOptions struct {
	Cluster *Cluster
	Opcode  string
	// Requests makes of each message a REQUEST, and a message of each RESPONSE, one after
	// the other; without it a WebSocket is one byte stream of messages.
	Requests bool
	Fields   Fields
	Priority uint8 // 0 to 7

	// Origins may open one: "https://app.example", "https://*.example", "*" for any; none:
	// the request's own host. Requests without Origin, which no browser makes, may.
	Origins      []string
	Subprotocols []string // taken, the best first
	MaxMessage   int      // bytes; 0 is 1 MiB
	// Ping is how often a silent client is asked whether it is there, 0 is 30 s. Who says
	// nothing for two of them is gone.
	Ping time.Duration
	// WriteTimeout is how long a client may leave its window shut; 0 is 10 s.
	WriteTimeout time.Duration
	// Compress agrees to permessage-deflate (RFC 7692). It costs memory for each
	// connection, and compresses secrets beside what attackers choose.
	Compress bool
	Hash     func(*http.Request) uint64
}

// Socket is a handler of WebSockets. Immutable; safe for concurrent use.
type Socket struct {
	o        SocketOptions
	upgrader websocket.Upgrader
}

// NewSocket checks the options.
func NewSocket(o SocketOptions) (*Socket, error) {
	errs := []error{npro.CheckOpcode(o.Opcode)}
	if o.Cluster == nil {
		errs = append(errs, errors.New("no upstream that speaks npro"))
	}
	if o.MaxMessage == 0 {
		o.MaxMessage = mebibyte
	}
	if o.MaxMessage < 1 || o.MaxMessage > npro.MaxPayload {
		errs = append(errs, fmt.Errorf("messages of %d bytes, expected 1 to %d", o.MaxMessage, npro.MaxPayload))
	}
	if o.Ping == 0 {
		o.Ping = 30 * time.Second
	}
	if o.WriteTimeout == 0 {
		o.WriteTimeout = 10 * time.Second
	}
	if o.Ping < 0 || o.WriteTimeout < 0 || o.Priority > 7 {
		errs = append(errs, errors.New("a time is negative, or the priority over 7"))
	}
	for _, one := range o.Origins {
		if err := checkOrigin(one); err != nil {
			errs = append(errs, err)
		}
	}
	s := &Socket{o: o}
	s.upgrader = websocket.Upgrader{Subprotocols: o.Subprotocols, EnableCompression: o.Compress, ReadBufferSize: 4 << 10, WriteBufferSize: 4 << 10,
		WriteBufferPool: &sync.Pool{}, CheckOrigin: func(*http.Request) bool { return true },
		Error: func(w http.ResponseWriter, r *http.Request, status int, err error) {
			exchange.From(r.Context()).Note(err)
			why := exchange.BadRequest
			if status >= 500 {
				why = exchange.Internal
			}
			exchange.Refuse(w, r, why, strings.TrimPrefix(err.Error(), "websocket: "))
		}}
	return s, errors.Join(errs...)
}

func checkOrigin(s string) error {
	if s == "*" {
		return nil
	}
	u, err := url.Parse(strings.Replace(s, "//*.", "//any.", 1))
	if err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || u.RawQuery != "" || strings.Contains(u.Host, "*") {
		return fmt.Errorf("origin %q, expected one like https://app.example, https://*.example or *", s)
	}
	return nil
}

// allowed says whether a page of the request's origin may open a WebSocket.
func (s *Socket) allowed(r *http.Request) bool {
	values := r.Header.Values("Origin")
	if len(values) == 0 {
		return true
	}
	if len(values) > 1 {
		return false
	}
	origin := strings.ToLower(values[0])
	if len(s.o.Origins) == 0 {
		u, err := url.Parse(origin)
		return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
	}
	for _, one := range s.o.Origins {
		one = strings.ToLower(one)
		before, after, wild := strings.Cut(one, "*")
		switch {
		case one == "*", !wild && one == origin:
			return true
		case wild && len(origin) > len(before)+len(after) && strings.HasPrefix(origin, before) && strings.HasSuffix(origin, after) &&
			!strings.ContainsAny(origin[len(before):len(origin)-len(after)], "/@:"):
			return true
		}
	}
	return false
}

// IsWebSocket says whether a request opens a WebSocket, over HTTP/1.1 or by an extended
// CONNECT (RFC 8441, RFC 9220).
func IsWebSocket(r *http.Request) bool {
	if r.Method == http.MethodConnect {
		return exchange.Connects(r) == "websocket"
	}
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

// ServeHTTP implements http.Handler.
func (s *Socket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchange.From(r.Context())
	x.Upstream = s.o.Cluster.Name()
	if !IsWebSocket(r) {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		exchange.Refuse(w, r, exchange.BadRequest, "expected a WebSocket")
		return
	}
	if !s.allowed(r) {
		exchange.Refuse(w, r, exchange.Forbidden, "the page's origin may not")
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	// The upstream first: as long as nothing was upgraded, a failure has a status of HTTP.
	call := s.call(r, x)
	if s.o.Requests {
		s.serve(w, r, func(c *conn) closing { return c.requests(ctx, call) })
		return
	}
	st, err := s.o.Cluster.Open(ctx, call)
	if err != nil {
		x.Note(err)
		exchange.Refuse(w, r, reasonOf(r.Context(), err), "")
		return
	}
	defer st.Close(nil)
	s.serve(w, r, func(c *conn) closing { return c.stream(st) })
}

func (s *Socket) call(r *http.Request, x *exchange.Exchange) Call {
	c := Call{Request: client.Request{Opcode: s.o.Opcode, Priority: s.o.Priority, Context: s.o.Fields.contextOf(r)},
		Tried: func(address string, number int) { x.Endpoint, x.Tries = address, number }}
	addEntry(&c.Request.Context, keyTarget, r.URL.RequestURI())
	if p := s.subprotocol(r); p != "" {
		addEntry(&c.Request.Context, keySubprotocol, p)
	}
	if s.o.Hash != nil {
		c.Hash = s.o.Hash(r)
	}
	return c
}

// subprotocol is what the upgrader will choose.
func (s *Socket) subprotocol(r *http.Request) string {
	for _, ours := range s.o.Subprotocols {
		for _, theirs := range websocket.Subprotocols(r) {
			if ours == theirs {
				return ours
			}
		}
	}
	return ""
}

// serve upgrades, runs until the end and closes.
func (s *Socket) serve(w http.ResponseWriter, r *http.Request, run func(*conn) closing) {
	x := exchange.From(r.Context())
	hw, hr := hijackable(w, r)
	ws, err := s.upgrader.Upgrade(hw, hr, nil)
	if err != nil {
		x.Note(err) // what was refused was answered by the upgrader's Error
		return
	}
	x.Status = http.StatusSwitchingProtocols
	if r.Method == http.MethodConnect {
		x.Status = http.StatusOK
	}
	c := &conn{ws: ws, s: s, x: x}
	stop := context.AfterFunc(r.Context(), func() { _ = ws.Close() })
	defer stop()
	c.begin()
	end := run(c)
	c.close(end)
}

// conn is one WebSocket. One goroutine reads, one writes; pings are the library's to
// keep apart.
type conn struct {
	ws   *websocket.Conn
	s    *Socket
	x    *exchange.Exchange
	quit chan struct{}
	wg   sync.WaitGroup

	mu      sync.Mutex  // of the read deadline, which leaving decides
	goodbye bool        // the reader met the client's close; read once it ended
	leaving atomic.Bool // a close frame was sent: what comes is for nobody, until the client's
}

// begin sets limits and begins to ask a silent client whether it is there.
func (c *conn) begin() {
	c.ws.SetReadLimit(int64(c.s.o.MaxMessage))
	c.quit = make(chan struct{})
	c.alive()
	c.ws.SetPongHandler(func(string) error { c.alive(); return nil })
	c.ws.SetPingHandler(func(data string) error {
		c.alive()
		err := c.ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(c.s.o.WriteTimeout))
		if errors.Is(err, websocket.ErrCloseSent) {
			return nil
		}
		return err
	})
	c.ws.SetCloseHandler(func(int, string) error { return nil }) // answered with what the upstream says
	c.wg.Go(func() {
		tick := time.NewTicker(c.s.o.Ping)
		defer tick.Stop()
		for {
			select {
			case <-c.quit:
				return
			case <-tick.C:
			}
			if c.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(c.s.o.WriteTimeout)) != nil {
				return // the reader learns of it too
			}
		}
	})
}

// alive gives the client two pings' time from now.
func (c *conn) alive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.leaving.Load() {
		_ = c.ws.SetReadDeadline(time.Now().Add(2 * c.s.o.Ping))
	}
}

// read returns the next message of the client. A *closing error is its close.
func (c *conn) read() (kind byte, message []byte, err error) {
	c.alive() // it may have waited for the upstream for long
	t, in, err := c.ws.NextReader()
	if err == nil {
		// The library's limit is of what was sent, which may be compressed.
		if message, err = io.ReadAll(io.LimitReader(in, int64(c.s.o.MaxMessage)+1)); len(message) > c.s.o.MaxMessage {
			err = &clientFault{closing{closeTooLarge, "message too large"}}
		}
	}
	if err != nil {
		return 0, nil, err
	}
	c.alive()
	c.x.Received += int64(len(message))
	if t == websocket.TextMessage {
		if !utf8.Valid(message) {
			return 0, nil, &clientFault{closing{closeInvalid, "text is not UTF-8"}}
		}
		return kindText, message, nil
	}
	return kindBytes, message, nil
}

// clientFault is what the client is closed for.
type clientFault struct{ closing }

func (e *clientFault) Error() string { return fmt.Sprintf("closed with %d: %s", e.Code, e.Reason) }

// write sends a message to the client.
func (c *conn) write(kind byte, message []byte) error {
	t := websocket.BinaryMessage
	if kind == kindText {
		t = websocket.TextMessage
	}
	_ = c.ws.SetWriteDeadline(time.Now().Add(c.s.o.WriteTimeout))
	return c.ws.WriteMessage(t, message)
}

// ended is how the connection is closed after its reader's error, and what the upstream
// is told.
func (c *conn) ended(err error) (answer, tell closing) {
	var fault *clientFault
	var closed *websocket.CloseError
	switch {
	case errors.As(err, &fault):
		return fault.closing, fault.closing
	case errors.Is(err, websocket.ErrReadLimit):
		e := closing{closeTooLarge, "message too large"}
		return e, e
	case errors.As(err, &closed):
		tell = closing{uint16(closed.Code), closed.Text}
		c.goodbye = closed.Code == closeNoStatus || sendable(tell.Code)
		if closed.Code == closeNoStatus {
			return closing{closeNormal, ""}, closing{closeNormal, ""}
		}
		if !sendable(tell.Code) { // the connection broke off, which no frame says
			return closing{}, closing{closeGoingAway, "connection lost"}
		}
		return tell, tell
	}
	var timeout net.Error
	if errors.As(err, &timeout) {
		return closing{}, closing{closeGoingAway, "client is silent"}
	}
	// The library closed with a protocol error of its own, and said so.
	return closing{}, closing{closeProtocol, "client broke the protocol"}
}

// closeWait is how long a client may take to answer a close frame.
const closeWait = 2 * time.Second

// leave sends a close frame, once.
func (c *conn) leave(e closing) {
	if e.Code == 0 {
		return
	}
	c.mu.Lock()
	before := c.leaving.Swap(true)
	if !before {
		_ = c.ws.SetReadDeadline(time.Now().Add(closeWait))
	}
	c.mu.Unlock()
	if before {
		return
	}
	message := websocket.FormatCloseMessage(int(e.Code), e.Reason)
	_ = c.ws.WriteControl(websocket.CloseMessage, message, time.Now().Add(c.s.o.WriteTimeout)) // the client is gone if it fails
}

// close ends the connection. The reader has ended.
func (c *conn) close(e closing) {
	close(c.quit)
	c.leave(e)
	nc := c.ws.NetConn()
	if half, ok := nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		// Closed with bytes unread the kernel would reset the connection, and the client
		// might never see why. One that knows its manners closes now too.
		_ = nc.SetReadDeadline(time.Now().Add(closeWait / 2))
		_, _ = io.Copy(io.Discard, io.LimitReader(nc, mebibyte))
	}
	_ = c.ws.Close()
	c.wg.Wait()
}

// stream joins the WebSocket with a byte stream of messages.
func (c *conn) stream(st *Stream) closing {
	up := make(chan closing, 1)
	down := make(chan closing, 1)
	c.wg.Go(func() { up <- c.upward(st) })
	c.wg.Go(func() { down <- c.downward(st) })
	select {
	case e := <-up:
		// The upstream was told, and may end what it was saying before the close is
		// answered (RFC 6455 §5.5.1). Who broke the rules hears nothing more.
		if c.goodbye {
			late := time.AfterFunc(closeWait, func() { st.Close(nil) })
			<-down
			late.Stop()
			st.Close(nil)
			return e
		}
		st.Close(nil)
		<-down
		return e
	case e := <-down:
		if c.leave(e); e.Code == 0 {
			_ = c.ws.Close() // the client is gone
		}
		st.Close(nil)
		<-up
		return e
	}
}

// upward sends the client's messages to the upstream.
func (c *conn) upward(st *Stream) closing {
	for {
		kind, message, err := c.read()
		if c.leaving.Load() {
			if err != nil {
				return closing{}
			}
			continue // bound: closeWait
		}
		if err != nil {
			answer, tell := c.ended(err)
			st.SetWriteDeadline(time.Now().Add(c.s.o.WriteTimeout))
			if _, err := st.Write(appendClosing(nil, tell)); err == nil {
				_ = st.CloseWrite() // it is reset if it fails
			}
			return answer
		}
		if _, err := st.Write(appendFrame(nil, kind, message)); err != nil {
			return closeOf(err)
		}
	}
}

// downward sends the upstream's messages to the client.
func (c *conn) downward(st *Stream) closing {
	in := newFrames(st, c.s.o.MaxMessage)
	for {
		kind, message, end, err := in.next()
		switch {
		case errors.Is(err, io.EOF):
			return closing{closeNormal, ""}
		case err != nil:
			return closeOf(err)
		case end != nil:
			if !sendable(end.Code) {
				return closing{closeInternal, "upstream's close code is not valid"}
			}
			return *end
		}
		if err := c.write(kind, message); err != nil {
			return closing{} // the client is gone
		}
		c.x.Sent += int64(len(message))
	}
}

// requests makes a REQUEST of each message.
func (c *conn) requests(ctx context.Context, call Call) closing {
	for {
		kind, message, err := c.read()
		if err != nil {
			answer, _ := c.ended(err)
			return answer
		}
		call.Request.Payload = message
		resp, err := c.s.o.Cluster.Do(ctx, call)
		if err != nil {
			c.x.Note(err)
			return closeOf(err)
		}
		if kind == kindText && !utf8.Valid(resp.Payload) {
			kind = kindBytes
		}
		if err := c.write(kind, resp.Payload); err != nil {
			return closing{}
		}
	}
}

// hijackable makes of a request the one that the library knows: of HTTP/1.1, on a writer
// that can be hijacked. An extended CONNECT is a tunnel already.
func hijackable(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request) {
	if r.Method != http.MethodConnect {
		return hijacker{w}, r
	}
	inner := r.WithContext(r.Context())
	inner.Method = http.MethodGet
	inner.Header = r.Header.Clone()
	inner.Header.Set("Connection", "Upgrade")
	inner.Header.Set("Upgrade", "websocket")
	inner.Header.Set("Sec-Websocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==") // nobody sees the answer to it
	return &tunnel{ResponseWriter: w, r: r}, inner
}

// hijacker finds what hijacks through Unwrap.
type hijacker struct{ http.ResponseWriter }

// Hijack implements http.Hijacker.
func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(h.ResponseWriter).Hijack()
}

// tunnel is a stream of HTTP/2 or 3 that looks like a hijacked connection. What is first
// written to it is the head of a 101 answer, and becomes the stream's own head.
type tunnel struct {
	http.ResponseWriter
	r     *http.Request
	begun bool
}

// Hijack implements http.Hijacker.
func (t *tunnel) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t, bufio.NewReadWriter(bufio.NewReaderSize(t, 4<<10), bufio.NewWriterSize(t, 4<<10)), nil
}

// Read implements net.Conn.
func (t *tunnel) Read(p []byte) (int, error) { return t.r.Body.Read(p) }

// Write implements net.Conn.
func (t *tunnel) Write(p []byte) (int, error) {
	if !t.begun {
		t.begun = true
		head, err := http.ReadResponse(bufio.NewReader(strings.NewReader(string(p))), nil)
		if err != nil {
			return 0, err
		}
		for _, name := range [...]string{"Sec-Websocket-Protocol", "Sec-Websocket-Extensions"} {
			if v := head.Header.Get(name); v != "" {
				t.Header().Set(name, v)
			}
		}
		t.WriteHeader(http.StatusOK)
		return len(p), http.NewResponseController(t.ResponseWriter).Flush()
	}
	n, err := t.ResponseWriter.Write(p)
	if err == nil {
		err = http.NewResponseController(t.ResponseWriter).Flush()
	}
	return n, err
}

// Close ends the client's direction; the handler's return ends the other.
func (t *tunnel) Close() error { return t.r.Body.Close() }

// LocalAddr implements net.Conn.
func (t *tunnel) LocalAddr() net.Addr { return tunnelAddr{} }

// RemoteAddr implements net.Conn.
func (t *tunnel) RemoteAddr() net.Addr { return tunnelAddr{} }

// SetDeadline implements net.Conn.
func (t *tunnel) SetDeadline(at time.Time) error {
	return errors.Join(t.SetReadDeadline(at), t.SetWriteDeadline(at))
}

// SetReadDeadline implements net.Conn.
func (t *tunnel) SetReadDeadline(at time.Time) error {
	return http.NewResponseController(t.ResponseWriter).SetReadDeadline(at)
}

// SetWriteDeadline implements net.Conn.
func (t *tunnel) SetWriteDeadline(at time.Time) error {
	return http.NewResponseController(t.ResponseWriter).SetWriteDeadline(at)
}

type tunnelAddr struct{}

func (tunnelAddr) Network() string { return "http" }
func (tunnelAddr) String() string  { return "stream" }
