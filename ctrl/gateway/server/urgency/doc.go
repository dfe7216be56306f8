// Package urgency is the scheduler of HTTP/2's frames that follows RFC 9218.
//
// golang.org/x/net/http2 has one, uses it where the program is built with Go 1.27 or
// later, and neither exports it nor can be told to use it before that. Its own interface
// for schedulers does not let another one see the priority of a request. So until then
// this package calls the function by its symbol's name; a program in which that is gone
// does not link.
package urgency
