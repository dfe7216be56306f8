package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/npro"
)

// Request is a message to a handler. It and its Payload are the handler's
// only until it returns.
type Request struct {
	Opcode  string
	Payload []byte
	OneWay  bool // MESSAGE: what the handler returns goes nowhere
	Peer    Peer
	Context npro.Context
	// Reply is sent with the response when it is not zero; the handler sets it. A
	// stream's goes with the response that accepts it, so it is set too late there.
	Reply npro.Context
}

// Failure is a handler's error that tells the peer more than a code.
type Failure struct {
	Code    npro.Code // 1 to 255
	Payload []byte
}

func (f *Failure) Error() string { return fmt.Sprintf("%v, with %d bytes", f.Code, len(f.Payload)) }

// Unwrap returns the code.
func (f *Failure) Unwrap() error { return f.Code }

// Peer is who sent a request.
type Peer struct {
	Name   string // of its [[peer]] entry; "" for one that has none
	Key    string // base64 public key; "" for one without
	Remote netip.AddrPort
	ConnID [8]byte
}

// Handler answers one message. ctx ends when the peer gives up, its deadline
// passes or its connection goes.
type Handler func(ctx context.Context, r *Request) ([]byte, error)

// Stream is a byte stream of NPRO. Read ends with io.EOF when the peer sent
// its last byte. Both block under the flow control of the peer and of us.
type Stream interface {
	io.Reader
	io.Writer
	// CloseWrite says that nothing more will be written.
	CloseWrite() error
}

// StreamHandler serves one byte stream, which r asked for; the stream ends when
// it returns, with RESET and the error's code when it returns an error.
type StreamHandler func(ctx context.Context, r *Request, s Stream) error

// Entry registers what serves an opcode: a Handler for requests, a StreamHandler
// for requests that do not END, or both.
type Entry struct {
	Opcode string
	Handle Handler
	Stream StreamHandler
	// Inline: Handle never blocks and is quick; it runs where events are read.
	Inline bool
}

// Registry is a set of entries, of which those of Route alone change; safe for concurrent
// use.
type Registry struct {
	entries map[string]*Entry
	routed  atomic.Pointer[map[string]*Entry]
	log     *slog.Logger
}

// New makes a registry. Opcodes are 1 to 63 bytes of UTF-8, each once.
func New(log *slog.Logger, entries ...Entry) (*Registry, error) {
	r := &Registry{log: log}
	var err error
	if r.entries, err = collect(entries, nil); err != nil {
		return nil, err
	}
	r.routed.Store(&map[string]*Entry{})
	return r, nil
}

func collect(entries []Entry, taken map[string]*Entry) (map[string]*Entry, error) {
	out := make(map[string]*Entry, len(entries))
	for _, e := range entries {
		if err := npro.CheckOpcode(e.Opcode); err != nil {
			return nil, fmt.Errorf("register handler: %w", err)
		}
		if e.Handle == nil && e.Stream == nil {
			return nil, fmt.Errorf("register handler: opcode %q has none", e.Opcode)
		}
		if out[e.Opcode] != nil || taken[e.Opcode] != nil {
			return nil, fmt.Errorf("register handler: opcode %q is taken", e.Opcode)
		}
		out[e.Opcode] = &e
	}
	return out, nil
}

// Route replaces the entries that the call before it gave. Requests under way end by the
// entry they began with. On an error nothing has changed.
func (r *Registry) Route(entries ...Entry) error {
	m, err := collect(entries, r.entries)
	if err == nil {
		r.routed.Store(&m)
	}
	return err
}

// Lookup finds an opcode's entry, nil when there is none.
func (r *Registry) Lookup(opcode string) *Entry {
	if e := r.entries[opcode]; e != nil {
		return e
	}
	return (*r.routed.Load())[opcode]
}

// Find is Lookup for an opcode in a buffer; it makes no string.
func (r *Registry) Find(opcode []byte) *Entry {
	if e := r.entries[string(opcode)]; e != nil {
		return e
	}
	return (*r.routed.Load())[string(opcode)]
}

// Opcodes lists what is registered, sorted.
func (r *Registry) Opcodes() []string {
	out := make([]string, 0, len(r.entries))
	for op := range r.entries {
		out = append(out, op)
	}
	for op := range *r.routed.Load() {
		out = append(out, op)
	}
	slices.Sort(out)
	return out
}

// Call runs a handler and gives the status and payload of the response. A
// panic is INTERNAL, and logged with its stack.
func (r *Registry) Call(ctx context.Context, e *Entry, req *Request) (code npro.Code, payload []byte) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("handler panicked", "opcode", e.Opcode, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			code, payload = npro.CodeInternal, nil
		}
	}()
	if e.Handle == nil {
		return npro.CodeBadRequest, []byte("opcode serves streams only")
	}
	payload, err := e.Handle(ctx, req)
	if err == nil {
		return npro.CodeOK, payload
	}
	var f *Failure
	if errors.As(err, &f) && f.Code != npro.CodeOK {
		return f.Code, f.Payload
	}
	code = r.status(ctx, e, err)
	return code, nil
}

// Serve runs a stream handler; the code is OK or what RESET shall say.
func (r *Registry) Serve(ctx context.Context, e *Entry, req *Request, s Stream) (code npro.Code) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("stream handler panicked", "opcode", e.Opcode, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			code = npro.CodeInternal
		}
	}()
	if err := e.Stream(ctx, req, s); err != nil {
		return r.status(ctx, e, err)
	}
	return npro.CodeOK
}

// status finds what the peer is told of an error.
func (r *Registry) status(ctx context.Context, e *Entry, err error) npro.Code {
	var code npro.Code
	switch {
	case errors.As(err, &code) && code != npro.CodeOK:
		return code
	case errors.Is(err, context.DeadlineExceeded):
		return npro.CodeTimeout
	case errors.Is(err, context.Canceled), ctx.Err() != nil:
		return npro.CodeCanceled
	}
	r.log.Warn("handler failed", "opcode", e.Opcode, "err", err)
	return npro.CodeInternal
}

// Builtin are the opcodes that npd answers itself: ECHO (where the core does
// not already, and as a byte stream), DISCARD and INFO.
func Builtin(name, version string, start time.Time, now func() time.Time) []Entry {
	head := fmt.Appendf(nil, `{"schema":"np/v1","name":%q,"version":%q,"started":%q,"uptime_seconds":`, name, version, start.UTC().Format(time.RFC3339))
	info := func(context.Context, *Request) ([]byte, error) {
		out := append(make([]byte, 0, len(head)+24), head...)
		return append(strconv.AppendInt(out, int64(now().Sub(start).Seconds()), 10), '}'), nil
	}
	return []Entry{
		{Opcode: "ECHO", Inline: true, Handle: echo, Stream: echoStream},
		{Opcode: "DISCARD", Inline: true, Handle: discard, Stream: discardStream},
		{Opcode: "INFO", Inline: true, Handle: info},
	}
}

func echo(_ context.Context, r *Request) ([]byte, error) { return r.Payload, nil }

func discard(context.Context, *Request) ([]byte, error) { return nil, nil }

// streamBuffer is what echoStream and discardStream take at a time.
const streamBuffer = 32 << 10

func echoStream(_ context.Context, _ *Request, s Stream) error {
	if _, err := io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{s}, make([]byte, streamBuffer)); err != nil {
		return fmt.Errorf("echo stream: %w", err)
	}
	return s.CloseWrite()
}

func discardStream(_ context.Context, _ *Request, s Stream) error {
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{s}, make([]byte, streamBuffer)); err != nil {
		return fmt.Errorf("discard stream: %w", err)
	}
	return s.CloseWrite()
}
