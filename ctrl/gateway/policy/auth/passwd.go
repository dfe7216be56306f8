package auth

import (
	"bytes"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// user is one line of a password file.
type user struct {
	name   string
	hash   passwordHash
	groups map[string]struct{}
}

// passwordHash is slow to compute by design.
type passwordHash interface{ matches(password []byte) bool }

// Bounds of what a file may ask for with each password that is checked.
const (
	minBcryptCost = 8
	maxBcryptCost = 15
	maxArgonKiB   = 256 << 10
	maxArgonTime  = 32
	maxUsers      = 100_000
	maxName       = 256
)

// parseUsers reads a password file: a line a user, NAME:HASH or NAME:HASH:GROUP,GROUP;
// empty lines and those that begin with # count for nothing. Errors begin with the line's
// number.
func parseUsers(b []byte) (map[string]*user, error) {
	users := map[string]*user{}
	n := 0
	for line := range bytes.SplitSeq(b, []byte("\n")) { // bound: fileMax
		n++
		text := strings.TrimRight(string(line), "\r \t")
		if text == "" || text[0] == '#' {
			continue
		}
		u, err := parseUser(text)
		if err != nil {
			return nil, fmt.Errorf("%d: %w", n, err)
		}
		if users[u.name] != nil {
			return nil, fmt.Errorf("%d: user %q is there twice, expected once", n, u.name)
		}
		if len(users) == maxUsers {
			return nil, fmt.Errorf("%d: more than %d users", n, maxUsers)
		}
		users[u.name] = u
	}
	if len(users) == 0 {
		return nil, errors.New("1: no user, expected lines of NAME:HASH (htpasswd -B writes such)")
	}
	return users, nil
}

func parseUser(line string) (*user, error) {
	parts := strings.Split(line, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return nil, errors.New("expected NAME:HASH or NAME:HASH:GROUP,GROUP")
	}
	u := &user{name: parts[0]}
	if err := checkName(u.name); err != nil {
		return nil, err
	}
	hash, err := parseHash(parts[1])
	if err != nil {
		return nil, fmt.Errorf("user %q: %w", u.name, err)
	}
	u.hash = hash
	if len(parts) == 3 && parts[2] != "" {
		u.groups = map[string]struct{}{}
		for g := range strings.SplitSeq(parts[2], ",") {
			if g = strings.TrimSpace(g); g == "" {
				return nil, fmt.Errorf("user %q: an empty group", u.name)
			}
			u.groups[g] = struct{}{}
		}
	}
	return u, nil
}

// checkName refuses names that read differently in a log or a header field.
func checkName(name string) error {
	if name == "" || len(name) > maxName || name != strings.TrimSpace(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
		return fmt.Errorf("user %q, expected 1 to %d bytes of UTF-8 without control characters and blanks at the ends", name, maxName)
	}
	return nil
}

const wantHash = "expected one of bcrypt ($2y$…, as htpasswd -B writes) or argon2id ($argon2id$v=19$m=…,t=…,p=…$salt$hash)"

func parseHash(s string) (passwordHash, error) {
	switch {
	case strings.HasPrefix(s, "$2a$"), strings.HasPrefix(s, "$2b$"), strings.HasPrefix(s, "$2y$"):
		cost, err := bcrypt.Cost([]byte(s))
		if err != nil || len(s) != 60 {
			return nil, fmt.Errorf("a bcrypt hash that is not valid, %s", wantHash)
		}
		if cost < minBcryptCost || cost > maxBcryptCost {
			return nil, fmt.Errorf("bcrypt of cost %d, expected %d to %d", cost, minBcryptCost, maxBcryptCost)
		}
		return bcryptHash(s), nil
	case strings.HasPrefix(s, "$argon2id$"):
		return parseArgon(s)
	case strings.HasPrefix(s, "$apr1$"), strings.HasPrefix(s, "{SHA}"), strings.HasPrefix(s, "$1$"):
		return nil, errors.New("a hash by MD5 or SHA-1 is guessed too fast, " + wantHash)
	}
	return nil, errors.New("an unknown kind of hash, " + wantHash)
}

type bcryptHash string

func (h bcryptHash) matches(password []byte) bool {
	// bcrypt looks at 72 bytes; a longer password would match by its beginning
	return bcrypt.CompareHashAndPassword([]byte(h), password[:min(len(password), 72)]) == nil && len(password) <= 72
}

type argonHash struct {
	memoryKiB, time uint32
	threads         uint8
	salt, hash      []byte
}

func (h *argonHash) matches(password []byte) bool {
	got := argon2.IDKey(password, h.salt, h.time, h.memoryKiB, h.threads, uint32(len(h.hash)))
	return subtle.ConstantTimeCompare(got, h.hash) == 1
}

// parseArgon reads the PHC string of argon2id.
func parseArgon(s string) (passwordHash, error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[2] != "v=19" {
		return nil, fmt.Errorf("an argon2id hash that is not valid or not of version 19, %s", wantHash)
	}
	h := &argonHash{}
	params := strings.Split(parts[3], ",")
	if len(params) != 3 {
		return nil, fmt.Errorf("argon2id parameters %q, expected m=…,t=…,p=…", parts[3])
	}
	var values [3]uint64
	for i, name := range [...]string{"m=", "t=", "p="} {
		text, ok := strings.CutPrefix(params[i], name)
		v, err := strconv.ParseUint(text, 10, 32)
		if !ok || err != nil {
			return nil, fmt.Errorf("argon2id parameters %q, expected m=…,t=…,p=…", parts[3])
		}
		values[i] = v
	}
	if m, t, p := values[0], values[1], values[2]; p < 1 || p > 16 || m < 8*p || m > maxArgonKiB || t < 1 || t > maxArgonTime {
		return nil, fmt.Errorf("argon2id with m=%d,t=%d,p=%d, expected m of 8p to %d (KiB), t of 1 to %d and p of 1 to 16", m, t, p, maxArgonKiB, maxArgonTime)
	}
	h.memoryKiB, h.time, h.threads = uint32(values[0]), uint32(values[1]), uint8(values[2])
	var err1, err2 error
	h.salt, err1 = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	h.hash, err2 = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(h.salt) < 8 || len(h.salt) > 64 || len(h.hash) < 16 || len(h.hash) > 64 {
		return nil, errors.New("argon2id with a salt or hash that is not base64 of 8 to 64 and 16 to 64 bytes")
	}
	return h, nil
}
