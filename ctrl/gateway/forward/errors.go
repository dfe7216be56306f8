package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/h1"
	"github.com/np-appliance/np/ctrl/pool"
	"github.com/np-appliance/np/ctrl/upstream"
)

// errDeadline is the cause of a context that ended by the client's own deadline.
var errDeadline = errors.New("the client's deadline passed")

// errIdle is the cause of a context whose stream carried nothing for too long.
var errIdle = errors.New("nothing was sent or received for too long")

// clientError is a failure of the client's side: its body, or its connection.
type clientError struct{ err error }

func (e *clientError) Error() string { return "client: " + e.err.Error() }
func (e *clientError) Unwrap() error { return e.err }

// refused is a request that the gateway doesn't take.
type refused struct {
	reason exchange.Reason
	public string
}

func (e *refused) Error() string { return e.reason.String() + ": " + e.public }

// brokenOff is an upgraded connection that the endpoint broke off, or that ended otherwise
// than by both sides' ends. An application's ways to end are no failure of its endpoint.
type brokenOff struct{ err error }

func (e *brokenOff) Error() string { return "upgraded connection: " + e.err.Error() }
func (e *brokenOff) Unwrap() error { return e.err }

// statusError is an answer that counts as a failure.
type statusError struct {
	status int
	what   string // other than the status
}

func (e *statusError) Error() string {
	if e.what != "" {
		return e.what
	}
	return fmt.Sprintf("status %d", e.status)
}

// reasonOf tells why a request failed, and what the client may know of it. ctx is the
// request's own, without the times of tries.
func reasonOf(ctx context.Context, err error) (exchange.Reason, string) {
	if ctx.Err() != nil {
		if errors.Is(context.Cause(ctx), errDeadline) || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return exchange.DeadlineExceeded, ""
		}
		return exchange.ClientGone, ""
	}
	var no *refused
	if errors.As(err, &no) {
		return no.reason, no.public
	}
	var ours *clientError
	if broken := (*brokenOff)(nil); errors.As(err, &broken) {
		switch {
		case errors.As(err, &ours):
			return exchange.ClientGone, ""
		case errors.Is(err, errIdle):
			return exchange.UpstreamTimeout, ""
		}
		return exchange.UpstreamReset, ""
	}
	if errors.As(err, &ours) {
		return clientReason(ours.err), ""
	}
	var refusal *upstream.Refusal
	if errors.As(err, &refusal) {
		return exchange.OfRefusal(refusal.Reason), refusal.Reason.String()
	}
	var request *h1.RequestError
	var answer *h1.ProtocolError
	var connect *h1.ConnectError
	var status *statusError
	var unable *noConnect
	switch {
	case errors.As(err, &unable):
		return exchange.UpstreamProtocol, "the endpoint takes no upgrades"
	case errors.As(err, &request):
		return exchange.BadRequest, request.Detail
	case errors.As(err, &answer):
		return exchange.UpstreamProtocol, ""
	case errors.As(err, &connect):
		return connectReason(connect), ""
	case errors.As(err, &status):
		return exchange.UpstreamReset, ""
	case errors.Is(err, upstream.ErrTryTimeout), errors.Is(err, errIdle), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return exchange.UpstreamTimeout, ""
	}
	return exchange.UpstreamReset, ""
}

// clientReason tells why a request's body could not be read.
func clientReason(err error) exchange.Reason {
	var large *http.MaxBytesError
	var gone *net.OpError
	switch {
	case errors.As(err, &large):
		return exchange.BodyTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return exchange.RequestTimeout
	case errors.As(err, &gone), errors.Is(err, context.Canceled):
		return exchange.ClientGone
	}
	return exchange.BadRequest // ends too early, or chunks that are none
}

func connectReason(e *h1.ConnectError) exchange.Reason {
	var a *pool.AcquireError
	switch {
	case errors.Is(e.Err, upstream.ErrTryTimeout):
		return exchange.UpstreamTimeout
	case errors.Is(e.Err, pool.ErrQueueFull):
		return exchange.UpstreamFull
	case errors.As(e.Err, &a) && errors.Is(a.Cause, pool.ErrTimeout) && a.LastOpen == nil:
		return exchange.UpstreamFull
	}
	return exchange.ConnectFailed
}

// outcomeOf is what an error says of the endpoint.
func outcomeOf(err error) upstream.Outcome {
	var ours *clientError
	var request *h1.RequestError
	var connect *h1.ConnectError
	var no *noConnect
	var broken *brokenOff
	switch {
	case errors.As(err, &ours), errors.As(err, &request), errors.Is(err, errIdle), errors.As(err, &no), errors.As(err, &broken):
		return upstream.Canceled // of its health it says nothing
	case errors.As(err, &connect):
		if a := (*pool.AcquireError)(nil); errors.As(err, &a) && a.Full() {
			return upstream.Busy // our own limit
		}
		return upstream.ConnectFailed
	case errors.Is(err, upstream.ErrTryTimeout), errors.Is(err, context.DeadlineExceeded):
		return upstream.Timeout
	}
	return upstream.Failure
}
