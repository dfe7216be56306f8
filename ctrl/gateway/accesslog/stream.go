package accesslog

import (
	"log/slog"
	"math/bits"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/logs"
)

// maxShards bounds the buffers that requests are spread over.
const maxShards = 32

// stream is one file with its buffers. Requests write to one of several shards, chosen at
// random, so that they seldom meet; whoever meets another takes the next.
type stream struct {
	file    *logs.File
	limiter *logs.Limiter
	shards  []shard
	limit   int // bytes of one shard's buffer

	every time.Duration
	dirty atomic.Bool     // a line was written since the writer looked
	wake  chan struct{}   // the first line after that
	half  chan struct{}   // a buffer is half full
	again chan chan error // opens the file again
	stop  chan struct{}
	done  chan struct{}
	end   sync.Once
	err   error // of closing

	bytes  atomic.Uint64
	failed atomic.Uint64
	errors atomic.Uint64
	broken bool // the writer's: a line was cut by an error
}

type shard struct {
	mu      sync.Mutex
	buf     []byte
	n       uint64 // lines in buf
	lines   uint64
	sampled uint64
	full    uint64
	closed  bool
	stamp   stamp
	_       [64]byte // the next shard is another core's
}

func newStream(f *logs.File, buffer int, every time.Duration, limiter *logs.Limiter) *stream {
	n := 1 << bits.Len(uint(min(maxShards, runtime.GOMAXPROCS(0))-1))
	for n > 1 && buffer/n/2 < MinBuffer/2 {
		n /= 2
	}
	s := &stream{file: f, limiter: limiter, shards: make([]shard, n), limit: buffer / n / 2, every: every,
		wake: make(chan struct{}, 1), half: make(chan struct{}, 1), again: make(chan chan error), stop: make(chan struct{}), done: make(chan struct{})}
	go s.run()
	return s
}

// lock takes a shard: the one that r says, or the next that is free.
func (s *stream) lock(r uint64) *shard {
	mask := uint64(len(s.shards) - 1)
	for i := range uint64(len(s.shards)) {
		if sh := &s.shards[(r+i)&mask]; sh.mu.TryLock() {
			return sh
		}
	}
	sh := &s.shards[r&mask]
	sh.mu.Lock()
	return sh
}

func (s *stream) write(l *Log, r uint64, x *exchange.Exchange, e *Entry, slow bool, sample float64) {
	sh := s.lock(r)
	at := len(sh.buf)
	if sh.closed || at >= s.limit {
		sh.full++
		sh.mu.Unlock()
		return
	}
	b := appendLine(sh.buf, &sh.stamp, &l.cfg, x, e, slow, sample)
	if len(b) > s.limit {
		sh.full++
		sh.mu.Unlock()
		return
	}
	sh.buf = b
	sh.n++
	sh.lines++
	sh.mu.Unlock()
	if !s.dirty.Load() && s.dirty.CompareAndSwap(false, true) {
		notify(s.wake)
	}
	if at <= s.limit/2 && len(b) > s.limit/2 {
		notify(s.half)
	}
}

func (s *stream) skip(r uint64) {
	sh := s.lock(r)
	sh.sampled++
	sh.mu.Unlock()
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run writes what has gathered: some time after the first line, or sooner when a buffer
// fills. Without lines it sleeps.
func (s *stream) run() {
	defer close(s.done)
	spare := make([]byte, 0)
	timer := time.NewTimer(s.every)
	defer timer.Stop()
	for {
		var reopened chan error
		select {
		case <-s.stop:
			s.flush(spare)
			return
		case reopened = <-s.again:
		case <-s.wake:
			timer.Reset(s.every)
			select {
			case <-s.stop:
			case reopened = <-s.again:
			case <-s.half:
			case <-timer.C:
			}
		}
		s.dirty.Store(false) // before looking: a line after this wakes again
		spare = s.flush(spare)
		if reopened != nil {
			reopened <- s.file.Reopen()
		}
	}
}

// reopen opens the file again; lines of before are in the old one.
func (s *stream) reopen() error {
	done := make(chan error, 1)
	select {
	case s.again <- done:
		return <-done
	case <-s.done:
		return os.ErrClosed
	}
}

// flush writes each shard's buffer and gives it an empty one.
func (s *stream) flush(spare []byte) []byte {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		b, n := sh.buf, sh.n
		sh.buf, sh.n = spare[:0], 0
		sh.mu.Unlock()
		if len(b) > 0 {
			s.put(b, n)
		}
		spare = b
	}
	return spare
}

func (s *stream) put(b []byte, lines uint64) {
	if s.broken {
		if _, err := s.file.Write([]byte{'\n'}); err == nil {
			s.broken = false
		}
	}
	n, err := s.file.Write(b)
	s.bytes.Add(uint64(n))
	if err == nil {
		return
	}
	s.broken = s.broken || n > 0 && b[n-1] != '\n'
	for _, c := range b[:n] {
		if c == '\n' {
			lines--
		}
	}
	s.failed.Add(lines)
	s.errors.Add(1)
	s.limiter.Log(slog.LevelError, "access_log", "access log not written, lines are lost", "file", s.file.Path(), "lines", lines, "err", err)
}

func (s *stream) close() error {
	s.end.Do(func() {
		for i := range s.shards {
			sh := &s.shards[i]
			sh.mu.Lock()
			sh.closed = true
			sh.mu.Unlock()
		}
		close(s.stop)
		<-s.done
		s.err = s.file.Close()
	})
	return s.err
}

func (s *stream) stats() FileStats {
	out := FileStats{Bytes: s.bytes.Load(), Failed: s.failed.Load(), WriteErrors: s.errors.Load()}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		out.Lines += sh.lines
		out.Sampled += sh.sampled
		out.Full += sh.full
		sh.mu.Unlock()
	}
	out.Lines -= min(out.Lines, out.Failed)
	return out
}
