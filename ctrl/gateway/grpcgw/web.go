package grpcgw

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// web is the stage that makes gRPC of gRPC-Web and gRPC-Web of the answer.
type web struct {
	trailers int // most bytes of the trailers' frame
	next     http.Handler
}

const webTrailers = 64 << 10

// webType splits application/grpc-web, application/grpc-web-text and what follows them.
func webType(contentType string) (text bool, suffix string, ok bool) {
	rest, ok := strings.CutPrefix(contentType, "application/grpc-web")
	if !ok {
		return false, "", false
	}
	if after, is := strings.CutPrefix(rest, "-text"); is {
		text, rest = true, after
	}
	if rest != "" && rest[0] != '+' && rest[0] != ';' {
		return false, "", false
	}
	return text, rest, true
}

func (s *web) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, suffix, ok := webType(r.Header.Get("Content-Type"))
	if !ok {
		s.next.ServeHTTP(w, r)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		exchange.Refuse(w, r, exchange.MethodNotAllowed, "gRPC-Web is POST")
		return
	}
	inner := r.WithContext(r.Context())
	inner.Header = r.Header.Clone()
	inner.Header.Set("Content-Type", "application/grpc"+suffix)
	inner.Header.Set("Te", "trailers")
	inner.Header.Del("Accept")
	answerText := text
	if accept := r.Header.Get("Accept"); accept != "" {
		if t, _, ok := webType(accept); ok {
			answerText = t
		}
	}
	if text && r.Body != nil {
		inner.Header.Del("Content-Length")
		inner.ContentLength = -1
		inner.Body = &pieces{body: r.Body}
	}
	out := &webWriter{w: w, header: http.Header{}, text: answerText, most: s.trailers}
	defer func() { out.finish(r, recover()) }()
	s.next.ServeHTTP(out, inner)
}

// pieces decodes base64 that comes in pieces, each with its own padding.
type pieces struct {
	body io.ReadCloser
	raw  []byte // not decoded yet: less than four characters between reads
	out  []byte // decoded, not read yet
	buf  [4 << 10]byte
	err  error
}

var errBase64 = errors.New("the body is not base64, as application/grpc-web-text has it")

func (p *pieces) Read(dst []byte) (int, error) {
	if len(dst) == 0 {
		return 0, nil
	}
	for len(p.out) == 0 {
		if p.err != nil {
			return 0, p.err
		}
		n, err := p.body.Read(p.buf[:])
		p.raw = append(p.raw, p.buf[:n]...)
		p.decode()
		if p.err == nil && err != nil {
			p.err = err
			if errors.Is(err, io.EOF) && len(p.raw) > 0 {
				p.err = errBase64
			}
		}
	}
	n := copy(dst, p.out)
	p.out = p.out[n:]
	return n, nil
}

// decode takes all whole groups of four. A group with padding ends a piece; what follows
// begins another.
func (p *pieces) decode() {
	p.out = p.out[:0]
	for len(p.raw) >= 4 { // bound: each turn takes at least four
		end := len(p.raw) &^ 3
		if i := slices.Index(p.raw[:end], '='); i >= 0 {
			end = i&^3 + 4
		}
		at := len(p.out)
		p.out = append(p.out, make([]byte, base64.StdEncoding.DecodedLen(end))...)
		n, err := base64.StdEncoding.Strict().Decode(p.out[at:], p.raw[:end])
		if err != nil || slices.ContainsFunc(p.raw[:end], func(c byte) bool { return c == '\r' || c == '\n' }) {
			p.out, p.raw, p.err = p.out[:at], nil, errBase64
			return
		}
		p.out = p.out[:at+n]
		p.raw = append(p.raw[:0], p.raw[end:]...)
	}
}

func (p *pieces) Close() error { return p.body.Close() }

// webWriter puts the trailers of an answer into its body.
type webWriter struct {
	w         http.ResponseWriter
	header    http.Header // what the rest of the gateway sees
	text      bool
	most      int
	wrote     bool
	grpc      bool
	body      bool
	announced []string
	rest      []byte // text: up to two bytes that make no group of four characters yet
}

func (o *webWriter) Header() http.Header { return o.header }

// Unwrap is for http.ResponseController.
func (o *webWriter) Unwrap() http.ResponseWriter { return o.w }

func (o *webWriter) WriteHeader(code int) {
	if code >= 100 && code < 200 || o.wrote {
		return
	}
	o.wrote = true
	o.announced = announcedTrailers(o.header)
	h := o.w.Header()
	maps.Copy(h, o.header)
	t := o.header.Get("Content-Type")
	if o.grpc = isGRPCType(t); o.grpc {
		kind := "application/grpc-web"
		if o.text {
			kind = "application/grpc-web-text"
		}
		h.Set("Content-Type", kind+strings.TrimPrefix(t, "application/grpc"))
		h.Del("Content-Length")
	}
	h.Del("Trailer")
	for name := range h {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			delete(h, name)
		}
	}
	o.w.WriteHeader(code)
}

func (o *webWriter) Write(p []byte) (int, error) {
	if !o.wrote {
		o.WriteHeader(http.StatusOK)
	}
	o.body = o.body || len(p) > 0
	if !o.text || !o.grpc {
		return o.w.Write(p)
	}
	o.rest = append(o.rest, p...)
	n := len(o.rest) / 3 * 3
	if n > 0 {
		if _, err := io.WriteString(o.w, base64.StdEncoding.EncodeToString(o.rest[:n])); err != nil {
			return 0, err
		}
		o.rest = append(o.rest[:0], o.rest[n:]...)
	}
	return len(p), nil
}

// pad ends a piece of base64.
func (o *webWriter) pad() {
	if len(o.rest) > 0 {
		_, _ = io.WriteString(o.w, base64.StdEncoding.EncodeToString(o.rest)) // the client is gone if it fails
		o.rest = o.rest[:0]
	}
}

// Flush implements http.Flusher.
func (o *webWriter) Flush() {
	if !o.wrote {
		o.WriteHeader(http.StatusOK)
	}
	o.pad()
	_ = http.NewResponseController(o.w).Flush()
}

// finish writes the trailers' frame.
func (o *webWriter) finish(r *http.Request, panicked any) {
	if panicked != nil {
		gone := r.Context().Err() != nil && !errors.Is(r.Context().Err(), context.DeadlineExceeded)
		if panicked != http.ErrAbortHandler || !o.wrote || !o.grpc || gone {
			panic(panicked)
		}
	}
	if !o.wrote || !o.grpc {
		return
	}
	trailers := takeTrailers(o.header, o.announced)
	if trailers.Get("Grpc-Status") == "" {
		if !o.body && o.header.Get("Grpc-Status") != "" {
			return // trailers alone: they are in the head
		}
		code, message := statusOf(exchange.From(r.Context()).Reason, r.Context())
		trailers.Set("Grpc-Status", strconv.Itoa(code))
		trailers.Set("Grpc-Message", percentEncode(message))
	}
	frame := webTrailerFrame(trailers, o.most)
	if o.text {
		o.rest = append(o.rest, frame...)
		o.pad()
		return
	}
	_, _ = o.w.Write(frame) // the client is gone if it fails
}

// webTrailerFrame writes trailers as a message of gRPC-Web: lines as HTTP/1.1 has them,
// names in small letters. Those that find no room are left out, the status never.
func webTrailerFrame(trailers http.Header, most int) []byte {
	first := []string{"Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin"}
	names := slices.Sorted(maps.Keys(trailers))
	names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(first, n) })
	out := []byte{flagTrailers, 0, 0, 0, 0}
	for _, name := range append(first, names...) {
		for _, v := range trailers[name] {
			line := strings.ToLower(name) + ": " + strings.Map(oneLine, v) + "\r\n"
			if len(out)+len(line) <= most || name == "Grpc-Status" {
				out = append(out, line...)
			}
		}
	}
	binary.BigEndian.PutUint32(out[1:], uint32(len(out)-prefixSize))
	return out
}

// oneLine keeps a value from ending its line.
func oneLine(c rune) rune {
	if c == '\r' || c == '\n' || c == 0 {
		return ' '
	}
	return c
}
