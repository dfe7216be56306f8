package gateway

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/message/wstest"
	"github.com/np-appliance/np/ctrl/gateway/server/servertest"
	"github.com/np-appliance/np/ctrl/secure"
)

// caddy starts Caddy on a port of loopback, TCP and UDP, with a certificate for 127.0.0.1, and
// returns its address and the authority's file.
func caddy(t *testing.T, dir string) (addr, ca string) {
	return caddyWith(t, dir, "")
}

// caddyWith adds some lines to its site, and to its environment.
func caddyWith(t *testing.T, dir, more string, env ...string) (addr, ca string) {
	t.Helper()
	program := peer(t, "caddy")
	made, err := secure.Generate(secure.Request{Names: []string{"127.0.0.1"}, Valid: time.Hour, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := made.Save(dir, false); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	_ = l.Close()
	text := fmt.Sprintf("{\n\tadmin off\n\tauto_https off\n\tpersist_config off\n}\nhttps://%s {\n\tbind 127.0.0.1\n\ttls %s/cert.pem %s/key.pem\n%s\thandle /proto {\n\t\trespond \"{http.request.proto}\"\n\t}\n\thandle {\n\t\troot * %s/files\n\t\tfile_server\n\t}\n}\n", addr, dir, dir, more, dir)
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	cmd.Env = append(cmd.Env, env...)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			return addr, filepath.Join(dir, "ca.pem")
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestCaddy: an endpoint of HTTP/3 that others wrote, and the same one by HTTP/2.
func TestCaddy(t *testing.T) {
	dir := t.TempDir()
	addr, ca := caddy(t, dir)
	blob := make([]byte, 4<<20)
	for i := range blob {
		blob[i] = byte(i * i >> 7)
	}
	if err := os.MkdirAll(filepath.Join(dir, "files"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "files", "blob"), blob, 0o600); err != nil {
		t.Fatal(err)
	}
	var text string
	for _, p := range []string{"h3", "h2"} {
		text += upstreamOf(p, addr) + fmt.Sprintf("protocol = %q\nhost = \"endpoint\"\ntls.enabled = true\ntls.ca_file = %q\n[[route]]\nname = %q\npath_prefix = \"/%s\"\nrewrite_prefix = \"/\"\nupstream = %q\n", p, ca, p, p, p)
	}
	g := New(Options{Dial: dialNet, Packet: func(_ context.Context, _, address string) (net.PacketConn, net.Addr, error) {
		to, err := net.ResolveUDPAddr("udp", address)
		if err != nil {
			return nil, nil, err
		}
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		return c, to, err
	}})
	t.Cleanup(g.Close)
	c := load(t, text)
	r := &rig{Gateway: g, client: &http.Client{Timeout: 20 * time.Second}}
	r.apply(t, c)
	s, err := g.Server(c, &c.Listeners[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	at, _ := servertest.Start(t, s, 0)
	r.url = "http://" + at
	for p, want := range map[string]string{"h3": "HTTP/3.0", "h2": "HTTP/2.0"} {
		if status, body, _ := r.get(t, "/"+p+"/proto"); status != 200 || body != want {
			t.Errorf("%s: %d %q", p, status, body)
		}
		if status, body, _ := r.get(t, "/"+p+"/blob"); status != 200 || sha256.Sum256([]byte(body)) != sha256.Sum256(blob) {
			t.Errorf("%s: %d, %d bytes, not those of the file", p, status, len(body))
		}
	}
}

// TestCaddyWebSocket: WebSockets to an endpoint that others wrote, by extended CONNECT over
// HTTP/2 and HTTP/3. Over HTTP/2 it takes them only if it is told so: else it is asked over
// HTTP/1.1 where that may be, and where it may not that is said.
func TestCaddyWebSocket(t *testing.T) {
	echo := httptest.NewServer(wstest.Echo())
	defer echo.Close()
	more := "\thandle /ws* {\n\t\treverse_proxy " + strings.TrimPrefix(echo.URL, "http://") + "\n\t}\n"
	some := []string{"text", "fragments", "ping between fragments", "close 1000", "65536 bytes", "many pings"}
	for _, one := range []struct {
		setting string
		works   []string
		fails   []string
	}{{"http2xconnect=1", []string{"h2", "h3", "auto", "http1"}, nil}, {"http2xconnect=0", []string{"h3", "auto"}, []string{"h2"}}} {
		dir := t.TempDir()
		addr, ca := caddyWith(t, dir, more, "GODEBUG="+one.setting)
		var text string
		for _, p := range append(one.fails, one.works...) {
			text += upstreamOf(p, addr) + fmt.Sprintf("protocol = %q\nhost = \"endpoint\"\ntls.enabled = true\ntls.ca_file = %q\n[[route]]\nname = %q\npath = \"/ws/%s\"\nupstream = %q\n", p, ca, p, p, p)
		}
		at := serveAll(t, load(t, text))
		for _, p := range one.works {
			for version, open := range map[string]func(*testing.T) *wstest.Conn{"1.1": wstest.Open1(at.plain, "/ws/"+p), "2": wstest.Open2(at.plain, "/ws/"+p), "3": wstest.Open3(t, at.quic, "/ws/"+p, at.client)} {
				t.Run(one.setting+" HTTP/"+version+" to "+p, func(t *testing.T) { wstest.Run(t, open, some...) })
			}
		}
		for _, p := range one.fails {
			_, resp := wstest.Dial(t, at.plain, "/ws/"+p)
			if b, err := io.ReadAll(resp.Body); resp.StatusCode != 502 || err != nil || !strings.Contains(string(b), "takes no upgrades") {
				t.Errorf("%s: %d %q", p, resp.StatusCode, b)
			}
		}
	}
}
