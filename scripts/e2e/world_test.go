//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

const (
	server4 = "198.18.0.1"
	server6 = "2001:db8::1"
)

// options of a world; the zero value is the example configuration as it is.
type options struct {
	mtu    int
	queues int
	env    []string                    // further NP_SECTION_KEY=value
	config func(example string) string // changes the example configuration
	noNpd  bool                        // the test starts it itself
	wrap   []string                    // a command that runs npd, such as setpriv with its arguments
	relay  bool                        // a third namespace between the two, for startRelay
}

// world is two namespaces, a veth pair, and npd in one of them.
type world struct {
	t      *testing.T
	name   string
	dir    string
	bin    string
	env    []string
	wrap   []string
	npd    *exec.Cmd
	log    string
	exited chan error
}

// newWorld makes a world, starts npd and waits until it is ready. What it made is removed when the test ends.
func newWorld(t *testing.T, o options) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: network namespaces and AF_XDP")
	}
	bin := os.Getenv("NP_BIN")
	if bin == "" {
		t.Fatal("NP_BIN is not set: run make e2e")
	}
	w := &world{t: t, name: worldName(), dir: t.TempDir(), bin: bin, wrap: o.wrap}
	args := []string{"up", w.name, "1500", "1"}
	if o.mtu > 0 {
		args[2] = fmt.Sprint(o.mtu)
	}
	if o.queues > 0 {
		args[3] = fmt.Sprint(o.queues)
	}
	if o.relay {
		args = append(args, "relay")
	}
	w.must(exec.Command("../netns.sh", args...))
	t.Cleanup(func() {
		w.stop()
		w.must(exec.Command("../netns.sh", "down", w.name))
	})
	w.env = append(os.Environ(), "NP_MANAGEMENT_SOCKET="+w.path("np.sock"), "NP_MANAGEMENT_RO_SOCKET="+w.path("ro.sock"),
		"NP_PROTOCOL_PRIVATE_KEY_FILE="+w.path("npd.key"), "NP_LOGGING_LOG_LEVEL=debug")
	w.env = append(w.env, o.env...)
	text := w.must(exec.Command(w.bin+"/npd", "config", "example"))
	if o.config != nil {
		text = o.config(text)
	}
	w.write("np.toml", text)
	if !o.noNpd {
		w.start()
		w.ready()
	}
	return w
}

var worlds atomic.Int64

func worldName() string { return fmt.Sprintf("npe%d-%d", os.Getpid()%100000, worlds.Add(1)) }

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// must runs a command to its end and returns its output.
func (w *world) must(cmd *exec.Cmd) string {
	w.t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// in makes a command inside the client's (c) or the appliance's (s) namespace.
func (w *world) in(side, name string, args ...string) *exec.Cmd {
	cmd := exec.Command("ip", append([]string{"netns", "exec", w.name + "-" + side, name}, args...)...)
	cmd.Env = w.env
	return cmd
}

// pings runs ping as often as -c says, for one answer each: where one has come, ping waits for
// the last only twice as long as that took.
func (w *world) pings(side string, args ...string) (out string) {
	w.t.Helper()
	args = slices.Clone(args)
	i := slices.Index(args, "-c") + 1
	n, err := strconv.Atoi(args[i])
	if err != nil {
		w.t.Fatal(err)
	}
	args[i] = "1"
	for range n {
		out += w.must(w.in(side, "ping", args...))
	}
	return out
}

// start starts npd in the background; its log goes to a file.
func (w *world) start() {
	w.t.Helper()
	w.log = w.path("npd.log")
	out, err := os.OpenFile(w.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer out.Close()
	line := append(slices.Clone(w.wrap), w.bin+"/npd", "-c", w.path("np.toml"))
	w.npd = w.in("s", line[0], line[1:]...)
	w.npd.Stdout, w.npd.Stderr = out, out
	if err := w.npd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan<- error) { done <- cmd.Wait() }(w.npd, w.exited)
}

// stop ends npd, politely first, and prints its log when the test failed.
func (w *world) stop() {
	if w.npd == nil {
		return
	}
	if w.t.Failed() {
		for _, what := range []string{"drops", "stats"} {
			out, _ := exec.Command(w.bin+"/npctl", "-s", w.path("np.sock"), what).CombinedOutput()
			w.t.Logf("npctl %s:\n%s", what, out)
		}
	}
	_ = w.npd.Process.Signal(syscall.SIGTERM)
	select {
	case <-w.exited:
	case <-time.After(time.Minute):
		w.t.Errorf("npd did not end within a minute of SIGTERM")
		_ = w.npd.Process.Kill()
		<-w.exited
	}
	w.npd = nil
	if w.t.Failed() {
		w.t.Logf("npd's log ends with:\n%s", w.logTail(40))
	}
}

func (w *world) logTail(lines int) string {
	b, _ := os.ReadFile(w.log)
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// ready waits until npd reports ready.
func (w *world) ready() {
	w.t.Helper()
	w.eventually(time.Minute, "npd ready", func() error {
		select {
		case err := <-w.exited:
			w.npd = nil
			w.t.Fatalf("npd ended while starting: %v\n%s", err, w.logTail(40))
		default:
		}
		out, code := w.npctl("status")
		if code != 0 {
			return fmt.Errorf("npctl status: exit %d: %s", code, out)
		}
		return nil
	})
}

// eventually repeats check until it returns nil.
func (w *world) eventually(limit time.Duration, what string, check func() error) {
	w.t.Helper()
	end := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// npctl runs npctl and returns what it printed and its exit code.
func (w *world) npctl(args ...string) (string, int) {
	w.t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(w.bin+"/npctl", append([]string{"-s", w.path("np.sock")}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// query reads one of npctl's answers as JSON.
func query[T any](w *world, args ...string) T {
	w.t.Helper()
	var v T
	cmd := exec.Command(w.bin+"/npctl", append([]string{"-s", w.path("np.sock"), "-o", "json"}, args...)...)
	out, err := cmd.Output()
	if len(out) == 0 {
		w.t.Fatalf("npctl %s: %v", strings.Join(args, " "), err)
	}
	if err := json.Unmarshal(out, &v); err != nil {
		w.t.Fatalf("npctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return v
}

func (w *world) status() api.Status { w.t.Helper(); return query[api.Status](w, "status") }

// drop returns one drop reason's count.
func (w *world) drop(reason string) uint64 {
	w.t.Helper()
	for _, d := range query[api.Drops](w, "drops").Drops {
		if d.Name == reason {
			return d.Value
		}
	}
	w.t.Fatalf("no drop reason %q", reason)
	return 0
}

// stat returns one counter.
func (w *world) stat(name string) uint64 {
	w.t.Helper()
	for _, c := range query[api.Stats](w, "stats").Counters {
		if c.Name == name {
			return c.Value
		}
	}
	w.t.Fatalf("no counter %q", name)
	return 0
}

// restful waits until nothing is left of what a test did: no connection but those in
// TIME-WAIT, no session, no stream, every buffer back but those the ports and Go
// hold, and checks that the ledger sums.
func (w *world) restful(free uint64) {
	w.t.Helper()
	w.eventually(time.Minute, "all given back", func() error {
		s := w.status()
		open := w.stat("tcp_connections") - w.stat("tcp_timewait_connections")
		held := w.stat("ip_fragments_held") // for a minute, where the rest doesn't come
		if open != 0 || s.Sessions != 0 || s.Streams != 0 || s.BuffersFree+held < free {
			return fmt.Errorf("%d connections, %d sessions, %d streams, %d fragments, %d of %d buffers free, %d before", open, s.Sessions, s.Streams, held, s.BuffersFree, s.Buffers, free)
		}
		if l := query[api.Drops](w, "drops").Ledger; !l.Balanced {
			return fmt.Errorf("ledger does not sum: %+v", l)
		}
		return nil
	})
}

// dial connects from the client's namespace: the socket belongs to the
// namespace of the thread that makes it.
func (w *world) dial(network, addr string) (net.Conn, error) {
	var conn net.Conn
	err := w.inClient(func() error {
		d := net.Dialer{Timeout: 30 * time.Second, FallbackDelay: -1}
		var err error
		conn, err = d.DialContext(context.Background(), network, addr)
		return err
	})
	return conn, err
}

func (w *world) mustDial(addr string) net.Conn {
	w.t.Helper()
	c, err := w.dial("tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// inClient runs f on a thread that is in the client's namespace.
func (w *world) inClient(f func() error) error { return w.inSide("c", f) }

// inSide runs f on a thread that is in one of the world's namespaces.
func (w *world) inSide(side string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// the thread is not unlocked when it could not go back: it ends with the goroutine
		runtime.LockOSThread()
		done <- func() error {
			home, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return err
			}
			defer home.Close()
			there, err := os.Open("/run/netns/" + w.name + "-" + side)
			if err != nil {
				return err
			}
			defer there.Close()
			if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			err = f()
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
			return err
		}()
	}()
	return <-done
}

// echo sends and reads back n bytes on an open connection.
func echo(c net.Conn, n int) error {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(i*7 + n)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	go func() { _, _ = c.Write(out) }()
	in := make([]byte, n)
	if _, err := io.ReadFull(c, in); err != nil {
		return err
	}
	if !bytes.Equal(in, out) {
		return errors.New("echo differs")
	}
	return nil
}

func addr4(port int) string { return net.JoinHostPort(server4, fmt.Sprint(port)) }
func addr6(port int) string { return net.JoinHostPort(server6, fmt.Sprint(port)) }
