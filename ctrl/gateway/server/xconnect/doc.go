// Package xconnect, when imported, makes golang.org/x/net/http2 and net/http offer and
// use extended CONNECT (RFC 8441), by which WebSockets go over HTTP/2. Both have it, both
// leave it off because handlers that don't know it would get its requests, and both can
// be told otherwise by an environment variable alone, which they read when the program
// is initialized.
//
// The gateway's own servers don't need it, they have an engine of ours. Tests do, for
// backends that are net/http's.
//
// That is why this package works in its init, as no other here does: packages are
// initialized in the order of their paths as soon as what they import is, this one
// imports nothing but os and strings, and its path is before the other two's. Tests of
// forwarding see whether it still holds. An operator's own setting stands.
package xconnect
