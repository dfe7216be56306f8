package dispatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/npro"
)

func quiet() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, nil)), &b
}

func TestOpcodes(t *testing.T) {
	log, _ := quiet()
	h := func(context.Context, *Request) ([]byte, error) { return nil, nil }
	for _, bad := range [][]Entry{{{Opcode: "", Handle: h}}, {{Opcode: strings.Repeat("x", 64), Handle: h}}, {{Opcode: "\xff", Handle: h}}, {{Opcode: "A"}}, {{Opcode: "A", Handle: h}, {Opcode: "A", Handle: h}}} {
		if _, err := New(log, bad...); err == nil {
			t.Errorf("accepted %+v", bad)
		}
	}
}

func TestCallStatus(t *testing.T) {
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	tests := []struct {
		name string
		ctx  context.Context
		h    Handler
		code npro.Code
		logs string
	}{
		{"ok", context.Background(), func(context.Context, *Request) ([]byte, error) { return []byte("x"), nil }, npro.CodeOK, ""},
		{"code", context.Background(), func(context.Context, *Request) ([]byte, error) {
			return nil, fmt.Errorf("full: %w", npro.CodeOverloaded)
		}, npro.CodeOverloaded, ""},
		{"other", context.Background(), func(context.Context, *Request) ([]byte, error) { return nil, errors.New("disk on fire") }, npro.CodeInternal, "disk on fire"},
		{"deadline", context.Background(), func(context.Context, *Request) ([]byte, error) { return nil, context.DeadlineExceeded }, npro.CodeTimeout, ""},
		{"canceled", canceled, func(context.Context, *Request) ([]byte, error) { return nil, errors.New("late") }, npro.CodeCanceled, ""},
		{"panic", context.Background(), func(context.Context, *Request) ([]byte, error) { panic("boom") }, npro.CodeInternal, "boom"},
		{"failure", context.Background(), func(context.Context, *Request) ([]byte, error) {
			return []byte("lost"), fmt.Errorf("wrapped: %w", &Failure{Code: npro.CodeDenied, Payload: []byte("why")})
		}, npro.CodeDenied, ""},
		{"streams only", context.Background(), nil, npro.CodeBadRequest, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log, out := quiet()
			r, err := New(log, Entry{Opcode: "X", Handle: tt.h, Stream: echoStream})
			if err != nil {
				t.Fatal(err)
			}
			code, payload := r.Call(tt.ctx, r.Lookup("X"), &Request{Opcode: "X"})
			if code != tt.code {
				t.Errorf("code %v, want %v", code, tt.code)
			}
			if tt.name == "failure" && string(payload) != "why" {
				t.Errorf("payload %q", payload)
			}
			if tt.logs == "" && out.Len() > 0 || !strings.Contains(out.String(), tt.logs) {
				t.Errorf("log %q, want %q in it", out, tt.logs)
			}
		})
	}
}

type pipe struct {
	io.Reader
	io.Writer
	closed bool
}

func (p *pipe) CloseWrite() error { p.closed = true; return nil }

func TestBuiltin(t *testing.T) {
	log, _ := quiet()
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r, err := New(log, Builtin("npd", "v1", start, func() time.Time { return start.Add(90 * time.Second) })...)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(r.Opcodes()); got != "[DISCARD ECHO INFO]" {
		t.Error(got)
	}
	_, body := r.Call(t.Context(), r.Lookup("INFO"), &Request{})
	var info struct {
		Schema, Name, Version, Started string
		Uptime                         int `json:"uptime_seconds"`
	}
	if err := json.Unmarshal(body, &info); err != nil || info.Uptime != 90 || info.Started != "2026-01-02T03:04:05Z" || info.Schema != "np/v1" {
		t.Errorf("%s: %v", body, err)
	}
	for op, want := range map[string]string{"ECHO": "hello", "DISCARD": ""} {
		if _, body := r.Call(t.Context(), r.Lookup(op), &Request{Payload: []byte("hello")}); string(body) != want {
			t.Errorf("%s answers %q", op, body)
		}
		var out bytes.Buffer
		p := &pipe{Reader: strings.NewReader("hello"), Writer: &out}
		if code := r.Serve(t.Context(), r.Lookup(op), &Request{}, p); code != npro.CodeOK || out.String() != want || !p.closed {
			t.Errorf("%s stream: %v %q closed %v", op, code, out.String(), p.closed)
		}
	}
	if r.Lookup("NOPE") != nil {
		t.Error("unknown opcode found")
	}
}

func TestRoute(t *testing.T) {
	log, _ := quiet()
	r, err := New(log, Builtin("npd", "v1", time.Now(), time.Now)...)
	if err != nil {
		t.Fatal(err)
	}
	h := func(context.Context, *Request) ([]byte, error) { return nil, nil }
	if err := r.Route(Entry{Opcode: "A", Handle: h}, Entry{Opcode: "B", Handle: h}); err != nil {
		t.Fatal(err)
	}
	if r.Lookup("A") == nil || r.Find([]byte("B")) == nil || r.Lookup("ECHO") == nil {
		t.Error("not found")
	}
	for _, bad := range [][]Entry{{{Opcode: "ECHO", Handle: h}}, {{Opcode: "C"}}, {{Opcode: "C", Handle: h}, {Opcode: "C", Handle: h}}} {
		if err := r.Route(bad...); err == nil || r.Lookup("A") == nil {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if err := r.Route(); err != nil || r.Lookup("A") != nil {
		t.Errorf("%v", err)
	}
}
