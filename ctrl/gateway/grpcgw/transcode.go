package grpcgw

import (
	"context"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// JSONOptions say how JSON is read and written. The zero value is protojson's.
type JSONOptions struct {
	IgnoreUnknown bool     // fields of bodies that the message lacks are skipped
	IgnoreQuery   []string // query parameters that are skipped; "*": all that name no field
	EmitDefaults  bool     // fields without a value are written too
	ProtoNames    bool     // fields are called as in the .proto
	EnumNumbers   bool     // enums are written as numbers
	Stream        Stream   // for clients that accept anything
}

// Stream is how a stream of messages is written.
type Stream uint8

// Streams.
const (
	StreamLines  Stream = iota // application/x-ndjson
	StreamEvents               // text/event-stream
	StreamArray                // application/json, one array
)

// transcoder is the stage that makes gRPC of JSON over HTTP.
type transcoder struct {
	source    func() *bound // nil while there are no descriptors yet
	opts      JSONOptions
	limits    Limits
	unmatched bool // what no binding matches goes on as it is
	next      http.Handler
}

// bound is a schema with its tree of paths.
type bound struct {
	schema *Schema
	root   *node
	count  int
}

// holder is where a schema that may be replaced is found.
type holder struct{ p atomic.Pointer[bound] }

func mediaType(s string) string {
	t, _, err := mime.ParseMediaType(s)
	if err != nil && t == "" {
		return strings.TrimSpace(s)
	}
	return t
}

func (t *transcoder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if exchange.IsGRPC(r) {
		t.next.ServeHTTP(w, r)
		return
	}
	bound := t.source()
	if bound == nil {
		exchange.From(r.Context()).Note(errors.New("no descriptors were read yet"))
		exchange.Refuse(w, r, exchange.NoEndpoint, "the services' descriptors are not there yet")
		return
	}
	found, path := bound.root.lookup(r.URL.EscapedPath())
	b := found[r.Method]
	if b == nil && r.Method == http.MethodHead {
		b = found[http.MethodGet]
	}
	if b == nil {
		b = found["*"]
	}
	switch {
	case b != nil:
		t.serve(w, r, &codec{b: b, schema: bound.schema, opts: &t.opts, max: t.limits.RequestMessage,
			path: path, query: r.URL.RawQuery, content: r.Header.Get("Content-Type")})
	case t.unmatched:
		t.next.ServeHTTP(w, r)
	case found != nil:
		w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(found)), ", "))
		exchange.Refuse(w, r, exchange.MethodNotAllowed, "")
	default:
		exchange.Refuse(w, r, exchange.NoRoute, "no method of a service is bound to this path")
	}
}

// serve sends a request on as gRPC.
func (t *transcoder) serve(w http.ResponseWriter, r *http.Request, c *codec) {
	m := c.b.method.desc
	out := &answer{w: w, r: r, codec: c, header: http.Header{}, max: t.limits.ResponseMessage}
	if c.b.rawBody() == nil && !isJSON(r.Header) && !(r.ContentLength == 0 && r.Body == http.NoBody) {
		exchange.Refuse(w, r, exchange.UnsupportedMedia, "expected application/json")
		return
	}
	if e := strings.Join(r.Header["Content-Encoding"], ","); e != "" && !strings.EqualFold(e, "identity") {
		w.Header().Set("Accept-Encoding", "identity") // RFC 9110 §12.5.3
		exchange.Refuse(w, r, exchange.UnsupportedMedia, "expected a body without Content-Encoding")
		return
	}
	if m.IsStreamingServer() {
		if !out.negotiate(t.opts.Stream) {
			exchange.Refuse(w, r, exchange.NotAcceptable, "a stream is application/x-ndjson, text/event-stream or application/json")
			return
		}
	}
	body := r.Body
	if body == nil {
		body = http.NoBody
	}
	inner := r.WithContext(r.Context())
	inner.Header = grpcHeader(r.Header)
	inner.Method = http.MethodPost
	u := *r.URL
	u.Path, u.RawPath, u.RawQuery = c.b.method.path, "", ""
	inner.URL = &u
	inner.RequestURI = c.b.method.path
	inner.Trailer = nil
	inner.TransferEncoding = nil
	if m.IsStreamingClient() {
		// On HTTP/1.1 the answer of some methods begins before the request ended.
		_ = http.NewResponseController(w).EnableFullDuplex()
		out.upload = newUpload(c, body)
		inner.Body, inner.ContentLength = out.upload, -1
	} else {
		raw, err := whole(body, c.max)
		var one []byte
		if err == nil {
			one, err = c.message(raw, true)
		}
		if err != nil {
			out.clientError(err)
			return
		}
		frame := appendMessage(nil, one)
		inner.Body, inner.ContentLength = io.NopCloser(newRepeat(frame, inner)), int64(len(frame))
	}
	defer func() { out.finish(recover()) }()
	t.next.ServeHTTP(out, inner)
}

// newRepeat makes a body that a try after the first can have again.
func newRepeat(frame []byte, r *http.Request) io.Reader {
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(frame))), nil }
	return strings.NewReader(string(frame))
}

// grpcHeader is what goes to the backend of a client's fields: not what describes the
// body, and not what the client may only mean for this hop.
func grpcHeader(in http.Header) http.Header {
	h := in.Clone()
	for _, name := range [...]string{"Content-Length", "Content-Encoding", "Accept", "Accept-Encoding", "Expect", "Trailer",
		"Grpc-Encoding", "Grpc-Accept-Encoding", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Range", "If-Range"} {
		h.Del(name)
	}
	h.Set("Content-Type", "application/grpc+proto")
	h.Set("Te", "trailers")
	return h
}

// negotiate finds how a stream is written; false: the client takes none of the ways.
func (o *answer) negotiate(byDefault Stream) bool {
	o.streams = true
	o.stream = byDefault
	if o.codec.b.rawAnswer() {
		return true
	}
	accept := strings.Join(o.r.Header.Values("Accept"), ",")
	if strings.TrimSpace(accept) == "" {
		return true
	}
	best, any := 0.0, false
	for one := range strings.SplitSeq(accept, ",") {
		kind, params, err := mime.ParseMediaType(one)
		if err != nil {
			continue
		}
		q := quality(params["q"])
		var s Stream
		switch kind {
		case "application/x-ndjson", "application/ndjson", "application/stream+json":
			s = StreamLines
		case "text/event-stream":
			s = StreamEvents
		case "application/json":
			s = StreamArray
		case "*/*":
			s = byDefault
		default:
			continue
		}
		if q > best {
			o.stream, best, any = s, q, true
		}
	}
	return any
}

// quality reads a q parameter; what is none counts as 1 when it is absent, else as 0.
func quality(s string) float64 {
	if s == "" {
		return 1
	}
	q, err := parseFloat(s, 64)
	if err != nil || !(q >= 0 && q <= 1) {
		return 0
	}
	return q
}

// deadline says whether a context ended by its deadline.
func deadline(ctx context.Context) bool { return errors.Is(ctx.Err(), context.DeadlineExceeded) }
