//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/dataplane"
)

// usable is how many CPUs this machine gives us.
func usable(t *testing.T) int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	return set.Count()
}

// Four cores, whatever the machine has, on a veth pair with one queue (software hands
// flows on) and with four.
func TestFourCores(t *testing.T) {
	for _, tt := range []struct {
		name     string
		queues   int
		steering string
		software bool
	}{{"one queue", 1, "auto", true}, {"four queues", 4, "auto", false}, {"four queues, software", 4, "software", true}} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, options{queues: tt.queues, config: func(s string) string {
				return strings.Replace(s, "\ncores = 1 ", "\nsteering = \""+tt.steering+"\"\ncores = 4 ", 1)
			}})
			fourCores(t, w, tt.software, usable(t))
		})
	}
}

func fourCores(t *testing.T, w *world, software bool, cpus int) {
	s := w.status()
	if len(s.Cores) != 4 {
		t.Fatalf("cores: %+v", s.Cores)
	}
	if said := strings.Contains(w.logTail(1000), "they take turns"); said != (cpus < 4) {
		t.Errorf("%d CPUs, and the warning that cores take turns: %v", cpus, said)
	}
	by := map[bool]string{true: "steering=software", false: "steering=device"}[software]
	if log := w.logTail(1000); !strings.Contains(log, by) {
		t.Errorf("the log does not say %s", by)
	}
	free := s.BuffersFree
	const conns = 200
	var list []net.Conn
	for i := range conns {
		c, err := w.dial("tcp", addr4(7))
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer c.Close()
		list = append(list, c)
	}
	var wg sync.WaitGroup
	errs := make(chan error, conns)
	for i, c := range list {
		wg.Go(func() { errs <- talk(c, i) })
	}
	wg.Wait()
	for range conns {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	clients := sessionsEcho(w, 60)
	perCore, sessions := map[int]int{}, map[int]int{}
	for _, c := range query[api.Conns](w, "conn", "list").Connections {
		perCore[c.Core]++
		if c.Protocol == "npro" {
			sessions[c.Core]++
		}
	}
	if len(perCore) != 4 || len(sessions) != 4 {
		t.Errorf("connections of the cores: %v, NPRO's %v, want some on each of four", perCore, sessions)
	}
	if err := through(w.mustDial(addr4(7)), 64<<20, 3); err != nil {
		t.Error(err)
	}
	steered, strays := w.stat("core_steered_total"), w.stat("core_handed_on_total")
	t.Logf("connections %v, %d segments steered, %d by other cores' queues, %d astray", perCore, steered, w.stat("core_lane_packets_total"), strays)
	if (steered > 0) != software {
		t.Errorf("%d segments steered by software", steered)
	}
	if software && strays > 0 {
		t.Errorf("%d segments went astray, though a hash gives each its core", strays)
	}
	for _, d := range query[api.Drops](w, "drops").Drops {
		if d.Value > 0 && (strings.HasPrefix(d.Name, "core_") || d.Name == "no_buffer" || d.Name == "tcp_no_connection" || d.Name == "tcp_no_listener") {
			t.Errorf("%d drops: %s", d.Value, d.Name)
		}
	}
	for _, c := range list {
		_ = c.Close()
	}
	for _, c := range clients {
		_ = c.Close(t.Context())
	}
	w.restful(free)
}

// sessionsEcho opens NPRO connections and has each echo a message.
func sessionsEcho(w *world, conns int) (clients []*client.Client) {
	w.t.Helper()
	var wg sync.WaitGroup
	gate := make(chan struct{}, 16)
	for i := range conns {
		gate <- struct{}{}
		c := w.mustConnect(client.Config{NoReconnect: true})
		clients = append(clients, c)
		wg.Go(func() {
			defer func() { <-gate }()
			msg := bytes.Repeat([]byte{byte(i)}, 3000)
			for range 3 {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				got, err := c.Request(ctx, "ECHO", msg)
				cancel()
				if err != nil || !bytes.Equal(got, msg) {
					w.t.Errorf("NPRO connection %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return clients
}

// talk has a word of its own echoed some times.
func talk(c net.Conn, i int) error {
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	want := bytes.Repeat([]byte(fmt.Sprintf("connection %d ", i)), 40)
	got := make([]byte, len(want))
	for range 5 {
		if _, err := c.Write(want); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, got); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("connection %d: another word came back", i)
		}
	}
	return nil
}

// Connections that Go opens on each of four cores come home over one queue, and those it
// accepts; datagrams too.
func TestFourCoresFromGo(t *testing.T) {
	for _, queues := range []int{1, 4} {
		t.Run(fmt.Sprint(queues), func(t *testing.T) {
			w := newWorld(t, options{queues: queues, noNpd: true})
			us := xdpEnd(t, w, "s", "np0", server4, server6, 4)
			body := bytes.Repeat([]byte("four cores "), 20000)
			var l net.Listener
			if err := w.inClient(func() (err error) { l, err = net.Listen("tcp", "198.18.0.2:8080"); return err }); err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { _, _ = rw.Write(body) })}
			go func() { _ = srv.Serve(l) }()
			defer srv.Close()
			errs := make(chan error, 64)
			for range cap(errs) {
				go func() { errs <- fetch(t, us, body) }()
			}
			for range cap(errs) {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
			var opened, steered uint64
			for i := range us.plane.Cores() {
				c := us.plane.Counters(i)
				n := c.Counter[dataplane.CounterTCPOpenActive]
				if n == 0 {
					t.Errorf("core %d opened none", i)
				}
				opened += n
				steered += c.Counter[dataplane.CounterSteered]
				if n := c.Drop[dataplane.DropSteerFull]; n != 0 { // a core that waits for a CPU reads no ring; TCP sends again
					t.Logf("core %d: %d segments found no room", i, n)
				}
			}
			if opened != uint64(cap(errs)) || (steered > 0) != (queues == 1) {
				t.Errorf("%d opened, %d segments steered", opened, steered)
			}
		})
	}
}

// fetch gets a page by a connection of the plane's.
func fetch(t *testing.T, us *planeEnd, want []byte) error {
	c, err := us.Dial(t.Context(), "tcp", "198.18.0.2:8080")
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: np\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	got, err := io.ReadAll(r.Body)
	if err == nil && sha256.Sum256(got) != sha256.Sum256(want) {
		err = fmt.Errorf("%d bytes of %d, or others", len(got), len(want))
	}
	return err
}
