//go:build vm && cgo

package rdma

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// npd runs build/bin/npd with a listener on RDMA until the test ends, and returns its folder.
func npd(t *testing.T, config string) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "np.toml")
	text := fmt.Sprintf("[management]\nsocket = %q\nro_socket = \"\"\n[protocol]\nprivate_key_file = %q\nallow_any_peer = true\n"+
		"[limits]\nbuffers_per_core = 8192\nloans_per_core = 512\nstreams_per_core = 1024\n%s", dir+"/np.sock", dir+"/npd.key", config)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("build/bin/npd", "-c", file)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		told := false
		for s := bufio.NewScanner(out); s.Scan(); {
			log.WriteString(s.Text() + "\n")
			if !told && strings.Contains(s.Text(), "npd ready") {
				told = true
				close(ready)
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			t.Error("npd did not end")
			<-ended
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("npd: %v", err)
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	select {
	case <-ready:
	case <-ended:
		t.Fatalf("npd ended:\n%s", log.String())
	case <-time.After(60 * time.Second):
		t.Fatal("npd is not ready")
	}
	return dir
}

// NPRO end to end: npd on one device, the SDK over RDMA on the other.
func TestNPRO(t *testing.T) {
	const at = "198.18.1.1:7700"
	dir := npd(t, "[rdma]\nenabled = true\ndevice = \"rxe1\"\ngid_index = 1\nring_size = \"64KiB\"\nmax_connections = 32\n"+
		"[[listener]]\nname = \"fast\"\naddress = \":7700\"\nbackend = \"rdma\"\n"+
		"[[listener]]\nname = \"others\"\naddress = \""+at+"\"\nbackend = \"epoll\"\n")
	e := newEnd(t, with{conns: 32, source: clientAddr, transport: true})
	key, err := handshake.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	trust := func(handshake.PublicKey) error { return nil }
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	byRDMA := func(ctx context.Context, network, address string) (net.Conn, error) {
		return e.tr.Dial(ctx, network, address)
	}
	for _, dial := range []func(context.Context, string, string) (net.Conn, error){byRDMA, nil} { // the second by TCP, at the same address
		c, err := client.Dial(ctx, client.Config{Address: at, DialContext: dial, Static: key, Trust: trust, Connections: 4,
			ConnectTimeout: 30 * time.Second, HandshakeTimeout: 30 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for n := range 25 {
					body := bytes.Repeat([]byte{byte(i), byte(n)}, 1+n*n*17)
					got, err := c.Request(ctx, "ECHO", body)
					if err != nil || !bytes.Equal(got, body) {
						t.Errorf("request %d.%d: %d bytes, %v", i, n, len(got), err)
						return
					}
				}
			})
		}
		wg.Wait()
		if dial != nil {
			check(t, dir)
		}
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	}
	if n := e.m.Stats(); n.Dialled != 4 {
		t.Errorf("%+v", n)
	}
	// What is no NPRO ends that connection alone.
	raw, err := e.tr.Dial(ctx, "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = raw.Write(bytes.Repeat([]byte("no NPRO at all "), 100))
	_ = raw.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.Copy(io.Discard, raw); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("rubbish: %v", err)
	}
	raw.Close()
}

// check asks npctl what npd says of its listeners and connections.
func check(t *testing.T, dir string) {
	t.Helper()
	ask := func(out any, args ...string) {
		b, err := exec.Command("build/bin/npctl", append([]string{"--socket", dir + "/np.sock", "-o", "json"}, args...)...).Output()
		if err != nil {
			t.Fatalf("npctl %v: %v %s", args, err, b)
		}
		if err := json.Unmarshal(b, out); err != nil {
			t.Fatalf("npctl %v: %v: %s", args, err, b)
		}
	}
	var b api.Backend
	ask(&b, "backend", "show")
	actual := map[string]string{}
	for _, u := range b.Backends {
		actual[u.Name] = u.Actual
	}
	if actual["fast"] != "rdma" || actual["others"] != "epoll" {
		t.Errorf("%+v", b)
	}
	var conns struct {
		Connections []struct {
			Backend string `json:"backend"`
			Remote  string `json:"remote"`
		} `json:"connections"`
	}
	ask(&conns, "conn", "list")
	for _, c := range conns.Connections {
		if c.Backend != "rdma" || !strings.HasPrefix(c.Remote, clientAddr.String()+":") {
			t.Errorf("%+v", c)
		}
	}
	if len(conns.Connections) != 4 {
		t.Errorf("%+v", conns)
	}
}
