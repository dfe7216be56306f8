package discovery

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/upstream"
)

// peer is a server of scripts/peers that a test started.
type peer struct {
	cmd *exec.Cmd
	log string
}

// startPeer starts a server that `make peers` built, and kills it when the test ends.
func startPeer(t *testing.T, name string, args ...string) *peer {
	t.Helper()
	path, err := filepath.Abs("../../build/peers/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("NP_PEERS") != "" {
			t.Fatalf("NP_PEERS is set: %v", err)
		}
		t.Skipf("%s is not built: make peers", name)
	}
	log, err := os.CreateTemp(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := &peer{cmd: exec.Command(path, args...), log: log.Name()}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			b, _ := os.ReadFile(p.log)
			t.Logf("%s said:\n%.8000s", name, b)
		}
	})
	return p
}

func (p *peer) kill() {
	if p.cmd.ProcessState == nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	}
}

// freePort returns a port of loopback that nobody has, for TCP and UDP.
func freePort(t *testing.T) int {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		u, err := net.ListenPacket("udp", l.Addr().String())
		l.Close()
		if err == nil {
			u.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// await waits until ok says "", and otherwise fails with what it said last.
func await(t *testing.T, what string, ok func() string) {
	t.Helper()
	var s string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if s = ok(); s == "" {
			return
		}
	}
	t.Fatalf("%s: %s", what, s)
}

// running is a source that runs into a list.
type running struct {
	mu    sync.Mutex
	lists [][]upstream.Spec
	told  []string
	end   func()
}

// runSource runs a source until the test ends, and then checks that it ended.
func runSource(t *testing.T, s upstream.Source) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{}
	done := make(chan error, 1)
	u, err := upstream.New(upstream.Config{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		done <- s.Run(ctx, func(specs []upstream.Spec) error {
			if err := u.Set(specs); err != nil { // what a source gives must be right
				t.Error(err)
				return err
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.lists = append(r.lists, slices.Clone(specs))
			return nil
		}, func(err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.told = append(r.told, err.Error())
		})
	}()
	r.end = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("Run does not end with its context")
		}
	})
	t.Cleanup(r.end)
	return r
}

// list returns the list applied last, as text.
func (r *running) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lists) == 0 {
		return []string{"never"}
	}
	out := []string{}
	for _, s := range r.lists[len(r.lists)-1] {
		l := s.Address
		if s.Weight != 1 {
			l += fmt.Sprint(" weight=", s.Weight)
		}
		if s.Priority != 0 {
			l += fmt.Sprint(" priority=", s.Priority)
		}
		if s.Locality != "" {
			l += " locality=" + s.Locality
		}
		if s.Drain {
			l += " drain"
		}
		if s.Disabled {
			l += " disabled"
		}
		out = append(out, l)
	}
	return out
}

func (r *running) reports() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.told)
}

// awaitList waits until the list is want.
func (r *running) awaitList(t *testing.T, want ...string) {
	t.Helper()
	await(t, "list", func() string {
		if got := r.list(); !slices.Equal(got, want) {
			return fmt.Sprintf("%q, want %q; told %q", got, want, r.reports())
		}
		return ""
	})
}

// checkSpec fails unless a list would take s.
func checkSpec(t *testing.T, s upstream.Spec) {
	t.Helper()
	u, err := upstream.New(upstream.Config{Name: "fuzz"})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Set([]upstream.Spec{s}); err != nil {
		t.Fatalf("%+v: %v", s, err)
	}
}

// TestMain also looks whether sources and their clients left goroutines behind.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(code) // the fuzzer itself leaves one
	}
	for end := time.Now().Add(time.Minute); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			b := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "%d goroutines, %d before the tests:\n%s", runtime.NumGoroutine(), before, b[:runtime.Stack(b, true)])
			code = max(code, 1)
			break
		}
	}
	os.Exit(code)
}
