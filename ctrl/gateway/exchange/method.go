package exchange

import "net/http"

// Method is a request's method as routes, rules and limits see it. An extended CONNECT
// (RFC 8441, RFC 9220) is the GET that it stands for over HTTP/1.1: what is said of GET must
// not be got around by opening a stream another way.
func Method(r *http.Request) string {
	if r.Method == http.MethodConnect && (len(r.Header[":protocol"]) > 0 || r.Proto == "websocket") { // net/http's way and that of HTTP/3
		return http.MethodGet
	}
	return r.Method
}
