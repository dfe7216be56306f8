package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/np-appliance/np/ctrl/config"
)

// example loads a file of examples/ with other words in it: addresses and folders that the
// test has. Each of them has to be there.
func example(t *testing.T, name string, replace map[string]string) *config.Config {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("examples", name))
	if err != nil {
		t.Fatal(err)
	}
	s := string(text)
	for from, to := range replace {
		if !strings.Contains(s, from) {
			t.Fatalf("%s has no %q", name, from)
		}
		s = strings.ReplaceAll(s, from, to)
	}
	c, err := config.Load(config.Input{Files: []config.Source{{Name: name, Data: []byte(s)}}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// site starts examples/web.toml with two backends, which say what they saw.
func site(t *testing.T) *rig {
	t.Helper()
	endpoint := func(name string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Server", "secret")
			w.Header().Set("Content-Type", "text/plain")
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "%s %s %s host=%s fwd=%s client=%s original=%s user=%s internal=%s body=%d %v\n", name, r.Method, r.RequestURI, r.Host, r.Header.Get("X-Forwarded-Host"),
				r.Header.Get("X-Client"), r.Header.Get("X-Original"), r.Header.Get("X-User"), r.Header.Get("X-Internal-Role"), n, err)
			if r.URL.Path == "/v1/long" {
				_, _ = io.WriteString(w, strings.Repeat("long ", 1000))
			}
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	dir := t.TempDir()
	for name, body := range map[string]string{"index.html": "<p>page</p>", "app.js": "run()", ".secret": "secret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return rigOf(t, example(t, "web.toml", map[string]string{"127.0.0.1:9001": endpoint("api"), "127.0.0.1:9002": endpoint("next"), "/var/www/site": dir}))
}

// ask sends a request as it is written, and returns the answer.
func (r *rig) ask(t *testing.T, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, r.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Body = io.NopCloser(strings.NewReader(body)) // of a length that is not told
	}
	if strings.HasPrefix(path, "//") { // or it would be taken for a host
		req.URL.Path = path
	} else {
		req.URL.Opaque = path
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Add(header[i], header[i+1])
	}
	if req.Header.Get("Accept-Encoding") == "" {
		req.Header.Set("Accept-Encoding", "identity")
	}
	res, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

// gzipped is a body of n bytes, compressed.
func gzipped(t *testing.T, n int) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestExampleWeb(t *testing.T) {
	r := site(t)
	host := strings.TrimPrefix(r.url, "http://")
	for _, one := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		want                     string // of the body's beginning
		field                    string // "Name: value" of the answer
	}{
		{"api", "GET", "/api/users?x=1", "", []string{"X-Internal-Role", "admin", "X-Client", "forged"}, 200,
			"api GET /v1/users?x=1 host=" + host + " fwd=" + host + " client=127.0.0.1 original=/api/users user= internal= ", "Strict-Transport-Security: max-age=31536000"},
		{"server field is gone", "GET", "/api/", "", nil, 200, "api GET /v1/ ", "Server: "},
		{"next version", "GET", "/api/users", "", []string{"X-Api-Version", "2.1"}, 200, "next GET /v2/users ", ""},
		{"picture", "PUT", "/api/users/ann%20b/picture", "123", nil, 200, "api PUT /pictures/ann%20b host=pictures.example fwd=" + host + " client= original= user=ann b internal= body=3 <nil>", ""},
		{"picture too large", "PUT", "/api/users/ann/picture", strings.Repeat("x", 65<<10), nil, 413, "", ""},
		{"no dots reach the backend", "GET", "/api/a/%2e%2E/./b//%63?q=/../", "", nil, 200, "api GET /v1/b/c?q=/../ ", ""},
		{"no dots beyond the prefix", "GET", "/api/%2e%2e/healthz", "", nil, 200, "ok\n", ""},
		{"above the root", "GET", "/api/../../x", "", nil, 400, "", ""},
		{"dots with parameters", "GET", "/api/..;/admin", "", nil, 400, "", ""},
		{"backslash", "GET", "/api/..%5cadmin", "", nil, 400, "", ""},
		{"overlong dots", "GET", "/api/%c0%ae%c0%ae/admin", "", nil, 400, "", ""},
		{"escapes twice stay once", "GET", "/api/%252e%252e/admin", "", nil, 200, "api GET /v1/%252e%252e/admin ", ""},
		{"refusals have the fields too", "GET", "/api/x", "", []string{"Accept-Encoding", "*;q=0"}, 406, "", "Strict-Transport-Security: max-age=31536000"},
		{"larger than the listener takes", "POST", "/api/x", strings.Repeat("x", 1<<20+1), nil, 413, "", ""},
		{"as large as the listener takes", "POST", "/api/x", strings.Repeat("x", 1<<20), nil, 200, "api POST /v1/x ", ""},
		{"plain for the backend", "POST", "/api/x", gzipped(t, 5000), []string{"Content-Encoding", "gzip"}, 200,
			"api POST /v1/x host=" + host + " fwd=" + host + " client=127.0.0.1 original=/api/x user= internal= body=5000 <nil>", ""},
		{"larger than it may become", "POST", "/api/x", gzipped(t, 10<<20), []string{"Content-Encoding", "gzip"}, 413, "", ""},
		{"an encoding that is not taken", "POST", "/api/x", "x", []string{"Content-Encoding", "br"}, 415, "", "Accept-Encoding: gzip, zstd"},
		{"moved", "GET", "/old/a%20b?q", "", nil, 308, "", "Location: /api/a%20b?q"},
		{"moved, not open", "GET", "/old//evil.example/", "", nil, 308, "", "Location: /api/evil.example/"},
		{"bare", "GET", "/x?y", "", []string{"Host", "Site.Example:8080"}, 307, "", "Location: https://www.site.example/x?y"},
		{"health", "GET", "/healthz", "", nil, 200, "ok\n", "Content-Type: text/plain; charset=utf-8"},
		{"admin", "GET", "/admin/x", "", nil, 404, "", ""},
		{"admin, dot", "GET", "/./admin/x", "", nil, 404, "", ""},
		{"admin, escaped", "GET", "/%61dmin/x", "", nil, 404, "", ""},
		{"admin, slashes", "GET", "//admin/x", "", nil, 404, "", ""},
		{"admin, up", "GET", "/x/../admin", "", nil, 404, "", ""},
		{"admin, encoded slash", "GET", "/admin%2f..", "", nil, 400, "", ""},
		{"admin, NUL", "GET", "/admin%00", "", nil, 400, "", ""},
		{"page", "GET", "/", "", nil, 200, "<p>page</p>", "Cache-Control: max-age=300"},
		{"file", "GET", "/app.js", "", []string{"Range", "bytes=0-2"}, 206, "run", ""},
		{"view of the application", "GET", "/some/view", "", nil, 200, "<p>page</p>", ""},
		{"hidden", "GET", "/.secret", "", nil, 404, "", ""},
		{"method", "DELETE", "/app.js", "", nil, 405, "", "Allow: GET, HEAD"},
		{"preflight", "OPTIONS", "/api/x", "", []string{"Origin", "https://a.preview.example", "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "authorization"}, 204, "",
			"Access-Control-Allow-Origin: https://a.preview.example"},
		{"cors", "GET", "/api/x", "", []string{"Origin", "https://app.example"}, 200, "api ", "Access-Control-Allow-Credentials: true"},
		{"cors of nobody", "GET", "/api/x", "", []string{"Origin", "https://evil.example"}, 200, "api ", "Access-Control-Allow-Origin: "},
		{"no coding is acceptable", "GET", "/api/long", "", []string{"Accept-Encoding", "br, *;q=0"}, 406, "", ""},
	} {
		t.Run(one.name, func(t *testing.T) {
			res, body := r.ask(t, one.method, one.path, one.body, one.header...)
			if res.StatusCode != one.status || !strings.HasPrefix(body, one.want) {
				t.Fatalf("%d %.300q, want %d %q", res.StatusCode, body, one.status, one.want)
			}
			if k, v, ok := strings.Cut(one.field, ": "); ok && res.Header.Get(k) != v {
				t.Errorf("%s: %q, want %q", k, res.Header.Get(k), v)
			}
		})
	}
	res, body := r.ask(t, "GET", "/api/long", "", "Accept-Encoding", "zstd")
	d, err := zstd.NewReader(strings.NewReader(body), zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if plain, err := io.ReadAll(d); res.Header.Get("Content-Encoding") != "zstd" || err != nil || !strings.HasSuffix(string(plain), strings.Repeat("long ", 1000)) {
		t.Errorf("%v, %d bytes: %v", res.Header, len(plain), err)
	}
}

// TestRouteErrors: what is wrong with a route is told at its place.
func TestRouteErrors(t *testing.T) {
	for _, one := range []struct{ keys, want string }{
		{"path = \"a\"\nbody = \"x\"", `np.toml:11:1: [[route]] "r": path: "a": expected a path that begins with "/"`},
		{"path_pattern = \"/{a}/{a}\"\nbody = \"x\"", `np.toml:11:1: [[route]] "r": path_pattern: "/{a}/{a}": variable "a": expected once`},
		{"hosts = [\"a.example\", \"b c\"]\nbody = \"x\"", `np.toml:11:23: [[route]] "r": hosts: "b c": `},
		{"path = \"/a\"\nheaders = [\"X~=(\"]\nbody = \"x\"", `np.toml:12:12: [[route]] "r": headers: "(": expected a regular expression (RE2)`},
		{"path = \"/a\"\nheaders = [\"A=b\", \"X-Env!=prod\"]\nbody = \"x\"", `np.toml:12:19: route.headers: got "X-Env!=prod", expected what must hold, not what must not: a route for "X-Env=prod" before this one`},
		{"path = \"/first\"\nbody = \"x\"", `np.toml:9:1: [[route]] "r": no request can reach it at host *, /first: route 1 (first) is tried before it`},
		{"body = \"x\"", `np.toml:9:1: [[route]] "r": it has no condition`},
		{"path = \"/a\"\nredirect = \"ftp://a\"", `np.toml:12:1: route.redirect: got "ftp://a", expected http, https or {scheme}`},
		{"path = \"/a\"\nredirect = \"https://a/?x=1\"", `np.toml:12:1: route.redirect: got "https://a/?x=1", expected no query`},
		{"path = \"/a\"\nredirect = \"{path}\"", `np.toml:12:1: route.redirect: expected another scheme, host, port or path`},
		{"path = \"/a\"\nredirect = \"https://{nobody}/\"", `np.toml:12:1: route.redirect: "{nobody}": {nobody}: expected a variable`},
		{"path = \"/a\"\nredirect = \"/b\"\nstatus = 200", `np.toml:13:1: route.status: 200: expected 301, 302, 303, 307 or 308`},
		{"path = \"/a\"\nstatus = 204\nbody = \"x\"", `np.toml:13:1: route.body: expected none: answers with status 204`},
		{"path_prefix = \"/a\"\nstatic_dir = \"/nowhere/at/all\"", `np.toml:12:1: route.static_dir: `},
		{"path_prefix = \"/a\"\nstatic_dir = \".\"\nstatic_types = [\"md\"]", `np.toml:13:17: route.static_types: got "md", expected an extension`},
		{"path = \"/a\"\nbody = \"x\"\nrequest_set = [\"A: b\", \"Connection: close\"]", `np.toml:13:24: route.request_set: "Connection": expected another field`},
		{"path = \"/a\"\nbody = \"x\"\nresponse_add = [\"A\"]", `np.toml:13:17: route.response_add: got "A", expected "Name: value"`},
		{"path = \"/a\"\nbody = \"x\"\nresponse_set = [\"A: {var:b}\"]", `np.toml:13:17: route.response_set: "{var:b}": {var:b}: the route's pattern has no variables`},
		{"path = \"/a\"\nbody = \"x\"\nrewrite_regexp = \"(a)\"\nrewrite_to = \"$2\"", `np.toml:14:1: route.rewrite_to: "$2": the expression has no group "2"`},
		{"path = \"/a\"\nbody = \"x\"\nrewrite_path = \"b\"", `np.toml:13:1: route.rewrite_path: "b": expected a path that begins with "/"`},
		{"path = \"/a\"\nbody = \"x\"\ncompress = [\"gzip\"]\ncompress_types = [\"text/html\", \"x\"]", `np.toml:14:32: route.compress_types: "x": expected a media type`},
		{"path = \"/a\"\nbody = \"x\"\ncors.origins = [\"*\"]\ncors.credentials = true", `np.toml:14:1: route.cors.credentials: expected false with the origin "*"`},
		{"path = \"/a\"\nbody = \"x\"\nupgrades = [\"foo\"]", `np.toml:13:1: route.upgrades: expected an upstream that speaks HTTP`},
		{"path = \"/a\"\nupstream = \"u\"\nupgrades = [\"foo\", \"H2C\"]\n[[upstream]]\nname = \"u\"\nendpoints = [\"127.0.0.1:1\"]", `np.toml:13:20: route.upgrades: got "h2c", expected a protocol's name`},
		{"path = \"/a\"\nbody = \"x\"\ncors.origins = [\"https://a/b\"]", `np.toml:13:17: route.cors.origins: "https://a/b": expected scheme and host`},
	} {
		err := Check(load(t, "[[route]]\nname = \"first\"\npath = \"/first\"\nbody = \"1\"\n[[route]]\nname = \"r\"\n"+one.keys+"\n"))
		if err == nil || !strings.Contains(err.Error(), one.want) {
			t.Errorf("%s\n%v\nwant %s", one.keys, err, one.want)
		}
	}
}
