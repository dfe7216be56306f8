package server

import (
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"github.com/np-appliance/np/ctrl/cancel"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// h1exchange is a request of HTTP/1.1 and its answer: one allocation for all that belongs
// to both. It is made anew for each request, because handlers leave contexts, fields and
// bodies to goroutines that may outlast them.
type h1exchange struct {
	c    *h1conn
	req  http.Request
	url  url.URL
	ctx  h1context
	body h1body
	h1answer

	keep bool // the connection may carry another request, as far as this one says
}

// h1context is a request's context. What the connection is for and the exchange are part
// of it, so that nothing is put around it.
type h1context struct {
	cancel.Context
	exchange.Slot
	conn *Conn
}

// Value implements context.Context.
func (x *h1context) Value(key any) any {
	switch key {
	case any(connKey{}):
		return x.conn
	case any(http.LocalAddrContextKey):
		return x.conn.Local
	}
	if v := x.Held(key); v != nil {
		return v
	}
	return x.Context.Value(key)
}

// newExchange makes a request of a head that was judged.
func (c *h1conn) newExchange(b []byte) (*h1exchange, fault) {
	h, s := &c.h, string(b) // all that is kept of the head is part of s
	x := &h1exchange{c: c}
	x.ctx.conn = c.conn
	x.ctx.Init(&c.ctx)
	r := &x.req
	*r = *r.WithContext(&x.ctx)
	r.Method, r.RequestURI = s[:h.method], s[h.method+1:h.target]
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	if h.version == '0' {
		r.Proto, r.ProtoMinor = "HTTP/1.0", 0
	}
	r.RemoteAddr, r.TLS = c.remote, c.conn.TLS
	if no := x.target(h); no.set() {
		return x, no
	}
	x.fields(h, s)
	r.ContentLength, r.Body = h.length, http.NoBody
	if h.chunked {
		r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
		if no := x.announced(); no.set() {
			return x, no
		}
	}
	x.keep = h.version == '1'
	for _, v := range r.Header["Connection"] {
		for option := range strings.SplitSeq(v, ",") {
			switch option = strings.Trim(option, " \t"); {
			case strings.EqualFold(option, "close"):
				r.Close = true
			case strings.EqualFold(option, "keep-alive"):
				x.keep = true
			}
		}
	}
	r.Close = r.Close || !x.keep
	x.keep = !r.Close
	x.h1answer.init(x)
	if r.ContentLength != 0 {
		x.body.init(x, h)
		r.Body = &x.body
	}
	return x, fault{}
}

// target makes the URL. Of a CONNECT it is host and port alone.
func (x *h1exchange) target(h *head) fault {
	r := &x.req
	r.URL = &x.url
	switch {
	case h.connect:
		r.URL.Host, r.Host = r.RequestURI, r.RequestURI
		return fault{}
	case !h.absolute && plainTarget(r.RequestURI, r.URL):
		return fault{}
	}
	u, err := url.ParseRequestURI(r.RequestURI)
	if err != nil {
		return bad("target that is no URI")
	}
	r.URL, r.Host = u, u.Host
	return fault{}
}

// plainTarget makes the URL of a path in which nothing is escaped or ought to be; false:
// it is another. It is what url.ParseRequestURI makes of it.
func plainTarget(target string, u *url.URL) bool {
	for i := range len(target) {
		switch {
		case target[i] == '?':
			u.Path, u.RawQuery = target[:i], target[i+1:]
			u.ForceQuery = u.RawQuery == ""
			return true
		case !plainByte(target[i]):
			return false
		}
	}
	if target == "*" {
		return false
	}
	u.Path = target
	return true
}

// fields makes the header. Host is apart, and of Transfer-Encoding there is nothing but
// chunked, as net/http has it.
func (x *h1exchange) fields(h *head, s string) {
	r := &x.req
	r.Header = make(http.Header, len(h.fields))
	values := make([]string, len(h.fields))
	for i := range h.fields {
		f := &h.fields[i]
		value := s[f.value:f.end]
		switch f.what {
		case fieldHost:
			if !h.absolute && !h.connect {
				r.Host = value
			}
			continue
		case fieldCoding:
			continue
		}
		name := canonical(s[f.name:f.colon])
		if old, ok := r.Header[name]; ok {
			r.Header[name] = append(old, value)
			continue
		}
		values[0] = value
		r.Header[name], values = values[:1:1], values[1:]
	}
}

// canonical is a name as http.Header has it.
func canonical(name string) string {
	upper := true
	for i := range len(name) {
		c := name[i]
		if upper && 'a' <= c && c <= 'z' || !upper && 'A' <= c && c <= 'Z' {
			return textproto.CanonicalMIMEHeaderKey(name)
		}
		upper = c == '-'
	}
	return name
}

// announced takes what Trailer says out of the header (RFC 9110 §6.6.2).
func (x *h1exchange) announced() fault {
	r := &x.req
	values, ok := r.Header["Trailer"]
	if !ok {
		return fault{}
	}
	delete(r.Header, "Trailer")
	r.Trailer = http.Header{}
	for _, v := range values {
		for name := range strings.SplitSeq(v, ",") {
			name = canonical(strings.Trim(name, " \t"))
			if name == "" {
				continue
			}
			if framing([]byte(name)) {
				return bad("Trailer that names a field that says how the message is framed")
			}
			r.Trailer[name] = nil
		}
	}
	return fault{}
}

// standIn is the request that stands for one that was refused.
func (c *h1conn) standIn() *h1exchange {
	x := &h1exchange{c: c}
	x.ctx.conn = c.conn
	x.ctx.Init(&c.ctx)
	x.req = *x.req.WithContext(&x.ctx)
	x.url = url.URL{Path: "/"}
	r := &x.req
	r.Method, r.RequestURI, r.URL, r.Host = "REFUSED", "/", &x.url, "refused.invalid"
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	r.Header, r.Body, r.Close = http.Header{"Connection": {"close"}}, http.NoBody, true
	r.RemoteAddr, r.TLS = c.remote, c.conn.TLS
	x.h1answer.init(x)
	return x
}
