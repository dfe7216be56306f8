// Package mgmt answers the management sockets: HTTP/1.1 with the JSON of
// ctrl/mgmt/api, a read-write Unix socket and a read-only one beside it. Each
// request is parsed and checked before anything is changed; sizes, times and
// the number of connections are bounded.
//
// It reads the data plane, sessions, ports and the gateway, and asks the daemon for
// the few changes there are. Another configuration is taken from root and from npd's own
// user alone. It must not know: XDP, keys.
package mgmt
