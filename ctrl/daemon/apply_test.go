package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/mgmt/client"
)

const applyBase = `
[dataplane]
cores = 1
[[interface]]
name = "np0"
addresses = ["198.18.0.1/24"]
[[listener]]
name = "echo"
address = ":7"
protocol = "echo"
`

// applyWorld is a daemon with a file of its own.
func applyWorld(t *testing.T, text string) *world {
	w := newWorld(t, "")
	w.path = filepath.Join(w.dir, "np.toml")
	if err := os.WriteFile(w.path, []byte(text), 0o604); err != nil {
		t.Fatal(err)
	}
	w.start()
	return w
}

func (w *world) post(path string, in any) (v api.ConfigApplied, err error) {
	err = w.cl.Post(w.t.Context(), path, in, &v)
	return v, err
}

func (w *world) file() string {
	data, err := os.ReadFile(w.path)
	if err != nil {
		w.t.Error(err)
	}
	return string(data)
}

func kindOf(err error) string {
	var e *client.APIError
	if errors.As(err, &e) {
		return e.Kind
	}
	return fmt.Sprint(err)
}

func (w *world) listenerNames() (names []string) {
	for _, l := range get[api.Listeners](w, api.PathListeners, nil).Listeners {
		names = append(names, l.Name)
	}
	slices.Sort(names)
	return names
}

func TestApply(t *testing.T) {
	w := applyWorld(t, applyBase)
	defer w.end(syscall.SIGTERM)
	second := applyBase + "[[listener]]\nname = \"discard\"\naddress = \":9\"\nprotocol = \"discard\"\n"
	var diff api.ConfigDiff
	if err := w.cl.Post(t.Context(), api.PathConfigDiff, api.ConfigCandidate{Name: "x", Content: second}, &diff); err != nil || len(diff.Changes) != 4 || diff.Restart || diff.Changes[0].Key != "listener[discard].name" {
		t.Fatalf("diff %+v, %v", diff, err)
	}
	if err := w.cl.Post(t.Context(), api.PathConfigDiff, nil, &diff); err != nil || len(diff.Changes) != 0 {
		t.Errorf("diff with the file: %+v, %v", diff, err)
	}
	got, err := w.post(api.PathConfigApply, api.ConfigCandidate{Name: "x.toml", Content: second})
	if err != nil || got.Saved != w.path || got.Number != 2 || len(got.Changes) != 4 || len(got.Warnings) != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if info, err := os.Stat(w.path); err != nil || w.file() != second || info.Mode().Perm() != 0o604 {
		t.Errorf("saved as %v, %v:\n%s", info.Mode(), err, w.file())
	}
	if got := w.listenerNames(); !slices.Equal(got, []string{"discard", "echo"}) {
		t.Errorf("listeners %v", got)
	}

	// Nothing is changed by what is not good, needs a restart or can't be done.
	for _, bad := range []struct{ text, kind, want string }{
		{"[tcp]\nsck = true\n" + second, api.KindInvalid, `bad.toml:2:1: unknown key "sck"`},
		{strings.Replace(second, "cores = 1", "cores = 2", 1), api.KindConflict, "a restart is needed for dataplane.cores"},
		{"", api.KindUsage, "content is missing"},
	} {
		_, err := w.post(api.PathConfigApply, api.ConfigCandidate{Name: "bad.toml", Content: bad.text})
		if kindOf(err) != bad.kind || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%v, want %s: %s", err, bad.kind, bad.want)
		}
	}
	if w.file() != second || len(w.listenerNames()) != 2 {
		t.Errorf("changed by what was refused:\n%s", w.file())
	}
	if left, _ := filepath.Glob(filepath.Join(w.dir, ".np.toml*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	// Until the files are read again.
	got, err = w.post(api.PathConfigApply, api.ConfigCandidate{Name: "-", Content: applyBase, Temporary: true})
	if err != nil || got.Saved != "" || w.file() != second || len(w.listenerNames()) != 1 {
		t.Errorf("temporary: %+v, %v", got, err)
	}
	w.signals <- syscall.SIGHUP
	w.eventually("reloaded", func() bool { return len(w.listenerNames()) == 2 })
}

func TestRollback(t *testing.T) {
	w := applyWorld(t, applyBase)
	defer w.end(syscall.SIGTERM)
	_, err := w.post(api.PathConfigRollback, api.ConfigRollback{})
	if kindOf(err) != api.KindNotFound {
		t.Errorf("nothing to go back to: %v", err)
	}
	text := func(n int) string {
		return applyBase + fmt.Sprintf("[[listener]]\nname = \"n%d\"\naddress = \":%d\"\nprotocol = \"discard\"\n", n, 100+n)
	}
	for n := range 3 {
		if _, err := w.post(api.PathConfigApply, api.ConfigCandidate{Name: "x", Content: text(n)}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := w.post(api.PathConfigRollback, api.ConfigRollback{})
	if err != nil || got.From != 3 || got.Number != 5 || w.file() != text(1) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = w.post(api.PathConfigRollback, api.ConfigRollback{Number: 1}); err != nil || got.From != 1 || w.file() != applyBase || len(w.listenerNames()) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = w.post(api.PathConfigRollback, api.ConfigRollback{Number: 99})
	if kindOf(err) != api.KindNotFound || !strings.Contains(err.Error(), "configuration 99 is not kept") {
		t.Error(err)
	}
	list := get[api.ConfigHistory](w, api.PathConfigHistory, nil).Entries
	var reasons []string
	for _, e := range list {
		reasons = append(reasons, fmt.Sprintf("%d %s %v", e.Number, e.Reason, e.InForce))
	}
	if want := []string{"6 rollback true", "5 rollback false", "4 apply false", "3 apply false", "2 apply false", "1 start false"}; !slices.Equal(reasons, want) {
		t.Errorf("%q", reasons)
	}
	var diff api.ConfigDiff
	if err := w.cl.Post(t.Context(), api.PathConfigDiff, api.ConfigCandidate{Number: 4}, &diff); err != nil || len(diff.Changes) != 4 {
		t.Errorf("%+v, %v", diff, err)
	}
	if err := w.ro.Post(t.Context(), api.PathConfigApply, api.ConfigCandidate{Name: "x", Content: applyBase}, &diff); kindOf(err) != api.KindPermission {
		t.Error(err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	h := &history{dir: filepath.Join(t.TempDir(), "a", "config"), max: 3}
	for n := range 10 {
		if got, err := h.add([]byte{byte(n)}, "apply", time.Unix(int64(n), 0)); err != nil || got != n+1 {
			t.Fatalf("%d, %v", got, err)
		}
	}
	if got, err := h.add([]byte{9}, "reload", time.Unix(99, 0)); err != nil || got != 10 {
		t.Errorf("the same again: %d, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(h.dir, "README"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := h.list()
	if err != nil || len(list) != 3 || list[0].number != 8 || !list[2].at.Equal(time.Unix(9, 0)) {
		t.Errorf("%+v, %v", list, err)
	}
	info, err := os.Stat(list[0].path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := (&history{dir: h.dir}).add([]byte{1}, "apply", time.Time{}); err != nil {
		t.Error(err)
	}
	if _, err := (&history{dir: list[0].path, max: 1}).add([]byte{1}, "apply", time.Time{}); err == nil {
		t.Error("kept in a file")
	}
}
