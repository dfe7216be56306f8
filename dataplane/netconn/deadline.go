package netconn

import (
	"sync"
	"time"
)

// deadline is one direction's. Everything of it is guarded by mu.
type deadline struct {
	at      time.Time
	timer   *time.Timer // made with the first deadline that lies ahead
	expired bool
	wake    func() // set with the first deadline
}

// set changes the deadline; wake is called with mu held when it is over. mu is held.
func (d *deadline) set(mu *sync.Mutex, t time.Time) {
	d.at = t
	d.expired = false
	var left time.Duration
	if !t.IsZero() {
		if left = time.Until(t); left <= 0 {
			d.expired = true
			d.wake()
		}
	}
	switch {
	case left <= 0:
		if d.timer != nil {
			d.timer.Stop()
		}
	case d.timer != nil:
		d.timer.Reset(left)
	default:
		d.timer = time.AfterFunc(left, func() {
			mu.Lock()
			defer mu.Unlock()
			// It may have moved while the timer fired; then the timer was set again.
			if !d.at.IsZero() && time.Until(d.at) <= 0 {
				d.expired = true
				d.wake()
			}
		})
	}
}

// stop ends the timer for good. mu is held.
func (d *deadline) stop() {
	d.at = time.Time{}
	if d.timer != nil {
		d.timer.Stop()
	}
}
