package upstream

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestSourcesRun follows a file through bad and good states: each error is told once, each
// good list comes within a period.
func TestSourcesRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "endpoints")
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t, Config{}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var told []string
		done := make(chan error, 2)
		f := &File{Path: path, Every: time.Second}
		go func() { done <- f.Run(ctx, u.Set, func(err error) { told = append(told, err.Error()) }) }()
		for i, step := range []struct {
			text      string
			endpoints int
			told      int
		}{{"", 0, 1}, {"a:1\nb:1\n", 2, 1}, {"a:1 what\n", 2, 2}, {"a:1\n", 1, 2}, {"a:1 what\n", 1, 3}} {
			if step.text != "" {
				if err := os.WriteFile(path, []byte(step.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(3500 * time.Millisecond)
			synctest.Wait()
			if n := len(u.Snapshot().Endpoints); n != step.endpoints || len(told) != step.told {
				t.Errorf("step %d: %d endpoints, want %d; told %q", i, n, step.endpoints, told)
			}
		}
		v := newUpstream(t, Config{}, nil)
		go func() { done <- Static(specs(3, nil)).Run(ctx, v.Set, nil) }()
		synctest.Wait()
		if n := len(v.Snapshot().Endpoints); n != 3 {
			t.Errorf("%d endpoints of a static list", n)
		}
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if err := (Static{{Address: "x"}}).Run(t.Context(), v.Set, nil); err == nil {
			t.Error("a wrong static list was taken")
		}
	})
}

// TestNoFile: what is no file of endpoints is refused at once and bounded.
func TestNoFile(t *testing.T) {
	dir := t.TempDir()
	fifo, large := filepath.Join(dir, "fifo"), filepath.Join(dir, "large")
	if err := errors.Join(syscall.Mkfifo(fifo, 0o600), os.WriteFile(large, bytes.Repeat([]byte("#"), maxFile+1), 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{fifo: "not a regular file", "/dev/zero": "not a regular file", dir: "not a regular file", large: "more than", filepath.Join(dir, "none"): "no such file"} {
		f := &File{Path: path}
		for range 2 {
			if ok, err := f.Poll(func([]Spec) error { t.Error("applied"); return nil }); ok || err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", path, err, want)
			}
		}
	}
}

// TestFileOfTheSameSizeAndTime: within two seconds a file's time does not tell changes.
func TestFileOfTheSameSizeAndTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "endpoints")
	u := newUpstream(t, Config{}, nil)
	f := &File{Path: path}
	now := time.Now()
	for _, text := range []string{"a:1\n", "b:1\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now, now); err != nil {
			t.Fatal(err)
		}
		if ok, err := f.Poll(u.Set); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if a := u.Snapshot().Endpoints[0].Address; a != "b:1" {
		t.Error(a)
	}
}
