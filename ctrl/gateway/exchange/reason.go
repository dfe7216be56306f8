package exchange

import "net/http"

// Reason is why an exchange did not go as it was asked for. Names are labels of metrics
// and fields of the access log.
type Reason uint8

// Reasons.
const (
	None              Reason = iota
	BadRequest               // not what the protocol allows, or ambiguous
	HeaderTooLarge           // its fields are more than the listener takes
	URITooLong               // its target is
	BodyTooLarge             // its body is
	RequestTimeout           // it did not arrive in time
	NoRoute                  // no route matches it
	MethodNotAllowed         // a route matches it but for the method
	Misdirected              // TLS was asked for another host than the request
	Unauthenticated          // nobody, or nobody known, asks
	Forbidden                // whoever asks may not
	AuthUnavailable          // who asks, or what they may, could not be found out
	RateLimited              // too many of them
	Overloaded               // too many at a time, or answers take too long
	Draining                 // the gateway is about to end
	NotFound                 // a file that is not there
	UnsupportedMedia         // a body of a kind that the route can't take
	NotAcceptable            // no form of the answer that the client takes
	ExpectationFailed        // an Expect other than 100-continue
	TooEarly                 // 0-RTT data for a route that refuses it
	NoEndpoint               // no endpoint can take it: none there, none well
	BreakerOpen              // circuit breakers keep requests from all endpoints
	UpstreamFull             // all endpoints or pools are at their limits
	ConnectFailed            // no connection to an endpoint
	UpstreamReset            // an endpoint broke off
	UpstreamProtocol         // an endpoint answered what is no answer
	UpstreamTimeout          // an endpoint did not answer in time
	DeadlineExceeded         // the client's own deadline passed
	ClientGone               // the client broke off
	Unsupported              // what the gateway does not do
	Internal                 // the gateway's own fault
	reasons
)

// NumReasons is how many there are, None included.
const NumReasons = int(reasons)

// StatusClientGone is what the log and the metrics show for a client that broke off; it
// is never sent.
const StatusClientGone = 499

type reason struct {
	name   string
	status int
	grpc   int
	title  string
}

func (r Reason) row() reason {
	switch r {
	case None:
		return reason{"none", http.StatusOK, 0, ""}
	case BadRequest:
		return reason{"bad_request", http.StatusBadRequest, GRPCInternal, "Bad request"}
	case HeaderTooLarge:
		return reason{"header_too_large", http.StatusRequestHeaderFieldsTooLarge, GRPCResourceExhausted, "Header fields too large"}
	case URITooLong:
		return reason{"uri_too_long", http.StatusRequestURITooLong, GRPCResourceExhausted, "Target too long"}
	case BodyTooLarge:
		return reason{"body_too_large", http.StatusRequestEntityTooLarge, GRPCResourceExhausted, "Body too large"}
	case RequestTimeout:
		return reason{"request_timeout", http.StatusRequestTimeout, GRPCDeadlineExceeded, "The request took too long to arrive"}
	case NoRoute:
		return reason{"no_route", http.StatusNotFound, GRPCUnimplemented, "No route"}
	case MethodNotAllowed:
		return reason{"method_not_allowed", http.StatusMethodNotAllowed, GRPCUnimplemented, "Method not allowed"}
	case Misdirected:
		return reason{"misdirected", http.StatusMisdirectedRequest, GRPCUnavailable, "Misdirected request"}
	case Unauthenticated:
		return reason{"unauthenticated", http.StatusUnauthorized, GRPCUnauthenticated, "Credentials are missing or not valid"}
	case Forbidden:
		return reason{"forbidden", http.StatusForbidden, GRPCPermissionDenied, "Not permitted"}
	case AuthUnavailable:
		return reason{"auth_unavailable", http.StatusServiceUnavailable, GRPCUnavailable, "Credentials can't be checked now"}
	case RateLimited:
		return reason{"rate_limited", http.StatusTooManyRequests, GRPCResourceExhausted, "Too many requests"}
	case Overloaded:
		return reason{"overloaded", http.StatusServiceUnavailable, GRPCUnavailable, "Overloaded"}
	case Draining:
		return reason{"draining", http.StatusServiceUnavailable, GRPCUnavailable, "Shutting down"}
	case NotFound:
		return reason{"not_found", http.StatusNotFound, GRPCUnimplemented, "Not found"}
	case UnsupportedMedia:
		return reason{"unsupported_media", http.StatusUnsupportedMediaType, GRPCInvalidArgument, "Unsupported media type"}
	case NotAcceptable:
		return reason{"not_acceptable", http.StatusNotAcceptable, GRPCInvalidArgument, "Not acceptable"}
	case ExpectationFailed:
		return reason{"expectation_failed", http.StatusExpectationFailed, GRPCInternal, "Expectation failed"}
	case TooEarly:
		return reason{"too_early", http.StatusTooEarly, GRPCUnavailable, "Too early"}
	}
	return r.upstreamRow()
}

func (r Reason) upstreamRow() reason {
	switch r {
	case NoEndpoint:
		return reason{"no_endpoint", http.StatusServiceUnavailable, GRPCUnavailable, "No endpoint is available"}
	case BreakerOpen:
		return reason{"breaker_open", http.StatusServiceUnavailable, GRPCUnavailable, "The upstream fails too often"}
	case UpstreamFull:
		return reason{"upstream_full", http.StatusServiceUnavailable, GRPCUnavailable, "The upstream has no room"}
	case ConnectFailed:
		return reason{"connect_failed", http.StatusBadGateway, GRPCUnavailable, "The upstream can't be reached"}
	case UpstreamReset:
		return reason{"upstream_reset", http.StatusBadGateway, GRPCUnavailable, "The upstream broke off"}
	case UpstreamProtocol:
		return reason{"upstream_protocol", http.StatusBadGateway, GRPCUnavailable, "The upstream's answer is not valid"}
	case UpstreamTimeout:
		return reason{"upstream_timeout", http.StatusGatewayTimeout, GRPCUnavailable, "The upstream did not answer in time"}
	case DeadlineExceeded:
		return reason{"deadline_exceeded", http.StatusGatewayTimeout, GRPCDeadlineExceeded, "The request's deadline passed"}
	case ClientGone:
		return reason{"client_gone", StatusClientGone, GRPCCancelled, "The client broke off"}
	case Unsupported:
		return reason{"unsupported", http.StatusNotImplemented, GRPCUnimplemented, "Not supported"}
	}
	return reason{"internal", http.StatusInternalServerError, GRPCInternal, "Internal error"}
}

// String returns the reason's name: small letters and underscores.
func (r Reason) String() string { return r.row().name }

// Status returns the HTTP status that the reason is answered with.
func (r Reason) Status() int { return r.row().status }

// GRPC returns the code of gRPC that the reason is answered with.
func (r Reason) GRPC() int { return r.row().grpc }

// Title returns the reason in words for clients.
func (r Reason) Title() string { return r.row().title }
