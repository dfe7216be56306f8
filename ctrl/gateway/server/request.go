package server

import (
	"fmt"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// refuse answers a request that no handler sees.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, no fault, line string) {
	if s.c.Refuse != nil {
		s.c.Refuse(w, r, no.why, no.detail, line)
		return
	}
	exchange.Refuse(w, r, no.why, no.detail)
}

// patient says whether a request's body may stand still: it is one side of a conversation.
func patient(r *http.Request) bool { return r.Method == http.MethodConnect || exchange.IsGRPC(r) }

// handle calls the handler.
func (s *Server) handle(c *Conn, w http.ResponseWriter, r *http.Request, protocol int) {
	s.requests[protocol].Add(1)
	c.running.Add(1)
	s.running.Add(1)
	defer s.handled(c)
	if s.altSvc != "" && protocol < 2 {
		w.Header()["Alt-Svc"] = []string{s.altSvc}
	}
	s.c.Handler.ServeHTTP(w, r)
}

// handled counts the handler's end, and a panic: the engine then breaks the answer off, as
// it does for http.ErrAbortHandler, which is no fault.
func (s *Server) handled(c *Conn) {
	s.running.Add(-1)
	c.last.Store(s.now())
	c.running.Add(-1)
	v := recover()
	if v == nil {
		return
	}
	if v != http.ErrAbortHandler {
		s.panics.Add(1)
		s.c.Log.Error("a handler failed", "listener", s.c.Name, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	}
	panic(http.ErrAbortHandler)
}

// judge looks for what the engines of HTTP/2 and HTTP/3 let through and what would be read
// otherwise as HTTP/1.1 (RFC 9113 §10.3). Names and values of fields they have looked at.
func (s *Server) judge(r *http.Request) fault {
	if len(r.RequestURI) > s.c.Limits.URIBytes {
		return fault{exchange.URITooLong, ""}
	}
	if len(r.Method) > maxMethod {
		return bad("method that is too long")
	}
	for i := range len(r.Method) {
		if !tokenByte(r.Method[i]) {
			return bad("method that is no token")
		}
	}
	if no := targetFault(r); no.set() {
		return no
	}
	if no := hostFault(r.Host, false); no.set() {
		return no
	}
	fields := 0
	for name, values := range r.Header {
		if fields += len(values); fields > s.c.Limits.Fields {
			return fault{exchange.HeaderTooLarge, "too many fields"}
		}
		if strings.IndexByte(name, '_') >= 0 && framing([]byte(name)) {
			return bad("field of the framing with an underscore")
		}
	}
	return lengthFault(r)
}

func targetFault(r *http.Request) fault {
	if r.Method == http.MethodConnect && r.URL.Path == "" { // extended CONNECT (RFC 8441) has a path
		return hostFault(r.Host, true)
	}
	if r.RequestURI == "*" {
		if r.Method != http.MethodOptions {
			return bad("target * with a method other than OPTIONS")
		}
		return fault{}
	}
	if !strings.HasPrefix(r.RequestURI, "/") {
		return bad("target that is no path")
	}
	return pathFault(r.RequestURI)
}

// lengthFault compares Content-Length with what the frames say: a length beside an ended
// stream would be a body in HTTP/1.1 (RFC 9113 §8.1.1).
func lengthFault(r *http.Request) fault {
	values, ok := r.Header["Content-Length"]
	if !ok {
		return fault{}
	}
	var h head
	if len(values) != 1 {
		return bad("more than one Content-Length")
	}
	if no := h.contentLength(nil, []byte(values[0])); no.set() {
		return no
	}
	if h.length != r.ContentLength {
		return bad("Content-Length other than the body's")
	}
	return fault{}
}

// Client returns whom a request is from: the rightmost address of X-Forwarded-For that no
// trusted proxy vouches for away, where the connection's own client is trusted to begin
// with; else that client. The port is 0 where only an address is known.
func Client(r *http.Request) netip.AddrPort {
	c := From(r.Context())
	if c == nil {
		return netip.AddrPort{}
	}
	trusted := c.server.c.Forwarded
	client := c.Client
	if len(trusted) == 0 || client.IsValid() && !within(trusted, client.Addr()) {
		return client
	}
	lines := r.Header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- { // bound: a head's bytes
		for rest := lines[i]; ; {
			at := strings.LastIndexByte(rest, ',')
			a, ok := forwardedAddr(rest[at+1:])
			if !ok { // what is left of it nobody vouches for
				return client
			}
			client = a
			if !within(trusted, a.Addr()) {
				return client
			}
			if at < 0 {
				break
			}
			rest = rest[:at]
		}
	}
	return client
}

// forwardedAddr reads an address as proxies write it: with a port or without, IPv6 with
// brackets or without.
func forwardedAddr(s string) (netip.AddrPort, bool) {
	s = strings.Trim(s, " \t")
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a.Unmap().WithZone(""), 0), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()), true
	}
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		if a, err := netip.ParseAddr(s[1 : len(s)-1]); err == nil && a.Is6() {
			return netip.AddrPortFrom(a.Unmap().WithZone(""), 0), true
		}
	}
	return netip.AddrPort{}, false
}
