package grpcgw

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// rest is the stage that makes HTTP with JSON of gRPC, for upstreams that speak no gRPC:
// the transcoder the other way round. Requests that are no gRPC pass as they are.
type rest struct {
	methods map[string][]*binding // by gRPC path; the rule itself, then its additional bindings
	schema  *Schema
	opts    JSONOptions
	limits  Limits
	prefix  string // of the upstream's paths
	next    http.Handler
}

// restMethods finds the rules of some services; none named: of all.
func (s *Schema) restMethods(services []string, auto bool) (map[string][]*binding, error) {
	out := map[string][]*binding{}
	var errs []error
	for path, m := range s.methods {
		if !named(services, m) {
			continue
		}
		list, err := m.bindings(auto)
		for _, b := range list {
			if err := b.expandable(); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", path, err))
			}
		}
		if err != nil {
			errs = append(errs, err)
		} else if len(list) > 0 {
			out[path] = list
		}
	}
	if len(out) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("no method has a google.api.http option, so no request could be made (auto_bind binds all)"))
	}
	return out, errors.Join(errs...)
}

func named(services []string, m *method) bool {
	if len(services) == 0 {
		return true
	}
	for _, s := range services {
		if string(m.desc.Parent().FullName()) == s {
			return true
		}
	}
	return false
}

// expandable tells of a path that no message can fill.
func (b *binding) expandable() error {
	covered := make([]bool, len(b.template.segments))
	for _, v := range b.template.vars {
		for i := v.first; i < v.last; i++ {
			covered[i] = true
		}
	}
	for i, s := range b.template.segments {
		if s.kind != segLiteral && !covered[i] {
			return fmt.Errorf("path template of %s: a wildcard that is no field's, so no request can be made of a message", b)
		}
	}
	return nil
}

// restPrefix checks the prefix of an upstream's paths.
func restPrefix(s string) error {
	u, err := url.ParseRequestURI(s)
	if s != "" && (err != nil || !strings.HasPrefix(s, "/") || strings.HasSuffix(s, "/") || u.EscapedPath() != s) {
		return fmt.Errorf("rest_prefix is %q, expected a path such as \"/api\", without a slash at its end", s)
	}
	return nil
}

func (s *rest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !exchange.IsGRPC(r) {
		s.next.ServeHTTP(w, r)
		return
	}
	list := s.methods[r.URL.Path]
	switch {
	case list == nil:
		exchange.Refuse(w, r, exchange.NoRoute, "no rule of google.api.http leads from this method to the upstream")
		return
	case list[0].method.desc.IsStreamingClient():
		exchange.Refuse(w, r, exchange.Unsupported, "the upstream speaks HTTP with JSON, which takes no stream of messages")
		return
	}
	switch mediaType(r.Header.Get("Content-Type")) {
	case "application/grpc", "application/grpc+proto":
	default:
		exchange.Refuse(w, r, exchange.UnsupportedMedia, "expected application/grpc with messages of protobuf")
		return
	}
	x := exchange.From(r.Context())
	inner, b, err := s.request(r, list)
	out := &restAnswer{w: w, ctx: r.Context(), x: x, b: b, schema: s.schema, opts: &s.opts, max: s.limits.ResponseMessage, header: http.Header{}}
	if err != nil {
		x.Note(err)
		x.Fail(exchange.BadRequest)
		out.fail(restStatus(w, err), nil)
		return
	}
	x.Streams = x.Streams || b.method.desc.IsStreamingServer()
	defer func() { out.finish(recover()) }()
	s.next.ServeHTTP(out, inner)
}

// errEncoding: a message is compressed in a way that is not known here.
var errEncoding = errors.New("grpc-encoding is not supported, expected identity or gzip")

// restStatus is what a client learns of a call that made no request.
func restStatus(w http.ResponseWriter, err error) *status.Status {
	switch {
	case errors.Is(err, errEncoding):
		w.Header().Set("Grpc-Accept-Encoding", "identity,gzip")
		return &status.Status{Code: exchange.GRPCUnimplemented, Message: err.Error()}
	case errors.Is(err, errTooLarge):
		return &status.Status{Code: exchange.GRPCResourceExhausted, Message: err.Error()}
	case errors.Is(err, errClient):
		return &status.Status{Code: exchange.GRPCInvalidArgument, Message: err.Error()}
	}
	return &status.Status{Code: exchange.GRPCInternal, Message: "the request's message broke off or is none"}
}

// request makes the request of a call's message.
func (s *rest) request(r *http.Request, list []*binding) (*http.Request, *binding, error) {
	raw, err := s.read(r)
	if err != nil {
		return nil, nil, err
	}
	m := dynamicpb.NewMessage(list[0].method.desc.Input())
	if err := (proto.UnmarshalOptions{Resolver: s.schema.types, RecursionLimit: maxJSONDepth}).Unmarshal(raw, m); err != nil {
		return nil, nil, bad(fmt.Errorf("the message is no %s", m.Descriptor().FullName()))
	}
	b, path, err := choose(list, m)
	if err != nil {
		return nil, nil, bad(err)
	}
	query, err := b.query(m, &s.opts)
	if err != nil {
		return nil, nil, bad(err)
	}
	body, kind, err := s.body(b, m)
	if err != nil {
		return nil, nil, bad(err)
	}
	inner := r.WithContext(r.Context())
	u := *r.URL
	u.RawPath, u.RawQuery = s.prefix+path, query
	if u.Path, err = url.PathUnescape(u.RawPath); err != nil {
		return nil, nil, fmt.Errorf("path %q: %w", path, err) // expand wrote it
	}
	inner.URL, inner.RequestURI = &u, u.RequestURI()
	if len(inner.RequestURI) > maxRequestURI {
		return nil, nil, bad(fmt.Errorf("the request's target would have %d bytes, at most %d", len(inner.RequestURI), maxRequestURI))
	}
	inner.Method = b.verb
	if b.verb == "*" {
		inner.Method = http.MethodPost
	}
	inner.Header = restHeader(r.Header, kind, list[0].method.desc.IsStreamingServer())
	inner.Trailer, inner.TransferEncoding = nil, nil
	inner.Body, inner.ContentLength = http.NoBody, 0
	if kind != "" {
		inner.Body, inner.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	return inner, b, nil
}

// maxRequestURI bounds what fields make of a target: servers take not much more.
const maxRequestURI = 8 << 10

// read reads the one message of a call.
func (s *rest) read(r *http.Request) ([]byte, error) {
	most := s.limits.RequestMessage
	raw, err := whole(r.Body, most+prefixSize)
	if err != nil {
		return nil, err
	}
	if len(raw) < prefixSize || uint64(binary.BigEndian.Uint32(raw[1:])) != uint64(len(raw)-prefixSize) {
		return nil, fmt.Errorf("%w: expected one message", errFrame)
	}
	message := raw[prefixSize:]
	if raw[0] == 0 {
		return message, nil
	}
	if r.Header.Get("Grpc-Encoding") != "gzip" {
		return nil, errEncoding
	}
	z, err := gzip.NewReader(bytes.NewReader(message))
	if err == nil {
		message, err = io.ReadAll(io.LimitReader(z, int64(most)+1))
	}
	switch {
	case err != nil:
		return nil, bad(errors.New("the message is not compressed with gzip, as it says"))
	case len(message) > most:
		return nil, fmt.Errorf("%w: at most %d bytes", errTooLarge, most)
	}
	return message, nil
}

// choose takes the first binding whose path the message fills.
func choose(list []*binding, m *dynamicpb.Message) (b *binding, path string, err error) {
	for _, b := range list {
		path, e := b.expand(m)
		if e == nil {
			return b, path, nil
		}
		if err == nil { // of the rule itself
			err = e
		}
	}
	return nil, "", err
}

// body makes the body; kind is its type, "": there is none.
func (s *rest) body(b *binding, m *dynamicpb.Message) (body []byte, kind string, err error) {
	if b.rawBody() != nil {
		body, kind = readBody(m, b.field)
		return body, kind, nil
	}
	switch b.body {
	case bodyNone:
		return nil, "", nil
	case bodyAll:
		m = proto.Clone(m).(*dynamicpb.Message)
		for _, v := range b.vars {
			clearField(m, v)
		}
	}
	body, err = valueJSON(m, b.field, s.opts.marshal(s.schema))
	return body, "application/json", err
}

func clearField(m protoreflect.Message, fields []protoreflect.FieldDescriptor) {
	for _, f := range fields[:len(fields)-1] {
		if !m.Has(f) {
			return
		}
		m = m.Mutable(f).Message()
	}
	m.Clear(fields[len(fields)-1])
}

// marshal is how messages are written as JSON.
func (o *JSONOptions) marshal(s *Schema) protojson.MarshalOptions {
	return protojson.MarshalOptions{Resolver: s.types, EmitUnpopulated: o.EmitDefaults, UseProtoNames: o.ProtoNames, UseEnumNumbers: o.EnumNumbers}
}

// restHeader is what goes to the upstream of a call's metadata.
func restHeader(in http.Header, kind string, streams bool) http.Header {
	h := in.Clone()
	for name := range h {
		if strings.HasPrefix(name, "Grpc-") {
			delete(h, name)
		}
	}
	for _, name := range [...]string{"Te", "Content-Length", "Content-Encoding", "Content-Type", "Expect", "Trailer", "Range", "If-Match", "If-None-Match",
		"If-Modified-Since", "If-Unmodified-Since", "If-Range"} {
		h.Del(name)
	}
	if kind != "" {
		h.Set("Content-Type", kind)
	}
	h.Set("Accept-Encoding", "identity") // the answer is read here
	h.Set("Accept", "application/json")
	if streams {
		h.Set("Accept", "application/x-ndjson, text/event-stream;q=0.9, application/json;q=0.8")
	}
	return h
}

// errPath: a message that a path can't be made of.
type errPath struct{ field, why string }

func (e *errPath) Error() string {
	return fmt.Sprintf("field %s, which the request's path has, %s", e.field, e.why)
}

// expand makes the path of a message, as google/api/http.proto has it: of a variable of one
// segment all but unreserved characters is escaped, of others slashes stay.
func (b *binding) expand(m protoreflect.Message) (string, error) {
	t := b.template
	var out strings.Builder
	next := 0 // variable
	for i := 0; i < len(t.segments); {
		if next == len(t.vars) || t.vars[next].first != i {
			out.WriteString("/" + t.segments[i].literal)
			i++
			continue
		}
		v := &t.vars[next]
		text, err := pathText(m, b.vars[next])
		if err != nil {
			return "", err
		}
		parts := []string{text}
		if v.last-v.first > 1 || v.rest {
			parts = strings.Split(text, "/")
			if v.rest && text == "" && v.last-v.first == 1 {
				parts = nil // ** takes nothing too
			}
		}
		if !fits(parts, t.segments[v.first:v.last]) {
			return "", &errPath{v.field, fmt.Sprintf("is %q: expected %s without empty segments, . and ..", clip(text), pattern(t.segments[v.first:v.last]))}
		}
		for _, p := range parts {
			out.WriteString("/" + escapeSegment(p))
		}
		i, next = v.last, next+1
	}
	if t.verb != "" {
		out.WriteString(":" + t.verb)
	}
	if out.Len() == 0 {
		return "/", nil
	}
	return out.String(), nil
}

// fits says whether the segments of a value are what a template has for them. Segments of
// dots would lead elsewhere, also where a server decodes their slashes before it looks.
func fits(parts []string, want []segment) bool {
	for i, p := range parts {
		if p == "" || dotted(p) {
			return false
		}
		s := want[min(i, len(want)-1)]
		if i >= len(want) && s.kind != segRest || s.kind == segLiteral && s.literal != p {
			return false
		}
	}
	return len(parts) >= len(want) || len(parts) == len(want)-1 && want[len(want)-1].kind == segRest
}

func dotted(s string) bool {
	for one := range strings.SplitSeq(s, "/") {
		if one == "." || one == ".." {
			return true
		}
	}
	return false
}

func pattern(s []segment) string {
	var out []string
	for _, one := range s {
		out = append(out, [...]string{segLiteral: one.literal, segOne: "*", segRest: "**"}[one.kind])
	}
	return strings.Join(out, "/")
}

func escapeSegment(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; isAlnum(c) || c == '-' || c == '_' || c == '.' || c == '~' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// pathText is the text of a path's field.
func pathText(m protoreflect.Message, fields []protoreflect.FieldDescriptor) (string, error) {
	for _, f := range fields[:len(fields)-1] {
		m = m.Get(f).Message() // an empty one, if it is not there
	}
	f := fields[len(fields)-1]
	if f.Message() != nil && !m.Has(f) {
		return "", nil
	}
	return valueText(f, m.Get(f), &JSONOptions{})
}

// valueText writes a scalar, or a message that is one value in JSON, as parseValue reads it.
func valueText(f protoreflect.FieldDescriptor, v protoreflect.Value, o *JSONOptions) (string, error) {
	switch f.Kind() {
	case protoreflect.StringKind:
		return v.String(), nil
	case protoreflect.BytesKind:
		return base64URL(v.Bytes()), nil
	case protoreflect.EnumKind:
		if e := f.Enum().Values().ByNumber(v.Enum()); e != nil && !o.EnumNumbers {
			return string(e.Name()), nil
		}
		return strconv.Itoa(int(v.Enum())), nil
	case protoreflect.FloatKind:
		return floatText(v.Float(), 32), nil
	case protoreflect.DoubleKind:
		return floatText(v.Float(), 64), nil
	case protoreflect.MessageKind, protoreflect.GroupKind:
		raw, err := protojson.Marshal(v.Message().Interface())
		if err != nil {
			return "", fmt.Errorf("field %s: %w", f.Name(), err)
		}
		var s string
		if json.Unmarshal(raw, &s) == nil {
			return s, nil
		}
		return string(raw), nil
	}
	return v.String(), nil // bool and integers
}

// query are the fields that neither the path nor the body has. A message with nothing in it
// has no parameter, as with clients that make such requests themselves.
func (b *binding) query(m protoreflect.Message, o *JSONOptions) (string, error) {
	if b.body == bodyAll {
		return "", nil
	}
	q := querier{b: b, opts: o}
	err := q.message(m, nil, "")
	return q.out.String(), err
}

type querier struct {
	b    *binding
	opts *JSONOptions
	out  strings.Builder
	n    int
}

func (q *querier) message(m protoreflect.Message, path []protoreflect.FieldDescriptor, prefix string) error {
	if len(path) >= maxFieldPath {
		return fmt.Errorf("fields in more than %d messages, which no parameter can be", maxFieldPath)
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		here := append(path[:len(path):len(path)], f)
		if !m.Has(f) || q.b.owns(here) {
			continue
		}
		name := prefix + f.JSONName()
		if q.opts.ProtoNames {
			name = prefix + string(f.Name())
		}
		var err error
		switch inside := f.Message() != nil && !isScalarMessage(f.Message()); {
		case f.IsMap(), f.IsList() && inside:
			err = fmt.Errorf("field %s holds messages or is a map, which no parameter of a query can be", name)
		case inside:
			err = q.message(m.Get(f).Message(), here, name+".")
		case f.IsList():
			list := m.Get(f).List()
			for j := 0; j < list.Len() && err == nil; j++ {
				err = q.add(f, name, list.Get(j))
			}
		default:
			err = q.add(f, name, m.Get(f))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (q *querier) add(f protoreflect.FieldDescriptor, name string, v protoreflect.Value) error {
	text, err := valueText(f, v, q.opts)
	if err != nil {
		return err
	}
	if q.n++; q.n > maxQuery || q.out.Len() > maxRequestURI {
		return fmt.Errorf("a query of more than %d parameters or %d bytes", maxQuery, maxRequestURI)
	}
	if q.out.Len() > 0 {
		q.out.WriteByte('&')
	}
	q.out.WriteString(url.QueryEscape(name) + "=" + url.QueryEscape(text))
	return nil
}

// clientLeft says whether a request ended because nobody waits for it.
func clientLeft(ctx context.Context) bool { return ctx.Err() != nil && !deadline(ctx) }
