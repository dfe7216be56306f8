package loadgen

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pacer sleeps with a timerfd in the runtime's poller: time.Sleep rounds up to
// a whole millisecond when the process is otherwise idle, which at 10,000
// requests a second would be ten requests late.
type pacer struct {
	f   *os.File
	fd  int
	buf [8]byte
}

func newPacer() (*pacer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create timer: %w", err)
	}
	return &pacer{f: os.NewFile(uintptr(fd), "timerfd"), fd: fd}, nil
}

// sleep waits for d. Close ends it early.
func (p *pacer) sleep(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if err := unix.TimerfdSettime(p.fd, 0, &spec, nil); err != nil {
		return fmt.Errorf("set timer: %w", err)
	}
	_, err := p.f.Read(p.buf[:])
	return err
}

func (p *pacer) close() { _ = p.f.Close() }
