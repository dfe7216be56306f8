package message

import (
	"errors"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/npro"
)

// Close codes of WebSocket (RFC 6455 §7.4.1).
const (
	closeNormal      = 1000
	closeGoingAway   = 1001
	closeProtocol    = 1002
	closeUnsupported = 1003
	closeNoStatus    = 1005
	closeInvalid     = 1007
	closePolicy      = 1008
	closeTooLarge    = 1009
	closeInternal    = 1011
	closeTryAgain    = 1013
)

// closeOf is how a WebSocket is closed for an error of the upstream's.
func closeOf(err error) closing {
	var code npro.Code
	switch {
	case errors.Is(err, errTooLarge), errors.Is(err, client.ErrTooLarge):
		return closing{closeTooLarge, "message too large"}
	case errors.Is(err, errFrame):
		return closing{closeInternal, "upstream's messages are not valid"}
	case errors.As(err, &code):
		switch code {
		case npro.CodeDenied:
			return closing{closePolicy, "not permitted"}
		case npro.CodeTooLarge:
			return closing{closeTooLarge, "message too large"}
		case npro.CodeOverloaded, npro.CodeUnavailable, npro.CodeShuttingDown:
			return closing{closeTryAgain, "upstream has no room"}
		case npro.CodeBadRequest:
			return closing{closeUnsupported, "upstream can't read it"}
		}
	}
	return closing{closeInternal, "upstream failed"}
}

// sendable says whether a close code may stand in a close frame (RFC 6455 §7.4).
func sendable(code uint16) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014:
		return true
	}
	return code >= 3000 && code <= 4999
}
