package authz

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// unary sends calls of gRPC by a Doer that speaks HTTP/2, so that an upstream balances,
// repeats and counts each of them. It is a [grpc.ClientConnInterface] for calls without
// options; messages are not compressed.
type unary struct {
	doer      Doer
	authority string
}

// grpcPrefix is what stands before each message: whether it is compressed, and its length.
const grpcPrefix = 5

// Invoke implements [grpc.ClientConnInterface].
func (u *unary) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	in, ok := args.(proto.Message)
	out, ok2 := reply.(proto.Message)
	if !ok || !ok2 {
		return fmt.Errorf("a message of type %T", args)
	}
	body := make([]byte, grpcPrefix, 512)
	body, err := proto.MarshalOptions{}.MarshalAppend(body, in)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(body[1:], uint32(len(body)-grpcPrefix))
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, (&url.URL{Scheme: "http", Host: u.authority, Path: method}).String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	q.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "Grpc-Accept-Encoding": {"identity"}}
	res, err := u.doer.Do(q)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return receive(res, out)
}

// receive reads the one message of an answer and its status.
func receive(res *http.Response, out proto.Message) error {
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d, expected 200", res.StatusCode)
	}
	if kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || kind != "application/grpc" && !strings.HasPrefix(kind, "application/grpc+") {
		return fmt.Errorf("an answer of type %.64q, expected application/grpc", res.Header.Get("Content-Type"))
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, grpcPrefix+maxMessage+1))
	if err != nil {
		return err
	}
	if len(body) > grpcPrefix+maxMessage {
		return fmt.Errorf("an answer of more than %d bytes", maxMessage)
	}
	from := res.Trailer
	if from.Get("Grpc-Status") == "" {
		from = res.Header // an answer that has nothing but its end
	}
	code, err := strconv.ParseUint(from.Get("Grpc-Status"), 10, 8)
	if err != nil {
		return errors.New("an answer without a status of gRPC")
	}
	if code != 0 {
		text, err := url.PathUnescape(from.Get("Grpc-Message"))
		if err != nil {
			text = from.Get("Grpc-Message")
		}
		return status.Error(codes.Code(code), strings.ToValidUTF8(text, "\ufffd"))
	}
	switch {
	case len(body) < grpcPrefix || uint64(binary.BigEndian.Uint32(body[1:])) != uint64(len(body)-grpcPrefix):
		return errors.New("an answer that is not one message")
	case body[0] != 0:
		return errors.New("a compressed answer, which was not asked for")
	}
	return proto.Unmarshal(body[grpcPrefix:], out)
}

// NewStream implements [grpc.ClientConnInterface]: nothing here streams.
func (*unary) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.ErrUnsupported
}
