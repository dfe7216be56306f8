//go:build !go1.27

package urgency

//lint:file-ignore SA1019 net/http's own engine takes no connection of ours, and no scheduler

import (
	_ "unsafe" // go:linkname

	"golang.org/x/net/http2"
)

// NewScheduler is what http2.Server's NewWriteScheduler is set to; nil where http2 needs
// not be told.
func NewScheduler() func() http2.WriteScheduler { return newPriorityWriteSchedulerRFC9218 }

//go:linkname newPriorityWriteSchedulerRFC9218 golang.org/x/net/http2.newPriorityWriteSchedulerRFC9218
func newPriorityWriteSchedulerRFC9218() http2.WriteScheduler
