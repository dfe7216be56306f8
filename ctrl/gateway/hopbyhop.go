package gateway

import (
	"net/http"
	"strings"
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
