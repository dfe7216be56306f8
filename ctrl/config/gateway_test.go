package config

import (
	"strings"
	"testing"
)

const gatewayBase = `[[listener]]
name = "web"
address = ":8080"
protocol = "http"
[[upstream]]
name = "users"
endpoints = ["198.18.0.10:8080"]
pool.min = 3
`

func TestGatewayErrors(t *testing.T) {
	route := gatewayBase + "[[route]]\nname = \"r\"\n"
	for _, one := range []struct{ name, text, want string }{
		{"no action", route, `np.toml:9:1: [[route]] "r" does nothing, expected one of upstream, split`},
		{"two actions", route + "upstream = \"users\"\nbody = \"x\"\n", `np.toml:12:1: [[route]] "r" has upstream and body, expected one of them`},
		{"key without its companion", route + "upstream = \"users\"\nrewrite_to = \"/x\"\n", `np.toml:12:1: route.rewrite_to: it says nothing by itself, expected rewrite_regexp with it`},
		{"nested key without its companion", route + "upstream = \"users\"\ncors.credentials = true\n", `np.toml:12:1: route.cors.credentials: it says nothing by itself, expected cors.origins with it`},
		{"status of a backend", route + "upstream = \"users\"\nstatus = 404\n", `np.toml:12:1: route.status: it says nothing by itself, expected redirect or body`},
		{"two rewrites", route + "upstream = \"users\"\nrewrite_path = \"/x\"\nrewrite_regexp = \"x\"\n", `np.toml:9:1: [[route]] "r" has more than one of rewrite_path, rewrite_prefix and rewrite_regexp`},
		{"unknown upstream", route + "upstream = \"user\"\n", `np.toml:11:1: route.upstream: there is no [[upstream]] "user", expected a known one (did you mean "users"?)`},
		{"unknown part", route + "[[route.part]]\nname = \"p\"\npath = \"/\"\nupstream = \"x\"\n", `np.toml:14:1: route.part[0].upstream: there is no [[upstream]] "x"`},
		{"part without a path", route + "[[route.part]]\nname = \"p\"\nupstream = \"users\"\n", `np.toml:11:1: [[route.part]] has no path, expected a path`},
		{"unknown auth", route + "upstream = \"users\"\nauth.providers = [\"x\"]\n", `np.toml:12:19: route.auth.providers: there is no [[auth]] "x"`},
		{"unknown listener", route + "upstream = \"users\"\nlisteners = [\"wbe\"]\n", `np.toml:12:14: route.listeners: there is no [[listener]] "wbe", expected one of web`},
		{"neither", gatewayBase + "[[upstream]]\nname = \"b\"\n", `np.toml:9:1: [[upstream]] "b" has neither, expected one of endpoints and discover`},
		{"passthrough without an upstream", route + "passthrough = true\nstatus = 200\n", `np.toml:11:1: route.passthrough: expected an upstream with it`},
		{"passthrough by path", route + "passthrough = true\nupstream = \"users\"\npath = \"/\"\n", `np.toml:13:1: route.path: has nothing to do with passthrough, expected only listeners, sni, alpn, upstream, passthrough`},
		{"passthrough without TLS", route + "passthrough = true\nupstream = \"users\"\n", `np.toml:11:1: route.passthrough: there is no listener of protocol http with TLS`},
		{"passthrough on a listener without TLS", route + "passthrough = true\nupstream = \"users\"\nlisteners = [\"web\"]\n", `np.toml:13:14: route.listeners: listener "web" has no TLS to pass on`},
		{"h3 without TLS", strings.Replace(gatewayBase, "\"http\"\n", "\"http\"\nhttp.versions = [\"1.1\", \"3\"]\n", 1), `np.toml:5:1: listener.http.versions: HTTP/3 needs TLS, expected tls = true`},
		{"http of echo", strings.Replace(gatewayBase, "\"http\"\n", "\"echo\"\nhttp.max_streams = 3\n", 1), `np.toml:5:1: listener.http: the listener speaks echo, expected it only with protocol = "http"`},
	} {
		t.Run(one.name, func(t *testing.T) {
			_, err := Load(Input{Files: []Source{{Name: "np.toml", Data: []byte(one.text)}}})
			if err == nil || !strings.Contains(err.Error(), one.want) {
				t.Errorf("%v\nwant %s", err, one.want)
			}
		})
	}
}

func TestPoolOf(t *testing.T) {
	c, err := Load(Input{Files: []Source{{Name: "np.toml", Data: []byte(gatewayBase + "[pool]\nmin = 1\nmax = 7\n")}}})
	if err != nil {
		t.Fatal(err)
	}
	if p := c.PoolOf(&c.Upstreams[0]); p.Min != 3 || p.Max != 7 || p.MaxConnecting != 16 {
		t.Errorf("%+v", p)
	}
}
