package gateway

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"
)

// TestManyClosers: a reload beside a request that goes on costs a few goroutines, however
// many routes there are.
func TestManyClosers(t *testing.T) {
	held, release := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(held)
		<-release
	}))
	t.Cleanup(s.Close)
	text := upstreamOf("slow", strings.TrimPrefix(s.URL, "http://")) + "[[route]]\nname = \"slow\"\npath = \"/slow\"\nupstream = \"slow\"\n"
	dir := t.TempDir()
	for i := range 300 {
		text += fmt.Sprintf("[[route]]\nname = \"f%d\"\npath_prefix = \"/f%d\"\nstatic_dir = %q\n", i, i, dir)
	}
	r := newRig(t, text)
	done := make(chan error, 1)
	go func() {
		res, err := r.client.Get(r.url + "/slow")
		if err == nil {
			res.Body.Close()
		}
		done <- err
	}()
	<-held
	before := runtime.NumGoroutine()
	r.apply(t, load(t, text))
	if n := runtime.NumGoroutine() - before; n > 100 {
		t.Errorf("%d goroutines more after a reload of 300 routes", n)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestChecksSayProxy: an endpoint that wants the PROXY protocol of each connection gets it
// of health checks as well, as a connection that is made for nobody else.
func TestChecksSayProxy(t *testing.T) {
	for version, want := range map[string]string{"v1": "PROXY UNKNOWN\r\n", "v2": "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		heads := make(chan string, 16)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = c.SetDeadline(time.Now().Add(5 * time.Second))
				head := make([]byte, len(want))
				br := bufio.NewReader(c)
				for i := range head {
					if head[i], err = br.ReadByte(); err != nil {
						break
					}
				}
				select {
				case heads <- string(head):
				default:
				}
				if _, err := http.ReadRequest(br); err == nil && string(head) == want {
					fmt.Fprint(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
				}
				_ = c.Close()
			}
		}()
		r := newRig(t, upstreamOf("u", l.Addr().String())+fmt.Sprintf("proxy_protocol = %q\nhealth.kind = \"http\"\nhealth.interval = \"20ms\"\nhealth.fail_interval = \"20ms\"\n", version))
		if head := <-heads; head != want {
			t.Errorf("%s: the check begins with %q, want %q", version, head, want)
		}
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			e := r.gen.Load().clusters["u"].up.Snapshot().Endpoints[0]
			if e.Health == "healthy" {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %s, %s", version, e.Health, e.LastError)
			}
		}
	}
}

// TestGenerationsGo: nothing holds a configuration that is no longer in force, neither what is
// carried over from it nor what took its place.
func TestGenerationsGo(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "users")
	users(t, file, "ann")
	address := backend(t, "a")
	text := func(i int) string {
		return fmt.Sprintf("[access_log]\nfile = %q\n[tracing]\nendpoint = \"http://%s\"\nqueue = %d\n"+basicAuth, filepath.Join(dir, "log"), address, 512+i, file) +
			upstreamOf("same", address) + upstreamOf("quic", "127.0.0.1:1") + "protocol = \"h3\"\ntls.enabled = true\n" +
			upstreamOf("other", address) + fmt.Sprintf("timeouts.connect = \"%ds\"\nhealth.kind = \"http\"\n", i+1) + fmt.Sprintf(`
[[rate_limit]]
name = "few"
requests = %d
per = "1s"
key = ["client"]
[[load_shedding]]
name = "shed"
target = "1s"
[[route]]
name = "a"
path_prefix = "/a"
upstream = "same"
mirror = ["other"]
compress = ["gzip"]
cors.origins = ["https://a.example"]
rate_limit.use = ["few"]
load_shedding.use = "shed"
websocket.mode = "proxy"
request_set = ["X-A: %d"]
[[route]]
name = "b"
path_prefix = "/b"
split = ["other=1", "quic=0"]
auth.providers = ["users"]
authz.external = "http://127.0.0.1:1/"
authz.external_fail_open = true
concurrency.max = 5
[[route]]
name = "c"
path = "/c"
aggregate.merge = ["a=a"]
[[route.part]]
name = "a"
upstream = "other"
path = "/"
optional = true
[[route]]
name = "d"
path_prefix = "/d"
static_dir = %q
[[route]]
name = "e"
opcode = "e"
upstream = "same"
`, i+1, i, dir)
	}
	r := newRig(t, text(0))
	var all []weak.Pointer[generation]
	for i := range 8 {
		r.apply(t, load(t, text(i)))
		all = append(all, weak.Make(r.gen.Load()))
		for _, path := range []string{"/a", "/b", "/c", "/d/x"} {
			r.get(t, path)
		}
	}
	left := func() (n int) {
		for _, p := range all {
			if p.Value() != nil {
				n++
			}
		}
		return n
	}
	for end := time.Now().Add(time.Minute); left() > 1 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		runtime.GC()
	}
	if n := left(); n > 1 {
		t.Errorf("%d of %d configurations are left", n, len(all))
	}
}
