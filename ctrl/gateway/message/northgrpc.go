package message

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/npro"
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

// grpcStream answers a call by a byte stream of its messages, with their prefixes: as many
// of them each way as there are. What one side does not read stops the other, by the
// windows of both protocols.
func (n *North) grpcStream(w http.ResponseWriter, r *http.Request, x *exchange.Exchange) {
	if e := r.Header.Get("Grpc-Encoding"); e != "" && e != "identity" {
		w.Header().Set("Grpc-Accept-Encoding", "identity")
		exchange.Refuse(w, r, exchange.Unsupported, "messages go to NPRO uncompressed, expected no grpc-encoding")
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	call := n.call(r, x, nil)
	call.Idempotent = false
	setDeadline(&call.Request.Context, ctx, 0)
	st, err := n.o.Cluster.Open(ctx, call)
	if err != nil {
		n.failed(w, r, &client.Response{}, err)
		return
	}
	_ = http.NewResponseController(w).EnableFullDuplex() // gRPC-Web may come over HTTP/1.1
	sent := make(chan error, 1)
	if r.Body == nil {
		r = r.WithContext(r.Context())
		r.Body = http.NoBody
	}
	go func() { sent <- n.sendMessages(st, r.Body) }()
	w.Header().Set("Content-Type", "application/grpc")
	w.WriteHeader(http.StatusOK)
	err = http.NewResponseController(w).Flush()
	if err == nil || errors.Is(err, http.ErrNotSupported) {
		err = copyMessages(flushed{w}, st, n.o.MaxMessage)
	}
	st.Close(err) // ends the other direction's writes
	up := endUpload(w, r, sent)
	var own *ownFault
	if errors.As(up, &own) {
		err = own // why the stream ended
	}
	n.endCall(w, r, err)
}

// ownFault is what was wrong with a client's messages, for which its stream was ended.
type ownFault struct{ err error }

func (e *ownFault) Error() string { return e.err.Error() }
func (e *ownFault) Unwrap() error { return e.err }

// sendMessages sends a call's messages to the upstream.
func (n *North) sendMessages(st *Stream, body io.Reader) error {
	err := copyMessages(onlyWriter{st}, body, n.o.MaxMessage)
	switch {
	case err == nil:
		return st.CloseWrite()
	case errors.Is(err, errFrame), errors.Is(err, errTooLarge):
		err = &ownFault{err}
		st.Close(err)
	case errors.As(err, new(*readFault)):
		st.Close(err) // or the upstream would wait for what never comes
	}
	return err // of writing: the other direction knows why
}

// readFault is an error of the side that messages come from.
type readFault struct{ err error }

func (e *readFault) Error() string { return e.err.Error() }
func (e *readFault) Unwrap() error { return e.err }

// copyMessages copies messages of gRPC, each as it comes, up to the end between two.
func copyMessages(to io.Writer, from io.Reader, most int) error {
	in := bufio.NewReaderSize(from, copySize)
	buf := make([]byte, copySize)
	for { // bound: the stream
		if _, err := io.ReadFull(in, buf[:grpcPrefix]); err != nil {
			switch err { // not errors.Is: a connection that was lost may be wrapped in one of them
			case io.EOF:
				return nil
			case io.ErrUnexpectedEOF:
				return fmt.Errorf("%w: a message cut short", errFrame)
			}
			return &readFault{err}
		}
		left := int64(binary.BigEndian.Uint32(buf[1:]))
		switch {
		case buf[0] != 0:
			return fmt.Errorf("%w: flag %#02x, expected 0: messages go uncompressed", errFrame, buf[0])
		case left > int64(most):
			return fmt.Errorf("%w: %d bytes, at most %d", errTooLarge, left, most)
		}
		for at := grpcPrefix; ; at = 0 { // bound: the message
			k := int(min(left, int64(len(buf)-at)))
			if _, err := io.ReadFull(in, buf[at:at+k]); err != nil {
				if err == io.EOF || err == io.ErrUnexpectedEOF {
					return fmt.Errorf("%w: a message cut short", errFrame)
				}
				return &readFault{err}
			}
			if _, err := to.Write(buf[:at+k]); err != nil {
				return err
			}
			if left -= int64(k); left == 0 {
				break
			}
		}
	}
}

// endCall ends a call whose head was sent.
func (n *North) endCall(w http.ResponseWriter, r *http.Request, err error) {
	x := exchange.From(r.Context())
	h := w.Header()
	if err == nil {
		h.Set(http.TrailerPrefix+"Grpc-Status", "0")
		return
	}
	x.Note(err)
	why := reasonOf(r.Context(), err)
	code := why.GRPC()
	var npCode npro.Code
	switch own := (*ownFault)(nil); {
	case why == exchange.ClientGone:
		x.Fail(why)
		panic(http.ErrAbortHandler)
	case r.Context().Err() != nil: // its deadline
	case errors.Is(err, errTooLarge):
		why, code = exchange.BodyTooLarge, exchange.GRPCResourceExhausted
	case errors.Is(err, errFrame):
		why, code = exchange.UpstreamProtocol, exchange.GRPCInternal
		if errors.As(err, &own) {
			why = exchange.BadRequest
		}
	case errors.As(err, &npCode):
		code = grpcOfCode(npCode)
	}
	x.Fail(why)
	h.Set(http.TrailerPrefix+"Grpc-Status", strconv.Itoa(code))
	h.Set(http.TrailerPrefix+"Grpc-Message", why.Title())
}
