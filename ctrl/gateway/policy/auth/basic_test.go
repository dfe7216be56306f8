package auth

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

func bcryptLine(t testing.TB, name, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), minBcryptCost)
	if err != nil {
		t.Fatal(err)
	}
	return name + ":" + string(h)
}

func argonLine(name, password string) string {
	salt := []byte("0123456789abcdef")
	h := argon2.IDKey([]byte(password), salt, 1, 64, 1, 32)
	return fmt.Sprintf("%s:$argon2id$v=19$m=64,t=1,p=1$%s$%s", name, base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(h))
}

func writeFile(t testing.TB, mode os.FileMode, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func newBasic(t testing.TB, cfg BasicConfig) *Basic {
	t.Helper()
	cfg.Name, cfg.Rand = "users", rand.Reader
	b, err := NewBasic(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func basic(name, password string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.SetBasicAuth(name, password)
	return r
}

func TestBasic(t *testing.T) {
	clock := newClock()
	path := writeFile(t, 0o600, "# users", "", bcryptLine(t, "ann", "secret")+":staff, admins", argonLine("bob", "pass:word"), bcryptLine(t, "jürgen", "pä"))
	b := newBasic(t, BasicConfig{File: path, Now: clock.now})
	for _, one := range []struct {
		name, password string
		ok             bool
	}{{"ann", "secret", true}, {"ann", "Secret", false}, {"bob", "pass:word", true}, {"bob", "pass", false}, {"jürgen", "pä", true}, {"eve", "secret", false}, {"", "", false}, {"ann", "", false},
		{"ann", "secret" + strings.Repeat("x", 100), false}} {
		for range 2 { // computed, then remembered
			id, err := b.Authenticate(basic(one.name, one.password))
			if one.ok && (err != nil || id.Subject != one.name) {
				t.Errorf("%s: %v, %v", one.name, id, err)
			}
			if !one.ok {
				wantDenied(t, one.name, err)
			}
		}
	}
	id, _ := b.Authenticate(basic("ann", "secret"))
	if _, ok := id.Groups["admins"]; !ok || len(id.Groups) != 2 {
		t.Errorf("groups %v", id.Groups)
	}
	if s := b.Stats(); s.Entries != 3 || s.Cache.Hits != 10 || s.Cache.Misses != 9 {
		t.Errorf("%+v", s)
	}
	if c := b.Challenge(ErrNone); c != `Basic realm="users", charset="UTF-8"` {
		t.Error(c)
	}
}

func TestBasicMalformed(t *testing.T) {
	b := newBasic(t, BasicConfig{File: writeFile(t, 0o600, argonLine("ann", "x"))})
	for field, none := range map[string]bool{"": true, "Bearer x": true, "Basic": true, "Basic !": false, "Basic YQ==": false, "basic " + base64.StdEncoding.EncodeToString([]byte("ann:x")): false,
		"Basic " + base64.StdEncoding.EncodeToString([]byte("\xff\xfe:x")): false, "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:"+strings.Repeat("x", 5000))): false} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", field)
		_, err := b.Authenticate(r)
		if errors.Is(err, ErrNone) != none {
			t.Errorf("%.40q: %v", field, err)
		}
	}
	r := basic("ann", "x")
	r.Header.Add("Authorization", "Basic YTpi")
	_, err := b.Authenticate(r)
	wantDenied(t, "two fields", err)
}

func TestBasicReload(t *testing.T) {
	clock := newClock()
	path := writeFile(t, 0o600, argonLine("ann", "one"))
	b := newBasic(t, BasicConfig{File: path, Now: clock.now})
	if _, err := b.Authenticate(basic("ann", "one")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(argonLine("ann", "two")), 0o600); err != nil {
		t.Fatal(err)
	}
	b.file.check() // what Run does now and then
	_, err := b.Authenticate(basic("ann", "one"))
	wantDenied(t, "the old password, remembered", err)
	if _, err := b.Authenticate(basic("ann", "two")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("ann:plain"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Reload(); err == nil || !strings.Contains(err.Error(), path+":1: ") {
		t.Errorf("%v", err)
	}
	if _, err := b.Authenticate(basic("ann", "two")); err != nil {
		t.Errorf("after a file that is not good: %v", err)
	}
	if s := b.Stats(); s.LastError == "" {
		t.Errorf("%+v", s)
	}
	os.Remove(path)
	b.file.check()
	if _, err := b.Authenticate(basic("ann", "two")); err != nil {
		t.Errorf("after the file is gone: %v", err)
	}
}

// TestBasicMemory: a remembered password ends, and many are not remembered.
func TestBasicMemory(t *testing.T) {
	clock := newClock()
	b := newBasic(t, BasicConfig{File: writeFile(t, 0o600, argonLine("ann", "x")), Now: clock.now, CacheSize: 32, Remember: time.Minute})
	for n := range 500 {
		_, _ = b.Authenticate(basic("ann", fmt.Sprint(n)))
	}
	if s := b.Stats(); s.Cache.Entries > 32 {
		t.Errorf("%+v", s.Cache)
	}
	if _, err := b.Authenticate(basic("ann", "x")); err != nil {
		t.Fatal(err)
	}
	before := b.Stats().Cache.Hits
	clock.move(59 * time.Second)
	_, _ = b.Authenticate(basic("ann", "x"))
	clock.move(2 * time.Second)
	_, _ = b.Authenticate(basic("ann", "x"))
	if got := b.Stats().Cache.Hits - before; got != 1 {
		t.Errorf("%d hits, expected 1", got)
	}
}

// slowHash stands for one that takes long.
type slowHash struct {
	entered chan struct{}
	leave   chan struct{}
}

func (h slowHash) matches([]byte) bool { h.entered <- struct{}{}; <-h.leave; return true }

func TestBasicConcurrency(t *testing.T) {
	b := newBasic(t, BasicConfig{File: writeFile(t, 0o600, argonLine("ann", "x")), Concurrency: 1, Wait: 20 * time.Millisecond})
	h := slowHash{make(chan struct{}), make(chan struct{})}
	b.users.Store(&userTable{gen: 9, byName: map[string]*user{"ann": {name: "ann", hash: h}}, names: []string{"ann"}})
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		if _, err := b.Authenticate(basic("ann", "1").WithContext(ctx)); err == nil {
			t.Error("a request that is gone gets an identity")
		}
	})
	<-h.entered
	wg.Go(func() { // the same pair waits for the same hash
		if _, err := b.Authenticate(basic("ann", "1")); err != nil {
			t.Error(err)
		}
	})
	_, err := b.Authenticate(basic("ann", "2"))
	var u *Unavailable
	if !errors.As(err, &u) {
		t.Errorf("got %v, expected it unavailable", err)
	}
	cancel()
	h.leave <- struct{}{}
	// the second joined the first one's hash, or found it remembered: no second hash began
	wg.Wait()
}

func TestParseUsers(t *testing.T) {
	good := argonLine("ann", "x")
	for name, one := range map[string]struct{ text, want string }{
		"empty":      {"\n# none\n", "no user"},
		"no hash":    {"ann", "1: expected NAME:HASH"},
		"many parts": {good + ":a:b", "1: expected NAME:HASH"},
		"twice":      {good + "\n" + good, "2: user \"ann\" is there twice"},
		"MD5":        {"ann:$apr1$abc$def", "guessed too fast"},
		"SHA":        {"ann:{SHA}abc", "guessed too fast"},
		"plain":      {"ann:secret", "unknown kind"},
		"bcrypt":     {"ann:$2y$10$short", "not valid"},
		"cost":       {"ann:$2y$31$" + strings.Repeat("a", 53), "cost 31"},
		"argon2i":    {strings.Replace(good, "argon2id", "argon2i", 1), "unknown kind"},
		"version":    {strings.Replace(good, "v=19", "v=16", 1), "version 19"},
		"memory":     {strings.Replace(good, "m=64", "m=9999999", 1), "m=9999999"},
		"time":       {strings.Replace(good, "t=1", "t=0", 1), "t=0"},
		"params":     {strings.Replace(good, "t=1", "x=1", 1), "parameters"},
		"salt":       {strings.Replace(good, "$MDEy", "$!!!!", 1), "base64"},
		"name":       {" ann" + good[3:], "user"},
		"group":      {good + ":a,,b", "empty group"},
	} {
		if _, err := parseUsers([]byte(one.text)); err == nil || !strings.Contains(err.Error(), one.want) {
			t.Errorf("%s: got %v, expected %q", name, err, one.want)
		}
	}
}

func TestFileModes(t *testing.T) {
	if _, err := NewBasic(BasicConfig{Name: "x", Rand: rand.Reader, File: writeFile(t, 0o644, argonLine("a", "b"))}); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("a file that all may read: %v", err)
	}
	if _, err := NewBasic(BasicConfig{Name: "x", Rand: rand.Reader, File: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a folder: %v", err)
	}
	if _, err := NewBasic(BasicConfig{Name: "x", Rand: rand.Reader, File: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func FuzzParseUsers(f *testing.F) {
	f.Add([]byte(argonLine("ann", "x")))
	f.Add([]byte("# c\nann:$2y$08$abcdefghijklmnopqrstuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu:a,b\n"))
	f.Add([]byte("ann:$argon2id$v=19$m=64,t=1,p=1$$"))
	f.Fuzz(func(t *testing.T, b []byte) {
		users, err := parseUsers(b)
		if (err == nil) == (len(users) == 0) {
			t.Errorf("%d users, %v", len(users), err)
		}
		for name, u := range users {
			if a, ok := u.hash.(*argonHash); ok && (a.memoryKiB > maxArgonKiB || a.time > maxArgonTime || a.threads == 0) {
				t.Errorf("%s: %+v", name, a)
			}
		}
	})
}
