package config

import (
	"strings"
	"testing"
)

// TestIdleKeys: what nothing looks at is an error, and not taken in silence.
func TestIdleKeys(t *testing.T) {
	const up = "[[upstream]]\nname = \"u\"\nendpoints = [\"198.18.0.10:8080\"]\n"
	const route = "[[listener]]\nname = \"web\"\naddress = \":8080\"\nprotocol = \"http\"\n" + up + "[[route]]\nname = \"r\"\npath = \"/\"\nupstream = \"u\"\n"
	const health = up + "health.kind = "
	for _, one := range []struct{ text, want string }{
		{up + "health.path = \"/healthz\"\n", `np.toml:4:1: upstream.health.path: nothing is checked with kind = "none"`},
		{up + "health.interval = \"1s\"\n", `np.toml:4:1: upstream.health.interval: nothing is checked`},
		{health + "\"tcp\"\nhealth.body = \"ok\"\n", `np.toml:5:1: upstream.health.body: kind is tcp, which asks nothing`},
		{health + "\"grpc\"\nhealth.path = \"/x\"\n", `np.toml:5:1: upstream.health.path: kind is grpc, expected it with kind = "http"`},
		{health + "\"http\"\nhealth.service = \"x\"\n", `np.toml:5:1: upstream.health.service: kind is http, expected it with kind = "grpc"`},
		{health + "\"http\"\nhealth.path = \"healthz\"\n", `np.toml:5:1: upstream.health.path: got "healthz", expected a path that begins with "/"`},
		{health + "\"http\"\nhealth.path = \"/a b\"\n", `np.toml:5:1: upstream.health.path: got "/a b"`},
		{health + "\"http\"\nhealth.host = \"a b\"\n", `np.toml:5:1: upstream.health.host: got "a b", expected a host`},
		{up + "breaker.open_time = \"1s\"\n", `np.toml:4:1: upstream.breaker.open_time: nothing opens the breaker`},
		{up + "breaker.consecutive_failures = 3\nbreaker.window = \"1s\"\n", `np.toml:5:1: upstream.breaker.window: failures in a row open the breaker, expected error_percent with it`},
		{up + "npro.hybrid = false\n", `np.toml:4:1: upstream.npro.hybrid: the upstream speaks auto, expected it with protocol = "npro"`},
		{up + "hash_key = \"cookie:s\"\n", `np.toml:4:1: upstream.hash_key: requests go to any endpoint with balance = "round_robin"`},
		{up + "outlier.max_eject_percent = 0\n", `np.toml:4:29: upstream[0].outlier.max_eject_percent: got 0, expected`},
		{up + "retry.base = 0\n", `np.toml:4:14: upstream[0].retry.base`},
		{route + "websocket.origins = [\"https://a.example\"]\n", `np.toml:12:1: route.websocket.origins: WebSockets are the upstream's own matter, expected mode = "terminate"`},
		{route + "aggregate.missing_key = \"x\"\n", `np.toml:12:1: route.aggregate.missing_key: there is no [[route.part]]`},
		{route + "grpc.auto_bind = true\n", `np.toml:12:1: route.grpc.auto_bind: JSON needs descriptors`},
		{route + "grpc.services = [\"a.B\"]\n", `np.toml:12:1: route.grpc.services: nothing looks at them, expected descriptors or health`},
		{strings.Replace(route, "upstream = \"u\"", "body = \"x\"", 1) + "grpc.web = true\n", `np.toml:12:1: route.grpc.web: the route sends nothing on`},
		{route + "npro.stream = \"bytes\"\n", `np.toml:12:1: route.npro.stream: no message of NPRO is made`},
		{route + "grpc.descriptors = \"x.pb\"\nauthz.allow = [\"*\"]\nauthz.deny = [\"group:x\", \"grpc:a.B/Delete\"]\n", `np.toml:14:26: route.authz.deny: grpc:a.B/Delete: with grpc.descriptors the method is reached by the paths`},
		{route + "grpc.descriptors = \"x.pb\"\nauthz.allow = [\"authenticated !grpc:a.B/Delete\"]\n", `route.authz.allow: !grpc:a.B/Delete: with grpc.descriptors`},
		{route + "[access_log]\nsample = [\"2xx=10\"]\n", `np.toml:13:1: access_log.sample: no file to write to`},
		{route + "[tracing]\nsample_percent = 1\n", `np.toml:13:1: tracing.sample_percent: traces pass as they come, expected endpoint`},
	} {
		_, err := Load(Input{Files: []Source{{Name: "np.toml", Data: []byte(one.text)}}})
		if err == nil || !strings.Contains(err.Error(), one.want) {
			t.Errorf("%v\nwant %s", err, one.want)
		}
	}
	for _, good := range []string{
		health + "\"http\"\nhealth.path = \"/healthz?full=1,2\"\nhealth.host = \"[2001:db8::1]:80\"\n",
		up + "health.kind = \"none\"\nhealth.interval = \"5s\"\n", // a default that is written down says nothing
		up + "balance = \"maglev\"\nhash_key = \"cookie:s\"\n",
		route + "grpc.health = true\ngrpc.services = [\"a.B\"]\n",
		route + "grpc.descriptors = \"x.pb\"\nauthz.allow = [\"grpc:a.B/Get\"]\n",
		strings.Replace(strings.Replace(route, "upstream = \"u\"", "split = [\"u=1\", \"u2=1\"]\nsplit_sticky = true", 1), "[[route]]", "hash_key = \"cookie:s\"\n[[upstream]]\nname = \"u2\"\nendpoints = [\"198.18.0.11:8080\"]\n[[route]]", 1),
	} {
		if !strings.Contains(good, "[[listener]]") {
			good = "[[listener]]\nname = \"web\"\naddress = \":8080\"\nprotocol = \"http\"\n" + good
		}
		if _, err := Load(Input{Files: []Source{{Name: "np.toml", Data: []byte(good)}}}); err != nil {
			t.Errorf("%v\n%s", err, good)
		}
	}
}
