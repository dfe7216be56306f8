package message

import (
	"encoding/binary"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// aLongTimeAgo is a deadline that has passed.
var aLongTimeAgo = time.Unix(1, 0)

// grpcPrefix is what precedes a message of gRPC: u8 compressed, u32 length.
const grpcPrefix = 5

var errUnary = errors.New("expected one uncompressed message")

// grpc answers a unary call: its message is the payload of a REQUEST.
func (n *North) grpc(w http.ResponseWriter, r *http.Request, x *exchange.Exchange) {
	body, ok := n.read(w, r)
	if !ok {
		return
	}
	message, err := unary(body)
	if err != nil {
		exchange.Refuse(w, r, exchange.BadRequest, err.Error())
		return
	}
	call := n.call(r, x, message)
	call.Idempotent = false
	resp, err := n.o.Cluster.Do(r.Context(), call)
	var st *client.StatusError
	switch {
	case errors.As(err, &st):
		x.Note(err)
		x.Fail(reasonOfCode(st.Code))
		code := grpcOfCode(st.Code)
		if v, ok := entry(&resp.Context, keyGRPCStatus); ok && len(v) == 1 && v[0] != 0 {
			code = int(v[0])
		}
		h := w.Header()
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", strconv.Itoa(code))
		w.WriteHeader(http.StatusOK)
	case err != nil:
		n.failed(w, r, &resp, err)
	default:
		h := w.Header()
		h.Set("Content-Type", "application/grpc")
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(appendUnary(nil, resp.Payload)) // the client is gone if it fails
		h.Set(http.TrailerPrefix+"Grpc-Status", "0")
	}
}

// unary takes the one message out of a body.
func unary(body []byte) ([]byte, error) {
	if len(body) < grpcPrefix || body[0] != 0 || int64(binary.BigEndian.Uint32(body[1:])) != int64(len(body)-grpcPrefix) {
		return nil, errUnary
	}
	return body[grpcPrefix:], nil
}

func appendUnary(dst, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32(append(dst, 0), uint32(len(message))), message...)
}
