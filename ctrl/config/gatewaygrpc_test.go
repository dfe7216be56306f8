package config

import (
	"strings"
	"testing"
)

func TestMessageErrors(t *testing.T) {
	base := gatewayBase + "[[upstream]]\nname = \"n\"\nendpoints = [\"198.18.0.11:7700\"]\nprotocol = \"npro\"\nnpro.keys = [\"K\"]\n"
	route := base + "[[route]]\nname = \"r\"\n"
	for _, one := range []struct{ name, text, want string }{
		{"npro without opcode", route + "upstream = \"n\"\n", `route.upstream: "n" speaks npro, expected npro_opcode`},
		{"opcode to http", route + "upstream = \"users\"\nnpro_opcode = \"X\"\n", `route.npro_opcode: upstream "users" speaks auto, expected one with protocol = "npro"`},
		{"opcode without upstream", route + "body = \"x\"\nnpro_opcode = \"X\"\n", `route.npro_opcode: expected upstream with it`},
		{"long opcode", route + "upstream = \"n\"\nnpro_opcode = \"" + strings.Repeat("x", 64) + "\"\n", `expected 1 to 63 bytes`},
		{"split to npro", route + "split = [\"users=1\", \"n=1\"]\n", `can't go to "n", which speaks npro`},
		{"part of npro", route + "[[route.part]]\nname = \"p\"\npath = \"/\"\nupstream = \"n\"\n", `route.part.upstream: "n" speaks npro`},
		{"terminate", route + "upstream = \"users\"\nwebsocket.mode = \"terminate\"\n", `route.websocket.mode: terminate makes messages of NPRO, expected npro_opcode`},
		{"grpc payload", route + "upstream = \"n\"\nnpro_opcode = \"X\"\nnpro.payload = \"grpc\"\n", `route.npro.payload: grpc is for opcode`},
		{"opcode with path", route + "upstream = \"users\"\nopcode = \"X\"\npath = \"/\"\n", `route.path: the route is for NPRO requests of opcode "X"`},
		{"opcode of npd", route + "upstream = \"users\"\nopcode = \"ECHO\"\n", `npd answers "ECHO" itself`},
		{"opcode twice", route + "upstream = \"users\"\nopcode = \"X\"\n[[route]]\nname = \"q\"\nupstream = \"users\"\nopcode = \"X\"\n", `"X" is that of [[route]] "q" too`},
		{"grpc path", route + "upstream = \"users\"\nopcode = \"X\"\nnpro.payload = \"grpc\"\nnpro.path = \"/x\"\n", `route.npro.path: got "/x", expected "/package.Service/Method"`},
		{"reflection of nothing", route + "upstream = \"users\"\ngrpc.reflection = true\n", `route.grpc.reflection: there is nothing to show`},
		{"reflection of nobody", route + "split = [\"users=1\"]\ngrpc.descriptors = \"reflection\"\n", `nobody to ask for reflection`},
		{"refresh of a file", route + "upstream = \"users\"\ngrpc.descriptors = \"x.pb\"\ngrpc.refresh = \"1m\"\n", `route.grpc.refresh: got 1m0s, expected it with`},
		{"timeouts", route + "upstream = \"users\"\ngrpc.max_timeout = \"1s\"\ngrpc.default_timeout = \"2s\"\n", `2s is above max_timeout`},
		{"no keys", strings.Replace(base, "npro.keys", "#", 1), `speaks npro to whoever answers, expected npro.keys`},
		{"IK", strings.Replace(base, "npro.keys = [\"K\"]", "npro.pattern = \"IK\"\nnpro.keys = [\"K\", \"L\"]", 1), `2 keys, expected the one`},
		{"psk", strings.Replace(base, "npro.keys = [\"K\"]", "npro.pattern = \"NNpsk0\"", 1), `pattern NNpsk0 without a key, expected psk_file`},
		{"tls", strings.Replace(base, "npro.keys", "tls.enabled = true\nnpro.keys", 1), `npro is encrypted by itself`},
	} {
		t.Run(one.name, func(t *testing.T) {
			_, err := Load(Input{Files: []Source{{Name: "np.toml", Data: []byte(one.text)}}})
			if err == nil || !strings.Contains(err.Error(), one.want) || !strings.HasPrefix(err.Error(), "np.toml:") {
				t.Errorf("%v\nwant %s", err, one.want)
			}
		})
	}
}
