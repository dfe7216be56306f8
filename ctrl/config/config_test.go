package config

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
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
		!c.Protocol.AllowAnyPeer || !reflect.DeepEqual(c.Dataplane.Cores, CPUs{AnyCPU}) {
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
		{"later section", minimal + "[cluster]\nname = \"x\"\n",
			"np.toml:4:1: this version has no section [cluster], expected it left out"},
		{"missing addresses", "[logging]\n[[interface]]\nname = \"np0\"\n",
			`np.toml:2:1: [[interface]] has no addresses, expected at least one address with prefix length, such as "198.18.0.1/24"`},
		{"bad address", "[[interface]]\nname = \"np0\"\naddresses = [\n  \"198.18.0.1/24\",\n  \"198.18.0.1/33\",\n]\n",
			`np.toml:5:3: interface[0].addresses: got "198.18.0.1/33", expected an address with prefix length such as "198.18.0.1/24" or "2001:db8::1/64"`},
		{"duplicate listener", minimal + "[[listener]]\nname = \"a\"\naddress = \":7700\"\n[[listener]]\nname = \"b\"\naddress = \":7700\"\n",
			`np.toml:9:1: address ":7700" is given twice, expected it once (first at np.toml:6:1)`},
		{"shadowed listener", minimal + "[[listener]]\nname = \"a\"\naddress = \":7700\"\n[[listener]]\nname = \"b\"\naddress = \"198.18.0.1:7700\"\n",
			`np.toml:9:1: port 7700 is in use by listener "a" (np.toml:6:1), expected a free port`},
		{"foreign listener", minimal + "[[listener]]\nname = \"a\"\naddress = \"198.18.0.9:7700\"\nbackend = \"stack\"\n",
			`np.toml:6:1: 198.18.0.9:7700 is on no interface, expected an address of an [[interface]] or ":7700" for all`},
		{"Unix socket on the stack", minimal + "[[listener]]\nname = \"a\"\naddress = \"unix:/run/np/a.sock\"\nbackend = \"stack\"\n",
			`np.toml:6:1: unix:/run/np/a.sock: a Unix socket is the kernel's, expected backend auto, io_uring or epoll instead of stack`},
		{"stack without an interface", "[[listener]]\nname = \"a\"\naddress = \":7700\"\nbackend = \"stack\"\n",
			`np.toml:3:1: :7700: backend stack without an [[interface]], expected one, or backend auto, io_uring or epoll`},
		{"kernel sockets on an interface's address", minimal + "[[listener]]\nname = \"a\"\naddress = \"198.18.0.1:7700\"\nbackend = \"epoll\"\n",
			`np.toml:6:1: 198.18.0.1:7700 is an [[interface]]'s, which the kernel has not, expected backend auto or stack instead of epoll`},
		{"relative path", minimal + "[[listener]]\nname = \"a\"\naddress = \"unix:a.sock\"\n", `np.toml:6:11: listener[0].address: got "unix:a.sock", expected an absolute path such as "unix:/run/np/npro.sock"`},
		{"long path", minimal + "[[listener]]\nname = \"a\"\naddress = \"unix:/" + strings.Repeat("x", 120) + "\"\n", `np.toml:6:11: listener[0].address: got a path of 121 bytes, expected at most 99`},
		{"mode", minimal + "[[listener]]\nname = \"a\"\naddress = \"unix:/a\"\nmode = \"rw\"\n", `np.toml:7:1: listener.mode: got "rw", expected permissions in octal such as "0660"`},
		{"owner of TCP", minimal + "[[listener]]\nname = \"a\"\naddress = \":7\"\nowner = \"root\"\n", `np.toml:7:1: listener.owner: :7 is TCP, expected it only with an address that begins with "unix:"`},
		{"DSCP of a Unix socket", minimal + "[[listener]]\nname = \"a\"\naddress = \"unix:/a\"\ndscp = 46\n", `np.toml:7:1: listener.dscp: unix:/a sends no packets, expected 0`},
		{"syntax", minimal + "[server\n", `np.toml:4:`},
		{"VLAN twice", minimal + "vlan = 7\n[[interface]]\nname = \"np0\"\naddresses = [\"198.18.7.1/24\"]\nvlan = 7\n",
			`np.toml:6:1: interface "np0.7" is given twice, expected it once (first at np.toml:2:1)`},
		{"untagged twice", minimal + "[[interface]]\nname = \"np0\"\naddresses = [\"198.18.7.1/24\"]\n", `np.toml:5:1: interface "np0" is given twice`},
		{"a device by a VLAN's name", minimal + "vlan = 7\n[[interface]]\nname = \"np0.7\"\naddresses = [\"198.18.7.1/24\"]\n",
			`np.toml:6:1: interface "np0.7" is given twice`},
		{"MTU of a VLAN", minimal + "mtu = 1400\n[[interface]]\nname = \"np0\"\naddresses = [\"198.18.7.1/24\"]\nvlan = 7\nmtu = 1500\n",
			`np.toml:9:1: interface.mtu: 1500 on np0.7 but 1400 on np0, expected the same on all VLANs of a device (first at np.toml:2:1)`},
		{"mode of a VLAN", minimal + "xdp_mode = \"native\"\n[[interface]]\nname = \"np0\"\naddresses = [\"198.18.7.1/24\"]\nvlan = 7\n",
			`np.toml:5:1: interface.xdp_mode: auto on np0.7 but native on np0`},
		{"queues of a VLAN", minimal + "[[interface]]\nname = \"np0\"\naddresses = [\"198.18.7.1/24\"]\nvlan = 7\nqueues = 2\n",
			`np.toml:8:1: interface.queues: 2 on np0.7 but 0 on np0`},
		{"zero-copy of a VLAN", minimal + "[[interface]]\nname = \"np0\"\naddresses = [\"198.18.7.1/24\"]\nvlan = 7\nzero_copy = \"off\"\n",
			`np.toml:8:1: interface.zero_copy: off on np0.7 but auto on np0`},
		{"address on two VLANs", minimal + "[[interface]]\nname = \"np0\"\naddresses = [\"198.18.0.1/24\"]\nvlan = 7\n", `np.toml:6:14: address "198.18.0.1" is given twice`},
		{"route by a VLAN", minimal + "[[interface]]\nname = \"np0\"\naddresses = [\"198.18.7.1/24\"]\nvlan = 7\n[[route_ip]]\nprefix = \"198.19.0.0/16\"\ninterface = \"np0.8\"\n",
			`np.toml:10:1: route_ip.interface: no [[interface]] is named "np0.8", expected one of np0, np0.7`},
		{"two default routes", minimal + "gateway = \"198.18.0.2\"\n[[interface]]\nname = \"np0\"\naddresses = [\"198.18.7.1/24\"]\nvlan = 7\ngateway = \"198.18.7.2\"\n",
			`np.toml:9:11: interface.gateway: 198.18.7.2 is a second IPv4 default route, expected one on all interfaces (first at np.toml:4:1)`},
		{"filter's host bits", minimal + "[interface.filter]\ndeny = [\"::/0\", \"198.18.5.1/24\"]\n",
			`np.toml:5:17: interface.filter.deny: 198.18.5.1/24 has bits behind its length, expected 198.18.5.0/24`},
		{"filter's address alone", minimal + "[interface.filter]\nallow = [\"198.18.5.1\"]\n", `np.toml:5:10: interface[0].filter.allow: got "198.18.5.1", expected an address with prefix length`},
		{"denied and allowed", minimal + "[interface.filter]\ndeny = [\"::/0\"]\nallow = [\"::/0\"]\n", `np.toml:6:10: prefix "::/0" is given twice, expected it once (first at np.toml:5:9)`},
		{"filter's rate", minimal + "[interface.filter]\nrate_pps = 10000001\n", `np.toml:5:12: interface[0].filter.rate_pps: got 10000001, expected at least 0 and at most 10000000`},
		{"burst alone", minimal + "[interface.filter]\nrate_pps = 5\nsyn_burst = 9\n", `np.toml:6:1: interface.filter.syn_burst: got 9 without a rate, expected rate_syn with it`},
		{"filter's traffic", minimal + "filter.apply_to = \"both\"\n", `np.toml:4:19: interface[0].filter.apply_to: got "both", expected one of own, all`},
		{"filter's key", minimal + "[interface.filter]\ndenny = []\n", `np.toml:5:1: unknown key "denny" in [interface[0].filter], expected a known one (did you mean "deny"?)`},
		{"filter of a VLAN", minimal + "[[interface]]\nname = \"np0\"\naddresses = [\"198.18.7.1/24\"]\nvlan = 7\n[interface.filter]\nrate_syn = 5\n",
			`np.toml:8:1: interface.filter: given for np0.7, expected only with the device's first [[interface]], np0 (np.toml:2:1)`},
		{"many addresses", "[[interface]]\nname = \"np0\"\naddresses = [" + manyAddresses(16) + "]\n", `np.toml:3:`},
		{"version 1", minimal + "[protocol]\nallow_v1 = true\n", `np.toml:5:1: protocol.allow_v1: got true, expected false`},
		{"range", minimal + "[handshake]\ntimeout = \"1ms\"\n", `np.toml:5:11: handshake.timeout: got "1ms", expected at least "10ms" and at most "5m"`},
		{"word", minimal + "[dataplane]\nbackend = \"af_xpd\"\n", `np.toml:5:11: dataplane.backend: got "af_xpd", expected one of auto, dpdk, af_xdp, af_packet, tap (did you mean "af_xdp"?)`},
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

func manyAddresses(n int) string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("\"198.18.0.%d/24\"", i+1))
	}
	return strings.Join(out, ", ")
}

// TestVLANs: several entries of one device, with routes that name them.
func TestVLANs(t *testing.T) {
	c, err := load(t, minimal+`[[interface]]
name = "np0"
vlan = 100
addresses = ["198.18.100.1/24", "fe80::1/64"]
[[interface]]
name = "np0"
vlan = 200
addresses = ["198.18.200.1/24", "fe80::1/64"]
gateway = "198.18.200.2"
[[interface]]
name = "np1"
vlan = 9
addresses = ["198.18.9.1/24"]
[[route_ip]]
prefix = "198.19.1.0/24"
via = "198.18.100.9"
[[route_ip]]
prefix = "198.19.2.0/24"
interface = "np0.200"
[[route_ip]]
prefix = "198.19.3.0/24"
interface = "np0"
[[route_ip]]
prefix = "198.19.4.0/24"
interface = "np1"
`)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range c.AllRoutes() {
		got = append(got, r.Interface)
	}
	if want := []string{"np0.100", "np0.200", "np0", "np1.9", "np0.200"}; !slices.Equal(got, want) {
		t.Errorf("routes by %v, want %v", got, want)
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

// TestDiffInterface: which keys of an interface a running npd takes over.
func TestDiffInterface(t *testing.T) {
	head := "[[interface]]\nname = \"np0\"\nvlan = 7\n"
	base := head + "addresses = [\"198.18.0.1/24\"]\n"
	old, err := load(t, base)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ text, restart string }{
		{base, ""},
		{head + "addresses = [\"198.18.0.9/24\"]\n", ""},
		{base + "gateway = \"198.18.0.2\"\n", ""},
		{base + "mtu = 1400\n", "interface np0.7 mtu"},
		{base + "queues = 1\n", "interface np0.7 queues"},
		{base + "zero_copy = \"off\"\n", "interface np0.7 zero_copy"},
		{base + "xdp_mode = \"native\"\n", "interface np0.7 xdp_mode"},
		{base + "dad_transmits = 2\n", "interface np0.7 dad_transmits"},
		{base + "acd = true\n", "interface np0.7 acd"},
		{base + "accept_ra = true\n", "interface np0.7 accept_ra"},
		{base + "[interface.filter]\ndeny = \"198.18.9.0/24\"\n", ""},
		{base + "backend = \"af_packet\"\n", "interface np0.7 backend"},
		{base + "exception_tap = \"host0\"\n", "interface np0.7 exception_tap"},
		{base + "[exception]\nrate = 5\ntcp_ports = [22]\n", "exception.rate, exception.tcp_ports"},
		{base + "device = \"0000:00:04.0\"\n", "interface np0.7 device"},
		{strings.Replace(base, "vlan = 7", "vlan = 8", 1), "interface np0.7, interface np0.8"},
		{strings.Replace(base, "np0", "np1", 1), "interface np0.7, interface np1.7"},
		{base + "[[interface]]\nname = \"np0\"\naddresses = [\"198.18.1.1/24\"]\n", "interface np0"},
	} {
		next, err := load(t, tt.text)
		if err != nil {
			t.Fatal(err)
		}
		ch := Diff(old, next)
		if got := strings.Join(ch.Restart, ", "); got != tt.restart {
			t.Errorf("%q: a restart for %q, want %q", tt.text, got, tt.restart)
		}
	}
	// Every key of the schema is in one of the two groups above.
	if n := reflect.TypeFor[Interface]().NumField(); n != 15 {
		t.Errorf("%d keys, 15 of which are looked at here", n)
	}
}

// TestFilter: a filter is read, and its change is one thing to do.
func TestFilter(t *testing.T) {
	old, err := load(t, minimal+"[interface.filter]\ndeny = [\"203.0.113.0/24\", \"2001:db8:bad::/48\"]\nallow = \"203.0.113.7/32\"\nrate_pps = 9\n")
	if err != nil {
		t.Fatal(err)
	}
	f := old.Interfaces[0].Filter
	want := Filter{Deny: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8:bad::/48")},
		Allow: []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32")}, RatePPS: 9, ApplyTo: "own"}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("%+v", f)
	}
	next, err := load(t, minimal+"filter = { rate_pps = 9, rate_syn = 4, syn_burst = 8, apply_to = \"all\" }\n")
	if err != nil {
		t.Fatal(err)
	}
	if ch := Diff(old, next); !reflect.DeepEqual(ch, Change{Filters: []string{"np0"}}) {
		t.Errorf("%+v", ch)
	}
	if ch := Diff(old, old); !ch.Empty() {
		t.Errorf("%+v", ch)
	}
	long := make([]string, entriesMax+1)
	for i := range long {
		long[i] = fmt.Sprintf("\"10.%d.%d.0/24\"", i>>8, i&255)
	}
	if _, err := load(t, minimal+"filter.deny = ["+strings.Join(long, ",")+"]\n"); err == nil || !strings.Contains(err.Error(), "8193 entries") {
		t.Error(err)
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

func TestCPUs(t *testing.T) {
	for in, want := range map[string]string{`2`: "2", `"1-3"`: "[1, 2, 3]", `"0, 2-3"`: "[0, 2, 3]", `[2, 0]`: "[2, 0]", `"5"`: "[5]",
		`"3-1"`: "", `"a"`: "", `""`: "", `"1-99999"`: "", `[1, 1]`: "", `"1,1"`: "", `0`: "", `"-1"`: ""} {
		c, err := Load(Input{Files: []Source{{Name: "f", Data: []byte(strings.Replace(Example(), "cores = 1", "cores = "+in, 1))}}})
		if want == "" {
			if err == nil || !strings.Contains(err.Error(), "expected") {
				t.Errorf("%s: %v", in, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := format(reflect.ValueOf(c.Dataplane.Cores)); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestException(t *testing.T) {
	head := "[[interface]]\nname = \"np0\"\naddresses = [\"198.18.0.1/24\"]\n"
	c, err := load(t, head+"[exception]\nrate = 10\nkernel_rate = 20\ntcp_ports = [22, 179]\nudp_ports = 161\nprotocols = [89, 112]\n")
	if err != nil {
		t.Fatal(err)
	}
	if x := c.Exception; !x.Enabled || x.Rate != 10 || x.KernelRate != 20 || !slices.Equal(x.TCPPorts, []int{22, 179}) || !slices.Equal(x.UDPPorts, []int{161}) ||
		!slices.Equal(x.Protocols, []int{89, 112}) || c.Interfaces[0].TAP() != "np0x" {
		t.Errorf("%+v, TAP %s", x, c.Interfaces[0].TAP())
	}
	for text, want := range map[string]string{
		"tcp_ports = [0]":       "at least 1",
		"tcp_ports = [65536]":   "at most 65535",
		"tcp_ports = [22, 22]":  "listed twice",
		"tcp_ports = [7700]":    "port of server.address",
		"udp_ports = [\"dns\"]": "udp_ports",
		"protocols = [6]":       "tcp_ports and udp_ports",
		"protocols = [256]":     "at most 255",
		"rate = -1":             "at least 0",
		"udp_ports = [" + strings.Repeat("1, ", 33) + "2]": "at most 32",
	} {
		if _, err := load(t, head+"[exception]\n"+text+"\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	for text, want := range map[string]string{
		"exception_tap = \"a-name-of-16-chars\"\n": "at most 15",
		"exception_tap = \"np0\"\n":                "is an [[interface]]",
		"[[listener]]\nname = \"ssh\"\naddress = \":22\"\nprotocol = \"echo\"\n[exception]\ntcp_ports = [22]\n": "port of listener",
		"[dataplane]\nudp_echo_port = 7\n[exception]\nudp_ports = [7]\n":                                        "udp_echo_port",
	} {
		if _, err := load(t, head+text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestNames: names that become paths in /sys, or that nothing could be called.
func TestNames(t *testing.T) {
	tail := "addresses = [\"198.18.0.1/24\"]\n"
	for text, want := range map[string]string{
		"[[interface]]\nname = \"../../etc\"\n" + tail:                              `f:2:1: interface.name: got "../../etc"`,
		"[[interface]]\nname = \"..\"\n" + tail:                                     "f:2:1: interface.name",
		"[[interface]]\nname = \"np 0\"\n" + tail:                                   "f:2:1: interface.name",
		"[[interface]]\nname = \"np0:1\"\n" + tail:                                  "f:2:1: interface.name",
		"[[interface]]\nname = \"np\\u0000\"\n" + tail:                              "f:2:1: interface.name",
		"[[interface]]\nname = \"a-name-of-16-chars\"\n" + tail:                     "at most 15",
		"[[interface]]\nname = \"np0\"\nexception_tap = \"a/b\"\n" + tail:           "f:3:1: interface.exception_tap: got \"a/b\"",
		"[[interface]]\nname = \"np0\"\n" + tail + "[tls]\nalpn = [\"h2\", \"\"]\n": "f:5:15: tls.alpn: a name of 0 bytes",
		"[[interface]]\nname = \"np0\"\n" + tail + "[tls]\n[tls]\n":                 "already been defined, expected",
	} {
		_, err := Load(Input{Files: []Source{{Name: "f", Data: []byte(text)}}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestOnKernel says which listeners are whose.
func TestOnKernel(t *testing.T) {
	listener := func(address, backend string) string {
		return "[[listener]]\nname = \"a\"\naddress = \"" + address + "\"\nbackend = \"" + backend + "\"\n"
	}
	for _, tt := range []struct {
		name, text string
		kernel     bool
	}{
		{"an interface's address", minimal + listener("198.18.0.1:7700", "auto"), false},
		{"all addresses", minimal + listener(":7700", "auto"), false},
		{"all of the kernel's", minimal + listener(":7700", "epoll"), true},
		{"loopback", minimal + listener("127.0.0.1:7700", "auto"), true},
		{"a path", minimal + listener("unix:/run/np/a.sock", "auto"), true},
		{"no interface", listener(":7700", "auto"), true},
		{"no interface, a path", listener("unix:/run/np/a.sock", "io_uring"), true},
	} {
		c, err := load(t, tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		l := c.Listen()[0]
		if got := c.OnKernel(&l); got != tt.kernel {
			t.Errorf("%s: on kernel sockets %v", tt.name, got)
		}
		if path := l.Address.Path(); path != "" && (path != "/run/np/a.sock" || l.Address.AddrPort().IsValid()) {
			t.Errorf("%s: %s", tt.name, path)
		}
	}
	// the same port on the stack and on the kernel is no conflict
	if _, err := load(t, minimal+listener(":7700", "auto")+strings.Replace(listener(":7700", "epoll"), `"a"`, `"b"`, 1)); err == nil {
		t.Error("one address twice") // npctl and reload know listeners by their address
	}
	if _, err := load(t, minimal+listener(":7700", "auto")+strings.Replace(listener("127.0.0.1:7700", "auto"), `"a"`, `"b"`, 1)); err != nil {
		t.Error(err)
	}
}

func TestRDMA(t *testing.T) {
	listener := "[[listener]]\nname = \"r\"\naddress = \"198.18.0.1:7700\"\nbackend = \"rdma\"\n"
	c, err := load(t, "[rdma]\nenabled = true\ndevice = \"mlx5_0\"\nport = 2\ngid_index = 3\nring_size = \"64KiB\"\nmax_connections = 8\n"+listener+
		"[[listener]]\nname = \"t\"\naddress = \"198.18.0.1:7700\"\nbackend = \"epoll\"\n") // both at one address: each has ports of its own
	if err != nil {
		t.Fatal(err)
	}
	if r := c.RDMA; !r.Enabled || r.Device != "mlx5_0" || r.Port != 2 || r.GIDIndex != 3 || r.RingSize != 64<<10 || r.MaxConnections != 8 || r.Keepalive != 10*time.Second {
		t.Errorf("%+v", r)
	}
	if !c.Listeners[0].ByRDMA() || !c.OnKernel(&c.Listeners[0]) || c.Listeners[1].ByRDMA() {
		t.Errorf("%+v", c.Listeners)
	}
	for text, want := range map[string]string{
		listener: "rdma.enabled is false",
		"[rdma]\nenabled = true\n[[listener]]\nname = \"u\"\naddress = \"unix:/run/x.sock\"\nbackend = \"rdma\"\n":      "Unix socket",
		"[rdma]\nenabled = true\n" + listener + strings.Replace(listener, "\"r\"", "\"s\"", 1):                          "given twice",
		"[rdma]\nenabled = true\n" + listener + "[[listener]]\nname = \"s\"\naddress = \":7700\"\nbackend = \"rdma\"\n": "in use by listener",
		"[rdma]\nring_size = \"100KB\"\n":                        "rdma.ring_size",
		"[rdma]\nring_size = 65537\n":                            "power of two",
		"[rdma]\nring_size = \"8MiB\"\n":                         "at most",
		"[rdma]\ngid_index = 1\n":                                "without device",
		"[rdma]\nmax_connections = 0\n":                          "at least 1",
		"[rdma]\ndevice = \"" + strings.Repeat("x", 64) + "\"\n": "at most 63",
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
