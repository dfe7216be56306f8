package discovery

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/upstream"
)

// said is a source that gives the lists it is told to.
type said chan []upstream.Spec

func (s said) Run(ctx context.Context, apply func([]upstream.Spec) error, _ func(error)) error {
	for {
		select {
		case l := <-s:
			if err := apply(l); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// keptRun runs a source behind a file until the returned function is called.
func keptRun(t *testing.T, cfg Keeping) (k *Kept, say said, end func() []error) {
	say = said(make(chan []upstream.Spec))
	k = Keep(say, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var errs []error
	done := make(chan error, 1)
	go func() {
		done <- k.Run(ctx, func([]upstream.Spec) error { return nil }, func(err error) { errs = append(errs, err) })
	}()
	return k, say, func() []error {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		return errs
	}
}

func TestKeep(t *testing.T) {
	now := time.Now()
	cfg := Keeping{Path: filepath.Join(t.TempDir(), "a", "u.json"), Name: "dns:///a:1", MaxAge: time.Hour}
	if list, at, err := Keep(nil, cfg).Last(); list != nil || !at.IsZero() || err != nil {
		t.Errorf("no file: %v %v %v", list, at, err)
	}
	want := []upstream.Spec{{Address: "198.18.0.1:80", Weight: 3, Priority: 1, Locality: "here", Drain: true}, {Address: "unix:/s", Disabled: true}}
	k, say, end := keptRun(t, cfg)
	if k.Live() {
		t.Error("it has answered")
	}
	say <- want[:1]
	say <- want // within the pause: written at the end
	if !k.Live() {
		t.Error("it has not answered")
	}
	if errs := end(); errs != nil {
		t.Error(errs)
	}
	list, at, err := Keep(nil, cfg).Last()
	if err != nil || !slices.Equal(list, want) || at.Before(now.Add(-time.Second)) || at.After(time.Now()) {
		t.Errorf("%+v %v %v", list, at, err)
	}
	if info, err := os.Stat(cfg.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	other := cfg
	other.Name = "dns:///b:1"
	if list, _, err := Keep(nil, other).Last(); list != nil || err != nil {
		t.Errorf("another source's: %v %v", list, err)
	}
	late := cfg
	late.Clock = shifted{time.Hour + time.Minute}
	if list, _, err := Keep(nil, late).Last(); list != nil || err != nil {
		t.Errorf("one that is too old: %v %v", list, err)
	}
	// The source never answered: what there was stays.
	_, _, end = keptRun(t, cfg)
	end()
	if list, _, err := Keep(nil, cfg).Last(); err != nil || len(list) != 2 {
		t.Errorf("after a run without an answer: %v %v", list, err)
	}
}

// shifted is the system's clock, later.
type shifted struct{ by time.Duration }

func (s shifted) Now() time.Time { return time.Now().Add(s.by) }
func (s shifted) Timer(d time.Duration) (<-chan time.Time, func()) {
	return upstream.SystemClock{}.Timer(d)
}

// TestKeepCannot: what can't be written is told, and what can't be read is no list.
func TestKeepCannot(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, say, end := keptRun(t, Keeping{Path: filepath.Join(file, "u.json"), Name: "n", MaxAge: time.Hour})
	say <- []upstream.Spec{{Address: "198.18.0.1:80"}}
	if errs := end(); len(errs) != 1 || !strings.Contains(errs[0].Error(), "not kept for the next start") {
		t.Errorf("%v", errs)
	}
	for name, one := range map[string]struct{ text, want string }{
		"no JSON":      {"endpoints", "as npd writes it"},
		"bad address":  {`{"schema":"np/v1","source":"n","endpoints":[{"address":"nowhere"}]}`, "endpoint 1:"},
		"bad weight":   {`{"schema":"np/v1","source":"n","endpoints":[{"address":"a:1","weight":-1}]}`, "endpoint 1:"},
		"too long":     {strings.Repeat(" ", keepBytes+1), "more than"},
		"other schema": {`{"schema":"np/v2","source":"n","endpoints":[{"address":"a:1"}]}`, ""},
		"future":       {`{"schema":"np/v1","source":"n","good_at":"2999-01-01T00:00:00Z","endpoints":[{"address":"a:1"}]}`, ""},
		"no time":      {`{"schema":"np/v1","source":"n","endpoints":[{"address":"a:1"}]}`, ""},
	} {
		path := filepath.Join(dir, "u.json")
		if err := os.WriteFile(path, []byte(one.text), 0o600); err != nil {
			t.Fatal(err)
		}
		list, _, err := Keep(nil, Keeping{Path: path, Name: "n", MaxAge: time.Hour}).Last()
		if list != nil || (err == nil) != (one.want == "") || err != nil && !strings.Contains(err.Error(), one.want) {
			t.Errorf("%s: %v %v", name, list, err)
		}
	}
	if _, _, err := Keep(nil, Keeping{Path: dir, Name: "n"}).Last(); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder: %v", err)
	}
}

// FuzzKept: whatever is in the file, what is taken of it is a list that an upstream takes.
func FuzzKept(f *testing.F) {
	f.Add([]byte(`{"schema":"np/v1","source":"n","good_at":"2026-01-01T00:00:00Z","endpoints":[{"address":"198.18.0.1:80","weight":2,"priority":1,"locality":"x","drain":true}]}`))
	f.Add([]byte(`{"schema":"np/v1","source":"n","endpoints":[{"address":"unix:/a"},{"address":"unix:/a"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _, err := parseKept(b, "n")
		if err != nil || len(list) == 0 {
			return
		}
		u, err := upstream.New(upstream.Config{Name: "u"})
		if err == nil {
			err = u.Set(list)
		}
		if err != nil {
			t.Error(err)
		}
	})
}
