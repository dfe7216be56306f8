package bhttp

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Framing indicators (§3.3).
const (
	knownRequest    = 0
	knownResponse   = 1
	streamRequest   = 2
	streamResponse  = 3
	maxVarint       = 1<<62 - 1
	maxStatus       = 599
	minFinalStatus  = 200
	minStatus       = 100
	maxInformations = 8
)

// Request is a request, its body apart where it is a stream.
type Request struct {
	Method    string
	Scheme    string
	Authority string
	Path      string // with the query
	Header    http.Header
	Body      []byte
	Trailer   http.Header
}

// Response is an answer.
type Response struct {
	Status  int // 200 to 599
	Header  http.Header
	Body    []byte
	Trailer http.Header
}

// appendVarint adds a variable-length integer (RFC 9000 §16).
func appendVarint(dst []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(dst, byte(v))
	case v < 1<<14:
		return append(dst, byte(v>>8)|0x40, byte(v))
	case v < 1<<30:
		return append(dst, byte(v>>24)|0x80, byte(v>>16), byte(v>>8), byte(v))
	}
	return append(dst, byte(v>>56)|0xc0, byte(v>>48), byte(v>>40), byte(v>>32), byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

func appendBytes[T string | []byte](dst []byte, s T) []byte {
	return append(appendVarint(dst, uint64(len(s))), s...)
}

// connectionField says whether a field describes a connection (RFC 9110 §7.6.1).
func connectionField(lower string) bool {
	switch lower {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host":
		return true
	}
	return false
}

// appendFields adds field lines, in the order of their names.
func appendFields(dst []byte, h http.Header) ([]byte, error) {
	for _, name := range slices.Sorted(maps.Keys(h)) {
		lower := strings.ToLower(name)
		if connectionField(lower) {
			continue
		}
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, fmt.Errorf("field name %q is no token", name)
		}
		for _, v := range h[name] {
			if !httpguts.ValidHeaderFieldValue(v) {
				return nil, fmt.Errorf("field %s has a value with control characters", name)
			}
			dst = appendBytes(appendBytes(dst, lower), v)
		}
	}
	return dst, nil
}

// AppendRequest adds a request in the known-length form.
func AppendRequest(dst []byte, r *Request) ([]byte, error) {
	dst, err := appendControl(appendVarint(dst, knownRequest), r)
	if err != nil {
		return nil, err
	}
	return appendKnown(dst, r.Header, r.Body, r.Trailer)
}

// AppendResponse adds an answer in the known-length form.
func AppendResponse(dst []byte, r *Response) ([]byte, error) {
	if r.Status < minFinalStatus || r.Status > maxStatus {
		return nil, fmt.Errorf("status %d is none of an answer", r.Status)
	}
	return appendKnown(appendVarint(appendVarint(dst, knownResponse), uint64(r.Status)), r.Header, r.Body, r.Trailer)
}

func appendControl(dst []byte, r *Request) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	dst = appendBytes(appendBytes(dst, r.Method), r.Scheme)
	return appendBytes(appendBytes(dst, r.Authority), r.Path), nil
}

var (
	errMethod    = errors.New("the method is no token")
	errScheme    = errors.New("the scheme is neither http nor https")
	errAuthority = errors.New("the authority is none")
	errPath      = errors.New("the path is none")
)

// check holds what comes from outside and what goes there to the same rules.
func (r *Request) check() error {
	switch {
	case !httpguts.ValidHeaderFieldName(r.Method) || r.Method == http.MethodConnect:
		return errMethod
	case r.Scheme != "http" && r.Scheme != "https":
		return errScheme
	case r.Authority != "" && !httpguts.ValidHostHeader(r.Authority):
		return errAuthority
	case !validPath(r.Path, r.Method):
		return errPath
	}
	return nil
}

func validPath(p, method string) bool {
	if p == "*" {
		return method == http.MethodOptions
	}
	return strings.HasPrefix(p, "/") && !strings.ContainsFunc(p, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '#' })
}

func appendKnown(dst []byte, header http.Header, body []byte, trailer http.Header) ([]byte, error) {
	fields, err := appendFields(nil, header)
	if err != nil {
		return nil, err
	}
	dst = appendBytes(appendBytes(dst, fields), body)
	if fields, err = appendFields(nil, trailer); err != nil {
		return nil, err
	}
	return appendBytes(dst, fields), nil
}

// AppendRequestHead adds the head of a request whose body comes in chunks.
func AppendRequestHead(dst []byte, r *Request) ([]byte, error) {
	dst, err := appendControl(appendVarint(dst, streamRequest), r)
	if err != nil {
		return nil, err
	}
	return appendSection(dst, r.Header)
}

// AppendResponseHead adds the head of an answer whose body comes in chunks.
func AppendResponseHead(dst []byte, status int, header http.Header) ([]byte, error) {
	if status < minFinalStatus || status > maxStatus {
		return nil, fmt.Errorf("status %d is none of an answer", status)
	}
	return appendSection(appendVarint(appendVarint(dst, streamResponse), uint64(status)), header)
}

func appendSection(dst []byte, h http.Header) ([]byte, error) {
	dst, err := appendFields(dst, h)
	if err != nil {
		return nil, err
	}
	return append(dst, 0), nil
}

// AppendChunk adds a piece of a body; an empty one adds nothing.
func AppendChunk(dst, p []byte) []byte {
	if len(p) == 0 {
		return dst
	}
	return appendBytes(dst, p)
}

// AppendEnd ends a body and adds the trailer.
func AppendEnd(dst []byte, trailer http.Header) ([]byte, error) {
	return appendSection(append(dst, 0), trailer)
}
