//go:build lint

package lint

import (
	"bytes"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// files lists tracked files with one of the suffixes, relative to the root.
func files(t *testing.T, suffixes ...string) []string {
	t.Helper()
	out, err := exec.Command("git", "-C", root, "ls-files").Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	var list []string
	for _, f := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		for _, s := range suffixes {
			if strings.HasSuffix(f, s) {
				list = append(list, f)
				break
			}
		}
	}
	return list
}

func read(t *testing.T, f string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, f))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const module = "github.com/np-appliance/np/"

// TestGoImports holds the direction of Go dependencies.
func TestGoImports(t *testing.T) {
	rules := []struct {
		from    string // folder prefix the rule is about
		forbid  []string
		because string
	}{
		{"ctrl/", []string{module + "dataplane/npc", module + "dataplane/fake"}, "ctrl knows the Plane interface only; cmd/npd picks the implementation"},
		{"dataplane/", []string{module + "ctrl"}, "the data plane does not know the control plane"},
		{"ctrl/config/", []string{"net", "os", "time.Now"}, "configuration is bytes in, value out"},
		{"ctrl/handshake/", []string{"net", "os"}, "the handshake does no I/O"},
		{"", []string{module + "cmd/", module + "perf", module + "scripts"}, "nothing imports cmd, perf or scripts"},
		{"", []string{"unsafe"}, "unsafe stays in dataplane/npc"},
	}
	for _, f := range files(t, ".go") {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, f), nil, parser.ImportsOnly)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, imp := range file.Imports {
			path, _ := strconv.Unquote(imp.Path.Value)
			if path == "C" && !strings.HasPrefix(f, "dataplane/npc/") {
				t.Errorf("%s: import \"C\" belongs in dataplane/npc alone", f)
			}
			for _, r := range rules {
				if !strings.HasPrefix(f, r.from) || strings.HasSuffix(f, "_test.go") {
					continue
				}
				for _, bad := range r.forbid {
					// A blank import is for go:linkname and gives nobody a pointer.
					if bad == "unsafe" && (strings.HasPrefix(f, "dataplane/npc/") || imp.Name != nil && imp.Name.Name == "_") {
						continue
					}
					if path == bad || (strings.HasPrefix(bad, module) && strings.HasPrefix(path, bad)) {
						t.Errorf("%s imports %s: %s", f, path, r.because)
					}
				}
			}
		}
	}
}

// TestNoClockInPureGo keeps time an argument where determinism needs it.
func TestNoClockInPureGo(t *testing.T) {
	for _, f := range files(t, ".go") {
		if strings.HasSuffix(f, "_test.go") || !(strings.HasPrefix(f, "ctrl/config/") || strings.HasPrefix(f, "ctrl/handshake/")) {
			continue
		}
		if strings.Contains(read(t, f), "time.Now(") {
			t.Errorf("%s calls time.Now: take the time as an argument", f)
		}
	}
}

// TestCIncludes holds the direction of C dependencies.
func TestCIncludes(t *testing.T) {
	// each folder may include itself, what is listed, np/*.h and system headers
	may := map[string][]string{
		"base":     {},
		"wire":     {"base"},
		"ip":       {"base", "wire"},
		"tcp":      {"base", "wire"},
		"codec":    {"base"},
		"crypto":   {"base"},
		"session":  {"base", "codec", "crypto"},
		"io/afxdp": {"base"},
		"io/dpdk":  {"base"},
		"io/sim":   {"base"},
		"io/raw":   {"base"},
		"io/rdma":  {"base"},
		"io/sock":  {"base"},
		"io/uring": {"base", "io/sock"},
		"core":     {"base", "wire", "ip", "tcp", "codec", "crypto", "session", "io/afxdp", "io/raw", "io/rdma", "io/sock", "io/uring", "io/dpdk"},
	}
	pure := map[string]bool{"base": true, "wire": true, "ip": true, "tcp": true, "codec": true}
	libc := map[string]bool{"stdint.h": true, "stddef.h": true, "stdbool.h": true, "string.h": true, "stdatomic.h": true, "limits.h": true, "immintrin.h": true}
	inc := regexp.MustCompile(`(?m)^\s*#\s*include\s+([<"])([^>"]+)[>"]`)
	for _, f := range files(t, ".c", ".h") {
		rel, ok := strings.CutPrefix(f, "csrc/")
		if !ok || strings.HasPrefix(rel, "test/") || strings.HasPrefix(rel, "include/") || strings.HasPrefix(rel, "bpf/") {
			continue
		}
		folder := filepath.Dir(rel)
		allowed, known := may[folder]
		if !known {
			t.Errorf("%s: folder %s has no line in the include rules of scripts/lint", f, folder)
			continue
		}
		for _, m := range inc.FindAllStringSubmatch(read(t, f), -1) {
			h := m[2]
			if m[1] == "<" {
				lib := folder == "codec" && (strings.HasPrefix(h, "lz4") || strings.HasPrefix(h, "zstd"))
				if pure[folder] && !libc[h] && !lib {
					t.Errorf("%s includes <%s>: %s makes no system call and allocates nothing", f, h, folder)
				}
				continue
			}
			dir := filepath.Dir(h)
			if dir == "np" || dir == folder || dir == "." {
				continue
			}
			good := false
			for _, a := range allowed {
				good = good || a == dir
			}
			if !good {
				t.Errorf("%s includes %q: %s may know %v", f, h, folder, allowed)
			}
		}
	}
}

// TestPureObjects looks at what the pure folders' objects call.
func TestPureObjects(t *testing.T) {
	ok := regexp.MustCompile(`^(np_\w+|mem(cpy|move|set|cmp)|__stack_chk_fail|_GLOBAL_OFFSET_TABLE_|__mem(cpy|move|set)_chk)$`)
	codec := regexp.MustCompile(`^(LZ4_|ZSTD_)\w+$`)
	for _, folder := range []string{"base", "wire", "ip", "tcp", "codec"} {
		objs, _ := filepath.Glob(filepath.Join(root, "build/release/csrc", folder, "*.o"))
		if len(objs) == 0 {
			t.Errorf("csrc/%s: no objects in build/release; run make lib", folder)
		}
		for _, o := range objs {
			out, err := exec.Command("nm", "-u", o).Output()
			if err != nil {
				t.Fatalf("nm %s: %v", o, err)
			}
			for _, line := range strings.Split(string(out), "\n") {
				sym := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "U "))
				if sym == "" || ok.MatchString(sym) || folder == "codec" && codec.MatchString(sym) {
					continue
				}
				t.Errorf("%s calls %s: csrc/%s makes no system call, allocates nothing, reads no clock", filepath.Base(o), sym, folder)
			}
		}
	}
}

// TestNoMutableGlobals finds writable data in the library's objects.
func TestNoMutableGlobals(t *testing.T) {
	var objs []string
	for _, g := range []string{"build/release/csrc/*/*.o", "build/release/csrc/io/*/*.o"} {
		m, _ := filepath.Glob(filepath.Join(root, g))
		objs = append(objs, m...)
	}
	if len(objs) == 0 {
		t.Fatal("no objects in build/release; run make lib")
	}
	for _, o := range objs {
		out, err := exec.Command("nm", o).Output()
		if err != nil {
			t.Fatalf("nm %s: %v", o, err)
		}
		for _, line := range strings.Split(string(out), "\n") {
			f := strings.Fields(line)
			// d, D: writable data; b, B, C: zeroed. Relocated constant tables live in .data.rel.ro
			// and show as d too: those are const, so objdump decides.
			if len(f) == 3 && strings.ContainsAny(f[1], "BbC") {
				t.Errorf("%s: %s is mutable at file scope: put it into a structure that is passed", o, f[2])
			}
			if len(f) == 3 && strings.ContainsAny(f[1], "dD") {
				sec, _ := exec.Command("sh", "-c", "objdump -t "+o+" | awk -v s="+f[2]+" '$NF==s{print $0}'").Output()
				if !bytes.Contains(sec, []byte(".data.rel.ro")) {
					t.Errorf("%s: %s is mutable at file scope: put it into a structure that is passed", o, f[2])
				}
			}
		}
	}
}

// exceptions may only shrink: file (or file:function) to its present size.
var longFiles = map[string]int{}
var longFuncs = map[string]int{}

// TestSizes holds files within 1,000 lines and C functions within 70.
func TestSizes(t *testing.T) {
	fn := regexp.MustCompile(`^[A-Za-z_].*\)\s*\{\s*$`)
	name := regexp.MustCompile(`([A-Za-z_0-9]+)\s*\(`)
	for _, f := range files(t, ".c", ".h", ".go") {
		if strings.Contains(f, "zz_") {
			continue
		}
		lines := strings.Split(read(t, f), "\n")
		if max, listed := longFiles[f]; len(lines) > 1001 && (!listed || len(lines) > max) {
			t.Errorf("%s: %d lines; the limit is 1,000: split it by concern", f, len(lines))
		}
		if strings.HasSuffix(f, ".go") || strings.HasPrefix(f, "csrc/test/") || strings.HasPrefix(f, "perf/") {
			continue
		}
		start, at := -1, ""
		for i, l := range lines {
			if start < 0 && fn.MatchString(l) {
				start = i
				if m := name.FindStringSubmatch(l); m != nil {
					at = m[1]
				}
			}
			if start >= 0 && l == "}" {
				if n := i - start + 1; n > 70 && n > longFuncs[f+":"+at] {
					t.Errorf("%s:%d: %s has %d lines; the limit is 70", f, start+1, at, n)
				}
				start = -1
			}
		}
	}
}

// TestWords finds what has no place in the repository: paths of one machine,
// registry hosts, unfinished marks.
func TestWords(t *testing.T) {
	bad := regexp.MustCompile(`(^|[\s"'=:(])/(root|home|work|srv)/|(proxy\.golang|registry\.npmjs|deb\.debian)\.org|\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)
	for _, f := range files(t, "") {
		if f == "go.sum" || strings.HasPrefix(f, ".ci/") || strings.HasPrefix(f, "scripts/lint/") || strings.Contains(f, "/corpus/") || strings.Contains(f, "testdata/") || strings.HasSuffix(f, ".o") {
			continue
		}
		for i, l := range strings.Split(read(t, f), "\n") {
			if m := bad.FindString(l); m != "" {
				t.Errorf("%s:%d: %q does not belong in the repository", f, i+1, m)
			}
		}
	}
}

// TestFolders wants each folder with code to say what it is for.
func TestFolders(t *testing.T) {
	dirs := map[string]bool{}
	for _, f := range files(t, ".go", ".c", ".h") {
		d := filepath.Dir(f)
		if strings.HasPrefix(d, "cmd/") || strings.Contains(d, "testdata") || strings.Contains(d, "/corpus") {
			continue
		}
		dirs[d] = true
	}
	for d := range dirs {
		if _, err := os.Stat(filepath.Join(root, d, "README.md")); err == nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(root, d, "doc.go")); err == nil {
			continue
		}
		main := false
		for _, f := range files(t, ".go") {
			if filepath.Dir(f) == d && strings.Contains(read(t, f), "\npackage main") {
				main = true // a command's package comment says it
			}
		}
		if !main {
			t.Errorf("%s has neither README.md nor doc.go: say what it is for, whose thread runs it, what it must not know", d)
		}
	}
}

// TestGenerated runs the generators and wants no difference.
func TestGenerated(t *testing.T) {
	before := map[string]string{}
	for _, f := range files(t, ".go") {
		if strings.Contains(f, "zz_") {
			before[f] = read(t, f)
		}
	}
	cmd := exec.Command("go", "run", "./scripts/gen")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go run ./scripts/gen: %v\n%s", err, out)
	}
	for f, was := range before {
		if read(t, f) != was {
			t.Errorf("%s differed from its table: it is written again, commit it", f)
		}
	}
}

// TestTools runs gofmt, go vet, staticcheck and shellcheck.
func TestTools(t *testing.T) {
	run := func(name string, arg ...string) {
		t.Helper()
		cmd := exec.Command(name, arg...)
		cmd.Dir = root
		out, err := cmd.CombinedOutput()
		if err != nil || (name == "gofmt" && len(bytes.TrimSpace(out)) > 0) {
			t.Errorf("%s %s: %v\n%s", name, strings.Join(arg[:min(len(arg), 3)], " "), err, out)
		}
	}
	run("gofmt", append([]string{"-l"}, files(t, ".go")...)...)
	run("go", "vet", "./...")
	run("go", "tool", "staticcheck", "./...")
	run("shellcheck", append([]string{"-S", "warning"}, append(files(t, ".sh"), ".ci/run")...)...)
}
