// Package message joins NPRO with the rest of the gateway: HTTP and gRPC requests go to
// upstreams that speak NPRO ([North]), NPRO requests to those that speak HTTP or gRPC
// ([South]), and WebSockets end here and become NPRO streams or requests ([Socket]).
//
// # Payloads
//
// What a REQUEST and its RESPONSE hold is one of three:
//
//	body   the body of the HTTP message, as it is. What else a handler may want to know
//	       is in the context.
//	http   a whole HTTP message as bytes (RFC 9292), see package bhttp: method, path,
//	       fields, status, trailers.
//	grpc   one gRPC message without its prefix.
//
// A byte stream, which a REQUEST without END opens, holds the same of messages that have
// no known end: body is the bytes of both bodies, http the indeterminate-length form, grpc
// messages with their prefixes (u8 compressed, u32 length). The payload of the REQUEST
// that opens a stream is empty.
//
// A stream of messages (server-sent events, WebSockets) is a byte stream of frames:
//
//	u8 kind · u32 length, big-endian · that many bytes
//
// with kind 1 text in UTF-8, 2 bytes, 8 the end: u16 close code of WebSocket (RFC 6455
// §7.4) and a reason in UTF-8, nothing after it.
//
// With it a call of gRPC of any kind, unary, streaming either way or both, is one byte
// stream, whatever its method: context 44 says which. Its good end is the stream's END, any
// other a RESET, whose code stands for gRPC's as codes.go has it: there is no room for a
// message or details, nor for metadata of an answer. Messages go uncompressed.
//
// # Context
//
// The context block of WIRE's REQUEST and RESPONSE carries:
//
//	01 traceparent     of HTTP's field traceparent; the gateway's own span
//	02 deadline        what is left of grpc-timeout or the request's own time
//	03 tenant          of a field that the configuration names
//	04 session         of a field that the configuration names
//	40 content type    of the payload
//	41 status          u16, HTTP's (RESPONSE)
//	42 gRPC's status   u8 (RESPONSE)
//	43 method          HTTP's (REQUEST, payload body)
//	44 target          path and query, left out when over 255 bytes (REQUEST, payload body)
//	45 subprotocol     of a WebSocket
//	46 subject         who asks, as the gateway proved it
//
// Other entries from 47 to 7F are passed to a handler and back as they are, where both
// sides are NPRO. Whatever a client says in fields of HTTP, it can't set 46.
//
// # Statuses
//
// codes.go has both tables: NPRO's status to the gateway's reasons, HTTP's and gRPC's
// statuses to NPRO's. An answer of an error with a body goes to an NPRO client as the
// response's payload beside its status, with HTTP's own status in the context.
//
// # Goroutines and memory
//
// All runs on the request's goroutine, but for one direction of a stream and the pings of
// a WebSocket, which have ended when the handler returns. Messages are bounded on both
// sides; a stream holds one message at a time and what the windows of NPRO let in, so a
// slow reader on either side stops the sender on the other.
//
// It must not know: configuration files, listeners, how HTTP requests are forwarded.
package message
