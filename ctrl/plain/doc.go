// Package plain answers echo (RFC 862), discard (RFC 863) and character generator (RFC 864)
// in Go over any net.Listener: what the cores do for plain TCP, for listeners whose bytes come
// to Go, such as TLS. It is the smallest server to try a transport with.
//
// It must not know: what is below a net.Conn, configuration.
package plain
