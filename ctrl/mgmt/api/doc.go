// Package api is the contract of the management socket: paths and the JSON that
// travels. Server (ctrl/mgmt) and client (npctl) share it; it holds no behaviour but
// formatting rules that both need.
//
// HTTP/1.1 over a Unix socket. Reads are GET, changes POST. Every answer is an
// object with "schema": "np/v1"; field names are snake_case with units in them,
// times RFC 3339 in UTC. An error answer is [Error] with the HTTP status that
// [Error.Kind] implies.
package api
