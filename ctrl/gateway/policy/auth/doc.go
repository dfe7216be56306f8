// Package auth finds out who sent a request, and writes it into the request's Exchange.
//
// A [Provider] knows one kind of credentials: [Basic] passwords of a file, [APIKeys] of a
// file, [JWT] bearer tokens, [Introspection] of opaque tokens (RFC 7662), [MTLS] client
// certificates. An [Authenticator] asks several, of which any or all have to agree, and is
// a stage of a route. What it can't prove it refuses: 401 with a challenge of each provider
// (RFC 9110 §11.6.1, RFC 6750 §3), or 503 when whom it has to ask does not answer.
//
// # Passwords
//
// Checking a password is slow by design, so at most Concurrency are checked at a time and
// the outcome is remembered for a short while under an HMAC with a key of this process.
// Names that are not in the file cost what those in it cost.
//
// # Tokens
//
// Signatures are checked by go-jose with the keys that the issuer publishes, never with
// what a token brings along (jku, jwk, x5u and x5c are ignored), and only with algorithms
// that are configured; symmetric ones and "none" can't be. A key serves for the algorithms
// that its type allows and no others. A key ID that is not known makes the keys be fetched
// again, at most once in MinRefresh, whoever sends how many. While the issuer does not
// answer, the last keys serve on for MaxStale.
//
// # Owner and goroutines
//
// A provider belongs to who makes it. Those with a Run method (files that change, keys that
// are fetched) have one goroutine of their own there, which ends with its context. All
// other methods are safe for concurrent use. Time comes from the configuration's Now. Files
// are read when a provider is made, by Run and by Reload.
//
// It must not know: configuration files, listeners, transports, upstreams (a [Doer] is all).
package auth
