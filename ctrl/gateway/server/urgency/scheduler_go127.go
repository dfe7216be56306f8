//go:build go1.27

package urgency

import "golang.org/x/net/http2"

// NewScheduler is what http2.Server's NewWriteScheduler is set to; nil where http2 needs
// not be told.
func NewScheduler() func() http2.WriteScheduler { return nil }
