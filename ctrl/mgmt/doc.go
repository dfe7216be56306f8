// Package mgmt answers the management sockets: HTTP/1.1 with the JSON of
// ctrl/mgmt/api, a read-write Unix socket and a read-only one beside it. Each
// request is parsed and checked before anything is changed; sizes, times and
// the number of connections are bounded.
//
// It reads the data plane, sessions and ports, and asks the daemon for the few
// changes there are. It must not know: XDP, keys.
package mgmt
