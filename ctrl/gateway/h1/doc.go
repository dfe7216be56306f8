// Package h1 is an HTTP/1.1 client for the gateway's hot path (RFC 9110, RFC 9112).
//
// A request is written and its response read on the caller's own goroutine, over a
// connection borrowed from a [pool.Pool]; no goroutine belongs to a connection. Only a
// body that is streamed gets a goroutine while it is sent, since the response may come
// before its end. It has ended when the response's body is closed, or Do returned an error.
//
// # Strictness
//
// What a server sends is hostile. A response that two readers could frame differently is
// refused ([ProtocolError]) and its connection closed: bare CR or LF, folded fields, white
// space before a colon, more than one Content-Length, Content-Length beside
// Transfer-Encoding, a transfer coding other than chunked, control characters. What is
// left over after a response costs the connection. [Limits] bound all there is to be
// stored. Requests that can't be framed are refused before a connection is borrowed.
//
// # Connections that ended while idle
//
// A connection used before is looked at when it is borrowed, or where it can be (package
// sock) in one with sending the request and waiting for the response: one at its end, or
// with bytes that nobody asked for, is closed, and the request goes to another. Looking needs
// a connection that tells (a method Idle, as dataplane/netconn's) or has a descriptor
// ([syscall.Conn]), itself or below TLS. When nothing of a response came on a connection
// used before, and the request may be repeated or nothing of it was sent, it is sent once
// more, on one that is new or was looked at.
//
// # Time
//
// The request's context bounds everything, until the response's body is closed. Its end
// sets a deadline in the past on the connection, which is then discarded. Nothing here
// reads a clock but for the wait for 100 (Continue).
//
// The server's half of the protocol is in gateway/server, by whose rules requests of all
// protocols are judged.
//
// It must not know: upstreams, routes, transports (a net.Conn is all), TLS.
package h1
