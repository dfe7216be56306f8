//go:build e2e

package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Each mistake in a configuration is one clear line with its place.
func TestConfigMistakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noNpd: true})
	example := w.must(exec.Command(w.bin+"/npd", "config", "example"))
	for _, c := range []struct{ name, text, want string }{
		{"wrong type", strings.Replace(example, "[server]", "[server]\nmax_connections = \"many\"", 1), "max_connections"},
		{"unknown key", strings.Replace(example, "[server]", "[server]\nmax_conections = 5", 1), "max_connections"},
		{"missing address", "[[interface]]\nname = \"np0\"\n", "addresses"},
		{"unknown section", example + "\n[servre]\n", "server"},
		{"syntax", example + "\n[server\n", ""},
	} {
		w.write("bad.toml", c.text)
		for _, args := range [][]string{{"check", "-c", w.path("bad.toml")}, {"-c", w.path("bad.toml")}} {
			out, err := w.in("s", w.bin+"/npd", args...).CombinedOutput()
			if err == nil {
				t.Errorf("%s: npd %v accepted it", c.name, args)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if !strings.Contains(lines[0], w.path("bad.toml")+":") || !strings.Contains(string(out), c.want) {
				t.Errorf("%s: npd %v said:\n%s", c.name, args, out)
			}
		}
	}
	w.write("good.toml", example)
	w.must(w.in("s", w.bin+"/npd", "check", "-c", w.path("good.toml")))
}

func TestUnknownInterface(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noNpd: true, config: func(s string) string { return strings.Replace(s, `name = "np0"`, `name = "nope0"`, 1) }})
	out, err := w.in("s", w.bin+"/npd", "-c", w.path("np.toml")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "nope0") || !strings.Contains(string(out), "np.toml:") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noNpd: true, config: func(s string) string {
		return s + "\n[[listener]]\nname = \"again\"\naddress = \":7700\"\nprotocol = \"echo\"\n"
	}})
	out, err := w.in("s", w.bin+"/npd", "-c", w.path("np.toml")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "7700") || !strings.Contains(string(out), "np.toml:") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestNotRoot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noNpd: true})
	w.must(exec.Command("chmod", "-R", "a+rX", filepath.Dir(w.dir)))
	out, err := w.in("s", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
		w.bin+"/npd", "-c", w.path("np.toml")).CombinedOutput()
	text := string(out)
	if err == nil || !strings.Contains(text, "CAP_NET_RAW") || !strings.Contains(text, "setcap cap_net_admin,cap_net_raw,cap_bpf") {
		t.Errorf("%v:\n%s", err, text)
	}
}
