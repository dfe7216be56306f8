package grpcgw

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"

	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
)

// httpOf is the HTTP status of a gRPC code, as google/rpc/code.proto has it.
func httpOf(code int32) int {
	switch code {
	case 0:
		return http.StatusOK
	case 1: // CANCELLED
		return exchangeClientGone
	case 3, 9, 11: // INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE
		return http.StatusBadRequest
	case 4: // DEADLINE_EXCEEDED
		return http.StatusGatewayTimeout
	case 5: // NOT_FOUND
		return http.StatusNotFound
	case 6, 10: // ALREADY_EXISTS, ABORTED
		return http.StatusConflict
	case 7: // PERMISSION_DENIED
		return http.StatusForbidden
	case 8: // RESOURCE_EXHAUSTED
		return http.StatusTooManyRequests
	case 12: // UNIMPLEMENTED
		return http.StatusNotImplemented
	case 14: // UNAVAILABLE
		return http.StatusServiceUnavailable
	case 16: // UNAUTHENTICATED
		return http.StatusUnauthorized
	}
	return http.StatusInternalServerError // UNKNOWN, INTERNAL, DATA_LOSS and what is none
}

// exchangeClientGone is what google/rpc/code.proto gives CANCELLED.
const exchangeClientGone = 499

// codeOfHTTP is the gRPC code of an answer that is no gRPC, as the protocol's
// http-grpc-status-mapping has it.
func codeOfHTTP(status int) int32 {
	switch status {
	case http.StatusBadRequest:
		return codeInternal
	case http.StatusUnauthorized:
		return 16
	case http.StatusForbidden:
		return 7
	case http.StatusNotFound:
		return codeUnimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return codeUnavailable
	}
	return codeUnknown
}

// errorJSON writes a google.rpc.Status. A detail of a type that nobody knows is written
// with its bytes, so that it is not lost.
func (c *codec) errorJSON(st *status.Status) []byte {
	out := struct {
		Code    int32             `json:"code"`
		Message string            `json:"message"`
		Details []json.RawMessage `json:"details"`
	}{Code: st.GetCode(), Message: st.GetMessage(), Details: []json.RawMessage{}}
	for _, d := range st.GetDetails() {
		raw, err := protojson.MarshalOptions{Resolver: fallback{c.schema.types}}.Marshal(d)
		if err != nil {
			raw, err = json.Marshal(map[string]string{"@type": d.GetTypeUrl(), "value": base64.StdEncoding.EncodeToString(d.GetValue())})
		}
		if err == nil {
			out.Details = append(out.Details, raw)
		}
	}
	raw, err := json.Marshal(out)
	if err != nil { // what protojson wrote is JSON, the rest is text and a number
		panic(err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		panic(err)
	}
	return b.Bytes()
}
