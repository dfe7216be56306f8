// Package gateway is the API gateway and L7 load balancer: it makes routes, upstreams and
// policies of the configuration, and serves the requests of the listeners of protocol
// http by them.
//
//	request → server (framing, limits, PROXY protocol, TLS) → entry (Exchange, request ID)
//	        → route (which rule) → stages of the route (limits, CORS, who asks, what they may,
//	          header fields, compression, body limit, decompression, transcoding) → forward (endpoint, tries) → endpoint
//
// This package is assembly alone: what a stage does is in a package of its own below this
// one, which knows neither the configuration nor its siblings. The files build_*.go
// translate the configuration, one concern each; every error has its place in the file.
//
// # Generations
//
// A configuration is compiled as a whole ([Gateway.Prepare]), then put in force by one
// pointer ([Gateway.Commit]). A request is served by the generation that it found at its
// beginning. An upstream whose settings did not change is carried over with its
// connections, checks and breakers; one that changed only its list of endpoints too.
//
// # Goroutines
//
// Handlers run on those of the server. Each upstream has one for its checks and, where
// its endpoints are discovered, one for that; Commit starts them, and ends those of
// upstreams that are gone. Close waits for all.
package gateway
