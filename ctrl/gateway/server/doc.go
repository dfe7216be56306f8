// Package server serves the gateway's listeners: HTTP/1.1, HTTP/2 with and without TLS,
// HTTP/3, the PROXY protocol in front of them, and TLS passed through unopened by its
// server name.
//
// The engines of HTTP/1.1 and of HTTP/2 ([h2]) are ours; that of HTTP/3 is quic-go, with what
// is ours before and around it:
//
//   - [Server] accepts, bounds connections in all and for each client, takes PROXY
//     protocol headers from those that may send them, does the TLS handshake within its
//     time and hands the connection to the engine that ALPN or the client's first bytes name.
//   - HTTP/1.1 (h1*.go) takes only requests that have one reading (head.go, chunk.go, RFC
//     9112): a head is judged where it was read, once, and what is judged is what the
//     handler gets. A connection has one goroutine, and holds no buffer while it waits for a
//     request. What it answers is written at once, head and body together where they are
//     short. Only a request that takes long has its client watched.
//   - One goroutine for each server looks after all that waits: heads and bodies that
//     arrive too slowly, answers that nobody reads. No operation pays for a timer of its own.
//
// What is refused is counted by reason ([Stats]). A request that is refused before a
// handler could see it still gets to [Config.Refuse], so that it is answered, logged and
// counted as all others are.
//
// # Extended CONNECT
//
// A handler gets one (RFC 8441, RFC 9220) as Method CONNECT with a path, and the protocol in
// the field ":protocol" (HTTP/2) or as Request.Proto (HTTP/3). After a status of 2xx and
// a flush the request's body and the answer's are the two directions, without limits to
// how long they stand still. What handlers rely on, and an engine has to keep:
//
//   - SetReadDeadline in the past, by http.ResponseController, ends a Read of the body at
//     once, and nothing else of the connection;
//   - the handler's return ends the answer, and the request's body is not waited for;
//   - a panic with http.ErrAbortHandler resets the stream;
//   - a writer with a method CloseWrite() error, there or below Unwrap, ends the answer
//     with it while the body goes on. HTTP/3's has none yet.
//
// # Goroutines
//
// A Server is safe for concurrent use. Serve, ServePacket and ServePackets return when all
// their connections are gone. Handlers run on the connection's goroutine with HTTP/1.1, on
// those of the engines else.
//
// It must not know: configuration files, routes, what is below a net.Conn.
package server
