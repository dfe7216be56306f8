package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestChanges(t *testing.T) {
	const base = `
[logging]
log_level = "info"
[[interface]]
name = "np0"
addresses = ["198.18.0.1/24"]
[[listener]]
name = "web"
address = ":8080"
protocol = "http"
[[upstream]]
name = "users"
endpoints = ["198.18.0.9:80"]
[[route]]
name = "a"
path = "/a"
upstream = "users"
[[route]]
name = "b"
path_prefix = "/b"
upstream = "users"
`
	const changed = `
[logging]
log_level = "debug"
[tcp]
sack = false
[[interface]]
name = "np0"
addresses = ["198.18.0.1/24", "198.18.0.2/24"]
mtu = 1400
[[listener]]
name = "web"
address = ":8081"
protocol = "http"
[[upstream]]
name = "users"
endpoints = ["198.18.0.9:80"]
balance = "maglev"
timeouts.idle = "20s"
[[route]]
name = "b"
path_prefix = "/b"
upstream = "users"
[[route]]
name = "c"
path = "/c"
upstream = "users"
`
	load := func(text string) *Config {
		c, err := Load(Input{Files: []Source{{Name: "np.toml", Data: []byte(text)}}})
		if err != nil {
			t.Fatal(err)
		}
		if string(c.Main().Data) != text || c.Main().Name != "np.toml" {
			t.Errorf("main file %+v", c.Main())
		}
		return c
	}
	a, b := load(base), load(changed)
	for _, c := range Changes(a, load(base+"[[certificate]]\ncert_file = \"a\"\nkey_file = \"b\"\n")) {
		if c.Restart || !strings.HasPrefix(c.Key, "certificate") {
			t.Errorf("the first certificate: %+v", c)
		}
	}
	if got := Changes(a, a); got != nil {
		t.Errorf("nothing changed: %v", got)
	}
	want := []ValueChange{
		{"logging.log_level", `"info"`, `"debug"`, false},
		{"interface[np0].addresses", `["198.18.0.1/24"]`, `["198.18.0.1/24", "198.18.0.2/24"]`, false},
		{"interface[np0].mtu", "", "1400", true},
		{"tcp.sack", "true", "false", true},
		{"listener[web].address", `":8080"`, `":8081"`, false},
		{"upstream[users].balance", "", `"maglev"`, false},
		{"upstream[users].timeouts.idle", "", `"20s"`, false},
		{"route[c].name", "", `"c"`, false},
		{"route[c].path", "", `"/c"`, false},
		{"route[c].upstream", "", `"users"`, false},
		{"route", "a, b", "b, c", false},
		{"route[a].name", `"a"`, "", false},
		{"route[a].path", `"/a"`, "", false},
		{"route[a].upstream", `"users"`, "", false},
	}
	if got := Changes(a, b); !reflect.DeepEqual(got, want) {
		t.Errorf("got")
		for _, c := range got {
			t.Errorf("%+v", c)
		}
	}
}
