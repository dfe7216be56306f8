package daemon

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// freePort is one that nothing listens on.
func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

type load struct {
	*world
	url    string
	stop   atomic.Bool
	wg     sync.WaitGroup
	done   atomic.Int64
	mu     sync.Mutex
	failed []string
}

// ask sends requests until it is stopped, each on a connection of its own or all on one.
func (l *load) ask(keep bool) {
	tr := &http.Transport{DisableKeepAlives: !keep}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, Timeout: 10 * time.Second}
	for !l.stop.Load() {
		res, err := c.Get(l.url + "/x")
		if err == nil {
			var b []byte
			b, err = io.ReadAll(res.Body)
			res.Body.Close()
			if err == nil && (res.StatusCode != 200 || string(b) != "ok") {
				err = fmt.Errorf("%d %q", res.StatusCode, b)
			}
		}
		if err != nil {
			l.mu.Lock()
			l.failed = append(l.failed, err.Error())
			l.mu.Unlock()
			return
		}
		l.done.Add(1)
	}
}

// TestApplyUnderLoad applies fifty configurations, each of another kind of change, while
// requests come on old connections and on new ones: none fails, and one connection that
// is held open serves to the end.
func TestApplyUnderLoad(t *testing.T) {
	var backends []string
	for range 2 {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
		t.Cleanup(s.Close)
		backends = append(backends, strings.TrimPrefix(s.URL, "http://"))
	}
	address := freePort(t)
	dir := t.TempDir()
	text := func(n int) string {
		return fmt.Sprintf(`
[[interface]]
name = "np0"
addresses = ["198.18.0.1/24"]
[access_log]
file = %q
[[listener]]
name = "web"
address = %q
protocol = "http"
http.max_fields = %d
[[upstream]]
name = "u"
endpoints = [%q]
balance = %q
[[route]]
name = "r%d"
path_prefix = "/"
upstream = "u"
`, filepath.Join(dir, fmt.Sprint("log", n/5%2)), address, 100+n/4%2, backends[n%2], []string{"round_robin", "least_request"}[n/3%2], n/2%7)
	}
	l := &load{world: applyWorld(t, text(0)), url: "http://" + address}
	defer l.end(syscall.SIGTERM)
	for i := range 4 {
		l.wg.Go(func() { l.ask(i%2 == 0) })
	}
	held, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	r := bufio.NewReader(held)
	for n := 1; n <= 50; n++ {
		if _, err := l.post(api.PathConfigApply, api.ConfigCandidate{Name: "next.toml", Content: text(n)}); err != nil {
			t.Fatalf("apply %d: %v", n, err)
		}
		if _, err := io.WriteString(held, "GET /held HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatalf("connection held open, after apply %d: %v", n, err)
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("connection held open, after apply %d: %v", n, err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 {
			t.Fatalf("connection held open, after apply %d: %d %v", n, res.StatusCode, err)
		}
		for at := l.done.Load(); l.done.Load() < at+4 && len(l.list()) == 0; {
			time.Sleep(time.Millisecond)
		}
	}
	l.stop.Store(true)
	l.wg.Wait()
	for _, f := range l.list() {
		t.Error(f)
	}
	l.counted(dir)
}

func (l *load) list() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// counted compares what the clients saw with metrics and access logs.
func (l *load) counted(dir string) {
	want := l.done.Load() + 50
	var routes api.Routes
	if err := l.cl.Get(l.t.Context(), api.PathRoutes, nil, &routes); err != nil || len(routes.Routes) != 1 || routes.Routes[0].Action != "upstream u" {
		l.t.Errorf("%+v, %v", routes, err)
	}
	body := l.fetch("/metrics")
	var counted float64
	for line := range strings.Lines(body) {
		var n float64
		if strings.HasPrefix(line, "np_http_requests_total{") && strings.Contains(line, `status="2xx"`) {
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &n); err != nil {
				l.t.Error(err)
			}
			counted += n
		}
	}
	if int64(counted) != want {
		l.t.Errorf("%v requests counted, %d were answered", counted, want)
	}
	l.eventually("every request is in an access log", func() bool {
		var n int64
		for i := range 2 {
			data, _ := os.ReadFile(filepath.Join(dir, fmt.Sprint("log", i)))
			for line := range bytes.Lines(data) {
				var m map[string]any
				if json.Unmarshal(line, &m) == nil && m["status"] == 200.0 {
					n++
				}
			}
		}
		return n == want
	})
}
