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
	case exchange.GRPCOK:
		return npro.CodeOK
	case exchange.GRPCCancelled:
		return npro.CodeCanceled
	case exchange.GRPCInvalidArgument, exchange.GRPCNotFound, exchange.GRPCAlreadyExists, exchange.GRPCFailedPrecondition, exchange.GRPCAborted, exchange.GRPCOutOfRange: // what the request is to blame for
		return npro.CodeBadRequest
	case exchange.GRPCDeadlineExceeded:
		return npro.CodeTimeout
	case exchange.GRPCPermissionDenied, exchange.GRPCUnauthenticated:
		return npro.CodeDenied
	case exchange.GRPCResourceExhausted:
		return npro.CodeOverloaded
	case exchange.GRPCUnimplemented:
		return npro.CodeUnknownOpcode
	case exchange.GRPCUnavailable:
		return npro.CodeUnavailable
	}
	return npro.CodeInternal
}

// grpcOfCode is the other way.
func grpcOfCode(c npro.Code) int {
	switch c {
	case npro.CodeOK:
		return exchange.GRPCOK
	case npro.CodeUnknownOpcode:
		return exchange.GRPCUnimplemented
	case npro.CodeDenied:
		return exchange.GRPCPermissionDenied
	case npro.CodeBadRequest:
		return exchange.GRPCInvalidArgument
	case npro.CodeOverloaded, npro.CodeTooLarge, npro.CodeStreamLimit:
		return exchange.GRPCResourceExhausted
	case npro.CodeTimeout:
		return exchange.GRPCDeadlineExceeded
	case npro.CodeCanceled:
		return exchange.GRPCCancelled
	case npro.CodeUnavailable, npro.CodeShuttingDown:
		return exchange.GRPCUnavailable
	}
	return exchange.GRPCInternal
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
		return exchange.OfRefusal(refusal.Reason)
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

// outcomeOf is what an error says of the endpoint.
func outcomeOf(err error) upstream.Outcome {
	var code npro.Code
	var acquire *pool.AcquireError
	switch {
	case err == nil:
		return upstream.Success
	case errors.As(err, &acquire) && acquire.Full():
		return upstream.Busy // our own limit
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
