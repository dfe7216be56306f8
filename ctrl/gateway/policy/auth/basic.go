package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/singleflight"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/policy/internal/cache"
)

// BasicConfig is a file of names and passwords (RFC 7617).
type BasicConfig struct {
	Name        string
	Realm       string // "": Name
	File        string
	Concurrency int           // passwords checked at a time; 0: 2. Each takes the memory that its hash asks for.
	Wait        time.Duration // for one's turn; 0: 2 s
	Remember    time.Duration // a good password; 0: 5 min
	CacheSize   int           // 0: 4096
	Rand        io.Reader     // of the cache's key
	Now         func() time.Time
}

// forget is how long a wrong password is remembered: so that a client that keeps sending it
// keeps nobody else waiting.
const forget = 10 * time.Second

// maxPassword bounds what is hashed.
const maxPassword = 1024

// Basic checks names and passwords.
type Basic struct {
	cfg BasicConfig
	counters
	file   *file
	key    [32]byte
	users  atomic.Pointer[userTable]
	cache  *cache.Cache[*user] // nil: not good
	flight singleflight.Group
	slots  chan struct{}
}

// userTable is one state of the file.
type userTable struct {
	gen    uint64
	byName map[string]*user
	names  []string // sorted
}

// NewBasic reads the file and makes a provider. Run follows changes of the file.
func NewBasic(cfg BasicConfig) (*Basic, error) {
	setDefault(&cfg.Realm, cfg.Name)
	setDefault(&cfg.Concurrency, 2)
	setDefault(&cfg.Wait, 2*time.Second)
	setDefault(&cfg.Remember, 5*time.Minute)
	setDefault(&cfg.CacheSize, 4096)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := checkRealm(cfg.Realm); err != nil {
		return nil, err
	}
	if cfg.Concurrency < 1 || cfg.Wait < 0 || cfg.Remember < 0 || cfg.CacheSize < 0 {
		return nil, errors.New("concurrency, wait, remember and cache size are expected to be positive")
	}
	b := &Basic{cfg: cfg, cache: cache.New[*user](cfg.CacheSize), slots: make(chan struct{}, cfg.Concurrency)}
	if _, err := io.ReadFull(cfg.Rand, b.key[:]); err != nil {
		return nil, fmt.Errorf("random key: %w", err)
	}
	b.file = &file{path: cfg.File, secret: true, now: cfg.Now, load: b.load}
	if err := b.file.Reload(); err != nil {
		return nil, err
	}
	return b, nil
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

func (b *Basic) load(text []byte) (func(), error) {
	users, err := parseUsers(text)
	if err != nil {
		return nil, err
	}
	t := &userTable{byName: users, names: slices.Sorted(maps.Keys(users))}
	return func() {
		if old := b.users.Load(); old != nil {
			t.gen = old.gen + 1
		}
		b.users.Store(t)
		b.cache.Clear()
	}, nil
}

// Name implements Provider.
func (b *Basic) Name() string { return b.cfg.Name }

// Run follows the file until ctx ends.
func (b *Basic) Run(ctx context.Context) { b.file.Run(ctx) }

// Reload implements Reloader.
func (b *Basic) Reload() error { return b.file.Reload() }

// Verify implements Reloader.
func (b *Basic) Verify() error { return b.file.Verify() }

// Challenge implements Provider.
func (b *Basic) Challenge(error) string {
	return `Basic realm="` + b.cfg.Realm + `", charset="UTF-8"`
}

// Strip implements Provider.
func (b *Basic) Strip(r *http.Request) {
	Source{Header: "Authorization", Scheme: "Basic"}.strip(r)
}

// Stats implements Provider.
func (b *Basic) Stats() Stats {
	s := b.stats(b.cfg.Name, "basic")
	s.Cache, s.Entries = b.cache.Stats(), len(b.users.Load().names)
	s.Loaded, s.LastError = b.file.state()
	return s
}

// Authenticate implements Provider.
func (b *Basic) Authenticate(r *http.Request) (*exchange.Identity, error) {
	id, err := b.authenticate(r)
	b.count(err)
	return id, err
}

func (b *Basic) authenticate(r *http.Request) (*exchange.Identity, error) {
	lines := r.Header["Authorization"]
	if !slices.ContainsFunc(lines, func(v string) bool { return len(v) >= 6 && strings.EqualFold(v[:6], "Basic ") }) {
		return nil, ErrNone
	}
	name, password, ok := r.BasicAuth()
	if len(lines) > 1 || !ok || len(name) > maxName || len(password) > maxPassword || !utf8.ValidString(name) {
		return nil, &Denied{Code: InvalidRequest, Public: "the Authorization field is not one of the Basic scheme"}
	}
	u, err := b.check(r.Context(), name, password)
	switch {
	case err != nil:
		return nil, &Unavailable{err}
	case u == nil:
		return nil, deny("the name or the password is wrong", fmt.Errorf("user %q", name))
	}
	return &exchange.Identity{Provider: b.cfg.Name, Subject: u.name, Groups: u.groups}, nil
}

// check returns the user if the password is theirs, else nil.
func (b *Basic) check(ctx context.Context, name, password string) (*user, error) {
	t := b.users.Load()
	key := b.keyOf(t.gen, name, password)
	if u, ok := b.cache.Get(key, b.cfg.Now()); ok {
		return u, nil
	}
	// the same pair is checked once for all that wait for it; nobody's going ends that
	done := b.flight.DoChan(string(key[:]), func() (any, error) {
		u, err := b.slow(t, name, password)
		if err == nil {
			now := b.cfg.Now()
			keep := b.cfg.Remember
			if u == nil {
				keep = min(forget, keep)
			}
			b.cache.Put(key, u, now, now.Add(keep))
		}
		return u, err
	})
	select {
	case res := <-done:
		u, _ := res.Val.(*user)
		return u, res.Err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (b *Basic) keyOf(gen uint64, name, password string) (k cache.Key) {
	h := hmac.New(sha256.New, b.key[:])
	var head [16]byte
	binary.LittleEndian.PutUint64(head[:], gen)
	binary.LittleEndian.PutUint64(head[8:], uint64(len(name)))
	h.Write(head[:])
	_, _ = io.WriteString(h, name)
	_, _ = io.WriteString(h, password)
	h.Sum(k[:0])
	return k
}

// slow waits its turn and hashes. For a name that is not in the file it hashes with the hash
// of somebody who is: always the same one for a name, so that asking twice tells nothing.
func (b *Basic) slow(t *userTable, name, password string) (*user, error) {
	timer := time.NewTimer(b.cfg.Wait)
	defer timer.Stop()
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-timer.C:
		return nil, errors.New("too many passwords are being checked")
	}
	u, known := t.byName[name]
	if !known {
		k := b.keyOf(0, name, "")
		u = t.byName[t.names[binary.LittleEndian.Uint64(k[:])%uint64(len(t.names))]]
	}
	if !u.hash.matches([]byte(password)) || !known {
		return nil, nil
	}
	return u, nil
}
