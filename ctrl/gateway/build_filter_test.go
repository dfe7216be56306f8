package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// allStages is a route with every filter around its upstream.
const allStages = `
[[route]]
name = "all"
path_prefix = "/all"
rewrite_prefix = "/"
rewrite_host = "behind.example"
upstream = "u"
compress = ["zstd", "gzip"]
max_body = "1MiB"
request_set = ["X-A: {client_ip}"]
response_set = ["X-B: {request_id}"]
cors.origins = ["*"]
`

// TestStagesKeepStreams: through all filters events arrive one by one, connections are
// upgraded and trailers come through.
func TestStagesKeepStreams(t *testing.T) {
	step := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-step:
				case <-r.Context().Done():
					return
				}
			}
		case "/trailer":
			w.Header().Set("Trailer", "X-Sum")
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, strings.Repeat("t", 3000))
			w.Header().Set("X-Sum", "3000")
		case "/upgrade":
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			line, _ := rw.ReadString('\n')
			_, _ = io.WriteString(c, "echo "+line)
		}
	}))
	t.Cleanup(s.Close)
	r := newRig(t, upstreamOf("u", strings.TrimPrefix(s.URL, "http://"))+allStages)
	for _, encoding := range []string{"gzip", "zstd", "identity"} {
		t.Run("events "+encoding, func(t *testing.T) { events(t, r, encoding, step) })
		req, _ := http.NewRequest("GET", r.url+"/all/trailer", nil)
		req.Header.Set("Accept-Encoding", encoding)
		res, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, decoded(t, res))
		res.Body.Close()
		if err != nil || n != 3000 || res.Trailer.Get("X-Sum") != "3000" || res.Header.Get("X-B") == "" {
			t.Errorf("%s: %d bytes, trailer %v, %v: %v", encoding, n, res.Trailer, res.Header, err)
		}
	}
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(c, "GET /all/upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAccept-Encoding: gzip\r\n\r\nhello\n")
	b, _ := io.ReadAll(c)
	if !strings.HasPrefix(string(b), "HTTP/1.1 101 ") || !strings.HasSuffix(string(b), "\r\n\r\necho hello\n") {
		t.Errorf("%q", b)
	}
}

func decoded(t *testing.T, res *http.Response) io.Reader {
	t.Helper()
	switch res.Header.Get("Content-Encoding") {
	case "gzip":
		d, err := gzip.NewReader(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return d
	case "zstd":
		d, err := zstd.NewReader(res.Body, zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		return d
	}
	return res.Body
}

func events(t *testing.T, r *rig, encoding string, step chan<- struct{}) {
	req, _ := http.NewRequestWithContext(t.Context(), "GET", r.url+"/all/events", nil)
	req.Header.Set("Accept-Encoding", encoding)
	res, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Encoding"); got != encoding && encoding != "identity" {
		t.Fatalf("encoding %q", got)
	}
	lines := bufio.NewScanner(decoded(t, res))
	for i := 0; i < 3; {
		if !lines.Scan() {
			t.Fatalf("ends after %d: %v", i, lines.Err())
		}
		if lines.Text() == fmt.Sprint("data: ", i) {
			step <- struct{}{} // only now is there more
			i++
		}
	}
}

// TestStaticReload: files are served while routes change.
func TestStaticReload(t *testing.T) {
	dir := t.TempDir()
	text := func(name string) string {
		return fmt.Sprintf("[[route]]\nname = %q\npath_prefix = \"/\"\nstatic_dir = %q\n", name, dir)
	}
	if err := os.WriteFile(dir+"/index.html", []byte("home"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, text("a"))
	stop, failed := make(chan struct{}), make(chan string, 1)
	go func() {
		defer close(failed)
		for {
			select {
			case <-stop:
				return
			default:
			}
			res, err := r.client.Get(r.url + "/")
			if err != nil {
				failed <- err.Error()
				return
			}
			b, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != 200 || string(b) != "home" {
				failed <- fmt.Sprint(res.StatusCode, string(b))
				return
			}
		}
	}()
	for i := range 100 {
		r.apply(t, load(t, text(fmt.Sprint("r", i))))
	}
	close(stop)
	if f := <-failed; f != "" {
		t.Error(f)
	}
}
