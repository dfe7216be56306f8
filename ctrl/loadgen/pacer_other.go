//go:build !linux

package loadgen

import "time"

// pacer sleeps with the runtime's timers.
type pacer struct{}

func newPacer() (*pacer, error) { return &pacer{}, nil }

func (p *pacer) sleep(d time.Duration) error {
	time.Sleep(d)
	return nil
}

func (p *pacer) close() {}
