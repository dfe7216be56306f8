package limit

import (
	"fmt"
	"hash/maphash"
	"net/http"
	"net/netip"
	"strings"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/policy/internal/claim"
)

// Key is one part of what tells clients apart.
type Key struct {
	kind keyKind
	name string
}

type keyKind uint8

const (
	byClient keyKind = iota
	bySubject
	byHeader
	byCookie
	byClaim
	byVar
	byHost
	byMethod
	byListener
	byRoute
)

// keyWords are the kinds as they are written; those with a name end in a colon.
var keyWords = [...]struct {
	word string
	kind keyKind
}{
	{"client", byClient}, {"subject", bySubject}, {"header:", byHeader}, {"cookie:", byCookie}, {"claim:", byClaim},
	{"var:", byVar}, {"host", byHost}, {"method", byMethod}, {"listener", byListener}, {"route", byRoute},
}

// ParseKey reads one part of a key: "client" (the client's address, of IPv6 its /64),
// "subject" (who was authenticated, with the provider), "header:NAME", "cookie:NAME",
// "claim:PATH" of a token, "var:NAME" of the route's path, "host", "method", "listener" or
// "route". Requests that lack what the key asks for share one bucket.
func ParseKey(s string) (Key, error) {
	for _, w := range keyWords {
		named := strings.HasSuffix(w.word, ":")
		switch name, ok := strings.CutPrefix(s, w.word); {
		case !ok || !named && name != "":
			continue
		case named && (name == "" || strings.ContainsAny(name, " \t\r\n\",;")):
			return Key{}, fmt.Errorf("key %q: expected a name behind the colon", s)
		case w.kind == byHeader:
			return Key{w.kind, http.CanonicalHeaderKey(name)}, nil
		default:
			return Key{w.kind, name}, nil
		}
	}
	return Key{}, fmt.Errorf("key %q: expected client, subject, header:NAME, cookie:NAME, claim:PATH, var:NAME, host, method, listener or route", s)
}

// String writes the key as ParseKey reads it.
func (k Key) String() string {
	for _, w := range keyWords {
		if w.kind == k.kind {
			return w.word + k.name
		}
	}
	return ""
}

// NeedsIdentity says whether the key is known only after authentication.
func (k Key) NeedsIdentity() bool { return k.kind == bySubject || k.kind == byClaim }

func needsIdentity(keys []Key) bool {
	for _, k := range keys {
		if k.NeedsIdentity() {
			return true
		}
	}
	return false
}

// prefix6 is what one client has of IPv6: its link's prefix, in which it may take any address.
const prefix6 = 64

// hash makes one number of a request's key. It is never 0.
func hash(seed maphash.Seed, keys []Key, r *http.Request, x *exchange.Exchange) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, k := range keys { // bound: the configuration
		k.write(&h, r, x)
		_ = h.WriteByte(0xff) // in no UTF-8 text: parts can't run into each other
	}
	return max(h.Sum64(), 1)
}

func (k Key) write(h *maphash.Hash, r *http.Request, x *exchange.Exchange) {
	switch k.kind {
	case byClient:
		writeAddr(h, x.Client.Addr())
	case bySubject:
		if x.Identity != nil {
			_, _ = h.WriteString(x.Identity.Provider)
			_ = h.WriteByte(0)
			_, _ = h.WriteString(x.Identity.Subject)
		}
	case byHeader:
		if v := r.Header[k.name]; len(v) > 0 {
			_, _ = h.WriteString(v[0])
		}
	case byCookie:
		if c, err := r.Cookie(k.name); err == nil {
			_, _ = h.WriteString(c.Value)
		}
	case byClaim:
		if x.Identity == nil {
			return
		}
		if v, ok := claim.Lookup(x.Identity.Claims, k.name); ok {
			for _, s := range claim.Strings(v) { // bound: claim's
				_, _ = h.WriteString(s)
				_ = h.WriteByte(0)
			}
		}
	case byVar:
		v, _ := x.Var(k.name)
		_, _ = h.WriteString(v)
	case byHost:
		_, _ = h.WriteString(hostName(r.Host))
	case byMethod:
		_, _ = h.WriteString(exchange.Method(r))
	case byListener:
		_, _ = h.WriteString(x.Listener)
	case byRoute:
		_, _ = h.WriteString(x.Route)
	}
}

// hostName is a host as routes compare it: each way to write one shares its bucket, or a
// client would have a new one with each port that it makes up.
func hostName(s string) string {
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		s = s[:i]
	}
	return strings.ToLower(strings.TrimSuffix(s, "."))
}

func writeAddr(h *maphash.Hash, a netip.Addr) {
	a = a.Unmap()
	if a.Is6() {
		b := a.As16()
		_, _ = h.Write(b[:prefix6/8])
		return
	}
	if a.Is4() {
		b := a.As4()
		_, _ = h.Write(b[:])
	}
}
