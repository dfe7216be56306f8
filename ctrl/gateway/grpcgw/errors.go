package grpcgw

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"

	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// httpOf is the HTTP status of a gRPC code, as google/rpc/code.proto has it.
func httpOf(code int32) int {
	switch code {
	case exchange.GRPCOK:
		return http.StatusOK
	case exchange.GRPCCancelled:
		return exchange.StatusClientGone
	case exchange.GRPCInvalidArgument, exchange.GRPCFailedPrecondition, exchange.GRPCOutOfRange:
		return http.StatusBadRequest
	case exchange.GRPCDeadlineExceeded:
		return http.StatusGatewayTimeout
	case exchange.GRPCNotFound:
		return http.StatusNotFound
	case exchange.GRPCAlreadyExists, exchange.GRPCAborted:
		return http.StatusConflict
	case exchange.GRPCPermissionDenied:
		return http.StatusForbidden
	case exchange.GRPCResourceExhausted:
		return http.StatusTooManyRequests
	case exchange.GRPCUnimplemented:
		return http.StatusNotImplemented
	case exchange.GRPCUnavailable:
		return http.StatusServiceUnavailable
	case exchange.GRPCUnauthenticated:
		return http.StatusUnauthorized
	}
	return http.StatusInternalServerError // UNKNOWN, INTERNAL, DATA_LOSS and what is none
}

// codeOfHTTP is the gRPC code of an answer that is no gRPC, as the protocol's
// http-grpc-status-mapping has it.
func codeOfHTTP(status int) int32 {
	switch status {
	case http.StatusBadRequest:
		return exchange.GRPCInternal
	case http.StatusUnauthorized:
		return exchange.GRPCUnauthenticated
	case http.StatusForbidden:
		return exchange.GRPCPermissionDenied
	case http.StatusNotFound:
		return exchange.GRPCUnimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return exchange.GRPCUnavailable
	}
	return exchange.GRPCUnknown
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
