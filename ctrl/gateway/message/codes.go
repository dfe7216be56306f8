package message

import (
	"context"
	"errors"
	"net/http"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/ctrl/pool"
	"github.com/np-appliance/np/ctrl/upstream"
)

// reasonOfCode is how a status of NPRO is answered in HTTP.
func reasonOfCode(c npro.Code) exchange.Reason {
	switch c {
	case npro.CodeOK:
		return exchange.None
	case npro.CodeUnknownOpcode:
		return exchange.Unsupported
	case npro.CodeDenied:
		return exchange.Forbidden
	case npro.CodeBadRequest:
		return exchange.BadRequest
	case npro.CodeOverloaded, npro.CodeStreamLimit:
		return exchange.Overloaded
	case npro.CodeTimeout:
		return exchange.UpstreamTimeout
	case npro.CodeTooLarge:
		return exchange.BodyTooLarge
	case npro.CodeUnavailable, npro.CodeShuttingDown:
		return exchange.NoEndpoint
	}
	return exchange.UpstreamReset // INTERNAL, CANCELED and what no response should say
}

// codeOfStatus is how a status of HTTP is answered in NPRO.
func codeOfStatus(status int) npro.Code {
	switch {
	case status >= 200 && status < 300:
		return npro.CodeOK
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return npro.CodeDenied
	case status == http.StatusNotImplemented:
		return npro.CodeUnknownOpcode
	case status == http.StatusRequestTimeout, status == http.StatusGatewayTimeout:
		return npro.CodeTimeout
	case status == http.StatusRequestEntityTooLarge:
		return npro.CodeTooLarge
	case status == http.StatusTooManyRequests:
		return npro.CodeOverloaded
	case status == http.StatusBadGateway, status == http.StatusServiceUnavailable:
		return npro.CodeUnavailable
	case status == exchange.StatusClientGone:
		return npro.CodeCanceled
	case status >= 500:
		return npro.CodeInternal
	}
	return npro.CodeBadRequest // 3xx too: NPRO goes nowhere else
}

// codeOfGRPC is how a status of gRPC is answered in NPRO.
func codeOfGRPC(code int) npro.Code {
	switch code {
	case 0:
		return npro.CodeOK
	case 1: // CANCELLED
		return npro.CodeCanceled
	case 3, 5, 6, 9, 10, 11: // what the request is to blame for
		return npro.CodeBadRequest
	case 4: // DEADLINE_EXCEEDED
		return npro.CodeTimeout
	case 7, 16: // PERMISSION_DENIED, UNAUTHENTICATED
		return npro.CodeDenied
	case 8: // RESOURCE_EXHAUSTED
		return npro.CodeOverloaded
	case 12: // UNIMPLEMENTED
		return npro.CodeUnknownOpcode
	case 14: // UNAVAILABLE
		return npro.CodeUnavailable
	}
	return npro.CodeInternal
}

// grpcOfCode is the other way.
func grpcOfCode(c npro.Code) int {
	switch c {
	case npro.CodeOK:
		return 0
	case npro.CodeUnknownOpcode:
		return 12
	case npro.CodeDenied:
		return 7
	case npro.CodeBadRequest:
		return 3
	case npro.CodeOverloaded, npro.CodeTooLarge, npro.CodeStreamLimit:
		return 8
	case npro.CodeTimeout:
		return 4
	case npro.CodeCanceled:
		return 1
	case npro.CodeUnavailable, npro.CodeShuttingDown:
		return 14
	}
	return 13
}

// reasonOf tells why a request to an upstream of NPRO failed.
func reasonOf(ctx context.Context, err error) exchange.Reason {
	var code npro.Code
	var refusal *upstream.Refusal
	var acquire *pool.AcquireError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return exchange.DeadlineExceeded
	case ctx.Err() != nil:
		return exchange.ClientGone
	case errors.As(err, &refusal):
		return reasonOfRefusal(refusal.Reason)
	case errors.As(err, &acquire):
		if errors.Is(err, pool.ErrQueueFull) || errors.Is(err, pool.ErrTimeout) && acquire.LastOpen == nil {
			return exchange.UpstreamFull
		}
		return exchange.ConnectFailed
	case errors.Is(err, client.ErrTooLarge):
		return exchange.BodyTooLarge
	case errors.Is(err, upstream.ErrTryTimeout), errors.Is(err, client.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return exchange.UpstreamTimeout
	case errors.Is(err, client.ErrUnavailable), errors.Is(err, client.ErrClosed):
		return exchange.ConnectFailed
	case errors.Is(err, client.ErrProtocol):
		return exchange.UpstreamProtocol
	case errors.Is(err, client.ErrConnLost):
		return exchange.UpstreamReset
	case errors.As(err, &code):
		return reasonOfCode(code)
	}
	return exchange.UpstreamReset
}

func reasonOfRefusal(r upstream.Reason) exchange.Reason {
	switch r {
	case upstream.ReasonBreaker:
		return exchange.BreakerOpen
	case upstream.ReasonInFlight, upstream.ReasonWaiting, upstream.ReasonConns:
		return exchange.UpstreamFull
	case upstream.ReasonWaitDeadline:
		return exchange.UpstreamTimeout
	}
	return exchange.NoEndpoint
}

// outcomeOf is what an error says of the endpoint.
func outcomeOf(err error) upstream.Outcome {
	var code npro.Code
	var acquire *pool.AcquireError
	switch {
	case err == nil:
		return upstream.Success
	case errors.As(err, &acquire), errors.Is(err, client.ErrUnavailable), errors.Is(err, client.ErrClosed):
		return upstream.ConnectFailed
	case errors.Is(err, context.Canceled), errors.Is(err, client.ErrTooLarge):
		return upstream.Canceled
	case errors.Is(err, client.ErrTimeout), errors.Is(err, context.DeadlineExceeded), errors.Is(err, upstream.ErrTryTimeout):
		return upstream.Timeout
	case errors.Is(err, client.ErrConnLost), errors.Is(err, client.ErrProtocol):
		return upstream.Failure
	case errors.As(err, &code):
		switch code {
		case npro.CodeInternal, npro.CodeOverloaded, npro.CodeUnavailable, npro.CodeShuttingDown:
			return upstream.Failure
		case npro.CodeTimeout:
			return upstream.Timeout
		}
		return upstream.Success // its own answer to a request that it does not like
	}
	return upstream.Failure
}
