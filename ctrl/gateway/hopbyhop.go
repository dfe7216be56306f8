package gateway

import (
	"net/http"
	"strings"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/internal/fields"
)

// ownHop takes the fields out that the client says are for this hop alone (RFC 9110
// §7.6.1), before anything reads or writes fields. Whoever forwards leaves out what is
// named there as well; were it named still by then, a client could have fields left out that
// the gateway itself sets, such as the one that tells an upstream who asks.
//
// What says for whom a request is stays: a proxy in front that passes on the Connection of
// others must not lose it.
func ownHop(h http.Header) {
	lines := h["Connection"]
	if len(lines) == 0 || len(lines) == 1 && hopOption(lines[0]) {
		return
	}
	var kept []string
	for _, line := range lines { // bound: the server's limit on fields
		for option := range strings.SplitSeq(line, ",") {
			option = strings.Trim(option, " \t")
			switch {
			case option == "":
			case hopOption(option):
				kept = append(kept, option)
			default:
				if name := http.CanonicalHeaderKey(option); !sayFor(name) {
					h.Del(name)
				}
			}
		}
	}
	if len(kept) == 0 {
		delete(h, "Connection")
		return
	}
	h["Connection"] = []string{strings.Join(kept, ", ")}
}

// hopOption says whether an option is about the connection, and not the name of a field
// that is to be left out. TE and Upgrade are read by whoever forwards.
func hopOption(option string) bool {
	for _, known := range [...]string{"keep-alive", "close", "upgrade", "te"} {
		if strings.EqualFold(option, known) {
			return true
		}
	}
	return false
}

// sayFor says whether a field tells for whom a request is.
func sayFor(name string) bool {
	return name == "Forwarded" || name == "X-Request-Id" || strings.HasPrefix(name, "X-Forwarded-")
}

// notBelieved takes out what a client that is no proxy in front says like one, and what
// nobody after this would set or take out: X-Forwarded-Port and -Prefix, X-Real-IP, and the
// spellings with "_" that some servers can't tell from "-". Those three that forwarders do
// set are theirs to replace.
func notBelieved(h http.Header) {
	for name := range h { // bound: the server's limit on fields
		if len(name) < len("X-Real-IP") || name[0] != 'X' || strings.IndexByte("FfRr", name[2]) < 0 {
			continue
		}
		if name == "X-Forwarded-For" || name == "X-Forwarded-Proto" || name == "X-Forwarded-Host" {
			continue
		}
		if folded := fields.Fold(name); folded == "x-real-ip" || strings.HasPrefix(folded, "x-forwarded-") {
			delete(h, name)
		}
	}
}

// believing is where notBelieved has its place: before anything else of a route, whose own
// fields stay, and only where endpoints aren't to see what the peer said.
func (b *builder) believing(r *config.HTTPRoute) []stage {
	name := r.Upstream
	if len(r.Split) > 0 {
		name, _, _ = strings.Cut(r.Split[0], "=")
	}
	if u := b.cfg.UpstreamNamed(name); u != nil && u.Forwarded == "keep" {
		return nil
	}
	return []stage{func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if x := exchange.From(r.Context()); !x.Trusted {
				notBelieved(r.Header)
			}
			next.ServeHTTP(w, r)
		})
	}}
}
