package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// APIKeysConfig is a file of keys:
//
//	[[key]]
//	name = "billing"
//	sha256 = "…"                      # printf %s "$KEY" | sha256sum
//	scopes = ["orders.read"]          # optional, as the rest
//	groups = ["services"]
//	expires = 2027-01-31T00:00:00Z
//	disabled = true
//
// Only hashes are kept, plain ones: a key has to be random, of 128 bits at least
// (openssl rand -hex 32), so that nothing is gained by guessing.
type APIKeysConfig struct {
	Name    string
	Realm   string // "": Name
	File    string
	Sources []Source // none: header X-API-Key
	Now     func() time.Time
}

type apiKey struct {
	Name     string    `toml:"name"`
	SHA256   string    `toml:"sha256"`
	Scopes   []string  `toml:"scopes"`
	Groups   []string  `toml:"groups"`
	Expires  time.Time `toml:"expires"`
	Disabled bool      `toml:"disabled"`

	identity *exchange.Identity
}

// maxKeys bounds a file's keys, maxKeyLen one that is shown.
const (
	maxKeys   = 100_000
	maxKeyLen = 4096
)

// APIKeys checks API keys.
type APIKeys struct {
	cfg APIKeysConfig
	counters
	file *file
	keys atomic.Pointer[map[[32]byte]*apiKey]
}

// NewAPIKeys reads the file and makes a provider. Run follows changes of the file.
func NewAPIKeys(cfg APIKeysConfig) (*APIKeys, error) {
	setDefault(&cfg.Realm, cfg.Name)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if len(cfg.Sources) == 0 {
		cfg.Sources = []Source{{Header: "X-API-Key"}}
	}
	err := checkRealm(cfg.Realm)
	for _, s := range cfg.Sources {
		err = errors.Join(err, s.check())
	}
	if err != nil {
		return nil, err
	}
	a := &APIKeys{cfg: cfg}
	a.file = &file{path: cfg.File, secret: true, now: cfg.Now, load: a.load}
	if err := a.file.Reload(); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *APIKeys) load(b []byte) (func(), error) {
	keys, err := parseAPIKeys(b, a.cfg.Name)
	return func() { a.keys.Store(&keys) }, err
}

// parseAPIKeys reads a file of keys. Errors begin with a line's number where there is one.
func parseAPIKeys(b []byte, provider string) (map[[32]byte]*apiKey, error) {
	var doc struct {
		Key []*apiKey `toml:"key"`
	}
	meta, err := toml.Decode(string(b), &doc)
	if err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return nil, fmt.Errorf("%d: %s", pe.Position.Line, pe.Message)
		}
		return nil, fmt.Errorf(" %w", err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf(" unknown key %s, expected [[key]] with name, sha256, scopes, groups, expires and disabled", unknown[0])
	}
	if len(doc.Key) == 0 || len(doc.Key) > maxKeys {
		return nil, fmt.Errorf(" %d keys, expected 1 to %d [[key]]", len(doc.Key), maxKeys)
	}
	out := make(map[[32]byte]*apiKey, len(doc.Key))
	names := map[string]bool{}
	for i, k := range doc.Key {
		raw, err := hex.DecodeString(strings.ToLower(k.SHA256))
		switch {
		case k.Name == "" || checkName(k.Name) != nil:
			return nil, fmt.Errorf(" key %d: name %q, expected one without control characters and blanks at the ends", i+1, k.Name)
		case names[k.Name]:
			return nil, fmt.Errorf(" key %q is there twice, expected once", k.Name)
		case err != nil || len(raw) != sha256.Size:
			return nil, fmt.Errorf(" key %q: sha256 %q, expected 64 hexadecimal digits, as of: printf %%s \"$KEY\" | sha256sum", k.Name, k.SHA256)
		case [32]byte(raw) == sha256.Sum256(nil):
			return nil, fmt.Errorf(" key %q: sha256 is that of nothing, expected that of a key", k.Name)
		}
		if other := out[[32]byte(raw)]; other != nil {
			return nil, fmt.Errorf(" keys %q and %q are the same key, expected two", other.Name, k.Name)
		}
		names[k.Name] = true
		k.identity = &exchange.Identity{Provider: provider, Subject: k.Name, Scopes: k.Scopes}
		if len(k.Groups) > 0 {
			k.identity.Groups = make(map[string]struct{}, len(k.Groups))
			for _, g := range k.Groups {
				k.identity.Groups[g] = struct{}{}
			}
		}
		out[[32]byte(raw)] = k
	}
	return out, nil
}

// Name implements Provider.
func (a *APIKeys) Name() string { return a.cfg.Name }

// Run follows the file until ctx ends.
func (a *APIKeys) Run(ctx context.Context) { a.file.Run(ctx) }

// Reload implements Reloader.
func (a *APIKeys) Reload() error { return a.file.Reload() }

// Verify implements Reloader.
func (a *APIKeys) Verify() error { return a.file.Verify() }

// Challenge implements Provider. The scheme is no registered one: there is none for keys.
func (a *APIKeys) Challenge(error) string { return `ApiKey realm="` + a.cfg.Realm + `"` }

// Strip implements Provider.
func (a *APIKeys) Strip(r *http.Request) {
	for _, s := range a.cfg.Sources {
		s.strip(r)
	}
}

// Stats implements Provider.
func (a *APIKeys) Stats() Stats {
	s := a.stats(a.cfg.Name, "api_key")
	s.Entries = len(*a.keys.Load())
	s.Loaded, s.LastError = a.file.state()
	return s
}

// Authenticate implements Provider.
func (a *APIKeys) Authenticate(r *http.Request) (*exchange.Identity, error) {
	id, err := a.authenticate(r)
	a.count(err)
	return id, err
}

func (a *APIKeys) authenticate(r *http.Request) (*exchange.Identity, error) {
	key, err := first(r, a.cfg.Sources, maxKeyLen)
	if err != nil {
		return nil, err
	}
	k := (*a.keys.Load())[sha256.Sum256([]byte(key))]
	switch {
	case k == nil:
		return nil, deny("the API key is not valid", nil)
	case k.Disabled:
		return nil, deny("the API key is not valid", fmt.Errorf("key %q is disabled", k.Name))
	case !k.Expires.IsZero() && !a.cfg.Now().Before(k.Expires):
		return nil, deny("the API key is not valid", fmt.Errorf("key %q ended at %s", k.Name, k.Expires.UTC().Format(time.RFC3339)))
	}
	return k.identity, nil
}

// first returns the credential of the first source that has one.
func first(r *http.Request, sources []Source, maxLen int) (string, error) {
	for _, s := range sources {
		if v, err := s.get(r, maxLen); !errors.Is(err, ErrNone) {
			return v, err
		}
	}
	return "", ErrNone
}
