package ports

import (
	"context"
	"sync"
	"time"

	"github.com/np-appliance/np/dataplane"
)

// Frames shown to the stack in a window at most: each one is a command to every
// core. A flood of announcements is cut here, and then in the program's ring.
const (
	copiesWindow = 100 * time.Millisecond
	copiesMax    = 64
)

// watchCopies shows the stack what neighbors and routers tell everybody, which
// the kernel gets too: a goroutine, ended by the function returned, which waits
// for it.
func (m *Manager) watchCopies(id dataplane.InterfaceID, prog Program) func() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		start, n := m.now(), 0
		err := prog.Copies(func(frame []byte) {
			if d := m.now().Sub(start); d >= copiesWindow {
				start, n = m.now(), 0
			} else if n == copiesMax {
				select {
				case <-time.After(copiesWindow - d):
				case <-ctx.Done():
				}
				start, n = m.now(), 0
			}
			n++
			if ctx.Err() != nil {
				return
			}
			if err := m.plane.Observe(ctx, id, frame); err != nil && ctx.Err() == nil {
				m.log.Debug("frame not shown to the stack", "err", err)
			}
		})
		if err != nil && ctx.Err() == nil {
			m.log.Warn("announcements of neighbors are not seen", "err", err)
		}
	}()
	return func() {
		cancel()
		prog.EndCopies()
		wg.Wait()
	}
}
