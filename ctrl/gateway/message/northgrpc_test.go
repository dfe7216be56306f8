package message

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/npro"
)

// chat opens a stream of grpc-go through a North with byte streams, whose upstream sends
// back what it gets.
func chat(t *testing.T, opcode string, opts ...grpc.CallOption) (grpc.ClientStream, *backend) {
	t.Helper()
	b := newBackend(t)
	n, err := NewNorth(NorthOptions{Cluster: newCluster(t, nil, b), Opcode: opcode, Stream: StreamBytes, MaxMessage: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	cc, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(front(t, limited(n)).URL, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	st, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/a.B/Chat", opts...)
	if err != nil {
		t.Fatal(err)
	}
	return st, b
}

// limited gives each request a deadline, as the stage that reads grpc-timeout does.
func limited(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
		defer cancel()
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

// TestNorthGRPCStream: messages both ways, one after the other, from none to large ones.
func TestNorthGRPCStream(t *testing.T) {
	st, b := chat(t, "TALK")
	for _, n := range []int{0, 1, 100, copySize - grpcPrefix, copySize, 99_000} {
		want := bytes.Repeat([]byte{byte(n)}, n)
		if err := st.SendMsg(wrapperspb.Bytes(want)); err != nil {
			t.Fatal(err)
		}
		got := &wrapperspb.BytesValue{}
		if err := st.RecvMsg(got); err != nil || !bytes.Equal(got.Value, want) {
			t.Fatalf("%d bytes: %d, %v", n, len(got.Value), err)
		}
	}
	if err := st.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := st.RecvMsg(&wrapperspb.BytesValue{}); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	asked := b.last()
	if v, _ := entry(&asked.Context, keyTarget); string(v) != "/a.B/Chat" {
		t.Errorf("target %q", v)
	}
	if c := &asked.Context; !c.HasDeadline || c.Deadline <= 0 || c.Deadline > 30*time.Second {
		t.Errorf("deadline %v, %v", c.HasDeadline, c.Deadline)
	}
}

// TestNorthGRPCBackpressure: far more than all windows hold, of which nothing is read until
// the sender is under way, comes in order.
func TestNorthGRPCBackpressure(t *testing.T) {
	st, _ := chat(t, "TALK")
	const count, size = 400, 50_000
	sent := make(chan error, 1)
	go func() {
		for i := range count {
			m := make([]byte, size)
			m[0], m[1] = byte(i), byte(i>>8)
			if err := st.SendMsg(wrapperspb.Bytes(m)); err != nil {
				sent <- err
				return
			}
		}
		sent <- st.CloseSend()
	}()
	select {
	case err := <-sent:
		t.Fatalf("20 MB went where nobody reads: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	for i := range count {
		got := &wrapperspb.BytesValue{}
		if err := st.RecvMsg(got); err != nil || len(got.Value) != size || int(got.Value[0])|int(got.Value[1])<<8 != i {
			t.Fatalf("message %d: %d bytes, %v", i, len(got.Value), err)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if err := st.RecvMsg(&wrapperspb.BytesValue{}); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// TestNorthGRPCEnds: streams that end otherwise, with the statuses of gRPC for it.
func TestNorthGRPCEnds(t *testing.T) {
	recv := func(st grpc.ClientStream) codes.Code {
		for {
			if err := st.RecvMsg(&wrapperspb.BytesValue{}); err != nil {
				return status.Code(err)
			}
		}
	}
	st, _ := chat(t, "NO")
	if got := recv(st); got != codes.PermissionDenied {
		t.Errorf("refused: %v", got)
	}
	st, b := chat(t, "TALK")
	if err := st.SendMsg(wrapperspb.Bytes([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	if err := st.RecvMsg(&wrapperspb.BytesValue{}); err != nil {
		t.Fatal(err)
	}
	b.Drop()
	if got := recv(st); got != codes.Unavailable {
		t.Errorf("lost: %v", got)
	}
	st, _ = chat(t, "TALK")
	if err := st.SendMsg(wrapperspb.Bytes(make([]byte, 100_001))); err != nil {
		t.Fatal(err)
	}
	if got := recv(st); got != codes.ResourceExhausted {
		t.Errorf("too large: %v", got)
	}
	st, _ = chat(t, "TALK", grpc.UseCompressor(gzip.Name))
	_ = st.SendMsg(wrapperspb.Bytes([]byte("x"))) // may be refused already
	if got := recv(st); got != codes.Unimplemented {
		t.Errorf("compressed: %v", got)
	}
}

// TestSouthGRPCStream: a byte stream of NPRO becomes a call to grpc-go's server, whose
// status is the stream's end.
func TestSouthGRPCStream(t *testing.T) {
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, st grpc.ServerStream) error {
		for n := 0; ; n++ {
			m := &wrapperspb.BytesValue{}
			err := st.RecvMsg(m)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if string(m.Value) == "fail" {
				return status.Error(codes.PermissionDenied, "no")
			}
			m.Value = append([]byte("re: "), m.Value...)
			if err := st.SendMsg(m); err != nil {
				return err
			}
		}
	}))
	south, err := NewSouth(SouthOptions{Opcode: "CHAT", Payload: PayloadGRPC, Path: "/a.B/Chat", Streams: true, Handler: s})
	if err != nil {
		t.Fatal(err)
	}
	message := func(text string) []byte { return appendUnary(nil, append([]byte{0x0a, byte(len(text))}, text...)) }
	d := &duplex{Reader: bytes.NewReader(append(message("a"), message("b")...))}
	if err := south.Entry().Stream(t.Context(), &dispatch.Request{Opcode: "CHAT"}, d); err != nil || d.out.String() != string(message("re: a"))+string(message("re: b")) {
		t.Errorf("%q, %v", d.out.String(), err)
	}
	d = &duplex{Reader: bytes.NewReader(append(message("a"), message("fail")...))}
	if err := south.Entry().Stream(t.Context(), &dispatch.Request{Opcode: "CHAT"}, d); !errors.Is(err, npro.CodeDenied) || d.out.String() != string(message("re: a")) {
		t.Errorf("%q, %v", d.out.String(), err)
	}
}

// inPieces reads n bytes at a time, and its end with the last of them if early.
type inPieces struct {
	p     []byte
	n     int
	early bool
	end   error
}

func (r *inPieces) Read(p []byte) (int, error) {
	k := copy(p, r.p[:min(len(r.p), r.n)])
	r.p = r.p[k:]
	if len(r.p) == 0 && (r.early || k == 0) {
		return k, r.end
	}
	return k, nil
}

// wholeMessages is how many bytes of p are whole messages of most bytes at most, and what is
// wrong with the one after them; nil: nothing follows.
func wholeMessages(p []byte, most int) (int, error) {
	at := 0
	for at < len(p) {
		rest := p[at:]
		switch {
		case len(rest) < grpcPrefix || rest[0] != 0:
			return at, errFrame
		case uint64(binary.BigEndian.Uint32(rest[1:])) > uint64(most):
			return at, errTooLarge
		case uint64(binary.BigEndian.Uint32(rest[1:])) > uint64(len(rest)-grpcPrefix):
			return at, errFrame
		}
		at += grpcPrefix + int(binary.BigEndian.Uint32(rest[1:]))
	}
	return at, nil
}

// FuzzCopyMessages sends hostile streams of messages, which come from clients and from peers
// of NPRO: however their bytes come, whole messages within the limit go on as they are, of
// another none of what follows it, and it is said why.
func FuzzCopyMessages(f *testing.F) {
	two := appendUnary(appendUnary(nil, []byte("ab")), nil)
	f.Add(two, uint16(1), true, false)
	f.Add(append(two, 0, 0, 0), uint16(3), false, false)
	f.Add(append(two, 1, 0, 0, 0, 0), uint16(100), true, false)
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 1}, uint16(6), false, false)
	f.Add([]byte{0, 0, 0, 0, 9, 1}, uint16(6), false, true)
	f.Add(appendUnary(appendUnary(nil, make([]byte, copySize-1)), make([]byte, 2*copySize)), uint16(1000), true, false)
	f.Fuzz(func(t *testing.T, raw []byte, piece uint16, early, lost bool) {
		const most = 2*copySize + 10
		size, want := wholeMessages(raw, most)
		in := &inPieces{p: raw, n: int(piece) + 1, early: early, end: io.EOF}
		if lost {
			in.end = net.ErrClosed
		}
		var out bytes.Buffer
		err := copyMessages(&out, in, most)
		broken := len(raw) - size
		ends := want == nil || broken < grpcPrefix // before the next message's head is there
		cut := !ends && errors.Is(want, errFrame) && raw[size] == 0
		if !bytes.HasPrefix(raw, out.Bytes()) || out.Len() < size || !cut && out.Len() > size {
			t.Fatalf("%d bytes of %d, whole messages are %d", out.Len(), len(raw), size)
		}
		if lost && (ends || cut) {
			if !errors.Is(err, net.ErrClosed) || !errors.As(err, new(*readFault)) {
				t.Fatalf("%v, expected that it is lost", err)
			}
		} else if !errors.Is(err, want) || errors.As(err, new(*readFault)) {
			t.Fatalf("%v, expected %v", err, want)
		}
		if left := errors.New("no room"); out.Len() > 0 {
			if err := copyMessages(&full{room: out.Len() - 1, err: left}, &inPieces{p: raw, n: int(piece) + 1, end: io.EOF}, most); !errors.Is(err, left) {
				t.Fatalf("of a writer that fails: %v", err)
			}
		}
	})
}

// full takes some bytes, and then nothing.
type full struct {
	room int
	err  error
}

func (w *full) Write(p []byte) (int, error) {
	if len(p) > w.room {
		return w.room, w.err
	}
	w.room -= len(p)
	return len(p), nil
}
