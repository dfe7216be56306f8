package server

import (
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestSlowHTTPTest lets Debian's slowhttptest at the server: heads that never end, bodies
// that never end, answers that are never read. Each connection of its ends within the
// limits, and a client beside it is served all the while.
func TestSlowHTTPTest(t *testing.T) {
	if os.Getenv("NP_PEERS") == "" {
		t.Skip("takes 6 s: NP_PEERS=1 runs it")
	}
	t.Parallel()
	program, err := exec.LookPath("slowhttptest")
	if err != nil {
		t.Fatalf("%v; apt-get install slowhttptest", err)
	}
	for _, one := range []struct {
		name string
		args []string
		why  Refused
	}{
		{"heads", []string{"-H", "-i", "1"}, CutHead},
		{"bodies", []string{"-B", "-i", "1", "-s", "8192", "-t", "POST"}, CutBody},
		{"answers", []string{"-X", "-w", "10", "-y", "20", "-n", "2", "-z", "1", "-k", "1"}, CutAnswer},
	} {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel()
			large := make([]byte, 8<<20)
			echo := &rig{t: t}
			handler := echo.handler()
			r := newRig(t, Config{
				Limits: Limits{Head: time.Second, BodyStall: time.Second, SendStall: time.Second},
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/large" {
						_, _ = w.Write(large)
						return
					}
					handler.ServeHTTP(w, r)
				}),
			})
			path := "/"
			if one.why == CutAnswer {
				path = "/large"
			}
			const conns = 100
			seconds := "60" // it ends before, with the last connection
			if one.why == CutAnswer {
				seconds = "8" // in its slow reading it does not notice that connections are gone
			}
			args := append([]string{"-c", "100", "-r", "200", "-l", seconds, "-u", "http://" + r.addr + path}, one.args...)
			done := make(chan string, 1)
			go func() {
				out, _ := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
				done <- string(out)
			}()
			started := time.Now()
			for served := 0; ; served++ {
				select {
				case out := <-done:
					if one.why != CutAnswer && !strings.Contains(out, "No open connections left") || served == 0 {
						t.Errorf("%d served beside it, %s", served, out[max(0, len(out)-1500):])
					}
					if n := r.s.Stats().Conns[one.why]; n < conns {
						t.Errorf("%d connections cut", n)
					}
					t.Logf("%v, %d served beside it", time.Since(started), served)
					return
				default:
					r.unharmed()
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
}
