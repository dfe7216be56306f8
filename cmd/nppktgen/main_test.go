package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/np-appliance/np/ctrl/client/clienttest"
	"github.com/np-appliance/np/ctrl/handshake"
)

func TestRun(t *testing.T) {
	srv, pub, err := clienttest.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	addr, err := srv.Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	var out, errOut bytes.Buffer
	code := run(context.Background(), []string{"npro", "--addr", addr, "--key", pub.String(), "--pattern", "nx", "-n", "500", "--warmup", "0", "-o", "json"}, &out, &errOut)
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || code != exitDone {
		t.Fatalf("exit %d, %v\n%s%s", code, err, out.String(), errOut.String())
	}
	if r.Messages != 500 || r.Schema != "np/v1" || r.P50us <= 0 || r.Loop != "closed" {
		t.Errorf("%+v", r)
	}
	out.Reset()
	code = run(context.Background(), []string{"npro", "--addr", addr, "-d", "200ms", "--warmup", "0"}, &out, &errOut)
	if code != exitDone || !strings.Contains(out.String(), "messages/s") || !strings.Contains(out.String(), "no errors") {
		t.Errorf("exit %d\n%s%s", code, out.String(), errOut.String())
	}
}

func TestExitCodes(t *testing.T) {
	srv, pub, err := clienttest.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	srv.Handle = func(*clienttest.Conn, *clienttest.Request) (clienttest.Reply, bool) {
		return clienttest.Reply{Status: 2}, true
	}
	addr, err := srv.Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	for _, c := range []struct {
		want int
		args string
	}{
		{exitFailed, "npro -n 3 --addr " + addr + " --key " + pub.String()},
		{exitRefused, "npro -n 3 --no-hybrid --addr " + addr + " --key " + pub.String()},
		{exitRefused, "npro -n 3 --addr " + addr + " --key " + handshake.PublicKey{9}.String()},
	} {
		var out, errOut bytes.Buffer
		if code := run(context.Background(), strings.Fields(c.args), &out, &errOut); code != c.want {
			t.Errorf("%q: exit %d, want %d: %s%s", c.args, code, c.want, out.String(), errOut.String())
		}
	}
	// Ctrl-C prints what there is.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var n atomic.Int32
	srv.Handle = func(_ *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
		if n.Add(1) == 10 {
			cancel()
		}
		return clienttest.Reply{Payload: r.Payload}, true
	}
	var out, errOut bytes.Buffer
	code := run(ctx, strings.Fields("npro -d 1h --warmup 0 --addr "+addr+" --key "+pub.String()), &out, &errOut)
	if code != exitDone || !strings.Contains(out.String(), "interrupted") || !strings.Contains(out.String(), "messages/s") {
		t.Errorf("exit %d\n%s%s", code, out.String(), errOut.String())
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		want int
		args string
	}{
		{exitUsage, ""},
		{exitUsage, "quic"},
		{exitUsage, "npro --nonsense"},
		{exitUsage, "npro --pattern zz"},
		{exitUsage, "npro --aead rot13"},
		{exitUsage, "npro --key short"},
		{exitUsage, "npro -o xml"},
		{exitUsage, "npro -c 0"},
		{exitUsage, "npro --rate -1"},
		{exitUsage, "npro --pattern ik"},
		{exitUnreachable, "npro --addr 127.0.0.1:1"},
		{exitUsage, "tcp"},
		{exitUsage, "tcp --interface np0 --address 198.18.0.2 --target 198.18.0.1:7"},
		{exitUsage, "tcp --interface np0 --address 198.18.0.2/24 --target localhost:7"},
		{exitUsage, "tcp --interface np0 --address 198.18.0.2/24 --target 198.18.0.1:0"},
		{exitUsage, "tcp --interface np0 --address 198.18.0.2/24 --target [2001:db8::1]:7"},
		{exitUsage, "tcp --interface np0 --address 198.18.0.2/24 --target 198.18.1.1:7"},
		{exitUsage, "tcp --interface np0 --address 198.18.0.2/24 --target 198.18.0.1:7 --mode flood"},
		{exitUsage, "tcp --interface np0 --address 198.18.0.2/24 --target 198.18.0.1:7 --depth 257"},
		{exitUsage, "tcp --interface np0 --address 198.18.0.2/24 --target 198.18.0.1:7 -c 0"},
		{exitUsage, "tcp --interface np0 --address 198.18.0.2/24 --target 198.18.0.1:7 --size 2000000"},
		{exitUsage, "tcp --interface np0 --address 198.18.0.2/24 --target 198.18.0.1:7 -d 0s"},
		{exitUsage, "tcp --interface np0 --address 198.18.0.2/24 --target 198.18.0.1:7 -o xml"},
	} {
		var out, errOut bytes.Buffer
		if code := run(context.Background(), strings.Fields(c.args), &out, &errOut); code != c.want || errOut.Len() == 0 {
			t.Errorf("%q: exit %d, want %d: %s", c.args, code, c.want, errOut.String())
		}
	}
}
