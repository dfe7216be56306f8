package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/server"
	"github.com/np-appliance/np/ctrl/gateway/server/servertest"
)

// load makes a configuration of a text that has a listener "web".
func load(t testing.TB, text string) *config.Config {
	t.Helper()
	c, err := config.Load(config.Input{Files: []config.Source{{Name: "np.toml", Data: []byte("[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:8080\"\nprotocol = \"http\"\n" + text)}}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// rig is a gateway with one listener on loopback.
type rig struct {
	*Gateway
	url    string
	client *http.Client
}

func dialNet(ctx context.Context, _, network, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, address)
}

func newRig(t *testing.T, text string) *rig {
	t.Helper()
	return rigOf(t, load(t, text))
}

func rigOf(t *testing.T, c *config.Config) *rig {
	t.Helper()
	return rigDial(t, c, dialNet)
}

func rigDial(t *testing.T, c *config.Config, dial func(ctx context.Context, via, network, address string) (net.Conn, error)) *rig {
	t.Helper()
	r, s := rigServer(t, c, dial)
	addr, _ := servertest.Start(t, s, time.Minute)
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections) // before the server's end
	r.url, r.client = "http://"+addr, &http.Client{Transport: tr, Timeout: time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return r
}

// rigServer is a rig whose server is not served yet.
func rigServer(t *testing.T, c *config.Config, dial func(ctx context.Context, via, network, address string) (net.Conn, error)) (*rig, *server.Server) {
	t.Helper()
	g := New(Options{Dial: dial})
	t.Cleanup(g.Close)
	r := &rig{Gateway: g}
	r.apply(t, c)
	s, err := g.Server(c, &c.Listeners[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	return r, s
}

func (r *rig) apply(t *testing.T, c *config.Config) {
	t.Helper()
	gen, err := r.Prepare(c)
	if err != nil {
		t.Fatal(err)
	}
	r.Commit(gen)
}

func (r *rig) get(t *testing.T, path string) (int, string, http.Header) {
	t.Helper()
	res, err := r.client.Get(r.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

// backend answers with its name and the path it saw.
func backend(t *testing.T, name string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s %s", name, r.Method, r.URL.Path, r.Header.Get("X-Forwarded-For"))
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func upstreamOf(name string, addresses ...string) string {
	return fmt.Sprintf("[[upstream]]\nname = %q\nendpoints = [\"%s\"]\n", name, strings.Join(addresses, `", "`))
}

func TestForward(t *testing.T) {
	r := newRig(t, upstreamOf("a", backend(t, "a"))+upstreamOf("b", backend(t, "b"))+`
[[route]]
name = "a"
path_prefix = "/a"
upstream = "a"
[[route]]
name = "b"
path_pattern = "/b/{id}"
methods = ["GET"]
upstream = "b"
`)
	if status, body, _ := r.get(t, "/a/x"); status != 200 || body != "a GET /a/x 127.0.0.1" {
		t.Errorf("%d %q", status, body)
	}
	if status, body, _ := r.get(t, "/b/7"); status != 200 || body != "b GET /b/7 127.0.0.1" {
		t.Errorf("%d %q", status, body)
	}
	status, body, h := r.get(t, "/c")
	var p struct{ Reason, RequestID string }
	if err := json.Unmarshal([]byte(body), &p); err != nil || status != 404 || p.Reason != "no_route" || h.Get("X-Request-Id") == "" {
		t.Errorf("%d %q %v", status, body, err)
	}
	res, err := r.client.Post(r.url+"/b/7", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 405 || res.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("%d, Allow %q", res.StatusCode, res.Header.Get("Allow"))
	}
}

// TestReload changes routes and endpoints under load: every request is answered, by what
// was in force when it came.
func TestReload(t *testing.T) {
	a, b := backend(t, "a"), backend(t, "b")
	text := func(address string) string {
		return upstreamOf("u", address) + "[[route]]\nname = \"all\"\npath_prefix = \"/\"\nupstream = \"u\"\n"
	}
	r := newRig(t, text(a))
	var stop atomic.Bool
	failed := make(chan string, 100)
	var n [2]atomic.Int64
	done := make(chan struct{})
	for range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			for !stop.Load() {
				res, err := r.client.Get(r.url + "/x")
				if err != nil {
					failed <- err.Error()
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				switch {
				case err != nil || res.StatusCode != 200:
					failed <- fmt.Sprintf("%d %s %v", res.StatusCode, body, err)
					return
				case body[0] == 'a':
					n[0].Add(1)
				default:
					n[1].Add(1)
				}
			}
		}()
	}
	same := r.gen.Load().clusters["u"]
	for i := range 40 {
		before := n[i%2].Load()
		r.apply(t, load(t, text([]string{a, b}[i%2])))
		for deadline := time.Now().Add(time.Minute); n[i%2].Load() < before+4 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
	}
	if r.gen.Load().clusters["u"] != same {
		t.Error("an upstream that changed its endpoints alone was made again")
	}
	next := strings.Replace(text(b), "name = \"u\"\n", "name = \"u\"\nbalance = \"least_request\"\n", 1)
	r.apply(t, load(t, next)) // made again, while requests are under way
	stop.Store(true)
	for range 4 {
		<-done
	}
	close(failed)
	for f := range failed {
		t.Error(f)
	}
	if n[0].Load() == 0 || n[1].Load() == 0 {
		t.Errorf("%d and %d requests", n[0].Load(), n[1].Load())
	}
}

func TestCheckErrors(t *testing.T) {
	for _, one := range []struct{ name, text, want string }{
		{"endpoint", upstreamOf("u", "nowhere"), `np.toml:7:14: upstream.endpoints: address "nowhere": expected host:port`},
		{"weights", upstreamOf("u", "a:1") + "[[route]]\nname = \"r\"\npath = \"/\"\nsplit = [\"u=x\"]\n", `np.toml:11:10: route.split: got "u=x", expected an upstream and its weight`},
		{"pattern", upstreamOf("u", "a:1") + "[[route]]\nname = \"r\"\npath_pattern = \"/{id\"\nupstream = \"u\"\n", `np.toml:10:1: [[route]] "r": path_pattern: `},
		{"tcp", upstreamOf("u", "a:1") + "protocol = \"tcp\"\n[[route]]\nname = \"r\"\npath = \"/\"\nupstream = \"u\"\n", `np.toml:12:1: [[upstream]] "u" speaks tcp, expected one that speaks HTTP`},
	} {
		t.Run(one.name, func(t *testing.T) {
			err := Check(load(t, one.text))
			if err == nil || !strings.Contains(err.Error(), one.want) {
				t.Errorf("%v\nwant %s", err, one.want)
			}
		})
	}
}
