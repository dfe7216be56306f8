package exchange

import (
	"net/http"
	"strings"
)

// Method is a request's method as routes, rules and limits see it. An extended CONNECT
// (RFC 8441, RFC 9220) is the GET that it stands for over HTTP/1.1, whatever it asks for:
// what is said of GET must not be got around by opening a stream another way.
func Method(r *http.Request) string {
	if r.Method == http.MethodConnect && (Connects(r) != "" || len(r.Header[":protocol"]) > 0) {
		return http.MethodGet
	}
	return r.Method
}

// Connects is the protocol that an extended CONNECT asks for, in small letters, whichever
// server took it; "": the request is none.
func Connects(r *http.Request) string {
	if r.Method != http.MethodConnect {
		return ""
	}
	protocol := r.Header.Get(":protocol") // as servers of HTTP/2 tell it
	if protocol == "" && !strings.HasPrefix(r.Proto, "HTTP/") {
		protocol = r.Proto // as quic-go's does
	}
	return strings.ToLower(protocol)
}
