package config

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

const minimal = "[[interface]]\nname = \"np0\"\naddresses = [\"198.18.0.1/24\", \"2001:db8::1/64\"]\n"

func load(t *testing.T, text string, env ...string) (*Config, error) {
	t.Helper()
	return Load(Input{Files: []Source{{Name: "np.toml", Data: []byte(text)}}, Env: env})
}

func TestExampleLoads(t *testing.T) {
	c, err := load(t, Example())
	if err != nil {
		t.Fatalf("%v\n%s", err, Example())
	}
	if c.Interfaces[0].Name != "np0" || len(c.Interfaces[0].Addresses) != 2 || len(c.Listeners) != 4 ||
		!c.Protocol.AllowAnyPeer || !reflect.DeepEqual(c.Dataplane.Cores, CPUs{0}) {
		t.Errorf("example gives %+v", c)
	}
	// every key is in it, and each remark is a value that loads
	for _, v := range c.Values() {
		key := v.Path[strings.LastIndex(v.Path, ".")+1:]
		if !strings.Contains(Example(), key+" = ") {
			t.Errorf("example does not mention %s", v.Path)
		}
	}
	var on []string
	for _, line := range strings.Split(Example(), "\n") {
		if rest, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(rest, " ") {
			line = rest
		}
		on = append(on, line)
	}
	all := strings.Join(on, "\n")
	all = strings.Replace(all, "log_file_path = \"/", "log_file_path = \"/x", 1)
	if _, err := load(t, all); err != nil {
		t.Errorf("with every remark in force: %v", err)
	}
}

func TestErrors(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"wrong type", minimal + "[server]\nmax_connections = \"many\"\n",
			`np.toml:5:19: server.max_connections: got "many", expected an integer`},
		{"unknown key", minimal + "[server]\nmax_conections = 3\n",
			`np.toml:5:1: unknown key "max_conections" in [server], expected a known one (did you mean "max_connections"?)`},
		{"unknown section", minimal + "[servr]\n",
			`np.toml:4:1: unknown section "servr" in the file, expected a known one (did you mean "server"?)`},
		{"later section", minimal + "[[upstream]]\nname = \"x\"\n",
			"np.toml:4:1: this version has no section [upstream], expected it left out"},
		{"missing addresses", "[logging]\n[[interface]]\nname = \"np0\"\n",
			`np.toml:2:1: [[interface]] has no addresses, expected at least one address with prefix length, such as "198.18.0.1/24"`},
		{"bad address", "[[interface]]\nname = \"np0\"\naddresses = [\n  \"198.18.0.1/24\",\n  \"198.18.0.1/33\",\n]\n",
			`np.toml:5:3: interface[0].addresses: got "198.18.0.1/33", expected an address with prefix length such as "198.18.0.1/24" or "2001:db8::1/64"`},
		{"duplicate listener", minimal + "[[listener]]\nname = \"a\"\naddress = \":7700\"\n[[listener]]\nname = \"b\"\naddress = \":7700\"\n",
			`np.toml:9:1: address ":7700" is given twice, expected it once (first at np.toml:6:1)`},
		{"shadowed listener", minimal + "[[listener]]\nname = \"a\"\naddress = \":7700\"\n[[listener]]\nname = \"b\"\naddress = \"198.18.0.1:7700\"\n",
			`np.toml:9:1: port 7700 is in use by listener "a" (np.toml:6:1), expected a free port`},
		{"foreign listener", minimal + "[[listener]]\nname = \"a\"\naddress = \"198.18.0.9:7700\"\n",
			`np.toml:6:1: 198.18.0.9:7700 is on no interface, expected an address of an [[interface]] or ":7700" for all`},
		{"syntax", minimal + "[server\n", `np.toml:4:`},
		{"version 1", minimal + "[protocol]\nallow_v1 = true\n", `np.toml:5:1: protocol.allow_v1: got true, expected false`},
		{"range", minimal + "[handshake]\ntimeout = \"1ms\"\n", `np.toml:5:11: handshake.timeout: got "1ms", expected at least "10ms" and at most "5m"`},
		{"word", minimal + "[dataplane]\nbackend = \"af_xpd\"\n", `np.toml:5:11: dataplane.backend: got "af_xpd", expected one of auto, af_xdp (did you mean "af_xdp"?)`},
		{"peer key", minimal + "[[peer]]\nname = \"x\"\npublic_key = \"abc\"\nallow = []\n", `np.toml:6:1: peer.public_key: not a key`},
		{"peer without allow", minimal + "[[peer]]\nname = \"x\"\npublic_key = \"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\"\n", `np.toml:4:1: [[peer]] has no allow`},
		{"section as value", minimal + "server = 3\n", `np.toml:4:1: unknown key "server" in [interface[0]]`},
		{"table for key", "server = 3\n" + minimal, `np.toml:1:10: server: got 3, expected a table [server]`},
		{"inline", minimal + "[dataplane]\nidle = { spin = \"x\" }\n", `np.toml:5:17: dataplane.idle.spin: got "x", expected a duration`},
		{"network address", "[[interface]]\nname = \"np0\"\naddresses = [\"198.18.0.0/24\"]\n", `np.toml:3:14: interface.addresses: 198.18.0.0 is the address of the network 198.18.0.0/24 itself, expected one of a host in it`},
		{"broadcast address", "[[interface]]\nname = \"np0\"\naddresses = [\"198.18.3.255/22\"]\n", `np.toml:3:14: interface.addresses: 198.18.3.255 is the broadcast address of 198.18.0.0/22, expected one of a host in it`},
		{"own gateway", minimal + "gateway = [\"198.18.0.1\"]\n", `np.toml:4:12: interface.gateway: 198.18.0.1 is the appliance's own address, expected a neighbor`},
		{"long socket", minimal + "[management]\nsocket = \"/" + strings.Repeat("x", 99) + "\"\n", `np.toml:5:1: management.socket: a path of 100 bytes, expected at most 99`},
		{"empty", "", "np.toml: no [[interface]], expected"},
		{"nx", minimal + "[protocol]\npatterns = [\"NX\"]\n", "np.toml:5:1: protocol.patterns has NX"},
		{"route", minimal + "[[route_ip]]\nprefix = \"203.0.113.1/24\"\nvia = \"198.18.0.5\"\n", "np.toml:5:1: route_ip.prefix: 203.0.113.1/24 has bits behind its length, expected 203.0.113.0/24"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.text)
			if err == nil {
				t.Fatal("no error")
			}
			if strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
		})
	}
}

func TestAllErrorsAtOnce(t *testing.T) {
	_, err := load(t, minimal+"[server]\nmax_connections = 0\nfoo = 1\n[tcp]\nnagle = 1\n")
	var all Errors
	if !errors.As(err, &all) || len(all) != 3 {
		t.Fatalf("want 3 errors, got %v", err)
	}
	for i, line := range []int{5, 6, 8} {
		if all[i].Pos.Line != line {
			t.Errorf("error %d at line %d, want %d", i, all[i].Pos.Line, line)
		}
	}
}

func TestPrecedenceAndOrigin(t *testing.T) {
	in := Input{
		Files: []Source{
			{"np.toml", []byte(minimal + "[server]\nheartbeat_interval = 1500\nshutdown_timeout = \"1s\"\nmax_connections = 1\nbackpressure_limit = 1\n[[listener]]\nname = \"a\"\naddress = \":1\"\n")},
			{"conf.d/10.toml", []byte("[server]\nshutdown_timeout = \"2s\"\nmax_connections = 2\nbackpressure_limit = 2\n[[listener]]\nname = \"b\"\naddress = \":2\"\n")},
		},
		Env: []string{"NETWORK_PROTOCOL_SERVER_MAX_CONNECTIONS=3", "NP_SERVER_BACKPRESSURE_LIMIT=3", "NETWORK_PROTOCOL_SERVER_BACKPRESSURE_LIMIT=9",
			"NP_DATAPLANE_CORES=1,3", "NP_PROTOCOL_AEAD=aes-256-gcm", "NP_DATAPLANE_IDLE_SPIN=2ms", "NP_VM_DIR=/x"},
		Flags: []Setting{{Flag: "--log-level", Path: "logging.log_level", Value: "debug"}},
	}
	c, err := Load(in)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][2]string{
		"server.heartbeat_interval":  {`"1.5s"`, "np.toml:5:22"},
		"server.shutdown_timeout":    {`"2s"`, "conf.d/10.toml:2:20"},
		"server.max_connections":     {"3", "environment NETWORK_PROTOCOL_SERVER_MAX_CONNECTIONS"},
		"server.backpressure_limit":  {"3", "environment NP_SERVER_BACKPRESSURE_LIMIT"},
		"server.connection_timeout":  {`"5s"`, "default"},
		"dataplane.cores":            {"[1, 3]", "environment NP_DATAPLANE_CORES"},
		"dataplane.idle.spin":        {`"2ms"`, "environment NP_DATAPLANE_IDLE_SPIN"},
		"protocol.aead":              {`["aes-256-gcm"]`, "environment NP_PROTOCOL_AEAD"},
		"logging.log_level":          {`"debug"`, "flag --log-level"},
		"listener[0].name":           {`"a"`, "np.toml:10:8"},
		"listener[1].name":           {`"b"`, "conf.d/10.toml:6:8"},
		"transport.max_payload_size": {`"16MiB"`, "default"},
	}
	found := 0
	for _, v := range c.Values() {
		if w, ok := want[v.Path]; ok {
			found++
			if v.Value != w[0] || v.Origin != w[1] {
				t.Errorf("%s = %s from %s, want %s from %s", v.Path, v.Value, v.Origin, w[0], w[1])
			}
		}
	}
	if found != len(want) {
		t.Errorf("found %d of %d values", found, len(want))
	}
	if got := c.Pos("listener[1].address").String(); got != "conf.d/10.toml:7:1" {
		t.Errorf("Pos = %s", got)
	}
}

func TestEnvironmentErrors(t *testing.T) {
	_, err := load(t, minimal, "NP_SERVER_MAX_CONECTIONS=3", "NP_LOGGING_LOG_LEVEL=loud")
	for _, want := range []string{
		`environment NP_SERVER_MAX_CONECTIONS: names no key of [server], expected a known one (did you mean "NP_SERVER_MAX_CONNECTIONS"?)`,
		`environment NP_LOGGING_LOG_LEVEL: logging.log_level: got "loud", expected one of debug, info, warn, error`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
}

func TestValues(t *testing.T) {
	durations := map[any]time.Duration{"5s": 5 * time.Second, int64(250): 250 * time.Millisecond, "250": 250 * time.Millisecond, "1h": time.Hour}
	for in, want := range durations {
		if got, err := parseDuration(in); err != nil || got != want {
			t.Errorf("parseDuration(%v) = %v, %v", in, got, err)
		}
	}
	sizes := map[any]Size{"16MiB": 16 << 20, "64 KiB": 64 << 10, int64(7): 7, "7": 7, "2kB": 2000, "64GiB": 64 << 30}
	for in, want := range sizes {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("parseSize(%v) = %v, %v", in, got, err)
		}
	}
	for _, bad := range []any{"16 megabytes", "-1", int64(-1), "9999999999GiB", 1.5, "", "MiB"} {
		if _, err := parseSize(bad); err == nil {
			t.Errorf("parseSize(%v) accepted", bad)
		}
		if _, err := parseDuration(bad); err == nil {
			t.Errorf("parseDuration(%v) accepted", bad)
		}
	}
	for in, want := range map[string]string{":7700": ":7700", "198.18.0.1:7": "198.18.0.1:7", "[2001:db8::1]:7": "[2001:db8::1]:7"} {
		a, err := ParseAddrPort(in)
		if err != nil || AddrPortString(a) != want {
			t.Errorf("ParseAddrPort(%s) = %v, %v", in, a, err)
		}
	}
	for _, bad := range []string{"198.18.0.1", ":0", ":70000", "localhost:80", "[fe80::1%eth0]:7"} {
		if _, err := ParseAddrPort(bad); err == nil {
			t.Errorf("ParseAddrPort(%s) accepted", bad)
		}
	}
}

func TestDiff(t *testing.T) {
	old, err := load(t, minimal+"[[listener]]\nname = \"a\"\naddress = \":1\"\n")
	if err != nil {
		t.Fatal(err)
	}
	if ch := Diff(old, old); !ch.Empty() {
		t.Errorf("same configuration differs: %+v", ch)
	}
	next, err := load(t, `[[interface]]
name = "np0"
addresses = ["198.18.0.1/24", "198.18.0.2/24"]
gateway = "198.18.0.254"
[[listener]]
name = "b"
address = ":2"
[logging]
log_level = "debug"
[tcp]
nagle = true
`)
	if err != nil {
		t.Fatal(err)
	}
	ch := Diff(old, next)
	want := Change{
		Restart: []string{"tcp.nagle"}, Live: []string{"logging.log_level"},
		AddListeners: next.Listeners, DelListeners: old.Listeners,
		AddAddresses: []InterfaceAddress{{"np0", netip.MustParsePrefix("198.18.0.2/24")}},
		DelAddresses: []InterfaceAddress{{"np0", netip.MustParsePrefix("2001:db8::1/64")}},
		AddRoutes:    []Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("198.18.0.254"), Interface: "np0"}},
	}
	if !reflect.DeepEqual(ch, want) {
		t.Errorf("got  %+v\nwant %+v", ch, want)
	}
}

// FuzzParse feeds whole documents: whatever they are, Load ends with a valid
// configuration or errors that have a place, and never panics.
func FuzzParse(f *testing.F) {
	f.Add([]byte(Example()))
	f.Add([]byte(minimal))
	f.Add([]byte("a.b.c = [1, {x = '''y'''}, \"\\\"\"]\n[[interface]]\n[[interface.x]]\n"))
	f.Add([]byte("[dataplane]\ncores = [0, 1]\nidle.spin = 5\n"))
	f.Add([]byte("\ufeff[server]\r\nmax_connections = 1979-05-27\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Load(Input{Files: []Source{{Name: "f", Data: data}}})
		if err == nil {
			c.Values()
			return
		}
		var all Errors
		if !errors.As(err, &all) || len(all) == 0 {
			t.Fatalf("error without places: %v", err)
		}
		for _, e := range all {
			if strings.ContainsAny(e.Pos.String(), "\n") || e.Pos.Kind == File && e.Pos.Line < 0 {
				t.Fatalf("bad place %+v", e.Pos)
			}
		}
	})
}
