//go:build lint

package lint

import (
	"path"
	"regexp"
	"strings"
	"testing"
)

var (
	quoted    = regexp.MustCompile("`([^`]+)`")
	testLike  = regexp.MustCompile(`^([A-Za-z]+\.)?(test_[a-z0-9_*]+(\.c)?|fuzz_[a-z0-9_]+(\.c)?|[a-z0-9_*-]+\.pkt|Test[A-Za-z0-9]+)$`)
	cFunction = regexp.MustCompile(`(?m)^static void (test_[a-z0-9_]+)\(`)
	goTest    = regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]+)\(`)
)

// TestLedgers: each line of a ledger of RFCs names a test, and each test that is
// named exists. A line whose last cell says "none" and why is left alone, as is
// one whose status is "later" or "no".
func TestLedgers(t *testing.T) {
	names := tests(t)
	for _, f := range []string{"csrc/tcp/README.md", "csrc/ip/README.md"} {
		inTable := false
		for i, line := range strings.Split(read(t, f), "\n") {
			cells := strings.Split(strings.Trim(line, "| "), "|")
			switch {
			case !strings.HasPrefix(line, "|"):
				inTable = false
				continue
			case strings.HasPrefix(strings.TrimSpace(cells[len(cells)-1]), "test"):
				inTable = true
				continue
			case !inTable || strings.HasPrefix(line, "|--"):
				continue
			}
			full := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|"), "|")
			last, status := full[len(full)-1], strings.TrimSpace(full[max(len(full)-2, 0)])
			found := 0
			for _, m := range quoted.FindAllStringSubmatch(last, -1) {
				if !testLike.MatchString(m[1]) {
					continue
				}
				if found++; !known(names, m[1]) {
					t.Errorf("%s:%d: there is no test %s", f, i+1, m[1])
				}
			}
			exempt := strings.Contains(last, "none") || regexp.MustCompile(`^(later|no\b|no:)`).MatchString(status)
			if found == 0 && !exempt {
				t.Errorf("%s:%d: names no test: %.100s", f, i+1, line)
			}
		}
	}
}

// tests lists every name a ledger may use: C test functions and programs, fuzz
// targets, packet scripts, Go tests.
func tests(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, f := range files(t, ".c", ".pkt", "_test.go") {
		base := path.Base(f)
		names[base], names[strings.TrimSuffix(base, ".c")] = true, true
		switch {
		case strings.HasSuffix(f, "_test.go"):
			for _, m := range goTest.FindAllStringSubmatch(read(t, f), -1) {
				names[m[1]] = true
			}
		case strings.HasPrefix(f, "csrc/test/") || strings.HasPrefix(f, "scripts/"):
			for _, m := range cFunction.FindAllStringSubmatch(read(t, f), -1) {
				names[m[1]] = true
			}
		}
	}
	return names
}

// known also takes a pattern with a star, and a Go test with its package.
func known(names map[string]bool, name string) bool {
	if at := strings.LastIndex(name, ".Test"); at >= 0 {
		name = name[at+1:]
	}
	if names[name] {
		return true
	}
	if !strings.Contains(name, "*") {
		return false
	}
	for n := range names {
		if ok, _ := path.Match(name, n); ok {
			return true
		}
	}
	return false
}
