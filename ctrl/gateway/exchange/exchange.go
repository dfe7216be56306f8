package exchange

import (
	"context"
	"crypto/tls"
	"net/netip"
	"time"
)

// Exchange is one request and its answer.
type Exchange struct {
	ID       string               // X-Request-Id, the client's if it is trusted, else made
	Start    time.Time            // when the head of the request was read
	Listener string               // its name
	Protocol string               // "http/1.1", "h2", "h3" or "npro"
	Peer     netip.AddrPort       // the other end of the connection, or what its PROXY header says; invalid on Unix sockets
	Client   netip.AddrPort       // for whom: Peer, or what a trusted proxy says; its port is 0 where nobody says it
	Trusted  bool                 // Peer is a proxy in front whose word is believed
	TLS      *tls.ConnectionState // nil: none
	Host     string               // as the client asked, whatever a route makes of it

	Route string // name; "": none matched
	Vars  []Var  // of the route's pattern, in its order

	Identity *Identity // nil: nobody was asked, or nobody is known

	Upstream string // name; "": none was asked
	Endpoint string // address of the last one asked
	Tries    int    // requests sent to endpoints

	Streams bool // the answer may go on for as long as both sides like, whatever it looks like

	TraceID [16]byte // W3C trace context; zero: none
	SpanID  [8]byte  // of the gateway's own span
	Sampled bool
	Spans   Spans // nil: traces are nobody's matter here, and their fields pass as they came

	Reason Reason // what ended the exchange otherwise than as asked; the first one stays
	notes  []error

	// Of the answer, by the entry handler.
	Status    int
	Received  int64         // bytes of the request's body
	Sent      int64         // bytes of the answer's body
	FirstByte time.Duration // from Start to the answer's head; 0: none was sent
}

// Var is a variable of a route's pattern with the value that the path had there.
type Var struct{ Name, Value string }

// Var returns the value of a variable of the route's pattern.
func (x *Exchange) Var(name string) (string, bool) {
	for _, v := range x.Vars { // bound: the route's pattern
		if v.Name == name {
			return v.Value, true
		}
	}
	return "", false
}

// Identity is who a request is from, as far as it was proved.
type Identity struct {
	Provider string              // the name of the configured provider that vouches for it
	Subject  string              // user, key's name, token's sub, certificate's name
	Scopes   []string            // what it may do, as a token says
	Claims   map[string]any      // of a token, as JSON decodes them; not to be altered
	Groups   map[string]struct{} // that it belongs to; nil: none
}

// maxNotes bounds what one request can put into a log.
const maxNotes = 8

// Note remembers an error for the logs. It is never shown to the client.
func (x *Exchange) Note(err error) {
	if err != nil && len(x.notes) < maxNotes {
		x.notes = append(x.notes, err)
	}
}

// Notes returns what was noted, oldest first.
func (x *Exchange) Notes() []error { return x.notes }

// Fail sets the reason unless there is one: what failed first is the cause.
func (x *Exchange) Fail(r Reason) {
	if x.Reason == None {
		x.Reason = r
	}
}

type key struct{}

// With returns a context that carries x: ctx itself, if it has room for it ([Slot]).
func With(ctx context.Context, x *Exchange) context.Context {
	if h, ok := ctx.(holder); ok && h.HoldExchange(x) {
		return ctx
	}
	return context.WithValue(ctx, key{}, x)
}

// From returns the context's exchange. Without one it returns an empty one, so that a
// part can be used and tested by itself; what is written there is lost.
func From(ctx context.Context) *Exchange {
	if x, ok := ctx.Value(key{}).(*Exchange); ok {
		return x
	}
	return &Exchange{}
}
