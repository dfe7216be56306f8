//go:build cgo

package main

import (
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// Where there is no RDMA its listeners fall to kernel sockets at the same address, and everybody says so.
func TestNoRDMA(t *testing.T) {
	if _, err := os.Stat("/dev/infiniband/rdma_cm"); err == nil {
		t.Skip("this machine has RDMA")
	}
	at := freePort(t)
	s := serve(t, "[rdma]\nenabled = true\nmax_connections = 4\n[[listener]]\nname = \"fast\"\naddress = \""+at+"\"\nprotocol = \"echo\"\nbackend = \"rdma\"\n")
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
		t.Fatal(string(buf), err)
	}
	log := s.logged()
	for _, want := range []string{"no RDMA", "rdma_cm", "modprobe rdma_ucm", "listener=\"fast on " + at + "\"", "backend=rdma"} {
		if !strings.Contains(log, want) && !(want == "rdma_cm" && strings.Contains(log, "libibverbs")) && !(want == "modprobe rdma_ucm" && strings.Contains(log, "apt-get install")) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	var b api.Backend
	if err := s.mgmt.Get(t.Context(), api.PathBackend, nil, &b); err != nil {
		t.Fatal(err)
	}
	if len(b.Backends) != 1 {
		t.Fatalf("%+v", b)
	}
	u := b.Backends[0]
	if u.Requested != "rdma" || u.Actual != "io_uring" && u.Actual != "epoll" || u.Reason == "" {
		t.Errorf("%+v", u)
	}
	if r := b.Ladder[0]; r.Backend != "rdma" || r.Chosen || r.Reason == "" || r.Cure == "" {
		t.Errorf("%+v", b.Ladder)
	}
}
