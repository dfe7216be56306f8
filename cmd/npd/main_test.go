package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/np-appliance/np/ctrl/config"
)

func npd(in string, args ...string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	code = run(args, strings.NewReader(in), &o, &e)
	return code, o.String(), e.String()
}

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good/np.toml", config.Example())
	write("good/conf.d/10-log.toml", "[logging]\nlog_level = \"warn\"\n")
	bad := write("bad/np.toml", config.Example()+"[servr]\n[tcpp]\n")
	d := write("badd/np.toml", config.Example())
	extra := write("badd/conf.d/x.toml", "[logging]\nlog_level = 7\n")
	_ = d
	tests := []struct {
		name string
		in   string
		args []string
		code int
		out  string // part of it
		err  string
	}{
		{"example", "", []string{"config", "example"}, 0, "[[interface]]\nname = \"np0\"", ""},
		{"version", "", []string{"version"}, 0, "npd ", ""},
		{"check", "", []string{"check", "-c", good}, 0, "", "is good"},
		{"check of standard input", config.Example(), []string{"check", "-c", "-"}, 0, "", "is good"},
		{"every error", "", []string{"check", "-c", bad}, 1, "", bad + ":"},
		{"conf.d", "", []string{"check", "-c", filepath.Join(dir, "badd/np.toml")}, 1, "", extra + ":2:13: logging.log_level: got 7, expected a string"},
		{"no file", "", []string{"check", "-c", filepath.Join(dir, "none")}, 1, "", "npd config example"},
		{"flag over file", "", []string{"check", "-c", good, "--log-level", "loud"}, 1, "", "flag --log-level: logging.log_level: got \"loud\""},
		{"set", "", []string{"check", "-c", good, "--set", "tcp.nagle=maybe"}, 1, "", "flag --set tcp.nagle: tcp.nagle: got \"maybe\", expected true or false"},
		{"set of nothing", "", []string{"check", "-c", good, "--set", "tcp.nagle"}, 2, "", "expected section.key=value"},
		{"host", strings.Replace(config.Example(), `"np0"`, `"nope0"`, 1), []string{"check", "--host", "-c", "-"}, 1, "", "interface nope0: no such interface"},
		{"gateway", "[[listener]]\nname = \"w\"\naddress = \":8080\"\nprotocol = \"http\"\n[[route]]\nname = \"b\"\npath = \"x\"\nbody = \"y\"\n[[route]]\nname = \"a\"\nredirect = \"ftp://x\"\npath = \"/a\"\n",
			[]string{"check", "-c", "-"}, 1, "", "standard input:7:1: [[route]] \"b\": path: \"x\": expected a path"},
		{"argument", "", []string{"check", "x"}, 2, "", "takes no argument"},
		{"unknown flag", "", []string{"--nope"}, 2, "", "unknown flag"},
		{"config alone", "", []string{"config"}, 2, "", "expected example"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, out, errOut := npd(tt.in, tt.args...)
			if code != tt.code || !strings.Contains(out, tt.out) || !strings.Contains(errOut, tt.err) {
				t.Errorf("exit %d\nout %s\nerr %s", code, out, errOut)
			}
			if tt.name == "gateway" && !strings.HasPrefix(errOut, "standard input:7:1: ") {
				t.Errorf("want a place first:\n%s", errOut)
			}
			if tt.name == "every error" && strings.Count(errOut, "\n") != 2 {
				t.Errorf("want a line for each error:\n%s", errOut)
			}
		})
	}
}
