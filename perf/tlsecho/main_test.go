package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/np-appliance/np/ctrl/client/clienttest"
)

func measure(t *testing.T, args ...string) {
	t.Helper()
	var out bytes.Buffer
	args = append(args, "-conns", "3", "-duration", "100ms", "-warmup", "10ms")
	if err := run(t.Context(), args, &out); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	var got struct {
		Messages    int `json:"messages"`
		MessagesAll int `json:"messages_all"`
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Messages < 3 || got.MessagesAll < got.Messages {
		t.Errorf("%v: %+v", args, got)
	}
}

func TestTLS(t *testing.T) {
	for _, gather := range []string{"-gather=false", "-gather=true"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- serve(ctx, ln, &options{size: 100, gather: gather == "-gather=true"}) }()
		for _, depth := range []string{"1", "16"} {
			measure(t, "load", "-addr", ln.Addr().String(), "-size", "100", "-depth", depth, gather)
		}
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
}

func TestNPRO(t *testing.T) {
	s, _, err := clienttest.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	addr, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	// enough that credit has to be returned, and answers longer than a frame
	for _, size := range []string{"1", "64", "16384", "60000"} {
		measure(t, "npro", "-addr", addr, "-size", size, "-depth", "4")
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"dance"}, {"load", "-size", "0"}, {"npro", "-depth", "16", "-size", "65536"}} {
		err := run(t.Context(), args, nil)
		if err == nil || !strings.Contains(err.Error(), "want") && !strings.Contains(err.Error(), "usage") {
			t.Errorf("%v: %v", args, err)
		}
	}
}
