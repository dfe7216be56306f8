package config

import (
	"strings"
	"testing"
)

func TestUpstreamErrors(t *testing.T) {
	for _, one := range []struct{ name, text, want string }{
		{"last known", "last_known = \"here\"\n", `np.toml:4:1: upstream.last_known: got "here", expected auto, off or the path of a file`},
		{"last known of a list", "last_known_max_age = \"1h\"\n", `np.toml:4:1: upstream.last_known_max_age: the endpoints are in the configuration`},
		{"both", "discover = \"file:/x\"\n", `np.toml:1:1: [[upstream]] "u" has both, expected one of endpoints and discover`},
		{"h3 without TLS", "protocol = \"h3\"\n", `np.toml:4:1: upstream.protocol: h3 without TLS, expected tls.enabled = true`},
		{"h2 without TLS", "protocol = \"h2\"\n", `np.toml:4:1: upstream.protocol: h2 without TLS, expected tls.enabled = true, or h2c`},
		{"h2c with TLS", "protocol = \"h2c\"\ntls.enabled = true\n", `np.toml:4:1: upstream.protocol: h2c is HTTP/2 without TLS, expected h2 with tls.enabled`},
		{"PROXY over h2c", "protocol = \"h2c\"\nproxy_protocol = \"v1\"\n", `np.toml:5:1: upstream.proxy_protocol: a connection of protocol h2c is for many clients`},
		{"PROXY over auto", "proxy_protocol = \"v2\"\ntls.enabled = true\n", `np.toml:4:1: upstream.proxy_protocol: a connection of protocol auto is for many clients`},
		{"host", "host = \"a b\"\n", `np.toml:4:1: upstream.host: got "a b", expected preserve, endpoint, or a host`},
		{"via", "via_name = \"a b\"\n", `np.toml:4:1: upstream.via_name: got "a b", expected a name without spaces`},
		{"deadline", "deadline_fields = [\"A\", \"B=h\"]\n", `np.toml:4:25: upstream.deadline_fields: got "B=h", expected a field's name`},
		{"forwarded", "forwarded = \"xff\"\n", `np.toml:4:13: upstream[0].forwarded: got "xff", expected one of off, x, rfc7239, both, keep`},
		{"CA without TLS", "tls.ca_file = \"/x\"\n", `np.toml:4:1: upstream.tls.ca_file: has nothing to do without TLS, expected tls.enabled = true`},
		{"unverified without TLS", "tls.verify = false\n", `np.toml:4:1: upstream.tls.verify: has nothing to do without TLS`},
		{"certificate without key", "tls.enabled = true\ntls.cert_file = \"/x\"\n", `np.toml:5:1: upstream.tls.cert_file: expected cert_file and key_file, or neither`},
		{"CA unverified", "tls.enabled = true\ntls.verify = false\ntls.ca_file = \"/x\"\n", `np.toml:6:1: upstream.tls.ca_file: says nothing with verify = false`},
		{"hash key", "hash_key = \"header\"\n", `np.toml:4:1: upstream.hash_key: got "header", expected client_ip, path, header:NAME, cookie:NAME or query:NAME`},
		{"hash key with a name", "hash_key = \"path:x\"\n", `np.toml:4:1: upstream.hash_key: got "path:x"`},
		{"hash load", "hash_load_percent = 125\n", `np.toml:4:1: upstream.hash_load_percent: 125 with balance round_robin, expected more than 100, of ring_hash`},
		{"eject time", "outlier.eject_time = \"10m\"\n", `upstream.outlier.max_eject_time: 5m0s, expected at least outlier.eject_time, 10m0s`},
		{"open time", "breaker.max_open_time = \"1s\"\n", `np.toml:4:1: upstream.breaker.max_open_time: 1s, expected at least breaker.open_time, 5s`},
		{"wait", "retry.base = \"5s\"\n", `upstream.retry.max: 1s, expected at least retry.base, 5s`},
		{"status", "health.status_min = 300\n", `upstream.health.status_max: 299, expected at least status_min, 300`},
		{"waiting", "limits.waiting = 5\n", `np.toml:4:1: upstream.limits.waiting: nothing waits without limits.in_flight`},
		{"pool", "pool.min = 5\npool.max = 4\n", `np.toml:4:1: upstream.pool.min: 5, expected at most max, 4`},
		{"statuses", "retry.attempts = 1\nretry.statuses = [503]\n", `np.toml:5:1: upstream.retry.statuses: nothing is repeated with attempts = 1`},
		{"unsafe", "retry.attempts = 1\nretry.unsafe = true\n", `np.toml:5:1: upstream.retry.unsafe: nothing is repeated with attempts = 1`},
	} {
		t.Run(one.name, func(t *testing.T) {
			text := "[[upstream]]\nname = \"u\"\nendpoints = [\"198.18.0.10:8080\"]\n" + one.text
			_, err := Load(Input{Files: []Source{{Name: "np.toml", Data: []byte(text)}}})
			if err == nil || !strings.Contains(err.Error(), one.want) {
				t.Errorf("%v\nwant %s", err, one.want)
			}
		})
	}
}
