package exchange

import (
	"context"
	"errors"

	"github.com/np-appliance/np/ctrl/upstream"
)

// Ended is the reason for a request's context that has ended; false: it has not.
func Ended(ctx context.Context) (Reason, bool) {
	switch err := context.Cause(ctx); {
	case err == nil:
		return None, false
	case errors.Is(err, context.DeadlineExceeded), errors.Is(ctx.Err(), context.DeadlineExceeded):
		return DeadlineExceeded, true
	}
	return ClientGone, true
}

// OfRefusal is the reason for an upstream that gave no endpoint.
func OfRefusal(r upstream.Reason) Reason {
	switch r {
	case upstream.ReasonBreaker:
		return BreakerOpen
	case upstream.ReasonInFlight, upstream.ReasonWaiting, upstream.ReasonConns:
		return UpstreamFull
	case upstream.ReasonWaitDeadline:
		return UpstreamTimeout
	}
	return NoEndpoint
}

// PerConnection says whether a field, its name in canonical form, is about one connection
// (RFC 9110 §7.6.1; Http2-Settings is RFC 7540's) and never passed on.
func PerConnection(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings":
		return true
	}
	return false
}
