package grpcgw

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// answer makes HTTP with JSON of a gRPC answer as it is written.
type answer struct {
	w      http.ResponseWriter
	r      *http.Request
	codec  *codec
	upload *upload // nil: the request was one message
	header http.Header
	max    int

	streams bool
	stream  Stream

	code      int // of the backend's head; 0: none yet
	grpc      bool
	announced []string
	buf       []byte // a message and its prefix, as far as they came
	one       []byte // the message of a unary answer
	messages  int
	begun     bool // the client has its head
	bad       error
}

func (o *answer) Header() http.Header { return o.header }

// Unwrap is for http.ResponseController.
func (o *answer) Unwrap() http.ResponseWriter { return o.w }

// Flush implements http.Flusher. What there is was sent message by message.
func (o *answer) Flush() {}

func (o *answer) WriteHeader(code int) {
	if code >= 100 && code < 200 || o.code != 0 {
		return
	}
	o.code = code
	o.announced = announcedTrailers(o.header)
	o.grpc = code == http.StatusOK && isGRPCType(o.header.Get("Content-Type"))
}

func (o *answer) Write(p []byte) (int, error) {
	if o.code == 0 {
		o.WriteHeader(http.StatusOK)
	}
	if o.bad != nil {
		return 0, o.bad
	}
	if !o.grpc {
		return len(p), nil // some page of a server that speaks no gRPC; its status says enough
	}
	n := len(p)
	for len(p) > 0 { // bound: each turn takes at least a byte, or ends
		var err error
		if p, err = o.take(p); err != nil {
			o.bad = err
			return 0, err
		}
	}
	return n, nil
}

// take adds bytes to the message at hand, up to its end.
func (o *answer) take(p []byte) ([]byte, error) {
	want := prefixSize
	if len(o.buf) >= prefixSize {
		want += int(binary.BigEndian.Uint32(o.buf[1:])) // checked when it was complete
	}
	n := min(want-len(o.buf), len(p))
	o.buf = append(o.buf, p[:n]...)
	p = p[n:]
	if len(o.buf) < want {
		return p, nil
	}
	if len(o.buf) == prefixSize {
		s := scanner{max: int64(o.max)}
		size, err := s.prefix(o.buf)
		if err != nil {
			return nil, err
		}
		if size > 0 {
			return p, nil
		}
	}
	err := o.message(o.buf[prefixSize:])
	o.buf = o.buf[:0]
	if cap(o.buf) > 64<<10 {
		o.buf = nil // one big message should not stay for a stream's life
	}
	return p, err
}

// message takes one whole message.
func (o *answer) message(raw []byte) error {
	o.messages++
	if !o.streams {
		if o.messages > 1 {
			return fmt.Errorf("%w: a second message for a method that answers with one", errFrame)
		}
		o.one = append([]byte{}, raw...)
		return nil
	}
	value, kind, err := o.codec.value(raw)
	if err != nil {
		return err
	}
	if err := o.begin(kind); err != nil {
		return err
	}
	return o.element(value, "", kind != "")
}

// begin sends the head of a stream.
func (o *answer) begin(rawKind string) error {
	if o.begun {
		return nil
	}
	o.begun = true
	h := o.w.Header()
	copyMetadata(h, o.header)
	switch {
	case rawKind != "":
		h.Set("Content-Type", rawKind)
	case o.stream == StreamEvents:
		h.Set("Content-Type", "text/event-stream")
	case o.stream == StreamArray:
		h.Set("Content-Type", "application/json")
	default:
		h.Set("Content-Type", "application/x-ndjson")
	}
	h.Set("Cache-Control", "no-store")
	o.w.WriteHeader(http.StatusOK)
	if rawKind == "" && o.stream == StreamArray {
		_, err := o.w.Write([]byte("["))
		return err
	}
	return nil
}

// element sends one value of a stream.
func (o *answer) element(value []byte, event string, raw bool) error {
	var b bytes.Buffer
	switch {
	case raw:
		b.Write(value)
	case o.stream == StreamEvents:
		if event != "" {
			b.WriteString("event: " + event + "\n")
		}
		b.WriteString("data: ")
		b.Write(value) // compact JSON: one line
		b.WriteString("\n\n")
	case o.stream == StreamArray:
		if o.messages > 1 || event != "" && o.messages > 0 {
			b.WriteByte(',')
		}
		b.Write(value)
	default:
		b.Write(value)
		b.WriteByte('\n')
	}
	if _, err := o.w.Write(b.Bytes()); err != nil {
		return err
	}
	return http.NewResponseController(o.w).Flush()
}

// value makes JSON of a message. kind is not empty for a google.api.HttpBody: then the
// value is the body.
func (c *codec) value(raw []byte) (value []byte, kind string, err error) {
	m := dynamicpb.NewMessage(c.b.method.desc.Output())
	if err := (proto.UnmarshalOptions{Resolver: c.schema.types, RecursionLimit: maxJSONDepth}).Unmarshal(raw, m); err != nil {
		return nil, "", fmt.Errorf("%w: the message is no %s", errFrame, m.Descriptor().FullName())
	}
	if c.b.rawAnswer() {
		value, kind = readBody(m, c.b.response)
		return value, kind, nil
	}
	value, err = valueJSON(m, c.b.response, c.opts.marshal(c.schema))
	return value, "", err
}

// rawAnswer says whether answers are a google.api.HttpBody.
func (b *binding) rawAnswer() bool {
	if f := b.response; f != nil {
		return isMessage(f) && f.Message().FullName() == httpBody
	}
	return b.method.desc.Output().FullName() == httpBody
}

// isMessage says whether a field has one message.
func isMessage(f protoreflect.FieldDescriptor) bool {
	return f.Message() != nil && !f.IsList() && !f.IsMap()
}

// readBody reads a google.api.HttpBody: a message, or (f is not nil) a field of it.
func readBody(m protoreflect.Message, f protoreflect.FieldDescriptor) (data []byte, kind string) {
	if f != nil {
		m = m.Get(f).Message()
	}
	fields := m.Descriptor().Fields()
	kind = m.Get(fields.ByName("content_type")).String()
	if kind == "" || strings.ContainsFunc(kind, func(c rune) bool { return c < ' ' || c > '~' }) {
		kind = "application/octet-stream"
	}
	return m.Get(fields.ByName("data")).Bytes(), kind
}

// writeBody is readBody's other way round.
func writeBody(m protoreflect.Message, f protoreflect.FieldDescriptor, data []byte, kind string) {
	if f != nil {
		m = m.Mutable(f).Message()
	}
	fields := m.Descriptor().Fields()
	m.Set(fields.ByName("content_type"), protoreflect.ValueOfString(kind))
	m.Set(fields.ByName("data"), protoreflect.ValueOfBytes(data))
}

// valueJSON makes compact JSON of a message, or (f is not nil) of a field of it alone.
func valueJSON(m *dynamicpb.Message, f protoreflect.FieldDescriptor, opts protojson.MarshalOptions) (value []byte, err error) {
	switch {
	case f == nil:
		value, err = opts.Marshal(m)
	case isMessage(f):
		value, err = opts.Marshal(m.Get(f).Message().Interface())
	default:
		value, err = fieldJSON(m, f, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("make JSON of %s: %w", m.Descriptor().FullName(), err)
	}
	var b bytes.Buffer // protojson puts spaces in at random
	if err := json.Compact(&b, value); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// fieldJSON makes JSON of a scalar, list or map field alone.
func fieldJSON(m *dynamicpb.Message, f protoreflect.FieldDescriptor, opts protojson.MarshalOptions) ([]byte, error) {
	alone := dynamicpb.NewMessage(m.Descriptor())
	if m.Has(f) {
		alone.Set(f, m.Get(f))
	} else {
		opts.EmitUnpopulated = true // its empty value
	}
	raw, err := opts.Marshal(alone)
	if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, err
	}
	if opts.UseProtoNames {
		return all[string(f.Name())], nil
	}
	return all[f.JSONName()], nil
}

// copyMetadata copies an answer's fields to the client.
func copyMetadata(to, from http.Header) {
	for name, v := range from {
		if isMetadata(name) {
			to[name] = v
		}
	}
}

// isMetadata says whether a field goes from one side to the other: those of gRPC, of the body
// and of the connection don't.
func isMetadata(name string) bool {
	switch name {
	case "Content-Type", "Content-Length", "Content-Encoding", "Content-Range":
		return false
	}
	return !strings.HasPrefix(name, http.TrailerPrefix) && !strings.HasPrefix(name, "Grpc-") && !exchange.PerConnection(name)
}

// finish ends the answer once whoever forwarded is done, or gave up.
func (o *answer) finish(panicked any) {
	if panicked != nil && (panicked != http.ErrAbortHandler || clientLeft(o.r.Context())) {
		panic(panicked)
	}
	trailers := takeTrailers(o.header, o.announced)
	st := o.status(trailers)
	if st.GetCode() == exchange.GRPCOK && o.bad == nil && !o.streams && o.messages == 0 {
		o.bad = fmt.Errorf("%w: no message in an answer that is OK", errFrame)
		st = o.status(trailers)
	}
	x := exchange.From(o.r.Context())
	x.Note(o.bad)
	switch fault := o.fault(); {
	case errors.Is(fault, errTooLarge):
		x.Reason = exchange.BodyTooLarge // whatever it led to in forwarding
	case errors.Is(fault, errClient):
		x.Reason = exchange.BadRequest
	case o.bad != nil && o.r.Context().Err() == nil:
		x.Fail(exchange.UpstreamProtocol)
	}
	switch {
	case st.GetCode() != exchange.GRPCOK:
		o.fail(st, trailers)
	case o.streams:
		o.end(trailers)
	default:
		o.unary(trailers)
	}
}

// fault is what was wrong with a request's stream of messages.
func (o *answer) fault() error {
	if o.upload == nil {
		return nil
	}
	return o.upload.fail.get()
}

// status finds how the call ended.
func (o *answer) status(trailers http.Header) *status.Status {
	if err := o.fault(); err != nil {
		return clientStatus(err)
	}
	if o.bad != nil {
		if errors.Is(o.bad, errTooLarge) {
			return &status.Status{Code: exchange.GRPCResourceExhausted, Message: o.bad.Error()}
		}
		return &status.Status{Code: exchange.GRPCInternal, Message: "the backend's answer is not valid"}
	}
	from := trailers
	if from.Get("Grpc-Status") == "" {
		from = o.header
	}
	text := from.Get("Grpc-Status")
	if text == "" {
		return o.without()
	}
	code, err := strconv.ParseInt(text, 10, 32)
	if err != nil || code < 0 {
		return &status.Status{Code: exchange.GRPCUnknown, Message: "the backend's status is no number"}
	}
	st := &status.Status{}
	if bin := from.Get("Grpc-Status-Details-Bin"); bin != "" {
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(bin, "="))
		if err != nil || proto.Unmarshal(raw, st) != nil || st.Code != int32(code) {
			st = &status.Status{}
		}
	}
	st.Code = int32(code)
	if message := from.Get("Grpc-Message"); message != "" {
		st.Message = percentDecode(message)
	}
	return st
}

// without is the status of an answer that has none.
func (o *answer) without() *status.Status {
	x := exchange.From(o.r.Context())
	switch {
	case o.code != 0 && o.code != http.StatusOK:
		return &status.Status{Code: codeOfHTTP(o.code), Message: fmt.Sprintf("the backend answered %d %s", o.code, http.StatusText(o.code))}
	case o.code != 0 && !o.grpc:
		return &status.Status{Code: exchange.GRPCUnknown, Message: "the backend answered no gRPC"}
	}
	code, message := statusOf(x.Reason, o.r.Context())
	return &status.Status{Code: int32(code), Message: message}
}

// clientStatus is what a client learns of its own request's fault.
func clientStatus(err error) *status.Status {
	switch {
	case errors.Is(err, errTooLarge):
		return &status.Status{Code: exchange.GRPCResourceExhausted, Message: err.Error()}
	case errors.Is(err, errClient):
		return &status.Status{Code: exchange.GRPCInvalidArgument, Message: err.Error()}
	}
	return &status.Status{Code: exchange.GRPCInvalidArgument, Message: "the request's body broke off"}
}

// clientError answers a request that made no message.
func (o *answer) clientError(err error) {
	x := exchange.From(o.r.Context())
	x.Note(err)
	why := exchange.BadRequest
	var limit *http.MaxBytesError
	if errors.Is(err, errTooLarge) || errors.As(err, &limit) {
		why = exchange.BodyTooLarge
		err = fmt.Errorf("%w: %w", errTooLarge, err)
	}
	x.Fail(why)
	o.fail(clientStatus(err), nil)
}

// fail ends the answer with an error.
func (o *answer) fail(st *status.Status, trailers http.Header) {
	value := o.codec.errorJSON(st)
	h := o.w.Header()
	if o.begun {
		setTrailers(h, int(st.GetCode()), st.GetMessage())
		if !o.codec.b.rawAnswer() {
			_ = o.element(append(append([]byte(`{"error":`), value...), '}'), "error", false) // the client is gone if it fails
			o.close()
		}
		return
	}
	copyMetadata(h, o.header)
	copyMetadata(h, trailers)
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(value)))
	h.Set("X-Content-Type-Options", "nosniff")
	code := httpOf(st.GetCode())
	if why := exchange.From(o.r.Context()).Reason; why != exchange.None && why != exchange.ClientGone && why != exchange.BadRequest {
		code = why.Status()
	}
	o.w.WriteHeader(code)
	if o.r.Method != http.MethodHead {
		_, _ = o.w.Write(value)
	}
}

// close writes what ends a stream.
func (o *answer) close() {
	if o.stream == StreamArray {
		_, _ = o.w.Write([]byte("]"))
	}
}

// end ends a stream that went well.
func (o *answer) end(trailers http.Header) {
	raw := o.codec.b.rawAnswer()
	kind := ""
	if raw {
		kind = "application/octet-stream"
	}
	if err := o.begin(kind); err != nil {
		return // the client is gone
	}
	h := o.w.Header()
	setTrailers(h, exchange.GRPCOK, "")
	for name, v := range trailers {
		if !strings.HasPrefix(name, "Grpc-") {
			h[http.TrailerPrefix+name] = v
		}
	}
	if !raw {
		o.close()
	}
	if o.messages == 0 { // or HTTP/1.1 would send a length, and no trailers
		_ = http.NewResponseController(o.w).Flush()
	}
}

// unary sends the one message.
func (o *answer) unary(trailers http.Header) {
	value, kind, err := o.codec.value(o.one)
	if err != nil {
		exchange.From(o.r.Context()).Note(err)
		exchange.From(o.r.Context()).Fail(exchange.UpstreamProtocol)
		o.fail(&status.Status{Code: exchange.GRPCInternal, Message: "the backend's answer is not valid"}, trailers)
		return
	}
	h := o.w.Header()
	copyMetadata(h, o.header)
	copyMetadata(h, trailers)
	if kind == "" {
		kind = "application/json"
	}
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(value)))
	o.w.WriteHeader(http.StatusOK)
	if o.r.Method != http.MethodHead {
		_, _ = o.w.Write(value) // the client is gone if it fails
	}
}
