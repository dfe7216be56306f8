package exchange

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/upstream"
)

// TestEnded: a deadline with a cause of its own is a deadline.
func TestEnded(t *testing.T) {
	late, cancel := context.WithDeadlineCause(t.Context(), time.Unix(1, 0), errors.New("the client's"))
	defer cancel()
	gone, end := context.WithCancel(t.Context())
	end()
	for name, one := range map[string]struct {
		ctx  context.Context
		want Reason
	}{"none": {t.Context(), None}, "deadline": {late, DeadlineExceeded}, "gone": {gone, ClientGone}} {
		if why, ended := Ended(one.ctx); why != one.want || ended != (one.want != None) {
			t.Errorf("%s: %v %v", name, why, ended)
		}
	}
}

func TestOfRefusal(t *testing.T) {
	for r, want := range map[upstream.Reason]Reason{upstream.ReasonBreaker: BreakerOpen, upstream.ReasonConns: UpstreamFull, upstream.ReasonWaitDeadline: UpstreamTimeout, upstream.ReasonEmpty: NoEndpoint} {
		if got := OfRefusal(r); got != want {
			t.Errorf("%v: %v, expected %v", r, got, want)
		}
	}
}

func TestPerConnection(t *testing.T) {
	for name, want := range map[string]bool{"Connection": true, "Te": true, "Http2-Settings": true, "Content-Length": false, "Te-X": false, "X-Upgrade": false} {
		if PerConnection(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}
