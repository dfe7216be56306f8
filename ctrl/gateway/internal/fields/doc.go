// Package fields takes header fields out of requests that only the gateway may set, however
// a client writes their names. Its values don't change; it starts no goroutine. It must not
// know: what the fields say.
package fields
