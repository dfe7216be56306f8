package h1

import (
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

// Field is a field of a request.
type Field struct{ Name, Value string }

// Request is a request to be sent. Nothing in it is altered or kept.
type Request struct {
	Method string
	Target string // origin-form, or "*" for OPTIONS (RFC 9112 §3.2)
	Host   string

	// Header and then Set are sent. Of Header are left out the fields named in Set, those
	// for which Omit is true, and what this package writes itself: Host, Content-Length,
	// Transfer-Encoding, Connection, Keep-Alive, Proxy-Connection, TE, Trailer, Upgrade.
	Header http.Header
	Set    []Field
	Omit   func(name string) bool

	Content []byte    // the body, if it is there already; else
	Body    io.Reader // the body that is to be streamed, on another goroutine
	Length  int64     // of Body; 0: it is not read; -1: not known, sent chunked
	Trailer http.Header
	// Abort makes a Read of Body return that waits. It is called at most once, when the
	// response is over while Body is still being read. nil: Read returns by itself.
	Abort func()

	Continue bool   // sends Expect: 100-continue; Body is read only after 100, or ContinueTimeout
	Upgrade  string // sent as Upgrade; a 101 is taken as an answer
	Trailers bool   // sends TE: trailers
	Close    bool   // the connection isn't used again

	// Repeat: the request may be sent once more, as far as its method goes, when a
	// connection proves dead. Content is sent again; a Body only if nothing was read of it.
	Repeat bool

	// Informational gets 1xx responses other than 100 and 101; its error ends the request.
	Informational func(status int, header http.Header) error
}

// streams says whether there is a body to be streamed; one of length 0 is none.
func (q *Request) streams() bool { return q.Body != nil && q.Length != 0 }

// own are the fields that this package writes.
func own(name string) bool {
	switch name {
	case "Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Upgrade", "Expect":
		return true
	}
	return false
}

// Check tells why a request can't be sent, but for its framing and its fields.
func (q *Request) Check() error {
	if q.Method == "" || all(q.Method, token) >= 0 {
		return refuse("method %q, expected a token", q.Method)
	}
	if q.Method == http.MethodConnect {
		return refuse("CONNECT, which opens tunnels and isn't sent")
	}
	if q.Target == "" || q.Target[0] != '/' && q.Target != "*" || all(q.Target, target) >= 0 {
		return refuse("target %q, expected a path without spaces and control characters", q.Target)
	}
	if q.Body != nil && len(q.Content) > 0 {
		return refuse("both content and a body to be streamed")
	}
	if !hostOK(q.Host) {
		return refuse("host %q, expected a name or address and perhaps a port", q.Host)
	}
	return nil
}

// sent says whether a field of Header is sent.
func (q *Request) sent(name string) bool {
	return !own(name) && !(q.Omit != nil && q.Omit(name)) && !q.isSet(name)
}

// Fields returns the fields that are sent, but for those that this package writes, as a
// header of the caller's own, with values that are not to be altered. It is for other
// protocols that send the same request.
func (q *Request) Fields() http.Header {
	h := make(http.Header, len(q.Header)+len(q.Set))
	for name, values := range q.Header {
		if q.sent(name) {
			h[name] = values
		}
	}
	for _, f := range q.Set {
		h[f.Name] = append(h[f.Name], f.Value)
	}
	return h
}

// appendHead writes the request's head, or refuses one that can't be framed.
func (q *Request) appendHead(b []byte) ([]byte, error) {
	if err := q.Check(); err != nil {
		return b, err
	}
	b = append(b, q.Method...)
	b = append(b, ' ')
	b = append(b, q.Target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, q.Host...)
	b = append(b, '\r', '\n')
	var err error
	for name, values := range q.Header { // bound: the caller's fields
		if !q.sent(name) {
			continue
		}
		for _, v := range values {
			if b, err = appendField(b, name, v); err != nil {
				return b, err
			}
		}
	}
	for _, f := range q.Set {
		if own(textproto.CanonicalMIMEHeaderKey(f.Name)) {
			return b, refuse("field %s is set, expected it to be left to this package", f.Name)
		}
		if b, err = appendField(b, f.Name, f.Value); err != nil {
			return b, err
		}
	}
	if b, err = q.appendConnection(b); err != nil {
		return b, err
	}
	if b, err = q.appendFraming(b); err != nil {
		return b, err
	}
	return append(b, '\r', '\n'), nil
}

func (q *Request) isSet(name string) bool {
	for i := range q.Set {
		if q.Set[i].Name == name {
			return true
		}
	}
	return false
}

func appendField(b []byte, name, value string) ([]byte, error) {
	if name == "" || all(name, token) >= 0 {
		return b, refuse("field name %q, expected a token", name)
	}
	b = append(b, name...)
	b = append(b, ':', ' ')
	if i := all(value, field); i >= 0 {
		return b, refuse("byte %#02x in field %s", value[i], name)
	}
	b = append(b, value...)
	return append(b, '\r', '\n'), nil
}

// appendConnection writes the fields of this connection alone (RFC 9110 §7.6.1).
func (q *Request) appendConnection(b []byte) ([]byte, error) {
	options := make([]string, 0, 3)
	if q.Upgrade != "" {
		if i := all(q.Upgrade, field); i >= 0 {
			return b, refuse("byte %#02x in the protocol to upgrade to", q.Upgrade[i])
		}
		b = append(b, "Upgrade: "...)
		b = append(b, q.Upgrade...)
		b = append(b, '\r', '\n')
		options = append(options, "Upgrade")
	}
	if q.Trailers {
		b = append(b, "TE: trailers\r\n"...)
		options = append(options, "TE")
	}
	if q.Close {
		options = append(options, "close")
	}
	if len(options) > 0 {
		b = append(b, "Connection: "...)
		b = append(b, strings.Join(options, ", ")...)
		b = append(b, '\r', '\n')
	}
	return b, nil
}

// appendFraming writes what says where the body ends (RFC 9112 §6).
func (q *Request) appendFraming(b []byte) ([]byte, error) {
	switch {
	case !q.streams():
		if len(q.Content) == 0 && !wantsLength(q.Method) {
			return b, nil
		}
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(q.Content)), 10)
		return append(b, '\r', '\n'), nil
	case q.Continue:
		b = append(b, "Expect: 100-continue\r\n"...)
	}
	if q.Length >= 0 {
		if len(q.Trailer) > 0 {
			return b, refuse("a trailer after a body of known length, expected length -1")
		}
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, q.Length, 10)
		return append(b, '\r', '\n'), nil
	}
	if len(q.Trailer) > 0 {
		b = append(b, "Trailer: "...)
		first := true
		for name := range q.Trailer {
			if all(name, token) >= 0 {
				return b, refuse("trailer field %q, expected a token", name)
			}
			if !first {
				b = append(b, ", "...)
			}
			b, first = append(b, name...), false
		}
		b = append(b, '\r', '\n')
	}
	return append(b, "Transfer-Encoding: chunked\r\n"...), nil
}

// wantsLength: methods for which a body is usual say that there is none (RFC 9110 §8.6).
func wantsLength(method string) bool {
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		return true
	}
	return false
}

// hostOK: uri-host and port are made of these; what they mean is the server's to say.
func hostOK(h string) bool {
	for i := range len(h) {
		switch c := h[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("-._~%!$&'()*+,;=:[]", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// appendTrailer ends a chunked body.
func (q *Request) appendTrailer(b []byte) ([]byte, error) {
	b = append(b, "0\r\n"...)
	for name, values := range q.Trailer {
		for _, v := range values {
			var err error
			if b, err = appendField(b, name, v); err != nil {
				return b, err
			}
		}
	}
	return append(b, '\r', '\n'), nil
}
