// Package forward sends requests to upstreams and their answers back.
//
// A [Cluster] is an upstream ([upstream.Upstream]: which endpoints, which next, what when
// one fails) with how its endpoints are spoken to: HTTP/1.1, h2, h2c or h3, TLS, PROXY
// protocol, the Host they see, and a pool of connections for each. A [Handler] is the end
// of a route: it sends what it is given to one of its clusters and streams the answer.
//
// # What is passed on
//
// Fields of one connection are not (RFC 9110 §7.6.1); TE: trailers, trailers both ways,
// 1xx responses and upgrades are, each as the other side's protocol has them. What the
// gateway says of the client (X-Forwarded-*, Forwarded) replaces what an untrusted peer
// said, and is added to what a trusted one did. Bodies stream; each part of an answer of
// unknown length is flushed at once.
//
// # Upgrades
//
// An upgrade of HTTP/1.1 and an extended CONNECT of HTTP/2 or 3 (RFC 8441, RFC 9220) are
// the same within this package: a request with h1.Request.Upgrade, answered by a 101 whose
// body is the stream. The client's side (upgrade.go) and the
// endpoint's (h1, connect2.go, connect3.go) each make of it what their protocol has.
// Sec-WebSocket-Key and -Accept exist in HTTP/1.1 alone: they are made up for an endpoint
// that wants them, checked, and answered in the place of one that doesn't have them. Streams to
// endpoints of HTTP/2 and 3 share connections among themselves, apart from requests'.
//
// The end of one direction is passed on; the other then has 10 s. A server whose answer
// can't end before its handler does gets the endpoint's end with the handler's.
// What either side resets is reset on the other, as far as it is a stream.
//
// # Repeating
//
// A request is sent once more, to another endpoint where there is one, when nothing of its
// answer was passed on, and its method is idempotent or nothing was sent, and its body is
// absent, still unread, or short enough to be kept. An answer whose status is in
// Options.RetryStatus is kept, so that the client gets it if there is no further try.
//
// # Errors
//
// All failures become an [exchange.Reason] in one place, reasonOf. Once a part of the
// answer was sent the only way to tell of a failure is to break off, by panicking with
// [http.ErrAbortHandler], which servers know.
//
// # Goroutines
//
// Everything of a request runs on its goroutine, but for the sending of a streamed body,
// the second direction of an upgrade, and mirrored requests. The first two have ended
// when ServeHTTP returns: nothing reads a request's body after that. [Handler.Close] waits
// for mirrored requests, [Cluster.Close] for connections.
//
// It must not know: listeners, configuration files, which transport is below.
package forward
