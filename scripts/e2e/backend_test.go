//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// backendIs waits until npctl says that an interface asked for and has these, and that a
// connection says the same.
func (w *world) backendIs(name, requested, actual string) {
	w.t.Helper()
	b := query[api.Backend](w, "backend", "show")
	for _, u := range b.Backends {
		if u.Kind == "interface" && u.Name == name {
			if u.Requested != requested || u.Actual != actual {
				w.t.Errorf("%s: requested %s, actual %s (%s), want %s, %s", name, u.Requested, u.Actual, u.Reason, requested, actual)
			}
			return
		}
	}
	w.t.Fatalf("npctl backend show has no %s: %+v", name, b)
}

// TestBackends: one connection lives through every backend that this machine has, and
// npctl tells the truth on each.
func TestBackends(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{config: func(s string) string {
		return s + "\n[[listener]]\nname = \"asked\"\naddress = \"127.0.0.1:17\"\nprotocol = \"echo\"\nbackend = \"epoll\"\n" +
			"\n[[listener]]\nname = \"best\"\naddress = \"127.0.0.1:18\"\nprotocol = \"echo\"\n"
	}})
	for _, u := range query[api.Backend](w, "backend", "show").Backends {
		fell := u.Actual == "epoll" && strings.HasPrefix(u.Reason, "io_uring: ")
		if u.Name == "asked" && (u.Requested != "epoll" || u.Actual != "epoll" || u.Reason != "") || u.Name == "best" && u.Actual != "io_uring" && !fell ||
			u.Kind == "listener" && u.Name != "asked" && u.Name != "best" && u.Actual != "stack" {
			t.Errorf("%+v", u)
		}
	}
	w.backendIs("np0", "auto", "af_xdp copy") // veth has no zero-copy
	free := w.status().BuffersFree
	conn := w.mustDial(addr4(7))
	for _, step := range []struct{ set, device, actual string }{{"af_packet", "", "af_packet"}, {"af_xdp", "", "af_xdp copy"}, {"dpdk", "", "af_xdp copy"},
		{"auto", "net_af_packet0,iface=np0", "dpdk"}, {"auto", "", "af_xdp copy"}, {"af_packet", "", "af_packet"}} {
		out, code := w.npctl("backend", "set", "np0", step.set, "--device", step.device)
		if code != 0 {
			t.Fatalf("set %s: exit %d: %s", step.set, code, out)
		}
		if step.device != "" && strings.Contains(out, "this build has no dpdk") {
			t.Log("built without DPDK")
			continue
		}
		w.backendIs("np0", step.set, step.actual)
		if err := echo(conn, 200_000); err != nil {
			t.Fatalf("on %s: %v", step.actual, err)
		}
		list := query[api.Conns](w, "conn", "list").Connections
		if len(list) != 1 || list[0].Backend != step.actual || !strings.HasPrefix(w.status().Backend, step.actual) {
			t.Errorf("on %s: %+v", step.actual, list)
		}
		w.pings("c", "-c", "1", "-W", "30", server6)
	}
	for _, bad := range [][]string{{"np0", "best"}, {"np0", "tap"}, {"np7", "auto"}, {"np0", "af_packet", "--device", "net_ring0"}} {
		if out, code := w.npctl(append([]string{"backend", "set"}, bad...)...); code != 2 && code != 4 {
			t.Errorf("set %v: exit %d: %s", bad, code, out)
		}
	}
	w.backendIs("np0", "af_packet", "af_packet")
	_ = conn.Close()
	w.restful(min(free, w.status().Buffers/2)) // the backends' receive rings differ
}

// TestBackendByEnvironment: AF_PACKET and a TAP from the start, and a device that goes away
// and comes back on the backend it had.
func TestBackendByEnvironment(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"af_packet", "tap"} {
		t.Run(backend, func(t *testing.T) {
			w := newWorld(t, options{env: []string{"NP_DATAPLANE_BACKEND=" + backend}, config: func(s string) string {
				if backend == "tap" {
					return strings.Replace(s, `name = "np0"`, `name = "nptap"`, 1)
				}
				return s
			}})
			name, side := "np0", "c"
			if backend == "tap" {
				name, side = "nptap", "s"
				w.must(w.in("s", "ip", "addr", "add", "198.18.0.9/24", "dev", name))
			}
			w.backendIs(name, backend, backend)
			ping := func() error {
				if out, err := w.in(side, "ping", "-c", "1", "-W", "1", server4).CombinedOutput(); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				return nil
			}
			if err := ping(); err != nil {
				t.Fatal(err)
			}
			if backend != "tap" {
				return
			}
			w.must(w.in("s", "ip", "link", "del", name))
			w.eventually(time.Minute, "the TAP is made again", func() error {
				if out, err := w.in("s", "ip", "addr", "add", "198.18.0.9/24", "dev", name).CombinedOutput(); err != nil && !strings.Contains(string(out), "exists") {
					return fmt.Errorf("%w: %s", err, out)
				}
				return ping()
			})
			w.backendIs(name, backend, backend)
		})
	}
}

// TestFewCapabilities: without the capability to load XDP programs an interface runs on
// AF_PACKET and npctl says why; where falling is forbidden npd says what is missing.
func TestFewCapabilities(t *testing.T) {
	t.Parallel()
	few := []string{"setpriv", "--bounding-set", "-all,+net_raw", "--inh-caps", "-all,+net_raw"}
	w := newWorld(t, options{wrap: few})
	w.backendIs("np0", "auto", "af_packet")
	b := query[api.Backend](w, "backend", "show")
	if !strings.Contains(b.Reason, "not permitted") {
		t.Errorf("%+v", b)
	}
	for _, r := range b.Ladder {
		if r.Interface == "np0" && !r.Chosen && (r.Reason == "" || !r.Skipped && !strings.Contains(r.Cure, "setcap")) {
			t.Errorf("left without reason or cure: %+v", r)
		}
	}
	conn := w.mustDial(addr4(7))
	if err := echo(conn, 100_000); err != nil {
		t.Error(err)
	}
	w.stop()
	w.env = append(w.env, "NP_DATAPLANE_ON_FALLBACK=fail")
	w.start()
	select {
	case err := <-w.exited:
		w.npd = nil
		if err == nil || !strings.Contains(w.logTail(3), "needs CAP_NET_ADMIN, CAP_BPF, CAP_IPC_LOCK") {
			t.Errorf("%v: %s", err, w.logTail(3))
		}
	case <-time.After(10 * time.Second):
		t.Error("npd runs although it may not fall")
	}
}
