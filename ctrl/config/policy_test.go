package config

import (
	"strings"
	"testing"
)

func TestPolicyErrors(t *testing.T) {
	jwt := gatewayBase + "[[auth]]\nname = \"t\"\nkind = \"jwt\"\n"
	route := gatewayBase + "[[route]]\nname = \"r\"\npath = \"/\"\nupstream = \"users\"\n"
	for _, one := range []struct{ name, text, want string }{
		{"no kind", gatewayBase + "[[auth]]\nname = \"t\"\n", `np.toml:9:1: [[auth]] has no kind, expected basic, api_key, jwt, introspection or mtls`},
		{"twice", gatewayBase + strings.Repeat("[[auth]]\nname = \"t\"\nkind = \"mtls\"\n", 2), `np.toml:13:1: auth "t" is given twice`},
		{"no file", gatewayBase + "[[auth]]\nname = \"t\"\nkind = \"basic\"\n", `np.toml:9:1: [[auth]] "t" of kind basic has no file, expected the path of a file`},
		{"another kind's key", gatewayBase + "[[auth]]\nname = \"t\"\nkind = \"basic\"\nfile = \"/f\"\njwks_url = \"https://x/\"\n", `np.toml:13:1: auth.jwks_url: kind basic has no such key, expected one of file, strip, hashing`},
		{"no keys", jwt + "any_audience = true\n", `np.toml:9:1: [[auth]] "t" has neither, expected one of file and jwks_url`},
		{"both keys", jwt + "any_audience = true\nfile = \"/f\"\njwks_url = \"https://x/\"\n", `np.toml:9:1: [[auth]] "t" has both, expected one of file and jwks_url`},
		{"no audience", jwt + "file = \"/f\"\n", `np.toml:9:1: [[auth]] "t" has no audience and any_audience = false, expected one of`},
		{"symmetric", jwt + "file = \"/f\"\nany_audience = true\nalgorithms = [\"HS256\"]\n", `np.toml:14:15: auth[0].algorithms: got "HS256", expected one of RS256`},
		{"refresh of a file", jwt + "file = \"/f\"\nany_audience = true\nrefresh = \"1m\"\n", `np.toml:14:1: auth.refresh: the keys are in a file, expected it only with jwks_url`},
		{"refresh_min", jwt + "jwks_url = \"https://x/\"\nany_audience = true\nrefresh = \"10s\"\n", `auth.refresh_min: got 30s, expected at most refresh (10s)`},
		{"two issuers to be asked", jwt + "any_audience = true\nissuer = [\"https://a/\", \"https://b/\"]\n", `np.toml:9:1: [[auth]] "t" has neither, expected one of file and jwks_url, or one issuer`},
		{"upstream that is not there", jwt + "any_audience = true\nissuer = \"https://a/\"\nupstream = \"user\"\n", `np.toml:14:1: auth.upstream: there is no [[upstream]] "user", expected a known one (did you mean "users"?)`},
		{"upstream without TLS", jwt + "any_audience = true\nissuer = \"https://a/\"\nupstream = \"users\"\n", `np.toml:14:1: auth.upstream: https://a/ is asked, and [[upstream]] "users" has tls.enabled = false`},
		{"upstream of a file", jwt + "any_audience = true\nfile = \"/f\"\nupstream = \"users\"\n", `np.toml:14:1: auth.upstream: the keys are in a file`},
		{"upstream and via", jwt + "any_audience = true\njwks_url = \"http://a/\"\nupstream = \"users\"\nvia = \"stack\"\n", `np.toml:15:1: auth.via: there is an upstream`},
		{"gRPC over HTTP/1.1", route + "authz.external = \"grpc://a\"\nauthz.external_upstream = \"users\"\n", `np.toml:14:1: route.authz.external_upstream: [[upstream]] "users" speaks auto, expected HTTP/2 for gRPC`},
		{"upstream of nobody", route + "authz.external_upstream = \"users\"\n", `np.toml:13:1: route.authz.external_upstream: nobody is asked`},
		{"half a client", gatewayBase + "[[auth]]\nname = \"t\"\nkind = \"introspection\"\nany_audience = true\nurl = \"https://x/\"\nclient_id = \"a\"\n", `has one of client_id and client_secret_file`},
		{"scheme", gatewayBase + "[[auth]]\nname = \"t\"\nkind = \"api_key\"\nfile = \"/f\"\nscheme = \"Key\"\n", `np.toml:13:1: auth.scheme: there is no header`},
		{"unknown provider", route + "auth.providers = [\"x\"]\n", `np.toml:13:19: route.auth.providers: there is no [[auth]] "x"`},
		{"optional without providers", route + "auth.optional = true\n", `route.auth: there are no providers`},
		{"optional and all", route + "auth.providers = [\"m\"]\nauth.optional = true\nauth.mode = \"all\"\n[[auth]]\nname = \"m\"\nkind = \"mtls\"\n", `np.toml:14:1: route.auth.optional: each provider has to vouch`},
		{"unknown limit", route + "rate_limit.use = [\"a\", \"b\"]\n[[rate_limit]]\nname = \"a\"\nrequests = 1\n", `np.toml:13:24: route.rate_limit.use: there is no [[rate_limit]] "b"`},
		{"limit twice", route + "rate_limit.use = [\"a\", \"a\"]\n[[rate_limit]]\nname = \"a\"\nrequests = 1\n", `np.toml:13:24: route.rate_limit.use: "a" is there twice`},
		{"limit without requests", gatewayBase + "[[rate_limit]]\nname = \"a\"\n", `np.toml:9:1: [[rate_limit]] has no requests, expected how many requests in per`},
		{"burst of nothing", route + "rate_limit.burst = 4\n", `np.toml:13:1: route.rate_limit.burst: there is no limit of the route's own, expected requests with it`},
		{"route's own name", route + "rate_limit.requests = 4\n[[rate_limit]]\nname = \"r\"\nrequests = 1\n", `route.rate_limit: its own limit is named as the route`},
		{"wait for nothing", route + "concurrency.waiting = 4\n", `np.toml:13:1: route.concurrency.waiting: there is no limit, expected max or per_key with it`},
		{"no key", route + "concurrency.per_key = 4\nconcurrency.key = []\n", `np.toml:14:1: route.concurrency.key is empty`},
		{"unknown shedder", route + "load_shedding.use = \"x\"\n", `np.toml:13:1: route.load_shedding.use: there is no [[load_shedding]] "x"`},
		{"priority of nothing", route + "load_shedding.priority = \"low\"\n", `route.load_shedding: expected use with it`},
		{"from without a field", route + "load_shedding.use = \"s\"\nload_shedding.priority_from = [\"10.0.0.0/8\"]\n[[load_shedding]]\nname = \"s\"\n", `np.toml:14:1: route.load_shedding.priority_from: expected priority_header with it`},
		{"max below min", gatewayBase + "[[load_shedding]]\nname = \"s\"\nmax = 4\n", `np.toml:11:1: load_shedding.max: got 4, expected at least min (8)`},
		{"target and tolerance", gatewayBase + "[[load_shedding]]\nname = \"s\"\ntarget = \"1s\"\ntolerance_percent = 300\n", `np.toml:12:1: load_shedding.tolerance_percent: there is a target`},
		{"nobody asked", route + "authz.external_timeout = \"2s\"\n", `np.toml:13:1: route.authz.external_timeout: nobody is asked, expected external with it`},
		{"copy over gRPC", route + "authz.external = \"grpc://h:1\"\nauthz.external_copy = [\"X\"]\n", `np.toml:14:1: route.authz.external_copy: over gRPC the answer itself says that`},
		{"cache of nothing", route + "authz.external = \"http://h/\"\nauthz.external_cache_entries = 100\n", `np.toml:14:1: route.authz.external_cache_entries: nothing is remembered`},
		{"passthrough", route + "passthrough = true\nsni = [\"a\"]\nauthz.allow = [\"*\"]\n", `np.toml:15:1: route.authz: the route passes connections on unopened`},
		{"idle of HTTP", strings.Replace(gatewayBase, "\"http\"\n", "\"http\"\nidle_timeout = \"5s\"\n", 1), `listener.idle_timeout: expected it only with echo, discard or chargen and tls = true (of protocol http it is http.idle_timeout)`},
		{"idle of plain echo", strings.Replace(gatewayBase, "\"http\"\n", "\"echo\"\nidle_timeout = \"5s\"\n", 1), `listener.idle_timeout: expected it only with echo, discard or chargen and tls = true`},
		{"connection rules of echo", strings.Replace(gatewayBase, "\"http\"\n", "\"echo\"\nauthz.allow = [\"*\"]\n", 1), `listener.authz: connections of echo without TLS stay on the poll cores`},
	} {
		t.Run(one.name, func(t *testing.T) {
			_, err := Load(Input{Files: []Source{{Name: "np.toml", Data: []byte(one.text)}}})
			if err == nil || !strings.Contains(err.Error(), one.want) {
				t.Errorf("%v\nwant %s", err, one.want)
			}
		})
	}
}

// TestPolicyDiff: policies are taken over by a running npd, and rules about connections
// end none of them.
func TestPolicyDiff(t *testing.T) {
	load := func(text string) *Config {
		t.Helper()
		c, err := Load(Input{Files: []Source{{Name: "np.toml", Data: []byte(gatewayBase + text)}}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	base := load("")
	for _, text := range []string{"[[auth]]\nname = \"m\"\nkind = \"mtls\"\n", "[[rate_limit]]\nname = \"a\"\nrequests = 1\n", "[[load_shedding]]\nname = \"s\"\n"} {
		if ch := Diff(base, load(text)); !ch.Gateway || len(ch.Restart) > 0 {
			t.Errorf("%s: %+v", text, ch)
		}
	}
	ruled := load("")
	ruled.Listeners[0].Authz.Deny = []string{"client:10.0.0.0/8"}
	if ch := Diff(base, ruled); !ch.Gateway || len(ch.Restart)+len(ch.AddListeners)+len(ch.DelListeners) > 0 {
		t.Errorf("%+v", ch)
	}
	if ch := Diff(base, load("")); !ch.Empty() {
		t.Errorf("%+v", ch)
	}
}
