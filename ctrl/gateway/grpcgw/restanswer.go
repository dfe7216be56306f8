package grpcgw

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// restAnswer makes gRPC of an HTTP answer with JSON as it is written.
type restAnswer struct {
	w      http.ResponseWriter
	ctx    context.Context
	x      *exchange.Exchange
	b      *binding
	schema *Schema
	opts   *JSONOptions
	max    int
	header http.Header // the upstream's

	code      int // of the upstream's head; 0: none yet
	mode      restMode
	announced []string
	buf       []byte // a whole body, or what of an error's is kept
	split     *splitter
	begun     bool
	last      *status.Status // that a stream ended with
	bad       error
}

type restMode uint8

// What becomes of a body.
const (
	restOne    restMode = iota // it is the message
	restMany                   // it is a stream of them
	restPieces                 // each piece is the data of a google.api.HttpBody
	restError                  // it says why there is no message
)

func (o *restAnswer) Header() http.Header { return o.header }

// Unwrap is for http.ResponseController.
func (o *restAnswer) Unwrap() http.ResponseWriter { return o.w }

// Flush implements http.Flusher. What there is was sent message by message.
func (o *restAnswer) Flush() {}

func (o *restAnswer) WriteHeader(code int) {
	if code >= 100 && code < 200 || o.code != 0 {
		return
	}
	o.code = code
	o.announced = announcedTrailers(o.header)
	kind := mediaType(o.header.Get("Content-Type"))
	streams := o.b.method.desc.IsStreamingServer()
	switch encoding := o.header.Get("Content-Encoding"); {
	case code < 200 || code > 299:
		o.mode = restError
	case encoding != "" && encoding != "identity":
		o.broken(fmt.Errorf("%w: content-encoding %q, asked for none", errFrame, clip(encoding)))
	case o.b.rawAnswer():
		if streams {
			o.mode = restPieces
		}
	case kind != "" && !jsonType(kind) && !(streams && kind == "text/event-stream"):
		o.broken(fmt.Errorf("%w: content-type %q, expected JSON", errFrame, clip(kind)))
	case streams:
		o.mode = restMany
		o.split = &splitter{max: o.max, events: kind == "text/event-stream", value: o.value}
	}
}

// jsonType says whether an answer of this type is taken for JSON.
func jsonType(kind string) bool {
	switch kind {
	case "application/json", "text/json", "application/x-ndjson", "application/ndjson", "application/jsonl", "application/stream+json":
		return true
	}
	return strings.HasSuffix(kind, "+json")
}

// broken ends the answer for what the upstream sent. It is said before whoever forwards
// can take it for something else.
func (o *restAnswer) broken(err error) {
	if o.bad == nil {
		o.bad = err
		o.x.Note(err)
		o.x.Fail(exchange.UpstreamProtocol)
	}
}

// maxErrorBody bounds what is kept of an error's body.
const maxErrorBody = 16 << 10

func (o *restAnswer) Write(p []byte) (int, error) {
	if o.code == 0 {
		o.WriteHeader(http.StatusOK)
	}
	var err error
	switch {
	case o.bad != nil:
		return 0, o.bad
	case o.mode == restError:
		o.buf = append(o.buf, p[:min(len(p), maxErrorBody-len(o.buf))]...)
	case o.mode == restMany:
		err = o.split.feed(p)
	case o.mode == restPieces && len(p) > 0:
		err = o.pieces(p)
	case len(o.buf)+len(p) > o.max:
		err = fmt.Errorf("%w: at most %d bytes", errTooLarge, o.max)
	default:
		o.buf = append(o.buf, p...)
	}
	if err == nil {
		return len(p), nil
	}
	if errors.Is(err, errFrame) || errors.Is(err, errTooLarge) {
		o.broken(err)
	}
	return 0, err // else the client is gone
}

// pieces sends a part of a body, as messages within the limit.
func (o *restAnswer) pieces(p []byte) error {
	for len(p) > 0 { // bound: each turn takes at least a byte
		n := min(len(p), max(1, o.max/2))
		raw, err := proto.Marshal(o.raw(p[:n]))
		if err != nil {
			return fmt.Errorf("%w: %w", errFrame, err)
		}
		if err := o.send(raw); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// raw makes the output of a body that is no JSON.
func (o *restAnswer) raw(data []byte) *dynamicpb.Message {
	m := dynamicpb.NewMessage(o.b.method.desc.Output())
	writeBody(m, o.b.response, data, strings.ToValidUTF8(o.header.Get("Content-Type"), "\uFFFD"))
	return m
}

// message makes a message of JSON.
func (o *restAnswer) message(value []byte) ([]byte, error) {
	m := dynamicpb.NewMessage(o.b.method.desc.Output())
	if len(bytes.TrimSpace(value)) > 0 { // else: a message with nothing in it
		if !json.Valid(value) { // before it is wrapped: it must not reach out of its field
			return nil, fmt.Errorf("%w: the answer is not JSON", errFrame)
		}
		if o.b.response != nil {
			value = wrap(o.b.response, value)
		}
		opts := protojson.UnmarshalOptions{Resolver: o.schema.types, RecursionLimit: maxJSONDepth, DiscardUnknown: o.opts.IgnoreUnknown}
		if err := opts.Unmarshal(value, m); err != nil {
			return nil, fmt.Errorf("%w: the answer is no %s: %w", errFrame, m.Descriptor().FullName(), err)
		}
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%w: the answer makes no %s: %w", errFrame, m.Descriptor().FullName(), err)
	}
	if len(raw) > o.max {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errTooLarge, len(raw), o.max)
	}
	return raw, nil
}

// value takes one value of a stream.
func (o *restAnswer) value(value []byte, event string) error {
	if o.last != nil {
		return fmt.Errorf("%w: something follows the stream's error", errFrame)
	}
	if st := o.streamError(value, event); st != nil {
		o.last = st
		return nil
	}
	raw, err := o.message(value)
	if err != nil {
		return err
	}
	return o.send(raw)
}

// streamError finds the error that a stream may end with, {"error": status}, where that is
// no message of the stream.
func (o *restAnswer) streamError(value []byte, event string) *status.Status {
	out := o.b.method.desc.Output()
	if event != "error" && (o.b.response != nil || out.Fields().ByJSONName("error") != nil || out.Fields().ByName("error") != nil || !bytes.Contains(value, []byte(`"error"`))) {
		return nil
	}
	var all map[string]json.RawMessage
	if json.Unmarshal(value, &all) != nil || event != "error" && len(all) != 1 || event != "error" && all["error"] == nil {
		return nil
	}
	if st := o.statusJSON(value); st != nil {
		return st
	}
	return &status.Status{Code: exchange.GRPCUnknown, Message: "the upstream's stream ended with an error"}
}

// send sends one message.
func (o *restAnswer) send(raw []byte) error {
	if !o.begun {
		o.begun = true
		h := o.w.Header()
		restMetadata(h, o.header)
		h.Set("Content-Type", "application/grpc+proto")
		o.w.WriteHeader(http.StatusOK)
	}
	if _, err := o.w.Write(appendMessage(nil, raw)); err != nil {
		return err
	}
	if o.mode == restOne {
		return nil
	}
	return http.NewResponseController(o.w).Flush()
}

// restMetadata copies an upstream's fields as metadata.
func restMetadata(to, from http.Header) {
	for name, values := range from {
		if !isMetadata(name) || strings.HasSuffix(name, "-Bin") && !allBase64(values) { // one of that name that is no metadata would end the call
			continue
		}
		to[name] = values
	}
}

func allBase64(values []string) bool {
	for _, v := range values {
		for one := range strings.SplitSeq(v, ",") {
			if _, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(one, "=")); err != nil {
				return false
			}
		}
	}
	return true
}

// finish ends the answer once whoever forwarded is done, or gave up.
func (o *restAnswer) finish(panicked any) {
	if panicked != nil && (panicked != http.ErrAbortHandler || clientLeft(o.ctx)) {
		panic(panicked)
	}
	trailers := takeTrailers(o.header, o.announced)
	st := o.status(panicked != nil)
	if st.GetCode() != exchange.GRPCOK {
		o.fail(st, trailers)
		return
	}
	if !o.begun { // a stream of nothing
		h := o.w.Header()
		restMetadata(h, o.header)
		h.Set("Content-Type", "application/grpc+proto")
		o.w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(o.w).Flush() // or HTTP/1.1 would send a length, and no trailers
	}
	h := o.w.Header()
	setTrailers(h, exchange.GRPCOK, "")
	prefixed := http.Header{}
	restMetadata(prefixed, trailers)
	for name, v := range prefixed {
		h[http.TrailerPrefix+name] = v
	}
}

// status finds how the call ends, and sends the message of one that has one.
func (o *restAnswer) status(aborted bool) *status.Status {
	if o.bad == nil && !aborted && o.code != 0 && o.mode != restError {
		o.complete()
	}
	switch {
	case errors.Is(o.bad, errTooLarge):
		return &status.Status{Code: exchange.GRPCResourceExhausted, Message: o.bad.Error()}
	case o.bad != nil:
		return &status.Status{Code: exchange.GRPCInternal, Message: "the upstream's answer is not valid"}
	case o.x.Reason != exchange.None || aborted || o.code == 0:
		code, message := statusOf(o.x.Reason, o.ctx)
		return &status.Status{Code: int32(code), Message: message}
	case o.mode == restError:
		return o.httpError()
	case o.last != nil:
		return o.last
	}
	return &status.Status{}
}

// complete reads what is whole now.
func (o *restAnswer) complete() {
	var err error
	switch {
	case o.mode == restMany:
		err = o.split.end()
	case o.mode == restOne && o.b.rawAnswer():
		var raw []byte
		if raw, err = proto.Marshal(o.raw(o.buf)); err == nil {
			err = o.send(raw)
		}
	case o.mode == restOne:
		var raw []byte
		if raw, err = o.message(o.buf); err == nil {
			err = o.send(raw)
		}
	}
	if errors.Is(err, errFrame) || errors.Is(err, errTooLarge) { // else the client is gone
		o.broken(err)
	}
}

// fail ends the answer with an error.
func (o *restAnswer) fail(st *status.Status, trailers http.Header) {
	h := o.w.Header()
	details := ""
	if len(st.GetDetails()) > 0 {
		if raw, err := proto.Marshal(st); err == nil && len(raw) <= maxDetails {
			details = base64.RawStdEncoding.EncodeToString(raw)
		}
	}
	message := strings.ToValidUTF8(st.GetMessage(), "\uFFFD")
	if len(message) > maxStatusMessage {
		message = strings.ToValidUTF8(message[:maxStatusMessage], "") + "…"
	}
	if o.begun {
		setTrailers(h, int(st.GetCode()), message)
		if details != "" {
			h.Set(http.TrailerPrefix+"Grpc-Status-Details-Bin", details)
		}
		return
	}
	restMetadata(h, o.header)
	restMetadata(h, trailers)
	h.Set("Content-Type", "application/grpc+proto")
	h.Set("Grpc-Status", strconv.Itoa(int(st.GetCode())))
	if message != "" {
		h.Set("Grpc-Message", percentEncode(message))
	}
	if details != "" {
		h.Set("Grpc-Status-Details-Bin", details)
	}
	o.w.WriteHeader(http.StatusOK)
}

// What an error's text and details may take of a head: clients take some 8 KiB in all.
const (
	maxStatusMessage = 1 << 10
	maxDetails       = 4 << 10
)

// httpError makes a status of an answer other than 2xx: the one that its body is, or one of
// the HTTP status with what the body says in words.
func (o *restAnswer) httpError() *status.Status {
	if o.code >= 400 {
		if st := o.statusJSON(o.buf); st != nil {
			return st
		}
	}
	st := &status.Status{Code: codeOfREST(o.code), Message: fmt.Sprintf("the upstream answered %d %s", o.code, http.StatusText(o.code))}
	kind := mediaType(o.header.Get("Content-Type"))
	var words struct {
		Title, Detail, Message string
		Error                  any
	}
	switch {
	case kind == "text/plain" && len(o.buf) > 0:
		st.Message = strings.TrimSpace(string(o.buf))
	case jsonType(kind) && json.Unmarshal(o.buf, &words) == nil:
		text, _ := words.Error.(string)
		for _, one := range []string{words.Message, words.Detail, words.Title, text} { // the first that says something
			if one != "" {
				st.Message = one
				break
			}
		}
	}
	return st
}

// statusJSON reads google.rpc.Status, by itself or as the member error, where it may have
// HTTP's code and the name of gRPC's. nil: it is none.
func (o *restAnswer) statusJSON(body []byte) *status.Status {
	type shape struct {
		Code    json.Number       `json:"code"`
		Status  string            `json:"status"`
		Message string            `json:"message"`
		Details []json.RawMessage `json:"details"`
	}
	var outer struct {
		shape
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(body, &outer) != nil {
		return nil
	}
	in := outer.shape
	if len(outer.Error) > 0 && json.Unmarshal(outer.Error, &in) != nil {
		return nil
	}
	code, ok := codeNamed(in.Status)
	if n, err := in.Code.Int64(); !ok && err == nil && n > exchange.GRPCOK && n <= exchange.GRPCUnauthenticated {
		code, ok = int32(n), true
	}
	if !ok {
		return nil
	}
	st := &status.Status{Code: code, Message: in.Message}
	for _, d := range in.Details[:min(len(in.Details), maxDetailCount)] {
		one := &anypb.Any{}
		if (protojson.UnmarshalOptions{Resolver: fallback{o.schema.types}, RecursionLimit: maxJSONDepth}).Unmarshal(d, one) == nil {
			st.Details = append(st.Details, one)
		}
	}
	return st
}

// maxDetailCount bounds the details of a status.
const maxDetailCount = 32

// codeNamed finds a code by its name in google/rpc/code.proto.
func codeNamed(name string) (int32, bool) {
	for i, n := range [...]string{exchange.GRPCCancelled: "CANCELLED", exchange.GRPCUnknown: "UNKNOWN", exchange.GRPCInvalidArgument: "INVALID_ARGUMENT",
		exchange.GRPCDeadlineExceeded: "DEADLINE_EXCEEDED", exchange.GRPCNotFound: "NOT_FOUND", exchange.GRPCAlreadyExists: "ALREADY_EXISTS",
		exchange.GRPCPermissionDenied: "PERMISSION_DENIED", exchange.GRPCResourceExhausted: "RESOURCE_EXHAUSTED", exchange.GRPCFailedPrecondition: "FAILED_PRECONDITION",
		exchange.GRPCAborted: "ABORTED", exchange.GRPCOutOfRange: "OUT_OF_RANGE", exchange.GRPCUnimplemented: "UNIMPLEMENTED", exchange.GRPCInternal: "INTERNAL",
		exchange.GRPCUnavailable: "UNAVAILABLE", exchange.GRPCDataLoss: "DATA_LOSS", exchange.GRPCUnauthenticated: "UNAUTHENTICATED"} {
		if n != "" && n == name {
			return int32(i), true
		}
	}
	return 0, false
}

// codeOfREST is the gRPC code of an HTTP status that an application chose: the mapping of
// google/rpc/code.proto read backwards, the more general code where it has several.
func codeOfREST(status int) int32 {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return exchange.GRPCInvalidArgument
	case http.StatusUnauthorized:
		return exchange.GRPCUnauthenticated
	case http.StatusForbidden:
		return exchange.GRPCPermissionDenied
	case http.StatusNotFound, http.StatusGone:
		return exchange.GRPCNotFound
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return exchange.GRPCUnimplemented
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return exchange.GRPCDeadlineExceeded
	case http.StatusConflict:
		return exchange.GRPCAborted
	case http.StatusRequestedRangeNotSatisfiable:
		return exchange.GRPCOutOfRange
	case http.StatusRequestEntityTooLarge, http.StatusTooManyRequests:
		return exchange.GRPCResourceExhausted
	case exchange.StatusClientGone:
		return exchange.GRPCCancelled
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return exchange.GRPCUnavailable
	}
	switch status / 100 {
	case 4:
		return exchange.GRPCFailedPrecondition
	case 5:
		return exchange.GRPCInternal
	}
	return exchange.GRPCUnknown
}
